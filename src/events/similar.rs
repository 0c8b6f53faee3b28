//! Which Events are told together: those about one object, for one reason, that differ in their text alone, once there are
//! many; client-go's `EventAggregator`, within a fixed amount of memory.
//!
//! A pod that is refused again and again has another name each time, and its Event another text. Pure.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher as _};
use std::time::Duration;

use crate::model::time::Timestamp;

/// Before the text of the latest of those that are told together.
pub const COMBINED: &str = "(combined from similar events): ";
/// With so many different texts it begins …
const MANY: usize = 10;
/// … and ends when there was none for so long.
const SILENCE: Duration = Duration::from_secs(600);
/// Groups that are remembered, as in client-go's cache.
const GROUPS: usize = 4096;

/// What was told lately, by all that makes an Event but its text.
#[derive(Debug, Default)]
pub struct Similar {
    groups: BTreeMap<String, Texts>,
}

#[derive(Debug)]
struct Texts {
    hashes: BTreeSet<u64>,
    last: Timestamp,
}

impl Similar {
    /// Whether this one is told together with others of `group`; it counts as told.
    pub fn is_combined(&mut self, group: &str, text: &str, now: Timestamp) -> bool {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        if !self.groups.contains_key(group) && self.groups.len() >= GROUPS {
            self.make_room(now);
        }
        let fresh = || Texts { hashes: BTreeSet::new(), last: now };
        let texts = self.groups.entry(group.to_owned()).or_insert_with(fresh);
        if now.since(texts.last) > SILENCE {
            *texts = fresh();
        }
        texts.last = now;
        texts.hashes.insert(hasher.finish());
        let are_many = texts.hashes.len() >= MANY;
        if are_many {
            texts.hashes.pop_first();
        }
        are_many
    }

    /// Forgets those that are over, which changes nothing; if there are none, the one that was silent for the longest time.
    fn make_room(&mut self, now: Timestamp) {
        self.groups.retain(|_, texts| now.since(texts.last) <= SILENCE);
        if self.groups.len() >= GROUPS {
            let silent = self.groups.iter().min_by_key(|(_, texts)| texts.last);
            if let Some(silent) = silent.map(|(group, _)| group.clone()) {
                self.groups.remove(&silent);
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
    fn from_the_tenth_text_on_they_are_one_until_there_was_silence() {
        let mut similar = Similar::default();
        let mut told = |text: &str, second| similar.is_combined("web", text, at(second));
        for number in 1..=20 {
            assert_eq!(told(&format!("pods \"web-{number}\""), number), number >= 10, "{number}");
        }
        assert!(!told("pods \"web-21\"", 20 + 601), "they begin anew");
    }

    #[test]
    fn equal_texts_and_other_groups_are_told_as_they_are() {
        let mut similar = Similar::default();
        for second in 0..100 {
            assert!(!similar.is_combined("web", "the same", at(second)));
            assert!(!similar.is_combined(&format!("pod-{second}"), "another", at(second)));
        }
    }

    #[test]
    fn memory_is_bounded_and_those_long_silent_make_room() {
        let mut similar = Similar::default();
        for group in 0..GROUPS + 10 {
            similar.is_combined(&format!("pod-{group}"), "text", at(0));
        }
        assert_eq!(similar.groups.len(), GROUPS);
        similar.is_combined("late", "text", at(601));
        assert_eq!(similar.groups.len(), 1);
    }
}
