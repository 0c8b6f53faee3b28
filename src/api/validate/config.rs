//! ConfigMaps and Secrets: keys, sizes, what a type of Secret must hold, immutability.
//!
//! It never tells the content of a Secret in an error.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::field::FieldError;
use super::place::Place;
use super::{metadata, name};

/// All values together; keys do not count.
const MOST_BYTES: usize = 1 << 20;

const REDACTED: &str = "<secret contents redacted>";
const IMMUTABLE: &str = "field is immutable when `immutable` is set";

type Errors = Vec<FieldError>;

pub(super) fn create_config_map(object: &Value) -> Errors {
    let mut errors = metadata::create(object, metadata::rules("configmaps"));
    errors.extend(config_map(object));
    errors
}

pub(super) fn update_config_map(old: &Value, new: &Value) -> Errors {
    let mut errors = metadata::update(old, new);
    errors.extend(frozen(old, new, &["data", "binaryData"]));
    errors.extend(config_map(new));
    errors
}

pub(super) fn create_secret(object: &Value) -> Errors {
    let mut errors = metadata::create(object, metadata::rules("secrets"));
    errors.extend(secret(object));
    errors
}

pub(super) fn update_secret(old: &Value, new: &Value) -> Errors {
    let mut errors = metadata::update(old, new);
    let kind = Place::root(new, "type");
    if *kind.value != old["type"] {
        errors.push(kind.invalid("field is immutable"));
    }
    errors.extend(frozen(old, new, &["data"]));
    errors.extend(secret(new));
    errors
}

fn config_map(object: &Value) -> Errors {
    let mut errors = Errors::new();
    let data = Place::root(object, "data");
    let binary = Place::root(object, "binaryData");
    let mut bytes = 0;
    for (key, value) in data.entries() {
        errors.extend(key_errors(&value, key));
        if binary.value.get(key).is_some() {
            errors.push(value.invalid_value(&key.into(), "duplicate of key present in binaryData"));
        }
        bytes += value.text().len();
    }
    for (key, value) in binary.entries() {
        errors.extend(key_errors(&value, key));
        bytes += decoded(&value, &mut errors).map_or(0, |content| content.len());
    }
    if bytes > MOST_BYTES {
        // The whole object is meant: Kubernetes prints an empty path like this.
        errors.push(FieldError::too_long("[]", MOST_BYTES));
    }
    errors
}

fn secret(object: &Value) -> Errors {
    let mut errors = Errors::new();
    let data = Place::root(object, "data");
    let mut bytes = 0;
    for (key, value) in data.entries() {
        errors.extend(key_errors(&value, key));
        bytes += decoded(&value, &mut errors).map_or(0, |content| content.len());
    }
    if bytes > MOST_BYTES {
        errors.push(FieldError::too_long(data, MOST_BYTES));
    }
    let has = |key: &str| data.value.get(key).is_some_and(|value| !value.is_null());
    let missing = |key: &str| FieldError::required(format!("data[{key}]"), "");
    match object["type"].as_str().unwrap_or_default() {
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            if object["metadata"]["annotations"][key].as_str().is_none_or(str::is_empty) {
                errors.push(FieldError::required(format!("metadata.annotations[{key}]"), ""));
            }
        }
        "kubernetes.io/dockercfg" => errors.extend(json_content(&data, ".dockercfg")),
        "kubernetes.io/dockerconfigjson" => errors.extend(json_content(&data, ".dockerconfigjson")),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            errors.extend([missing("username"), missing("password")]);
        }
        "kubernetes.io/ssh-auth"
            if data.value["ssh-privatekey"].as_str().is_none_or(str::is_empty) =>
        {
            errors.push(missing("ssh-privatekey"));
        }
        "kubernetes.io/tls" => {
            let keys = ["tls.crt", "tls.key"];
            errors.extend(keys.into_iter().filter(|key| !has(key)).map(missing));
        }
        _ => {}
    }
    errors
}

/// The docker configuration at `key`: there, and a JSON object.
fn json_content(data: &Place<'_>, key: &str) -> Errors {
    let place = data.entries().find(|(name, _)| *name == key);
    let Some((_, place)) = place else {
        return vec![FieldError::required(format!("{data}[{key}]"), "")];
    };
    let content = STANDARD.decode(place.text()).unwrap_or_default();
    match serde_json::from_slice::<serde_json::Map<String, Value>>(&content) {
        Ok(_) => Errors::new(),
        // The parser's own words could quote the content.
        Err(_) if content.is_empty() => {
            vec![place.invalid_value(&REDACTED.into(), "unexpected end of JSON input")]
        }
        Err(_) => vec![place.invalid_value(&REDACTED.into(), "must be a JSON object")],
    }
}

fn key_errors(value: &Place<'_>, key: &str) -> Errors {
    let complaints = name::config_key(key);
    complaints.iter().map(|complaint| value.invalid_value(&key.into(), complaint)).collect()
}

/// Bytes travel as base64; anything else is told without being shown.
fn decoded(value: &Place<'_>, errors: &mut Errors) -> Option<Vec<u8>> {
    match STANDARD.decode(value.text()) {
        Ok(content) => Some(content),
        Err(_) => {
            errors.push(FieldError::type_invalid(
                value,
                &REDACTED.into(),
                "must be base64-encoded",
            ));
            None
        }
    }
}

fn frozen(old: &Value, new: &Value, fields: &[&str]) -> Errors {
    if old["immutable"] != true {
        return Errors::new();
    }
    let is_empty = |value: &Value| value.as_object().is_none_or(serde_json::Map::is_empty);
    let mut errors = Errors::new();
    if new["immutable"] != true {
        errors.push(FieldError::forbidden("immutable", IMMUTABLE));
    }
    for field in fields {
        let (old, new) = (&old[*field], &new[*field]);
        if old != new && !(is_empty(old) && is_empty(new)) {
            errors.push(FieldError::forbidden(field, IMMUTABLE));
        }
    }
    errors
}
