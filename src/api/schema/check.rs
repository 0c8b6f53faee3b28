//! stub
use serde_json::Value;
/// Checks.
pub fn check(_api_version: &str, _kind: &str, _value: &mut Value) -> Result<Vec<String>, String> {
    Ok(Vec::new())
}
