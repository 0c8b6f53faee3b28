//! Asks the NetworkPolicies in force before a request is passed on, and again when they allow less (security D13).
//!
//! Of the proxy the kernel's rules know nothing but its mark, which they let pass: the question is put here, for the client
//! itself. Policies know the proxy as a pod of `kube-system` labelled `app.kubernetes.io/name: joey-ingress`.
//!
//! An answer takes a walk over pods and policies, and is the same until one of them changes: it is kept so long, so that a
//! request costs the same however many there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::leave::Verdict;
use crate::net::policy::{Asked, Flow, Labels, Nature, Pod};
use crate::net::{InForce, Network, Protocol};

const NAMESPACE: &str = "kube-system";
const LABEL: (&str, &str) = ("app.kubernetes.io/name", "joey-ingress");

/// Answers kept at most; with more, all are forgotten.
const MOST: usize = 8192;

/// The policies of this host's network.
pub struct Guard {
    network: Network,
    proxy: Pod,
    /// Short sections; nothing is asked in them.
    known: Mutex<Known>,
}

/// What was answered since anything has changed.
struct Known {
    in_force: watch::Receiver<Arc<InForce>>,
    leases: watch::Receiver<Arc<BTreeMap<String, IpAddr>>>,
    /// How often everything was forgotten.
    times: u64,
    answers: HashMap<(IpAddr, SocketAddr), bool>,
}

impl Known {
    fn refresh(&mut self) {
        // Nobody is left to change it when the network has ended.
        let has_changed = self.in_force.has_changed().unwrap_or(false)
            || self.leases.has_changed().unwrap_or(false);
        if has_changed || self.answers.len() >= MOST {
            self.in_force.mark_unchanged();
            self.leases.mark_unchanged();
            self.times += 1;
            self.answers.clear();
        }
    }
}

impl Guard {
    pub fn new(network: Network) -> Guard {
        let labels = Labels::from([(LABEL.0.to_owned(), LABEL.1.to_owned())]);
        let proxy = Pod {
            namespace: NAMESPACE.to_owned(),
            name: "joey-ingress".to_owned(),
            labels,
            addresses: Vec::new(),
            ports: BTreeSet::new(),
            nature: Nature::Daemon,
        };
        let (in_force, leases) = network.grounds();
        let known = Known { in_force, leases, times: 0, answers: HashMap::new() };
        Guard { network, proxy, known: Mutex::new(known) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.refresh();
        known
    }
}

impl Verdict for Guard {
    fn permits(&self, client: IpAddr, pod: SocketAddr) -> bool {
        let known = self.known();
        if let Some(answer) = known.answers.get(&(client, pod)) {
            return *answer;
        }
        let before = known.times;
        drop(known);
        let asked = Asked::Port(Protocol::Tcp, pod.port());
        let flow = Flow { source: client, destination: pod.ip(), asked };
        let answer = self.network.permits_through(Some(&self.proxy), flow);
        let mut known = self.known();
        // What was forgotten meanwhile may have been what this was answered from.
        if known.times == before {
            known.answers.insert((client, pod), answer);
        }
        answer
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.network.tightened()
    }
}
