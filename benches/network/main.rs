//! Services, policies and names beside their peers and beside nothing at all: `cargo bench --bench network`.
//!
//! The network, the API and the tasks between them are the daemon's own, in this process; clients and servers sit in
//! network namespaces and exchange real packets. Peers (a chain for each Service in nftables, iptables over nftables,
//! legacy iptables, each as kube-proxy writes it; dnsmasq) have hosts of their own, which route and hold nothing else. One round
//! measures everybody once, then the next begins. It never judges; it prints. Needs root; it makes and leaves
//! namespaces of its own.
//!
//! `SIZES=a,b,c` (10,1000,10000) Services, policies and names; `ROUNDS=n` (10); `ONLY=paths,change,policies,names`.

mod cluster;
mod names;
mod paths;
mod peers;
mod policies;
mod programming;
mod site;
mod table;

use std::path::Path;

use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use cluster::Cluster;

/// What is measured, and how often.
pub struct Knobs {
    pub sizes: Vec<usize>,
    pub rounds: usize,
    only: Option<Vec<String>>,
}

impl Knobs {
    fn read() -> Knobs {
        let list = |name| {
            let text = std::env::var(name).ok()?;
            Some(text.split(',').map(str::to_owned).collect::<Vec<_>>())
        };
        let sizes = list("SIZES").unwrap_or_default();
        let mut sizes: Vec<usize> = sizes.iter().filter_map(|size| size.parse().ok()).collect();
        if sizes.is_empty() {
            sizes = vec![10, 1000, 10_000];
        }
        sizes.sort_unstable();
        let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
        Knobs { sizes, rounds: rounds.unwrap_or(10), only: list("ONLY") }
    }

    fn wants(&self, part: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|one| one == part))
    }
}

fn main() {
    if !nix::unistd::geteuid().is_root() {
        println!("network: needs root; run it by tests/bench.sh");
        return;
    }
    apart();
    let knobs = Knobs::read();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime starts");
    runtime.block_on(async {
        let cluster = Cluster::start(Path::new("/tmp/joey-network")).await;
        for size in &knobs.sizes {
            if knobs.wants("paths") || knobs.wants("change") {
                let peers = peers::all(*size);
                cluster.fill_services(*size).await;
                if knobs.wants("paths") {
                    paths::measure(&cluster, &peers, *size, knobs.rounds).await;
                }
                if knobs.wants("change") {
                    programming::services(&cluster, &peers, *size, knobs.rounds).await;
                }
            }
            if knobs.wants("names") {
                cluster.fill_services(*size).await;
                names::measure(&cluster, *size, knobs.rounds).await;
            }
        }
        if knobs.wants("policies") {
            for size in &knobs.sizes {
                cluster.fill_policies(*size).await;
                policies::change(&cluster, *size, knobs.rounds).await;
            }
            policies::path(&cluster, knobs.sizes.iter().copied().max().unwrap_or(10), knobs.rounds)
                .await;
        }
        cluster.end().await;
    });
}

/// Network and mount namespaces of our own, with a `/tmp` that is nobody else's. They end with the process.
fn apart() {
    let none = None::<&str>;
    nix::sched::unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root may");
    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .expect("mounts become private");
    nix::mount::mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::empty(), none)
        .expect("a tmpfs can be had");
    site::sh("ip link set lo up");
}
