//! Images: names, registries, archives, unpacked layers, and what is kept of them.
//!
//! The image store is files: content by digest, unpacked layers by diffID, one record per name.
//! Daemon and command line use it side by side under file locks; a record appears by rename after
//! everything it names is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

use self::changes::Changes;
use self::disk::{Disk, NameRecord};
use self::reference::{Digest, Reference};
use self::unpack::Limits;

mod access;
mod apply;
mod archive;
pub mod build;
mod changes;
pub(crate) mod config;
mod confine;
mod disk;
pub(crate) mod entries;
pub mod export;
pub(crate) mod manifest;
pub mod reference;
mod registry;
#[cfg(test)]
mod samples;
mod strict_json;
mod tarball;
mod unpack;
mod verify;
mod view;

pub use access::Access;
pub use confine::role_main;

/// The image store under one directory. Clones share it.
#[derive(Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Disk,
    registries: Registries,
    limits: Limits,
    changes: OnceLock<Changes>,
    /// Pulls under way, by reference and credentials. A std mutex: held for a look-up only.
    pulls: Mutex<BTreeMap<String, SharedPull>>,
}

type SharedPull = Shared<BoxFuture<'static, Result<Image, ImageError>>>;

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
    /// Who may use it.
    pub access: Access,
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
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
    pub fn open(root: &Path, registries: Registries) -> Result<Images, ImageError> {
        let disk = Disk::open(root)?;
        // A damaged record must not keep the daemon from starting: what it names stays, and the
        // operation that needs it will say so.
        if let Err(error) = disk.sweep() {
            tracing::warn!(%error, "the image store could not be swept");
        }
        Ok(Images {
            inner: Arc::new(Inner {
                disk,
                registries,
                limits: Limits::default(),
                changes: OnceLock::new(),
                pulls: Mutex::new(BTreeMap::new()),
            }),
        })
    }

    /// The image that a reference (name, name:tag, name@digest, image id) stands for, if present.
    ///
    /// # Errors
    /// `InvalidName` when it is none of these; `Content` when what is here is damaged.
    pub fn find(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        let disk = &self.inner.disk;
        let id = match self.resolve(reference)? {
            Some(id) => id,
            None => return Ok(None),
        };
        self.load(&id, &disk.all_names()?)
    }

    /// Every image, by id.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let names = self.inner.disk.all_names()?;
        let mut images = Vec::new();
        for id in self.inner.disk.all_images()? {
            match self.load(&id, &names) {
                Ok(image) => images.extend(image),
                // One damaged image does not hide the others.
                Err(error) => tracing::warn!(image = %id, %error, "image is not usable"),
            }
        }
        Ok(images)
    }

    /// Fetches, verifies and unpacks for everybody, as the host's administrator does. Concurrent pulls of one
    /// reference share the work.
    ///
    /// The work goes on when the caller is dropped; pulls with other credentials are other work, so
    /// that nobody gets by another's rights what was refused to them.
    pub async fn pull(
        &self,
        reference: &str,
        credentials: &[Credentials],
    ) -> Result<Image, ImageError> {
        self.pull_for(reference, credentials, Audience::Everybody).await
    }

    /// The same for a pod: whoever presents the credentials that it took may use the image, see [`Access`].
    pub async fn pull_for_pod(
        &self,
        reference: &str,
        credentials: &[Credentials],
    ) -> Result<Image, ImageError> {
        self.pull_for(reference, credentials, Audience::Presenters).await
    }

    async fn pull_for(
        &self,
        reference: &str,
        credentials: &[Credentials],
        audience: Audience,
    ) -> Result<Image, ImageError> {
        let name = parse_name(reference)?;
        let key = pull_key(&name, credentials, audience);
        let shared = {
            let mut pulls = self.inner.pulls.lock().unwrap_or_else(PoisonError::into_inner);
            match pulls.get(&key) {
                Some(running) => running.clone(),
                None => {
                    let (images, credentials) = (self.clone(), credentials.to_vec());
                    let done = key.clone();
                    let task = tokio::spawn(async move {
                        let result = images.pull_now(&name, &credentials, audience).await;
                        let mut pulls =
                            images.inner.pulls.lock().unwrap_or_else(PoisonError::into_inner);
                        pulls.remove(&done);
                        result
                    });
                    let shared = async move { task.await.unwrap_or_else(|_| Err(interrupted())) };
                    let shared = shared.boxed().shared();
                    pulls.insert(key, shared.clone());
                    shared
                }
            }
        };
        shared.await
    }

    async fn pull_now(
        &self,
        name: &Reference,
        credentials: &[Credentials],
        audience: Audience,
    ) -> Result<Image, ImageError> {
        let images = self.clone();
        // From here nothing is swept until the record names what was fetched.
        let lock = blocking(move || images.inner.disk.lock_shared()).await?;
        let inner = &self.inner;
        let pulled = registry::pull(
            &inner.disk,
            &inner.registries,
            name,
            credentials,
            audience,
            &inner.limits,
        )
        .await;
        drop(lock);
        let images = self.clone();
        blocking(move || {
            images.sweep_quietly();
            let id = pulled?;
            images.load_all(&[id])?.pop().ok_or_else(interrupted)
        })
        .await
    }

    /// Reads a docker-archive or OCI-layout tar (plain, gzip, zstd) from a file or a pipe.
    pub async fn import(
        &self,
        archive: Box<dyn std::io::Read + Send>,
    ) -> Result<Vec<Image>, ImageError> {
        self.import_as(archive, None).await
    }

    /// Like [`Images::import`]; `name` is given to images that carry only a tag or no name at all.
    pub async fn import_as(
        &self,
        mut archive: Box<dyn std::io::Read + Send>,
        name: Option<&str>,
    ) -> Result<Vec<Image>, ImageError> {
        let base = name.map(parse_name).transpose()?;
        let images = self.clone();
        blocking(move || {
            let result = {
                let _shared = images.inner.disk.lock_shared()?;
                archive::import(
                    &images.inner.disk,
                    &mut *archive,
                    base.as_ref(),
                    &images.inner.limits,
                )
            };
            images.sweep_quietly();
            images.load_all(&result?)
        })
        .await
    }

    /// Gives a present image a further name.
    pub fn tag(&self, reference: &str, name: &str) -> Result<(), ImageError> {
        let name = parse_name(name)?;
        let id = self.resolve(reference)?.ok_or_else(|| absent(reference))?;
        self.inner.disk.put_name(&name.canonical(), &id)
    }

    /// Removes a name; content that nothing refers to any more goes too. An image id removes all of
    /// its names. What a pin holds stays until it is unpinned.
    pub fn remove(&self, reference: &str) -> Result<(), ImageError> {
        let disk = &self.inner.disk;
        let id = self.resolve(reference)?.ok_or_else(|| absent(reference))?;
        {
            let records = disk.lock_records()?;
            let of_image: Vec<NameRecord> = disk
                .all_names()?
                .into_iter()
                .filter(|record| record.image == id.as_str())
                .collect();
            let named = parse_name(reference).ok().map(|name| name.canonical());
            let mut gone: BTreeSet<String> = match &named {
                Some(name) if of_image.iter().any(|record| record.name == *name) => {
                    BTreeSet::from([name.clone()])
                }
                _ => of_image.iter().map(|record| record.name.clone()).collect(),
            };
            // With the last tag of an image go the digests it came by: nobody typed them.
            let tag_stays = of_image
                .iter()
                .any(|record| !record.name.contains('@') && !gone.contains(&record.name));
            if !tag_stays {
                gone.extend(of_image.iter().map(|record| record.name.clone()));
            }
            let gone: Vec<String> = gone.into_iter().collect();
            disk.remove_names(&records, &gone)?;
            let is_pinned = disk.all_pins()?.iter().any(|pin| pin.image == id.as_str());
            if gone.len() == of_image.len() && !is_pinned {
                disk.remove_image(&records, &id)?;
            }
        }
        self.sweep_quietly();
        Ok(())
    }

    /// Keeps an image's content for `holder` (a pod's uid, say) whatever happens to its names, until
    /// [`Images::unpin`]. Survives the daemon; one pin per holder, a later one replaces it.
    pub fn pin(&self, holder: &str, image: &Image) -> Result<(), ImageError> {
        let id = parse_id(&image.id).ok_or_else(|| absent(&image.id))?;
        self.inner.disk.put_pin(holder, &id)
    }

    /// Gives up a pin; an image that only it kept goes. Idempotent.
    pub fn unpin(&self, holder: &str) -> Result<(), ImageError> {
        let disk = &self.inner.disk;
        let is_removed = {
            let records = disk.lock_records()?;
            let Some(pin) = disk.remove_pin(&records, holder)? else {
                return Ok(());
            };
            let is_kept = disk.all_names()?.iter().any(|name| name.image == pin.image)
                || disk.all_pins()?.iter().any(|other| other.image == pin.image);
            match parse_id(&pin.image) {
                Some(id) if !is_kept => {
                    disk.remove_image(&records, &id)?;
                    true
                }
                _ => false,
            }
        };
        if is_removed {
            self.sweep_quietly();
        }
        Ok(())
    }

    /// Who pins what: holder and image id.
    pub fn pins(&self) -> Result<Vec<(String, String)>, ImageError> {
        let pins = self.inner.disk.all_pins()?;
        Ok(pins.into_iter().map(|pin| (pin.holder, pin.image)).collect())
    }

    /// Removes every image that has neither a tag nor a pin; answers their ids.
    pub fn prune(&self) -> Result<Vec<String>, ImageError> {
        let disk = &self.inner.disk;
        let mut gone = Vec::new();
        {
            let records = disk.lock_records()?;
            let names = disk.all_names()?;
            let pins = disk.all_pins()?;
            for id in disk.all_images()? {
                let of_image: Vec<&NameRecord> =
                    names.iter().filter(|record| record.image == id.as_str()).collect();
                let is_kept = of_image.iter().any(|record| !record.name.contains('@'))
                    || pins.iter().any(|pin| pin.image == id.as_str());
                if is_kept {
                    continue;
                }
                let of_image: Vec<String> =
                    of_image.iter().map(|record| record.name.clone()).collect();
                disk.remove_names(&records, &of_image)?;
                disk.remove_image(&records, &id)?;
                gone.push(id.to_string());
            }
        }
        self.sweep_quietly();
        Ok(gone)
    }

    /// Reads every file of the image and compares it with what was unpacked.
    ///
    /// # Errors
    /// `Content` names the first file that differs.
    pub fn verify(&self, image: &Image) -> Result<(), ImageError> {
        let disk = &self.inner.disk;
        let id = parse_id(&image.id).ok_or_else(|| absent(&image.id))?;
        let record = disk.image_record(&id)?.ok_or_else(|| absent(&image.id))?;
        disk.config(&id)?;
        for text in &record.layers {
            let diff_id = parse_id(text).ok_or_else(|| damaged(&id))?;
            verify::layer(disk, &diff_id)?;
        }
        Ok(())
    }

    /// Text of a regular file of the image such as `/etc/passwd`, at most `limit` bytes; resolved inside
    /// the layers only. `None` when absent.
    pub fn read_file(
        &self,
        image: &Image,
        path: &str,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, ImageError> {
        view::read_file(&image.layers, path, limit)
    }

    /// Wakes whenever an image may have appeared or gone.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        let inner = &self.inner;
        if let Some(changes) = inner.changes.get() {
            return changes.receiver();
        }
        match Changes::watch(&inner.disk.names()) {
            Ok(changes) => inner.changes.get_or_init(|| changes).receiver(),
            Err(error) => {
                // A receiver without a sender never wakes; callers poll anyway at their back-off.
                tracing::error!(%error, "changes of the image store will be seen late");
                tokio::sync::watch::channel(0).1
            }
        }
    }

    fn resolve(&self, reference: &str) -> Result<Option<Digest>, ImageError> {
        let disk = &self.inner.disk;
        let present = |id: Digest| Ok(disk.image_record(&id)?.map(|_| id));
        if let Some(id) = parse_id(reference) {
            return present(id);
        }
        let parsed = parse_name(reference);
        if let Ok(name) = &parsed
            && let Some(record) = disk.name(&name.canonical())?
            && let Some(id) = parse_id(&record.image)
        {
            return present(id);
        }
        // Docker's and crictl's short ids.
        let is_short_id =
            (12..64).contains(&reference.len()) && reference::is_hex_of(reference, reference.len());
        if is_short_id {
            let mut matching =
                disk.all_images()?.into_iter().filter(|id| id.hex().starts_with(reference));
            if let (Some(id), None) = (matching.next(), matching.next()) {
                return present(id);
            }
        }
        parsed.map(|_| None)
    }

    fn load(&self, id: &Digest, names: &[NameRecord]) -> Result<Option<Image>, ImageError> {
        let disk = &self.inner.disk;
        let Some(record) = disk.image_record(id)? else {
            return Ok(None);
        };
        let config = config::parse(&disk.config(id)?)
            .map_err(|e| ImageError::Content { reason: e.to_string() })?;
        let mut layers: Vec<PathBuf> = Vec::new();
        let mut size_bytes = 0;
        let mut counted = BTreeSet::new();
        let mut is_hidden = false;
        for text in record.layers.iter().rev() {
            let diff_id = parse_id(text).ok_or_else(|| damaged(id))?;
            let layer = disk.layer_record(&diff_id)?.ok_or_else(|| damaged(id))?;
            // overlayfs refuses a layer given twice, and the lower one could show nothing that the
            // upper one does not.
            if !counted.insert(diff_id.clone()) {
                continue;
            }
            size_bytes += layer.content_bytes;
            if !is_hidden {
                layers.push(disk.layer_root(&diff_id));
            }
            // overlayfs does not look for the attribute on the root of a layer.
            is_hidden |= layer.opaque_root;
        }
        if layers.is_empty() {
            layers.push(disk.empty());
        }
        let mut image = Image {
            id: id.to_string(),
            names: Vec::new(),
            digests: Vec::new(),
            size_bytes,
            created: config.created,
            config: config.run,
            layers,
            access: record.access,
        };
        for record in names.iter().filter(|record| record.image == image.id) {
            if record.name.contains('@') {
                image.digests.push(record.name.clone());
            } else {
                image.names.push(record.name.clone());
            }
        }
        Ok(Some(image))
    }

    fn load_all(&self, ids: &[Digest]) -> Result<Vec<Image>, ImageError> {
        let names = self.inner.disk.all_names()?;
        let mut images = Vec::new();
        for id in ids {
            images.extend(self.load(id, &names)?);
        }
        Ok(images)
    }

    /// What cannot be removed now is removed by the next operation or start.
    fn sweep_quietly(&self) {
        if let Err(error) = self.inner.disk.sweep() {
            tracing::warn!(%error, "the image store could not be swept");
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(interrupted()),
        },
    }
}

fn interrupted() -> ImageError {
    ImageError::Io { step: "run the operation", reason: "it was interrupted".to_owned() }
}

/// Whom a pull is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Audience {
    Everybody,
    /// Those who present the credentials that the registry wanted.
    Presenters,
}

/// One key for the same work; it holds a digest of the credentials, not them.
fn pull_key(name: &Reference, credentials: &[Credentials], audience: Audience) -> String {
    let mut text = format!("{audience:?}");
    for one in credentials {
        for part in [&one.registry, &one.username, &one.password] {
            text.push_str(&format!("{}:{part}", part.len()));
        }
    }
    format!("{} {}", name.canonical(), Digest::of(text.as_bytes()))
}

fn parse_name(text: &str) -> Result<Reference, ImageError> {
    text.parse().map_err(|e: reference::ReferenceError| ImageError::InvalidName {
        name: text.chars().take(512).collect(),
        reason: e.to_string(),
    })
}

/// `sha256:…` or the 64 digits alone.
fn parse_id(text: &str) -> Option<Digest> {
    if reference::is_hex_of(text, 64) {
        return format!("sha256:{text}").parse().ok();
    }
    text.parse().ok()
}

fn absent(name: &str) -> ImageError {
    ImageError::Absent { name: name.chars().take(512).collect() }
}

fn damaged(id: &Digest) -> ImageError {
    ImageError::Content { reason: format!("image {id} is damaged: a layer is missing") }
}

#[cfg(test)]
mod tests;
