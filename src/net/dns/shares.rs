//! How much of something one caller may hold at once, so that nobody uses up what all share.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// Counts what each caller holds; callers that hold nothing take no room.
#[derive(Debug)]
pub struct Shares {
    most: usize,
    /// Short sections only.
    held: Mutex<HashMap<IpAddr, usize>>,
}

/// One of them; given back when dropped.
#[derive(Debug)]
pub struct Share<'a> {
    of: &'a Shares,
    caller: IpAddr,
}

impl Shares {
    /// At most `most` for each caller.
    pub fn new(most: usize) -> Shares {
        Shares { most, held: Mutex::default() }
    }

    /// `None` when the caller holds its part already.
    pub fn take(&self, caller: IpAddr) -> Option<Share<'_>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.get(&caller).copied().unwrap_or(0);
        if count == self.most {
            return None;
        }
        held.insert(caller, count + 1);
        Some(Share { of: self, caller })
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut held = self.of.held.lock().unwrap_or_else(PoisonError::into_inner);
        match held.get_mut(&self.caller) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(held.remove(&self.caller)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_callers_part_leaves_the_others_theirs() {
        let [greedy, other]: [IpAddr; 2] = ["10.42.0.2", "10.42.0.3"].map(|a| a.parse().unwrap());
        let shares = Shares::new(2);
        let first = shares.take(greedy);
        let second = shares.take(greedy);
        assert!(first.is_some() && second.is_some());
        assert!(shares.take(greedy).is_none());
        assert!(shares.take(other).is_some());
        drop(first);
        assert!(shares.take(greedy).is_some());
        drop(second);
        assert!(shares.held.lock().unwrap().is_empty());
    }
}
