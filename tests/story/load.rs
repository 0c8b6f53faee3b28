//! Clients that count: they follow the ready pods, or know nothing but a Service's address, and tell every request that
//! got no answer.
//!
//! A request is repeated only when a *kept* connection was closed before any byte of its answer (RFC 9110 §9.2.2); on a new
//! connection every failure is one.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher;

use crate::cluster::Cluster;

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two requests of a client: the machine has others to serve as well.
const PACE: Duration = Duration::from_millis(4);
/// How many requests a kept connection is for.
const KEPT_FOR: usize = 25;

/// Two that keep connections, and two that make a new one each time.
pub const CLIENTS: usize = 4;

/// Where clients go.
#[derive(Debug, Clone)]
pub enum Aim {
    /// To the pods of this selector that are ready and not being stopped, as a watch tells them.
    ReadyPods { selector: &'static str, port: u16 },
    /// To one address, from within the network namespace pinned at `netns`.
    Service { address: SocketAddr, netns: PathBuf },
    /// To one address of the host, with this path.
    Ingress { address: SocketAddr, path: &'static str },
}

/// What became of a request that was not answered.
#[derive(Debug, Clone)]
pub struct Failed {
    pub client: usize,
    pub address: SocketAddr,
    pub begun: Instant,
    pub why: String,
}

pub struct Count {
    pub answered: usize,
    /// On connections that were closed before any byte of the answer.
    pub repeated: usize,
    pub failed: Vec<Failed>,
}

impl Count {
    /// Prints what was counted; fails the test when a request failed.
    #[track_caller]
    pub fn demand_no_loss(&self, what: &str) {
        println!(
            "{what}: {} answered, {} repeated on kept connections, {} failed",
            self.answered,
            self.repeated,
            self.failed.len()
        );
        assert!(self.failed.is_empty(), "{what}: requests failed: {:#?}", self.failed);
    }
}

/// Clients at work.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Whom the next request may go to.
    addresses: Mutex<Vec<SocketAddr>>,
    /// What is asked for.
    path: &'static str,
    is_over: AtomicBool,
    answered: AtomicUsize,
    repeated: AtomicUsize,
    failed: Mutex<Vec<Failed>>,
}

impl Load {
    pub fn start(cluster: &Cluster, aim: &Aim) -> Load {
        let path = match aim {
            Aim::Ingress { path, .. } => path,
            Aim::ReadyPods { .. } | Aim::Service { .. } => "/",
        };
        let shared = Arc::new(Shared { path, ..Shared::default() });
        let mut threads = Vec::new();
        let mut netns = None;
        match aim {
            Aim::ReadyPods { selector, port } => {
                let (shared, dirs) = (shared.clone(), [cluster.data_dir(), cluster.run_dir()]);
                let (selector, port) = (*selector, *port);
                threads.push(std::thread::spawn(move || shared.follow(dirs, selector, port)));
            }
            Aim::Ingress { address, .. } => held(&shared.addresses).push(*address),
            Aim::Service { address, netns: within } => {
                held(&shared.addresses).push(*address);
                netns = Some(within.clone());
            }
        }
        for number in 0..CLIENTS {
            let (shared, netns) = (shared.clone(), netns.clone());
            threads.push(std::thread::spawn(move || {
                if let Some(netns) = netns {
                    enter(&netns);
                }
                shared.work(number, number % 2 == 0);
            }));
        }
        Load { shared, threads }
    }

    pub fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// How many addresses the next request may go to.
    pub fn knows(&self) -> usize {
        held(&self.shared.addresses).len()
    }

    pub fn end(self) -> Count {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client does not panic");
        }
        Count {
            answered: self.shared.answered.load(Ordering::Relaxed),
            repeated: self.shared.repeated.load(Ordering::Relaxed),
            failed: held(&self.shared.failed).clone(),
        }
    }
}

/// Moves this thread into a network namespace.
fn enter(netns: &Path) {
    let file = std::fs::File::open(netns).expect("the pod's namespace is pinned");
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).expect("it can be entered");
}

struct Kept {
    address: SocketAddr,
    connection: BufReader<TcpStream>,
    asked: usize,
}

fn held<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().expect("nobody panics while it holds this")
}

enum Missed {
    BeforeAnyByte(String),
    InTheAnswer(String),
}

impl Shared {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn follow(&self, [data, run]: [PathBuf; 2], selector: &str, port: u16) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime can be built");
        runtime.block_on(async {
            let said = [("data-dir", data), ("run-dir", run)];
            let flags = said.map(|(name, dir)| (name, vec![dir.display().to_string()])).into();
            let sources =
                joey::cli::settings::Sources { flags, environment: &|_| None, file: None };
            let settings = joey::cli::settings::Settings::merge(sources).expect("two directories");
            let client = joey::cli::client::connect(&settings).expect("a daemon runs");
            let pods: Api<Pod> = Api::default_namespaced(client);
            let mut events = pin!(watcher(pods, watcher::Config::default().labels(selector)));
            while !self.is_over() {
                match tokio::time::timeout(Duration::from_millis(100), events.next()).await {
                    Err(_) => {}
                    Ok(Some(Ok(event))) => self.take(event, port),
                    Ok(other) => panic!("the watch has ended: {other:?}"),
                }
            }
        });
    }

    fn take(&self, event: watcher::Event<Pod>, port: u16) {
        let (pod, is_gone) = match event {
            watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) => (pod, false),
            watcher::Event::Delete(pod) => (pod, true),
            watcher::Event::Init | watcher::Event::InitDone => return,
        };
        let status = pod.status.as_ref();
        let Some(address) = status.and_then(|status| status.pod_ip.as_ref()) else { return };
        let address = SocketAddr::new(address.parse::<IpAddr>().expect("an address"), port);
        let serves = !is_gone
            && pod.metadata.deletion_timestamp.is_none()
            && joey::reconcile::pods::ready_since(&pod).is_some();
        let mut addresses = held(&self.addresses);
        addresses.retain(|held| *held != address);
        if serves {
            addresses.push(address);
        }
    }

    fn work(&self, number: usize, keeps: bool) {
        let mut kept: Option<Kept> = None;
        let mut turn = number;
        while !self.is_over() {
            turn += 1;
            std::thread::park_timeout(PACE);
            // Who follows the pods has no business with one that leaves.
            kept = kept.filter(|kept| {
                kept.asked < KEPT_FOR && held(&self.addresses).contains(&kept.address)
            });
            let begun = Instant::now();
            if let Some(mut held) = kept.take() {
                match ask(&mut held.connection, self.path, keeps) {
                    Ok(()) => {
                        self.answered.fetch_add(1, Ordering::Relaxed);
                        held.asked += 1;
                        kept = Some(held);
                        continue;
                    }
                    Err(Missed::BeforeAnyByte(_)) => {
                        self.repeated.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(Missed::InTheAnswer(why)) => {
                        self.fail(number, held.address, begun, why);
                        continue;
                    }
                }
            }
            kept = self.ask_anew(number, turn, keeps);
        }
    }

    /// A request on a new connection, which is handed back when it stays open.
    fn ask_anew(&self, number: usize, turn: usize, keeps: bool) -> Option<Kept> {
        let address = {
            let addresses = held(&self.addresses);
            *addresses.get(turn % addresses.len().max(1))?
        };
        let begun = Instant::now();
        let asked = TcpStream::connect_timeout(&address, PATIENCE)
            .map_err(|error| format!("connecting: {error}"))
            .and_then(|stream| {
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
                stream.set_nodelay(true).expect("delays can be turned off");
                let mut connection = BufReader::new(stream);
                match ask(&mut connection, self.path, keeps) {
                    Ok(()) => Ok(connection),
                    Err(Missed::BeforeAnyByte(why)) => Err(format!("no answer: {why}")),
                    Err(Missed::InTheAnswer(why)) => Err(why),
                }
            });
        match asked {
            Ok(connection) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                keeps.then_some(Kept { address, connection, asked: 1 })
            }
            Err(why) => {
                self.fail(number, address, begun, why);
                None
            }
        }
    }

    fn fail(&self, client: usize, address: SocketAddr, begun: Instant, why: String) {
        held(&self.failed).push(Failed { client, address, begun, why });
    }
}

/// One request and its answer.
fn ask(connection: &mut BufReader<TcpStream>, path: &str, keeps: bool) -> Result<(), Missed> {
    let close = if keeps { "" } else { "Connection: close\r\n" };
    let request = format!("GET {path} HTTP/1.1\r\nHost: kangaroo\r\n{close}\r\n");
    if let Err(error) = connection.get_mut().write_all(request.as_bytes()) {
        return Err(Missed::BeforeAnyByte(format!("writing: {error}")));
    }
    let mut line = String::new();
    match connection.read_line(&mut line) {
        Ok(0) => return Err(Missed::BeforeAnyByte("closed".to_owned())),
        Err(error) if error.kind() == ErrorKind::ConnectionReset && line.is_empty() => {
            return Err(Missed::BeforeAnyByte(format!("reading: {error}")));
        }
        Err(error) => return Err(Missed::InTheAnswer(format!("reading: {error}"))),
        Ok(_) => {}
    }
    if !line.starts_with("HTTP/1.1 200 ") {
        return Err(Missed::InTheAnswer(format!("answered {line:?}")));
    }
    let mut length = 0;
    while line != "\r\n" {
        line.clear();
        match connection.read_line(&mut line) {
            Ok(1..) => {}
            other => return Err(Missed::InTheAnswer(format!("in the head: {other:?}"))),
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(usize::MAX);
        }
    }
    let mut body = Vec::new();
    let read = connection.take(length as u64).read_to_end(&mut body);
    match read {
        Ok(read) if read == length => Ok(()),
        other => Err(Missed::InTheAnswer(format!("in the body of {length} bytes: {other:?}"))),
    }
}
