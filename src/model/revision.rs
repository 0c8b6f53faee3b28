//! The one number that orders everything, and what a writer may demand of it.

use std::fmt;
use std::num::NonZeroU64;

/// The position of a commit in the total order of the whole store; `resourceVersion` on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(NonZeroU64);

impl Revision {
    /// The first revision a store ever has.
    pub const FIRST: Revision = Revision(NonZeroU64::MIN);

    /// `None` for zero, which on the wire means "any state".
    pub fn new(number: u64) -> Option<Revision> {
        NonZeroU64::new(number).map(Revision)
    }

    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The revision of the next commit.
    pub fn next(self) -> Revision {
        Revision(self.0.checked_add(1).expect("2^64 commits do not happen"))
    }

    /// The revision before this one; the first has itself before it.
    pub fn previous(self) -> Revision {
        Revision::new(self.get() - 1).unwrap_or(Revision::FIRST)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What must hold for a key at the moment of the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// The key holds nothing.
    Absent,
    /// The key was last written by exactly this commit.
    At(Revision),
    /// The key exists, whatever its revision.
    Exists,
    /// Nothing is demanded.
    Any,
}
