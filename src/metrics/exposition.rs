//! Reads what pods show to Prometheus: counters and gauges of the text format, each summed over its series (pure).
//!
//! The text comes from anybody: whatever it is, reading ends, keeps at most [`MOST_NAMES`], and drops what does not read.
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::collections::BTreeMap;

use super::figures::Reading;

/// Metrics of one pod; later ones are dropped.
pub const MOST_NAMES: usize = 500;
/// Longer names are nobody's.
const LONGEST_NAME: usize = 200;

/// Each metric that is a counter or a gauge, summed. Of histograms and summaries, the counts and sums.
pub fn parse(text: &str) -> BTreeMap<String, Reading> {
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let mut found: BTreeMap<String, Reading> = BTreeMap::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(comment) = line.strip_prefix('#') {
            let mut words = comment.split_whitespace();
            if let (Some("TYPE"), Some(name), Some(kind)) =
                (words.next(), words.next(), words.next())
                && kinds.len() < MOST_NAMES
            {
                kinds.insert(name, kind);
            }
            continue;
        }
        let Some((name, value)) = sample(line) else { continue };
        let Some(reading) = reading(&kinds, name, value) else { continue };
        if let Some(sum) = found.get_mut(name) {
            match (sum, reading) {
                (Reading::Counter(sum), Reading::Counter(value))
                | (Reading::Gauge(sum), Reading::Gauge(value)) => *sum += value,
                (Reading::Counter(_) | Reading::Gauge(_), _) => {}
            }
        } else if found.len() < MOST_NAMES {
            found.insert(name.to_owned(), reading);
        }
    }
    found
}

/// Under which name a reading is asked for: `http_requests_total` grows by `http_requests_per_second`, as the Prometheus
/// adapter names it.
pub fn asked_as(name: &str, reading: Reading) -> String {
    match reading {
        Reading::Counter(_) => {
            format!("{}_per_second", name.strip_suffix("_total").unwrap_or(name))
        }
        Reading::Gauge(_) => name.to_owned(),
    }
}

fn reading(kinds: &BTreeMap<&str, &str>, name: &str, value: f64) -> Option<Reading> {
    let of = |suffix: &str| name.strip_suffix(suffix).and_then(|family| kinds.get(family).copied());
    let is_part = |suffix: &str| matches!(of(suffix), Some("histogram" | "summary"));
    // OpenMetrics names a counter's family without the suffix.
    let is_counter = match kinds.get(name).copied() {
        Some("counter") => true,
        Some("gauge") => false,
        Some(_) => return None,
        None if is_part("_bucket") => return None,
        None => name.ends_with("_total") || is_part("_count") || is_part("_sum"),
    };
    match is_counter {
        true => (value >= 0.0).then_some(Reading::Counter(value)),
        false => Some(Reading::Gauge(value)),
    }
}

/// `name{label="value",…} 12 [time]` as name and number.
fn sample(line: &str) -> Option<(&str, f64)> {
    let end = line.find(|c: char| !is_of_name(c)).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let is_name = !name.is_empty()
        && name.len() <= LONGEST_NAME
        && !name.starts_with(|c: char| c.is_ascii_digit());
    let rest = match rest.strip_prefix('{') {
        Some(labels) => after_labels(labels)?,
        None => rest,
    };
    let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
    (is_name && value.is_finite()).then_some((name, value))
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// What stands behind the closing brace; one in quotes closes nothing.
fn after_labels(labels: &str) -> Option<&str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (index, byte) in labels.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b'}' if !is_quoted => return labels.get(index + 1..),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, Reading)> {
        parse(text).into_iter().collect()
    }

    #[test]
    fn series_are_summed_and_kinds_are_heard() {
        let text = "\
# HELP http_requests_total Requests.
# TYPE http_requests_total counter
http_requests_total{path=\"/a}b\",code=\"200\"} 10 1700000000000
http_requests_total{path=\"/\\\"\",code=\"500\"} 2.5
# TYPE queue gauge
queue 3
queue_total -1
# TYPE jobs counter
jobs_total 4
# TYPE wait_seconds histogram
wait_seconds_bucket{le=\"1\"} 9
wait_seconds_sum 12
wait_seconds_count 9
untyped 7
";
        let counter = |name: &str, value| (name.to_owned(), Reading::Counter(value));
        let gauge = |name: &str, value| (name.to_owned(), Reading::Gauge(value));
        assert_eq!(
            read(text),
            [
                counter("http_requests_total", 12.5),
                counter("jobs_total", 4.0),
                gauge("queue", 3.0),
                gauge("untyped", 7.0),
                counter("wait_seconds_count", 9.0),
                counter("wait_seconds_sum", 12.0),
            ]
        );
        assert_eq!(
            asked_as("http_requests_total", Reading::Counter(0.0)),
            "http_requests_per_second"
        );
        assert_eq!(
            asked_as("wait_seconds_count", Reading::Counter(0.0)),
            "wait_seconds_count_per_second"
        );
        assert_eq!(asked_as("queue", Reading::Gauge(0.0)), "queue");
    }

    #[test]
    fn what_does_not_read_is_dropped() {
        for text in [
            "", "{", "a{b=\"", "a{} ", "1a 2", "a b", "a NaN", "a +Inf", "ä 1", "# TYPE",
            "a{b=\"\\",
        ] {
            assert_eq!(read(text), [], "{text:?}");
        }
        let many: String = (0..2 * MOST_NAMES).map(|n| format!("m{n} 1\n")).collect();
        assert_eq!(parse(&many).len(), MOST_NAMES);
    }
}
