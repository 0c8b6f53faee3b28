//! A plan in nftables' words (pure).
//!
//! What stands whatever policies say, the frame, is written for `nft`. What they say is programs, so that a change is a few
//! netlink messages and no run of `nft`.
//!
//! ```text
//! POLICY_EGRESS    source      ▶ policy_open or policy_out_…; nobody's address ▶ drop
//! POLICY_INGRESS   destination ▶ policy_open or policy_in_…;  nobody's address ▶ drop
//! policy_out_…     pod to itself ▶ on its way; not the beginning of a flow ▶ drop; allowed … ▶ on its way; policy_refuse
//! policy_in_…      pod to itself ▶ on its way; not the beginning of a flow ▶ drop; allowed … ▶ on its way; policy_ignore
//! ```
//! The skeleton calls both slots for packets of flows that conntrack does not know. What a pod sends in vain is refused,
//! so that it learns at once; what is sent to it in vain is ignored, so that nobody learns that it is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};

use super::Direction;
use super::plan::{Allow, Chain, Members, Peers, Plan, Service, Verdict};
use super::ranges::Family;
use crate::net::Protocol;
use crate::net::expression::{counted, matches, meta, payload, rule, verdict};
use crate::net::nfnetlink::number;
use crate::net::part::{POLICY_EGRESS, POLICY_INGRESS, PartPlan};
use crate::net::program::{Declaration, Expression, Kind, Operator, Program, Register};
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
        let chains = BTreeMap::from([
            (POLICY_EGRESS.to_owned(), slot(Direction::Egress)),
            (POLICY_INGRESS.to_owned(), slot(Direction::Ingress)),
            (OPEN.to_owned(), Vec::new()),
            (REFUSE.to_owned(), refuse(log_group)),
            (IGNORE.to_owned(), ignore(log_group)),
        ]);
        let mut sets: BTreeMap<SetName, Set> = BTreeMap::new();
        for direction in [Direction::Egress, Direction::Ingress] {
            for family in [Family::V4, Family::V6] {
                let map = Set::map(&[family.address_type()], "verdict");
                sets.insert(verdicts(direction, family).into(), map);
            }
        }
        let programs = self.chains.iter();
        let programs =
            programs.map(|(name, chain)| (name.clone(), chain.render(&self.sets))).collect();
        let mut declarations = BTreeMap::new();
        let mut elements = Elements::new();
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
            declarations.insert(name.clone().into(), set);
            if !members.is_empty() {
                elements.insert(name.clone().into(), members);
            }
        }
        PartPlan { chains, sets, programs, declarations, elements, ..PartPlan::default() }
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

    fn kind(self) -> Kind {
        match self {
            Family::V4 => Kind::Address,
            Family::V6 => Kind::Address6,
        }
    }

    /// Ends the rule for packets of the other one.
    fn only(self) -> [Expression; 2] {
        const V4: u8 = 2;
        const V6: u8 = 10;
        let version = if self == Family::V4 { V4 } else { V6 };
        [Expression::Version(FIRST), compare(Operator::Equal, [version])]
    }

    fn source(self) -> Expression {
        match self {
            Family::V4 => Expression::SourceAddress(FIRST),
            Family::V6 => Expression::SourceAddress6(FIRST),
        }
    }

    fn destination(self) -> Expression {
        match self {
            Family::V4 => Expression::DestinationAddress(FIRST),
            Family::V6 => Expression::DestinationAddress6(FIRST),
        }
    }

    /// The first register after an address in the first.
    fn after(self) -> u8 {
        match self {
            Family::V4 => 1,
            Family::V6 => 4,
        }
    }

    /// Its ICMP, and the type that asks for an echo.
    fn echo(self) -> [u8; 2] {
        match self {
            Family::V4 => [1, 8],
            Family::V6 => [58, 128],
        }
    }
}

const FIRST: Register = Register(0);

fn compare<const N: usize>(operator: Operator, value: [u8; N]) -> Expression {
    Expression::Compare { register: FIRST, operator, value: value.to_vec() }
}

fn protocol(number: u8) -> [Expression; 2] {
    [Expression::Protocol(FIRST), compare(Operator::Equal, [number])]
}

fn slot(direction: Direction) -> Vec<Value> {
    let own = match direction {
        Direction::Egress => "saddr",
        Direction::Ingress => "daddr",
    };
    let mut rules = Vec::new();
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
    fn render(&self, sets: &BTreeMap<String, Members>) -> Program {
        let mut rules = vec![to_itself(), no_beginning()];
        if self.is_isolating {
            rules.extend(self.allows.iter().flat_map(|allow| allow.render(self.direction, sets)));
            let denied = match self.direction {
                Direction::Egress => REFUSE,
                Direction::Ingress => IGNORE,
            };
            rules.push(vec![Expression::Jump(denied.to_owned())]);
        }
        rules
    }
}

/// A pod cannot keep itself out.
fn to_itself() -> Vec<Expression> {
    let mut rule = Family::V4.only().to_vec();
    rule.extend([
        Family::V4.source(),
        Expression::DestinationAddress(Register(Family::V4.after())),
        Expression::Require { set: HAIRPIN.into(), key: FIRST },
        Expression::Return,
    ]);
    rule
}

/// Drops what is TCP and not the first packet of a connection.
fn no_beginning() -> Vec<Expression> {
    const SYN: u8 = 0x02;
    const FIN_SYN_RST_ACK: u8 = 0x17;
    let [load, is_tcp] = protocol(number(Protocol::Tcp));
    vec![
        load,
        is_tcp,
        Expression::TcpFlags(FIRST),
        Expression::Mask { register: FIRST, mask: FIN_SYN_RST_ACK },
        compare(Operator::NotEqual, [SYN]),
        Expression::Count,
        Expression::Drop,
    ]
}

impl Allow {
    /// Rules each of which lets go on.
    fn render(&self, direction: Direction, sets: &BTreeMap<String, Members>) -> Program {
        let family = |set: &String| sets.get(set).map_or(Family::V4, Members::family);
        let (peers, services) = match self {
            Allow::Listed(set) => {
                let family = family(set);
                let mut rule = family.only().to_vec();
                rule.extend([
                    family.destination(),
                    Expression::Protocol(Register(family.after())),
                    Expression::DestinationPort(Register(family.after() + 1)),
                    Expression::Require { set: set.clone().into(), key: FIRST },
                    Expression::Return,
                ]);
                return vec![rule];
            }
            Allow::Flow { peers: Peers::Anyone, service } => (Vec::new(), service.render(None)),
            Allow::Flow { peers: Peers::In(set), service } => {
                let family = family(set);
                let mut peers = family.only().to_vec();
                peers.push(match direction {
                    Direction::Egress => family.destination(),
                    Direction::Ingress => family.source(),
                });
                peers.push(Expression::Require { set: set.clone().into(), key: FIRST });
                (peers, service.render(Some(family)))
            }
        };
        let rule = |service| [peers.clone(), service, vec![Expression::Return]].concat();
        services.into_iter().map(rule).collect()
    }
}

impl Service {
    /// Each of `family` only, where peers are.
    fn render(&self, family: Option<Family>) -> Vec<Vec<Expression>> {
        match self {
            Service::Everything => {
                let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
                let ports = all.map(|one| protocol(number(one)).to_vec());
                let families = [Family::V4, Family::V6].into_iter();
                let echoes = families.filter(|one| family.is_none_or(|only| only == *one));
                let echoes = echoes.map(|family| {
                    let [icmp, asks] = family.echo();
                    let kind = [Expression::IcmpType(FIRST), compare(Operator::Equal, [asks])];
                    [family.only(), protocol(icmp), kind].concat()
                });
                ports.into_iter().chain(echoes).collect()
            }
            Service::Ports(asked, ranges) => ranges
                .iter()
                .map(|range| [&protocol(number(*asked))[..], &port_in(*range)].concat())
                .collect(),
        }
    }
}

/// Where the packet goes; nothing is asked about a range that holds all.
fn port_in((first, last): (u16, u16)) -> Vec<Expression> {
    let ends = match (first, last) {
        (0, u16::MAX) => return Vec::new(),
        _ if first == last => vec![compare(Operator::Equal, first.to_be_bytes())],
        _ => vec![
            compare(Operator::AtLeast, first.to_be_bytes()),
            compare(Operator::AtMost, last.to_be_bytes()),
        ],
    };
    [vec![Expression::DestinationPort(FIRST)], ends].concat()
}

impl Members {
    fn family(&self) -> Family {
        match self {
            Members::Addresses(family, _)
            | Members::Ranges(family, _)
            | Members::Ports(family, _) => *family,
        }
    }

    fn render(&self) -> (Declaration, BTreeSet<Element>) {
        let key = self.family().kind();
        let address = |address: &IpAddr| Field::Address(*address);
        match self {
            Members::Addresses(_, members) => {
                let members = members.iter().map(|one| Element::member(vec![address(one)]));
                (Declaration::set(vec![key]), members.collect())
            }
            Members::Ranges(_, ranges) => {
                let between = |(first, last): &(IpAddr, IpAddr)| {
                    Field::Between(Box::new(address(first)), Box::new(address(last)))
                };
                let members = ranges.iter().map(|range| Element::member(vec![between(range)]));
                (
                    Declaration { is_interval: true, ..Declaration::set(vec![key]) },
                    members.collect(),
                )
            }
            Members::Ports(_, members) => {
                let members = members.iter().map(|(at, protocol, port)| {
                    Element::member(vec![
                        address(at),
                        Field::Protocol(*protocol),
                        Field::Port(*port),
                    ])
                });
                (Declaration::set(vec![key, Kind::Protocol, Kind::Port]), members.collect())
            }
        }
    }
}

#[cfg(test)]
mod tests;
