//! Plans of parts at the owner of the table: from the last one to the next in one transaction, or nothing of it.
//!
//! What a transition is stands in `part`; here it is carried out.

use std::collections::BTreeSet;

use super::{Owner, is_surprise};
use serde_json::Value;

use crate::net::nfnetlink::ProgramChanges;
use crate::net::part::{self, Before, Part, PartPlan, Transition};
use crate::net::ruleset::{Element, Elements, Present};
use crate::net::{NetError, conntrack, nfnetlink, nft, step};

impl Owner {
    /// Brings the part's rules to `plan`; on return they are in force, or as they were.
    pub fn put(&mut self, part: Part, plan: PartPlan) -> Result<(), NetError> {
        let strays = plan.strays(part);
        assert!(strays.is_empty(), "{part:?} names what is not its own: {strays:?}");
        let before = self.parts.remove(&part);
        let before = before.unwrap_or_else(|| Before::Unknown(self.found.clone()));
        let outcome = match part::transition(&self.table, part, &before, &plan) {
            Transition::Nothing => Ok(()),
            Transition::Elements(changes) => {
                match nfnetlink::apply(&mut self.elements, &self.table, &changes) {
                    // Somebody else changed the table: what is there counts, not what we remember.
                    Err(error) if is_surprise(&error) => self.put_anew(part, &plan),
                    outcome => outcome.map_err(step("change the part's members")),
                }
            }
            Transition::Rules(rules) => self.put_rules(rules, &before),
            Transition::Programs(changes) => {
                match nfnetlink::reprogram(&mut self.elements, &self.table, &changes) {
                    Err(error) if is_surprise(&error) => self.put_anew(part, &plan),
                    outcome => outcome.map_err(step("put the part's programs in force")),
                }
            }
            Transition::Both(rules, changes) => {
                self.put_rules(rules, &before).and_then(|()| self.put_programs(&changes))
            }
        };
        let outcome = outcome.and_then(|()| {
            let old = match &before {
                Before::InForce(before) if before.flows == plan.flows => return Ok(()),
                Before::InForce(before) => before.flows.clone(),
                Before::Unknown(_) => BTreeSet::new(),
            };
            conntrack::forget_strays(
                &mut self.elements,
                self.surroundings.service_cidr,
                &old,
                &plan.flows,
            )
            .map_err(step("forget flows to endpoints that are gone"))
        });
        let outcome = outcome.and_then(|()| self.forget_remembered(&before, &plan));
        match outcome {
            Ok(()) => {
                self.parts.insert(part, Before::InForce(plan));
                Ok(())
            }
            Err(error) => {
                // Nothing has changed, unless the answer was lost on its way. The next plan replaces everything.
                match nft::list(&self.table) {
                    Ok(listing) => {
                        let present = listing.as_ref().map(Present::read).unwrap_or_default();
                        self.parts.insert(part, Before::Unknown(present));
                    }
                    Err(_) => drop(self.parts.insert(part, before)),
                }
                Err(error)
            }
        }
    }

    /// Takes out of the maps that rules write what is no longer valid.
    fn forget_remembered(&mut self, before: &Before, plan: &PartPlan) -> Result<(), NetError> {
        for (name, declaration) in &plan.declarations {
            let Some(memory) = &declaration.memory else {
                continue;
            };
            let none = BTreeSet::new();
            let valid = plan.elements.get(memory.valid).unwrap_or(&none);
            if let Before::InForce(before) = before
                && before.elements.get(memory.valid).unwrap_or(&none).is_subset(valid)
            {
                continue;
            }
            let held = nfnetlink::list(&mut self.elements, &self.table, name, declaration)
                .map_err(step("list what is remembered"))?;
            let is_wrong = |element: &Element| {
                let meaning = element.key.iter().skip(1).chain(&element.value).cloned();
                !valid.contains(&Element::member(meaning.collect()))
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
        let before = Before::Unknown(present);
        match part::transition(&self.table, part, &before, plan) {
            Transition::Rules(rules) => self.put_rules(rules, &before),
            Transition::Programs(changes) => self.put_programs(&changes),
            Transition::Both(rules, changes) => {
                self.put_rules(rules, &before)?;
                self.put_programs(&changes)
            }
            Transition::Nothing | Transition::Elements(_) => Ok(()),
        }
    }

    fn put_rules(&mut self, rules: Value, before: &Before) -> Result<(), NetError> {
        part::apart(rules, before)
            .iter()
            .try_for_each(|transaction| self.transact(transaction))
            .map_err(step("put the part's rules in force"))
    }

    fn put_programs(&mut self, changes: &ProgramChanges) -> Result<(), NetError> {
        nfnetlink::reprogram(&mut self.elements, &self.table, changes)
            .map_err(step("put the part's programs in force"))
    }
}
