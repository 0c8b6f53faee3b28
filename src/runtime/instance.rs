//! One daemon's runtime: its directories, its cgroup, its zygote; and how a pod comes and goes.
//!
//! It keeps no list of pods: the run directory is the list.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::limits::{SHIM_LEAST_BYTES, Scope};
use super::link::{self, Link};
use super::plan::{NetworkPlan, PodPlan};
use super::protocol::Failure;
use super::zygote::{Launch, Zygote};
use super::{RuntimeConfig, RuntimeError, classes, launch as start, state};
use crate::sys::cgroup::Cgroup;
use crate::sys::{readiness, socket};

/// Controllers that limits of a plan may need.
const CONTROLLERS: [&str; 5] = ["cpu", "io", "memory", "pids", "hugetlb"];

/// The group of all pods in the instance's own.
const PODS: &str = "pods";

/// The group of a pod's shim, beside those of its containers.
pub(super) const SHIM: &str = "shim";

/// How long killed processes may take to be gone: a process in uninterruptible sleep takes as long
/// as its device does.
const DEATH: Duration = Duration::from_secs(10);

pub struct Instance {
    run_dir: PathBuf,
    scope: super::scope::Scope,
    group: Cgroup,
    controllers: BTreeSet<String>,
    zygote: Zygote,
    /// Held while the groups above pods are brought up to date: two at once could write in the wrong order. How many
    /// bytes of them all are protected.
    balancing: Mutex<Option<u64>>,
}

impl Instance {
    pub fn open(config: RuntimeConfig, zygote: Zygote) -> Result<Instance, RuntimeError> {
        let pods = state::pods(&config.run_dir);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&pods)
            .map_err(|error| RuntimeError::step("make run directory", error))?;
        let scope = super::scope::Scope::open(&config.cgroup, zygote.pid())?;
        let at = "make the instance's cgroup";
        let group = scope
            .group(&CONTROLLERS)?
            .ensure(PODS)
            .map_err(|error| RuntimeError::step(at, error))?;
        group.delegate(CONTROLLERS);
        let controllers = group.controllers().map_err(|error| RuntimeError::step(at, error))?;
        Ok(Instance {
            run_dir: config.run_dir,
            scope,
            group,
            controllers,
            zygote,
            balancing: Mutex::default(),
        })
    }

    pub fn controllers(&self) -> &BTreeSet<String> {
        &self.controllers
    }

    /// The instance's own cgroup, above those of all pods.
    pub fn group(&self) -> &Cgroup {
        &self.group
    }

    /// Bounds what all pods may take together.
    pub fn bound(
        &self,
        memory_bytes: u64,
        huge_pages: &BTreeMap<String, u64>,
    ) -> Result<(), RuntimeError> {
        classes::bound(&self.group, memory_bytes, huge_pages)
            .map_err(|error| RuntimeError::step("bound the memory of all pods", error))
    }

    fn balance(&self, cgroup: &Path) -> Result<(), RuntimeError> {
        let mut least = self.balancing.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match classes::balance(&self.group, cgroup) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => {
                other.map_err(|error| RuntimeError::step("weigh the class of a pod", error))?
            }
        }
        if self.controllers.contains("memory") {
            let bytes = classes::protect(&self.group)
                .map_err(|error| RuntimeError::step("protect the memory of pods", error))?;
            if *least != Some(bytes) {
                match self.scope.protect(bytes) {
                    Ok(()) => *least = Some(bytes),
                    // The pod runs, and the next one that comes or goes tries again.
                    Err(error) => tracing::warn!(%error, "requested memory is not protected"),
                }
            }
        }
        Ok(())
    }

    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    pub async fn zygote_ended(&self) -> Result<(), RuntimeError> {
        let failed = |error: io::Error| RuntimeError::step("watch zygote", error);
        let pidfd = self.zygote.pidfd().try_clone_to_owned().map_err(failed)?;
        let pidfd = readiness::watch(pidfd).map_err(failed)?;
        pidfd.readable().await.map(drop).map_err(failed)
    }

    pub fn remove_cgroup(&self) -> Result<(), RuntimeError> {
        self.scope.remove()
    }

    /// Everything before the shim answers. Blocks.
    fn prepare(&self, plan: &PodPlan) -> Result<PathBuf, RuntimeError> {
        let directory = state::pod(&self.run_dir, &plan.uid);
        let at = "make pod directory";
        match fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(RuntimeError::step(at, "the pod exists already"));
            }
            other => other.map_err(|error| RuntimeError::step(at, error))?,
        }
        let launched = self.fork(plan, &directory);
        if launched.is_err() {
            // The first failure is the one to tell; what could not be removed is found by adoption.
            let _ = self.destroy(&plan.cgroup, &directory);
        }
        launched.map(|()| directory)
    }

    fn fork(&self, plan: &PodPlan, directory: &Path) -> Result<(), RuntimeError> {
        let open = fs::File::open(directory)
            .map_err(|error| RuntimeError::step("open pod directory", error))?;
        state::write(open.as_fd(), state::PLAN, plan)
            .map_err(|error| RuntimeError::step("write pod plan", error))?;
        let pod_cgroup = self.ensure_group(&plan.cgroup)?;
        start::apply_limits(&pod_cgroup, &plan.limits, Scope::Pod).map_err(RuntimeError::from)?;
        self.balance(&plan.cgroup)?;
        let shim_cgroup = pod_cgroup
            .ensure(SHIM)
            .map_err(|error| RuntimeError::step("make shim cgroup", error))?;
        if self.controllers.contains("memory") {
            shim_cgroup
                .write("memory.min", &SHIM_LEAST_BYTES.to_string())
                .map_err(|error| RuntimeError::step("protect the shim's memory", error))?;
        }
        let netns: Option<OwnedFd> = match &plan.network {
            NetworkPlan::Host => None,
            NetworkPlan::Pinned(path) => Some(
                fs::File::open(path)
                    .map_err(|error| RuntimeError::step("open network namespace", error))?
                    .into(),
            ),
        };
        let listener = socket::listen(open.as_fd(), state::SOCKET)
            .map_err(|error| RuntimeError::step("listen for the shim", error))?;
        let launch = Launch {
            new_ipc: !plan.host_ipc,
            new_uts: netns.is_some(),
            directory: open.as_fd(),
            listener: listener.as_fd(),
            pod_cgroup: pod_cgroup.as_fd(),
            shim_cgroup: shim_cgroup.as_fd(),
            netns: netns.as_ref().map(AsFd::as_fd),
        };
        self.zygote
            .launch(&launch)
            .map(drop)
            .map_err(|error| RuntimeError::step("fork shim", error))
    }

    /// The pod's group with every controller that can be had, on each level.
    fn ensure_group(&self, path: &Path) -> Result<Cgroup, RuntimeError> {
        let at = "make pod cgroup";
        let mut group: Option<Cgroup> = None;
        for component in path.components() {
            let Component::Normal(name) = component else {
                return Err(RuntimeError::step(
                    at,
                    format!("{} is no relative path", path.display()),
                ));
            };
            let name = name.to_str().ok_or_else(|| RuntimeError::step(at, "not UTF-8"))?;
            let parent = group.as_ref().unwrap_or(&self.group);
            let child = parent.ensure(name).map_err(|error| RuntimeError::step(at, error))?;
            child.delegate(CONTROLLERS);
            group = Some(child);
        }
        group.ok_or_else(|| RuntimeError::step(at, "the path is empty"))
    }

    /// Kills a pod's shim and waits for nothing. Its containers end with it. Blocks.
    pub fn kill_shim(&self, cgroup: &Path) -> Result<(), RuntimeError> {
        let failed = |error: io::Error| RuntimeError::step("kill shim", error);
        let path = cgroup.join(SHIM);
        let path = path.to_str().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        self.group.open(path).and_then(|group| group.kill()).map_err(failed)
    }

    /// Kills every process of a pod, its shim included, and waits until they are gone. Blocks.
    pub fn kill(&self, cgroup: &Path) -> Result<(), RuntimeError> {
        let at = "kill pod";
        let failed = |error: io::Error| RuntimeError::step(at, error);
        let Some(path) = cgroup.to_str() else {
            return Err(RuntimeError::step(at, "not UTF-8"));
        };
        let group = match self.group.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(failed)?,
        };
        group.kill().map_err(failed)?;
        match group.wait_empty(DEATH).map_err(failed)? {
            true => Ok(()),
            false => Err(RuntimeError::step(at, "processes are still there after being killed")),
        }
    }

    /// Kills a pod and removes what is left of it. Goes as far as it can; the first failure is
    /// told. Blocks.
    pub fn destroy(&self, cgroup: &Path, directory: &Path) -> Result<(), RuntimeError> {
        self.kill(cgroup)?;
        if let Some(path) = cgroup.to_str() {
            self.group
                .remove(path)
                .map_err(|error| RuntimeError::step("remove pod cgroup", error))?;
            self.balance(cgroup)?;
        }
        for attempt in state::all_attempts(directory) {
            remove_tree(&attempt.rootfs.scratch)
                .map_err(|error| RuntimeError::step("remove scratch directory", error))?;
        }
        // Absent, or mounted nowhere, on newer kernels.
        let flags = rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW;
        let _ = rustix::mount::unmount(directory.join(state::SHM), flags);
        remove_tree(directory).map_err(|error| RuntimeError::step("remove pod directory", error))
    }
}

/// Removes a directory with everything below it, following no link. Absent is fine.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes the pod and connects to its shim.
pub async fn launch(instance: &Arc<Instance>, plan: &PodPlan) -> Result<Arc<Link>, RuntimeError> {
    let prepared = {
        let (instance, plan) = (instance.clone(), plan.clone());
        blocking(move || instance.prepare(&plan)).await
    };
    let directory = prepared?;
    match link::connect(instance, plan, directory.clone(), link::HELLO).await {
        Ok(link) => Ok(link),
        Err(error) => {
            let (instance, cgroup) = (instance.clone(), plan.cgroup.clone());
            let _ = blocking(move || instance.destroy(&cgroup, &directory)).await;
            Err(error)
        }
    }
}

/// Runs what blocks on the bounded pool for that.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(RuntimeError::step("blocking work", error)),
    }
}

impl From<Failure> for RuntimeError {
    fn from(failure: Failure) -> RuntimeError {
        match failure {
            Failure::CannotRun { reason } => RuntimeError::CannotRun { reason },
            Failure::Step { step, reason } => {
                RuntimeError::Step { step: "shim", reason: format!("{step}: {reason}") }
            }
            Failure::NotRunning { container } => RuntimeError::NotRunning(container),
            Failure::Unsupported => RuntimeError::step("shim", "it is too old for this request"),
        }
    }
}
