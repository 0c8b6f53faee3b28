//! Namespaces: their finalizers and their phase.
//!
//! It never decides whether one may be deleted; admission does.

use serde_json::Value;

use super::field::FieldError;
use super::place::Place;
use super::{metadata, name};

pub(super) fn create(namespace: &Value) -> Vec<FieldError> {
    let mut errors = metadata::create(namespace, metadata::rules("namespaces"));
    errors.extend(finalizers(namespace));
    errors
}

/// The main and the finalize endpoint.
pub(super) fn update(old: &Value, new: &Value) -> Vec<FieldError> {
    let mut errors = metadata::update(old, new);
    errors.extend(finalizers(new));
    errors
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
