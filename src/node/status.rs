//! From what a pod is on this node to what its `status` says, as Kubernetes words it.
//!
//! Pure: it never patches anything; `report` does, and only when the result differs from what was written.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::model::time::Timestamp;
use crate::node::lifecycle::{
    Container, EndReason, Ended, ImageState, MissingReason, Outcome, PodState, RestartPolicy, Run,
    Shim, Want, has_succeeded, init_policy, initialized, lets_pass, restarts,
};
use crate::node::restart::go_seconds;
use crate::placement::is_sidecar;

#[cfg(test)]
mod tests;

/// Everything a status is made of.
pub struct Facts<'a> {
    pub pod: &'a core::Pod,
    pub want: &'a Want,
    pub state: &'a PodState,
    /// The status written last: conditions keep their transition times, a finished pod keeps its address.
    pub previous: &'a core::PodStatus,
    /// The address in the pod network; host-network pods have the node's.
    pub address: Option<IpAddr>,
    pub node_addresses: &'a [IpAddr],
    pub started_at: Timestamp,
    /// The images of containers that were started, by container name.
    pub images: &'a BTreeMap<String, UsedImage>,
    pub now: Timestamp,
}

/// The image an attempt ran from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedImage {
    /// Full name, `docker.io/library/kangaroo-backend:1.14.2`.
    pub name: String,
    /// `name@sha256:…`, or the config digest of an image that has no registry digest.
    pub id: String,
}

/// The status of a pod.
pub fn compile(facts: &Facts<'_>) -> core::PodStatus {
    let spec = facts.pod.spec.as_ref();
    let none = Vec::new();
    let init_specs = spec.and_then(|s| s.init_containers.as_ref()).unwrap_or(&none);
    let specs = spec.map_or(&none, |s| &s.containers);
    let role = |spec: &core::Container| match is_sidecar(spec) {
        true => Role::Sidecar,
        false => Role::Init,
    };
    let mut init_statuses: Vec<_> =
        init_specs.iter().map(|c| container_status(facts, c, role(c))).collect();
    let mut statuses: Vec<_> =
        specs.iter().map(|c| container_status(facts, c, Role::Main)).collect();
    if let Some(Outcome::Rejected { .. }) = &facts.state.outcome {
        // "ContainerCreating" would stand where `kubectl get` shows the reason.
        init_statuses.clear();
        statuses.clear();
    }
    let phase = phase(facts);
    let (reason, message) = match &facts.state.outcome {
        Some(Outcome::Failed { reason, message } | Outcome::Rejected { reason, message })
            if phase == "Failed" && !reason.is_empty() =>
        {
            (Some(reason.clone()), Some(message.clone()))
        }
        Some(_) | None => (None, None),
    };
    let address = match facts.want.host_network {
        true => facts.node_addresses.first().copied(),
        false => facts.address,
    };
    let pod_ip =
        address.map(|address| address.to_string()).or_else(|| facts.previous.pod_ip.clone());
    let host_ips: Vec<String> = facts.node_addresses.iter().map(IpAddr::to_string).collect();
    core::PodStatus {
        phase: Some(phase.into()),
        conditions: Some(conditions(facts, phase, &init_statuses, &statuses)),
        reason,
        message,
        host_ip: host_ips.first().cloned(),
        host_ips: Some(host_ips.into_iter().map(|ip| core::HostIP { ip }).collect()),
        pod_ips: pod_ip.clone().map(|ip| vec![core::PodIP { ip }]),
        pod_ip,
        start_time: Some(Time(facts.started_at.as_jiff())),
        qos_class: facts.pod.spec.as_ref().map(|spec| qos_class(spec).as_str().to_owned()),
        init_container_statuses: (!init_statuses.is_empty()).then_some(init_statuses),
        container_statuses: (!statuses.is_empty()).then_some(statuses),
        observed_generation: facts.pod.metadata.generation,
        ..core::PodStatus::default()
    }
}

/// The quality of service of a pod, from its containers' requests and limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    pub fn as_str(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }
}

/// Guaranteed: every container, init included, has cpu and memory limits equal to its requests (absent
/// requests default to the limits); BestEffort: none names either; else Burstable.
pub fn qos_class(spec: &core::PodSpec) -> QosClass {
    let mut any = false;
    let mut guaranteed = true;
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        let resources = container.resources.as_ref();
        for name in ["cpu", "memory"] {
            let read = |list: Option<&BTreeMap<String, _>>| {
                list.and_then(|l| l.get(name))
                    .and_then(crate::node::compile::resources::nanos)
                    .filter(|n| *n > 0)
            };
            let limit = read(resources.and_then(|r| r.limits.as_ref()));
            let request = read(resources.and_then(|r| r.requests.as_ref())).or(limit);
            any |= request.is_some();
            guaranteed &= limit.is_some() && limit == request;
        }
    }
    match (guaranteed, any) {
        (true, true) => QosClass::Guaranteed,
        (_, false) => QosClass::BestEffort,
        (false, true) => QosClass::Burstable,
    }
}

/// The id of one attempt of a container, the same whenever it is asked for.
pub fn container_id(pod_uid: &str, container: &str, attempt: u32) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("{pod_uid}/{container}/{attempt}"));
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("joey://{hex}")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Init,
    /// Among the init containers, and never over.
    Sidecar,
    Main,
}

fn container_status(
    facts: &Facts<'_>,
    spec: &core::Container,
    role: Role,
) -> core::ContainerStatus {
    let unknown = Container::default();
    let container = facts.state.containers.get(&spec.name).unwrap_or(&unknown);
    let uid = facts.pod.metadata.uid.as_deref().unwrap_or_default();
    let terminated = |ended: &Ended| terminated(uid, &spec.name, ended);
    let (state, last) = told(facts, spec, container, role);
    let up = match &container.run {
        Run::Running(running) if running.is_up() => Some(running),
        Run::Running(_) | Run::Idle | Run::Ended(_) => None,
    };
    let started = up.is_some_and(|running| running.started);
    let ready = match (role, &state) {
        (Role::Main | Role::Sidecar, _) => {
            up.is_some_and(|running| running.started && running.ready)
        }
        (Role::Init, State::Terminated(ended)) => ended.exit_code == 0,
        (Role::Init, State::Running(_) | State::Waiting { .. }) => false,
    };
    let image = facts.images.get(&spec.name);
    core::ContainerStatus {
        name: spec.name.clone(),
        state: Some(match state {
            State::Waiting { reason, message } => core::ContainerState {
                waiting: Some(core::ContainerStateWaiting {
                    reason: Some(reason.into()),
                    message: (!message.is_empty()).then_some(message),
                }),
                ..core::ContainerState::default()
            },
            State::Running(started_at) => core::ContainerState {
                running: Some(core::ContainerStateRunning {
                    started_at: Some(Time(started_at.as_jiff())),
                }),
                ..core::ContainerState::default()
            },
            State::Terminated(ended) => terminated(ended),
        }),
        last_state: Some(last.map(terminated).unwrap_or_default()),
        ready,
        restart_count: container
            .attempt()
            .map_or(0, |attempt| i32::try_from(attempt).unwrap_or(i32::MAX)),
        image: image.map_or_else(|| spec.image.clone().unwrap_or_default(), |i| i.name.clone()),
        image_id: image.map(|i| i.id.clone()).unwrap_or_default(),
        container_id: container.attempt().map(|attempt| container_id(uid, &spec.name, attempt)),
        started: Some(started),
        ..core::ContainerStatus::default()
    }
}

enum State<'a> {
    Waiting { reason: &'static str, message: String },
    Running(Timestamp),
    Terminated(&'a Ended),
}

/// What a container is doing, and how it ended before.
fn told<'a>(
    facts: &'a Facts<'_>,
    spec: &core::Container,
    container: &'a Container,
    role: Role,
) -> (State<'a>, Option<&'a Ended>) {
    let policy = match role {
        Role::Init => init_policy(facts.want.restart),
        Role::Sidecar => RestartPolicy::Always,
        Role::Main => facts.want.restart,
    };
    // What has succeeded may not be told to run again, except under Always: the API refuses such a status whole. After
    // a reboot an init container does run again, and meanwhile its last end that counted stands.
    if let (Role::Init, RestartPolicy::OnFailure, Some(stale)) =
        (role, facts.want.restart, facts.state.stale_init.get(&spec.name))
        && !has_succeeded(facts.state, &spec.name)
    {
        return (State::Terminated(stale), None);
    }
    match &container.run {
        Run::Running(running) if running.is_up() => {
            (State::Running(running.started_at), container.previous.as_ref())
        }
        Run::Running(_) => (idle(facts, role), container.previous.as_ref()),
        Run::Idle => {
            (waiting(facts, spec, container, None, role).unwrap_or_else(|| idle(facts, role)), None)
        }
        // Where nothing may leave the state terminated (Never) it does not enter it.
        Run::Ended(ended)
            if container.renewed
                && facts.want.stop_by.is_none()
                && facts.state.outcome.is_none() =>
        {
            let waits = waiting(facts, spec, container, Some(ended), role);
            (waits.unwrap_or_else(|| idle(facts, role)), Some(ended))
        }
        Run::Ended(ended) => {
            let wanted = facts.want.stop_by.is_none()
                && facts.state.outcome.is_none()
                && restarts(policy, ended.exit_code);
            let waiting =
                wanted.then(|| waiting(facts, spec, container, Some(ended), role)).flatten();
            match waiting {
                Some(waiting) => (waiting, Some(ended)),
                None => (State::Terminated(ended), container.previous.as_ref()),
            }
        }
    }
}

/// Why a container is not started yet or again; `None` when nothing holds it up.
fn waiting<'a>(
    facts: &Facts<'_>,
    spec: &core::Container,
    container: &Container,
    ended: Option<&Ended>,
    role: Role,
) -> Option<State<'a>> {
    let turn = match role {
        Role::Init | Role::Sidecar => facts.state.outcome.is_none(),
        Role::Main => initialized(facts.state, facts.want),
    };
    if !turn {
        return None;
    }
    let in_backoff = ended.filter(|e| container.backoff.ready_at(e.finished_at) > facts.now);
    if let Some(ended) = in_backoff {
        let metadata = &facts.pod.metadata;
        return Some(State::Waiting {
            reason: "CrashLoopBackOff",
            message: format!(
                "back-off {} restarting failed container={} pod={}_{}({})",
                go_seconds(container.backoff.ready_at(ended.finished_at).since(ended.finished_at)),
                spec.name,
                metadata.name.as_deref().unwrap_or_default(),
                metadata.namespace.as_deref().unwrap_or_default(),
                metadata.uid.as_deref().unwrap_or_default(),
            ),
        });
    }
    if let Some(refused) = &container.refused {
        return Some(State::Waiting { reason: refused.reason, message: refused.message.clone() });
    }
    match &container.image {
        ImageState::Missing(missing) => {
            let (reason, message) = match missing.reason {
                MissingReason::ErrImagePull if container.backoff_told => (
                    "ImagePullBackOff",
                    format!(
                        "Back-off pulling image {:?}: ErrImagePull: {}",
                        spec.image.as_deref().unwrap_or_default(),
                        missing.message
                    ),
                ),
                MissingReason::ErrImagePull => ("ErrImagePull", missing.message.clone()),
                MissingReason::InvalidImageName => ("InvalidImageName", missing.message.clone()),
                MissingReason::ErrImageNeverPull => ("ErrImageNeverPull", missing.message.clone()),
                MissingReason::ImageInspectError => ("ImageInspectError", missing.message.clone()),
            };
            Some(State::Waiting { reason, message })
        }
        ImageState::Unchecked | ImageState::Pulling | ImageState::Ready => match ended {
            Some(ended) if ended.reason == EndReason::StartError => {
                Some(State::Waiting { reason: "RunContainerError", message: ended.message.clone() })
            }
            Some(_) | None => None,
        },
    }
}

fn idle<'a>(facts: &Facts<'_>, role: Role) -> State<'a> {
    let reason = match role {
        Role::Init | Role::Sidecar => "PodInitializing",
        Role::Main if facts.want.init.is_empty() => "ContainerCreating",
        Role::Main => "PodInitializing",
    };
    State::Waiting { reason, message: String::new() }
}

fn terminated(uid: &str, name: &str, ended: &Ended) -> core::ContainerState {
    let reason = match ended.reason {
        EndReason::Completed => "Completed",
        EndReason::Error => "Error",
        EndReason::OomKilled => "OOMKilled",
        EndReason::StartError => "StartError",
        EndReason::Unknown => "ContainerStatusUnknown",
    };
    // A process that never ran has the epoch as its start, as kubelet writes it.
    let started_at = ended.started_at.unwrap_or(Timestamp::from_unix(0, 0));
    core::ContainerState {
        terminated: Some(core::ContainerStateTerminated {
            container_id: Some(container_id(uid, name, ended.attempt)),
            exit_code: ended.exit_code,
            finished_at: Some(Time(ended.finished_at.as_jiff())),
            message: (!ended.message.is_empty()).then(|| ended.message.clone()),
            reason: Some(reason.into()),
            // No runtime behind the CRI ever says it: the exit code is 128 more.
            signal: None,
            started_at: Some(Time(started_at.as_jiff())),
        }),
        ..core::ContainerState::default()
    }
}

/// As kubelet's `getPhase`: Pending until every container has been started once.
fn phase(facts: &Facts<'_>) -> &'static str {
    let runs = |c: &Container| matches!(c.run, Run::Running(_));
    let any_running = facts.state.containers.values().any(runs);
    // Over is who has ended: sidecars end after their pod's outcome is known.
    let ends = any_running && facts.state.shim == Shim::Alive;
    match (&facts.state.outcome, facts.previous.phase.as_deref()) {
        (Some(_), Some("Running")) if ends => return "Running",
        (Some(_), Some("Pending") | None) if ends => return "Pending",
        (Some(Outcome::Succeeded), _) => return "Succeeded",
        (Some(Outcome::Failed { .. } | Outcome::Rejected { .. }), _) => return "Failed",
        (None, _) => {}
    }
    let mains: Vec<&Run> = facts
        .want
        .containers
        .iter()
        .filter_map(|name| facts.state.containers.get(name))
        .map(|c| &c.run)
        .collect();
    if facts.want.stop_by.is_some() && !any_running && facts.state.shim != Shim::Alive {
        // A deleted pod reaches a final phase before its object goes.
        let succeeded =
            mains.iter().all(|run| matches!(run, Run::Ended(ended) if ended.exit_code == 0));
        return if succeeded { "Succeeded" } else { "Failed" };
    }
    let has_started = |run: &Run| match run {
        Run::Idle => false,
        Run::Running(running) => running.is_up() || running.attempt > 0,
        Run::Ended(_) => true,
    };
    let all_started = mains.iter().all(|run| has_started(run));
    match all_started && initialized(facts.state, facts.want) {
        true => "Running",
        false => "Pending",
    }
}

fn conditions(
    facts: &Facts<'_>,
    phase: &str,
    init_statuses: &[core::ContainerStatus],
    statuses: &[core::ContainerStatus],
) -> Vec<core::PodCondition> {
    let finished = match phase {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ => None,
    };
    let sandbox = facts.state.shim == Shim::Alive;
    let incomplete: Vec<&str> = match initialized(facts.state, facts.want) {
        true => Vec::new(),
        false => facts
            .want
            .init
            .iter()
            .filter(|name| !lets_pass(facts.state, facts.want, name))
            .map(String::as_str)
            .collect(),
    };
    let sidecars = init_statuses.iter().filter(|one| facts.want.sidecars.contains(&one.name));
    let unready: Vec<&str> = sidecars
        .chain(statuses)
        .filter(|status| !status.ready)
        .map(|status| status.name.as_str())
        .collect();
    let initialized = match (incomplete.is_empty(), finished) {
        (true, Some("PodCompleted")) => Verdict::yes_because("PodCompleted"),
        (true, _) => Verdict::yes(),
        (false, _) => Verdict::no(
            "ContainersNotInitialized",
            format!("containers with incomplete status: [{}]", incomplete.join(" ")),
        ),
    };
    let containers_ready = match (finished, unready.is_empty()) {
        (Some(reason), _) => Verdict::no(reason, String::new()),
        (None, true) => Verdict::yes(),
        (None, false) => Verdict::no(
            "ContainersNotReady",
            format!("containers with unready status: [{}]", unready.join(" ")),
        ),
    };
    let ready = match (&containers_ready, gate_message(facts)) {
        (Verdict { is_true: true, .. }, Some(message)) => {
            Verdict::no("ReadinessGatesNotReady", message)
        }
        (verdict, _) => verdict.clone(),
    };
    let mut conditions: Vec<core::PodCondition> = [
        ("PodReadyToStartContainers", Verdict::plain(sandbox)),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Verdict::yes()),
    ]
    .into_iter()
    .map(|(kind, verdict)| condition(facts, kind, verdict))
    .collect();
    // Conditions of others (readiness gates, DisruptionTarget) are theirs: kept as they are.
    let ours: Vec<String> = conditions.iter().map(|c| c.type_.clone()).collect();
    let theirs = facts.pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.extend(theirs.filter(|c| !ours.contains(&c.type_)).cloned());
    conditions
}

fn gate_message(facts: &Facts<'_>) -> Option<String> {
    let gates = facts.pod.spec.as_ref()?.readiness_gates.as_ref()?;
    let seen = facts.pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let problems: Vec<String> = gates
        .iter()
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            match seen.into_iter().flatten().find(|c| c.type_ == *kind) {
                None => Some(format!(
                    "corresponding condition of pod readiness gate {kind:?} does not exist."
                )),
                Some(c) if c.status != "True" => Some(format!(
                    "the status of pod readiness gate {kind:?} is not \"True\", but {}",
                    c.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    (!problems.is_empty()).then(|| problems.join(", "))
}

#[derive(Clone)]
struct Verdict {
    is_true: bool,
    reason: Option<&'static str>,
    message: String,
}

impl Verdict {
    fn plain(is_true: bool) -> Verdict {
        Verdict { is_true, reason: None, message: String::new() }
    }

    fn yes() -> Verdict {
        Verdict::plain(true)
    }

    fn yes_because(reason: &'static str) -> Verdict {
        Verdict { reason: Some(reason), ..Verdict::yes() }
    }

    fn no(reason: &'static str, message: String) -> Verdict {
        Verdict { is_true: false, reason: Some(reason), message }
    }
}

fn condition(facts: &Facts<'_>, kind: &str, verdict: Verdict) -> core::PodCondition {
    let status = if verdict.is_true { "True" } else { "False" };
    let before =
        facts.previous.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == status);
    core::PodCondition {
        type_: kind.into(),
        status: status.into(),
        reason: verdict.reason.map(str::to_owned),
        message: (!verdict.message.is_empty()).then_some(verdict.message),
        last_transition_time: before
            .and_then(|c| c.last_transition_time.clone())
            .or(Some(Time(facts.now.as_jiff()))),
        observed_generation: facts.pod.metadata.generation,
        ..core::PodCondition::default()
    }
}

/// The restart policy as written; anything unknown has been refused by the API, so Always is its default.
pub fn restart_policy(spec: &core::PodSpec) -> RestartPolicy {
    match spec.restart_policy.as_deref() {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        Some(_) | None => RestartPolicy::Always,
    }
}
