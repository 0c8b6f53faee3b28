//! The events at the end of a description.

use serde_json::Value;

use super::text::{Clock, Text, given, number, plain};

/// The events, those that were seen last at the end.
pub fn lay_out(text: &mut Text, events: &[Value], clock: &Clock) {
    if events.is_empty() {
        return text.field(0, "Events", "<none>");
    }
    text.line(0, "Events:");
    text.line(1, "Type\tReason\tAge\tFrom\tMessage");
    text.line(1, "----\t------\t----\t----\t-------");
    let mut sorted: Vec<&Value> = events.iter().collect();
    // Such as come with a series only have no last time, and stand first.
    sorted.sort_by_key(|event| plain(&event["lastTimestamp"]));
    for event in sorted {
        let from = given(&event["source"]["component"]);
        let message = plain(&event["message"]);
        let message = match given(&event["involvedObject"]["fieldPath"]) {
            Some(path) => format!("{path}: {}", message.trim()),
            None => message.trim().to_owned(),
        };
        let cells = [
            plain(&event["type"]),
            plain(&event["reason"]),
            when(event, clock),
            from.map_or_else(|| plain(&event["reportingComponent"]), str::to_owned),
            message,
        ];
        text.line(1, cells.join("\t"));
    }
}

/// `3s`, or `3s (x4 over 5m)` for what happened several times.
fn when(event: &Value, clock: &Clock) -> String {
    let first = match &event["eventTime"] {
        Value::Null => clock.age(&event["firstTimestamp"]),
        time => clock.age(time),
    };
    let (last, count) = match &event["series"] {
        Value::Null => (&event["lastTimestamp"], number(&event["count"])),
        series => (&series["lastObservedTime"], number(&series["count"])),
    };
    match count > 1 || !event["series"].is_null() {
        true => format!("{} (x{count} over {first})", clock.age(last)),
        false => first,
    }
}
