//! What others did to a container or its cgroup behind our back, and its repair.
//!
//! It never looks by itself; the kernel tells (`runtime::drift`).

use std::time::Duration;

use super::Worker;
use super::errands::Report;
use crate::events;
use crate::node::lifecycle::Doom;
use crate::runtime::ContainerPhase;
use crate::runtime::drift::Drift;
use crate::runtime::plan::Exit;
use crate::sys::clock;

/// Between the repair of what was frozen and the next look.
const GUARD_AGAIN: Duration = Duration::from_secs(1);

impl Worker {
    /// Has the kernel tell what others do to the container's cgroup.
    pub(super) fn guard(&mut self, name: &str) {
        let seen = self.shim_state.as_ref().map(|state| state.borrow().clone());
        let phase = seen.and_then(|seen| Some(seen.containers.get(name)?.clone()));
        let (Some(shim), Some(seen)) = (self.shim.clone(), phase) else {
            return;
        };
        let ContainerPhase::Running { pid, .. } = seen.phase else {
            return;
        };
        let (container, attempt) = (name.to_owned(), seen.attempt);
        self.errands.spawn(async move {
            let drift = shim.drift(&container, attempt, pid).await;
            Report::Drifted { container, attempt, drift }
        });
    }

    /// Has the kernel tell when somebody stops the pod's shim. It is let go on by the errand itself: the worker may be
    /// waiting for the shim's answer.
    pub(super) fn guard_shim(&mut self, after: Duration) {
        let Some(shim) = self.shim.clone() else {
            return;
        };
        self.errands.spawn(async move {
            tokio::time::sleep(after).await;
            Report::ShimWoken(shim.wake_shim().await)
        });
    }

    pub(super) fn shim_woken(&mut self, outcome: std::io::Result<()>) {
        match outcome {
            Ok(()) => {
                let message = "The pod's supervisor was frozen from outside and goes on";
                self.tell(events::Kind::Warning, "Thawed", message.to_owned());
                self.guard_shim(GUARD_AGAIN);
            }
            Err(error) => {
                let message = format!("The pod's supervisor was frozen from outside: {error}");
                self.tell(events::Kind::Warning, "FailedThaw", message);
            }
        }
    }

    pub(super) fn drifted(&mut self, name: &str, drift: Drift) {
        let Some(attempt) = self.running_mut(name).map(|running| running.attempt) else {
            return;
        };
        match drift {
            Drift::Frozen => {
                let thawed = self.shim.as_ref().map(|shim| shim.thaw(name, attempt));
                match thawed {
                    Some(Ok(())) => {
                        let message =
                            format!("Container {name} was frozen from outside and goes on");
                        self.tell_container(name, events::Kind::Warning, "Thawed", message);
                        // One that is frozen again at once, or from above the pod, is not fought over without end.
                        self.guard_later(name, attempt);
                    }
                    Some(Err(error)) => {
                        let message = format!("Container {name} was frozen from outside: {error}");
                        self.tell_container(name, events::Kind::Warning, "FailedThaw", message);
                    }
                    None => {}
                }
            }
            Drift::Moved => {
                let kill_at = clock::now().plus(self.own_grace());
                let message =
                    format!("Container {name} was moved out of its cgroup, will be restarted");
                if let Some(health) = self.health.get_mut(name) {
                    health.doom();
                }
                if let Some(running) = self.running_mut(name) {
                    running.doom.get_or_insert(Doom { message, kill_at });
                }
                self.record(name);
                self.show_health(name);
            }
        }
    }

    /// Tells when somebody else has killed a container that was to run: by its process, its cgroup or a tool. The
    /// first process of a PID namespace cannot be killed from within it (pid_namespaces(7)).
    pub(super) fn tell_if_killed(&mut self, name: &str, exit: &Exit) {
        if exit.signal == Some(libc::SIGKILL) && !exit.oom_killed && self.is_kept(name) {
            let message = format!("Container {name} was killed from outside");
            self.tell_container(name, events::Kind::Warning, "Killed", message);
        }
    }

    /// Nobody here has asked the container to end.
    fn is_kept(&mut self, name: &str) -> bool {
        let pod_stays = self.stop_by.is_none() && self.state.outcome.is_none();
        pod_stays
            && self.running_mut(name).is_some_and(|running| {
                running.doom.is_none()
                    && running.stopped_at.is_none()
                    && running.killed_at.is_none()
            })
    }

    fn guard_later(&mut self, name: &str, attempt: u32) {
        let container = name.to_owned();
        self.errands.spawn(async move {
            tokio::time::sleep(GUARD_AGAIN).await;
            Report::GuardAgain { container, attempt }
        });
    }
}
