//! The tables of the store file, how keys and log entries are spelled in them, and reading a snapshot of them.
//!
//! ```text
//! head     ()                                → format, newest revision, compacted revision, events and bytes of the log
//! current  resource NUL namespace NUL name   → revision (8, big endian), value
//! log      (revision, index in the commit)   → flags, previous revision, lengths, key, value, previous value
//! ```
//! NUL sorts before every byte of a name, so the order of the bytes is the order of (resource, namespace, name).
//!
//! It never writes anything but an empty store's first head.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Event, Listed, Scope, Stored, Unavailable};
use crate::model::key::{ObjectKey, ResourceId};
use crate::model::revision::Revision;

/// Revision, index within the commit.
pub(super) type LogKey = (u64, u32);

pub(super) const HEAD: TableDefinition<(), (u64, u64, u64, u64, u64)> =
    TableDefinition::new("head");
pub(super) const CURRENT: TableDefinition<&[u8], &[u8]> = TableDefinition::new("current");
pub(super) const LOG: TableDefinition<LogKey, &[u8]> = TableDefinition::new("log");

const FORMAT: u64 = 1;

/// The one row that says where the store stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Of the newest commit.
    pub(super) revision: Revision,
    /// Commits up to here have left the log.
    pub(super) compacted: Revision,
    pub(super) log_events: u64,
    pub(super) log_bytes: u64,
}

impl Head {
    pub(super) fn to_row(self) -> (u64, u64, u64, u64, u64) {
        (FORMAT, self.revision.get(), self.compacted.get(), self.log_events, self.log_bytes)
    }

    fn from_row(row: (u64, u64, u64, u64, u64)) -> Result<Head, redb::Error> {
        match (row.0, Revision::new(row.1), Revision::new(row.2)) {
            (FORMAT, Some(revision), Some(compacted)) => {
                Ok(Head { revision, compacted, log_events: row.3, log_bytes: row.4 })
            }
            (FORMAT, _, _) => Err(damaged("head without a revision")),
            (other, _, _) => Err(damaged(&format!("format {other}, not {FORMAT}"))),
        }
    }
}

/// Makes the tables of an empty file; leaves any other file as it is.
pub(super) fn prepare(database: &Database) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    let is_new = {
        let mut head = transaction.open_table(HEAD)?;
        transaction.open_table(CURRENT)?;
        transaction.open_table(LOG)?;
        let is_new = head.get(())?.is_none();
        if is_new {
            let first = Head {
                revision: Revision::FIRST,
                compacted: Revision::FIRST,
                log_events: 0,
                log_bytes: 0,
            };
            head.insert((), first.to_row())?;
        }
        is_new
    };
    match is_new {
        true => transaction.commit()?,
        false => transaction.abort()?,
    }
    Ok(())
}

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
            let old = match entry.previous {
                Some((written, value)) => Some((written, Bytes::copy_from_slice(value))),
                None => None,
            };
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

const SEPARATOR: u8 = 0;

/// The keys of a list, as bytes.
struct Range {
    from: Bound<Vec<u8>>,
    to: Vec<u8>,
}

impl Range {
    fn of(scope: &Scope, after: Option<&ObjectKey>) -> Range {
        let first = encode_scope(scope);
        let mut to = first.clone();
        *to.last_mut().expect("a scope ends in its separator") = SEPARATOR + 1;
        let from = match after.map(encode_key) {
            Some(after) if after >= to => Bound::Included(to.clone()),
            Some(after) if after >= first => Bound::Excluded(after),
            Some(_) | None => Bound::Included(first),
        };
        Range { from, to }
    }

    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (self.from.as_ref().map(Vec::as_slice), Bound::Excluded(self.to.as_slice()))
    }

    fn contains(&self, key: &[u8]) -> bool {
        std::ops::RangeBounds::<[u8]>::contains(&self.bounds(), key)
    }
}

pub(super) fn encode_key(key: &ObjectKey) -> Vec<u8> {
    join(&[key.resource.as_str(), key.namespace.as_deref().unwrap_or(""), &key.name])
}

/// What every key of `scope` begins with, separator included.
fn encode_scope(scope: &Scope) -> Vec<u8> {
    match &scope.namespace {
        Some(namespace) => join(&[scope.resource.as_str(), namespace, ""]),
        None => join(&[scope.resource.as_str(), ""]),
    }
}

fn join(parts: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len() + 1).sum());
    for (position, part) in parts.iter().enumerate() {
        if position > 0 {
            bytes.push(SEPARATOR);
        }
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

/// True if `key` has a spelling of its own: no separator inside, no empty namespace.
pub(super) fn is_spellable(key: &ObjectKey) -> bool {
    let namespace = key.namespace.as_deref();
    let parts = [key.resource.as_str(), namespace.unwrap_or(""), &key.name];
    namespace != Some("") && parts.iter().all(|part| !part.as_bytes().contains(&SEPARATOR))
}

/// Reads keys back; neighbours share the texts they have in common.
#[derive(Default)]
struct KeyDecoder {
    resource: Option<ResourceId>,
    namespace: Option<Arc<str>>,
}

impl KeyDecoder {
    fn decode(&mut self, key: &[u8]) -> Result<ObjectKey, redb::Error> {
        let text = std::str::from_utf8(key).map_err(|_| damaged("a key is not UTF-8"))?;
        let mut parts = text.split(char::from(SEPARATOR));
        let (Some(resource), Some(namespace), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(damaged("a key has not three parts"));
        };
        let resource = match &self.resource {
            Some(known) if known.as_str() == resource => known.clone(),
            Some(_) | None => ResourceId::from_qualified(resource),
        };
        let namespace = match &self.namespace {
            Some(known) if **known == *namespace => Some(known.clone()),
            Some(_) | None => Some(Arc::from(namespace)).filter(|_| !namespace.is_empty()),
        };
        self.resource = Some(resource.clone());
        self.namespace = namespace.clone();
        Ok(ObjectKey { resource, namespace, name: name.into() })
    }
}

pub(super) fn encode_row(revision: Revision, value: &[u8]) -> Vec<u8> {
    [&revision.get().to_be_bytes(), value].concat()
}

pub(super) fn decode_row(row: &[u8]) -> Result<(Revision, &[u8]), redb::Error> {
    let (number, value) = row.split_first_chunk().ok_or_else(|| damaged("a row is cut short"))?;
    Ok((revision(u64::from_be_bytes(*number))?, value))
}

fn revision(number: u64) -> Result<Revision, redb::Error> {
    Revision::new(number).ok_or_else(|| damaged("a revision is zero"))
}

/// One change in the log.
pub(super) struct Entry<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: Option<&'a [u8]>,
    pub(super) previous: Option<(Revision, &'a [u8])>,
}

const HAS_VALUE: u8 = 1;
const HAS_PREVIOUS: u8 = 2;

impl<'a> Entry<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let flags = if self.value.is_some() { HAS_VALUE } else { 0 }
            | if self.previous.is_some() { HAS_PREVIOUS } else { 0 };
        let value = self.value.unwrap_or_default();
        let (written, previous) = match self.previous {
            Some((revision, value)) => (revision.get(), value),
            None => (0, &[][..]),
        };
        [
            &[flags][..],
            &written.to_be_bytes(),
            &(self.key.len() as u32).to_be_bytes(),
            &(value.len() as u32).to_be_bytes(),
            self.key,
            value,
            previous,
        ]
        .concat()
    }

    fn decode(entry: &'a [u8]) -> Result<Entry<'a>, redb::Error> {
        Entry::cut(entry).ok_or_else(|| damaged("a log entry is cut short"))
    }

    fn cut(entry: &'a [u8]) -> Option<Entry<'a>> {
        let (flags, rest) = entry.split_first()?;
        let (written, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_first_chunk()?;
        let (value, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_at_checked(u32::from_be_bytes(*key) as usize)?;
        let (value, previous) = rest.split_at_checked(u32::from_be_bytes(*value) as usize)?;
        let previous = match flags & HAS_PREVIOUS {
            0 => None,
            _ => Some((Revision::new(u64::from_be_bytes(*written))?, previous)),
        };
        Some(Entry { key, value: (flags & HAS_VALUE != 0).then_some(value), previous })
    }

    fn to_event(&self, number: u64) -> Result<Event, redb::Error> {
        Ok(Event {
            revision: revision(number)?,
            key: KeyDecoder::default().decode(self.key)?,
            value: self.value.map(Bytes::copy_from_slice),
            previous: self.previous.map(|(_, value)| Bytes::copy_from_slice(value)),
        })
    }
}

pub(super) fn damaged(what: &str) -> redb::Error {
    redb::Error::Corrupted(what.to_owned())
}

fn unreadable(error: impl Into<redb::Error>) -> Unavailable {
    Unavailable::Failed(error.into().to_string().into())
}

impl From<redb::Error> for Unavailable {
    fn from(error: redb::Error) -> Unavailable {
        unreadable(error)
    }
}
