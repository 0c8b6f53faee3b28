//! Puts the table back after somebody else has changed or flushed it.
//!
//! What is wrong with it is not asked: everything is written again in one transaction, which packets do not notice
//! where nothing was wrong. Until then the second guard holds (`guard`). What cannot be put back is tried again until it
//! can: what stood in the way may go without a notice, as a table does whose owner ends (`NFT_TABLE_F_OWNER`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::mpsc;

use super::{Command, Owner, door_elements};
use crate::net::netlink::Socket;
use crate::net::nfnetlink::ProgramChanges;
use crate::net::part::{self, Before, Part, PartPlan};
use crate::net::policy::{Plan, VERDICTS};
use crate::net::ruleset::{Elements, Present, RulesetPlan};
use crate::net::{NetError, Policies, guard, host_port, nfnetlink, nft, skeleton, step};

/// Somebody may be writing at the same time.
const ATTEMPTS: usize = 3;
/// After these, and twice as long after each that fails.
const FIRST_AGAIN: Duration = Duration::from_millis(100);
const LAST_AGAIN: Duration = Duration::from_secs(2);
/// Own transactions that the kernel has yet to tell of.
const REMEMBERED: usize = 64;

/// Generations of the ruleset of which one is ours each, until the kernel has told of it.
#[derive(Debug, Default)]
pub struct OwnGenerations(VecDeque<(u32, u32)>);

impl OwnGenerations {
    /// One of those after `before`, up to `last`.
    fn note(&mut self, before: u32, last: u32) {
        self.0.push_back((before.wrapping_add(1), last));
        if self.0.len() > REMEMBERED {
            self.0.pop_front();
        }
    }

    /// Whether it is ours; each is once only.
    fn recognise(&mut self, generation: u32) -> bool {
        let is_within = |(first, last): &(u32, u32)| {
            generation.wrapping_sub(*first) <= last.wrapping_sub(*first)
        };
        let place = self.0.iter().position(is_within);
        place.is_some_and(|place| self.0.remove(place).is_some())
    }
}

/// The table is not as it should be, and could not be put back so far.
#[derive(Debug)]
pub struct Broken {
    /// When it is tried again.
    due: Instant,
    pause: Duration,
    /// Another program was seen to have changed it.
    is_seen: bool,
}

impl Broken {
    /// After a try that has failed at `now`; `before` is what was known then.
    fn after(before: Option<&Broken>, is_seen: bool, now: Instant) -> Broken {
        let pause = before.map_or(FIRST_AGAIN, |before| (before.pause * 2).min(LAST_AGAIN));
        Broken { due: now + pause, pause, is_seen }
    }
}

/// One transaction through `nft`, remembered as ours.
pub fn transact(
    socket: &mut Socket,
    own: &mut OwnGenerations,
    transaction: &Value,
) -> Result<(), nft::Complaint> {
    let before = nfnetlink::generation(socket);
    nft::apply(transaction)?;
    if let (Ok(before), Ok(after)) = (before, nfnetlink::generation(socket)) {
        own.note(before, after);
    }
    Ok(())
}

/// What the kernel held before. What an earlier daemon's plans left goes on until the first plan; with nothing left, no
/// pod may send or receive.
pub fn put_in_force(
    socket: &mut Socket,
    own: &mut OwnGenerations,
    plan: &RulesetPlan,
    closed: Option<&PartPlan>,
) -> Result<Present, NetError> {
    let mut attempt = || {
        let before = nft::list(&plan.table).map_err(step("list the rules"))?;
        let before = before.as_ref().map(Present::read).unwrap_or_default();
        let whole = together(plan, &before, Vec::new(), closed);
        transact(socket, own, &whole.rules).map_err(step("put the rules in force"))?;
        let after = nft::list(&plan.table).map_err(step("list the rules"))?;
        let missing = plan.missing_in(&after.unwrap_or_default());
        if missing.is_empty() {
            return Ok(before);
        }
        let reason = format!("not in force: {}", missing.join(", "));
        Err(NetError::Step { step: "verify the rules", reason })
    };
    let outcome = (1..ATTEMPTS).find_map(|_| attempt().ok());
    outcome.map_or_else(&mut attempt, Ok).or_else(|error| {
        // A daemon that never starts leaves pods worse off than one that begins with nothing known.
        tracing::warn!(%error, "the rules that are there are of no use: they are written from scratch");
        nft::delete(&plan.table).map_err(step("remove the rules"))?;
        attempt()
    })
}

impl Owner {
    pub fn transact(&mut self, transaction: &Value) -> Result<(), nft::Complaint> {
        transact(&mut self.elements, &mut self.own, transaction)
    }

    /// The kernel tells of a transaction that touched our table, or that it lost count.
    pub fn changed(&mut self, generation: Option<u32>) {
        let is_seen = match generation {
            Some(generation) if self.own.recognise(generation) => return,
            Some(_) => true,
            // What was lost may have been our own repair.
            None if self.is_repaired() => return,
            None => !self.is_whole(),
        };
        let outcome = (1..ATTEMPTS).find_map(|_| self.restore(Over::WhatIsThere).ok());
        let outcome = outcome.map_or_else(|| self.restore(Over::WhatIsThere), Ok);
        self.restored(is_seen, outcome);
    }

    /// The next command; until it comes, what could not be put back is tried again whenever it is time.
    pub fn next(&mut self, commands: &mut mpsc::Receiver<Command>) -> Option<Command> {
        loop {
            let Some(broken) = &self.broken else {
                return commands.blocking_recv();
            };
            let wait = broken.due.saturating_duration_since(Instant::now());
            // However many commands come.
            if wait.is_zero() {
                self.try_again();
                continue;
            }
            let clock = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let clock = clock.expect("a runtime that only waits takes nothing from the system");
            let next = async { tokio::time::timeout(wait, commands.recv()).await };
            if let Ok(command) = clock.block_on(next) {
                return command;
            }
        }
    }

    fn try_again(&mut self) {
        let is_seen = self.broken.as_ref().is_some_and(|broken| broken.is_seen);
        // What stands there may be what cannot become ours, such as a set of the same name that is declared otherwise.
        let outcome = self.restore(Over::WhatIsThere).or_else(|_| self.restore(Over::Nothing));
        self.restored(is_seen, outcome);
    }

    /// Tells how a repair went, once for all that are tried for the same reason.
    fn restored(&mut self, is_seen: bool, outcome: Result<(), NetError>) {
        let before = self.broken.take();
        let is_seen = is_seen || before.as_ref().is_some_and(|before| before.is_seen);
        match outcome {
            Ok(()) if is_seen => {
                tracing::warn!(
                    "another program changed this instance's nftables table; it is put back"
                );
                self.seen.broken.send_replace(None);
                self.seen.restored.send_modify(|times| *times += 1);
            }
            // As much stands there as should, but that it is the same nobody knows.
            Ok(()) => {
                tracing::info!(
                    "notices of changed rules were lost; this instance's nftables table was written again"
                );
                self.seen.broken.send_replace(None);
            }
            Err(error) => {
                if before.is_none() {
                    tracing::error!(
                        %error,
                        "another program changed this instance's nftables table, and it cannot be put back; \
                         pods are cut off, and it is tried again every {LAST_AGAIN:?}"
                    );
                    self.seen.broken.send_replace(Some(error.to_string()));
                }
                self.broken = Some(Broken::after(before.as_ref(), is_seen, Instant::now()));
            }
        }
    }

    /// Whether nobody has written anything since the last repair.
    fn is_repaired(&mut self) -> bool {
        let now = nfnetlink::generation(&mut self.elements).ok();
        now.is_some() && now == self.repaired_at
    }

    /// Whether as much stands in the kernel as should; what exactly is not compared.
    fn is_whole(&self) -> bool {
        let Ok(Some(listing)) = nft::list(&self.table) else {
            return false;
        };
        let parts = self.parts.values().all(|before| match before {
            Before::InForce(plan) => plan.missing_in(&listing).is_empty(),
            Before::Unknown(_) => true,
        });
        parts && self.skeleton().missing_in(&listing).is_empty()
    }

    fn skeleton(&self) -> RulesetPlan {
        let mut elements = Elements::new();
        for (pod, lease) in &self.leases {
            // A pod whose namespace died with the machine has no port.
            if !self.held.has(pod) {
                continue;
            }
            let offset = self.pool.offset(lease.address).unwrap_or_default();
            for (set, members) in host_port::elements(&self.fabric.names, offset, lease) {
                elements.entry(set).or_default().extend(members);
            }
        }
        elements.extend(door_elements(&self.doors));
        skeleton::compile(&self.fabric.names, &self.surroundings, elements)
    }

    fn restore(&mut self, over: Over) -> Result<(), NetError> {
        self.repaired_at = None;
        match over {
            Over::WhatIsThere => {}
            Over::Nothing => {
                let removal = nft::removal(&self.table);
                self.transact(&removal).map_err(step("remove what stands in the way"))?;
            }
        }
        let before = nfnetlink::generation(&mut self.elements)
            .map_err(step("read the generation of the rules"))?;
        let skeleton = self.skeleton();
        let mut present = self.present()?;
        // Whether the base chains are as they were nobody knows.
        present.chains.remove(&skeleton.mark());
        let closed = closed(self.policies, self.seen.log_group);
        let plans = self.parts.iter().filter_map(|(part, before)| match before {
            Before::InForce(plan) => Some((*part, plan)),
            Before::Unknown(_) => None,
        });
        let whole = together(&skeleton, &present, plans.collect(), closed.as_ref());
        self.transact(&whole.rules).map_err(step("put the rules back"))?;
        let mut own = 1;
        for changes in &whole.programs {
            self.put_programs(changes)?;
            own += changes.clone().apart().len();
        }
        // More of them, and one may be a disturbance that the repair has not met.
        let after = nfnetlink::generation(&mut self.elements).ok();
        self.repaired_at = after.filter(|after| after.wrapping_sub(before) as usize <= own);
        // What only an earlier daemon knew is gone now.
        self.found = self.present()?;
        for before in self.parts.values_mut() {
            if let Before::Unknown(present) = before {
                present.clone_from(&self.found);
            }
        }
        guard::set(&mut self.fabric.socket, self.surroundings.pod_cidr)
            .map_err(step("guard the pods' routes"))?;
        // By the policies in force; without any nothing is denied.
        self.ender.owe();
        Ok(())
    }

    fn present(&self) -> Result<Present, NetError> {
        let listing = nft::list(&self.table).map_err(step("list the rules"))?;
        Ok(listing.as_ref().map(Present::read).unwrap_or_default())
    }
}

/// What a repair begins with.
#[derive(Debug, Clone, Copy)]
enum Over {
    /// Base chains stay, so that packets notice nothing.
    WhatIsThere,
    /// The table is removed first; meanwhile the second guard holds.
    Nothing,
}

/// What makes the table whole: rules in one transaction, then what `nft` cannot say.
pub struct Whole {
    pub rules: Value,
    pub programs: Vec<ProgramChanges>,
}

/// What stands in for a plan of policies where none is known: no pod may send or receive.
pub fn closed(policies: Policies, log_group: u16) -> Option<PartPlan> {
    match policies {
        Policies::Enforced => Some(Plan::default().render(log_group)),
        Policies::Open => None,
    }
}

/// At no instant do base chains stand without the frame of policies, which lets nobody through of whom it knows
/// nothing; what it knew before it goes on knowing. Where no plan of policies is known and none is left from before,
/// `closed` is.
pub fn together(
    skeleton: &RulesetPlan,
    present: &Present,
    plans: Vec<(Part, &PartPlan)>,
    closed: Option<&PartPlan>,
) -> Whole {
    let mut rules = skeleton.render(present);
    let mut programs = Vec::new();
    let is_known = plans.iter().any(|(part, _)| *part == Part::Policies)
        || present.sets.contains_key(VERDICTS[0]);
    let closed = closed.filter(|_| !is_known).map(|plan| (Part::Policies, plan));
    for (part, plan) in plans.into_iter().chain(closed) {
        let frame = part::frame(&skeleton.table, plan);
        let more = frame.as_ref().and_then(|frame| frame["nftables"].as_array());
        if let (Some(all), Some(more)) = (rules["nftables"].as_array_mut(), more) {
            all.extend(more.iter().cloned());
        }
        programs.push(part::replacement(&present.below(part.prefix()), plan));
    }
    Whole { rules, programs }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_put_back_is_tried_again_ever_more_seldom_but_within_seconds() {
        let now = Instant::now();
        let mut pauses = Vec::new();
        let mut broken: Option<Broken> = None;
        for _ in 0..8 {
            let after = Broken::after(broken.as_ref(), true, now);
            pauses.push((after.due - now).as_millis());
            broken = Some(after);
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 2000, 2000, 2000]);
    }

    #[test]
    fn own_transactions_are_known_once_even_when_others_wrote_meanwhile() {
        let mut own = OwnGenerations::default();
        own.note(4, 5);
        own.note(u32::MAX, 2);
        assert!(!own.recognise(4));
        assert!(own.recognise(5));
        assert!(!own.recognise(5), "whoever else makes it 5 is another");
        assert!(own.recognise(1), "of 0, 1 and 2 one is ours");
        assert!(!own.recognise(2), "and only one");
    }
}
