//! What of a running pod may still change: images, deadline, tolerations.
//!
//! It never judges status; see [`super::status`].

use serde_json::Value;

use super::{Errors, Owner, pod_spec, within};
use crate::api::validate::metadata;
use crate::api::validate::place::Place;

const CHANGEABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,\
     `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
     `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Changes listed below the sentence; a pod has few fields worth more.
const MOST_LISTED: usize = 20;

/// Errors of replacing `old` by `new` on the main endpoint.
pub(in crate::api::validate) fn update(old: &Value, new: &Value) -> Errors {
    let mut errors = metadata::update(old, new);
    let spec = Place::root(new, "spec");
    let before = &old["spec"];
    errors.extend(pod_spec(&spec, Owner::Pod));

    for list in ["containers", "initContainers"] {
        let place = spec.child(list);
        if place.items().count() != before[list].as_array().map_or(0, Vec::len) {
            errors.push(place.forbidden("pod updates may not add or remove containers"));
            return errors;
        }
    }
    if deadline(&spec.child("activeDeadlineSeconds"), &before["activeDeadlineSeconds"], &mut errors)
        .is_err()
    {
        return errors;
    }
    tolerations(&spec.child("tolerations"), &before["tolerations"], &mut errors);

    let mut changes = Vec::new();
    differences("spec", before, &with_allowed_changes_undone(before, spec.value), &mut changes);
    if !changes.is_empty() {
        let shown = changes.iter().take(MOST_LISTED).map(|change| format!("  {change}\n"));
        let detail = format!(
            "pod updates may not change fields other than {CHANGEABLE}\n{}",
            shown.collect::<String>()
        );
        errors.push(spec.forbidden(&detail));
    }
    errors
}

/// An error that makes the rest meaningless.
struct Stop;

fn deadline(new: &Place<'_>, old: &Value, errors: &mut Errors) -> Result<(), Stop> {
    let count = errors.len();
    match (new.number(), old.as_i64()) {
        (Some(new_seconds), old_seconds) => {
            within(new, 0, i64::from(i32::MAX), errors);
            if errors.len() == count && old_seconds.is_some_and(|old| old < new_seconds) {
                errors.push(new.invalid("must be less than or equal to previous value"));
            }
            if errors.len() > count { Err(Stop) } else { Ok(()) }
        }
        (None, Some(_)) => {
            errors.push(new.invalid("must not update from a positive integer to nil value"));
            Ok(())
        }
        (None, None) => Ok(()),
    }
}

/// Old tolerations stay; only their seconds may change.
fn tolerations(new: &Place<'_>, old: &Value, errors: &mut Errors) {
    let without_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        if let Some(map) = toleration.as_object_mut() {
            map.retain(|key, value| key != "tolerationSeconds" && !is_empty(value));
        }
        toleration
    };
    let kept: Vec<Value> =
        new.items().map(|toleration| without_seconds(toleration.value)).collect();
    let is_kept = |old: &Value| kept.contains(&without_seconds(old));
    if !old.as_array().into_iter().flatten().all(is_kept) {
        errors.push(
            new.forbidden("existing toleration can not be modified except its tolerationSeconds"),
        );
    }
}

fn with_allowed_changes_undone(old: &Value, new: &Value) -> Value {
    let mut munged = new.clone();
    for list in ["containers", "initContainers"] {
        let containers = munged.get_mut(list).and_then(Value::as_array_mut);
        for (i, container) in containers.into_iter().flatten().enumerate() {
            if let Some(container) = container.as_object_mut() {
                container.insert("image".to_owned(), old[list][i]["image"].clone());
            }
        }
    }
    let Some(spec) = munged.as_object_mut() else {
        return munged;
    };
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        spec.insert(field.to_owned(), old[field].clone());
    }
    let grace = "terminationGracePeriodSeconds";
    if old[grace].as_i64().is_some_and(|seconds| seconds < 0) && new[grace] == 1 {
        spec.insert(grace.to_owned(), old[grace].clone());
    }
    munged
}

/// Every leaf that differs, `path: old -> new`. Empty and absent are the same.
fn differences(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    match (old, new) {
        _ if is_empty(old) && is_empty(new) => {}
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in old {
                let other = new.get(key).unwrap_or(&Value::Null);
                differences(&format!("{path}.{key}"), value, other, found);
            }
            for (key, value) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
                differences(&format!("{path}.{key}"), &Value::Null, value, found);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (i, (old, new)) in old.iter().zip(new).enumerate() {
                differences(&format!("{path}[{i}]"), old, new, found);
            }
        }
        _ if old == new => {}
        _ => found.push(format!("{path}: {old} -> {new}")),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}
