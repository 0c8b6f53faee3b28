//! Plans of parts at the owner of the table: from the last one to the next in one transaction, or nothing of it.
//!
//! What a transition is stands in `part`; here it is carried out.

use std::collections::BTreeSet;

use super::{Owner, is_surprise};
use crate::net::nfnetlink::ProgramChanges;
use crate::net::part::{self, Before, Part, PartPlan, PlanChange};
use crate::net::ruleset::{Element, Elements, Present};
use crate::net::{NetError, nfnetlink, nft, step};

const CHANGE: &str = "change the part's rules";

impl Owner {
    /// Brings the part's rules to `plan`; on return they are in force, or as they were.
    pub fn put(&mut self, part: Part, plan: PartPlan) -> Result<(), NetError> {
        let strays = plan.strays(part);
        assert!(strays.is_empty(), "{part:?} names what is not its own: {strays:?}");
        if let Some(change) = self.way_to(part, &plan) {
            return self.change_part(part, &change);
        }
        let present = match self.parts.remove(&part) {
            Some(Before::InForce(before)) => before.present(),
            Some(Before::Unknown(present)) => present,
            None => self.found.clone(),
        };
        if part == Part::Services {
            self.ender.expect_flows(&plan.flows);
        }
        let outcome = self.replace(part, &present, &plan);
        if part == Part::Services && outcome.is_ok() {
            self.ender.lead_all(&plan.flows);
        }
        let outcome = outcome.and_then(|()| self.forget_remembered(&plan, |_| true));
        self.settle(part, plan, outcome)
    }

    /// What is to change for `plan`, where another one with its frame is in force.
    pub fn way_to(&self, part: Part, plan: &PartPlan) -> Option<PlanChange> {
        match self.parts.get(&part)? {
            Before::InForce(before) if before.has_frame_of(plan) => Some(before.difference(plan)),
            Before::InForce(_) | Before::Unknown(_) => None,
        }
    }

    /// Changes the plan that is in force; an error where none is known.
    pub fn change_part(&mut self, part: Part, change: &PlanChange) -> Result<(), NetError> {
        let before = match self.parts.remove(&part) {
            Some(Before::InForce(before)) => before,
            other => {
                self.parts.extend(other.map(|other| (part, other)));
                let reason = "which ones are in force is not known".to_owned();
                return Err(NetError::Step { step: CHANGE, reason });
            }
        };
        let mut plan = before;
        plan.change(change);
        if change.is_empty() {
            return self.settle(part, plan, Ok(()));
        }
        self.ender.expect_flows(&change.flows_new);
        let outcome = match nfnetlink::reprogram(&mut self.elements, &self.table, &change.programs)
        {
            // Somebody else changed the table: what is there counts, not what we remember.
            Err(error) if is_surprise(&error) => self.put_anew(part, &plan),
            outcome => outcome.map_err(step(CHANGE)),
        };
        if change.changes_flows() && outcome.is_ok() {
            self.ender.lead(&change.flows_gone, &change.flows_new);
        }
        let gone = &change.programs.members.remove;
        let outcome =
            outcome.and_then(|()| self.forget_remembered(&plan, |set| gone.contains_key(set)));
        self.settle(part, plan, outcome)
    }

    /// Remembers what is in force now.
    fn settle(
        &mut self,
        part: Part,
        plan: PartPlan,
        outcome: Result<(), NetError>,
    ) -> Result<(), NetError> {
        let known = match &outcome {
            Ok(()) => Before::InForce(plan),
            // Nothing has changed, unless the answer was lost on its way. The next plan replaces everything.
            Err(_) => match nft::list(&self.table) {
                Ok(listing) => {
                    Before::Unknown(listing.as_ref().map(Present::read).unwrap_or_default())
                }
                Err(_) => Before::Unknown(plan.present()),
            },
        };
        self.parts.insert(part, known);
        outcome
    }

    /// Takes out of the maps that rules write what is no longer valid, if the set that says so may have become smaller.
    fn forget_remembered(
        &mut self,
        plan: &PartPlan,
        is_smaller: impl Fn(&str) -> bool,
    ) -> Result<(), NetError> {
        for (name, declaration) in &plan.declarations {
            let memory = declaration.memory.as_ref().filter(|memory| is_smaller(memory.valid));
            let Some(memory) = memory else {
                continue;
            };
            let none = BTreeSet::new();
            let valid = plan.elements.get(memory.valid).unwrap_or(&none);
            let held = nfnetlink::list(&mut self.elements, &self.table, name, declaration)
                .map_err(step("list what is remembered"))?;
            let is_wrong = |Element { key, value }: &Element| {
                let meaning = value.iter().skip(1).chain(key.iter().rev().skip(1).rev());
                !valid.contains(&Element::member(meaning.cloned().collect()))
            };
            let wrong = held.into_iter().filter(is_wrong).collect();
            let wrong = Elements::from([(name.clone(), wrong)]);
            nfnetlink::remove(&mut self.elements, &self.table, &wrong)
                .map_err(step("forget what is remembered"))?;
        }
        Ok(())
    }

    fn put_anew(&mut self, part: Part, plan: &PartPlan) -> Result<(), NetError> {
        let listing = nft::list(&self.table).map_err(step("list the rules"))?;
        let present = listing.as_ref().map(Present::read).unwrap_or_default();
        self.replace(part, &present, plan)
    }

    /// Puts all of `plan` where `present` stands.
    fn replace(&mut self, part: Part, present: &Present, plan: &PartPlan) -> Result<(), NetError> {
        if let Some(frame) = part::frame(&self.table, plan) {
            self.transact(&frame).map_err(step("put the part's rules in force"))?;
        }
        let changes = part::replacement(&present.below(part.prefix()), plan);
        self.put_programs(&changes)
    }

    pub fn put_programs(&mut self, changes: &ProgramChanges) -> Result<(), NetError> {
        nfnetlink::reprogram(&mut self.elements, &self.table, changes)
            .map_err(step("put the part's programs in force"))
    }
}
