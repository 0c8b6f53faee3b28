//! JSON Merge Patch (RFC 7386): members replace, null removes, lists are replaced whole.
//!
//! It needs no schema and refuses only a patch that is not an object.

use serde_json::{Map, Value};

use super::PatchError;

/// Applies `patch` to `current`.
///
/// # Errors
/// `BadRequest` if the patch is not an object: it would replace the whole object by a scalar or list.
pub fn apply(current: &Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        return Err(PatchError::BadRequest("a merge patch must be a JSON object".into()));
    }
    let mut next = current.clone();
    merge(&mut next, patch);
    Ok(next)
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// RFC 7386 appendix A, the rows whose patch is an object.
    #[test]
    fn the_rfc_s_examples_hold() {
        for (current, patch, expected) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            assert_eq!(apply(&current, &patch).unwrap(), expected, "{current} + {patch}");
        }
    }

    #[test]
    fn a_patch_that_is_no_object_is_400() {
        for patch in [json!(null), json!([1]), json!("x")] {
            assert_eq!(apply(&json!({}), &patch).unwrap_err().code(), 400);
        }
    }
}
