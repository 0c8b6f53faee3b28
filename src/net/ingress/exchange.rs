//! One request after another over a connection to a pod, HTTP/1.1: what is sent, what is answered, and what the pod can have
//! seen of it.
//!
//! Whoever waits for an answer does the work of its connection: there is no task behind it, no queue and no buffer of its own.
//! hyper's client has all three (docs/decisions/0011-own-http1-client.md).
//!
//! ```text
//!  request ──▶ Writer ──▶ ┌──────┐ ──▶ pod
//!                         │ Link │
//!  answer  ◀── Reader ◀── └──────┘ ◀── pod
//! ```

mod reader;
mod writer;

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Method, Response};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;

pub use self::reader::{Asked, Malformed, Reader};
use self::writer::Writer;
pub use self::writer::{Head, Unsent};
use super::body::RequestBody;
use crate::sys::tcp;

/// Bytes of the head of an answer, in HTTP/2 too.
pub const MAX_HEAD: u32 = reader::MAX_HEAD as u32;
/// Read at once. What came takes as much memory as it is long, and up to sixteen of these wait for a slow client.
const BLOCK: usize = reader::MAX_HEAD;

thread_local! {
    /// Where the kernel puts what has come, for all connections of a thread: their own buffers would each be cold.
    static CAME: RefCell<Box<[u8]>> = RefCell::new(vec![0; BLOCK].into_boxed_slice());
}

/// Why an exchange came to no good end.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("the pod closed the connection")]
    Closed,
    #[error("read from the pod")]
    Read(#[source] io::Error),
    #[error(transparent)]
    Unsent(#[from] Unsent),
    #[error("the pod's answer is malformed")]
    Answer(#[from] Malformed),
}

/// A connection to a pod that carries one exchange at a time.
pub struct Link {
    stream: TcpStream,
    writer: Writer,
    reader: Reader,
    /// Why nothing more is sent. What the pod has said before it stopped to listen may still come.
    unsent: Option<Unsent>,
    /// Bytes that the kernel took from us, and how many it had when the exchange began.
    written: u64,
    before: u64,
    /// Bytes that the pod's kernel had acknowledged when it ended the connection in order.
    acknowledged_at_end: Option<u64>,
}

impl Link {
    pub fn new(stream: TcpStream) -> Link {
        Link {
            stream,
            writer: Writer::default(),
            reader: Reader::default(),
            unsent: None,
            written: 0,
            before: 0,
            acknowledged_at_end: None,
        }
    }

    /// Begins an exchange; nothing is sent before the answer is polled for. A connection that is not
    /// [at rest](Link::is_at_rest) carries none.
    pub fn begin(&mut self, head: &Head<'_>, body: RequestBody) {
        self.before = self.written;
        self.reader.begin(Asked {
            for_head: *head.method == Method::HEAD,
            to_switch: head.upgrade.is_some(),
        });
        self.writer.begin(head, body);
    }

    /// Sends the request and waits for the head of its answer.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Broken>> {
        self.send(cx);
        loop {
            if let Some(head) = self.reader.head()? {
                return Poll::Ready(Ok(head));
            }
            if ready!(self.poll_more(cx))? {
                return Poll::Ready(Err(match self.reader.has_begun() {
                    true => Malformed::Short.into(),
                    false => self.unsent.take().map_or(Broken::Closed, Broken::Unsent),
                }));
            }
        }
    }

    /// The next piece of the answer's body; what is left of the request is sent meanwhile.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.send(cx);
        loop {
            match self.reader.frame() {
                Ok(Some(frame)) => {
                    self.reader.look_ahead();
                    return Poll::Ready(Some(Ok(frame)));
                }
                Ok(None) if self.reader.is_over() => return Poll::Ready(None),
                Ok(None) => {}
                Err(malformed) => return Poll::Ready(Some(Err(malformed.into()))),
            }
            match ready!(self.poll_more(cx)) {
                Ok(false) => {}
                Ok(true) => {
                    if let Err(short) = self.reader.end() {
                        return Poll::Ready(Some(Err(short.into())));
                    }
                }
                Err(broken) => return Poll::Ready(Some(Err(broken))),
            }
        }
    }

    /// Sends on without waiting for anything.
    pub fn send(&mut self, cx: &mut Context<'_>) {
        if self.writer.is_done() {
            return;
        }
        if let Poll::Ready(Err(unsent)) = self.writer.poll(cx, &mut self.stream, &mut self.written)
        {
            self.writer.give_up();
            self.unsent = Some(unsent);
        }
    }

    /// Sends on to the end of the request, or until that cannot be reached.
    pub fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.send(cx);
        if self.writer.is_done() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether nothing more of the answer is to come.
    pub fn is_over(&self) -> bool {
        self.reader.is_over()
    }

    /// Whether the answer lasts as long as the connection.
    pub fn ends_with_connection(&self) -> bool {
        self.reader.ends_with_connection()
    }

    /// What is yet to come of the answer's body.
    pub fn size_hint(&self) -> SizeHint {
        self.reader.size_hint()
    }

    /// Whether the last exchange is over on both sides and left nothing behind, so that the connection can carry another.
    pub fn is_at_rest(&self) -> bool {
        self.writer.is_done() && self.unsent.is_none() && self.reader.is_at_rest()
    }

    /// Whether the pod has closed it, or said what nobody has asked for, while it was at rest.
    pub fn has_ended(&self) -> bool {
        let nothing = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        !self.stream.try_read(&mut [0]).as_ref().is_err_and(nothing)
    }

    /// Whether it is certain that the pod has not seen a byte of the request: none was written, or the pod's kernel
    /// had acknowledged none when its FIN arrived. A FIN acknowledges everything received before it, so the pod
    /// had closed before the request came.
    pub fn is_unseen(&self) -> bool {
        !self.reader.has_begun()
            && (self.written == self.before
                || self.acknowledged_at_end.is_some_and(|bytes| bytes <= self.before))
    }

    /// The connection and what has come over it since the pod has switched protocols.
    pub fn switch(self) -> (TcpStream, Bytes) {
        (self.stream, self.reader.into_rest())
    }

    /// Lets the reader have what has come next; `true` at the end of the connection.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Broken>> {
        let came = CAME.with_borrow_mut(|block| {
            let mut block = ReadBuf::new(block);
            let read = Pin::new(&mut self.stream).poll_read(cx, &mut block);
            read.map_ok(|()| Bytes::copy_from_slice(block.filled()))
        });
        let came = match came {
            Poll::Ready(Ok(came)) => came,
            Poll::Ready(Err(error)) => {
                let unsent = self.unsent.take().map(Broken::Unsent);
                return Poll::Ready(Err(unsent.unwrap_or(Broken::Read(error))));
            }
            // Who does not listen any more and says nothing, neither, is not waited for; nor is a client's broken body.
            Poll::Pending => {
                return match self.unsent.take() {
                    Some(unsent) => Poll::Ready(Err(unsent.into())),
                    None => Poll::Pending,
                };
            }
        };
        if !came.is_empty() {
            self.reader.take(came);
            return Poll::Ready(Ok(false));
        }
        // Without an answer of the kernel nothing is certain, and nothing is sent again.
        if let Ok(left) = tcp::unacknowledged(self.stream.as_fd()) {
            self.acknowledged_at_end = Some(self.written.saturating_sub(left as u64));
        }
        Poll::Ready(Ok(true))
    }
}

#[cfg(test)]
mod tests;
