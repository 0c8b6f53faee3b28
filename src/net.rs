//! The cluster's network on this host: links, addresses, nftables.
//!
//! It compiles intent to plans and applies them; it never talks to the API.

mod address_pool;
mod attach;
mod conntrack;
mod dial;
pub mod dns;
mod drift;
mod expression;
pub mod foreign;
mod guard;
mod host;
mod host_port;
pub mod ingress;
mod journal;
pub mod limits;
mod link;
mod listeners;
mod names;
mod netlink;
mod nflog;
mod nfnetlink;
mod nft;
mod owner;
pub mod packet;
mod part;
pub mod policy;
pub mod probe;
mod program;
mod ruleset;
pub mod service;
mod skeleton;
pub mod sync;
mod sysctl;
pub mod trace;
mod withdraw;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

pub use self::dial::{dial, dial_as_probe, dial_as_proxy};
pub use self::drift::{Repaired, What};
pub use self::listeners::until_listening;
pub use self::names::{PROBE_MARK, PROXY_MARK};
use self::owner::{Command, Ended, InForce, Owner, PolicyOrder, Seen};
use self::part::PlanChange;
pub use self::part::{Flow, Part, PartPlan, SERVICES_NAT, SERVICES_NODE};
pub use self::program::{Declaration, Expression, Kind, Memory, Program, Register};
pub use self::ruleset::{Element, Elements, Field, Set, SetName, Verdict};
pub use self::withdraw::DataPlane;
use self::withdraw::Planes;
use crate::model::cidr::Cidr;

/// Attachments that may wait for the owner before callers wait to ask.
const QUEUE: usize = 64;
/// Rules that are to know a pod are some milliseconds away, and whoever waits longer asks again.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);

/// Where the network of this instance lives.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Six hex digits that tell this instance's links and tables from another's.
    pub instance: String,
    pub data_dir: PathBuf,
    pub run_dir: PathBuf,
    pub pod_cidr: Cidr,
    pub service_cidr: Cidr,
    pub policies: Policies,
}

/// By what routes, rules and settings of an instance can be told from others'.
#[derive(Debug, Clone)]
pub struct Footprint {
    /// The number that routes and rules of every instance carry (`proto` of ip-route(8)).
    pub protocol: u8,
    /// Of pods and Services, of now and of earlier starts.
    pub ranges: Vec<Cidr>,
    /// Links on which forwarding was turned on.
    pub forwarding: Vec<String>,
}

/// Whether somebody hands in NetworkPolicies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policies {
    /// A pod is cut off until rules know it, and attached when they do.
    Enforced,
    /// Every pod reaches every other.
    Open,
}

/// Links, addresses and rules of one instance. Clones share it.
#[derive(Clone)]
pub struct Network {
    shared: Arc<Shared>,
}

struct Shared {
    seen: Arc<Seen>,
    planes: Planes,
    looks: conntrack::Looks,
    policies: Policies,
    /// Both are taken when the last clone goes.
    commands: Option<mpsc::Sender<Command>>,
    owner: Option<thread::JoinHandle<()>>,
}

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// As nftables and /etc/protocols spell it.
    fn word(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// A port of the host that leads into a pod.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HostPort {
    pub protocol: Protocol,
    /// `None`: every address of the host.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
}

/// A pod's place in the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Pinned network namespace.
    pub netns: PathBuf,
    pub address: IpAddr,
    pub gateway: IpAddr,
}

/// Why the network could not be made or changed; names the failed step.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("{step}: {reason}")]
    Step { step: &'static str, reason: String },
    #[error("no free pod address in {0}")]
    AddressesExhausted(String),
    #[error("host port {0} is taken by pod {1}")]
    HostPortTaken(u16, String),
}

/// Turns any failure into one that names `step`.
fn step<E: Display>(step: &'static str) -> impl FnOnce(E) -> NetError {
    move |error| NetError::Step { step, reason: error.to_string() }
}

impl Network {
    /// Makes (or takes over from a previous daemon) the instance's table, bridges and addresses, in the network and
    /// mount namespaces of the calling thread. Packets of pods that run already keep flowing meanwhile.
    pub async fn start(config: NetworkConfig) -> Result<Network, NetError> {
        let (ready, started) = oneshot::channel();
        let policies = config.policies;
        let (commands, inbox) = mpsc::channel(QUEUE);
        let later = commands.downgrade();
        let owner = thread::Builder::new()
            .name("net".into())
            .spawn(move || match Owner::start(&config, later) {
                Ok(owner) => {
                    if ready.send(Ok(owner.seen())).is_ok() {
                        owner.serve(inbox);
                    }
                }
                Err(error) => drop(ready.send(Err(error))),
            })
            .map_err(step("start the network's thread"))?;
        let seen = started.await.map_err(step("start the network"))??;
        Ok(Network {
            shared: Arc::new(Shared {
                seen,
                planes: Planes::default(),
                looks: conntrack::Looks::default(),
                policies,
                commands: Some(commands),
                owner: Some(owner),
            }),
        })
    }

    /// Gives the pod (by its uid) a namespace, an address, a veth and its rules; everything is in force on return,
    /// NetworkPolicies too: until then nothing from or to it gets through.
    /// Idempotent: a pod already attached gets what it has; other ports than before replace those. A pod whose
    /// namespace died with the machine gets a new one, with the address it had.
    pub async fn attach(&self, pod: &str, ports: &[HostPort]) -> Result<Attached, NetError> {
        let (asked, ports) = (pod.to_owned(), ports.to_vec());
        let attached = self.ask(|answer| Command::Attach { pod: asked, ports, answer }).await?;
        let mut in_force = self.shared.seen.in_force.subscribe();
        let knows = |known: &Arc<InForce>| known.pods.get(pod) == Some(&attached.address);
        match self.shared.policies {
            Policies::Open => {}
            Policies::Enforced => {
                tokio::time::timeout(KNOWN_WITHIN, in_force.wait_for(knows))
                    .await
                    .map_err(|_elapsed| self.late())?
                    .map_err(step("hear from the network's thread"))?;
            }
        }
        Ok(attached)
    }

    /// Says why pods may be waiting for their rules; `None`: they need not.
    fn note_behind(&self, why: Option<String>) {
        *self.shared.seen.behind.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    fn late(&self) -> NetError {
        let behind = self.shared.seen.behind.lock().unwrap_or_else(PoisonError::into_inner);
        let late = || format!("not done in {} s", KNOWN_WITHIN.as_secs());
        NetError::Step {
            step: "put the pod's network policies in force",
            reason: behind.clone().unwrap_or_else(late),
        }
    }

    /// Who holds which address; every change wakes the receiver.
    fn leases(&self) -> watch::Receiver<Arc<BTreeMap<String, IpAddr>>> {
        self.shared.seen.leases.subscribe()
    }

    /// How often another program changed our rules and they were put back; every time wakes the receiver.
    pub fn restored(&self) -> watch::Receiver<u64> {
        self.shared.seen.restored.subscribe()
    }

    /// Why our rules cannot be put back, as long as they cannot; pods are cut off meanwhile.
    pub fn broken(&self) -> watch::Receiver<Option<String>> {
        self.shared.seen.broken.subscribe()
    }

    /// What the policies' rules log to (NFLOG).
    fn log_group(&self) -> u16 {
        self.shared.seen.log_group
    }

    /// The policies in force.
    fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.shared.seen.in_force.borrow())
    }

    /// The uid of the pod that holds `address`.
    fn holder_of(&self, address: IpAddr) -> Option<String> {
        let leases = self.shared.seen.leases.borrow();
        leases.iter().find(|(_, held)| **held == address).map(|(uid, _)| uid.clone())
    }

    /// The address under which pods know the host.
    pub fn gateway(&self) -> IpAddr {
        self.shared.seen.gateway
    }

    /// Puts policies in force for all that begins; on return they are. What has begun and is denied ends soon, as the
    /// answer tells.
    async fn put_policies(&self, order: PolicyOrder) -> Result<Ended, NetError> {
        self.ask(|answer| Command::PutPolicies { order, answer }).await
    }

    /// What the policies in force say of a flow: for those who connect on somebody's behalf.
    pub fn explain(&self, flow: policy::Flow) -> policy::Explanation {
        let in_force = Arc::clone(&self.shared.seen.in_force.borrow());
        policy::explain(&in_force.world, flow)
    }

    /// Waits until connection tracking knows no TCP connection to `address` that both sides may still use,
    /// `limit` at most. True when none is left.
    pub async fn drained(&self, address: IpAddr, limit: Duration) -> bool {
        self.shared.looks.drained(address, limit).await
    }

    /// How often policies in force allowed less than before; every time wakes the receiver.
    pub fn tightened(&self) -> watch::Receiver<u64> {
        self.shared.seen.tightened.subscribe()
    }

    /// What [`Network::permits_through`] answers from: the same question has the same answer until one of them changes.
    fn grounds(
        &self,
    ) -> (watch::Receiver<Arc<InForce>>, watch::Receiver<Arc<BTreeMap<String, IpAddr>>>) {
        (self.shared.seen.in_force.subscribe(), self.shared.seen.leases.subscribe())
    }

    /// Whether policies let `flow` be passed on, on behalf of its source, by `proxy` if policies know it as a pod. Never
    /// before they are known, and never to a pod that the rules do not know yet.
    pub fn permits_through(&self, proxy: Option<&policy::Pod>, flow: policy::Flow) -> bool {
        let in_force = self.in_force();
        match self.shared.policies {
            Policies::Open => true,
            Policies::Enforced => {
                let is_pod =
                    self.shared.seen.leases.borrow().values().any(|at| *at == flow.destination);
                let is_ruled = in_force.pods.values().any(|at| *at == flow.destination);
                in_force.is_known
                    && (is_ruled || !is_pod)
                    && policy::explain_through(&in_force.world, proxy, flow).is_allowed()
            }
        }
    }

    /// Waits until policies are known, `limit` at most.
    pub async fn policies_known(&self, limit: Duration) {
        let mut in_force = self.shared.seen.in_force.subscribe();
        match self.shared.policies {
            Policies::Open => {}
            Policies::Enforced => {
                let known = in_force.wait_for(|known| known.is_known);
                let _ = tokio::time::timeout(limit, known).await;
            }
        }
    }

    /// Lets pods reach `doors` at the host's own addresses, where policies allow it, instead of those before.
    ///
    /// # Errors
    /// The kernel refused it, and nothing has changed.
    pub async fn open_doors(&self, doors: BTreeSet<(Protocol, u16)>) -> Result<(), NetError> {
        self.ask(|answer| Command::OpenDoors { doors, answer }).await
    }

    /// Takes everything back; the address becomes free for others, after all others. Idempotent.
    pub async fn detach(&self, pod: &str) -> Result<(), NetError> {
        let address = self.address_of(pod);
        let pod = pod.to_owned();
        self.ask(|answer| Command::Detach { pod, answer }).await?;
        if let Some(address) = address {
            self.shared.planes.release(address);
        }
        Ok(())
    }

    /// Returns when nobody is led to the pod any more: no Service map, no DNS answer and no backend list of a registered
    /// [`DataPlane`] holds its address. Usually its endpoints say so by themselves; after half a second it is
    /// taken out whatever they say. It stays out until it is detached. Established connections go on.
    ///
    /// Never fails: a plane that does not answer within seconds is logged, since a pod must be able to end.
    pub async fn withdraw(&self, pod: &str) {
        if let Some(address) = self.address_of(pod) {
            self.shared.planes.withdraw(address).await;
        }
    }

    /// Leads nobody to a pod that has just ceased to be ready, until the API had its time to say so; dropped, it ends at
    /// once. A pod that is being withdrawn stays out.
    pub async fn pass_over(&self, pod: &str) {
        if let Some(address) = self.address_of(pod) {
            self.shared.planes.pass_over(address).await;
        }
    }

    /// From now on [`Network::withdraw`] asks `plane`, too.
    pub fn register(&self, plane: Arc<dyn DataPlane>) {
        self.shared.planes.register(plane);
    }

    fn address_of(&self, pod: &str) -> Option<IpAddr> {
        let pods = self.shared.seen.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.get(pod).map(|address| IpAddr::V4(*address))
    }

    /// Brings the rules of a part to `plan`; they are in force on return. See [`PartPlan`].
    pub async fn put(&self, part: Part, plan: PartPlan) -> Result<(), NetError> {
        self.ask(|answer| Command::Put { part, plan, answer }).await
    }

    /// Changes the plan of a part that was put in force last; an error when that is not known to have succeeded.
    async fn change(&self, part: Part, change: PlanChange) -> Result<(), NetError> {
        self.ask(|answer| Command::Change { part, change, answer }).await
    }

    /// Pods that hold an address, in order.
    pub fn attached(&self) -> Vec<String> {
        let pods = self.shared.seen.pods.lock();
        let pods = pods.unwrap_or_else(PoisonError::into_inner);
        pods.keys().cloned().collect()
    }

    /// What is found changed by hand and put back, from now on.
    pub fn repairs(&self) -> broadcast::Receiver<Repaired> {
        self.shared.seen.repairs.subscribe()
    }

    /// Whether this kernel follows SCTP connections, without which a Service can lead none.
    pub fn translates_sctp(&self) -> bool {
        sysctl::read("netfilter/nf_conntrack_sctp_timeout_established").is_ok()
    }

    /// The host's own address towards the default route (the Node's InternalIP), or the gateway's.
    pub fn node_address(&self) -> IpAddr {
        self.shared.seen.node_address
    }

    /// What of the host stands in the way of pod traffic, each as one sentence with its cure.
    pub fn problems(&self) -> Vec<String> {
        self.shared.seen.problems.borrow().clone()
    }

    /// The same, whenever it is another.
    pub fn watch_problems(&self) -> watch::Receiver<Vec<String>> {
        self.shared.seen.problems.subscribe()
    }

    /// Removes every trace of the instance: namespaces, links, routes, rules, records; forwarding is put back.
    /// No [`Network`] of it may be alive.
    pub async fn reset(config: &NetworkConfig) -> Result<(), NetError> {
        let config = config.clone();
        tokio::task::spawn_blocking(move || owner::reset(&config))
            .await
            .map_err(step("reset the network"))?
    }

    /// To be asked before a [`Network::reset`], which removes the records that answer it.
    pub fn footprint(config: &NetworkConfig) -> std::io::Result<Footprint> {
        owner::footprint(config)
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, NetError>>) -> Command,
    ) -> Result<T, NetError> {
        let (answer, answered) = oneshot::channel();
        let commands = self.shared.commands.as_ref();
        commands
            .expect("taken only when the last clone is dropped")
            .send(command(answer))
            .await
            .map_err(step("reach the network's thread"))?;
        answered.await.map_err(step("hear from the network's thread"))?
    }
}

impl Drop for Shared {
    /// Waits for what is under way, so that whoever starts the instance again meets nobody.
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(owner) = self.owner.take()
            && owner.join().is_err()
        {
            tracing::error!("the network's thread panicked");
        }
    }
}

#[cfg(test)]
mod tests;
