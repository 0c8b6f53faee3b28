//! Watch: nothing missed, nothing twice, resume, bookmarks, selectors, tables.

use serde_json::json;

use crate::harness::{CONFIG_MAPS, PODS, cluster};

const ONLY: &str = "labelSelector=!kubernetes.io/x&fieldSelector=metadata.name!%3Dkube-root-ca.crt";

#[tokio::test]
async fn a_watch_without_a_version_begins_with_what_is_there() {
    let cluster = cluster().await;
    cluster.config_map("a").await;
    let mut lines = cluster.watch(&format!("{CONFIG_MAPS}?watch=true&{ONLY}")).await;
    assert_eq!(lines.brief().await, "ADDED a");
    cluster.config_map("b").await;
    assert_eq!(lines.brief().await, "ADDED b");
    cluster.merge(&format!("{CONFIG_MAPS}/b"), json!({"data": {"a": "2"}})).await;
    assert_eq!(lines.brief().await, "MODIFIED b");
    let last = cluster.get(&format!("{CONFIG_MAPS}/b")).await.json();
    cluster.delete(&format!("{CONFIG_MAPS}/b"), json!(null)).await;
    let deleted = lines.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    assert_eq!(deleted["object"]["data"], last["data"]);
    let version = |object: &serde_json::Value| -> u64 {
        let text = object["metadata"]["resourceVersion"].as_str().unwrap();
        text.parse().unwrap()
    };
    assert!(version(&deleted["object"]) > version(&last));
}

#[tokio::test]
async fn a_watch_resumes_exactly_after_a_version() {
    let cluster = cluster().await;
    let a = cluster.config_map("a").await;
    cluster.config_map("b").await;
    cluster.config_map("c").await;
    let version = a["metadata"]["resourceVersion"].as_str().unwrap();
    let mut lines =
        cluster.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={version}")).await;
    assert_eq!(lines.brief().await, "ADDED b");
    assert_eq!(lines.brief().await, "ADDED c");
    cluster.config_map("d").await;
    assert_eq!(lines.brief().await, "ADDED d");
}

#[tokio::test]
async fn initial_events_end_with_a_marked_bookmark() {
    let cluster = cluster().await;
    cluster.config_map("a").await;
    let path = format!(
        "{CONFIG_MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=30&{ONLY}"
    );
    let state = cluster.get(CONFIG_MAPS).await.json()["metadata"]["resourceVersion"].clone();
    let mut lines = cluster.watch(&path).await;
    assert_eq!(lines.brief().await, "ADDED a");
    let bookmark = lines.next().await.unwrap();
    assert_eq!(
        bookmark,
        json!({"type": "BOOKMARK", "object": {
            "kind": "ConfigMap", "apiVersion": "v1",
            "metadata": {
                "resourceVersion": state, "creationTimestamp": null,
                "annotations": {"k8s.io/initial-events-end": "true"},
            },
        }})
    );
    cluster.config_map("b").await;
    assert_eq!(lines.brief().await, "ADDED b");
}

#[tokio::test]
async fn a_watch_ends_in_time_with_a_bookmark() {
    let cluster = cluster().await;
    let state = cluster.get(CONFIG_MAPS).await.json()["metadata"]["resourceVersion"].clone();
    let state = state.as_str().unwrap();
    let path = format!(
        "{CONFIG_MAPS}?watch=true&resourceVersion={state}&allowWatchBookmarks=true&timeoutSeconds=1"
    );
    let mut lines = cluster.watch(&path).await;
    for _ in ["at once: nothing was missed", "at the end"] {
        let bookmark = lines.next().await.unwrap();
        assert_eq!(bookmark["type"], "BOOKMARK");
        assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], state);
    }
    assert_eq!(lines.next().await, None);
}

/// Who has to know everything up to a version asks so, and waits for no change.
#[tokio::test]
async fn a_watch_from_a_version_says_when_it_has_told_what_was_missed() {
    let cluster = cluster().await;
    let a = cluster.config_map("a").await;
    cluster.config_map("b").await;
    cluster.merge(&format!("{CONFIG_MAPS}/a"), json!({"data": {"a": "2"}})).await;
    let version = a["metadata"]["resourceVersion"].as_str().unwrap();
    let path = |version: &str, selector: &str| {
        format!(
            "{CONFIG_MAPS}?watch=true&resourceVersion={version}&allowWatchBookmarks=true&{selector}"
        )
    };
    let state = cluster.get(CONFIG_MAPS).await.json()["metadata"]["resourceVersion"].clone();
    let mut lines = cluster.watch(&path(version, "")).await;
    assert_eq!(lines.brief().await, "ADDED b");
    assert_eq!(lines.brief().await, "MODIFIED a");
    let bookmark = lines.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], state);
    cluster.config_map("c").await;
    assert_eq!(lines.brief().await, "ADDED c");

    // What is not chosen has been looked at all the same.
    let mut lines = cluster.watch(&path(version, "fieldSelector=metadata.name%3Dnobody")).await;
    let bookmark = lines.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_ne!(bookmark["object"]["metadata"]["resourceVersion"], version);
}

#[tokio::test]
async fn selectors_turn_changes_into_coming_and_going() {
    let cluster = cluster().await;
    let mut lines = cluster.watch(&format!("{CONFIG_MAPS}?watch=true&labelSelector=l%3Dx")).await;
    let label = |value: &str| json!({"metadata": {"labels": {"l": value}}});
    let path = format!("{CONFIG_MAPS}/a");
    cluster.config_map("a").await;
    cluster.merge(&path, label("x")).await;
    assert_eq!(lines.brief().await, "ADDED a");
    cluster.merge(&path, json!({"data": {"k": "v"}})).await;
    assert_eq!(lines.brief().await, "MODIFIED a");
    cluster.merge(&path, label("y")).await;
    let gone = lines.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED");
    assert_eq!(gone["object"]["metadata"]["labels"]["l"], "x");
    cluster.merge(&path, label("x")).await;
    assert_eq!(lines.brief().await, "ADDED a");
    cluster.delete(&path, json!(null)).await;
    assert_eq!(lines.brief().await, "DELETED a");
}

#[tokio::test]
async fn one_object_can_be_watched_by_its_path() {
    let cluster = cluster().await;
    cluster.config_map("a").await;
    cluster.config_map("b").await;
    let mut lines = cluster.watch(&format!("{CONFIG_MAPS}/b?watch=true")).await;
    assert_eq!(lines.brief().await, "ADDED b");
    cluster.delete(&format!("{CONFIG_MAPS}/a"), json!(null)).await;
    cluster.delete(&format!("{CONFIG_MAPS}/b"), json!(null)).await;
    assert_eq!(lines.brief().await, "DELETED b");
}

#[tokio::test]
async fn tables_carry_their_columns_once_and_metadata_is_bare() {
    let cluster = cluster().await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let mut tables = cluster.watch_as(&format!("{PODS}?watch=true"), accept).await;
    cluster.pod("p", "").await;
    cluster.pod("q", "").await;
    let first = tables.next().await.unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert!(first["object"]["columnDefinitions"].is_array());
    let second = tables.next().await.unwrap();
    assert!(second["object"]["columnDefinitions"].is_null());
    let accept = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let mut bare = cluster.watch_as(&format!("{PODS}?watch=true"), accept).await;
    let event = bare.next().await.unwrap();
    assert_eq!(event["object"]["kind"], "PartialObjectMetadata");
    assert!(event["object"].get("spec").is_none());
}

#[tokio::test]
async fn impossible_watches_are_refused() {
    let cluster = cluster().await;
    for (query, code) in [
        ("sendInitialEvents=true", 422),
        ("resourceVersionMatch=NotOlderThan", 422),
        ("sendInitialEvents=true&resourceVersionMatch=Exact", 422),
        ("resourceVersion=x", 400),
        ("resourceVersion=99999", 504),
        ("timeoutSeconds=x", 400),
        ("fieldSelector=spec.foo%3D1", 400),
    ] {
        let reply = cluster.get(&format!("{CONFIG_MAPS}?watch=true&{query}")).await;
        assert_eq!(reply.code, code, "{query}");
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_cut_off_and_others_are_not() {
    let cluster = cluster().await;
    let mut slow = cluster.watch(&format!("{CONFIG_MAPS}?watch=true&{ONLY}")).await;
    cluster.config_map("c").await;
    let path = format!("{CONFIG_MAPS}/c");
    // Each event is kept with the value before it: more than the 32 MiB of history the store keeps.
    let filler = "x".repeat(64 * 1024);
    for round in 0..300 {
        let change = json!({"data": {"a": round.to_string(), "filler": filler}});
        assert_eq!(cluster.merge(&path, change).await.code, 200);
    }
    let mut seen = 0u32;
    let end = loop {
        match slow.next().await {
            Some(event) if event["type"] == "ERROR" => break event,
            Some(_) => seen += 1,
            None => panic!("the watch ended without a word after {seen} events"),
        }
    };
    assert_eq!(end["object"]["code"], 410);
    assert_eq!(end["object"]["reason"], "Expired");
    assert!(seen < 301);
    let mut other = cluster.watch(&format!("{path}?watch=true")).await;
    assert_eq!(other.brief().await, "ADDED c");
}

#[tokio::test]
async fn a_long_initial_state_comes_whole_and_as_it_was() {
    let cluster = cluster().await;
    for n in 0..80 {
        cluster.config_map(&format!("c{n:02}")).await;
    }
    let query = format!(
        "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&{ONLY}"
    );
    let mut watch = cluster.watch(&format!("{CONFIG_MAPS}?{query}")).await;
    assert_eq!(watch.brief().await, "ADDED c00");
    // Neither shown too early nor lost: what happens while the state is read comes after its end.
    cluster.config_map("c03a").await;
    cluster.delete(&format!("{CONFIG_MAPS}/c70"), json!(null)).await;
    for n in 1..80 {
        assert_eq!(watch.brief().await, format!("ADDED c{n:02}"));
    }
    let end = watch.next().await.unwrap();
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(watch.brief().await, "ADDED c03a");
    assert_eq!(watch.brief().await, "DELETED c70");
}

#[tokio::test]
async fn a_reader_too_slow_for_the_initial_state_is_told_so() {
    let cluster = cluster().await;
    for n in 0..80 {
        cluster.config_map(&format!("c{n:02}")).await;
    }
    let mut slow = cluster.watch(&format!("{CONFIG_MAPS}?watch=true&{ONLY}")).await;
    assert_eq!(slow.brief().await, "ADDED c00");
    let filler = "x".repeat(512 * 1024);
    for round in 0..40 {
        let change = json!({"data": {"a": round.to_string(), "filler": filler}});
        assert_eq!(cluster.merge(&format!("{CONFIG_MAPS}/c00"), change).await.code, 200);
    }
    let end = loop {
        match slow.next().await {
            Some(event) if event["type"] == "ERROR" => break event,
            Some(_) => {}
            None => panic!("the watch ended without a word"),
        }
    };
    assert_eq!(end["object"]["reason"], "Expired");
}
