//! The host's ports: accepts clients, bounds them, tells their protocol apart, and serves each until it ends.
//!
//! A port that is taken is a problem to tell, not a reason to end.

use std::collections::HashMap;
use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bell::Seldom;
use super::forward::Client;
use super::gate::{Conversation, Gate, Patience, SharedGate};
use super::head;
use super::pace::Streams;
use super::proxy::{Peer, Proxy, Service};
use super::strikes::Strikes;
use crate::metrics::Gauge;

/// Streams of one HTTP/2 connection; security C11.
const MAX_STREAMS: u32 = 100;
/// h2 says GOAWAY when more streams than this were reset before we came to them (CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;
/// h2 says GOAWAY when it had to reset more than this for a client's errors (CVE-2025-8671).
const MAX_OWN_RESETS: usize = 256;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// After accept(2) has failed for want of descriptors.
const BREATH: Duration = Duration::from_millis(50);
/// Connections of one client that wait for their strikes at the same time; more are closed.
const MAX_WAITING: usize = 64;
/// Answers under way get this long when the daemon ends.
pub const GOODBYE: Duration = Duration::from_secs(5);

/// How many clients there may be.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub connections: usize,
    /// From one IPv4 address or one IPv6 /64. Those of trusted proxies are not one client's.
    pub per_client: usize,
    /// Requests under way of one such client, over all of its connections. Those of trusted proxies are not one client's.
    pub requests_per_client: usize,
    /// Requests under way at one pod, tunnels included.
    pub requests_per_pod: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            connections: 16_384,
            per_client: 4_096,
            requests_per_client: 1_024,
            requests_per_pod: 4_096,
        }
    }
}

/// A bound port and what is spoken there.
pub struct Port {
    pub listener: TcpListener,
    pub local: SocketAddr,
    pub tls: Option<TlsAcceptor>,
}

/// Who is connected.
struct Guests {
    bounds: Bounds,
    patience: Patience,
    open: AtomicUsize,
    /// A short section.
    door: Mutex<Door>,
}

#[derive(Default)]
struct Door {
    by_client: HashMap<IpAddr, Crowd>,
    strikes: Strikes,
}

/// Of one client.
#[derive(Default)]
struct Crowd {
    connections: usize,
    /// Of these, those that nothing is read of yet.
    waiting: usize,
    requests: Arc<AtomicUsize>,
}

/// For whom a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Client,
    /// A trusted proxy: for many clients, each of whom may hold a connection of it for as long as a WebSocket is open.
    Proxy,
}

struct Guest {
    guests: Arc<Guests>,
    client: IpAddr,
    /// Under way, of all of the client's connections.
    requests: Arc<AtomicUsize>,
    /// Before anything is read of it.
    wait: Duration,
}

impl Guests {
    fn new(bounds: Bounds, patience: Patience) -> Guests {
        Guests { bounds, patience, open: AtomicUsize::new(0), door: Mutex::default() }
    }

    fn door(&self) -> MutexGuard<'_, Door> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(
        self: &Arc<Guests>,
        client: IpAddr,
        standing: Standing,
    ) -> Result<Guest, &'static str> {
        let client = counted_as(client);
        let mut door = self.door();
        let door = &mut *door;
        if self.open.load(Ordering::Relaxed) >= self.bounds.connections {
            return Err("all");
        }
        let wait = door.strikes.wait(client, Instant::now());
        let crowd = door.by_client.entry(client).or_default();
        if standing == Standing::Client && crowd.connections >= self.bounds.per_client {
            return Err("client");
        }
        if !wait.is_zero() {
            if crowd.waiting >= MAX_WAITING {
                return Err("flood");
            }
            crowd.waiting += 1;
        }
        crowd.connections += 1;
        self.open.fetch_add(1, Ordering::Relaxed);
        let requests = Arc::clone(&crowd.requests);
        Ok(Guest { guests: Arc::clone(self), client, requests, wait })
    }

    /// The fuller the house, the less a guest may stay who is idle or takes nothing.
    fn patience(&self) -> Patience {
        let usual = self.patience;
        match self.open.load(Ordering::Relaxed) * 2 > self.bounds.connections {
            true => Patience { idle: usual.idle / 8, stall: usual.stall / 4, ..usual },
            false => usual,
        }
    }
}

impl Guest {
    /// Returns when something may be read of it.
    async fn wait(&mut self) {
        tokio::time::sleep(self.wait).await;
        self.wait = Duration::ZERO;
        if let Some(crowd) = self.guests.door().by_client.get_mut(&self.client) {
            crowd.waiting -= 1;
        }
    }

    /// Its connection had to be ended for what it did.
    fn strike(&self) {
        self.guests.door().strikes.add(self.client, Instant::now());
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut door = self.guests.door();
        if let Some(crowd) = door.by_client.get_mut(&self.client) {
            crowd.connections -= 1;
            if !self.wait.is_zero() {
                crowd.waiting -= 1;
            }
            if crowd.connections == 0 {
                door.by_client.remove(&self.client);
            }
        }
        self.guests.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An IPv6 client has its whole /64.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

/// Serves all ports until `stop`; answers under way are finished then.
pub async fn serve(
    proxy: Arc<Proxy>,
    ports: Vec<Port>,
    (bounds, patience): (Bounds, Patience),
    stop: CancellationToken,
) {
    let guests = Arc::new(Guests::new(bounds, patience));
    let connections = TaskTracker::new();
    let doors = ports.into_iter().map(|port| {
        accept(Arc::clone(&proxy), port, Arc::clone(&guests), connections.clone(), stop.clone())
    });
    futures::future::join_all(doors).await;
    connections.close();
    if tokio::time::timeout(GOODBYE, connections.wait()).await.is_err() {
        tracing::debug!("some clients of the ingress were cut off");
    }
}

async fn accept(
    proxy: Arc<Proxy>,
    port: Port,
    guests: Arc<Guests>,
    connections: TaskTracker,
    stop: CancellationToken,
) {
    let open = proxy.measure.connections.with(&[&port.local.port().to_string()]);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = port.listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // accept(2): errors of one connection pass; without descriptors it must not spin.
                tracing::debug!(%error, "a client was not accepted");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        let standing = match proxy.trusts(address.ip()) {
            true => Standing::Proxy,
            false => Standing::Client,
        };
        let mut guest = match guests.admit(address.ip(), standing) {
            Ok(guest) => guest,
            Err(reason) => {
                proxy.measure.refused_connections.with(&[reason]).increment();
                continue;
            }
        };
        let (proxy, tls, stop) = (Arc::clone(&proxy), port.tls.clone(), stop.clone());
        let (patience, shown) = (guests.patience(), Shown::new(&open));
        connections.spawn(async move {
            if !guest.wait.is_zero() {
                proxy.measure.delayed_connections.increment();
                stop.run_until_cancelled(guest.wait()).await;
            }
            let seat = Arc::new(Seat { guest, _shown: shown });
            let served = welcome(proxy, stream, address, seat, tls, patience, stop).await;
            if let Err(error) = served {
                tracing::debug!(client = %address, %error, "a client's connection has ended");
            }
        });
    }
}

/// A connection's place in the house. Whoever carries it on, as a tunnel does, holds it.
struct Seat {
    guest: Guest,
    _shown: Shown,
}

/// Counts in the figure of open connections for as long as it lives.
struct Shown(Gauge);

impl Shown {
    fn new(open: &Gauge) -> Shown {
        open.add(1);
        Shown(open.clone())
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

async fn welcome(
    proxy: Arc<Proxy>,
    stream: TcpStream,
    address: SocketAddr,
    seat: Arc<Seat>,
    tls: Option<TlsAcceptor>,
    patience: Patience,
    stop: CancellationToken,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let guest = &seat.guest;
    let is_trusted = proxy.trusts(address.ip());
    let most = match is_trusted {
        true => usize::MAX,
        false => guest.guests.bounds.requests_per_client,
    };
    let requests = Arc::clone(&guest.requests);
    let talk = Arc::new(Conversation::of(requests, most, Arc::<Seat>::clone(&seat)));
    let peer = Peer {
        address,
        is_tls: tls.is_some(),
        client: Client::new(address.ip(), tls.is_some(), stream.local_addr()?.port(), is_trusted),
        stall: patience.stall,
        talk: Arc::clone(&talk),
    };
    let served = serve_one(proxy, stream, peer, tls, patience, stop).await;
    // A trusted proxy's connections are not one client's.
    if talk.is_abused() && !is_trusted {
        guest.strike();
    }
    served
}

async fn serve_one(
    proxy: Arc<Proxy>,
    stream: TcpStream,
    peer: Peer,
    tls: Option<TlsAcceptor>,
    patience: Patience,
    stop: CancellationToken,
) -> io::Result<()> {
    // Boxed, here and below, so that a connection takes the memory of what it speaks and not of all it could.
    let Some(tls) = tls else {
        return Box::pin(converse(proxy, stream, peer, None, patience, stop)).await;
    };
    let handshake = Box::pin(tokio::time::timeout(patience.handshake, tls.accept(stream))).await;
    let outcome = match &handshake {
        Ok(Ok(_)) => "done",
        Ok(Err(_)) => "failed",
        Err(_) => "timeout",
    };
    proxy.measure.handshakes.with(&[outcome]).increment();
    let stream = handshake.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
    let is_http2 = stream.get_ref().1.alpn_protocol().map(|protocol| protocol == b"h2");
    Box::pin(converse(proxy, stream, peer, is_http2, patience, stop)).await
}

/// `is_http2` is what both agreed on; `None`: the first bytes tell.
async fn converse<S>(
    proxy: Arc<Proxy>,
    mut stream: S,
    peer: Peer,
    is_http2: Option<bool>,
    patience: Patience,
    stop: CancellationToken,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (received, is_http2) = match is_http2 {
        Some(is_http2) => (Bytes::new(), is_http2),
        None => {
            let sniffed = tokio::time::timeout(patience.idle, sniff(&mut stream)).await;
            sniffed.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??
        }
    };
    let service = Service { proxy, peer: Arc::new(peer) };
    match is_http2 {
        true => Box::pin(http2(stream, received, service, patience, stop)).await,
        false => Box::pin(http1(stream, received, service, patience, stop)).await,
    }
}

async fn http2<S>(
    stream: S,
    received: Bytes,
    service: Service,
    patience: Patience,
    stop: CancellationToken,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let talk = Arc::clone(&service.peer.talk);
    let io = TokioIo::new(Gate::http2(stream, received, Arc::clone(&talk), patience));
    let connection = http2::Builder::new(Streams { stall: patience.stall })
        .timer(TokioTimer::new())
        .keep_alive_interval(patience.ping)
        .keep_alive_timeout(patience.ping)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(head::MAX_HEAD).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_OWN_RESETS)
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .max_send_buf_size(64 << 10)
        .serve_connection(io, service);
    tokio::pin!(connection);
    let done = tokio::select! {
        biased;
        done = connection.as_mut() => Some(done),
        () = Seldom::new(leave(Arc::clone(&talk), stop)) => {
            connection.as_mut().graceful_shutdown();
            None
        }
    };
    let done = match done {
        Some(done) => done,
        None => connection.await,
    };
    done.map_err(|error| {
        if is_h2_complaint(&error) {
            talk.abuse();
        }
        io::Error::other(error)
    })
}

/// Whether h2 has ended a connection for what its client sent.
fn is_h2_complaint(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|error| error.is_go_away() && error.is_library())
}

async fn http1<S>(
    stream: S,
    received: Bytes,
    service: Service,
    patience: Patience,
    stop: CancellationToken,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let talk = Arc::clone(&service.peer.talk);
    let gate = SharedGate::new(Gate::http1(stream, received, talk, patience));
    let connection = http1::Builder::new()
        // The gate's clocks count, and it lets 100 headers through, which is what hyper has room for without being told: with
        // a number of ours it would take that room from the heap, twice a request.
        .header_read_timeout(None)
        // Whether the client is still there while it waits, the gate sees: hyper would take 8 KiB for each request to look.
        .half_close(true)
        // Of a head, and of an answer that the client does not take.
        .max_buf_size(head::MAX_HEAD + (4 << 10))
        .serve_connection(TokioIo::new(gate.clone()), service)
        .with_upgrades();
    tokio::pin!(connection);
    let mut stopped = pin!(Seldom::new(stop.cancelled()));
    let mut is_stopping = false;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(done) = connection.as_mut().poll(cx) {
                return Poll::Ready(done.map_err(io::Error::other));
            }
            if gate.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            if is_stopping || stopped.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            is_stopping = true;
            connection.as_mut().graceful_shutdown();
        }
    })
    .await
}

/// Waits until the client is to be told that its connection ends.
async fn leave(talk: Arc<Conversation>, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = talk.farewell() => {}
    }
}

/// Reads until it is clear whether HTTP/2 was begun (RFC 9113 §3.3: prior knowledge).
async fn sniff(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(Bytes, bool)> {
    let mut received = BytesMut::with_capacity(4096);
    loop {
        let here = received.len().min(PREFACE.len());
        if received[..here] != PREFACE[..here] {
            return Ok((received.freeze(), false));
        }
        if here == PREFACE.len() {
            return Ok((received.freeze(), true));
        }
        if stream.read_buf(&mut received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_bounded_in_all_and_by_client() {
        let bounds = Bounds { connections: 3, per_client: 2, ..Bounds::default() };
        let guests = Arc::new(Guests::new(bounds, Patience::default()));
        let admit = |address: &str| guests.admit(address.parse().unwrap(), Standing::Client);
        let first = admit("2001:db8::1").ok();
        let _second = admit("2001:db8::2").ok();
        assert_eq!(admit("2001:db8::3").err(), Some("client"));
        let _third = admit("192.0.2.1").ok();
        assert_eq!(admit("192.0.2.2").err(), Some("all"));
        drop(first);
        assert!(admit("192.0.2.1").is_ok());
    }

    #[test]
    fn a_proxy_that_speaks_for_many_is_bounded_by_the_house_alone() {
        let bounds = Bounds { connections: 3, per_client: 1, ..Bounds::default() };
        let guests = Arc::new(Guests::new(bounds, Patience::default()));
        let admit = || guests.admit([192, 0, 2, 1].into(), Standing::Proxy);
        let held: Vec<Guest> = std::iter::from_fn(|| admit().ok()).take(10).collect();
        assert_eq!(held.len(), 3);
        assert_eq!(admit().err(), Some("all"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_with_strikes_waits_and_few_wait_at_a_time() {
        let guests = Arc::new(Guests::new(Bounds::default(), Patience::default()));
        let admit = |address: &str| guests.admit(address.parse().unwrap(), Standing::Client);
        let attacker = admit("192.0.2.1").ok().unwrap();
        for _strike in 0..60 {
            attacker.strike();
        }
        let mut waiting: Vec<Guest> =
            std::iter::from_fn(|| admit("192.0.2.1").ok()).take(MAX_WAITING + 1).collect();
        assert_eq!(waiting.len(), MAX_WAITING);
        assert_eq!(admit("192.0.2.1").err(), Some("flood"));
        assert!(admit("192.0.2.2").ok().unwrap().wait.is_zero());
        let (started, mut first) = (Instant::now(), waiting.remove(0));
        first.wait().await;
        assert_eq!(started.elapsed(), Duration::from_secs(1));
        assert!(admit("192.0.2.1").is_ok(), "one has stopped waiting");
        drop(waiting.pop());
        assert!(admit("192.0.2.1").is_ok(), "one has gone");
        drop((first, waiting, attacker));
        assert!(guests.door().by_client.is_empty());
        assert_eq!(guests.open.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn http2_is_told_from_its_first_bytes() {
        for (bytes, is_http2) in
            [(PREFACE, true), (b"POST / HTTP/1.1\r\n", false), (b"PRI * HTTP/1.1\r\n", false)]
        {
            let mut stream = bytes;
            let (received, found) = sniff(&mut stream).await.unwrap();
            assert_eq!((&received[..], found), (bytes, is_http2));
        }
    }
}
