//! Many writers on one object, and names that must not be taken twice.

use futures::future::join_all;
use http::Request;
use kube::client::Body;
use serde_json::json;

use crate::harness::{CONFIG_MAPS, cluster, send};

#[tokio::test]
async fn patches_without_a_version_all_arrive() {
    let cluster = cluster().await;
    cluster.config_map("c").await;
    let path = format!("{CONFIG_MAPS}/c");
    let patches = (0..16).map(|index| {
        let key = format!("k{index}");
        cluster.merge(&path, json!({"data": {key: "v"}}))
    });
    for reply in join_all(patches).await {
        assert_eq!(reply.code, 200);
    }
    let data = cluster.get(&path).await.json()["data"].clone();
    assert_eq!(data.as_object().unwrap().len(), 17);
}

#[tokio::test]
async fn of_many_creations_of_one_name_one_wins() {
    let cluster = cluster().await;
    let creations = (0..8).map(|_| cluster.post(CONFIG_MAPS, json!({"metadata": {"name": "c"}})));
    let mut codes: Vec<u16> =
        join_all(creations).await.iter().map(|reply| reply.code.as_u16()).collect();
    codes.sort_unstable();
    assert_eq!(codes, [201, 409, 409, 409, 409, 409, 409, 409]);
}

/// Threads, because what is tested happens between reading the namespace and queueing the commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_slips_into_a_namespace_that_goes_away() {
    let cluster = cluster().await;
    for round in 0..60 {
        let name = format!("n{round}");
        let made = cluster.post("/api/v1/namespaces", json!({"metadata": {"name": name}})).await;
        assert_eq!(made.code, 201);
        let creators: Vec<_> = (0..4)
            .map(|creator| {
                let client = cluster.client.clone();
                let path = format!("/api/v1/namespaces/{name}/configmaps");
                tokio::spawn(async move {
                    let mut newest = 0;
                    for index in 0.. {
                        let body = json!({"metadata": {"name": format!("c{creator}-{index}")}});
                        let body = Body::from(body.to_string().into_bytes());
                        let reply = send(&client, Request::post(&path).body(body).unwrap()).await;
                        if reply.code != 201 {
                            break;
                        }
                        newest = version(&reply.json());
                    }
                    newest
                })
            })
            .collect();
        let path = format!("/api/v1/namespaces/{name}");
        let marked = version(&cluster.delete(&path, json!(null)).await.json());
        for newest in join_all(creators).await {
            assert!(newest.unwrap() < marked);
        }
    }
}

fn version(object: &serde_json::Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str().unwrap();
    text.parse().unwrap()
}
