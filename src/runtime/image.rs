//! Images: names, registries, archives, unpacked layers, and what is kept of them.
//!
//! The image store is files: content by digest, unpacked layers by diffID, one record per name.
//! Daemon and command line use it side by side under file locks; a record appears by rename after
//! everything it names is durable.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The image store under one directory. Clones share it.
#[derive(Clone)]
pub struct Images {}

/// A present image, ready to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Digest of the config, `sha256:…`.
    pub id: String,
    /// Full names with tags, `docker.io/library/kangaroo-backend:1.14.2`.
    pub names: Vec<String>,
    /// `name@sha256:…` of the manifests it was pulled or imported by.
    pub digests: Vec<String>,
    /// Bytes of its unpacked layers.
    pub size_bytes: u64,
    /// RFC 3339, from the config.
    pub created: Option<String>,
    pub config: ImageConfig,
    /// Unpacked layer directories, topmost first.
    pub layers: Vec<PathBuf>,
}

/// The `config` object of an OCI image config that matters for running.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub user: String,
    pub working_dir: String,
    pub exposed_ports: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub volumes: Vec<String>,
    pub stop_signal: Option<String>,
}

/// Credentials for one registry.
#[derive(Clone)]
pub struct Credentials {
    /// Registry host as in docker config (`registry.example.com`, `https://index.docker.io/v1/`).
    pub registry: String,
    pub username: String,
    pub password: String,
}

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// Hosts (`host:port`) that are spoken to over plain HTTP.
    pub plain_http: Vec<String>,
    /// PEM file with further certificate authorities.
    pub ca_file: Option<PathBuf>,
}

/// Why an image is not here.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name cannot be parsed (InvalidImageName).
    #[error("couldn't parse image name {name:?}: {reason}")]
    InvalidName { name: String, reason: String },
    /// The registry does not have it, cannot be reached, or refuses us.
    #[error("failed to pull image {name:?}: {reason}")]
    Pull { name: String, reason: String },
    /// The content is corrupt, hostile or over a limit.
    #[error("image content refused: {reason}")]
    Content { reason: String },
    #[error("image {name:?} is not present")]
    Absent { name: String },
    #[error("{step}: {reason}")]
    Io { step: &'static str, reason: String },
}

impl Images {
    /// Opens or creates the store; removes what an interrupted operation left behind.
    pub fn open(_root: &Path, _registries: Registries) -> Result<Images, ImageError> {
        unimplemented!()
    }

    /// The image that a reference (name, name:tag, name@digest, image id) stands for, if present.
    pub fn find(&self, _reference: &str) -> Result<Option<Image>, ImageError> {
        unimplemented!()
    }

    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        unimplemented!()
    }

    /// Fetches, verifies and unpacks. Concurrent pulls of one reference share the work.
    pub async fn pull(
        &self,
        _reference: &str,
        _credentials: &[Credentials],
    ) -> Result<Image, ImageError> {
        unimplemented!()
    }

    /// Reads a docker-archive or OCI-layout tar (plain, gzip, zstd) from a file or a pipe.
    pub async fn import(
        &self,
        _archive: Box<dyn std::io::Read + Send>,
    ) -> Result<Vec<Image>, ImageError> {
        unimplemented!()
    }

    /// Removes a name; content that nothing refers to any more goes too.
    pub fn remove(&self, _reference: &str) -> Result<(), ImageError> {
        unimplemented!()
    }

    /// Text of a regular file of the image such as `/etc/passwd`, at most `limit` bytes; resolved inside
    /// the layers only. `None` when absent.
    pub fn read_file(
        &self,
        _image: &Image,
        _path: &str,
        _limit: usize,
    ) -> Result<Option<Vec<u8>>, ImageError> {
        unimplemented!()
    }

    /// Wakes whenever an image may have appeared or gone.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        unimplemented!()
    }
}
