//! What others do to the cgroups of a pod behind our back: stop processes, or take a container out of its own.
//!
//! The kernel tells (`cgroup.events` becomes readable out of band, cgroup-v2.rst); nothing is polled. It decides
//! nothing about a container.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::instance::{Instance, SHIM};
use super::state;
use crate::sys::readiness;

/// Something that only a hand outside can have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drift {
    /// Its processes are stopped by the cgroup freezer.
    Frozen,
    /// Its first process lives, but in a cgroup that is not the container's: without limits, out of reach.
    Moved,
}

/// Waits until it happens. `None`: the container has ended, or its cgroup cannot be watched.
pub async fn wait(
    instance: &Arc<Instance>,
    pod: &Path,
    container: &str,
    attempt: u32,
    pid: u32,
) -> Option<Drift> {
    let leaf = pod.join(state::attempt(container, attempt));
    let events = match open(instance, &leaf) {
        Ok(events) => events,
        // Removed by hand while nobody looked, which the kernel allows only when nothing is in it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return is_alive(pid).then_some(Drift::Moved);
        }
        Err(error) => {
            tracing::debug!(container, %error, "the cgroup cannot be watched");
            return None;
        }
    };
    match watch(&events).await? {
        Seen::Frozen => Some(Drift::Frozen),
        Seen::Deserted => is_alive(pid).then_some(Drift::Moved),
    }
}

/// Waits until the pod's shim is stopped by the cgroup freezer, and lets it go on: without it no container of the pod
/// ends, and nothing is heard of any. `None`: it has ended, or its cgroup cannot be watched.
pub async fn wake_shim(instance: &Arc<Instance>, pod: &Path) -> Option<io::Result<()>> {
    let events = open(instance, &pod.join(SHIM)).ok()?;
    match watch(&events).await? {
        Seen::Frozen => Some(thaw_shim(instance, pod)),
        Seen::Deserted => None,
    }
}

/// Lets the pod's shim go on, whether its own cgroup or the pod's is frozen.
pub fn thaw_shim(instance: &Instance, pod: &Path) -> io::Result<()> {
    thaw_both(instance, pod, &pod.join(SHIM))
}

enum Seen {
    Frozen,
    /// No process is in it.
    Deserted,
}

async fn watch(events: &AsyncFd<OwnedFd>) -> Option<Seen> {
    loop {
        // The file signals a change since it was last read, so read, then wait.
        let mut text = [0u8; 256];
        let length = rustix::io::pread(events.get_ref(), &mut text, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..length]);
        let has = |line: &str| text.lines().any(|found| found == line);
        if has("frozen 1") {
            return Some(Seen::Frozen);
        }
        if !has("populated 1") {
            return Some(Seen::Deserted);
        }
        let mut ready = events.ready(Interest::PRIORITY).await.ok()?;
        ready.clear_ready();
    }
}

/// Lets the container's processes go on, whichever of the pod's own cgroups was frozen.
pub fn thaw(instance: &Instance, pod: &Path, container: &str, attempt: u32) -> io::Result<()> {
    thaw_both(instance, pod, &pod.join(state::attempt(container, attempt)))
}

fn thaw_both(instance: &Instance, pod: &Path, leaf: &Path) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    for group in [pod, leaf] {
        instance.group().open(group.to_str().ok_or_else(invalid)?)?.freeze(false)?;
    }
    Ok(())
}

fn open(instance: &Instance, leaf: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let leaf = leaf.to_str().ok_or(io::ErrorKind::InvalidInput)?;
    readiness::watch_priority(instance.group().open(leaf)?.events()?)
}

fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| goes_on(&stat))
}

/// Whether a process runs, or is stopped, by its `/proc/PID/stat` (proc_pid_stat(5)); not one that has ended and waits to
/// be collected, nor one that is ending: it has left its cgroup (`cgroup_exit`) a moment before it is a zombie.
fn goes_on(stat: &str) -> bool {
    /// `PF_EXITING` of the kernel's flags word (include/linux/sched.h).
    const EXITING: u64 = 0x4;
    // The name may hold anything, parentheses too; after it: state ppid pgrp session tty_nr tpgid flags.
    let mut fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ')).into_iter().flatten();
    let state = fields.next().unwrap_or("X");
    let flags = fields.nth(5).and_then(|flags| flags.parse().ok()).unwrap_or(EXITING);
    !matches!(state, "Z" | "X") && flags & EXITING == 0
}

#[cfg(test)]
mod tests {
    use super::goes_on;

    #[test]
    fn a_process_that_is_ending_does_not_count_as_moved_away() {
        for (stat, expected) in [
            ("42 (sh) S 1 42 42 0 -1 4194560 120 0", true),
            ("42 (sh) T 1 42 42 0 -1 4194560 120 0", true),
            ("42 (a) Z 4 (b) R 1 42 42 0 -1 4194304 120 0", true),
            ("42 (sh) R 1 42 42 0 -1 4194308 120 0", false),
            ("42 (sh) Z 1 42 42 0 -1 4194308 120 0", false),
            ("42 (sh) X 0 -1 -1 0 -1 4194308 0 0", false),
            ("42 (sh) R 1", false),
            ("", false),
        ] {
            assert_eq!(goes_on(stat), expected, "{stat}");
        }
    }
}
