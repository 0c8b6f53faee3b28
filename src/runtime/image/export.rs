//! `joey image export`: a present image as an OCI archive that any tool can read.
//!
//! Layers are written anew from their unpacked files, uncompressed and in a fixed form; when that differs from
//! the tar they came from, the exported image has its own id.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, Header};

use super::layer_tar::{LayerTar, Ownership};
use super::reference::Digest;
use super::{ImageError, Images};

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("writing {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("the image's config is damaged")]
    Config(#[source] serde_json::Error),
}

/// Writes `reference` to `file`.
pub fn export(images: &Images, reference: &str, file: &Path) -> Result<(), ExportError> {
    let write = |source: io::Error| ExportError::Write { path: file.to_owned(), source };
    let image = images.find(reference)?.ok_or_else(|| ImageError::Absent { name: reference.to_owned() })?;
    let id = super::manifest::digest(&image.id)
        .map_err(|error| ImageError::Content { reason: error.to_string() })?;
    let mut config: Value =
        serde_json::from_slice(&images.inner.disk.config(&id)?).map_err(ExportError::Config)?;

    let mut blobs: Vec<(Digest, u64, Blob)> = Vec::new();
    let mut layers = Vec::new();
    for root in image.layers.iter().rev() {
        let mut scratch = File::from(
            rustix::fs::open(
                images.inner.disk.root(),
                rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
                rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            )
            .map_err(|error| write(error.into()))?,
        );
        let mut tar = LayerTar::new(io::BufWriter::new(&scratch)).with_hard_links();
        tar.tree(root, Path::new(""), Ownership::default(), &|_| true).map_err(write)?;
        tar.finish().and_then(|mut out| out.flush()).map_err(write)?;
        let (digest, length) = digest_of(&mut scratch).map_err(write)?;
        layers.push(json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": digest.to_string(),
            "size": length,
        }));
        blobs.push((digest, length, Blob::File(scratch)));
    }
    config["rootfs"]["diff_ids"] = layers.iter().map(|layer| layer["digest"].clone()).collect();
    let config = small(config.to_string().into_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config.0.to_string(),
            "size": config.1,
        },
        "layers": layers,
    });
    let manifest = small(manifest.to_string().into_bytes());
    let mut descriptor = json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": manifest.0.to_string(),
        "size": manifest.1,
    });
    if let Some(name) = image.names.iter().find(|name| !name.contains('@')) {
        descriptor["annotations"] = json!({
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name,
        });
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor],
    });
    blobs.push(config);
    blobs.push(manifest);
    blobs.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
    blobs.dedup_by(|a, b| a.0 == b.0);

    let out = File::create(file).map_err(write)?;
    let mut archive = Builder::new(io::BufWriter::new(out));
    let mut add = |name: &str, length: u64, content: &mut dyn Read| {
        let mut header = Header::new_gnu();
        header.set_size(length);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, content)
    };
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    add("oci-layout", layout.len() as u64, &mut &layout[..]).map_err(write)?;
    let index = index.to_string();
    add("index.json", index.len() as u64, &mut index.as_bytes()).map_err(write)?;
    for (digest, length, blob) in &mut blobs {
        let name = format!("blobs/sha256/{}", digest.hex());
        match blob {
            Blob::Bytes(bytes) => add(&name, *length, &mut &bytes[..]),
            Blob::File(file) => add(&name, *length, file),
        }
        .map_err(write)?;
    }
    let out = archive.into_inner().map_err(write)?;
    let out = out.into_inner().map_err(|error| write(error.into_error()))?;
    out.sync_all().map_err(write)
}

enum Blob {
    Bytes(Vec<u8>),
    File(File),
}

fn small(bytes: Vec<u8>) -> (Digest, u64, Blob) {
    (Digest::of(&bytes), bytes.len() as u64, Blob::Bytes(bytes))
}

/// Hashes a file from its start and leaves it there.
fn digest_of(file: &mut File) -> io::Result<(Digest, u64)> {
    file.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    let mut length = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            got => {
                hash.update(&buffer[..got]);
                length += got as u64;
            }
        }
    }
    file.seek(SeekFrom::Start(0))?;
    Ok((Digest::from_hash(&hash.finalize()), length))
}
