//! Create, update, patch: names, versions, field validation, dry run.

use http::Request;
use kube::client::Body;
use serde_json::{Value, json};

use crate::harness::{CONFIG_MAPS, PODS, cluster, pod};

#[tokio::test]
async fn create_sets_what_the_server_owns() {
    let cluster = cluster().await;
    let body = json!({
        "metadata": {
            "name": "c", "uid": "mine", "creationTimestamp": "2001-01-01T00:00:00Z",
            "generation": 7, "managedFields": [{"manager": "m"}], "selfLink": "/x",
            "deletionTimestamp": "2001-01-01T00:00:00Z",
        },
    });
    let reply = cluster.post(CONFIG_MAPS, body).await;
    assert_eq!(reply.code, 201);
    let created = reply.json();
    let metadata = created["metadata"].as_object().unwrap();
    let keys: Vec<&str> = metadata.keys().map(String::as_str).collect();
    let expected = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"];
    assert_eq!(keys, expected);
    assert_ne!(metadata["uid"], "mine");
    assert_ne!(metadata["creationTimestamp"], "2001-01-01T00:00:00Z");
    assert!(
        reply.text.starts_with(r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c","#)
    );
    assert!(reply.text.ends_with("}\n"));
    assert!(reply.headers.contains_key("audit-id"));
    assert_eq!(reply.headers["cache-control"], "no-cache, private");
}

#[tokio::test]
async fn create_refuses_in_the_words_of_kubernetes() {
    let cluster = cluster().await;
    cluster.config_map("c").await;
    let named = |name: &str| json!({"metadata": {"name": name}});
    for (path, body, code, message) in [
        (CONFIG_MAPS, named("c"), 409, r#"configmaps "c" already exists"#),
        (
            "/api/v1/namespaces/nowhere/configmaps",
            named("c"),
            404,
            r#"namespaces "nowhere" not found"#,
        ),
        (
            CONFIG_MAPS,
            json!({"metadata": {"name": "d", "namespace": "other"}}),
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            CONFIG_MAPS,
            json!({"apiVersion": "v2", "metadata": {"name": "d"}}),
            400,
            "the API version in the data (v2) does not match the expected API version (v1)",
        ),
        (
            CONFIG_MAPS,
            json!({"metadata": {"name": "d", "resourceVersion": "1"}}),
            500,
            "resourceVersion should not be set on objects to be created",
        ),
        (
            PODS,
            {
                let mut pod = pod("p");
                pod["spec"]["serviceAccountName"] = "nobody".into();
                pod
            },
            403,
            r#"pods "p" is forbidden: error looking up service account default/nobody: serviceaccount "nobody" not found"#,
        ),
        (
            PODS,
            {
                let mut pod = pod("p");
                pod["spec"]["priorityClassName"] = "vip".into();
                pod
            },
            403,
            r#"pods "p" is forbidden: no PriorityClass with name vip was found"#,
        ),
    ] {
        let reply = cluster.post(path, body).await;
        assert_eq!(reply.refusal(), (code, message.to_owned()));
    }
}

#[tokio::test]
async fn a_generated_name_has_five_letters_more() {
    let cluster = cluster().await;
    let body = json!({"metadata": {"generateName": "web-"}});
    let first = cluster.post(CONFIG_MAPS, body.clone()).await.json();
    let second = cluster.post(CONFIG_MAPS, body).await.json();
    let name = first["metadata"]["name"].as_str().unwrap();
    assert_eq!(name.len(), 9);
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
}

#[tokio::test]
async fn a_stale_version_is_a_conflict_and_none_at_all_is_unconditional() {
    let cluster = cluster().await;
    let mut object = cluster.config_map("c").await;
    let path = format!("{CONFIG_MAPS}/c");
    object["data"]["a"] = "2".into();
    let second = cluster.put(&path, object.clone()).await;
    assert_eq!(second.code, 200);
    object["data"]["a"] = "3".into();
    let stale = cluster.put(&path, object.clone()).await;
    assert_eq!(
        stale.refusal(),
        (
            409,
            r#"Operation cannot be fulfilled on configmaps "c": the object has been modified; please apply your changes to the latest version and try again"#.to_owned()
        )
    );
    assert_eq!(stale.json()["reason"], "Conflict");
    object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    assert_eq!(cluster.put(&path, object).await.code, 200);
    let merge = json!({"metadata": {"resourceVersion": "1"}, "data": {"a": "4"}});
    assert_eq!(cluster.merge(&path, merge).await.code, 409);
}

#[tokio::test]
async fn writing_what_is_there_changes_nothing() {
    let cluster = cluster().await;
    let object = cluster.config_map("c").await;
    let path = format!("{CONFIG_MAPS}/c");
    let again = cluster.put(&path, object.clone()).await.json();
    assert_eq!(again, object);
    let merged = cluster.merge(&path, json!({"data": {"a": "1"}})).await;
    assert_eq!(merged.json(), object);
}

#[tokio::test]
async fn generation_counts_intent_only() {
    let cluster = cluster().await;
    cluster.pod("p", "").await;
    let path = format!("{PODS}/p");
    let generation = |reply: crate::harness::Reply| reply.json()["metadata"]["generation"].clone();
    let labelled = cluster.merge(&path, json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(generation(labelled), 1);
    let status = format!("{path}/status");
    let running = cluster.merge(&status, json!({"status": {"phase": "Running"}})).await;
    assert_eq!(running.json()["status"]["phase"], "Running");
    assert_eq!(generation(running), 1);
    let changed = cluster.merge(&path, json!({"spec": {"activeDeadlineSeconds": 5}})).await;
    assert_eq!(changed.code, 200, "{}", changed.text);
    assert_eq!(generation(changed), 2);
}

#[tokio::test]
async fn status_and_main_endpoint_do_not_write_each_other() {
    let cluster = cluster().await;
    let mut pod = cluster.pod("p", "n").await;
    let path = format!("{PODS}/p");
    pod["status"]["phase"] = "Failed".into();
    let main = cluster.put(&path, pod.clone()).await.json();
    assert_eq!(main["status"]["phase"], "Pending");
    pod["spec"]["nodeName"] = "other".into();
    let status = cluster.put(&format!("{path}/status"), pod).await.json();
    assert_eq!(status["status"]["phase"], "Failed");
    assert_eq!(status["spec"]["nodeName"], "n");
}

#[tokio::test]
async fn field_validation_is_strict_warning_or_silent() {
    let cluster = cluster().await;
    let mut body = pod("p");
    body["spec"]["containers"][0]["imagee"] = "y".into();
    body["spec"]["foo"] = 1.into();
    let strict = cluster.post(&format!("{PODS}?fieldValidation=Strict"), body.clone()).await;
    let (code, message) = strict.refusal();
    assert_eq!(code, 400);
    assert!(
        message.starts_with(r#"Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "#),
        "{message}"
    );
    let ignored = cluster.post(&format!("{PODS}?fieldValidation=Ignore"), body.clone()).await;
    assert_eq!(ignored.code, 201);
    assert!(!ignored.headers.contains_key("warning"));
    body["metadata"]["name"] = "q".into();
    let warned = cluster.post(PODS, body.clone()).await;
    let mut warnings: Vec<&str> =
        warned.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect();
    warnings.sort_unstable();
    assert_eq!(
        warnings,
        [
            r#"299 - "unknown field \"spec.containers[0].imagee\"""#,
            r#"299 - "unknown field \"spec.foo\"""#,
        ]
    );
    assert!(warned.json()["spec"].get("foo").is_none());
    let unknown = cluster.post(&format!("{PODS}?fieldValidation=No"), body.clone()).await;
    assert_eq!(unknown.code, 400);
    // A refusal does not swallow what else is wrong.
    body["spec"]["containers"][0]["image"] = "".into();
    let refused = cluster.post(PODS, body).await;
    assert_eq!(refused.code, 422);
    assert_eq!(refused.headers.get_all("warning").iter().count(), 2);
}

#[tokio::test]
async fn warnings_fit_into_the_headers_of_every_client() {
    let cluster = cluster().await;
    let mut body = json!({"metadata": {"name": "c"}});
    for n in 0..60 {
        body[format!("{n}{}", "x".repeat(2000))] = 1.into();
    }
    let made = cluster.post(CONFIG_MAPS, body).await;
    assert_eq!(made.code, 201);
    let warnings: Vec<usize> =
        made.headers.get_all("warning").iter().map(|value| value.len()).collect();
    assert_eq!(warnings.len(), 16);
    assert!(warnings.iter().all(|length| *length < 300), "{warnings:?}");
}

#[tokio::test]
async fn dry_run_answers_but_leaves_nothing() {
    let cluster = cluster().await;
    let before = cluster.get(CONFIG_MAPS).await.json()["metadata"]["resourceVersion"].clone();
    let body = json!({"metadata": {"name": "c"}});
    let made = cluster.post(&format!("{CONFIG_MAPS}?dryRun=All"), body).await;
    assert_eq!(made.code, 201);
    assert!(made.json()["metadata"]["uid"].is_string());
    let list = cluster.get(CONFIG_MAPS).await.json();
    assert_eq!(list["metadata"]["resourceVersion"], before);
    let object = cluster.config_map("c").await;
    let path = format!("{CONFIG_MAPS}/c");
    let twice = cluster
        .post(&format!("{CONFIG_MAPS}?dryRun=All"), json!({"metadata": {"name": "c"}}))
        .await;
    assert_eq!(twice.code, 409);
    let patched =
        cluster.merge(&format!("{path}?dryRun=All"), json!({"data": {"a": "9"}})).await.json();
    assert_eq!(patched["data"]["a"], "9");
    assert_eq!(patched["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"]);
    let deleted = cluster.delete(&path, json!({"dryRun": ["All"]})).await;
    assert_eq!(deleted.code, 200);
    assert_eq!(cluster.get(&path).await.json(), object);
    let other = cluster.delete(&format!("{path}?dryRun=Some"), json!(null)).await;
    assert_eq!(
        other.refusal(),
        (
            400,
            r#"Invalid value: dryRun: Unsupported value: "Some": supported values: "All""#
                .to_owned()
        )
    );
}

#[tokio::test]
async fn bodies_in_other_clothes() {
    let cluster = cluster().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: clothes\ndata:\n  a: \"1\"\n";
    let made = cluster.write("POST", CONFIG_MAPS, "application/yaml", yaml.to_owned()).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let shown = cluster.get_as(&format!("{CONFIG_MAPS}/clothes"), "application/yaml").await;
    assert_eq!(shown.headers["content-type"], "application/yaml");
    assert!(shown.text.contains("kind: ConfigMap"), "{}", shown.text);
    let odd = cluster.write("POST", CONFIG_MAPS, "text/plain", "x".to_owned()).await;
    assert_eq!(odd.code, 415);
    let html = cluster.get_as(CONFIG_MAPS, "text/html").await;
    assert_eq!(html.code, 406);
    let apply = cluster
        .write(
            "PATCH",
            &format!("{CONFIG_MAPS}/clothes"),
            "application/apply-patch+cbor",
            yaml.to_owned(),
        )
        .await;
    assert_eq!(apply.code, 415);
    assert!(apply.refusal().1.contains("application/apply-patch+yaml"));
    let broken = cluster.write("POST", CONFIG_MAPS, "application/json", "{".to_owned()).await;
    assert_eq!(broken.code, 400);
    let list = cluster.write("POST", CONFIG_MAPS, "application/json", "[]".to_owned()).await;
    assert_eq!(list.code, 400);
}

#[tokio::test]
async fn a_body_beyond_three_mebibytes_is_refused() {
    let cluster = cluster().await;
    let big = vec![b' '; 3 * 1024 * 1024 + 1];
    let request = Request::post(CONFIG_MAPS).body(Body::from(big)).unwrap();
    let reply = cluster.send(request).await;
    assert_eq!(reply.refusal(), (413, "Request entity too large: limit is 3145728".to_owned()));
}

#[tokio::test]
async fn an_object_may_not_outgrow_the_store_whatever_writes_it() {
    let cluster = cluster().await;
    let env = |count: usize| -> Vec<Value> {
        (0..count).map(|n| json!({"name": format!("E{n}"), "value": "x".repeat(1000)})).collect()
    };
    let mut big = pod("big");
    big["spec"]["containers"][0]["env"] = env(1700).into();
    let refusal = (413, "Request entity too large: limit is 1572864".to_owned());
    assert_eq!(cluster.post(PODS, big.clone()).await.refusal(), refusal);
    assert_eq!(cluster.post(&format!("{PODS}?dryRun=All"), big).await.refusal(), refusal);
    let mut lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "x"}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    assert_eq!(cluster.post(leases, lease.clone()).await.code, 201);
    lease["spec"]["holderIdentity"] = "x".repeat(1_600_000).into();
    assert_eq!(cluster.put(&format!("{leases}/l"), lease.clone()).await.refusal(), refusal);
    assert_eq!(cluster.merge(&format!("{leases}/l"), lease).await.refusal(), refusal);
    let most = "x".repeat(1 << 20);
    let full = json!({"metadata": {"name": "full"}, "data": {"k": most}});
    assert_eq!(cluster.post(CONFIG_MAPS, full).await.code, 201);
    let shown = cluster.get(&format!("{CONFIG_MAPS}/full")).await.json();
    assert_eq!(shown["data"]["k"], most);
}

#[tokio::test]
async fn json_patch_and_strategic_patch_reach_the_object() {
    let cluster = cluster().await;
    cluster.config_map("c").await;
    let path = format!("{CONFIG_MAPS}/c");
    let json_patch =
        r#"[{"op":"test","path":"/data/a","value":"1"},{"op":"add","path":"/data/b","value":"2"}]"#;
    let kind = "application/json-patch+json";
    let patched = cluster.write("PATCH", &path, kind, json_patch.to_owned()).await;
    assert_eq!(patched.json()["data"], json!({"a": "1", "b": "2"}));
    let failing = r#"[{"op":"test","path":"/data/a","value":"9"}]"#;
    let failed = cluster.write("PATCH", &path, kind, failing.to_owned()).await;
    assert_eq!(
        failed.refusal(),
        (422, "the server rejected our request due to an error in our request".to_owned())
    );
    assert_eq!(failed.json()["details"], json!(null), "kubectl would print an empty field");
    let other_dialect = cluster.write("PATCH", &path, kind, r#"{"op":"test"}"#.to_owned()).await;
    assert_eq!(
        other_dialect.refusal(),
        (400, "json: cannot unmarshal object into Go value of type jsonpatch.Patch".to_owned())
    );
    let strategic = "application/strategic-merge-patch+json";
    let mistyped = cluster.write("PATCH", &path, strategic, r#"{"data":{"b":3}}"#.to_owned()).await;
    assert_eq!(
        mistyped.refusal(),
        (
            422,
            r#" "" is invalid: patch: Invalid value: "map[data:map[b:3]]": json: cannot unmarshal number into Go struct field ConfigMap.data of type string"#.to_owned()
        )
    );
    let misspelt = cluster
        .write(
            "PATCH",
            &format!("{path}?fieldValidation=Strict"),
            strategic,
            r#"{"dat":{}}"#.to_owned(),
        )
        .await;
    assert_eq!(
        misspelt.refusal(),
        (
            422,
            r#" "" is invalid: patch: Invalid value: "map[dat:map[]]": strict decoding error: unknown field "dat""#.to_owned()
        )
    );
    let removed =
        cluster.write("PATCH", &path, strategic, r#"{"data":{"b":null}}"#.to_owned()).await;
    assert_eq!(removed.json()["data"], json!({"a": "1"}));
    let renamed = cluster.merge(&path, json!({"metadata": {"name": "d"}})).await;
    assert_eq!(
        renamed.refusal(),
        (400, "the name of the object (d) does not match the name on the URL (c)".to_owned())
    );
    let missing = cluster.merge(&format!("{CONFIG_MAPS}/x"), json!({})).await;
    assert_eq!(missing.code, 404);
}

#[tokio::test]
async fn put_creates_leases_but_no_config_maps() {
    let cluster = cluster().await;
    let lease = json!({"metadata": {"name": "n"}, "spec": {"holderIdentity": "n"}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n";
    assert_eq!(cluster.put(leases, lease.clone()).await.code, 201);
    assert_eq!(cluster.put(leases, lease).await.code, 200);
    let config_map = json!({"metadata": {"name": "x"}});
    let put = cluster.put(&format!("{CONFIG_MAPS}/x"), config_map).await;
    assert_eq!(put.code, 404);
}

#[tokio::test]
async fn a_namespace_comes_with_its_account_and_its_authority() {
    let cluster = cluster().await;
    let made =
        cluster.post("/api/v1/namespaces", json!({"metadata": {"name": "team"}})).await.json();
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "team");
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(made["status"]["phase"], "Active");
    for path in [
        "/api/v1/namespaces/team/serviceaccounts/default",
        "/api/v1/namespaces/team/configmaps/kube-root-ca.crt",
        "/api/v1/namespaces/kube-system/serviceaccounts/default",
    ] {
        assert_eq!(cluster.get(path).await.code, 200, "{path}");
    }
}

/// NetworkPolicy statement 8: policies select namespaces by it, so whoever may label a namespace must not be able to
/// pass it off as another. The write itself is no error, as in Kubernetes (`SetDefaults_Namespace`).
#[tokio::test]
async fn a_namespace_carries_its_own_name_whatever_is_written() {
    const LABEL: &str = "kubernetes.io/metadata.name";
    const PATH: &str = "/api/v1/namespaces/team";
    let cluster = cluster().await;
    let wrong = json!({LABEL: "kube-system", "kept": "yes"});
    let born = json!({"metadata": {"name": "team", "labels": wrong}});
    let made = cluster.post("/api/v1/namespaces", born.clone()).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let named = json!({"metadata": {"generateName": "team-", "labels": wrong}});
    let named = cluster.post("/api/v1/namespaces", named).await.json();
    assert_eq!(named["metadata"]["labels"][LABEL], named["metadata"]["name"]);

    let object = |metadata: Value| {
        let mut metadata = metadata;
        metadata["name"] = "team".into();
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
        object.to_string()
    };
    let step = |op: &str| format!("/metadata/labels/{}", op.replace('/', "~1"));
    let (put, merge) = ("application/json", "application/merge-patch+json");
    let (strategic, patch) =
        ("application/strategic-merge-patch+json", "application/json-patch+json");
    let apply = "application/apply-patch+yaml";
    let another = || json!({"metadata": {"labels": {LABEL: "kube-system"}}}).to_string();
    let gone = || json!({"metadata": {"labels": {LABEL: null}}}).to_string();
    let remove = json!([{"op": "remove", "path": step(LABEL)}]).to_string();
    let replace = json!([{"op": "replace", "path": step(LABEL), "value": "default"}]).to_string();
    let (by, by_force) = ("?fieldManager=me", "?fieldManager=me&force=true");
    for (method, rest, kind, body) in [
        ("PUT", "", put, object(json!({}))),
        ("PUT", "", put, object(json!({"labels": null}))),
        ("PUT", "", put, object(json!({"labels": wrong}))),
        ("PATCH", "", merge, another()),
        ("PATCH", "", merge, gone()),
        ("PATCH", "", merge, json!({"metadata": {"labels": null}}).to_string()),
        ("PATCH", "", strategic, another()),
        ("PATCH", "", strategic, gone()),
        ("PATCH", "", patch, replace),
        ("PATCH", "", patch, remove),
        ("PATCH", by_force, apply, object(json!({"labels": wrong}))),
        ("PATCH", by, apply, object(json!({}))),
        ("PUT", "/status", put, object(json!({"labels": wrong}))),
        ("PATCH", "/status", merge, gone()),
        ("PUT", "/finalize", put, object(json!({"labels": wrong}))),
        ("PUT", "/finalize", put, object(json!({}))),
    ] {
        let reply = cluster.write(method, &format!("{PATH}{rest}"), kind, body.clone()).await;
        let written = format!("{method} {rest} {kind} {body}: {}", reply.text);
        assert_eq!(reply.code, 200, "{written}");
        assert_eq!(reply.json()["metadata"]["labels"][LABEL], "team", "{written}");
        let stored = cluster.get(PATH).await.json();
        assert_eq!(stored["metadata"]["labels"][LABEL], "team", "{written}");
    }
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let cluster = cluster().await;
    let bound = cluster.pod("p", "n1").await;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n2"},
    });
    let again = cluster.post(&format!("{PODS}/p/binding"), binding).await;
    assert_eq!(
        again.refusal(),
        (
            409,
            r#"Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "n1""#.to_owned()
        )
    );
}

#[tokio::test]
async fn an_evicted_pod_is_deleted_and_says_why() {
    let cluster = cluster().await;
    cluster.pod("p", "n1").await;
    let path = format!("{PODS}/p/eviction");
    let eviction = |options: Value| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}, "deleteOptions": options});
    let dry = cluster.post(&path, eviction(json!({"dryRun": ["All"]}))).await;
    assert_eq!(dry.code, 201, "{}", dry.text);
    let other = cluster.post(&path, eviction(json!({"preconditions": {"uid": "other"}}))).await;
    assert_eq!(other.code, 409, "{}", other.text);
    let named = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "q"}});
    assert_eq!(cluster.post(&path, named).await.code, 400);
    let kept = cluster.get(&format!("{PODS}/p")).await.json();
    assert!(kept["metadata"]["deletionTimestamp"].is_null(), "{kept}");

    let asked = cluster.post(&path, eviction(json!({"gracePeriodSeconds": 7}))).await;
    assert_eq!(asked.code, 201, "{}", asked.text);
    assert_eq!(asked.json()["status"], "Success");
    let going = cluster.get(&format!("{PODS}/p")).await.json();
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 7);
    let conditions = going["status"]["conditions"].as_array().unwrap();
    let why = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap();
    assert_eq!(why["reason"], "EvictionByEvictionAPI");
    assert_eq!(cluster.post(&format!("{PODS}/none/eviction"), json!({})).await.code, 404);
}

#[tokio::test]
async fn events_have_two_presentations() {
    let cluster = cluster().await;
    let core = json!({
        "metadata": {"name": "e"}, "type": "Normal", "reason": "Started", "message": "m",
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
    });
    let made = cluster.post("/api/v1/namespaces/default/events", core).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let group = "/apis/events.k8s.io/v1/namespaces/default/events";
    let shown = cluster.get(&format!("{group}/e")).await.json();
    assert_eq!(shown["note"], "m");
    assert_eq!(shown["regarding"]["name"], "p");
    assert_eq!(shown["apiVersion"], "events.k8s.io/v1");
    let list = cluster
        .get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name=p")
        .await
        .json();
    assert_eq!(list["items"][0]["message"], "m");
}
