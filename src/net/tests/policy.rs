//! Policies and packets: what the rules decide is what the statements say, at every instant.

mod api;
mod ends;
mod icmp;
pub(super) mod scene;

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use self::scene::*;
use super::machine::*;
use crate::net::Protocol;
use crate::net::policy::tests::{Random, policy};
use crate::net::policy::{Asked, Flow, Nature, Pod};

/// More of everything with `JOEY_TEST_LONG=1`.
pub(super) fn rounds(normal: usize, long: usize) -> usize {
    if std::env::var_os("JOEY_TEST_LONG").is_some() { long } else { normal }
}

pub(super) fn seed() -> u64 {
    let seed = std::env::var("JOEY_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(1);
    println!("JOEY_TEST_SEED={seed}");
    seed
}

#[test]
fn packets_and_statements_agree_on_every_cell() {
    on_a_host(|_| async {
        let mut random = Random::new(seed());
        let mut scene = Scene::start().await;
        for namespace in ["x", "y", "z"] {
            scene.namespace(namespace, random.labels());
            for pod in ["a", "b", "c"] {
                let mut labels = random.labels();
                labels.insert("pod".to_owned(), pod.to_owned());
                scene.pod(namespace, pod, labels).await;
            }
        }
        let servers = Servers::listen(&scene);
        scene.serve_names().await;
        let (mut allowed, mut denied, mut nameless) = (0, 0, 0);
        for round in 0..rounds(8, 200) {
            scene.policies = random.several(5, Random::policy);
            if round % 2 == 1 {
                // The usual recipe beside whatever else; it isolates everybody there.
                let dns = json!({
                    "namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
                });
                let rule = json!({"to": [dns], "ports": [{"port": 53, "protocol": "UDP"}]});
                let spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [rule]});
                scene.policies.push(policy("x", "names", spec));
            }
            scene.enforce().await;
            let expected = scene.table();
            let mut by_name = expected.clone();
            by_name.iter_mut().for_each(|(cell, is_allowed)| {
                let may_ask = scene.may_ask(&cell.0);
                nameless += usize::from(*is_allowed && !may_ask);
                *is_allowed &= may_ask;
            });
            for (way, expected) in [
                (Way::Address, &expected),
                (Way::ClusterIp, &expected),
                (Way::Name, &by_name),
                (Way::NodePort, &expected),
            ] {
                let found = servers.ask_everybody(&scene, way, expected);
                assert_eq!(&found, expected, "round {round} by {way:?}: {:#?}", scene.policies);
            }
            allowed += expected.values().filter(|is_allowed| **is_allowed).count();
            denied += expected.values().filter(|is_allowed| !**is_allowed).count();
        }
        println!("{allowed} cells to allow, {denied} to deny, {nameless} by the name alone");
        assert!(nameless > 0, "nobody is kept from asking for names alone");
        assert!(allowed > denied / 9 && denied > allowed / 9, "{allowed} and {denied}");
    });
}

#[test]
fn a_pod_that_acts_first_of_all_leaks_nothing_and_is_denied_nothing() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        scene.namespace("x", Default::default());
        let free = scene.pod("x", "free", labels("free")).await;
        let shut = scene.pod("x", "shut", labels("shut")).await;
        scene.policies = vec![
            policy("x", "shut", json!({"podSelector": {"matchLabels": {"app": "shut"}}})),
            policy(
                "x",
                "first",
                json!({
                    "podSelector": {"matchLabels": {"app": "first"}},
                    "policyTypes": ["Egress"],
                    "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "free"}}}]}],
                }),
            ),
        ];
        scene.enforce().await;
        let open = listen(&free, 80);
        let closed = listen(&shut, 80);
        closed.set_nonblocking(true).unwrap();
        let ear = bound(&shut, 81);
        ear.set_nonblocking(true).unwrap();
        for number in 0..rounds(60, 1000) {
            let name = format!("first-{number}");
            let first = scene.pod("x", &name, labels("first")).await;
            // No second attempt: what is allowed is allowed at once.
            let peer = talk(&open, inside(&first, || connect((v4(&free), 80)))).unwrap();
            assert_eq!(peer.ip(), first.address, "{name}");
            inside(&first, || {
                UdpSocket::bind("0.0.0.0:0")?.send_to(b"leak", (v4(&shut), 81)).ok();
                let refused = TcpStream::connect_timeout(&(v4(&shut), 80).into(), NEVER);
                assert!(refused.is_err(), "{name} connects");
                Ok(())
            })
            .unwrap();
            assert!(ear.recv(&mut [0; 8]).is_err(), "{name} leaks a datagram");
            assert!(closed.accept().is_err(), "{name} leaks a connection");
            scene.remove("x", &name).await;
        }
    });
}

#[test]
fn what_is_egress_denied_is_refused_and_what_is_ingress_denied_is_ignored() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        scene.namespace("x", Default::default());
        let a = scene.pod("x", "a", labels("a")).await;
        let b = scene.pod("x", "b", labels("b")).await;
        let _server = listen(&b, 80);
        let attempt = || {
            inside(&a, || TcpStream::connect_timeout(&(v4(&b), 80).into(), ARRIVES))
                .map(drop)
                .map_err(|error| error.kind())
        };
        assert_eq!(attempt(), Ok(()));
        let only = |name: &str, kind: &str| {
            let selector = json!({"matchLabels": {"app": name}});
            vec![policy("x", "only", json!({"podSelector": selector, "policyTypes": [kind]}))]
        };
        scene.policies = only("a", "Egress");
        scene.enforce().await;
        assert_eq!(attempt(), Err(io::ErrorKind::ConnectionRefused));
        scene.policies = only("b", "Ingress");
        scene.enforce().await;
        assert_eq!(attempt(), Err(io::ErrorKind::TimedOut));
        // A policy for the other direction concerns nobody here.
        scene.policies = only("b", "Egress");
        scene.enforce().await;
        assert_eq!(attempt(), Ok(()));
    });
}

#[test]
fn tightening_ends_what_runs_and_loosening_spares_it() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        scene.namespace("x", Default::default());
        let a = scene.pod("x", "a", labels("a")).await;
        let b = scene.pod("x", "b", labels("b")).await;
        let server = listen(&b, 80);
        let allow = |ports: serde_json::Value| {
            vec![policy("x", "in", json!({"podSelector": {}, "ingress": [{"ports": ports}]}))]
        };
        scene.policies = allow(json!([{"port": 80}]));
        scene.enforce().await;
        let mut client = inside(&a, || connect((v4(&b), 80))).unwrap();
        let (mut served, _) = server.accept().unwrap();
        say(&mut client, &mut served).unwrap();
        // Other rules, more rules, none at all: the flow never notices.
        for ports in [json!([{"port": 80}, {"port": 81}]), json!([{"port": 79, "endPort": 90}])] {
            scene.policies = allow(ports);
            scene.enforce().await;
            say(&mut client, &mut served).unwrap();
        }
        scene.policies.clear();
        scene.enforce().await;
        say(&mut client, &mut served).unwrap();

        // In force means that the flow is over, whoever speaks first.
        for kind in ["Ingress", "Egress"] {
            scene.policies.clear();
            scene.enforce().await;
            let mut client = inside(&a, || connect((v4(&b), 80))).unwrap();
            let (mut served, _) = server.accept().unwrap();
            say(&mut client, &mut served).unwrap();
            scene.policies = vec![policy(
                "x",
                "none",
                json!({
                    "podSelector": {"matchLabels": {"app": if kind == "Ingress" {"b"} else {"a"}}},
                    "policyTypes": [kind],
                }),
            )];
            scene.enforce().await;
            assert!(is_silent(&mut served, &mut client), "{kind}: the server still speaks");
            assert!(is_silent(&mut client, &mut served), "{kind}: the client still speaks");
        }
    });
}

#[test]
fn a_datagram_flow_ends_with_the_rule_that_allowed_it() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        scene.namespace("x", Default::default());
        let a = scene.pod("x", "a", labels("a")).await;
        let b = scene.pod("x", "b", labels("b")).await;
        let (to, from) = (bound(&b, 53), bound(&a, 0));
        let say = || heard(&to, || from.send_to(b"hello", (v4(&b), 53)).map(drop));
        assert_eq!(say(), Some(a.address));
        scene.policies = vec![policy("x", "in", json!({"podSelector": {}}))];
        scene.enforce().await;
        assert_eq!(say(), None);
        inside(&a, || ping(v4(&b))).unwrap_err();
    });
}

/// Of datagrams nobody can say which is the first: an answer that is late must not begin a flow in whose name the denied
/// one goes on.
#[test]
fn a_late_answer_does_not_bring_a_denied_flow_back() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        scene.namespace("x", Default::default());
        let a = scene.pod("x", "a", labels("a")).await;
        let b = scene.pod("x", "b", labels("b")).await;
        scene.serve().await;
        let only_b = json!({"podSelector": {"matchLabels": {"app": "b"}}});
        for way in [Way::Address, Way::ClusterIp] {
            let (client, server) = (bound(&a, 0), bound(&b, 80));
            let (at, here) = (scene.at(way, "x-b", 80), client.local_addr().unwrap());
            let asks = || heard(&server, || client.send_to(b"ask", at).map(drop)).is_some();
            let answers = || heard(&client, || server.send_to(b"late", here).map(drop)).is_some();
            assert!(asks() && answers(), "{way:?}");
            scene.policies = vec![policy("x", "in", only_b.clone())];
            scene.enforce().await;
            assert!(!answers(), "{way:?}: an answer of a flow that is over");
            assert!(!asks(), "{way:?}: the flow goes on");
            // Straight to the pod, as an answer to the answer.
            let direct = SocketAddr::from((v4(&b), 80));
            let again = heard(&server, || client.send_to(b"ask", direct).map(drop));
            assert_eq!(again, None, "{way:?}");
            // What the server begins itself was never denied.
            let (other, ear) = (bound(&b, 0), bound(&a, 0));
            let to = ear.local_addr().unwrap();
            assert!(heard(&ear, || other.send_to(b"mine", to).map(drop)).is_some(), "{way:?}");
            scene.policies.clear();
            scene.enforce().await;
            assert!(asks() && answers(), "{way:?}: allowed again");
        }
    });
}

/// The cluster's DNS and whatever else the host serves.
#[test]
fn a_late_answer_of_the_host_does_not_bring_a_denied_flow_back() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        scene.namespace("x", Default::default());
        let a = scene.pod("x", "a", labels("a")).await;
        scene.network.open_doors([(Protocol::Udp, 53)].into()).await.unwrap();
        let (client, server) = (bound(&a, 0), UdpSocket::bind((HOST, 53)).unwrap());
        let here = client.local_addr().unwrap();
        let asks = || heard(&server, || client.send_to(b"ask", (HOST, 53)).map(drop)).is_some();
        let answers = || {
            let late = || {
                // Whoever sends from the host is told that it may not.
                server.send_to(b"late", here).ok();
                Ok(())
            };
            heard(&client, late).is_some()
        };
        assert!(asks() && answers());
        let spec = json!({"podSelector": {}, "policyTypes": ["Egress"]});
        scene.policies = vec![policy("x", "out", spec)];
        scene.enforce().await;
        assert!(!answers(), "an answer of a flow that is over");
        assert!(!asks(), "the flow goes on");
    });
}

/// Statement 16: rules see whole datagrams, and no part of a denied one gets past them.
#[test]
fn fragments_arrive_together_or_not_at_all() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        scene.namespace("x", Default::default());
        let a = scene.pod("x", "a", labels("a")).await;
        let b = scene.pod("x", "b", labels("b")).await;
        let rule = json!({"ports": [{"port": 80, "protocol": "UDP"}]});
        let spec = json!({"podSelector": {"matchLabels": {"app": "b"}}, "ingress": [rule]});
        scene.policies = vec![policy("x", "in", spec)];
        scene.enforce().await;
        let (open, shut, from) = (bound(&b, 80), bound(&b, 81), bound(&a, 0));
        // Several times the links' MTU.
        let large = [7; 6000];
        let send = |port| from.send_to(&large, (v4(&b), port)).map(drop);
        let got = || {
            let text = inside(&b, || std::fs::read_to_string("/proc/thread-self/net/snmp"));
            let text = text.unwrap();
            let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
            let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
            let place = names.split(' ').position(|name| name == "InReceives").unwrap();
            values.split(' ').nth(place).unwrap().parse::<u64>().unwrap()
        };
        let before = got();
        assert_eq!(heard(&open, || send(80)), Some(a.address));
        assert!(got() >= before + 5, "it came in pieces");
        let before = got();
        assert_eq!(heard(&shut, || send(81)), None);
        assert_eq!(got(), before, "not a single piece");
    });
}

#[test]
fn relabelling_counts_on_both_sides() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        scene.namespace("x", Default::default());
        scene.namespace("y", Default::default());
        let a = scene.pod("y", "a", labels("a")).await;
        let b = scene.pod("x", "b", labels("b")).await;
        scene.policies = vec![policy(
            "x",
            "in",
            json!({
                "podSelector": {"matchLabels": {"app": "b"}},
                "ingress": [{"from": [{
                    "namespaceSelector": {"matchLabels": {"team": "y"}},
                    "podSelector": {"matchLabels": {"app": "a"}},
                }]}],
            }),
        )];
        scene.enforce().await;
        let (to, from) = (bound(&b, 53), bound(&a, 0));
        let say = || heard(&to, || from.send_to(b"hello", (v4(&b), 53)).map(drop)).is_some();
        assert!(!say());
        scene.namespace("y", [("team".to_owned(), "y".to_owned())].into());
        scene.enforce().await;
        assert!(say(), "the namespace has the label now");
        scene.relabel("y", "a", labels("other"));
        scene.enforce().await;
        assert!(!say(), "the peer has another label now");
        scene.relabel("x", "b", labels("other"));
        scene.enforce().await;
        assert!(say(), "nothing selects the pod now");
    });
}

#[test]
fn only_the_nodes_own_probes_reach_an_isolated_pod() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        scene.namespace("x", Default::default());
        let b = scene.pod("x", "b", labels("b")).await;
        let server = listen(&b, 80);
        scene.policies = vec![policy(
            "x",
            "all",
            json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
        )];
        scene.enforce().await;
        let to = (v4(&b), 80).into();
        TcpStream::connect_timeout(&to, NEVER).unwrap_err();
        let mut probe = marked(to).unwrap();
        let (mut served, peer) = server.accept().unwrap();
        assert_eq!(peer.ip(), b.gateway);
        say(&mut probe, &mut served).unwrap();
        // A change of policies does not disturb a probe that is under way.
        scene.policies.push(policy("x", "more", json!({"podSelector": {}})));
        scene.enforce().await;
        say(&mut probe, &mut served).unwrap();
        // The node is no way out for the pod either.
        inside(&b, || ping(Ipv4Addr::new(10, 42, 0, 1))).unwrap_err();
    });
}

#[test]
fn an_address_brings_nothing_of_its_last_pod_along() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        scene.namespace("x", Default::default());
        let old = scene.pod("x", "old", labels("friend")).await;
        scene.policies = vec![policy(
            "x",
            "in",
            json!({
                "podSelector": {"matchLabels": {"app": "b"}},
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}],
            }),
        )];
        scene.enforce().await;
        let address = old.address.to_string();
        assert!(sh("nft list ruleset").contains(&address));
        // Not even the API has to have heard of it.
        scene.network.detach("x-old").await.unwrap();
        assert!(!sh("nft list ruleset").contains(&address));
        // A plan from before is no way back.
        scene.enforce_stale(&[("x-old", old.address)]).await;
        assert!(!sh("nft list ruleset").contains(&address));
        let other = scene.pod("x", "new", labels("enemy")).await;
        assert_ne!(other.address, old.address, "the address rests");
    });
}

#[test]
fn updates_under_a_flood_leak_nothing_and_lose_nothing() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        let mut random = Random::new(seed());
        let flood = Flood::begin(&mut scene, &mut random).await;
        let updates = rounds(60, 5000);
        for _ in 0..updates {
            flood_update(&mut scene, &mut random);
            scene.enforce().await;
            flood.watch.check();
        }
        println!("{updates} updates under {} questions", flood.end());
    });
}

#[test]
fn restarts_under_a_flood_leak_nothing_and_lose_nothing() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        let mut random = Random::new(seed() + 1);
        let flood = Flood::begin(&mut scene, &mut random).await;
        let restarts = rounds(5, 200);
        for _ in 0..restarts {
            scene = scene.restart().await;
            flood_update(&mut scene, &mut random);
            scene.enforce().await;
            flood.watch.check();
        }
        println!("{restarts} restarts under {} questions", flood.end());
    });
}

/// What a start writes again was right already: ranges of addresses are not emptied for it.
#[test]
fn a_start_loses_nothing_that_blocks_of_addresses_allow() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        let mut random = Random::new(seed());
        let flood = Flood::begin(&mut scene, &mut random).await;
        let from = json!([{"ipBlock": {"cidr": "10.42.0.0/16", "except": ["10.42.9.0/24"]}}]);
        let spec = json!({
            "podSelector": {"matchLabels": {"app": "allowed"}}, "ingress": [{"from": from}],
        });
        let denied =
            policy("x", "denied", json!({"podSelector": {"matchLabels": {"app": "denied"}}}));
        scene.policies = vec![denied, policy("y", "block", spec)];
        scene.enforce().await;
        for _ in 0..rounds(10, 200) {
            scene = scene.restart().await;
            scene.enforce().await;
            flood.watch.check();
        }
        println!("{} questions", flood.end());
    });
}

pub(super) fn labels(app: &str) -> crate::net::policy::Labels {
    [("app".to_owned(), app.to_owned())].into()
}

/// What was sent, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Watch {
    asked: AtomicUsize,
    lost: AtomicUsize,
    leaked: AtomicUsize,
    /// Nobody asks any more; then nobody answers.
    is_over: AtomicBool,
    is_silent: AtomicBool,
}

impl Watch {
    pub(super) fn check(&self) {
        assert_eq!(self.leaked.load(Ordering::SeqCst), 0, "denied packets arrived: {self:?}");
        assert_eq!(self.lost.load(Ordering::SeqCst), 0, "allowed packets were lost: {self:?}");
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::SeqCst)
    }
}

/// A client that is denied one server and allowed another, and never stops asking both.
pub(super) struct Flood {
    pub(super) watch: Arc<Watch>,
    asking: Option<thread::JoinHandle<()>>,
    others: Vec<thread::JoinHandle<()>>,
}

impl Flood {
    pub(super) async fn begin(scene: &mut Scene, random: &mut Random) -> Flood {
        // The client asks from a new port each time, and a pod has only so many flows at once (`limits`).
        for timeout in ["udp_timeout", "udp_timeout_stream"] {
            sh(&format!("echo 1 > /proc/sys/net/netfilter/nf_conntrack_{timeout}"));
        }
        for namespace in ["x", "y", "z"] {
            scene.namespace(namespace, random.labels());
        }
        let client = scene.pod("x", "client", labels("client")).await;
        let denied = scene.pod("x", "denied", labels("denied")).await;
        let allowed = scene.pod("y", "allowed", labels("allowed")).await;
        scene.pod("z", "other", labels("other")).await;
        flood_update(scene, random);
        scene.enforce().await;

        let watch = Arc::new(Watch::default());
        let (deaf, echo) = (bound(&denied, 80), bound(&allowed, 80));
        for socket in [&deaf, &echo] {
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        }
        let targets = [(v4(&denied), 80), (v4(&allowed), 80)];
        let listen = Arc::clone(&watch);
        let listening = thread::spawn(move || {
            while !listen.is_silent() {
                if deaf.recv(&mut [0; 8]).is_ok() {
                    listen.leaked.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        let answer = Arc::clone(&watch);
        let answering = thread::spawn(move || {
            while !answer.is_silent() {
                if let Ok((_, from)) = echo.recv_from(&mut [0; 8]) {
                    echo.send_to(b"answer", from).ok();
                }
            }
        });
        let ask = Arc::clone(&watch);
        let asking = thread::spawn(move || {
            while !ask.is_over() {
                // A new flow each time, so that rules decide and not conntrack.
                let socket = inside(&client, || UdpSocket::bind("0.0.0.0:0")).unwrap();
                socket.set_read_timeout(Some(ARRIVES)).unwrap();
                socket.send_to(b"denied", targets[0]).ok();
                let is_sent = socket.send_to(b"allowed", targets[1]).is_ok();
                if !is_sent || socket.recv(&mut [0; 8]).is_err() {
                    ask.lost.fetch_add(1, Ordering::SeqCst);
                }
                ask.asked.fetch_add(1, Ordering::SeqCst);
            }
        });
        Flood { watch, asking: Some(asking), others: vec![listening, answering] }
    }

    pub(super) fn end(mut self) -> usize {
        self.watch.is_over.store(true, Ordering::SeqCst);
        self.asking.take().unwrap().join().unwrap();
        self.watch.is_silent.store(true, Ordering::SeqCst);
        for thread in self.others.drain(..) {
            thread.join().unwrap();
        }
        self.watch.check();
        self.watch.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Flood {
    /// Also when the test has failed.
    fn drop(&mut self) {
        self.watch.is_over.store(true, Ordering::SeqCst);
        self.watch.is_silent.store(true, Ordering::SeqCst);
    }
}

/// Random policies under which the client is still denied one and allowed the other.
fn flood_update(scene: &mut Scene, random: &mut Random) {
    let denied = policy("x", "denied", json!({"podSelector": {"matchLabels": {"app": "denied"}}}));
    loop {
        scene.policies = random.several(5, Random::policy);
        scene.policies.push(denied.clone());
        let ask = |to| scene.allows("x-client", to, Protocol::Udp, 80);
        if !ask("x-denied") && ask("y-allowed") {
            return;
        }
    }
}

fn is_silent(from: &mut TcpStream, to: &mut TcpStream) -> bool {
    from.write_all(b"?").ok();
    to.set_read_timeout(Some(NEVER)).unwrap();
    !matches!(to.read(&mut [0; 1]), Ok(1))
}

/// D13: the node may connect to its pods, so who connects through the daemon is asked about here.
#[test]
fn a_proxy_is_denied_what_its_client_is_and_everything_before_policies_are_known() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        scene.namespace("x", Default::default());
        let web = scene.pod("x", "web", labels("web")).await;
        let friend = scene.pod("x", "friend", labels("friend")).await;
        let enemy = scene.pod("x", "enemy", labels("enemy")).await;
        let from = json!([{"podSelector": {"matchLabels": {"app": "friend"}}}]);
        let spec = json!({
            "podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": from}],
        });
        scene.policies = vec![policy("x", "friends", spec)];
        scene.enforce().await;
        let proxy = Pod {
            namespace: "kube-system".to_owned(),
            name: "joey-ingress".to_owned(),
            labels: Default::default(),
            addresses: Vec::new(),
            ports: Default::default(),
            nature: Nature::Daemon,
        };
        let permits = |scene: &Scene, source: IpAddr, destination: IpAddr| {
            let asked = Asked::Port(Protocol::Tcp, 80);
            scene.network.permits_through(Some(&proxy), Flow { source, destination, asked })
        };
        let outside = IpAddr::V4(OUTSIDE);
        for (source, is_permitted) in
            [(friend.address, true), (enemy.address, false), (outside, false)]
        {
            assert_eq!(permits(&scene, source, web.address), is_permitted, "{source}");
        }
        assert!(permits(&scene, outside, enemy.address), "nobody isolates it");

        let scene = scene.restart().await;
        for pod in [&web, &enemy] {
            assert!(!permits(&scene, friend.address, pod.address), "nothing is known yet");
        }
        scene.enforce().await;
        scene.network.policies_known(ARRIVES).await;
        assert!(permits(&scene, friend.address, web.address));
    });
}

/// D6: of the host's own addresses pods reach the doors that are open to them, where policies let them.
#[test]
fn pods_reach_the_hosts_open_doors_and_no_others() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        scene.namespace("x", Default::default());
        let pod = scene.pod("x", "a", labels("a")).await;
        let listeners = [80, 81].map(|port| std::net::TcpListener::bind((HOST, port)).unwrap());
        for listener in &listeners {
            listener.set_nonblocking(true).unwrap();
        }
        let reaches = |port| {
            let is_reached = inside(&pod, || connect((HOST, port))).is_ok();
            // A queue of callers that is full would refuse them, too.
            for listener in &listeners {
                while listener.accept().is_ok() {}
            }
            is_reached
        };
        assert!(!reaches(80) && !reaches(81));
        scene.network.open_doors([(Protocol::Tcp, 80)].into()).await.unwrap();
        assert!(reaches(80) && !reaches(81));
        sh("nft flush ruleset");
        eventually("the door is open again", || reaches(80) && !reaches(81));
        let spec = json!({"podSelector": {}, "policyTypes": ["Egress"]});
        scene.policies = vec![policy("x", "in", spec)];
        scene.enforce().await;
        assert!(!reaches(80), "policies decide of doors, too");
        scene.policies.clear();
        scene.enforce().await;
        scene.network.open_doors([(Protocol::Tcp, 81)].into()).await.unwrap();
        assert!(!reaches(80) && reaches(81));
    });
}
