//! The daemon is killed again and again while one pod asks two others, of which a policy denies one: what the rules say
//! holds at every moment of its life and of its absence.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cluster::Cluster;

const PODS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: NAME}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: a, image: toolbox, imagePullPolicy: Never, command: [/bin/sleep, infinity]}
---
";

const DENIED: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: denied}
spec:
  podSelector: {matchLabels: {app: denied}}
  policyTypes: [Ingress]
";

/// Concerns the same pods and changes nothing for the two that are asked.
const OTHER: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: other}
spec:
  podSelector: {matchLabels: {app: allowed}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{protocol: UDP, port: 80, endPort: PORT}]
";

const PORT: u16 = 80;
/// How long an answer may take; the machine has others to serve.
const ARRIVES: Duration = Duration::from_secs(10);

/// How often the daemon is killed: more with `JOEY_TEST_LONG=1`.
fn kills() -> usize {
    let is_long = std::env::var_os("JOEY_TEST_LONG").is_some_and(|value| value == "1");
    if is_long { 200 } else { 12 }
}

/// What came of the questions so far.
#[derive(Debug, Default)]
struct Seen {
    asked: AtomicUsize,
    lost: AtomicUsize,
    leaked: AtomicUsize,
    is_over: AtomicBool,
    is_silent: AtomicBool,
}

impl Seen {
    fn check(&self, when: &str) {
        assert_eq!(self.leaked.load(Ordering::SeqCst), 0, "{when}: denied arrived: {self:?}");
        assert_eq!(self.lost.load(Ordering::SeqCst), 0, "{when}: allowed was lost: {self:?}");
    }
}

/// A thread in the network namespace of a pod.
fn within(netns: PathBuf, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let file = File::open(netns).expect("the pod's namespace is pinned");
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).expect("it can be entered");
        work();
    })
}

fn bound(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("nobody has the port");
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket waits");
    socket
}

#[test]
fn a_daemon_that_is_killed_under_a_flood_lets_nothing_through_and_loses_nothing() {
    let mut cluster = Cluster::start("killed");
    let names = ["client", "denied", "allowed"];
    cluster.apply(&names.map(|name| PODS.replace("NAME", name)).concat()).ok();
    names.iter().for_each(|name| cluster.wait_running(name));
    let at = |name: &str| -> SocketAddr {
        let address: Ipv4Addr =
            cluster.value(&format!("pod/{name}"), "{.status.podIP}").parse().expect("an address");
        (address, PORT).into()
    };
    let netns = |name: &str| {
        let uid = cluster.value(&format!("pod/{name}"), "{.metadata.uid}");
        cluster.run_dir().join("netns").join(uid)
    };
    let [denied, allowed] = [at("denied"), at("allowed")];
    let places = names.map(netns);
    cluster.apply(&[DENIED, "---\n", &OTHER.replace("PORT", "80")].concat()).ok();
    for policy in ["networkpolicy/denied", "networkpolicy/other"] {
        crate::policy::wait_in_force(&mut cluster, policy);
    }

    // Each question is a new flow, so that rules decide and not connection tracking, which must forget them quickly: a
    // pod has only so many at once.
    for timeout in ["udp_timeout", "udp_timeout_stream"] {
        let path = format!("/proc/sys/net/netfilter/nf_conntrack_{timeout}");
        std::fs::write(path, "1").expect("the namespace is the test's");
    }
    let seen = Arc::new(Seen::default());
    let [asks, hears, answers] = [seen.clone(), seen.clone(), seen.clone()];
    // Nobody answers the first question before there is a socket.
    let all_listen = Arc::new(Barrier::new(3));
    let [starts, deaf_listens, echo_listens] = [(); 3].map(|()| all_listen.clone());
    let [client, deaf, echo] = places;
    let listening = within(deaf, move || {
        let socket = bound(PORT);
        deaf_listens.wait();
        while !hears.is_silent.load(Ordering::SeqCst) {
            if socket.recv(&mut [0; 8]).is_ok() {
                hears.leaked.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let answering = within(echo, move || {
        let socket = bound(PORT);
        echo_listens.wait();
        while !answers.is_silent.load(Ordering::SeqCst) {
            if let Ok((_, from)) = socket.recv_from(&mut [0; 8]) {
                socket.send_to(b"answer", from).ok();
            }
        }
    });
    let asking = within(client, move || {
        starts.wait();
        while !asks.is_over.load(Ordering::SeqCst) {
            let socket = bound(0);
            socket.set_read_timeout(Some(ARRIVES)).expect("a socket waits");
            socket.send_to(b"denied", denied).ok();
            let is_sent = socket.send_to(b"allowed", allowed).is_ok();
            if !is_sent || socket.recv(&mut [0; 8]).is_err() {
                asks.lost.fetch_add(1, Ordering::SeqCst);
            }
            asks.asked.fetch_add(1, Ordering::SeqCst);
        }
    });

    for number in 0..kills() {
        // A change is under way when it dies: the next daemon finds half of one, or none.
        let policy = OTHER.replace("PORT", &(81 + number).to_string());
        cluster.apply(&policy).ok();
        cluster.kill_daemon();
        seen.check("it is dead");
        let before = seen.asked.load(Ordering::SeqCst);
        cluster.wait_for("questions are asked while it is dead", |_| {
            seen.asked.load(Ordering::SeqCst) > before + 5
        });
        cluster.start_daemon();
        seen.check("it is back");
        crate::policy::wait_in_force(&mut cluster, "networkpolicy/other");
        seen.check("it follows the API again");
    }
    seen.is_over.store(true, Ordering::SeqCst);
    asking.join().expect("the client ends");
    seen.is_silent.store(true, Ordering::SeqCst);
    listening.join().expect("the pod that hears nothing ends");
    answering.join().expect("the pod that answers ends");
    seen.check("all is over");
    println!("{} deaths under {} questions", kills(), seen.asked.load(Ordering::SeqCst));
    cluster.finish();
}
