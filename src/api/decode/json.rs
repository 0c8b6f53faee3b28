//! stub
use super::{DecodeError, Decoded};
/// Decodes a body.
pub fn decode(_body: &[u8]) -> Result<Decoded, DecodeError> {
    Err(DecodeError::TooDeep)
}
