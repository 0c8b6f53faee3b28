//! What lies where in the image store, and how it gets there: records by rename after everything they
//! name is durable, locks between processes, and the removal of what nothing names.
//!
//! ```text
//! lock                 shared while content is made, exclusive while garbage is removed
//! records.lock         exclusive for each change of records, shared by nobody
//! names/<hash>         one name → image id       (hash of the name; the name stands inside)
//! images/<hex>         one image: its layers      configs/<hex>   its config, verified by digest
//! layers/<hex>/root    one unpacked layer by diffID, `index` what it contains, `about` its sizes
//! pins/<hash>          who else needs an image
//! empty/               the only layer of an image without layers
//! work/<id>/           content in the making, under its maker's lock
//! ```
//!
//! A record is a line with the SHA-256 of what follows, and JSON: a flipped bit is an error, never
//! another image.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ImageError;
use super::access::Access;
use super::reference::Digest;

/// Part of the file system's blocks that is left free for everybody else.
const RESERVE_PERCENT: u64 = 10;

/// What of a file system may be written. The blocks that the file system itself keeps from users count towards the
/// reserve: they are free for the rest of the host in an emergency.
fn writable_blocks(all: u64, free: u64, free_to_users: u64) -> u64 {
    let reserve = all / 100 * RESERVE_PERCENT;
    free.saturating_sub(reserve).min(free_to_users)
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRecord {
    /// `docker.io/library/x:1` or `docker.io/library/x@sha256:…`.
    pub name: String,
    /// Image id, `sha256:…`.
    pub image: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Lowest first.
    pub layers: Vec<String>,
    #[serde(default, skip_serializing_if = "Access::is_everybody")]
    pub access: Access,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRecord {
    pub holder: String,
    pub image: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    pub content_bytes: u64,
    pub entries: u64,
    pub opaque_root: bool,
    /// Digest of the file `index`.
    pub index: String,
}

/// The directory tree of one store.
#[derive(Debug, Clone)]
pub struct Disk {
    root: PathBuf,
}

/// A held file lock; released when dropped, also by the kernel when its process dies.
#[derive(Debug)]
pub struct Lock {
    file: OwnedFd,
}

impl Drop for Lock {
    /// Closing alone leaves the lock to whatever process another thread has forked and that has not come to execve yet:
    /// it holds the same open file (flock(2)), and a sweep in that moment would find somebody at work.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// A directory for content in the making; gone when dropped or, after a crash, with the next sweep.
pub struct Work {
    path: PathBuf,
    _lock: Lock,
}

impl Disk {
    /// Makes the directories.
    pub fn open(root: &Path) -> Result<Disk, ImageError> {
        let disk = Disk { root: root.to_owned() };
        for directory in ["", "names", "images", "configs", "layers", "pins", "work", "empty"] {
            // 0700: layers hold setuid files that are nobody's business outside a container.
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(disk.root.join(directory))
                .map_err(io("make the image store's directories"))?;
        }
        Ok(disk)
    }

    /// A directory without anything, for images without layers.
    pub fn empty(&self) -> PathBuf {
        self.root.join("empty")
    }

    pub fn names(&self) -> PathBuf {
        self.root.join("names")
    }

    /// Root directory of an unpacked layer.
    pub fn layer_root(&self, diff_id: &Digest) -> PathBuf {
        self.layer(diff_id).join("root")
    }

    fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    /// Held by whoever makes content, from before it looks for what is already there until its record
    /// is written. Blocks while garbage is removed.
    pub fn lock_shared(&self) -> Result<Lock, ImageError> {
        self.lock("lock", FlockOperation::LockShared)
    }

    /// Held around each change of names, images and pins; never while waiting for anything else.
    pub fn lock_records(&self) -> Result<Lock, ImageError> {
        self.lock("records.lock", FlockOperation::LockExclusive)
    }

    fn lock(&self, name: &str, operation: FlockOperation) -> Result<Lock, ImageError> {
        let file = self.lock_file(name)?;
        loop {
            match rustix::fs::flock(&file, operation) {
                Ok(()) => return Ok(Lock { file }),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io("lock the image store")(error.into())),
            }
        }
    }

    fn lock_file(&self, name: &str) -> Result<OwnedFd, ImageError> {
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.root.join(name))
            .map(OwnedFd::from)
            .map_err(io("open the image store's lock"))
    }

    /// A fresh working directory.
    pub fn work(&self) -> Result<Work, ImageError> {
        let path = self.root.join("work").join(crate::sys::clock::uuid());
        // Made under the lock of the records: a sweep holds it and cannot see a directory between
        // its creation and its lock.
        let _records = self.lock_records()?;
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(io("make a working directory"))?;
        let file = File::open(&path).map_err(io("open the working directory"))?;
        let file = OwnedFd::from(file);
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| io("lock the working directory")(e.into()))?;
        Ok(Work { path, _lock: Lock { file } })
    }

    /// Whether the layer is here.
    pub fn layer_record(&self, diff_id: &Digest) -> Result<Option<LayerRecord>, ImageError> {
        let record = self.read("layer", &self.layer(diff_id).join("about"))?;
        if record.is_some() && !self.layer_root(diff_id).is_dir() {
            return Err(corrupt(&format!("layer {diff_id} has lost its files")));
        }
        Ok(record)
    }

    /// Makes the finished content of `work` (its `root`, and `index`) the layer `diff_id`.
    pub fn commit_layer(
        &self,
        work: &Work,
        diff_id: &Digest,
        record: &LayerRecord,
    ) -> Result<(), ImageError> {
        self.write_file(&work.path.join("about"), &encode(record)?)?;
        let directory = File::open(&work.path).map_err(io("open the layer"))?;
        // One call for all files of the layer; it reports write-back errors since Linux 5.8.
        rustix::fs::syncfs(&directory).map_err(|e| io("make the layer durable")(e.into()))?;
        match fs::rename(&work.path, self.layer(diff_id)) {
            Ok(()) => sync_directory(&self.root.join("layers")),
            // Somebody else unpacked it meanwhile; the same digest is the same content.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(io("move the layer into place")(error)),
        }
    }

    /// The list of a layer's files, one a line.
    pub fn layer_index(&self, diff_id: &Digest) -> Result<Vec<u8>, ImageError> {
        fs::read(self.layer(diff_id).join("index")).map_err(io("read a layer's list of files"))
    }

    pub fn image_record(&self, id: &Digest) -> Result<Option<ImageRecord>, ImageError> {
        self.read("image", &self.root.join("images").join(id.hex()))
    }

    pub fn config(&self, id: &Digest) -> Result<Vec<u8>, ImageError> {
        let config = fs::read(self.root.join("configs").join(id.hex()))
            .map_err(io("read an image's config"))?;
        if Digest::of(&config) != *id {
            return Err(corrupt(&format!("config {id} does not match its digest")));
        }
        Ok(config)
    }

    /// Writes an image whose layers, lowest first, are all here; `access` says who may use it, given who may if
    /// it is here already. The names come last: who finds the image by one finds what holds for it. The caller
    /// holds the shared lock.
    pub fn put_image(
        &self,
        id: &Digest,
        config: &[u8],
        layers: Vec<String>,
        names: &[String],
        access: impl FnOnce(Option<Access>) -> Access,
    ) -> Result<(), ImageError> {
        let _records = self.lock_records()?;
        let before = self.image_record(id)?.map(|record| record.access);
        let record = ImageRecord { layers, access: access(before) };
        self.replace(&self.root.join("configs").join(id.hex()), config)?;
        self.replace(&self.root.join("images").join(id.hex()), &encode(&record)?)?;
        for name in names {
            let record = NameRecord { name: name.clone(), image: id.to_string() };
            self.replace(&self.name_path(name), &encode(&record)?)?;
        }
        Ok(())
    }

    /// Adds a name to a present image.
    pub fn put_name(&self, name: &str, id: &Digest) -> Result<(), ImageError> {
        let _records = self.lock_records()?;
        if self.image_record(id)?.is_none() {
            return Err(ImageError::Absent { name: id.to_string() });
        }
        let record = NameRecord { name: name.to_owned(), image: id.to_string() };
        self.replace(&self.name_path(name), &encode(&record)?)
    }

    pub fn name(&self, name: &str) -> Result<Option<NameRecord>, ImageError> {
        let record: Option<NameRecord> = self.read("name", &self.name_path(name))?;
        Ok(record.filter(|record| record.name == name))
    }

    /// Every name, sorted.
    pub fn all_names(&self) -> Result<Vec<NameRecord>, ImageError> {
        let mut names: Vec<NameRecord> = self.all("name", &self.names())?;
        names.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(names)
    }

    pub fn all_pins(&self) -> Result<Vec<PinRecord>, ImageError> {
        self.all("pin", &self.root.join("pins"))
    }

    /// Ids of all images, sorted.
    pub fn all_images(&self) -> Result<Vec<Digest>, ImageError> {
        let mut ids: Vec<Digest> = entries(&self.root.join("images"))?
            .iter()
            .filter_map(|name| format!("sha256:{name}").parse().ok())
            .collect();
        ids.sort();
        Ok(ids)
    }

    /// Needs no sync: a pin stands for something that runs, and nothing runs across a power loss.
    pub fn put_pin(&self, holder: &str, id: &Digest) -> Result<(), ImageError> {
        let _records = self.lock_records()?;
        if self.image_record(id)?.is_none() {
            return Err(ImageError::Absent { name: id.to_string() });
        }
        let record = PinRecord { holder: holder.to_owned(), image: id.to_string() };
        let fresh = self.fresh_record();
        fs::write(&fresh, encode(&record)?).map_err(io("write a pin"))?;
        fs::rename(&fresh, self.pin_path(holder)).map_err(io("put a pin into place"))
    }

    /// Removes a pin and answers what it was. The caller holds the lock of the records.
    pub fn remove_pin(
        &self,
        _records: &Lock,
        holder: &str,
    ) -> Result<Option<PinRecord>, ImageError> {
        let path = self.pin_path(holder);
        let pin = self.read("pin", &path)?;
        remove_if_there(&path)?;
        Ok(pin)
    }

    /// Removes names. The caller holds the lock of the records.
    pub fn remove_names(&self, _records: &Lock, names: &[String]) -> Result<(), ImageError> {
        for name in names {
            remove_if_there(&self.name_path(name))?;
        }
        sync_directory(&self.names())
    }

    /// Removes an image's record; its content goes with the next sweep. The caller holds the lock of
    /// the records and has made sure that no name and no pin refers to it.
    pub fn remove_image(&self, _records: &Lock, id: &Digest) -> Result<(), ImageError> {
        remove_if_there(&self.root.join("images").join(id.hex()))?;
        sync_directory(&self.root.join("images"))
    }

    /// Removes what nothing names, unless somebody is making content right now; the last of them
    /// sweeps.
    pub fn sweep(&self) -> Result<(), ImageError> {
        let file = self.lock_file("lock")?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
            Err(error) => return Err(io("lock the image store")(error.into())),
        }
        let _exclusive = Lock { file };
        let _records = self.lock_records()?;
        let images = self.all_images()?;
        let mut layers = std::collections::BTreeSet::new();
        for id in &images {
            // A record that cannot be read may still be mended: what it named is then unknown, so
            // nothing is removed.
            let Some(record) = self.image_record(id)? else {
                continue;
            };
            layers.extend(record.layers);
        }
        for name in entries(&self.root.join("layers"))? {
            if !layers.contains(&format!("sha256:{name}")) {
                self.discard(&self.root.join("layers").join(&name))?;
            }
        }
        for name in entries(&self.root.join("configs"))? {
            if !images.iter().any(|id| id.hex() == name) {
                remove_if_there(&self.root.join("configs").join(name))?;
            }
        }
        for name in entries(&self.root.join("work"))? {
            let path = self.root.join("work").join(name);
            if is_abandoned(&path) {
                remove_tree(&path)?;
            }
        }
        Ok(())
    }

    /// A layer leaves its place whole, by rename, before its files go one by one.
    fn discard(&self, layer: &Path) -> Result<(), ImageError> {
        let grave = self.root.join("work").join(crate::sys::clock::uuid());
        fs::rename(layer, &grave).map_err(io("move a layer aside"))?;
        sync_directory(&self.root.join("layers"))?;
        remove_tree(&grave)
    }

    /// Bytes that may still be written before the reserve is touched.
    pub fn free_bytes(&self) -> Result<u64, ImageError> {
        let stat = rustix::fs::statvfs(&self.root)
            .map_err(|e| io("read the file system's free space")(e.into()))?;
        Ok(writable_blocks(stat.f_blocks, stat.f_bfree, stat.f_bavail)
            .saturating_mul(stat.f_frsize))
    }

    /// An unnamed file in the store; gone with its descriptor.
    pub fn unnamed_file(&self) -> Result<File, ImageError> {
        rustix::fs::open(
            &self.root,
            rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        )
        .map(File::from)
        .map_err(|e| io("make an unnamed file")(e.into()))
    }

    fn name_path(&self, name: &str) -> PathBuf {
        self.names().join(Digest::of(name.as_bytes()).hex())
    }

    fn pin_path(&self, holder: &str) -> PathBuf {
        self.root.join("pins").join(Digest::of(holder.as_bytes()).hex())
    }

    fn fresh_record(&self) -> PathBuf {
        self.root.join("work").join(format!("{}.record", crate::sys::clock::uuid()))
    }

    /// Puts `content` at `path` so that a crash leaves the old or the new, whole.
    fn replace(&self, path: &Path, content: &[u8]) -> Result<(), ImageError> {
        let fresh = self.fresh_record();
        self.write_file(&fresh, content)?;
        fs::rename(&fresh, path).map_err(io("put a record into place"))?;
        sync_directory(path.parent().expect("records lie in directories"))
    }

    fn write_file(&self, path: &Path, content: &[u8]) -> Result<(), ImageError> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(io("create a record"))?;
        file.write_all(content).map_err(io("write a record"))?;
        file.sync_all().map_err(io("make a record durable"))
    }

    fn read<T: DeserializeOwned>(
        &self,
        what: &'static str,
        path: &Path,
    ) -> Result<Option<T>, ImageError> {
        match fs::read(path) {
            Ok(content) => decode(what, path, &content).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io("read a record")(error)),
        }
    }

    fn all<T: DeserializeOwned>(
        &self,
        what: &'static str,
        directory: &Path,
    ) -> Result<Vec<T>, ImageError> {
        let mut records = Vec::new();
        for name in entries(directory)? {
            // Gone between listing and reading is gone.
            records.extend(self.read(what, &directory.join(name))?);
        }
        Ok(records)
    }
}

impl Work {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Moved into place or left for the next sweep.
        let _ = remove_tree(&self.path);
    }
}

fn is_abandoned(path: &Path) -> bool {
    match File::open(path) {
        // Plain files are records that were never put into place; their makers hold the records'
        // lock, which the sweep holds now.
        Ok(file) => {
            rustix::fs::flock(OwnedFd::from(file), FlockOperation::NonBlockingLockExclusive).is_ok()
        }
        Err(_) => false,
    }
}

fn encode(record: &impl Serialize) -> Result<Vec<u8>, ImageError> {
    let body = serde_json::to_vec(record)
        .map_err(|e| ImageError::Io { step: "encode a record", reason: e.to_string() })?;
    let mut content = Digest::of(&body).hex().as_bytes().to_vec();
    content.push(b'\n');
    content.extend_from_slice(&body);
    Ok(content)
}

fn decode<T: DeserializeOwned>(
    what: &'static str,
    path: &Path,
    content: &[u8],
) -> Result<T, ImageError> {
    let broken = || corrupt(&format!("{what} record {} is damaged", path.display()));
    let body = content.get(65..).ok_or_else(broken)?;
    if content[..64] != *Digest::of(body).hex().as_bytes() || content[64] != b'\n' {
        return Err(broken());
    }
    serde_json::from_slice(body).map_err(|_| broken())
}

fn entries(directory: &Path) -> Result<Vec<String>, ImageError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(io("list the image store"))? {
        let entry = entry.map_err(io("list the image store"))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

fn sync_directory(path: &Path) -> Result<(), ImageError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(io("make a directory durable"))
}

fn remove_if_there(path: &Path) -> Result<(), ImageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io("remove a record")(error)),
        _ => Ok(()),
    }
}

fn remove_tree(path: &Path) -> Result<(), ImageError> {
    // std's removal goes by descriptor and never follows a link (CVE-2022-21658).
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(io("remove abandoned content")(error))
        }
        _ => Ok(()),
    }
}

/// Wraps an I/O error with the step that failed.
pub fn io(step: &'static str) -> impl FnOnce(std::io::Error) -> ImageError {
    move |error| ImageError::Io { step, reason: error.to_string() }
}

fn corrupt(reason: &str) -> ImageError {
    ImageError::Content { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::{Disk, writable_blocks};
    use crate::runtime::image::tests::place;

    #[test]
    fn a_lock_that_a_forked_process_shares_is_released_when_it_is_dropped() {
        let place = place();
        let disk = Disk::open(&place.root).unwrap();
        let lock = disk.lock_shared().unwrap();
        // What fork(2) gives a child: the same open file.
        let _inherited = lock.file.try_clone().unwrap();
        let stray = place.root.join("layers").join("0".repeat(64));
        std::fs::create_dir(&stray).unwrap();
        disk.sweep().unwrap();
        assert!(stray.exists(), "somebody makes content");
        drop(lock);
        disk.sweep().unwrap();
        assert!(!stray.exists(), "nobody does");
    }

    #[test]
    fn a_tenth_stays_free_wherever_it_is_kept() {
        assert_eq!(writable_blocks(1000, 1000, 1000), 900);
        assert_eq!(writable_blocks(1000, 100, 100), 0);
        assert_eq!(writable_blocks(1000, 40, 40), 0);
        // Half of the reserve, and all of it and more, is kept by the file system already.
        assert_eq!(writable_blocks(1000, 600, 550), 500);
        assert_eq!(writable_blocks(1000, 800, 150), 150);
    }
}
