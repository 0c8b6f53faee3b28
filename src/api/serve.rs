//! The TLS listener: connections, their limits, who is at the other end, orderly shutdown.
//!
//! It hands every request to the router with an identity attached; it never looks at paths or bodies.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use http::{Request, Response, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::seats::{Full, Limits, Seat, Seats};
use crate::api::failure::Failure;
use crate::api::identity::{ANONYMOUS, Identity};
use crate::api::{Api, authenticate, proxy, router};

mod seats;

/// How the listener presents itself.
#[derive(Debug, Clone)]
pub struct Tls {
    pub config: Arc<rustls::ServerConfig>,
    /// Names and addresses of the server certificate: the only hosts a request may name (a browser
    /// tricked by DNS rebinding names another).
    pub names: Arc<BTreeSet<String>>,
}

const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// A request's head must be complete, and a connection's first request begun, within this.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
const MAX_HEADERS: usize = 100;
const HEADER_BYTES: u32 = 64 * 1024;
/// Few enough that all together stay below the usual limit of descriptors, and one client far below all.
const PLACES: Limits = Limits {
    strangers: 300,
    strangers_per_address: 64,
    patience: Duration::from_secs(1),
    per_identity: 200,
    identified: 600,
};
const STREAMS_PER_CONNECTION: u32 = 250;
/// Requests under way get this long to end once shutdown has begun.
const GOODBYE: Duration = Duration::from_secs(5);
/// After a failed accept (no descriptors left) the next try waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Api {
    /// Serves on `listener` until `shutdown`, then ends what runs: watches and streams at once,
    /// requests within seconds.
    pub async fn serve(&self, listener: TcpListener, tls: Tls, shutdown: CancellationToken) {
        let connections = TaskTracker::new();
        let cut_off = CancellationToken::new();
        let graceful = GracefulShutdown::new();
        let acceptor = TlsAcceptor::from(tls.config.clone());
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = accept(&listener) => accepted,
            };
            match accepted {
                Ok((socket, address)) => {
                    let place = Arc::new(self.inner.places.take(address));
                    let evicted = place.evicted.clone();
                    let connection = Connection {
                        api: self.clone(),
                        names: tls.names.clone(),
                        address,
                        place,
                        shutdown: shutdown.clone(),
                    };
                    let (acceptor, watcher) = (acceptor.clone(), graceful.watcher());
                    let cut_off = cut_off.clone();
                    connections.spawn(async move {
                        tokio::select! {
                            () = connection.run(socket, acceptor, watcher) => {}
                            () = cut_off.cancelled() => {}
                            () = evicted.cancelled() => {
                                tracing::debug!(%address, "too many connections without credentials");
                            }
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        connections.close();
        let ends = async {
            self.inner.streams.close().await;
            graceful.shutdown().await;
            connections.wait().await;
        };
        if tokio::time::timeout(GOODBYE, ends).await.is_err() {
            tracing::warn!("connections were cut off that did not end in time");
            cut_off.cancel();
            connections.wait().await;
        }
    }
}

async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, IpAddr)> {
    let (socket, peer) = listener.accept().await?;
    socket.set_nodelay(true)?;
    Ok((socket, peer.ip()))
}

/// The places of all listeners of one API. A std mutex: held for a look at counts.
pub(super) struct Places {
    taken: Arc<Mutex<Taken>>,
    begun: Instant,
}

struct Taken {
    seats: Seats,
    evictions: BTreeMap<Seat, CancellationToken>,
}

impl Places {
    pub(super) fn new() -> Places {
        let taken = Taken { seats: Seats::new(PLACES), evictions: BTreeMap::new() };
        Places { taken: Arc::new(Mutex::new(taken)), begun: Instant::now() }
    }

    fn take(&self, address: IpAddr) -> Place {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let (seat, displaced) = taken.seats.arrive(address, self.begun.elapsed());
        if let Some(displaced) = displaced.and_then(|seat| taken.evictions.remove(&seat)) {
            displaced.cancel();
        }
        let evicted = CancellationToken::new();
        taken.evictions.insert(seat, evicted.clone());
        Place { taken: self.taken.clone(), seat, evicted, is_identified: AtomicBool::new(false) }
    }
}

/// One connection's place; free again when dropped.
struct Place {
    taken: Arc<Mutex<Taken>>,
    seat: Seat,
    /// Somebody newer has it.
    evicted: CancellationToken,
    is_identified: AtomicBool,
}

impl Place {
    /// The first identity that a connection shows is whom it counts for.
    fn identify(&self, user: &str) -> Result<(), Full> {
        if self.is_identified.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.seats.identify(self.seat, user)?;
        self.is_identified.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.seats.leave(self.seat);
        taken.evictions.remove(&self.seat);
    }
}

struct Connection {
    api: Api,
    names: Arc<BTreeSet<String>>,
    address: IpAddr,
    place: Arc<Place>,
    shutdown: CancellationToken,
}

impl Connection {
    async fn run(self, socket: TcpStream, acceptor: TlsAcceptor, watcher: Watcher) {
        let handshake = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(socket));
        let stream = match handshake.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => return tracing::debug!("a TLS handshake took too long"),
        };
        let peer = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(|certificate| authenticate::from_certificate(certificate));
        // A certificate of our authority that names nobody is a credential we cannot use.
        let peer = match peer {
            None => None,
            Some(Some(identity)) => Some(identity),
            Some(None) => return tracing::debug!("a client certificate names nobody"),
        };
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_LIMIT)
            .max_headers(MAX_HEADERS)
            .max_buf_size(HEADER_BYTES as usize);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            .max_header_list_size(HEADER_BYTES)
            .keep_alive_interval(Some(Duration::from_secs(30)))
            .keep_alive_timeout(Duration::from_secs(20));
        let (api, names, shutdown) = (self.api, self.names, self.shutdown.clone());
        let (place, address) = (self.place, self.address);
        let begun = CancellationToken::new();
        let has_begun = begun.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            begun.cancel();
            request.extensions_mut().insert(proxy::Client(address));
            let (api, names, peer) = (api.clone(), names.clone(), peer.clone());
            let (place, shutdown) = (place.clone(), shutdown.clone());
            async move {
                let answer = answer(&api, &names, peer, &place, shutdown, request).await;
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let mut connection = pin!(watcher.watch(connection.into_owned()));
        // hyper waits without end for the bytes that tell HTTP/1 from HTTP/2, and for an HTTP/2 client's
        // first stream: somebody without credentials could take every place with silence.
        let first = tokio::time::timeout(HEADER_LIMIT, has_begun.cancelled());
        let ended = tokio::select! {
            biased;
            ended = &mut connection => ended,
            first = first => match first {
                Ok(()) => connection.await,
                Err(_) => return tracing::debug!("a connection brought no request"),
            },
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended");
        }
    }
}

async fn answer(
    api: &Api,
    names: &BTreeSet<String>,
    peer: Option<Identity>,
    place: &Place,
    shutdown: CancellationToken,
    request: Request<Incoming>,
) -> Response<Body> {
    if let Err(failure) = check_host(names, &request) {
        return router::refuse(failure).await;
    }
    let identity = authenticate::identify(api, peer.as_ref(), request.headers())
        .and_then(|identity| match identity.user == ANONYMOUS {
            true => Ok(identity),
            false => match place.identify(&identity.user) {
                Ok(()) => Ok(identity),
                Err(Full) => Err(Failure::too_many_connections(&identity.user)),
            },
        })
        .and_then(|identity| authenticate::impersonate(identity, request.headers()));
    let identity = match identity {
        Ok(identity) => identity,
        Err(failure) => return router::refuse(failure).await,
    };
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(identity);
    request.extensions_mut().insert(router::Shutdown(shutdown));
    router::answer(api, request).await
}

fn check_host<B>(names: &BTreeSet<String>, request: &Request<B>) -> Result<(), Failure> {
    if request.headers().get_all(header::HOST).iter().count() > 1 {
        // RFC 9112, 3.2: two readings of one request.
        return Err(Failure::bad_request("a request names one host"));
    }
    let host = match request.uri().host() {
        Some(host) => host,
        None => {
            let value = request
                .headers()
                .get(header::HOST)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default();
            without_port(value)
        }
    };
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    let lower = plain.trim_end_matches('.').to_ascii_lowercase();
    match names.contains(&lower) {
        true => Ok(()),
        false => Err(Failure::misdirected(host)),
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        Some(_) | None => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_of_the_certificate_are_served() {
        let names: BTreeSet<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
        for (host, is_served) in [
            ("localhost", true),
            ("LOCALHOST:6443", true),
            ("localhost.:6443", true),
            ("127.0.0.1:1", true),
            ("[::1]:6443", true),
            ("[::1]", true),
            ("evil", false),
            ("localhost.evil", false),
            ("evil:localhost", false),
            ("", false),
        ] {
            let request = Request::builder()
                .uri("/version")
                .header("host", host)
                .body(())
                .expect("a request");
            assert_eq!(check_host(&names, &request).is_ok(), is_served, "{host}");
        }
    }

    #[test]
    fn two_hosts_are_refused_even_if_one_is_ours() {
        let names: BTreeSet<String> = ["localhost".to_owned()].into();
        let request = Request::builder()
            .uri("/version")
            .header("host", "localhost")
            .header("host", "evil")
            .body(())
            .expect("a request");
        assert_eq!(check_host(&names, &request).map_err(|failure| failure.code), Err(400));
    }
}
