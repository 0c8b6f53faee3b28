//! Rules, sets and their members as data, and what changes between two states of them (pure).
//!
//! Everything lies in one table `inet joey_<instance>` that is entirely ours. What the base chains are and what they
//! call is `skeleton`'s; what parts such as Services put in is `part`'s.

mod present;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub use self::present::Present;
use super::Protocol;

const MARK: &str = "hooks_";

/// What stands in one place of a key, or is the value of a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    Link(String),
    Address(IpAddr),
    Mac([u8; 6]),
    Protocol(Protocol),
    Port(u16),
    /// A number that rules compute, such as a draw; travels as the host stores it.
    Number(u32),
    /// Both ends belong to it, both are of one kind. Only in sets declared with [`Set::interval`], and there every
    /// member of a set with a single field is one.
    Between(Box<Field>, Box<Field>),
    Verdict(Verdict),
}

/// What a verdict map says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Accept,
    Drop,
    /// Comes back to the rule after the map when the chain has no answer.
    Jump(String),
    Goto(String),
}

/// A member of a set (no value) or of a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    pub key: Vec<Field>,
    /// More than one field only in maps that `program` declares: nft's JSON reader (1.0.6) refuses them.
    pub value: Vec<Field>,
}

impl Element {
    pub fn member(key: Vec<Field>) -> Element {
        Element { key, value: Vec::new() }
    }

    pub fn entry(key: Vec<Field>, value: Field) -> Element {
        Element { key, value: vec![value] }
    }
}

pub type SetName = Cow<'static, str>;

/// Members by set.
pub type Elements = BTreeMap<SetName, BTreeSet<Element>>;

/// How a set or map is declared, in nft's words for types. A set that is to be declared otherwise needs another name:
/// the kernel does not redeclare, and the old one serves until the new one is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    key: Vec<&'static str>,
    value: Option<&'static str>,
    is_interval: bool,
    /// How long a member stays.
    timeout: Option<Duration>,
    /// Rules add members, so many at most.
    most: Option<u32>,
}

impl Set {
    pub fn of(key: &[&'static str]) -> Set {
        Set { key: key.to_vec(), value: None, is_interval: false, timeout: None, most: None }
    }

    pub fn map(key: &[&'static str], value: &'static str) -> Set {
        Set { value: Some(value), ..Set::of(key) }
    }

    /// Keys may be [`Field::Between`].
    pub fn interval(self) -> Set {
        Set { is_interval: true, ..self }
    }

    /// Members come while rules stand, and go by themselves after whole seconds: no plan names them, and none takes
    /// them away.
    pub fn passing(self, timeout: Duration) -> Set {
        Set { timeout: Some(timeout), ..self }
    }

    /// Rules add its members, `most` at a time: packets may not eat the kernel's memory.
    pub fn filled_by_rules(self, most: u32) -> Set {
        Set { most: Some(most), ..self }
    }

    pub fn kind(&self) -> &'static str {
        if self.value.is_some() { "map" } else { "set" }
    }

    /// The body of the command that declares it.
    pub fn declare(&self, name: &str) -> Value {
        // A list of one makes nft (1.0.6) crash.
        let mut body = match self.key.as_slice() {
            [only] => json!({"name": name, "type": only}),
            fields => json!({"name": name, "type": fields}),
        };
        if let Some(value) = self.value {
            body["map"] = json!(value);
        }
        if self.is_interval {
            body["flags"] = json!(["interval"]);
        }
        if let Some(timeout) = self.timeout {
            body["flags"] = json!(["timeout"]);
            body["timeout"] = json!(timeout.as_secs());
        }
        if let Some(most) = self.most {
            body["size"] = json!(most);
        }
        body
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    pub kind: &'static str,
    pub hook: &'static str,
    pub priority: i32,
    pub rules: Vec<Value>,
}

/// The rules that stand whatever the cluster holds: equal intent renders to equal text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulesetPlan {
    pub table: String,
    pub base: BTreeMap<&'static str, BaseChain>,
    pub chains: BTreeMap<&'static str, Vec<Value>>,
    /// Chains that others fill; a start leaves what is in them.
    pub slots: BTreeSet<&'static str>,
    pub sets: BTreeMap<&'static str, Set>,
    pub elements: Elements,
}

impl RulesetPlan {
    /// One transaction that brings the kernel, which holds `present`, to this plan. Base chains that are there stay, and
    /// so do their rules, unless another release of ours wrote them: then packets meet either the old ones or the new.
    pub fn render(&self, present: &Present) -> Value {
        let mut transaction = Transaction::of(&self.table);
        transaction.add("table", json!({"name": self.table}));
        for (name, set) in &self.sets {
            // Rules that fill a set make it dynamic, which nft's JSON (1.0.6) cannot say: declared again as it was, it
            // would be another one (EEXIST).
            if set.most.is_none() || !present.sets.contains_key(*name) {
                transaction.add(set.kind(), set.declare(name));
            }
        }
        for name in self.chains.keys().chain(&self.slots) {
            transaction.add("chain", json!({"name": name}));
        }
        let mark = self.mark();
        let is_known = present.chains.contains(&mark);
        transaction.add("chain", json!({"name": mark}));
        for (name, chain) in self.base.iter().filter(|_| !is_known) {
            if present.chains.contains(*name) {
                transaction.flush("chain", name);
                continue;
            }
            transaction.add(
                "chain",
                json!({
                    "name": name, "type": chain.kind, "hook": chain.hook,
                    "prio": chain.priority, "policy": "accept",
                }),
            );
        }
        for name in self.chains.keys() {
            transaction.flush("chain", name);
        }
        for (name, set) in self.sets.iter().filter(|(_, set)| set.timeout.is_none()) {
            transaction.flush(set.kind(), name);
        }
        for (name, chain) in self.base.iter().filter(|_| !is_known) {
            transaction.rules(name, &chain.rules);
        }
        for (name, rules) in &self.chains {
            transaction.rules(name, rules);
        }
        transaction.elements(&self.elements);
        for other in present.chains.iter().filter(|name| name.starts_with(MARK) && **name != mark) {
            transaction.delete("chain", other);
        }
        transaction.finish()
    }

    /// The name of an empty chain that says which base chains stand in the kernel.
    pub fn mark(&self) -> String {
        let base: BTreeMap<_, _> =
            self.base.iter().map(|(name, chain)| (name, &chain.rules)).collect();
        let digest = Sha256::digest(json!(base).to_string());
        let hex: String = digest[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{MARK}{hex}")
    }

    /// What of this plan is missing in `listing`, the answer to `nft -j list table`; empty when all is in force.
    pub fn missing_in(&self, listing: &Value) -> Vec<String> {
        let chains = (self.base.iter().map(|(name, chain)| (*name, chain.rules.len())))
            .chain(self.chains.iter().map(|(name, rules)| (*name, rules.len())));
        let sets = self.sets.iter().filter(|(_, set)| set.timeout.is_none());
        let sets = sets.map(|(name, _)| (*name, self.elements.get(*name).map_or(0, BTreeSet::len)));
        Counted::read(listing).missing(chains, sets)
    }
}

/// How much stands in a table.
#[derive(Debug, Default)]
pub struct Counted<'a> {
    /// Rules by chain.
    chains: BTreeMap<&'a str, usize>,
    /// Members by set.
    sets: BTreeMap<&'a str, usize>,
}

impl<'a> Counted<'a> {
    /// From the answer to `nft -j list table`.
    pub fn read(listing: &'a Value) -> Counted<'a> {
        let mut counted = Counted::default();
        for object in listing["nftables"].as_array().into_iter().flatten() {
            if let Some(name) = object["chain"]["name"].as_str() {
                counted.chains.entry(name).or_default();
            } else if let Some(name) = object["rule"]["chain"].as_str() {
                *counted.chains.entry(name).or_default() += 1;
            } else {
                for kind in ["set", "map"] {
                    if let Some(name) = object[kind]["name"].as_str() {
                        let members = object[kind]["elem"].as_array().map_or(0, Vec::len);
                        counted.sets.insert(name, members);
                    }
                }
            }
        }
        counted
    }

    /// Which of the chains and sets are not there or do not hold as much.
    pub fn missing<'b>(
        &self,
        chains: impl Iterator<Item = (&'b str, usize)>,
        sets: impl Iterator<Item = (&'b str, usize)>,
    ) -> Vec<String> {
        let chains = chains.filter(|(name, rules)| self.chains.get(name) != Some(rules));
        let sets = sets.filter(|(name, members)| self.sets.get(name) != Some(members));
        let chains = chains.map(|(name, _)| format!("chain {name}"));
        chains.chain(sets.map(|(name, _)| format!("set {name}"))).collect()
    }
}

/// The way from one set of members to another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ElementChanges {
    pub remove: Elements,
    pub add: Elements,
}

impl ElementChanges {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }
}

/// Removals come first when applied, so a key may change its value.
pub fn diff(old: &Elements, new: &Elements) -> ElementChanges {
    let minus = |left: &Elements, right: &Elements| {
        let empty = BTreeSet::new();
        left.iter()
            .map(|(name, members)| {
                let others = right.get(name).unwrap_or(&empty);
                (name.clone(), members.difference(others).cloned().collect::<BTreeSet<_>>())
            })
            .filter(|(_, members)| !members.is_empty())
            .collect()
    };
    ElementChanges { remove: minus(old, new), add: minus(new, old) }
}

/// Commands for one table, in the order in which the kernel is to take them, all or none.
pub struct Transaction {
    table: String,
    commands: Vec<Value>,
}

impl Transaction {
    pub fn of(table: &str) -> Transaction {
        Transaction { table: table.to_owned(), commands: Vec::new() }
    }

    /// Also right for what is there already, unless it was declared otherwise.
    pub fn add(&mut self, kind: &str, body: Value) {
        self.command("add", kind, body);
    }

    pub fn flush(&mut self, kind: &str, name: &str) {
        self.command("flush", kind, json!({"name": name}));
    }

    pub fn delete(&mut self, kind: &str, name: &str) {
        self.command("delete", kind, json!({"name": name}));
    }

    /// Appends to the chain.
    pub fn rules(&mut self, chain: &str, rules: &[Value]) {
        for expressions in rules {
            self.add("rule", json!({"chain": chain, "expr": expressions}));
        }
    }

    pub fn elements(&mut self, elements: &Elements) {
        self.members("add", elements);
    }

    pub fn members(&mut self, verb: &str, elements: &Elements) {
        for (name, members) in elements.iter().filter(|(_, members)| !members.is_empty()) {
            let members: Vec<_> = members.iter().map(Element::render).collect();
            self.command(verb, "element", json!({"name": name, "elem": members}));
        }
    }

    fn command(&mut self, verb: &str, kind: &str, mut body: Value) {
        body["family"] = json!("inet");
        body["table"] = json!(self.table);
        self.commands.push(json!({verb: {kind: body}}));
    }

    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// As `nft -j` reads it.
    pub fn finish(self) -> Value {
        json!({"nftables": self.commands})
    }
}

impl Element {
    fn render(&self) -> Value {
        let key = match self.key.as_slice() {
            [only] => only.render(),
            fields => json!({"concat": fields.iter().map(Field::render).collect::<Vec<_>>()}),
        };
        match self.value.as_slice() {
            [] => key,
            [only] => json!([key, only.render()]),
            fields => {
                let fields: Vec<_> = fields.iter().map(Field::render).collect();
                json!([key, {"concat": fields}])
            }
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
            Field::Number(number) => json!(number),
            Field::Between(first, last) if first == last => first.render(),
            Field::Between(first, last) => json!({"range": [first.render(), last.render()]}),
            Field::Verdict(verdict) => verdict.render(),
        }
    }
}

impl Verdict {
    fn render(&self) -> Value {
        match self {
            Verdict::Accept => json!({"accept": null}),
            Verdict::Drop => json!({"drop": null}),
            Verdict::Jump(chain) => json!({"jump": {"target": chain}}),
            Verdict::Goto(chain) => json!({"goto": {"target": chain}}),
        }
    }
}

#[cfg(test)]
mod tests;
