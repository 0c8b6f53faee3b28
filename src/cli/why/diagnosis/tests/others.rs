//! Broken Deployments, and whatever else is not a pod.

use super::*;

pub fn all() -> Vec<Broken> {
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
            "deadline, and an init container that merely takes its time",
            rolling(
                deployment(json!({"status.conditions": late()})),
                pods::preparing(json!({"running": {"startedAt": "2025-12-31T23:58:58Z"}})),
                vec![],
            ),
            Cause::RolloutStuck,
            &["is stuck at web:2", "its init container prepare has been running for 62s"],
        ),
        b(
            "namespace that waits for a finalizer",
            of(
                json!({"kind": "Namespace",
                    "metadata": {"name": "old", "uid": "N", "deletionTimestamp": "2026-01-01T00:00:00Z"},
                    "spec": {"finalizers": ["kubernetes"]},
                    "status": {"conditions": [
                        {"type": "NamespaceContentRemaining", "status": "True",
                            "message": "Some resources are remaining: configmaps. has 1 resource instances"},
                        {"type": "NamespaceFinalizersRemaining", "status": "True",
                            "message": "Some content in the namespace has finalizers remaining: example.org/keep in 1 resource instances"}]}}),
                vec![],
            ),
            Cause::Terminating,
            &[
                "waits for the finalizers of what is in it: example.org/keep in 1 resource instances.",
            ],
        ),
        b(
            "namespace that waits for a pod",
            of(
                json!({"kind": "Namespace",
                    "metadata": {"name": "old", "uid": "N", "deletionTimestamp": "2026-01-01T00:00:00Z"},
                    "spec": {"finalizers": ["kubernetes"]},
                    "status": {"conditions": [
                        {"type": "NamespaceContentRemaining", "status": "True",
                            "message": "Some resources are remaining: pods. has 1 resource instances"},
                        {"type": "NamespaceFinalizersRemaining", "status": "False",
                            "message": "All content-preserving finalizers finished"}]}}),
                vec![],
            ),
            Cause::Terminating,
            &["waits for what is still in it: pods. has 1 resource instances."],
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
