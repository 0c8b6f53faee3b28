//! Writes a present image as an OCI layout in a tar, for `import` here and for every other tool.
//!
//! Layers are packed from their unpacked files. Those built here come out byte for byte; a foreign
//! layer may come out as an equal tree in another tar, and the image then has another id.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::disk::io;
use super::manifest::{OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST};
use super::reference::Digest;
use super::tarball::{self, Meta, Tarball};
use super::{ImageError, Images, absent, parse_id, parse_name};

/// Writes the image `reference` to `file`, whole or not at all.
pub fn export(images: &Images, reference: &str, file: &Path) -> Result<(), ImageError> {
    let mut part = file.to_owned().into_os_string();
    part.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(part);
    let result = File::create(&part)
        .map_err(io("create the archive"))
        .and_then(|output| write(images, reference, output))
        .and_then(|()| fs::rename(&part, file).map_err(io("put the archive into place")));
    if result.is_err() {
        // Nothing more can be done about a file that cannot be removed either.
        let _ = fs::remove_file(&part);
    }
    result
}

/// A packed layer in an unnamed file.
struct Packed {
    file: File,
    digest: Digest,
    diff_id: Digest,
    bytes: u64,
}

fn write(images: &Images, reference: &str, output: File) -> Result<(), ImageError> {
    let disk = &images.inner.disk;
    // The layers stay while they are read.
    let _shared = disk.lock_shared()?;
    let id = images.resolve(reference)?.ok_or_else(|| absent(reference))?;
    let record = disk.image_record(&id)?.ok_or_else(|| absent(reference))?;
    let mut layers = Vec::new();
    for text in &record.layers {
        let diff_id = parse_id(text).ok_or_else(|| absent(reference))?;
        layers.push(pack(images, &diff_id)?);
    }
    let mut config = disk.config(&id)?;
    let diff_ids: Vec<String> = layers.iter().map(|l| l.diff_id.to_string()).collect();
    if diff_ids != record.layers {
        let mut value: Value = serde_json::from_slice(&config).map_err(encode)?;
        value["rootfs"]["diff_ids"] = json!(diff_ids);
        config = serde_json::to_vec(&value).map_err(encode)?;
        tracing::warn!(
            image = %id,
            exported = %Digest::of(&config),
            "a layer could not be packed byte for byte; the exported image has another id"
        );
    }
    let config_digest = Digest::of(&config);
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": OCI_CONFIG, "digest": config_digest.as_str(), "size": config.len(),
        },
        "layers": layers.iter().map(|layer| json!({
            "mediaType": OCI_LAYER_GZIP, "digest": layer.digest.as_str(), "size": layer.bytes,
        })).collect::<Vec<_>>(),
    }))
    .map_err(encode)?;
    let mut annotations = serde_json::Map::new();
    if let Ok(name) = parse_name(reference)
        && parse_id(reference).is_none()
        && name.digest().is_none()
        && disk.name(&name.canonical())?.is_some()
    {
        let tag = name.tag().unwrap_or("latest");
        annotations.insert("io.containerd.image.name".into(), json!(name.to_string()));
        annotations.insert("org.opencontainers.image.ref.name".into(), json!(tag));
    }
    let manifest_digest = Digest::of(&manifest);
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": OCI_MANIFEST,
            "digest": manifest_digest.as_str(),
            "size": manifest.len(),
            "annotations": annotations,
            "platform": {"architecture": "amd64", "os": "linux"},
        }],
    }))
    .map_err(encode)?;

    let failed = io("write the archive");
    assemble(output, &mut layers, &config, &manifest, &index).map_err(failed)
}

fn assemble(
    output: File,
    layers: &mut [Packed],
    config: &[u8],
    manifest: &[u8],
    index: &[u8],
) -> std::io::Result<()> {
    let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: 0 };
    let mut tarball = Tarball::new(BufWriter::with_capacity(128 << 10, output));
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    for (name, content) in [("oci-layout", &layout[..]), ("index.json", index)] {
        tarball.file(name.as_bytes(), &meta, content.len() as u64, content)?;
    }
    let mut written = std::collections::BTreeSet::new();
    for content in [manifest, config] {
        let digest = Digest::of(content);
        tarball.file(&blob(&digest), &meta, content.len() as u64, content)?;
        written.insert(digest);
    }
    for layer in layers {
        if written.insert(layer.digest.clone()) {
            layer.file.seek(SeekFrom::Start(0))?;
            let content = BufReader::with_capacity(128 << 10, &layer.file);
            tarball.file(&blob(&layer.digest), &meta, layer.bytes, content)?;
        }
    }
    let output = tarball.finish()?.into_inner()?;
    output.sync_all()
}

fn blob(digest: &Digest) -> Vec<u8> {
    format!("blobs/sha256/{}", digest.hex()).into_bytes()
}

fn pack(images: &Images, diff_id: &Digest) -> Result<Packed, ImageError> {
    let disk = &images.inner.disk;
    let root = File::open(disk.layer_root(diff_id)).map_err(io("open a layer"))?;
    let mut file = disk.unnamed_file()?;
    let failed = io("pack a layer");
    let plain = (|| {
        let output = BufWriter::with_capacity(128 << 10, &file);
        let gzip = flate2::write::GzEncoder::new(output, flate2::Compression::new(6));
        let plain =
            tarball::write_layer(root.as_fd(), Hashing { output: gzip, hash: Sha256::new() })?;
        plain.output.finish()?.flush()?;
        Ok(plain.hash)
    })()
    .map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(io("pack a layer"))?;
    let mut hash = Sha256::new();
    let mut bytes = 0;
    let mut buffer = vec![0; 128 << 10];
    loop {
        let got = file.read(&mut buffer).map_err(io("pack a layer"))?;
        if got == 0 {
            break;
        }
        hash.update(&buffer[..got]);
        bytes += got as u64;
    }
    Ok(Packed {
        file,
        digest: Digest::from_hash(&hash.finalize()),
        diff_id: Digest::from_hash(&plain.finalize()),
        bytes,
    })
}

/// Knows the digest of what goes through it.
struct Hashing<W> {
    output: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let wrote = self.output.write(bytes)?;
        self.hash.update(&bytes[..wrote]);
        Ok(wrote)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.output.flush()
    }
}

fn encode(error: serde_json::Error) -> ImageError {
    ImageError::Io { step: "encode the image", reason: error.to_string() }
}
