use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;

fn check(resource: &str, mut object: Value, expected: Expect) {
    apply(resource, &mut object);
    let once = object.clone();
    apply(resource, &mut object);
    assert_eq!(once, object, "defaulting is idempotent");
    expected.assert_eq(&serde_json::to_string_pretty(&object).unwrap());
}

#[test]
fn smallest_pod_gets_what_clients_rely_on() {
    check(
        "pods",
        json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80, "hostPort": 0}]}], "hostNetwork": false}}),
        expect![[r#""#]],
    );
}

#[test]
fn template_gets_no_pod_only_defaults() {
    check(
        "deployments.apps",
        json!({"spec": {"template": {"spec": {"hostNetwork": true, "serviceAccount": "sa", "containers": [{"name": "c", "image": "a:1", "resources": {"limits": {"cpu": 1}}, "ports": [{"containerPort": 1}]}]}}}}),
        expect![[r#""#]],
    );
}

#[test]
fn volumes_environment_and_probes() {
    check(
        "pods",
        json!({"spec": {"hostNetwork": true,
            "containers": [{"name": "c", "image": "a@sha256:0", "imagePullPolicy": "",
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1000m"}, "requests": {"memory": "1024Ki"}},
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 0, "initialDelaySeconds": 0}}],
            "volumes": [{"name": "a"}, {"name": "b", "configMap": {"name": "x"}}, {"name": "h", "hostPath": {"path": "/"}},
                {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}}]}}),
        expect![[r#""#]],
    );
}

#[test]
fn pull_policy_follows_the_tag() {
    for (image, policy) in [
        ("a", "Always"),
        ("a:latest", "Always"),
        ("a:1", "IfNotPresent"),
        ("h:5000/a", "Always"),
        ("h:5000/a:2", "IfNotPresent"),
        ("a@sha256:00", "IfNotPresent"),
        ("a:latest@sha256:00", "Always"),
    ] {
        let mut pod = json!({"spec": {"containers": [{"image": image}]}});
        apply("pods", &mut pod);
        assert_eq!(
            pod["spec"]["containers"][0]["imagePullPolicy"], policy,
            "{image}"
        );
    }
}

#[test]
fn qos_class_follows_requests_and_limits() {
    for (containers, class) in [
        (json!([{}]), "BestEffort"),
        (
            json!([{"resources": {"requests": {"cpu": "0"}}}]),
            "BestEffort",
        ),
        (
            json!([{"resources": {"requests": {"cpu": "1"}}}]),
            "Burstable",
        ),
        (
            json!([{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]),
            "Guaranteed",
        ),
        (
            json!([{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}}]),
            "Guaranteed",
        ),
        (
            json!([{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}}]),
            "Burstable",
        ),
        (
            json!([{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}, {}]),
            "Burstable",
        ),
        (
            json!([{"resources": {"limits": {"cpu": "1"}}}]),
            "Burstable",
        ),
    ] {
        let pod = json!({"spec": {"containers": containers}});
        assert_eq!(pod::qos_class(&pod), class, "{pod}");
    }
}

#[test]
fn string_data_is_folded_and_wins() {
    check(
        "secrets",
        json!({"data": {"a": "MQ==", "b": "Mg=="}, "stringData": {"b": "three", "c": ""}}),
        expect![[r#""#]],
    );
}

#[test]
fn namespaces_are_labelled_active_and_finalized() {
    check(
        "namespaces",
        json!({"metadata": {"name": "a"}}),
        expect![[r#""#]],
    );
    let mut emptied = json!({"metadata": {"name": "a"}, "spec": {"finalizers": []}});
    apply("namespaces", &mut emptied);
    assert_eq!(emptied["spec"]["finalizers"], json!([]));
}

#[test]
fn workloads_services_and_jobs() {
    check("statefulsets.apps", json!({}), expect![[r#""#]]);
    check(
        "daemonsets.apps",
        json!({"spec": {"updateStrategy": {"type": "OnDelete"}}}),
        expect![[r#""#]],
    );
    check(
        "services",
        json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 0}], "sessionAffinity": "ClientIP"}}),
        expect![[r#""#]],
    );
    check("jobs.batch", json!({"spec": {"template": {}}}), expect![[r#""#]]);
    check("cronjobs.batch", json!({}), expect![[r#""#]]);
}

#[test]
fn wrong_types_pass_through() {
    for resource in [
        "pods",
        "secrets",
        "namespaces",
        "nodes",
        "services",
        "deployments.apps",
        "jobs.batch",
        "cronjobs.batch",
    ] {
        for object in [
            json!({"metadata": 1, "spec": "x", "status": [], "data": 2, "stringData": 3}),
            json!({"spec": {"containers": {}, "volumes": [1], "template": 2, "ports": "x", "strategy": 1, "jobTemplate": []}}),
            json!({"spec": {"containers": [{"resources": 1, "env": [{"valueFrom": 1}], "ports": 3, "image": {}}], "volumes": [{"projected": {"sources": 1}}]}}),
            json!([]),
            json!(null),
        ] {
            apply(resource, &mut object.clone());
        }
    }
}
