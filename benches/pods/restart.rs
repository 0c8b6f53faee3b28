//! What a restart costs with many pods, and what reaches many watchers how soon.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{
    DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent,
    WatchParams,
};
use kube::core::ApiResource;
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;

use crate::cluster::{self, Cluster, Seen};
use crate::deployments::{deployment, revision, wait};
use crate::measure::{self, Row, now, since};
use crate::number;

/// Long enough for a controller that wants to write to have written.
const CALM: Duration = Duration::from_secs(5);

/// `REPLICAS=n` (300) pods of one Deployment run; the daemon is killed and started again, `RESTARTS=n` (5) times.
pub async fn restart(
    mut cluster: Cluster,
    joey: &Path,
    place: &Path,
    image: &str,
) -> anyhow::Result<Cluster> {
    let replicas = number("REPLICAS", 300) as i64;
    let client = cluster.client()?;
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    deployments.create(&PostParams::default(), &deployment("stays", replicas, image)?).await?;
    wait(&client, replicas).await?;
    tokio::time::sleep(CALM).await;
    let mut rows = [
        Row::new("kill -9 → exec → /readyz"),
        Row::new("… → the Deployment gets one pod more, seen Running"),
    ];
    let (mut written, mut commits) = (0, 0);
    for round in 0..number("RESTARTS", 5) as i64 {
        let client = cluster.client()?;
        let before = versions(&client).await?;
        let first = revision(&client).await?;
        drop(cluster);
        let start = now();
        cluster = Cluster::start(joey, place).await?;
        rows[0].add(since(start));
        let client = cluster.client()?;
        tokio::time::sleep(CALM).await;
        let after = versions(&client).await?;
        written += after.iter().filter(|(uid, version)| before.get(*uid) != Some(version)).count();
        commits += revision(&client).await? - first;

        drop(cluster);
        let start = now();
        cluster = Cluster::start(joey, place).await?;
        let client = cluster.client()?;
        let mut sightings = cluster::watch(client.clone()).await?;
        let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas + round + 1}}));
        deployments.patch("stays", &PatchParams::default(), &patch).await?;
        while let Some((at, seen)) = sightings.recv().await {
            // All others ran before.
            if let Seen::Running(_) = seen {
                rows[1].add(at.saturating_sub(start));
                break;
            }
        }
        wait(&client, replicas + round + 1).await?;
    }
    measure::print(&format!("Restart with {replicas} pods (× is to the first row)"), &rows);
    println!(
        "  pods, ReplicaSets and Deployments written without a reason: {written}; commits of any kind (the node's Lease is one every ten seconds), \
         from before the kill until {CALM:?} after /readyz: {:.1} a restart",
        commits as f64 / number("RESTARTS", 5).max(1) as f64
    );
    let client = cluster.client()?;
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    deployments.delete("stays", &DeleteParams::background()).await?;
    wait(&client, 0).await?;
    Ok(cluster)
}

/// The version of every pod, ReplicaSet and Deployment, by uid.
async fn versions(client: &kube::Client) -> anyhow::Result<BTreeMap<String, String>> {
    let mut versions = BTreeMap::new();
    for resource in [
        ApiResource::erase::<Pod>(&()),
        ApiResource::erase::<ReplicaSet>(&()),
        ApiResource::erase::<Deployment>(&()),
    ] {
        let api: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &resource);
        for object in api.list_metadata(&ListParams::default()).await?.items {
            let version = object.resource_version().context("an object has a version")?;
            versions.insert(object.uid().context("an object has a uid")?, version);
        }
    }
    Ok(versions)
}

/// From a write until each of 1 and of 100 watching clients has it, `ROUNDS=n` (20) times.
pub async fn watchers(cluster: &Cluster) -> anyhow::Result<()> {
    const MANY: usize = 100;
    let mut rows = [
        Row::new("create answered"),
        Row::new("create → seen by the only watcher"),
        Row::new("create → seen by the first of 100 watchers"),
        Row::new("create → seen by all of 100 watchers"),
    ];
    for count in [1, MANY] {
        let (tell, mut seen) = mpsc::unbounded_channel();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..count {
            // Each has a connection of its own, as clients have.
            let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client()?);
            let from = maps.list(&ListParams::default()).await?.metadata.resource_version;
            let tell = tell.clone();
            tasks.spawn(async move {
                let from = from.unwrap_or_default();
                let Ok(events) = maps.watch(&WatchParams::default(), &from).await else { return };
                let mut events = std::pin::pin!(events);
                while let Some(Ok(event)) = events.next().await {
                    if let WatchEvent::Added(map) = event
                        && tell.send((now(), map.name_any())).is_err()
                    {
                        return;
                    }
                }
            });
        }
        let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client()?);
        // The first one is not counted: by then every watch has begun.
        for round in 0..=number("ROUNDS", 20) {
            let map: ConfigMap = serde_json::from_value(json!({
                "metadata": {"name": format!("seen-by-{count}-{round}")},
                "data": {"key": "value"},
            }))?;
            let start = now();
            maps.create(&PostParams::default(), &map).await?;
            let answered = since(start);
            let mut times = Vec::with_capacity(count);
            while times.len() < count {
                let (at, name) = seen.recv().await.context("the watches have ended")?;
                if Some(&name) == map.meta().name.as_ref() {
                    times.push(at.saturating_sub(start));
                }
            }
            if round > 0 {
                times.sort_unstable();
                let (first, last) = (times[0], times[count - 1]);
                if count == 1 {
                    rows[0].add(answered);
                    rows[1].add(first);
                } else {
                    rows[2].add(first);
                    rows[3].add(last);
                }
            }
        }
        tasks.shutdown().await;
    }
    measure::print("A watch reaching its clients (× is to the first row)", &rows);
    Ok(())
}
