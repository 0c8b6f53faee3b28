//! What others do to a container's cgroup behind our back: stop its processes, or take them out of it.
//!
//! The kernel tells (`cgroup.events` becomes readable out of band, cgroup-v2.rst); nothing is polled. It decides
//! nothing about the container.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::instance::Instance;
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
        Err(error) => {
            tracing::debug!(container, %error, "the cgroup cannot be watched");
            return None;
        }
    };
    loop {
        // The file signals a change since it was last read, so read, then wait.
        let mut text = [0u8; 256];
        let length = rustix::io::pread(events.get_ref(), &mut text, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..length]);
        let has = |line: &str| text.lines().any(|found| found == line);
        if has("frozen 1") {
            return Some(Drift::Frozen);
        }
        if !has("populated 1") {
            return is_alive(pid).then_some(Drift::Moved);
        }
        let mut ready = events.ready(Interest::PRIORITY).await.ok()?;
        ready.clear_ready();
    }
}

/// Lets the container's processes go on, whichever of the pod's own cgroups was frozen.
pub fn thaw(instance: &Instance, pod: &Path, container: &str, attempt: u32) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let leaf = pod.join(state::attempt(container, attempt));
    for group in [pod, &leaf] {
        instance.group().open(group.to_str().ok_or_else(invalid)?)?.freeze(false)?;
    }
    Ok(())
}

fn open(instance: &Instance, leaf: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let leaf = leaf.to_str().ok_or(io::ErrorKind::InvalidInput)?;
    readiness::watch_priority(instance.group().open(leaf)?.events()?)
}

/// Runs, or is stopped; a process that has ended and waits to be collected does neither.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}
