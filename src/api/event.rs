//! Events have one stored form, core v1, and a second presentation in events.k8s.io/v1.
//!
//! It never judges an event. Pure.

use serde_json::{Map, Value};

use crate::api::catalog::Kind;

/// Core field, events.k8s.io field.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Whether `kind` shows core events under other names.
pub fn is_other_presentation(kind: &Kind) -> bool {
    kind.group == "events.k8s.io" && kind.plural == "events"
}

/// Turns what is stored into what `kind` shows.
pub fn present(kind: &Kind, object: Value) -> Value {
    match is_other_presentation(kind) {
        true => rename(object, "events.k8s.io/v1", |key| {
            RENAMED.iter().find(|(core, _)| *core == key).map(|(_, other)| *other)
        }),
        false => object,
    }
}

/// Turns what `kind` shows into what is stored.
pub fn store_form(kind: &Kind, object: Value) -> Value {
    match is_other_presentation(kind) {
        true => rename(object, "v1", |key| {
            RENAMED.iter().find(|(_, other)| *other == key).map(|(core, _)| *core)
        }),
        false => object,
    }
}

fn rename(
    object: Value,
    api_version: &str,
    new_name: impl Fn(&str) -> Option<&'static str>,
) -> Value {
    let Value::Object(fields) = object else {
        return object;
    };
    let mut renamed = Map::new();
    for (key, value) in fields {
        match new_name(&key) {
            Some(name) => renamed.insert(name.to_owned(), value),
            None => renamed.insert(key, value),
        };
    }
    renamed.insert("apiVersion".to_owned(), api_version.into());
    Value::Object(renamed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::catalog;

    #[test]
    fn an_event_survives_the_way_there_and_back() {
        let kind = catalog::find("events.k8s.io", "v1", "events").expect("a row");
        let stored = json!({
            "kind": "Event", "apiVersion": "v1", "metadata": {"name": "e"},
            "involvedObject": {"kind": "Pod"}, "reason": "Started", "message": "m",
            "source": {"component": "kubelet"}, "count": 2, "type": "Normal",
            "reportingComponent": "kubelet", "reportingInstance": "n",
        });
        let shown = present(kind, stored.clone());
        assert_eq!(shown["regarding"]["kind"], "Pod");
        assert_eq!(shown["note"], "m");
        assert_eq!(shown["deprecatedCount"], 2);
        assert_eq!(shown["apiVersion"], "events.k8s.io/v1");
        assert_eq!(store_form(kind, shown), stored);
    }
}
