//! How a pod comes down: nothing leads to it any more, its containers end, then its surroundings go.
//!
//! Pure, a part of [`super::next`]. Each container ends in this order, within the grace period (S23, S24):
//!
//! ```text
//! Withdraw ─────────────── acknowledged ─▶ Drain ─── no flow left ─┐
//! PreStop  ───────────────────────── done ─────────────────────────┴▶ Stop ─▶ (ended | grace over ─▶ Kill)
//!
//! Sidecars are told to stop when the containers have ended, the last one first (KEP-753).
//!
//! nothing runs ─▶ RemoveShim ─▶ Detach ─▶ RemoveVolumes ─▶ Finalize
//! ```

use std::time::Duration;

use super::{HookState, Leaving, Next, PodState, Run, Running, Shim, Step, Want, soonest};
use crate::model::time::Timestamp;

/// How long a killed container may take to vanish before it is killed again.
const KILL_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What a container has at least between its stop signal and its end when its hook, or its turn, took the rest of the
/// grace (kubelet's `minimumGracePeriodInSeconds`).
const AFTER_WAIT: Duration = Duration::from_secs(2);

/// What becomes of the object once nothing is left.
pub enum Then {
    Finalize,
    /// A finished pod stays in the API until somebody deletes it.
    Stay,
}

pub fn next(state: &PodState, want: &Want, stop_by: Timestamp, then: Then, now: Timestamp) -> Next {
    // With the shim its containers are gone, whatever we last heard of them.
    let running: Vec<(&String, &Running)> = state
        .containers
        .iter()
        .filter_map(|(name, c)| match &c.run {
            Run::Running(running) if state.shim == Shim::Alive => Some((name, running)),
            Run::Running(_) | Run::Idle | Run::Ended(_) => None,
        })
        .collect();
    let is_reachable = state.attached || !running.is_empty();
    if state.leaving == Leaving::Not && is_reachable {
        return Next::Do(Step::Withdraw);
    }
    if !running.is_empty() {
        if state.leaving == Leaving::Withdrawn && !want.host_network && stop_by > now {
            return Next::Do(Step::Drain);
        }
        // What is under way to a host is not told from what is under way to a pod in its network.
        let is_quiet = match state.leaving {
            Leaving::Drained => true,
            Leaving::Withdrawn => want.host_network,
            Leaving::Not | Leaving::Asked | Leaving::Draining => false,
        };
        let last = last_sidecar(want, &running);
        return running
            .into_iter()
            .map(|(name, running)| {
                let turn = match want.sidecars.contains(name) {
                    true => Turn::InOrder { is_next: is_quiet && last == Some(name) },
                    false => Turn::AtOnce { is_quiet },
                };
                container(name, running, stop_by, turn, now)
            })
            .fold(Next::Settled, soonest);
    }
    // What could not be set up is not waited for any more.
    if let Some(setback) = state.setback.filter(|s| s.of_teardown && s.until > now) {
        return Next::Wait { until: setback.until };
    }
    match state.shim {
        Shim::Alive | Shim::Lost => Next::Do(Step::RemoveShim),
        // The address goes to somebody else next: nothing may lead to it then.
        Shim::Absent if state.attached && state.leaving == Leaving::Asked => Next::Settled,
        Shim::Absent if state.attached => Next::Do(Step::Detach),
        Shim::Absent if state.volumes_ready => Next::Do(Step::RemoveVolumes),
        Shim::Absent => match then {
            Then::Finalize => Next::Do(Step::Finalize),
            Then::Stay => Next::Settled,
        },
    }
}

/// The sidecar that ends next: none while anything else runs.
fn last_sidecar<'a>(want: &'a Want, running: &[(&String, &Running)]) -> Option<&'a String> {
    if running.iter().any(|(name, _)| !want.sidecars.contains(*name)) {
        return None;
    }
    want.init.iter().rev().find(|name| running.iter().any(|(one, _)| one == name))
}

/// When a container may be told to stop before the grace is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// As soon as nobody sends it requests any more.
    AtOnce { is_quiet: bool },
    /// A sidecar, when everything that relies on it has ended.
    InOrder { is_next: bool },
}

/// The next step towards the end of one container.
pub fn container(
    name: &str,
    running: &Running,
    stop_by: Timestamp,
    turn: Turn,
    now: Timestamp,
) -> Next {
    let kill = || Next::Do(Step::Kill(name.to_owned()));
    if let Some(killed_at) = running.killed_at {
        let again = killed_at.plus(KILL_AGAIN_AFTER);
        return if again <= now { kill() } else { Next::Wait { until: again } };
    }
    // The grace may be over before it hears anything.
    let had_to_wait = matches!(turn, Turn::InOrder { .. })
        || matches!(running.pre_stop, HookState::UnderWay | HookState::Done);
    if let Some(stopped_at) = running.stopped_at {
        let kill_at = match had_to_wait {
            true => stop_by.max(stopped_at.plus(AFTER_WAIT)),
            false => stop_by,
        };
        return if kill_at <= now { kill() } else { Next::Wait { until: kill_at } };
    }
    let has_time = stop_by > now;
    match running.pre_stop {
        HookState::Due if has_time => Next::Do(Step::PreStop(name.to_owned())),
        HookState::UnderWay if has_time => Next::Wait { until: stop_by },
        HookState::Absent | HookState::Due | HookState::UnderWay | HookState::Done => {
            // Also with no grace at all the process hears its stop signal first, as under kubelet.
            let (Turn::AtOnce { is_quiet: may_stop } | Turn::InOrder { is_next: may_stop }) = turn;
            match may_stop || !has_time {
                true => Next::Do(Step::Stop(name.to_owned())),
                false => Next::Wait { until: stop_by },
            }
        }
    }
}
