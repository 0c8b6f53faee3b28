//! Events of both versions.
//!
//! It never sorts; kubectl does.

use serde_json::Value;

use super::column::{Column, NAME, string, wide};
use super::{Printer, age, name, number, text};
use crate::model::time::Timestamp;

pub(super) const EVENTS: Printer = Printer { columns: COLUMNS, cells };

const COLUMNS: &[Column] = &[
    string("Last Seen", "How long ago it happened last."),
    string("Type", "Normal, or Warning."),
    string("Reason", "Why, in one word."),
    string("Object", "What it is about."),
    wide(string("Subobject", "Which part of it.")),
    wide(string("Source", "Who reports it.")),
    string("Message", "Why, in a sentence."),
    wide(string("First Seen", "How long ago it happened first.")),
    wide(string("Count", "How often it happened.")),
    wide(NAME),
];

fn cells(event: &Value, now: Timestamp) -> Vec<Value> {
    let either = |core: &str, modern: &str| -> &Value {
        match &event[core] {
            Value::Null => &event[modern],
            value => value,
        }
    };
    let seen = |time: &Value| (!time.is_null()).then(|| age::since(time, now));
    let event_time = &event["eventTime"];
    let first = seen(either("firstTimestamp", "deprecatedFirstTimestamp"))
        .unwrap_or_else(|| age::since(event_time, now));
    let series = &event["series"];
    let last = if series.is_null() {
        seen(either("lastTimestamp", "deprecatedLastTimestamp")).unwrap_or_else(|| first.clone())
    } else {
        age::since(&series["lastObservedTime"], now)
    };
    let count = match (series.is_null(), either("count", "deprecatedCount").as_i64()) {
        (false, _) => number(series, &["count"]),
        // An event of the new API that happened once does not count.
        (true, None | Some(0)) => 1,
        (true, Some(count)) => count,
    };
    let object = either("involvedObject", "regarding");
    let kind = text(object, &["kind"]).to_lowercase();
    let target = match text(object, &["name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        last.into(),
        text(event, &["type"]).into(),
        text(event, &["reason"]).into(),
        target.into(),
        text(object, &["fieldPath"]).into(),
        source(
            either("source", "deprecatedSource"),
            either("reportingComponent", "reportingController"),
            &event["reportingInstance"],
        )
        .into(),
        either("message", "note").as_str().unwrap_or_default().trim().into(),
        first.into(),
        count.into(),
        name(event),
    ]
}

/// `component, instance`, from the old fields or else the new ones.
fn source(source: &Value, controller: &Value, instance: &Value) -> String {
    let first = |old: &str, new: &Value| match text(source, &[old]) {
        "" => new.as_str().unwrap_or_default().to_owned(),
        text => text.to_owned(),
    };
    let component = first("component", controller);
    match first("host", instance).as_str() {
        "" => component,
        instance => format!("{component}, {instance}"),
    }
}
