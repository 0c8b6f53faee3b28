//! stub
use super::PatchError;
use serde_json::Value;
/// Applies RFC 7386.
pub fn apply(current: &Value, _patch: &Value) -> Result<Value, PatchError> {
    Ok(current.clone())
}
