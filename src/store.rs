//! The durable state: a log of commits and the current value of every key, ordered by one [`Revision`].
//!
//! ```text
//! commit ──▶ queue ──▶ writer (one thread): check, apply, trim the log, one fsync for all that waited
//!                        │ durable
//!                        ├──▶ snapshot (what get, list and replay read)
//!                        ├──▶ hub ──▶ bounded queue of each watch
//!                        └──▶ answers
//! ```
//!
//! It never interprets a value and knows no HTTP and no Kubernetes kind.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Database, StorageBackend};
use tokio::sync::{mpsc, oneshot};

use crate::metrics::{LATENCY, Registry};
use crate::model::key::{ObjectKey, ResourceId};
use crate::model::revision::{Precondition, Revision};

mod compact;
mod disk;
mod snapshot;
mod tables;
mod watch;
mod writer;

use disk::{FailStop, Failure};
use snapshot::{Rest, Snapshot};
use watch::Hub;
pub use watch::Watch;

/// Handle to the store; clones share it.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

/// One key as it stands after the commit at `revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub key: ObjectKey,
    /// The commit that last wrote the key.
    pub revision: Revision,
    pub value: Bytes,
}

/// One element of an all-or-nothing commit.
#[derive(Debug, Clone)]
pub struct Change {
    pub key: ObjectKey,
    pub when: Precondition,
    pub op: Op,
}

#[derive(Debug, Clone)]
pub enum Op {
    Put(Bytes),
    Delete,
}

/// A legitimate "no" to one change of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// `Precondition::Absent`, but the key holds a value.
    Exists,
    /// The key holds nothing, but the precondition or a delete needs it.
    Missing,
    /// `Precondition::At` named another revision than the current one.
    Conflict { current: Revision },
}

/// Why a commit did not happen (or, for `Failed`, is not known to be durable).
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    #[error("change {index} refused: {refused:?}")]
    Refused { index: usize, refused: Refused },
    /// The disk said no; the store has stopped acknowledging writes until it is opened anew.
    #[error("the store cannot write: {0}")]
    Failed(Arc<str>),
}

/// Which keys a list or a watch covers.
#[derive(Debug, Clone)]
pub struct Scope {
    pub resource: ResourceId,
    /// `None` for all namespaces and for cluster-scoped resources.
    pub namespace: Option<Arc<str>>,
}

/// A page of keys in key order, all as of `revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub items: Vec<Stored>,
    /// The revision of the state that was listed.
    pub revision: Revision,
    /// How many further keys the scope holds beyond this page.
    pub remaining: u64,
}

/// Why a state or an event stream of the past cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// History before `oldest` has been compacted away.
    #[error("history starts at {oldest}")]
    Expired { oldest: Revision },
    /// The store has not reached that revision yet.
    #[error("the store is at {current}")]
    Future { current: Revision },
    #[error("the store cannot read: {0}")]
    Failed(Arc<str>),
}

/// One committed change as a watcher sees it; events arrive in revision order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub revision: Revision,
    pub key: ObjectKey,
    /// The value after the commit; `None` when the key was deleted.
    pub value: Option<Bytes>,
    /// The value before the commit; `None` when the key was created.
    pub previous: Option<Bytes>,
}

/// What [`Watch::next`] yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// A commit of this scope.
    Event(Event),
    /// The reader fell behind what the log still holds and must list again.
    Lagged,
    /// The store is closing.
    Closed,
}

/// Why a store file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("store {path}: {reason}")]
    Unusable { path: String, reason: String },
}

/// How much the store keeps beside the current state; everything here is a bound.
#[derive(Debug, Clone)]
struct Limits {
    /// Of the log on disk; what a watch or an old list can reach back to.
    log: compact::Retention,
    /// Of one watcher's queue in memory; what exceeds it is read from the log again.
    queue: watch::QueueLimits,
    /// Of redb's page cache. The kernel's own cache serves the rest.
    page_cache_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            log: compact::Retention { events: 20_000, bytes: 32 << 20 },
            queue: watch::QueueLimits { events: 1024, bytes: 4 << 20 },
            page_cache_bytes: 8 << 20,
        }
    }
}

struct Shared {
    hub: Arc<Hub>,
    writer: mpsc::Sender<writer::Message>,
    meters: Arc<OnceLock<writer::Meters>>,
    failure: Failure,
}

impl Store {
    /// Opens or creates the store file at `path` (its directory exists). The file is readable by its owner only,
    /// since it holds Secrets, and locked against a second opener.
    pub fn open(path: &Path) -> Result<Store, OpenError> {
        let unusable =
            |reason: String| OpenError::Unusable { path: path.display().to_string(), reason };
        if !path.exists() {
            create(path).map_err(unusable)?;
        }
        // A name is durable only once its directory is (fsync(2)); whoever gave it may have been killed before that.
        let directory = path.parent().filter(|parent| *parent != Path::new(""));
        File::open(directory.unwrap_or(Path::new(".")))
            .and_then(|directory| directory.sync_all())
            .map_err(|error| unusable(error.to_string()))?;
        let file = owned_file().open(path).map_err(|error| unusable(error.to_string()))?;
        let backend = FileBackend::new(file).map_err(|error| unusable(error.to_string()))?;
        Store::start(backend, Limits::default()).map_err(unusable)
    }

    /// A store without a disk, for tests.
    pub fn in_memory() -> Store {
        Store::start(InMemoryBackend::new(), Limits::default())
            .expect("memory neither fails nor holds a foreign format")
    }

    fn start(backend: impl StorageBackend, limits: Limits) -> Result<Store, String> {
        let failure = Failure::default();
        let disk = FailStop::new(backend, failure.clone());
        let database = Database::builder()
            .set_cache_size(limits.page_cache_bytes)
            .create_with_backend(disk)
            .map_err(|error| error.to_string())?;
        tables::prepare(&database).map_err(|error| error.to_string())?;
        let snapshot = Snapshot::take(&database).map_err(|error| error.to_string())?;
        if let Some(reason) = failure.get() {
            return Err(reason.to_string());
        }
        let hub = Arc::new(Hub::new(snapshot, limits.queue));
        let meters = Arc::<OnceLock<writer::Meters>>::default();
        let writer =
            writer::start(database, limits.log, hub.clone(), failure.clone(), meters.clone())
                .map_err(|error| error.to_string())?;
        Ok(Store { shared: Arc::new(Shared { hub, writer, meters, failure }) })
    }

    /// All of `changes` or none, durable when this returns. All changes of one commit share one revision;
    /// a key may appear once. Dropping the future does not halve the commit.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<Revision, CommitError> {
        let ended = || CommitError::Failed(self.failed().unwrap_or("the store is closed".into()));
        if changes.is_empty() {
            return Ok(self.revision());
        }
        let (answer, answered) = oneshot::channel();
        let request = writer::Request::new(changes, answer);
        self.shared.writer.send(writer::Message::Commit(request)).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    pub fn get(&self, key: &ObjectKey) -> Result<Option<Stored>, Unavailable> {
        self.shared.hub.snapshot().get(key)
    }

    /// The keys of `scope` after `after` (exclusive), at most `limit` (0: all), as of revision `at`
    /// (`None`: now; `Some`: reconstructed from the log, or `Expired`).
    pub fn list(
        &self,
        scope: &Scope,
        after: Option<&ObjectKey>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Listed, Unavailable> {
        self.shared.hub.snapshot().list(scope, after, limit, at, Rest::Counted)
    }

    /// As [`Store::list`], at the cost of `limit` objects alone: `remaining` only tells whether there are more.
    pub fn list_some(
        &self,
        scope: &Scope,
        after: Option<&ObjectKey>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Listed, Unavailable> {
        self.shared.hub.snapshot().list(scope, after, limit, at, Rest::Noticed)
    }

    /// The resources that hold at least one object, in `namespace` or (`None`) anywhere.
    pub fn resources(&self, namespace: Option<&str>) -> Result<Vec<ResourceId>, Unavailable> {
        self.shared.hub.snapshot().resources(namespace)
    }

    /// The revision of the newest commit.
    pub fn revision(&self) -> Revision {
        self.shared.hub.snapshot().head().revision
    }

    /// Counts commits from now on. Once.
    pub fn measure(&self, registry: &Registry) {
        let store = self.clone();
        let revision =
            registry.gauges("joey_store_revision", "The newest revision.", &[]).with(&[]);
        let failed = registry
            .gauges(
                "joey_store_failed",
                "1 when the disk has said no and nothing is acknowledged.",
                &[],
            )
            .with(&[]);
        registry.before_scrape(move || {
            revision.set(i64::try_from(store.revision().get()).unwrap_or(i64::MAX));
            failed.set(i64::from(store.failed().is_some()));
        });
        self.shared.meters.get_or_init(|| writer::Meters {
            commits: registry
                .counters("joey_store_commits_total", "Durable commits.", &[])
                .with(&[]),
            seconds: registry
                .histograms(
                    "joey_store_sync_duration_seconds",
                    "One durable transaction, which may hold several commits.",
                    &[],
                    LATENCY,
                )
                .with(&[]),
        });
    }

    /// The oldest revision that can still be listed or watched from.
    pub fn oldest(&self) -> Revision {
        self.shared.hub.snapshot().head().compacted
    }

    /// Events of `scope` with a revision greater than `since`.
    pub fn watch(&self, scope: &Scope, since: Revision) -> Result<Watch, Unavailable> {
        self.shared.hub.watch(scope, since)
    }

    /// Why the store no longer acknowledges writes; `None` while it does. Reads go on regardless.
    pub fn failed(&self) -> Option<Arc<str>> {
        self.shared.failure.get()
    }

    /// Finishes the commits already asked for, ends every watch with [`Watched::Closed`] and gives up the file.
    /// Later reads and writes fail.
    pub async fn close(&self) {
        let (done, finished) = oneshot::channel();
        if self.shared.writer.send(writer::Message::Close(done)).await.is_ok() {
            // An error means that the writer has ended without an answer, which is what we wait for.
            let _ = finished.await;
        }
    }
}

/// Makes an empty store at `path`. redb writes its first pages in place and afterwards refuses a file in which they are
/// not whole; so they are written under another name, and what an interrupted start has left there is overwritten.
fn create(path: &Path) -> Result<(), String> {
    let unfinished = unfinished(path);
    let file = owned_file()
        .create(true)
        .truncate(true)
        .open(&unfinished)
        .map_err(|error| error.to_string())?;
    let backend = FileBackend::new(file).map_err(|error| error.to_string())?;
    let database =
        Database::builder().create_with_backend(backend).map_err(|error| error.to_string())?;
    tables::prepare(&database).map_err(|error| error.to_string())?;
    drop(database);
    std::fs::rename(&unfinished, path).map_err(|error| error.to_string())
}

fn owned_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// Where a store is made before it gets its name.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

#[cfg(test)]
mod tests;
