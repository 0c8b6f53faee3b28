//! Figures about objects of the API that change by themselves: how fast counters grow, and how high gauges are.
//!
//! Parts that count bring readings (the ingress its own, the node those of pods), `custom.metrics.k8s.io` asks. A rate is
//! that of the last seconds; who has brought no reading for a while has no figure, which is not the same as zero. It
//! never asks anybody, and it is bounded by what is forgotten and by [`MAX_FIGURES`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The time that a rate is taken over.
pub const WINDOW: Duration = Duration::from_secs(15);
/// Without a new reading for this long there is no figure any more.
const FRESH: Duration = Duration::from_secs(15);
/// Figures that are kept at a time; further ones are not taken.
const MAX_FIGURES: usize = 50_000;

/// Whose figure it is, and which.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Figure {
    pub of: Subject,
    /// As it is asked for: `requests-per-second`, `jobs_waiting`.
    pub metric: String,
}

/// What figures are about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// By uid.
    Pod(String),
    /// Whoever has the address.
    Address(std::net::IpAddr),
    Service {
        namespace: String,
        name: String,
    },
    Ingress {
        namespace: String,
        name: String,
    },
}

/// What a part has read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reading {
    /// A number that only grows: its rate is asked for.
    Counter(f64),
    Gauge(f64),
}

/// A figure now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Value {
    /// Each second, of a counter.
    pub value: f64,
    /// How long ago the newest reading was.
    pub age: Duration,
    /// What it is the average of; zero of a gauge.
    pub window: Duration,
}

/// All figures. Clones share them.
#[derive(Debug, Clone)]
pub struct Figures {
    began: Instant,
    /// Held for one insertion or look, never across a wait.
    kept: Arc<Mutex<Kept>>,
}

impl Default for Figures {
    fn default() -> Figures {
        Figures { began: Instant::now(), kept: Arc::default() }
    }
}

impl Figures {
    /// Takes what was read just now.
    pub fn take(&self, readings: impl IntoIterator<Item = (Figure, Reading)>) {
        let now = self.began.elapsed();
        let mut kept = self.lock();
        for (figure, reading) in readings {
            kept.take(figure, reading, now);
        }
        kept.forget(now);
    }

    /// The figure now, if it is known.
    pub fn get(&self, figure: &Figure) -> Option<Value> {
        self.lock().get(figure, self.began.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Readings of the last [`WINDOW`] and one before it, oldest first.
#[derive(Debug, Default)]
struct Kept {
    figures: BTreeMap<Figure, VecDeque<(Duration, Reading)>>,
    forgot_at: Duration,
}

impl Kept {
    fn take(&mut self, figure: Figure, reading: Reading, now: Duration) {
        let is_full = self.figures.len() >= MAX_FIGURES;
        if is_full && !self.figures.contains_key(&figure) {
            return;
        }
        let readings = self.figures.entry(figure).or_default();
        // One that fell began anew (its process, or ours), so what was before is of another count.
        if let (Some((_, Reading::Counter(before))), Reading::Counter(now)) =
            (readings.back(), reading)
            && now < *before
        {
            readings.clear();
        }
        while readings.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW) {
            readings.pop_front();
        }
        readings.push_back((now, reading));
    }

    fn get(&self, figure: &Figure, now: Duration) -> Option<Value> {
        let readings = self.figures.get(figure)?;
        let (at, newest) = *readings.back()?;
        let age = now.saturating_sub(at);
        if age > FRESH {
            return None;
        }
        match newest {
            Reading::Gauge(value) => Some(Value { value, age, window: Duration::ZERO }),
            Reading::Counter(value) => {
                let (then, Reading::Counter(before)) = *readings.front()? else { return None };
                let window = at.checked_sub(then).filter(|window| !window.is_zero())?;
                Some(Value { value: (value - before) / window.as_secs_f64(), age, window })
            }
        }
    }

    /// Once a window, lets go of what nobody brings any more.
    fn forget(&mut self, now: Duration) {
        if now.saturating_sub(self.forgot_at) < WINDOW {
            return;
        }
        self.forgot_at = now;
        self.figures.retain(|_, readings| {
            readings.back().is_some_and(|(at, _)| now.saturating_sub(*at) <= FRESH)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(name: &str) -> Figure {
        let of = Subject::Service { namespace: "default".to_owned(), name: name.to_owned() };
        Figure { of, metric: "requests-per-second".to_owned() }
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// The rate at `now` after the readings, and its window.
    fn rate(readings: &[(u64, f64)], now: u64) -> Option<(f64, u64)> {
        let mut kept = Kept::default();
        for (at, value) in readings {
            kept.take(figure("web"), Reading::Counter(*value), seconds(*at));
        }
        kept.get(&figure("web"), seconds(now)).map(|one| (one.value, one.window.as_secs()))
    }

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        assert_eq!(rate(&[(0, 0.0)], 0), None, "one reading has no rate");
        assert_eq!(rate(&[(0, 0.0), (5, 500.0)], 6), Some((100.0, 5)));
        let steady = [(0, 0.0), (5, 0.0), (10, 0.0), (15, 150.0), (20, 300.0)];
        assert_eq!(rate(&steady, 20), Some((20.0, 15)));
        assert_eq!(rate(&[(0, 7.0), (5, 7.0)], 5), Some((0.0, 5)), "idle is a figure");
        assert_eq!(rate(&[(0, 7.0), (5, 9.0)], 21), None, "old readings are none");
        assert_eq!(rate(&[(0, 900.0), (5, 910.0), (10, 5.0), (15, 55.0)], 15), Some((10.0, 5)));
    }

    #[test]
    fn what_nobody_brings_any_more_is_forgotten() {
        let mut kept = Kept::default();
        kept.take(figure("gone"), Reading::Gauge(1.0), seconds(0));
        kept.take(figure("here"), Reading::Gauge(2.0), seconds(20));
        kept.forget(seconds(20));
        assert_eq!(kept.figures.len(), 1);
        let here = kept.get(&figure("here"), seconds(21)).expect("a figure");
        assert_eq!((here.value, here.window), (2.0, Duration::ZERO));
    }
}
