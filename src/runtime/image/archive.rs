//! Archives of images: docker-archive and OCI layout tars, from a file or a pipe.
//!
//! The whole archive goes once through an unnamed file in the store, decompressed in the confined
//! process; then its parts are read in the order that the manifest, not the archive, has them. A crash
//! leaves nothing.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use serde::Deserialize;

use super::ImageError;
use super::access::Access;
use super::config;
use super::disk::{Disk, io};
use super::entries::{Entries, EntryLimits, Kind, printable};
use super::manifest::{self, CONFIG_MAX_BYTES, Descriptor, Document, MANIFEST_MAX_BYTES};
use super::reference::{Digest, Reference};
use super::strict_json;
use super::unpack::{self, Expected, Limits, UnpackError};

/// Images of one archive.
const IMAGES_MAX: usize = 100;
/// Largest archive, uncompressed.
const ARCHIVE_MAX_BYTES: u64 = 32 << 30;
/// Links that are followed from a name to a file.
const LINKS_MAX: usize = 8;

/// Reads an archive, unpacks its images' layers and records the images. Answers their ids in the
/// archive's order. `base` names images that carry only a tag, or nothing.
///
/// The caller holds the shared lock of the store.
pub fn import(
    disk: &Disk,
    source: &mut dyn Read,
    base: Option<&Reference>,
    limits: &Limits,
) -> Result<Vec<Digest>, ImageError> {
    let archive = Archive::spool(disk, source)?;
    let images = if archive.has("oci-layout") && archive.has("index.json") {
        oci_images(&archive)?
    } else if archive.has("manifest.json") {
        docker_images(&archive)?
    } else {
        return Err(refused(
            "neither index.json with oci-layout nor manifest.json is in the archive".to_owned(),
        ));
    };
    if images.is_empty() {
        return Err(refused("the archive holds no image for linux/amd64".to_owned()));
    }
    if images.len() > IMAGES_MAX {
        return Err(refused(format!("the archive holds more than {IMAGES_MAX} images")));
    }
    let mut ids = Vec::new();
    for image in &images {
        let id = place(disk, &archive, image, base, limits)?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// One image as the archive describes it.
struct Found {
    config: Vec<u8>,
    config_digest: Option<Digest>,
    /// Names of the archive's files, lowest layer first, with what the manifest says about them.
    layers: Vec<(String, Option<Descriptor>)>,
    /// References as they stand in the archive; a word without `:` and `/` is a tag alone.
    names: Vec<String>,
    manifest: Option<Digest>,
}

fn place(
    disk: &Disk,
    archive: &Archive,
    image: &Found,
    base: Option<&Reference>,
    limits: &Limits,
) -> Result<Digest, ImageError> {
    let id = Digest::of(&image.config);
    if let Some(expected) = &image.config_digest
        && *expected != id
    {
        return Err(refused(format!("config digest mismatch: expected {expected}, got {id}")));
    }
    let config = config::parse(&image.config).map_err(|e| refused(e.to_string()))?;
    if config.diff_ids.len() != image.layers.len() {
        return Err(refused(
            manifest::ManifestError::LayerCount {
                diff_ids: config.diff_ids.len(),
                layers: image.layers.len(),
            }
            .to_string(),
        ));
    }
    let mut names = Vec::new();
    for name in &image.names {
        names.extend(full_name(name, base)?);
    }
    if names.is_empty() {
        names.extend(base.cloned());
    }
    for (diff_id, (file, descriptor)) in config.diff_ids.iter().zip(&image.layers) {
        let part = archive.part(file)?;
        let expected = Expected {
            digest: descriptor.as_ref().map(|layer| layer.digest.clone()),
            size_bytes: descriptor.as_ref().map_or(part.length, |layer| layer.size_bytes),
            diff_id: diff_id.clone(),
        };
        let mut reader = archive.reader(part);
        unpack::layer(disk, &mut reader, &expected, limits)?;
    }
    let layers = config.diff_ids.iter().map(Digest::to_string).collect();
    let mut recorded: Vec<String> = Vec::new();
    for name in &names {
        recorded.push(name.canonical());
        if let Some(manifest) = &image.manifest {
            recorded.push(name.with_digest(manifest).canonical());
        }
    }
    recorded.sort();
    recorded.dedup();
    disk.put_image(&id, &image.config, layers, &recorded, |_| Access::everybody())?;
    Ok(id)
}

/// A tag alone needs a repository; without one the image is known by its id only.
fn full_name(text: &str, base: Option<&Reference>) -> Result<Option<Reference>, ImageError> {
    let invalid = |e: super::reference::ReferenceError| ImageError::InvalidName {
        name: text.chars().take(256).collect(),
        reason: e.to_string(),
    };
    if text.contains([':', '/']) {
        return text.parse().map(Some).map_err(invalid);
    }
    base.map(|base| base.with_tag(text).map_err(invalid)).transpose()
}

fn oci_images(archive: &Archive) -> Result<Vec<Found>, ImageError> {
    #[derive(Deserialize)]
    struct Layout {
        #[serde(rename = "imageLayoutVersion")]
        version: String,
    }
    let layout: Layout = strict_json::parse_into(&archive.content("oci-layout", 4096)?)
        .map_err(|e| refused(format!("oci-layout is not valid: {e}")))?;
    if layout.version != "1.0.0" {
        return Err(refused(format!("image layout version {:?} is not supported", layout.version)));
    }
    let index = archive.content("index.json", MANIFEST_MAX_BYTES)?;
    let Document::Index(entries) =
        manifest::parse(&index, None).map_err(|e| refused(e.to_string()))?
    else {
        return Err(refused("index.json is not an image index".to_owned()));
    };
    let mut images: Vec<Found> = Vec::new();
    for entry in entries.iter().filter(|entry| entry.may_run_here()) {
        let names: Vec<String> = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
            .iter()
            .find_map(|key| entry.annotations.get(*key))
            .cloned()
            .into_iter()
            .collect();
        let (digest, document) = blob_document(archive, entry)?;
        // An index may hold indexes of platforms, and those nothing but manifests.
        let (manifest_digest, parsed) = match document {
            Document::Manifest(parsed) => (digest, parsed),
            Document::Index(platforms) => {
                let chosen = manifest::choose(&platforms).map_err(|e| refused(e.to_string()))?;
                match blob_document(archive, chosen)? {
                    (digest, Document::Manifest(parsed)) => (digest, parsed),
                    (_, Document::Index(_)) => {
                        return Err(refused("the index is nested too deeply".to_owned()));
                    }
                }
            }
        };
        let config = archive.content(&blob_path(&parsed.config.digest), CONFIG_MAX_BYTES)?;
        images.push(Found {
            config_digest: Some(parsed.config.digest.clone()),
            config,
            layers: parsed
                .layers
                .into_iter()
                .map(|layer| (blob_path(&layer.digest), Some(layer)))
                .collect(),
            names,
            manifest: Some(manifest_digest),
        });
    }
    Ok(images)
}

fn blob_document(
    archive: &Archive,
    descriptor: &Descriptor,
) -> Result<(Digest, Document), ImageError> {
    let text = archive.content(&blob_path(&descriptor.digest), MANIFEST_MAX_BYTES)?;
    if text.len() as u64 != descriptor.size_bytes || Digest::of(&text) != descriptor.digest {
        return Err(refused(format!(
            "manifest {} does not match its descriptor",
            descriptor.digest
        )));
    }
    let announced = Some(descriptor.media_type.as_str()).filter(|text| !text.is_empty());
    let document = manifest::parse(&text, announced).map_err(|e| refused(e.to_string()))?;
    Ok((descriptor.digest.clone(), document))
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn docker_images(archive: &Archive) -> Result<Vec<Found>, ImageError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Item {
        config: String,
        repo_tags: Option<Vec<String>>,
        layers: Vec<String>,
    }
    let text = archive.content("manifest.json", MANIFEST_MAX_BYTES)?;
    let items: Vec<Item> = strict_json::parse_into(&text)
        .map_err(|e| refused(format!("manifest.json is not valid: {e}")))?;
    items
        .into_iter()
        .map(|item| {
            Ok(Found {
                config: archive.content(&item.config, CONFIG_MAX_BYTES)?,
                config_digest: None,
                layers: item.layers.into_iter().map(|layer| (layer, None)).collect(),
                names: item.repo_tags.unwrap_or_default(),
                manifest: None,
            })
        })
        .collect()
}

/// The archive on disk and where each of its files lies.
struct Archive {
    file: File,
    parts: HashMap<Vec<u8>, Part>,
    links: HashMap<Vec<u8>, Vec<u8>>,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    offset: u64,
    length: u64,
}

impl Archive {
    fn spool(disk: &Disk, source: &mut dyn Read) -> Result<Archive, ImageError> {
        let mut file = disk.unnamed_file()?;
        let mut bytes: u64 = 0;
        let mut checked: u64 = 0;
        unpack::decompress(source, &mut |chunk| {
            bytes += chunk.len() as u64;
            if bytes > ARCHIVE_MAX_BYTES {
                return Err(UnpackError::TooLarge(ARCHIVE_MAX_BYTES));
            }
            if bytes - checked > 16 << 20 {
                checked = bytes;
                if disk.free_bytes()? < 16 << 20 {
                    return Err(UnpackError::NoSpace);
                }
            }
            file.write_all(chunk).map_err(|e| io("write the archive")(e).into())
        })?;
        file.seek(SeekFrom::Start(0)).map_err(io("read the archive"))?;
        let limits = EntryLimits { entries: 100_000, depth: 16 };
        let mut parts = HashMap::new();
        let mut links = HashMap::new();
        let buffered = std::io::BufReader::with_capacity(64 << 10, &file);
        let mut entries = Entries::new(buffered, limits);
        let bad = |e: super::entries::EntryError| refused(format!("bad archive: {e}"));
        while let Some(entry) = entries.next_entry().map_err(bad)? {
            if parts.contains_key(&entry.path) || links.contains_key(&entry.path) {
                return Err(refused(format!("{} is in the archive twice", printable(&entry.path))));
            }
            match entry.kind {
                Kind::File => {
                    let part = Part { offset: entries.position(), length: entry.size };
                    parts.insert(entry.path, part);
                }
                Kind::Hardlink(target) => {
                    links.insert(entry.path, target);
                }
                // `docker save` of old links equal layers with `../<id>/layer.tar`.
                Kind::Symlink(target) => {
                    let target = beside(&entry.path, &target);
                    links.insert(entry.path, target);
                }
                Kind::Directory => {}
                Kind::Char(..) | Kind::Block(..) | Kind::Fifo => {
                    return Err(refused(format!(
                        "{} in the archive is not a file",
                        printable(&entry.path)
                    )));
                }
            }
        }
        Ok(Archive { file, parts, links })
    }

    fn has(&self, name: &str) -> bool {
        self.part(name).is_ok()
    }

    fn part(&self, name: &str) -> Result<Part, ImageError> {
        let missing = || refused(format!("{} is not in the archive", printable(name.as_bytes())));
        let mut path = super::entries::normalize(name.as_bytes(), 16).map_err(|_| missing())?;
        for _ in 0..LINKS_MAX {
            if let Some(part) = self.parts.get(&path) {
                return Ok(*part);
            }
            path = self.links.get(&path).ok_or_else(missing)?.clone();
        }
        Err(missing())
    }

    fn content(&self, name: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let part = self.part(name)?;
        if part.length > limit {
            return Err(refused(format!(
                "{} of {} bytes exceeds the limit of {limit}",
                printable(name.as_bytes()),
                part.length
            )));
        }
        let mut content = vec![0; part.length as usize];
        self.file.read_exact_at(&mut content, part.offset).map_err(io("read the archive"))?;
        Ok(content)
    }

    fn reader(&self, part: Part) -> PartReader<'_> {
        PartReader { file: &self.file, part }
    }
}

struct PartReader<'a> {
    file: &'a File,
    part: Part,
}

impl Read for PartReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let want = (buffer.len() as u64).min(self.part.length) as usize;
        let got = self.file.read_at(&mut buffer[..want], self.part.offset)?;
        self.part.offset += got as u64;
        self.part.length -= got as u64;
        Ok(got)
    }
}

/// A link's target as a path of the archive; what climbs out of it names nothing.
fn beside(link: &[u8], target: &[u8]) -> Vec<u8> {
    let mut path: Vec<&[u8]> = link.split(|byte| *byte == b'/').collect();
    path.pop();
    for component in target.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                path.pop();
            }
            name => path.push(name),
        }
    }
    path.join(&b'/')
}

fn refused(reason: String) -> ImageError {
    ImageError::Content { reason }
}
