//! The Scale of a workload.
//!
//! It never sees the workload itself.

use serde_json::Value;

use super::field::FieldError;
use super::place::Place;
use super::rule::not_negative;

/// Errors of a Scale that is to take effect; whose it is the path has said.
pub fn update(scale: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    not_negative(&Place::root(scale, "spec").child("replicas"), &mut errors);
    errors
}
