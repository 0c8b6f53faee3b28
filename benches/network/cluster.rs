//! What the daemon is to the network: the API over a store in memory, the tasks that follow it, names, and pods without containers.

use std::fmt::Debug;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use joey::api::identity::Identity;
use joey::api::streams::{Dial, Stream};
use joey::api::{Api, ApiConfig, token};
use joey::net::dns::{self, zone::Ranges};
use joey::net::service::{
    self, Endpoint, Facts, Service, ServiceName, ServicePort, Slice, SlicePort,
};
use joey::net::sync::Services;
use joey::net::{Attached, Network, NetworkConfig, Part, PartPlan, Policies, Protocol, policy};
use joey::store::Store;
use joey::sys::netns;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::site::{PORT, SERVICE_PORT, SINK_PORT, Site, inside, service as address_of};

const NODE: &str = "bench";
const OTHERS: &str = "others";
const DNS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);
/// Whose egress is denied in [`Cluster::deny_client`].
const DENIAL: &str = "deny-client";

struct NoNode;

impl Dial for NoNode {
    fn dial(&self, _: &str) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async { Err(io::Error::other("there is no kubelet")) })
    }
}

pub struct Cluster {
    /// From a pod to a pod that no policy isolates.
    pub open: Site,
    client: Client,
    network: Network,
    stop: CancellationToken,
    /// Services and policies that there are.
    made: Mutex<(usize, usize)>,
    dns_thread: i32,
}

fn config(instance: &str, place: &Path) -> NetworkConfig {
    NetworkConfig {
        instance: instance.to_owned(),
        data_dir: place.join(instance).join("data"),
        run_dir: place.join(instance).join("run"),
        pod_cidr: "10.42.0.0/16".parse().expect("a range"),
        service_cidr: "10.43.0.0/16".parse().expect("a range"),
        policies: Policies::Enforced,
    }
}

impl Cluster {
    pub async fn start(place: &Path) -> Cluster {
        let network = Network::start(config("abc123", place)).await.expect("the network starts");
        let key = token::Key::generate_pkcs8().expect("a key can be made");
        let api_config = ApiConfig {
            cluster_domain: "cluster.local".to_owned(),
            token_key: token::Key::from_pkcs8(&key).expect("it is a key"),
            ca_pem: "-----BEGIN CERTIFICATE-----\n".to_owned(),
            service_cidr: "10.43.0.0/16".parse().expect("a range"),
            figures: Default::default(),
            translates_sctp: network.translates_sctp(),
        };
        let api = Api::new(Store::in_memory(), api_config, Arc::new(NoNode)).await;
        let api = api.expect("the API starts");
        let client = |name| api.client(Identity::component(name), "default");
        let range = |text: &str| text.parse().expect("a range");
        let ranges = Ranges { pods: range("10.42.0.0/16"), services: range("10.43.0.0/16") };
        let services = Services::new(&network, "cluster.local", ranges);
        let stop = CancellationToken::new();
        let follow = services.clone();
        let follow =
            follow.run(network.clone(), client("system:kube-proxy"), NODE.into(), stop.clone());
        tokio::spawn(follow);
        let (gateway, until) = (network.gateway(), stop.clone());
        let (tell, told) = mpsc::channel();
        // Names have a thread of their own here, whose time can be read.
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime starts");
            runtime.block_on(async {
                let server = dns::bind(gateway, ranges.pods).await.expect("nobody listens there");
                tell.send((server.address(), nix::unistd::gettid().as_raw())).expect("awaited");
                dns::run(server, services, until).await;
            });
        });
        let (dns_address, dns_thread) = told.recv().expect("the thread begins");
        let policies = client("system:kube-controller-manager");
        let enforce = policy::run(policies, network.clone(), Some(dns_address), stop.clone());
        tokio::spawn(enforce);

        let client = client("system:bench");
        let (from, to) = (
            pod(&client, &network, "client", "client").await,
            pod(&client, &network, "server", "server").await,
        );
        let open = Site::between(namespace(&from), &namespace(&to), to.address);
        let made = Mutex::default();
        let cluster = Cluster { open, client, network, stop, made, dns_thread };
        let others = json!({"metadata": {"name": OTHERS}});
        let others: core::Namespace = serde_json::from_value(others).expect("it is a Namespace");
        let namespaces: kube::Api<core::Namespace> = kube::Api::all(cluster.client.clone());
        namespaces.create(&PostParams::default(), &others).await.expect("the API takes it");
        cluster.serve_dns(dns_address).await;
        cluster
    }

    pub async fn end(self) {
        self.stop.cancel();
    }

    async fn create<K: Kept>(&self, namespace: &str, object: Value) {
        create::<K>(&self.client, namespace, object).await;
    }

    async fn serve_dns(&self, at: SocketAddr) {
        let ports = |port: u16, key: &str| {
            ["UDP", "TCP"].map(
                |protocol| json!({"name": protocol.to_lowercase(), "protocol": protocol, key: port}),
            )
        };
        self.create::<core::Service>(
            dns::NAMESPACE,
            json!({
                "metadata": {"name": dns::NAME},
                "spec": {"clusterIP": DNS, "ports": ports(53, "port")},
            }),
        )
        .await;
        self.create::<EndpointSlice>(
            dns::NAMESPACE,
            json!({
                "metadata": {"name": dns::NAME, "labels": {"kubernetes.io/service-name": dns::NAME}},
                "addressType": "IPv4",
                "ports": ports(at.port(), "port"),
                "endpoints": [{"addresses": [at.ip()], "conditions": {"ready": true}}],
            }),
        )
        .await;
    }

    /// Where pods ask for names, and the thread that answers.
    pub fn dns(&self) -> (SocketAddr, i32) {
        ((DNS, 53).into(), self.dns_thread)
    }

    /// Makes Services until there are `count`, each with the server for an endpoint, and waits until all are in force.
    pub async fn fill_services(&self, count: usize) {
        let mut made = self.made.lock().await;
        for number in made.0..count {
            let mut ports = vec![("short", SERVICE_PORT, PORT)];
            if number + 1 == count {
                ports.push(("long", SERVICE_PORT + 1, SINK_PORT));
            }
            let name = format!("s{number}");
            let of = |ports: &[(&str, u16, u16)], is_service: bool| -> Vec<Value> {
                let port = |(name, port, to): &(&str, u16, u16)| match is_service {
                    true => json!({"name": name, "port": port}),
                    false => json!({"name": name, "port": to, "protocol": "TCP"}),
                };
                ports.iter().map(port).collect()
            };
            self.create::<core::Service>(
                "default",
                json!({
                    "metadata": {"name": name},
                    "spec": {"clusterIP": address_of(number).ip(), "ports": of(&ports, true)},
                }),
            )
            .await;
            self.create::<EndpointSlice>(
                "default",
                json!({
                    "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
                    "addressType": "IPv4",
                    "ports": of(&ports, false),
                    "endpoints": [self.endpoint(true)],
                }),
            )
            .await;
        }
        made.0 = made.0.max(count);
        drop(made);
        let last = self.open.until(address_of(count - 1), true);
        let settled = tokio::task::spawn_blocking(|| last.join()).await.expect("it runs");
        settled.expect("the last Service is in force");
    }

    fn endpoint(&self, is_ready: bool) -> Value {
        json!({"addresses": [self.open.server.ip()], "conditions": {"ready": is_ready}})
    }

    pub async fn first_is_ready(&self, is_ready: bool) {
        let api: kube::Api<EndpointSlice> = kube::Api::namespaced(self.client.clone(), "default");
        let patch = Patch::Merge(json!({"endpoints": [self.endpoint(is_ready)]}));
        api.patch("s0", &PatchParams::default(), &patch).await.expect("the API takes it");
    }

    /// How long it takes a network that holds nothing to hold `count` Services, each time.
    pub async fn whole_tables(&self, count: usize, rounds: usize) -> Vec<Duration> {
        let facts = facts(count, self.open.server);
        let (other, ()) = netns::make(|| Ok(())).expect("a namespace can be had");
        let work = move || {
            inside(other.as_fd(), || {
                thread::scope(|scope| {
                    let timed = scope.spawn(|| timed_puts(&facts, rounds));
                    timed.join().expect("it ends well")
                })
            })
        };
        tokio::task::spawn_blocking(work).await.expect("it runs")
    }

    pub async fn askers(&self, count: usize) -> Vec<OwnedFd> {
        let mut all = Vec::new();
        let made = self.network.attached().len();
        for number in 0..count {
            let name = format!("asker-{}", made + number);
            all.push(namespace(&pod(&self.client, &self.network, &name, "asker").await));
        }
        all
    }

    /// Makes policies until there are `count` that select none of our pods.
    pub async fn fill_policies(&self, count: usize) {
        let mut made = self.made.lock().await;
        for number in made.1..count {
            let labels = |side: &str| json!({"matchLabels": {"app": format!("{side}-{number}")}});
            self.create::<NetworkPolicy>(
                OTHERS,
                json!({
                    "metadata": {"name": format!("p{number}")},
                    "spec": {
                        "podSelector": labels("a"),
                        "ingress": [{"from": [{"podSelector": labels("b")}], "ports": [{"port": 80}]}],
                    },
                }),
            )
            .await;
        }
        made.1 = made.1.max(count);
        drop(made);
        // The newest is in force when it says so.
        let api: kube::Api<NetworkPolicy> = kube::Api::namespaced(self.client.clone(), OTHERS);
        let patience = Instant::now() + Duration::from_secs(120);
        loop {
            let newest = api.get(&format!("p{}", count - 1)).await.expect("it is there");
            if newest.annotations().contains_key("policy.joey.dev/generation-in-force") {
                return;
            }
            assert!(Instant::now() < patience, "policies are never in force");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn deny_client(&self) {
        self.create::<NetworkPolicy>(
            "default",
            json!({
                "metadata": {"name": DENIAL},
                "spec": {
                    "podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"],
                },
            }),
        )
        .await;
    }

    pub async fn allow_client(&self) {
        let api: kube::Api<NetworkPolicy> = kube::Api::namespaced(self.client.clone(), "default");
        api.delete(DENIAL, &DeleteParams::default()).await.expect("it was there");
    }

    /// A server that lets in so many blocks of addresses, the client's among them.
    pub async fn guard(&self, blocks: usize) -> Site {
        let block = |number: usize| {
            let address = Ipv4Addr::from(0x0b00_0000 + 2 * number as u32);
            json!({"ipBlock": {"cidr": format!("{address}/32")}})
        };
        let mut from: Vec<Value> = (1..blocks).map(block).collect();
        from.push(json!({"ipBlock": {"cidr": "10.42.0.0/16"}}));
        self.create::<NetworkPolicy>(
            "default",
            json!({
                "metadata": {"name": "guarded"},
                "spec": {
                    "podSelector": {"matchLabels": {"app": "guarded"}}, "ingress": [{"from": from}],
                },
            }),
        )
        .await;
        let to = pod(&self.client, &self.network, "guarded", "guarded").await;
        let client = self.open.client.try_clone().expect("a descriptor more");
        Site::between(client, &namespace(&to), to.address)
    }
}

/// What the benchmark makes.
trait Kept: Clone + Debug + serde::Serialize + serde::de::DeserializeOwned {
    fn api(client: Client, namespace: &str) -> kube::Api<Self>;
}

impl<K> Kept for K
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    fn api(client: Client, namespace: &str) -> kube::Api<K> {
        kube::Api::namespaced(client, namespace)
    }
}

async fn create<K: Kept>(client: &Client, namespace: &str, object: Value) -> K {
    let object = serde_json::from_value(object).expect("the object is one of its kind");
    let api = K::api(client.clone(), namespace);
    api.create(&PostParams::default(), &object).await.expect("the API takes it")
}

/// A pod to the API and the network; nothing runs in it.
async fn pod(client: &Client, network: &Network, name: &str, app: &str) -> Attached {
    let object = json!({
        "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"containers": [{"name": "none", "image": "none"}]},
    });
    let pod: core::Pod = create(client, "default", object).await;
    let uid = pod.uid().expect("the API gives each a uid");
    network.attach(&uid, &[]).await.expect("the pod is attached")
}

fn namespace(pod: &Attached) -> OwnedFd {
    netns::open(&pod.netns).expect("it is pinned")
}

fn timed_puts(facts: &Facts, rounds: usize) -> Vec<Duration> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    runtime.block_on(async {
        let place = Path::new("/tmp/joey-network");
        let network = Network::start(config("def456", place)).await.expect("the network starts");
        let mut spans = Vec::new();
        for _ in 0..rounds {
            let started = Instant::now();
            let plan = service::compile(facts, NODE, &Default::default());
            network.put(Part::Services, plan).await.expect("the kernel takes it");
            spans.push(started.elapsed());
            let nothing = PartPlan::default();
            network.put(Part::Services, nothing).await.expect("the kernel takes it");
        }
        drop(network);
        Network::reset(&config("def456", place)).await.expect("nothing is left");
        spans
    })
}

fn facts(count: usize, server: SocketAddr) -> Facts {
    let mut facts = Facts::default();
    for number in 0..count {
        let name = ServiceName { namespace: "default".into(), name: format!("s{number}") };
        let service = Service {
            addresses: vec![address_of(number).ip()],
            ports: vec![ServicePort {
                name: "short".into(),
                protocol: Protocol::Tcp,
                port: SERVICE_PORT,
                node_port: None,
            }],
            affinity: None,
            is_internal_local: false,
            is_external_local: false,
            is_on_host: false,
            external_name: None,
        };
        let slice = Slice {
            ports: vec![SlicePort {
                name: "short".into(),
                protocol: Protocol::Tcp,
                port: server.port(),
            }],
            endpoints: vec![Endpoint {
                address: server.ip(),
                is_ready: true,
                is_serving: true,
                is_terminating: false,
                hostname: None,
                node: None,
            }],
        };
        facts.services.insert(name.clone(), service);
        facts.slices.insert(name, [("one".to_owned(), slice)].into());
    }
    facts
}
