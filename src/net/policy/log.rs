//! Makes denied flows visible: counted, told in Events, and shown to whoever connects (`joey policy log`).
//!
//! ```text
//! rules ─ log group ─▶ nflog ─▶ Denial ─▶ joey_network_policy_denied_packets_total
//!                                    ├──▶ an Event on the isolated pod, at the first of a flow
//!                                    └──▶ SOCKET: what has been kept, an empty line, then what comes; JSON, one a line
//! ```
//! The rules log at most so many packets a second (`render`), so a flood costs no more than that.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::denial::{Denial, Trial};
use super::render::{EGRESS_WORD, INGRESS_WORD, LOG_BYTES};
use super::{Direction, World};
use crate::events::{self, Kind, Note, Recorder};
use crate::metrics::{Counter, Family, Registry};
use crate::model::time::Timestamp;
use crate::net::nflog::{self, Logged};
use crate::net::{NetError, Network, step};
use crate::sys::{clock, readiness, socket};

/// The socket in the run directory; its owner alone may connect.
pub const SOCKET: &str = "policy.sock";
/// Denials that are kept for those who come later.
const KEPT: usize = 1000;
/// Denials that a slow reader may be behind, and readers.
const BEHIND: usize = 1024;
const READERS: usize = 16;
/// A flow whose denial was told is told again after so long, and so many are remembered.
const AGAIN: Duration = Duration::from_secs(600);
const REMEMBERED: usize = 4096;

/// A line of the log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    pub time: Timestamp,
    #[serde(flatten)]
    pub denial: Denial,
}

/// Works until cancelled. Without the kernel's log everything else works, so its absence is told and no failure.
pub async fn run(
    network: Network,
    recorder: Recorder,
    registry: Registry,
    run_dir: std::path::PathBuf,
    stop: CancellationToken,
) {
    let log = Log {
        denied: registry.counters(
            "joey_network_policy_denied_packets_total",
            "Packets that began a flow and that a NetworkPolicy denied, of at most 1000 a second each way.",
            &["policy", "direction"],
        ),
        recorder,
        kept: Mutex::default(),
        fresh: broadcast::Sender::new(BEHIND),
    };
    let work = async {
        let (hear, serve) = tokio::join!(log.hear(&network), log.serve(&run_dir));
        for error in [hear.err(), serve.err()].into_iter().flatten() {
            tracing::warn!(%error, "denied connections are not (all) shown");
        }
        std::future::pending::<()>().await;
    };
    stop.run_until_cancelled(work).await;
}

struct Log {
    denied: Family<Counter>,
    recorder: Recorder,
    /// Short sections only.
    kept: Mutex<VecDeque<Arc<str>>>,
    fresh: broadcast::Sender<Arc<str>>,
}

impl Log {
    async fn hear(&self, network: &Network) -> Result<(), NetError> {
        let failed = || step("hear what the policies' rules log");
        let mut socket = nflog::open(network.log_group(), u32::from(LOG_BYTES)).map_err(failed())?;
        // A second descriptor of the same socket: the first stays with what reads.
        let ears = socket.as_fd().try_clone_to_owned().map_err(failed())?;
        let ears = readiness::watch(ears).map_err(failed())?;
        let mut told = Told::default();
        loop {
            // Before reading, so that what comes meanwhile wakes us again.
            ears.readable().await.map_err(failed())?.clear_ready();
            let logged = nflog::take(&mut socket);
            let in_force = network.in_force();
            for one in logged {
                if let Some(denial) = denial(&in_force.world, &one) {
                    self.take(denial, network, &mut told);
                }
            }
        }
    }

    fn take(&self, denial: Denial, network: &Network, told: &mut Told) {
        for policy in &denial.policies {
            self.denied.with(&[policy, denial.direction.text()]).increment();
        }
        if told.is_first(&denial, Instant::now()) {
            self.tell(&denial, network);
        }
        let line = serde_json::to_string(&Line { time: clock::now(), denial });
        let line: Arc<str> = line.expect("a line is plain data").into();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(line.clone());
        // Under the lock, so that whoever begins to read misses none and hears none twice.
        let _ = self.fresh.send(line);
    }

    fn tell(&self, denial: &Denial, network: &Network) {
        let isolated = denial.isolated();
        let Some((namespace, name)) = isolated.pod.as_ref().and_then(|pod| pod.split_once('/'))
        else {
            return;
        };
        self.recorder.note(Note {
            about: events::about("Pod", Some(namespace), name, network.holder_of(isolated.address)),
            kind: Kind::Warning,
            reason: "NetworkPolicyDenied".into(),
            message: denial.sentence(),
        });
    }

    async fn serve(&self, run_dir: &Path) -> Result<(), NetError> {
        let listen = || -> io::Result<tokio::net::UnixListener> {
            let _ = std::fs::remove_file(run_dir.join(SOCKET));
            let directory = std::fs::File::open(run_dir)?;
            let listener = socket::listen(directory.as_fd(), SOCKET)?;
            listener.set_nonblocking(true)?;
            tokio::net::UnixListener::from_std(listener)
        };
        let listener = listen().map_err(step("serve the log of policies"))?;
        let places = Arc::new(Semaphore::new(READERS));
        let mut readers = JoinSet::new();
        loop {
            let place = places.clone().acquire_owned().await.map_err(step("serve the log"))?;
            let (stream, _) = listener.accept().await.map_err(step("serve the log of policies"))?;
            let (kept, fresh) = {
                let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                (kept.iter().cloned().collect(), self.fresh.subscribe())
            };
            while readers.try_join_next().is_some() {}
            readers.spawn(async move {
                let _place = place;
                // A reader that has gone is served.
                let _ = show(stream, kept, fresh).await;
            });
        }
    }
}

async fn show(
    mut stream: UnixStream,
    kept: Vec<Arc<str>>,
    mut fresh: broadcast::Receiver<Arc<str>>,
) -> io::Result<()> {
    for line in kept {
        stream.write_all(format!("{line}\n").as_bytes()).await?;
    }
    stream.write_all(b"\n").await?;
    loop {
        let line = tokio::select! {
            line = fresh.recv() => line,
            () = gone(&stream) => return Ok(()),
        };
        match line {
            Ok(line) => stream.write_all(format!("{line}\n").as_bytes()).await?,
            Err(broadcast::error::RecvError::Lagged(_)) => {} // Too slow for this many.
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        }
    }
}

/// Ends with the reader, which sends nothing.
async fn gone(stream: &UnixStream) {
    // That it may be readable is a hint.
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut [0; 16]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

fn denial(world: &World, logged: &Logged) -> Option<Denial> {
    let direction = match logged.prefix.as_str() {
        EGRESS_WORD => Direction::Egress,
        INGRESS_WORD => Direction::Ingress,
        _ => return None, // Not a rule of ours.
    };
    Some(Denial::of(world, direction, &logged.head))
}

/// Flows whose denial has been told, and when.
#[derive(Default)]
struct Told(BTreeMap<Trial, Instant>);

impl Told {
    fn is_first(&mut self, denial: &Denial, now: Instant) -> bool {
        let trial = Trial::from(denial);
        if self.0.get(&trial).is_some_and(|when| now.duration_since(*when) < AGAIN) {
            return false;
        }
        if self.0.len() >= REMEMBERED {
            self.0.retain(|_, when| now.duration_since(*when) < AGAIN);
        }
        // Full of what is new: whoever scans ports is told of no further.
        let has_room = self.0.len() < REMEMBERED;
        if has_room {
            self.0.insert(trial, now);
        }
        has_room
    }
}

#[cfg(test)]
mod tests;
