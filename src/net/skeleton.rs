//! The rules of an instance that stand whatever the cluster holds (pure).
//!
//! Base chains hold nothing but jumps and are made once, with the table: deleting and re-creating one lets denied
//! packets through even inside a transaction. All that may change lies in regular chains, sets and maps.
//!
//! ```text
//! prerouting raw      guard_hook    from our ports ──▶ guard     source known? destination sane?
//!                                   from the pod range, but not from our ports ──▶ impostors
//! prerouting dstnat   inbound_hook  from our ports ──▶ SERVICES_NAT; to a local address ▶ to_host: SERVICES_NODE, host_ports
//! prerouting -50      admit_hook    from our ports ▶ admitted, with what ends translated TCP ──▶ endings; from our ports,
//!                                   to pods ▶ marked as seen (`guard`), once all is translated
//! output     dstnat   local_hook    any ──▶ SERVICES_NAT; to a local address, not 127/8 ▶ to_host
//! input      filter   node_hook     from our ports ──▶ node      POLICY_EGRESS, and what of the host pods may reach
//! forward    filter   forward_hook  from our ports ▶ from_pods, with POLICY_EGRESS; from there to our ports ▶ between_pods,
//!                                   with POLICY_INGRESS, too; to our ports ▶ to_pods, with POLICY_INGRESS; to the
//!                                   service range ▶ unserved; else ▶ transit
//! output     filter   output_hook   to the service range ▶ unserved; to our ports ▶ to_ports, with POLICY_INGRESS
//! postrouting srcnat  outbound_hook from the pod range ▶ outbound
//! ```
//! Chains in capitals are slots: empty here, filled by a part (`part`), and left alone when the skeleton is replaced.
//! A port leads to one pod, so port, address and hardware address together prove which pod a packet came from.
//!
//! Every packet of a pod passes three of these chains, and each expression there takes a few nanoseconds: what most packets
//! are is asked first, and nothing is asked twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::expression::{
    counted, ip, jump, matches, meta, payload, prefix, rule, translate, verdict,
};
use super::names::{GUARD_MARK, LINKS_OF_ALL, Names, PROBE_MARK, PROXY_MARK};
use super::part::{self, LIMITS, POLICY_EGRESS, POLICY_INGRESS, SERVICES_NAT, SERVICES_NODE};
use super::ruleset::{BaseChain, Elements, RulesetPlan, Set};
use crate::model::cidr::Cidr;

/// Where no pod has business: the host's own loopback, and link-local addresses, where clouds keep credentials.
const NEVER_TO: [(&str, u8); 2] = [("127.0.0.0", 8), ("169.254.0.0", 16)];

pub const SOURCES: &str = "sources";
/// A port of the host on every address, or on one ("at"), leads to an address and a port. Two maps each, since nft's
/// JSON reader (1.0.6) refuses a map whose values are concatenations.
pub const HOST_PORTS: [&str; 2] = ["host_ports_address", "host_ports_port"];
pub const HOST_PORTS_AT: [&str; 2] = ["host_ports_at_address", "host_ports_at_port"];
/// Ports at which the daemon serves pods at the host's own addresses, as the ingress does.
pub const DOORS: &str = "doors";
/// Pods by address, twice: the pairs whose packets come back to where they came from.
pub const HAIRPIN: &str = "hairpin";
/// What answers of a flow that policies have ended would look like: protocol, address and port of who answers, address
/// and port of whom they go to.
pub const ENDED: &str = "ended";
/// So long an answer is one. Datagrams have no beginning: one that is late would begin a flow the other way, and in its
/// name the ended one would go on. Neither side can have it longer than an address rests.
pub const ENDED_FOR: Duration = Duration::from_secs(60);

/// Clients of which a pod behind a Service has just refused a connection.
const REFUSED: &str = "refused";
/// A client sends its SYN again after a second (RFC 6298), and is to be told when that one is refused, too.
const REFUSED_ONCE: Duration = Duration::from_secs(3);
/// So many of them at a time; those beyond are told at once.
const REFUSALS: u32 = 16_384;
/// Ports of pods behind a Service on which something has just listened: a connection ended there.
const ANSWERING: &str = "answering";
/// What has not listened for so long has not just died. An ending process closes its connections, so that those it had count,
/// and nothing needs to be remembered when one is made.
const ANSWERED_LATELY: Duration = Duration::from_secs(10);
/// So many of them at a time; a refusal of those beyond is told at once.
const ANSWERERS: u32 = 16_384;

/// What rules depend on beside the pods themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    pub pod_cidr: Cidr,
    pub service_cidr: Cidr,
    pub gateway: IpAddr,
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
    let range =
        |cidr: Cidr| json!({"prefix": {"addr": cidr.address().to_string(), "len": cidr.prefix()}});
    let pods = range(surroundings.pod_cidr);
    let to_services = || matches("==", ip("daddr"), range(surroundings.service_cidr));
    // Two comparisons and no set of names: one with a wildcard is a set of ranges, which is empty at the beginning of a
    // commit that writes the rule again (`ProgramChanges::apart`).
    let not_ours = || matches("!=", meta("iifname"), json!(ours));
    let not_loop = || matches("!=", meta("iifname"), json!("lo"));
    let not_loopback = || matches("!=", ip("daddr"), prefix(NEVER_TO[0]));
    let seen =
        || json!({"mangle": {"key": meta("mark"), "value": {"|": [meta("mark"), GUARD_MARK]}}});
    let base = |kind, hook, priority, rules| BaseChain { kind, hook, priority, rules };

    let base = BTreeMap::from([
        (
            "guard_hook",
            base(
                "filter",
                "prerouting",
                -300,
                vec![
                    // Nobody comes back from there.
                    rule([from_ours(), jump("guard")]),
                    rule([matches("==", ip("saddr"), pods.clone()), not_loop(), jump("impostors")]),
                ],
            ),
        ),
        (
            "inbound_hook",
            base(
                "nat",
                "prerouting",
                -100,
                vec![
                    rule([from_ours(), jump(SERVICES_NAT)]),
                    // No port of the host is there; whether an address is the host's takes a look at its routes.
                    rule([
                        matches("==", ip("daddr"), pods.clone()),
                        matches("!=", ip("daddr"), json!(surroundings.gateway.to_string())),
                        verdict("accept"),
                    ]),
                    rule([to_local(), jump("to_host")]),
                ],
            ),
        ),
        (
            "admit_hook",
            base(
                "filter",
                "prerouting",
                -50,
                vec![
                    rule([from_ours(), jump("admitted")]),
                    rule([matches("==", ip("daddr"), pods.clone()), seen()]),
                ],
            ),
        ),
        // To 127.0.0.0/8 a translated packet would carry a loopback source out to a pod, which the kernel
        // allows only with route_localnet, the hole of CVE-2020-8558: there a hostPort refuses the connection.
        (
            "local_hook",
            base(
                "nat",
                "output",
                -100,
                vec![
                    rule([jump(SERVICES_NAT)]),
                    rule([not_loopback(), to_local(), jump("to_host")]),
                ],
            ),
        ),
        (
            "node_hook",
            base(
                "filter",
                "input",
                -5,
                vec![
                    rule([from_ours(), jump("node")]),
                    rule([
                        matches("==", ip("daddr"), json!(surroundings.gateway.to_string())),
                        not_ours(),
                        not_loop(),
                        jump("strangers"),
                    ]),
                ],
            ),
        ),
        (
            "forward_hook",
            base(
                "filter",
                "forward",
                -5,
                vec![
                    rule([from_ours(), jump("from_pods")]),
                    rule([to_ours(), jump("to_pods")]),
                    rule([to_services(), jump("unserved")]),
                    rule([jump("transit")]),
                ],
            ),
        ),
        (
            "output_hook",
            base(
                "filter",
                "output",
                -5,
                vec![rule([to_services(), jump("unserved")]), rule([to_ours(), jump("to_ports")])],
            ),
        ),
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
    // Of TCP a beginning is a beginning (`policy::plan::Chain`).
    let late = || {
        let answer = json!({"concat": [
            meta("l4proto"), ip("saddr"), payload("th", "sport"), ip("daddr"), payload("th", "dport"),
        ]});
        rule([
            matches("!=", meta("l4proto"), json!("tcp")),
            matches("==", answer, json!(format!("@{ENDED}"))),
            counted(),
            verdict("drop"),
        ])
    };
    let mut chains = BTreeMap::from([
        (
            "guard",
            vec![
                rule([
                    matches(
                        "!=",
                        json!({"concat": [meta("iifname"), ip("saddr"), payload("ether", "saddr")]}),
                        json!(format!("@{SOURCES}")),
                    ),
                    counted(),
                    verdict("drop"),
                ]),
                // What is said of addresses concerns IPv4 only. Most packets go to pods and to Services.
                rule([matches("==", ip("daddr"), pods.clone()), verdict("accept")]),
                rule([to_services(), verdict("accept")]),
                never_to(NEVER_TO[0]),
                never_to(NEVER_TO[1]),
                rule([matches("!=", meta("nfproto"), json!("ipv4")), counted(), verdict("drop")]),
                rule([verdict("accept")]),
            ],
        ),
        ("to_host", vec![rule([jump(SERVICES_NODE)]), rule([jump("host_ports")])]),
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
        ("node", node_rules(established(), invalid(), late())),
        (
            "admitted",
            vec![
                rule([
                    matches("in", payload("tcp", "flags"), json!(["fin", "rst"])),
                    is_translated(),
                    jump("endings"),
                ]),
                rule([seen(), verdict("accept")]),
            ],
        ),
        ("endings", ending_rules()),
        ("refusals", refusal_rules()),
        // The gateway's address is the pods'; a neighbour who routes to it meets nobody.
        // A neighbour that says it is a pod would be let in by the policies that let that pod in.
        ("impostors", vec![rule([counted(), verdict("drop")])]),
        ("strangers", vec![established(), rule([counted(), verdict("drop")])]),
        // Whatever had an endpoint was translated before it came here.
        ("unserved", refuse("port-unreachable")),
        (
            "from_pods",
            vec![
                established(),
                rule([to_ours(), jump("between_pods")]),
                rule([to_services(), jump("unserved")]),
                invalid(),
                late(),
                // A pod that is gone: its address must not be looked for outside.
                rule([
                    matches("==", ip("daddr"), pods.clone()),
                    json!({"reject": {"type": "icmpx", "expr": "host-unreachable"}}),
                ]),
                rule([jump(LIMITS)]),
                rule([jump(POLICY_EGRESS)]),
                rule([verdict("accept")]),
            ],
        ),
        (
            "between_pods",
            vec![
                invalid(),
                late(),
                rule([jump(LIMITS)]),
                rule([jump(POLICY_EGRESS)]),
                rule([jump(POLICY_INGRESS)]),
                rule([verdict("accept")]),
            ],
        ),
        (
            "to_pods",
            vec![
                established(),
                invalid(),
                // From outside only what a hostPort or a Service let in; nobody routes to pods by their addresses.
                rule([
                    matches("!", json!({"ct": {"key": "status"}}), json!("dnat")),
                    counted(),
                    verdict("drop"),
                ]),
                rule([jump(POLICY_INGRESS)]),
                rule([verdict("accept")]),
            ],
        ),
        // A pod that reaches itself leaves by the link it came in by, for good reason; telling it of a "shorter way"
        // would make it try.
        (
            "to_ports",
            vec![
                rule([matches("==", payload("icmp", "type"), json!("redirect")), verdict("drop")]),
                established(),
                // Whether a pod is well, the node may always ask, and the ingress has asked policies itself; the node's
                // other packets are a neighbour's. The flow keeps the mark, so that whoever ends flows spares it.
                exempt(PROBE_MARK),
                exempt(PROXY_MARK),
                late(),
                rule([jump(POLICY_INGRESS)]),
            ],
        ),
        (
            "outbound",
            vec![
                rule([matches("!=", meta("oifname"), json!(ours)), json!({"masquerade": null})]),
                // A pod that reaches itself through its hostPort or a Service would take its own address for a forgery.
                rule([
                    is_translated(),
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

    let port: &[&str] = &["inet_proto", "inet_service"];
    let port_at: &[&str] = &["ipv4_addr", "inet_proto", "inet_service"];
    let ended = &["inet_proto", "ipv4_addr", "inet_service", "ipv4_addr", "inet_service"];
    let sets = BTreeMap::from([
        (SOURCES, Set::of(&["ifname", "ipv4_addr", "ether_addr"])),
        (HOST_PORTS[0], Set::map(port, "ipv4_addr")),
        (HOST_PORTS[1], Set::map(port, "inet_service")),
        (HOST_PORTS_AT[0], Set::map(port_at, "ipv4_addr")),
        (HOST_PORTS_AT[1], Set::map(port_at, "inet_service")),
        (HAIRPIN, Set::of(&["ipv4_addr", "ipv4_addr"])),
        (DOORS, Set::of(port)),
        (ENDED, Set::of(ended).passing(ENDED_FOR)),
        (
            REFUSED,
            Set::of(&["ipv4_addr", "inet_service"]).passing(REFUSED_ONCE).filled_by_rules(REFUSALS),
        ),
        (
            ANSWERING,
            Set::of(&["ipv4_addr", "inet_service"])
                .passing(ANSWERED_LATELY)
                .filled_by_rules(ANSWERERS),
        ),
    ]);
    let slots = part::SLOTS.iter().copied().collect();
    RulesetPlan { table: names.table(), base, chains, slots, sets, elements }
}

fn is_translated() -> Value {
    matches("in", json!({"ct": {"key": "status"}}), json!("dnat"))
}

fn never_to(range: (&str, u8)) -> Value {
    rule([matches("==", ip("daddr"), prefix(range)), counted(), verdict("drop")])
}

fn exempt(mark: u32) -> Value {
    rule([
        matches("==", meta("mark"), json!(mark)),
        json!({"mangle": {"key": {"ct": {"key": "mark"}}, "value": mark}}),
        verdict("accept"),
    ])
}

/// At once, so that nobody waits; a reset for TCP, since some clients retry on anything else.
fn refuse(icmp: &str) -> Vec<Value> {
    vec![
        rule([
            matches("==", meta("l4proto"), json!("tcp")),
            json!({"reject": {"type": "tcp reset"}}),
        ]),
        rule([json!({"reject": {"type": "icmpx", "expr": icmp}})]),
    ]
}

/// Of what ends translated TCP, all but a refusal say that something listens; a client's reset, if it was
/// connected.
fn ending_rules() -> Vec<Value> {
    let is_reset = || matches("in", payload("tcp", "flags"), json!("rst"));
    let from_client = || matches("==", json!({"ct": {"key": "direction"}}), json!("original"));
    vec![
        // A full set ends the rule that adds to it, so verdicts stand by themselves.
        rule([from_client(), is_reset(), is_established(), listens("daddr", "dport")]),
        rule([from_client(), verdict("return")]),
        rule([is_reset(), json!({"goto": {"target": "refusals"}})]),
        rule([listens("saddr", "sport")]),
    ]
}

/// Both sides have said something.
fn is_established() -> Value {
    matches("in", json!({"ct": {"key": "status"}}), json!("assured"))
}

/// Remembers that something listens at the packet's one end or the other.
fn listens(address: &str, port: &str) -> Value {
    let at = json!({"concat": [ip(address), payload("tcp", port)]});
    json!({"set": {"op": "update", "elem": at, "set": format!("@{ANSWERING}")}})
}

/// A process that has just died refuses what was on its way to it; that nobody is led to it any more is in the rules
/// milliseconds later. So the first refusal of a translated connection is kept from the client: it tries again after a
/// second, connection tracking has forgotten the first try by then, and it is led to another pod, or to this one if that
/// is back. The second refusal is told, and so is the first where nothing has listened lately: there nothing has died, and
/// a wrong `targetPort` is not to look like a slow Service.
fn refusal_rules() -> Vec<Value> {
    let server = json!({"concat": [ip("saddr"), payload("tcp", "sport")]});
    let client = || json!({"concat": [ip("daddr"), payload("tcp", "dport")]});
    vec![
        // What is lost is lost.
        rule([is_established(), listens("saddr", "sport")]),
        rule([is_established(), verdict("return")]),
        rule([matches("!=", server, json!(format!("@{ANSWERING}"))), verdict("return")]),
        rule([matches("==", client(), json!(format!("@{REFUSED}"))), verdict("return")]),
        rule([
            json!({"set": {"op": "add", "elem": client(), "set": format!("@{REFUSED}")}}),
            counted(),
            verdict("drop"),
        ]),
    ]
}

fn node_rules(established: Value, invalid: Value, late: Value) -> Vec<Value> {
    let mut rules = vec![
        established,
        invalid,
        late,
        rule([jump(LIMITS)]),
        rule([jump(POLICY_EGRESS)]),
        rule([matches("==", payload("icmp", "type"), json!("echo-request")), verdict("accept")]),
    ];
    // Translated to the host: a Service whose endpoint it is, such as the API and DNS at the gateway's address.
    rules.push(rule([
        matches("in", json!({"ct": {"key": "status"}}), json!("dnat")),
        verdict("accept"),
    ]));
    let door = json!({"concat": [meta("l4proto"), payload("th", "dport")]});
    rules.push(rule([matches("==", door, json!(format!("@{DOORS}"))), verdict("accept")]));
    rules.extend(refuse("admin-prohibited"));
    rules
}

#[cfg(test)]
mod tests;
