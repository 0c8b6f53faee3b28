//! The pods of this node: a worker for each, from the first sight of its object to the end of its last trace.
//!
//! It decides nothing about a pod; after a start it first sorts what the host still holds (`adopt`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1 as core;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use tokio::sync::{Semaphore, broadcast, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::events::{self, Note, Recorder};
use crate::net::{self, Network};
use crate::node::adopt::{self, Fate};
use crate::node::compile::dns::ClusterDns;
use crate::node::compile::{NodeFacts, PodPaths};
use crate::node::farewell::Farewell;
use crate::node::huge_pages::SIZES;
use crate::node::pods::Pods;
use crate::node::register::{self, host};
use crate::node::usage::Usage;
use crate::node::volume;
use crate::node::worker::{self, Existing, ObjectChanged, ObjectKind, Shared, Worker};
use crate::runtime::image::Images;
use crate::runtime::{self, Runtime, RuntimeError};

/// Commands of probes that run at a time: each is a process to make.
const PROBE_COMMANDS: usize = 16;

/// What the agent is told about its node.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    pub node_name: String,
    pub data_dir: PathBuf,
    pub run_dir: PathBuf,
    pub cluster_domain: String,
    /// `None`: pods use the host's resolvers.
    pub cluster_dns: Option<IpAddr>,
    /// Joey's own version, for `joey://VERSION`.
    pub version: String,
    /// The Kubernetes release that `kubectl get nodes` shows.
    pub kubelet_version: String,
    pub max_pods: u32,
    /// Containers without a readiness probe are ready once their TCP ports are listened on, 10 s after their start
    /// at the latest; else as soon as they run.
    pub ready_when_listening: bool,
    /// Port of the node's own HTTP server in `status.daemonEndpoints`; 0 when there is none on a socket.
    pub kubelet_port: u16,
}

/// The running agent. Cancelling its token ends it and leaves every pod as it is.
pub struct Agent {
    pods: Pods,
    usage: Usage,
    farewell: Farewell,
    tasks: JoinSet<()>,
}

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("finding the pods of an earlier daemon")]
    Adopt(#[source] RuntimeError),
    #[error("bounding what pods may take of the host")]
    Bound(#[source] RuntimeError),
    #[error("reading {path}")]
    Scan {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl Agent {
    /// Finds what an earlier daemon left, registers the node and begins to run pods.
    pub async fn start(
        client: kube::Client,
        runtime: Runtime,
        images: Images,
        network: Network,
        config: NodeConfig,
        stop: CancellationToken,
    ) -> Result<Agent, AgentError> {
        if let Err(error) = volume::secure(&config.run_dir) {
            tracing::warn!(%error, "secrets lie in plain directories: no tmpfs could be mounted");
        }
        let found = runtime.adopt().await.map_err(AgentError::Adopt)?;
        let traces = traces(&config, &network)?;
        let capacity = host::capacity(&config.data_dir);
        let allocatable = capacity.allocatable();
        let huge_pages = SIZES
            .iter()
            .zip(allocatable.huge_pages)
            .filter_map(|(size, bytes)| Some((size.group.to_owned(), bytes?)))
            .collect();
        let bounded = runtime.bound(allocatable.memory_bytes, &huge_pages).await;
        bounded.map_err(AgentError::Bound)?;
        let facts = NodeFacts {
            name: config.node_name.clone(),
            addresses: vec![network.node_address()],
            controllers: runtime.controllers().clone(),
            cpu_millis: allocatable.cpu_millis,
            memory_bytes: allocatable.memory_bytes,
            huge_pages: allocatable.huge_pages,
            cluster: ClusterDns {
                server: config.cluster_dns,
                domain: config.cluster_domain.clone(),
            },
            seccomp_dir: config.data_dir.join("seccomp"),
        };
        let pods = Pods::default();
        let recorder = Recorder::start(
            client.clone(),
            "kubelet",
            config.node_name.clone(),
            stop.child_token(),
        );
        let farewell = Farewell::default();
        let (objects, _) = broadcast::channel(1024);
        let shared = Arc::new(Shared {
            client: client.clone(),
            runtime,
            images,
            network,
            farewell: farewell.clone(),
            recorder,
            pods: pods.clone(),
            facts,
            data_dir: config.data_dir.clone(),
            run_dir: config.run_dir.clone(),
            objects: objects.clone(),
            commands: Arc::new(Semaphore::new(PROBE_COMMANDS)),
            awaits_ports: config.ready_when_listening,
        });
        let mut tasks = JoinSet::new();
        let mut spawn = |work: futures::future::BoxFuture<'static, ()>| {
            tasks.spawn(stop.child_token().run_until_cancelled_owned(work).map_to_unit());
        };
        spawn(Box::pin(notices::<core::ConfigMap>(
            client.clone(),
            ObjectKind::ConfigMap,
            objects.clone(),
        )));
        spawn(Box::pin(notices::<core::Secret>(client.clone(), ObjectKind::Secret, objects)));
        spawn(Box::pin(repairs(shared.network.repairs(), shared.clone())));
        let usage = Usage::new(pods.clone(), &config.node_name);
        spawn(Box::pin(usage.clone().run()));
        spawn(Box::pin(register::run(shared.clone(), config.clone())));
        let keeper = Keeper {
            shared,
            stop: stop.clone(),
            workers: BTreeMap::new(),
            running: JoinSet::new(),
            unclaimed: found
                .into_iter()
                .map(|found| {
                    let existing = Existing { pod: found.pod, plans: found.containers };
                    (found.plan.uid.as_str().to_owned(), existing)
                })
                .collect(),
            traces,
        };
        tasks.spawn(keeper.run(client, config.node_name));
        Ok(Agent { pods, usage, farewell, tasks })
    }

    /// What runs here, for whoever streams.
    pub fn pods(&self) -> &Pods {
        &self.pods
    }

    /// What pods and the host use.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// For the moment when the host goes down.
    pub fn farewell(&self) -> Farewell {
        self.farewell.clone()
    }

    /// Waits until every part has ended, which is after the cancellation.
    pub async fn ended(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(%error, "a part of the node agent panicked");
            }
        }
    }
}

/// `run_until_cancelled` says whether it was; nobody asks.
trait MapToUnit {
    fn map_to_unit(self) -> impl Future<Output = ()> + Send;
}

impl<F: Future<Output = Option<()>> + Send> MapToUnit for F {
    async fn map_to_unit(self) {
        self.await;
    }
}

/// Every uid of which the host holds directories or an address.
fn traces(config: &NodeConfig, network: &Network) -> Result<BTreeSet<String>, AgentError> {
    let mut traces: BTreeSet<String> = network.attached().into_iter().collect();
    for path in [config.data_dir.join("pods"), config.run_dir.join("volumes")] {
        traces.extend(names_in(&path).map_err(|source| AgentError::Scan { path, source })?);
    }
    Ok(traces)
}

fn names_in(path: &Path) -> std::io::Result<Vec<String>> {
    match std::fs::read_dir(path) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Tells workers which objects changed; their contents are not kept.
async fn notices<K>(client: kube::Client, kind: ObjectKind, tell: broadcast::Sender<ObjectChanged>)
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
    let events = watcher(Api::<K>::all(client), watcher::Config::default()).default_backoff();
    let mut events = pin!(events);
    loop {
        match events.try_next().await {
            Ok(Some(
                watcher::Event::Apply(object)
                | watcher::Event::Delete(object)
                | watcher::Event::InitApply(object),
            )) => {
                // Nobody listening is no failure.
                let _ = tell.send(ObjectChanged {
                    kind,
                    namespace: object.namespace().unwrap_or_default(),
                    name: object.name_any(),
                });
            }
            Ok(Some(watcher::Event::Init | watcher::Event::InitDone)) => {}
            Ok(None) => return,
            Err(error) => tracing::debug!(%error, "watching objects for pods"),
        }
    }
}

/// Tells in Events what of pods' networks was changed by hand and put back.
async fn repairs(mut repaired: broadcast::Receiver<net::Repaired>, shared: Arc<Shared>) {
    loop {
        match repaired.recv().await {
            Ok(net::Repaired { pod, what }) => {
                if let Some(entry) = shared.pods.find_uid(&pod) {
                    let message = format!("{}.", what.sentence());
                    shared.recorder.note(Note {
                        about: entry.reference(),
                        kind: events::Kind::Warning,
                        reason: "NetworkRepaired".into(),
                        message,
                    });
                }
            }
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// The owner of all workers.
struct Keeper {
    shared: Arc<Shared>,
    stop: CancellationToken,
    workers: BTreeMap<String, Employed>,
    running: JoinSet<String>,
    /// Found on the host, not yet claimed by a pod of the API.
    unclaimed: BTreeMap<String, Existing>,
    traces: BTreeSet<String>,
}

struct Employed {
    object: watch::Sender<Option<Arc<core::Pod>>>,
    /// Workers of this pod that panicked one after the other.
    panics: u32,
}

impl Keeper {
    async fn run(mut self, client: kube::Client, node: String) {
        let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
        let events = watcher(Api::<core::Pod>::all(client), config).default_backoff();
        let mut events = pin!(events);
        let mut listed = None;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                event = events.next() => match event {
                    Some(Ok(event)) => self.heed(event, &node, &mut listed),
                    Some(Err(error)) => tracing::warn!(%error, "watching the pods of this node"),
                    None => break,
                },
                Some(ended) = self.running.join_next_with_id(), if !self.running.is_empty() => {
                    match ended {
                        Ok((_, uid)) => self.let_go(&uid),
                        Err(error) => self.revive(&error),
                    }
                }
            }
        }
        while self.running.join_next().await.is_some() {}
    }

    fn heed(
        &mut self,
        event: watcher::Event<core::Pod>,
        node: &str,
        listed: &mut Option<BTreeSet<String>>,
    ) {
        match event {
            watcher::Event::Init => *listed = Some(BTreeSet::new()),
            watcher::Event::InitApply(pod) => {
                if let (Some(listed), Some(uid)) = (listed.as_mut(), pod.metadata.uid.clone()) {
                    listed.insert(uid);
                }
                self.take(pod, node);
            }
            watcher::Event::InitDone => {
                let listed = listed.take().unwrap_or_default();
                for (uid, employed) in &self.workers {
                    if !listed.contains(uid) {
                        employed.object.send_replace(None);
                    }
                }
                self.sort_out(&listed);
            }
            watcher::Event::Apply(pod) => self.take(pod, node),
            watcher::Event::Delete(pod) => {
                if let Some(employed) = pod.metadata.uid.and_then(|uid| self.workers.get(&uid)) {
                    employed.object.send_replace(None);
                }
            }
        }
    }

    fn take(&mut self, pod: core::Pod, node: &str) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        // Only what a server without that field selector would send.
        if pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) != Some(node) {
            return;
        }
        let pod = Arc::new(pod);
        if let Some(employed) = self.workers.get(&uid) {
            employed.object.send_replace(Some(pod));
            return;
        }
        let existing = self.unclaimed.remove(&uid);
        self.employ(uid, pod, existing, 0);
    }

    fn employ(
        &mut self,
        uid: String,
        pod: Arc<core::Pod>,
        existing: Option<Existing>,
        panics: u32,
    ) {
        let (object, objects) = watch::channel(Some(pod.clone()));
        let attached = self.shared.network.attached().contains(&uid);
        self.traces.remove(&uid);
        let (shared, stop) = (self.shared.clone(), self.stop.clone());
        // One bad pod must not spin: each panic doubles the pause before its next worker.
        let pause = match panics {
            0 => Duration::ZERO,
            n => Duration::from_secs(10).saturating_mul(1 << (n - 1).min(5)),
        };
        let name = uid.clone();
        self.running.spawn(async move {
            if !pause.is_zero() {
                let rest = tokio::time::sleep(pause);
                if stop.run_until_cancelled(rest).await.is_none() {
                    return name;
                }
            }
            Worker::new(shared, objects, pod, existing, attached, stop).run().await;
            name
        });
        self.workers.insert(uid, Employed { object, panics });
    }

    fn let_go(&mut self, uid: &str) {
        self.workers.remove(uid);
    }

    /// A worker panicked: another one takes the pod over as a new daemon would.
    fn revive(&mut self, error: &tokio::task::JoinError) {
        tracing::error!(%error, "a pod's worker panicked; another one takes over");
        // Whose it was: the one whose receiver is gone.
        let orphans: Vec<String> = self
            .workers
            .iter()
            .filter(|(_, employed)| employed.object.is_closed())
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in orphans {
            let Some(employed) = self.workers.remove(&uid) else { continue };
            let newest = employed.object.borrow().clone();
            let Some(pod) = newest else {
                // Nobody wants it any more, so nobody else will ever take it away.
                let entry = self.shared.pods.find_uid(&uid);
                if let Some(entry) = &entry {
                    self.shared.pods.withdraw(&entry.namespace, &entry.name, &uid);
                }
                self.clear_away(uid, entry.and_then(|entry| entry.pod.clone()));
                continue;
            };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let existing =
                self.shared.pods.find(namespace, name).filter(|entry| entry.uid == uid).and_then(
                    |entry| {
                        let plans =
                            entry.containers.values().filter_map(|c| c.plan.clone()).collect();
                        Some(Existing { pod: entry.pod.clone()?, plans })
                    },
                );
            self.employ(uid, pod, existing, employed.panics.saturating_add(1));
        }
    }

    /// After the first list: what the host holds and the API does not know goes.
    fn sort_out(&mut self, wanted: &BTreeSet<String>) {
        let running: BTreeSet<String> = self.unclaimed.keys().cloned().collect();
        let traces = std::mem::take(&mut self.traces);
        for (uid, fate) in adopt::fates(&running, &traces, wanted) {
            let existing = self.unclaimed.remove(&uid);
            match fate {
                Fate::Keep => {}
                Fate::Kill | Fate::Forget => {
                    tracing::info!(pod = %uid, ?fate, "left over from an earlier daemon");
                    self.clear_away(uid, existing.map(|e| e.pod));
                }
            }
        }
    }

    fn clear_away(&mut self, uid: String, pod: Option<runtime::Pod>) {
        let shared = self.shared.clone();
        self.running.spawn(async move {
            clear_away(&shared, &uid, pod).await;
            uid
        });
    }
}

/// Ends and removes everything of a pod that the API no longer knows.
async fn clear_away(shared: &Shared, uid: &str, pod: Option<runtime::Pod>) {
    if let Some(pod) = pod {
        let mut state = pod.state();
        let names: Vec<String> = state.borrow().containers.keys().cloned().collect();
        for name in names {
            // What has ended cannot hear it.
            let _ = pod.signal(&name, libc::SIGTERM).await;
        }
        let all_ended = state.wait_for(|state| {
            state.containers.values().all(|c| matches!(c.phase, runtime::ContainerPhase::Exited(_)))
        });
        // Those that do not end by themselves are killed with the pod.
        let _ = tokio::time::timeout(Duration::from_secs(2), all_ended).await;
        if let Err(error) = pod.remove().await {
            tracing::warn!(pod = %uid, %error, "a pod left over could not be removed");
            return;
        }
    }
    if let Err(error) = shared.network.detach(uid).await {
        tracing::warn!(pod = %uid, %error, "an address left over could not be given back");
    }
    let paths = PodPaths::new(&shared.data_dir, &shared.run_dir, uid);
    let (images, holder) = (shared.images.clone(), uid.to_owned());
    let removed = tokio::task::spawn_blocking(move || {
        volume::remove(&paths).and_then(|()| volume::remove_tree(&paths.data))?;
        worker::release(&images, &holder).map_err(std::io::Error::other)
    });
    if !matches!(removed.await, Ok(Ok(()))) {
        tracing::warn!(pod = %uid, "directories left over could not be removed");
    }
}
