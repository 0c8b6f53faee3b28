//! What a normal client notices while others attack: its p99 beside that of a quiet proxy, and the proxy's memory.
//!
//! Normal clients ask at a steady pace, 30 seconds in quiet and 30 under attack; `ATTACK_SECONDS` is for shorter looks.
//! Attackers run at the lowest priority of this machine, since theirs is another one; the proxy has two workers, as the
//! daemon has here. What the attackers' own work costs the normal clients is measured as well, as the floor: the same
//! floods go to a listener that is no proxy and reads nothing.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::load::{self, Round};
use crate::peers::Peer;

/// Of a round, without `ATTACK_SECONDS`; security C11.
const DURING: Duration = Duration::from_secs(30);
/// How long the listener that is no proxy leaves a connection unread, as the proxy does with who has flooded.
const UNREAD: Duration = Duration::from_secs(1);
/// For requests that are held to be answered.
const SETTLE: Duration = Duration::from_secs(3);
const CLIENTS: usize = 8;
const PAUSE: Duration = Duration::from_millis(2);
/// Threads of an attacker that floods.
const FLOODERS: usize = 2;
const WORKERS: usize = 2;

enum Attack {
    /// Connections that are made before, given these bytes, and held.
    Held { connections: usize, is_tls_port: bool, bytes: Vec<u8> },
    /// Connections that are given the first bytes and then the second until they are closed, then made anew.
    Flood { first: Vec<u8>, next: fn(u32) -> Vec<u8> },
}

fn attacks() -> Vec<(&'static str, Attack)> {
    let held = |connections, bytes: &[u8]| Attack::Held {
        connections,
        is_tls_port: false,
        bytes: bytes.to_vec(),
    };
    let flood = |next| Attack::Flood { first: preface(&[]), next };
    let slow_read = "GET /p1/large HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    let mut no_window = preface(&[0, 4, 0, 0, 0, 0]);
    for stream in 0..90 {
        no_window.extend(frame(1, 5, stream * 2 + 1, REQUEST));
    }
    let tls = Attack::Held {
        connections: 2000,
        is_tls_port: true,
        bytes: b"\x16\x03\x01\x02\x00\x01".to_vec(),
    };
    let giant = Attack::Flood {
        first: b"GET /p1/x HTTP/1.1\r\nHost: shop.example\r\nX: ".to_vec(),
        next: |_| vec![b'x'; 16 << 10],
    };
    vec![
        ("5,000 idle connections", held(5000, b"")),
        ("slowloris, 2,000 heads", held(2000, b"GET /p1/x HTTP/1.1\r\nX-Slow: ")),
        ("slow reads, 500 x 1 MiB", held(500, slow_read.as_bytes())),
        ("TLS stalls, 2,000", tls),
        ("no window, 100 x 90", held(100, &no_window)),
        ("giant headers", giant),
        (
            "rapid reset",
            flood(|number| {
                let stream = number * 2 + 1;
                [frame(1, 5, stream, REQUEST), frame(3, 0, stream, &[0, 0, 0, 8])].concat()
            }),
        ),
        ("SETTINGS flood", flood(|_| frame(4, 0, 0, &[]))),
        ("PING flood", flood(|_| frame(6, 0, 0, &[0; 8]))),
        (
            "CONTINUATION flood",
            flood(|number| match number {
                0 => frame(1, 0, 1, REQUEST),
                _ => frame(9, 0, 1, &[0x00, 0x01, b'x', 0x01, b'y']),
            }),
        ),
        (
            "empty DATA flood",
            flood(|number| match number {
                0 => frame(1, 4, 1, REQUEST),
                _ => frame(0, 0, 1, &[]),
            }),
        ),
    ]
}

pub fn table(directory: &Path, backend: SocketAddr, rounds: usize) {
    let during = during();
    println!(
        "\n{:<24} {:>9} {:>7} {:>9} {:>9} {:>7} {:>7} {:>7} {:>9}",
        "attack", "requests", "errors", "p50 us", "p99 us", "x base", "floor x", "conns", "rss MiB"
    );
    let mut base_p99 = Vec::new();
    let bystander = bystander();
    let only = std::env::var("ATTACK").unwrap_or_default();
    for (name, attack) in attacks().into_iter().filter(|(name, _)| name.contains(&only)) {
        // A proxy of its own: memory of one attack is not another's.
        let Some(peer) = Peer::joey(directory, backend, 10, WORKERS) else { return };
        let (mut quiet, mut attacked, mut floor) = (Vec::new(), Vec::new(), Vec::new());
        let (mut errors, mut connections) = (0, 0);
        for _ in 0..rounds {
            quiet.push(normal(&peer, during).0);
            let siege = Siege::begin(peer.http, peer.https, &attack);
            let (round, failed) = normal(&peer, during);
            attacked.push(round);
            errors += failed;
            connections += siege.end();
            if matches!(attack, Attack::Flood { .. }) {
                let siege = Siege::begin(bystander, bystander, &attack);
                floor.push(normal(&peer, during).0);
                siege.end();
            }
        }
        let p99 = |rounds: &[Round]| load::median(rounds, |round| round.p99_micros);
        let base = p99(&quiet);
        base_p99.push(base);
        let floor = match floor.is_empty() {
            true => "-".to_owned(),
            false => format!("{:.2}", p99(&floor) / base),
        };
        println!(
            "{:<24} {:>9.0} {:>7} {:>9.0} {:>9.0} {:>7.2} {:>7} {:>7} {:>9.1}",
            name,
            load::median(&attacked, |round| round.per_second) * during.as_secs_f64(),
            errors,
            load::median(&attacked, |round| round.p50_micros),
            p99(&attacked),
            p99(&attacked) / base,
            floor,
            connections / rounds,
            peer.resident_mib()
        );
    }
    base_p99.sort_by(f64::total_cmp);
    println!("base: p99 {:.0} us (median of the quiet rounds)", base_p99[base_p99.len() / 2]);
}

fn during() -> Duration {
    let seconds = std::env::var("ATTACK_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    seconds.map_or(DURING, Duration::from_secs)
}

/// A listener that is no proxy: takes connections, reads nothing of them, and drops them after a while.
fn bystander() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                std::thread::sleep(UNREAD);
                drop(stream);
            });
        }
    });
    address
}

/// Normal clients, and how many of them were let down.
fn normal(peer: &Peer, during: Duration) -> (Round, usize) {
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (stop, address) = (Arc::clone(&stop), peer.http);
            std::thread::spawn(move || load::ask(address, 10, PAUSE, &load::Start::given(), &stop))
        })
        .collect();
    std::thread::sleep(during);
    stop.store(true, Ordering::Relaxed);
    let (mut spans, mut errors) = (Vec::new(), 0);
    for client in clients {
        match client.join().expect("a client ends well") {
            Ok(theirs) => spans.extend(theirs),
            Err(error) => {
                eprintln!("a normal client: {error}");
                errors += 1;
            }
        }
    }
    (Round::of(spans, during, Duration::ZERO), errors)
}

struct Siege {
    stop: Arc<AtomicBool>,
    /// Each returns how many connections it made.
    threads: Vec<JoinHandle<usize>>,
    held: Vec<TcpStream>,
}

impl Siege {
    fn begin(http: SocketAddr, https: SocketAddr, attack: &Attack) -> Siege {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut threads, mut held) = (Vec::new(), Vec::new());
        match attack {
            Attack::Held { connections, is_tls_port, bytes } => {
                let address = if *is_tls_port { https } else { http };
                for number in 0..*connections {
                    held.push(hold(number, address));
                    let _ = held[number].write_all(bytes);
                }
                // What they ask for is asked once; what they hold is what counts.
                std::thread::sleep(SETTLE);
            }
            Attack::Flood { first, next } => {
                for number in 0..FLOODERS {
                    let (stop, first, next) = (Arc::clone(&stop), first.clone(), *next);
                    threads
                        .push(std::thread::spawn(move || flood(number, http, &first, next, &stop)));
                }
            }
        }
        Siege { stop, threads, held }
    }

    /// How many connections were made.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let held = self.held.len();
        drop(self.held);
        let ends = self.threads.into_iter().map(|thread| thread.join());
        held + ends.map(|end| end.expect("an attacker ends well")).sum::<usize>()
    }
}

/// From several addresses, none of them a normal client's: one alone may not hold as many connections.
fn connect_from(number: usize, address: SocketAddr) -> std::io::Result<TcpStream> {
    let source = [127, 0, 0, 2 + (number % 4) as u8];
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::from((source, 0)))?;
    connect(&socket, &address)?;
    Ok(TcpStream::from(socket))
}

fn hold(number: usize, address: SocketAddr) -> TcpStream {
    let stream = connect_from(number, address).expect("the proxy listens");
    // What the proxy never reads must not stop the attacker.
    stream.set_nonblocking(true).expect("a socket can be non-blocking");
    stream
}

fn flood(
    number: usize,
    address: SocketAddr,
    first: &[u8],
    next: fn(u32) -> Vec<u8>,
    stop: &AtomicBool,
) -> usize {
    // Of this thread (setpriority(2), "C library/kernel differences").
    let _ = rustix::process::setpriority_process(None, 19);
    let mut connections = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = connect_from(number, address) else { break };
        connections += 1;
        let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
        if stream.write_all(first).is_err() {
            continue;
        }
        let mut number = 0;
        'connection: while !stop.load(Ordering::Relaxed) {
            let mut batch = Vec::new();
            for _ in 0..64 {
                batch.extend(next(number));
                number += 1;
            }
            if stream.write_all(&batch).is_err() {
                break 'connection;
            }
            // Answers are read, so that they do not stop the flood.
            let mut block = [0; 16 << 10];
            stream.set_nonblocking(true).expect("a socket can be non-blocking");
            loop {
                match stream.read(&mut block) {
                    Ok(0) => break 'connection,
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(_) => break 'connection,
                }
            }
            stream.set_nonblocking(false).expect("a socket can be blocking");
        }
    }
    connections
}

/// `:method GET, :scheme http, :path /p1, :authority a` (RFC 7541).
const REQUEST: &[u8] = &[
    0x82, 0x86, 0x04, 0x03, b'/', b'p', b'1', 0x01, 0x0c, b's', b'h', b'o', b'p', b'.', b'e', b'x',
    b'a', b'm', b'p', b'l', b'e',
];

fn preface(settings: &[u8]) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, settings));
    bytes
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}
