//! The score: broken things whose true cause is known, and whether it is named. The states are those that come out
//! of the daemon, or of Kubernetes for the same manifest.

use serde_json::json;

use super::*;

mod others;
mod pods;

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

#[test]
fn the_true_cause_is_named_in_every_broken_case() {
    let now = Timestamp::from_unix(1_767_225_600, 0);
    let broken: Vec<Broken> = pods::all().into_iter().chain(others::all()).collect();
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
