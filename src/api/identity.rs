//! Who is asking: from a client certificate, a bearer token, or (in process) a typed extension.

use std::collections::BTreeMap;

/// An authenticated caller; travels as a request extension, never as a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub groups: Vec<String>,
    pub uid: Option<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}
