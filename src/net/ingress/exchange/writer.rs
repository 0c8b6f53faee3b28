//! A request on its way to a pod over HTTP/1.1: its head, then its body piece by piece, as the connection takes them.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http_body::Body as _;
use tokio::io::AsyncWrite;

use crate::net::ingress::body::{BodyError, RequestBody};

/// What is ready of the body goes with what is not written yet, up to here: one packet, as a rule.
const TOGETHER: usize = 16 << 10;
/// A larger buffer is not kept for the next request.
const KEPT: usize = 64 << 10;

thread_local! {
    /// Requests are short, and the connection takes them at once: they share a buffer.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The head of a request. How long its body is, its headers do not say.
#[derive(Debug, Clone)]
pub struct Head<'a> {
    pub method: &'a Method,
    pub target: &'a PathAndQuery,
    /// Instead of the Host among the headers.
    pub host: HeaderValue,
    pub headers: &'a HeaderMap,
    /// A protocol to switch to.
    pub upgrade: Option<&'a HeaderValue>,
}

/// Why no more of a request can be sent.
#[derive(Debug, thiserror::Error)]
pub enum Unsent {
    #[error("write to the pod")]
    Write(#[source] io::Error),
    #[error("the request's body broke")]
    Body(#[source] BodyError),
    #[error("the request's body has another length than it said")]
    Length,
}

/// What is yet to be sent of a request.
#[derive(Default)]
pub struct Writer {
    /// Serialized; up to `at` the connection has taken it.
    bytes: Vec<u8>,
    at: usize,
    body: Option<Sending>,
}

struct Sending {
    body: RequestBody,
    framing: Framing,
}

enum Framing {
    /// So many bytes are to come.
    Length(u64),
    Chunked,
}

impl Writer {
    /// What was left of another request is forgotten.
    pub fn begin(&mut self, head: &Head<'_>, body: RequestBody) {
        let mut bytes = BUFFER.take();
        bytes.clear();
        let framing = match (body.is_end_stream(), body.size_hint().exact()) {
            (true, _) => None,
            (false, Some(length)) => Some(Framing::Length(length)),
            (false, None) => Some(Framing::Chunked),
        };
        write_head(&mut bytes, head, framing.as_ref());
        self.bytes = bytes;
        self.at = 0;
        self.body = framing.map(|framing| Sending { body, framing });
    }

    /// Whether all of it is sent.
    pub fn is_done(&self) -> bool {
        self.body.is_none() && self.at == self.bytes.len()
    }

    /// Nothing more is sent.
    pub fn give_up(&mut self) {
        *self = Writer::default();
    }

    /// Sends what there is; adds to `written` what the connection takes. Ready when all of it is sent.
    pub fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        written: &mut u64,
    ) -> Poll<Result<(), Unsent>> {
        while !self.is_done() {
            let is_waiting = self.fill(cx)?;
            if self.at == self.bytes.len() {
                self.rest();
                if is_waiting {
                    return Poll::Pending;
                }
                continue;
            }
            let taken = ready!(Pin::new(&mut *stream).poll_write(cx, &self.bytes[self.at..]))
                .map_err(Unsent::Write)?;
            if taken == 0 {
                return Poll::Ready(Err(Unsent::Write(io::ErrorKind::WriteZero.into())));
            }
            *written += taken as u64;
            self.at += taken;
        }
        self.rest();
        Poll::Ready(Ok(()))
    }

    /// Serializes what is ready of the body. Whether it has more, later.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<bool, Unsent> {
        while self.bytes.len() - self.at < TOGETHER
            && let Some(Sending { body, framing }) = &mut self.body
        {
            let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else { return Ok(true) };
            match frame.transpose().map_err(Unsent::Body)? {
                None => self.end(None)?,
                Some(frame) => match frame.into_data() {
                    Ok(data) => piece(&mut self.bytes, framing, &data)?,
                    Err(frame) => self.end(frame.into_trailers().ok())?,
                },
            }
        }
        Ok(false)
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Unsent> {
        match self.body.take().map(|sending| sending.framing) {
            Some(Framing::Length(1..)) => return Err(Unsent::Length),
            // A body of known length has no place for trailers.
            Some(Framing::Length(0)) | None => {}
            Some(Framing::Chunked) => {
                self.bytes.extend_from_slice(b"0\r\n");
                for (name, value) in &trailers.unwrap_or_default() {
                    write_field(&mut self.bytes, name, value);
                }
                self.bytes.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    /// All is written: the buffer serves the next one.
    fn rest(&mut self) {
        self.at = 0;
        let bytes = std::mem::take(&mut self.bytes);
        if (1..=KEPT).contains(&bytes.capacity()) {
            BUFFER.set(bytes);
        }
    }
}

fn piece(bytes: &mut Vec<u8>, framing: &mut Framing, data: &Bytes) -> Result<(), Unsent> {
    match framing {
        Framing::Length(left) => {
            *left = left.checked_sub(data.len() as u64).ok_or(Unsent::Length)?;
            bytes.extend_from_slice(data);
        }
        // One of no bytes would be the last.
        Framing::Chunked if data.is_empty() => {}
        Framing::Chunked => {
            bytes.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
            bytes.extend_from_slice(data);
            bytes.extend_from_slice(b"\r\n");
        }
    }
    Ok(())
}

/// RFC 9112 §3, §6.
fn write_head(bytes: &mut Vec<u8>, head: &Head<'_>, framing: Option<&Framing>) {
    for part in [head.method.as_str(), " ", head.target.as_str(), " HTTP/1.1\r\n"] {
        bytes.extend_from_slice(part.as_bytes());
    }
    write_field(bytes, &header::HOST, &head.host);
    for (name, value) in head.headers.iter().filter(|(name, _)| **name != header::HOST) {
        write_field(bytes, name, value);
    }
    if let Some(protocol) = head.upgrade {
        bytes.extend_from_slice(b"connection: upgrade\r\n");
        write_field(bytes, &header::UPGRADE, protocol);
    }
    match framing {
        Some(Framing::Length(length)) => {
            bytes.extend_from_slice(format!("content-length: {length}\r\n").as_bytes());
        }
        Some(Framing::Chunked) => bytes.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        // RFC 9110 §8.6: who is sent something wants to know that it is nothing.
        None if matches!(*head.method, Method::POST | Method::PUT | Method::PATCH) => {
            bytes.extend_from_slice(b"content-length: 0\r\n");
        }
        None => {}
    }
    bytes.extend_from_slice(b"\r\n");
}

fn write_field(bytes: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
        bytes.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests;
