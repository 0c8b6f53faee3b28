//! From Services and their endpoints to what leads packets to them (pure).
//!
//! ```text
//! SERVICES_NAT   address . protocol . port ─▶ services_ports ─▶ goto pick_3
//! SERVICES_NODE            protocol . port ─▶ services_node_ports ─▶ goto node_pick_2
//! pick_3         address . protocol . port . a number below 3 ─▶ services_backends ─▶ address . port, translated
//! stick_3_10800  source . address . protocol . port ─▶ services_affinity ─▶ the same, if still a member; else as pick_3
//! ```
//! There is no chain per Service, only one per *number* of endpoints, so a change is a few members of maps at any
//! size; what did not change is not compiled again ([`Compiled`]). Ports of the host stand in `services_backends` under
//! the address 0.0.0.0.
//!
//! Nothing here changes a source address: endpoints see who calls. Only a pod that comes back to itself is masqueraded
//! (`skeleton`, `outbound`). What has no endpoint is not translated, and refused in `unserved`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::{Backend, Facts, Service, ServiceName, Slice, choose, endpoints_of};
use crate::net::Protocol;
use crate::net::nfnetlink::ProgramChanges;
use crate::net::part::{Flow, PartPlan, PlanChange, SERVICES_NAT, SERVICES_NODE};
use crate::net::program::{Declaration, Expression, Kind, Memory, Program, Register};
use crate::net::ruleset::{Element, Elements, Field, Verdict, diff};

const PORTS: &str = "services_ports";
const NODE_PORTS: &str = "services_node_ports";
const BACKENDS: &str = "services_backends";
const AFFINITY: &str = "services_affinity";
const MEMBERS: &str = "services_members";
/// Clients remembered at most; beyond them choice is free, as without affinity.
const REMEMBERED: u32 = 262_144;

/// What a packet is sent to: an address and a port of a Service, or a port of the host (no address).
type Key = (Option<IpAddr>, Protocol, u16);

/// Where a key leads, nowhere without backends.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    affinity: Option<Duration>,
    backends: BTreeSet<Backend>,
}

/// What is compiled, so that a change costs what it changes.
#[derive(Debug, Default)]
pub struct Compiled {
    /// Whoever wants a key; of several, the first has it. The API hands each out once, but for a moment it may look
    /// otherwise: Services and slices are told of one after the other.
    claims: BTreeMap<Key, BTreeMap<ServiceName, Target>>,
    keys: BTreeMap<ServiceName, BTreeSet<Key>>,
    /// How many keys lead there.
    choices: BTreeMap<Choice, usize>,
    addresses: BTreeMap<IpAddr, usize>,
}

/// The way from what was compiled before.
#[derive(Debug, Default)]
pub struct Compilation {
    pub change: PlanChange,
    /// Addresses that some new connection or datagram may be led to from now on, and those that none is led to any more.
    pub led_to: BTreeSet<IpAddr>,
    pub left: BTreeSet<IpAddr>,
}

/// The plan for `facts`, in which `withheld` addresses serve nobody. `node` is who we are.
pub fn compile(facts: &Facts, node: &str, withheld: &BTreeSet<IpAddr>) -> PartPlan {
    Compiled::default().whole(facts, node, withheld).0
}

impl Compiled {
    /// Compiles everything anew; who is led to, beside the plan.
    pub fn whole(
        &mut self,
        facts: &Facts,
        node: &str,
        withheld: &BTreeSet<IpAddr>,
    ) -> (PartPlan, BTreeSet<IpAddr>) {
        *self = Compiled::default();
        let names: BTreeSet<ServiceName> = facts.services.keys().cloned().collect();
        let compilation = self.update(&names, facts, node, withheld);
        let mut plan = frame();
        plan.change(&compilation.change);
        (plan, compilation.led_to)
    }

    /// Compiles the Services of these names, whether or not they are still there. All others are as they were.
    pub fn update(
        &mut self,
        names: &BTreeSet<ServiceName>,
        facts: &Facts,
        node: &str,
        withheld: &BTreeSet<IpAddr>,
    ) -> Compilation {
        let mut before: BTreeMap<Key, Option<Target>> = BTreeMap::new();
        for name in names {
            let targets = facts
                .services
                .get(name)
                .map(|service| targets(service, facts.slices.get(name), node, withheld))
                .unwrap_or_default();
            let gone = self.keys.remove(name).unwrap_or_default();
            for key in targets.keys().chain(&gone) {
                before.entry(*key).or_insert_with(|| self.target(key).cloned());
            }
            for key in gone {
                if let Some(claims) = self.claims.get_mut(&key) {
                    claims.remove(name);
                    if claims.is_empty() {
                        self.claims.remove(&key);
                    }
                }
            }
            if !targets.is_empty() {
                self.keys.insert(name.clone(), targets.keys().copied().collect());
            }
            for (key, target) in targets {
                self.claims.entry(key).or_default().insert(name.clone(), target);
            }
        }
        let mut difference = Difference::default();
        for (key, old) in &before {
            let new = self.target(key);
            if old.as_ref() != new {
                difference.remove.extend(old.iter().map(|old| Piece::of(*key, old)));
                difference.add.extend(new.map(|new| Piece::of(*key, new)));
            }
        }
        self.count(&difference)
    }

    fn target(&self, key: &Key) -> Option<&Target> {
        let target = self.claims.get(key)?.values().next();
        target.filter(|target| !target.backends.is_empty())
    }

    fn count(&mut self, difference: &Difference) -> Compilation {
        let Difference { remove, add } = difference;
        let mut choices = Counts::of(&mut self.choices);
        let mut addresses = Counts::of(&mut self.addresses);
        for piece in add {
            choices.more(piece.choice);
            piece.addresses().for_each(|address| addresses.more(address));
        }
        for piece in remove {
            choices.less(piece.choice);
            piece.addresses().for_each(|address| addresses.less(address));
        }
        let (chosen, forgotten) = choices.changed();
        let (led_to, left) = addresses.changed();
        let gone: BTreeSet<String> = forgotten.into_iter().map(Choice::chain).collect();
        let [old, new] = [remove, add].map(|pieces| {
            let mut elements = Elements::new();
            pieces.iter().for_each(|piece| piece.members(&mut elements));
            elements
        });
        let flows = |pieces: &[Piece]| pieces.iter().flat_map(Piece::flows).collect();
        let [old_flows, new_flows]: [BTreeSet<Flow>; 2] = [flows(remove), flows(add)];
        let write = chosen.into_iter().map(|choice| (choice.chain(), choice.program()));
        let change = PlanChange {
            programs: ProgramChanges {
                write: write.collect(),
                members: diff(&old, &new),
                empty_chains: gone.clone(),
                delete_chains: gone,
                ..ProgramChanges::default()
            },
            flows_gone: old_flows.difference(&new_flows).cloned().collect(),
            flows_new: new_flows.difference(&old_flows).cloned().collect(),
        };
        Compilation { change, led_to, left }
    }
}

/// Where a Service's own keys lead. A port of the host that it wants twice leads to whom it wanted it for first.
fn targets(
    service: &Service,
    slices: Option<&BTreeMap<String, Slice>>,
    node: &str,
    withheld: &BTreeSet<IpAddr>,
) -> BTreeMap<Key, Target> {
    let mut targets = BTreeMap::new();
    for port in &service.ports {
        let target = |is_local: bool| Target {
            affinity: service.affinity,
            backends: choose(endpoints_of(slices, port), is_local.then_some(node), withheld),
        };
        if service.addresses.iter().any(IpAddr::is_ipv4) {
            let within = target(service.is_internal_local);
            for address in service.addresses.iter().filter(|address| address.is_ipv4()) {
                let key = (Some(*address), port.protocol, port.port);
                targets.entry(key).or_insert_with(|| within.clone());
            }
        }
        let on_host = service.is_on_host.then_some(port.port);
        for number in port.node_port.into_iter().chain(on_host) {
            let key = (None, port.protocol, number);
            targets.entry(key).or_insert_with(|| target(service.is_external_local));
        }
    }
    targets
}

/// What one key adds to the plan.
#[derive(Debug)]
struct Piece {
    to: Key,
    choice: Choice,
    backends: BTreeSet<Backend>,
}

#[derive(Debug, Default)]
struct Difference {
    remove: Vec<Piece>,
    add: Vec<Piece>,
}

impl Piece {
    fn of(to: Key, target: &Target) -> Piece {
        let count = target.backends.len() as u32;
        let choice = Choice { is_node: to.0.is_none(), count, affinity: target.affinity };
        Piece { to, choice, backends: target.backends.clone() }
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        // The same pod at two ports counts twice, here and when it goes.
        self.backends.iter().map(|(address, _)| *address)
    }

    fn members(&self, elements: &mut Elements) {
        let (to, protocol, port) = self.to;
        let mut add = |set: &'static str, member| {
            elements.entry(set.into()).or_default().insert(member);
        };
        let goto = Field::Verdict(Verdict::Goto(self.choice.chain()));
        let mut key = vec![Field::Protocol(protocol), Field::Port(port)];
        if let Some(address) = to {
            key.insert(0, Field::Address(address));
            add(PORTS, Element::entry(key.clone(), goto));
        } else {
            add(NODE_PORTS, Element::entry(key.clone(), goto));
            key.insert(0, Field::Address(Ipv4Addr::UNSPECIFIED.into()));
        }
        for (number, (address, port_there)) in (0u32..).zip(&self.backends) {
            let value = vec![Field::Address(*address), Field::Port(*port_there)];
            if self.choice.affinity.is_some() {
                add(MEMBERS, Element::member(key.iter().chain(&value).cloned().collect()));
            }
            let key = key.iter().cloned().chain([Field::Number(number)]).collect();
            add(BACKENDS, Element { key, value });
        }
    }

    /// Those that know no connection.
    fn flows(&self) -> impl Iterator<Item = Flow> {
        let (to, protocol, port) = self.to;
        let all = self.backends.iter().filter(move |_| protocol != Protocol::Tcp);
        all.map(move |(backend, _)| Flow { protocol, to, port, backend: *backend })
    }
}

/// Counts that change together.
struct Counts<'a, T> {
    counts: &'a mut BTreeMap<T, usize>,
    /// As they were.
    before: BTreeMap<T, usize>,
}

impl<'a, T: Ord + Copy> Counts<'a, T> {
    fn of(counts: &'a mut BTreeMap<T, usize>) -> Counts<'a, T> {
        Counts { counts, before: BTreeMap::new() }
    }

    fn more(&mut self, of: T) {
        let count = self.counts.entry(of).or_default();
        self.before.entry(of).or_insert(*count);
        *count += 1;
    }

    fn less(&mut self, of: T) {
        let count = self.counts.entry(of).or_default();
        self.before.entry(of).or_insert(*count);
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&of);
        }
    }

    /// What there was none of and is now, and the other way round.
    fn changed(self) -> (BTreeSet<T>, BTreeSet<T>) {
        let is_there = |of: &T| self.counts.contains_key(of);
        let was_not = |(of, count): (&T, &usize)| (*count == 0).then_some(*of);
        let was = |(of, count): (&T, &usize)| (*count > 0).then_some(*of);
        (
            self.before.iter().filter_map(was_not).filter(is_there).collect(),
            self.before.iter().filter_map(was).filter(|of| !is_there(of)).collect(),
        )
    }
}

/// How many endpoints, how long a client stays, and whether the key's address is the packet's or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Choice {
    is_node: bool,
    count: u32,
    affinity: Option<Duration>,
}

/// What stands without any Service.
fn frame() -> PartPlan {
    let look = |is_node, map| vec![dispatch(is_node, map)];
    let programs = BTreeMap::from([
        (SERVICES_NAT.to_owned(), look(false, PORTS)),
        (SERVICES_NODE.to_owned(), look(true, NODE_PORTS)),
    ]);
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
    PartPlan { programs, declarations, ..PartPlan::default() }
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
