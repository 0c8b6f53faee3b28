//! A disk that stops at its first failure: after it nothing is written or synced any more, while reads go on.
//!
//! After a failed fsync Linux marks the pages clean, so a second try would "succeed" without the data
//! (<https://wiki.postgresql.org/wiki/Fsync_Errors>). redb for its part refuses even reads once a write has failed.
//! This layer swallows the error instead: what redb goes on to write is kept aside in memory, so that redb stays
//! consistent with itself until the commit at hand ends. The writer then finds the [`Failure`], publishes nothing and
//! never begins another transaction; readers keep the last published snapshot, whose pages no one overwrites.
//!
//! It never retries.

use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use redb::{BackendError, StorageBackend};

/// Why the store stopped acknowledging, once it has. Clones share it; the first reason stays.
#[derive(Debug, Clone, Default)]
pub(super) struct Failure(Arc<OnceLock<Arc<str>>>);

impl Failure {
    pub(super) fn get(&self) -> Option<Arc<str>> {
        self.0.get().cloned()
    }

    /// Records `reason` unless one is recorded already; returns the one that stands.
    pub(super) fn set(&self, reason: &str) -> Arc<str> {
        self.0.get_or_init(|| reason.into()).clone()
    }
}

#[derive(Debug)]
pub(super) struct FailStop<B> {
    disk: B,
    failure: Failure,
    /// What was written since the failure; bounded by one commit batch and redb's closing words.
    aside: Mutex<Aside>,
}

#[derive(Debug, Default)]
struct Aside {
    /// The length redb asked for since the failure.
    length: Option<u64>,
    /// In order, so that the later of two overlapping writes wins.
    writes: Vec<(u64, Vec<u8>)>,
}

impl<B: StorageBackend> FailStop<B> {
    pub(super) fn new(disk: B, failure: Failure) -> FailStop<B> {
        FailStop { disk, failure, aside: Mutex::default() }
    }

    /// Does `effect` on a disk that has not failed; otherwise, and when it fails now, `instead`.
    fn attempt(
        &self,
        step: &str,
        effect: impl FnOnce(&B) -> io::Result<()>,
        instead: impl FnOnce(&mut Aside),
    ) {
        if self.failure.get().is_none() {
            match effect(&self.disk) {
                Ok(()) => return,
                Err(error) => self.failure.set(&format!("{step}: {error}")),
            };
        }
        instead(&mut self.aside.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl<B: StorageBackend> StorageBackend for FailStop<B> {
    fn len(&self) -> io::Result<u64> {
        let aside = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        match aside.length {
            Some(length) => Ok(length),
            None => self.disk.len(),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.failure.get().is_none() {
            return self.disk.read(offset, out);
        }
        let aside = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        let on_disk = self.disk.len()?.saturating_sub(offset);
        let on_disk = usize::try_from(on_disk).map_or(out.len(), |length| length.min(out.len()));
        if on_disk > 0 {
            self.disk.read(offset, &mut out[..on_disk])?;
        }
        out[on_disk..].fill(0);
        for (start, data) in &aside.writes {
            overlay(offset, out, *start, data);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.attempt("resize", |disk| disk.set_len(len), |aside| aside.length = Some(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.attempt("sync", B::sync_data, |_| ());
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.attempt(
            "write",
            |disk| disk.write(offset, data),
            |aside| aside.writes.push((offset, data.to_vec())),
        );
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.disk.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.disk.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.disk.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.disk.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.disk.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.disk.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.disk.query_lock_range(start, end)
    }
}

/// Copies the part of `data` (at `start`) that falls into `out` (at `offset`).
fn overlay(offset: u64, out: &mut [u8], start: u64, data: &[u8]) {
    let from = offset.max(start);
    let to = (offset + out.len() as u64).min(start + data.len() as u64);
    if from < to {
        let length = (to - from) as usize;
        let (into, of) = ((from - offset) as usize, (from - start) as usize);
        out[into..into + length].copy_from_slice(&data[of..of + length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlays_copy_exactly_the_overlap() {
        for (start, data, expected) in [
            (0, &b"xyz"[..], *b"...."),
            (8, b"xyz", *b"yz.."),
            (10, b"x", *b".x.."),
            (11, b"xyz", *b"..xy"),
            (12, b"xyz", *b"...x"),
            (13, b"xyz", *b"...."),
            (7, b"abcdefgh", *b"cdef"),
        ] {
            let mut out = *b"....";
            overlay(9, &mut out, start, data);
            assert_eq!(out, expected, "{start}");
        }
    }
}
