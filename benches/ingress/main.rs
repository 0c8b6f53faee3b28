//! The ingress beside nginx, haproxy, caddy and envoy, one worker each, in alternation: `cargo bench --bench ingress`.
//!
//! What counts is the processor's time a request, read from /proc, and its ratio to nginx's; and what a normal client notices
//! while others attack. It never judges; it prints. `ONLY=requests,handshakes,attacks`, `ATTACK` (a part of its name),
//! `ATTACK_SECONDS` (30 without it) and `ROUNDS` choose; peers that are not installed are left out.

mod attacks;
mod joey_alone;
mod load;
mod peers;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use load::Round;
use peers::Peer;

const ROUND: Duration = Duration::from_secs(1);
const CONNECTIONS: &[usize] = &[1, 64, 1000];
const ROUTES: &[usize] = &[10, 10_000];

fn main() {
    if let Some(role) = joey_alone::role() {
        return joey_alone::serve(&role);
    }
    allow_descriptors();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ingress-bench");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("the target directory is writable");
    let backend = load::backend();
    let certificate = peers::Certificate::write(&directory);
    let only = std::env::var("ONLY").unwrap_or_default();
    let is_wanted = |table: &str| only.is_empty() || only.split(',').any(|one| one == table);
    if is_wanted("requests") {
        requests(&directory, backend);
    }
    if is_wanted("handshakes") {
        handshakes(&directory, backend, &certificate);
    }
    if is_wanted("attacks") {
        attacks::table(&directory, backend, rounds());
    }
    std::fs::remove_dir_all(&directory).expect("the files are ours");
}

fn rounds() -> usize {
    std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(5)
}

fn requests(directory: &Path, backend: SocketAddr) {
    println!(
        "{:<8} {:>7} {:>6} {:>10} {:>8} {:>9} {:>9} {:>9} {:>9}",
        "proxy", "routes", "conns", "us/req", "x nginx", "req/s", "p50 us", "p99 us", "rss MiB"
    );
    for routes in ROUTES {
        let peers = Peer::all(directory, backend, *routes);
        for connections in CONNECTIONS {
            let mut results: Vec<Vec<Round>> = peers.iter().map(|_| Vec::new()).collect();
            for _ in 0..rounds() {
                for (peer, rounds) in peers.iter().zip(&mut results) {
                    rounds.push(load::requests(peer, *connections, *routes, ROUND));
                }
            }
            let cpu = |rounds: &[Round]| load::median(rounds, |round| round.cpu_micros);
            let nginx = peers.iter().position(|peer| peer.name == "nginx");
            let nginx = nginx.map(|nginx| cpu(&results[nginx]));
            for (peer, rounds) in peers.iter().zip(&results) {
                println!(
                    "{:<8} {:>7} {:>6} {:>10.1} {:>8} {:>9.0} {:>9.0} {:>9.0} {:>9.1}",
                    peer.name,
                    routes,
                    connections,
                    cpu(rounds),
                    nginx.map_or("-".to_owned(), |nginx| format!("{:.2}", cpu(rounds) / nginx)),
                    load::median(rounds, |round| round.per_second),
                    load::median(rounds, |round| round.p50_micros),
                    load::median(rounds, |round| round.p99_micros),
                    peer.resident_mib()
                );
            }
        }
    }
}

fn handshakes(directory: &Path, backend: SocketAddr, certificate: &peers::Certificate) {
    println!(
        "\n{:<8} {:>16} {:>8} {:>9} {:>9}",
        "proxy", "us/handshake", "x nginx", "a second", "p99 us"
    );
    let peers = Peer::all(directory, backend, 10);
    let mut results: Vec<Vec<Round>> = peers.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds() {
        for (peer, rounds) in peers.iter().zip(&mut results) {
            rounds.push(load::handshakes(peer, certificate, ROUND));
        }
    }
    let cpu = |rounds: &[Round]| load::median(rounds, |round| round.cpu_micros);
    let nginx = peers.iter().position(|peer| peer.name == "nginx").map(|at| cpu(&results[at]));
    for (peer, rounds) in peers.iter().zip(&results) {
        println!(
            "{:<8} {:>16.0} {:>8} {:>9.0} {:>9.0}",
            peer.name,
            cpu(rounds),
            nginx.map_or("-".to_owned(), |nginx| format!("{:.2}", cpu(rounds) / nginx)),
            load::median(rounds, |round| round.per_second),
            load::median(rounds, |round| round.p99_micros),
        );
    }
}

/// Thousands of connections, both ends of them here.
fn allow_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let hard = getrlimit(Resource::Nofile).maximum.map(|hard| hard.max(65_536));
    let _ = setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard });
}
