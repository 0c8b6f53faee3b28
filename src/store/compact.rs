//! Trims the oldest commits from the log, a few in every transaction, so that it never needs one of its own.
//!
//! It never touches the current state and never keeps half a commit.

use redb::{ReadableTable, StorageError, Table};

use super::tables::{Head, LogKey};
use crate::model::revision::Revision;

/// What the log may hold; the newest commits within both bounds stay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retention {
    pub(super) events: u64,
    pub(super) bytes: u64,
}

/// How many more entries one transaction removes than it added: a log over its bounds shrinks, in small steps.
const SURPLUS: u64 = 64;

/// Removes whole commits from the front of `log` while it exceeds `keep`.
pub(super) fn trim(
    log: &mut Table<'_, LogKey, &'static [u8]>,
    head: &mut Head,
    keep: Retention,
    added: u64,
) -> Result<(), StorageError> {
    let mut removed = 0;
    while let Some((first, bytes)) = front(log)? {
        let is_rest_of_commit = first.0 == head.compacted.get();
        let is_too_much = head.log_events > keep.events || head.log_bytes > keep.bytes;
        if !is_rest_of_commit && (!is_too_much || removed >= added + SURPLUS) {
            break;
        }
        log.remove(first)?;
        head.log_events -= 1;
        head.log_bytes -= bytes;
        head.compacted = Revision::new(first.0).expect("a log key carries a revision");
        removed += 1;
    }
    Ok(())
}

fn front(log: &Table<'_, LogKey, &'static [u8]>) -> Result<Option<(LogKey, u64)>, StorageError> {
    Ok(log.first()?.map(|(key, entry)| (key.value(), entry.value().len() as u64)))
}
