//! A long list, table or list of metadata as text while it is read: batch by batch, so that it is never whole in memory
//! (S59).
//!
//! All batches are of one revision. If that is compacted away while a slow client still reads, the body breaks
//! off, as it does when a connection breaks: never does a list lack what it should hold.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, stream};
use http::{Response, StatusCode};

use super::{Selection, Start};
use crate::api::Api;
use crate::api::catalog::Kind;
use crate::api::failure::Failure;
use crate::api::reply::{self, Wish};
use crate::api::verbs::write;
use crate::model::key::ObjectKey;
use crate::model::revision::Revision;
use crate::store::{Listed, Scope, Stored};

/// Objects of the first batch, and the most of any.
const FIRST: usize = 64;
const MOST: usize = 500;
/// About how many bytes one batch may hold.
const BATCH_BYTES: usize = 2 << 20;

/// Reads the objects that a selection chooses, in order, in the state of one revision.
pub struct Reader {
    api: Api,
    kind: &'static Kind,
    scope: Scope,
    selection: Selection,
    at: Option<Revision>,
    after: Option<ObjectKey>,
    size: usize,
    is_done: bool,
}

impl Reader {
    pub(super) fn new(
        api: &Api,
        kind: &'static Kind,
        namespace: Option<&str>,
        selection: Selection,
        from: &Start,
    ) -> Reader {
        Reader {
            api: api.clone(),
            kind,
            scope: Scope { resource: kind.stored_as(), namespace: namespace.map(Arc::from) },
            selection,
            at: from.at,
            after: from.after.as_ref().map(|position| position.key(kind)),
            size: FIRST,
            is_done: false,
        }
    }

    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// The state that is listed, once something was read.
    pub fn revision(&self) -> Option<Revision> {
        self.at
    }

    /// The chosen ones among the next objects.
    pub fn next(&mut self) -> Result<Vec<Stored>, Failure> {
        let store = &self.api.inner.store;
        let listed = store.list_some(&self.scope, self.after.as_ref(), self.size, self.at);
        let listed = listed.map_err(|error| super::expired(error, self.after.as_ref()))?;
        let Listed { items, revision, remaining } = listed;
        self.at = Some(revision);
        self.is_done = remaining == 0 || items.is_empty();
        if let Some(last) = items.last() {
            self.after = Some(last.key.clone());
            let bytes: usize = items.iter().map(|stored| stored.value.len()).sum();
            self.size = (BATCH_BYTES / (bytes / items.len()).max(1)).clamp(1, MOST);
        }
        let mut chosen = Vec::with_capacity(items.len());
        for stored in items {
            let is_chosen = !self.selection.excludes(&stored.key)
                && (self.selection.is_everything()
                    || self.selection.matches(&write::show(self.kind, &stored)?));
            if is_chosen {
                chosen.push(stored);
            }
        }
        Ok(chosen)
    }
}

/// The list that begins with `first` and goes on with what `rest` reads; `metadata` is the list's own.
pub fn response(
    first: Vec<Stored>,
    rest: Reader,
    metadata: &serde_json::Value,
    wish: Wish,
) -> Response<Body> {
    let head = reply::list_head(rest.kind, wish.representation.shape, metadata);
    let body = Body::from_stream(texts(head, first, rest, wish));
    let mut response = reply::text_response(StatusCode::OK, "application/json", Bytes::new());
    *response.body_mut() = body;
    response
}

/// Where the text of a list stands.
struct Progress {
    reader: Reader,
    /// Read already.
    ahead: Option<Vec<Stored>>,
    text: Vec<u8>,
    is_first: bool,
    wish: Wish,
}

fn texts(
    head: String,
    first: Vec<Stored>,
    reader: Reader,
    wish: Wish,
) -> impl Stream<Item = io::Result<Bytes>> {
    let progress =
        Progress { reader, ahead: Some(first), text: head.into_bytes(), is_first: true, wish };
    stream::try_unfold(Some(progress), async |progress| {
        let Some(mut progress) = progress else { return Ok(None) };
        let items = match progress.ahead.take() {
            Some(items) => items,
            None => progress.reader.next().map_err(|failure| io::Error::other(failure.message))?,
        };
        for stored in &items {
            if !std::mem::take(&mut progress.is_first) {
                progress.text.push(b',');
            }
            reply::list_item(progress.reader.kind, progress.wish, stored, &mut progress.text)
                .map_err(|failure| io::Error::other(failure.message))?;
        }
        let mut text = std::mem::take(&mut progress.text);
        if progress.reader.is_done() {
            text.extend_from_slice(b"]}\n");
            return Ok(Some((Bytes::from(text), None)));
        }
        Ok(Some((Bytes::from(text), Some(progress))))
    })
}
