//! The rules of an instance as data, and what changes between two states of it (pure).
//!
//! Everything lies in one table `inet joey_<instance>` that is entirely ours. Base chains hold nothing but a jump
//! (or a few) and are written once, when the table is made: deleting and re-creating one lets denied packets
//! through even inside a transaction. All that may change lies in regular chains, sets and maps.
//!
//! ```text
//! prerouting raw      guard_hook    from our ports ──▶ guard     source known? destination sane?
//! prerouting dstnat   inbound_hook  to a local address ▶ host_ports
//! output     dstnat   local_hook    to a local address, not 127/8 ▶ host_ports
//! input      filter   node_hook     from our ports ──▶ node      what of the host pods may reach
//! forward    filter   forward_hook  from / to our ports ▶ from_pods, to_pods; all else ▶ transit
//! output     filter   output_hook   to our ports ────▶ to_ports
//! postrouting srcnat  outbound_hook from the pod range ▶ outbound
//! ```
//! A port leads to one pod, so port, address and hardware address together prove which pod a packet came from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::Protocol;
use super::names::{LINKS_OF_ALL, Names};
use crate::model::cidr::Cidr;

/// Ports of the host, beside hostPorts, that pods may connect to. Empty until a service of ours wants it: the host
/// is not the pods' neighbour (ssh, the Kubernetes API and every other listener are out of their reach).
pub const NODE_PORTS_OPEN_TO_PODS: &[(Protocol, u16)] = &[];

/// Where no pod has business: the host's own loopback, and link-local addresses, where clouds keep credentials.
const NEVER_TO: [(&str, u8); 2] = [("127.0.0.0", 8), ("169.254.0.0", 16)];

pub const SOURCES: &str = "sources";
/// A port of the host on every address, or on one ("at"), leads to an address and a port. Two maps each, since nft's
/// JSON reader (1.0.6) refuses a map whose values are concatenations.
pub const HOST_PORTS: [&str; 2] = ["host_ports_address", "host_ports_port"];
pub const HOST_PORTS_AT: [&str; 2] = ["host_ports_at_address", "host_ports_at_port"];
pub const HAIRPIN: &str = "hairpin";

/// One part of a key or value in a set or map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    Link(String),
    Address(Ipv4Addr),
    Mac([u8; 6]),
    Protocol(Protocol),
    Port(u16),
}

/// A member of a set (no value) or of a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    pub key: Vec<Field>,
    pub value: Option<Field>,
}

/// Members by set.
pub type Elements = BTreeMap<&'static str, BTreeSet<Element>>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    key: &'static [&'static str],
    value: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    kind: &'static str,
    hook: &'static str,
    priority: i32,
    rules: Vec<Value>,
}

/// All rules of an instance: equal intent renders to equal text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulesetPlan {
    table: String,
    base: BTreeMap<&'static str, BaseChain>,
    chains: BTreeMap<&'static str, Vec<Value>>,
    sets: BTreeMap<&'static str, Set>,
    pub elements: Elements,
}

/// What rules depend on beside the pods themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    pub pod_cidr: Cidr,
    /// Links of the host on which we turned forwarding on; nothing but pods' traffic may profit.
    pub guarded_links: BTreeSet<String>,
}

/// The rules for `elements` amid `surroundings`.
pub fn compile(names: &Names, surroundings: &Surroundings, elements: Elements) -> RulesetPlan {
    let ours = format!("{}*", names.ports());
    let from_ours = || matches("==", meta("iifname"), json!(ours));
    let to_ours = || matches("==", meta("oifname"), json!(ours));
    let to_local = || {
        let kind = json!({"fib": {"result": "type", "flags": ["daddr"]}});
        matches("==", kind, json!("local"))
    };
    let pods = json!({"prefix": {
        "addr": surroundings.pod_cidr.address().to_string(),
        "len": surroundings.pod_cidr.prefix(),
    }});
    let base = |kind, hook, priority, rules| BaseChain { kind, hook, priority, rules };

    let base = BTreeMap::from([
        (
            "guard_hook",
            base("filter", "prerouting", -300, vec![rule([from_ours(), jump("guard")])]),
        ),
        (
            "inbound_hook",
            base("nat", "prerouting", -100, vec![rule([to_local(), jump("host_ports")])]),
        ),
        // To 127.0.0.0/8 a translated packet would carry a loopback source out to a pod, which the kernel
        // allows only with route_localnet, the hole of CVE-2020-8558: there a hostPort refuses the connection.
        (
            "local_hook",
            base(
                "nat",
                "output",
                -100,
                vec![rule([
                    to_local(),
                    matches("!=", ip("daddr"), prefix(NEVER_TO[0])),
                    jump("host_ports"),
                ])],
            ),
        ),
        ("node_hook", base("filter", "input", -5, vec![rule([from_ours(), jump("node")])])),
        (
            "forward_hook",
            base(
                "filter",
                "forward",
                -5,
                vec![
                    rule([from_ours(), jump("from_pods")]),
                    rule([to_ours(), jump("to_pods")]),
                    rule([jump("transit")]),
                ],
            ),
        ),
        ("output_hook", base("filter", "output", -5, vec![rule([to_ours(), jump("to_ports")])])),
        (
            "outbound_hook",
            base(
                "nat",
                "postrouting",
                100,
                vec![rule([matches("==", ip("saddr"), pods.clone()), jump("outbound")])],
            ),
        ),
    ]);

    let established = || {
        rule([
            matches("in", json!({"ct": {"key": "state"}}), json!(["established", "related"])),
            verdict("accept"),
        ])
    };
    let invalid = || {
        rule([
            matches("in", json!({"ct": {"key": "state"}}), json!("invalid")),
            counted(),
            verdict("drop"),
        ])
    };
    let mut chains = BTreeMap::from([
        (
            "guard",
            vec![
                rule([matches("!=", meta("nfproto"), json!("ipv4")), counted(), verdict("drop")]),
                rule([
                    matches(
                        "!=",
                        json!({"concat": [meta("iifname"), ip("saddr"), payload("ether", "saddr")]}),
                        json!(format!("@{SOURCES}")),
                    ),
                    counted(),
                    verdict("drop"),
                ]),
                rule([
                    matches("==", ip("daddr"), json!({"set": NEVER_TO.map(prefix)})),
                    counted(),
                    verdict("drop"),
                ]),
            ],
        ),
        (
            "host_ports",
            vec![
                translate(
                    json!([ip("daddr"), meta("l4proto"), payload("th", "dport")]),
                    HOST_PORTS_AT,
                ),
                translate(json!([meta("l4proto"), payload("th", "dport")]), HOST_PORTS),
            ],
        ),
        ("node", node_rules(established(), invalid())),
        (
            "from_pods",
            vec![
                established(),
                invalid(),
                // A pod that is gone: its address must not be looked for outside.
                rule([
                    matches("==", ip("daddr"), pods.clone()),
                    matches("!=", meta("oifname"), json!(ours)),
                    json!({"reject": {"type": "icmpx", "expr": "host-unreachable"}}),
                ]),
                rule([verdict("accept")]),
            ],
        ),
        (
            "to_pods",
            vec![
                established(),
                invalid(),
                // From outside only what a hostPort let in; nobody routes to pods by their addresses.
                rule([
                    matches("in", json!({"ct": {"key": "status"}}), json!("dnat")),
                    verdict("accept"),
                ]),
                rule([counted(), verdict("drop")]),
            ],
        ),
        // A pod that reaches itself leaves by the link it came in by, for good reason; telling it of a "shorter way"
        // would make it try.
        (
            "to_ports",
            vec![rule([
                matches("==", payload("icmp", "type"), json!("redirect")),
                verdict("drop"),
            ])],
        ),
        (
            "outbound",
            vec![
                rule([matches("!=", meta("oifname"), json!(ours)), json!({"masquerade": null})]),
                // A pod that reaches itself through its hostPort would take its own address for a forgery.
                rule([
                    matches(
                        "==",
                        json!({"concat": [ip("saddr"), ip("daddr")]}),
                        json!(format!("@{HAIRPIN}")),
                    ),
                    json!({"masquerade": null}),
                ]),
            ],
        ),
        ("transit", Vec::new()),
    ]);
    if !surroundings.guarded_links.is_empty() {
        let links: Vec<_> = surroundings.guarded_links.iter().collect();
        chains.insert(
            "transit",
            vec![rule([
                matches("==", meta("iifname"), json!({"set": links})),
                matches("!=", meta("oifname"), json!(format!("{LINKS_OF_ALL}*"))),
                counted(),
                verdict("drop"),
            ])],
        );
    }

    let set = |key, value| Set { key, value };
    let port: &[&str] = &["inet_proto", "inet_service"];
    let port_at: &[&str] = &["ipv4_addr", "inet_proto", "inet_service"];
    let sets = BTreeMap::from([
        (SOURCES, set(&["ifname", "ipv4_addr", "ether_addr"], None)),
        (HOST_PORTS[0], set(port, Some("ipv4_addr"))),
        (HOST_PORTS[1], set(port, Some("inet_service"))),
        (HOST_PORTS_AT[0], set(port_at, Some("ipv4_addr"))),
        (HOST_PORTS_AT[1], set(port_at, Some("inet_service"))),
        (HAIRPIN, set(&["ipv4_addr", "ipv4_addr"], None)),
    ]);
    RulesetPlan { table: names.table(), base, chains, sets, elements }
}

fn node_rules(established: Value, invalid: Value) -> Vec<Value> {
    let mut rules = vec![
        established,
        invalid,
        rule([matches("==", payload("icmp", "type"), json!("echo-request")), verdict("accept")]),
    ];
    rules.extend(NODE_PORTS_OPEN_TO_PODS.iter().map(|(protocol, port)| {
        rule([matches("==", payload(protocol.word(), "dport"), json!(port)), verdict("accept")])
    }));
    rules.push(rule([
        matches("==", meta("l4proto"), json!("tcp")),
        json!({"reject": {"type": "tcp reset"}}),
    ]));
    rules.push(rule([json!({"reject": {"type": "icmpx", "expr": "admin-prohibited"}})]));
    rules
}

impl RulesetPlan {
    /// One transaction that brings the kernel to this plan. With `is_new` false the table is there, made by an
    /// earlier daemon: its base chains stay untouched, packets meet either the old rules or the new ones.
    pub fn render(&self, is_new: bool) -> Value {
        let table = &self.table;
        let mut commands = Vec::new();
        let mut add = |what: &str, mut body: Value| {
            body["family"] = json!("inet");
            body["table"] = json!(table);
            commands.push(json!({"add": {what: body}}));
        };
        add("table", json!({"name": table}));
        for (name, set) in &self.sets {
            let mut body = json!({"name": name, "type": set.key});
            match set.value {
                None => add("set", body),
                Some(value) => {
                    body["map"] = json!(value);
                    add("map", body);
                }
            }
        }
        for name in self.chains.keys() {
            add("chain", json!({"name": name}));
        }
        if is_new {
            for (name, chain) in &self.base {
                add(
                    "chain",
                    json!({
                        "name": name, "type": chain.kind, "hook": chain.hook,
                        "prio": chain.priority, "policy": "accept",
                    }),
                );
                for expressions in &chain.rules {
                    add("rule", json!({"chain": name, "expr": expressions}));
                }
            }
        }
        let chain = |name: &str| json!({"family": "inet", "table": table, "name": name});
        for name in self.chains.keys() {
            commands.push(json!({"flush": {"chain": chain(name)}}));
        }
        for (name, set) in &self.sets {
            let kind = if set.value.is_some() { "map" } else { "set" };
            commands.push(json!({"flush": {kind: chain(name)}}));
        }
        for (name, rules) in &self.chains {
            for expressions in rules {
                let body =
                    json!({"family": "inet", "table": table, "chain": name, "expr": expressions});
                commands.push(json!({"add": {"rule": body}}));
            }
        }
        for (name, elements) in self.elements.iter().filter(|(_, elements)| !elements.is_empty()) {
            let members: Vec<_> = elements.iter().map(Element::render).collect();
            let body = json!({"family": "inet", "table": table, "name": name, "elem": members});
            commands.push(json!({"add": {"element": body}}));
        }
        json!({"nftables": commands})
    }

    pub fn table(&self) -> &str {
        &self.table
    }

    /// What of this plan is missing in `listing`, the answer to `nft -j list table`; empty when all is in force.
    pub fn missing_in(&self, listing: &Value) -> Vec<String> {
        let mut chains: BTreeMap<&str, usize> = BTreeMap::new();
        let mut elements: BTreeMap<&str, usize> = BTreeMap::new();
        for object in listing["nftables"].as_array().into_iter().flatten() {
            if let Some(name) = object["chain"]["name"].as_str() {
                chains.entry(name).or_default();
            } else if let Some(name) = object["rule"]["chain"].as_str() {
                *chains.entry(name).or_default() += 1;
            } else {
                for kind in ["set", "map"] {
                    if let Some(name) = object[kind]["name"].as_str() {
                        let members = object[kind]["elem"].as_array().map_or(0, Vec::len);
                        elements.insert(name, members);
                    }
                }
            }
        }
        let wanted_chains = (self.base.iter().map(|(name, chain)| (*name, chain.rules.len())))
            .chain(self.chains.iter().map(|(name, rules)| (*name, rules.len())));
        let wanted_sets =
            self.sets.keys().map(|name| (*name, self.elements.get(name).map_or(0, BTreeSet::len)));
        wanted_chains
            .filter(|(name, rules)| chains.get(name) != Some(rules))
            .map(|(name, _)| format!("chain {name}"))
            .chain(
                wanted_sets
                    .filter(|(name, members)| elements.get(name) != Some(members))
                    .map(|(name, _)| format!("set {name}")),
            )
            .collect()
    }
}

/// The way from one set of members to another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ElementChanges {
    pub remove: Elements,
    pub add: Elements,
}

/// Removals come first when applied, so a key may change its value.
pub fn diff(old: &Elements, new: &Elements) -> ElementChanges {
    let minus = |left: &Elements, right: &Elements| {
        let empty = BTreeSet::new();
        left.iter()
            .map(|(name, members)| {
                let others = right.get(name).unwrap_or(&empty);
                (*name, members.difference(others).cloned().collect::<BTreeSet<_>>())
            })
            .filter(|(_, members)| !members.is_empty())
            .collect()
    };
    ElementChanges { remove: minus(old, new), add: minus(new, old) }
}

impl Element {
    fn render(&self) -> Value {
        let key: Vec<_> = self.key.iter().map(Field::render).collect();
        let key = json!({"concat": key});
        match &self.value {
            None => key,
            Some(value) => json!([key, value.render()]),
        }
    }
}

impl Field {
    fn render(&self) -> Value {
        match self {
            Field::Link(name) => json!(name),
            Field::Address(address) => json!(address.to_string()),
            Field::Mac(mac) => json!(mac.map(|byte| format!("{byte:02x}")).join(":")),
            Field::Protocol(protocol) => json!(protocol.word()),
            Field::Port(port) => json!(port),
        }
    }
}

fn rule<const N: usize>(expressions: [Value; N]) -> Value {
    Value::Array(expressions.to_vec())
}

fn matches(operator: &str, left: Value, right: Value) -> Value {
    json!({"match": {"op": operator, "left": left, "right": right}})
}

fn translate(key: Value, maps: [&str; 2]) -> Value {
    let [address, port] =
        maps.map(|map| json!({"map": {"key": {"concat": key}, "data": format!("@{map}")}}));
    rule([json!({"dnat": {"family": "ip", "addr": address, "port": port}})])
}

fn meta(key: &str) -> Value {
    json!({"meta": {"key": key}})
}

fn payload(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

fn ip(field: &str) -> Value {
    payload("ip", field)
}

fn prefix((address, length): (&str, u8)) -> Value {
    json!({"prefix": {"addr": address, "len": length}})
}

fn jump(chain: &str) -> Value {
    json!({"jump": {"target": chain}})
}

fn verdict(word: &str) -> Value {
    json!({word: null})
}

fn counted() -> Value {
    json!({"counter": {"packets": 0, "bytes": 0}})
}

#[cfg(test)]
mod tests;
