//! Reading the store as of one published commit: gets, lists of now and of the past, stretches of the log.
//!
//! It never waits for the writer, and never writes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, ReadOnlyTable, ReadableDatabase};

use super::tables::{
    CURRENT, Entry, HEAD, Head, KeyDecoder, LOG, LogKey, Range, SEPARATOR, damaged, decode_row,
    encode_key, encode_scope, revision,
};
use super::{Event, Listed, Scope, Stored, Unavailable};
use crate::model::key::{ObjectKey, ResourceId};
use crate::model::revision::Revision;

/// What a list tells about the objects beyond its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// How many there are: all of them are passed by.
    Counted,
    /// Whether there are any.
    Noticed,
}

/// The store as of one published commit. Reading it never waits for the writer.
pub(super) struct Snapshot {
    head: Head,
    current: ReadOnlyTable<&'static [u8], &'static [u8]>,
    log: ReadOnlyTable<LogKey, &'static [u8]>,
}

impl Snapshot {
    pub(super) fn take(database: &Database) -> Result<Snapshot, redb::Error> {
        let transaction = database.begin_read()?;
        let row = transaction
            .open_table(HEAD)?
            .get(())?
            .map(|row| row.value())
            .ok_or_else(|| damaged("no head"))?;
        Ok(Snapshot {
            head: Head::from_row(row)?,
            current: transaction.open_table(CURRENT)?,
            log: transaction.open_table(LOG)?,
        })
    }

    pub(super) fn head(&self) -> Head {
        self.head
    }

    pub(super) fn get(&self, key: &ObjectKey) -> Result<Option<Stored>, Unavailable> {
        let found = self.current.get(encode_key(key).as_slice()).map_err(unreadable)?;
        found
            .map(|row| {
                let (revision, value) = decode_row(row.value())?;
                Ok(Stored { key: key.clone(), revision, value: Bytes::copy_from_slice(value) })
            })
            .transpose()
    }

    pub(super) fn list(
        &self,
        scope: &Scope,
        after: Option<&ObjectKey>,
        limit: usize,
        at: Option<Revision>,
        rest: Rest,
    ) -> Result<Listed, Unavailable> {
        let revision = at.unwrap_or(self.head.revision);
        self.reaches(revision)?;
        let range = Range::of(scope, after);
        let mut then = self.undone(revision, &range)?.into_iter().peekable();
        let mut page = Page::new(limit);
        let rows = self.current.range::<&[u8]>(range.bounds());
        for row in rows.map_err(unreadable)? {
            if rest == Rest::Noticed && page.remaining > 0 {
                break;
            }
            let (key, row) = row.map_err(unreadable)?;
            let key = key.value();
            while let Some((key, old)) = then.next_if(|(then, _)| then.as_slice() < key) {
                page.add_undone(&key, old)?;
            }
            match then.next_if(|(then, _)| then.as_slice() == key) {
                Some((key, old)) => page.add_undone(&key, old)?,
                None => {
                    let (written, value) = decode_row(row.value())?;
                    page.add(key, written, || Bytes::copy_from_slice(value))?;
                }
            }
        }
        for (key, old) in then {
            page.add_undone(&key, old)?;
        }
        Ok(Listed { items: page.items, revision, remaining: page.remaining })
    }

    pub(super) fn resources(
        &self,
        namespace: Option<&str>,
    ) -> Result<Vec<ResourceId>, Unavailable> {
        let mut found = Vec::new();
        let mut from = Vec::new();
        while let Some(resource) = self.first_resource(&from)? {
            // One past the separator: the first key of the next resource, however many objects this one has.
            from = [resource.as_str().as_bytes(), &[SEPARATOR + 1]].concat();
            let scope = Scope { resource, namespace: namespace.map(Arc::from) };
            let range = Range::of(&scope, None);
            let rows = self.current.range::<&[u8]>(range.bounds());
            let first = rows.map_err(unreadable)?.next();
            if first.transpose().map_err(unreadable)?.is_some() {
                found.push(scope.resource);
            }
        }
        Ok(found)
    }

    fn first_resource(&self, from: &[u8]) -> Result<Option<ResourceId>, Unavailable> {
        let mut rows = self.current.range(from..).map_err(unreadable)?;
        let first = rows.next().transpose().map_err(unreadable)?;
        first.map(|(key, _)| Ok(KeyDecoder::default().decode(key.value())?.resource)).transpose()
    }

    /// Events of `scope` after the log position `after` up to the commit `until`: whole commits, about `limit` events,
    /// from a bounded stretch of the log.
    pub(super) fn events(
        &self,
        scope: &Scope,
        after: LogKey,
        until: Revision,
        limit: usize,
    ) -> Result<Stretch, Unavailable> {
        let prefix = encode_scope(scope);
        let mut stretch = Stretch { events: Vec::new(), through: until };
        let range = (Bound::Excluded(after), Bound::Included((until.get(), u32::MAX)));
        let entries = self.log.range(range).map_err(unreadable)?;
        let mut last = None;
        for (scanned, entry) in entries.enumerate() {
            let (position, entry) = entry.map_err(unreadable)?;
            let position = position.value();
            let is_enough = scanned >= STRETCH_SCAN || stretch.events.len() >= limit;
            match last {
                Some(last) if is_enough && last != position.0 => {
                    stretch.through = revision(last)?;
                    break;
                }
                _ => last = Some(position.0),
            }
            let entry = Entry::decode(entry.value())?;
            if entry.key.starts_with(&prefix) {
                stretch.events.push((position, entry.to_event(position.0)?));
            }
        }
        Ok(stretch)
    }

    /// What the commits after `then` have changed in `range`: each key's row as it was at `then`.
    fn undone(&self, then: Revision, range: &Range) -> Result<Undone, Unavailable> {
        let mut undone = Undone::new();
        if then == self.head.revision {
            return Ok(undone);
        }
        let later = self
            .log
            .range((Bound::Excluded((then.get(), u32::MAX)), Bound::Unbounded))
            .map_err(unreadable)?;
        for entry in later {
            let (_, entry) = entry.map_err(unreadable)?;
            let entry = Entry::decode(entry.value())?;
            if !range.contains(entry.key) || undone.contains_key(entry.key) {
                continue;
            }
            let old =
                entry.previous.map(|(written, value)| (written, Bytes::copy_from_slice(value)));
            undone.insert(entry.key.to_vec(), old);
        }
        Ok(undone)
    }

    /// Whether the state at `revision` is known here.
    pub(super) fn reaches(&self, revision: Revision) -> Result<(), Unavailable> {
        if revision > self.head.revision {
            return Err(Unavailable::Future { current: self.head.revision });
        }
        if revision < self.head.compacted {
            return Err(Unavailable::Expired { oldest: self.head.compacted });
        }
        Ok(())
    }
}

type Undone = BTreeMap<Vec<u8>, Option<(Revision, Bytes)>>;

/// How many log entries one [`Snapshot::events`] looks at, whomever they concern.
const STRETCH_SCAN: usize = 1024;

/// A piece of the log as one scope sees it.
pub(super) struct Stretch {
    pub(super) events: Vec<(LogKey, Event)>,
    /// Everything up to and including this commit has been looked at.
    pub(super) through: Revision,
}

/// The items of a list, up to its limit.
struct Page {
    keys: KeyDecoder,
    limit: usize,
    items: Vec<Stored>,
    remaining: u64,
}

impl Page {
    fn new(limit: usize) -> Page {
        Page { keys: KeyDecoder::default(), limit, items: Vec::new(), remaining: 0 }
    }

    fn add(
        &mut self,
        key: &[u8],
        revision: Revision,
        value: impl FnOnce() -> Bytes,
    ) -> Result<(), Unavailable> {
        if self.limit != 0 && self.items.len() >= self.limit {
            self.remaining += 1;
            return Ok(());
        }
        self.items.push(Stored { key: self.keys.decode(key)?, revision, value: value() });
        Ok(())
    }

    fn add_undone(
        &mut self,
        key: &[u8],
        old: Option<(Revision, Bytes)>,
    ) -> Result<(), Unavailable> {
        match old {
            Some((revision, value)) => self.add(key, revision, || value),
            None => Ok(()),
        }
    }
}

fn unreadable(error: impl Into<redb::Error>) -> Unavailable {
    Unavailable::Failed(error.into().to_string().into())
}

impl From<redb::Error> for Unavailable {
    fn from(error: redb::Error) -> Unavailable {
        unreadable(error)
    }
}
