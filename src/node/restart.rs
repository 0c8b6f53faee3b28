//! How long to wait before trying again: containers that crash, images that do not come, pod set-up that fails.
//!
//! It never sleeps and never reads a clock. Delays are Kubernetes' own: the first retry is immediate for
//! containers, then 10 s doubling to 300 s, forgotten after twice the cap (10 minutes) of good run (KEP-4603).

use std::time::Duration;

use super::clock_step::Shift;
use crate::model::time::Timestamp;

const FIRST: Duration = Duration::from_secs(10);
const CAP: Duration = Duration::from_secs(300);
/// client-go's back-off forgets an entry after twice its cap.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// The back-off of one container or one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Backoff {
    last: Option<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Entry {
    delay: Duration,
    /// When the delay was last raised: a retry happened then.
    at: Timestamp,
}

impl Backoff {
    /// Takes up a back-off that an earlier daemon had reached.
    pub fn resumed(delay: Duration, at: Timestamp) -> Backoff {
        Backoff { last: Some(Entry { delay: delay.min(CAP), at }) }
    }

    /// The earliest moment for a retry after something ended at `ended`.
    pub fn ready_at(&self, ended: Timestamp) -> Timestamp {
        match self.last {
            Some(entry) if ended.since(entry.at) <= FORGET_AFTER => ended.plus(entry.delay),
            Some(_) | None => ended,
        }
    }

    /// The delay in force; zero when none is.
    pub fn delay(&self) -> Duration {
        self.last.map_or(Duration::ZERO, |entry| entry.delay)
    }

    /// The clock was set.
    pub fn shift(&mut self, shift: Shift) {
        if let Some(entry) = &mut self.last {
            shift.moment(&mut entry.at);
        }
    }

    /// Notes a retry at `now` of what ended at `ended`, so that the next one waits longer.
    pub fn raise(&mut self, ended: Timestamp, now: Timestamp) {
        let delay = match self.last {
            Some(entry) if ended.since(entry.at) <= FORGET_AFTER => (entry.delay * 2).min(CAP),
            Some(_) | None => FIRST,
        };
        self.last = Some(Entry { delay, at: now });
    }
}

/// Delays of pod set-up and teardown steps: 0.5 s doubling to 2 minutes, as kubelet retries mounts.
pub fn setback(failures: u32) -> Duration {
    let doubled = Duration::from_millis(500).saturating_mul(1 << failures.min(8));
    doubled.min(Duration::from_secs(122))
}

/// A duration as Go prints it, which Kubernetes' messages contain: `10s`, `1m20s`, `5m0s`.
pub fn go_seconds(span: Duration) -> String {
    let seconds = span.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

/// Reads the delay back out of a CrashLoopBackOff message (`back-off 1m20s restarting failed …`): the only
/// place where it outlives a daemon.
pub fn delay_in_message(message: &str) -> Option<Duration> {
    let text = message.strip_prefix("back-off ")?.split(' ').next()?;
    let mut total = 0u64;
    let mut number = 0u64;
    for c in text.chars() {
        match c {
            '0'..='9' => {
                number = number.checked_mul(10)?.checked_add(u64::from(c.to_digit(10)?))?
            }
            'h' => total = total.checked_add(number.checked_mul(3600)?)?,
            'm' => total = total.checked_add(number.checked_mul(60)?)?,
            's' => total = total.checked_add(number)?,
            _ => return None,
        }
        if !c.is_ascii_digit() {
            number = 0;
        }
    }
    Some(Duration::from_secs(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix(seconds, 0)
    }

    #[test]
    fn restarts_wait_0_10_20_40_80_160_300_300_seconds() {
        let mut backoff = Backoff::default();
        let mut now = at(1000);
        let mut waits = Vec::new();
        for _ in 0..8 {
            let ready = backoff.ready_at(now);
            waits.push(ready.since(now).as_secs());
            backoff.raise(now, ready);
            now = ready.plus(Duration::from_secs(1));
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_good_minutes_forget_the_backoff() {
        let mut backoff = Backoff::default();
        backoff.raise(at(0), at(0));
        backoff.raise(at(5), at(15));
        assert_eq!(backoff.ready_at(at(15 + 600)), at(15 + 600 + 20));
        assert_eq!(backoff.ready_at(at(15 + 601)), at(15 + 601));
        backoff.raise(at(15 + 601), at(15 + 601));
        assert_eq!(backoff.delay(), Duration::from_secs(10));
    }

    #[test]
    fn a_delay_survives_in_the_message_it_was_written_into() {
        for seconds in [10, 20, 40, 80, 160, 300] {
            let span = Duration::from_secs(seconds);
            let message = format!("back-off {} restarting failed container=a", go_seconds(span));
            assert_eq!(delay_in_message(&message), Some(span), "{message}");
        }
        assert_eq!(delay_in_message("something else"), None);
        assert_eq!(go_seconds(Duration::from_secs(300)), "5m0s");
    }

    #[test]
    fn a_stepped_clock_neither_panics_nor_waits_for_ever() {
        let mut backoff = Backoff::default();
        backoff.raise(at(5000), at(5000));
        assert_eq!(backoff.ready_at(at(10)), at(20));
    }
}
