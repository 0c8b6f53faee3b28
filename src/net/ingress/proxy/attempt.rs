//! One try to have one pod answer: a connection, the request, the head of the answer.

use std::error::Error as _;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::Either;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::net::ingress::balance::Assigned;
use crate::net::ingress::body::{RequestBody, RequestSource};
use crate::net::ingress::deadline::Deadline;
use crate::net::ingress::forward;
use crate::net::ingress::leave::Leave;
use crate::net::ingress::pool::{ConnectError, Connection, Dialer, Lease};

/// Why a pod did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("no connection")]
    Connect(#[source] ConnectError),
    /// A kept connection turned out to be closed before the request came; the pod itself is well.
    #[error("the pod had closed the idle connection")]
    Stale,
    #[error("the exchange broke")]
    Exchange { is_unseen: bool, source: hyper::Error },
    #[error("no answer in {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("the client does not send the rest of its body")]
    Stalled,
    #[error("the client's body broke")]
    Client(#[source] hyper::Error),
}

impl Failed {
    /// Whether it is certain that no pod has seen the request.
    pub fn is_unseen(&self) -> bool {
        match self {
            Failed::Connect(_) | Failed::Stale => true,
            Failed::Exchange { is_unseen, .. } => *is_unseen,
            Failed::Timeout(_) | Failed::Stalled | Failed::Client(_) => false,
        }
    }

    /// All of it in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        text
    }
}

/// Sends `head` with the source's body, as long as there is leave. Returns the answer's head, the hold on the connection it comes over, and
/// how long the pod took.
pub fn send<'a>(
    dialer: &'a Dialer,
    endpoint: Assigned,
    head: Request<()>,
    source: Option<(&'a RequestSource, Leave)>,
    limit: Duration,
    may_reuse: bool,
) -> impl Future<Output = Result<(Response<Incoming>, Lease, Duration), Failed>> + Send + 'a {
    let (source, body) = match source {
        Some((source, leave)) => (Some(source), source.attempt(leave)),
        None => (None, RequestBody::empty()),
    };
    let request = head.map(|()| body);
    match request.version() == http::Version::HTTP_2 {
        // Of another shape and size than the usual way.
        true => Either::Left(Box::pin(shared(dialer, endpoint, request, source, limit, may_reuse))),
        false => Either::Right(alone(dialer, endpoint, request, source, limit, may_reuse)),
    }
}

/// Over a connection of its own, HTTP/1.1.
async fn alone(
    dialer: &Dialer,
    endpoint: Assigned,
    request: Request<RequestBody>,
    source: Option<&RequestSource>,
    limit: Duration,
    may_reuse: bool,
) -> Result<(Response<Incoming>, Lease, Duration), Failed> {
    let kept = if may_reuse { endpoint.pool.take() } else { None };
    let mut connection: Connection = match kept {
        Some(connection) => connection,
        // Rare, and its state is large.
        None => Box::pin(dialer.http1(endpoint.address)).await.map_err(|error| {
            endpoint.doubt();
            Failed::Connect(error)
        })?,
    };
    let sent = connection.about_to_send();
    let started = Instant::now();
    let mut exchange = pin!(connection.sender.try_send_request(request));
    let (drive, clock) = (&mut connection.drive, &mut connection.clock);
    let wait = Wait { started, limit, source };
    let answer = wait.during(clock, |cx| drive.poll(cx, |cx| exchange.as_mut().poll(cx))).await?;
    match answer {
        Ok(response) => {
            // Who reads an answer slowly may still have something to say.
            if source.is_some_and(|source| !source.is_whole()) {
                connection.drive.detach();
            }
            connection.is_last = forward::ends_connection(&response);
            let lease = Lease::new(endpoint, Some(connection));
            Ok((response, lease, started.elapsed()))
        }
        Err(mut error) => {
            let is_unseen = error.take_message().is_some() || sent.is_unseen();
            let error = error.into_error();
            Err(match (error.is_user(), is_unseen && connection.is_reused) {
                _ if source.is_some_and(RequestSource::has_stalled) => Failed::Stalled,
                (true, _) => Failed::Client(error),
                (false, true) => Failed::Stale,
                (false, false) => Failed::Exchange { is_unseen, source: error },
            })
        }
    }
}

/// Over the endpoint's one HTTP/2 connection.
async fn shared(
    dialer: &Dialer,
    endpoint: Assigned,
    request: Request<RequestBody>,
    source: Option<&RequestSource>,
    limit: Duration,
    may_reuse: bool,
) -> Result<(Response<Incoming>, Lease, Duration), Failed> {
    let kept = if may_reuse { endpoint.pool.shared() } else { None };
    let is_reused = kept.is_some();
    let mut sender = match kept {
        Some(sender) => sender,
        None => {
            let sender = dialer.http2(endpoint.address).await.map_err(|error| {
                endpoint.doubt();
                Failed::Connect(error)
            })?;
            endpoint.pool.share(sender.clone());
            sender
        }
    };
    let started = Instant::now();
    let mut exchange = pin!(sender.try_send_request(request));
    let wait = Wait { started, limit, source };
    let mut clock = Deadline::default();
    match wait.during(&mut clock, |cx| exchange.as_mut().poll(cx)).await? {
        Ok(response) => Ok((response, Lease::new(endpoint, None), started.elapsed())),
        Err(mut error) => {
            let was_kept_back = error.take_message().is_some();
            let error = error.into_error();
            let is_unseen = was_kept_back || is_refused_stream(&error);
            if is_unseen {
                endpoint.pool.unshare();
            }
            Err(match (error.is_user(), is_unseen && is_reused) {
                _ if source.is_some_and(RequestSource::has_stalled) => Failed::Stalled,
                (true, _) => Failed::Client(error),
                (false, true) => Failed::Stale,
                (false, false) => Failed::Exchange { is_unseen, source: error },
            })
        }
    }
}

/// RFC 9113 §8.7: a refused stream was not processed at all, nor one above the last of a GOAWAY.
fn is_refused_stream(error: &hyper::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason() == Some(h2::Reason::REFUSED_STREAM)
                || (error.is_go_away()
                    && error.is_remote()
                    && error.reason() == Some(h2::Reason::NO_ERROR));
        }
        cause = error.source();
    }
    false
}

/// How long the head of an answer may take: `limit` from the last sign of life of the request's body, so that a long upload
/// is not cut off.
struct Wait<'a> {
    started: Instant,
    limit: Duration,
    source: Option<&'a RequestSource>,
}

impl Wait<'_> {
    async fn during<T>(
        &self,
        clock: &mut Deadline,
        mut exchange: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<T, Failed> {
        let mut since = self.started;
        clock.set(since + self.limit);
        let outcome = poll_fn(|cx| {
            if let Poll::Ready(outcome) = exchange(cx) {
                return Poll::Ready(Ok(outcome));
            }
            loop {
                ready!(clock.poll_passed(cx));
                let progress = self.source.map_or(since, RequestSource::last_progress);
                if progress <= since {
                    return Poll::Ready(Err(self.passed()));
                }
                since = progress;
                clock.set(since + self.limit);
            }
        });
        let outcome = outcome.await;
        clock.clear();
        outcome
    }

    fn passed(&self) -> Failed {
        match self.source.is_some_and(RequestSource::is_awaited) {
            true => Failed::Stalled,
            false => Failed::Timeout(self.limit),
        }
    }
}
