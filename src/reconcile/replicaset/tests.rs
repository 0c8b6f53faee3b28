//! Worlds in, decisions out, as lines.

use expect_test::{Expect, expect};
use serde_json::Value;

use super::super::caches::Caches;
use super::super::roots::Turn;
use super::*;
use kube::runtime::watcher::Event;

fn set(replicas: i32) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": "web", "uid": "R", "generation": 2, "resourceVersion": "9"},
        "spec": {
            "replicas": replicas,
            "minReadySeconds": 10,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web", "tier": "front"}}, "spec": {"containers": []}},
        },
    })
}

fn pod(name: &str, ready: &str, more: Value) -> Value {
    let mut pod = json!({
        "metadata": {
            "namespace": "default", "name": name, "uid": name, "resourceVersion": "8",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": "web", "tier": "front"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "R", "controller": true}],
        },
        "spec": {"nodeName": "box", "containers": []},
        "status": {"phase": "Running", "conditions": [{
            "type": "Ready", "status": if ready.is_empty() { "False" } else { "True" },
            "lastTransitionTime": Some(ready).filter(|ready| !ready.is_empty()),
        }]},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        pod["metadata"][key] = value.clone();
    }
    pod
}

fn decided(set: &Value, pods: &[Value], failures: Vec<Failure>) -> String {
    let caches = Caches::new();
    for pod in pods {
        caches.pods.take(Event::Apply(serde_json::from_value(pod.clone()).unwrap()));
    }
    let root = Arc::new(serde_json::from_value(set.clone()).unwrap());
    let turn = Turn { key: Key::new("default", "web"), failures, may_change: true };
    let now = "2026-01-01T00:01:00Z".parse().unwrap();
    let decision =
        super::super::driver::decide::<ReplicaSets>(&caches, &turn, Some(&root), now).unwrap();
    let mut lines: Vec<String> = decision
        .changes
        .iter()
        .map(|intent| match &intent.write {
            Write::Create { object, .. } => {
                format!("create {}", object["metadata"]["generateName"])
            }
            Write::Patch { target, patch, .. } => format!("patch {} {patch}", target.key),
            Write::Adopt { target, .. } => format!("adopt {}", target.key),
            Write::Delete { target, .. } => format!("delete {} {}", target.key, target.uid),
        })
        .collect();
    lines.extend(decision.status.map(|status| format!("status {status}")));
    lines.extend(decision.again.map(|span| format!("again in {} s", span.as_secs())));
    lines.join("\n")
}

fn check(set: &Value, pods: &[Value], expected: Expect) {
    expected.assert_eq(&decided(set, pods, Vec::new()));
}

const EARLY: &str = "2026-01-01T00:00:30Z";

#[test]
fn what_is_missing_is_created_and_what_is_only_just_ready_is_waited_for() {
    check(
        &set(3),
        &[pod("a", EARLY, json!({})), pod("b", "2026-01-01T00:00:57Z", json!({}))],
        expect![[r#"
            create "web-"
            status {"availableReplicas":1,"fullyLabeledReplicas":2,"observedGeneration":2,"readyReplicas":2,"replicas":2}
            again in 7 s"#]],
    );
}

#[test]
fn a_pod_that_is_being_stopped_is_replaced_at_once_and_one_that_is_over_too() {
    let going = pod("a", EARLY, json!({"deletionTimestamp": "2026-01-01T00:00:50Z"}));
    let mut over = pod("b", "", json!({}));
    over["status"]["phase"] = "Failed".into();
    check(
        &set(1),
        &[going, over],
        expect![[r#"
            create "web-"
            status {"observedGeneration":2,"replicas":0,"terminatingReplicas":1}"#]],
    );
}

#[test]
fn the_surplus_goes_and_a_stranger_of_the_same_name_and_labels_is_left_alone() {
    let foreign = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "S", "controller": true}]);
    check(
        &set(1),
        &[
            pod("a", EARLY, json!({})),
            pod("b", "", json!({})),
            pod("stranger", EARLY, json!({"ownerReferences": foreign})),
        ],
        expect![[r#"
            delete default/b b
            status {"availableReplicas":1,"fullyLabeledReplicas":2,"observedGeneration":2,"readyReplicas":1,"replicas":2}"#]],
    );
}

#[test]
fn orphans_are_adopted_before_pods_are_made_and_strays_released() {
    check(
        &set(2),
        &[
            pod("orphan", EARLY, json!({"ownerReferences": null})),
            pod("stray", EARLY, json!({"labels": {"app": "other"}})),
        ],
        expect![[r#"
            adopt default/orphan
            patch default/stray {"metadata":{"ownerReferences":null}}
            create "web-"
            status {"observedGeneration":2,"replicas":0}"#]],
    );
}

#[test]
fn a_set_that_is_as_it_should_be_needs_no_write() {
    let mut settled = set(1);
    settled["status"] = json!({"availableReplicas": 1, "fullyLabeledReplicas": 1, "observedGeneration": 2, "readyReplicas": 1, "replicas": 1});
    check(&settled, &[pod("a", EARLY, json!({}))], expect![[""]]);
}

#[test]
fn a_set_that_is_being_deleted_makes_no_pods() {
    let mut going = set(2);
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    check(
        &going,
        &[pod("orphan", EARLY, json!({"ownerReferences": null}))],
        expect![[r#"status {"observedGeneration":2,"replicas":0}"#]],
    );
}

#[test]
fn a_refused_pod_is_told_in_a_condition_that_goes_when_it_is_over() {
    let failure = Failure { reason: "FailedCreate", message: "exceeded quota".into() };
    let told = decided(&set(1), &[], vec![failure]);
    let condition = r#""conditions":[{"lastTransitionTime":"2026-01-01T00:01:00Z","message":"exceeded quota","reason":"FailedCreate","status":"True","type":"ReplicaFailure"}]"#;
    assert!(told.contains(condition), "{told}");
    let mut failed = set(1);
    failed["status"] =
        json!({"replicas": 1, "conditions": [{"type": "ReplicaFailure", "status": "True"}]});
    let told = decided(&failed, &[pod("a", EARLY, json!({}))], Vec::new());
    assert!(!told.contains("ReplicaFailure"), "{told}");
}
