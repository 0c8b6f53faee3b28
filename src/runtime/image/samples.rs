//! Archives for tests, written byte by byte: also those that no honest tool writes.

use std::io::Write;

use super::reference::Digest;

/// A tar in the making.
#[derive(Default, Clone)]
pub struct Tar {
    bytes: Vec<u8>,
}

/// One header; fields as a test wants them.
#[derive(Clone)]
pub struct Member<'a> {
    pub name: &'a [u8],
    pub kind: u8,
    pub link: &'a [u8],
    pub mode: u32,
    pub uid: u32,
    pub size: u64,
    pub device: (u32, u32),
    pub magic: &'a [u8; 8],
    pub prefix: &'a [u8],
}

impl Default for Member<'_> {
    fn default() -> Self {
        Member {
            name: b"",
            kind: b'0',
            link: b"",
            mode: 0o644,
            uid: 0,
            size: 0,
            device: (0, 0),
            magic: b"ustar\x0000",
            prefix: b"",
        }
    }
}

impl Member<'_> {
    pub fn header(&self) -> [u8; 512] {
        let mut block = [0u8; 512];
        block[..self.name.len()].copy_from_slice(self.name);
        octal(&mut block[100..108], u64::from(self.mode));
        octal(&mut block[108..116], u64::from(self.uid));
        octal(&mut block[116..124], 0);
        if self.size < 1 << 33 {
            octal(&mut block[124..136], self.size);
        } else {
            block[124] = 0x80;
            block[128..136].copy_from_slice(&self.size.to_be_bytes());
        }
        octal(&mut block[136..148], 1_700_000_000);
        block[156] = self.kind;
        block[157..157 + self.link.len()].copy_from_slice(self.link);
        block[257..265].copy_from_slice(self.magic);
        octal(&mut block[329..337], u64::from(self.device.0));
        octal(&mut block[337..345], u64::from(self.device.1));
        block[345..345 + self.prefix.len()].copy_from_slice(self.prefix);
        checksum(&mut block);
        block
    }
}

pub fn checksum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
}

fn octal(field: &mut [u8], value: u64) {
    let text = format!("{value:0width$o}", width = field.len() - 1);
    field[..text.len()].copy_from_slice(text.as_bytes());
}

impl Tar {
    pub fn raw(mut self, bytes: &[u8]) -> Tar {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub fn member(self, member: &Member<'_>, content: &[u8]) -> Tar {
        let padding = content.len().next_multiple_of(512) - content.len();
        self.raw(&member.header()).raw(content).raw(&vec![0; padding])
    }

    pub fn file(self, name: &str, content: &[u8]) -> Tar {
        let member =
            Member { name: name.as_bytes(), size: content.len() as u64, ..Member::default() };
        self.member(&member, content)
    }

    pub fn directory(self, name: &str) -> Tar {
        let member = Member { name: name.as_bytes(), kind: b'5', mode: 0o755, ..Member::default() };
        self.member(&member, b"")
    }

    pub fn symlink(self, name: &str, target: &str) -> Tar {
        self.link(name, target, b'2')
    }

    pub fn hardlink(self, name: &str, target: &str) -> Tar {
        self.link(name, target, b'1')
    }

    fn link(self, name: &str, target: &str, kind: u8) -> Tar {
        let member = Member {
            name: name.as_bytes(),
            kind,
            link: target.as_bytes(),
            mode: 0o777,
            ..Member::default()
        };
        self.member(&member, b"")
    }

    pub fn device(self, name: &str, kind: u8, device: (u32, u32)) -> Tar {
        let member = Member { name: name.as_bytes(), kind, device, ..Member::default() };
        self.member(&member, b"")
    }

    /// PAX records for the next member.
    pub fn pax(self, records: &[(&[u8], &[u8])]) -> Tar {
        self.extended(b'x', &pax_records(records))
    }

    pub fn extended(self, kind: u8, content: &[u8]) -> Tar {
        let member = Member {
            name: b"././@LongLink",
            kind,
            size: content.len() as u64,
            ..Member::default()
        };
        self.member(&member, content)
    }

    pub fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).bytes
    }

    pub fn without_end(self) -> Vec<u8> {
        self.bytes
    }
}

pub fn pax_records(records: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut content = Vec::new();
    for (key, value) in records {
        let body = key.len() + value.len() + 3;
        let mut length = body + 1;
        while length != body + length.to_string().len() {
            length = body + length.to_string().len();
        }
        content.extend_from_slice(format!("{length} ").as_bytes());
        content.extend_from_slice(key);
        content.push(b'=');
        content.extend_from_slice(value);
        content.push(b'\n');
    }
    content
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 1).unwrap()
}

/// A config for `layers` (uncompressed tars) with `run` as its config object.
pub fn config(layers: &[Vec<u8>], run: &serde_json::Value) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-02T03:04:05Z",
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))
    .unwrap()
}

/// A docker-archive with one image.
pub fn docker_archive(name: &str, layers: &[Vec<u8>], run: &serde_json::Value) -> Vec<u8> {
    let config = config(layers, run);
    let files: Vec<String> = (0..layers.len()).map(|at| format!("{at}/layer.tar")).collect();
    let manifest = serde_json::to_vec(&serde_json::json!([
        {"Config": "config.json", "RepoTags": [name], "Layers": files}
    ]))
    .unwrap();
    let mut tar = Tar::default().file("config.json", &config);
    for (file, layer) in files.iter().zip(layers) {
        tar = tar.file(file, layer);
    }
    tar.file("manifest.json", &manifest).end()
}

/// An OCI layout with one image whose layers are as `compress` makes them.
pub fn oci_archive(
    name: &str,
    layers: &[Vec<u8>],
    compress: impl Fn(&[u8]) -> Vec<u8>,
    run: &serde_json::Value,
) -> Vec<u8> {
    let config = config(layers, run);
    let mut tar = Tar::default().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let mut descriptors = Vec::new();
    for layer in layers {
        let packed = compress(layer);
        let digest = Digest::of(&packed);
        descriptors.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": digest.to_string(), "size": packed.len(),
        }));
        tar = tar.file(&blob(&digest), &packed);
    }
    let config_digest = Digest::of(&config);
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                   "digest": config_digest.to_string(), "size": config.len()},
        "layers": descriptors,
    }))
    .unwrap();
    let manifest_digest = Digest::of(&manifest);
    let index = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest_digest.to_string(), "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": name}}],
    }))
    .unwrap();
    tar.file(&blob(&config_digest), &config)
        .file(&blob(&manifest_digest), &manifest)
        .file("index.json", &index)
        .end()
}
