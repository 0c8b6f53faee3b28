//! Real packets through real links: each test is a host of its own, in fresh network and mount namespaces.

mod dns;
mod following;
mod guard;
mod leaving;
mod limits;
pub(super) mod machine;
mod parts;
mod policy;
mod rivals;
mod services;
mod tunnels;

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;

use self::machine::*;
use super::*;
use crate::sys::netns;

#[test]
fn pods_and_host_reach_each_other_by_address() {
    on_a_host(|_| async {
        let network = network().await;
        let a = network.attach("a", &[]).await.unwrap();
        let b = network.attach("b", &[]).await.unwrap();
        let server = listen(&b, 80);
        let to = (v4(&b), 80);
        let peer = talk(&server, inside(&a, || connect(to))).unwrap();
        assert_eq!(peer.ip(), a.address, "pod to pod keeps the source");
        let peer = talk(&server, connect(to)).unwrap();
        assert_eq!(peer.ip(), a.gateway, "the host speaks as the gateway");
        let peer = talk(&server, inside(&b, || connect(to))).unwrap();
        assert_eq!(peer.ip(), b.address);
        inside(&a, || ping(v4(&b))).unwrap();
        inside(&a, || ping(Ipv4Addr::new(10, 42, 0, 1))).unwrap();
        ping(v4(&b)).unwrap();
        let (to, from) = (bound(&b, 53), bound(&a, 0));
        assert_eq!(heard(&to, || from.send_to(b"hello", (v4(&b), 53)).map(drop)), Some(a.address));
    });
}

#[test]
fn a_pods_very_first_datagram_arrives() {
    on_a_host(|_| async {
        let network = network().await;
        let server = network.attach("server", &[]).await.unwrap();
        let (ears, to) = (bound(&server, 53), (v4(&server), 53));
        for round in 0..60 {
            let pod = network.attach(&format!("pod-{round}"), &[]).await.unwrap();
            let first = bound(&pod, 0);
            let from = heard(&ears, || first.send_to(b"hello", to).map(drop));
            assert_eq!(from, Some(pod.address), "round {round}");
        }
    });
}

#[test]
fn the_outside_sees_the_host_and_never_a_pod() {
    on_a_host(|host| async move {
        let network = network().await;
        assert_eq!(network.node_address(), IpAddr::V4(HOST));
        assert_eq!(network.problems(), Vec::<String>::new());
        let a = network.attach("a", &[]).await.unwrap();
        let server = outside(&host, || TcpListener::bind((OUTSIDE, 80))).unwrap();
        let peer = talk(&server, inside(&a, || connect((OUTSIDE, 80)))).unwrap();
        assert_eq!(peer.ip(), IpAddr::V4(HOST));

        // Nobody out there reaches a pod by its address, nor anybody else through this host.
        let pod = bound(&a, 53);
        let address = v4(&a);
        outside(&host, || {
            sh("ip route add 10.42.0.0/16 via 192.0.2.2; ip route add 198.51.100.0/24 via 192.0.2.2");
            Ok(())
        })
        .unwrap();
        let stranger = outside(&host, || UdpSocket::bind((OUTSIDE, 0))).unwrap();
        assert_eq!(heard(&pod, || stranger.send_to(b"hello", (address, 53)).map(drop)), None);
        let (second, socket) = netns::make(|| UdpSocket::bind("0.0.0.0:99")).unwrap();
        netns::pin(second.as_fd(), Path::new("/tmp/second")).unwrap();
        sh("ip link add up1 type veth peer name out1 netns /tmp/second; ip link set up1 up
            ip addr add 198.51.100.1/24 dev up1");
        netns::enter(second.as_fd(), || {
            sh("ip link set out1 up; ip addr add 198.51.100.2/24 dev out1; ip route add default via 198.51.100.1");
            Ok(())
        })
        .unwrap();
        assert_eq!(
            heard(&socket, || stranger.send_to(b"hello", "198.51.100.2:99").map(drop)),
            None
        );
        let dropped = sh("nft list chain inet joey_abc123 transit");
        assert!(dropped.contains("packets 1"), "{dropped}");
    });
}

#[test]
fn a_forged_source_reaches_nobody() {
    on_a_host(|_| async {
        let network = network().await;
        let a = network.attach("a", &[]).await.unwrap();
        let b = network.attach("b", &[]).await.unwrap();
        let c = network.attach("c", &[]).await.unwrap();
        let victim = bound(&b, 53);
        let to = (v4(&b), 53);
        let say = |from: &Attached, source: Ipv4Addr| {
            let socket = inside(from, || UdpSocket::bind((source, 0))).unwrap();
            heard(&victim, || socket.send_to(b"hello", to).map(drop))
        };
        assert_eq!(say(&a, v4(&a)), Some(a.address));

        let stolen = v4(&c);
        sh_in(
            &a,
            &format!("ip addr add {stolen}/32 dev eth0; ip addr add 203.0.113.9/32 dev eth0"),
        );
        assert_eq!(say(&a, stolen), None, "another pod's address");
        assert_eq!(say(&a, Ipv4Addr::new(203, 0, 113, 9)), None, "a stranger's address");

        // With the other's hardware address too, the frame dies at the port.
        let mac =
            |address: Ipv4Addr| names::pod_mac(address).map(|byte| format!("{byte:02x}")).join(":");
        let rewire = |mac: String| {
            format!(
                "ip link set eth0 address {mac}
                 ip neigh replace 10.42.0.1 lladdr 0e:ab:c1:23:00:00 nud permanent dev eth0
                 ip route replace 10.42.0.1 dev eth0 scope link
                 ip route replace default via 10.42.0.1 dev eth0 onlink"
            )
        };
        sh_in(&a, &rewire(mac(stolen)));
        assert_eq!(say(&a, stolen), None, "another pod's address and hardware address");
        assert_eq!(say(&a, v4(&a)), None, "the own address with a foreign hardware address");
        sh_in(&a, &rewire(mac(v4(&a))));
        assert_eq!(say(&a, v4(&a)), Some(a.address), "honest again");
        assert_eq!(say(&c, stolen), Some(c.address), "the owner was never disturbed");

        // Frames straight to a neighbour, around the host.
        sh_in(
            &a,
            &format!(
                "ip route add {0}/32 dev eth0 scope link; ip neigh add {0} lladdr {1} nud permanent dev eth0",
                v4(&b),
                mac(v4(&b)),
            ),
        );
        assert_eq!(say(&a, v4(&a)), None, "a frame to another port");
        // Nobody answers ARP, so nobody can answer it falsely.
        sh_in(&a, "ip neigh flush dev eth0 nud permanent; ip neigh del 10.42.0.1 dev eth0 || true");
        assert!(inside(&a, || Ok(is_silent(Ipv4Addr::new(10, 42, 0, 1)))).unwrap());
    });
}

#[test]
fn pods_reach_neither_metadata_nor_services_of_the_node() {
    on_a_host(|host| async move {
        let network = network().await;
        let a = network.attach("a", &[]).await.unwrap();
        outside(&host, || {
            sh("ip addr add 169.254.169.254/32 dev lo");
            Ok(())
        })
        .unwrap();
        sh("ip route add 169.254.0.0/16 via 192.0.2.1");
        let metadata = outside(&host, || UdpSocket::bind("169.254.169.254:80")).unwrap();
        let pod = bound(&a, 0);
        assert_eq!(
            heard(&metadata, || pod.send_to(b"hello", "169.254.169.254:80").map(drop)),
            None
        );
        let own = UdpSocket::bind("0.0.0.0:0").unwrap();
        assert!(
            heard(&metadata, || own.send_to(b"hello", "169.254.169.254:80").map(drop)).is_some()
        );

        let _api = TcpListener::bind("0.0.0.0:6443").unwrap();
        for node in [HOST, Ipv4Addr::new(10, 42, 0, 1)] {
            let refused = inside(&a, || connect((node, 6443))).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{node}");
        }
        inside(&a, || ping(HOST)).unwrap();
        // A pod that does not exist is unreachable at once, and never sought outside.
        let nobody = Ipv4Addr::new(10, 42, 9, 9);
        let error = inside(&a, || connect((nobody, 80))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::HostUnreachable);
        assert_eq!(connect((nobody, 80)).unwrap_err().kind(), io::ErrorKind::HostUnreachable);
    });
}

#[test]
fn host_ports_lead_into_pods_from_everywhere_but_loopback() {
    on_a_host(|host| async move {
        let network = network().await;
        let ports = [port(Protocol::Tcp, 8080, 80), port(Protocol::Udp, 5353, 53)];
        let a = network.attach("a", &ports).await.unwrap();
        let b = network.attach("b", &[]).await.unwrap();
        let server = listen(&a, 80);
        let peer = talk(&server, outside(&host, || connect((HOST, 8080)))).unwrap();
        assert_eq!(peer.ip(), IpAddr::V4(OUTSIDE), "the outside keeps its address");
        let peer = talk(&server, inside(&b, || connect((HOST, 8080)))).unwrap();
        assert_eq!(peer.ip(), b.address, "so does a pod");
        talk(&server, inside(&a, || connect((HOST, 8080)))).unwrap();
        let peer = talk(&server, connect((HOST, 8080))).unwrap();
        assert_eq!(peer.ip(), IpAddr::V4(HOST));
        let loopback = connect((Ipv4Addr::LOCALHOST, 8080)).unwrap_err();
        assert_eq!(loopback.kind(), io::ErrorKind::ConnectionRefused);

        let dns = bound(&a, 53);
        let stranger = outside(&host, || UdpSocket::bind((OUTSIDE, 0))).unwrap();
        let ask = || stranger.send_to(b"hello", (HOST, 5353)).map(drop);
        assert_eq!(heard(&dns, ask), Some(IpAddr::V4(OUTSIDE)));
        // Policies know pods by their addresses: a neighbour may not say that it has one.
        for pod in [v4(&a), v4(&b)] {
            let forge = format!("ip addr add {pod}/32 dev out0");
            let impostor = outside(&host, || {
                sh(&forge);
                UdpSocket::bind((pod, 0))
            });
            let impostor = impostor.unwrap();
            assert_eq!(heard(&dns, || impostor.send_to(b"hello", (HOST, 5353)).map(drop)), None);
        }

        let taken = network.attach("c", &[port(Protocol::Tcp, 8080, 81)]).await;
        assert!(matches!(taken, Err(NetError::HostPortTaken(8080, by)) if by == "a"));
        network.detach("a").await.unwrap();
        assert!(outside(&host, || connect((HOST, 8080))).is_err());
        let c = network.attach("c", &ports).await.unwrap();
        let (server, dns) = (listen(&c, 80), bound(&c, 53));
        talk(&server, outside(&host, || connect((HOST, 8080)))).unwrap();
        assert_eq!(heard(&dns, ask), Some(IpAddr::V4(OUTSIDE)), "the same flow finds the new pod");
    });
}

#[test]
fn detach_and_reset_leave_nothing() {
    on_a_host(|_| async {
        let before = traces();
        {
            let network = network().await;
            network.attach("first", &[]).await.unwrap();
            network.detach("first").await.unwrap();
            eventually("the first pod's link is gone", || !sh("ip -o link").contains("jyabc123-"));
            let (clean, nat) = (traces(), [port(Protocol::Tcp, 8080, 80)]);
            for round in 0..100 {
                let pod = format!("pod-{round}");
                network.attach(&pod, &nat).await.unwrap();
                network.detach(&pod).await.unwrap();
                network.detach(&pod).await.unwrap();
            }
            assert_eq!(network.attached(), Vec::<String>::new());
            eventually("links are swept up", || !sh("ip -o link").contains("jyabc123-"));
            assert_eq!(traces(), clean);
            network.attach("left", &nat).await.unwrap();
        }
        Network::reset(&config("abc123", "10.42.0.0/16")).await.unwrap();
        eventually("everything is gone", || traces() == before);
        assert!(!Path::new("/tmp/abc123/data/network").exists());
        assert!(!Path::new("/tmp/abc123/run/netns").exists());
        Network::reset(&config("abc123", "10.42.0.0/16")).await.unwrap();
    });
}

#[test]
fn a_restart_keeps_flows_addresses_and_the_table() {
    on_a_host(|host| async move {
        let first = network().await;
        let ports = [port(Protocol::Tcp, 8080, 80)];
        let a = first.attach("a", &ports).await.unwrap();
        let b = first.attach("b", &[]).await.unwrap();
        let server = listen(&a, 80);
        let mut through = outside(&host, || connect((HOST, 8080))).unwrap();
        let mut through_end = server.accept().unwrap().0;
        let mut between = inside(&b, || connect((v4(&a), 80))).unwrap();
        let mut between_end = server.accept().unwrap().0;
        let mut from_host = connect((v4(&a), 80)).unwrap();
        let mut from_host_end = server.accept().unwrap().0;
        let tracked = limits::tracked(&b);
        let handles = || {
            sh("nft -a list table inet joey_abc123 | grep -E '^table|chain .*_hook' ;
                for c in guard_hook forward_hook node_hook inbound_hook outbound_hook local_hook output_hook
                do nft -a list chain inet joey_abc123 $c | grep handle; done; ip -o link | cut -d: -f1,2")
        };
        let before = handles();
        // One daemon of an instance at a time: each takes what another does to the table for a disturbance.
        drop(first);
        for round in 0..3 {
            if round == 0 {
                first_half_made(&a);
            }
            let again = network().await;
            assert_eq!(again.attached(), ["a", "b"]);
            assert_eq!(again.attach("a", &ports).await.unwrap(), a);
            assert_eq!(again.attach("b", &[]).await.unwrap(), b);
            say(&mut through, &mut through_end).unwrap();
            say(&mut between, &mut between_end).unwrap();
            say(&mut from_host, &mut from_host_end).unwrap();
            assert_eq!(limits::tracked(&b), tracked, "known as before");
            assert_eq!(handles(), before);
            let fresh = again.attach("new", &[]).await.unwrap();
            assert_eq!(v4(&fresh).octets()[3], 4 + round, "freed addresses come last");
            talk(&server, inside(&fresh, || connect((v4(&a), 80)))).unwrap();
            again.detach("new").await.unwrap();
            eventually("its link is gone", || handles() == before);
        }
    });
}

#[test]
fn a_pod_whose_namespace_died_keeps_its_address() {
    on_a_host(|_| async {
        let first = network().await;
        first.attach("a", &[]).await.unwrap();
        let b = first.attach("b", &[]).await.unwrap();
        drop(first);
        // As after a reboot, when only the data directory is left.
        Network::reset(&NetworkConfig {
            data_dir: "/tmp/elsewhere".into(),
            ..config("abc123", "10.42.0.0/16")
        })
        .await
        .unwrap();
        let again = network().await;
        assert_eq!(again.attached(), ["a", "b"]);
        let rebuilt = again.attach("b", &[]).await.unwrap();
        assert_eq!(rebuilt.address, b.address);
        ping(v4(&rebuilt)).unwrap();
        again.detach("a").await.unwrap();
        assert_eq!(again.attached(), ["b"]);
    });
}

#[test]
fn ranges_of_earlier_starts_are_forgotten_by_nothing_but_their_removal() {
    on_a_host(|_| async {
        let before = traces();
        let other = NetworkConfig {
            service_cidr: "10.78.0.0/16".parse().unwrap(),
            ..config("abc123", "10.77.0.0/16")
        };
        drop(Network::start(other.clone()).await.unwrap());
        let left = traces();
        assert_ne!(left, before);
        let network = network().await;
        let (rules, routes) = (sh("ip rule"), sh("ip route"));
        assert!(rules.contains("10.42.0.0/16") && !rules.contains("10.77."), "{rules}");
        assert!(routes.contains("10.42.0.0/16") && !routes.contains("10.7"), "{routes}");
        drop(network);
        // Whoever resets may not know the ranges of the last start.
        drop(Network::start(other).await.unwrap());
        Network::reset(&config("abc123", "10.42.0.0/16")).await.unwrap();
        eventually("everything is gone", || traces() == before);
    });
}

#[test]
fn two_instances_side_by_side_do_not_meet() {
    on_a_host(|host| async move {
        let one = network().await;
        let same_services = Network::start(config("def456", "10.50.0.0/16")).await;
        let refused = same_services.err().unwrap().to_string();
        assert_eq!(
            refused,
            "use the Service range: 10.43.0.0/16 holds route 10.43.0.0/16 by jyabc123; choose another with --service-cidr"
        );
        let services = "10.51.0.0/16".parse().unwrap();
        let other_config =
            NetworkConfig { service_cidr: services, ..config("def456", "10.50.0.0/16") };
        let other = Network::start(other_config.clone()).await.unwrap();
        let a = one.attach("a", &[]).await.unwrap();
        let b = other.attach("a", &[]).await.unwrap();
        let victim = bound(&b, 53);
        let socket = bound(&a, 0);
        assert_eq!(heard(&victim, || socket.send_to(b"hello", (v4(&b), 53)).map(drop)), None);
        let server = outside(&host, || TcpListener::bind((OUTSIDE, 80))).unwrap();
        for pod in [&a, &b] {
            talk(&server, inside(pod, || connect((OUTSIDE, 80)))).unwrap();
        }
        drop(other);
        Network::reset(&other_config).await.unwrap();
        talk(&server, inside(&a, || connect((OUTSIDE, 80)))).unwrap();
        let overlapping = Network::start(config("def456", "10.42.0.0/24")).await;
        let refused = overlapping.err().unwrap().to_string();
        assert!(refused.contains("choose another with --pod-cidr"), "{refused}");
        drop(one);
        Network::reset(&config("abc123", "10.42.0.0/16")).await.unwrap();
        assert_eq!(sh("cat /proc/sys/net/ipv4/conf/up0/forwarding").trim(), "0");
    });
}

#[test]
fn the_range_is_not_bound_to_an_octet() {
    on_a_host(|_| async {
        let network = network().await;
        let a = network.attach("a", &[]).await.unwrap();
        let mut last = a.clone();
        for round in 0..260 {
            last = network.attach(&format!("p{round}"), &[]).await.unwrap();
            if v4(&last).octets()[2] == 0 {
                network.detach(&format!("p{round}")).await.unwrap();
            }
        }
        assert_eq!(v4(&last).octets()[2], 1);
        let server = listen(&last, 80);
        let peer = talk(&server, inside(&a, || connect((v4(&last), 80)))).unwrap();
        assert_eq!(peer.ip(), a.address);
        talk(&server, connect((v4(&last), 80))).unwrap();
    });
}

#[test]
fn port_forward_reaches_loopback_inside_the_pod() {
    on_a_host(|_| async {
        let network = network().await;
        let a = network.attach("a", &[]).await.unwrap();
        let v4 = inside(&a, || TcpListener::bind("127.0.0.1:8080")).unwrap();
        let v6 = inside(&a, || TcpListener::bind("[::1]:8081")).unwrap();
        for (listener, port) in [(&v4, 8080), (&v6, 8081)] {
            let stream = dial(&a.netns, port).await.unwrap();
            assert!(stream.peer_addr().unwrap().ip().is_loopback());
            listener.accept().unwrap();
        }
        let refused = dial(&a.netns, 8082).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(dial(Path::new("/tmp"), 1).await.is_err());
    });
}

#[test]
fn pods_may_ping_and_bind_low_ports_without_privilege() {
    on_a_host(|_| async {
        let network = network().await;
        let a = network.attach("a", &[]).await.unwrap();
        let read = |name: &'static str| inside(&a, move || sysctl::read(name)).unwrap();
        assert_eq!(read("ipv4/ping_group_range"), "0\t2147483647");
        assert_eq!(read("ipv4/ip_unprivileged_port_start"), "0");
        assert_eq!(read("ipv4/conf/eth0/accept_redirects"), "0");
        assert_eq!(read("ipv6/conf/all/accept_ra"), "0");
        assert_eq!(read("ipv6/conf/eth0/disable_ipv6"), "1");
        assert_eq!(sh("sysctl -n net.ipv4.conf.all.route_localnet").trim(), "0");
        for wrong in ["", ".", "../x", "a/b", "a\0b"] {
            assert!(network.attach(wrong, &[]).await.is_err(), "{wrong:?}");
            assert!(network.detach(wrong).await.is_err(), "{wrong:?}");
        }
    });
}

#[test]
fn a_rule_of_the_host_in_the_way_is_told_with_a_cure_that_works() {
    on_a_host(|_| async {
        sh("nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }
            add chain ip filter INPUT { type filter hook input priority 0; policy accept; }'");
        let rules = || sh("nft list table ip filter");
        let before = rules();
        let problems = network().await.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].starts_with("chain FORWARD of nftables table ip filter drops"),
            "{problems:?}"
        );
        assert_eq!(rules(), before, "rules of others are never changed");
        sh(problems[0].rsplit(": ").next().unwrap());
        assert_eq!(network().await.problems(), Vec::<String>::new());
        sh("nft add rule ip filter INPUT iifname jyabc123-* drop");
        let problems = network().await.problems();
        assert!(problems[0].contains("between the host and its pods"), "{problems:?}");
    });
}

/// A firewall of the host is usually installed, or started, when pods have run for long.
#[test]
fn rules_that_come_later_are_told_and_so_is_their_going() {
    on_a_host(|_| async {
        let network = network().await;
        let mut problems = network.watch_problems();
        let mut told = async || {
            let change = tokio::time::timeout(Duration::from_secs(60), problems.changed());
            change.await.expect("told in time").unwrap();
            problems.borrow_and_update().clone()
        };
        sh("nft 'add table inet walls; add chain inet walls in { type filter hook input priority 0; policy drop; }
            add rule inet walls in ct state established accept'");
        let found = told().await;
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("packets that pods send to the host"), "{found:?}");
        sh(found[0].rsplit(": ").next().unwrap());
        assert_eq!(told().await, Vec::<String>::new(), "the cure works");
        sh(
            "nft 'add chain inet walls through { type filter hook forward priority 0; policy drop; }'",
        );
        assert!(told().await[0].contains("that the host forwards"));
        sh("nft delete table inet walls");
        assert_eq!(told().await, Vec::<String>::new());
    });
}

/// As firewalld's do: what Services lead to the host works, and only what goes straight there does not.
#[test]
fn rules_that_let_translated_packets_in_are_told_from_others() {
    on_a_host(|_| async {
        let walls = |accepted: &str| {
            sh(&format!(
                "nft 'add table inet walls; add chain inet walls in {{ type filter hook input priority 0; policy drop; }}
                 add rule inet walls in {accepted} accept'"
            ));
        };
        walls("ct state established");
        let problems = network().await.problems();
        assert!(problems[0].contains("reach no API"), "{problems:?}");
        sh("nft add rule inet walls in ct status dnat accept");
        let problems = network().await.problems();
        assert!(problems[0].contains("only through Services"), "{problems:?}");
        sh("nft delete table inet walls");
        walls(
            "ct state established accept; add rule inet walls in ct status dnat drop; add rule inet walls in",
        );
        let problems = network().await.problems();
        assert!(problems[0].contains("reach no API"), "{problems:?}");
        sh("nft delete table inet walls");
        assert_eq!(network().await.problems(), Vec::<String>::new());
    });
}

#[test]
fn forwarding_is_put_back_unless_somebody_decided_anew() {
    on_a_host(|_| async {
        let uplink = || sysctl::read("ipv4/conf/up0/forwarding").unwrap();
        let ours = config("abc123", "10.42.0.0/16");
        drop(network().await);
        drop(network().await);
        assert_eq!(uplink(), "1");
        Network::reset(&ours).await.unwrap();
        assert_eq!(uplink(), "0");

        drop(network().await);
        sysctl::write("ipv4/conf/all/forwarding", "1").unwrap();
        drop(network().await);
        let transit = sh("nft list chain inet joey_abc123 transit");
        assert!(!transit.contains("drop"), "a router stays one: {transit}");
        Network::reset(&ours).await.unwrap();
        assert_eq!(uplink(), "1");

        sysctl::write("ipv4/conf/up0/forwarding", "0").unwrap();
        for _ in 0..2 {
            drop(network().await);
            let transit = sh("nft list chain inet joey_abc123 transit");
            assert!(transit.contains("up0") && transit.contains("drop"), "{transit}");
        }
        Network::reset(&ours).await.unwrap();
        assert_eq!(uplink(), "0");
    });
}
