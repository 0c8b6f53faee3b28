//! Keeps policies in force: watches what they depend on, compiles, and waits for the owner of the table.
//!
//! While one plan goes into the kernel, changes gather, and all of them make the next one: there is no timer. Until every
//! kind has been listed once, what is in the kernel stays.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt, select_all, unfold};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Labels, NamedPort, Nature, Pod, Policy, World, compile};
use crate::net::owner::PolicyOrder;
use crate::net::{Network, Protocol};

/// On a NetworkPolicy: the newest `metadata.generation` that the rules in the kernel follow.
pub const IN_FORCE: &str = "policy.joey.dev/generation-in-force";
/// Changes that make one plan.
const TOGETHER: usize = 1024;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Works until cancelled. `dns` is where the cluster's DNS listens, if it does.
pub async fn run(
    client: kube::Client,
    network: Network,
    dns: Option<SocketAddr>,
    stop: CancellationToken,
) {
    let (told, tell) = mpsc::channel(1);
    let work = async {
        tokio::join!(follow(client.clone(), network, dns, told), announce(client, tell));
    };
    stop.run_until_cancelled(work).await;
}

enum Change {
    Policy(watcher::Event<networking::NetworkPolicy>),
    Namespace(watcher::Event<core::Namespace>),
    Pod(watcher::Event<core::Pod>),
    Leases(Arc<BTreeMap<String, IpAddr>>),
}

/// Generations of policies, by namespace and name.
type Generations = BTreeMap<(String, String), i64>;

/// What is watched of one kind, by uid.
struct Mirror<T> {
    known: BTreeMap<String, T>,
    /// What a new list has told so far.
    listing: BTreeMap<String, T>,
    is_listed: bool,
}

impl<T> Default for Mirror<T> {
    fn default() -> Mirror<T> {
        Mirror { known: BTreeMap::new(), listing: BTreeMap::new(), is_listed: false }
    }
}

impl<T> Mirror<T> {
    fn take<K: Resource>(&mut self, event: watcher::Event<K>, keep: impl Fn(&K) -> T) {
        let uid = |object: &K| object.uid().unwrap_or_default();
        match event {
            watcher::Event::Init => self.listing.clear(),
            watcher::Event::InitApply(object) => {
                self.listing.insert(uid(&object), keep(&object));
            }
            watcher::Event::InitDone => {
                self.known = std::mem::take(&mut self.listing);
                self.is_listed = true;
            }
            watcher::Event::Apply(object) => {
                self.known.insert(uid(&object), keep(&object));
            }
            watcher::Event::Delete(object) => {
                self.known.remove(&uid(&object));
            }
        }
    }
}

/// A policy, its generation, and the one that its annotation tells.
struct Known {
    policy: Policy,
    generation: i64,
    told: Option<i64>,
}

#[derive(Default)]
struct Seen {
    policies: Mirror<Known>,
    namespaces: Mirror<(String, Labels)>,
    /// `None` for those that have no address of their own, or need it no more.
    pods: Mirror<Option<Pod>>,
    leases: Arc<BTreeMap<String, IpAddr>>,
}

impl Seen {
    fn take(&mut self, change: Change) {
        match change {
            Change::Policy(event) => self.policies.take(event, |object| Known {
                policy: Policy::read(object),
                generation: object.metadata.generation.unwrap_or_default(),
                told: object.annotations().get(IN_FORCE).and_then(|told| told.parse().ok()),
            }),
            Change::Namespace(event) => {
                self.namespaces.take(event, |object| (object.name_any(), object.labels().clone()))
            }
            Change::Pod(event) => self.pods.take(event, Pod::read),
            Change::Leases(leases) => self.leases = leases,
        }
    }

    fn is_complete(&self) -> bool {
        self.policies.is_listed && self.namespaces.is_listed && self.pods.is_listed
    }

    fn world(&self, dns: Option<SocketAddr>) -> World {
        let mut namespaces: BTreeMap<_, _> = self.namespaces.known.values().cloned().collect();
        // Whether or not anybody has made it: policies speak of DNS as of a pod that lives there.
        namespaces.entry(DNS_NAMESPACE.to_owned()).or_insert_with(|| {
            Labels::from([("kubernetes.io/metadata.name".to_owned(), DNS_NAMESPACE.to_owned())])
        });
        let leased = self.leases.iter().filter_map(|(uid, address)| {
            let pod = self.pods.known.get(uid)?.as_ref()?;
            Some(Pod { addresses: vec![*address], ..pod.clone() })
        });
        World {
            policies: self.policies.known.values().map(|known| known.policy.clone()).collect(),
            pods: leased.chain(dns.map(self::dns)).collect(),
            namespaces,
        }
    }

    /// Those that their annotations do not tell yet.
    fn untold(&self) -> Generations {
        self.policies
            .known
            .values()
            .filter(|known| known.told != Some(known.generation))
            .map(|known| {
                let policy = &known.policy;
                ((policy.namespace.clone(), policy.name.clone()), known.generation)
            })
            .collect()
    }
}

const DNS_NAMESPACE: &str = "kube-system";

/// The daemon's DNS, as policies know it: by the labels that CoreDNS and its predecessor carry everywhere, and by port 53,
/// wherever it listens.
pub fn dns(at: SocketAddr) -> Pod {
    let port = |name: &str, protocol| NamedPort {
        listens_at: at.port(),
        ..NamedPort::new(name, protocol, 53)
    };
    Pod {
        namespace: DNS_NAMESPACE.to_owned(),
        name: "dns".to_owned(),
        labels: Labels::from([("k8s-app".to_owned(), "kube-dns".to_owned())]),
        addresses: vec![at.ip()],
        ports: [port("dns", Protocol::Udp), port("dns-tcp", Protocol::Tcp)].into(),
        nature: Nature::Daemon,
    }
}

async fn follow(
    client: kube::Client,
    network: Network,
    dns: Option<SocketAddr>,
    told: mpsc::Sender<Generations>,
) {
    let changes = select_all([
        changes(client.clone(), Change::Policy),
        changes(client.clone(), Change::Namespace),
        changes(client, Change::Pod),
        leases(network.leases()),
    ]);
    let mut changes = changes.ready_chunks(TOGETHER);
    let mut seen = Seen::default();
    let mut pause = None;
    loop {
        // A plan that failed is tried again even when nothing changes.
        let wait = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            together = changes.next() => match together {
                Some(together) => together.into_iter().for_each(|change| seen.take(change)),
                None => return,
            },
            () = wait => {}
        }
        if !seen.is_complete() {
            continue;
        }
        let world = Arc::new(seen.world(dns));
        let order = PolicyOrder { plan: compile(&world), world, leases: Arc::clone(&seen.leases) };
        match network.put_policies(order).await {
            Ok(()) => {
                pause = None;
                // A full queue means that the last ones are being told; their annotations come back as changes.
                let _ = told.try_send(seen.untold());
            }
            Err(error) => {
                let next = pause.map_or(FIRST_PAUSE, |pause: Duration| (pause * 2).min(LAST_PAUSE));
                tracing::warn!(%error, "network policies are not in force; trying again in {next:?}");
                pause = Some(next);
            }
        }
    }
}

fn leases(mut seen: watch::Receiver<Arc<BTreeMap<String, IpAddr>>>) -> BoxStream<'static, Change> {
    seen.mark_changed();
    unfold(seen, |mut seen| async {
        seen.changed().await.ok()?;
        let leases = Arc::clone(&seen.borrow_and_update());
        Some((Change::Leases(leases), seen))
    })
    .boxed()
}

fn changes<K>(
    client: kube::Client,
    wrap: fn(watcher::Event<K>) -> Change,
) -> BoxStream<'static, Change>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    watcher(Api::<K>::all(client), watcher::Config::default())
        .default_backoff()
        .filter_map(move |event| async move {
            match event {
                Ok(event) => Some(wrap(event)),
                Err(error) => {
                    tracing::debug!(%error, "watching for network policies");
                    None
                }
            }
        })
        .boxed()
}

/// Writes into policies' annotations what is in force.
async fn announce(client: kube::Client, mut told: mpsc::Receiver<Generations>) {
    while let Some(generations) = told.recv().await {
        for ((namespace, name), generation) in generations {
            let api: Api<networking::NetworkPolicy> = Api::namespaced(client.clone(), &namespace);
            let annotations = json!({IN_FORCE: generation.to_string()});
            let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
            if let Err(error) = api.patch(&name, &PatchParams::default(), &patch).await {
                tracing::debug!(namespace, name, %error, "could not tell that a policy is in force");
            }
        }
    }
}
