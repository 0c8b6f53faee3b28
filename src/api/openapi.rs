//! stub

/// One served resource, as discovery lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceDoc {
    /// API group, empty for core.
    pub group: String,
    pub version: String,
    pub kind: String,
    /// Plural, lower-case name in URLs.
    pub plural: String,
    pub namespaced: bool,
    /// Verbs as in discovery: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verbs: Vec<String>,
    pub subresources: Vec<SubresourceDoc>,
}

/// A subresource of a [`ResourceDoc`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubresourceDoc {
    /// Last URL segment: `status`, `scale`, `log`.
    pub name: String,
    /// Group, version and kind of its body, where they differ from the parent's.
    pub group: String,
    pub version: String,
    pub kind: String,
    pub verbs: Vec<String>,
}

/// A finished document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// JSON text.
    pub bytes: bytes::Bytes,
    /// Upper-case hexadecimal SHA-512 of `bytes`: the `hash` of its URL and its ETag.
    pub hash: String,
}

/// The OpenAPI v3 documents of a set of resources; build one per catalog state and keep it.
#[derive(Debug, Default)]
pub struct Documents {}

impl Documents {
    /// Remembers the resources; builds nothing yet.
    pub fn new(_resources: Vec<ResourceDoc>) -> Documents {
        Documents {}
    }
    /// Body of `/openapi/v3`.
    pub fn index_v3(&self) -> Vec<u8> {
        Vec::new()
    }
    /// Body of `/openapi/v3/{path}` where path is `api/v1` or `apis/GROUP/VERSION`; `group_version` is `v1` or `apps/v1`.
    pub fn document_v3(&self, _group_version: &str) -> Option<std::sync::Arc<Document>> {
        None
    }
}

/// Body of `/openapi/v2` (only ever asked for as protobuf).
pub fn v2_protobuf() -> &'static [u8] {
    b"\x0a\x032.0\x12\x10\x0a\x0aKubernetes\x12\x02v1\x42\x00\x4a\x00"
}
