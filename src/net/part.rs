//! What the cluster's state adds to the rules: plans of parts, and the way from one to the next (pure).
//!
//! A part (Services, policies) hands the owner a whole [`PartPlan`] whenever its facts change, and is answered when it is
//! in force. The owner compares with the last one and changes the kernel in one transaction: over nfnetlink when only
//! programs and members of sets differ, through `nft` when chains or declarations in its words do. So a plan may be
//! compiled from scratch each time and costs only what is different.
//!
//! How a part reaches packets: the skeleton calls its *slots*, chains that are empty until a plan names them. Every
//! other name in a plan begins with the part's prefix, so parts never meet each other or the skeleton, and what an earlier
//! daemon left under the prefix can be told from what is wanted.
//!
//! After a start the kernel still holds the last plan of the daemon before. Nothing of it is touched until the
//! first new plan comes; that one replaces everything under the prefix, in one transaction. A transaction that fails
//! changes nothing, and the next plan again replaces everything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};

use super::Protocol;
use super::nfnetlink::ProgramChanges;
use super::program::{Declaration, Program};
use super::ruleset::{
    Counted, ElementChanges, Elements, Field, Present, Set, SetName, Transaction, diff,
};

/// To what only pods and the host may reach; `nat`, from both.
pub const SERVICES_NAT: &str = "services_nat";
/// To addresses of the host; `nat`, from everywhere.
pub const SERVICES_NODE: &str = "services_node";

/// What pods send where conntrack knows no flow, to whomever.
pub const POLICY_EGRESS: &str = "policy_egress";
/// What is sent to pods where conntrack knows no flow, by whomever but the node's probes.
pub const POLICY_INGRESS: &str = "policy_ingress";

/// What pods begin, to whomever, before policies are asked.
pub const LIMITS: &str = "limits_flows";

/// Chains that the skeleton calls and parts fill.
pub const SLOTS: &[&str] = &[LIMITS, POLICY_EGRESS, POLICY_INGRESS, SERVICES_NAT, SERVICES_NODE];

/// Who hands in plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Services,
    Policies,
    /// The owner's own: what one pod may take from all.
    Limits,
}

impl Part {
    /// What the names of all its chains and sets begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Part::Services => "services_",
            Part::Policies => "policy_",
            Part::Limits => "limits_",
        }
    }
}

/// Everything a part wants in the kernel: equal intent gives equal plans.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartPlan {
    /// Rules in nft's JSON (`expression`), each a list of expressions. In a plan that has programs, too, they stand for
    /// what never changes, and name no program; nor does a set that they name have members before the programs are there.
    pub chains: BTreeMap<String, Vec<Value>>,
    pub sets: BTreeMap<SetName, Set>,
    pub elements: Elements,
    /// For what nft cannot say, or what changes often.
    pub programs: BTreeMap<String, Program>,
    pub declarations: BTreeMap<SetName, Declaration>,
    /// Where translated flows without connections may lead. Those that lead elsewhere are forgotten, so that a client
    /// that keeps sending finds those who serve now.
    pub flows: BTreeSet<Flow>,
}

/// Datagrams to a Service and who answers them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    pub protocol: Protocol,
    /// `None`: any address of the host.
    pub to: Option<IpAddr>,
    pub port: u16,
    pub backend: IpAddr,
}

impl PartPlan {
    fn has_programs(&self) -> bool {
        !self.programs.is_empty() || !self.declarations.is_empty()
    }

    fn declares(&self, set: &str) -> bool {
        self.sets.contains_key(set) || self.declarations.contains_key(set)
    }

    /// The names of all that is in force with it.
    fn present(&self) -> Present {
        let sets = self.sets.iter().map(|(name, set)| (name.to_string(), set.kind()));
        let declared = self.declarations.iter();
        let declared = declared.map(|(name, set)| (name.to_string(), set.kind()));
        Present {
            chains: self.chains.keys().chain(self.programs.keys()).cloned().collect(),
            sets: sets.chain(declared).collect(),
            ..Present::default()
        }
    }

    /// The plan without any member that tells of one of `addresses`.
    pub fn without(mut self, addresses: &BTreeSet<IpAddr>) -> PartPlan {
        let tells = |field: &Field| matches!(field, Field::Address(at) if addresses.contains(at));
        if !addresses.is_empty() {
            for members in self.elements.values_mut() {
                members.retain(|member| !member.key.iter().chain(&member.value).any(tells));
            }
            self.elements.retain(|_, members| !members.is_empty());
        }
        self
    }

    /// What of this plan is missing in `listing`, the answer to `nft -j list table`; empty when as much stands there. What
    /// rules remember by themselves is not counted.
    pub fn missing_in(&self, listing: &Value) -> Vec<String> {
        let chains = self.chains.iter().map(|(name, rules)| (name.as_str(), rules.len()));
        let programs = self.programs.iter().map(|(name, rules)| (name.as_str(), rules.len()));
        let remembers = |name: &SetName| {
            self.declarations.get(name).is_some_and(Declaration::is_written_by_rules)
        };
        let sets = self.sets.keys().chain(self.declarations.keys());
        let sets = sets
            .filter(|name| !remembers(name))
            .map(|name| (name.as_ref(), self.elements.get(name).map_or(0, BTreeSet::len)));
        Counted::read(listing).missing(chains.chain(programs), sets)
    }

    /// Names that are not the part's own, or members of sets that it does not declare: a mistake in its compiler.
    pub fn strays(&self, part: Part) -> Vec<String> {
        let is_stray = |name: &str| !name.starts_with(part.prefix());
        let chains = self.chains.keys().chain(self.programs.keys()).map(String::as_str);
        let sets = self.sets.keys().chain(self.declarations.keys()).map(|name| name.as_ref());
        let undeclared = self.elements.keys().filter(|name| !self.declares(name));
        chains
            .chain(sets)
            .filter(|name| is_stray(name))
            .chain(undeclared.map(|name| name.as_ref()))
            .map(str::to_owned)
            .collect()
    }
}

/// What is known of a part's state in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Before {
    /// This plan is in force.
    InForce(PartPlan),
    /// An earlier daemon's, or what a failure left; only names are known.
    Unknown(Present),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    Nothing,
    Elements(ElementChanges),
    /// A transaction for `nft`.
    Rules(Value),
    Programs(ProgramChanges),
    /// One after the other.
    Both(Value, ProgramChanges),
}

/// A transaction in two: what is new and nobody is led to yet, then the rest, which leads there.
///
/// In one, a packet may meet the new rules before the kernel shows it the members of a new set of ranges: those appear
/// at the end of a commit, rules at its beginning, and in between what is allowed is denied.
pub fn apart(transaction: Value, before: &Before) -> Vec<Value> {
    let is_known = |name: &str| {
        // Whatever stood before: packets come there.
        SLOTS.contains(&name)
            || match before {
                Before::InForce(plan) => {
                    plan.chains.contains_key(name) || plan.sets.contains_key(name)
                }
                Before::Unknown(present) => {
                    present.chains.contains(name) || present.sets.contains_key(name)
                }
            }
    };
    let is_new = |command: &Value| {
        let made = command.get("add").or_else(|| command.get("flush")).and_then(Value::as_object);
        let object = made.and_then(|made| made.iter().next());
        object.is_some_and(|(kind, object)| {
            let place = if kind == "rule" { "chain" } else { "name" };
            object.get(place).and_then(Value::as_str).is_some_and(|name| !is_known(name))
        })
    };
    let commands = transaction["nftables"].as_array().cloned().unwrap_or_default();
    let (first, second): (Vec<Value>, Vec<Value>) = commands.into_iter().partition(is_new);
    let parts = [first, second].into_iter().filter(|commands| !commands.is_empty());
    parts.map(|commands| json!({ "nftables": commands })).collect()
}

/// The way from `before` to `after`.
pub fn transition(table: &str, part: Part, before: &Before, after: &PartPlan) -> Transition {
    match before {
        Before::InForce(before)
            if before.chains == after.chains
                && before.sets == after.sets
                && before.programs == after.programs
                && before.declarations == after.declarations =>
        {
            let changes = diff(&before.elements, &after.elements);
            match changes.is_empty() {
                true => Transition::Nothing,
                false => Transition::Elements(changes),
            }
        }
        Before::InForce(before) if before.chains == after.chains && before.sets == after.sets => {
            Transition::Programs(reprogram_known(before, after))
        }
        Before::InForce(before) if before.has_programs() || after.has_programs() => {
            both(table, &before.present(), after)
        }
        Before::InForce(before) => {
            let gone = before.present();
            let changed = after
                .chains
                .iter()
                .filter(|(name, rules)| before.chains.get(*name) != Some(rules))
                .map(|(name, _)| name.as_str());
            let changes = diff(&before.elements, &after.elements);
            replace(table, &gone, after, &changed.collect(), &BTreeSet::new(), &changes)
        }
        Before::Unknown(present) => {
            let present = present.below(part.prefix());
            if after.has_programs() {
                return both(table, &present, after);
            }
            let chains = after.chains.keys().map(String::as_str).collect();
            // A set of ranges that is emptied and filled anew is empty for a moment (see `apart`).
            let stays = |name: &SetName| present.holds(name, after.elements.get(name));
            let sets = after.sets.keys().filter(|name| !stays(name));
            let sets = sets.map(|name| name.as_ref()).collect();
            let mut add = after.elements.clone();
            add.retain(|name, _| !stays(name));
            let changes = ElementChanges { add, ..ElementChanges::default() };
            replace(table, &present, after, &chains, &sets, &changes)
        }
    }
}

/// `before` becomes `after`, which has the same frame: what both hold is not touched.
fn reprogram_known(before: &PartPlan, after: &PartPlan) -> ProgramChanges {
    let mut changes = reprogram(&before.present(), after);
    changes.empty_sets.clear();
    changes.declare.retain(|name, _| !before.declarations.contains_key(name));
    changes.write.retain(|name, program| before.programs.get(name) != Some(program));
    changes.members = diff(&before.elements, &after.elements);
    changes.members.remove.retain(|name, _| after.declares(name));
    changes
}

/// `present`, of which only the names are known, becomes `after`: first what is said in nft's words, whose sets keep
/// their members until the programs are written.
fn both(table: &str, present: &Present, after: &PartPlan) -> Transition {
    let changes = reprogram(present, after);
    if after.chains.is_empty() && after.sets.is_empty() {
        return Transition::Programs(changes);
    }
    let mut frame = Transaction::of(table);
    for (name, set) in &after.sets {
        frame.add(set.kind(), set.declare(name));
    }
    for name in after.chains.keys() {
        frame.add("chain", json!({"name": name}));
    }
    for name in after.chains.keys() {
        frame.flush("chain", name);
    }
    for (name, rules) in &after.chains {
        frame.rules(name, rules);
    }
    Transition::Both(frame.finish(), changes)
}

/// `present`, of which only the names are known, becomes `after`.
fn reprogram(present: &Present, after: &PartPlan) -> ProgramChanges {
    let lives =
        |chain: &String| after.programs.contains_key(chain) || after.chains.contains_key(chain);
    let gone: BTreeSet<String> =
        present.chains.iter().filter(|name| !lives(name)).cloned().collect();
    let (kept, delete_sets): (BTreeSet<String>, _) =
        present.sets.keys().cloned().partition(|name| after.declares(name));
    // A set of ranges that is emptied and filled anew is empty for a moment (`ProgramChanges::apart`).
    let stays = |name: &str| present.holds(name, after.elements.get(name));
    let mut members = after.elements.clone();
    members.retain(|name, _| !stays(name));
    ProgramChanges {
        declare: after.declarations.clone(),
        write: after.programs.clone(),
        empty_sets: kept.into_iter().filter(|name| !stays(name)).collect(),
        members: ElementChanges { add: members, ..ElementChanges::default() },
        delete_sets,
        delete_chains: gone
            .iter()
            .filter(|name| !SLOTS.contains(&name.as_str()))
            .cloned()
            .collect(),
        empty_chains: gone,
    }
}

/// `present` becomes `after`: `chains` are written anew, `sets` emptied first, then members change.
fn replace(
    table: &str,
    present: &Present,
    after: &PartPlan,
    chains: &BTreeSet<&str>,
    sets: &BTreeSet<&str>,
    changes: &ElementChanges,
) -> Transition {
    let mut transaction = Transaction::of(table);
    for (name, set) in &after.sets {
        transaction.add(set.kind(), set.declare(name));
    }
    for name in after.chains.keys() {
        transaction.add("chain", json!({"name": name}));
    }
    let gone = present.chains.iter().filter(|name| !after.chains.contains_key(*name));
    let gone: Vec<&str> = gone.map(String::as_str).collect();
    // All references go before anything that is referred to.
    for name in chains.iter().chain(&gone) {
        transaction.flush("chain", name);
    }
    for name in sets {
        transaction.flush(after.sets[*name].kind(), name);
    }
    let sets_gone: Vec<(&String, &str)> = present
        .sets
        .iter()
        .filter(|(name, _)| !after.sets.contains_key(name.as_str()))
        .map(|(name, kind)| (name, *kind))
        .collect();
    let lives = |name: &SetName| after.sets.contains_key(name);
    let mut remove = changes.remove.clone();
    remove.retain(|name, _| lives(name));
    transaction.members("delete", &remove);
    for name in chains {
        transaction.rules(name, &after.chains[*name]);
    }
    transaction.elements(&changes.add);
    for (name, kind) in sets_gone {
        transaction.delete(kind, name);
    }
    for name in gone.into_iter().filter(|name| !SLOTS.contains(name)) {
        transaction.delete("chain", name);
    }
    match transaction.is_empty() {
        true => Transition::Nothing,
        false => Transition::Rules(transaction.finish()),
    }
}

#[cfg(test)]
mod tests;
