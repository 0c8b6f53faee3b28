//! Whom peers and ports of a rule mean (pure).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Labels, NamedPort, Peer, Pod, Port, PortNumber, Within};
use crate::net::Protocol;

impl Peer {
    /// Whether the selectors mean `pod`; a block means addresses, never pods.
    pub fn selects(&self, pod: &Pod, namespaces: &BTreeMap<String, Labels>) -> bool {
        let Peer::Pods { within, pods } = self else {
            return false;
        };
        let is_within = match within {
            Within::Namespace(name) => *name == pod.namespace,
            Within::Namespaces(selector) => {
                namespaces.get(&pod.namespace).is_some_and(|labels| selector.matches(labels))
            }
        };
        is_within && namespaces.contains_key(&pod.namespace) && pods.matches(&pod.labels)
    }

    /// Whether a block means `address`; an exception is a hole in this block only.
    pub fn covers(&self, address: IpAddr) -> bool {
        match self {
            Peer::Block { cidr, except } => {
                cidr.contains(address) && !except.iter().any(|hole| hole.contains(address))
            }
            Peer::Pods { .. } => false,
        }
    }
}

impl Port {
    /// Whether it means `number` of the pod that serves `named`; what is no pod has no names.
    pub fn covers(&self, protocol: Protocol, number: u16, named: Option<&Pod>) -> bool {
        self.protocol == protocol
            && match &self.number {
                PortNumber::Any => true,
                PortNumber::Between(first, last) => (*first..=*last).contains(&number),
                PortNumber::Named(name) => named.is_some_and(|pod| {
                    let is_meant = |port: &NamedPort| {
                        port.name == *name && port.protocol == protocol && port.number == number
                    };
                    pod.ports.iter().any(is_meant)
                }),
            }
    }
}
