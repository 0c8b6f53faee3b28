//! The arithmetic of a rollout: how many replicas each ReplicaSet is to have next.
//!
//! Pure, on numbers alone. Two things hold whatever the numbers are: there are never more pods than desired plus
//! surge, and scaling down alone never leaves fewer available ones than desired minus unavailable. Where
//! Kubernetes counts what its ReplicaSets are told to have, we count what they may still have, too: a set
//! that has not yet obeyed holds its pods.

use std::cmp::Reverse;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// How far a rollout may depart from the desired number of replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub desired: i32,
    pub surge: i32,
    pub unavailable: i32,
}

impl Limits {
    /// Surge is rounded up and unavailability down; if nothing is left of both, one pod may be missing, for without
    /// it nothing could move.
    pub fn rolling(
        desired: i32,
        surge: Option<&IntOrString>,
        unavailable: Option<&IntOrString>,
    ) -> Limits {
        let surge = resolve(surge, desired, Rounding::Up);
        let unavailable = match (resolve(unavailable, desired, Rounding::Down), surge) {
            (0, 0) => 1,
            (unavailable, _) => unavailable,
        };
        Limits { desired, surge, unavailable: unavailable.min(desired) }
    }

    /// Everything at once, one template at a time.
    pub fn recreate(desired: i32) -> Limits {
        Limits { desired, surge: 0, unavailable: 0 }
    }

    pub fn most(self) -> i32 {
        self.desired.saturating_add(self.surge)
    }

    pub fn least_available(self) -> i32 {
        self.desired.saturating_sub(self.unavailable)
    }
}

#[derive(Clone, Copy)]
enum Rounding {
    Up,
    Down,
}

/// A number, or a percentage of `whole`; 25 % when it is not said.
fn resolve(value: Option<&IntOrString>, whole: i32, rounding: Rounding) -> i32 {
    let percent = match value {
        Some(IntOrString::Int(number)) => return (*number).max(0),
        Some(IntOrString::String(text)) => {
            text.strip_suffix('%').and_then(|text| text.parse::<i64>().ok()).unwrap_or(0)
        }
        None => 25,
    };
    let parts = i64::from(whole).saturating_mul(percent.clamp(0, 1 << 31));
    let resolved = match rounding {
        Rounding::Up => parts.saturating_add(99) / 100,
        Rounding::Down => parts / 100,
    };
    i32::try_from(resolved).unwrap_or(i32::MAX)
}

/// The numbers of one ReplicaSet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// What it is told to have.
    pub wanted: i32,
    /// What it has said it has.
    pub held: i32,
    pub available: i32,
    /// It has seen what it is told.
    pub is_settled: bool,
}

impl Size {
    /// Pods that may exist.
    fn most(self) -> i32 {
        self.wanted.max(self.held)
    }

    /// Pods that will be available once it has obeyed: it parts with others first.
    fn sure(self) -> i32 {
        self.available.min(self.wanted)
    }
}

/// How many the newest set may have now. Never fewer than it has.
pub fn grow(limits: Limits, newest: Size, old: &[Size]) -> i32 {
    let all = || old.iter().copied().chain([newest]);
    if all().any(|size| !size.is_settled) {
        return newest.wanted;
    }
    let room = limits.most().saturating_sub(total(all().map(Size::most)));
    newest.wanted + room.min(limits.desired - newest.wanted).max(0)
}

/// Sizes may be absurd; a sum of them must not become negative.
fn total(sizes: impl Iterator<Item = i32>) -> i32 {
    sizes.fold(0, i32::saturating_add)
}

/// How many each old set may keep, oldest first: pods that do not serve go before those that do.
pub fn shrink(limits: Limits, newest: Size, old: &[Size]) -> Vec<i32> {
    let mut next: Vec<i32> = old.iter().map(|size| size.wanted).collect();
    let all_wanted = total(next.iter().copied()).saturating_add(newest.wanted);
    // New pods that do not serve yet count as missing.
    let missing = newest.wanted - newest.sure();
    let mut may_go = all_wanted - limits.least_available() - missing;
    for (next, size) in next.iter_mut().zip(old) {
        let idle = (size.wanted - size.sure()).min(may_go).max(0);
        *next -= idle;
        may_go -= idle;
    }
    let available = total(old.iter().chain([&newest]).map(|size| size.sure()));
    let mut spare = (available - limits.least_available()).min(may_go);
    for next in &mut next {
        let surplus = (*next).min(spare).max(0);
        *next -= surplus;
        spare -= surplus;
    }
    next
}

/// One set that takes part in a proportional scaling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub wanted: i32,
    /// Its annotation `max-replicas`: the whole Deployment's maximum when it was last scaled.
    pub maximum_before: i32,
    /// Position by age, the oldest 0.
    pub age: usize,
}

/// Spreads a new number of replicas over all sets that have some, in proportion to their sizes, so that a rollout
/// that is under way keeps its balance. In the order of `shares`.
pub fn spread(limits: Limits, shares: &[Share]) -> Vec<i32> {
    let mut next: Vec<i32> = shares.iter().map(|share| share.wanted).collect();
    let allowed = if limits.desired > 0 { limits.most() } else { 0 };
    let change = allowed - next.iter().sum::<i32>();
    // The largest first; among equals the newest grows and the oldest shrinks first.
    let mut order: Vec<usize> = (0..shares.len()).collect();
    match change >= 0 {
        true => order.sort_by_key(|i| (Reverse(shares[*i].wanted), Reverse(shares[*i].age))),
        false => order.sort_by_key(|i| (Reverse(shares[*i].wanted), shares[*i].age)),
    }
    let mut left = change;
    for index in &order {
        let part = part(limits, shares[*index]);
        let part = if change > 0 { part.clamp(0, left) } else { part.clamp(left, 0) };
        next[*index] += part;
        left -= part;
    }
    // What rounding has left goes to the largest, and on to the others when it cannot give so much.
    for index in order {
        let rest = left.max(-next[index]);
        next[index] += rest;
        left -= rest;
    }
    next
}

/// The change of one set that keeps its share.
fn part(limits: Limits, share: Share) -> i32 {
    if share.wanted == 0 {
        return 0;
    }
    if limits.desired == 0 {
        return -share.wanted;
    }
    let before = i64::from(share.maximum_before.max(1));
    let product = i64::from(share.wanted) * i64::from(limits.most());
    // Halves are rounded away from zero; all numbers are positive.
    let size = (product + before / 2) / before;
    i32::try_from(size).unwrap_or(i32::MAX).saturating_sub(share.wanted)
}

#[cfg(test)]
mod tests;
