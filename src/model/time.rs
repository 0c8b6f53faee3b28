//! Instants as Kubernetes writes them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A wall-clock instant with nanoseconds, as UTC. The only source of "now" is [`crate::sys::clock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// Seconds and nanoseconds since 1970; clamped to what a calendar can express.
    pub fn from_unix(seconds: i64, nanoseconds: i32) -> Timestamp {
        Timestamp(jiff::Timestamp::new(seconds, nanoseconds).unwrap_or(jiff::Timestamp::MAX))
    }

    pub fn unix_seconds(self) -> i64 {
        self.0.as_second()
    }

    pub fn nanoseconds(self) -> i32 {
        self.0.subsec_nanosecond()
    }

    /// RFC 3339 in whole seconds, `2026-11-23T12:57:00Z`: `metav1.Time`.
    pub fn to_seconds_text(self) -> String {
        self.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// RFC 3339 with six digits: `metav1.MicroTime`.
    pub fn to_micros_text(self) -> String {
        self.0.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
    }

    /// RFC 3339 with nine digits, as CRI log lines and `--timestamps` carry.
    pub fn to_nanos_text(self) -> String {
        self.0.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string()
    }

    /// Time since `earlier`; zero when `earlier` is later (a stepped clock).
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::try_from(self.0.duration_since(earlier.0)).unwrap_or(Duration::ZERO)
    }

    /// This instant plus `span`, saturating.
    pub fn plus(self, span: Duration) -> Timestamp {
        let span = jiff::SignedDuration::try_from(span).unwrap_or(jiff::SignedDuration::MAX);
        Timestamp(self.0.saturating_add(span).unwrap_or(jiff::Timestamp::MAX))
    }

    /// This instant less `span`, saturating.
    pub fn minus(self, span: Duration) -> Timestamp {
        let span = jiff::SignedDuration::try_from(span).unwrap_or(jiff::SignedDuration::MAX);
        Timestamp(self.0.saturating_sub(span).unwrap_or(jiff::Timestamp::MIN))
    }

    /// Without its fraction of a second, as conditions carry times.
    pub fn whole_seconds(self) -> Timestamp {
        Timestamp::from_unix(self.unix_seconds(), 0)
    }

    pub fn as_jiff(self) -> jiff::Timestamp {
        self.0
    }
}

impl From<jiff::Timestamp> for Timestamp {
    fn from(time: jiff::Timestamp) -> Timestamp {
        Timestamp(time)
    }
}

impl FromStr for Timestamp {
    type Err = jiff::Error;

    /// Reads RFC 3339 with any number of fractional digits and any offset.
    fn from_str(text: &str) -> Result<Timestamp, jiff::Error> {
        text.parse().map(Timestamp)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_seconds_text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_as_kubernetes_does() {
        let time: Timestamp = "2026-11-23T14:57:00.1234567+02:00".parse().expect("RFC 3339");
        assert_eq!(time.to_seconds_text(), "2026-11-23T12:57:00Z");
        assert_eq!(time.to_micros_text(), "2026-11-23T12:57:00.123456Z");
        assert_eq!(time.to_nanos_text(), "2026-11-23T12:57:00.123456700Z");
        let again: Timestamp = time.to_nanos_text().parse().expect("our own text");
        assert_eq!(again, time);
    }

    #[test]
    fn a_clock_that_steps_back_gives_no_negative_span() {
        let (early, late) = (Timestamp::from_unix(10, 0), Timestamp::from_unix(12, 0));
        assert_eq!(late.since(early), Duration::from_secs(2));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(early.plus(Duration::from_secs(2)), late);
        assert!(early.plus(Duration::MAX) > late);
    }
}
