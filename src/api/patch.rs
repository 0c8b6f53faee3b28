//! The patch dialects: each takes the current object and a patch, and returns the next object.
//!
//! They never see the store, the caller or the schema's defaults.

pub mod json;
pub mod merge;
pub mod strategic;

/// Why a patch was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// 400 BadRequest: the patch document itself is malformed.
    #[error("{0}")]
    BadRequest(String),
    /// 413 RequestEntityTooLarge.
    #[error("{0}")]
    TooLarge(String),
    /// 415 UnsupportedMediaType: this dialect does not exist for the type.
    #[error("{0}")]
    Unsupported(String),
    /// 422 Invalid: well formed, but it cannot be applied to the current object.
    #[error("{0}")]
    Invalid(String),
}

impl PatchError {
    /// The HTTP status it stands for.
    pub fn code(&self) -> u16 {
        match self {
            PatchError::BadRequest(_) => 400,
            PatchError::TooLarge(_) => 413,
            PatchError::Unsupported(_) => 415,
            PatchError::Invalid(_) => 422,
        }
    }
}
