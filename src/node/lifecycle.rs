//! What a pod needs next: the state of one pod, what is wanted of it, and the one step that follows.
//!
//! Pure: it performs nothing and reads no clock. The worker performs the step, writes the outcome into
//! [`PodState`] and asks again.
//!
//! ```text
//!          ┌──────────────── wanted ────────────────┐   deleted, concluded, deadline
//! Volumes → Attach → Launch → init 1 … init n → containers ──────────┐
//!                      ▲                │   ▲                        ▼
//!                      └─ shim lost ────┘   └─ back-off ◀─ ended   (`down`)
//! ```
//! A container that the pod cannot keep (its liveness probe failed) is stopped in the same order, and started again.
//! Sidecars (KEP-753) stand among the init containers: those behind them wait until they have started, not until they
//! have ended; they run on beside the containers, and end after them.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::time::Timestamp;
use crate::node::restart::Backoff;

mod down;
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
    /// Begins the container's postStart hook.
    PostStart(String),
    /// Begins the container's preStop hook.
    PreStop(String),
    /// Takes the pod's address out of whatever leads to it.
    Withdraw,
    /// Begins to wait for the last flow to the pod.
    Drain,
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
    /// In the order in which they must succeed, or start if they are sidecars.
    pub init: Vec<String>,
    /// Those of `init` that run on beside the containers.
    pub sidecars: BTreeSet<String>,
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

/// A step of set-up or teardown failed; the pod waits before the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setback {
    pub until: Timestamp,
    /// A pod that is to go does not wait for what could not be set up.
    pub of_teardown: bool,
}

/// The pod as its worker knows it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PodState {
    pub volumes_ready: bool,
    pub attached: bool,
    /// It runs in its network, and the network could not say where when the daemon came back.
    pub address_unknown: bool,
    pub shim: Shim,
    /// Init containers and containers by name; the same names as in [`Want`].
    pub containers: BTreeMap<String, Container>,
    /// After the loss of the pod's surroundings (a reboot): ends of init containers that no longer count.
    pub stale_init: BTreeMap<String, Ended>,
    /// How far the pod is out of what leads requests to it.
    pub leaving: Leaving,
    /// Set once, never taken back.
    pub outcome: Option<Outcome>,
    /// While a concluded pod comes down: when what still runs is killed.
    pub concluded_stop_by: Option<Timestamp>,
    /// The last step of set-up or teardown failed.
    pub setback: Option<Setback>,
    /// The object has been taken care of; the worker may end.
    pub finalized: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shim {
    #[default]
    Absent,
    Alive,
    /// It died and took its containers along.
    Lost,
}

/// A pod that goes leaves every data plane before its containers are told to stop, so that no request meets a
/// process that has been asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Leaving {
    #[default]
    Not,
    /// The data planes have been asked.
    Asked,
    /// None of them leads to it any more; what is under way may still end.
    Withdrawn,
    Draining,
    /// Nobody talks to it, or it was long enough.
    Drained,
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
    /// The node did not take it: no container of it was ever considered.
    Rejected {
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
    /// Its image was changed while it ran: it starts again, whatever its restart policy says of its end.
    pub renewed: bool,
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
    pub post_start: HookState,
    pub pre_stop: HookState,
    /// Its startup probe, if any, has succeeded.
    pub started: bool,
    /// It may be sent requests.
    pub ready: bool,
    /// It is to end although the pod stays.
    pub doom: Option<Doom>,
    /// When it was asked to end.
    pub stopped_at: Option<Timestamp>,
    /// When it was last killed.
    pub killed_at: Option<Timestamp>,
}

/// Where a hook of one attempt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HookState {
    /// There is none.
    #[default]
    Absent,
    Due,
    UnderWay,
    Done,
}

/// Why a container is stopped that its pod wants.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Doom {
    /// For the Event: `Container web failed liveness probe, will be restarted`.
    pub message: String,
    /// Whatever still runs then is killed.
    pub kill_at: Timestamp,
}

impl Running {
    /// An attempt without hooks and probes, as it has just been started.
    pub fn new(attempt: u32, started_at: Timestamp) -> Running {
        Running {
            attempt,
            started_at,
            post_start: HookState::Absent,
            pre_stop: HookState::Absent,
            started: true,
            ready: true,
            doom: None,
            stopped_at: None,
            killed_at: None,
        }
    }

    /// The hook after its start, if any, is over: only now it counts as running.
    pub fn is_up(&self) -> bool {
        matches!(self.post_start, HookState::Absent | HookState::Done)
    }
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

/// How long a failed pull shows as ErrImagePull before it shows as ImagePullBackOff.
const ERROR_SHOWN_FOR: std::time::Duration = std::time::Duration::from_secs(1);

/// Whether the pod is on its way down: its object is being deleted, or it has done what it was for.
pub fn comes_down(state: &PodState, want: &Want) -> bool {
    want.stop_by.is_some() || state.outcome.is_some()
}

/// The next step of a pod.
pub fn next(state: &PodState, want: &Want, now: Timestamp) -> Next {
    if state.finalized {
        return Next::Settled;
    }
    match (want.stop_by, &state.outcome) {
        (Some(stop_by), _) => down::next(state, want, stop_by, down::Then::Finalize, now),
        (None, Some(_)) => {
            let stop_by = state.concluded_stop_by.unwrap_or(now);
            down::next(state, want, stop_by, down::Then::Stay, now)
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

/// Init containers are done: all succeeded and all sidecars started, or a container has been started since.
pub fn initialized(state: &PodState, want: &Want) -> bool {
    let any_started = want
        .containers
        .iter()
        .any(|name| state.containers.get(name).is_some_and(|c| c.run != Run::Idle));
    (any_started && state.stale_init.is_empty())
        || want.init.iter().all(|name| lets_pass(state, want, name))
}

/// Whether those behind this init container may start.
pub fn lets_pass(state: &PodState, want: &Want, name: &str) -> bool {
    match want.sidecars.contains(name) {
        true => state.containers.get(name).is_some_and(
            |c| matches!(&c.run, Run::Running(running) if running.is_up() && running.started),
        ),
        false => has_succeeded(state, name),
    }
}

/// The init container's run counts and ended well.
pub fn has_succeeded(state: &PodState, name: &str) -> bool {
    let counts =
        |attempt: u32| state.stale_init.get(name).is_none_or(|stale| attempt > stale.attempt);
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
            .filter(|name| !want.sidecars.contains(*name))
            .filter_map(ended)
            .any(|e| e.exit_code != 0 && !restarts(init_policy(want.restart), e.exit_code));
        return stuck.then(failed);
    }
    let mut all_succeeded = true;
    for name in &want.containers {
        let ended = ended(name)?;
        let is_renewed = state.containers.get(name).is_some_and(|c| c.renewed);
        if is_renewed || restarts(want.restart, ended.exit_code) {
            return None;
        }
        all_succeeded &= ended.exit_code == 0;
    }
    Some(if all_succeeded { Outcome::Succeeded } else { failed() })
}

fn come_up(state: &PodState, want: &Want, now: Timestamp) -> Next {
    if let Some(setback) = state.setback.filter(|setback| setback.until > now) {
        return Next::Wait { until: setback.until };
    }
    match state.shim {
        Shim::Lost => return Next::Do(Step::RemoveShim),
        Shim::Absent if !state.volumes_ready => return Next::Do(Step::PrepareVolumes),
        Shim::Absent if !state.attached && !want.host_network => return Next::Do(Step::Attach),
        Shim::Absent => return Next::Do(Step::Launch),
        Shim::Alive if state.address_unknown => return Next::Do(Step::Attach),
        Shim::Alive => {}
    }
    let mut next = Next::Settled;
    let is_initialized = initialized(state, want);
    for name in &want.init {
        let Some(c) = state.containers.get(name) else { continue };
        let is_sidecar = want.sidecars.contains(name);
        if !is_sidecar && (is_initialized || has_succeeded(state, name)) {
            continue;
        }
        let policy = match (&c.run, state.stale_init.get(name)) {
            _ if is_sidecar => RestartPolicy::Always,
            (Run::Ended(ended), Some(stale)) if ended.attempt <= stale.attempt => {
                RestartPolicy::Always
            }
            _ => init_policy(want.restart),
        };
        next = soonest(next, container_next(name, c, policy, now));
        if !is_initialized && !lets_pass(state, want, name) {
            return next;
        }
    }
    for name in &want.containers {
        let Some(container) = state.containers.get(name) else { continue };
        next = soonest(next, container_next(name, container, want.restart, now));
        // As under kubelet, those behind it wait for its hook: pods rely on that order.
        if matches!(&container.run, Run::Running(running) if !running.is_up()) {
            break;
        }
    }
    next
}

fn container_next(
    name: &str,
    container: &Container,
    policy: RestartPolicy,
    now: Timestamp,
) -> Next {
    let not_before = match &container.run {
        Run::Running(running) => {
            return match &running.doom {
                Some(doom) => {
                    let turn = down::Turn::AtOnce { is_quiet: true };
                    down::container(name, running, doom.kill_at, turn, now)
                }
                None if running.post_start == HookState::Due => {
                    Next::Do(Step::PostStart(name.to_owned()))
                }
                None => Next::Settled,
            };
        }
        Run::Ended(ended) if !container.renewed && !restarts(policy, ended.exit_code) => {
            return Next::Settled;
        }
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
