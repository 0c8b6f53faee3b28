//! `kubectl logs`: reads a container's files from any point, across rotation, and follows them.
//!
//! Bytes are neither lost nor doubled: a file is left only after it was read to its end *since* the shim
//! took its name away, and the next one is found by what lies beside it.

use std::io::{self, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use axum::body::Body;
use axum::extract::{Path as UrlPath, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use nix::fcntl::OFlag;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;

use super::logfile::{Filter, Stream, TailFinder, in_order, parse};
use super::logwatch::Interest;
use super::{
    AnyRequest, PodContainer, Refusal, Serve, ServeState, logged, query_flag, query_value,
};
use crate::model::time::Timestamp;
use crate::node::pods::Pods;
use crate::runtime::{ContainerPhase, ShimState};
use crate::sys::clock;

const CHUNK: usize = 64 << 10;
/// Chunks that wait for a slow reader.
const BACKLOG: usize = 8;

/// `GET /containerLogs/{namespace}/{pod}/{container}?follow=&previous=&tailLines=…`
pub async fn logs(
    State(serve): ServeState,
    UrlPath((namespace, name, container_name)): PodContainer,
    request: AnyRequest,
) -> Result<Response, Refusal> {
    let query = request.uri().query().unwrap_or_default();
    let pod = serve.pod(&namespace, &name)?;
    let entry = logged(&pod, &container_name)?;
    let previous = query_flag(query, "previous");
    let missing = || {
        Refusal::bad_request(format!(
            "previous terminated container {container_name:?} in pod {name:?} not found"
        ))
    };
    let attempt = match previous {
        true => entry.previous.ok_or_else(missing)?,
        false => entry.attempt,
    };
    let files = Files { directory: entry.log_dir.clone(), attempt };
    let names = files.names().unwrap_or_default();
    if names.is_empty() && previous {
        return Err(missing());
    }
    let filter = filter(query)?;
    let tail = number(query, "tailLines")?;
    let follow = query_flag(query, "follow") && !previous;
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(BACKLOG);
    let subject =
        Subject { namespace, name, uid: pod.uid.clone(), container: container_name, attempt };
    let reader = Reader { files, filter, sender };
    tokio::spawn(async move {
        if let Err(error) = reader.run(tail, follow.then_some((serve, subject))).await {
            tracing::debug!(%error, "a log could not be read to its end");
        }
    });
    let body = Body::from_stream(tokio_stream(receiver));
    Ok(([(header::CONTENT_TYPE, "text/plain")], body).into_response())
}

fn tokio_stream<T>(receiver: mpsc::Receiver<T>) -> impl futures::Stream<Item = T> {
    futures::stream::unfold(receiver, |mut receiver| async move {
        let item = receiver.recv().await?;
        Some((item, receiver))
    })
}

fn number(query: &str, name: &str) -> Result<Option<u64>, Refusal> {
    match query_value(query, name) {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            Refusal::bad_request(format!(
                "{name}: Invalid value: {text:?}: must be greater than or equal to 0"
            ))
        }),
    }
}

fn filter(query: &str) -> Result<Filter, Refusal> {
    let since =
        match (number(query, "sinceSeconds")?, query_value(query, "sinceTime")) {
            (Some(seconds), _) => {
                let now = clock::now();
                let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
                Some(Timestamp::from_unix(
                    now.unix_seconds().saturating_sub(seconds),
                    now.nanoseconds(),
                ))
            }
            (None, Some(text)) => Some(text.parse().map_err(|_| {
                Refusal::bad_request(format!("sinceTime: {text:?} is not RFC 3339"))
            })?),
            (None, None) => None,
        };
    let stream = match query_value(query, "stream").as_deref() {
        None | Some("" | "All") => None,
        Some("Stdout") => Some(Stream::Stdout),
        Some("Stderr") => Some(Stream::Stderr),
        Some(other) => {
            return Err(Refusal::bad_request(format!(
                "stream: Unsupported value: {other:?}: supported values: \"All\", \"Stderr\", \"Stdout\""
            )));
        }
    };
    Ok(Filter {
        since,
        timestamps: query_flag(query, "timestamps"),
        limit: number(query, "limitBytes")?,
        stream,
        within_line: false,
    })
}

/// The files of one attempt.
struct Files {
    directory: PathBuf,
    attempt: u32,
}

impl Files {
    /// Oldest first.
    fn names(&self) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.directory)?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(in_order(names, self.attempt))
    }

    async fn open(&self, name: &str) -> io::Result<(File, u64)> {
        // A pod that can write here must not make us read a file of the host (CVE-2026-53489).
        let file = tokio::fs::OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits())
            .open(self.directory.join(name))
            .await?;
        let metadata = file.metadata().await?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok((file, metadata.ino()))
    }

    fn inode(&self, name: &str) -> Option<u64> {
        std::fs::symlink_metadata(self.directory.join(name)).ok().map(|metadata| metadata.ino())
    }

    /// The name of the file that follows the one with `inode`; the oldest when that one is gone.
    fn after(&self, inode: u64) -> io::Result<Option<String>> {
        let names = self.names()?;
        let place = names.iter().position(|name| self.inode(name) == Some(inode));
        Ok(match place {
            Some(place) => names.into_iter().nth(place + 1),
            None => names.into_iter().next(),
        })
    }
}

/// The container whose end ends a followed log.
struct Subject {
    namespace: String,
    name: String,
    uid: String,
    container: String,
    attempt: u32,
}

impl Subject {
    /// Whether this attempt can write no more.
    fn has_ended(&self, pods: &Pods) -> bool {
        let Some(pod) = pods.find(&self.namespace, &self.name).filter(|pod| pod.uid == self.uid)
        else {
            return true;
        };
        let newest = pod.containers.get(&self.container).map(|entry| entry.attempt);
        let (Some(running), true) = (&pod.pod, newest == Some(self.attempt)) else { return true };
        let state = running.state();
        let state = state.borrow();
        if state.shim == ShimState::Lost {
            return true;
        }
        match state.containers.get(&self.container) {
            Some(container) if container.attempt == self.attempt => {
                matches!(container.phase, ContainerPhase::Exited(_))
            }
            Some(container) => container.attempt > self.attempt,
            None => false,
        }
    }

    /// Wakes when the container's state may have changed.
    async fn changed(&self, pods: &Pods) {
        let mut entries = pods.changes();
        let state = pods.find(&self.namespace, &self.name).and_then(|pod| pod.pod.clone());
        let state_changed = async {
            match state.map(|pod| pod.state()) {
                Some(mut state) => {
                    state.mark_unchanged();
                    // A handle that was dropped will be replaced, which wakes the other branch.
                    if state.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = entries.changed() => {}
            () = state_changed => {}
        }
    }
}

struct Reader {
    files: Files,
    filter: Filter,
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl Reader {
    async fn run(mut self, tail: Option<u64>, follow: Option<(Serve, Subject)>) -> io::Result<()> {
        // Interest begins before the first look, so that nothing can happen between the two.
        let mut interest: Option<Interest> = match &follow {
            Some((serve, _)) => Some(serve.log_watch.watch(&self.files.directory)?),
            None => None,
        };
        let names = self.files.names()?;
        let (first, offset) = match tail {
            Some(lines) => tail_start(&self.files, &names, lines).await?,
            None => (0, 0),
        };
        let Some(name) = names.get(first) else { return Ok(()) };
        let (mut file, mut inode) = self.files.open(name).await?;
        file.seek(SeekFrom::Start(offset)).await?;
        let current = format!("{}.log", self.files.attempt);
        let mut buffer = BytesMut::with_capacity(CHUNK);
        // What was known before the read that found the end decides what the end means.
        let (mut superseded, mut ended) = (false, false);
        loop {
            buffer.reserve(CHUNK);
            if file.read_buf(&mut buffer).await? > 0 {
                (superseded, ended) = (false, false);
                if !self.emit(&mut buffer).await {
                    return Ok(());
                }
                continue;
            }
            if superseded {
                match self.files.after(inode)? {
                    Some(next) => {
                        (file, inode) = self.files.open(&next).await?;
                        superseded = false;
                        buffer.clear();
                        continue;
                    }
                    None => return Ok(()),
                }
            }
            if ended {
                return Ok(());
            }
            if self.files.inode(&current) != Some(inode) {
                superseded = true;
                continue;
            }
            let (Some((serve, subject)), Some(interest)) = (&follow, &mut interest) else {
                return Ok(());
            };
            if subject.has_ended(&serve.pods) {
                ended = true;
                continue;
            }
            tokio::select! {
                _ = interest.changes.changed() => {}
                () = subject.changed(&serve.pods) => {}
                () = self.sender.closed() => return Ok(()),
                // A missed wake-up costs a moment, never a line.
                () = tokio::time::sleep(std::time::Duration::from_secs(5)) => {}
            }
        }
    }

    /// Sends the whole records in `buffer`; false when the reader has gone or has enough.
    async fn emit(&mut self, buffer: &mut BytesMut) -> bool {
        let mut out = BytesMut::new();
        let mut more = true;
        while more && let Some(length) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(length + 1);
            if let Some(record) = parse(&line[..length]) {
                more = self.filter.render(record, &mut out);
            }
        }
        if !out.is_empty() && self.sender.send(Ok(out.freeze())).await.is_err() {
            return false;
        }
        more
    }
}

/// Where the last `lines` lines begin: an index into `names` and an offset.
async fn tail_start(files: &Files, names: &[String], lines: u64) -> io::Result<(usize, u64)> {
    let mut missing = usize::try_from(lines).unwrap_or(usize::MAX);
    let mut start = (names.len().saturating_sub(1), 0);
    for (index, name) in names.iter().enumerate().rev() {
        let (mut file, _) = files.open(name).await?;
        let mut finder = TailFinder::new(missing);
        let mut buffer = BytesMut::with_capacity(CHUNK);
        while file.read_buf(&mut buffer).await? > 0 {
            finder.feed(&buffer);
            buffer.clear();
            buffer.reserve(CHUNK);
        }
        let (found, offset) = finder.finish();
        if index + 1 == names.len() || found > 0 {
            start = (index, offset);
        }
        missing -= found;
        if missing == 0 {
            break;
        }
    }
    Ok(start)
}
