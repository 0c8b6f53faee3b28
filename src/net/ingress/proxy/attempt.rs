//! One try to have one pod answer: a connection, the request, the head of the answer.

use std::error::Error as _;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::Either;
use http::{Request, Response};
use tokio::time::Instant;

use crate::net::ingress::balance::Assigned;
use crate::net::ingress::body::{RequestBody, RequestSource};
use crate::net::ingress::deadline::Deadline;
use crate::net::ingress::exchange::{Broken, Head, Unsent};
use crate::net::ingress::forward;
use crate::net::ingress::lease::{BrokenOff, Lease};
use crate::net::ingress::leave::Leave;
use crate::net::ingress::pool::{ConnectError, Connection, Dialer};

/// Why a pod did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("no connection")]
    Connect(#[source] ConnectError),
    /// A kept connection turned out to be closed before the request came; the pod itself is well.
    #[error("the pod had closed the idle connection")]
    Stale,
    #[error("the exchange broke")]
    Exchange { is_unseen: bool, source: BrokenOff },
    #[error("no answer in {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("the client does not send the rest of its body")]
    Stalled,
    #[error("the client's body broke")]
    Client(#[source] BrokenOff),
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

/// The head of a request as a pod gets it.
pub enum Wanted<'a> {
    Http1(Head<'a>),
    H2c(Request<()>),
}

/// Sends what is wanted with the source's body, as long as there is leave. Returns the answer's head, the hold on the pod that the rest
/// comes with, and how long the pod took.
pub fn send<'a>(
    dialer: &'a Dialer,
    endpoint: Assigned,
    wanted: Wanted<'a>,
    source: Option<(&'a RequestSource, Leave)>,
    limit: Duration,
    may_reuse: bool,
) -> impl Future<Output = Result<(Response<()>, Lease, Duration), Failed>> + Send + 'a {
    let (source, body) = match source {
        Some((source, leave)) => (Some(source), source.attempt(leave)),
        None => (None, RequestBody::empty()),
    };
    match wanted {
        Wanted::Http1(head) => {
            Either::Left(alone(dialer, endpoint, head, body, source, limit, may_reuse))
        }
        // Of another shape and size than the usual way.
        Wanted::H2c(head) => {
            let request = head.map(|()| body);
            Either::Right(Box::pin(shared(dialer, endpoint, request, source, limit, may_reuse)))
        }
    }
}

/// Over a connection of its own, HTTP/1.1.
async fn alone(
    dialer: &Dialer,
    endpoint: Assigned,
    head: Head<'_>,
    body: RequestBody,
    source: Option<&RequestSource>,
    limit: Duration,
    may_reuse: bool,
) -> Result<(Response<()>, Lease, Duration), Failed> {
    let kept = if may_reuse { endpoint.pool.take() } else { None };
    let mut connection = match kept {
        Some(connection) => connection,
        // Rare, and its state is large.
        None => Box::pin(dialer.http1(endpoint.address)).await.map_err(|error| {
            endpoint.doubt();
            Failed::Connect(error)
        })?,
    };
    let started = Instant::now();
    connection.link.begin(&head, body);
    let wait = Wait { started, limit, source };
    let Connection { link, clock, .. } = &mut *connection;
    match wait.during(clock, |cx| link.poll_head(cx)).await? {
        Ok(response) => {
            connection.is_last =
                connection.link.ends_with_connection() || forward::ends_connection(&response);
            let lease = match source.is_some_and(|source| !source.is_whole()) {
                true => Lease::apart(endpoint, connection),
                false => Lease::alone(endpoint, connection),
            };
            Ok((response, lease, started.elapsed()))
        }
        Err(error) => {
            let is_unseen = connection.link.is_unseen();
            let is_clients = matches!(error, Broken::Unsent(Unsent::Body(_) | Unsent::Length));
            let error = BrokenOff::from(error);
            Err(match (is_clients, is_unseen && connection.is_reused) {
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
) -> Result<(Response<()>, Lease, Duration), Failed> {
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
        Ok(response) => {
            let (head, incoming) = response.into_parts();
            let lease = Lease::shared(endpoint, incoming);
            Ok((Response::from_parts(head, ()), lease, started.elapsed()))
        }
        Err(mut error) => {
            let was_kept_back = error.take_message().is_some();
            let error = error.into_error();
            let is_unseen = was_kept_back || is_refused_stream(&error);
            if is_unseen {
                endpoint.pool.unshare();
            }
            Err(match (error.is_user(), is_unseen && is_reused) {
                _ if source.is_some_and(RequestSource::has_stalled) => Failed::Stalled,
                (true, _) => Failed::Client(error.into()),
                (false, true) => Failed::Stale,
                (false, false) => Failed::Exchange { is_unseen, source: error.into() },
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
