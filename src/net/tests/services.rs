//! Services with real packets: who is reached, by whom, and how evenly.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use super::super::service::{
    Compiled, Endpoint, Facts, Service, ServiceName, ServicePort, Slice, SlicePort, compile,
};
use super::machine::*;
use super::policy::rounds;
use super::*;
use crate::net::nfnetlink::ProgramChanges;
use crate::net::program::{Declaration, Expression, Kind, Register};

pub(super) const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 9);
const NODE_PORT: u16 = 30_080;

/// One Service, port 80 in both protocols, that leads to port 8080 of `pods`.
pub(super) fn facts(pods: &[&Attached], change: impl FnOnce(&mut Service)) -> Facts {
    let name = ServiceName { namespace: "default".into(), name: "web".into() };
    let protocols = [(Protocol::Tcp, "t"), (Protocol::Udp, "u")];
    let mut service = Service {
        addresses: vec![SERVICE.into()],
        ports: protocols
            .map(|(protocol, name)| ServicePort {
                name: name.into(),
                protocol,
                port: 80,
                node_port: Some(NODE_PORT),
            })
            .into(),
        affinity: None,
        is_internal_local: false,
        is_external_local: false,
        is_on_host: true,
        external_name: None,
    };
    change(&mut service);
    let slice = Slice {
        ports: protocols
            .map(|(protocol, name)| SlicePort { name: name.into(), protocol, port: 8080 })
            .into(),
        endpoints: pods
            .iter()
            .map(|pod| Endpoint {
                address: pod.address,
                is_ready: true,
                is_serving: true,
                is_terminating: false,
                hostname: None,
                node: Some("here".into()),
            })
            .collect(),
    };
    Facts {
        services: BTreeMap::from([(name.clone(), service)]),
        slices: BTreeMap::from([(name, BTreeMap::from([("web-1".into(), slice)]))]),
    }
}

async fn put(network: &Network, facts: &Facts) {
    network.put(Part::Services, compile(facts, "here", &BTreeSet::new())).await.unwrap();
}

async fn pods<const N: usize>(network: &Network) -> [Attached; N] {
    let mut pods = Vec::new();
    for number in 0..N {
        pods.push(network.attach(&format!("pod-{number}"), &[]).await.unwrap());
    }
    pods.try_into().unwrap()
}

#[test]
fn a_service_is_reached_from_pods_the_host_itself_and_by_its_ports_from_outside() {
    on_a_host(|host| async move {
        let network = network().await;
        let [a, b] = pods(&network).await;
        put(&network, &facts(&[&b], |_| {})).await;
        let server = listen(&b, 8080);
        let asks = |from: &Attached, to: Ipv4Addr, port| {
            talk(&server, inside(from, || connect((to, port)))).unwrap().ip()
        };
        assert_eq!(asks(&a, SERVICE, 80), a.address, "pods keep their address");
        assert_eq!(asks(&a, HOST, NODE_PORT), a.address);
        assert_eq!(asks(&a, HOST, 80), a.address);
        assert_eq!(talk(&server, connect((SERVICE, 80))).unwrap().ip(), a.gateway);
        assert_eq!(talk(&server, connect((HOST, NODE_PORT))).unwrap().ip(), IpAddr::V4(HOST));
        for port in [NODE_PORT, 80] {
            let peer = talk(&server, outside(&host, || connect((HOST, port)))).unwrap();
            assert_eq!(peer.ip(), IpAddr::V4(OUTSIDE), "so do strangers, at {port}");
        }
        // A pod that draws itself.
        asks(&b, SERVICE, 80);
        asks(&b, HOST, NODE_PORT);

        // What is not served is refused at once, by whatever way.
        for (from, to, port) in [(&a, SERVICE, 81), (&a, Ipv4Addr::new(10, 43, 7, 7), 80)] {
            let refused = inside(from, || connect((to, port))).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{to}:{port}");
            let refused = connect((to, port)).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{to}:{port}");
        }
        put(&network, &facts(&[], |_| {})).await;
        for to in [(SERVICE, 80), (HOST, NODE_PORT)] {
            let refused = inside(&a, || connect(to)).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{to:?}");
        }
        let datagram = bound(&a, 0);
        datagram.connect((SERVICE, 80)).unwrap();
        datagram.send(b"hello").unwrap();
        datagram.set_read_timeout(Some(ARRIVES)).unwrap();
        let refused = datagram.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    });
}

/// D14: what a server is told of its caller, and what policies go by, is the caller's own address, whichever way it came.
#[test]
fn a_pod_sees_the_pod_that_calls_it_by_whatever_way() {
    on_a_host(|_| async {
        let network = network().await;
        let ports = [Protocol::Tcp, Protocol::Udp].map(|protocol| port(protocol, 8888, 8080));
        let a = network.attach("a", &[]).await.unwrap();
        let b = network.attach("b", &ports).await.unwrap();
        put(&network, &facts(&[&b], |_| {})).await;
        let (server, ear) = (listen(&b, 8080), bound(&b, 8080));
        let ways = [
            ("the pod's address", v4(&b), 8080),
            ("ClusterIP", SERVICE, 80),
            ("NodePort", HOST, NODE_PORT),
            ("LoadBalancer", HOST, 80),
            ("hostPort", HOST, 8888),
        ];
        let calls = |from: &Attached, to: Ipv4Addr, port: u16| {
            let peer = talk(&server, inside(from, || connect((to, port)))).unwrap().ip();
            let sender = bound(from, 0);
            let heard = heard(&ear, || sender.send_to(b"x", (to, port)).map(drop));
            (peer, heard.unwrap())
        };
        for (way, to, port) in ways {
            assert_eq!(calls(&a, to, port), (a.address, a.address), "{way}");
        }
        // Itself it would take for a forger: it sees the host, but for the way that never leaves it.
        for (way, to, port) in ways {
            let seen = calls(&b, to, port);
            match way {
                "the pod's address" => assert_eq!(seen, (b.address, b.address), "{way}"),
                _ => assert_eq!(seen, (HOST.into(), HOST.into()), "{way}"),
            }
        }
    });
}

/// Clients and ports in a set that rules fill.
fn members(set: &str) -> bool {
    sh(&format!("nft list set inet joey_abc123 {set}")).contains("elements")
}

#[test]
fn a_client_whom_a_dying_pod_refused_is_led_on_and_told_only_when_it_is_refused_again() {
    on_a_host(|_| async move {
        let network = network().await;
        let [client, dead, other] = pods(&network).await;
        let ways: [&dyn Fn() -> io::Result<std::net::TcpStream>; 2] =
            [&|| inside(&client, || connect((SERVICE, 80))), &|| connect((SERVICE, 80))];
        for connects in ways {
            put(&network, &facts(&[&dead], |_| {})).await;
            talk(&listen(&dead, 8080), connects()).unwrap();
            // Nobody listens any more, now and a second later.
            let error = connects().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            assert!(members("refused"), "the first refusal is kept from it");
            // Nobody listens, and a second later the rules know it.
            eventually("it is forgotten", || !members("refused"));
            let server = listen(&other, 8080);
            let next = facts(&[&other], |_| {});
            std::thread::scope(|threads| {
                let network = &network;
                let tokio = tokio::runtime::Handle::current();
                threads.spawn(move || {
                    eventually("it is refused", || members("refused"));
                    tokio.block_on(put(network, &next));
                });
                talk(&server, connects()).unwrap();
            });
        }
    });
}

#[test]
fn a_client_of_a_port_on_which_nothing_has_listened_is_refused_at_once() {
    on_a_host(|_| async move {
        let network = network().await;
        let [client, deaf] = pods(&network).await;
        put(&network, &facts(&[&deaf], |_| {})).await;
        // On another port something does.
        let other_port = listen(&deaf, 8081);
        talk(&other_port, inside(&client, || connect((v4(&deaf), 8081)))).unwrap();
        let refused = |why: &str| {
            for from in [&|| inside(&client, || connect((SERVICE, 80))), &|| connect((SERVICE, 80))]
                as [&dyn Fn() -> io::Result<std::net::TcpStream>; 2]
            {
                assert_eq!(from().unwrap_err().kind(), io::ErrorKind::ConnectionRefused, "{why}");
                assert!(!members("refused"), "{why}: no refusal is kept from anybody");
            }
        };
        refused("nothing ever listened");

        // What ends with its connections has listened until now, however long ago they were made.
        let server = listen(&deaf, 8080);
        let mut first = inside(&client, || connect((SERVICE, 80))).unwrap();
        let (mut served, _) = server.accept().unwrap();
        say(&mut first, &mut served).unwrap();
        sh("nft flush set inet joey_abc123 answering");
        drop((server, served));
        assert_eq!(first.read(&mut [0; 1]).unwrap(), 0, "it ends");
        assert!(members("answering"));
        let error = connect((SERVICE, 80)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(members("refused"), "the first refusal is kept from it");

        // So has what a client has left without a word.
        let forget = || {
            sh("nft flush set inet joey_abc123 answering; nft flush set inet joey_abc123 refused")
        };
        forget();
        let server = listen(&deaf, 8080);
        let first = inside(&client, || connect((SERVICE, 80))).unwrap();
        let (mut served, _) = server.accept().unwrap();
        assert!(!members("answering"), "who connects is not written down");
        let now = libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&first, nix::sys::socket::sockopt::Linger, &now).unwrap();
        drop(first);
        assert_eq!(served.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(members("answering"));
        drop((server, served));

        forget();
        refused("nothing has listened for a while");
    });
}

#[test]
fn a_neighbour_that_routes_to_the_service_range_meets_nobody() {
    on_a_host(|host| async move {
        let network = network().await;
        let [a] = pods(&network).await;
        put(&network, &facts(&[&a], |_| {})).await;
        let _server = listen(&a, 8080);
        let _gateway = TcpListener::bind("10.42.0.1:6443").unwrap();
        outside(&host, || {
            sh("ip route add 10.43.0.0/16 via 192.0.2.2; ip route add 10.42.0.0/16 via 192.0.2.2");
            Ok(())
        })
        .unwrap();
        let refused = outside(&host, || connect((SERVICE, 80))).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let gateway: SocketAddr = "10.42.0.1:6443".parse().unwrap();
        let nothing = outside(&host, || std::net::TcpStream::connect_timeout(&gateway, NEVER));
        assert_eq!(nothing.unwrap_err().kind(), io::ErrorKind::TimedOut);
        std::net::TcpStream::connect_timeout(&gateway, ARRIVES).unwrap();
    });
}

/// Where each of `count` datagrams of fresh clients ends up.
fn shares(from: &Attached, servers: &[UdpSocket], count: usize) -> Vec<usize> {
    let mut shares = vec![0; servers.len()];
    for server in servers {
        server.set_nonblocking(true).unwrap();
    }
    for _ in 0..count {
        let client = bound(from, 0);
        client.send_to(b"hello", (SERVICE, 80)).unwrap();
        let mut heard = None;
        eventually("the datagram arrives", || {
            heard = servers.iter().position(|server| server.recv(&mut [0; 8]).is_ok());
            heard.is_some()
        });
        shares[heard.unwrap()] += 1;
    }
    shares
}

#[test]
fn new_flows_are_spread_evenly() {
    on_a_host(|_| async {
        let network = network().await;
        let [a, b, c, d] = pods(&network).await;
        put(&network, &facts(&[&b, &c, &d], |_| {})).await;
        let servers = [&b, &c, &d].map(|pod| bound(pod, 8080));
        let count = 1500;
        let shares = shares(&a, &servers, count);
        let expected = count as f64 / 3.0;
        let chi: f64 = shares.iter().map(|n| (*n as f64 - expected).powi(2) / expected).sum();
        // Two degrees of freedom: a fair draw is beyond this once in ten million runs.
        assert!(chi < 32.2, "{shares:?}");
    });
}

#[test]
fn a_client_stays_with_its_endpoint_as_long_as_it_was_promised() {
    on_a_host(|_| async {
        let network = network().await;
        let [a, b, c, d] = pods(&network).await;
        let sticks = |service: &mut Service| service.affinity = Some(Duration::from_secs(600));
        put(&network, &facts(&[&b, &c, &d], sticks)).await;
        let all = [&b, &c, &d];
        let servers = all.map(|pod| bound(pod, 8080));
        let first = shares(&a, &servers, 20);
        let chosen = first.iter().position(|n| *n == 20).unwrap_or_else(|| panic!("{first:?}"));

        // Others come and go: it stays. Its own goes: it is led to another, and stays there.
        let fewer: Vec<&Attached> = all
            .iter()
            .enumerate()
            .filter(|(n, _)| *n != (chosen + 1) % 3)
            .map(|(_, p)| *p)
            .collect();
        put(&network, &facts(&fewer, sticks)).await;
        assert_eq!(shares(&a, &servers, 10)[chosen], 10);
        put(&network, &facts(&all, sticks)).await;
        assert_eq!(shares(&a, &servers, 10)[chosen], 10);
        let without: Vec<&Attached> =
            all.iter().enumerate().filter(|(n, _)| *n != chosen).map(|(_, p)| *p).collect();
        put(&network, &facts(&without, sticks)).await;
        let then = shares(&a, &servers, 10);
        assert_eq!(then[chosen], 0);
        assert!(then.contains(&10), "{then:?}");

        let listing = sh("nft list map inet joey_abc123 services_clients");
        assert!(listing.contains("timeout 10m") && listing.contains("expires"), "{listing}");

        // The next daemon has `nft` list what this one has left, and the client stays also with that one.
        let mut network = network;
        for _ in 0..rounds(5, 50) {
            drop(network);
            network = machine::network().await;
            assert_eq!(shares(&a, &servers, 10), then, "until the first plan");
            put(&network, &facts(&all, sticks)).await;
            assert_eq!(shares(&a, &servers, 10), then);
        }
        put(&network, &facts(&[all[chosen]], sticks)).await;
        assert_eq!(shares(&a, &servers, 10)[chosen], 10, "its own has gone");
    });
}

#[test]
fn datagrams_follow_when_their_endpoint_goes() {
    on_a_host(|host| async move {
        let network = network().await;
        let [a, b, c] = pods(&network).await;
        let (on_b, on_c) = (bound(&b, 8080), bound(&c, 8080));
        let client = bound(&a, 0);
        let stranger = outside(&host, || UdpSocket::bind((OUTSIDE, 0))).unwrap();
        let say = || client.send_to(b"hello", (SERVICE, 80)).map(drop);
        let say_from_outside = || stranger.send_to(b"hello", (HOST, NODE_PORT)).map(drop);

        // Before anybody serves it, the port of the host is the host's own.
        say_from_outside().unwrap();
        put(&network, &facts(&[&b], |_| {})).await;
        assert_eq!(heard(&on_b, say), Some(a.address));
        assert_eq!(heard(&on_b, say_from_outside), Some(IpAddr::V4(OUTSIDE)));
        put(&network, &facts(&[&c], |_| {})).await;
        assert_eq!(heard(&on_c, say), Some(a.address), "the same socket, another pod");
        assert_eq!(heard(&on_c, say_from_outside), Some(IpAddr::V4(OUTSIDE)));

        // Gone while nobody watched: the next start finds out.
        drop(network);
        let network = machine::network().await;
        assert_eq!(heard(&on_c, say), Some(a.address), "flows go on meanwhile");
        put(&network, &facts(&[&b], |_| {})).await;
        assert_eq!(heard(&on_b, say), Some(a.address));
    });
}

/// As from the second time on: the owner is told what differs and nothing else.
#[test]
fn a_change_alone_is_in_force_like_a_whole_plan() {
    on_a_host(|_| async {
        let network = network().await;
        let [a, b, c] = pods(&network).await;
        let (on_b, on_c) = (listen(&b, 8080), listen(&c, 8080));
        let (ear_b, client) = (bound(&b, 8080), bound(&a, 0));
        let nothing = PlanChange::default();
        network.change(Part::Services, nothing).await.expect_err("no plan is in force");

        let nobody = BTreeSet::new();
        let mut compiled = Compiled::default();
        let (plan, _) = compiled.whole(&facts(&[&b], |_| {}), "here", &nobody);
        network.put(Part::Services, plan).await.unwrap();
        let mut change = async |pods: &[&Attached]| {
            let now = facts(pods, |_| {});
            let names = now.services.keys().cloned().collect();
            let compilation = compiled.update(&names, &now, "here", &nobody);
            network.change(Part::Services, compilation.change).await.unwrap();
        };
        let call = || inside(&a, || connect((SERVICE, 80)));
        talk(&on_b, call()).unwrap();
        change(&[&c]).await;
        talk(&on_c, call()).unwrap();
        change(&[&b, &c]).await;
        // What somebody took away is no reason to fail, and is back.
        sh("nft flush map inet joey_abc123 services_choices");
        change(&[&b]).await;
        talk(&on_b, call()).unwrap();
        sh("nft flush map inet joey_abc123 services_sole");
        change(&[&c]).await;
        talk(&on_c, call()).unwrap();
        change(&[&b]).await;
        talk(&on_b, call()).unwrap();
        let say = || client.send_to(b"hello", (SERVICE, 80)).map(drop);
        assert_eq!(heard(&ear_b, say), Some(a.address));
        change(&[]).await;
        assert_eq!(call().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let listing = sh("nft list table inet joey_abc123");
        assert!(!listing.contains("services_pick") && !listing.contains("services_node_pick"));
        change(&[&c]).await;
        talk(&on_c, call()).unwrap();
    });
}

/// What an earlier release called its maps from ports to chains; a map's type cannot change where it stands.
#[test]
fn maps_of_an_earlier_release_serve_until_the_first_plan_and_are_gone_after_it() {
    on_a_host(|_| async {
        let network = network().await;
        let [a, b] = pods(&network).await;
        let server = listen(&b, 8080);
        let call = || inside(&a, || connect((SERVICE, 80)));
        put(&network, &facts(&[&b], |_| {})).await;
        drop(network);
        let key = format!("{SERVICE} . tcp . 80");
        let sole = sh("nft list map inet joey_abc123 services_sole | grep -c '80 : 10.42'");
        assert_eq!(sole.trim(), "2", "one endpoint, no affinity");
        // As that release left it.
        sh(&format!(
            "nft 'flush chain inet joey_abc123 services_nat; flush chain inet joey_abc123 services_node;
                delete map inet joey_abc123 services_sole; delete map inet joey_abc123 services_node_sole;
                delete map inet joey_abc123 services_choices; delete map inet joey_abc123 services_node_choices;
                delete map inet joey_abc123 services_chains; delete map inet joey_abc123 services_node_chains;
                add chain inet joey_abc123 services_pick_1;
                add rule inet joey_abc123 services_pick_1 meta l4proto tcp dnat ip to {}:8080;
                add map inet joey_abc123 services_ports {{ type ipv4_addr . inet_proto . inet_service : verdict; }};
                add map inet joey_abc123 services_node_ports {{ type inet_proto . inet_service : verdict; }};
                add element inet joey_abc123 services_ports {{ {key} : goto services_pick_1 }};
                add rule inet joey_abc123 services_nat ip daddr . meta l4proto . th dport vmap @services_ports;
                add rule inet joey_abc123 services_node meta l4proto . th dport vmap @services_node_ports'",
            b.address
        ));
        let network = machine::network().await;
        talk(&server, call()).unwrap();
        put(&network, &facts(&[&b], |_| {})).await;
        talk(&server, call()).unwrap();
        let listing = sh("nft list table inet joey_abc123");
        assert!(listing.contains("services_choices") && !listing.contains("services_ports"));
        assert!(!listing.contains("services_node_ports"), "{listing}");
    });
}

/// What nft is to list and cannot, keeps no daemon from starting.
#[test]
fn a_table_that_cannot_be_listed_is_written_from_scratch() {
    on_a_host(|_| async {
        let network = network().await;
        let [a, b] = pods(&network).await;
        let server = listen(&b, 8080);
        put(&network, &facts(&[&b], |_| {})).await;
        drop(network);
        let (map, [from, found]) = ("services_odd", [Register(0), Register(1)]);
        let declaration = Declaration::map(vec![Kind::Address], vec![Kind::Address]);
        let rule = vec![
            Expression::SourceAddress(from),
            Expression::Find { map, key: from, into: found },
            Expression::Find { map, key: found, into: found },
        ];
        let changes = ProgramChanges {
            declare: [(map.into(), declaration)].into(),
            write: [("services_odd".to_owned(), vec![rule])].into(),
            ..ProgramChanges::default()
        };
        let mut socket = nfnetlink::open().unwrap();
        nfnetlink::reprogram(&mut socket, "joey_abc123", &changes).unwrap();
        let is_listed =
            || sh("nft list table inet joey_abc123 >/dev/null 2>&1 && echo yes || true");
        // Newer ones may be able to.
        println!("nft lists it: {:?}", is_listed());

        let network = machine::network().await;
        assert_eq!(is_listed(), "yes\n");
        put(&network, &facts(&[&b], |_| {})).await;
        talk(&server, inside(&a, || connect((SERVICE, 80)))).unwrap();
    });
}

#[test]
fn thousands_of_services_are_one_transaction() {
    on_a_host(|_| async {
        let network = network().await;
        let [a, b] = pods(&network).await;
        let one = facts(&[&b], |service| service.ports.truncate(1));
        let (name, service) = one.services.first_key_value().unwrap();
        let slices = one.slices.first_key_value().unwrap().1;
        let mut many = one.clone();
        for number in 0..3000u32 {
            let name = ServiceName { name: format!("web-{number}"), ..name.clone() };
            let addresses = vec![Ipv4Addr::from(0x0a2b_1000 + number).into()];
            let mut service = Service { addresses, ..service.clone() };
            service.ports[0].node_port = None;
            service.is_on_host = false;
            many.services.insert(name.clone(), service);
            many.slices.insert(name, slices.clone());
        }
        put(&network, &many).await;
        let server = listen(&b, 8080);
        for number in [0u32, 1499, 2999] {
            let to = Ipv4Addr::from(0x0a2b_1000 + number);
            talk(&server, inside(&a, || connect((to, 80)))).unwrap();
        }
        // A start with all of that in the kernel.
        drop(network);
        let network = machine::network().await;
        put(&network, &many).await;
        talk(&server, inside(&a, || connect((SERVICE, 80)))).unwrap();
    });
}
