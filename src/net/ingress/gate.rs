//! The byte stream between a client and hyper: hands over one checked message at a time, and ends it when a
//! client stalls or floods.
//!
//! It reads strictly ([`super::head`]) and counts HTTP/2 frames ([`frames`]); it answers nothing itself. A head
//! that is refused is replaced by one that asks [`super::proxy`] to say why:
//!
//! ```text
//!  Head ──whole head──▶ Body | Chunks ──end──▶ Head
//!   │ └──asks to upgrade──▶ Held ──101──▶ Tunnel      (what comes early waits; any other answer: Head)
//!   └──refused──▶ Refused: a substitute head, then silence
//! ```

mod frames;
mod shared;

use std::any::Any;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use self::frames::{Followed, FrameBudget};
pub use self::shared::SharedGate;
use super::deadline::Deadline;
use super::head::{self, Chunked, Framing, Refusal};

/// Read from the socket at once.
const BLOCK: usize = 16 << 10;
/// Read at once of what comes before the answer to what came before it.
const EARLY: usize = 1 << 10;
/// Read and thrown away after the last answer, so that a reset does not overtake it (RFC 9112 §9.6).
const LINGER_BYTES: usize = 256 << 10;
const LINGER: Duration = Duration::from_secs(2);
/// The method of the head that stands in for a refused one.
pub const REFUSED_METHOD: &str = "JOEY-REFUSED";
const SUBSTITUTE: &[u8] = b"JOEY-REFUSED / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For TLS to be agreed on.
    pub handshake: Duration,
    /// Between two requests, and before the first byte of the first.
    pub idle: Duration,
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// Without a byte of a body that is awaited, or without taking a byte of an answer.
    pub stall: Duration,
    /// After which an HTTP/2 client that says nothing is asked whether it is there, and in which it has to answer.
    pub ping: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            head: Duration::from_secs(10),
            stall: Duration::from_secs(60),
            ping: Duration::from_secs(30),
        }
    }
}

/// What the proxy and the gate of one connection tell each other.
#[derive(Debug, Default)]
pub struct Conversation {
    requests: AtomicUsize,
    /// Those under way of the same client, over all of its connections, and how many there may be.
    of_client: Arc<AtomicUsize>,
    most_of_client: usize,
    /// What its client holds until all of it is over: a connection that was handed over to a tunnel still is one.
    _seat: Option<Arc<dyn Any + Send + Sync>>,
    /// Its requests are answered in tasks of their own.
    is_http2: AtomicBool,
    is_abused: AtomicBool,
    upgrade: AtomicU8,
    reader: AtomicWaker,
    refusal: Mutex<Option<Refusal>>,
    farewell: Notify,
}

/// Zero: no request has asked for one.
const UNDECIDED: u8 = 1;
const GRANTED: u8 = 2;
const DENIED: u8 = 3;

impl Conversation {
    /// One of a client who may have `most_of_client` requests under way; `seat` is let go with the last of it.
    pub fn of(
        of_client: Arc<AtomicUsize>,
        most_of_client: usize,
        seat: Arc<dyn Any + Send + Sync>,
    ) -> Conversation {
        Conversation { of_client, most_of_client, _seat: Some(seat), ..Conversation::default() }
    }

    /// A request is being answered as long as the guard lives.
    pub fn busy(self: &Arc<Conversation>) -> Busy {
        self.requests.fetch_add(1, Ordering::AcqRel);
        self.of_client.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// How many requests its client may have under way, if these are more.
    pub fn excess(&self) -> Option<usize> {
        let is_exceeded = self.of_client.load(Ordering::Relaxed) > self.most_of_client;
        is_exceeded.then_some(self.most_of_client)
    }

    fn is_busy(&self) -> bool {
        self.requests.load(Ordering::Acquire) > 0
    }

    /// Why the last head was refused.
    pub fn refusal(&self) -> Option<Refusal> {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(&self, refusal: Refusal) {
        if matches!(refusal, Refusal::TooLarge | Refusal::TooMany) {
            self.abuse();
        }
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
    }

    /// The connection ends for what its client did: it flooded, or broke the protocol to our cost.
    pub fn abuse(&self) {
        self.is_abused.store(true, Ordering::Relaxed);
    }

    pub fn is_abused(&self) -> bool {
        self.is_abused.load(Ordering::Relaxed)
    }

    /// Waits until an HTTP/2 client is to be told that its connection ends: it has asked for nothing for too long.
    pub async fn farewell(&self) {
        self.farewell.notified().await;
    }

    /// From here on the connection carries another protocol.
    pub fn grant_upgrade(&self) {
        self.decide(GRANTED);
    }

    /// The upgrade was not taken: the next bytes are a request like any other.
    pub fn deny_upgrade(&self) {
        self.decide(DENIED);
    }

    /// Nobody is woken when nobody has asked, as with nearly every request.
    fn decide(&self, decision: u8) {
        let upgrade = &self.upgrade;
        let decided =
            upgrade.compare_exchange(UNDECIDED, decision, Ordering::AcqRel, Ordering::Relaxed);
        if decided.is_ok() {
            self.reader.wake();
        }
    }
}

/// See [`Conversation::busy`].
#[derive(Debug)]
pub struct Busy(Arc<Conversation>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.of_client.fetch_sub(1, Ordering::Relaxed);
        let was = self.0.requests.fetch_sub(1, Ordering::AcqRel);
        // In HTTP/1 the clock runs already, see `Gate::poll_fill`.
        if was == 1 && self.0.is_http2.load(Ordering::Relaxed) {
            self.0.reader.wake();
        }
    }
}

pub struct Gate<S> {
    io: S,
    talk: Arc<Conversation>,
    patience: Patience,
    /// Received and not yet handed over; the first `checked` bytes may be.
    buffer: BytesMut,
    checked: usize,
    state: State,
    reading: Deadline,
    writing: Deadline,
    lingering: Deadline,
    lingered: usize,
}

enum State {
    Head,
    Body {
        left: u64,
    },
    Chunks(Chunked),
    Held,
    Tunnel,
    Refused,
    Http2(Http2),
    /// The socket has nothing more.
    Ended,
}

#[derive(Default)]
struct Http2 {
    budget: FrameBudget,
    /// It was told to go; what it had asked for before it heard so is still served (RFC 9113 §6.8).
    is_leaving: bool,
}

/// What may be done with what has come.
enum Judged {
    /// So many bytes may be handed over.
    Passes(usize),
    /// Its place takes the question why.
    Refused,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gate<S> {
    /// For HTTP/1; `received` was read from `io` already.
    pub fn http1(io: S, received: Bytes, talk: Arc<Conversation>, patience: Patience) -> Gate<S> {
        Gate::new(io, received, talk, patience, State::Head)
    }

    /// For HTTP/2.
    pub fn http2(io: S, received: Bytes, talk: Arc<Conversation>, patience: Patience) -> Gate<S> {
        talk.is_http2.store(true, Ordering::Relaxed);
        Gate::new(io, received, talk, patience, State::Http2(Http2::default()))
    }

    fn new(
        io: S,
        received: Bytes,
        talk: Arc<Conversation>,
        patience: Patience,
        state: State,
    ) -> Gate<S> {
        Gate {
            io,
            talk,
            patience,
            buffer: BytesMut::from(&received[..]),
            checked: 0,
            state,
            reading: Deadline::default(),
            writing: Deadline::default(),
            lingering: Deadline::default(),
            lingered: 0,
        }
    }

    /// Moves on with what is in the buffer; true when it is enough to hand something over or to end.
    fn advance(&mut self) -> io::Result<bool> {
        let buffer = std::mem::take(&mut self.buffer);
        let judged = self.judge(&buffer);
        self.buffer = buffer;
        match judged? {
            Judged::Passes(0) => Ok(matches!(self.state, State::Ended)),
            Judged::Passes(bytes) => {
                self.checked = bytes;
                Ok(true)
            }
            Judged::Refused => {
                self.substitute();
                Ok(true)
            }
        }
    }

    /// Puts the question in the place of what was refused.
    fn substitute(&mut self) {
        self.buffer = BytesMut::from(SUBSTITUTE);
        self.checked = SUBSTITUTE.len();
    }

    /// How many bytes of what comes next may be handed over, by the state, which moves on.
    fn judge(&mut self, bytes: &[u8]) -> io::Result<Judged> {
        Ok(Judged::Passes(match &mut self.state {
            State::Head if bytes.is_empty() => 0,
            State::Head => {
                let length = match head::examine(bytes) {
                    Ok(None) => return Ok(Judged::Passes(0)),
                    Ok(Some(head)) => {
                        self.state = match head.framing {
                            _ if head.is_upgrade => {
                                self.talk.upgrade.store(UNDECIDED, Ordering::Release);
                                State::Held
                            }
                            Framing::None => State::Head,
                            Framing::Length(left) => State::Body { left },
                            Framing::Chunked => State::Chunks(Chunked::default()),
                        };
                        Some(head.length)
                    }
                    Err(refusal) => {
                        self.talk.refuse(refusal);
                        self.state = State::Refused;
                        None
                    }
                };
                self.reading.clear();
                match length {
                    Some(length) => length,
                    None => return Ok(Judged::Refused),
                }
            }
            State::Body { left } => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= here as u64;
                if *left == 0 {
                    self.state = State::Head;
                }
                here
            }
            State::Chunks(chunked) => {
                let here = chunked.follow(bytes).map_err(|refusal| {
                    self.talk.refuse(refusal);
                    io::Error::new(io::ErrorKind::InvalidData, refusal)
                })?;
                if chunked.is_done() {
                    self.state = State::Head;
                }
                here
            }
            State::Held => match self.talk.upgrade.load(Ordering::Acquire) {
                GRANTED => {
                    self.state = State::Tunnel;
                    return self.judge(bytes);
                }
                DENIED => {
                    self.state = State::Head;
                    return self.judge(bytes);
                }
                _ => 0,
            },
            State::Tunnel => bytes.len(),
            State::Http2(http2) => {
                // Pings and windows alone keep no connection.
                let followed =
                    http2.budget.follow(bytes).inspect_err(|_flood| self.talk.abuse())?;
                if followed == Followed::Wish {
                    self.reading.clear();
                }
                bytes.len()
            }
            State::Refused | State::Ended => 0,
        }))
    }

    /// How long the next byte may take in this state; `None`: as long as it likes.
    fn patience_for_next_byte(&self) -> Option<Duration> {
        match &self.state {
            State::Head if !self.buffer.is_empty() => Some(self.patience.head),
            State::Http2(Http2 { is_leaving: true, .. }) if !self.talk.is_busy() => {
                Some(self.patience.head)
            }
            State::Http2(_) if !self.talk.is_busy() => Some(self.patience.idle),
            State::Head => Some(self.patience.idle),
            State::Body { .. } | State::Chunks(_) => Some(self.patience.stall),
            // An answer is being made, or a tunnel has its own clock.
            State::Http2(_) | State::Held | State::Tunnel | State::Refused | State::Ended => None,
        }
    }

    /// Ready when the next byte has taken too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self.patience_for_next_byte() {
            Some(patience) => self.reading.set_once(patience),
            None => self.reading.clear(),
        }
        loop {
            ready!(self.reading.poll_passed(cx));
            match &mut self.state {
                // Closing without a word would lose what it asks for at this moment.
                State::Http2(http2) if !http2.is_leaving => {
                    http2.is_leaving = true;
                    self.talk.farewell.notify_one();
                    self.reading.clear();
                    self.reading.set_once(self.patience.head);
                }
                // It waits for its answer. That this is over, nobody tells: the task that it would wake is the one that
                // ends it.
                State::Head if self.buffer.is_empty() && self.talk.is_busy() => {
                    self.reading.clear();
                    self.reading.set_once(self.patience.idle);
                }
                _ => return Poll::Ready(io::ErrorKind::TimedOut.into()),
            }
        }
    }

    /// Reads once, by `read`, which returns how many bytes came; 0 is the end.
    fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        read: impl FnOnce(&mut Self, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        // What comes in HTTP/2 need not be anything asked for, and does not hold up its clock.
        if matches!(self.state, State::Http2(_))
            && let Poll::Ready(late) = self.poll_late(cx)
        {
            return Poll::Ready(Err(late));
        }
        let before = self.buffer.len();
        let Poll::Ready(read) = read(self, cx) else {
            return match self.poll_late(cx) {
                Poll::Ready(late) => Poll::Ready(Err(late)),
                Poll::Pending => Poll::Pending,
            };
        };
        let read = read?;
        // A head has one deadline from its first byte on; a body starts anew with each byte. What an HTTP/2 client says has
        // to be looked at first.
        match self.state {
            State::Http2(_) => {}
            State::Head if before > 0 => {}
            _ => self.reading.clear(),
        }
        Poll::Ready(Ok(read))
    }

    /// Reads behind what is in the buffer.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_more(cx, |gate, cx| {
            gate.buffer.reserve(BLOCK);
            tokio_util::io::poll_read_buf(Pin::new(&mut gate.io), cx, &mut gate.buffer)
        })
    }

    /// Reads to where it is wanted and takes back what may not be handed over yet: nothing, nearly always, so that a
    /// connection needs no buffer of its own. The buffer is empty. `None`: nothing may be.
    fn poll_through(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Option<()>>> {
        let before = out.filled().len();
        let read = ready!(self.poll_more(cx, |gate, cx| {
            ready!(Pin::new(&mut gate.io).poll_read(cx, out))?;
            Poll::Ready(Ok(out.filled().len() - before))
        }))?;
        if read == 0 {
            self.state = State::Ended;
            return Poll::Ready(Ok(Some(())));
        }
        let received = &out.filled()[before..];
        let passes = match self.judge(received) {
            Ok(Judged::Passes(passes)) => {
                self.buffer.extend_from_slice(&received[passes..]);
                passes
            }
            Ok(Judged::Refused) => {
                self.substitute();
                0
            }
            Err(error) => {
                out.set_filled(before);
                return Poll::Ready(Err(error));
            }
        };
        out.set_filled(before + passes);
        Poll::Ready(Ok((passes > 0).then_some(())))
    }
}

impl<S: AsyncRead + Unpin> Gate<S> {
    /// Ready when an HTTP/1 client has ended its connection while its request is answered. What it says meanwhile waits.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_at_rest = self.checked == 0 && self.buffer.is_empty();
        // Otherwise hyper reads itself, or nobody should.
        if !matches!(self.state, State::Head) || !is_at_rest || !self.talk.is_busy() {
            return Poll::Pending;
        }
        let mut block = [MaybeUninit::uninit(); EARLY];
        let mut early = ReadBuf::uninit(&mut block);
        match ready!(Pin::new(&mut self.io).poll_read(cx, &mut early)) {
            Ok(()) if !early.filled().is_empty() => {
                self.buffer.extend_from_slice(early.filled());
                // Whoever waits for it was not told.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Ok(()) | Err(_) => Poll::Ready(()),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gate<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gate = &mut *self;
        // Whether what is in the buffer can have become more than it was when last looked at.
        let mut may_advance = true;
        loop {
            if gate.checked > 0 {
                let here = gate.checked.min(out.remaining());
                out.put_slice(&gate.buffer[..here]);
                gate.buffer.advance(here);
                gate.checked -= here;
                if gate.buffer.is_empty() {
                    // Those who rest hold no memory.
                    gate.buffer = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if may_advance && gate.advance()? {
                match gate.state {
                    State::Ended if gate.checked == 0 => return Poll::Ready(Ok(())),
                    _ => continue,
                }
            }
            match gate.state {
                // Nothing is read before the answer: early bytes wait in the kernel.
                State::Held => {
                    gate.talk.reader.register(cx.waker());
                    match gate.talk.upgrade.load(Ordering::Acquire) {
                        UNDECIDED => return Poll::Pending,
                        _ => {
                            may_advance = true;
                            continue;
                        }
                    }
                }
                State::Refused => return Poll::Pending,
                State::Http2(_) => gate.talk.reader.register(cx.waker()),
                _ => {}
            }
            if gate.buffer.is_empty() && out.remaining() > 0 {
                match ready!(gate.poll_through(cx, out))? {
                    Some(()) => return Poll::Ready(Ok(())),
                    None => {
                        may_advance = false;
                        continue;
                    }
                }
            }
            let before = gate.buffer.len();
            may_advance = match ready!(gate.poll_fill(cx))? {
                0 => {
                    gate.state = State::Ended;
                    true
                }
                // Looking again at a growing head costs its length: only a new line can finish it.
                _ => {
                    !matches!(gate.state, State::Head)
                        || gate.buffer.len() >= head::MAX_HEAD
                        || gate.buffer[before..].contains(&b'\n')
                }
            };
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let gate = &mut *self;
        let written = Pin::new(&mut gate.io).poll_write(cx, bytes);
        gate.earn(&written, [bytes]);
        gate.guard_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let gate = &mut *self;
        let written = Pin::new(&mut gate.io).poll_write_vectored(cx, parts);
        gate.earn(&written, parts.iter().map(|part| &part[..]));
        gate.guard_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = &mut *self;
        let flushed = Pin::new(&mut gate.io).poll_flush(cx);
        gate.guard_take(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = &mut *self;
        let shut = Pin::new(&mut gate.io).poll_shutdown(cx);
        ready!(gate.guard_write(cx, shut))?;
        // Closing with bytes unread sends a reset, which can destroy the answer before the client has read it.
        gate.lingering.set_once(LINGER);
        let mut scratch = [0u8; 4096];
        while gate.lingered < LINGER_BYTES {
            if gate.lingering.poll_passed(cx).is_ready() {
                break;
            }
            let mut thrown = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut gate.io).poll_read(cx, &mut thrown)) {
                Ok(()) if thrown.filled().is_empty() => break,
                Ok(()) => gate.lingered += thrown.filled().len(),
                Err(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S> Gate<S> {
    /// So much of `parts` was sent.
    fn earn<'a>(
        &mut self,
        written: &Poll<io::Result<usize>>,
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) {
        let (State::Http2(http2), Poll::Ready(Ok(bytes))) = (&mut self.state, written) else {
            return;
        };
        let mut left = *bytes;
        for part in parts {
            let here = left.min(part.len());
            http2.budget.sent(&part[..here]);
            left -= here;
        }
    }

    /// A client is idle from its answer on.
    fn guard_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() && matches!(self.state, State::Head) && self.buffer.is_empty() {
            self.reading.postpone(self.patience.idle);
        }
        self.guard_take(cx, outcome)
    }

    /// A client that takes nothing for too long is gone; whatever it takes starts the clock anew.
    fn guard_take<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.writing.clear();
            return outcome;
        }
        self.writing.set_once(self.patience.stall);
        match self.writing.poll_passed(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests;
