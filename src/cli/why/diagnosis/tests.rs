//! The score: broken things whose true cause is known, and whether it is named. The states are those that come out
//! of the daemon, or of Kubernetes for the same manifest.

use serde_json::json;

use super::*;

/// What to build a case from: a manifest's essence, and what came of it.
struct Broken {
    name: &'static str,
    case: Case,
    cause: Cause,
    /// Words that the sentence must hold, because they are what helps.
    says: &'static [&'static str],
}

fn pod(spec: Value, status: Value) -> Value {
    let mut pod = json!({
        "kind": "Pod",
        "metadata": {"name": "web-1", "namespace": "default", "uid": "P", "labels": {"app": "web"}},
        "spec": {"nodeName": "box", "containers": [{"name": "web", "image": "web:1"}]},
        "status": {"phase": "Pending"},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    for (key, value) in status.as_object().into_iter().flatten() {
        pod["status"][key] = value.clone();
    }
    pod
}

fn event(reason: &str, message: &str) -> Value {
    let kind =
        if matches!(reason, "Killing" | "Pulling" | "Scheduled") { "Normal" } else { "Warning" };
    json!({"type": kind, "reason": reason, "message": message, "count": 3,
        "lastTimestamp": "2026-01-01T00:00:00Z", "involvedObject": {"uid": "P"}})
}

/// An event about one of the pod's containers, told at this second of the first minute.
fn event_of(container: &str, second: u32, reason: &str, message: &str) -> Value {
    let mut event = event(reason, message);
    event["involvedObject"]["fieldPath"] = format!("spec.containers{{{container}}}").into();
    event["lastTimestamp"] = format!("2026-01-01T00:00:{second:02}Z").into();
    event
}

/// A run from the first of these seconds to the second that ended with this code.
fn run(from: u32, to: u32, code: i32) -> Value {
    let at = |second| format!("2026-01-01T00:00:{second:02}Z");
    json!({"exitCode": code, "reason": "Error", "startedAt": at(from), "finishedAt": at(to)})
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"containerStatuses": [{"name": "web", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": reason, "message": message}}}]})
}

fn crashed(end: Value) -> Value {
    json!({"phase": "Running", "containerStatuses": [{"name": "web", "ready": false, "restartCount": 4,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container=web pod=web-1"}},
        "lastState": {"terminated": end}}]})
}

fn running(more: Value) -> Value {
    let mut status = json!({"phase": "Running",
        "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}],
        "containerStatuses": [{"name": "web", "ready": false, "started": true, "restartCount": 0, "state": {"running": {}}}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        status[key] = value.clone();
    }
    status
}

fn serving() -> Value {
    let mut ready = pod(json!({}), running(json!({})));
    ready["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    ready["status"]["containerStatuses"][0]["ready"] = true.into();
    ready
}

fn unscheduled(spec: Value, message: &str) -> Value {
    let mut pod = pod(
        spec,
        json!({"conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]}),
    );
    pod["spec"].as_object_mut().unwrap().remove("nodeName");
    pod
}

fn node() -> Value {
    json!({"kind": "Node", "metadata": {"name": "box", "uid": "N"},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"}}})
}

fn of(object: Value, events: Vec<Value>) -> Case {
    Case { object, events, nodes: vec![node()], ..Case::default() }
}

fn requests(cpu: &str, memory: &str) -> Value {
    json!({"containers": [{"name": "web", "image": "web:1",
        "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
}

fn deployment(more: Value) -> Value {
    let mut deployment = json!({
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "uid": "D", "generation": 2},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}},
        "status": {"observedGeneration": 2, "replicas": 4, "updatedReplicas": 1, "readyReplicas": 3, "availableReplicas": 3},
    });
    for (pointer, value) in more.as_object().into_iter().flatten() {
        let mut at = &mut deployment;
        for part in pointer.split('.') {
            at = &mut at[part];
        }
        *at = value.clone();
    }
    deployment
}

fn set(name: &str, image: &str, revision: i64, available: i64) -> Value {
    json!({
        "kind": "ReplicaSet",
        "metadata": {"name": name, "uid": name, "annotations": {"deployment.kubernetes.io/revision": revision.to_string()},
            "ownerReferences": [{"uid": "D", "controller": true}]},
        "spec": {"replicas": 3, "template": {"spec": {"containers": [{"name": "web", "image": image}]}}},
        "status": {"replicas": 3, "availableReplicas": available},
    })
}

fn owned(mut pod: Value, set: &str) -> Value {
    pod["metadata"]["ownerReferences"] = json!([{"uid": set, "controller": true}]);
    pod
}

/// A Deployment in the middle of a rollout whose new pod is this.
fn rolling(deployment: Value, new: Value, events: Vec<Value>) -> Case {
    Case {
        object: deployment,
        sets: vec![set("web-old", "web:1", 1, 3), set("web-new", "web:2", 2, 0)],
        pods: vec![owned(serving(), "web-old"), owned(new, "web-new")],
        events,
        nodes: vec![node()],
        ..Case::default()
    }
}

fn service(selector: Value, port: Value, pods: Vec<Value>) -> Case {
    let object = json!({"kind": "Service", "metadata": {"name": "web", "uid": "S"},
        "spec": {"selector": selector, "ports": [{"port": 80, "targetPort": port}]}});
    Case { object, pods, ..Case::default() }
}

const NOT_FOUND: &str = "Failed to pull image \"web:1\": web:1: not found in the registry";

fn late() -> Value {
    json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
        "message": "ReplicaSet \"web-new\" has timed out progressing."}])
}

fn pods() -> Vec<Broken> {
    let b = |name, case, cause, says| Broken { name, case, cause, says };
    let probe = |kind: &str| json!({"containers": [{"name": "web", "image": "web:1", kind: {"httpGet": {"port": 80}}}]});
    vec![
        b(
            "image absent, first try",
            of(pod(json!({}), waiting("ErrImagePull", "web:1: not found in the registry")), vec![]),
            Cause::ImageMissing,
            &["web:1", "not found"],
        ),
        b(
            "image absent, backing off",
            of(
                pod(json!({}), waiting("ImagePullBackOff", "Back-off pulling image \"web:1\"")),
                vec![event("Failed", NOT_FOUND)],
            ),
            Cause::ImageMissing,
            &["web:1", "not found in the registry"],
        ),
        b(
            "registry away",
            of(pod(json!({}), waiting("ErrImagePull", "connection refused")), vec![]),
            Cause::ImageMissing,
            &["connection refused"],
        ),
        b(
            "registry refuses",
            of(pod(json!({}), waiting("ErrImagePull", "401 Unauthorized")), vec![]),
            Cause::ImageRefused,
            &["401"],
        ),
        b(
            "registry denies after back-off",
            of(
                pod(json!({}), waiting("ImagePullBackOff", "Back-off pulling image \"web:1\"")),
                vec![event(
                    "Failed",
                    "Failed to pull image \"web:1\": requested access to the resource is denied",
                )],
            ),
            Cause::ImageRefused,
            &["denied"],
        ),
        b(
            "never pull",
            of(
                pod(
                    json!({}),
                    waiting(
                        "ErrImageNeverPull",
                        "Container image \"web:1\" is not present with pull policy of Never",
                    ),
                ),
                vec![],
            ),
            Cause::ImageMissing,
            &["Never"],
        ),
        b(
            "no image name",
            of(
                pod(
                    json!({"containers": [{"name": "web", "image": "Web:1:2"}]}),
                    waiting("InvalidImageName", "invalid reference format"),
                ),
                vec![],
            ),
            Cause::ImageNameInvalid,
            &["Web:1:2"],
        ),
        b(
            "config map absent",
            of(
                pod(
                    json!({}),
                    waiting("CreateContainerConfigError", "configmap \"settings\" not found"),
                ),
                vec![],
            ),
            Cause::ConfigurationMissing,
            &["configmap \"settings\" not found"],
        ),
        b(
            "secret key absent",
            of(
                pod(
                    json!({}),
                    waiting(
                        "CreateContainerConfigError",
                        "couldn't find key token in Secret default/keys",
                    ),
                ),
                vec![],
            ),
            Cause::ConfigurationMissing,
            &["token"],
        ),
        b(
            "runs as root",
            of(
                pod(
                    json!({}),
                    waiting(
                        "CreateContainerConfigError",
                        "container has runAsNonRoot and image will run as root",
                    ),
                ),
                vec![],
            ),
            Cause::ConfigurationMissing,
            &["runAsNonRoot"],
        ),
        b(
            "no such program",
            of(
                pod(
                    json!({}),
                    waiting(
                        "RunContainerError",
                        "exec: \"serve\": executable file not found in $PATH",
                    ),
                ),
                vec![],
            ),
            Cause::CannotStart,
            &["serve"],
        ),
        b(
            "no such directory",
            of(
                pod(json!({}), waiting("CreateContainerError", "workingDir /srv is no directory")),
                vec![],
            ),
            Cause::CannotStart,
            &["/srv"],
        ),
        b(
            "crash",
            of(pod(json!({}), crashed(json!({"exitCode": 3, "reason": "Error"}))), vec![]),
            Cause::Crashes,
            &["exited with code 3"],
        ),
        b(
            "crash with last words",
            of(
                pod(
                    json!({}),
                    crashed(json!({"exitCode": 1, "reason": "Error", "message": "no database"})),
                ),
                vec![],
            ),
            Cause::Crashes,
            &["no database"],
        ),
        b(
            "crash by signal",
            of(pod(json!({}), crashed(json!({"exitCode": 139, "reason": "Error"}))), vec![]),
            Cause::Crashes,
            &["signal 11"],
        ),
        b(
            "ends with 0 and is to run for ever",
            of(pod(json!({}), crashed(json!({"exitCode": 0, "reason": "Completed"}))), vec![]),
            Cause::Crashes,
            &["exited with code 0"],
        ),
        b(
            "out of memory",
            of(pod(json!({}), crashed(json!({"exitCode": 137, "reason": "OOMKilled"}))), vec![]),
            Cause::OutOfMemory,
            &["memory"],
        ),
        b(
            "start error",
            of(
                pod(
                    json!({}),
                    crashed(
                        json!({"exitCode": 128, "reason": "StartError", "message": "permission denied"}),
                    ),
                ),
                vec![],
            ),
            Cause::CannotStart,
            &["permission denied"],
        ),
        b(
            "liveness",
            of(
                pod(json!({}), crashed(run(0, 30, 137))),
                vec![
                    event(
                        "Unhealthy",
                        "Liveness probe failed: HTTP probe failed with statuscode: 500",
                    ),
                    event("Killing", "Container web failed liveness probe, will be restarted"),
                ],
            ),
            Cause::LivenessFails,
            &["statuscode: 500"],
        ),
        b(
            "liveness of an exec probe that says nothing",
            of(
                pod(json!({}), crashed(run(0, 30, 137))),
                vec![
                    event_of("web", 28, "Unhealthy", "Liveness probe failed: "),
                    event_of(
                        "web",
                        28,
                        "Killing",
                        "Container web failed liveness probe, will be restarted",
                    ),
                    event_of("web", 30, "BackOff", "Back-off restarting failed container web"),
                ],
            ),
            Cause::LivenessFails,
            &["the command failed and printed nothing."],
        ),
        b(
            "a crash beside a container that a probe has killed",
            of(
                pod(json!({}), crashed(run(0, 30, 3))),
                vec![
                    event_of("log", 28, "Unhealthy", "Liveness probe failed: it is full"),
                    event_of(
                        "log",
                        28,
                        "Killing",
                        "Container log failed liveness probe, will be restarted",
                    ),
                ],
            ),
            Cause::Crashes,
            &["container web exited with code 3"],
        ),
        b(
            "a crash after a run that a probe has ended",
            of(
                pod(json!({}), crashed(run(31, 40, 3))),
                vec![
                    event_of("web", 28, "Unhealthy", "Liveness probe failed: it is full"),
                    event_of(
                        "web",
                        28,
                        "Killing",
                        "Container web failed liveness probe, will be restarted",
                    ),
                ],
            ),
            Cause::Crashes,
            &["container web exited with code 3"],
        ),
        b(
            "readiness beside a container whose probe fails, too",
            of(
                pod(probe("readinessProbe"), running(json!({}))),
                vec![
                    event_of("web", 10, "Unhealthy", "Readiness probe failed: web is busy"),
                    event_of("log", 11, "Unhealthy", "Readiness probe failed: log is full"),
                ],
            ),
            Cause::ReadinessFails,
            &["container web fails: web is busy"],
        ),
        b(
            "startup",
            of(
                pod(json!({}), crashed(run(0, 30, 137))),
                vec![
                    event(
                        "Unhealthy",
                        "Startup probe failed: dial tcp 10.42.0.2:80: connect: connection refused",
                    ),
                    event("Killing", "Container web failed startup probe, will be restarted"),
                ],
            ),
            Cause::StartupFails,
            &["connection refused"],
        ),
        b(
            "readiness",
            of(
                pod(probe("readinessProbe"), running(json!({}))),
                vec![event(
                    "Unhealthy",
                    "Readiness probe failed: HTTP probe failed with statuscode: 503",
                )],
            ),
            Cause::ReadinessFails,
            &["statuscode: 503"],
        ),
        b(
            "readiness by command",
            of(
                pod(probe("readinessProbe"), running(json!({}))),
                vec![event(
                    "Unhealthy",
                    "Readiness probe failed: cat: /ready: No such file or directory",
                )],
            ),
            Cause::ReadinessFails,
            &["/ready"],
        ),
        b(
            "readiness not tried yet",
            of(pod(probe("readinessProbe"), running(json!({}))), vec![]),
            Cause::UnderWay,
            &["readiness probe"],
        ),
        b(
            "readiness gate",
            of(
                pod(
                    json!({"readinessGates": [{"conditionType": "example.org/warm"}]}),
                    running(json!({
            "containerStatuses": [{"name": "web", "ready": true, "state": {"running": {}}}]})),
                ),
                vec![],
            ),
            Cause::Wanted,
            &["example.org/warm"],
        ),
        b(
            "too much cpu",
            of(
                unscheduled(requests("100", "1Gi"), "0/1 nodes are available: 1 Insufficient cpu."),
                vec![],
            ),
            Cause::Unschedulable,
            &["100 cpu", "2 of 2 free"],
        ),
        b(
            "too much memory",
            of(
                unscheduled(
                    requests("1", "64Gi"),
                    "0/1 nodes are available: 1 Insufficient memory.",
                ),
                vec![],
            ),
            Cause::Unschedulable,
            &["64Gi memory", "4Gi of 4Gi"],
        ),
        b(
            "others hold it",
            Case {
                bound: vec![pod(requests("1500m", "1Gi"), json!({"phase": "Running"}))],
                ..of(
                    unscheduled(
                        requests("1", "1Gi"),
                        "0/1 nodes are available: 1 Insufficient cpu.",
                    ),
                    vec![],
                )
            },
            Cause::Unschedulable,
            &["1 cpu", "0.5 of 2 free"],
        ),
        b(
            "node selector",
            of(
                unscheduled(
                    json!({"nodeSelector": {"disk": "ssd"}}),
                    "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: none.",
                ),
                vec![],
            ),
            Cause::Unschedulable,
            &["node affinity/selector"],
        ),
        b(
            "taint",
            of(
                unscheduled(
                    json!({}),
                    "0/1 nodes are available: 1 node(s) had untolerated taint(s).",
                ),
                vec![],
            ),
            Cause::Unschedulable,
            &["taint"],
        ),
        b(
            "another scheduler",
            {
                let mut p = pod(json!({"schedulerName": "mine"}), json!({}));
                p["spec"]["nodeName"] = Value::Null;
                of(p, vec![])
            },
            Cause::Unschedulable,
            &["mine"],
        ),
        b(
            "gate",
            {
                let mut p =
                    pod(json!({"schedulingGates": [{"name": "example.org/later"}]}), json!({}));
                p["spec"]["nodeName"] = Value::Null;
                of(p, vec![])
            },
            Cause::Wanted,
            &["example.org/later"],
        ),
        b(
            "volume's secret absent",
            of(
                pod(json!({}), waiting("ContainerCreating", "")),
                vec![event(
                    "FailedMount",
                    "MountVolume.SetUp failed for volume \"keys\" : secret \"keys\" not found",
                )],
            ),
            Cause::VolumeMissing,
            &["secret \"keys\" not found"],
        ),
        b(
            "no address left",
            of(
                pod(json!({}), waiting("ContainerCreating", "")),
                vec![event(
                    "FailedCreatePodSandBox",
                    "Failed to create pod sandbox: no address is free in 10.42.0.0/30",
                )],
            ),
            Cause::NetworkFailed,
            &["no address is free"],
        ),
        b(
            "init container crashes",
            of(
                pod(
                    json!({"initContainers": [{"name": "prepare", "image": "web:1"}]}),
                    json!({
            "initContainerStatuses": [{"name": "prepare", "ready": false, "restartCount": 2,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 2}}}],
            "containerStatuses": [{"name": "web", "ready": false, "state": {"waiting": {"reason": "PodInitializing"}}}]}),
                ),
                vec![],
            ),
            Cause::Crashes,
            &["prepare", "code 2"],
        ),
        b(
            "init container runs",
            of(
                pod(
                    json!({}),
                    json!({
            "initContainerStatuses": [{"name": "prepare", "ready": false, "state": {"running": {}}}],
            "containerStatuses": [{"name": "web", "ready": false, "state": {"waiting": {"reason": "PodInitializing"}}}]}),
                ),
                vec![],
            ),
            Cause::UnderWay,
            &["prepare"],
        ),
        b(
            "a sidecar has not started, one before it has",
            of(
                pod(
                    json!({"initContainers": [
                        {"name": "log", "image": "web:1", "restartPolicy": "Always"},
                        {"name": "mesh", "image": "web:1", "restartPolicy": "Always"}]}),
                    json!({
            "initContainerStatuses": [
                {"name": "log", "ready": true, "started": true, "state": {"running": {}}},
                {"name": "mesh", "ready": false, "started": false, "state": {"running": {}}}],
            "containerStatuses": [{"name": "web", "ready": false, "state": {"waiting": {"reason": "PodInitializing"}}}]}),
                ),
                vec![],
            ),
            Cause::UnderWay,
            &["its sidecar mesh has not started yet"],
        ),
        b(
            "failed for good",
            of(
                pod(
                    json!({}),
                    json!({"phase": "Failed", "containerStatuses": [
            {"name": "web", "state": {"terminated": {"exitCode": 7, "reason": "Error"}}}]}),
                ),
                vec![],
            ),
            Cause::Ended,
            &["code 7"],
        ),
        b(
            "deadline",
            of(
                pod(
                    json!({}),
                    json!({"phase": "Failed", "reason": "DeadlineExceeded", "message": "Pod was active on the node longer than the specified deadline"}),
                ),
                vec![],
            ),
            Cause::Ended,
            &["DeadlineExceeded"],
        ),
        b(
            "done",
            of(pod(json!({}), json!({"phase": "Succeeded"})), vec![]),
            Cause::Ended,
            &["exit code 0"],
        ),
        b(
            "held by a finalizer",
            {
                let mut p = serving();
                p["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
                p["metadata"]["finalizers"] = json!(["example.org/keep"]);
                of(p, vec![])
            },
            Cause::Terminating,
            &["example.org/keep"],
        ),
        b("nothing wrong", of(serving(), vec![]), Cause::AsDeclared, &["as declared"]),
    ]
}

fn others() -> Vec<Broken> {
    let b = |name, case, cause, says| Broken { name, case, cause, says };
    let bad_image = || {
        pod(
            json!({"containers": [{"name": "web", "image": "web:2"}]}),
            waiting("ErrImagePull", "web:2: not found in the registry"),
        )
    };
    let complete = json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3});
    let refused = |message: &str| json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}]);
    vec![
        b(
            "rollout to an absent image",
            rolling(deployment(json!({})), bad_image(), vec![]),
            Cause::ImageMissing,
            &["web:2", "1 of 3", "3 pods of the version before still serve"],
        ),
        b(
            "the same after the deadline",
            rolling(deployment(json!({"status.conditions": late()})), bad_image(), vec![]),
            Cause::ImageMissing,
            &["is stuck at web:2", "still serve"],
        ),
        b(
            "rollout whose probe fails",
            rolling(
                deployment(json!({})),
                pod(json!({}), running(json!({}))),
                vec![event(
                    "Unhealthy",
                    "Readiness probe failed: HTTP probe failed with statuscode: 404",
                )],
            ),
            Cause::ReadinessFails,
            &["statuscode: 404"],
        ),
        b(
            "rollout that crashes",
            rolling(deployment(json!({})), pod(json!({}), crashed(json!({"exitCode": 1}))), vec![]),
            Cause::Crashes,
            &["code 1"],
        ),
        b(
            "rollout that fits nowhere",
            rolling(
                deployment(json!({})),
                unscheduled(requests("9", "1Gi"), "0/1 nodes are available: 1 Insufficient cpu."),
                vec![],
            ),
            Cause::Unschedulable,
            &["9 cpu"],
        ),
        b(
            "deadline without a culprit",
            Case { object: deployment(json!({"status.conditions": late()})), ..Case::default() },
            Cause::RolloutStuck,
            &["deadline"],
        ),
        b(
            "quota",
            Case {
                object: deployment(
                    json!({"status.conditions": refused("pods \"web-1\" is forbidden: exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2")}),
                ),
                ..Case::default()
            },
            Cause::Forbidden,
            &["quota small", "limited: pods=2"],
        ),
        b(
            "forbidden service account",
            Case {
                object: deployment(
                    json!({"status.conditions": refused("pods \"web-1\" is forbidden: error looking up service account default/robot: serviceaccount \"robot\" not found")}),
                ),
                ..Case::default()
            },
            Cause::Forbidden,
            &["robot"],
        ),
        b(
            "paused",
            Case { object: deployment(json!({"spec.paused": true})), ..Case::default() },
            Cause::Wanted,
            &["paused"],
        ),
        b(
            "paused in the middle of a rollout that goes wrong",
            rolling(deployment(json!({"spec.paused": true})), bad_image(), vec![]),
            Cause::ImageMissing,
            &["web:2", "3 pods of the version before still serve", "it is paused"],
        ),
        b(
            "paused in the middle of a rollout that goes well",
            rolling(
                deployment(json!({"spec.paused": true})),
                pod(json!({}), waiting("ContainerCreating", "")),
                vec![],
            ),
            Cause::Wanted,
            &["paused"],
        ),
        b(
            "scaled to nothing",
            Case {
                object: deployment(
                    json!({"spec.replicas": 0, "status": {"observedGeneration": 2}}),
                ),
                ..Case::default()
            },
            Cause::Wanted,
            &["scaled to 0"],
        ),
        b(
            "not looked at",
            Case { object: deployment(json!({"status.observedGeneration": 1})), ..Case::default() },
            Cause::NotSeen,
            &["not been looked at"],
        ),
        b(
            "complete",
            Case { object: deployment(json!({"status": complete})), ..Case::default() },
            Cause::AsDeclared,
            &["as declared"],
        ),
        b(
            "service with a typing error",
            service(json!({"app": "wbe"}), json!(80), vec![serving()]),
            Cause::SelectsNothing,
            &["app=wbe", "matches none"],
        ),
        b(
            "service without pods",
            service(json!({"app": "web"}), json!(80), vec![]),
            Cause::SelectsNothing,
            &["app=web"],
        ),
        b(
            "service to a port that nobody names",
            service(json!({"app": "web"}), json!("http"), vec![serving()]),
            Cause::SelectsNothing,
            &["http"],
        ),
        b(
            "service whose pods are not ready",
            service(json!({"app": "web"}), json!(80), vec![bad_image()]),
            Cause::NothingReady,
            &["no ready pod", "web:2"],
        ),
        b(
            "service that serves",
            service(json!({"app": "web"}), json!(80), vec![serving()]),
            Cause::AsDeclared,
            &[],
        ),
        b(
            "replica set with an absent image",
            Case {
                object: set("web-new", "web:2", 2, 0),
                pods: vec![owned(bad_image(), "web-new")],
                ..Case::default()
            },
            Cause::ImageMissing,
            &["0 of 3", "web:2"],
        ),
        b(
            "namespace that cannot end",
            Case {
                object: json!({"kind": "Namespace", "metadata": {"name": "old", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"finalizers": ["kubernetes"]}}),
                ..Case::default()
            },
            Cause::Terminating,
            &["kubernetes"],
        ),
        b(
            "node that is not ready",
            Case {
                object: json!({"kind": "Node", "metadata": {"name": "box"}, "status": {"conditions": [
            {"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status."}]}}),
                ..Case::default()
            },
            Cause::ConditionFalse,
            &["not Ready", "stopped posting"],
        ),
    ]
}

#[test]
fn the_true_cause_is_named_in_every_broken_case() {
    let now = Timestamp::from_unix(1_767_225_600, 0);
    let broken: Vec<Broken> = pods().into_iter().chain(others()).collect();
    assert!(broken.len() >= 40, "{}", broken.len());
    let mut missed = Vec::new();
    for Broken { name, case, cause, says } in &broken {
        let found = diagnose(case, now);
        let silent: Vec<_> = says.iter().filter(|word| !found.sentence.contains(**word)).collect();
        if found.cause != *cause || !silent.is_empty() || found.sentence.contains('\n') {
            missed
                .push(format!("{name}: {:?}, without {silent:?}: {}", found.cause, found.sentence));
        }
    }
    let score = broken.len() - missed.len();
    assert!(missed.is_empty(), "{score} of {}:\n{}", broken.len(), missed.join("\n"));
}

#[test]
fn evidence_stands_under_the_sentence() {
    let case = of(
        pod(json!({}), waiting("ImagePullBackOff", "Back-off pulling image \"web:1\"")),
        vec![event("Failed", NOT_FOUND)],
    );
    let found = diagnose(&case, Timestamp::from_unix(0, 0));
    assert_eq!(
        found.sentence,
        "Pod web-1 is not ready: the image web:1 of container web cannot be had: Failed to pull image \"web:1\": web:1: not found in the registry."
    );
    assert_eq!(
        found.evidence,
        [
            "container web waits: ImagePullBackOff: Back-off pulling image \"web:1\"",
            "event Failed (3 times): Failed to pull image \"web:1\": web:1: not found in the registry",
        ]
    );
}

#[test]
fn what_a_probe_has_killed_shows_the_probe_and_not_what_came_of_it() {
    let events = vec![
        event_of("web", 28, "Unhealthy", "Liveness probe failed: "),
        event_of("web", 28, "Killing", "Container web failed liveness probe, will be restarted"),
        event_of("web", 30, "BackOff", "Back-off restarting failed container web in pod web-1"),
    ];
    let found =
        diagnose(&of(pod(json!({}), crashed(run(0, 30, 137))), events), Timestamp::from_unix(0, 0));
    assert_eq!(
        found.evidence,
        [
            "event Unhealthy (3 times): Liveness probe failed: ",
            "event Killing (3 times): Container web failed liveness probe, will be restarted",
            "container web has been restarted 4 times",
        ]
    );
}
