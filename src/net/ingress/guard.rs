//! Asks the NetworkPolicies in force before a request is passed on, and again when they allow less (security D13).
//!
//! Of the proxy the kernel's rules know nothing but its mark, which they let pass: the question is put here, for the client
//! itself. Policies know the proxy as a pod of `kube-system` labelled `app.kubernetes.io/name: joey-ingress`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use tokio::sync::watch;

use super::leave::Verdict;
use crate::net::policy::{Asked, Flow, Labels, Nature, Pod};
use crate::net::{Network, Protocol};

const NAMESPACE: &str = "kube-system";
const LABEL: (&str, &str) = ("app.kubernetes.io/name", "joey-ingress");

/// The policies of this host's network.
pub struct Guard {
    network: Network,
    proxy: Pod,
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
        Guard { network, proxy }
    }
}

impl Verdict for Guard {
    fn permits(&self, client: IpAddr, pod: SocketAddr) -> bool {
        let asked = Asked::Port(Protocol::Tcp, pod.port());
        let flow = Flow { source: client, destination: pod.ip(), asked };
        self.network.permits_through(&self.proxy, flow)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.network.tightened()
    }
}
