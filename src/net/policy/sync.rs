//! Keeps policies in force: watches what they depend on, compiles, and waits for the owner of the table.
//!
//! While one plan goes into the kernel, changes gather, and all of them make the next one: there is no timer. Until every
//! kind has been listed once, what is in the kernel stays.
//!
//! Three watches are three clocks. A pod may be seen before a policy that was written before it, so a pod counts as it was at
//! a revision up to which policies and namespaces are known ([`Seen::admit`]): a new one is cut off until then, and its first
//! container waits. `follow` is asked to get there, which takes a request and no change.

mod follow;

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::follow::{Told, follow};
use super::{Labels, NamedPort, Nature, Pod, Policy, World, by_namespace, compile};
use crate::net::owner::{Ended, PolicyOrder};
use crate::net::{NetError, Network, Protocol};

/// On a NetworkPolicy: the newest `metadata.generation` that the rules in the kernel follow, and of which no flow is left
/// that they deny.
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
    let (told, tell) = watch::channel(None);
    let work = async {
        tokio::join!(keep(client.clone(), network, dns, told), announce(client, tell));
    };
    stop.run_until_cancelled(work).await;
}

/// Generations of policies, by namespace and name.
type Generations = BTreeMap<(String, String), i64>;

/// What rules follow that policies do not tell yet.
#[derive(Clone)]
struct Untold {
    generations: Generations,
    ended: Ended,
}

/// What is known of one kind, by uid.
struct Mirror<T> {
    known: BTreeMap<String, T>,
    /// Everything up to this revision; nothing before the first list.
    up_to: Option<u64>,
}

impl<T> Default for Mirror<T> {
    fn default() -> Mirror<T> {
        Mirror { known: BTreeMap::new(), up_to: None }
    }
}

impl<T> Mirror<T> {
    fn take<K: Resource>(&mut self, told: Told<K>, keep: impl Fn(&K, u64) -> T) {
        let uid = |object: &K| object.uid().unwrap_or_default();
        let at = match told {
            Told::All(objects, at) => {
                let own = |object: &K| object.resource_version()?.parse().ok();
                let kept = |object: &K| (uid(object), keep(object, own(object).unwrap_or(at)));
                self.known = objects.iter().map(kept).collect();
                at
            }
            // Of a commit with several changes others may be yet to come.
            Told::Changed(object, at) => {
                self.known.insert(uid(&object), keep(&object, at));
                at.saturating_sub(1)
            }
            Told::Gone(object, at) => {
                self.known.remove(&uid(&object));
                at.saturating_sub(1)
            }
            Told::UpTo(at) => at,
        };
        self.up_to = self.up_to.max(Some(at));
    }
}

/// A policy, its generation, and the one that its annotation tells.
struct Known {
    policy: Arc<Policy>,
    generation: i64,
    told: Option<i64>,
}

#[derive(Default)]
struct Seen {
    policies: Mirror<Known>,
    namespaces: Mirror<(String, Labels)>,
    /// `None` for those that have no address of their own, or need it no more; and since when.
    pods: Mirror<(Option<Pod>, u64)>,
    leases: Arc<BTreeMap<String, IpAddr>>,
    /// Pods that hold an address, as they were when policies were known at least as well.
    admitted: BTreeMap<String, Option<Pod>>,
}

/// A pod that policies are not known for.
#[derive(Debug, PartialEq, Eq)]
struct Behind {
    /// The pod's.
    revision: u64,
    known: u64,
}

impl Seen {
    fn take(&mut self, change: Change) {
        match change {
            Change::Policy(told) => self.policies.take(told, |object, _| Known {
                policy: Policy::read(object).into(),
                generation: object.metadata.generation.unwrap_or_default(),
                told: object.annotations().get(IN_FORCE).and_then(|told| told.parse().ok()),
            }),
            Change::Namespace(told) => {
                self.namespaces.take(told, |object, _| (object.name_any(), object.labels().clone()))
            }
            Change::Pod(told) => self.pods.take(told, |object, at| (Pod::read(object), at)),
        }
    }

    fn is_complete(&self) -> bool {
        let known = [self.policies.up_to, self.namespaces.up_to, self.pods.up_to];
        known.iter().all(Option::is_some)
    }

    /// Takes pods as they are now, but for those of a revision that policies or namespaces are not known up to. The newest
    /// of these is told.
    fn admit(&mut self) -> Option<Behind> {
        let known = self.policies.up_to.min(self.namespaces.up_to).unwrap_or_default();
        let (leases, pods) = (&self.leases, &self.pods.known);
        self.admitted.retain(|uid, _| leases.contains_key(uid) && pods.contains_key(uid));
        let mut newest = None;
        for uid in leases.keys() {
            let Some((pod, revision)) = pods.get(uid) else {
                continue;
            };
            if self.admitted.get(uid) == Some(pod) {
                continue;
            }
            match *revision <= known {
                true => drop(self.admitted.insert(uid.clone(), pod.clone())),
                false => newest = newest.max(Some(*revision)),
            }
        }
        newest.map(|revision| Behind { revision, known })
    }

    fn world(&self, dns: Option<SocketAddr>) -> World {
        let mut namespaces: BTreeMap<_, _> = self.namespaces.known.values().cloned().collect();
        // Whether or not anybody has made it: policies speak of DNS as of a pod that lives there.
        namespaces.entry(DNS_NAMESPACE.to_owned()).or_insert_with(|| {
            Labels::from([("kubernetes.io/metadata.name".to_owned(), DNS_NAMESPACE.to_owned())])
        });
        let leased = self.leases.iter().filter_map(|(uid, address)| {
            let pod = self.admitted.get(uid)?.as_ref()?;
            Some(Pod { addresses: vec![*address], ..pod.clone() })
        });
        World {
            policies: by_namespace(self.policies.known.values().map(|known| known.policy.clone())),
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

enum Change {
    Policy(Told<networking::NetworkPolicy>),
    Namespace(Told<core::Namespace>),
    Pod(Told<core::Pod>),
}

async fn keep(
    client: kube::Client,
    network: Network,
    dns: Option<SocketAddr>,
    told: watch::Sender<Option<Untold>>,
) {
    let asked = watch::Sender::new(0);
    // Nobody waits for pods: of them what is told is enough.
    let never = watch::Sender::new(0);
    let (tell_policy, mut policies) = mpsc::channel(TOGETHER);
    let (tell_namespace, mut namespaces) = mpsc::channel(TOGETHER);
    let (tell_pod, mut pods) = mpsc::channel(TOGETHER);
    let enforce = async {
        let mut leases = network.leases();
        leases.mark_changed();
        let mut seen = Seen::default();
        let mut inside = Inside::default();
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
                Some(told) = policies.recv() => seen.take(Change::Policy(told)),
                Some(told) = namespaces.recv() => seen.take(Change::Namespace(told)),
                Some(told) = pods.recv() => seen.take(Change::Pod(told)),
                Ok(()) = leases.changed() => {}
                () = wait => {}
                else => return,
            }
            // What has arrived meanwhile is one change.
            for _ in 1..TOGETHER {
                let change = policies.try_recv().map(Change::Policy);
                let change = change.or_else(|_| namespaces.try_recv().map(Change::Namespace));
                match change.or_else(|_| pods.try_recv().map(Change::Pod)) {
                    Ok(change) => seen.take(change),
                    Err(_) => break,
                }
            }
            seen.leases = Arc::clone(&leases.borrow_and_update());
            if !seen.is_complete() {
                continue;
            }
            let behind = seen.admit();
            if let Some(behind) = &behind {
                asked.send_if_modified(|asked| {
                    let before = *asked;
                    *asked = before.max(behind.revision);
                    *asked != before
                });
            }
            let is_behind = behind.is_some();
            network.note_behind(behind.map(|behind| behind.to_string()));
            // An earlier daemon's rules know the pods that run; ours have to know them, too, before they replace those.
            if is_behind && !inside.has_begun {
                continue;
            }
            match inside.put(&network, &seen, dns).await {
                Ok(ended) => {
                    pause = None;
                    told.send_replace(Some(Untold { generations: seen.untold(), ended }));
                }
                Err(error) => {
                    let next =
                        pause.map_or(FIRST_PAUSE, |pause: Duration| (pause * 2).min(LAST_PAUSE));
                    tracing::warn!(%error, "network policies are not in force; trying again in {next:?}");
                    pause = Some(next);
                }
            }
        }
    };
    tokio::join!(
        enforce,
        follow(Api::all(client.clone()), asked.subscribe(), tell_policy),
        follow(Api::all(client.clone()), asked.subscribe(), tell_namespace),
        follow(Api::all(client), never.subscribe(), tell_pod),
    );
}

/// What was last put in force.
#[derive(Default)]
struct Inside {
    has_begun: bool,
    /// Nothing after a failure.
    last: Option<(Arc<World>, Arc<BTreeMap<String, IpAddr>>, Ended)>,
}

impl Inside {
    async fn put(
        &mut self,
        network: &Network,
        seen: &Seen,
        dns: Option<SocketAddr>,
    ) -> Result<Ended, NetError> {
        let world = seen.world(dns);
        // Most of what is told of pods changes nothing here. Leases that are equal may be others, of a pod that left and
        // came back: only the same ones count.
        if let Some((last, leases, ended)) = &self.last
            && Arc::ptr_eq(leases, &seen.leases)
            && **last == world
        {
            return Ok(ended.clone());
        }
        let (world, leases) = (Arc::new(world), Arc::clone(&seen.leases));
        self.last = None;
        let order = PolicyOrder {
            plan: compile(&world).into(),
            world: Arc::clone(&world),
            leases: Arc::clone(&leases),
        };
        let ended = network.put_policies(order).await?;
        self.has_begun = true;
        self.last = Some((world, leases, ended.clone()));
        Ok(ended)
    }
}

impl Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Behind { revision, known } = self;
        write!(
            f,
            "NetworkPolicies and Namespaces are known up to revision {known} only, and a new pod is of revision {revision}"
        )
    }
}

/// Writes into policies' annotations what is in force, also for flows that had begun before.
async fn announce(client: kube::Client, mut told: watch::Receiver<Option<Untold>>) {
    // What was told a moment ago comes back late, and is among the untold until then.
    let mut done = Generations::new();
    while told.changed().await.is_ok() {
        let Some(Untold { generations, mut ended }) = told.borrow_and_update().clone() else {
            continue;
        };
        if !ended.wait().await {
            return;
        }
        done.retain(|policy, _| generations.contains_key(policy));
        for (policy, generation) in generations {
            if done.get(&policy) == Some(&generation) {
                continue;
            }
            let (namespace, name) = policy.clone();
            let api: Api<networking::NetworkPolicy> = Api::namespaced(client.clone(), &namespace);
            let annotations = json!({IN_FORCE: generation.to_string()});
            let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
            match api.patch(&name, &PatchParams::default(), &patch).await {
                Ok(_) => drop(done.insert(policy, generation)),
                Err(error) => {
                    tracing::debug!(namespace, name, %error, "could not tell that a policy is in force");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
