//! Deployments of many pods: how long they take, what each pod costs in writes and CPU, and what the daemon holds.

use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::cluster::Cluster;
use crate::measure::{Work, memory, now, since};
use crate::number;

const PATIENCE: Duration = Duration::from_secs(300);

/// `REPLICAS=n` (300): one Deployment 1 → n → 1; then 30 Deployments of 5, or as many as n allows.
pub async fn run(cluster: &Cluster, client: &kube::Client, image: &str) -> anyhow::Result<()> {
    let replicas = number("REPLICAS", 300) as i64;
    println!("\nDeployments: time, API writes and daemon CPU for each pod that comes or goes");
    println!(
        "  {:<28} {:>10} {:>9} {:>11} {:>12} {:>11}",
        "", "ms", "ms/pod", "writes/pod", "CPU ms/pod", "daemon PSS"
    );
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    deployments.create(&PostParams::default(), &deployment("one", 1, image)?).await?;
    wait(client, 1).await?;
    for (from, to) in [(1, replicas), (replicas, 1)] {
        let label = format!("one Deployment, {from} → {to}");
        measured(cluster, client, &label, (to - from).unsigned_abs(), async {
            let patch = Patch::Merge(json!({"spec": {"replicas": to}}));
            deployments.patch("one", &PatchParams::default(), &patch).await?;
            wait(client, to).await
        })
        .await?;
    }
    deployments.delete("one", &DeleteParams::background()).await?;
    wait(client, 0).await?;
    let count = 30.min((replicas / 5).max(1));
    let label = format!("{count} Deployments × 5");
    measured(cluster, client, &label, count.unsigned_abs() * 5, async {
        for index in 0..count {
            let made = deployment(&format!("many-{index}"), 5, image)?;
            deployments.create(&PostParams::default(), &made).await?;
        }
        wait(client, count * 5).await
    })
    .await?;
    let label = format!("{count} Deployments × 5, deleted");
    measured(cluster, client, &label, count.unsigned_abs() * 5, async {
        deployments.delete_collection(&DeleteParams::background(), &ListParams::default()).await?;
        wait(client, 0).await
    })
    .await
}

async fn measured(
    cluster: &Cluster,
    client: &kube::Client,
    label: &str,
    pods: u64,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let daemon = [cluster.daemon()];
    let (writes, before, start) = (revision(client).await?, Work::of(&daemon), now());
    work.await?;
    let time = since(start) as f64 / 1e6;
    let (cpu, _) = Work::of(&daemon).since(&before);
    let writes = revision(client).await? - writes;
    let each = pods.max(1) as f64;
    println!(
        "  {label:<28} {time:>10.0} {:>9.1} {:>11.1} {:>12.1} {:>11}",
        time / each,
        writes as f64 / each,
        cpu as f64 / 1e6 / each,
        format!("{:.1} MiB", memory(&daemon).pss as f64 / 1024.0)
    );
    Ok(())
}

/// Revisions count commits, Events included.
pub async fn revision(client: &kube::Client) -> anyhow::Result<u64> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let list = pods.list(&ListParams::default().limit(1)).await?;
    let text = list.metadata.resource_version.context("a list has a revision")?;
    Ok(text.parse()?)
}

/// Waits until exactly so many pods are there, all of them ready.
pub async fn wait(client: &kube::Client, count: i64) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let end = now() + PATIENCE.as_nanos() as u64;
    while now() < end {
        // The Deployments say when it is worth looking at every pod: looking costs the daemon, too.
        let listed = deployments.list(&ListParams::default()).await?.items;
        let statuses = || listed.iter().filter_map(|deployment| deployment.status.as_ref());
        let all: i32 = statuses().filter_map(|status| status.replicas).sum();
        let ready: i32 = statuses().filter_map(|status| status.ready_replicas).sum();
        if [i64::from(all), i64::from(ready)] == [count, count]
            && pods.list_metadata(&ListParams::default()).await?.items.len() as i64 == count
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!("not {count} ready pods within {PATIENCE:?}")
}

pub fn deployment(name: &str, replicas: i64, image: &str) -> anyhow::Result<Deployment> {
    let labels = json!({"bench": name});
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{"name": "main", "image": image}],
                },
            },
        },
    }))?)
}
