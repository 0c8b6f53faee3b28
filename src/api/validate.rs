//! What Kubernetes refuses, in its own words, by resource.
//!
//! It never changes an object and never looks at other objects; defaulting ran before.

pub mod field;
pub mod metadata;
pub mod name;
pub mod place;

use serde_json::Value;

pub use field::{FieldError, Reason};

/// Errors of a new object. Empty means valid.
pub fn create(resource: &str, object: &Value) -> Vec<FieldError> {
    let _ = (resource, object);
    Vec::new()
}

/// Errors of replacing `old` by `new` on the main endpoint.
pub fn update(resource: &str, old: &Value, new: &Value) -> Vec<FieldError> {
    let _ = (resource, old, new);
    Vec::new()
}

/// Errors of replacing `old` by `new` on the status endpoint.
pub fn update_status(resource: &str, old: &Value, new: &Value) -> Vec<FieldError> {
    let _ = (resource, old, new);
    Vec::new()
}
