//! Where an instance's pods live in the tree of cgroups: under systemd in a delegated scope of their own, so that a
//! stop, restart or upgrade of the daemon's unit leaves them alone and systemd never writes below it; elsewhere in a
//! plain group at the root.
//!
//! It makes and removes that place and touches nothing in it.
//!
//! ```text
//! joey-ID.scope (systemd's)          joey-ID (no systemd)
//! ├─ zygote   keeps the scope        └─ pods
//! └─ pods     ours: limits of all
//! ```
//!
//! The zygote is the scope's first process: without one a scope cannot begin, and it ends when it is empty. With no
//! daemon and no pod there is nothing to keep.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::RuntimeError;
use crate::sys::cgroup::Cgroup;
use crate::sys::systemd::{Manager, Started};

/// How long systemd may take for a scope; it has a job queue, which is long while a host boots.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(5);
const ZYGOTE: &str = "zygote";

/// The place, found or made.
pub struct Scope {
    root: Cgroup,
    /// The group's name at the root; a scope's ends in `.scope`.
    name: String,
}

impl Scope {
    /// Finds or makes it, and puts the zygote into it where it must hold the place. Blocks.
    pub fn open(instance: &str, zygote: u32) -> Result<Scope, RuntimeError> {
        let failed = |error: io::Error| RuntimeError::step("find cgroup v2", error);
        let root = Cgroup::root().map_err(failed)?;
        let manager = Manager::connect()
            .map_err(|error| RuntimeError::step("connect to systemd", error))?
            .filter(|_| shares_the_hosts_tree());
        let Some(manager) = manager else {
            return Ok(Scope { root, name: instance.to_owned() });
        };
        let scope = Scope { root, name: format!("{instance}.scope") };
        scope.start(manager, zygote)?;
        Ok(scope)
    }

    /// The group itself, with `controllers` enabled for those in it.
    pub fn group(&self, controllers: &[&'static str]) -> Result<Cgroup, RuntimeError> {
        let at = "make the instance's cgroup";
        self.root.delegate(controllers.iter().copied());
        let group = self.root.ensure(&self.name).map_err(|error| RuntimeError::step(at, error))?;
        group.delegate(controllers.iter().copied());
        Ok(group)
    }

    fn start(&self, mut manager: Manager, zygote: u32) -> Result<(), RuntimeError> {
        let at = "start the scope of pods";
        let failed = |error: &dyn std::error::Error| RuntimeError::step(at, chain(error));
        let begin = Instant::now();
        let description = "Pods of Joey";
        while begin.elapsed() < PATIENCE {
            let started = manager
                .start_scope(&self.name, description, zygote)
                .map_err(|error| failed(&error))?;
            // A new scope takes the zygote itself. One that was there may be about to end, empty as it is since
            // the last zygote went: the zygote goes in first, then the scope must still be there.
            if started == Started::WasThere && self.hold(zygote).is_err() {
                std::thread::sleep(PAUSE);
                continue;
            }
            while begin.elapsed() < PATIENCE {
                match manager.state(&self.name).map_err(|error| failed(&error))?.as_str() {
                    // In a group that gives controllers on there may be no process (no-internal-process rule of
                    // cgroups(7)), so the zygote moves one down.
                    "active" => return self.hold(zygote).map_err(|error| failed(&error)),
                    "activating" => std::thread::sleep(PAUSE),
                    // It ended under our hands; the next round makes it anew.
                    _ => break,
                }
            }
        }
        Err(RuntimeError::step(at, "systemd did not do it in time"))
    }

    fn hold(&self, zygote: u32) -> io::Result<()> {
        let holder = self.root.open(&self.name)?.ensure(ZYGOTE)?;
        holder.write("cgroup.procs", &zygote.to_string())
    }

    /// Lets the kernel take no memory from it as long as it has no more than so many bytes. Blocks.
    pub fn protect(&self, bytes: u64) -> Result<(), RuntimeError> {
        let failed = |error: &dyn std::error::Error| {
            RuntimeError::step("protect the memory of pods", chain(error))
        };
        // systemd writes a scope's own files anew whenever it loads its units.
        if self.name.ends_with(".scope")
            && let Some(mut manager) = Manager::connect().map_err(|error| failed(&error))?
        {
            return manager.set_memory_min(&self.name, bytes).map_err(|error| failed(&error));
        }
        let group = self.root.open(&self.name).map_err(|error| failed(&error))?;
        group.write("memory.min", &bytes.to_string()).map_err(|error| failed(&error))
    }

    /// Removes the place; its pods must be gone. Blocks.
    pub fn remove(&self) -> Result<(), RuntimeError> {
        let at = "remove the instance's cgroup";
        let failed = |error: &dyn std::error::Error| RuntimeError::step(at, chain(error));
        if self.name.ends_with(".scope")
            && let Some(mut manager) = Manager::connect().map_err(|error| failed(&error))?
        {
            manager.stop(&self.name).map_err(|error| failed(&error))?;
            let begin = Instant::now();
            while manager.state(&self.name).map_err(|error| failed(&error))? != "inactive" {
                if begin.elapsed() > PATIENCE {
                    return Err(RuntimeError::step(at, "systemd does not end the scope"));
                }
                std::thread::sleep(PAUSE);
            }
        }
        self.root.remove(&self.name).map_err(|error| failed(&error))
    }
}

/// Whether this process sees the tree that systemd manages. In a container with a cgroup namespace of its own
/// (or none mounted), systemd's scope would stand where we cannot put pods.
fn shares_the_hosts_tree() -> bool {
    let of_systemd = fs::read_link("/proc/1/ns/cgroup");
    let ours = fs::read_link("/proc/self/ns/cgroup");
    // A hybrid host's systemd keeps its units in v1 hierarchies; the scope would have no group in v2's.
    let unified = fs::read_to_string(PathBuf::from("/proc/1/cgroup"))
        .is_ok_and(|text| text.lines().all(|line| line.starts_with("0::")));
    unified && matches!((of_systemd, ours), (Ok(a), Ok(b)) if a == b)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
