//! Many writers on one object, and names that must not be taken twice.

use futures::future::join_all;
use serde_json::json;

use crate::harness::{CONFIG_MAPS, cluster};

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

#[tokio::test]
async fn nothing_slips_into_a_namespace_that_goes_away() {
    let cluster = cluster().await;
    for round in 0..20 {
        let name = format!("n{round}");
        cluster.post("/api/v1/namespaces", json!({"metadata": {"name": name}})).await;
        let inside = format!("/api/v1/namespaces/{name}/configmaps");
        let creations = (0..4)
            .map(|index| cluster.post(&inside, json!({"metadata": {"name": format!("c{index}")}})));
        let path = format!("/api/v1/namespaces/{name}");
        let (replies, marked) =
            futures::join!(join_all(creations), cluster.delete(&path, json!(null)));
        let marked: u64 = version(&marked.json());
        for reply in replies.iter().filter(|reply| reply.code == 201) {
            assert!(version(&reply.json()) < marked);
        }
    }
}

fn version(object: &serde_json::Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str().unwrap();
    text.parse().unwrap()
}
