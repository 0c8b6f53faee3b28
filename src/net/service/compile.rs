//! From Services and their endpoints to what leads packets to them (pure).
//!
//! ```text
//! SERVICES_NAT   address . protocol . port ─▶ services_sole ─▶ address . port, translated; of several endpoints
//!                address . protocol . port ─▶ services_choices ─▶ 3 . 0 ─▶ services_chains ─▶ goto pick_3
//! SERVICES_NODE            protocol . port ─▶ services_node_sole; services_node_choices ─▶ 2 . 0 ─▶ services_node_chains ─▶ goto node_pick_2
//! pick_3         address . protocol . port . a number below 3 ─▶ services_backends ─▶ address . port, translated
//! stick_3_10800  address . protocol . port . source ─▶ services_clients ─▶ the same, if still a member; else as pick_3
//! ```
//! There is no chain per Service, only one per *number* of endpoints, so a change is a few members of maps at any
//! size; what did not change is not compiled again ([`Compiled`]). Between so many members each look is one into cold memory,
//! so that where nothing is to be chosen there is only one. What leads to a chain is kept apart, in maps of a few
//! members: for each new member that does, the kernel validates every other one in the table. Ports of the host stand in `services_backends` under
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

/// Where keys lead of which each packet goes to the same endpoint; of addresses of Services, and of ports of the host.
const SOLE: [&str; 2] = ["services_sole", "services_node_sole"];
/// Each other key's count of endpoints and how long a client stays, in seconds,
const CHOICES: [&str; 2] = ["services_choices", "services_node_choices"];
/// and the chain for them; of addresses of Services, and of ports of the host.
const CHAINS: [&str; 2] = ["services_chains", "services_node_chains"];
const BACKENDS: &str = "services_backends";
/// The same again, of those whose clients stay, and after a number that means nothing ([`Expression::Find`]).
const STAYING: &str = "services_staying";
const CLIENTS: &str = "services_clients";
const MEMBERS: &str = "services_endpoints";
/// What earlier daemons called maps of other types, so that no other may be called so (`Set`).
#[cfg(test)]
const USED_UP: [&str; 4] =
    ["services_ports", "services_node_ports", "services_affinity", "services_members"];
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
            piece.choice.into_iter().for_each(|choice| choices.more(choice));
            piece.addresses().for_each(|address| addresses.more(address));
        }
        for piece in remove {
            piece.choice.into_iter().for_each(|choice| choices.less(choice));
            piece.addresses().for_each(|address| addresses.less(address));
        }
        let (chosen, forgotten) = choices.changed();
        let (led_to, left) = addresses.changed();
        let gone: BTreeSet<String> = forgotten.iter().copied().map(Choice::chain).collect();
        let [old, new] = [(remove, &forgotten), (add, &chosen)].map(|(pieces, choices)| {
            let mut elements = Elements::new();
            pieces.iter().for_each(|piece| piece.members(&mut elements));
            for choice in choices {
                let chain = Field::Verdict(Verdict::Goto(choice.chain()));
                let member = Element::entry(choice.key(), chain);
                elements.entry(CHAINS[choice.place()].into()).or_default().insert(member);
            }
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
    /// `None` where each packet goes to the same endpoint.
    choice: Option<Choice>,
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
        let is_free = count > 1 || target.affinity.is_some();
        Piece { to, choice: is_free.then_some(choice), backends: target.backends.clone() }
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
        let mut key = vec![Field::Protocol(protocol), Field::Port(port)];
        if let Some(address) = to {
            key.insert(0, Field::Address(address));
        }
        let values = self.backends.iter();
        let values =
            values.map(|(address, port)| vec![Field::Address(*address), Field::Port(*port)]);
        let Some(choice) = self.choice else {
            let sole = SOLE[usize::from(to.is_none())];
            values.for_each(|value| add(sole, Element { key: key.clone(), value }));
            return;
        };
        add(
            CHOICES[choice.place()],
            Element { key: key.clone(), value: after_nothing(&choice.key()) },
        );
        if to.is_none() {
            key.insert(0, Field::Address(Ipv4Addr::UNSPECIFIED.into()));
        }
        for (number, value) in (0u32..).zip(values) {
            let drawn: Vec<_> = key.iter().cloned().chain([Field::Number(number)]).collect();
            if choice.affinity.is_some() {
                add(MEMBERS, Element::member(value.iter().chain(&key).cloned().collect()));
                add(STAYING, Element { key: drawn.clone(), value: after_nothing(&value) });
            }
            add(BACKENDS, Element { key: drawn, value });
        }
    }

    /// Those that know no connection.
    fn flows(&self) -> impl Iterator<Item = Flow> {
        let (to, protocol, port) = self.to;
        let all = self.backends.iter().filter(move |_| protocol != Protocol::Tcp);
        all.map(move |(backend, _)| Flow { protocol, to, port, backend: *backend })
    }
}

fn after_nothing(value: &[Field]) -> Vec<Field> {
    [Field::Number(0)].iter().chain(value).cloned().collect()
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
    let programs = BTreeMap::from([
        (SERVICES_NAT.to_owned(), dispatch(false)),
        (SERVICES_NODE.to_owned(), dispatch(true)),
    ]);
    let service = [Kind::Address, Kind::Protocol, Kind::Port];
    let backend = [Kind::Address, Kind::Port];
    let choice = [Kind::Number, Kind::Number];
    let map = |key: &[&[Kind]], value: &[Kind]| Declaration::map(key.concat(), value.to_vec());
    let nothing = [Kind::Number];
    let [a_choice, staying] = [&choice, &backend].map(|value| [&nothing[..], value].concat());
    let longest = Duration::from_secs(86_400);
    let declarations = BTreeMap::from([
        (SOLE[0].into(), map(&[&service], &backend)),
        (SOLE[1].into(), map(&[&service[1..]], &backend)),
        (CHOICES[0].into(), map(&[&service], &a_choice)),
        (CHOICES[1].into(), map(&[&service[1..]], &a_choice)),
        (CHAINS[0].into(), map(&[&choice], &[Kind::Verdict])),
        (CHAINS[1].into(), map(&[&choice], &[Kind::Verdict])),
        (BACKENDS.into(), map(&[&service, &[Kind::Number]], &backend)),
        (STAYING.into(), map(&[&service, &[Kind::Number]], &staying)),
        (MEMBERS.into(), map(&[&backend, &service], &[])),
        (
            CLIENTS.into(),
            Declaration {
                memory: Some(Memory { lifetime: longest, size: REMEMBERED, valid: MEMBERS }),
                ..map(&[&service, &[Kind::Address]], &staying)
            },
        ),
    ]);
    PartPlan { programs, declarations, ..PartPlan::default() }
}

/// Where keys lie: the endpoint (address, port), the Service (address, protocol, port), then what follows.
const FOUND: Register = Register(0);
const ENDPOINT: Register = Register(1);
const SERVICE: Register = Register(3);
const AFTER_SERVICE: Register = Register(6);
/// An endpoint that nothing is asked about.
const LEADS_TO: Register = Register(7);

fn service_key(is_node: bool) -> [Expression; 3] {
    let address = match is_node {
        true => Expression::Zero(SERVICE),
        false => Expression::DestinationAddress(SERVICE),
    };
    [address, Expression::Protocol(Register(4)), Expression::DestinationPort(Register(5))]
}

fn dispatch(is_node: bool) -> Program {
    // Ports of the host are looked for without an address.
    let (place, skipped, key) = if is_node { (1, 1, Register(4)) } else { (0, 0, SERVICE) };
    let load = || service_key(is_node).into_iter().skip(skipped);
    let sole = [
        Expression::Find { map: SOLE[place], key, into: LEADS_TO },
        Expression::Translate(LEADS_TO),
    ];
    let follow = [
        Expression::Find { map: CHOICES[place], key, into: Register(key.0 - 1) },
        Expression::Follow { map: CHAINS[place], key },
    ];
    vec![load().chain(sole).collect(), load().chain(follow).collect()]
}

impl Choice {
    /// Of the two maps of a kind, which has it.
    fn place(self) -> usize {
        usize::from(self.is_node)
    }

    fn key(self) -> Vec<Field> {
        let stays = self.affinity.map_or(0, |stays| stays.as_secs() as u32);
        vec![Field::Number(self.count), Field::Number(stays)]
    }

    /// Says everything that the chain depends on.
    fn chain(self) -> String {
        let place = if self.is_node { "node_" } else { "" };
        match self.affinity {
            None => format!("services_{place}pick_{}", self.count),
            Some(stays) => format!("services_{place}stick_{}_{}", self.count, stays.as_secs()),
        }
    }

    fn program(self) -> Program {
        let draw = || Expression::Draw { bound: self.count, into: AFTER_SERVICE };
        let find = Expression::Find { map: BACKENDS, key: SERVICE, into: LEADS_TO };
        let pick = service_key(self.is_node).into_iter().chain([draw(), find]);
        let pick: Vec<_> = pick.chain([Expression::Translate(LEADS_TO)]).collect();
        let Some(lifetime) = self.affinity else {
            return vec![pick];
        };
        let client = || Expression::SourceAddress(AFTER_SERVICE);
        let keys = || {
            let endpoint = [Expression::Zero(ENDPOINT), Expression::Zero(Register(2))];
            endpoint.into_iter().chain(service_key(self.is_node))
        };
        let go = || {
            [
                Expression::Zero(FOUND),
                Expression::Remember { map: CLIENTS, key: SERVICE, value: FOUND, lifetime },
                Expression::Translate(ENDPOINT),
            ]
        };
        let again = keys().chain([
            client(),
            Expression::Find { map: CLIENTS, key: SERVICE, into: FOUND },
            Expression::Require { set: MEMBERS.into(), key: ENDPOINT },
        ]);
        let first = keys().chain([
            draw(),
            Expression::Find { map: STAYING, key: SERVICE, into: FOUND },
            client(),
        ]);
        // The last is for when the memory is full.
        vec![again.chain(go()).collect(), first.chain(go()).collect(), pick]
    }
}

#[cfg(test)]
mod tests;
