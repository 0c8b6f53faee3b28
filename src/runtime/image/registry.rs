//! Fetches an image from a registry (OCI distribution-spec, `/v2/`): manifest, config, layers.
//!
//! Everything that arrives is checked against the digest and size that asked for it; `urls` of foreign
//! layers are never followed. Layers stream into the confined unpacking without touching the disk in
//! between.

mod auth;
mod http;
mod names;

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::http::{Client, FetchError};
use super::access::{Access, Grant};
use super::config;
use super::disk::Disk;
use super::manifest::{
    self, DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Document, MANIFEST_MAX_BYTES, Manifest,
    OCI_INDEX, OCI_MANIFEST,
};
use super::reference::{Digest, Reference};
use super::unpack::{self, Expected, Limits};
use super::{Audience, Credentials, ImageError, Registries};

pub use auth::matching;

/// Layers of one image that are fetched at the same time.
const PARALLEL_LAYERS: usize = 3;
/// Pieces of a layer between the network and the unpacking.
const PIECES_WAITING: usize = 16;
/// No single layer may take longer, however slowly it trickles.
const LAYER_DEADLINE: Duration = Duration::from_secs(3600);
/// An index may hold one more level of indexes.
const INDEX_DEPTH: usize = 2;

/// Fetches what `name` stands for and records it; answers the image's id. The caller holds the
/// shared lock of the store.
pub async fn pull(
    disk: &Disk,
    registries: &Registries,
    name: &Reference,
    credentials: &[Credentials],
    audience: Audience,
    limits: &Limits,
) -> Result<Digest, ImageError> {
    let refused = |error: FetchError| match error {
        FetchError::Content(reason) => ImageError::Content { reason },
        other => ImageError::Pull { name: name.to_string(), reason: other.to_string() },
    };
    let content = |reason: String| ImageError::Content { reason };
    let client = Arc::new(Client::new(registries, name, credentials).map_err(refused)?);
    let target = match (name.digest(), name.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or("latest").to_owned(),
    };
    let (digest, manifest) = fetch_manifest(&client, name, &target).await.map_err(refused)?;
    let config_text =
        client.blob(&manifest.config.digest, manifest.config.size_bytes).await.map_err(refused)?;
    let config = config::parse(&config_text).map_err(|e| content(e.to_string()))?;
    if config.diff_ids.len() != manifest.layers.len() {
        let error = manifest::ManifestError::LayerCount {
            diff_ids: config.diff_ids.len(),
            layers: manifest.layers.len(),
        };
        return Err(content(error.to_string()));
    }
    let mut wanted: Vec<(Digest, Descriptor)> = Vec::new();
    for (diff_id, layer) in config.diff_ids.iter().zip(manifest.layers) {
        if !wanted.iter().any(|(known, _)| known == diff_id) {
            wanted.push((diff_id.clone(), layer));
        }
    }
    let end = CancellationToken::new();
    let mut layers = futures::stream::iter(wanted)
        .map(|(diff_id, layer)| {
            fetch_layer(disk, Arc::clone(&client), diff_id, layer, limits, end.clone())
        })
        .buffer_unordered(PARALLEL_LAYERS);
    let mut failure = None;
    while let Some(result) = layers.next().await {
        if let Err(error) = result {
            // The first failure ends the others; they are waited for, so that nothing is left.
            failure.get_or_insert(error);
            end.cancel();
        }
    }
    drop(layers);
    match failure {
        Some(LayerError::Fetch(error)) => return Err(refused(error)),
        Some(LayerError::Image(error)) => return Err(error),
        None => {}
    }
    let id = Digest::of(&config_text);
    let layers = config.diff_ids.iter().map(Digest::to_string).collect();
    let grant = match audience {
        Audience::Everybody => None,
        Audience::Presenters => Some(Grant::of(name, client.used_credentials())),
    };
    let mut names = vec![name.canonical(), name.with_digest(&digest).canonical()];
    names.dedup();
    let disk = disk.clone();
    super::blocking(move || {
        let access = |before| match grant {
            None => Access::everybody(),
            Some(grant) => Access::granted(before, grant),
        };
        disk.put_image(&id, &config_text, layers, &names, access)?;
        Ok(id)
    })
    .await
}

/// The manifest for this machine, and the digest of the document that the reference stands for.
async fn fetch_manifest(
    client: &Client,
    name: &Reference,
    target: &str,
) -> Result<(Digest, Manifest), FetchError> {
    let accept = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST].join(", ");
    let mut expected = name.digest().map(|digest| (digest.clone(), None));
    let mut target = target.to_owned();
    let mut outermost = None;
    for _ in 0..=INDEX_DEPTH {
        let path = format!("/v2/{}/manifests/{target}", name.path());
        let reply = client.get(&path, &accept, MANIFEST_MAX_BYTES).await?;
        let digest = Digest::of(&reply.body);
        if let Some((expected, size)) = &expected {
            let size_fits = size.is_none_or(|size| size == reply.body.len() as u64);
            if digest != *expected || !size_fits {
                return Err(FetchError::Content(format!(
                    "manifest digest mismatch: expected {expected}, got {digest}"
                )));
            }
        }
        outermost.get_or_insert_with(|| digest.clone());
        let document = manifest::parse(&reply.body, reply.content_type.as_deref())
            .map_err(|e| FetchError::Content(e.to_string()))?;
        match document {
            Document::Manifest(manifest) => return Ok((outermost.unwrap_or(digest), manifest)),
            Document::Index(entries) => {
                let chosen =
                    manifest::choose(&entries).map_err(|e| FetchError::Content(e.to_string()))?;
                target = chosen.digest.to_string();
                expected = Some((chosen.digest.clone(), Some(chosen.size_bytes)));
            }
        }
    }
    Err(FetchError::Content("the index is nested too deeply".to_owned()))
}

enum LayerError {
    Fetch(FetchError),
    Image(ImageError),
}

async fn fetch_layer(
    disk: &Disk,
    client: Arc<Client>,
    diff_id: Digest,
    layer: Descriptor,
    limits: &Limits,
    end: CancellationToken,
) -> Result<(), LayerError> {
    if end.is_cancelled() || disk.layer_record(&diff_id).map_err(LayerError::Image)?.is_some() {
        return Ok(());
    }
    let (sender, receiver) = mpsc::channel(PIECES_WAITING);
    let expected =
        Expected { digest: Some(layer.digest.clone()), size_bytes: layer.size_bytes, diff_id };
    let (disk, limits) = (disk.clone(), *limits);
    let unpacking = tokio::task::spawn_blocking(move || {
        let mut reader = Pieces { receiver, piece: Bytes::new(), is_complete: false };
        unpack::layer(&disk, &mut reader, &expected, &limits)
    });
    let sending = client.stream_blob(&layer.digest, layer.size_bytes, &sender);
    let sent = tokio::select! {
        sent = tokio::time::timeout(LAYER_DEADLINE, sending) => {
            sent.unwrap_or(Err(FetchError::Timeout("the layer")))
        }
        () = end.cancelled() => Err(FetchError::Stopped),
    };
    if sent.is_ok() {
        // Tells the end from a broken connection. A closed channel means the other side knows better.
        let _ = sender.send(None).await;
    }
    drop(sender);
    let unpacked = unpacking
        .await
        .unwrap_or_else(|_| Err(unpack::UnpackError::Process("it was interrupted".to_owned())));
    match (sent, unpacked) {
        (_, Ok(())) => Ok(()),
        (Err(FetchError::Stopped) | Ok(()), Err(error)) => Err(LayerError::Image(error.into())),
        (Err(error), Err(_)) => Err(LayerError::Fetch(error)),
    }
}

/// A layer's pieces as they come from the network, for a thread that may wait.
struct Pieces {
    /// `None` marks the true end.
    receiver: mpsc::Receiver<Option<Bytes>>,
    piece: Bytes,
    is_complete: bool,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.piece.is_empty() && !self.is_complete {
            match self.receiver.blocking_recv() {
                Some(Some(piece)) => self.piece = piece,
                Some(None) => self.is_complete = true,
                None => {
                    return Err(std::io::Error::new(
                        std::io::ErrorKind::UnexpectedEof,
                        "the connection ended early",
                    ));
                }
            }
        }
        let take = buffer.len().min(self.piece.len());
        buffer[..take].copy_from_slice(&self.piece.split_to(take));
        Ok(take)
    }
}

#[cfg(test)]
mod tests;
