use serde_json::{Value, json};

use super::*;
use crate::api::catalog;
use crate::model::time::Timestamp;

fn now() -> Timestamp {
    Timestamp::from_unix(1_000_000, 0)
}

fn admit(spec: Value) -> Result<Value, Failure> {
    let namespace = json!({"metadata": {"name": "default"}});
    let account = json!({"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "r"}]});
    let facts = CreateFacts {
        now: now(),
        uid: "u".to_owned(),
        name: "p".to_owned(),
        namespace: Some(NamespaceFact { name: "default", object: Some(&namespace) }),
        service_account: Some(&account),
        ingress_classes: &[],
    };
    let pod = json!({"metadata": {"name": "p"}, "spec": spec, "status": {"phase": "Running"}});
    create(catalog::pods(), pod, &facts).map(Admitted::into_value)
}

fn container(resources: Value) -> Value {
    json!({"name": "a", "image": "x:1", "resources": resources})
}

#[test]
fn the_class_of_a_pod_follows_from_all_its_containers() {
    let both = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
    for (containers, class) in [
        (vec![json!({})], "BestEffort"),
        (vec![json!({"requests": {"cpu": "0"}})], "BestEffort"),
        (vec![json!({"requests": {"cpu": "1"}})], "Burstable"),
        (vec![json!({"limits": both("1", "1Gi")})], "Guaranteed"),
        (
            vec![json!({"limits": both("1", "1Gi"), "requests": both("1000m", "1024Mi")})],
            "Guaranteed",
        ),
        (vec![json!({"limits": both("1", "1Gi"), "requests": both("500m", "1Gi")})], "Burstable"),
        (vec![json!({"limits": {"cpu": "1"}})], "Burstable"),
        (vec![json!({"limits": both("1", "1Gi")}), json!({})], "Burstable"),
    ] {
        let list: Vec<Value> = containers
            .into_iter()
            .enumerate()
            .map(|(index, resources)| {
                let mut container = container(resources);
                container["name"] = format!("c{index}").into();
                container
            })
            .collect();
        let pod = admit(json!({"containers": list})).expect("admitted");
        assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": class}), "{list:?}");
    }
}

#[test]
fn a_pod_gets_its_account_and_that_accounts_pull_secrets() {
    let pod = admit(json!({"containers": [container(json!({}))]})).expect("admitted");
    assert_eq!(pod["spec"]["serviceAccountName"], "default");
    assert_eq!(pod["spec"]["imagePullSecrets"], json!([{"name": "r"}]));
    let own = json!({"containers": [container(json!({}))], "imagePullSecrets": [{"name": "mine"}]});
    let pod = admit(own).expect("admitted");
    assert_eq!(pod["spec"]["imagePullSecrets"], json!([{"name": "mine"}]));
}

#[test]
fn tolerations_of_the_user_are_not_doubled() {
    let keys = |tolerations: Value| -> Vec<String> {
        let spec = json!({"containers": [container(json!({}))], "tolerations": tolerations});
        let pod = admit(spec).expect("admitted");
        pod["spec"]["tolerations"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|toleration| object::text(toleration, &["key"]).to_owned())
            .collect()
    };
    let (not_ready, unreachable) =
        ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable");
    assert_eq!(keys(json!([])), [not_ready, unreachable]);
    let own = json!([{"key": not_ready, "operator": "Exists", "effect": "NoExecute"}]);
    assert_eq!(keys(own), [not_ready, unreachable]);
    assert_eq!(keys(json!([{"operator": "Exists"}])), [""]);
    let other = json!([{"key": not_ready, "operator": "Exists", "effect": "NoSchedule"}]);
    assert_eq!(keys(other), [not_ready, not_ready, unreachable]);
}

#[test]
fn a_priority_comes_from_a_class_only() {
    let with = |field: &str, value: Value| {
        let mut spec = json!({"containers": [container(json!({}))]});
        spec[field] = value;
        admit(spec)
    };
    let critical = with("priorityClassName", json!("system-node-critical")).expect("admitted");
    assert_eq!(critical["spec"]["priority"], 2_000_001_000);
    assert_eq!(with("priority", json!(7)).expect_err("refused").code, 403);
    assert_eq!(with("priority", json!(0)).expect("admitted")["spec"]["priority"], 0);
}

#[test]
fn a_deletion_mark_says_when_and_counts() {
    let pod = admit(json!({"containers": [container(json!({}))]})).expect("admitted");
    let marked = mark_deleted(catalog::pods(), &pod, now(), 30, &[]).into_value();
    assert_eq!(marked["metadata"]["deletionTimestamp"], now().to_seconds_text());
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(marked["metadata"]["generation"], 2);
}

#[test]
fn a_refusal_shows_the_base_of_a_generated_name() {
    let namespace = json!({"metadata": {"name": "default"}});
    let facts = CreateFacts {
        now: now(),
        uid: "u".to_owned(),
        name: "web-abc-x7k2p".to_owned(),
        namespace: Some(NamespaceFact { name: "default", object: Some(&namespace) }),
        service_account: None,
        ingress_classes: &[],
    };
    let pod = json!({"metadata": {"generateName": "web-abc-"}, "spec": {"containers": []}});
    let refused = create(catalog::pods(), pod, &facts).map(Admitted::into_value).unwrap_err();
    let text = format!("{refused:?}");
    assert!(text.contains("web-abc-") && !text.contains("x7k2p"), "{text}");
}
