//! Services and their endpoints become data: which address, protocol and port leads to whom (pure).
//!
//! ```text
//! SERVICES_NAT   address . protocol . port ─▶ services_ports ─▶ goto pick_3
//! SERVICES_NODE            protocol . port ─▶ services_node_ports ─▶ goto node_pick_2
//! pick_3         address . protocol . port . a number below 3 ─▶ services_backends ─▶ address . port, translated
//! stick_3_10800  source . address . protocol . port ─▶ services_affinity ─▶ the same, if still a member; else as pick_3
//! ```
//! There is no chain per Service, only one per *number* of endpoints, so a change is a few members of maps at any
//! size. Ports of the host stand in `services_backends` under the address 0.0.0.0.
//!
//! Nothing here changes a source address: endpoints see who calls. Only a pod that comes back to itself is masqueraded
//! (`skeleton`, `outbound`). What has no endpoint is not translated, and refused in `unserved`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::Protocol;
use super::part::{Flow, PartPlan, SERVICES_NAT, SERVICES_NODE};
use super::program::{Declaration, Expression, Kind, Memory, Program, Register};
use super::ruleset::{Element, Elements, Field, Verdict};

const PORTS: &str = "services_ports";
const NODE_PORTS: &str = "services_node_ports";
const BACKENDS: &str = "services_backends";
const AFFINITY: &str = "services_affinity";
const MEMBERS: &str = "services_members";
/// Clients remembered at most; beyond them choice is free, as without affinity.
const REMEMBERED: u32 = 262_144;

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

/// Where a connection may end.
pub type Backend = (IpAddr, u16);

/// The plan for `facts`, in which `withheld` addresses serve nobody. `node` is who we are.
pub fn compile(facts: &Facts, node: &str, withheld: &BTreeSet<IpAddr>) -> PartPlan {
    let mut plan = Compilation::default();
    // Of two that claim a port of the host the first keeps it; the API hands them out once, so it matters to nobody.
    let mut taken: BTreeSet<(Protocol, u16)> = BTreeSet::new();
    for (name, service) in &facts.services {
        let slices = facts.slices.get(name);
        for port in &service.ports {
            let backends = |is_local: bool| {
                let endpoints = endpoints_of(slices, port);
                choose(endpoints, is_local.then_some(node), withheld)
            };
            let within = backends(service.is_internal_local);
            for address in &service.addresses {
                plan.serve(Some(*address), port.protocol, port.port, service.affinity, &within);
            }
            let on_host = service.is_on_host.then_some(port.port);
            for number in port.node_port.into_iter().chain(on_host) {
                if taken.insert((port.protocol, number)) {
                    let from_outside = backends(service.is_external_local);
                    plan.serve(None, port.protocol, number, service.affinity, &from_outside);
                }
            }
        }
    }
    plan.finish()
}

/// Addresses that some new connection or datagram may be led to.
pub fn addresses(plan: &PartPlan) -> BTreeSet<IpAddr> {
    let backends = plan.elements.get(BACKENDS);
    backends
        .into_iter()
        .flatten()
        .filter_map(|element| match element.value.first() {
            Some(Field::Address(address)) => Some(*address),
            _ => None, // Values of that map begin with an address.
        })
        .collect()
}

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

/// How many endpoints, how long a client stays, and whether the key's address is the packet's or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Choice {
    is_node: bool,
    count: u32,
    affinity: Option<Duration>,
}

#[derive(Default)]
struct Compilation {
    ports: BTreeSet<Element>,
    node_ports: BTreeSet<Element>,
    backends: BTreeSet<Element>,
    members: BTreeSet<Element>,
    choices: BTreeSet<Choice>,
    flows: BTreeSet<Flow>,
}

impl Compilation {
    fn serve(
        &mut self,
        to: Option<IpAddr>,
        protocol: Protocol,
        port: u16,
        affinity: Option<Duration>,
        backends: &BTreeSet<Backend>,
    ) {
        if backends.is_empty() || to.is_some_and(|address| address.is_ipv6()) {
            return;
        }
        let choice = Choice { is_node: to.is_none(), count: backends.len() as u32, affinity };
        self.choices.insert(choice);
        let goto = Field::Verdict(Verdict::Goto(choice.chain()));
        let mut key = vec![Field::Protocol(protocol), Field::Port(port)];
        if let Some(address) = to {
            key.insert(0, Field::Address(address));
            self.ports.insert(Element::entry(key.clone(), goto));
        } else {
            self.node_ports.insert(Element::entry(key.clone(), goto));
            key.insert(0, Field::Address(Ipv4Addr::UNSPECIFIED.into()));
        }
        for (number, (address, port_there)) in (0u32..).zip(backends) {
            let value = vec![Field::Address(*address), Field::Port(*port_there)];
            if affinity.is_some() {
                let key = key.iter().chain(&value).cloned().collect();
                self.members.insert(Element::member(key));
            }
            let key = key.iter().cloned().chain([Field::Number(number)]).collect();
            self.backends.insert(Element { key, value });
            if protocol != Protocol::Tcp {
                self.flows.insert(Flow { protocol, to, port, backend: *address });
            }
        }
    }

    fn finish(self) -> PartPlan {
        let mut programs: BTreeMap<String, Program> =
            self.choices.iter().map(|choice| (choice.chain(), choice.program())).collect();
        let look = |is_node, map| vec![dispatch(is_node, map)];
        programs.insert(SERVICES_NAT.to_owned(), look(false, PORTS));
        programs.insert(SERVICES_NODE.to_owned(), look(true, NODE_PORTS));
        let service = [Kind::Address, Kind::Protocol, Kind::Port];
        let backend = [Kind::Address, Kind::Port];
        let map = |key: &[&[Kind]], value: &[Kind]| Declaration::map(key.concat(), value.to_vec());
        let longest = Duration::from_secs(86_400);
        let declarations = BTreeMap::from([
            (PORTS.into(), map(&[&service], &[Kind::Verdict])),
            (NODE_PORTS.into(), map(&[&service[1..]], &[Kind::Verdict])),
            (BACKENDS.into(), map(&[&service, &[Kind::Number]], &backend)),
            (MEMBERS.into(), map(&[&service, &backend], &[])),
            (
                AFFINITY.into(),
                Declaration {
                    memory: Some(Memory { lifetime: longest, size: REMEMBERED, valid: MEMBERS }),
                    ..map(&[&[Kind::Address], &service], &backend)
                },
            ),
        ]);
        let elements = Elements::from([
            (PORTS.into(), self.ports),
            (NODE_PORTS.into(), self.node_ports),
            (BACKENDS.into(), self.backends),
            (MEMBERS.into(), self.members),
        ]);
        PartPlan { programs, declarations, elements, flows: self.flows, ..PartPlan::default() }
    }
}

/// Where keys lie: the client, then the Service (address, protocol, port), then what follows.
const CLIENT: Register = Register(0);
const SERVICE: Register = Register(1);
const AFTER_SERVICE: Register = Register(4);

fn service_key(is_node: bool) -> [Expression; 3] {
    let address = match is_node {
        true => Expression::Zero(SERVICE),
        false => Expression::DestinationAddress(SERVICE),
    };
    [address, Expression::Protocol(Register(2)), Expression::DestinationPort(Register(3))]
}

fn dispatch(is_node: bool, map: &'static str) -> Vec<Expression> {
    let mut rule = service_key(is_node).to_vec();
    let key = if is_node { Register(2) } else { SERVICE };
    rule.push(Expression::Follow { map, key });
    rule
}

impl Choice {
    /// Says everything that the chain depends on.
    fn chain(self) -> String {
        let place = if self.is_node { "node_" } else { "" };
        match self.affinity {
            None => format!("services_{place}pick_{}", self.count),
            Some(stays) => format!("services_{place}stick_{}_{}", self.count, stays.as_secs()),
        }
    }

    fn program(self) -> Program {
        let drawn = Register(5);
        let draw = [
            Expression::Draw { bound: self.count, into: AFTER_SERVICE },
            Expression::Find { map: BACKENDS, key: SERVICE, into: drawn },
        ];
        let pick: Vec<_> = service_key(self.is_node)
            .into_iter()
            .chain(draw)
            .chain([Expression::Translate(drawn)])
            .collect();
        let Some(lifetime) = self.affinity else {
            return vec![pick];
        };
        let remember = |value| Expression::Remember { map: AFFINITY, key: CLIENT, value, lifetime };
        let keys =
            || [Expression::SourceAddress(CLIENT)].into_iter().chain(service_key(self.is_node));
        let again = keys().chain([
            Expression::Find { map: AFFINITY, key: CLIENT, into: AFTER_SERVICE },
            Expression::Require { set: MEMBERS.into(), key: SERVICE },
            remember(AFTER_SERVICE),
            Expression::Translate(AFTER_SERVICE),
        ]);
        let first = keys().chain([
            Expression::Draw { bound: self.count, into: AFTER_SERVICE },
            Expression::Find { map: BACKENDS, key: SERVICE, into: drawn },
            remember(drawn),
            Expression::Translate(drawn),
        ]);
        // The last is for when the memory is full.
        vec![again.collect(), first.collect(), pick]
    }
}

#[cfg(test)]
mod tests;
