//! Events, by the rules of the version they came in.
//!
//! It never counts or merges them. Field names in errors are those of core/v1, as Kubernetes tells them.

use serde_json::Value;

use super::field::FieldError;
use super::{metadata, name};

type Errors = Vec<FieldError>;

const MOST_NOTE_BYTES: usize = 1024;
const MOST_WORD_BYTES: usize = 128;

/// A field under its core/v1 name or its events.k8s.io/v1 name, whichever is there.
fn field<'a>(event: &'a Value, core: &str, modern: &str) -> &'a Value {
    match event.get(modern) {
        Some(value) if !value.is_null() => value,
        _ => &event[core],
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(super) fn create(resource: &str, event: &Value) -> Errors {
    let mut errors = legacy(event);
    if resource == "events" {
        // Kubernetes demands no more of core/v1, for the sake of old clients.
        return errors;
    }
    errors.extend(metadata::create(event, metadata::rules(resource)));
    errors.extend(series(event));
    if event["eventTime"].is_null() {
        errors.push(FieldError::required("eventTime", ""));
    }
    let kind = text(&event["type"]);
    if !["Normal", "Warning"].contains(&kind) {
        errors.push(FieldError::invalid("type", &"".into(), &format!("has invalid value: {kind}")));
    }
    for (core, modern) in [
        ("firstTimestamp", "deprecatedFirstTimestamp"),
        ("lastTimestamp", "deprecatedLastTimestamp"),
        ("count", "deprecatedCount"),
        ("source", "deprecatedSource"),
    ] {
        let value = field(event, core, modern);
        let is_zero = value == 0 || value.as_object().is_some_and(serde_json::Map::is_empty);
        if !value.is_null() && !is_zero {
            errors.push(FieldError::invalid(core, &"".into(), "needs to be unset"));
        }
    }
    errors
}

pub(super) fn update(resource: &str, old: &Value, new: &Value) -> Errors {
    let mut errors = legacy(new);
    if resource == "events" {
        return errors;
    }
    errors.extend(metadata::update(old, new));
    if new["series"] != old["series"] {
        errors.extend(series(new));
    }
    for (core, modern) in [
        ("involvedObject", "regarding"),
        ("reason", "reason"),
        ("message", "note"),
        ("source", "deprecatedSource"),
        ("firstTimestamp", "deprecatedFirstTimestamp"),
        ("lastTimestamp", "deprecatedLastTimestamp"),
        ("count", "deprecatedCount"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingComponent", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        let (before, after) = (field(old, core, modern), field(new, core, modern));
        if before != after {
            let told = if core == "reportingComponent" { modern } else { core };
            errors.push(FieldError::invalid(told, after, "field is immutable"));
        }
    }
    errors
}

fn series(event: &Value) -> Errors {
    let series = &event["series"];
    let mut errors = Errors::new();
    if series.is_null() {
        return errors;
    }
    if series["count"].as_i64().unwrap_or_default() < 2 {
        errors.push(FieldError::invalid("series.count", &"".into(), "should be at least 2"));
    }
    if series["lastObservedTime"].is_null() {
        errors.push(FieldError::required("series.lastObservedTime", ""));
    }
    errors
}

/// What holds for every event. With an `eventTime` it is a new-style one, and must be complete.
fn legacy(event: &Value) -> Errors {
    let mut errors = Errors::new();
    let namespace = text(&event["metadata"]["namespace"]);
    let regarded = text(&field(event, "involvedObject", "regarding")["namespace"]);
    let is_new_style = !event["eventTime"].is_null();
    let fits = match (regarded, is_new_style) {
        ("", true) => ["default", "kube-system"].contains(&namespace),
        ("", false) => ["", "default"].contains(&namespace),
        (_, true) => true,
        (_, false) => regarded == namespace,
    };
    if !fits {
        let told = "involvedObject.namespace";
        errors.push(FieldError::invalid(told, &regarded.into(), "does not match event.namespace"));
    }
    if is_new_style {
        let controller = text(field(event, "reportingComponent", "reportingController"));
        for complaint in name::qualified_name(controller) {
            errors.push(FieldError::invalid("reportingController", &controller.into(), &complaint));
        }
        for (told, value, most) in [
            ("reportingController", controller, usize::MAX),
            ("reportingInstance", text(&event["reportingInstance"]), MOST_WORD_BYTES),
            ("action", text(&event["action"]), MOST_WORD_BYTES),
            ("reason", text(&event["reason"]), MOST_WORD_BYTES),
            ("message", text(field(event, "message", "note")), MOST_NOTE_BYTES),
        ] {
            if value.is_empty() && told != "message" {
                errors.push(FieldError::required(told, ""));
            }
            if value.len() > most {
                let detail = format!("can have at most {most} characters");
                errors.push(FieldError::invalid(told, &"".into(), &detail));
            }
        }
    }
    for complaint in name::dns1123_subdomain(namespace) {
        errors.push(FieldError::invalid("namespace", &namespace.into(), &complaint));
    }
    errors
}
