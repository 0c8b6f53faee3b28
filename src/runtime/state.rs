//! A pod's directory below the run directory: names of files, and what is written in them.
//!
//! ```text
//! pods/<uid>/            0700
//!   plan.json            written by the daemon before the shim exists
//!   lock                 locked by the shim for its life
//!   buried               written by the daemon before it kills a pod whose shim is lost
//!   shim.sock  shim.log
//!   containers/<name>.<attempt>/{plan,state,exit}.json    written by the shim
//! ```
//! It never decides whether a pod is alive.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::{ContainerPlan, Exit, PodPlan, PodUid};
use super::{ContainerPhase, ContainerState};
use crate::model::time::Timestamp;
use crate::sys::files;

pub const PLAN: &str = "plan.json";
pub const LOCK: &str = "lock";
pub const SOCKET: &str = "shim.sock";
pub const LOG: &str = "shim.log";
/// No shim begins in a pod that has this: its request may have waited in a zygote for longer than the daemon
/// that sent it, or the next one's patience, lived.
pub const BURIED: &str = "buried";
/// Mount point of the pod's /dev/shm on kernels that need one.
pub const SHM: &str = "shm";
pub const CONTAINERS: &str = "containers";
pub const STATE: &str = "state.json";
pub const EXIT: &str = "exit.json";

/// Longest state file: a plan with an environment near the limit of execve(2).
const LONGEST: u64 = 8 << 20;

/// `pods` of an instance.
pub fn pods(run_dir: &Path) -> PathBuf {
    run_dir.join("pods")
}

pub fn pod(run_dir: &Path, uid: &PodUid) -> PathBuf {
    pods(run_dir).join(uid.as_str())
}

/// Name of one attempt: of its directory and of its cgroup.
pub fn attempt(container: &str, attempt: u32) -> String {
    format!("{container}.{attempt}")
}

/// `state.json`: written once the process runs.
#[derive(Debug, Serialize, Deserialize)]
pub struct Running {
    pub pid: u32,
    pub started_at: Timestamp,
}

/// One attempt as its directory tells it.
#[derive(Debug)]
pub struct Attempt {
    pub plan: ContainerPlan,
    /// `None`: it never passed `execve`.
    pub phase: Option<ContainerPhase>,
}

pub fn read_plan(pod: BorrowedFd<'_>) -> io::Result<PodPlan> {
    let bytes = files::read(pod, PLAN, LONGEST)?;
    Ok(serde_json::from_slice(&bytes)?)
}

pub fn write(directory: BorrowedFd<'_>, name: &str, value: &impl Serialize) -> io::Result<()> {
    files::replace(directory, name, &serde_json::to_vec(value)?)
}

/// Marks the pod as one whose shim is lost for good.
pub fn bury(pod: &Path) -> io::Result<()> {
    match std::fs::File::create_new(pod.join(BURIED)) {
        Ok(_) => Ok(()),
        // Buried before, or removed meanwhile.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

pub fn is_buried(pod: BorrowedFd<'_>) -> bool {
    rustix::fs::accessat(pod, BURIED, rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty())
        .is_ok()
}

/// The newest attempt of every container that a pod directory knows.
pub fn newest_attempts(pod: &Path) -> io::Result<BTreeMap<String, Attempt>> {
    let mut newest: BTreeMap<String, Attempt> = BTreeMap::new();
    let entries = match std::fs::read_dir(pod.join(CONTAINERS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(newest),
        other => other?,
    };
    for entry in entries {
        let directory = match std::fs::File::open(entry?.path()) {
            // Forgotten since it was listed, at the word of a daemon that died meanwhile: an older attempt.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        // A directory without a readable plan was cut off while being made: nothing ran from it.
        let Some(attempt) = read_attempt(directory.as_fd()) else {
            continue;
        };
        let known = newest.get(&attempt.plan.name);
        if known.is_none_or(|known| known.plan.attempt < attempt.plan.attempt) {
            newest.insert(attempt.plan.name.clone(), attempt);
        }
    }
    Ok(newest)
}

fn read_attempt(directory: BorrowedFd<'_>) -> Option<Attempt> {
    let plan = serde_json::from_slice(&files::read(directory, PLAN, LONGEST).ok()?).ok()?;
    let exit = files::read(directory, EXIT, LONGEST).ok();
    let exit: Option<Exit> = exit.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let running = files::read(directory, STATE, LONGEST).ok();
    let running: Option<Running> = running.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let phase = match (exit, running) {
        (Some(exit), _) => Some(ContainerPhase::Exited(exit)),
        (None, Some(Running { pid, started_at })) => {
            Some(ContainerPhase::Running { pid, started_at })
        }
        (None, None) => None,
    };
    Some(Attempt { plan, phase })
}

impl Attempt {
    /// The state to report, if it ever ran.
    pub fn state(&self) -> Option<ContainerState> {
        let phase = self.phase.clone()?;
        Some(ContainerState { attempt: self.plan.attempt, phase })
    }
}

/// The plan of one attempt's directory, if it is readable.
pub fn plan_of(attempt: &Path) -> Option<ContainerPlan> {
    let directory = std::fs::File::open(attempt).ok()?;
    Some(read_attempt(directory.as_fd())?.plan)
}

/// Plans of every attempt whose directory is still there.
pub fn all_attempts(pod: &Path) -> Vec<ContainerPlan> {
    let entries = std::fs::read_dir(pod.join(CONTAINERS)).into_iter().flatten();
    entries.filter_map(|entry| plan_of(&entry.ok()?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_that_goes_while_it_is_looked_for_does_not_count() {
        let pod = std::env::temp_dir().join(format!("joey-attempts-{}", crate::sys::clock::uuid()));
        let all = pod.join(CONTAINERS);
        std::fs::create_dir_all(&all).unwrap();
        // Listed, and not there when it is opened.
        std::os::unix::fs::symlink("gone", all.join("web.0")).unwrap();
        let newest = newest_attempts(&pod);
        std::fs::remove_dir_all(&pod).unwrap();
        assert!(newest.unwrap().is_empty());
    }
}
