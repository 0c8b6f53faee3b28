//! Which field labels a resource can be selected by, and their values.
//!
//! It never parses selectors; see `model::selector`.

use serde_json::Value;

/// The value of field label `label` in `object`; `None` if `resource` does not support the label
/// ("field label not supported"). An absent field has the value "".
pub fn get(resource: &str, object: &Value, label: &str) -> Option<String> {
    let _ = resource;
    let field = match label {
        "metadata.name" => "name",
        "metadata.namespace" => "namespace",
        _ => return None,
    };
    Some(object["metadata"][field].as_str().unwrap_or_default().to_owned())
}
