//! Runs containers from resolved plans: images, root file systems, namespaces, cgroups, shims.
//!
//! It never sees a Kubernetes type and never talks to the API; whoever calls it hands it a complete
//! [`plan::PodPlan`] and [`plan::ContainerPlan`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use tokio::sync::watch;

use self::plan::{ContainerPlan, ExecPlan, Exit, PodPlan, PodUid};

pub mod image;
pub mod plan;

/// Where this instance keeps its things.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    pub data_dir: PathBuf,
    pub run_dir: PathBuf,
    /// Name of the instance's own top cgroup, e.g. `joey-3fa9c1`.
    pub cgroup: String,
}

/// The daemon's side of everything that runs. Clones share it.
#[derive(Clone)]
pub struct Runtime {}

/// A handle to one pod's shim. Clones share it; dropping it changes nothing about the pod.
#[derive(Clone)]
pub struct Pod {}

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
    /// The shim died: what ran under it has been killed; exits that it could not record are reported
    /// with code 137 and the time of discovery.
    Lost,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ContainerState {
    pub attempt: u32,
    pub phase: ContainerPhase,
}

#[derive(Debug, Clone, PartialEq)]
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
    /// Waits for the end: the exit code of an exec (128 + n for a signal), or of the attached container.
    fn wait(&self) -> futures::future::BoxFuture<'_, Result<i32, RuntimeError>>;
}

impl Runtime {
    /// Connects to the zygote made before tokio started; finds or makes the instance's cgroup.
    pub async fn start(_config: RuntimeConfig) -> Result<Runtime, RuntimeError> {
        unimplemented!()
    }

    /// cgroup v2 controllers that may be used for pods (`cpu`, `memory`, `pids`, `io` …).
    pub fn controllers(&self) -> &BTreeSet<String> {
        unimplemented!()
    }

    /// Creates the pod's surroundings and its shim; the plan is on disk before the shim exists.
    pub async fn launch(&self, _plan: &PodPlan) -> Result<Pod, RuntimeError> {
        unimplemented!()
    }

    /// Finds the pods of this instance that exist from before, alive or not.
    pub async fn adopt(&self) -> Result<Vec<Found>, RuntimeError> {
        unimplemented!()
    }
}

impl Pod {
    pub fn uid(&self) -> &PodUid {
        unimplemented!()
    }

    /// The current state, and every later one (level-triggered; intermediate states may be skipped).
    pub fn state(&self) -> watch::Receiver<PodState> {
        unimplemented!()
    }

    /// Starts a container; returns once its process has passed `execve`, or says why it cannot.
    pub async fn start(&self, _plan: &ContainerPlan) -> Result<ContainerState, RuntimeError> {
        unimplemented!()
    }

    /// Sends a signal to the container's first process.
    pub async fn signal(&self, _container: &str, _signal: i32) -> Result<(), RuntimeError> {
        unimplemented!()
    }

    /// Kills every process of the container.
    pub async fn kill(&self, _container: &str) -> Result<(), RuntimeError> {
        unimplemented!()
    }

    /// Runs a further process in the container.
    pub async fn exec(&self, _plan: &ExecPlan) -> Result<Session, RuntimeError> {
        unimplemented!()
    }

    /// Joins the streams of the container's first process.
    pub async fn attach(&self, _container: &str, _stdin: bool) -> Result<Session, RuntimeError> {
        unimplemented!()
    }

    /// Forgets an exited container's scratch directory (not its logs).
    pub async fn remove_container(
        &self,
        _container: &str,
        _attempt: u32,
    ) -> Result<(), RuntimeError> {
        unimplemented!()
    }

    /// Kills what is left, ends the shim, removes cgroups and run-time state. Idempotent.
    pub async fn remove(&self) -> Result<(), RuntimeError> {
        unimplemented!()
    }
}
