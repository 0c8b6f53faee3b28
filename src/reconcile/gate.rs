//! The freshness gate: what the caches must show before a root is decided again.
//!
//! Every write returns the revision it made, and revisions are one order over all kinds. A root whose writes have
//! not arrived in the caches would be decided on a world without them, and the writes would be made twice. One
//! comparison prevents that, where client-go counts expectations. It never waits: the driver asks whether it is open.

use super::caches::{Caches, Kind};
use super::decide::Key;

/// Conditions, all of which must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gate {
    until: Vec<Until>,
}

/// One thing the caches must show.
#[derive(Debug, Clone, PartialEq)]
pub enum Until {
    /// Everything that happened to the kind up to this revision.
    Reached { kind: Kind, revision: u64 },
    /// That this very object has gone or is going: a deletion may return no revision.
    Going { kind: Kind, key: Key, uid: String },
    /// A list that was asked for after a write of which we do not know whether it was made.
    Listed { kind: Kind, list: u64 },
}

impl Gate {
    pub fn add(&mut self, until: Until) {
        if let Until::Reached { kind, revision } = &until {
            for held in &mut self.until {
                if let Until::Reached { kind: k, revision: r } = held
                    && k == kind
                {
                    *r = (*r).max(*revision);
                    return;
                }
            }
        }
        self.until.push(until);
    }

    pub fn is_empty(&self) -> bool {
        self.until.is_empty()
    }

    /// Whether a decision would see all that has been written for the root.
    pub fn is_open(&self, caches: &Caches) -> bool {
        self.until.iter().all(|until| match until {
            Until::Reached { kind, revision } => caches.reached(*kind) >= *revision,
            Until::Going { kind, key, uid } => caches.is_going(*kind, key, uid),
            Until::Listed { kind, list } => caches.lists_done(*kind) >= *list,
        })
    }

    /// The kinds that are waited for.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.until.iter().map(|until| match until {
            Until::Reached { kind, .. }
            | Until::Going { kind, .. }
            | Until::Listed { kind, .. } => *kind,
        })
    }
}
