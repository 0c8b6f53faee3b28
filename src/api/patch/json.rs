//! JSON Patch (RFC 6902): a list of operations, all or none.
//!
//! The operations themselves are json-patch's; this bounds what they may cost, because `copy` can double
//! a document (and its depth) with every operation (CVE-2019-1002100 and its kin).

use json_patch::jsonptr::Pointer;
use json_patch::{Patch, PatchOperation};
use serde_json::Value;

use super::PatchError;
use crate::api::decode::MAX_DEPTH;

/// Kubernetes' own limit.
const MAX_OPERATIONS: usize = 10_000;
/// Values that `copy` may add in one patch; a request body holds no more either.
const MAX_COPIED_NODES: usize = 250_000;
/// Bytes of text that `copy` may add in one patch.
const MAX_COPIED_BYTES: usize = 3 << 20;
/// List elements that insertions and removals may shift in one patch: half a second's work.
const MAX_SHIFTED: usize = 50_000_000;

/// Applies the patch text to `current`.
///
/// # Errors
/// `BadRequest` if the text is no patch, `TooLarge` beyond 10,000 operations or the cost bounds,
/// `Invalid` if an operation or `test` fails.
pub fn apply(current: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let Patch(operations) = serde_json::from_slice(patch)
        .map_err(|error| PatchError::BadRequest(undecodable(patch, &error)))?;
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut next = current.clone();
    let mut cost = Cost::default();
    for operation in &operations {
        cost.charge(&next, operation)?;
        json_patch::patch_unsafe(&mut next, std::slice::from_ref(operation)).map_err(|_| {
            PatchError::Invalid(
                "the server rejected our request due to an error in our request".into(),
            )
        })?;
    }
    Ok(next)
}

/// The commonest mistake, a patch of another dialect, is told in Go's words.
fn undecodable(patch: &[u8], error: &serde_json::Error) -> String {
    match patch.trim_ascii_start().first() {
        Some(b'{') => {
            "json: cannot unmarshal object into Go value of type jsonpatch.Patch".to_owned()
        }
        _ => format!("error decoding JSON patch: {error}"),
    }
}

#[derive(Default)]
struct Cost {
    copied: Size,
    shifted: usize,
}

impl Cost {
    fn charge(&mut self, document: &Value, operation: &PatchOperation) -> Result<(), PatchError> {
        let placed = match operation {
            PatchOperation::Add(add) => Some((&add.path, depth(&add.value))),
            PatchOperation::Replace(replace) => Some((&replace.path, depth(&replace.value))),
            PatchOperation::Move(moved) => {
                let from = moved.from.resolve_in(document);
                self.shifts(document, &moved.from);
                Some((&moved.path, from.map_or(0, depth)))
            }
            PatchOperation::Copy(copy) => {
                let from = copy.from.resolve_in(document);
                if let Some(from) = from {
                    self.copied.add(from);
                }
                Some((&copy.path, from.map_or(0, depth)))
            }
            PatchOperation::Remove(remove) => {
                self.shifts(document, &remove.path);
                None
            }
            PatchOperation::Test(_) => None,
        };
        if let Some((path, depth)) = placed {
            self.shifts(document, path);
            if path.count() + depth > MAX_DEPTH {
                return Err(PatchError::BadRequest("exceeded max depth".into()));
            }
        }
        if self.copied.nodes > MAX_COPIED_NODES
            || self.copied.bytes > MAX_COPIED_BYTES
            || self.shifted > MAX_SHIFTED
        {
            return Err(PatchError::TooLarge("the JSON patch copies or moves too much".into()));
        }
        Ok(())
    }

    fn shifts(&mut self, document: &Value, path: &Pointer) {
        let parent = path.parent().and_then(|parent| parent.resolve_in(document));
        self.shifted += parent.and_then(Value::as_array).map_or(0, Vec::len);
    }
}

/// Looks a pointer up without an error type of its own.
trait ResolveIn {
    fn resolve_in<'v>(&self, document: &'v Value) -> Option<&'v Value>;
}

impl ResolveIn for Pointer {
    fn resolve_in<'v>(&self, document: &'v Value) -> Option<&'v Value> {
        document.pointer(self.as_str())
    }
}

#[derive(Default)]
struct Size {
    nodes: usize,
    bytes: usize,
}

impl Size {
    fn add(&mut self, value: &Value) {
        self.nodes += 1;
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
            Value::String(text) => self.bytes += text.len(),
            Value::Array(list) => list.iter().for_each(|element| self.add(element)),
            Value::Object(map) => {
                for (name, member) in map {
                    self.bytes += name.len();
                    self.add(member);
                }
            }
        }
    }
}

/// How many containers nest in a value. Documents here are never deeper than [`MAX_DEPTH`].
fn depth(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(current: Value, patch: Value) -> Result<Value, PatchError> {
        apply(&current, patch.to_string().as_bytes())
    }

    #[test]
    fn every_operation_works_with_escaped_names() {
        let current = json!({"a/b": 1, "m~n": {"x": [1, 3]}, "gone": true});
        let patch = json!([
            {"op": "test", "path": "/a~1b", "value": 1},
            {"op": "add", "path": "/m~0n/x/1", "value": 2},
            {"op": "add", "path": "/m~0n/x/-", "value": 4},
            {"op": "remove", "path": "/gone"},
            {"op": "replace", "path": "/a~1b", "value": 5},
            {"op": "copy", "from": "/m~0n/x", "path": "/copy"},
            {"op": "move", "from": "/a~1b", "path": "/moved"},
        ]);
        let expected = json!({"m~n": {"x": [1, 2, 3, 4]}, "copy": [1, 2, 3, 4], "moved": 5});
        assert_eq!(patched(current, patch).unwrap(), expected);
    }

    #[test]
    fn a_failing_operation_or_test_is_422_and_a_bad_document_400() {
        let failed = patched(json!({}), json!([{"op": "remove", "path": "/a"}])).unwrap_err();
        assert_eq!(failed.code(), 422);
        assert_eq!(
            failed.to_string(),
            "the server rejected our request due to an error in our request"
        );
        let failed = patched(json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 2}]));
        assert_eq!(failed.unwrap_err().code(), 422);
        assert_eq!(apply(&json!({}), b"{}").unwrap_err().code(), 400);
        assert_eq!(apply(&json!({}), b"[{\"op\":\"dance\"}]").unwrap_err().code(), 400);
    }

    #[test]
    fn too_many_operations_are_413() {
        let one = json!({"op": "test", "path": "", "value": {}});
        assert!(patched(json!({}), Value::Array(vec![one.clone(); 10_000])).is_ok());
        let refused = patched(json!({}), Value::Array(vec![one; 10_001])).unwrap_err();
        assert_eq!(refused.code(), 413);
        assert_eq!(
            refused.to_string(),
            "The allowed maximum operations in a JSON patch is 10000, got 10001"
        );
    }

    #[test]
    fn doubling_copies_are_refused_before_they_cost() {
        let copy = json!({"op": "copy", "from": "/a", "path": "/a/-"});
        let refused = patched(json!({"a": ["x"]}), Value::Array(vec![copy; 1000])).unwrap_err();
        assert!([400, 413].contains(&refused.code()));
        let wide: Vec<Value> =
            (0..64).map(|n| json!({"op": "copy", "from": "", "path": format!("/{n}")})).collect();
        let refused = patched(json!({"a": "x".repeat(1000)}), Value::Array(wide)).unwrap_err();
        assert!([400, 413].contains(&refused.code()));
    }

    #[test]
    fn shifting_a_huge_list_ten_thousand_times_is_refused() {
        let insert = json!({"op": "add", "path": "/a/0", "value": 0});
        let current = json!({"a": vec![0; 200_000]});
        assert_eq!(patched(current, Value::Array(vec![insert; 10_000])).unwrap_err().code(), 413);
    }
}
