//! The names of the cluster as an immutable snapshot (pure).
//!
//! Names are lower-case text without the last dot. Every name has a node, and so has every name above one: what has a node
//! but not the type that was asked for exists without data, everything else does not exist (RFC 2308, RFC 8020).

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use super::super::Protocol;
use super::super::service::{Endpoint, Facts, Service, ServiceName, Slice};
use crate::model::cidr::Cidr;

/// The version of the specification, at `dns-version`.
const VERSION: &str = "1.1.0";

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    pub addresses: BTreeSet<IpAddr>,
    /// Target and port.
    pub services: BTreeSet<(String, u16)>,
    pub alias: Option<String>,
    pub text: Option<&'static str>,
}

#[derive(Debug, Clone)]
pub struct Zone {
    domain: String,
    /// Their reverse names and pod records are ours.
    ranges: Ranges,
    nodes: HashMap<String, Node>,
    reverse: HashMap<IpAddr, BTreeSet<String>>,
}

/// The cluster's addresses.
#[derive(Debug, Clone, Copy)]
pub struct Ranges {
    pub pods: Cidr,
    pub services: Cidr,
}

/// What the zone knows of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Node(Node),
    Pointers(BTreeSet<String>),
    /// Ours, and not there.
    Missing,
    /// Somebody else's.
    Foreign,
}

impl Zone {
    pub fn empty(domain: &str, ranges: Ranges) -> Zone {
        let mut zone = Zone {
            domain: domain.trim_end_matches('.').to_ascii_lowercase(),
            ranges,
            nodes: HashMap::new(),
            reverse: HashMap::new(),
        };
        let domain = zone.domain.clone();
        zone.nodes.insert(domain.clone(), Node::default());
        zone.node(&format!("svc.{domain}"));
        zone.node(&format!("pod.{domain}"));
        zone.node(&format!("dns-version.{domain}")).text = Some(VERSION);
        zone
    }

    /// The names for `facts`; `withheld` addresses have none.
    pub fn of(empty: &Zone, facts: &Facts, withheld: &BTreeSet<IpAddr>) -> Zone {
        let mut zone = Zone::empty(&empty.domain, empty.ranges);
        for (name, service) in &facts.services {
            let host = format!("{}.{}.svc.{}", name.name, name.namespace, zone.domain);
            if let Some(target) = &service.external_name {
                let target = target.trim_end_matches('.').to_ascii_lowercase();
                zone.node(&host).alias = Some(target);
            } else if service.addresses.is_empty() {
                zone.headless(&host, name, facts, withheld);
            } else {
                zone.with_address(&host, service);
            }
        }
        zone
    }

    fn with_address(&mut self, host: &str, service: &Service) {
        self.node(host).addresses.extend(&service.addresses);
        for address in &service.addresses {
            self.reverse.entry(*address).or_default().insert(host.to_owned());
        }
        for port in &service.ports {
            self.service(host, &port.name, port.protocol, (host.to_owned(), port.port));
        }
    }

    fn headless(
        &mut self,
        host: &str,
        name: &ServiceName,
        facts: &Facts,
        withheld: &BTreeSet<IpAddr>,
    ) {
        self.node(host);
        let slices = facts.slices.get(name);
        for slice in slices.into_iter().flat_map(|slices| slices.values()) {
            let serving =
                |endpoint: &&Endpoint| endpoint.is_ready && !withheld.contains(&endpoint.address);
            for endpoint in slice.endpoints.iter().filter(serving) {
                self.endpoint(host, slice, endpoint);
            }
        }
    }

    fn endpoint(&mut self, host: &str, slice: &Slice, endpoint: &Endpoint) {
        let label = endpoint
            .hostname
            .as_ref()
            .map_or_else(|| dashed(endpoint.address), |hostname| hostname.to_ascii_lowercase());
        let own = format!("{label}.{host}");
        self.node(host).addresses.insert(endpoint.address);
        self.node(&own).addresses.insert(endpoint.address);
        self.reverse.entry(endpoint.address).or_default().insert(own.clone());
        for port in &slice.ports {
            self.service(host, &port.name, port.protocol, (own.clone(), port.port));
        }
    }

    fn service(&mut self, host: &str, port: &str, protocol: Protocol, target: (String, u16)) {
        if !port.is_empty() {
            let name = format!("_{}._{}.{host}", port.to_ascii_lowercase(), protocol.word());
            self.node(&name).services.insert(target.clone());
        }
        self.node(host).services.insert(target);
    }

    /// The node of `name`, made with all above it.
    fn node(&mut self, name: &str) -> &mut Node {
        let mut above = name;
        while let Some((_, rest)) = above.split_once('.') {
            if self.nodes.contains_key(rest) {
                break;
            }
            self.nodes.insert(rest.to_owned(), Node::default());
            if rest == self.domain {
                break;
            }
            above = rest;
        }
        self.nodes.entry(name.to_owned()).or_default()
    }

    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// `name` in lower case without the last dot.
    pub fn find(&self, name: &str) -> Found {
        if let Some(node) = self.nodes.get(name) {
            return Found::Node(node.clone());
        }
        if let Some(address) = reverse_address(name) {
            return match self.reverse.get(&address) {
                Some(names) => Found::Pointers(names.clone()),
                None if self.ranges.pods.contains(address)
                    || self.ranges.services.contains(address) =>
                {
                    Found::Missing
                }
                None => Found::Foreign,
            };
        }
        let Some(below) = name.strip_suffix(&self.domain).and_then(|rest| rest.strip_suffix('.'))
        else {
            return Found::Foreign;
        };
        match self.pod(below) {
            Some(node) => Found::Node(node),
            None => Found::Missing,
        }
    }

    /// `10-42-0-5.NAMESPACE.pod`: says what it is asked, for addresses of pods.
    fn pod(&self, below: &str) -> Option<Node> {
        let rest = below.strip_suffix(".pod")?;
        let (host, namespace) = rest.split_once('.').unwrap_or(("", rest));
        if namespace.contains('.') {
            return None;
        }
        if host.is_empty() {
            return Some(Node::default());
        }
        let address: Ipv4Addr = host.replace('-', ".").parse().ok()?;
        let is_pod = self.ranges.pods.contains(address.into()) && dashed(address.into()) == host;
        is_pod.then(|| Node { addresses: [address.into()].into(), ..Node::default() })
    }

    /// Every address that a headless Service gives away.
    pub fn addresses_of_pods(&self) -> impl Iterator<Item = IpAddr> {
        self.reverse.keys().copied().filter(|address| !self.ranges.services.contains(*address))
    }
}

fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// Of `5.0.42.10.in-addr.arpa`.
fn reverse_address(name: &str) -> Option<IpAddr> {
    let labels: Vec<&str> = name.strip_suffix(".in-addr.arpa")?.split('.').rev().collect();
    (labels.len() == 4).then(|| labels.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4))?
}

#[cfg(test)]
pub mod tests;
