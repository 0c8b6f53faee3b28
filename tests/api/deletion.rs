//! Delete: what goes at once, what stays for whom, and who may say so.

use serde_json::{Value, json};

use crate::harness::{CONFIG_MAPS, PODS, cluster};

#[tokio::test]
async fn an_object_nobody_holds_is_gone_at_once() {
    let cluster = cluster().await;
    let object = cluster.config_map("c").await;
    let path = format!("{CONFIG_MAPS}/c");
    let reply = cluster.delete(&path, json!({"propagationPolicy": "Background"})).await;
    assert_eq!(reply.code, 200);
    assert_eq!(
        reply.json(),
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": {"name": "c", "kind": "configmaps", "uid": object["metadata"]["uid"]},
        })
    );
    assert_eq!(cluster.delete(&path, json!(null)).await.code, 404);
}

#[tokio::test]
async fn an_unbound_pod_is_returned_and_gone() {
    let cluster = cluster().await;
    cluster.pod("p", "").await;
    let reply = cluster.delete(&format!("{PODS}/p"), json!(null)).await.json();
    assert_eq!(reply["kind"], "Pod");
    assert_eq!(cluster.get(&format!("{PODS}/p")).await.code, 404);
}

#[tokio::test]
async fn a_bound_pod_waits_for_its_node_and_grace_only_shrinks() {
    let cluster = cluster().await;
    cluster.pod("p", "n").await;
    let path = format!("{PODS}/p");
    let grace = |pod: &Value| pod["metadata"]["deletionGracePeriodSeconds"].clone();
    let first = cluster.delete(&path, json!(null)).await.json();
    assert_eq!(grace(&first), 30);
    assert!(first["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(first["metadata"]["generation"], 3);
    let longer = cluster.delete(&path, json!({"gracePeriodSeconds": 60})).await.json();
    assert_eq!(longer, first);
    let shorter = cluster.delete(&path, json!({"gracePeriodSeconds": 5})).await.json();
    assert_eq!(grace(&shorter), 5);
    assert!(
        shorter["metadata"]["deletionTimestamp"].as_str()
            < first["metadata"]["deletionTimestamp"].as_str()
    );
    let last = cluster.delete(&path, json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(last.code, 200);
    assert_eq!(cluster.get(&path).await.code, 404);
}

#[tokio::test]
async fn a_pod_that_is_over_has_nothing_to_wait_for() {
    let cluster = cluster().await;
    cluster.pod("p", "n").await;
    let status = json!({"status": {"phase": "Succeeded"}});
    cluster.merge(&format!("{PODS}/p/status"), status).await;
    cluster.delete(&format!("{PODS}/p"), json!(null)).await;
    assert_eq!(cluster.get(&format!("{PODS}/p")).await.code, 404);
}

#[tokio::test]
async fn finalizers_hold_an_object_and_only_go_away() {
    let cluster = cluster().await;
    let path = format!("{CONFIG_MAPS}/c");
    let held = json!({"metadata": {"name": "c", "finalizers": ["example.com/a"]}});
    cluster.post(CONFIG_MAPS, held).await;
    let marked = cluster.delete(&path, json!(null)).await.json();
    assert_eq!(marked["kind"], "ConfigMap");
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let more = json!({"metadata": {"finalizers": ["example.com/a", "example.com/b"]}});
    let (code, message) = cluster.merge(&path, more).await.refusal();
    assert_eq!(code, 422);
    assert!(
        message.contains(r#"no new finalizers can be added if the object is being deleted, found new finalizers []string{"example.com/b"}"#),
        "{message}"
    );
    let none = json!({"metadata": {"finalizers": null}});
    assert_eq!(cluster.merge(&path, none).await.code, 200);
    assert_eq!(cluster.get(&path).await.code, 404);
}

#[tokio::test]
async fn preconditions_protect_from_deleting_another() {
    let cluster = cluster().await;
    let object = cluster.config_map("c").await;
    let path = format!("{CONFIG_MAPS}/c");
    let uid = object["metadata"]["uid"].as_str().unwrap();
    let other = cluster.delete(&path, json!({"preconditions": {"uid": "other"}})).await;
    assert_eq!(
        other.refusal(),
        (
            409,
            format!(
                r#"Operation cannot be fulfilled on configmaps "c": the UID in the precondition (other) does not match the UID in record ({uid}). The object might have been deleted and then recreated"#
            )
        )
    );
    let version = json!({"preconditions": {"resourceVersion": "1"}});
    assert_eq!(cluster.delete(&path, version).await.code, 409);
    let right = json!({"preconditions": {"uid": uid}});
    assert_eq!(cluster.delete(&path, right).await.code, 200);
}

#[tokio::test]
async fn options_are_read_or_refused() {
    let cluster = cluster().await;
    cluster.config_map("c").await;
    let path = format!("{CONFIG_MAPS}/c");
    for (options, code) in [
        (json!({"propagationPolicy": "Sideways"}), 422),
        (json!({"propagationPolicy": "Orphan", "orphanDependents": true}), 422),
        (json!({"gracePeriodSeconds": "x"}), 400),
        (json!([]), 400),
    ] {
        let reply = cluster.delete(&path, options.clone()).await;
        assert_eq!(reply.code, code, "{options}");
    }
}

#[tokio::test]
async fn who_says_what_becomes_of_dependents_leaves_the_collector_a_finalizer() {
    let cluster = cluster().await;
    for (options, finalizers) in [
        (
            json!({"propagationPolicy": "Foreground"}),
            json!(["example.com/mine", "foregroundDeletion"]),
        ),
        (json!({"propagationPolicy": "Orphan"}), json!(["example.com/mine", "orphan"])),
        (json!({"orphanDependents": true}), json!(["example.com/mine", "orphan"])),
        (json!({"orphanDependents": false}), json!(["example.com/mine"])),
        (json!({"propagationPolicy": "Background"}), json!(["example.com/mine"])),
        (json!(null), json!(["example.com/mine"])),
    ] {
        let body = json!({"metadata": {"name": "c", "finalizers": ["example.com/mine"]}});
        assert_eq!(cluster.post(CONFIG_MAPS, body).await.code, 201);
        let path = format!("{CONFIG_MAPS}/c");
        assert_eq!(cluster.delete(&path, options.clone()).await.code, 200);
        let left = cluster.get(&path).await.json();
        assert_eq!(left["metadata"]["finalizers"], finalizers, "{options}");
        assert!(left["metadata"]["deletionTimestamp"].is_string());
        cluster.merge(&path, json!({"metadata": {"finalizers": null}})).await;
        assert_eq!(cluster.get(&path).await.code, 404);
    }
}

#[tokio::test]
async fn the_last_word_about_dependents_holds() {
    let cluster = cluster().await;
    cluster.config_map("c").await;
    let path = format!("{CONFIG_MAPS}/c");
    let answer = cluster.delete(&path, json!({"propagationPolicy": "Foreground"})).await.json();
    let stored = cluster.get(&path).await.json();
    assert_eq!(answer, stored, "what stays is answered as it is now");
    assert_eq!(stored["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    cluster.delete(&path, json!(null)).await;
    assert_eq!(cluster.get(&path).await.json(), stored, "silence changes nothing");
    cluster.delete(&path, json!({"propagationPolicy": "Orphan"})).await;
    let stored = cluster.get(&path).await.json();
    assert_eq!(stored["metadata"]["finalizers"], json!(["orphan"]));
    cluster.delete(&path, json!({"propagationPolicy": "Background"})).await;
    assert_eq!(cluster.get(&path).await.code, 404);
}

#[tokio::test]
async fn options_may_come_as_protobuf() {
    let cluster = cluster().await;
    cluster.pod("p", "n").await;
    // Unknown{typeMeta{"v1", "DeleteOptions"}, raw: DeleteOptions{gracePeriodSeconds: 7, propagationPolicy}}
    let mut body = b"k8s\0\x0a\x13\x0a\x02v1\x12\x0dDeleteOptions\x12\x0e\x08\x07".to_vec();
    body.extend_from_slice(b"\x22\x0aBackground");
    let text = String::from_utf8(body).unwrap();
    let path = format!("{PODS}/p");
    let reply = cluster.write("DELETE", &path, "application/vnd.kubernetes.protobuf", text).await;
    assert_eq!(reply.code, 200, "{}", reply.text);
    assert_eq!(reply.json()["metadata"]["deletionGracePeriodSeconds"], 7);
}

#[tokio::test]
async fn a_collection_goes_by_selector_and_is_listed() {
    let cluster = cluster().await;
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let body = json!({"metadata": {"name": name, "labels": {"l": label}}});
        cluster.post(CONFIG_MAPS, body).await;
    }
    let path = format!("{CONFIG_MAPS}?labelSelector=l%3Dx");
    let reply = cluster.delete(&path, json!(null)).await.json();
    assert_eq!(reply["kind"], "ConfigMapList");
    assert_eq!(reply["items"].as_array().unwrap().len(), 2);
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}/a")).await.code, 404);
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}/c")).await.code, 200);
}

#[tokio::test]
async fn a_namespace_is_emptied_before_it_goes() {
    let cluster = cluster().await;
    cluster.post("/api/v1/namespaces", json!({"metadata": {"name": "team"}})).await;
    let path = "/api/v1/namespaces/team";
    let marked = cluster.delete(path, json!(null)).await.json();
    assert_eq!(marked["status"]["phase"], "Terminating");
    let late = cluster
        .post("/api/v1/namespaces/team/configmaps", json!({"metadata": {"name": "c"}}))
        .await;
    assert_eq!(
        late.refusal(),
        (
            403,
            r#"configmaps "c" is forbidden: unable to create new content in namespace team because it is being terminated"#.to_owned()
        )
    );
    let cause = &late.json()["details"]["causes"][0];
    assert_eq!(cause["reason"], "NamespaceTerminating");
    let again = cluster.delete(path, json!(null)).await.json();
    assert_eq!(again, marked);
    let mut empty = marked;
    empty["spec"]["finalizers"] = json!([]);
    let finalized = cluster.put(&format!("{path}/finalize"), empty).await;
    assert_eq!(finalized.code, 200, "{}", finalized.text);
    assert_eq!(cluster.get(path).await.code, 404);
    let (code, message) = cluster.delete("/api/v1/namespaces/default", json!(null)).await.refusal();
    assert_eq!(code, 403);
    assert_eq!(message, r#"namespaces "default" is forbidden: this namespace may not be deleted"#);
}

#[tokio::test]
async fn events_go_an_hour_after_they_were_last_seen() {
    let cluster = cluster().await;
    let events = "/api/v1/namespaces/default/events";
    let now: jiff::Timestamp = jiff::Timestamp::now();
    for (name, minutes) in [("old", 61), ("young", 59)] {
        let seen = (now - jiff::SignedDuration::from_mins(minutes)).to_string();
        let event = json!({
            "metadata": {"name": name}, "reason": "R", "type": "Normal",
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
            "firstTimestamp": seen, "lastTimestamp": seen,
        });
        let reply = cluster.post(events, event).await;
        assert_eq!(reply.code, 201, "{}", reply.text);
    }
    // What is created just now was seen just now, whatever its reporter says; an hour on, both are due.
    let later = |minutes: i64| {
        let at = now + jiff::SignedDuration::from_mins(minutes);
        joey::model::time::Timestamp::from_unix(at.as_second(), 0)
    };
    let next = cluster.api.remove_expired_events(later(0)).await.unwrap().expect("both are young");
    assert!(next > later(59));
    assert_eq!(cluster.get(events).await.json()["items"].as_array().unwrap().len(), 2);
    let repeated =
        json!({"lastTimestamp": (now + jiff::SignedDuration::from_mins(30)).to_string()});
    assert_eq!(cluster.merge(&format!("{events}/young"), repeated).await.code, 200);
    cluster.api.remove_expired_events(later(70)).await.unwrap();
    let left = cluster.get(events).await.json();
    assert_eq!(left["items"][0]["metadata"]["name"], "young", "who repeats itself stays");
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert_eq!(cluster.api.remove_expired_events(later(91)).await.unwrap(), None);
    assert_eq!(cluster.get(events).await.json()["items"], json!([]));
}
