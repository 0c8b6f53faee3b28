//! Request bodies become JSON values here: JSON, YAML and Kubernetes' protobuf envelope.
//!
//! It never looks at what a value means; unknown fields and types are [`super::schema`]'s business.

pub mod json;
pub mod path;
pub mod protobuf;
#[cfg(test)]
mod tests;
mod tree;
pub mod yaml;

pub use self::{json::decode as json, protobuf::decode as protobuf, yaml::decode as yaml};

use serde_json::Value;

/// A decoded body.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// Paths of members that occurred more than once (the last one won), as `metadata.labels.app`
    /// or `spec.containers[0].image`, in the order they were found, each once.
    pub duplicates: Vec<String>,
}

/// Why a body could not be decoded: always the client's fault, HTTP 400.
///
/// `Display` is the text Kubernetes' own decoders use where they have one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON; the text names the byte or token, as `invalid character 'x' looking for beginning of value`.
    #[error("{0}")]
    Json(String),
    /// Not YAML, or YAML that exceeds its budget (aliases, nodes, depth).
    #[error("yaml: {0}")]
    Yaml(String),
    /// Not a Kubernetes protobuf envelope, or its message is malformed.
    #[error("proto: {0}")]
    Protobuf(String),
    /// The protobuf envelope names a type that has no table here.
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\"")]
    UnknownKind { api_version: String, kind: String },
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("exceeded max depth")]
    TooDeep,
    /// More values than [`MAX_NODES`].
    #[error("too many values in one object")]
    TooMany,
}

/// How deep objects and lists may nest in a body (serde_json's own limit).
pub const MAX_DEPTH: usize = 127;

/// How many values (objects, lists, scalars) a body may hold: ten times the largest real objects, and
/// what keeps 3 MiB of `[[],[],…` from growing to a hundred.
pub const MAX_NODES: usize = 250_000;

/// Marks of our own refusals inside foreign error types.
const TOO_DEEP: &str = "exceeded max depth";
const TOO_MANY: &str = "too many values";
