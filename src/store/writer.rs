//! The sole writer: one thread that checks preconditions, applies what waits in one transaction, makes it durable with
//! one fsync, and only then shows and answers it.
//!
//! It never retries a failed write, and never lets one caller's refusal touch another's commit.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use redb::{Database, ReadableTable, Table};
use tokio::sync::{mpsc, oneshot};

use super::compact::{self, Retention};
use super::disk::Failure;
use super::snapshot::Snapshot;
use super::tables::{self, CURRENT, Entry, HEAD, Head, LOG, LogKey};
use super::watch::Hub;
use super::{Change, CommitError, Event, Op, Refused};
use crate::metrics::{Counter, Histogram};
use crate::model::revision::{Precondition, Revision};

pub(super) enum Message {
    Commit(Request),
    /// Answer when everything before has been answered and the file is given up.
    Close(oneshot::Sender<()>),
}

/// One caller's commit.
pub(super) struct Request {
    changes: Vec<Change>,
    /// The key of each change, as bytes; spelled by the caller to keep the writer lean.
    keys: Vec<Vec<u8>>,
    bytes: usize,
    answer: oneshot::Sender<Answer>,
}

type Answer = Result<Revision, CommitError>;

impl Request {
    pub(super) fn new(changes: Vec<Change>, answer: oneshot::Sender<Answer>) -> Request {
        for change in &changes {
            let key = &change.key;
            assert!(tables::is_spellable(key), "{key} was not validated");
        }
        let keys: Vec<Vec<u8>> =
            changes.iter().map(|change| tables::encode_key(&change.key)).collect();
        let distinct: BTreeSet<&Vec<u8>> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len(), "a commit names a key twice");
        let bytes = changes
            .iter()
            .map(|change| match &change.op {
                Op::Put(value) => value.len(),
                Op::Delete => 0,
            })
            .sum();
        Request { changes, keys, bytes, answer }
    }
}

/// Commits that may wait for the writer; more of them wait in their callers.
const QUEUE: usize = 1024;
/// Bounds of one transaction.
const BATCH_COMMITS: usize = 512;
const BATCH_BYTES: usize = 8 << 20;

/// Starts the thread. It ends when every sender is gone or with [`Message::Close`].
pub(super) fn start(
    database: Database,
    keep: Retention,
    hub: Arc<Hub>,
    failure: Failure,
    meters: Arc<OnceLock<Meters>>,
) -> std::io::Result<mpsc::Sender<Message>> {
    let (sender, queue) = mpsc::channel(QUEUE);
    let writer = Writer { database, keep, hub, failure, meters };
    std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || writer.run(queue))?;
    Ok(sender)
}

struct Writer {
    database: Database,
    keep: Retention,
    hub: Arc<Hub>,
    failure: Failure,
    meters: Arc<OnceLock<Meters>>,
}

/// What the writer counts.
pub(super) struct Meters {
    pub commits: Counter,
    pub seconds: Histogram,
}

/// What one transaction did, once it is durable.
#[derive(Default)]
struct Batch {
    answers: Vec<Answer>,
    /// The events of each commit, in revision order.
    commits: Vec<Vec<Event>>,
}

impl Writer {
    fn run(self, mut queue: mpsc::Receiver<Message>) {
        let _alarm = Alarm(self.failure.clone());
        let mut closing = None;
        while closing.is_none() {
            let Some(first) = queue.blocking_recv() else {
                break;
            };
            let mut requests = Vec::new();
            let mut bytes = 0;
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Commit(request) => {
                        bytes += request.bytes;
                        requests.push(request);
                    }
                    Message::Close(done) => {
                        closing = Some(done);
                        break;
                    }
                }
                let has_room = requests.len() < BATCH_COMMITS && bytes < BATCH_BYTES;
                next = if has_room { queue.try_recv().ok() } else { None };
            }
            self.serve(requests);
        }
        self.hub.close();
        drop(self.database);
        // Whoever still waits in the queue is answered by its end.
        drop(queue);
        if let Some(done) = closing {
            // The closer may have stopped waiting.
            let _ = done.send(());
        }
    }

    fn serve(&self, requests: Vec<Request>) {
        let answers = match self.failure.get() {
            Some(reason) => refuse_all(&requests, &reason),
            None => match self.transact(&requests) {
                Ok(answers) => answers,
                Err(error) => {
                    let reason = self.failure.set(&error.to_string());
                    tracing::error!(%reason, "the store stops acknowledging writes");
                    refuse_all(&requests, &reason)
                }
            },
        };
        for (request, answer) in requests.into_iter().zip(answers) {
            // A caller that stopped waiting has its commit all the same.
            let _ = request.answer.send(answer);
        }
    }

    /// One transaction for all of `requests`. On an error nothing of it is shown, though it may turn out durable.
    fn transact(&self, requests: &[Request]) -> Result<Vec<Answer>, redb::Error> {
        let mut transaction = self.database.begin_write()?;
        // Saves the allocator's state with each commit, so that opening after a crash does not scan the file.
        transaction.set_quick_repair(true);
        let batch = {
            let mut current = transaction.open_table(CURRENT)?;
            let mut log = transaction.open_table(LOG)?;
            let mut head = self.hub.snapshot().head();
            let batch = apply_all(requests, &mut current, &mut log, &mut head)?;
            if !batch.commits.is_empty() {
                let added = batch.commits.iter().map(|commit| commit.len() as u64).sum();
                compact::trim(&mut log, &mut head, self.keep, added)?;
                transaction.open_table(HEAD)?.insert((), head.to_row())?;
            }
            batch
        };
        if batch.commits.is_empty() {
            transaction.abort()?;
            return Ok(batch.answers);
        }
        let begun = Instant::now();
        transaction.commit()?;
        if let Some(meters) = self.meters.get() {
            meters.commits.add(batch.commits.len() as u64);
            meters.seconds.observe(begun.elapsed());
        }
        // The disk swallows its own failure; only here does it become the commit's.
        if let Some(reason) = self.failure.get() {
            return Err(redb::Error::Io(std::io::Error::other(reason.to_string())));
        }
        let snapshot = Snapshot::take(&self.database)?;
        self.hub.publish(snapshot, &batch.commits);
        Ok(batch.answers)
    }
}

fn refuse_all(requests: &[Request], reason: &Arc<str>) -> Vec<Answer> {
    let refuse = |_| Err(CommitError::Failed(reason.clone()));
    requests.iter().map(refuse).collect()
}

type Current<'t> = Table<'t, &'static [u8], &'static [u8]>;
type Log<'t> = Table<'t, LogKey, &'static [u8]>;

fn apply_all(
    requests: &[Request],
    current: &mut Current<'_>,
    log: &mut Log<'_>,
    head: &mut Head,
) -> Result<Batch, redb::Error> {
    let mut batch = Batch::default();
    for request in requests {
        // All checks come before the first effect, so a refused commit leaves no trace.
        let answer = match check(request, current)? {
            Ok(before) => {
                head.revision = head.revision.next();
                let events = apply(request, before, current, log, head)?;
                batch.commits.push(events);
                Ok(head.revision)
            }
            Err(refused) => Err(refused),
        };
        batch.answers.push(answer);
    }
    Ok(batch)
}

type Row = Option<(Revision, Bytes)>;

/// Each key's row before the commit, or the first change whose precondition does not hold.
fn check(
    request: &Request,
    current: &Current<'_>,
) -> Result<Result<Vec<Row>, CommitError>, redb::Error> {
    let mut before = Vec::with_capacity(request.keys.len());
    for (index, (change, key)) in request.changes.iter().zip(&request.keys).enumerate() {
        let row = match current.get(key.as_slice())? {
            Some(row) => {
                let (revision, value) = tables::decode_row(row.value())?;
                Some((revision, Bytes::copy_from_slice(value)))
            }
            None => None,
        };
        if let Some(refused) = refusal(change, row.as_ref().map(|(revision, _)| *revision)) {
            return Ok(Err(CommitError::Refused { index, refused }));
        }
        before.push(row);
    }
    Ok(Ok(before))
}

/// Whether `change` may happen to a key that was last written at `current`.
fn refusal(change: &Change, current: Option<Revision>) -> Option<Refused> {
    match (change.when, current, &change.op) {
        (Precondition::Absent, Some(_), _) => Some(Refused::Exists),
        (Precondition::At(_) | Precondition::Exists, None, _) => Some(Refused::Missing),
        (Precondition::Any | Precondition::Absent, None, Op::Delete) => Some(Refused::Missing),
        (Precondition::At(wanted), Some(current), _) if wanted != current => {
            Some(Refused::Conflict { current })
        }
        (Precondition::At(_) | Precondition::Exists | Precondition::Any, Some(_), _)
        | (Precondition::Absent | Precondition::Any, None, Op::Put(_)) => None,
    }
}

fn apply(
    request: &Request,
    before: Vec<Row>,
    current: &mut Current<'_>,
    log: &mut Log<'_>,
    head: &mut Head,
) -> Result<Vec<Event>, redb::Error> {
    let mut events = Vec::with_capacity(request.changes.len());
    let changes = request.changes.iter().zip(&request.keys).zip(before);
    for (index, ((change, key), previous)) in changes.enumerate() {
        let value = match &change.op {
            Op::Put(value) => {
                let row = tables::encode_row(head.revision, value);
                current.insert(key.as_slice(), row.as_slice())?;
                Some(value.clone())
            }
            Op::Delete => {
                current.remove(key.as_slice())?;
                None
            }
        };
        let entry = Entry {
            key,
            value: value.as_deref(),
            previous: previous.as_ref().map(|(revision, value)| (*revision, &value[..])),
        };
        let entry = entry.encode();
        log.insert((head.revision.get(), index as u32), entry.as_slice())?;
        head.log_events += 1;
        head.log_bytes += entry.len() as u64;
        events.push(Event {
            revision: head.revision,
            key: change.key.clone(),
            value,
            previous: previous.map(|(_, value)| value),
        });
    }
    Ok(events)
}

/// Tells of a writer that dies of a bug, so that readiness ends with it.
struct Alarm(Failure);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set("the store's writer met a bug and has ended");
        }
    }
}
