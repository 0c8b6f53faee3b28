//! Builds every part from the settings, starts them in order, and stops them in the other.
//!
//! ```text
//! lock → zygote → (threads from here) → keys → store → network → images → runtime → API → controllers → node
//! ```
//!
//! Parts that belong to everyone end the daemon when they end: the service manager starts it again, and
//! recovery is the normal path. Pods outlive the daemon and are stopped only when the host goes down.

mod inside;
mod measures;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::inside::{Inside, Places};
use crate::api::identity::Identity;
use crate::api::streams::{Dial, Stream};
use crate::api::{Api, ApiConfig, pki, serve};
use crate::cli::instance::Instance;
use crate::cli::manifests::Manifests;
use crate::cli::serve::network_config;
use crate::cli::settings::Settings;
use crate::events::Recorder;
use crate::metrics::figures::Figures;
use crate::metrics::{self, Registry};
use crate::net::ingress::{self, Ingress, IngressConfig};
use crate::net::sync::Services;
use crate::net::{Network, PROXY_MARK, Protocol, dns, foreign, probe};
use crate::node::{self, Agent, NodeConfig};
use crate::reconcile::caches::Caches;
use crate::reconcile::decide::Decide;
use crate::reconcile::deployment::Deployments;
use crate::reconcile::endpoints::Endpoints;
use crate::reconcile::replicaset::ReplicaSets;
use crate::reconcile::{self, driver};
use crate::runtime::image::Images;
use crate::runtime::zygote::Zygote;
use crate::runtime::{Runtime, RuntimeConfig};
use crate::store::Store;
use crate::sys::notify::{self, Notifier};

mod shutdown;

/// Parts get this long to end after the signal; then the process ends without them.
const GOODBYE: Duration = Duration::from_secs(10);
/// Policies are in force milliseconds after the caches are filled; who is asked before refuses.
const POLICIES_WITHIN: Duration = Duration::from_secs(5);
/// What the Node allows; the pod network and the runtime have been tried with more.
const MAX_PODS: u32 = 500;
/// Bytes in flight between API and node, each way.
const PIPE: usize = 64 << 10;

/// Runs until SIGTERM or SIGINT, or until a part that everyone needs has failed.
pub async fn run(
    settings: &Settings,
    instance: Instance,
    zygote: Zygote,
) -> anyhow::Result<ExitCode> {
    allow_many_files();
    let notifier = Notifier::from_environment();
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let hostname = nix::unistd::gethostname()?.to_string_lossy().to_lowercase();
    let node_name = settings.node_name().map_or(hostname.clone(), str::to_owned);
    let data_dir = instance.data_dir.clone();

    // Ports first: a second daemon or a wrong address must be told before anything is touched.
    let mut listeners = listen(&settings.listen(), notifier.as_ref()).await?;
    let places = Places::of(settings)?;
    let names = pki::PkiConfig {
        listen: listeners.iter().map(|(address, _)| *address).collect(),
        cluster_domain: settings.cluster_domain().to_owned(),
        hostname,
        extra_names: vec![
            node_name.clone(),
            places.gateway.to_string(),
            places.api_service.to_string(),
        ],
    };
    let pki = pki::ensure(&data_dir, &names)?;
    let registry = Registry::default();
    let store = Store::open(&data_dir.join("store.redb"))?;
    store.measure(&registry);
    let network = Network::start(network_config(settings, &instance)).await?;
    let problems = network.watch_problems();
    probe::note(&instance.run_dir, &network.problems())?;
    let inside = Inside::listen(&places, &mut listeners).await?;
    let services = Services::new(&network, settings.cluster_domain(), places.ranges);
    let repairs = measures::network(&registry, &network);
    let repaired = network.clone();
    let (ingress_network, told_network) = (network.clone(), network.clone());
    let images = crate::cli::image::open(settings)?;
    let runtime = start_runtime(&instance, zygote).await?;

    // Without its zygote this daemon can start no pod; the next one makes its own.
    let zygote_ended = runtime.clone();
    let kubelet = Kubelet::default();
    let figures = Figures::default();
    let config = ApiConfig {
        cluster_domain: settings.cluster_domain().to_owned(),
        token_key: pki.token_key,
        ca_pem: pki.ca_pem.clone(),
        service_cidr: settings.service_cidr(),
        figures: figures.clone(),
        translates_sctp: network.translates_sctp(),
    };
    let api = Api::new(store.clone(), config, Arc::new(kubelet.clone())).await?;

    api.measure(&registry);

    let mut parts: JoinSet<&'static str> = JoinSet::new();
    let until = stop.clone();
    spawn(&mut parts, "counter of repairs", async move {
        until.run_until_cancelled(measures::count_repairs(repaired, repairs)).await;
    });
    let manager = api.client(Identity::component("system:kube-controller-manager"), "default");
    let scheduler = api.client(Identity::component("system:kube-scheduler"), "default");
    spawn(
        &mut parts,
        "service account controller",
        reconcile::service_account::run(manager.clone(), pki.ca_pem, stop.clone()),
    );
    spawn(
        &mut parts,
        "namespace controller",
        reconcile::namespace::run(manager.clone(), stop.clone()),
    );
    start_controllers(&mut parts, &manager, &registry, &stop);
    let builtin = inside.services(&places);
    spawn(&mut parts, "built-in Services", reconcile::builtin::run(manager, builtin, stop.clone()));
    let proxy = api.client(Identity::component("system:kube-proxy"), "default");
    let follow = services.clone().run(network.clone(), proxy, node_name.clone(), stop.clone());
    spawn(&mut parts, "services", follow);
    let cluster_dns = inside.dns.as_ref().map(|_| places.dns_service);
    let dns_address = inside.dns.as_ref().map(dns::Server::address);
    if let Some(dns) = inside.dns {
        let dns = dns.measured(&registry);
        spawn(&mut parts, "DNS", dns::run(dns, services, stop.clone()));
    }
    let renew = pki::keep(pki.presented.clone(), data_dir.clone(), names, stop.clone());
    spawn(&mut parts, "certificates", renew);
    let policies = api.client(Identity::component("system:kube-controller-manager"), "default");
    spawn(
        &mut parts,
        "network policies",
        crate::net::policy::run(policies, network.clone(), dns_address, stop.clone()),
    );
    spawn(&mut parts, "expiry of events", api.clone().expire_events(stop.clone()));
    spawn(&mut parts, "scheduler", reconcile::scheduler::run(scheduler, stop.clone()));
    let evictor = api.client(Identity::component("system:kube-controller-manager"), "default");
    spawn(&mut parts, "eviction by taints", reconcile::eviction::run(evictor, stop.clone()));
    let collector = api.client(Identity::component("system:kube-controller-manager"), "default");
    let orphans = reconcile::orphans::run(collector, node_name.clone(), stop.clone());
    spawn(&mut parts, "pods without a node", orphans);

    let agent = start_agent(
        settings,
        &instance,
        &api,
        &node_name,
        runtime,
        images,
        network.clone(),
        cluster_dns,
        own_ports(&listeners, settings, places.gateway),
        stop.clone(),
    )
    .await?;
    measures::node(&registry, agent.pods().clone());
    let surface = node::serve::router(agent.pods().clone(), agent.usage().clone(), network)?;
    kubelet.connect(surface);
    let scrape = node::scrape::run(agent.pods().clone(), figures.clone());
    let until = stop.clone();
    spawn(&mut parts, "reader of pods' metrics", async move {
        until.run_until_cancelled(scrape).await;
    });
    let zygote_watch = stop.clone();
    spawn(&mut parts, "zygote", async move {
        if let Some(Err(error)) =
            zygote_watch.run_until_cancelled(zygote_ended.zygote_ended()).await
        {
            tracing::error!(%error, "the zygote cannot be watched");
        }
    });
    let farewell = agent.farewell();
    spawn(&mut parts, "node agent", agent.ended());

    let manifests = Manifests {
        client: api.client(
            Identity::authenticated("joey:manifests", ["system:masters".to_owned()]),
            "default",
        ),
        directory: settings.manifests_dir(),
        data_dir: data_dir.clone(),
        run_dir: instance.run_dir.clone(),
    };
    spawn(&mut parts, "keeper of manifests", manifests.run(stop.clone()));
    let network_client = api.client(Identity::component("system:node-controller"), "default");
    let recorder = Recorder::start(network_client, "joey-network", node_name.clone(), stop.clone());
    let log = crate::net::policy::log::run(
        told_network.clone(),
        recorder.clone(),
        registry.clone(),
        instance.run_dir.clone(),
        stop.clone(),
    );
    spawn(&mut parts, "log of policies", log);
    let obstacles = probe::tell(
        problems,
        recorder.clone(),
        node_name.clone(),
        instance.run_dir.clone(),
        stop.clone(),
    );
    spawn(&mut parts, "teller of obstacles", obstacles);
    let told =
        foreign::tell(told_network, recorder, registry.clone(), node_name.clone(), stop.clone());
    spawn(&mut parts, "teller of foreign changes", told);
    // These two end no daemon: without them pods run and the API answers.
    start_ingress(
        settings,
        &registry,
        figures,
        &api,
        &node_name,
        ingress_network,
        &mut parts,
        &stop,
    )
    .await?;
    start_metrics(settings, registry, &api, Arc::clone(&pki.server_tls), &mut parts, &stop).await;

    let tls = serve::Tls { config: pki.server_tls, names: Arc::new(pki.server_names) };
    for (address, listener) in listeners {
        let (api, tls, stop) = (api.clone(), tls.clone(), stop.clone());
        tracing::info!(%address, "serving the Kubernetes API");
        spawn(&mut parts, "API listener", async move { api.serve(listener, tls, stop).await });
    }

    tracing::info!(node = %node_name, instance = %instance.id, kubeconfig = %pki.kubeconfig.display(), "ready");
    if let Some(notifier) = &notifier {
        notifier.tell("READY=1");
    }
    let mut watchdog =
        notifier.as_ref().and_then(|notifier| notifier.watchdog).map(tokio::time::interval);

    let mut announcement = pin!(shutdown::announced());
    let mut is_announced = false;
    let failed = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            lock = &mut announcement, if !is_announced => {
                is_announced = true;
                shutdown::stop_pods(farewell.clone(), notifier.as_ref()).await;
                // The shutdown goes on, and SIGTERM comes with it.
                drop(lock);
            }
            ended = parts.join_next() => break Some(match ended {
                Some(Ok(name)) => format!("the {name} has ended"),
                Some(Err(error)) => format!("a part has failed: {error}"),
                None => "nothing is left to run".to_owned(),
            }),
            () = tick(&mut watchdog) => if let Some(notifier) = &notifier {
                // A store that cannot write must be opened anew, and that is a restart.
                if store.failed().is_none() {
                    notifier.tell("WATCHDOG=1");
                }
            },
        }
    };
    if let Some(notifier) = &notifier {
        notifier.tell("STOPPING=1");
    }
    if failed.is_none() && (is_announced || shutdown::is_under_way().await) {
        shutdown::stop_pods(farewell, notifier.as_ref()).await;
    }
    tracing::info!("stopping");
    stop.cancel();
    let goodbye =
        tokio::time::timeout(GOODBYE, async { while parts.join_next().await.is_some() {} });
    if goodbye.await.is_err() {
        tracing::warn!("some parts did not end in time");
        parts.abort_all();
    }
    store.close().await;
    match failed {
        None => Ok(ExitCode::SUCCESS),
        Some(what) => bail!("{what}"),
    }
}

/// The controllers that decide on shared caches, and the collector of what they leave.
fn start_controllers(
    parts: &mut JoinSet<&'static str>,
    client: &kube::Client,
    registry: &Registry,
    stop: &CancellationToken,
) {
    let caches = Caches::new();
    let follow = caches.clone().follow(client.clone(), stop.clone());
    spawn(parts, "controllers' caches", follow);
    let run = (client.clone(), caches, driver::Meters::new(registry), stop.clone());
    spawn(parts, "ReplicaSet controller", drive::<ReplicaSets>(run.clone()));
    spawn(parts, "Deployment controller", drive::<Deployments>(run.clone()));
    spawn(parts, "endpoints controller", drive::<Endpoints>(run));
    spawn(parts, "autoscaler", reconcile::autoscaler::run(client.clone(), stop.clone()));
    spawn(parts, "garbage collector", reconcile::garbage::run(client.clone(), stop.clone()));
}

type Run = (kube::Client, Arc<Caches>, driver::Meters, CancellationToken);

async fn drive<D: Decide>((client, caches, meters, stop): Run) {
    driver::run::<D>(client, caches, &meters, stop).await;
}

fn spawn(
    parts: &mut JoinSet<&'static str>,
    name: &'static str,
    work: impl Future<Output = ()> + Send + 'static,
) {
    parts.spawn(async move {
        work.await;
        name
    });
}

async fn tick(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// Listens on every address: with the socket that the daemon before this one has left with the service manager, so
/// that clients who came in between wait instead of being refused, or else with a new one.
async fn listen(
    addresses: &[SocketAddr],
    notifier: Option<&Notifier>,
) -> anyhow::Result<Vec<(SocketAddr, TcpListener)>> {
    let mut kept = BTreeMap::new();
    for inherited in notify::take_descriptors().context("taking the service manager's sockets")? {
        let listener = std::net::TcpListener::from(inherited.descriptor);
        // What is no TCP socket has no such address, and is none of ours.
        match listener.local_addr() {
            Ok(address) if addresses.contains(&address) => drop(kept.insert(address, listener)),
            _ => notifier.into_iter().for_each(|notifier| notifier.forget(&inherited.name)),
        }
    }
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = match kept.remove(address) {
            Some(listener) => {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener)?
            }
            None => {
                let listener = TcpListener::bind(address).await.with_context(|| {
                    format!("listening on {address} (--listen); `joey doctor` says who holds it")
                })?;
                if let Some(notifier) = notifier {
                    notifier.keep(&kept_name(*address), listener.as_fd());
                }
                listener
            }
        };
        listeners.push((listener.local_addr()?, listener));
    }
    Ok(listeners)
}

/// sd_pid_notify_with_fds(3) allows no colon in a name.
fn kept_name(address: SocketAddr) -> String {
    format!("api-{address}").replace([':', '[', ']'], "-")
}

async fn start_runtime(instance: &Instance, zygote: Zygote) -> anyhow::Result<Runtime> {
    let config = RuntimeConfig {
        data_dir: instance.data_dir.clone(),
        run_dir: instance.run_dir.clone(),
        cgroup: instance.cgroup(),
    };
    Ok(Runtime::start(config, zygote).await?)
}

#[expect(
    clippy::too_many_arguments,
    reason = "the one place where the node gets everything it stands on"
)]
async fn start_agent(
    settings: &Settings,
    instance: &Instance,
    api: &Api,
    node_name: &str,
    runtime: Runtime,
    images: Images,
    network: Network,
    cluster_dns: Option<IpAddr>,
    reserved_ports: Vec<SocketAddr>,
    stop: CancellationToken,
) -> anyhow::Result<Agent> {
    let client = api.client(Identity::component(&format!("system:node:{node_name}")), "default");
    let config = NodeConfig {
        node_name: node_name.to_owned(),
        data_dir: instance.data_dir.clone(),
        run_dir: instance.run_dir.clone(),
        cluster_domain: settings.cluster_domain().to_owned(),
        cluster_dns,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kubelet_version: crate::api::KUBERNETES_VERSION.to_owned(),
        max_pods: MAX_PODS,
        ready_when_listening: settings.ready_when_listening(),
        kubelet_port: 0,
        reserved_ports,
    };
    Ok(Agent::start(client, runtime, images, network, config, stop).await?)
}

/// Where the host is administrated from elsewhere. To loopback nothing is translated, and pods reach the API through its
/// Service; the ingress gives way to Services and pods, which may be meant to take its place.
fn own_ports(
    listeners: &[(SocketAddr, TcpListener)],
    settings: &Settings,
    gateway: IpAddr,
) -> Vec<SocketAddr> {
    let listeners = listeners.iter().map(|(address, _)| *address);
    let own = listeners.chain(settings.metrics_listen());
    own.filter(|address| !address.ip().is_loopback() && address.ip() != gateway).collect()
}

/// Each pod costs a handful of descriptors. The usual 1,024 is the bound of select(2), which nothing here calls.
fn allow_many_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What is allowed already may be enough; if not, the step that fails says so.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// The proxy on the host's ports and the controller that feeds it.
#[expect(clippy::too_many_arguments, reason = "the one place where the proxy gets everything")]
async fn start_ingress(
    settings: &Settings,
    registry: &Registry,
    figures: Figures,
    api: &Api,
    node_name: &str,
    network: Network,
    parts: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let config = IngressConfig {
        http: settings.ingress_http(),
        https: settings.ingress_https(),
        trusted: settings.ingress_trusted(),
        access_log: settings.ingress_access_log(),
        bounds: ingress::Bounds {
            requests_per_client: settings.ingress_requests_per_client(),
            requests_per_pod: settings.ingress_requests_per_pod(),
            ..ingress::Bounds::default()
        },
        // The guard has asked the policies for the client itself; of the proxy they know no address.
        mark: Some(PROXY_MARK),
        ..IngressConfig::default()
    };
    let proxy = Ingress::new(&config, registry)?;
    network.register(Arc::new(proxy.clone()));
    proxy.ask_before_connecting(Box::new(ingress::Guard::new(network.clone())));
    let (doors, taken) = proxy.open(&config);
    let addresses = doors.addresses();
    tracing::info!(?addresses, "serving Ingresses");
    // A door is open at every address of the host; where the proxy is at one only, another program may be behind it.
    let everywhere = addresses.iter().filter(|address| address.ip().is_unspecified());
    let ports = everywhere.map(|address| (Protocol::Tcp, address.port())).collect();
    network.open_doors(ports).await?;
    let client = api.client(Identity::component("system:ingress-controller"), "default");
    let recorder =
        Recorder::start(client.clone(), "joey-ingress", node_name.to_owned(), stop.clone());
    let controller = ingress::sync::Controller {
        client,
        recorder,
        address: addresses.first().map(|address| match address.ip() {
            any if any.is_unspecified() => network.node_address(),
            one => one,
        }),
        taken,
    };
    spawn(parts, "ingress controller", ingress::sync::run(proxy.clone(), controller, stop.clone()));
    spawn(parts, "ingress figures", proxy.clone().tell(figures, stop.clone()));
    let stop = stop.clone();
    spawn(parts, "ingress", async move {
        // Before, the proxy would refuse what policies allow; whoever comes now waits at the open door.
        let known = network.policies_known(POLICIES_WITHIN);
        if stop.run_until_cancelled(known).await.is_some() {
            proxy.serve(doors, stop).await;
        }
    });
    Ok(())
}

/// The listener for scrapers.
async fn start_metrics(
    settings: &Settings,
    registry: Registry,
    api: &Api,
    tls: Arc<rustls::ServerConfig>,
    parts: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
) {
    let Some(address) = settings.metrics_listen() else { return };
    let listener = match metrics::serve::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            return tracing::warn!(
                %error,
                "no metrics: {address} cannot be listened on; choose another with --metrics-listen, or off"
            );
        }
    };
    let api = api.clone();
    let guard: metrics::serve::Guard = Arc::new(move |headers| api.may_get("/metrics", headers));
    let lock = metrics::serve::Lock { tls, guard };
    spawn(parts, "metrics listener", metrics::serve::serve(registry, listener, lock, stop.clone()));
}

/// The way from the API to the node's HTTP surface: in one process, a pair of memory buffers.
#[derive(Clone, Default)]
struct Kubelet {
    router: Arc<std::sync::OnceLock<Router>>,
}

impl Kubelet {
    fn connect(&self, router: Router) {
        assert!(self.router.set(router).is_ok(), "the node is connected once");
    }
}

impl Dial for Kubelet {
    fn dial(&self, _node: &str) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let Some(router) = self.router.get() else {
                return Err(io::Error::new(
                    io::ErrorKind::NotConnected,
                    "the node is still starting",
                ));
            };
            let (near, far) = tokio::io::duplex(PIPE);
            let service = TowerToHyperService::new(router.clone());
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(far), service)
                .with_upgrades();
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection to the node has ended");
                }
            });
            Ok(Box::new(near) as Box<dyn Stream>)
        })
    }
}
