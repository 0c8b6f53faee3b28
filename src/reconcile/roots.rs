//! Which root is to be decided next: the controllers' queue, with gate, back-off and timers.
//!
//! Pure: time is handed in as the span since the driver began, which no stepped clock moves. It never decides
//! anything about a root itself.
//!
//! ```text
//!            wake, timer                 gate open                    finish
//! (unknown) ────────────▶ ready ───────────────────────▶ busy ───────────────────▶ idle
//!                           ▲  └─ gate closed: waits there │                         │
//!                           └───────── woken while busy ◀──┴──── wake, timer ◀───────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::decide::{Failure, Key};
use super::gate::Gate;

/// The first pause after a failure; it doubles up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// Roots that are decided at the same time.
const ABREAST: usize = 8;
/// A gate that stays closed for so long is not waited for; the caches list again instead.
const PATIENCE: Duration = Duration::from_secs(20);

/// The queue of one controller.
#[derive(Debug, Default)]
pub struct Roots {
    roots: BTreeMap<Key, Root>,
    /// Wanted, in the order of wanting; the gate may still be closed.
    ready: BTreeMap<u64, Key>,
    timers: BTreeSet<(Duration, Key)>,
    /// The next place in `ready`.
    place: u64,
    /// Turns under way.
    busy: usize,
}

#[derive(Debug, Default)]
struct Root {
    /// Its place in `ready`.
    ready: Option<u64>,
    is_busy: bool,
    was_woken_while_busy: bool,
    gate: Gate,
    gate_closed_since: Duration,
    failures: Vec<Failure>,
    attempts: u32,
    /// Until then nothing but the status is written.
    holds_back_until: Option<Duration>,
    timer: Option<Duration>,
}

/// A root whose time has come.
#[derive(Debug, PartialEq)]
pub struct Turn {
    pub key: Key,
    /// Of the last attempt.
    pub failures: Vec<Failure>,
    /// Whether changes may be carried out; during back-off only the status is.
    pub may_change: bool,
}

/// How a turn ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What the caches must show before the next turn.
    pub gate: Gate,
    pub failures: Vec<Failure>,
    /// Somebody else had written what we observed: no failure, but something to wait for.
    pub was_overtaken: bool,
    pub again: Option<Duration>,
    /// The root is gone and nothing is left to do about it.
    pub is_gone: bool,
}

impl Roots {
    pub fn wake(&mut self, key: Key) {
        let root = self.roots.entry(key.clone()).or_default();
        if root.is_busy {
            root.was_woken_while_busy = true;
        } else if root.ready.is_none() {
            root.ready = Some(self.place);
            self.ready.insert(self.place, key);
            self.place += 1;
        }
    }

    /// The first root whose turn it is at `now`, while there is a place for one more. It is busy until
    /// [`Roots::finish`].
    pub fn next(&mut self, now: Duration, is_open: impl Fn(&Gate) -> bool) -> Option<Turn> {
        if self.busy >= ABREAST {
            return None;
        }
        while let Some((at, _)) = self.timers.first()
            && *at <= now
            && let Some((_, key)) = self.timers.pop_first()
        {
            if let Some(root) = self.roots.get_mut(&key) {
                root.timer = None;
            }
            self.wake(key);
        }
        let open = |key: &Key| {
            self.roots.get(key).is_some_and(|root| root.gate.is_empty() || is_open(&root.gate))
        };
        let (place, key) =
            self.ready.iter().find(|(_, key)| open(key)).map(|(p, k)| (*p, k.clone()))?;
        self.ready.remove(&place);
        let root = self.roots.get_mut(&key)?;
        root.ready = None;
        root.is_busy = true;
        self.busy += 1;
        root.gate = Gate::default();
        let may_change = root.holds_back_until.is_none_or(|until| until <= now);
        Some(Turn { key, failures: root.failures.clone(), may_change })
    }

    /// Ends a turn that began with `may_change`.
    pub fn finish(&mut self, key: &Key, may_change: bool, outcome: Outcome, now: Duration) {
        let Some(root) = self.roots.get_mut(key) else { return };
        self.busy -= usize::from(std::mem::take(&mut root.is_busy));
        root.gate = outcome.gate;
        root.gate_closed_since = now;
        let mut again = outcome.again.map(|span| now + span);
        let mut at_once = std::mem::take(&mut root.was_woken_while_busy);
        let went_wrong = outcome.was_overtaken || !outcome.failures.is_empty();
        if may_change && !went_wrong {
            // A world without failures may want another status.
            at_once |= !root.failures.is_empty();
            root.failures.clear();
            root.attempts = 0;
            root.holds_back_until = None;
        } else if may_change {
            let until = now + pause(root.attempts);
            root.attempts = root.attempts.saturating_add(1);
            root.holds_back_until = Some(until);
            at_once |= root.failures != outcome.failures;
            root.failures = outcome.failures;
        } else if went_wrong {
            // Not even the status could be written: later.
            at_once = false;
        }
        if let Some(until) = root.holds_back_until {
            again = Some(again.map_or(until, |at| at.min(until)).max(now + FIRST_PAUSE));
        }
        let old = root.timer;
        root.timer = again;
        if let Some(old) = old {
            self.timers.remove(&(old, key.clone()));
        }
        if let Some(at) = again {
            self.timers.insert((at, key.clone()));
        }
        if outcome.is_gone && !at_once {
            self.forget(key);
        } else if at_once {
            self.wake(key.clone());
        }
    }

    fn forget(&mut self, key: &Key) {
        let Some(root) = self.roots.remove(key) else { return };
        if let Some(at) = root.timer {
            self.timers.remove(&(at, key.clone()));
        }
        if let Some(place) = root.ready {
            self.ready.remove(&place);
        }
    }

    /// Gates of wanted roots that have been closed for too long, to be replaced with [`Roots::set_gate`].
    pub fn stuck(&self, now: Duration) -> Vec<(Key, Gate)> {
        self.ready
            .values()
            .filter_map(|key| {
                let root = self.roots.get(key)?;
                let is_late = now.saturating_sub(root.gate_closed_since) >= PATIENCE;
                (is_late && !root.gate.is_empty()).then(|| (key.clone(), root.gate.clone()))
            })
            .collect()
    }

    pub fn set_gate(&mut self, key: &Key, gate: Gate, now: Duration) {
        if let Some(root) = self.roots.get_mut(key) {
            root.gate = gate;
            root.gate_closed_since = now;
        }
    }

    /// When to look again though nothing has happened: a timer, or a gate to be given up. While every place is taken
    /// there is nothing to look for: a turn has to end first.
    pub fn due(&self) -> Option<Duration> {
        if self.busy >= ABREAST {
            return None;
        }
        let timer = self.timers.first().map(|(at, _)| *at);
        let gate = self
            .ready
            .values()
            .filter_map(|key| self.roots.get(key))
            .filter(|root| !root.gate.is_empty())
            .map(|root| root.gate_closed_since + PATIENCE)
            .min();
        [timer, gate].into_iter().flatten().min()
    }

    /// Whether a root is wanted but kept behind its gate.
    pub fn waits_for_caches(&self) -> bool {
        !self.ready.is_empty()
    }
}

fn pause(attempts: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << attempts.min(16)).min(LAST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::super::caches::Kind;
    use super::super::gate::Until;
    use super::*;

    const ZERO: Duration = Duration::ZERO;

    fn key(name: &str) -> Key {
        Key::new("default", name)
    }

    fn next(roots: &mut Roots, now: Duration) -> Option<(String, bool)> {
        roots.next(now, |_| true).map(|turn| (turn.key.name.to_string(), turn.may_change))
    }

    fn failed() -> Outcome {
        let failure = Failure { reason: "FailedCreate", message: "quota".into() };
        Outcome { failures: vec![failure], ..Outcome::default() }
    }

    #[test]
    fn a_root_is_never_decided_twice_at_the_same_time_and_never_forgotten() {
        let mut roots = Roots::default();
        roots.wake(key("a"));
        roots.wake(key("b"));
        roots.wake(key("a"));
        assert_eq!(next(&mut roots, ZERO), Some(("a".into(), true)));
        roots.wake(key("a"));
        assert_eq!(next(&mut roots, ZERO), Some(("b".into(), true)));
        assert_eq!(next(&mut roots, ZERO), None);
        roots.finish(&key("a"), true, Outcome::default(), ZERO);
        assert_eq!(next(&mut roots, ZERO), Some(("a".into(), true)));
    }

    #[test]
    fn a_closed_gate_holds_one_root_and_no_other() {
        let mut roots = Roots::default();
        roots.wake(key("a"));
        assert!(next(&mut roots, ZERO).is_some());
        let mut gate = Gate::default();
        gate.add(Until::Reached { kind: Kind::Pod, revision: 7 });
        roots.finish(&key("a"), true, Outcome { gate, ..Outcome::default() }, ZERO);
        roots.wake(key("a"));
        roots.wake(key("b"));
        let turn = roots.next(ZERO, |_| false).unwrap();
        assert_eq!(&*turn.key.name, "b");
        assert_eq!(roots.next(ZERO, |_| false), None);
        assert!(roots.waits_for_caches());
        assert_eq!(roots.stuck(PATIENCE - Duration::from_millis(1)), []);
        assert_eq!(roots.stuck(PATIENCE).len(), 1);
        assert_eq!(roots.due(), Some(PATIENCE));
        assert_eq!(&*roots.next(ZERO, |_| true).unwrap().key.name, "a");
    }

    #[test]
    fn after_a_failure_the_status_is_written_at_once_and_changes_wait_longer_each_time() {
        let mut roots = Roots::default();
        roots.wake(key("a"));
        let mut now = ZERO;
        let mut pauses = Vec::new();
        assert_eq!(next(&mut roots, now), Some(("a".into(), true)));
        roots.finish(&key("a"), true, failed(), now);
        assert_eq!(next(&mut roots, now), Some(("a".into(), false)), "the status");
        roots.finish(&key("a"), false, Outcome::default(), now);
        for _ in 0..12 {
            assert_eq!(next(&mut roots, now), None);
            let due = roots.due().unwrap();
            pauses.push((due - now).as_millis());
            now = due;
            assert_eq!(next(&mut roots, now), Some(("a".into(), true)));
            roots.finish(&key("a"), true, failed(), now);
        }
        assert_eq!(pauses[..4], [50, 100, 200, 400]);
        assert_eq!(*pauses.last().unwrap(), LAST_PAUSE.as_millis());
        now = roots.due().unwrap();
        assert!(next(&mut roots, now).is_some());
        roots.finish(&key("a"), true, Outcome::default(), now);
        assert_eq!(next(&mut roots, now), Some(("a".into(), true)), "without the failure");
        roots.finish(&key("a"), true, Outcome::default(), now);
        assert_eq!((next(&mut roots, now), roots.due()), (None, None));
    }

    #[test]
    fn while_every_place_is_taken_no_timer_wakes_anybody() {
        let mut roots = Roots::default();
        roots.wake(key("timed"));
        assert!(next(&mut roots, ZERO).is_some());
        let second = Duration::from_secs(1);
        let again = || Outcome { again: Some(second), ..Outcome::default() };
        roots.finish(&key("timed"), true, again(), ZERO);
        (0..ABREAST).for_each(|number| roots.wake(key(&number.to_string())));
        (0..ABREAST).for_each(|_| assert!(next(&mut roots, ZERO).is_some()));
        // Its moment is over, and there is no place for it.
        assert_eq!((next(&mut roots, second * 2), roots.due()), (None, None));
        roots.finish(&key("0"), true, Outcome::default(), second * 2);
        assert_eq!(roots.due(), Some(second));
        assert_eq!(next(&mut roots, second * 2), Some(("timed".into(), true)));
    }

    #[test]
    fn timers_wake_and_what_is_gone_leaves_nothing_behind() {
        let mut roots = Roots::default();
        roots.wake(key("a"));
        assert!(next(&mut roots, ZERO).is_some());
        let second = Duration::from_secs(1);
        roots.finish(&key("a"), true, Outcome { again: Some(second), ..Outcome::default() }, ZERO);
        assert_eq!(roots.due(), Some(second));
        assert_eq!(next(&mut roots, ZERO), None);
        assert!(next(&mut roots, second).is_some());
        roots.finish(&key("a"), true, Outcome { is_gone: true, ..Outcome::default() }, second);
        assert_eq!((roots.roots.len(), roots.due()), (0, None));
    }
}
