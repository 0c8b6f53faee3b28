//! The OpenAPI documents that `kubectl explain`, `apply` and `edit` read: one per group and version.
//!
//! Shapes and descriptions come from k8s-openapi, merge and list extensions from the table of types. It
//! never decides what is served: the catalog hands in the list.

mod enums;
mod paths;
mod schemas;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

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
    /// Group, version and kind of its body.
    pub group: String,
    pub version: String,
    pub kind: String,
    pub verbs: Vec<String>,
}

/// A finished document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// JSON text.
    pub bytes: Bytes,
    /// Upper-case hexadecimal SHA-512 of `bytes`: the `hash` of its URL and its ETag.
    pub hash: String,
}

/// The OpenAPI v3 documents of a set of resources; build one per catalog state and keep it.
///
/// Documents are built when first asked for and rest compressed (an eighth of their size).
#[derive(Debug, Default)]
pub struct Documents {
    resources: Vec<ResourceDoc>,
    /// By group and version, as `v1` and `apps/v1`.
    built: BTreeMap<String, OnceLock<Packed>>,
}

#[derive(Debug)]
struct Packed {
    deflated: Vec<u8>,
    length: usize,
    hash: String,
}

impl Documents {
    /// Remembers the resources; builds nothing yet.
    pub fn new(resources: Vec<ResourceDoc>) -> Documents {
        let versions: BTreeSet<String> = resources.iter().map(ResourceDoc::group_version).collect();
        let built = versions.into_iter().map(|version| (version, OnceLock::new())).collect();
        Documents { resources, built }
    }

    /// Body of `/openapi/v3`: where each document is, with its hash. The first call builds all of them.
    pub fn index_v3(&self) -> Vec<u8> {
        let mut paths = Map::new();
        for (group_version, slot) in &self.built {
            let packed = slot.get_or_init(|| self.pack(group_version));
            let prefix = if group_version.contains('/') { "apis" } else { "api" };
            let path = format!("{prefix}/{group_version}");
            let url = format!("/openapi/v3/{path}?hash={}", packed.hash);
            paths.insert(path, json!({ "serverRelativeURL": url }));
        }
        text(&json!({ "paths": paths }))
    }

    /// Body of `/openapi/v3/api/v1` or `/openapi/v3/apis/GROUP/VERSION`; `group_version` is `v1` or
    /// `apps/v1`. `None` if nothing of that version is served.
    pub fn document_v3(&self, group_version: &str) -> Option<Arc<Document>> {
        let packed = self.built.get(group_version)?.get_or_init(|| self.pack(group_version));
        let mut bytes = Vec::with_capacity(packed.length);
        ZlibDecoder::new(packed.deflated.as_slice())
            .read_to_end(&mut bytes)
            .expect("what was deflated in memory inflates again");
        Some(Arc::new(Document { bytes: bytes.into(), hash: packed.hash.clone() }))
    }

    fn pack(&self, group_version: &str) -> Packed {
        let served: Vec<&ResourceDoc> =
            self.resources.iter().filter(|one| one.group_version() == group_version).collect();
        let plain = text(&document(group_version, &served));
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        let deflated = encoder.write_all(&plain).and_then(|()| encoder.finish());
        let mut hash = String::with_capacity(128);
        for byte in Sha512::digest(&plain) {
            write!(hash, "{byte:02X}").expect("writing to a String cannot fail");
        }
        Packed {
            deflated: deflated.expect("writing to a Vec cannot fail"),
            length: plain.len(),
            hash,
        }
    }
}

impl ResourceDoc {
    /// `v1` or `apps/v1`.
    pub fn group_version(&self) -> String {
        group_version(&self.group, &self.version)
    }
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn text(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a JSON value with string keys can be written")
}

fn document(group_version: &str, served: &[&ResourceDoc]) -> Value {
    let shapes = schemas::Schemas::of(group_version, served);
    let paths = paths::of(served, &shapes);
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36"},
        "paths": paths,
        "components": {"schemas": shapes.into_components()},
    })
}

/// Body of `/openapi/v2` (only ever asked for as protobuf): swagger "2.0", a title, and nothing in it.
///
/// kubectl needs it for manifests of `kind: List`; everything real is in v3.
pub fn v2_protobuf() -> &'static [u8] {
    b"\x0a\x032.0\x12\x10\x0a\x0aKubernetes\x12\x02v1\x42\x00\x4a\x00"
}
