//! The tables of the store file, and how keys, rows and log entries are spelled in them.
//!
//! ```text
//! head     ()                                → format, newest revision, compacted revision, events and bytes of the log
//! current  resource NUL namespace NUL name   → revision (8, big endian), value
//! log      (revision, index in the commit)   → flags, previous revision, lengths, key, value, previous value
//! ```
//! NUL sorts before every byte of a name, so the order of the bytes is the order of (resource, namespace, name).
//!
//! It never writes anything but an empty store's first head, and never interprets a value.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, ReadableTable, TableDefinition};

use super::{Event, Scope};
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

    pub(super) fn from_row(row: (u64, u64, u64, u64, u64)) -> Result<Head, redb::Error> {
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

pub(super) const SEPARATOR: u8 = 0;

/// The keys of a list, as bytes.
pub(super) struct Range {
    from: Bound<Vec<u8>>,
    to: Vec<u8>,
}

impl Range {
    pub(super) fn of(scope: &Scope, after: Option<&ObjectKey>) -> Range {
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

    pub(super) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (self.from.as_ref().map(Vec::as_slice), Bound::Excluded(self.to.as_slice()))
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        std::ops::RangeBounds::<[u8]>::contains(&self.bounds(), key)
    }
}

pub(super) fn encode_key(key: &ObjectKey) -> Vec<u8> {
    join(&[key.resource.as_str(), key.namespace.as_deref().unwrap_or(""), &key.name])
}

/// What every key of `scope` begins with, separator included.
pub(super) fn encode_scope(scope: &Scope) -> Vec<u8> {
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
pub(super) struct KeyDecoder {
    resource: Option<ResourceId>,
    namespace: Option<Arc<str>>,
}

impl KeyDecoder {
    pub(super) fn decode(&mut self, key: &[u8]) -> Result<ObjectKey, redb::Error> {
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

pub(super) fn revision(number: u64) -> Result<Revision, redb::Error> {
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

    pub(super) fn decode(entry: &'a [u8]) -> Result<Entry<'a>, redb::Error> {
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

    pub(super) fn to_event(&self, number: u64) -> Result<Event, redb::Error> {
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
