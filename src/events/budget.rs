//! How much may still be told of one object: client-go's spam filter, within a fixed amount of memory.
//!
//! Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::time::Timestamp;

/// So many Events about one object at once …
const BURST: f64 = 25.0;
/// … and then one every five minutes.
const REFILL: Duration = Duration::from_secs(300);
/// Objects that are remembered, as in client-go's cache.
const OBJECTS: usize = 4096;

/// What was told lately, by object.
#[derive(Debug, Default)]
pub struct Budget {
    spent: BTreeMap<String, Account>,
}

/// Events that an object may still have, as of a moment.
#[derive(Debug, Clone, Copy)]
struct Account {
    left: f64,
    at: Timestamp,
}

impl Account {
    fn left(self, now: Timestamp) -> f64 {
        let earned = now.since(self.at).as_secs_f64() / REFILL.as_secs_f64();
        (self.left + earned).min(BURST)
    }
}

impl Budget {
    /// Whether one more Event about `object` may be told; if so, it counts as told.
    pub fn spend(&mut self, object: &str, now: Timestamp) -> bool {
        let left = self.spent.get(object).map_or(BURST, |account| account.left(now));
        let may = left >= 1.0;
        let account = Account { left: if may { left - 1.0 } else { left }, at: now };
        if self.spent.insert(object.to_owned(), account).is_none() && self.spent.len() > OBJECTS {
            self.make_room(now);
        }
        may
    }

    /// Forgets those that have earned everything back, which changes nothing; if there are none, the one that was silent
    /// for the longest time, which may speak again too early.
    fn make_room(&mut self, now: Timestamp) {
        self.spent.retain(|_, account| account.left(now) < BURST);
        if self.spent.len() > OBJECTS {
            let silent = self.spent.iter().min_by_key(|(_, account)| account.at);
            if let Some(silent) = silent.map(|(object, _)| object.clone()) {
                self.spent.remove(&silent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix(1_800_000_000 + seconds, 0)
    }

    #[test]
    fn an_object_is_cut_off_after_a_burst_and_earns_one_event_in_five_minutes() {
        let mut budget = Budget::default();
        let told = (0..40).filter(|_| budget.spend("pod", at(0))).count();
        assert_eq!(told, 25);
        assert!(!budget.spend("pod", at(299)));
        assert!(budget.spend("other", at(299)));
        assert!(budget.spend("pod", at(300)));
        assert!(!budget.spend("pod", at(301)));
    }

    #[test]
    fn memory_is_bounded_however_many_objects_there_are_at_a_time() {
        let mut budget = Budget::default();
        for second in 0..30 {
            assert!(budget.spend("loud", at(second)) == (second < 25));
        }
        for object in 0..OBJECTS + 100 {
            assert!(budget.spend(&format!("pod-{object}"), at(31)));
            assert!(!budget.spend("loud", at(32)), "it speaks often, so it is not forgotten");
        }
        assert_eq!(budget.spent.len(), OBJECTS);
    }

    #[test]
    fn objects_that_have_earned_everything_back_are_forgotten_first() {
        let mut budget = Budget::default();
        for object in 0..OBJECTS {
            budget.spend(&format!("pod-{object}"), at(0));
        }
        budget.spend("late", at(300));
        assert_eq!(budget.spent.len(), 1);
    }
}
