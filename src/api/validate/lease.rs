//! Leases.
//!
//! It never decides who holds one.

use serde_json::Value;

use super::field::FieldError;
use super::metadata;
use super::place::Place;

pub(super) fn create(lease: &Value) -> Vec<FieldError> {
    let mut errors = metadata::create(lease, metadata::rules("leases.coordination.k8s.io"));
    errors.extend(spec(lease));
    errors
}

pub(super) fn update(old: &Value, new: &Value) -> Vec<FieldError> {
    let mut errors = metadata::update(old, new);
    errors.extend(spec(new));
    errors
}

fn spec(lease: &Value) -> Vec<FieldError> {
    let spec = Place::root(lease, "spec");
    let mut errors = Vec::new();
    let duration = spec.child("leaseDurationSeconds");
    if duration.number().is_some_and(|seconds| seconds <= 0) {
        errors.push(duration.invalid("must be greater than 0"));
    }
    let transitions = spec.child("leaseTransitions");
    if transitions.number().is_some_and(|count| count < 0) {
        errors.push(transitions.invalid("must be greater than or equal to 0"));
    }
    errors
}
