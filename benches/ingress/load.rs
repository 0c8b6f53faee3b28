//! Clients and the server behind: small requests on kept connections, or a TLS handshake each.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;

use crate::peers::{Certificate, Peer};

/// Bytes of an answer's body.
const BODY: usize = 128;
/// Of the answer to a path that ends with `/large`.
static LARGE: [u8; 1 << 20] = [b'x'; 1 << 20];
/// Threads that shake hands.
const SHAKERS: usize = 4;

type Asked = hyper::Request<hyper::body::Incoming>;

/// What one peer did in one round.
pub struct Round {
    /// Of the processor, for one request or handshake.
    pub cpu_micros: f64,
    pub per_second: f64,
    pub p50_micros: f64,
    pub p99_micros: f64,
}

impl Round {
    pub fn of(mut spans: Vec<Duration>, took: Duration, cpu: Duration) -> Round {
        spans.sort();
        let at = |share: f64| {
            let index = (spans.len() as f64 * share) as usize;
            spans.get(index).map_or(0.0, |span| span.as_secs_f64() * 1e6)
        };
        Round {
            cpu_micros: cpu.as_secs_f64() * 1e6 / spans.len().max(1) as f64,
            per_second: spans.len() as f64 / took.as_secs_f64(),
            p50_micros: at(0.5),
            p99_micros: at(0.99),
        }
    }
}

pub fn median(rounds: &[Round], value: impl Fn(&Round) -> f64) -> f64 {
    let mut all: Vec<f64> = rounds.iter().map(value).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// A server in a thread of its own that answers 128 bytes, or a mebibyte.
pub fn backend() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.set_nonblocking(true).expect("a socket can be non-blocking");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime starts").block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("it listens");
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let _ = stream.set_nodelay(true);
                let service = hyper::service::service_fn(|request: Asked| async move {
                    let body: &'static [u8] = match request.uri().path().ends_with("/large") {
                        true => &LARGE,
                        false => &[b'x'; BODY],
                    };
                    Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::from_static(body))))
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
    });
    address
}

/// Where those who are ready wait for the others.
#[derive(Default)]
pub struct Start {
    ready: AtomicUsize,
    is_given: Mutex<bool>,
    given: Condvar,
}

impl Start {
    /// For those who wait for nobody.
    pub fn given() -> Start {
        Start { is_given: Mutex::new(true), ..Start::default() }
    }

    fn is_given(&self) -> bool {
        *self.is_given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) {
        self.ready.fetch_add(1, Ordering::SeqCst);
        let is_given = self.is_given.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.given.wait_while(is_given, |is_given| !*is_given));
    }

    /// Once so many are ready, or one has failed.
    fn give(&self, count: usize, has_failed: impl Fn() -> bool) {
        while self.ready.load(Ordering::SeqCst) < count && !has_failed() {
            std::thread::sleep(Duration::from_millis(1));
        }
        *self.is_given.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.given.notify_all();
    }
}

/// Each connection asks as fast as it is answered. They are open, and have been answered once, before the clock starts.
pub fn requests(peer: &Peer, connections: usize, routes: usize, during: Duration) -> Round {
    let address = peer.http;
    measure(peer, connections, during, move |begin, stop| {
        ask(address, routes, Duration::ZERO, begin, stop).expect("the proxy answers 200 and stays")
    })
}

/// Each connection is made anew, with a whole handshake.
pub fn handshakes(peer: &Peer, certificate: &Certificate, during: Duration) -> Round {
    let (address, config) = (peer.https, certificate.client());
    measure(peer, SHAKERS, during, move |begin, stop| {
        begin.wait();
        let mut spans = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let started = Instant::now();
            let mut stream = TcpStream::connect(address).expect("the proxy listens");
            let name = ServerName::try_from("shop.example").expect("a name");
            let mut session =
                rustls::ClientConnection::new(Arc::clone(&config), name).expect("a session");
            while session.is_handshaking() {
                session.complete_io(&mut stream).expect("the proxy shakes hands");
            }
            spans.push(started.elapsed());
        }
        spans
    })
}

fn measure(
    peer: &Peer,
    threads: usize,
    during: Duration,
    work: impl Fn(&Start, &AtomicBool) -> Vec<Duration> + Send + Sync + 'static,
) -> Round {
    let (stop, work) = (Arc::new(AtomicBool::new(false)), Arc::new(work));
    let begin = Arc::new(Start::default());
    let clients = (0..threads)
        .map(|_| {
            let (begin, stop) = (Arc::clone(&begin), Arc::clone(&stop));
            let work = Arc::clone(&work);
            std::thread::Builder::new().stack_size(256 << 10).spawn(move || work(&begin, &stop))
        })
        .collect::<Vec<_>>();
    begin.give(threads, || clients.iter().flatten().any(std::thread::JoinHandle::is_finished));
    let (before, started) = (peer.cpu(), Instant::now());
    std::thread::sleep(during);
    stop.store(true, Ordering::Relaxed);
    let spans: Vec<Duration> = clients
        .into_iter()
        .flat_map(|client| client.expect("a thread starts").join().expect("a client ends well"))
        .collect();
    Round::of(spans, started.elapsed(), peer.cpu() - before)
}

/// Asks on one connection until told to stop, with a pause after each answer; after the first it waits until all
/// may begin. Returns how long each took.
///
/// # Errors
/// Anything but 200.
pub fn ask(
    address: SocketAddr,
    routes: usize,
    pause: Duration,
    begin: &Start,
    stop: &AtomicBool,
) -> Result<Vec<Duration>, String> {
    let request = format!(
        "GET /p{}/x HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n",
        routes * 7 / 10
    );
    let mut spans = Vec::new();
    let mut stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let mut block = [0; 4096];
    let mut has_begun = false;
    while !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
        let mut have = 0;
        // The head, and the body.
        loop {
            match stream.read(&mut block[have..]) {
                Ok(0) => return Err("the connection was closed".to_owned()),
                Ok(read) => have += read,
                Err(error) => return Err(error.to_string()),
            }
            let head = block[..have].windows(4).position(|window| window == b"\r\n\r\n");
            if head.is_some_and(|head| have >= head + 4 + BODY) {
                break;
            }
        }
        if !block.starts_with(b"HTTP/1.1 200") {
            return Err(String::from_utf8_lossy(&block[..have.min(80)]).into_owned());
        }
        if has_begun || begin.is_given() {
            spans.push(started.elapsed());
        } else {
            begin.wait();
        }
        has_begun = true;
        std::thread::sleep(pause);
    }
    Ok(spans)
}
