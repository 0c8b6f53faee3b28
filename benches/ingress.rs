//! The ingress beside nginx and haproxy from Debian, one worker each, in alternation: `cargo bench --bench ingress`.
//!
//! A client keeps connections and asks again and again for a small answer of one server. What counts is the processor's
//! time a request, read from /proc, and its ratio to nginx's. It never judges; it prints.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use joey::metrics::Registry;
use joey::net::ingress::resolve::{Directory, ServiceFact, ServicePortFact, SliceFact};
use joey::net::ingress::routes::{
    BackendFact, IngressFact, ObjectName, Options, PathFact, PathKind, Port, RuleFact,
};
use joey::net::ingress::{AccessLog, Ingress, IngressConfig};
use tokio_util::sync::CancellationToken;

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(1);
const CONNECTIONS: &[usize] = &[1, 64];
const ROUTES: &[usize] = &[10, 10_000];
/// Says that this process is the proxy under test: backend's port, routes.
const ROLE: &str = "JOEY_BENCH_INGRESS";
const REQUEST: &[u8] =
    b"GET /p7/x HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";

fn main() {
    if let Some((backend, routes)) =
        std::env::args().nth(1).filter(|arg| arg.starts_with(ROLE)).as_deref().and_then(role)
    {
        return proxy(backend, routes);
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ingress-bench");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("the target directory is writable");
    let backend = backend();
    println!(
        "{:<8} {:>7} {:>6} {:>12} {:>9} {:>9} {:>9} {:>10}",
        "proxy", "routes", "conns", "cpu us/req", "req/s", "p50 us", "p99 us", "rss MiB"
    );
    for routes in ROUTES {
        let peers: Vec<Peer> = [
            Peer::joey(backend, *routes),
            Peer::nginx(&directory, backend),
            Peer::haproxy(&directory, backend),
        ]
        .into_iter()
        .flatten()
        .collect();
        for connections in CONNECTIONS {
            let mut results: Vec<Vec<Round>> = peers.iter().map(|_| Vec::new()).collect();
            for _ in 0..ROUNDS {
                for (peer, rounds) in peers.iter().zip(&mut results) {
                    rounds.push(peer.measure(*connections));
                }
            }
            for (peer, rounds) in peers.iter().zip(&results) {
                let median = |value: fn(&Round) -> f64| {
                    let mut all: Vec<f64> = rounds.iter().map(value).collect();
                    all.sort_by(f64::total_cmp);
                    all[all.len() / 2]
                };
                println!(
                    "{:<8} {:>7} {:>6} {:>12.1} {:>9.0} {:>9.0} {:>9.0} {:>10.1}",
                    peer.name,
                    if peer.name == "joey" { routes.to_string() } else { "1".to_owned() },
                    connections,
                    median(|round| round.cpu_micros),
                    median(|round| round.per_second),
                    median(|round| round.p50_micros),
                    median(|round| round.p99_micros),
                    peer.resident_mib()
                );
            }
        }
    }
    std::fs::remove_dir_all(&directory).expect("the files are ours");
}

fn role(argument: &str) -> Option<(SocketAddr, usize)> {
    let mut parts = argument.split('=').skip(1);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The proxy alone, one worker; tells its port and serves until it is killed.
fn proxy(backend: SocketAddr, routes: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    runtime.block_on(async move {
        let config = IngressConfig {
            http: Some("127.0.0.1:0".parse().expect("an address")),
            access_log: AccessLog::Off,
            ..IngressConfig::default()
        };
        let ingress = Ingress::new(&config, &Registry::default()).expect("TLS can be had");
        let (doors, _) = ingress.open(&config);
        let service = ObjectName::new("shop", "web");
        let path = |number| PathFact {
            path: format!("/p{number}"),
            kind: PathKind::Prefix,
            backend: BackendFact { service: "web".to_owned(), port: Port::Number(80) },
        };
        let fact = IngressFact {
            name: ObjectName::new("shop", "rules"),
            created: 0,
            rules: vec![RuleFact {
                host: "shop.example".to_owned(),
                paths: (0..routes).map(path).collect(),
            }],
            default: None,
            options: Options::default(),
        };
        let port =
            ServicePortFact { name: String::new(), number: 80, is_tcp: true, app_protocol: None };
        let slice = SliceFact {
            service: service.clone(),
            ports: vec![(String::new(), backend.port())],
            ready: vec![backend.ip()],
        };
        let fact_of = ServiceFact { name: service, ports: vec![port], is_external_name: false };
        ingress.apply(&[fact], &Directory::new(vec![fact_of], vec![slice]));
        println!("{}", doors.addresses()[0]);
        ingress.serve(doors, CancellationToken::new()).await;
    });
}

/// A server of its own thread that answers 128 bytes.
fn backend() -> SocketAddr {
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
                let service = hyper::service::service_fn(|_| async {
                    let body = Full::new(Bytes::from_static(&[b'x'; 128]));
                    Ok::<_, Infallible>(hyper::Response::new(body))
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

struct Peer {
    name: &'static str,
    address: SocketAddr,
    process: Child,
}

impl Drop for Peer {
    fn drop(&mut self) {
        for child in children(self.process.id()) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(child as i32),
                nix::sys::signal::Signal::SIGTERM,
            );
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Round {
    cpu_micros: f64,
    per_second: f64,
    p50_micros: f64,
    p99_micros: f64,
}

impl Peer {
    fn joey(backend: SocketAddr, routes: usize) -> Option<Peer> {
        let mut process = Command::new(std::env::current_exe().ok()?)
            .arg(format!("{ROLE}={backend}={routes}"))
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut line = String::new();
        let mut byte = [0];
        let stdout = process.stdout.as_mut()?;
        while stdout.read(&mut byte).ok()? == 1 && byte[0] != b'\n' {
            line.push(byte[0] as char);
        }
        Some(Peer { name: "joey", address: line.parse().ok()?, process })
    }

    fn nginx(directory: &Path, backend: SocketAddr) -> Option<Peer> {
        let address = free_port();
        let config = directory.join("nginx.conf");
        let root = directory.display();
        let text = format!(
            "daemon off; worker_processes 1; pid {root}/nginx.pid; error_log {root}/nginx.log;\n\
             events {{ worker_connections 4096; }}\nhttp {{ access_log off; keepalive_requests 1000000000;\n\
             upstream web {{ server {backend}; keepalive 128; }}\nserver {{ listen {address}; location / {{\n\
             proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
             proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; }} }} }}\n"
        );
        std::fs::write(&config, text).ok()?;
        Peer::spawn("nginx", address, Command::new("nginx").arg("-c").arg(&config))
    }

    fn haproxy(directory: &Path, backend: SocketAddr) -> Option<Peer> {
        let address = free_port();
        let config: PathBuf = directory.join("haproxy.cfg");
        let text = format!(
            "global\n nbthread 1\n maxconn 4096\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n \
             timeout server 60s\n option forwardfor\n http-reuse always\nfrontend in\n bind {address}\n \
             default_backend web\nbackend web\n server one {backend}\n"
        );
        std::fs::write(&config, text).ok()?;
        Peer::spawn("haproxy", address, Command::new("haproxy").arg("-f").arg(&config))
    }

    /// `None`, told, when it is not installed or does not come up.
    fn spawn(name: &'static str, address: SocketAddr, command: &mut Command) -> Option<Peer> {
        let spawned = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(process) = spawned else {
            eprintln!("{name} is not installed: apt-get install {name}");
            return None;
        };
        let peer = Peer { name, address, process };
        let end = Instant::now() + Duration::from_secs(5);
        while std::net::TcpStream::connect(address).is_err() {
            if Instant::now() > end {
                eprintln!("{name} does not come up");
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(peer)
    }

    fn processes(&self) -> Vec<u32> {
        let mut all = children(self.process.id());
        all.push(self.process.id());
        all
    }

    /// User and system time of all its processes.
    fn cpu(&self) -> Duration {
        let ticks: u64 = self.processes().iter().map(|pid| ticks(*pid)).sum();
        Duration::from_millis(ticks * 10)
    }

    fn resident_mib(&self) -> f64 {
        let pages: u64 = self
            .processes()
            .iter()
            .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/statm")).ok())
            .filter_map(|text| text.split(' ').nth(1)?.parse::<u64>().ok())
            .sum();
        pages as f64 * 4096.0 / f64::from(1 << 20)
    }

    fn measure(&self, connections: usize) -> Round {
        let stop = Arc::new(AtomicBool::new(false));
        let address = self.address;
        let before = self.cpu();
        let started = Instant::now();
        let clients: Vec<_> = (0..connections)
            .map(|_| {
                let stop = Arc::clone(&stop);
                std::thread::Builder::new()
                    .stack_size(64 << 10)
                    .spawn(move || client(address, &stop))
            })
            .collect();
        std::thread::sleep(ROUND);
        stop.store(true, Ordering::Relaxed);
        let mut spans: Vec<Duration> = clients
            .into_iter()
            .flat_map(|client| client.expect("a thread starts").join().expect("a client ends well"))
            .collect();
        let (took, cpu) = (started.elapsed(), self.cpu() - before);
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

fn client(address: SocketAddr, stop: &AtomicBool) -> Vec<Duration> {
    let mut spans = Vec::new();
    let mut stream = std::net::TcpStream::connect(address).expect("the proxy listens");
    stream.set_nodelay(true).expect("a TCP socket");
    let mut block = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        stream.write_all(REQUEST).expect("the proxy reads");
        let mut have = 0;
        // The head, and 128 bytes.
        loop {
            let read = stream.read(&mut block[have..]).expect("the proxy answers");
            assert!(read > 0, "the proxy closed a connection under load");
            have += read;
            let head = block[..have].windows(4).position(|window| window == b"\r\n\r\n");
            if head.is_some_and(|head| have >= head + 4 + 128) {
                break;
            }
        }
        assert!(block.starts_with(b"HTTP/1.1 200"), "the proxy answers 200");
        spans.push(started.elapsed());
    }
    spans
}

fn free_port() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound")
}

fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn ticks(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> =
        text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    [11, 12].iter().filter_map(|index| fields.get(*index)?.parse::<u64>().ok()).sum()
}
