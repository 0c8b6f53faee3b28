//! Namespaces that hold their pods to a Pod Security Standard, in the words of Kubernetes.

use serde_json::{Value, json};

use crate::harness::{Cluster, Reply, cluster};

const TEAM: &str = "/api/v1/namespaces/team";
const PODS: &str = "/api/v1/namespaces/team/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/team/deployments";

async fn team(labels: Value) -> Cluster {
    let cluster = cluster().await;
    let namespace = json!({"metadata": {"name": "team", "labels": labels}});
    let made = cluster.post("/api/v1/namespaces", namespace).await;
    assert_eq!(made.code, 201, "{}", made.text);
    cluster
}

fn label(mode: &str, level: &str) -> Value {
    json!({format!("pod-security.kubernetes.io/{mode}"): level})
}

fn pod(name: &str, host_port: u16) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"containers": [
            {"name": "a", "image": "x:1", "ports": [{"containerPort": 80, "hostPort": host_port}]},
        ]},
    })
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [
                    {"name": "a", "image": "x:1", "securityContext": {"privileged": true}},
                ]},
            },
        },
    })
}

fn warnings(reply: &Reply) -> Vec<String> {
    let all = reply.headers.get_all("warning").iter();
    all.map(|value| value.to_str().unwrap().replace("\\\"", "'")).collect()
}

#[tokio::test]
async fn a_pod_that_violates_what_is_enforced_is_refused_and_says_what_is_missing() {
    let cluster = team(label("enforce", "restricted")).await;
    let refused = cluster.post(
        PODS,
        json!({
            "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "x:1"}]},
        }),
    );
    let (code, message) = refused.await.refusal();
    assert_eq!(code, 403);
    assert_eq!(
        message,
        "pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"a\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"a\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"a\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert_eq!(cluster.get(&format!("{PODS}/p")).await.code, 404);
    let good = json!({
        "metadata": {"name": "p"},
        "spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "image": "x:1", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            }}],
        },
    });
    let taken = cluster.post(PODS, good).await;
    assert_eq!((taken.code.as_u16(), warnings(&taken)), (201, Vec::new()), "{}", taken.text);
    // What makes pods is judged when it makes them, as in Kubernetes.
    let made = cluster.post(DEPLOYMENTS, deployment()).await;
    assert_eq!((made.code.as_u16(), warnings(&made)), (201, Vec::new()), "{}", made.text);
}

#[tokio::test]
async fn who_writes_what_would_violate_is_warned_in_each_way_of_writing() {
    let cluster = team(label("warn", "baseline")).await;
    let privileged = [
        "299 - \"would violate PodSecurity 'baseline:latest': privileged (container 'a' must not set securityContext.privileged=true)\"",
    ];
    let port = [
        "299 - \"would violate PodSecurity 'baseline:latest': hostPort (container 'a' uses hostPort 80)\"",
    ];
    let made = cluster.post(PODS, pod("p", 80)).await;
    assert_eq!(made.code, 201);
    assert_eq!(warnings(&made), port);
    let made = cluster.post(DEPLOYMENTS, deployment()).await;
    assert_eq!(warnings(&made), privileged, "{}", made.text);
    let web = format!("{DEPLOYMENTS}/web");
    let put = cluster.put(&web, made.json()).await;
    assert_eq!(warnings(&put), privileged, "{}", put.text);
    let merged = cluster.merge(&web, json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(warnings(&merged), privileged, "{}", merged.text);
    let applied = cluster
        .write(
            "PATCH",
            &format!("{web}?fieldManager=t&force=true"),
            "application/apply-patch+yaml",
            deployment().to_string(),
        )
        .await;
    assert_eq!(warnings(&applied), privileged, "{}", applied.text);
    let scaled = cluster.merge(&format!("{web}/scale"), json!({"spec": {"replicas": 2}})).await;
    assert_eq!((scaled.code.as_u16(), warnings(&scaled)), (200, Vec::new()));
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    let labelled = cluster.merge(&format!("{PODS}/p"), labels).await;
    assert_eq!((labelled.code.as_u16(), warnings(&labelled)), (200, Vec::new()));
}

/// As Kubernetes does, whose validating admission comes after the name is generated.
#[tokio::test]
async fn a_refusal_names_the_pod_by_the_name_that_was_generated_for_it() {
    let cluster = team(label("enforce", "baseline")).await;
    let mut asked = pod("", 80);
    asked["metadata"] = json!({"generateName": "web-5d8c7f-"});
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let (code, message) = cluster.post(PODS, asked.clone()).await.refusal();
        assert_eq!(code, 403);
        let name = message.split('"').nth(1).unwrap_or_default().to_owned();
        assert!(message.starts_with("pods \"web-5d8c7f-"), "{message}");
        assert_eq!(name.len(), "web-5d8c7f-x7k2p".len(), "{message}");
        names.insert(name);
    }
    assert_eq!(names.len(), 3, "{names:?}");
}

#[tokio::test]
async fn pods_that_run_when_a_namespace_asks_for_more_are_told_and_stay() {
    let cluster = team(json!({})).await;
    for name in ["b", "a"] {
        assert_eq!(cluster.post(PODS, pod(name, 80)).await.code, 201);
    }
    let enforce = json!({"metadata": {"labels": label("enforce", "baseline")}});
    let changed = cluster.merge(TEAM, enforce).await;
    assert_eq!(changed.code, 200, "{}", changed.text);
    assert_eq!(
        warnings(&changed),
        [
            "299 - \"existing pods in namespace 'team' violate the new PodSecurity enforce level 'baseline:latest'\"",
            "299 - \"a (and 1 other pod): hostPort\"",
        ]
    );
    assert_eq!(cluster.get(&format!("{PODS}/a")).await.code, 200);
    // Something else of it may change, another image makes it a new pod to the standard.
    let path = format!("{PODS}/a");
    let labelled = cluster.merge(&path, json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(labelled.code, 200, "{}", labelled.text);
    let image = json!({"spec": {"containers": [{
        "name": "a", "image": "x:2", "ports": [{"containerPort": 80, "hostPort": 80}],
    }]}});
    let refused =
        cluster.write("PATCH", &path, "application/strategic-merge-patch+json", image.to_string());
    let (code, message) = refused.await.refusal();
    assert_eq!(code, 403, "{message}");
    assert!(message.contains("violates PodSecurity \"baseline:latest\": hostPort"), "{message}");
}

#[tokio::test]
async fn labels_that_do_not_read_are_refused_and_an_audit_log_is_not_promised() {
    let cluster = team(json!({})).await;
    let strict = json!({"metadata": {"labels": label("warn-version", "1.24")}});
    let (code, message) = cluster.merge(TEAM, strict).await.refusal();
    assert_eq!(code, 422);
    assert!(message.contains("must be \"latest\" or \"v1.x\""), "{message}");
    let audit = json!({"metadata": {"labels": label("audit", "baseline")}});
    let changed = cluster.merge(TEAM, audit.clone()).await;
    assert!(warnings(&changed)[0].contains("keeps no audit log"), "{:?}", changed.headers);
    // Once is enough.
    let again = json!({"metadata": {"labels": {"x": "y"}}});
    assert!(warnings(&cluster.merge(TEAM, again).await).is_empty());
}
