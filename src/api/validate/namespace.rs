//! Namespaces: their finalizers and their phase.
//!
//! It never decides whether one may be deleted; admission does.

use serde_json::Value;

use super::field::FieldError;
use super::place::Place;
use super::{metadata, name};
use crate::api::security::{BadLabel, Policy};

pub(super) fn create(namespace: &Value) -> Vec<FieldError> {
    let mut errors = metadata::create(namespace, metadata::rules("namespaces"));
    errors.extend(finalizers(namespace));
    errors.extend(pod_security(namespace));
    errors
}

/// The main and the finalize endpoint.
pub(super) fn update(old: &Value, new: &Value) -> Vec<FieldError> {
    let mut errors = metadata::update(old, new);
    errors.extend(finalizers(new));
    // What stands there already must not keep anybody from changing something else.
    let before = pod_security(old);
    errors.extend(pod_security(new).into_iter().filter(|error| !before.contains(error)));
    errors
}

/// The labels that say which Pod Security Standard pods are held to (KEP-2579).
fn pod_security(namespace: &Value) -> Vec<FieldError> {
    let (_, bad) = Policy::of(namespace);
    let error = |bad: BadLabel| {
        let field = format!("metadata.labels[{}]", bad.label);
        FieldError::invalid(field, &bad.value.into(), bad.why)
    };
    bad.into_iter().map(error).collect()
}

pub(super) fn update_status(old: &Value, new: &Value) -> Vec<FieldError> {
    let mut errors = metadata::update(old, new);
    let phase = &new["status"]["phase"];
    let (expected, detail) = if new["metadata"]["deletionTimestamp"].is_null() {
        ("Active", "may only be 'Active' if `deletionTimestamp` is empty")
    } else {
        ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty")
    };
    if phase != expected {
        let told = phase.as_str().unwrap_or_default();
        errors.push(FieldError::invalid("status.Phase", &told.into(), detail));
    }
    errors
}

fn finalizers(namespace: &Value) -> Vec<FieldError> {
    let spec = Place::root(namespace, "spec");
    let finalizers = spec.child("finalizers");
    let mut errors = Vec::new();
    for finalizer in finalizers.items() {
        let text = finalizer.text();
        for complaint in name::qualified_name(text) {
            errors.push(finalizers.invalid_value(finalizer.value, &complaint));
        }
        if !text.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&text) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(finalizers.invalid_value(finalizer.value, detail));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_standard_that_does_not_exist_is_refused_when_it_is_asked_for() {
        const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
        let namespace =
            |level: &str| json!({"metadata": {"name": "team", "labels": {ENFORCE: level}}});
        let told = |errors: Vec<FieldError>| -> Vec<String> {
            let all = errors.iter().map(ToString::to_string);
            all.filter(|error| error.contains("pod-security")).collect()
        };
        let refusal = [
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted",
        ];
        assert_eq!(told(create(&namespace("strict"))), refusal);
        assert_eq!(told(update(&namespace("baseline"), &namespace("strict"))), refusal);
        assert!(told(update(&namespace("strict"), &namespace("strict"))).is_empty());
        for level in ["privileged", "baseline", "restricted"] {
            assert!(told(create(&namespace(level))).is_empty(), "{level}");
            assert!(told(update(&namespace("strict"), &namespace(level))).is_empty(), "{level}");
        }
    }
}
