//! Namespaces, Nodes, ConfigMaps and Secrets.
//!
//! It never decides what a key may be called; see `validate::config`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{ensure_map, fill};

/// The label is no mere default: whatever a client says of it, every write sets it to the name, by which policies select
/// (`SetDefaults_Namespace`). The `kubernetes` finalizer is not among these: admission adds it once, and its absence
/// means an end.
pub(super) fn namespace(object: &mut Value) {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let Some(object) = object.as_object_mut() else {
        return;
    };
    if let Some(metadata) = ensure_map(object, "metadata")
        && !name.is_empty()
        && let Some(labels) = ensure_map(metadata, "labels")
    {
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
    }
    if let Some(status) = ensure_map(object, "status") {
        fill(status, "phase", "Active".into());
    }
}

pub(super) fn node(object: &mut Value) {
    let Some(object) = object.as_object_mut() else {
        return;
    };
    ensure_map(object, "spec");
    if let Some(status) = ensure_map(object, "status")
        && let Some(capacity) = status.get("capacity").filter(|c| c.is_object()).cloned()
    {
        fill(status, "allocatable", capacity);
    }
}

pub(super) fn config_map(object: &mut Value) {
    if let Some(object) = object.as_object_mut()
        && object.get("data").is_some_and(Value::is_null)
    {
        object.shift_remove("data");
    }
}

/// `stringData` is write-only: it overrides `data` and is never seen again.
pub(super) fn secret(object: &mut Value) {
    let Some(object) = object.as_object_mut() else {
        return;
    };
    fill(object, "type", "Opaque".into());
    match object.shift_remove("stringData") {
        Some(Value::Object(texts)) if !texts.is_empty() => {
            let Some(data) = ensure_map(object, "data") else {
                return;
            };
            for (key, text) in texts {
                let value = text.as_str().map_or(text.clone(), |text| STANDARD.encode(text).into());
                data.insert(key, value);
            }
        }
        _ => {}
    }
}
