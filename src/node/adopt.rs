//! After a daemon's start: which pods found on the host are still wanted, and what is known of each.
//!
//! Pure: `agent` scans and acts. No pod is restarted because the daemon was; a container that ended meanwhile
//! is known by its shim's record, one that vanished with a reboot by its last status.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as core;

use crate::model::time::Timestamp;
use crate::node::lifecycle::{
    Container, EndReason, Ended, Leaving, Outcome, PodState, RestartPolicy, Run, Running, Shim,
};
use crate::node::restart::{Backoff, delay_in_message};
use crate::node::status::restart_policy;
use crate::runtime::plan::Exit;
use crate::runtime::{self, ContainerPhase};

/// What becomes of something found on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its pod is wanted: a worker takes it over.
    Keep,
    /// It runs, but its pod is gone from the API.
    Kill,
    /// Only traces are left (an address, directories): taken away.
    Forget,
}

/// The fate of every uid of which the host holds anything.
pub fn fates(
    running: &BTreeSet<String>,
    traces: &BTreeSet<String>,
    wanted: &BTreeSet<String>,
) -> BTreeMap<String, Fate> {
    running
        .union(traces)
        .map(|uid| {
            let fate = match (wanted.contains(uid), running.contains(uid)) {
                (true, _) => Fate::Keep,
                (false, true) => Fate::Kill,
                (false, false) => Fate::Forget,
            };
            (uid.clone(), fate)
        })
        .collect()
}

/// The state of a pod from its status in the API and what its shim knows (`None`: there is no shim).
pub fn revive(
    pod: &core::Pod,
    found: Option<&runtime::PodState>,
    attached: bool,
    now: Timestamp,
) -> PodState {
    let no_containers = Vec::new();
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|s| s.init_containers.as_ref()).unwrap_or(&no_containers);
    let mains = spec.map_or(&no_containers, |s| &s.containers);
    let status = pod.status.as_ref();
    let statuses: BTreeMap<&str, &core::ContainerStatus> = status
        .into_iter()
        .flat_map(|s| {
            let init = s.init_container_statuses.iter().flatten();
            init.chain(s.container_statuses.iter().flatten())
        })
        .map(|s| (s.name.as_str(), s))
        .collect();
    let containers: BTreeMap<String, Container> = init
        .iter()
        .chain(mains)
        .map(|spec| {
            let known = found.and_then(|f| f.containers.get(&spec.name));
            let told = statuses.get(spec.name.as_str()).copied();
            (spec.name.clone(), container(known, told, now))
        })
        .collect();
    let outcome = match status.and_then(|s| s.phase.as_deref()) {
        Some("Succeeded") => Some(Outcome::Succeeded),
        Some("Failed") => {
            let reason = status.and_then(|s| s.reason.clone()).unwrap_or_default();
            let message = status.and_then(|s| s.message.clone()).unwrap_or_default();
            // Of a pod that was taken, something is told of each container.
            Some(match statuses.is_empty() && !reason.is_empty() {
                true => Outcome::Rejected { reason, message },
                false => Outcome::Failed { reason, message },
            })
        }
        _ => None,
    };
    let policy = spec.map_or(RestartPolicy::Always, restart_policy);
    let any_main_started = mains
        .iter()
        .filter_map(|spec| containers.get(&spec.name))
        .any(|container| container.run != Run::Idle);
    // Without its shim a pod that had started has lost its surroundings: init containers run again.
    let lost = found.is_none() && any_main_started && policy != RestartPolicy::Never;
    let stale_init = init
        .iter()
        .filter(|_| lost)
        .filter_map(|spec| match &containers.get(&spec.name)?.run {
            Run::Ended(ended) => Some((spec.name.clone(), ended.clone())),
            Run::Idle | Run::Running(_) => None,
        })
        .collect();
    PodState {
        // What is there already is made again without harm; a running pod has all it needs.
        volumes_ready: found.is_some(),
        attached,
        address_unknown: false,
        shim: match found.map(|f| f.shim) {
            None => Shim::Absent,
            Some(runtime::ShimState::Alive) => Shim::Alive,
            Some(runtime::ShimState::Lost) => Shim::Lost,
        },
        containers,
        stale_init,
        // Whom it has left already leaves again without harm.
        leaving: Leaving::Not,
        outcome,
        concluded_stop_by: None,
        setback: None,
        finalized: false,
    }
}

/// Whether something of the pod is in its network now. After a reboot an address may be all that is left: whether
/// it is used again or given back is for the pod's next steps to say, and one that is over gets no network.
pub fn uses_network(state: &PodState) -> bool {
    state.attached && state.shim != Shim::Absent
}

/// What a shim's record says of an attempt's end. The message is read by whoever can read files.
pub fn ended(attempt: u32, exit: &Exit, message: String) -> Ended {
    Ended {
        attempt,
        exit_code: exit.code,
        signal: exit.signal,
        reason: match (exit.oom_killed, exit.code) {
            (true, _) => EndReason::OomKilled,
            (false, 0) => EndReason::Completed,
            (false, _) => EndReason::Error,
        },
        message,
        started_at: Some(exit.started_at),
        finished_at: exit.finished_at,
    }
}

/// Gives the ends that a shim recorded while nobody was there their messages, as `read` finds them by container,
/// attempt and exit.
pub fn last_words(
    state: &mut PodState,
    found: &runtime::PodState,
    read: impl Fn(&str, u32, &Exit) -> String,
) {
    for (name, seen) in &found.containers {
        let run = state.containers.get_mut(name).map(|container| &mut container.run);
        if let (ContainerPhase::Exited(exit), Some(Run::Ended(ended))) = (&seen.phase, run)
            && ended.attempt == seen.attempt
            && ended.message.is_empty()
        {
            ended.message = read(name, seen.attempt, exit);
        }
    }
}

fn container(
    known: Option<&runtime::ContainerState>,
    told: Option<&core::ContainerStatus>,
    now: Timestamp,
) -> Container {
    let told_attempt = told.map_or(0, |t| u32::try_from(t.restart_count).unwrap_or(0));
    let state = told.and_then(|t| t.state.as_ref());
    let current = state.and_then(|s| s.terminated.as_ref()).map(|t| from_status(told_attempt, t));
    let last = told.and_then(|t| t.last_state.as_ref()?.terminated.as_ref());
    let waiting = state.and_then(|s| s.waiting.as_ref());
    // While a container waits to be restarted, its newest attempt's end stands in lastState.
    let newest_is_last = waiting.is_some();
    let last_attempt = if newest_is_last { told_attempt } else { told_attempt.saturating_sub(1) };
    let last = last.map(|t| from_status(last_attempt, t));
    let (run, previous) = match known {
        Some(known) => {
            let run = match &known.phase {
                ContainerPhase::Running { started_at, .. } => {
                    // What probes said last holds until they say something else: they are made anew from here.
                    let same = told.filter(|_| told_attempt == known.attempt);
                    Run::Running(Running {
                        started: same.and_then(|told| told.started).unwrap_or(false),
                        ready: same.is_some_and(|told| told.ready),
                        ..Running::new(known.attempt, *started_at)
                    })
                }
                ContainerPhase::Exited(exit) => {
                    // Our own words about the same end are richer: they have the message.
                    let told = current.clone().or(last.clone());
                    let told = told.filter(|t| t.attempt == known.attempt);
                    Run::Ended(told.unwrap_or_else(|| ended(known.attempt, exit, String::new())))
                }
            };
            let previous =
                [current, last].into_iter().flatten().find(|e| e.attempt < known.attempt);
            (run, previous)
        }
        None if newest_is_last => match last {
            Some(last) => (Run::Ended(last), None),
            None => (Run::Idle, None),
        },
        None => match (current, state.and_then(|s| s.running.as_ref())) {
            (Some(current), _) => (Run::Ended(current), last),
            (None, Some(running)) => {
                let lost = Ended {
                    attempt: told_attempt,
                    exit_code: 137,
                    signal: None,
                    reason: EndReason::Unknown,
                    message: "The container could not be located when the pod was terminated"
                        .into(),
                    started_at: running.started_at.as_ref().map(|t| t.0.into()),
                    finished_at: now,
                };
                (Run::Ended(lost), last)
            }
            (None, None) => (Run::Idle, None),
        },
    };
    let backoff = waiting
        .and_then(|w| delay_in_message(w.message.as_deref()?))
        .map_or(Backoff::default(), |delay| Backoff::resumed(delay, now));
    Container { run, previous, backoff, ..Container::default() }
}

fn from_status(attempt: u32, told: &core::ContainerStateTerminated) -> Ended {
    let finished_at = told.finished_at.as_ref().map_or(Timestamp::from_unix(0, 0), |t| t.0.into());
    Ended {
        attempt,
        exit_code: told.exit_code,
        signal: told.signal,
        reason: match told.reason.as_deref() {
            Some("Completed") => EndReason::Completed,
            Some("OOMKilled") => EndReason::OomKilled,
            Some("StartError") => EndReason::StartError,
            Some("ContainerStatusUnknown") => EndReason::Unknown,
            Some(_) | None => EndReason::Error,
        },
        message: told.message.clone().unwrap_or_default(),
        started_at: told.started_at.as_ref().map(|t| t.0.into()),
        finished_at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix(1_800_000_000 + seconds, 0)
    }

    fn pod(policy: &str, phase: &str, init: Option<Value>, main: Value) -> core::Pod {
        let mut pod = json!({
            "metadata": {"name": "web", "uid": "u"},
            "spec": {"restartPolicy": policy, "containers": [{"name": "a"}]},
            "status": {"phase": phase, "containerStatuses": [main]},
        });
        if let Some(init) = init {
            pod["spec"]["initContainers"] = json!([{"name": "i"}]);
            pod["status"]["initContainerStatuses"] = json!([init]);
        }
        serde_json::from_value(pod).unwrap()
    }

    fn told(name: &str, restarts: u32, state: Value, last: Value) -> Value {
        json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": restarts,
               "state": state, "lastState": last})
    }

    fn found(attempt: u32, phase: ContainerPhase) -> runtime::PodState {
        runtime::PodState {
            shim: runtime::ShimState::Alive,
            containers: [("a".to_owned(), runtime::ContainerState { attempt, phase })].into(),
        }
    }

    /// With code 3, ten seconds after its start.
    fn exited() -> ContainerPhase {
        ContainerPhase::Exited(Exit {
            code: 3,
            signal: None,
            oom_killed: false,
            started_at: at(0),
            finished_at: at(10),
        })
    }

    fn running() -> Value {
        json!({"running": {"startedAt": "2027-01-15T08:00:00Z"}})
    }

    fn terminated(code: i32) -> Value {
        json!({"terminated": {"exitCode": code, "reason": "Error", "startedAt": "2027-01-15T07:00:00Z",
                              "finishedAt": "2027-01-15T07:30:00Z"}})
    }

    #[test]
    fn wanted_pods_are_kept_others_killed_traces_forgotten() {
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        let fates = fates(&set(&["a", "b"]), &set(&["a", "c", "d"]), &set(&["a", "d", "e"]));
        let expected =
            [("a", Fate::Keep), ("b", Fate::Kill), ("c", Fate::Forget), ("d", Fate::Keep)];
        assert_eq!(fates, expected.map(|(uid, fate)| (uid.to_owned(), fate)).into());
    }

    #[test]
    fn a_container_that_runs_on_is_not_started_again() {
        let pod = pod("Always", "Running", None, told("a", 2, running(), terminated(3)));
        let phase = ContainerPhase::Running { pid: 7, started_at: at(0) };
        let state = revive(&pod, Some(&found(2, phase)), true, at(50));
        let a = &state.containers["a"];
        assert_eq!(a.attempt(), Some(2));
        assert!(matches!(a.run, Run::Running(_)));
        assert_eq!(a.previous.as_ref().map(|e| (e.attempt, e.exit_code)), Some((1, 3)));
        assert!(state.volumes_ready && state.attached && state.shim == Shim::Alive);
    }

    #[test]
    fn an_exit_while_the_daemon_was_down_keeps_its_code_and_time() {
        let pod = pod("Always", "Running", None, told("a", 0, running(), json!({})));
        let state = revive(&pod, Some(&found(0, exited())), true, at(3600));
        let Run::Ended(ended) = &state.containers["a"].run else { panic!("not ended") };
        assert_eq!((ended.exit_code, ended.finished_at, ended.attempt), (3, at(10), 0));
    }

    #[test]
    fn the_last_words_of_what_ended_while_the_daemon_was_down_are_read() {
        let pod = pod("Always", "Running", None, told("a", 1, running(), json!({})));
        let found = found(1, exited());
        let mut state = revive(&pod, Some(&found), true, at(3600));
        last_words(&mut state, &found, |name, attempt, exit| {
            format!("{name} {attempt} {}", exit.code)
        });
        let Run::Ended(ended) = &state.containers["a"].run else { panic!("not ended") };
        assert_eq!(ended.message, "a 1 3");
    }

    #[test]
    fn a_start_that_was_never_reported_is_known_by_its_attempt() {
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff",
            "message": "back-off 40s restarting failed container=a pod=web_default(u)"}});
        let pod = pod("Always", "Running", None, told("a", 4, waiting, terminated(1)));
        let phase = ContainerPhase::Running { pid: 7, started_at: at(0) };
        let state = revive(&pod, Some(&found(5, phase)), true, at(1));
        let a = &state.containers["a"];
        assert_eq!((a.attempt(), a.previous.as_ref().map(|e| e.attempt)), (Some(5), Some(4)));
    }

    #[test]
    fn a_backoff_outlives_the_daemon() {
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff",
            "message": "back-off 40s restarting failed container=a pod=web_default(u)"}});
        let pod = pod("Always", "Running", None, told("a", 4, waiting, terminated(1)));
        let state = revive(&pod, None, false, at(1));
        let a = &state.containers["a"];
        assert_eq!(a.attempt(), Some(4));
        assert_eq!(a.backoff.delay().as_secs(), 40);
    }

    #[test]
    fn after_a_reboot_containers_count_as_ended_and_init_runs_again() {
        let init = told("i", 1, terminated(0), json!({}));
        let main = || told("a", 0, running(), json!({}));
        let state =
            revive(&pod("Always", "Running", Some(init.clone()), main()), None, false, at(9));
        let Run::Ended(ended) = &state.containers["a"].run else { panic!("not ended") };
        assert_eq!((ended.exit_code, ended.reason), (137, EndReason::Unknown));
        assert_eq!(state.containers["a"].next_attempt(), 1);
        assert_eq!(state.stale_init["i"].attempt, 1);
        assert!(!state.volumes_ready);
        // A pod that never restarts is over instead.
        let state = revive(&pod("Never", "Running", Some(init), main()), None, false, at(9));
        assert!(state.stale_init.is_empty());
    }

    #[test]
    fn an_address_without_a_shim_is_no_network_in_use() {
        let pod = |phase| pod("Never", phase, None, told("a", 0, terminated(0), json!({})));
        assert!(!uses_network(&revive(&pod("Succeeded"), None, true, at(9))));
        assert!(!uses_network(&revive(&pod("Running"), None, true, at(9))));
        let phase = ContainerPhase::Running { pid: 7, started_at: at(0) };
        assert!(uses_network(&revive(&pod("Running"), Some(&found(0, phase)), true, at(9))));
    }

    #[test]
    fn a_pod_that_was_rejected_is_told_apart_from_one_that_failed() {
        let mut pod = pod("Always", "Failed", None, told("a", 0, terminated(1), json!({})));
        let status = pod.status.as_mut().unwrap();
        status.reason = Some("OutOfcpu".into());
        let outcome = |pod: &core::Pod| revive(pod, None, false, at(9)).outcome.unwrap();
        assert!(matches!(outcome(&pod), Outcome::Failed { .. }));
        pod.status.as_mut().unwrap().container_statuses = None;
        assert!(matches!(outcome(&pod), Outcome::Rejected { reason, .. } if reason == "OutOfcpu"));
    }

    #[test]
    fn a_finished_pod_stays_finished() {
        let pod = pod("Never", "Succeeded", None, told("a", 0, terminated(0), json!({})));
        assert_eq!(revive(&pod, None, false, at(9)).outcome, Some(Outcome::Succeeded));
    }
}
