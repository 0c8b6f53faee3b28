//! Spans of time in kubectl's short human form.
//!
//! It never reads a clock.

use serde_json::Value;

use crate::model::time::Timestamp;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// Two or three significant figures of a span in seconds: `119s`, `5m30s`, `150m`, `5h12m`, `3d5h`, `9y`.
pub fn human_duration(seconds: i64) -> String {
    let two = |large: i64, unit: char, small: i64, small_unit: char| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit}{small}{small_unit}"),
    };
    match seconds {
        // Clocks of machines differ by a moment; more is a mistake worth seeing.
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, 'm', s % MINUTE, 's'),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, 'h', s % HOUR / MINUTE, 'm'),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, 'd', s % DAY / HOUR, 'h'),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, 'y', s % YEAR / DAY, 'd'),
        s => format!("{}y", s / YEAR),
    }
}

/// The age of an RFC 3339 time; `<unknown>` if it is absent or unreadable.
pub fn since(time: &Value, now: Timestamp) -> String {
    parse(time).map_or_else(|| "<unknown>".to_owned(), |then| human_duration(between(then, now)))
}

pub(super) fn parse(time: &Value) -> Option<Timestamp> {
    time.as_str()?.parse().ok()
}

/// Whole seconds from `earlier` to `later`, negative if they are the other way round.
pub(super) fn between(earlier: Timestamp, later: Timestamp) -> i64 {
    later.as_jiff().duration_since(earlier.as_jiff()).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_prints_them() {
        for (seconds, text) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (330, "5m30s"),
            (599, "9m59s"),
            (600, "10m"),
            (3 * HOUR - 1, "179m"),
            (3 * HOUR, "3h"),
            (5 * HOUR + 12 * MINUTE, "5h12m"),
            (8 * HOUR, "8h"),
            (2 * DAY - 1, "47h"),
            (2 * DAY, "2d"),
            (3 * DAY + 5 * HOUR, "3d5h"),
            (8 * DAY, "8d"),
            (2 * YEAR - 1, "729d"),
            (2 * YEAR, "2y"),
            (3 * YEAR + 20 * DAY, "3y20d"),
            (8 * YEAR, "8y"),
            (9 * YEAR + 300 * DAY, "9y"),
        ] {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn a_time_that_is_not_there_has_no_age() {
        let now = Timestamp::from_unix(1_000_000_000, 0);
        assert_eq!(since(&Value::Null, now), "<unknown>");
        assert_eq!(since(&"yesterday".into(), now), "<unknown>");
        assert_eq!(since(&"2001-09-09T01:46:10.5Z".into(), now), "29s");
        assert_eq!(since(&"2001-09-09T01:46:50Z".into(), now), "<invalid>");
    }
}
