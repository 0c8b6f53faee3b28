//! A denied packet as people are told of it (pure).

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Asked, Direction, Flow, Side, World, explain};
use crate::net::packet::{Head, Speaks};

/// Who was denied what, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    pub direction: Word,
    pub source: End,
    pub destination: End,
    /// `TCP`, `UDP`, `SCTP`, `ICMP echo`, or IANA's number of another protocol.
    pub protocol: String,
    /// Those that isolate the pod and do not allow it, as `namespace/name`; none when they have changed since.
    pub policies: Vec<String>,
}

/// Seen from the isolated pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    Egress,
    Ingress,
}

impl Word {
    pub fn text(self) -> &'static str {
        match self {
            Word::Egress => "egress",
            Word::Ingress => "ingress",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub address: IpAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `namespace/name`, when it is a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

impl Denial {
    /// What `world` says of a packet that the rules denied in `direction`.
    pub fn of(world: &World, direction: Direction, head: &Head) -> Denial {
        let (asked, ports, protocol) = match head.speaks {
            Speaks::Ports { protocol, source, destination } => (
                Asked::Port(protocol, destination),
                Some((source, destination)),
                protocol.word().to_ascii_uppercase(),
            ),
            Speaks::Echo => (Asked::Echo, None, "ICMP echo".to_owned()),
            Speaks::Other(number) => (Asked::Other, None, format!("protocol {number}")),
        };
        let flow = Flow { source: head.source, destination: head.destination, asked };
        let found = explain(world, flow);
        let (word, side) = match direction {
            Direction::Egress => (Word::Egress, found.egress),
            Direction::Ingress => (Word::Ingress, found.ingress),
        };
        let policies = match side {
            Side::Denied { policies } => policies,
            Side::NoPod | Side::Open | Side::Allowed { .. } => Vec::new(),
        };
        let end = |address, port| End {
            address,
            port,
            pod: world.pod_at(address).map(|pod| format!("{}/{}", pod.namespace, pod.name)),
        };
        Denial {
            direction: word,
            source: end(head.source, ports.map(|(source, _)| source)),
            destination: end(head.destination, ports.map(|(_, destination)| destination)),
            protocol,
            policies,
        }
    }

    /// The end that is isolated.
    pub fn isolated(&self) -> &End {
        match self.direction {
            Word::Egress => &self.source,
            Word::Ingress => &self.destination,
        }
    }

    /// As an Event on the isolated pod says it.
    pub fn sentence(&self) -> String {
        let by = match self.policies.as_slice() {
            [] => "No NetworkPolicy allowed".to_owned(),
            [one] => format!("NetworkPolicy {one} denies"),
            several => format!("NetworkPolicies {} deny", several.join(", ")),
        };
        let port = self.destination.port.map_or_else(String::new, |port| format!(" {port}"));
        let (word, other) = match self.direction {
            Word::Egress => ("to", &self.destination),
            Word::Ingress => ("from", &self.source),
        };
        let other = match &other.pod {
            Some(pod) => format!("{pod} ({})", other.address),
            None => other.address.to_string(),
        };
        format!("{by} {}{port} {word} {other} ({})", self.protocol, self.direction.text())
    }
}

/// One line of a log.
impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Denial { direction, source, destination, protocol, policies } = self;
        let policies = match policies.is_empty() {
            true => "policies that have changed since".to_owned(),
            false => policies.join(", "),
        };
        let direction = direction.text();
        write!(f, "{direction} {source} -> {destination} {protocol} denied by {policies}")
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.port) {
            (address, None) => write!(f, "{address}")?,
            (IpAddr::V4(address), Some(port)) => write!(f, "{address}:{port}")?,
            (IpAddr::V6(address), Some(port)) => write!(f, "[{address}]:{port}")?,
        }
        match &self.pod {
            Some(pod) => write!(f, " ({pod})"),
            None => Ok(()),
        }
    }
}

/// Whom to tell when the flow is denied for the first time: what stays the same when a client tries again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trial {
    direction: Word,
    source: IpAddr,
    destination: IpAddr,
    port: Option<u16>,
    protocol: String,
}

impl From<&Denial> for Trial {
    fn from(denial: &Denial) -> Trial {
        Trial {
            direction: denial.direction,
            source: denial.source.address,
            destination: denial.destination.address,
            port: denial.destination.port,
            protocol: denial.protocol.clone(),
        }
    }
}
