//! Connections to pods: made, kept while idle, and given up when there is any doubt about them.
//!
//! A connection comes back only after a whole answer; one that carried an upgrade never does (CVE-2026-2833).

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use super::body::RequestBody;
use super::deadline::Deadline;
use super::exchange::{self, Link};

/// Kept per pod; more are closed after their answer. What one burst has opened the next one wants again: what is too much
/// rests at the bottom of the pile and is closed in time.
const MAX_IDLE: usize = 1024;
/// Shorter than what servers commonly grant (nginx 75 s, Apache and Node 5 s close sooner, and are noticed).
const MAX_IDLE_TIME: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(5);

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
    http1: Vec<(Instant, Box<Connection>)>,
    http2: Option<http2::SendRequest<RequestBody>>,
    is_closed: bool,
}

/// An HTTP/1.1 connection.
pub struct Connection {
    pub link: Link,
    /// For the head of an answer.
    pub clock: Deadline,
    pub is_reused: bool,
    /// The pod has said that it carries no further request.
    pub is_last: bool,
}

impl Pool {
    /// An idle connection, the one used last.
    pub fn take(&self) -> Option<Box<Connection>> {
        let mut idle = self.lock();
        loop {
            let (since, mut connection) = idle.http1.pop()?;
            if since.elapsed() <= MAX_IDLE_TIME && !connection.link.has_ended() {
                connection.is_reused = true;
                return Some(connection);
            }
        }
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

    /// Keeps a connection whose exchange is over.
    pub fn park(&self, connection: Box<Connection>) {
        if connection.is_last || !connection.link.is_at_rest() {
            return;
        }
        let mut idle = self.lock();
        if !idle.is_closed && idle.http1.len() < MAX_IDLE {
            idle.http1.push((Instant::now(), connection));
        }
    }

    /// Closes what has been idle for too long.
    pub fn prune(&self) {
        self.lock().http1.retain(|(since, connection)| {
            since.elapsed() <= MAX_IDLE_TIME && !connection.link.has_ended()
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
    pub async fn http1(&self, address: SocketAddr) -> Result<Box<Connection>, ConnectError> {
        Ok(Box::new(Connection {
            link: Link::new(self.connect(address).await?),
            clock: Deadline::default(),
            is_reused: false,
            is_last: false,
        }))
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
            .max_header_list_size(exchange::MAX_HEAD)
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
