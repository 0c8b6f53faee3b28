//! stub
use super::PatchError;
use serde_json::Value;
/// Applies a strategic merge patch to an object of the given type.
pub fn apply(
    current: &Value,
    _patch: &Value,
    _api_version: &str,
    _kind: &str,
) -> Result<Value, PatchError> {
    Ok(current.clone())
}
