//! A plan in nftables' words (pure).
//!
//! ```text
//! POLICY_EGRESS    pod to itself ▶ on its way; source      ▶ policy_out_…; nobody's address ▶ drop
//! POLICY_INGRESS   pod to itself ▶ on its way; destination ▶ policy_in_…;  nobody's address ▶ drop
//! policy_out_…     not the beginning of a flow ▶ drop; allowed … ▶ on its way; policy_refuse
//! policy_in_…      not the beginning of a flow ▶ drop; allowed … ▶ on its way; policy_ignore
//! ```
//! The skeleton calls both slots for packets of flows that conntrack does not know. What a pod sends in vain is refused,
//! so that it learns at once; what is sent to it in vain is ignored, so that nobody learns that it is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};

use super::Direction;
use super::plan::{Allow, Chain, Members, Peers, Plan, Service, Verdict};
use super::ranges::Family;
use crate::net::expression::{counted, jump, matches, meta, payload, rule, verdict};
use crate::net::part::{POLICY_EGRESS, POLICY_INGRESS, PartPlan};
use crate::net::ruleset::{Element, Elements, Field, Set, SetName, Verdict as Word};
use crate::net::skeleton::HAIRPIN;

/// Enough to see who wanted what: the longest IP header and the ports.
pub const LOG_BYTES: u16 = 64;
/// In each direction; more are denied and not shown.
const LOG_PER_SECOND: u32 = 1000;
/// What the log says, so that a reader knows the direction.
pub const EGRESS_WORD: &str = "egress";
pub const INGRESS_WORD: &str = "ingress";

/// Verdict maps of what pods send and receive over IPv4.
pub const VERDICTS: [&str; 2] = ["policy_egress4", "policy_ingress4"];
/// Where verdicts of pods lead that no policy isolates.
pub const OPEN: &str = "policy_open";
const REFUSE: &str = "policy_refuse";
const IGNORE: &str = "policy_ignore";

impl Plan {
    /// Denied packets are shown to `log_group` (NFLOG).
    pub fn render(&self, log_group: u16) -> PartPlan {
        let mut chains = BTreeMap::from([
            (POLICY_EGRESS.to_owned(), slot(Direction::Egress)),
            (POLICY_INGRESS.to_owned(), slot(Direction::Ingress)),
            (OPEN.to_owned(), Vec::new()),
            (REFUSE.to_owned(), refuse(log_group)),
            (IGNORE.to_owned(), ignore(log_group)),
        ]);
        for (name, chain) in &self.chains {
            chains.insert(name.clone(), chain.render(&self.sets));
        }
        let mut sets: BTreeMap<SetName, Set> = BTreeMap::new();
        let mut elements = Elements::new();
        for direction in [Direction::Egress, Direction::Ingress] {
            for family in [Family::V4, Family::V6] {
                let map = Set::map(&[family.address_type()], "verdict");
                sets.insert(verdicts(direction, family).into(), map);
            }
        }
        for ((direction, address), verdict) in &self.verdicts {
            let chain = match verdict {
                Verdict::Open => OPEN,
                Verdict::Chain(name) => name,
            };
            let entry = Element::entry(
                vec![Field::Address(*address)],
                Field::Verdict(Word::Goto(chain.into())),
            );
            let map = verdicts(*direction, Family::of(*address));
            elements.entry(map.into()).or_default().insert(entry);
        }
        for (name, members) in &self.sets {
            let (set, members) = members.render();
            sets.insert(name.clone().into(), set);
            if !members.is_empty() {
                elements.insert(name.clone().into(), members);
            }
        }
        PartPlan { chains, sets, elements, ..PartPlan::default() }
    }
}

fn verdicts(direction: Direction, family: Family) -> &'static str {
    match (direction, family) {
        (Direction::Egress, Family::V4) => VERDICTS[0],
        (Direction::Egress, Family::V6) => "policy_egress6",
        (Direction::Ingress, Family::V4) => VERDICTS[1],
        (Direction::Ingress, Family::V6) => "policy_ingress6",
    }
}

impl Family {
    fn address_type(self) -> &'static str {
        match self {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        }
    }

    fn field(self, field: &str) -> Value {
        payload(if self == Family::V4 { "ip" } else { "ip6" }, field)
    }
}

impl Direction {
    /// The header field that holds the isolated pod's own address, and the one that holds the other's.
    fn fields(self) -> [&'static str; 2] {
        match self {
            Direction::Egress => ["saddr", "daddr"],
            Direction::Ingress => ["daddr", "saddr"],
        }
    }
}

fn slot(direction: Direction) -> Vec<Value> {
    let [own, _] = direction.fields();
    let pair = json!({"concat": [payload("ip", "saddr"), payload("ip", "daddr")]});
    let mut rules =
        vec![rule([matches("==", pair, json!(format!("@{HAIRPIN}"))), verdict("return")])];
    for family in [Family::V4, Family::V6] {
        let map = format!("@{}", verdicts(direction, family));
        rules.push(rule([json!({"vmap": {"key": family.field(own), "data": map}})]));
    }
    rules.push(rule([counted(), verdict("drop")]));
    rules
}

fn log(word: &str, group: u16) -> Value {
    rule([
        json!({"limit": {"rate": LOG_PER_SECOND, "per": "second", "burst": LOG_PER_SECOND}}),
        json!({"log": {"prefix": word, "group": group, "snaplen": LOG_BYTES}}),
    ])
}

fn refuse(log_group: u16) -> Vec<Value> {
    vec![
        log(EGRESS_WORD, log_group),
        rule([
            matches("==", meta("l4proto"), json!("tcp")),
            counted(),
            json!({"reject": {"type": "tcp reset"}}),
        ]),
        rule([counted(), json!({"reject": {"type": "icmpx", "expr": "admin-prohibited"}})]),
    ]
}

fn ignore(log_group: u16) -> Vec<Value> {
    vec![log(INGRESS_WORD, log_group), rule([counted(), verdict("drop")])]
}

impl Chain {
    fn render(&self, sets: &BTreeMap<String, Members>) -> Vec<Value> {
        let word = json!({"|": [{"|": [{"|": ["fin", "syn"]}, "rst"]}, "ack"]});
        let flags = json!({"&": [payload("tcp", "flags"), word]});
        let mut rules =
            vec![rule([matches("!=", flags, json!("syn")), counted(), verdict("drop")])];
        if self.is_isolating {
            for allow in &self.allows {
                rules.extend(allow.render(self.direction, sets));
            }
            let denied = match self.direction {
                Direction::Egress => REFUSE,
                Direction::Ingress => IGNORE,
            };
            rules.push(rule([jump(denied)]));
        }
        rules
    }
}

impl Allow {
    /// One rule or more, each of which lets go on.
    fn render(&self, direction: Direction, sets: &BTreeMap<String, Members>) -> Vec<Value> {
        let family = |set: &String| sets.get(set).map_or(Family::V4, Members::family);
        let (peers, services) = match self {
            Allow::Listed(set) => {
                let key = [family(set).field("daddr"), meta("l4proto"), payload("th", "dport")];
                let listed = matches("==", json!({"concat": key}), json!(format!("@{set}")));
                return vec![rule([listed, verdict("return")])];
            }
            Allow::Flow { peers: Peers::Anyone, service } => (None, service.render(None)),
            Allow::Flow { peers: Peers::In(set), service } => {
                (Some(set), service.render(Some(family(set))))
            }
        };
        let [_, other] = direction.fields();
        let peers =
            peers.map(|set| matches("==", family(set).field(other), json!(format!("@{set}"))));
        services
            .into_iter()
            .map(|service| {
                Value::Array(peers.iter().cloned().chain([service, verdict("return")]).collect())
            })
            .collect()
    }
}

impl Service {
    /// Each of `family` only, where peers are.
    fn render(&self, family: Option<Family>) -> Vec<Value> {
        match self {
            Service::Everything => {
                let ports = matches("==", meta("l4proto"), json!({"set": ["tcp", "udp", "sctp"]}));
                let echo = |word| matches("==", payload(word, "type"), json!("echo-request"));
                let echoes = match family {
                    None => vec![echo("icmp"), echo("icmpv6")],
                    Some(Family::V4) => vec![echo("icmp")],
                    Some(Family::V6) => vec![echo("icmpv6")],
                };
                [vec![ports], echoes].concat()
            }
            Service::Ports(protocol, ranges) if **ranges == [(0, u16::MAX)] => {
                vec![matches("==", meta("l4proto"), json!(protocol.word()))]
            }
            Service::Ports(protocol, ranges) => {
                let range = |(first, last): &(u16, u16)| match first == last {
                    true => json!(first),
                    false => json!({"range": [first, last]}),
                };
                let ports: Vec<_> = ranges.iter().map(range).collect();
                vec![matches("==", payload(protocol.word(), "dport"), json!({"set": ports}))]
            }
        }
    }
}

impl Members {
    fn family(&self) -> Family {
        match self {
            Members::Addresses(family, _)
            | Members::Ranges(family, _)
            | Members::Ports(family, _) => *family,
        }
    }

    fn render(&self) -> (Set, BTreeSet<Element>) {
        let key = self.family().address_type();
        let address = |address: &IpAddr| Field::Address(*address);
        match self {
            Members::Addresses(_, members) => {
                let members = members.iter().map(|one| Element::member(vec![address(one)]));
                (Set::of(&[key]), members.collect())
            }
            Members::Ranges(_, ranges) => {
                let between = |(first, last): &(IpAddr, IpAddr)| {
                    Field::Between(Box::new(address(first)), Box::new(address(last)))
                };
                let members = ranges.iter().map(|range| Element::member(vec![between(range)]));
                (Set::of(&[key]).interval(), members.collect())
            }
            Members::Ports(_, members) => {
                let members = members.iter().map(|(at, protocol, port)| {
                    Element::member(vec![
                        address(at),
                        Field::Protocol(*protocol),
                        Field::Port(*port),
                    ])
                });
                (Set::of(&[key, "inet_proto", "inet_service"]), members.collect())
            }
        }
    }
}

#[cfg(test)]
mod tests;
