//! Server-side apply over the wire: what helm and `kubectl apply --server-side` do, and what they are told.

use expect_test::expect;
use serde_json::{Value, json};

use crate::harness::{CONFIG_MAPS, Cluster, Reply, cluster};
use crate::transcripts::check;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

impl Cluster {
    async fn apply(&self, path: &str, query: &str, body: Value) -> Reply {
        let path = format!("{path}?{query}");
        self.write("PATCH", &path, "application/apply-patch+yaml", body.to_string()).await
    }
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

fn deployment(replicas: Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "x:1", "ports": [{"containerPort": 80}]}]},
            },
        },
    });
    if !replicas.is_null() {
        object["spec"]["replicas"] = replicas;
    }
    object
}

#[tokio::test]
async fn an_apply_creates_changes_and_then_changes_nothing() {
    let cluster = cluster().await;
    let path = format!("{CONFIG_MAPS}/c");
    let made = cluster.apply(&path, "fieldManager=m", config_map(json!({"a": "1"}))).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let made = made.json();
    assert_eq!(made["metadata"]["managedFields"][0]["fieldsV1"], json!({"f:data": {"f:a": {}}}));
    let same = cluster.apply(&path, "fieldManager=m", config_map(json!({"a": "1"}))).await;
    assert_eq!((same.code.as_u16(), same.json()), (200, made));
    let next = cluster.apply(&path, "fieldManager=m", config_map(json!({"b": "2"}))).await.json();
    assert_eq!(next["data"], json!({"b": "2"}));
}

#[tokio::test]
async fn what_defaults_fill_in_is_nobodys_and_helm_upgrades_without_conflicts() {
    let cluster = cluster().await;
    let path = format!("{DEPLOYMENTS}/d");
    let query = "fieldManager=helm&fieldValidation=Strict&force=false";
    let made = cluster.apply(&path, query, deployment(json!(2))).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(made.json()["spec"]["progressDeadlineSeconds"], 600);
    // A controller reports, and writes what it needs into the metadata.
    let status = json!({"status": {"replicas": 2}});
    assert_eq!(cluster.merge(&format!("{path}/status?fieldManager=ctl"), status).await.code, 200);
    let revision = json!({"metadata": {"annotations": {"deployment.kubernetes.io/revision": "1"}}});
    assert_eq!(cluster.merge(&format!("{path}?fieldManager=ctl"), revision).await.code, 200);
    let mut newer = deployment(json!(2));
    newer["spec"]["template"]["spec"]["containers"][0]["image"] = "x:2".into();
    let upgraded = cluster.apply(&path, query, newer).await;
    assert_eq!(upgraded.code, 200, "{}", upgraded.text);
    let upgraded = upgraded.json();
    assert_eq!(upgraded["metadata"]["generation"], 2);
    assert_eq!(upgraded["status"]["replicas"], 2);
    assert_eq!(upgraded["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
    let managers: Vec<String> = upgraded["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            format!("{} {} {}", entry["manager"], entry["operation"], entry["subresource"])
        })
        .collect();
    assert_eq!(
        managers,
        [r#""helm" "Apply" null"#, r#""ctl" "Update" null"#, r#""ctl" "Update" "status""#,]
    );
}

#[tokio::test]
async fn a_conflict_names_everyone_and_every_field() {
    let cluster = cluster().await;
    let path = format!("{DEPLOYMENTS}/d");
    cluster.apply(&path, "fieldManager=one", deployment(json!(2))).await;
    let scale = json!({"spec": {"replicas": 5}});
    assert_eq!(cluster.merge(&format!("{path}/scale?fieldManager=hpa"), scale).await.code, 200);
    let refused = cluster.apply(&path, "fieldManager=one", deployment(json!(3))).await;
    assert_eq!(refused.code, 409);
    let status = refused.json();
    assert_eq!(
        status["message"],
        r#"Apply failed with 1 conflict: conflict with "hpa" with subresource "scale" using apps/v1: .spec.replicas"#
    );
    assert_eq!(
        status["details"]["causes"],
        json!([{
            "reason": "FieldManagerConflict",
            "message": "conflict with \"hpa\" with subresource \"scale\" using apps/v1",
            "field": ".spec.replicas",
        }])
    );
    let mut other = deployment(json!(7));
    other["spec"]["template"]["spec"]["containers"][0]["image"] = "x:9".into();
    let (_, message) = cluster.apply(&path, "fieldManager=two", other.clone()).await.refusal();
    assert_eq!(
        message,
        "Apply failed with 2 conflicts: conflicts with \"hpa\" with subresource \"scale\" using apps/v1:\n- .spec.replicas\nconflicts with \"one\":\n- .spec.template.spec.containers[name=\"c\"].image"
    );
    let forced = cluster.apply(&path, "fieldManager=two&force=true", other).await;
    assert_eq!(forced.code, 200, "{}", forced.text);
    assert_eq!(forced.json()["spec"]["replicas"], 7);
    // Not saying it any more leaves it to nobody: the default comes back.
    let silent = deployment(json!(null));
    let silent = cluster.apply(&path, "fieldManager=two&force=true", silent).await;
    assert_eq!(silent.json()["spec"]["replicas"], 1);
}

#[tokio::test]
async fn what_cannot_be_applied_is_told() {
    let cluster = cluster().await;
    let path = format!("{DEPLOYMENTS}/d");
    let mut unknown = deployment(json!(1));
    unknown["spec"]["foo"] = 1.into();
    let mut twice = deployment(json!(1));
    twice["spec"]["template"]["spec"]["containers"] = json!([{"name": "c"}, {"name": "c"}]);
    let mut owned = deployment(json!(1));
    owned["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    let mut versioned = deployment(json!(1));
    versioned["metadata"]["resourceVersion"] = "1".into();
    let mut transcript = String::new();
    for (query, body) in [
        ("", deployment(json!(1))),
        ("fieldManager=m", unknown),
        ("fieldManager=m", twice),
        ("fieldManager=m", owned),
        ("fieldManager=m", versioned),
        ("fieldManager=m", deployment(json!(-1))),
        ("fieldManager=m", config_map(json!({}))),
    ] {
        let (code, message) = cluster.apply(&path, query, body).await.refusal();
        transcript.push_str(&format!("{code} {message}\n"));
    }
    let force = cluster.merge(&format!("{CONFIG_MAPS}/c?force=true"), json!({})).await.refusal();
    transcript.push_str(&format!("{} {}\n", force.0, force.1));
    expect![[r#"
        422 PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch
        500 failed to create typed patch object (default/d; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema
        500 failed to create typed patch object (d; apps/v1, Kind=Deployment): .spec.template.spec.containers: duplicate entries for key {"name":"c"}
        400 metadata.managedFields must be nil
        404 deployments.apps "d" not found
        422 Deployment.apps "d" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0
        500 failed to create typed patch object (default/d; apps/v1, Kind=Deployment): .data: field not declared in schema
        422 PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be specified for non-apply patch
    "#]].assert_eq(&transcript);
    assert_eq!(cluster.get(&path).await.code, 404);
}

#[tokio::test]
async fn many_appliers_of_one_object_all_get_their_say() {
    let cluster = cluster().await;
    let path = format!("{CONFIG_MAPS}/c");
    let one = |n: usize| {
        let (cluster, path) = (&cluster, &path);
        async move {
            let body = config_map(json!({format!("k{n}"): "x"}));
            cluster.apply(path, &format!("fieldManager=m{n}"), body).await.code.as_u16()
        }
    };
    let codes = futures::future::join_all((0..15).map(one)).await;
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 1, "{codes:?}");
    let object = cluster.get(&path).await.json();
    assert_eq!(object["data"].as_object().unwrap().len(), 15);
    assert_eq!(object["metadata"]["managedFields"].as_array().unwrap().len(), 15);
}

#[tokio::test]
async fn kubectl_applies_on_the_server() {
    let manifest = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {replicas: 2, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: x:1}]}}}
";
    let more = manifest.replace("replicas: 2", "replicas: 4");
    let map = "apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {a: \"1\", b: \"2\"}
";
    let less = map.replace(", b: \"2\"", "");
    let script = format!(
        "$ apply --server-side -f -
{manifest}$ apply --server-side -f -
{manifest}$ scale deployment web --replicas=3
$ apply --server-side -f -
{more}$ apply --server-side --force-conflicts -f -
{more}$ get deployment web -o jsonpath={{.spec.replicas}}
$ diff --server-side -f -
{manifest}$ apply --server-side --field-manager=other -f -
{manifest}$ apply -f -
{map}$ apply --server-side -f -
{less}$ get configmap c -o jsonpath={{.data}}
$ get configmap c --show-managed-fields -o jsonpath={{range.metadata.managedFields[*]}}{{.manager}}:{{.operation}};{{end}}
$ apply -f -
{map}$ get configmap c -o jsonpath={{.data}}
"
    );
    check(&script, expect![[r#"
        $ apply --server-side -f -
        deployment.apps/web serverside-applied
        $ apply --server-side -f -
        deployment.apps/web serverside-applied
        $ scale deployment web --replicas=3
        deployment.apps/web scaled
        $ apply --server-side -f -
        error: Apply failed with 1 conflict: conflict with "kubectl" with subresource "scale" using apps/v1: .spec.replicas
        Please review the fields above--they currently have other managers. Here
        are the ways you can resolve this warning:
        * If you intend to manage all of these fields, please re-run the apply
        command with the `--force-conflicts` flag.
        * If you do not intend to manage all of the fields, please edit your
        manifest to remove references to the fields that should keep their
        current managers.
        * You may co-own fields by updating your manifest to match the existing
        value; in this case, you'll become the manager if the other manager(s)
        stop managing the field (remove it from their configuration).
        See https://kubernetes.io/docs/reference/using-api/server-side-apply/#conflicts
        $ apply --server-side --force-conflicts -f -
        deployment.apps/web serverside-applied
        $ get deployment web -o jsonpath={.spec.replicas}
        4
        $ diff --server-side -f -
        @@ -2,14 +2,14 @@
        kind: Deployment
        metadata:
        - generation: 3
        + generation: 4
        name: web
        namespace: default
        resourceVersion: "8"
        spec:
        progressDeadlineSeconds: 600
        - replicas: 4
        + replicas: 2
        revisionHistoryLimit: 10
        selector:
        matchLabels:
        $ apply --server-side --field-manager=other -f -
        error: Apply failed with 1 conflict: conflict with "kubectl": .spec.replicas
        Please review the fields above--they currently have other managers. Here
        are the ways you can resolve this warning:
        * If you intend to manage all of these fields, please re-run the apply
        command with the `--force-conflicts` flag.
        * If you do not intend to manage all of the fields, please edit your
        manifest to remove references to the fields that should keep their
        current managers.
        * You may co-own fields by updating your manifest to match the existing
        value; in this case, you'll become the manager if the other manager(s)
        stop managing the field (remove it from their configuration).
        See https://kubernetes.io/docs/reference/using-api/server-side-apply/#conflicts
        $ apply -f -
        configmap/c created
        $ apply --server-side -f -
        configmap/c serverside-applied
        $ get configmap c -o jsonpath={.data}
        {"a":"1"}
        $ get configmap c --show-managed-fields -o jsonpath={range.metadata.managedFields[*]}{.manager}:{.operation};{end}
        kubectl:Apply;kubectl-last-applied:Apply;
        $ apply -f -
        configmap/c configured
        $ get configmap c -o jsonpath={.data}
        {"a":"1","b":"2"}
    "#]]).await;
}
