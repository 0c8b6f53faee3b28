//! What a pod needs next: the state of one pod, what is wanted of it, and the one step that follows.
//!
//! Pure: it performs nothing and reads no clock. The worker performs the step, writes the outcome into
//! [`PodState`] and asks again.
//!
//! ```text
//!          ┌──────────────── wanted ────────────────┐   deleted, concluded, deadline
//! Volumes → Attach → Launch → init 1 … init n → containers ──────────┐
//!                      ▲                │   ▲                        ▼
//!                      └─ shim lost ────┘   └─ back-off ◀─ ended   Stop → (grace) → Kill
//!                                                                    │ nothing runs
//!                                        Finalize ◀ RemoveVolumes ◀ Detach ◀ RemoveShim
//! ```

use std::collections::BTreeMap;

use crate::model::time::Timestamp;
use crate::node::restart::Backoff;

#[cfg(test)]
mod tests;

/// What must be done with the pod now.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    Do(Step),
    /// Nothing before that moment, or before something changes.
    Wait {
        until: Timestamp,
    },
    /// Nothing until something changes.
    Settled,
}

/// One effect on the node.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    PrepareVolumes,
    Attach,
    Launch,
    /// Finds the container's image, or begins to pull it.
    Image(String),
    Start(String),
    /// Tells that the container, or its image, is now waited for.
    TellBackoff(String),
    /// Asks the container to end (SIGTERM or its stop signal).
    Stop(String),
    /// Kills every process of the container.
    Kill(String),
    /// Records the pod's final phase; from here on it only comes down.
    Conclude(Outcome),
    RemoveShim,
    Detach,
    RemoveVolumes,
    /// Nothing is left on the node: the object may go.
    Finalize,
}

/// What the API wants of the pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Want {
    /// In the order in which they must succeed.
    pub init: Vec<String>,
    pub containers: Vec<String>,
    pub restart: RestartPolicy,
    pub host_network: bool,
    /// `activeDeadlineSeconds` after the start of the pod.
    pub active_until: Option<Timestamp>,
    /// Set when the pod is to go: whatever still runs then is killed.
    pub stop_by: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// The pod as its worker knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct PodState {
    pub volumes_ready: bool,
    pub attached: bool,
    pub shim: Shim,
    /// Init containers and containers by name; the same names as in [`Want`].
    pub containers: BTreeMap<String, Container>,
    /// After the loss of the pod's surroundings (a reboot): attempts of init containers that no longer count.
    pub stale_init: BTreeMap<String, u32>,
    /// Set once, never taken back.
    pub outcome: Option<Outcome>,
    /// While a concluded pod comes down: when what still runs is killed.
    pub concluded_stop_by: Option<Timestamp>,
    /// No step of set-up or teardown before that moment, because the last one failed.
    pub setback_until: Option<Timestamp>,
    /// The object has been taken care of; the worker may end.
    pub finalized: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shim {
    Absent,
    Alive,
    /// It died and took its containers along.
    Lost,
}

/// How a pod ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    Failed {
        /// `status.reason`, such as DeadlineExceeded; empty when a container's failure is the reason.
        reason: String,
        message: String,
    },
}

/// One container as its worker knows it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Container {
    pub run: Run,
    /// How the attempt before the current one ended.
    pub previous: Option<Ended>,
    pub image: ImageState,
    /// Why it could not be started, and when to try again.
    pub refused: Option<Refused>,
    pub backoff: Backoff,
    pub image_backoff: Backoff,
    /// The current wait was told (status, Event); false again whenever a new one begins.
    pub backoff_told: bool,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub enum Run {
    /// Never started.
    #[default]
    Idle,
    Running(Running),
    Ended(Ended),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Running {
    pub attempt: u32,
    pub started_at: Timestamp,
    /// When it was asked to end.
    pub stopped_at: Option<Timestamp>,
    /// When it was last killed.
    pub killed_at: Option<Timestamp>,
}

/// The end of one attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    pub attempt: u32,
    pub exit_code: i32,
    pub signal: Option<i32>,
    pub reason: EndReason,
    pub message: String,
    /// `None` when the process never ran.
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    Completed,
    Error,
    OomKilled,
    /// The process could not be executed (exit code 128).
    StartError,
    /// It ran before, and nothing tells how it ended (the host was rebooted).
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub enum ImageState {
    /// To be looked for before the next start.
    #[default]
    Unchecked,
    Pulling,
    Ready,
    Missing(MissingImage),
}

#[derive(Debug, Clone, PartialEq)]
pub struct MissingImage {
    pub reason: MissingReason,
    pub message: String,
    pub failed_at: Timestamp,
    pub retry_at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingReason {
    ErrImagePull,
    InvalidImageName,
    ErrImageNeverPull,
    ImageInspectError,
}

/// A container that cannot be started as it is written; the waiting reason of its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// CreateContainerConfigError, CreateContainerError, RunContainerError.
    pub reason: &'static str,
    pub message: String,
    pub retry_at: Timestamp,
}

/// How long a killed container may take to vanish before it is killed again.
const KILL_AGAIN_AFTER: std::time::Duration = std::time::Duration::from_secs(5);

/// How long a failed pull shows as ErrImagePull before it shows as ImagePullBackOff.
const ERROR_SHOWN_FOR: std::time::Duration = std::time::Duration::from_secs(1);

/// The next step of a pod.
pub fn next(state: &PodState, want: &Want, now: Timestamp) -> Next {
    if state.finalized {
        return Next::Settled;
    }
    match (want.stop_by, &state.outcome) {
        (Some(stop_by), _) => come_down(state, stop_by, AfterCleanup::Finalize, now),
        (None, Some(_)) => {
            let stop_by = state.concluded_stop_by.unwrap_or(now);
            come_down(state, stop_by, AfterCleanup::Stay, now)
        }
        (None, None) => match conclusion(state, want, now) {
            Some(outcome) => Next::Do(Step::Conclude(outcome)),
            None => {
                let next = come_up(state, want, now);
                match want.active_until {
                    Some(until) => soonest(next, Next::Wait { until }),
                    None => next,
                }
            }
        },
    }
}

/// Whether an ended container is to be started again.
pub fn restarts(policy: RestartPolicy, exit_code: i32) -> bool {
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => exit_code != 0,
        RestartPolicy::Never => false,
    }
}

/// Init containers must succeed once, so Always means OnFailure for them.
pub fn init_policy(policy: RestartPolicy) -> RestartPolicy {
    match policy {
        RestartPolicy::Always | RestartPolicy::OnFailure => RestartPolicy::OnFailure,
        RestartPolicy::Never => RestartPolicy::Never,
    }
}

/// Init containers are done: all succeeded, or a container has been started since.
pub fn initialized(state: &PodState, want: &Want) -> bool {
    let any_started = want
        .containers
        .iter()
        .any(|name| state.containers.get(name).is_some_and(|c| c.run != Run::Idle));
    (any_started && state.stale_init.is_empty())
        || want.init.iter().all(|name| has_succeeded(state, name))
}

/// The init container's run counts and ended well.
pub fn has_succeeded(state: &PodState, name: &str) -> bool {
    let counts = |attempt: u32| state.stale_init.get(name).is_none_or(|stale| attempt > *stale);
    let container = state.containers.get(name);
    container.is_some_and(
        |c| matches!(&c.run, Run::Ended(ended) if ended.exit_code == 0 && counts(ended.attempt)),
    )
}

impl Container {
    /// The number of the newest attempt, which is `restartCount`.
    pub fn attempt(&self) -> Option<u32> {
        match &self.run {
            Run::Idle => None,
            Run::Running(running) => Some(running.attempt),
            Run::Ended(ended) => Some(ended.attempt),
        }
    }

    /// The number of the next start.
    pub fn next_attempt(&self) -> u32 {
        self.attempt().map_or(0, |attempt| attempt.saturating_add(1))
    }
}

enum AfterCleanup {
    Finalize,
    /// A finished pod stays in the API until somebody deletes it.
    Stay,
}

fn conclusion(state: &PodState, want: &Want, now: Timestamp) -> Option<Outcome> {
    if want.active_until.is_some_and(|until| until <= now) {
        return Some(Outcome::Failed {
            reason: "DeadlineExceeded".into(),
            message: "Pod was active on the node longer than the specified deadline".into(),
        });
    }
    let ended = |name: &String| match &state.containers.get(name)?.run {
        Run::Ended(ended) => Some(ended),
        Run::Idle | Run::Running(_) => None,
    };
    let failed = || Outcome::Failed { reason: String::new(), message: String::new() };
    if !initialized(state, want) {
        let stuck = want
            .init
            .iter()
            .filter_map(ended)
            .any(|e| e.exit_code != 0 && !restarts(init_policy(want.restart), e.exit_code));
        return stuck.then(failed);
    }
    let mut all_succeeded = true;
    for name in &want.containers {
        let ended = ended(name)?;
        if restarts(want.restart, ended.exit_code) {
            return None;
        }
        all_succeeded &= ended.exit_code == 0;
    }
    Some(if all_succeeded { Outcome::Succeeded } else { failed() })
}

fn come_up(state: &PodState, want: &Want, now: Timestamp) -> Next {
    if let Some(until) = state.setback_until.filter(|until| *until > now) {
        return Next::Wait { until };
    }
    match state.shim {
        Shim::Lost => return Next::Do(Step::RemoveShim),
        Shim::Absent if !state.volumes_ready => return Next::Do(Step::PrepareVolumes),
        Shim::Absent if !state.attached && !want.host_network => return Next::Do(Step::Attach),
        Shim::Absent => return Next::Do(Step::Launch),
        Shim::Alive => {}
    }
    if !initialized(state, want) {
        // The first that has not succeeded is the only one that may run.
        let name = want.init.iter().find(|name| !has_succeeded(state, name));
        return name.and_then(|name| Some((name, state.containers.get(name)?))).map_or(
            Next::Settled,
            |(name, c)| match (&c.run, state.stale_init.get(name)) {
                (Run::Ended(ended), Some(stale)) if ended.attempt <= *stale => {
                    container_next(name, c, RestartPolicy::Always, now)
                }
                _ => container_next(name, c, init_policy(want.restart), now),
            },
        );
    }
    want.containers
        .iter()
        .filter_map(|name| Some((name, state.containers.get(name)?)))
        .map(|(name, c)| container_next(name, c, want.restart, now))
        .fold(Next::Settled, soonest)
}

fn container_next(
    name: &str,
    container: &Container,
    policy: RestartPolicy,
    now: Timestamp,
) -> Next {
    let not_before = match &container.run {
        Run::Running(_) => return Next::Settled,
        Run::Ended(ended) if !restarts(policy, ended.exit_code) => return Next::Settled,
        Run::Ended(ended) => container.backoff.ready_at(ended.finished_at),
        Run::Idle => now,
    };
    if not_before > now && !container.backoff_told {
        return Next::Do(Step::TellBackoff(name.to_owned()));
    }
    let refused_until = container.refused.as_ref().map(|refused| refused.retry_at);
    let not_before = refused_until.map_or(not_before, |until| until.max(not_before));
    if not_before > now {
        return Next::Wait { until: not_before };
    }
    match &container.image {
        ImageState::Unchecked => Next::Do(Step::Image(name.to_owned())),
        ImageState::Pulling => Next::Settled,
        ImageState::Missing(missing) if missing.retry_at > now => {
            // The error itself stands in the status for a moment before the back-off takes its place.
            let tell_at = missing.failed_at.plus(ERROR_SHOWN_FOR);
            match missing.reason {
                MissingReason::ErrImagePull if !container.backoff_told && tell_at <= now => {
                    Next::Do(Step::TellBackoff(name.to_owned()))
                }
                MissingReason::ErrImagePull if !container.backoff_told => {
                    Next::Wait { until: tell_at.min(missing.retry_at) }
                }
                MissingReason::ErrImagePull
                | MissingReason::InvalidImageName
                | MissingReason::ErrImageNeverPull
                | MissingReason::ImageInspectError => Next::Wait { until: missing.retry_at },
            }
        }
        ImageState::Missing(_) => Next::Do(Step::Image(name.to_owned())),
        ImageState::Ready => Next::Do(Step::Start(name.to_owned())),
    }
}

fn come_down(state: &PodState, stop_by: Timestamp, then: AfterCleanup, now: Timestamp) -> Next {
    let mut waiting = None;
    // With the shim its containers are gone, whatever we last heard of them.
    let running = state.containers.iter().filter_map(|(name, c)| match &c.run {
        Run::Running(running) if state.shim == Shim::Alive => Some((name, running)),
        Run::Running(_) | Run::Idle | Run::Ended(_) => None,
    });
    for (name, running) in running {
        let next = match (running.stopped_at, running.killed_at) {
            (_, Some(killed_at)) => {
                let again = killed_at.plus(KILL_AGAIN_AFTER);
                if again <= now {
                    Next::Do(Step::Kill(name.clone()))
                } else {
                    Next::Wait { until: again }
                }
            }
            // Also with no grace at all the process hears its stop signal first, as under kubelet.
            (None, None) => Next::Do(Step::Stop(name.clone())),
            (Some(_), None) if stop_by <= now => Next::Do(Step::Kill(name.clone())),
            (Some(_), None) => Next::Wait { until: stop_by },
        };
        waiting = Some(match waiting {
            Some(before) => soonest(before, next),
            None => next,
        });
    }
    if let Some(next) = waiting {
        return next;
    }
    if let Some(until) = state.setback_until.filter(|until| *until > now) {
        return Next::Wait { until };
    }
    let step = match state.shim {
        Shim::Alive | Shim::Lost => Step::RemoveShim,
        Shim::Absent if state.attached => Step::Detach,
        Shim::Absent if state.volumes_ready => Step::RemoveVolumes,
        Shim::Absent => match then {
            AfterCleanup::Finalize => Step::Finalize,
            AfterCleanup::Stay => return Next::Settled,
        },
    };
    Next::Do(step)
}

/// A step before a wait, an earlier wait before a later one, anything before nothing.
fn soonest(a: Next, b: Next) -> Next {
    match (a, b) {
        (Next::Do(step), _) | (_, Next::Do(step)) => Next::Do(step),
        (Next::Wait { until: a }, Next::Wait { until: b }) => Next::Wait { until: a.min(b) },
        (wait @ Next::Wait { .. }, Next::Settled) | (Next::Settled, wait @ Next::Wait { .. }) => {
            wait
        }
        (Next::Settled, Next::Settled) => Next::Settled,
    }
}
