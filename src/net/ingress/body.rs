//! Bodies on their way through: streamed, counted, never held whole.
//!
//! The start of a request's body is kept for as long as the request may have to be sent to another pod; an answer's
//! body gives its connection back when its last byte has passed.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::deadline::Deadline;
use super::gate::Busy;
use super::lease::Lease;
use super::leave::Leave;
use super::measure::Meter;
use super::{forward, head, pace};

/// Kept of a request's body for a second attempt.
const KEPT: usize = 64 << 10;
/// Handed to an HTTP/2 client at once: what its window has no room for waits in memory, one piece a stream, and the client
/// must take one in the time that it has. The frame size that every client takes (RFC 9113 §4.2).
const PIECE: usize = 16 << 10;

/// Why a request's body came to no good end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("read the body from the client")]
    Client(#[source] hyper::Error),
    #[error("the client sent nothing of its body for {} s", .0.as_secs())]
    Stalled(Duration),
    #[error("the body is followed by more than {} trailers", head::MAX_HEADERS)]
    Trailers,
    #[error("a NetworkPolicy denies it now")]
    Denied,
}

/// A request's body at its source.
#[derive(Clone)]
pub struct RequestSource(Arc<Source>);

struct Source {
    hint: SizeHint,
    started: Instant,
    /// How long the client may send nothing while it is awaited.
    stall: Duration,
    /// Bytes that have come from the client.
    received: AtomicU64,
    /// Milliseconds after `started` at which something last came.
    progress: AtomicU64,
    /// Short sections, never across a wait: one attempt polls at a time.
    stream: Mutex<Stream>,
}

struct Stream {
    incoming: Incoming,
    kept: VecDeque<Bytes>,
    kept_bytes: usize,
    /// More came than is kept, or trailers: there can be no second attempt.
    is_past_replay: bool,
    is_over: bool,
    /// Whoever sends it on has room for more.
    is_awaited: bool,
    has_stalled: bool,
}

impl RequestSource {
    pub fn new(incoming: Incoming, stall: Duration) -> RequestSource {
        RequestSource(Arc::new(Source {
            hint: incoming.size_hint(),
            started: Instant::now(),
            stall,
            received: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            stream: Mutex::new(Stream {
                is_over: incoming.is_end_stream(),
                incoming,
                kept: VecDeque::new(),
                kept_bytes: 0,
                is_past_replay: false,
                is_awaited: false,
                has_stalled: false,
            }),
        }))
    }

    /// Whether it was given up.
    pub fn has_stalled(&self) -> bool {
        self.0.lock().has_stalled
    }

    /// Whether it is the client who keeps everybody waiting.
    pub fn is_awaited(&self) -> bool {
        self.0.lock().is_awaited
    }

    /// Whether all of it has come.
    pub fn is_whole(&self) -> bool {
        let stream = self.0.lock();
        stream.is_over || stream.incoming.is_end_stream()
    }

    /// Whether a further attempt would send all of it.
    pub fn can_be_sent_again(&self) -> bool {
        !self.0.lock().is_past_replay
    }

    /// The body for one attempt, which breaks off when `leave` is over.
    pub fn attempt(&self, leave: Leave) -> RequestBody {
        RequestBody {
            source: Some((self.clone(), leave)),
            position: 0,
            silence: Deadline::default(),
        }
    }

    pub fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }

    /// When something last came from the client; the start if nothing did.
    pub fn last_progress(&self) -> Instant {
        self.0.started + Duration::from_millis(self.0.progress.load(Ordering::Relaxed))
    }
}

impl Source {
    fn lock(&self) -> MutexGuard<'_, Stream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_progress(&self) {
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress.store(millis, Ordering::Relaxed);
    }
}

/// A request's body for one attempt.
pub struct RequestBody {
    source: Option<(RequestSource, Leave)>,
    /// The next kept piece to send.
    position: usize,
    silence: Deadline,
}

impl RequestBody {
    pub fn empty() -> RequestBody {
        RequestBody { source: None, position: 0, silence: Deadline::default() }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let body = &mut *self;
        let Some((RequestSource(source), leave)) = &mut body.source else {
            return Poll::Ready(None);
        };
        if leave.is_over() {
            return Poll::Ready(Some(Err(BodyError::Denied)));
        }
        let mut stream = source.lock();
        if let Some(piece) = stream.kept.get(body.position) {
            body.position += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if stream.is_over {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut stream.incoming).poll_frame(cx);
        stream.is_awaited = polled.is_pending();
        let Poll::Ready(mut polled) = polled else {
            body.silence.set_once(source.stall);
            ready!(body.silence.poll_passed(cx));
            stream.is_past_replay = true;
            stream.has_stalled = true;
            return Poll::Ready(Some(Err(BodyError::Stalled(source.stall))));
        };
        body.silence.clear();
        source.note_progress();
        match &mut polled {
            None => stream.is_over = true,
            Some(Err(_)) => stream.is_past_replay = true,
            Some(Ok(frame)) => match frame.data_ref() {
                None => {
                    stream.is_past_replay = true;
                    if let Some(trailers) = frame.trailers_mut() {
                        if trailers.len() > head::MAX_HEADERS {
                            return Poll::Ready(Some(Err(BodyError::Trailers)));
                        }
                        forward::request_trailers(trailers);
                    }
                }
                Some(data) => {
                    source.received.fetch_add(data.len() as u64, Ordering::Relaxed);
                    stream.kept_bytes += data.len();
                    if stream.kept_bytes > KEPT || stream.is_past_replay {
                        stream.is_past_replay = true;
                        stream.kept.clear();
                        body.position = 0;
                    } else {
                        stream.kept.push_back(data.clone());
                        body.position += 1;
                    }
                }
            },
        }
        Poll::Ready(polled.map(|frame| frame.map_err(BodyError::Client)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            None => true,
            Some((RequestSource(source), _)) => {
                let stream = source.lock();
                stream.is_over && self.position >= stream.kept.len()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            // A second attempt starts with what is kept; the whole is what it was.
            Some((source, _)) if self.position == 0 => source.0.hint,
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(0),
        }
    }
}

/// An answer's body.
pub enum AnswerBody {
    /// Our own words.
    Text { text: Option<Bytes>, _meter: Option<Box<Meter>>, _busy: Busy },
    /// A pod's.
    Streamed(Box<Streamed>),
}

/// The body of a pod's answer, with everything that must outlive it.
pub struct Streamed {
    /// Of an HTTP/2 client's answer, what has come and is too much for one piece.
    rest: Bytes,
    is_cut: bool,
    /// Until the pod has said everything.
    lease: Option<Lease>,
    meter: Meter,
    idle: Duration,
    silence: Deadline,
    leave: Leave,
    /// Ends when there is no leave any more; made when there is something to wait for.
    over: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _busy: Busy,
}

/// How a client gets an answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pieces {
    AsTheyCome,
    /// None larger than an HTTP/2 frame.
    Cut,
}

impl AnswerBody {
    pub fn text(text: String, meter: Option<Meter>, busy: Busy) -> AnswerBody {
        AnswerBody::Text { text: Some(Bytes::from(text)), _meter: meter.map(Box::new), _busy: busy }
    }

    /// `lease` is given back after the last byte; `idle` bounds the silence between two; without `leave` nothing more
    /// comes.
    pub fn streamed(
        pieces: Pieces,
        lease: Lease,
        leave: Leave,
        meter: Meter,
        idle: Duration,
        busy: Busy,
    ) -> AnswerBody {
        AnswerBody::Streamed(Box::new(Streamed {
            rest: Bytes::new(),
            is_cut: pieces == Pieces::Cut,
            lease: Some(lease),
            meter,
            idle,
            silence: Deadline::default(),
            leave,
            over: None,
            _busy: busy,
        }))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            AnswerBody::Text { text, .. } => {
                pace::hand_over();
                Poll::Ready(text.take().map(|text| Ok(Frame::data(text))))
            }
            AnswerBody::Streamed(streamed) => streamed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AnswerBody::Text { text, .. } => text.is_none(),
            AnswerBody::Streamed(streamed) => streamed.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Text { text, .. } => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
            AnswerBody::Streamed(streamed) => {
                let nothing = || SizeHint::with_exact(0);
                streamed.lease.as_ref().map_or_else(nothing, Lease::size_hint)
            }
        }
    }
}

impl Streamed {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if !self.rest.is_empty() {
            let piece = self.rest.split_to(PIECE.min(self.rest.len()));
            return Poll::Ready(Some(Ok(self.hand_over(piece))));
        }
        let Some(lease) = &mut self.lease else { return Poll::Ready(None) };
        let polled = lease.poll_frame(cx);
        let is_over = lease.is_over();
        if self.is_denied(cx, polled.is_pending()) {
            self.lease = None;
            self.meter.broke();
            let denied = "a NetworkPolicy denies it now";
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::PermissionDenied, denied))));
        }
        let Poll::Ready(frame) = polled else {
            pace::await_pod();
            self.silence.set_once(self.idle);
            return match self.silence.poll_passed(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(()) => {
                    self.broke();
                    let silent = "the pod has been silent for too long";
                    Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, silent))))
                }
            };
        };
        self.silence.clear();
        match frame {
            None => {
                self.give_back();
                Poll::Ready(None)
            }
            Some(Ok(frame)) => {
                // Nothing waits for the client: the pod is done as soon as all of it is here.
                if is_over {
                    self.give_back();
                }
                Poll::Ready(Some(Ok(match frame.into_data() {
                    Ok(mut data) => {
                        if self.is_cut && data.len() > PIECE {
                            self.rest = data.split_off(PIECE);
                        }
                        self.hand_over(data)
                    }
                    Err(mut frame) => {
                        if let Some(trailers) = frame.trailers_mut() {
                            forward::answer_trailers(trailers);
                        }
                        self.give_back();
                        frame
                    }
                })))
            }
            Some(Err(error)) => {
                self.broke();
                Poll::Ready(Some(Err(io::Error::other(error))))
            }
        }
    }

    /// Whether nothing more is to be handed over.
    fn is_over(&self) -> bool {
        self.rest.is_empty() && self.lease.as_ref().is_none_or(Lease::is_over)
    }

    fn hand_over(&mut self, data: Bytes) -> Frame<Bytes> {
        pace::hand_over();
        self.meter.sent(data.len());
        Frame::data(data)
    }

    /// Whether the client's leave is over; wakes the task when it will be while it `waits`.
    fn is_denied(&mut self, cx: &mut Context<'_>, waits: bool) -> bool {
        if !waits {
            return self.leave.is_over();
        }
        let leave = &self.leave;
        let over = self.over.get_or_insert_with(|| {
            let mut leave = leave.clone();
            Box::pin(async move { leave.over().await })
        });
        over.as_mut().poll(cx).is_ready()
    }

    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    fn broke(&mut self) {
        self.lease = None;
        self.meter.broke();
    }
}

impl Drop for Streamed {
    /// hyper does not ask for the end of a body that says it is over. Whatever else is dropped was not wanted to its end.
    fn drop(&mut self) {
        match self.is_over() {
            true => self.give_back(),
            false => self.broke(),
        }
    }
}
