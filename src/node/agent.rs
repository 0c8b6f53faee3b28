//! The node agent whole: what it stands on, and the tasks it is made of.
//!
//! It looks at no pod itself: `keeper` does.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1 as core;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::events::{self, Note, Recorder};
use crate::net::{self, Network};
use crate::node::compile::NodeFacts;
use crate::node::compile::dns::ClusterDns;
use crate::node::farewell::Farewell;
use crate::node::huge_pages::SIZES;
use crate::node::keeper::Keeper;
use crate::node::pods::Pods;
use crate::node::register::{self, host};
use crate::node::usage::Usage;
use crate::node::volume;
use crate::node::worker::{ObjectChanged, ObjectKind, Shared};
use crate::runtime::image::Images;
use crate::runtime::{Runtime, RuntimeError};

/// Commands of probes that run at a time: each is a process to make.
const PROBE_COMMANDS: usize = 16;

/// Shims answer within milliseconds; a start waits no longer for one that does not.
const SHIMS_WITHIN: Duration = Duration::from_secs(1);

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
    /// Ports of the host that pods and Services may not take from it.
    pub reserved_ports: Vec<SocketAddr>,
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
        let adopted = runtime.adopt_within(SHIMS_WITHIN).await.map_err(AgentError::Adopt)?;
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
        let keeper = Keeper::new(shared, adopted, traces, stop.clone());
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
