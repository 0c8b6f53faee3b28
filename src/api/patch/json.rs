//! stub
use super::PatchError;
use serde_json::Value;
/// Applies RFC 6902 text.
pub fn apply(current: &Value, _patch: &[u8]) -> Result<Value, PatchError> {
    Ok(current.clone())
}
