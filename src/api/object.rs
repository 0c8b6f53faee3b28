//! One Kubernetes object as JSON: reading its metadata, its canonical key order, its stored form.
//!
//! It never validates. A stored value has no resourceVersion: the revision of its commit is that.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::model::revision::Revision;

/// The text at `path`, empty when absent or no text.
pub fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    let mut at = object;
    for key in path {
        at = &at[*key];
    }
    at.as_str().unwrap_or_default()
}

pub fn name(object: &Value) -> &str {
    text(object, &["metadata", "name"])
}

pub fn uid(object: &Value) -> &str {
    text(object, &["metadata", "uid"])
}

pub fn resource_version(object: &Value) -> &str {
    text(object, &["metadata", "resourceVersion"])
}

/// Whether a deletion has begun.
pub fn is_terminating(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

pub fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"]
        .as_array()
        .map(|all| all.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

/// The metadata for writing; anything that is no map becomes an empty one.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    map_mut(object, "metadata")
}

/// The map at `key` for writing; anything that is no map becomes an empty one.
pub fn map_mut<'a>(object: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Value::Object(fields) = object else { unreachable!("made a map above") };
    let slot = fields.entry(key.to_owned()).or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("made a map above")
}

/// Removes a top-level field.
pub fn remove(object: &mut Value, key: &str) {
    if let Value::Object(fields) = object {
        fields.shift_remove(key);
    }
}

/// Puts `from`'s top-level `key` into `object`, or removes it when `from` has none.
pub fn copy(object: &mut Value, from: &Value, key: &str) {
    match from.get(key) {
        Some(value) => object[key] = value.clone(),
        None => remove(object, key),
    }
}

/// As [`copy`], within metadata.
pub fn copy_metadata(object: &mut Value, from: &Value, key: &str) {
    let metadata = metadata_mut(object);
    match from["metadata"].get(key) {
        Some(value) => {
            metadata.insert(key.to_owned(), value.clone());
        }
        None => {
            metadata.shift_remove(key);
        }
    }
}

/// The order in which the reference server writes metadata.
const METADATA_ORDER: &[&str] = &[
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
];

/// Orders the keys as clients expect: kind, apiVersion, metadata, the rest as it came; drops what is
/// null or an empty map or list in metadata.
pub fn canonical(object: Value) -> Value {
    let Value::Object(mut fields) = object else {
        return object;
    };
    let mut ordered = Map::new();
    for key in ["kind", "apiVersion"] {
        if let Some(value) = fields.shift_remove(key) {
            ordered.insert(key.to_owned(), value);
        }
    }
    if let Some(Value::Object(mut metadata)) = fields.shift_remove("metadata") {
        let mut kept = Map::new();
        for key in METADATA_ORDER {
            if let Some(value) = metadata.shift_remove(*key) {
                kept.insert((*key).to_owned(), value);
            }
        }
        kept.extend(metadata);
        kept.retain(|_, value| match value {
            Value::Null => false,
            Value::Object(map) => !map.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::String(text) => !text.is_empty(),
            Value::Bool(_) | Value::Number(_) => true,
        });
        ordered.insert("metadata".to_owned(), Value::Object(kept));
    }
    ordered.extend(fields);
    Value::Object(ordered)
}

/// Sets the resourceVersion where the reference server writes it.
pub fn set_revision(object: &mut Value, revision: Revision) {
    let metadata = metadata_mut(object);
    metadata.shift_remove("resourceVersion");
    let place =
        metadata.keys().position(|key| key == "uid").map_or(metadata.len(), |index| index + 1);
    metadata.shift_insert(place, "resourceVersion".to_owned(), revision.to_string().into());
}

/// What the store keeps of `object`.
pub fn to_stored(mut object: Value) -> Bytes {
    metadata_mut(&mut object).shift_remove("resourceVersion");
    Bytes::from(object.to_string())
}

/// The object of a stored value written at `revision`.
pub fn from_stored(bytes: &[u8], revision: Revision) -> Result<Value, serde_json::Error> {
    let mut object: Value = serde_json::from_slice(bytes)?;
    set_revision(&mut object, revision);
    Ok(object)
}

/// Appends a stored value with its resourceVersion to `out`, without parsing it; `false` (and nothing
/// appended) if the text does not begin as ours do.
pub fn splice(out: &mut Vec<u8>, stored: &[u8], revision: Revision) -> bool {
    const METADATA: &[u8] = b"\"metadata\":{";
    // kind and apiVersion come first and are short; neither can contain a quote.
    const LONGEST_HEAD: usize = 300;
    let head = &stored[..stored.len().min(LONGEST_HEAD)];
    let Some(at) = head.windows(METADATA.len()).position(|window| window == METADATA) else {
        return false;
    };
    if !stored.starts_with(b"{\"kind\":\"") {
        return false;
    }
    let (head, tail) = stored.split_at(at + METADATA.len());
    out.extend_from_slice(head);
    out.extend_from_slice(format!("\"resourceVersion\":\"{revision}\"").as_bytes());
    if tail.first() != Some(&b'}') {
        out.push(b',');
    }
    out.extend_from_slice(tail);
    true
}

/// Whether two states differ in more than their resourceVersion.
pub fn same_but_revision(one: &Value, other: &Value) -> bool {
    let strip = |object: &Value| {
        let mut object = object.clone();
        metadata_mut(&mut object).shift_remove("resourceVersion");
        object
    };
    strip(one) == strip(other)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_come_out_as_the_reference_server_writes_them() {
        let object = canonical(json!({
            "spec": {}, "metadata": {"labels": {}, "uid": "u", "namespace": "n", "name": "a", "x": 1},
            "apiVersion": "v1", "kind": "Pod",
        }));
        let mut object = object;
        set_revision(&mut object, Revision::FIRST);
        assert_eq!(
            object.to_string(),
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"1","x":1},"spec":{}}"#
        );
        let stored = to_stored(object.clone());
        assert_eq!(from_stored(&stored, Revision::FIRST).expect("our own text"), object);
        let mut spliced = Vec::new();
        assert!(splice(&mut spliced, &stored, Revision::FIRST));
        let read: Value = serde_json::from_slice(&spliced).expect("still JSON");
        assert_eq!(read, object);
        assert!(!splice(&mut spliced, b"{\"apiVersion\":\"v1\"}", Revision::FIRST));
    }
}
