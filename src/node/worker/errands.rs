//! What a worker has others do while it goes on: probes, hooks, leaving the data planes. Each ends in a report.
//!
//! It performs nothing itself; an errand whose worker has gone is dropped.

use tokio::task::JoinError;

use super::Worker;
use crate::node::compile::check::Hook;
use crate::node::health::Kind;
use crate::node::lifecycle::{Leaving, Run, Running};
use crate::node::milestones::Milestones;
use crate::node::probe::Answer;
use crate::runtime::drift::Drift;

/// What an errand came to.
pub enum Report {
    Probed {
        container: String,
        attempt: u32,
        kind: Kind,
        answer: Answer,
    },
    /// Its ports are listened on, or it was long enough.
    PortsOpen {
        container: String,
        attempt: u32,
    },
    Hooked {
        container: String,
        attempt: u32,
        hook: Hook,
        outcome: Result<(), String>,
    },
    Withdrawn,
    Drained,
    /// The API has had its time to say that the pod is not ready.
    PassedOver,
    GuardAgain {
        container: String,
        attempt: u32,
    },
    /// The pod's shim was frozen from outside; how letting it go on went. `None`: it has ended by itself.
    ShimWoken(Option<std::io::Result<()>>),
    /// `None`: it has ended by itself.
    Drifted {
        container: String,
        attempt: u32,
        drift: Option<Drift>,
    },
}

impl Worker {
    pub(super) fn heed(&mut self, report: Result<Report, JoinError>) {
        match report {
            Ok(Report::Probed { container, attempt, kind, answer }) => {
                if self.is_current(&container, attempt) {
                    self.probed(&container, kind, answer);
                }
            }
            Ok(Report::PortsOpen { container, attempt }) => {
                if self.is_current(&container, attempt) {
                    self.ports_open(&container);
                }
            }
            Ok(Report::Hooked { container, attempt, hook, outcome }) => {
                if self.is_current(&container, attempt) {
                    self.hooked(&container, hook, outcome);
                }
            }
            Ok(Report::Drifted { container, attempt, drift }) => {
                if let Some(drift) = drift
                    && self.is_current(&container, attempt)
                {
                    self.drifted(&container, drift);
                }
            }
            Ok(Report::ShimWoken(woken)) => {
                if let Some(outcome) = woken {
                    self.shim_woken(outcome);
                }
            }
            Ok(Report::GuardAgain { container, attempt }) => {
                if self.is_current(&container, attempt) {
                    self.guard(&container);
                }
            }
            Ok(Report::Withdrawn) => self.state.leaving = Leaving::Withdrawn,
            Ok(Report::PassedOver) => {}
            Ok(Report::Drained) => self.state.leaving = Leaving::Drained,
            // As if it had happened in the worker itself, which is contained.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_cancelled) => {}
        }
    }

    fn is_current(&mut self, container: &str, attempt: u32) -> bool {
        self.running_mut(container).is_some_and(|running| running.attempt == attempt)
    }

    pub(super) fn running_mut(&mut self, name: &str) -> Option<&mut Running> {
        match &mut self.state.containers.get_mut(name)?.run {
            Run::Running(running) => Some(running),
            Run::Idle | Run::Ended(_) => None,
        }
    }

    /// Writes down what must not happen again should the daemon be killed now.
    pub(super) fn record(&mut self, name: &str) {
        let directory = self.paths.milestones();
        let milestones = self.state.containers.get(name).and_then(Milestones::of);
        let Some(milestones) = milestones.filter(|milestones| !milestones.is_empty()) else {
            return;
        };
        // A file of a hundred bytes in memory: shorter than handing it to another thread.
        if let Err(error) = milestones.write(&directory, name) {
            tracing::warn!(pod = %self.uid, container = name, %error, "milestones were not recorded");
        }
    }
}
