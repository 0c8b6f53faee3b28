//! NetworkPolicies: what they say, and who is concerned.
//!
//! [`World`] holds all that a decision depends on. `compile` turns it into rules, `explain` into a sentence for people;
//! both follow the statements of `docs/network-policy.md`. Nothing here knows nftables, sockets or the API's transport.
//!
//! ```text
//! read     NetworkPolicy object ──▶ Policy                  what cannot be read allows nothing
//! compile  World ──▶ Plan: a chain per way of being isolated, sets of addresses, a verdict per pod and direction
//! render   Plan ──▶ PartPlan, for the owner of the table
//! explain  World, Flow ──▶ which policy and rule decided
//! denial   World, a packet that the rules logged ──▶ who was denied what, for `log` to show
//! ```

mod compile;
pub mod denial;
mod explain;
pub mod log;
mod peer;
mod plan;
mod ranges;
mod read;
mod render;
mod sync;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

pub use self::compile::compile;
pub use self::explain::{Asked, Explanation, Flow, Side, explain, explain_through};
pub use self::plan::Plan;
pub use self::render::{OPEN, VERDICTS};
pub use self::sync::{dns, run};
use super::Protocol;
use crate::model::cidr::Cidr;
use crate::model::selector::LabelSelector;

pub type Labels = BTreeMap<String, String>;

/// Seen from the pod that a policy selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    Egress,
    Ingress,
}

/// A NetworkPolicy as it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub namespace: String,
    pub name: String,
    pub selects: LabelSelector,
    /// `None`: it says nothing about this direction. No rules: nothing is allowed.
    pub ingress: Option<Vec<Rule>>,
    pub egress: Option<Vec<Rule>>,
}

impl Policy {
    /// The rules of a direction, if the policy isolates in it.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Egress => self.egress.as_deref(),
            Direction::Ingress => self.ingress.as_deref(),
        }
    }

    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// Allows what comes from (goes to) one of `peers` on one of `ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// `None`: anybody.
    pub peers: Option<Vec<Peer>>,
    /// `None`: everything.
    pub ports: Option<Vec<Port>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    Pods { within: Within, pods: LabelSelector },
    Block { cidr: Cidr, except: Vec<Cidr> },
}

/// Where a peer's pods live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Within {
    Namespace(String),
    Namespaces(LabelSelector),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub protocol: Protocol,
    pub number: PortNumber,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortNumber {
    Any,
    /// Both included.
    Between(u16, u16),
    /// As the pod that is connected to names it.
    Named(String),
}

/// A container port with a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedPort {
    pub name: String,
    pub protocol: Protocol,
    /// As policies speak of it.
    pub number: u16,
    /// Where packets go: another one only when the daemon had to leave `number` to somebody else.
    pub listens_at: u16,
}

impl NamedPort {
    pub fn new(name: &str, protocol: Protocol, number: u16) -> NamedPort {
        NamedPort { name: name.to_owned(), protocol, number, listens_at: number }
    }
}

/// A pod with addresses of its own; those in the host's network are none, and no policy concerns them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub labels: Labels,
    pub addresses: Vec<IpAddr>,
    pub ports: BTreeSet<NamedPort>,
    pub nature: Nature,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nature {
    Pod,
    /// The daemon serves it under a pod's name, as with DNS, at an address that other listeners share: it is a
    /// destination at its own ports and nothing more, never a source and never isolated.
    Daemon,
}

/// Everything that decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct World {
    /// By namespace: a policy concerns pods of its own.
    pub policies: BTreeMap<String, Vec<Arc<Policy>>>,
    /// Labels by name. A pod whose namespace is missing here is nobody's peer and gets no verdict: isolated.
    pub namespaces: BTreeMap<String, Labels>,
    pub pods: Vec<Pod>,
}

/// Policies as a [`World`] has them, in the same order.
pub fn by_namespace(
    policies: impl IntoIterator<Item = Arc<Policy>>,
) -> BTreeMap<String, Vec<Arc<Policy>>> {
    let mut all: BTreeMap<String, Vec<Arc<Policy>>> = BTreeMap::new();
    for policy in policies {
        match all.get_mut(&policy.namespace) {
            Some(others) => others.push(policy),
            None => drop(all.insert(policy.namespace.clone(), vec![policy])),
        }
    }
    all
}

impl World {
    /// The pod behind an address.
    pub fn pod_at(&self, address: IpAddr) -> Option<&Pod> {
        self.at(address).find(|pod| pod.nature == Nature::Pod)
    }

    /// What the daemon serves to packets for `number`, and the number that policies call it by.
    pub fn served_at(
        &self,
        address: IpAddr,
        protocol: Protocol,
        number: u16,
    ) -> Option<(&Pod, u16)> {
        let serves = |port: &&NamedPort| port.protocol == protocol && port.listens_at == number;
        self.at(address)
            .filter(|pod| pod.nature == Nature::Daemon)
            .find_map(|pod| Some((pod, pod.ports.iter().find(serves)?.number)))
    }

    fn at(&self, address: IpAddr) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(move |pod| {
            pod.addresses.contains(&address) && self.namespaces.contains_key(&pod.namespace)
        })
    }

    /// Policies that isolate `pod` in `direction`, in order.
    pub fn isolating<'a>(
        &'a self,
        pod: &'a Pod,
        direction: Direction,
    ) -> impl Iterator<Item = (&'a Policy, &'a [Rule])> {
        let policies = self.policies.get(&pod.namespace).into_iter().flatten();
        policies.filter_map(move |policy| {
            let selects = pod.nature == Nature::Pod && policy.selects.matches(&pod.labels);
            policy.rules(direction).filter(|_| selects).map(|rules| (&**policy, rules))
        })
    }
}

#[cfg(test)]
pub mod tests;
