//! What the cluster's state adds to the rules: plans of parts, and the way from one to the next (pure).
//!
//! A part (Services, policies) hands the owner a whole [`PartPlan`], and later another or only what is to change
//! ([`PlanChange`]), and is answered when it is in force. The kernel is changed in one transaction over nfnetlink, which
//! names nothing that stays.
//!
//! How a part reaches packets: the skeleton calls its *slots*, chains that are empty until a plan names them. Every
//! other name in a plan begins with the part's prefix, so parts never meet each other or the skeleton, and what an earlier
//! daemon left under the prefix can be told from what is wanted.
//!
//! After a start the kernel still holds the last plan of the daemon before. Nothing of it is touched until the
//! first new plan comes; that one replaces everything under the prefix, in one transaction after its frame, whose rules
//! are the same as before. A transaction that fails changes nothing, and the next plan again replaces everything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};

use super::Protocol;
use super::nfnetlink::ProgramChanges;
use super::program::{Declaration, Program};
use super::ruleset::{
    Counted, Element, ElementChanges, Elements, Field, Present, Set, SetName, Transaction, diff,
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
    /// The frame: rules in nft's JSON (`expression`), each a list of expressions, and the sets that they name. It says what
    /// does not change as long as the daemon lives, and names no program.
    pub chains: BTreeMap<String, Vec<Value>>,
    pub sets: BTreeMap<SetName, Set>,
    pub elements: Elements,
    /// What nft cannot say, or what changes.
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
    fn declares(&self, set: &str) -> bool {
        self.sets.contains_key(set) || self.declarations.contains_key(set)
    }

    /// The names of all that is in force with it.
    pub fn present(&self) -> Present {
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
        if !addresses.is_empty() {
            let told = self.telling_of(addresses);
            self.change(&PlanChange::removing(told));
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

/// From one plan to the next with the same frame: what both hold is not named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanChange {
    pub programs: ProgramChanges,
    pub flows_gone: BTreeSet<Flow>,
    pub flows_new: BTreeSet<Flow>,
}

impl PlanChange {
    /// Nothing but the removal of `members`.
    pub fn removing(members: Elements) -> PlanChange {
        let members = ElementChanges { remove: members, ..ElementChanges::default() };
        let programs = ProgramChanges { members, ..ProgramChanges::default() };
        PlanChange { programs, ..PlanChange::default() }
    }

    pub fn is_empty(&self) -> bool {
        *self == PlanChange::default()
    }

    pub fn changes_flows(&self) -> bool {
        !self.flows_gone.is_empty() || !self.flows_new.is_empty()
    }
}

impl PartPlan {
    /// Whether what is said in nft's words is the same.
    pub fn has_frame_of(&self, other: &PartPlan) -> bool {
        self.chains == other.chains && self.sets == other.sets
    }

    /// The way to `after`, which has the same frame.
    pub fn difference(&self, after: &PartPlan) -> PlanChange {
        let mut changes = replacement(&self.present(), after);
        changes.empty_sets.clear();
        changes.declare.retain(|name, _| !self.declarations.contains_key(name));
        changes.write.retain(|name, program| self.programs.get(name) != Some(program));
        changes.members = diff(&self.elements, &after.elements);
        // They go with their sets.
        changes.members.remove.retain(|name, _| after.declares(name));
        PlanChange {
            programs: changes,
            flows_gone: self.flows.difference(&after.flows).cloned().collect(),
            flows_new: after.flows.difference(&self.flows).cloned().collect(),
        }
    }

    /// Goes that way.
    pub fn change(&mut self, change: &PlanChange) {
        let PlanChange { programs, flows_gone, flows_new } = change;
        let ProgramChanges { declare, write, empty_sets: _, members, delete_sets, .. } = programs;
        for set in delete_sets {
            self.declarations.remove(set.as_str());
            self.elements.remove(set.as_str());
        }
        for chain in programs.delete_chains.iter().chain(&programs.empty_chains) {
            self.programs.remove(chain);
        }
        self.declarations.extend(declare.clone());
        self.programs.extend(write.clone());
        for (set, gone) in &members.remove {
            if let Some(members) = self.elements.get_mut(set) {
                for member in gone {
                    members.remove(member);
                }
            }
        }
        for (set, new) in &members.add {
            self.elements.entry(set.clone()).or_default().extend(new.iter().cloned());
        }
        for set in members.remove.keys() {
            if self.elements.get(set).is_some_and(BTreeSet::is_empty) {
                self.elements.remove(set);
            }
        }
        for flow in flows_gone {
            self.flows.remove(flow);
        }
        self.flows.extend(flows_new.iter().cloned());
    }

    /// Its members that tell of one of `addresses`.
    pub fn telling_of(&self, addresses: &BTreeSet<IpAddr>) -> Elements {
        let tells = |field: &Field| matches!(field, Field::Address(at) if addresses.contains(at));
        let is_told = |member: &&Element| member.key.iter().chain(&member.value).any(tells);
        let told = self.elements.iter().map(|(set, members)| {
            (set.clone(), members.iter().filter(is_told).cloned().collect::<BTreeSet<_>>())
        });
        told.filter(|(_, members)| !members.is_empty()).collect()
    }
}

/// What is in nft's words, for a transaction of its own or as a part of another's; `None` when there is nothing. Its
/// sets keep their members, which come and go with the programs.
pub fn frame(table: &str, after: &PartPlan) -> Option<Value> {
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
    (!frame.is_empty()).then(|| frame.finish())
}

/// What follows the frame of `after` where `present` stands, of which only the names are known: it replaces everything of
/// the part, in one transaction.
pub fn replacement(present: &Present, after: &PartPlan) -> ProgramChanges {
    let lives =
        |chain: &String| after.programs.contains_key(chain) || after.chains.contains_key(chain);
    let gone: BTreeSet<String> =
        present.chains.iter().filter(|name| !lives(name)).cloned().collect();
    let (kept, delete_sets): (BTreeSet<String>, _) =
        present.sets.keys().cloned().partition(|name| after.declares(name));
    // A set of ranges that is emptied and filled anew is empty for a moment (`ProgramChanges::apart`).
    let stays = |name: &str| present.holds(name, after.elements.get(name));
    // What rules remember is not the plan's to forget; the owner takes out what has become wrong (`Memory`).
    let is_memory =
        |name: &str| after.declarations.get(name).is_some_and(Declaration::is_written_by_rules);
    let mut members = after.elements.clone();
    members.retain(|name, _| !stays(name));
    ProgramChanges {
        declare: after.declarations.clone(),
        write: after.programs.clone(),
        empty_sets: kept.into_iter().filter(|name| !stays(name) && !is_memory(name)).collect(),
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

#[cfg(test)]
mod tests;
