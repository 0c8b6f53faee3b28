//! The names of the cluster as an immutable snapshot (pure).
//!
//! Names are lower-case text without the last dot. Every name has a node, and so has every name above one: what has a node
//! but not the type that was asked for exists without data, everything else does not exist (RFC 2308, RFC 8020).

mod shards;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use self::shards::Shards;
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

/// One that is made from another shares what is the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    domain: String,
    /// Their reverse names and pod records are ours.
    ranges: Ranges,
    /// Names that are there whatever the cluster holds.
    fixed: Arc<BTreeMap<String, Node>>,
    /// By Service, as `NAME.NAMESPACE`.
    services: Shards<String, Names>,
    /// How many Services each has.
    namespaces: BTreeMap<String, usize>,
    reverse: Shards<IpAddr, BTreeSet<String>>,
}

/// What a Service's name has at and below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    /// By what stands before the Service's own name; nothing: itself.
    nodes: BTreeMap<String, Node>,
    reverse: BTreeMap<IpAddr, BTreeSet<String>>,
}

/// The cluster's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
        let domain = domain.trim_end_matches('.').to_ascii_lowercase();
        let version = Node { text: Some(VERSION), ..Node::default() };
        let fixed = [
            (domain.clone(), Node::default()),
            (format!("svc.{domain}"), Node::default()),
            (format!("pod.{domain}"), Node::default()),
            (format!("dns-version.{domain}"), version),
        ];
        Zone {
            domain,
            ranges,
            fixed: Arc::new(fixed.into()),
            services: Shards::default(),
            namespaces: BTreeMap::new(),
            reverse: Shards::default(),
        }
    }

    /// The names for `facts`; `withheld` addresses have none.
    pub fn of(empty: &Zone, facts: &Facts, withheld: &BTreeSet<IpAddr>) -> Zone {
        let names = facts.services.keys().cloned().collect();
        Zone::empty(&empty.domain, empty.ranges).with(&names, facts, withheld)
    }

    /// The same zone, with the Services of these names as `facts` have them, if they do.
    pub fn with(
        &self,
        names: &BTreeSet<ServiceName>,
        facts: &Facts,
        withheld: &BTreeSet<IpAddr>,
    ) -> Zone {
        let mut zone = self.clone();
        for name in names {
            let host = format!("{}.{}.svc.{}", name.name, name.namespace, zone.domain);
            let own = facts.services.get(name).map(|service| {
                let slices = facts.slices.get(name).into_iter().flat_map(BTreeMap::values);
                Names::of(&host, service, slices, withheld)
            });
            zone.put(name, own);
        }
        zone
    }

    fn put(&mut self, name: &ServiceName, names: Option<Names>) {
        let key = format!("{}.{}", name.name, name.namespace);
        let new = names.as_ref().map(|names| names.reverse.clone());
        let old = match names {
            Some(names) => self.services.insert(key, names),
            None => self.services.remove(&key),
        };
        let of_namespace = self.namespaces.entry(name.namespace.clone()).or_default();
        *of_namespace += usize::from(new.is_some());
        *of_namespace -= usize::from(old.is_some());
        if *of_namespace == 0 {
            self.namespaces.remove(&name.namespace);
        }
        for (address, hosts) in old.map(|names| names.reverse).unwrap_or_default() {
            let mut left = self.reverse.remove(&address).unwrap_or_default();
            left.retain(|host| !hosts.contains(host));
            if !left.is_empty() {
                self.reverse.insert(address, left);
            }
        }
        for (address, hosts) in new.unwrap_or_default() {
            let mut all = self.reverse.remove(&address).unwrap_or_default();
            all.extend(hosts);
            self.reverse.insert(address, all);
        }
    }

    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// `name` in lower case without the last dot.
    pub fn find(&self, name: &str) -> Found {
        if let Some(node) = self.fixed.get(name) {
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
        match self.service(below).or_else(|| self.pod(below)) {
            Some(node) => Found::Node(node),
            None => Found::Missing,
        }
    }

    /// `NAME.NAMESPACE.svc` and what is below, or `NAMESPACE.svc`.
    fn service(&self, below: &str) -> Option<Node> {
        let rest = below.strip_suffix(".svc")?;
        let Some((before, _)) = rest.rsplit_once('.') else {
            return self.namespaces.contains_key(rest).then(Node::default);
        };
        let (own, service) = match before.rfind('.') {
            Some(dot) => (&rest[..dot], &rest[dot + 1..]),
            None => ("", rest),
        };
        self.services.get(service)?.nodes.get(own).cloned()
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

    /// Whether a headless Service gives the address away.
    pub fn gives(&self, address: IpAddr) -> bool {
        !self.ranges.services.contains(address) && self.reverse.get(&address).is_some()
    }
}

impl Names {
    /// `host` is the whole name of the Service.
    fn of<'a>(
        host: &str,
        service: &Service,
        slices: impl Iterator<Item = &'a Slice>,
        withheld: &BTreeSet<IpAddr>,
    ) -> Names {
        let mut names = Names::default();
        names.node("");
        if let Some(target) = &service.external_name {
            let target = target.trim_end_matches('.').to_ascii_lowercase();
            names.node("").alias = Some(target);
        } else if service.addresses.is_empty() {
            let serves =
                |endpoint: &&Endpoint| endpoint.is_ready && !withheld.contains(&endpoint.address);
            for slice in slices {
                for endpoint in slice.endpoints.iter().filter(serves) {
                    names.endpoint(host, slice, endpoint);
                }
            }
        } else {
            names.node("").addresses.extend(&service.addresses);
            for address in &service.addresses {
                names.reverse.entry(*address).or_default().insert(host.to_owned());
            }
            for port in &service.ports {
                names.service(&port.name, port.protocol, (host.to_owned(), port.port));
            }
        }
        names
    }

    fn endpoint(&mut self, host: &str, slice: &Slice, endpoint: &Endpoint) {
        let label = endpoint
            .hostname
            .as_ref()
            .map_or_else(|| dashed(endpoint.address), |hostname| hostname.to_ascii_lowercase());
        let own = format!("{label}.{host}");
        self.node("").addresses.insert(endpoint.address);
        self.node(&label).addresses.insert(endpoint.address);
        self.reverse.entry(endpoint.address).or_default().insert(own.clone());
        for port in &slice.ports {
            self.service(&port.name, port.protocol, (own.clone(), port.port));
        }
    }

    fn service(&mut self, port: &str, protocol: Protocol, target: (String, u16)) {
        if !port.is_empty() {
            let name = format!("_{}._{}", port.to_ascii_lowercase(), protocol.word());
            self.node(&name).services.insert(target.clone());
        }
        self.node("").services.insert(target);
    }

    /// The node, made with all above it.
    fn node(&mut self, name: &str) -> &mut Node {
        let mut above = name;
        while let Some((_, rest)) = above.split_once('.') {
            self.nodes.entry(rest.to_owned()).or_default();
            above = rest;
        }
        self.nodes.entry(name.to_owned()).or_default()
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
