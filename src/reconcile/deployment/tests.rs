//! Worlds in, decisions out, as lines. Whole rollouts are in `tests/scenario`.

use expect_test::{Expect, expect};
use kube::runtime::watcher::Event;
use serde_json::Value;

use super::super::roots::Turn;
use super::*;

fn deployment(more: Value, status: Value) -> Value {
    let mut spec = json!({
        "replicas": 3,
        "progressDeadlineSeconds": 600,
        "revisionHistoryLimit": 1,
        "selector": {"matchLabels": {"app": "web"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
        "template": template("web:2", None),
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({
        "metadata": {
            "namespace": "default", "name": "web", "uid": "D", "generation": 4, "resourceVersion": "9",
            "annotations": {"deployment.kubernetes.io/revision": "2"},
        },
        "spec": spec,
        "status": status,
    })
}

fn template(image: &str, hash: Option<&str>) -> Value {
    let mut template = json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "a", "image": image}]},
    });
    if let Some(hash) = hash {
        template["metadata"]["labels"]["pod-template-hash"] = hash.into();
    }
    template
}

/// `sizes`: wanted, held, available.
fn set(name: &str, image: &str, revision: u32, sizes: [i32; 3]) -> Value {
    json!({
        "metadata": {
            "namespace": "default", "name": name, "uid": name, "generation": 1, "resourceVersion": "8",
            "creationTimestamp": format!("2026-01-01T00:00:0{revision}Z"),
            "labels": {"app": "web", "pod-template-hash": name},
            "annotations": {
                "deployment.kubernetes.io/revision": revision.to_string(),
                "deployment.kubernetes.io/desired-replicas": "3",
                "deployment.kubernetes.io/max-replicas": "4",
            },
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "D", "controller": true}],
        },
        "spec": {"replicas": sizes[0], "selector": {}, "template": template(image, Some(name))},
        "status": {"replicas": sizes[1], "availableReplicas": sizes[2], "readyReplicas": sizes[2], "observedGeneration": 1},
    })
}

fn decide(deployment: &Value, sets: &[Value]) -> Decision {
    let caches = Caches::new();
    for set in sets {
        caches.replica_sets.take(Event::Apply(serde_json::from_value(set.clone()).unwrap()));
    }
    let root = Arc::new(serde_json::from_value(deployment.clone()).unwrap());
    let turn = Turn { key: Key::new("default", "web"), failures: Vec::new(), may_change: true };
    let now = "2026-01-01T01:00:00Z".parse().unwrap();
    super::super::driver::decide::<Deployments>(&caches, &turn, Some(&root), now).unwrap()
}

fn lines(decision: &Decision) -> String {
    let mut lines = Vec::new();
    for intent in &decision.changes {
        lines.push(match &intent.write {
            Write::Create { object, .. } => {
                let held = &object["metadata"]["annotations"];
                format!(
                    "create {} of {}, {held}",
                    object["metadata"]["name"], object["spec"]["replicas"]
                )
            }
            Write::Patch { target, patch, .. } => {
                format!("patch {} {}", target.key.name, patch["spec"])
            }
            Write::Adopt { target, .. } => format!("adopt {}", target.key.name),
            Write::Delete { target, .. } => format!("delete {}", target.key.name),
        });
        if let Told::Whole { done, .. } = &intent.told {
            lines.push(format!("  {}: {}", done.reason, done.text));
        }
    }
    let conditions =
        decision.status.iter().flat_map(|s| s["conditions"].as_array().into_iter().flatten());
    for condition in conditions {
        lines.push(
            format!("{}={} {}", condition["type"], condition["status"], condition["reason"])
                .replace('"', ""),
        );
    }
    if !decision.annotations.is_empty() {
        lines.push(format!("{:?}", decision.annotations));
    }
    lines.join("\n")
}

fn check(deployment: &Value, sets: &[Value], expected: Expect) {
    expected.assert_eq(&lines(&decide(deployment, sets)));
}

#[test]
fn a_new_template_gets_a_set_that_fits_into_the_surge() {
    check(
        &deployment(json!({}), json!({})),
        &[set("old", "web:1", 1, [3, 3, 3])],
        expect![[r#"
            create "web-79df5c5bbb" of 1, {"deployment.kubernetes.io/desired-replicas":"3","deployment.kubernetes.io/max-replicas":"4","deployment.kubernetes.io/revision":"2"}
              ScalingReplicaSet: Scaled up replica set web-79df5c5bbb from 0 to 1
            Available=True MinimumReplicasAvailable
            Progressing=True NewReplicaSetCreated"#]],
    );
}

#[test]
fn a_bad_image_leaves_the_old_pods_alone_and_is_told_after_the_deadline() {
    let progressing = json!([{"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated",
        "lastUpdateTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    let status = json!({"replicas": 4, "updatedReplicas": 1, "readyReplicas": 3, "availableReplicas": 3, "conditions": progressing});
    check(
        &deployment(json!({}), status),
        &[set("old", "web:1", 1, [3, 3, 3]), set("new", "web:2", 2, [1, 1, 0])],
        expect![[r#"
            Progressing=False ProgressDeadlineExceeded
            Available=True MinimumReplicasAvailable"#]],
    );
}

#[test]
fn an_undone_rollout_uses_the_old_set_again_under_a_new_revision() {
    check(
        &deployment(json!({"template": template("web:1", None)}), json!({})),
        &[set("old", "web:1", 1, [2, 2, 2]), set("new", "web:2", 2, [2, 2, 0])],
        expect![[r#"
            patch old {"minReadySeconds":0}
            Available=False MinimumReplicasUnavailable
            Progressing=True ReplicaSetUpdated"#]],
    );
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let paused = json!({"paused": true, "replicas": 5});
    check(
        &deployment(paused, json!({})),
        &[set("old", "web:1", 1, [3, 3, 3])],
        expect![[r#"
            patch old {"replicas":5}
              ScalingReplicaSet: Scaled up replica set old from 3 to 5
            Available=False MinimumReplicasUnavailable
            Progressing=Unknown DeploymentPaused"#]],
    );
}

#[test]
fn a_set_does_not_grow_beside_one_that_has_not_yet_given_up_its_pods() {
    let paused = json!({"paused": true});
    check(
        &deployment(paused.clone(), json!({})),
        &[set("old", "web:1", 1, [2, 2, 2]), set("new", "web:2", 2, [0, 1, 0])],
        expect![[r#"
            Available=False MinimumReplicasUnavailable
            Progressing=Unknown DeploymentPaused"#]],
    );
    check(
        &deployment(paused, json!({})),
        &[set("old", "web:1", 1, [2, 2, 2]), set("new", "web:2", 2, [0, 0, 0])],
        expect![[r#"
            patch old {"replicas":3}
              ScalingReplicaSet: Scaled up replica set old from 2 to 3
            Available=False MinimumReplicasUnavailable
            Progressing=Unknown DeploymentPaused"#]],
    );
}

#[test]
fn a_paused_deployment_that_becomes_recreate_keeps_the_pods_that_serve() {
    let more = json!({"paused": true, "strategy": {"type": "Recreate"}});
    check(
        &deployment(more, json!({})),
        &[set("old", "web:1", 1, [3, 3, 3]), set("new", "web:2", 2, [1, 1, 0])],
        expect![[r#"
            Available=True MinimumReplicasAvailable
            Progressing=Unknown DeploymentPaused"#]],
    );
}

#[test]
fn history_beyond_the_limit_is_deleted_once_the_rollout_is_complete() {
    let status = json!({"observedGeneration": 4, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3, "availableReplicas": 3});
    let mut first = set("first", "web:0", 1, [0, 0, 0]);
    first["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "1".into();
    check(
        &deployment(json!({}), status),
        &[first, set("second", "web:1", 2, [0, 0, 0]), set("third", "web:2", 3, [3, 3, 3])],
        expect![[r#"
            delete first
            Available=True MinimumReplicasAvailable
            Progressing=True NewReplicaSetAvailable
            {"deployment.kubernetes.io/revision": "3"}"#]],
    );
}

#[test]
fn a_name_that_another_set_has_is_avoided() {
    let name = match &decide(&deployment(json!({}), json!({})), &[]).changes[0].write {
        Write::Create { object, .. } => object["metadata"]["name"].as_str().unwrap().to_owned(),
        other => panic!("{other:?}"),
    };
    let mut foreign = set(&name, "other:1", 1, [3, 3, 3]);
    foreign["metadata"]["ownerReferences"] = Value::Null;
    foreign["metadata"]["labels"] = json!({"app": "other"});
    let decision = decide(&deployment(json!({}), json!({})), &[foreign.clone()]);
    assert_eq!(decision.changes, []);
    assert_eq!(decision.status.unwrap()["collisionCount"], 1);
    let decision = decide(&deployment(json!({}), json!({"collisionCount": 1})), &[foreign]);
    assert!(
        matches!(&decision.changes[0].write, Write::Create { object, .. } if object["metadata"]["name"] != *name)
    );
}
