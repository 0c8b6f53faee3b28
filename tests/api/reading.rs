//! Get, list, discovery, negotiation, and what has no answer.

use futures::StreamExt as _;
use http::Request;
use kube::client::Body;
use serde_json::{Value, json};

use crate::harness::{CONFIG_MAPS, PODS, cluster};

fn names(list: &Value) -> Vec<&str> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn pages_together_are_the_list_as_it_was() {
    let cluster = cluster().await;
    for name in ["a", "b", "c", "d", "e"] {
        cluster.config_map(name).await;
    }
    let first = cluster.get(&format!("{CONFIG_MAPS}?limit=2")).await.json();
    assert_eq!(names(&first), ["a", "b"]);
    // The namespace's own kube-root-ca.crt counts too.
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    cluster.config_map("bb").await;
    cluster.delete(&format!("{CONFIG_MAPS}/d"), json!(null)).await;
    let mut seen = Vec::new();
    let mut page = first.clone();
    while let Some(token) = page["metadata"]["continue"].as_str() {
        let path = format!("{CONFIG_MAPS}?limit=2&continue={token}");
        page = cluster.get(&path).await.json();
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        seen.extend(names(&page).into_iter().map(str::to_owned));
    }
    assert_eq!(seen, ["c", "d", "e", "kube-root-ca.crt"]);
    let garbage = cluster.get(&format!("{CONFIG_MAPS}?continue=zzz")).await;
    assert_eq!(garbage.code, 400);
}

#[tokio::test]
async fn selectors_choose_and_pages_stay_full() {
    let cluster = cluster().await;
    for index in 0..6 {
        let parity = if index % 2 == 0 { "even" } else { "odd" };
        let body = json!({"metadata": {"name": format!("c{index}"), "labels": {"parity": parity}}});
        cluster.post(CONFIG_MAPS, body).await;
    }
    let page =
        cluster.get(&format!("{CONFIG_MAPS}?labelSelector=parity%3Dodd&limit=2")).await.json();
    assert_eq!(names(&page), ["c1", "c3"]);
    assert!(page["metadata"].get("remainingItemCount").is_none());
    let token = page["metadata"]["continue"].as_str().unwrap();
    let rest = cluster
        .get(&format!("{CONFIG_MAPS}?labelSelector=parity%3Dodd&limit=2&continue={token}"))
        .await
        .json();
    assert_eq!(names(&rest), ["c5"]);
    let one = cluster.get(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Dc2")).await.json();
    assert_eq!(names(&one), ["c2"]);
    for (query, message) in [
        ("fieldSelector=spec.foo%3Dx", "field label not supported: spec.foo"),
        ("fieldSelector=foo", "invalid selector: 'foo'; can't understand 'foo'"),
    ] {
        let reply = cluster.get(&format!("{CONFIG_MAPS}?{query}")).await;
        assert_eq!(reply.refusal(), (400, message.to_owned()));
    }
    let bad = cluster.get(&format!("{CONFIG_MAPS}?labelSelector=a%3D%3D%3Db")).await;
    assert_eq!(bad.code, 400);
}

#[tokio::test]
async fn reads_name_the_state_they_want() {
    let cluster = cluster().await;
    let old =
        cluster.config_map("c").await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    cluster.config_map("d").await;
    let exact = cluster
        .get(&format!("{CONFIG_MAPS}?resourceVersion={old}&resourceVersionMatch=Exact"))
        .await
        .json();
    assert_eq!(names(&exact), ["c", "kube-root-ca.crt"]);
    for (query, code) in [
        ("resourceVersion=0", 200),
        ("resourceVersion=1&resourceVersionMatch=NotOlderThan", 200),
        ("resourceVersion=999999", 504),
        ("resourceVersion=x", 400),
        ("resourceVersionMatch=Exact", 422),
        ("resourceVersion=0&resourceVersionMatch=Exact", 422),
        ("resourceVersion=1&resourceVersionMatch=Newest", 422),
        ("sendInitialEvents=true", 422),
        ("limit=-1", 422),
        ("limit=x", 400),
    ] {
        let reply = cluster.get(&format!("{CONFIG_MAPS}?{query}")).await;
        assert_eq!(reply.code, code, "{query}: {}", reply.text);
    }
    let future = cluster.get(&format!("{CONFIG_MAPS}?resourceVersion=999999")).await.json();
    assert_eq!(future["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}

#[tokio::test]
async fn what_is_not_there_and_what_is_not_allowed() {
    let cluster = cluster().await;
    let missing = cluster.get(&format!("{PODS}/x")).await;
    assert_eq!(
        missing.text,
        concat!(
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"pods \"x\" not found","reason":"NotFound","details":{"name":"x","kind":"pods"},"code":404}"#,
            "\n"
        )
    );
    let page = cluster.get("/apis/apps/v2/deployments").await;
    assert_eq!((page.code.as_u16(), page.text.as_str()), (404, "404 page not found\n"));
    for (method, path) in [
        ("POST", "/api/v1/pods"),
        ("DELETE", "/api/v1/namespaces"),
        ("PUT", PODS),
        ("POST", "/api/v1/namespaces/default/pods/p"),
        ("DELETE", "/api/v1/namespaces/default/pods/p/status"),
        ("GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"),
        ("POST", "/version"),
    ] {
        let reply = cluster.write(method, path, "application/json", "{}".to_owned()).await;
        assert_eq!(
            reply.refusal(),
            (405, "the server does not allow this method on the requested resource".to_owned()),
            "{method} {path}"
        );
    }
    let debug = cluster.get(&format!("{PODS}/p/ephemeralcontainers")).await;
    assert_eq!(debug.code, 404);
    // kubectl debug reads the name in the details: absent, it is the feature that is off; without details
    // it crashes.
    assert_eq!(debug.json()["details"], json!({"kind": "pods"}));
}

#[tokio::test]
async fn tables_and_metadata_on_request() {
    let cluster = cluster().await;
    cluster.pod("p", "").await;
    let table_type = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let table = cluster.get_as(PODS, table_type).await.json();
    assert_eq!(table["kind"], "Table");
    assert!(table["metadata"]["resourceVersion"].is_string());
    let one = cluster.get_as(&format!("{PODS}/p"), table_type).await.json();
    assert_eq!(one["kind"], "Table");
    let metadata_type = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = cluster.get_as(PODS, metadata_type).await.json();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["kind"], "PartialObjectMetadata");
    assert!(list["items"][0].get("spec").is_none());
    let bad = cluster.get_as(&format!("{PODS}?includeObject=All"), table_type).await;
    assert_eq!(bad.code, 400);
}

#[tokio::test]
async fn discovery_is_answered_in_both_forms_and_not_twice() {
    let cluster = cluster().await;
    let legacy = cluster.get("/api/v1").await.json();
    assert_eq!(legacy["kind"], "APIResourceList");
    let entry = |name: &str| -> Value {
        legacy["resources"]
            .as_array()
            .unwrap()
            .iter()
            .find(|resource| resource["name"] == name)
            .cloned()
            .unwrap_or_default()
    };
    assert_eq!(entry("pods")["shortNames"], json!(["po"]));
    assert_eq!(entry("pods/log")["singularName"], "");
    assert_eq!(entry("serviceaccounts/token")["group"], "authentication.k8s.io");
    assert!(entry("pods/ephemeralcontainers").is_null());
    let groups = cluster.get("/apis").await.json();
    assert_eq!(groups["groups"][0]["preferredVersion"]["version"], "v1");
    assert_eq!(cluster.get("/apis/events.k8s.io").await.json()["kind"], "APIGroup");
    let accept =
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let aggregated = cluster.get_as("/apis?timeout=32s", accept).await;
    assert_eq!(
        aggregated.headers["content-type"],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    assert_eq!(aggregated.headers["vary"], "Accept");
    let etag = aggregated.headers["etag"].clone();
    let again = Request::get("/apis").header("accept", accept).header("if-none-match", etag);
    let again = cluster.send(again.body(Body::empty()).unwrap()).await;
    assert_eq!((again.code.as_u16(), again.text.as_str()), (304, ""));
    let core = cluster.get_as("/api", accept).await.json();
    assert!(core["items"][0]["metadata"].get("name").is_none());
    assert_eq!(core["items"][0]["versions"][0]["freshness"], "Current");
}

#[tokio::test]
async fn big_answers_are_compressed_for_those_who_can_read_it() {
    let cluster = cluster().await;
    let data = json!({"metadata": {"name": "big"}, "data": {"a": "x".repeat(200_000)}});
    cluster.post(CONFIG_MAPS, data).await;
    let path = format!("{CONFIG_MAPS}/big");
    let plain = cluster.get(&path).await;
    assert!(!plain.headers.contains_key("content-encoding"));
    let request = Request::get(&path).header("accept-encoding", "gzip");
    let response = cluster.client.send(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let small = Request::get(CONFIG_MAPS.replace("default", "kube-public"))
        .header("accept-encoding", "gzip");
    let small = cluster.send(small.body(Body::empty()).unwrap()).await;
    assert!(!small.headers.contains_key("content-encoding"));
}

#[tokio::test]
async fn health_and_version_are_there() {
    let cluster = cluster().await;
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(cluster.get(path).await.text, "ok");
        assert_eq!(cluster.get(&format!("{path}/ping")).await.text, "ok");
        let verbose = cluster.get(&format!("{path}?verbose&exclude=store")).await.text;
        let expected = "[+]ping ok\n[+]store excluded: ok\n";
        assert_eq!(verbose, format!("{expected}{} check passed\n", &path[1..]));
        for unknown in ["etcd", "ping/more"] {
            let answer = cluster.get(&format!("{path}/{unknown}")).await;
            assert_eq!(answer.code, 404, "{path}/{unknown}: {}", answer.text);
        }
    }
    let version = cluster.get("/version?timeout=32s").await.json();
    assert!(version.as_object().unwrap().values().all(Value::is_string));
    assert_eq!(version["minor"], "36");
    let v2 = cluster
        .get_as("/openapi/v2", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
        .await;
    assert_eq!(
        v2.headers["content-type"],
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    );
}

#[tokio::test]
async fn a_long_list_is_sent_as_it_is_read_and_of_one_moment() {
    const COUNT: usize = 300;
    const PIECE: usize = 8 << 20;
    let cluster = cluster().await;
    // Large enough that the whole would be seen: 30 MiB.
    let filling = "x".repeat(100 << 10);
    for index in 0..COUNT {
        let body = json!({"metadata": {"name": format!("c{index:03}")}, "data": {"k": filling}});
        assert_eq!(cluster.post(CONFIG_MAPS, body).await.code, 201);
    }
    let revision = cluster.get(&format!("{CONFIG_MAPS}?limit=1")).await.json();
    let revision = revision["metadata"]["resourceVersion"].clone();
    let mut pieces = cluster.pieces(CONFIG_MAPS, "application/json").await;
    let mut text = pieces.next().await.unwrap().unwrap().to_vec();
    // What happens from here on is not in it.
    cluster.delete(&format!("{CONFIG_MAPS}/c299"), json!(null)).await;
    cluster.merge(&format!("{CONFIG_MAPS}/c298"), json!({"data": {"k": "changed"}})).await;
    cluster.config_map("later").await;
    while let Some(piece) = pieces.next().await {
        let piece = piece.unwrap();
        assert!(piece.len() < PIECE, "a piece of {} bytes", piece.len());
        text.extend_from_slice(&piece);
    }
    let list: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(list["kind"], "ConfigMapList");
    assert_eq!(list["metadata"]["resourceVersion"], revision);
    let mut expected: Vec<String> = (0..COUNT).map(|index| format!("c{index:03}")).collect();
    expected.push("kube-root-ca.crt".to_owned());
    assert_eq!(names(&list), expected);
    assert_eq!(list["items"][298]["data"]["k"], filling);
    // In other shapes it is no other list than in pages.
    for accept in [
        "application/json;as=Table;v=v1;g=meta.k8s.io",
        "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    ] {
        let mut pieces =
            cluster.pieces(&format!("{CONFIG_MAPS}?includeObject=Object"), accept).await;
        let mut text = Vec::new();
        let mut count = 0;
        while let Some(piece) = pieces.next().await {
            let piece = piece.unwrap();
            assert!(piece.len() < PIECE, "a piece of {} bytes", piece.len());
            text.extend_from_slice(&piece);
            count += 1;
        }
        assert!(count > 2, "{accept} came whole");
        let whole: Value = serde_json::from_slice(&text).unwrap();
        let path = format!("{CONFIG_MAPS}?includeObject=Object&limit=1000");
        // They are a moment older by then.
        let ageless = |mut list: Value| {
            for row in list["rows"].as_array_mut().into_iter().flatten() {
                row["cells"].as_array_mut().unwrap().pop();
            }
            list
        };
        assert!(ageless(whole) == ageless(cluster.get_as(&path, accept).await.json()), "{accept}");
    }
    // The same through a selector, which nobody matches but one.
    let path =
        format!("{CONFIG_MAPS}?fieldSelector=metadata.namespace%3Ddefault&labelSelector=%21x");
    let list = cluster.get(&path).await.json();
    assert_eq!(list["items"].as_array().unwrap().len(), COUNT + 1);
}

#[tokio::test]
async fn json_is_indented_when_asked() {
    let cluster = cluster().await;
    cluster.config_map("a").await;
    let plain = cluster.get(&format!("{CONFIG_MAPS}/a")).await;
    let pretty = cluster.get(&format!("{CONFIG_MAPS}/a?pretty=true")).await;
    assert_eq!(plain.text.lines().count(), 1);
    assert!(pretty.text.starts_with("{\n  \"kind\": \"ConfigMap\",\n"), "{}", pretty.text);
    assert_eq!(pretty.json(), plain.json());
    for path in [CONFIG_MAPS, "/version", "/api/v1", "/api/v1/namespaces/default/configmaps/no"] {
        let pretty = cluster.get(&format!("{path}?pretty=1")).await;
        assert!(pretty.text.starts_with("{\n  \""), "{path}: {}", pretty.text);
    }
}
