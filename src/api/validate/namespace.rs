//! Namespaces: their finalizers and their phase.
//!
//! It never decides whether one may be deleted; admission does.

use serde_json::Value;

use super::field::FieldError;
use super::place::Place;
use super::{metadata, name};

/// The Pod Security Standard that pods of the namespace are held to (KEP-2579).
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
/// The one that asks for nothing.
const PRIVILEGED: &str = "privileged";

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
    if old["metadata"]["labels"][ENFORCE] != new["metadata"]["labels"][ENFORCE] {
        errors.extend(pod_security(new));
    }
    errors
}

/// Nobody enforces it here: to take the label would promise a protection that is not there.
fn pod_security(namespace: &Value) -> Option<FieldError> {
    let level = namespace["metadata"]["labels"][ENFORCE].as_str()?;
    (level != PRIVILEGED).then(|| {
        let detail = "Pod Security Standards are not enforced by this version of Joey";
        FieldError::forbidden(format!("metadata.labels[{ENFORCE}]"), detail)
    })
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

    fn namespace(level: &str) -> Value {
        json!({"metadata": {"name": "team", "labels": {ENFORCE: level}}})
    }

    #[test]
    fn a_protection_that_nobody_enforces_is_refused_when_it_is_asked_for() {
        let refused = |errors: Vec<FieldError>| {
            errors.iter().any(|error| error.to_string().contains(ENFORCE))
        };
        for (level, is_refused) in [("restricted", true), ("baseline", true), (PRIVILEGED, false)] {
            assert_eq!(refused(create(&namespace(level))), is_refused, "{level}");
            assert_eq!(
                refused(update(&namespace(PRIVILEGED), &namespace(level))),
                is_refused,
                "{level}"
            );
            assert!(!refused(update(&namespace(level), &namespace(level))), "{level}");
            assert!(!refused(update(&namespace(level), &namespace(PRIVILEGED))), "{level}");
        }
    }
}
