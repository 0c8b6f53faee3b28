//! What a controller is: a pure function from a world to a decision, and the words both are written in.
//!
//! It never touches the API: the [driver](super::driver) observes and decides, [`apply`](super::apply) writes.
//!
//! A new controller is one file that implements [`Decide`] and a line in `daemon.rs` that runs the driver for
//! it. The rules that keep it right:
//!
//! - `observe` copies out of the caches everything the decision may look at; `decide` sees nothing else.
//! - `decide` is total. Whatever the world holds, it returns a decision and does not fail.
//! - The changes of one decision are independent of each other. They are carried out at the same time and in any
//!   order, and the daemon may die between any two. What has to come after another change is for the next
//!   decision, which is made when the caches show the first (the [gate](super::gate)).
//! - A decision in a world that is as it should be is empty. That is what makes a restart free of writes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::caches::{Caches, Held, Kind};
use crate::events;
use crate::model::time::Timestamp;

/// Namespace and name of an object; the namespace is empty for kinds without one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Key {
    pub fn new(namespace: &str, name: &str) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }

    pub fn of(metadata: &ObjectMeta) -> Key {
        Key::new(
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default(),
        )
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.is_empty() {
            true => f.write_str(&self.name),
            false => write!(f, "{}/{}", self.namespace, self.name),
        }
    }
}

/// Tells the driver that a root has to be decided again.
pub type Wake = Arc<dyn Fn(Key) + Send + Sync>;

/// A controller of one kind of objects, the roots.
pub trait Decide: Send + Sync + 'static {
    type Root: Held;
    type World: Send;

    /// As Events and logs name it, such as `deployment-controller`.
    const NAME: &'static str;

    /// The kinds that `observe` reads besides the root's. Nothing is decided before all are known whole.
    const READS: &'static [Kind];

    /// Registers with the caches what wakes a root. The root's own changes need no mention.
    fn wakes(caches: &Arc<Caches>, wake: &Wake);

    /// Everything a decision about `root` may look at.
    fn observe(root: &Arc<Self::Root>, seen: &Seen<'_>) -> Self::World;

    /// What is to be done now.
    fn decide(world: &Self::World, now: Timestamp) -> Decision;

    /// What is to be done about a root that is gone. What has owner references is the garbage collector's.
    fn gone(_key: &Key, _seen: &Seen<'_>) -> Decision {
        Decision::default()
    }
}

/// What `observe` looks at.
pub struct Seen<'a> {
    pub caches: &'a Caches,
    /// What went wrong with the changes of the decision before; empty when they were carried out.
    pub failures: &'a [Failure],
}

/// What a controller wants.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    /// Independent of each other: see the module's rules.
    pub changes: Vec<Intent>,
    /// The root's whole new `status`, written after the changes: if they were made, and the root is as observed.
    pub status: Option<Value>,
    /// Annotations of the root, written with the status.
    pub annotations: BTreeMap<String, String>,
    /// Events about the root that do not depend on a change.
    pub notes: Vec<Note>,
    /// Decide again after this long, though nothing has happened.
    pub again: Option<Duration>,
}

impl Decision {
    /// Asks to be decided again at the latest after `span`.
    pub fn wake_within(&mut self, span: Duration) {
        self.again = Some(self.again.map_or(span, |held| held.min(span)));
    }
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub struct Intent {
    pub write: Write,
    pub told: Told,
}

/// What an [`Intent`] does to the API.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// `object` is complete but for what the API server fills in; `metadata.generateName` may stand for a name.
    Create { kind: Kind, object: Value },
    /// A JSON merge patch. It carries the uid and the revision that were observed, and is refused if either has changed.
    Patch { kind: Kind, target: Target, patch: Value },
    /// As `Patch`, once a read of the root past the caches has shown that it is still there and not being deleted:
    /// for adoption, which would otherwise undo the orphaning of a root whose deletion is on its way to us.
    Adopt { kind: Kind, target: Target, patch: Value },
    /// Deletes exactly the object that was observed, its dependents in the background.
    Delete { kind: Kind, target: Target },
}

impl Write {
    pub fn kind(&self) -> Kind {
        match self {
            Write::Create { kind, .. }
            | Write::Patch { kind, .. }
            | Write::Adopt { kind, .. }
            | Write::Delete { kind, .. } => *kind,
        }
    }
}

/// An object as it was observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub key: Key,
    pub uid: String,
    pub resource_version: String,
}

impl Target {
    pub fn of(metadata: &ObjectMeta) -> Target {
        Target {
            key: Key::of(metadata),
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone().unwrap_or_default(),
        }
    }
}

/// The Events about the root that a write brings about.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    Nothing,
    /// Only of a failure.
    Failed {
        failed: Phrase,
    },
    /// `done` is followed by the object's name, `failed` by the error.
    ByName {
        done: Phrase,
        failed: Phrase,
    },
    /// `done` is the whole message.
    Whole {
        done: Phrase,
        failed: Phrase,
    },
}

/// An Event's reason, and its message or the beginning of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Phrase {
    pub reason: &'static str,
    pub text: String,
}

impl Phrase {
    pub fn new(reason: &'static str, text: impl Into<String>) -> Phrase {
        Phrase { reason, text: text.into() }
    }
}

/// An Event about the root.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    pub kind: events::Kind,
    pub reason: &'static str,
    pub message: String,
}

/// A write that was refused or went wrong; conflicts and objects that have gone are not failures.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// The reason of the write's failed [`Phrase`], or `FailedWrite`.
    pub reason: &'static str,
    /// As the API server worded it.
    pub message: String,
}
