//! Manifests and indexes, OCI and Docker: which config and which layers make an image.
//!
//! Pure. A document says one thing or is refused: never both index and manifest, never a duplicate
//! key, never another type than its transport announced (GHSA-5j5w-g665-5m35).

use serde::{Deserialize, Serialize};

use super::reference::Digest;
use super::strict_json;

/// Largest manifest or index that is read, as containerd and registries have it.
pub const MANIFEST_MAX_BYTES: u64 = 4 << 20;
/// Largest config that is read.
pub const CONFIG_MAX_BYTES: u64 = 4 << 20;
/// Layers that overlayfs and the mount options are sure to take.
pub const LAYERS_MAX: usize = 127;
/// Entries of one index.
const INDEX_MAX: usize = 1000;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER_TYPES: [&str; 8] = [
    "application/vnd.oci.image.layer.v1.tar",
    OCI_LAYER_GZIP,
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// Why a manifest, index or config is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("{what} is not valid: {reason}")]
    Json { what: &'static str, reason: String },
    #[error("{what} of {size} bytes exceeds the limit of {limit}")]
    TooLarge { what: &'static str, size: u64, limit: u64 },
    #[error("the document is both an image index and an image manifest")]
    Ambiguous,
    #[error("the document is neither an image index nor an image manifest")]
    Neither,
    #[error("the document says media type {inside:?} but came as {outside:?}")]
    MediaType { inside: String, outside: String },
    #[error("{what} media type {media_type:?} is not supported")]
    Unsupported { what: &'static str, media_type: String },
    #[error("manifest schema version {0} is not supported")]
    Schema(u64),
    #[error("bad digest {digest:?}: {reason}")]
    Digest { digest: String, reason: String },
    #[error("the image has {0} layers, more than {LAYERS_MAX}")]
    Layers(usize),
    #[error("the index has {0} entries, more than {INDEX_MAX}")]
    Entries(usize),
    #[error("no match for platform linux/amd64 in the index")]
    Platform,
    #[error("the image is for {0}, not for linux/amd64")]
    OtherPlatform(String),
    #[error("the config lists {diff_ids} layers, the manifest {layers}")]
    LayerCount { diff_ids: usize, layers: usize },
    #[error("config {what}: {reason}")]
    Config { what: &'static str, reason: String },
}

/// What a manifest or index says about a piece of content. `urls` are read by nobody, on purpose.
#[derive(Debug, Clone, PartialEq)]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size_bytes: u64,
    pub platform: Option<Platform>,
    pub annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Platform {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
}

/// A parsed document.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    pub config: Descriptor,
    /// Lowest first.
    pub layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// Parses a manifest or an index. `announced` is the media type its transport or descriptor gave.
pub fn parse(text: &[u8], announced: Option<&str>) -> Result<Document, ManifestError> {
    if text.len() as u64 > MANIFEST_MAX_BYTES {
        return Err(ManifestError::TooLarge {
            what: "manifest",
            size: text.len() as u64,
            limit: MANIFEST_MAX_BYTES,
        });
    }
    let raw: RawDocument = strict_json::parse_into(text)
        .map_err(|e| ManifestError::Json { what: "manifest", reason: e.to_string() })?;
    if let Some(version) = raw.schema_version
        && version != 2
    {
        return Err(ManifestError::Schema(version));
    }
    let media_type = match (&raw.media_type, announced) {
        (Some(inside), Some(outside)) if inside != outside => {
            return Err(ManifestError::MediaType {
                inside: inside.clone(),
                outside: outside.to_owned(),
            });
        }
        (Some(inside), _) => Some(inside.as_str()),
        (None, outside) => outside,
    };
    let looks_like_manifest = raw.config.is_some() || raw.layers.is_some();
    let is_index = match (looks_like_manifest, raw.manifests.is_some()) {
        (true, true) => return Err(ManifestError::Ambiguous),
        (false, false) => return Err(ManifestError::Neither),
        (manifest, _) => !manifest,
    };
    match media_type {
        Some(OCI_MANIFEST | DOCKER_MANIFEST) if !is_index => {}
        Some(OCI_INDEX | DOCKER_LIST) if is_index => {}
        None => {}
        Some(OCI_MANIFEST | DOCKER_MANIFEST | OCI_INDEX | DOCKER_LIST) => {
            return Err(ManifestError::Ambiguous);
        }
        Some(other) => {
            return Err(ManifestError::Unsupported {
                what: "manifest",
                media_type: other.to_owned(),
            });
        }
    }
    if let Some(entries) = raw.manifests {
        if entries.len() > INDEX_MAX {
            return Err(ManifestError::Entries(entries.len()));
        }
        return entries.into_iter().map(descriptor).collect::<Result<_, _>>().map(Document::Index);
    }
    let (Some(config), Some(layers)) = (raw.config, raw.layers) else {
        return Err(ManifestError::Neither);
    };
    if layers.len() > LAYERS_MAX {
        return Err(ManifestError::Layers(layers.len()));
    }
    let config = descriptor(config)?;
    if ![OCI_CONFIG, DOCKER_CONFIG].contains(&config.media_type.as_str()) {
        return Err(ManifestError::Unsupported { what: "config", media_type: config.media_type });
    }
    if config.size_bytes > CONFIG_MAX_BYTES {
        return Err(ManifestError::TooLarge {
            what: "config",
            size: config.size_bytes,
            limit: CONFIG_MAX_BYTES,
        });
    }
    let layers = layers
        .into_iter()
        .map(|raw| {
            let layer = descriptor(raw)?;
            if !LAYER_TYPES.contains(&layer.media_type.as_str()) {
                return Err(ManifestError::Unsupported {
                    what: "layer",
                    media_type: layer.media_type,
                });
            }
            Ok(layer)
        })
        .collect::<Result<_, _>>()?;
    Ok(Document::Manifest(Manifest { config, layers }))
}

fn descriptor(raw: RawDescriptor) -> Result<Descriptor, ManifestError> {
    Ok(Descriptor {
        digest: digest(&raw.digest)?,
        media_type: raw.media_type,
        size_bytes: raw.size,
        platform: raw.platform,
        annotations: raw.annotations.unwrap_or_default(),
    })
}

/// Parses a digest of a document.
pub fn digest(text: &str) -> Result<Digest, ManifestError> {
    text.parse().map_err(|e| ManifestError::Digest {
        digest: text.chars().take(128).collect(),
        reason: format!("{e}"),
    })
}

impl Descriptor {
    /// Whether this entry of an index can be an image for this machine. An entry without a platform
    /// may be one; its config decides.
    pub fn may_run_here(&self) -> bool {
        self.platform.as_ref().is_none_or(|p| p.os == "linux" && p.architecture == "amd64")
    }
}

/// The entry of an index for linux/amd64: the first that says so, else the only one that says nothing.
pub fn choose(entries: &[Descriptor]) -> Result<&Descriptor, ManifestError> {
    entries
        .iter()
        .find(|entry| entry.platform.is_some() && entry.may_run_here())
        .or_else(|| entries.iter().find(|entry| entry.platform.is_none()))
        .ok_or(ManifestError::Platform)
}

#[cfg(test)]
#[path = "manifest/tests.rs"]
mod tests;
