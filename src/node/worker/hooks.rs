//! Lifecycle hooks, and what whoever leads requests to a pod is told of it.
//!
//! It begins what `lifecycle` asks for and takes the reports in; it decides no order.

use std::time::Duration;

use k8s_openapi::api::core::v1::{self as core, PodStatus};

use super::Worker;
use super::errands::Report;
use crate::events::Kind;
use crate::node::compile::check::{self, Hook};
use crate::node::lifecycle::{Doom, HookState, Leaving, Want};
use crate::node::probe;
use crate::sys::clock;

/// Data planes answer within half a second; one that does not is passed over.
const WITHDRAWN_WITHIN: Duration = Duration::from_secs(5);

/// On a pod: `"false"` has its containers told to stop as soon as nothing leads to the pod any more, whoever still
/// talks to it.
const WAIT_FOR_CONNECTIONS: &str = "joey/wait-for-connections";

fn waits_for_connections(pod: &core::Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(WAIT_FOR_CONNECTIONS)).is_none_or(|word| word != "false")
}

impl Worker {
    pub(super) fn begin_hook(&mut self, name: &str, hook: Hook) {
        if hook == Hook::PreStop {
            self.tell_killing(name);
        }
        let action = self.spec_of(name).and_then(|(spec, _)| check::hook(spec, hook));
        let target = self.target(name);
        let Some(running) = self.running_mut(name) else {
            return;
        };
        let state = match hook {
            Hook::PostStart => &mut running.post_start,
            Hook::PreStop => &mut running.pre_stop,
        };
        // The manifest cannot lose a hook; were it so, nothing is left to do.
        *state = if action.is_some() { HookState::UnderWay } else { HookState::Done };
        let attempt = running.attempt;
        if let Some(action) = action {
            let container = name.to_owned();
            self.errands.spawn(async move {
                let outcome = probe::hook(&action, &target).await;
                Report::Hooked { container, attempt, hook, outcome }
            });
        }
    }

    pub(super) fn hooked(&mut self, name: &str, hook: Hook, outcome: Result<(), String>) {
        let grace = self.own_grace();
        let Some(running) = self.running_mut(name) else {
            return;
        };
        match (hook, &outcome) {
            (Hook::PostStart, Ok(())) => running.post_start = HookState::Done,
            // It never counts as running.
            (Hook::PostStart, Err(_)) => {
                running.doom.get_or_insert(Doom {
                    message: "FailedPostStartHook".to_owned(),
                    kill_at: clock::now().plus(grace),
                });
            }
            (Hook::PreStop, _) => running.pre_stop = HookState::Done,
        }
        if let Err(reason) = outcome {
            let (event, message) = match hook {
                Hook::PostStart => ("FailedPostStartHook", "PostStartHook failed"),
                Hook::PreStop => ("FailedPreStopHook", "PreStopHook failed"),
            };
            self.tell_container(name, Kind::Warning, event, format!("{message}: {reason}"));
        }
        self.record(name);
    }

    /// Says once that the container is being ended, and why.
    pub(super) fn tell_killing(&mut self, name: &str) {
        let doom = self.running_mut(name).and_then(|running| running.doom.clone());
        let message =
            doom.map_or_else(|| format!("Stopping container {name}"), |doom| doom.message);
        self.tell_container(name, Kind::Normal, "Killing", message);
    }

    /// What the API will have said of readiness in a moment is told to the data planes now: until then every new connection
    /// to a dead process would be refused.
    pub(super) fn tell_planes(&mut self, status: &PodStatus) {
        match (is_ready(&self.written), is_ready(status)) {
            (true, false) => {
                let (network, uid) = (self.shared.network.clone(), self.uid.clone());
                let errand = self.errands.spawn(async move {
                    network.pass_over(&uid).await;
                    Report::PassedOver
                });
                self.passed_over = Some(errand);
            }
            (false, true) => {
                if let Some(errand) = self.passed_over.take() {
                    errand.abort();
                }
            }
            (true, true) | (false, false) => {}
        }
    }

    pub(super) fn withdraw(&mut self) {
        self.state.leaving = Leaving::Asked;
        let (network, uid) = (self.shared.network.clone(), self.uid.clone());
        self.errands.spawn(async move {
            let withdrawn = network.withdraw(&uid);
            if tokio::time::timeout(WITHDRAWN_WITHIN, withdrawn).await.is_err() {
                tracing::warn!(pod = uid, "a data plane did not let go of the pod in time");
            }
            Report::Withdrawn
        });
    }

    /// Half of what is left of the grace is for those who still talk to the pod, the rest for the pod to end in.
    pub(super) fn drain(&mut self, want: &Want) {
        self.state.leaving = Leaving::Draining;
        let stop_by = want.stop_by.or(self.state.concluded_stop_by);
        let limit = stop_by.map_or(Duration::ZERO, |by| by.since(clock::now()) / 2);
        let address = self.attached.as_ref().map(|attached| attached.address);
        let address = address.filter(|_| waits_for_connections(&self.pod));
        let (network, uid) = (self.shared.network.clone(), self.uid.clone());
        self.errands.spawn(async move {
            if let Some(address) = address
                && !network.drained(address, limit).await
            {
                tracing::info!(pod = uid, "stopped although connections to it are still open");
            }
            Report::Drained
        });
    }

    /// What the manifest grants each container, whatever a deletion says.
    pub(super) fn own_grace(&self) -> Duration {
        let spec = self.pod.spec.as_ref();
        let seconds = spec.and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }
}

fn is_ready(status: &PodStatus) -> bool {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
