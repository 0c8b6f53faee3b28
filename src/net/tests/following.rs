//! Datagrams follow where they are led, beside the thread that changes the network: whoever changed it is answered when
//! they do, and nobody else waits.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::machine::*;
use super::services::{SERVICE, facts};
use super::*;
use crate::net::owner::{Command, Owner, PolicyOrder};
use crate::net::policy::tests::{Cluster, policy};
use crate::net::policy::{self, Labels, Nature, Pod};
use crate::net::service;

/// The owner of a network of which nobody else knows; what its own threads tell it, comes through the test's hands.
struct Held {
    asks: mpsc::Sender<Command>,
    told: mpsc::Receiver<Command>,
    _tells: mpsc::Sender<Command>,
}

type Answer<T> = oneshot::Receiver<Result<T, NetError>>;

impl Held {
    fn start() -> Held {
        let (tells, told) = mpsc::channel(64);
        let (asks, asked) = mpsc::channel(64);
        let owner = Owner::start(&config("abc123", "10.42.0.0/16"), tells.downgrade()).unwrap();
        std::thread::spawn(move || owner.serve(asked));
        Held { asks, told, _tells: tells }
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, NetError>>) -> Command,
    ) -> Answer<T> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(command(answer)).await.unwrap();
        answered
    }

    async fn attach(&self, pod: &str, ports: &[HostPort]) -> Attached {
        let (pod, ports) = (pod.to_owned(), ports.to_vec());
        done(self.ask(|answer| Command::Attach { pod, ports, answer }).await).await
    }

    async fn serve(&self, pods: &[&Attached]) -> Answer<()> {
        let plan = service::compile(&facts(pods, |_| {}), "here", &Default::default());
        self.ask(|answer| Command::Put { part: Part::Services, plan, answer }).await
    }

    /// Puts policies in force that shut the second of the pods, or nobody.
    async fn shut(&self, pods: &BTreeMap<String, Attached>, second: Option<&str>) {
        let pod = |(name, attached): (&String, &Attached)| Pod {
            namespace: "x".to_owned(),
            name: name.clone(),
            labels: Labels::from([("app".to_owned(), name.clone())]),
            addresses: vec![attached.address],
            ports: Default::default(),
            nature: Nature::Pod,
        };
        let shut = second.map(|name| {
            policy("x", "shut", json!({"podSelector": {"matchLabels": {"app": name}}}))
        });
        let cluster = Cluster {
            policies: shut.into_iter().collect(),
            namespaces: [("x".to_owned(), Labels::new())].into(),
            pods: pods.iter().map(pod).collect(),
        };
        let world = std::sync::Arc::new(cluster.world());
        let leases = pods.iter().map(|(name, attached)| (name.clone(), attached.address));
        let leases: BTreeMap<String, IpAddr> = leases.collect();
        let plan = policy::compile(&world).into();
        let order = PolicyOrder { plan, world, leases: leases.into() };
        done(self.ask(|answer| Command::PutPolicies { order, answer }).await).await;
    }
}

async fn done<T>(answer: Answer<T>) -> T {
    tokio::time::timeout(ARRIVES, answer).await.expect("answered in time").unwrap().unwrap()
}

/// Flows of datagrams that a pod answers and that were sent elsewhere.
fn translated(to: &Attached) -> usize {
    let mut socket = nfnetlink::open().unwrap();
    let is_one = |flow: &conntrack::Flow| {
        flow.protocol == 17 && flow.answered_by == v4(to) && flow.to != v4(to)
    };
    conntrack::those(&mut socket, is_one).unwrap().len()
}

#[test]
fn whoever_leads_datagrams_elsewhere_is_answered_when_they_follow_and_others_at_once() {
    on_a_host(|_| async {
        let mut held = Held::start();
        let mut pods = BTreeMap::new();
        for name in ["client", "shut", "old", "new"] {
            pods.insert(name.to_owned(), held.attach(name, &[]).await);
        }
        let on_host = [port(Protocol::Udp, 5353, 53)];
        pods.insert("leaving".to_owned(), held.attach("leaving", &on_host).await);
        held.shut(&pods, None).await;
        done(held.serve(&[&pods["old"]]).await).await;
        let ears: BTreeMap<&str, UdpSocket> =
            [("shut", 80), ("old", 8080), ("new", 8080), ("leaving", 53)]
                .map(|(name, port)| (name, bound(&pods[name], port)))
                .into();
        let (direct, client) = (bound(&pods["client"], 0), bound(&pods["client"], 0));
        let say = |to: (Ipv4Addr, u16)| client.send_to(b"hello", to).map(drop);
        let from_client = Some(pods["client"].address);
        let to_shut = (v4(&pods["shut"]), 80);
        assert_eq!(
            heard(&ears["shut"], || direct.send_to(b"hello", to_shut).map(drop)),
            from_client
        );
        assert_eq!(heard(&ears["old"], || say((SERVICE, 80))), from_client);
        assert_eq!(heard(&ears["leaving"], || say((HOST, 5353))), from_client);

        // The walk that ends the denied flow asks the owner for something, and is kept waiting.
        held.shut(&pods, Some("shut")).await;
        let (late, go_on) = loop {
            match tokio::time::timeout(ARRIVES, held.told.recv()).await.unwrap().unwrap() {
                Command::KeepOut { late, answer } => break (late, answer),
                _ => continue,
            }
        };
        let mut led = held.serve(&[&pods["new"]]).await;
        let pod = "leaving".to_owned();
        let mut left = held.ask(|answer| Command::Detach { pod, answer }).await;
        // After these in the queue of the owner, and before them answered.
        held.attach("another", &[]).await;
        assert!(led.try_recv().is_err() && left.try_recv().is_err(), "answered too early");
        assert_eq!(translated(&pods["old"]), 1);

        done(held.ask(|answer| Command::KeepOut { late, answer }).await).await;
        go_on.send(Ok(())).unwrap();
        done(led).await;
        assert_eq!(translated(&pods["old"]), 0);
        assert_eq!(heard(&ears["new"], || say((SERVICE, 80))), from_client, "the same socket");
        done(left).await;
        assert_eq!(translated(&pods["leaving"]), 0);
        // The port is the host's own until the next one comes.
        say((HOST, 5353)).unwrap();
        let next = held.attach("next", &on_host).await;
        pods.insert("next".to_owned(), next.clone());
        held.shut(&pods, Some("shut")).await;
        assert_eq!(heard(&bound(&next, 53), || say((HOST, 5353))), from_client);
    });
}

/// Whose walk is what it is, is known by what is to be ended.
#[test]
fn policies_at_start_end_no_datagrams_to_services() {
    on_a_host(|_| async {
        let network = network().await;
        let client = network.attach("client", &[]).await.unwrap();
        let old = network.attach("old", &[]).await.unwrap();
        let plan = service::compile(&facts(&[&old], |_| {}), "here", &Default::default());
        network.put(Part::Services, plan).await.unwrap();
        let (ear, from) = (bound(&old, 8080), bound(&client, 0));
        let say = || from.send_to(b"hello", (SERVICE, 80)).map(drop);
        assert_eq!(heard(&ear, say), Some(client.address));
        drop(network);
        let network = machine::network().await;
        network.put(Part::Policies, PartPlan::default()).await.unwrap();
        assert_eq!(translated(&old), 1);
    });
}

/// The daemon dies between the rules of a pod and the walk for what was on its way; the next one walks.
#[test]
fn datagrams_that_a_dead_daemon_has_not_led_follow_when_the_next_one_starts() {
    on_a_host(|host| async move {
        let network = network().await;
        let on_host = [port(Protocol::Udp, 5353, 53)];
        let pod = network.attach("pod", &on_host).await.unwrap();
        let ear = bound(&pod, 53);
        let from = outside(&host, || UdpSocket::bind((OUTSIDE, 0))).unwrap();
        let say = || from.send_to(b"hello", (HOST, 5353)).map(drop);
        // As it is before the pod comes: the flow goes to the host itself.
        let maps = ["host_ports_address", "host_ports_port"];
        let rules = maps.map(|map| sh(&format!("nft list map inet joey_abc123 {map}")));
        let nowhere = maps.map(|map| format!("flush map inet joey_abc123 {map};"));
        drop(network);
        sh(&format!("nft '{}'", nowhere.concat()));
        assert_eq!(heard(&ear, say), None);
        // The rules are there, and the daemon is not any more.
        let back = format!("printf '%s' '{}' | nft -f -", rules.concat());
        sh(&back);
        assert_eq!(heard(&ear, say), None, "what has begun goes on");

        let network = machine::network().await;
        // Whoever waits for the pod's ports waits for the walk.
        assert_eq!(network.attach("pod", &on_host).await.unwrap().address, pod.address);
        assert_eq!(heard(&ear, say), Some(IpAddr::V4(OUTSIDE)), "the same socket");
    });
}
