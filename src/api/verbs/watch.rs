//! GET with `watch`: a stream of changes, pulled by the reader.
//!
//! Nothing is buffered here: a reader that does not read leaves its events in the store's bounded
//! buffer, and is told 410 when it has fallen behind. It never writes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Response, header};
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::api::catalog::Kind;
use crate::api::failure::Failure;
use crate::api::negotiate::Shape;
use crate::api::query::{self, Query};
use crate::api::reply::{self, Answer, Content, Wish};
use crate::api::verbs::selection::Selection;
use crate::api::verbs::{Call, list, write};
use crate::api::{object, presentation, table};
use crate::model::key::ObjectKey;
use crate::model::revision::Revision;
use crate::store::{self, Scope, Store, Stored, Unavailable, Watched};
use crate::sys::clock;

const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Without `timeoutSeconds` a watch lives this long, plus up to as much again, so that many watches
/// begun together do not end together.
const LIFETIME_SECONDS: u64 = 1800;

pub fn watch(
    api: &Api,
    call: &Call,
    kind: &'static Kind,
    namespace: Option<&str>,
    selection: Selection,
) -> Result<Answer, Failure> {
    let start = start(api, &call.query)?;
    let scope = Scope { resource: kind.stored_as(), namespace: namespace.map(Into::into) };
    let wants_bookmarks = call.query.flag("allowWatchBookmarks");
    let mut pending = VecDeque::new();
    let since = match start {
        Start::Since(revision) => revision,
        Start::State { .. } => api.inner.store.revision(),
    };
    let watch = match api.inner.store.watch(&scope, since) {
        Ok(watch) => Some(watch),
        Err(Unavailable::Expired { oldest }) => {
            let failure = Failure::too_old(since.get(), oldest);
            pending.push_back(line("ERROR", &failure.to_value()));
            None
        }
        Err(Unavailable::Future { current }) => {
            return Err(Failure::future_version(since.get(), current));
        }
        Err(error) => return Err(write::unavailable(error)),
    };
    let mut bookmarks = tokio::time::interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
    bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watcher = Watcher {
        kind,
        selection,
        wish: call.wish,
        watch,
        initial: match start {
            Start::State { .. } => Some(Initial {
                store: api.inner.store.clone(),
                scope,
                at: since,
                after: None,
                loaded: VecDeque::new(),
            }),
            Start::Since(_) => None,
        },
        initial_end: match start {
            Start::State { marks_end: true } if wants_bookmarks => Some(since),
            Start::State { .. } | Start::Since(_) => None,
        },
        is_catching_up: wants_bookmarks && matches!(start, Start::Since(_)),
        pending,
        deadline: Instant::now() + lifetime(&call.query)?,
        bookmarks,
        wants_bookmarks,
        has_sent_columns: false,
        shutdown: call.shutdown.clone(),
    };
    let body = Body::from_stream(futures::stream::unfold(watcher, |mut watcher| async {
        let chunk = watcher.next().await?;
        Some((Ok::<Bytes, Infallible>(chunk), watcher))
    }));
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(Answer::ok(Content::Raw(response)))
}

/// How many objects of the initial state are in memory at a time.
const INITIAL_STRETCH: usize = 32;

/// The state a watch begins with, read as its reader takes it: of many slow readers none holds all of it.
struct Initial {
    store: Store,
    scope: Scope,
    /// The state that is shown, whatever happens meanwhile.
    at: Revision,
    after: Option<ObjectKey>,
    loaded: VecDeque<Stored>,
}

impl Initial {
    /// The next object; `None` after the last.
    ///
    /// # Errors
    /// 410 if the reader was so slow that the state is no longer known.
    fn next(&mut self) -> Result<Option<Stored>, Failure> {
        if self.loaded.is_empty() {
            let listed = self
                .store
                .list_some(&self.scope, self.after.as_ref(), INITIAL_STRETCH, Some(self.at))
                .map_err(write::unavailable)?;
            self.after = listed.items.last().map(|stored| stored.key.clone());
            self.loaded = listed.items.into();
        }
        Ok(self.loaded.pop_front())
    }
}

/// Where a watch begins.
enum Start {
    /// The current state as ADDED events, then changes.
    State { marks_end: bool },
    /// Changes after a revision.
    Since(Revision),
}

fn start(api: &Api, query: &Query) -> Result<Start, Failure> {
    let matching = query.get("resourceVersionMatch");
    let forbidden = |field: &str, why: &str| {
        Err(list::invalid_option(field, "FieldValueForbidden", &format!("Forbidden: {why}")))
    };
    if query.get("continue").is_some() {
        return forbidden("continue", "continue is forbidden for watch");
    }
    let asked = query.get("resourceVersion").map(query::resource_version).transpose()?;
    let current = api.inner.store.revision();
    if let Some(asked) = asked
        && asked > current.get()
    {
        return Err(Failure::future_version(asked, current));
    }
    let since = asked.and_then(Revision::new);
    if !query.has("sendInitialEvents") {
        if matching.is_some() {
            return forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        return Ok(since.map_or(Start::State { marks_end: false }, Start::Since));
    }
    if matching != Some("NotOlderThan") {
        return forbidden(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        );
    }
    match query.flag("sendInitialEvents") {
        true => Ok(Start::State { marks_end: true }),
        false => Ok(Start::Since(since.unwrap_or(current))),
    }
}

fn lifetime(query: &Query) -> Result<Duration, Failure> {
    let seconds = match query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => seconds.unsigned_abs(),
        Some(_) | None => {
            let mut raw = [0u8; 2];
            clock::random(&mut raw);
            LIFETIME_SECONDS + u64::from(u16::from_be_bytes(raw)) % LIFETIME_SECONDS
        }
    };
    // Longer than a month would overflow clocks somewhere and serves nobody.
    Ok(Duration::from_secs(seconds.min(30 * 24 * 3600)))
}

struct Watcher {
    kind: &'static Kind,
    selection: Selection,
    wish: Wish,
    /// `None` once the stream is to end after what is pending.
    watch: Option<store::Watch>,
    initial: Option<Initial>,
    /// The state whose end is still to be marked.
    initial_end: Option<Revision>,
    /// Changes from before the watch may be left. When none is, a bookmark says so: whoever begins anew knows then that
    /// it has missed nothing, without waiting for the next change.
    is_catching_up: bool,
    pending: VecDeque<Bytes>,
    deadline: Instant,
    bookmarks: Interval,
    wants_bookmarks: bool,
    has_sent_columns: bool,
    shutdown: CancellationToken,
}

impl Watcher {
    /// The next line; `None` ends the stream cleanly.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.pending.pop_front() {
                return Some(line);
            }
            if let Some(initial) = &mut self.initial {
                match initial.next() {
                    Ok(Some(stored)) => self.add_initial(&stored),
                    Ok(None) => self.initial = None,
                    Err(failure) => self.fail(&failure),
                }
                continue;
            }
            if let Some(revision) = self.initial_end.take() {
                return Some(self.bookmark(revision, true));
            }
            let watch = self.watch.as_mut()?;
            if self.is_catching_up {
                match watch.try_next() {
                    Some(watched) => self.take(watched),
                    None => {
                        self.is_catching_up = false;
                        let position = watch.position();
                        return Some(self.bookmark(position, false));
                    }
                }
                continue;
            }
            tokio::select! {
                watched = watch.next() => self.take(watched),
                () = tokio::time::sleep_until(self.deadline) => {
                    let position = watch.position();
                    self.watch = None;
                    if self.wants_bookmarks {
                        return Some(self.bookmark(position, false));
                    }
                }
                _ = self.bookmarks.tick(), if self.wants_bookmarks => {
                    let position = watch.position();
                    return Some(self.bookmark(position, false));
                }
                () = self.shutdown.cancelled() => self.watch = None,
            }
        }
    }

    /// Whether objects go out as they are stored, unread.
    fn passes_through(&self) -> bool {
        self.selection.is_everything()
            && self.wish.representation.shape == Shape::Object
            && presentation::shows_as_stored(self.kind)
    }

    fn add_initial(&mut self, stored: &Stored) {
        if self.selection.excludes(&stored.key) {
            return;
        }
        if self.passes_through()
            && let Some(line) = spliced_line("ADDED", &stored.value, stored.revision)
        {
            return self.pending.push_back(line);
        }
        match write::show(self.kind, stored) {
            Ok(object) if self.selection.matches(&object) => {
                let line = self.event("ADDED", object);
                self.pending.push_back(line);
            }
            Ok(_) => {}
            Err(failure) => self.fail(&failure),
        }
    }

    fn take(&mut self, watched: Watched) {
        match watched {
            Watched::Closed => self.watch = None,
            Watched::Lagged => self.fail(&Failure::expired(
                "too old resource version: the watch fell behind and was closed",
            )),
            Watched::Event(event) => self.take_event(&event),
        }
    }

    fn take_event(&mut self, event: &store::Event) {
        if self.selection.excludes(&event.key) {
            return;
        }
        if self.passes_through() {
            let (word, value) = match (&event.previous, &event.value) {
                (None, Some(value)) => ("ADDED", Some(value)),
                (Some(_), Some(value)) => ("MODIFIED", Some(value)),
                (previous, None) => ("DELETED", previous.as_ref()),
            };
            if let Some(line) = value.and_then(|value| spliced_line(word, value, event.revision)) {
                return self.pending.push_back(line);
            }
        }
        match self.change(event) {
            Ok(Some((word, object))) => {
                let line = self.event(word, object);
                self.pending.push_back(line);
            }
            Ok(None) => {}
            Err(failure) => self.fail(&failure),
        }
    }

    /// What an event means to somebody who sees only what the selection chooses.
    fn change(&self, event: &store::Event) -> Result<Option<(&'static str, Value)>, Failure> {
        let shown = |bytes: &Option<Bytes>| {
            bytes
                .as_ref()
                .map(|bytes| write::show_at(self.kind, bytes, event.revision))
                .transpose()
                .map(|object| object.filter(|object| self.selection.matches(object)))
        };
        let new = shown(&event.value)?;
        let old = match (&new, self.selection.is_everything()) {
            // Whether there was an object is all that matters: no need to read it.
            (Some(object), true) => {
                let word = match event.previous.is_some() {
                    true => "MODIFIED",
                    false => "ADDED",
                };
                return Ok(Some((word, object.clone())));
            }
            (Some(_), false) | (None, _) => shown(&event.previous)?,
        };
        Ok(match (old, new) {
            (None, Some(new)) => Some(("ADDED", new)),
            (Some(_), Some(new)) => Some(("MODIFIED", new)),
            (Some(old), None) => Some(("DELETED", old)),
            (None, None) => None,
        })
    }

    fn fail(&mut self, failure: &Failure) {
        self.pending.push_back(line("ERROR", &failure.to_value()));
        self.initial = None;
        self.initial_end = None;
        self.watch = None;
    }

    fn event(&mut self, word: &str, object: Value) -> Bytes {
        let shown = match self.wish.representation.shape {
            Shape::Object => object,
            Shape::PartialMetadata => reply::partial_metadata(object),
            Shape::Table => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let resource = self.kind.resource();
                let rows = std::slice::from_ref(&object);
                let include = self.wish.include_object;
                let mut table = table::render(&resource, rows, include, metadata, clock::now());
                if std::mem::replace(&mut self.has_sent_columns, true) {
                    table["columnDefinitions"] = Value::Null;
                }
                table
            }
        };
        line(word, &shown)
    }

    fn bookmark(&self, revision: Revision, ends_initial: bool) -> Bytes {
        let (kind, api_version) = match self.wish.representation.shape {
            Shape::PartialMetadata => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
            Shape::Object | Shape::Table => (self.kind.kind, self.kind.api_version()),
        };
        let mut object = json!({
            "kind": kind,
            "apiVersion": api_version,
            "metadata": {"resourceVersion": revision.to_string(), "creationTimestamp": null},
        });
        if ends_initial {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        line("BOOKMARK", &object)
    }
}

/// An event about a stored value that need not be read.
fn spliced_line(word: &str, value: &[u8], revision: Revision) -> Option<Bytes> {
    let mut text = Vec::with_capacity(value.len() + 80);
    text.extend_from_slice(format!("{{\"type\":\"{word}\",\"object\":").as_bytes());
    if !object::splice(&mut text, value, revision) {
        return None;
    }
    text.extend_from_slice(b"}\n");
    Some(text.into())
}

fn line(word: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{{\"type\":\"{word}\",\"object\":{object}}}\n"))
}
