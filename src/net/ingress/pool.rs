//! Connections to pods: made, kept while idle, and given up when there is any doubt about them.
//!
//! A connection comes back only after a whole answer; one that carried an upgrade never does (CVE-2026-2833).

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use super::balance::Assigned;
use super::body::RequestBody;
use super::deadline::Deadline;
use super::drive::Drive;
use crate::sys::tcp;

/// Kept per pod; more are closed after their answer. What one burst has opened the next one wants again: what is too much
/// rests at the bottom of the pile and is closed in time.
const MAX_IDLE: usize = 1024;
/// Shorter than what servers commonly grant (nginx 75 s, Apache and Node 5 s close sooner, and are noticed).
const MAX_IDLE_TIME: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(5);
/// Header bytes of an answer, and what is read at once of its body. However little comes, it takes as much memory until the
/// client has taken it, and up to sixteen of these wait for a slow one: twice haproxy's, not more.
const MAX_ANSWER_HEAD: usize = 32 << 10;
const NEVER: u64 = u64::MAX;

/// How connections to pods are made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Dialer {
    /// SO_MARK: how policies know the ingress from other traffic of the host.
    pub mark: Option<u32>,
}

/// Idle connections to one pod.
#[derive(Default)]
pub struct Pool {
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    http1: Vec<(Instant, Connection)>,
    http2: Option<http2::SendRequest<RequestBody>>,
    is_closed: bool,
}

/// An HTTP/1.1 connection that carries one request at a time.
pub struct Connection {
    pub sender: http1::SendRequest<RequestBody>,
    pub drive: Drive,
    /// For the head of an answer.
    pub clock: Deadline,
    wire: Arc<Wiretap>,
    pub is_reused: bool,
    /// The pod has said that it carries no further request.
    pub is_last: bool,
}

/// A request's hold on its endpoint, and on its connection if that is its own.
pub struct Lease {
    endpoint: Assigned,
    connection: Option<Connection>,
}

impl Lease {
    pub fn new(endpoint: Assigned, connection: Option<Connection>) -> Lease {
        Lease { endpoint, connection }
    }

    pub fn endpoint(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// Polls what comes over the connection, and the connection itself if nobody else does.
    pub fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut wanted: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        match &mut self.connection {
            Some(connection) => connection.drive.poll(cx, wanted),
            None => wanted(cx),
        }
    }

    /// The connection is not this request's alone any more, but another protocol's.
    pub fn detach(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.drive.detach();
        }
    }

    /// The answer was whole.
    pub fn give_back(mut self) {
        if let Some(connection) = self.connection.take() {
            self.endpoint.pool.park(connection);
        }
    }
}

impl Pool {
    /// An idle connection, the one used last.
    pub fn take(&self) -> Option<Connection> {
        // Those that are still finishing their last exchange go back under the pile.
        let mut busy = Vec::new();
        let found = loop {
            let Some((since, mut connection)) = self.lock().http1.pop() else {
                break None;
            };
            if since.elapsed() > MAX_IDLE_TIME || !connection.is_alive() {
                continue;
            }
            if connection.sender.is_ready() {
                connection.is_reused = true;
                break Some(connection);
            }
            busy.push((since, connection));
        };
        if !busy.is_empty() {
            self.lock().http1.extend(busy);
        }
        found
    }

    /// The shared HTTP/2 connection.
    pub fn shared(&self) -> Option<http2::SendRequest<RequestBody>> {
        let mut idle = self.lock();
        if idle.http2.as_ref().is_some_and(http2::SendRequest::is_closed) {
            idle.http2 = None;
        }
        idle.http2.clone()
    }

    pub fn share(&self, sender: http2::SendRequest<RequestBody>) {
        let mut idle = self.lock();
        if !idle.is_closed {
            idle.http2 = Some(sender);
        }
    }

    pub fn unshare(&self) {
        self.lock().http2 = None;
    }

    fn park(&self, connection: Connection) {
        let mut idle = self.lock();
        let is_wanted = !connection.is_last && !connection.sender.is_closed();
        if is_wanted && !idle.is_closed && idle.http1.len() < MAX_IDLE {
            idle.http1.push((Instant::now(), connection));
        }
    }

    /// Closes what has been idle for too long.
    pub fn prune(&self) {
        self.lock().http1.retain_mut(|(since, connection)| {
            since.elapsed() <= MAX_IDLE_TIME && connection.is_alive()
        });
    }

    /// Closes what is idle, now and ever after: the pod leaves.
    pub fn close(&self) {
        let mut idle = self.lock();
        *idle = Idle { is_closed: true, ..Idle::default() };
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no connection to a pod. No pod has seen the request.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("make a socket for {0}")]
    Socket(SocketAddr, #[source] io::Error),
    #[error("mark the connection to {0} as the ingress's")]
    Mark(SocketAddr, #[source] nix::Error),
    #[error("connect to {0}")]
    Connect(SocketAddr, #[source] io::Error),
    #[error("{0} did not take the connection in 5 seconds")]
    Timeout(SocketAddr),
    #[error("speak HTTP to {0}")]
    Handshake(SocketAddr, #[source] hyper::Error),
}

impl Dialer {
    pub async fn http1(&self, address: SocketAddr) -> Result<Connection, ConnectError> {
        let wire = Arc::new(Wiretap {
            written: AtomicU64::new(0),
            acknowledged_at_end: AtomicU64::new(NEVER),
        });
        let stream = self.connect(address).await?;
        let io = TokioIo::new(Wire { stream, tap: Arc::clone(&wire) });
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_ANSWER_HEAD)
            .handshake(io)
            .await
            .map_err(|error| ConnectError::Handshake(address, error))?;
        let drive = Drive::new(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%address, %error, "a connection to a pod has ended");
            }
        });
        let clock = Deadline::default();
        Ok(Connection { sender, drive, clock, wire, is_reused: false, is_last: false })
    }

    pub async fn http2(
        &self,
        address: SocketAddr,
    ) -> Result<http2::SendRequest<RequestBody>, ConnectError> {
        let io = TokioIo::new(self.connect(address).await?);
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(256 << 10)
            .initial_connection_window_size(4 << 20)
            .max_header_list_size(u32::try_from(MAX_ANSWER_HEAD).unwrap_or(u32::MAX))
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .handshake(io)
            .await
            .map_err(|error| ConnectError::Handshake(address, error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "an HTTP/2 connection to a pod has ended");
            }
        });
        Ok(sender)
    }

    async fn connect(&self, address: SocketAddr) -> Result<TcpStream, ConnectError> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }
        .map_err(|error| ConnectError::Socket(address, error))?;
        if let Some(mark) = &self.mark {
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Mark, mark)
                .map_err(|error| ConnectError::Mark(address, error))?;
        }
        let stream = tokio::time::timeout(CONNECT, socket.connect(address))
            .await
            .map_err(|_elapsed| ConnectError::Timeout(address))?
            .map_err(|error| ConnectError::Connect(address, error))?;
        stream.set_nodelay(true).map_err(|error| ConnectError::Socket(address, error))?;
        Ok(stream)
    }
}

impl Connection {
    /// Whether the pod has not closed it, as far as is known here.
    fn is_alive(&mut self) -> bool {
        self.drive.look();
        !self.sender.is_closed()
    }

    /// To be asked before a request is sent, for [`Sent::is_unseen`].
    pub fn about_to_send(&self) -> Sent {
        Sent { wire: Arc::clone(&self.wire), before: self.wire.written.load(Ordering::Acquire) }
    }
}

/// The moment at which a request was sent.
pub struct Sent {
    wire: Arc<Wiretap>,
    before: u64,
}

impl Sent {
    /// Whether it is certain that the pod has not seen a byte of the request: none was written, or the pod's kernel
    /// had acknowledged none when its FIN arrived. A FIN acknowledges everything received before it, so the pod
    /// had closed before the request came.
    pub fn is_unseen(&self) -> bool {
        let acknowledged = self.wire.acknowledged_at_end.load(Ordering::Acquire);
        self.wire.written.load(Ordering::Acquire) == self.before
            || (acknowledged != NEVER && acknowledged <= self.before)
    }
}

struct Wiretap {
    /// Bytes that the kernel took from us.
    written: AtomicU64,
    /// Bytes that the pod's kernel had acknowledged when it ended the connection in order.
    acknowledged_at_end: AtomicU64,
}

/// A connection to a pod whose end is looked at before it is told.
struct Wire {
    stream: TcpStream,
    tap: Arc<Wiretap>,
}

impl Wire {
    fn count(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            self.tap.written.fetch_add(*bytes as u64, Ordering::AcqRel);
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if matches!(read, Poll::Ready(Ok(()))) && buffer.filled().len() == before {
            let written = self.tap.written.load(Ordering::Acquire);
            // Without an answer nothing is certain, and nothing is sent again.
            if let Ok(left) = tcp::unacknowledged(self.stream.as_fd()) {
                let acknowledged = written.saturating_sub(left as u64);
                self.tap.acknowledged_at_end.store(acknowledged, Ordering::Release);
            }
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.count(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.count(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
