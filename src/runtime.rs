//! Runs containers from resolved plans: images, root file systems, namespaces, cgroups, shims.
//!
//! It never sees a Kubernetes type and never talks to the API; whoever calls it hands it a complete
//! [`plan::PodPlan`] and [`plan::ContainerPlan`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use self::adopt::{Adopted, Late};
use self::plan::{ContainerPlan, ExecPlan, Exit, PodPlan, PodUid};
use self::protocol::{Answer, Call};
use self::zygote::Zygote;

mod adopt;
pub mod caps;
mod classes;
pub mod drift;
mod enter;
pub mod image;
mod init;
mod instance;
mod launch;
mod limits;
mod link;
mod logs;
mod mounts;
pub mod plan;
mod points;
mod privileges;
mod program;
pub(crate) mod protocol;
mod rootfs;
mod scope;
mod seccomp;
mod session;
mod shim;
mod state;
mod usage;
pub mod user;
pub mod zygote;

/// Where this instance keeps its things.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    pub data_dir: PathBuf,
    pub run_dir: PathBuf,
    /// Name of the instance's own top cgroup, e.g. `joey-3fa9c1`; under systemd it is that of a scope.
    pub cgroup: String,
}

/// The daemon's side of everything that runs. Clones share it.
#[derive(Clone)]
pub struct Runtime {
    instance: Arc<instance::Instance>,
}

/// A handle to one pod's shim. Clones share it; dropping it changes nothing about the pod.
#[derive(Clone)]
pub struct Pod {
    link: Arc<link::Link>,
}

/// What a shim knows about its pod.
#[derive(Debug, Clone, PartialEq)]
pub struct PodState {
    pub shim: ShimState,
    /// By container name: the newest attempt of each.
    pub containers: BTreeMap<String, ContainerState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShimState {
    Alive,
    /// The shim died: what ran under it has been killed; exits that it could not record are
    /// reported with code 137 and the time of discovery.
    Lost,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerState {
    pub attempt: u32,
    pub phase: ContainerPhase,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ContainerPhase {
    Running { pid: u32, started_at: crate::model::time::Timestamp },
    Exited(Exit),
}

/// A pod that was found at start-up.
pub struct Found {
    pub plan: PodPlan,
    /// The plan of each container's newest attempt.
    pub containers: Vec<ContainerPlan>,
    pub pod: Pod,
}

/// Why a runtime operation did not happen. `Display` names the failed step.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The container's own configuration cannot run: executable missing, not executable, bad cwd …
    /// `reason` is worded for users, like runc's.
    #[error("{reason}")]
    CannotRun { reason: String },
    /// A step of ours failed.
    #[error("{step}: {reason}")]
    Step { step: &'static str, reason: String },
    /// There is no such container, or it is not running.
    #[error("container {0} is not running")]
    NotRunning(String),
    #[error("the pod's shim is gone")]
    ShimLost,
}

/// A process's streams as the daemon holds them. Dropping it closes them.
pub struct Session {
    pub stdin: Option<Box<dyn tokio::io::AsyncWrite + Send + Unpin>>,
    pub stdout: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>,
    /// `None` with a terminal.
    pub stderr: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>,
    pub control: Box<dyn SessionControl>,
}

/// What else can be done with a session.
pub trait SessionControl: Send + Sync {
    /// Sets the terminal's size; without a terminal does nothing.
    fn resize(&self, columns: u16, rows: u16);
    /// Kills the process of an exec and what it started in its process group; an attached container lives on.
    fn kill(&self) -> futures::future::BoxFuture<'_, Result<(), RuntimeError>>;
    /// Waits for the end: the exit code of an exec (128 + n for a signal), or of the attached
    /// container.
    fn wait(&self) -> futures::future::BoxFuture<'_, Result<i32, RuntimeError>>;
}

impl Runtime {
    /// Takes over the zygote made before tokio started; finds or makes the instance's cgroup.
    pub async fn start(config: RuntimeConfig, zygote: Zygote) -> Result<Runtime, RuntimeError> {
        let instance = Arc::new(instance::Instance::open(config, zygote)?);
        Ok(Runtime { instance })
    }

    /// cgroup v2 controllers that may be used for pods (`cpu`, `memory`, `pids`, `io` …).
    pub fn controllers(&self) -> &BTreeSet<String> {
        self.instance.controllers()
    }

    /// Bounds what all pods together may take of the host's memory, and of its huge pages: bytes by the kernel's name
    /// of the size, such as `2MB`; of a size that is not named they get none.
    pub async fn bound(
        &self,
        memory_bytes: u64,
        huge_pages: &BTreeMap<String, u64>,
    ) -> Result<(), RuntimeError> {
        self.instance.bound(memory_bytes, huge_pages)
    }

    /// Creates the pod's surroundings and its shim; the plan is on disk before the shim exists.
    pub async fn launch(&self, plan: &PodPlan) -> Result<Pod, RuntimeError> {
        let link = instance::launch(&self.instance, plan).await?;
        Ok(Pod { link })
    }

    /// Finds the pods of this instance that exist from before, alive or not; those whose shims do not answer within
    /// `limit` are told apart.
    pub async fn adopt_within(&self, limit: Duration) -> Result<Adopted, RuntimeError> {
        adopt::adopt(&self.instance, limit).await
    }

    /// Finds all pods of this instance that exist from before, however long that takes.
    pub async fn adopt(&self) -> Result<Vec<Found>, RuntimeError> {
        Ok(self.adopt_within(Duration::MAX).await?.found)
    }

    /// Returns when the zygote has ended: no pod can be started any more, so the daemon should end too
    /// and come back with a new one. Running pods are not affected.
    pub async fn zygote_ended(&self) -> Result<(), RuntimeError> {
        self.instance.zygote_ended().await
    }

    /// Removes the instance's own cgroup. Fails while pods exist.
    pub async fn remove_cgroup(&self) -> Result<(), RuntimeError> {
        self.instance.remove_cgroup()
    }
}

impl Pod {
    pub fn uid(&self) -> &PodUid {
        self.link.uid()
    }

    /// The current state, and every later one (level-triggered; intermediate states may be
    /// skipped).
    pub fn state(&self) -> watch::Receiver<PodState> {
        self.link.state()
    }

    /// Starts a container; returns once its process has passed `execve`, or says why it cannot.
    pub async fn start(&self, plan: &ContainerPlan) -> Result<ContainerState, RuntimeError> {
        let reply = self.link.ask(Call::Start(Box::new(plan.clone()))).await?;
        match reply.answer {
            Answer::Started(state) => Ok(state),
            Answer::Done | Answer::Streams { .. } => Err(RuntimeError::unexpected("start")),
        }
    }

    /// Sends a signal to the container's first process.
    pub async fn signal(&self, container: &str, signal: i32) -> Result<(), RuntimeError> {
        self.link.order(Call::Signal { container: container.to_owned(), signal }).await
    }

    /// Kills every process of the container.
    pub async fn kill(&self, container: &str) -> Result<(), RuntimeError> {
        self.link.order(Call::Kill { container: container.to_owned() }).await
    }

    /// Stops every process of the container in its tracks, or lets it go on.
    pub async fn freeze(&self, container: &str, frozen: bool) -> Result<(), RuntimeError> {
        self.link.ask(Call::Freeze { container: container.to_owned(), frozen }).await.map(drop)
    }

    /// Waits until somebody outside stops the container's processes or moves them out of its cgroup; `None` when
    /// the container has ended, or cannot be watched.
    pub async fn drift(&self, container: &str, attempt: u32, pid: u32) -> Option<drift::Drift> {
        self.link.drift(container, attempt, pid).await
    }

    /// Waits until somebody outside stops the pod's shim with the cgroup freezer, and lets it go on; `None` when it has
    /// ended, or cannot be watched.
    pub async fn wake_shim(&self) -> Option<std::io::Result<()>> {
        self.link.wake_shim().await
    }

    /// Lets a container go on that was frozen behind our back.
    pub fn thaw(&self, container: &str, attempt: u32) -> std::io::Result<()> {
        self.link.thaw(container, attempt)
    }

    /// Processor time that an attempt's processes have had since it started.
    pub fn processor_time(&self, container: &str, attempt: u32) -> std::io::Result<Duration> {
        self.link.processor_time(container, attempt)
    }

    /// Memory that an attempt's processes hold now, in bytes; see [`usage`] for what is counted. Blocks.
    pub fn memory(&self, container: &str, attempt: u32) -> std::io::Result<u64> {
        self.link.memory(container, attempt)
    }

    /// Runs a further process in the container.
    pub async fn exec(&self, plan: &ExecPlan) -> Result<Session, RuntimeError> {
        let mut reply = self.link.ask(Call::Exec(Box::new(plan.clone()))).await?;
        let ended = reply.ended.take().ok_or(RuntimeError::unexpected("exec"))?;
        session::exec(reply, ended, self.link.clone())
    }

    /// Joins the streams of the container's first process.
    pub async fn attach(&self, container: &str, stdin: bool) -> Result<Session, RuntimeError> {
        let container = container.to_owned();
        let reply = self.link.ask(Call::Attach { container: container.clone(), stdin }).await?;
        session::attach(reply, stdin, container, self.state())
    }

    /// Forgets an exited container's scratch directory (not its logs).
    pub async fn remove_container(
        &self,
        container: &str,
        attempt: u32,
    ) -> Result<(), RuntimeError> {
        self.link.remove_container(container, attempt).await
    }

    /// Kills what is left, ends the shim, removes cgroups and run-time state. Idempotent.
    pub async fn remove(&self) -> Result<(), RuntimeError> {
        self.link.remove().await
    }
}

impl RuntimeError {
    fn step(step: &'static str, reason: impl std::fmt::Display) -> RuntimeError {
        RuntimeError::Step { step, reason: reason.to_string() }
    }

    fn unexpected(step: &'static str) -> RuntimeError {
        RuntimeError::step(step, "the shim answered something else")
    }
}

/// Takes over when this process was started in another role than the daemon's. `main` calls it
/// before anything else: the zygote must never have a second thread.
pub fn dispatch() -> Option<ExitCode> {
    let role = std::env::args_os().next()?;
    (role.as_encoded_bytes() == zygote::ROLE.to_bytes()).then(zygote::run)
}

/// The failure of one step of ours.
fn failed(step: &'static str, reason: impl std::fmt::Display) -> protocol::Failure {
    protocol::Failure::Step { step: step.to_owned(), reason: reason.to_string() }
}

/// Names the step in which an error happened.
trait At<T> {
    fn at(self, step: &'static str) -> Result<T, protocol::Failure>;
}

impl<T, E: std::fmt::Display> At<T> for Result<T, E> {
    fn at(self, step: &'static str) -> Result<T, protocol::Failure> {
        self.map_err(|error| failed(step, error))
    }
}
