//! Services and their endpoints: what matters of them to packets and names, and who may answer (pure).
//!
//! What follows for packets is `compile`'s, what follows for names `dns::zone`'s.

mod compile;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

pub use self::compile::{Compilation, Compiled, compile};
use super::Protocol;

/// Who is who: a Service by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    pub namespace: String,
    pub name: String,
}

/// What matters of a Service to packets and names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// None when headless, or when it is only a name.
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
    /// How long a client stays with its endpoint after its last new connection (`sessionAffinity: ClientIP`).
    pub affinity: Option<Duration>,
    /// Only endpoints of this node, for callers within and from outside.
    pub is_internal_local: bool,
    pub is_external_local: bool,
    /// Whether the host's addresses serve its ports, too (a LoadBalancer that has got them).
    pub is_on_host: bool,
    /// Of `ExternalName`: the name that it stands for.
    pub external_name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty when it is the only one.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
}

/// Endpoints of a Service that share ports: an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub address: IpAddr,
    pub is_ready: bool,
    pub is_serving: bool,
    pub is_terminating: bool,
    pub hostname: Option<String>,
    pub node: Option<String>,
}

/// Everything that the rules and the names follow from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub services: BTreeMap<ServiceName, Service>,
    /// Of each Service, by the slice's name.
    pub slices: BTreeMap<ServiceName, BTreeMap<String, Slice>>,
}

impl Facts {
    /// Those of which `address` is an endpoint, ready or not.
    pub fn services_at(&self, address: IpAddr) -> BTreeSet<ServiceName> {
        let is_there = |slices: &BTreeMap<String, Slice>| {
            let mut endpoints = slices.values().flat_map(|slice| &slice.endpoints);
            endpoints.any(|endpoint| endpoint.address == address)
        };
        let slices = self.slices.iter().filter(|(_, slices)| is_there(slices));
        slices.map(|(name, _)| name.clone()).collect()
    }
}

/// Where a connection may end.
pub type Backend = (IpAddr, u16);

/// Who may answer a Service's port to callers within the cluster on node `node`, or anywhere.
pub fn backends(
    facts: &Facts,
    name: &ServiceName,
    protocol: Protocol,
    port: u16,
    node: Option<&str>,
) -> BTreeSet<Backend> {
    let Some(service) = facts.services.get(name) else {
        return BTreeSet::new();
    };
    let is_it = |one: &&ServicePort| one.protocol == protocol && one.port == port;
    let found = service.ports.iter().find(is_it).map(|port| {
        let node = node.filter(|_| service.is_internal_local);
        choose(endpoints_of(facts.slices.get(name), port), node, &BTreeSet::new())
    });
    found.unwrap_or_default()
}

/// The same for a port of the host.
pub fn backends_of_host(
    facts: &Facts,
    protocol: Protocol,
    number: u16,
    node: &str,
) -> BTreeSet<Backend> {
    let found = facts.services.iter().find_map(|(name, service)| {
        let is_it = |port: &&ServicePort| {
            let on_host = service.is_on_host.then_some(port.port);
            port.protocol == protocol && [port.node_port, on_host].contains(&Some(number))
        };
        let port = service.ports.iter().find(is_it)?;
        let node = service.is_external_local.then_some(node);
        Some(choose(endpoints_of(facts.slices.get(name), port), node, &BTreeSet::new()))
    });
    found.unwrap_or_default()
}

fn endpoints_of<'a>(
    slices: Option<&'a BTreeMap<String, Slice>>,
    port: &'a ServicePort,
) -> impl Iterator<Item = (&'a Endpoint, u16)> {
    slices.into_iter().flat_map(BTreeMap::values).flat_map(move |slice| {
        let ports = slice
            .ports
            .iter()
            .filter(move |own| own.name == port.name && own.protocol == port.protocol);
        ports.flat_map(|own| slice.endpoints.iter().map(|endpoint| (endpoint, own.port)))
    })
}

/// Those who are ready; without any, those who are ending but still serve (KEP-1669).
fn choose<'a>(
    endpoints: impl Iterator<Item = (&'a Endpoint, u16)>,
    node: Option<&str>,
    withheld: &BTreeSet<IpAddr>,
) -> BTreeSet<Backend> {
    let mut ready = BTreeSet::new();
    let mut ending = BTreeSet::new();
    for (endpoint, port) in endpoints {
        let is_here = node.is_none_or(|node| endpoint.node.as_deref() == Some(node));
        if !is_here || withheld.contains(&endpoint.address) || endpoint.address.is_ipv6() {
            continue;
        }
        if endpoint.is_ready {
            ready.insert((endpoint.address, port));
        } else if endpoint.is_serving && endpoint.is_terminating {
            ending.insert((endpoint.address, port));
        }
    }
    if ready.is_empty() { ending } else { ready }
}
