//! A daemon of the product's own binary, a client of its API and a watch on its pods.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use futures::{StreamExt, TryStreamExt};
use joey::cli::settings::{Settings, Sources};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams, LogParams, PostParams, WatchEvent, WatchParams};
use tokio::sync::mpsc;

use crate::measure;

const PATIENCE: Duration = Duration::from_secs(120);

pub struct Cluster {
    joey: PathBuf,
    place: PathBuf,
    daemon: Child,
    /// Nanoseconds from its exec to an answered /readyz.
    pub ready: u64,
}

/// What the watch has seen of a pod, with the time of arrival.
pub enum Seen {
    Running(String),
    Gone(String),
}

pub type Sightings = mpsc::UnboundedReceiver<(u64, Seen)>;

impl Cluster {
    pub async fn start(joey: &Path, place: &Path) -> anyhow::Result<Cluster> {
        let log = fs::File::options().create(true).append(true).open(place.join("daemon.log"))?;
        let start = measure::now();
        let daemon =
            command(joey, place).arg("serve").stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut cluster =
            Cluster { joey: joey.to_owned(), place: place.to_owned(), daemon, ready: 0 };
        let end = start + PATIENCE.as_nanos() as u64;
        loop {
            if let Some(status) = cluster.daemon.try_wait()? {
                bail!("the daemon ended with {status}; see {}", place.join("daemon.log").display());
            }
            if let Ok(client) = cluster.client() {
                let request = http::Request::get("/readyz").body(Vec::new())?;
                if client.request_text(request).await.is_ok() {
                    break;
                }
            }
            if measure::now() > end {
                bail!("the daemon does not get ready");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        cluster.ready = measure::since(start);
        Ok(cluster)
    }

    pub fn client(&self) -> anyhow::Result<kube::Client> {
        let dir = |name: &str| vec![self.place.join(name).display().to_string()];
        let flags = BTreeMap::from([("data-dir", dir("data")), ("run-dir", dir("run"))]);
        let settings = Settings::merge(Sources { flags, environment: &|_| None, file: None })?;
        joey::cli::client::connect(&settings)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.place.join("data/admin.kubeconfig")
    }

    pub fn daemon(&self) -> u32 {
        self.daemon.id()
    }

    pub fn zygotes(&self) -> Vec<u32> {
        measure::children(self.daemon.id())
    }

    pub fn shims(&self) -> Vec<u32> {
        self.zygotes().into_iter().flat_map(measure::children).collect()
    }

    /// Ends the daemon and its traces.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let pid = nix::unistd::Pid::from_raw(self.daemon.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        self.daemon.wait()?;
        run(command(&self.joey, &self.place).args(["reset", "--yes"]))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // After `stop` there is nothing left to end.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

pub fn command(joey: &Path, place: &Path) -> Command {
    let mut command = Command::new(joey);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", place)
        .env("JOEY_DATA_DIR", place.join("data"))
        .env("JOEY_RUN_DIR", place.join("run"))
        .env("JOEY_MANIFESTS_DIR", place.join("manifests"))
        .env("JOEY_LISTEN", "127.0.0.1:6443")
        .stdin(Stdio::null());
    command
}

pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output()?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Watches every pod from now on.
pub async fn watch(client: kube::Client) -> anyhow::Result<Sightings> {
    let pods: Api<Pod> = Api::default_namespaced(client);
    let version = pods.list(&ListParams::default()).await?.metadata.resource_version;
    let (tell, sightings) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let version = version.unwrap_or_default();
        let params = WatchParams::default().timeout(290);
        let mut from = version;
        loop {
            let Ok(stream) = pods.watch(&params, &from).await else { return };
            let mut stream = std::pin::pin!(stream);
            while let Some(Ok(event)) = stream.next().await {
                let at = measure::now();
                let (pod, gone) = match event {
                    WatchEvent::Added(pod) | WatchEvent::Modified(pod) => (pod, false),
                    WatchEvent::Deleted(pod) => (pod, true),
                    WatchEvent::Bookmark(_) | WatchEvent::Error(_) => continue,
                };
                from = pod.metadata.resource_version.unwrap_or_default();
                let name = pod.metadata.name.unwrap_or_default();
                let phase = pod.status.and_then(|status| status.phase);
                let seen = match (gone, phase.as_deref()) {
                    (true, _) => Seen::Gone(name),
                    (false, Some("Running")) => Seen::Running(name),
                    (false, _) => continue,
                };
                if tell.send((at, seen)).is_err() {
                    return;
                }
            }
        }
    });
    Ok(sightings)
}

/// Waits until all `names` run (or are gone); returns when the last one was seen so.
pub async fn all(names: &[String], gone: bool, sightings: &mut Sightings) -> anyhow::Result<u64> {
    let mut missing: std::collections::BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let waiting = async {
        while let Some((at, seen)) = sightings.recv().await {
            let name = match &seen {
                Seen::Running(name) if !gone => name,
                Seen::Gone(name) if gone => name,
                Seen::Running(_) | Seen::Gone(_) => continue,
            };
            missing.remove(name.as_str());
            if missing.is_empty() {
                return Ok(at);
            }
        }
        bail!("the watch has ended")
    };
    tokio::time::timeout(PATIENCE, waiting).await.context("pods take too long")?
}

pub fn manifest(name: &str, image: &str) -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": image}]},
    })
}

pub async fn create(client: &kube::Client, names: &[String], image: &str) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    futures::stream::iter(names)
        .map(|name| {
            let pods = pods.clone();
            let pod = serde_json::from_value(manifest(name, image));
            async move {
                pods.create(&PostParams::default(), &pod?).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(16)
        .try_collect()
        .await
}

pub async fn delete(client: &kube::Client, names: &[String]) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    futures::stream::iter(names)
        .map(|name| {
            let pods = pods.clone();
            async move {
                pods.delete(name, &DeleteParams::default()).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(16)
        .try_collect()
        .await
}

/// What the payload printed: when its first instruction ran.
pub async fn first_instruction(client: &kube::Client, name: &str) -> anyhow::Result<u64> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let end = measure::now() + PATIENCE.as_nanos() as u64;
    while measure::now() < end {
        let text = pods.logs(name, &LogParams::default()).await?;
        if let Some(line) = text.lines().next() {
            return Ok(line.trim().parse()?);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bail!("{name} prints nothing")
}
