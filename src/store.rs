//! The durable state: a log of commits and the current value of every key, ordered by one [`Revision`].
//!
//! It never interprets a value and knows no HTTP and no Kubernetes kind.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::model::key::{ObjectKey, ResourceId};
use crate::model::revision::{Precondition, Revision};

/// Handle to the store; clones share it.
#[derive(Clone)]
pub struct Store {}

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
#[derive(Debug, Clone)]
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
    /// The reader fell behind its bounded buffer and must list again.
    Lagged,
    /// The store is closing.
    Closed,
}

/// A stream of events after some revision: replay from the log, then follow.
pub struct Watch {}

impl Watch {
    /// Waits for the next event of the scope. Cancel-safe.
    pub async fn next(&mut self) -> Watched {
        unimplemented!()
    }

    /// Everything up to this revision has been yielded (the revision a bookmark may carry).
    pub fn position(&self) -> Revision {
        unimplemented!()
    }
}

/// Why a store file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("store {path}: {reason}")]
    Unusable { path: String, reason: String },
}

impl Store {
    /// Opens or creates the store file at `path` (its directory exists).
    pub fn open(_path: &Path) -> Result<Store, OpenError> {
        unimplemented!()
    }

    /// A store without a disk, for tests.
    pub fn in_memory() -> Store {
        unimplemented!()
    }

    /// All of `changes` or none, durable when this returns. All changes of one commit share one revision;
    /// a key may appear once. Dropping the future does not halve the commit.
    pub async fn commit(&self, _changes: Vec<Change>) -> Result<Revision, CommitError> {
        unimplemented!()
    }

    pub fn get(&self, _key: &ObjectKey) -> Result<Option<Stored>, Unavailable> {
        unimplemented!()
    }

    /// The keys of `scope` after `after` (exclusive), at most `limit` (0: all), as of revision `at`
    /// (`None`: now; `Some`: reconstructed from the log, or `Expired`).
    pub fn list(
        &self,
        _scope: &Scope,
        _after: Option<&ObjectKey>,
        _limit: usize,
        _at: Option<Revision>,
    ) -> Result<Listed, Unavailable> {
        unimplemented!()
    }

    /// The revision of the newest commit.
    pub fn revision(&self) -> Revision {
        unimplemented!()
    }

    /// Events of `scope` with a revision greater than `since`.
    pub fn watch(&self, _scope: &Scope, _since: Revision) -> Result<Watch, Unavailable> {
        unimplemented!()
    }
}
