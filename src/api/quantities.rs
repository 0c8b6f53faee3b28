//! Canonical spelling of every quantity in an object: "1024Mi" becomes "1Gi".
//!
//! It never refuses; what does not parse stays as written for [`crate::api::validate`] to name.

use serde_json::{Map, Value};

use crate::model::quantity::Quantity;

/// Keys whose value maps resource names to quantities, in any built-in kind.
const RESOURCE_LISTS: &[&str] = &[
    "limits",
    "requests",
    "capacity",
    "allocatable",
    "allocatedResources",
    "hard",
    "used",
    "overhead",
    "min",
    "max",
    "default",
    "defaultRequest",
    "maxLimitRequestRatio",
];

/// Keys whose value is one quantity.
const QUANTITIES: &[&str] = &["sizeLimit", "divisor"];

/// Rewrites every quantity outside metadata and data in its canonical form.
pub fn canonicalize(object: &mut Value) {
    if let Some(object) = object.as_object_mut() {
        for part in ["spec", "status"] {
            if let Some(part) = object.get_mut(part) {
                walk(part);
            }
        }
    }
}

fn walk(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                match value {
                    Value::Object(list) if RESOURCE_LISTS.contains(&key.as_str()) => {
                        resource_list(list)
                    }
                    value if QUANTITIES.contains(&key.as_str()) => rewrite(value),
                    value => walk(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(walk),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Kubernetes rounds resource lists up to thousandths.
fn resource_list(list: &mut Map<String, Value>) {
    for value in list.values_mut() {
        rewrite(value);
    }
}

fn rewrite(value: &mut Value) {
    if let Ok(quantity) = Quantity::from_json(value) {
        *value = quantity.to_string().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities_are_canonical_and_everything_else_is_untouched() {
        let mut object = json!({
            "metadata": {"annotations": {"limits": "1024Mi"}},
            "data": {"limits": "0.5"},
            "spec": {"containers": [{
                "args": ["1024Mi"],
                "resources": {"limits": {"cpu": "0.5", "memory": "1024Mi", "bad": "x"}, "requests": {"cpu": 1}},
                "env": [{"valueFrom": {"resourceFieldRef": {"divisor": "1024Ki"}}}],
            }], "volumes": [{"emptyDir": {"sizeLimit": "1024Mi"}}]},
        });
        canonicalize(&mut object);
        assert_eq!(
            object,
            json!({
                "metadata": {"annotations": {"limits": "1024Mi"}},
                "data": {"limits": "0.5"},
                "spec": {"containers": [{
                    "args": ["1024Mi"],
                    "resources": {"limits": {"cpu": "500m", "memory": "1Gi", "bad": "x"}, "requests": {"cpu": "1"}},
                    "env": [{"valueFrom": {"resourceFieldRef": {"divisor": "1Mi"}}}],
                }], "volumes": [{"emptyDir": {"sizeLimit": "1Gi"}}]},
            })
        );
    }
}
