//! Statuses as golden text: what `kubectl get pod -o yaml` shows at each moment of a life.

use std::collections::BTreeSet;

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;
use crate::node::lifecycle::{Leaving, MissingImage, Refused, Running};
use crate::node::restart::Backoff;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(1_800_000_000 + seconds, 0)
}

struct Scene {
    pod: core::Pod,
    want: Want,
    state: PodState,
    previous: core::PodStatus,
}

impl Scene {
    fn new(restart: RestartPolicy, init: &[&str], mains: &[&str]) -> Scene {
        let containers = |names: &[&str]| -> Vec<Value> {
            names.iter().map(|n| json!({"name": n, "image": "web:1"})).collect()
        };
        let pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "6b1f", "generation": 1},
            "spec": {"initContainers": containers(init), "containers": containers(mains)},
        }));
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        Scene {
            pod: pod.unwrap(),
            want: Want {
                init: names(init),
                sidecars: BTreeSet::new(),
                containers: names(mains),
                restart,
                host_network: false,
                active_until: None,
                stop_by: None,
            },
            state: PodState {
                volumes_ready: true,
                attached: true,
                address_unknown: false,
                shim: Shim::Alive,
                containers: init
                    .iter()
                    .chain(mains)
                    .map(|n| ((*n).to_owned(), Container::default()))
                    .collect(),
                stale_init: BTreeMap::new(),
                outcome: None,
                leaving: Leaving::Not,
                concluded_stop_by: None,
                setback: None,
                finalized: false,
            },
            previous: core::PodStatus::default(),
        }
    }

    /// Makes a sidecar of an init container.
    fn sidecar(mut self, name: &str) -> Scene {
        self.want.sidecars.insert(name.to_owned());
        let containers = self.pod.spec.iter_mut().flat_map(|s| s.init_containers.iter_mut());
        for container in containers.flatten().filter(|c| c.name == name) {
            container.restart_policy = Some("Always".into());
        }
        self
    }

    fn set(mut self, name: &str, change: impl FnOnce(&mut Container)) -> Scene {
        change(self.state.containers.get_mut(name).unwrap());
        self
    }

    fn run(self, name: &str, run: Run) -> Scene {
        self.set(name, |c| c.run = run)
    }

    fn compile(&self, now: Timestamp) -> core::PodStatus {
        let used = UsedImage { name: "docker.io/library/web:1".into(), id: "sha256:1".into() };
        let images = self
            .state
            .containers
            .iter()
            .filter(|(_, c)| c.run != Run::Idle)
            .map(|(name, _)| (name.clone(), used.clone()))
            .collect();
        compile(&Facts {
            pod: &self.pod,
            want: &self.want,
            state: &self.state,
            previous: &self.previous,
            address: Some("10.42.0.7".parse().unwrap()),
            node_addresses: &["192.0.2.10".parse().unwrap()],
            started_at: at(0),
            images: &images,
            now,
        })
    }

    /// Phase, conditions that are not plainly true, and one line a container.
    fn check(&self, now: Timestamp, expected: Expect) {
        let status = self.compile(now);
        let mut text = status.phase.clone().unwrap();
        if let Some(reason) = &status.reason {
            text.push_str(&format!(" {reason}: {}", status.message.as_deref().unwrap()));
        }
        text.push('\n');
        for c in status.conditions.iter().flatten() {
            if c.status == "True" && c.reason.is_none() {
                continue;
            }
            let reason = c.reason.as_deref().unwrap_or("-");
            let message = c.message.as_deref().unwrap_or_default();
            text.push_str(&format!("  {}={} {reason} {message}\n", c.type_, c.status));
        }
        let inits = status.init_container_statuses.iter().flatten();
        for c in inits.chain(status.container_statuses.iter().flatten()) {
            let show = |state: &Option<core::ContainerState>| {
                let state = serde_json::to_value(state).unwrap();
                let mut state = state;
                if let Some(ended) = state.get_mut("terminated").and_then(Value::as_object_mut) {
                    ended.remove("containerID");
                }
                state.to_string()
            };
            text.push_str(&format!(
                "  {} ready={} restarts={} {} last={}\n",
                c.name,
                c.ready,
                c.restart_count,
                show(&c.state),
                show(&c.last_state)
            ));
        }
        expected.assert_eq(&text);
    }
}

fn running(attempt: u32) -> Run {
    Run::Running(Running::new(attempt, at(1)))
}

fn ended(attempt: u32, exit_code: i32) -> Run {
    Run::Ended(Ended {
        attempt,
        exit_code,
        signal: (exit_code > 128).then(|| exit_code - 128),
        reason: match exit_code {
            0 => EndReason::Completed,
            128 => EndReason::StartError,
            _ => EndReason::Error,
        },
        message: if exit_code == 128 { "exec: \"x\": not found".into() } else { String::new() },
        started_at: (exit_code != 128).then(|| at(1)),
        finished_at: at(5),
    })
}

#[test]
fn a_running_pod_has_the_whole_status() {
    let scene = Scene::new(RestartPolicy::Always, &[], &["a"]).run("a", running(0));
    expect![[r#"
        {
          "conditions": [
            {
              "lastTransitionTime": "2027-01-15T08:00:02Z",
              "observedGeneration": 1,
              "status": "True",
              "type": "PodReadyToStartContainers"
            },
            {
              "lastTransitionTime": "2027-01-15T08:00:02Z",
              "observedGeneration": 1,
              "status": "True",
              "type": "Initialized"
            },
            {
              "lastTransitionTime": "2027-01-15T08:00:02Z",
              "observedGeneration": 1,
              "status": "True",
              "type": "Ready"
            },
            {
              "lastTransitionTime": "2027-01-15T08:00:02Z",
              "observedGeneration": 1,
              "status": "True",
              "type": "ContainersReady"
            },
            {
              "lastTransitionTime": "2027-01-15T08:00:02Z",
              "observedGeneration": 1,
              "status": "True",
              "type": "PodScheduled"
            }
          ],
          "containerStatuses": [
            {
              "containerID": "joey://cc0f6b3d87043b8e5e0abee933c2863430b361ee4fb14f42a6ba5f749b64d61d",
              "image": "docker.io/library/web:1",
              "imageID": "sha256:1",
              "lastState": {},
              "name": "a",
              "ready": true,
              "restartCount": 0,
              "started": true,
              "state": {
                "running": {
                  "startedAt": "2027-01-15T08:00:01Z"
                }
              }
            }
          ],
          "hostIP": "192.0.2.10",
          "hostIPs": [
            {
              "ip": "192.0.2.10"
            }
          ],
          "observedGeneration": 1,
          "phase": "Running",
          "podIP": "10.42.0.7",
          "podIPs": [
            {
              "ip": "10.42.0.7"
            }
          ],
          "qosClass": "BestEffort",
          "startTime": "2027-01-15T08:00:00Z"
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&scene.compile(at(2))).unwrap());
}

#[test]
fn before_anything_runs_the_pod_is_pending() {
    let mut scene = Scene::new(RestartPolicy::Always, &["i"], &["a"]);
    scene.state.shim = Shim::Absent;
    scene.check(
        at(2),
        expect![[r#"
        Pending
          PodReadyToStartContainers=False - 
          Initialized=False ContainersNotInitialized containers with incomplete status: [i]
          Ready=False ContainersNotReady containers with unready status: [a]
          ContainersReady=False ContainersNotReady containers with unready status: [a]
          i ready=false restarts=0 {"waiting":{"reason":"PodInitializing"}} last={}
          a ready=false restarts=0 {"waiting":{"reason":"PodInitializing"}} last={}
    "#]],
    );
    let mut scene = Scene::new(RestartPolicy::Always, &[], &["a"]);
    scene.state.shim = Shim::Absent;
    scene.check(
        at(2),
        expect![[r#"
        Pending
          PodReadyToStartContainers=False - 
          Ready=False ContainersNotReady containers with unready status: [a]
          ContainersReady=False ContainersNotReady containers with unready status: [a]
          a ready=false restarts=0 {"waiting":{"reason":"ContainerCreating"}} last={}
    "#]],
    );
}

#[test]
fn one_container_not_started_yet_keeps_the_pod_pending() {
    Scene::new(RestartPolicy::Always, &[], &["a", "b"])
        .run("a", running(0))
        .set("b", |c| c.image = ImageState::Pulling)
        .check(
            at(2),
            expect![[r#"
            Pending
              Ready=False ContainersNotReady containers with unready status: [b]
              ContainersReady=False ContainersNotReady containers with unready status: [b]
              a ready=true restarts=0 {"running":{"startedAt":"2027-01-15T08:00:01Z"}} last={}
              b ready=false restarts=0 {"waiting":{"reason":"ContainerCreating"}} last={}
        "#]],
        );
}

#[test]
fn a_crashing_container_shows_its_backoff_and_its_last_end() {
    let mut backoff = Backoff::default();
    backoff.raise(at(0), at(0));
    let scene = Scene::new(RestartPolicy::Always, &[], &["a"])
        .run("a", ended(3, 137))
        .set("a", |c| c.backoff = backoff);
    scene.check(at(6), expect![[r#"
        Running
          Ready=False ContainersNotReady containers with unready status: [a]
          ContainersReady=False ContainersNotReady containers with unready status: [a]
          a ready=false restarts=3 {"waiting":{"message":"back-off 10s restarting failed container=a pod=web_default(6b1f)","reason":"CrashLoopBackOff"}} last={"terminated":{"startedAt":"2027-01-15T08:00:01Z","exitCode":137,"finishedAt":"2027-01-15T08:00:05Z","reason":"Error"}}
    "#]]);
    // Never: the same end is final.
    let mut scene = Scene::new(RestartPolicy::Never, &[], &["a"]).run("a", ended(0, 1));
    scene.state.outcome = Some(Outcome::Failed { reason: String::new(), message: String::new() });
    scene.state.shim = Shim::Absent;
    scene.check(at(6), expect![[r#"
        Failed
          PodReadyToStartContainers=False - 
          Ready=False PodFailed 
          ContainersReady=False PodFailed 
          a ready=false restarts=0 {"terminated":{"startedAt":"2027-01-15T08:00:01Z","exitCode":1,"finishedAt":"2027-01-15T08:00:05Z","reason":"Error"}} last={}
    "#]]);
}

#[test]
fn an_executable_that_is_not_there_is_a_start_error() {
    Scene::new(RestartPolicy::Always, &[], &["a"])
        .run("a", ended(0, 128))
        .check(at(6), expect![[r#"
            Running
              Ready=False ContainersNotReady containers with unready status: [a]
              ContainersReady=False ContainersNotReady containers with unready status: [a]
              a ready=false restarts=0 {"waiting":{"message":"exec: \"x\": not found","reason":"RunContainerError"}} last={"terminated":{"startedAt":"1970-01-01T00:00:00Z","exitCode":128,"finishedAt":"2027-01-15T08:00:05Z","message":"exec: \"x\": not found","reason":"StartError"}}
        "#]]);
    let mut scene = Scene::new(RestartPolicy::Never, &[], &["a"]).run("a", ended(0, 128));
    scene.state.outcome = Some(Outcome::Failed { reason: String::new(), message: String::new() });
    scene.check(at(6), expect![[r#"
        Failed
          Ready=False PodFailed 
          ContainersReady=False PodFailed 
          a ready=false restarts=0 {"terminated":{"startedAt":"1970-01-01T00:00:00Z","exitCode":128,"finishedAt":"2027-01-15T08:00:05Z","message":"exec: \"x\": not found","reason":"StartError"}} last={}
    "#]]);
}

#[test]
fn missing_images_go_from_error_to_backoff() {
    let missing = |reason| {
        ImageState::Missing(MissingImage {
            reason,
            message: "failed to pull image".into(),
            failed_at: at(1),
            retry_at: at(11),
        })
    };
    let scene = Scene::new(RestartPolicy::Always, &[], &["a"])
        .set("a", |c| c.image = missing(MissingReason::ErrImagePull));
    scene.check(at(1), expect![[r#"
        Pending
          Ready=False ContainersNotReady containers with unready status: [a]
          ContainersReady=False ContainersNotReady containers with unready status: [a]
          a ready=false restarts=0 {"waiting":{"message":"failed to pull image","reason":"ErrImagePull"}} last={}
    "#]]);
    scene.set("a", |c| c.backoff_told = true).check(at(3), expect![[r#"
        Pending
          Ready=False ContainersNotReady containers with unready status: [a]
          ContainersReady=False ContainersNotReady containers with unready status: [a]
          a ready=false restarts=0 {"waiting":{"message":"Back-off pulling image \"web:1\": ErrImagePull: failed to pull image","reason":"ImagePullBackOff"}} last={}
    "#]]);
    Scene::new(RestartPolicy::Always, &[], &["a"])
        .set("a", |c| c.image = missing(MissingReason::InvalidImageName))
        .check(at(3), expect![[r#"
            Pending
              Ready=False ContainersNotReady containers with unready status: [a]
              ContainersReady=False ContainersNotReady containers with unready status: [a]
              a ready=false restarts=0 {"waiting":{"message":"failed to pull image","reason":"InvalidImageName"}} last={}
        "#]]);
}

#[test]
fn a_refused_container_says_why() {
    Scene::new(RestartPolicy::Always, &[], &["a"])
        .set("a", |c| {
            c.refused = Some(Refused {
                reason: "CreateContainerConfigError",
                message: "configmap \"x\" not found".into(),
                retry_at: at(11),
            });
        })
        .check(at(3), expect![[r#"
            Pending
              Ready=False ContainersNotReady containers with unready status: [a]
              ContainersReady=False ContainersNotReady containers with unready status: [a]
              a ready=false restarts=0 {"waiting":{"message":"configmap \"x\" not found","reason":"CreateContainerConfigError"}} last={}
        "#]]);
}

#[test]
fn init_containers_hold_the_others_back() {
    Scene::new(RestartPolicy::Always, &["i", "j"], &["a"])
        .run("i", ended(0, 0))
        .run("j", running(1))
        .check(at(6), expect![[r#"
            Pending
              Initialized=False ContainersNotInitialized containers with incomplete status: [j]
              Ready=False ContainersNotReady containers with unready status: [a]
              ContainersReady=False ContainersNotReady containers with unready status: [a]
              i ready=true restarts=0 {"terminated":{"startedAt":"2027-01-15T08:00:01Z","exitCode":0,"finishedAt":"2027-01-15T08:00:05Z","reason":"Completed"}} last={}
              j ready=false restarts=1 {"running":{"startedAt":"2027-01-15T08:00:01Z"}} last={}
              a ready=false restarts=0 {"waiting":{"reason":"PodInitializing"}} last={}
        "#]]);
}

#[test]
fn final_phases_keep_their_conditions() {
    let mut scene = Scene::new(RestartPolicy::Never, &["i"], &["a"])
        .run("i", ended(0, 0))
        .run("a", ended(0, 0));
    scene.state.outcome = Some(Outcome::Succeeded);
    scene.state.shim = Shim::Absent;
    scene.check(at(6), expect![[r#"
        Succeeded
          PodReadyToStartContainers=False - 
          Initialized=True PodCompleted 
          Ready=False PodCompleted 
          ContainersReady=False PodCompleted 
          i ready=true restarts=0 {"terminated":{"startedAt":"2027-01-15T08:00:01Z","exitCode":0,"finishedAt":"2027-01-15T08:00:05Z","reason":"Completed"}} last={}
          a ready=false restarts=0 {"terminated":{"startedAt":"2027-01-15T08:00:01Z","exitCode":0,"finishedAt":"2027-01-15T08:00:05Z","reason":"Completed"}} last={}
    "#]]);
    scene.state.outcome = Some(Outcome::Failed {
        reason: "DeadlineExceeded".into(),
        message: "Pod was active on the node longer than the specified deadline".into(),
    });
    scene.check(at(6), expect![[r#"
        Failed DeadlineExceeded: Pod was active on the node longer than the specified deadline
          PodReadyToStartContainers=False - 
          Ready=False PodFailed 
          ContainersReady=False PodFailed 
          i ready=true restarts=0 {"terminated":{"startedAt":"2027-01-15T08:00:01Z","exitCode":0,"finishedAt":"2027-01-15T08:00:05Z","reason":"Completed"}} last={}
          a ready=false restarts=0 {"terminated":{"startedAt":"2027-01-15T08:00:01Z","exitCode":0,"finishedAt":"2027-01-15T08:00:05Z","reason":"Completed"}} last={}
    "#]]);
}

#[test]
fn transition_times_move_only_with_the_status() {
    let mut scene = Scene::new(RestartPolicy::Always, &[], &["a"]).run("a", running(0));
    scene.previous = scene.compile(at(2));
    let later = scene.compile(at(100));
    assert_eq!(later, scene.previous);
    let scene = scene.run("a", ended(0, 1));
    let changed = scene.compile(at(100));
    let times: Vec<(String, i64)> = changed
        .conditions
        .unwrap()
        .into_iter()
        .map(|c| (c.type_, c.last_transition_time.unwrap().0.as_second() - at(0).unix_seconds()))
        .collect();
    expect![[r#"
        [
            (
                "PodReadyToStartContainers",
                2,
            ),
            (
                "Initialized",
                2,
            ),
            (
                "Ready",
                100,
            ),
            (
                "ContainersReady",
                100,
            ),
            (
                "PodScheduled",
                2,
            ),
        ]
    "#]]
    .assert_debug_eq(&times);
}

#[test]
fn conditions_of_others_and_readiness_gates_are_respected() {
    let mut scene = Scene::new(RestartPolicy::Always, &[], &["a"]).run("a", running(0));
    let spec = scene.pod.spec.as_mut().unwrap();
    spec.readiness_gates =
        Some(vec![core::PodReadinessGate { condition_type: "example.com/lb".into() }]);
    scene.check(at(2), expect![[r#"
        Running
          Ready=False ReadinessGatesNotReady corresponding condition of pod readiness gate "example.com/lb" does not exist.
          a ready=true restarts=0 {"running":{"startedAt":"2027-01-15T08:00:01Z"}} last={}
    "#]]);
    scene.pod.status = serde_json::from_value(
        json!({"conditions": [{"type": "example.com/lb", "status": "True", "reason": "Ours"}]}),
    )
    .unwrap();
    scene.check(
        at(2),
        expect![[r#"
        Running
          example.com/lb=True Ours 
          a ready=true restarts=0 {"running":{"startedAt":"2027-01-15T08:00:01Z"}} last={}
    "#]],
    );
}

#[test]
fn quality_of_service_follows_requests_and_limits() {
    let class = |resources: &[Value]| {
        let containers: Vec<Value> = resources
            .iter()
            .enumerate()
            .map(|(i, r)| json!({"name": format!("c{i}"), "resources": r}))
            .collect();
        qos_class(&serde_json::from_value(json!({"containers": containers})).unwrap())
    };
    let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}});
    let limits = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    assert_eq!(class(&[json!({})]), QosClass::BestEffort);
    assert_eq!(class(&[full.clone(), limits]), QosClass::Guaranteed);
    assert_eq!(class(&[full.clone(), json!({})]), QosClass::Burstable);
    assert_eq!(class(&[json!({"requests": {"cpu": "1"}})]), QosClass::Burstable);
    assert_eq!(class(&[json!({"requests": {"cpu": "0"}})]), QosClass::BestEffort);
}

#[test]
fn an_attempt_keeps_its_id_and_shares_it_with_no_other() {
    let id = container_id("6b1f", "a", 0);
    assert_eq!(id, container_id("6b1f", "a", 0));
    assert_eq!(id.len(), "joey://".len() + 64);
    assert_ne!(id, container_id("6b1f", "a", 1));
    assert_ne!(id, container_id("6b1e", "a", 0));
}

#[test]
fn an_init_container_that_runs_again_after_a_reboot_keeps_its_success() {
    let restart = RestartPolicy::OnFailure;
    let mut scene =
        Scene::new(restart, &["i"], &["a"]).run("i", running(1)).run("a", ended(0, 137));
    let Run::Ended(stale) = ended(0, 0) else { unreachable!() };
    scene.state.stale_init = [("i".to_owned(), stale)].into();
    let init = |scene: &Scene| {
        let status = scene.compile(at(9));
        let told = status.init_container_statuses.unwrap().remove(0).state.unwrap();
        told.terminated.map(|end| end.exit_code)
    };
    assert_eq!(init(&scene), Some(0));
    let ready = |scene: &Scene| {
        let conditions = scene.compile(at(9)).conditions.unwrap();
        conditions.iter().find(|c| c.type_ == "Ready").unwrap().status.clone()
    };
    assert_eq!(ready(&scene), "False");
    let again = scene.run("i", ended(1, 1));
    assert_eq!(init(&again), Some(0));
}

#[test]
fn a_container_that_is_renewed_is_not_told_to_have_ended() {
    let scene = Scene::new(RestartPolicy::Never, &[], &["a"])
        .run("a", ended(0, 0))
        .set("a", |container| container.renewed = true);
    let told = scene.compile(at(9)).container_statuses.unwrap().remove(0);
    let waiting = told.state.unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("ContainerCreating"));
    assert_eq!(told.last_state.unwrap().terminated.unwrap().exit_code, 0);
}

#[test]
fn a_sidecar_counts_for_initialized_when_it_has_started_and_for_ready_when_it_is() {
    let scene = |started, ready| {
        let scene = Scene::new(RestartPolicy::Always, &["s"], &["a"]).sidecar("s");
        let running = Running { started, ready, ..Running::new(0, at(1)) };
        scene.run("s", Run::Running(running))
    };
    scene(false, false).check(
        at(2),
        expect![[r#"
        Pending
          Initialized=False ContainersNotInitialized containers with incomplete status: [s]
          Ready=False ContainersNotReady containers with unready status: [s a]
          ContainersReady=False ContainersNotReady containers with unready status: [s a]
          s ready=false restarts=0 {"running":{"startedAt":"2027-01-15T08:00:01Z"}} last={}
          a ready=false restarts=0 {"waiting":{"reason":"PodInitializing"}} last={}
    "#]],
    );
    let up = |scene: Scene| scene.run("a", Run::Running(Running::new(0, at(3))));
    up(scene(true, false)).check(
        at(4),
        expect![[r#"
        Running
          Ready=False ContainersNotReady containers with unready status: [s]
          ContainersReady=False ContainersNotReady containers with unready status: [s]
          s ready=false restarts=0 {"running":{"startedAt":"2027-01-15T08:00:01Z"}} last={}
          a ready=true restarts=0 {"running":{"startedAt":"2027-01-15T08:00:03Z"}} last={}
    "#]],
    );
    up(scene(true, true)).check(
        at(4),
        expect![[r#"
        Running
          s ready=true restarts=0 {"running":{"startedAt":"2027-01-15T08:00:01Z"}} last={}
          a ready=true restarts=0 {"running":{"startedAt":"2027-01-15T08:00:03Z"}} last={}
    "#]],
    );
}

#[test]
fn a_pod_is_told_to_be_over_when_its_sidecars_have_ended_too() {
    let mut scene = Scene::new(RestartPolicy::Never, &["s"], &["a"])
        .sidecar("s")
        .run("s", Run::Running(Running::new(0, at(1))))
        .run("a", ended(0, 0));
    scene.previous.phase = Some("Running".into());
    scene.state.outcome = Some(Outcome::Succeeded);
    assert_eq!(scene.compile(at(9)).phase.as_deref(), Some("Running"));
    scene.run("s", ended(0, 143)).check(at(10), expect![[r#"
        Succeeded
          Initialized=True PodCompleted 
          Ready=False PodCompleted 
          ContainersReady=False PodCompleted 
          s ready=false restarts=0 {"terminated":{"startedAt":"2027-01-15T08:00:01Z","exitCode":143,"finishedAt":"2027-01-15T08:00:05Z","reason":"Error"}} last={}
          a ready=false restarts=0 {"terminated":{"startedAt":"2027-01-15T08:00:01Z","exitCode":0,"finishedAt":"2027-01-15T08:00:05Z","reason":"Completed"}} last={}
    "#]]);
}

#[test]
fn a_pod_that_the_node_does_not_take_says_why_and_nothing_of_its_containers() {
    let mut scene = Scene::new(RestartPolicy::Always, &["i"], &["a"]);
    scene.state.shim = Shim::Absent;
    let (reason, message) = ("OutOfcpu".to_owned(), "Pod was rejected: too much".to_owned());
    scene.state.outcome = Some(Outcome::Rejected { reason, message });
    scene.check(
        at(1),
        expect![[r#"
        Failed OutOfcpu: Pod was rejected: too much
          PodReadyToStartContainers=False - 
          Initialized=False ContainersNotInitialized containers with incomplete status: [i]
          Ready=False PodFailed 
          ContainersReady=False PodFailed 
    "#]],
    );
}
