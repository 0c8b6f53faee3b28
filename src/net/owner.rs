//! The one thread that changes the instance's network: it holds the sockets, the pool and the journal.
//!
//! Callers send it messages, so a caller that gives up halves nothing. It decides which steps follow which; what they
//! are is written in `attach`, `ruleset` and `nfnetlink`.

mod policies;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc as blocking};
use std::thread;
use std::time::Instant;

use nix::errno::Errno;
use tokio::sync::{mpsc, oneshot, watch};

use self::policies::REST;
pub use self::policies::{InForce, PolicyOrder};
use super::address_pool::AddressPool;
use super::attach::{Fabric, Prepared, prepare_ahead};
use super::host_port::{self, Lease, Refused};
use super::journal::Journal;
use super::link::Link;
use super::names::Names;
use super::netlink::Socket;
use super::part::{self, Before, Part, PartPlan, Transition};
use super::probe::{self, Culprit};
use super::ruleset::{self, Element, ElementChanges, Elements, Present, RulesetPlan};
use super::skeleton::{self, Surroundings};
use super::{
    Attached, HostPort, NetError, NetworkConfig, Policies, conntrack, host, link, nfnetlink, nft,
    step,
};
use crate::model::cidr::Cidr;
use crate::sys::netns;

pub enum Command {
    Attach {
        pod: String,
        ports: Vec<HostPort>,
        answer: oneshot::Sender<Result<Attached, NetError>>,
    },
    Detach {
        pod: String,
        answer: oneshot::Sender<Result<(), NetError>>,
    },
    Put {
        part: Part,
        plan: PartPlan,
        answer: oneshot::Sender<Result<(), NetError>>,
    },
    PutPolicies {
        order: PolicyOrder,
        answer: oneshot::Sender<Result<(), NetError>>,
    },
}

/// What others may look at without asking.
#[derive(Debug)]
pub struct Seen {
    /// Short sections only.
    pub pods: Mutex<BTreeMap<String, Ipv4Addr>>,
    pub node_address: IpAddr,
    pub gateway: IpAddr,
    /// Addresses by pod, from before the first packet until after the last.
    pub leases: watch::Sender<Arc<BTreeMap<String, IpAddr>>>,
    pub in_force: watch::Sender<Arc<InForce>>,
    /// Set before anybody sees this.
    pub problems: OnceLock<Vec<String>>,
}

/// Where things lie on disk.
pub struct Paths {
    pub directory: PathBuf,
    pub journal: PathBuf,
    pub forwarding: PathBuf,
    pub pins: PathBuf,
}

impl Paths {
    pub fn of(config: &NetworkConfig) -> Paths {
        let directory = config.data_dir.join("network");
        Paths {
            journal: directory.join("pods.journal"),
            forwarding: directory.join("forwarding.json"),
            pins: config.run_dir.join("netns"),
            directory,
        }
    }
}

pub struct Owner {
    table: String,
    pool: AddressPool,
    leases: BTreeMap<String, Lease>,
    /// Of each part, what is in force.
    parts: BTreeMap<Part, Before>,
    /// What the kernel held when we started: the last plans of the daemon before.
    found: Present,
    policies: Policies,
    born: Instant,
    services: Cidr,
    journal: Journal,
    fabric: Fabric,
    elements: Socket,
    ahead: blocking::Receiver<io::Result<Prepared>>,
    seen: Arc<Seen>,
}

/// The instance's names, or the refusal of a malformed one.
pub fn names(config: &NetworkConfig) -> Result<Names, NetError> {
    Names::new(&config.instance).ok_or_else(|| NetError::Step {
        step: "name the instance",
        reason: format!("{:?} is not six lower-case hex digits", config.instance),
    })
}

impl Owner {
    /// Makes or takes over everything; see [`super::Network::start`].
    pub fn start(config: &NetworkConfig) -> Result<Owner, NetError> {
        let names = names(config)?;
        let mut pool = AddressPool::new(config.pod_cidr).ok_or_else(|| NetError::Step {
            step: "use the pod range",
            reason: format!("{} is not an IPv4 range with room for pods", config.pod_cidr),
        })?;
        let paths = Paths::of(config);
        for directory in [&paths.directory, &paths.pins] {
            fs::create_dir_all(directory).map_err(step("make a directory"))?;
        }
        let (journal, recorded) =
            Journal::open(&paths.journal).map_err(step("read the journal of addresses"))?;
        let mut leases = BTreeMap::new();
        for (pod, lease) in recorded.leases {
            if pool.restore(&pod, lease.address) {
                leases.insert(pod, lease);
            } else {
                tracing::warn!(pod, address = %lease.address, "address is outside the pod range now: given up");
            }
        }
        if let Some(last) = recorded.last {
            pool.continue_after(last);
        }

        let mut socket = link::open().map_err(step("open rtnetlink"))?;
        let links = link::links(&mut socket).map_err(step("list links"))?;
        let addresses = link::addresses(&mut socket).map_err(step("list addresses"))?;
        let routes = link::routes(&mut socket).map_err(step("list routes"))?;
        if let Some(reason) = host::occupied(&names, config.pod_cidr, &links, &addresses, &routes) {
            return Err(NetError::Step {
                step: "use the pod range",
                reason: format!(
                    "{} holds {reason}; choose another with --pod-cidr",
                    config.pod_cidr
                ),
            });
        }
        let survey = host::survey(&names, &links, &addresses, &routes);
        let guarded_links =
            host::forward(&paths.forwarding, &survey).map_err(step("turn forwarding on"))?;

        // The rules come before the links: no packet of a pod meets an unguarded host.
        let alive: BTreeMap<&String, &Lease> =
            leases.iter().filter(|(pod, _)| netns::is_pinned(&paths.pins.join(pod))).collect();
        let gateway = pool.gateway();
        let surroundings = Surroundings {
            pod_cidr: config.pod_cidr,
            service_cidr: config.service_cidr,
            gateway: IpAddr::V4(gateway),
            guarded_links,
        };
        let mut elements = Elements::new();
        for lease in alive.values() {
            let offset = pool.offset(lease.address).unwrap_or_default();
            for (set, members) in host_port::elements(&names, offset, lease) {
                elements.entry(set).or_default().extend(members);
            }
        }
        let alive: Vec<String> = alive.into_keys().cloned().collect();
        let found = put_in_force(&skeleton::compile(&names, &surroundings, elements))?;

        let fabric = Fabric { names, gateway, mtu: survey.mtu, pins: paths.pins, socket };
        let mut owner = Owner {
            table: fabric.names.table(),
            pool,
            leases,
            parts: BTreeMap::new(),
            found,
            policies: config.policies,
            born: Instant::now(),
            services: config.service_cidr,
            journal,
            fabric,
            elements: nfnetlink::open().map_err(step("open nfnetlink"))?,
            ahead: prepare_ahead().map_err(step("start preparing namespaces"))?,
            seen: Arc::new(Seen {
                pods: Mutex::default(),
                problems: OnceLock::new(),
                node_address: IpAddr::V4(survey.address.unwrap_or(gateway)),
                gateway: IpAddr::V4(gateway),
                leases: watch::Sender::default(),
                in_force: watch::Sender::default(),
            }),
        };
        owner.close()?;
        owner.take_over(config, &links, &alive)?;
        owner.publish_leases();
        let held = owner.leases.iter().map(|(pod, lease)| (pod.clone(), lease.address));
        owner.published().extend(held);
        let problems = owner.probe(config);
        owner.seen.problems.get_or_init(|| problems);
        Ok(owner)
    }

    pub fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.seen)
    }

    /// Serves until every sender is gone.
    pub fn serve(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.blocking_recv() {
            // A caller that no longer waits does not want the answer; the work stands all the same.
            match command {
                Command::Attach { pod, ports, answer } => {
                    let _ = answer.send(self.attach(&pod, &ports));
                }
                Command::Detach { pod, answer } => {
                    let _ = answer.send(self.detach(&pod));
                }
                Command::Put { part, plan, answer } => {
                    let _ = answer.send(self.put(part, plan));
                }
                Command::PutPolicies { order, answer } => {
                    let _ = answer.send(self.put_policies(&order));
                }
            }
        }
    }

    fn take_over(
        &mut self,
        config: &NetworkConfig,
        links: &[Link],
        alive: &[String],
    ) -> Result<(), NetError> {
        let fabric = &mut self.fabric;
        if let IpAddr::V4(network) = config.pod_cidr.address() {
            let metric = fabric.names.route_metric();
            fabric
                .socket
                .exchange(&[link::unreachable(network, config.pod_cidr.prefix(), metric)])
                .and_then(|replies| replies.except(&[]))
                .map_err(step("route the pod range"))?;
        }
        fabric.anchor(config.service_cidr)?;

        let mut found: BTreeMap<u32, &Link> = links
            .iter()
            .filter_map(|link| Some((fabric.names.offset(&link.name)?, link)))
            .collect();
        for pod in alive {
            let Some(address) = self.pool.of(pod) else {
                continue;
            };
            let offset = self.pool.offset(address).unwrap_or_default();
            match found.remove(&offset) {
                Some(port) => self.fabric.admit(&port.name, port.index, address)?,
                None => {
                    let mut prepared = Prepared::from_pin(&self.fabric.pin(pod))
                        .map_err(step("enter the pod's namespace"))?;
                    self.fabric.connect(offset, address, &mut prepared)?;
                }
            }
        }
        let strays: Vec<u32> = found.into_values().map(|port| port.index).collect();
        self.sweep(&strays)
    }

    /// Removes what no lease accounts for: half-made pods of a daemon that died.
    fn sweep(&mut self, stray_ports: &[u32]) -> Result<(), NetError> {
        for index in stray_ports {
            self.fabric
                .socket
                .exchange(&[link::delete(*index)])
                .and_then(|replies| replies.except(&[Errno::ENODEV]))
                .map_err(step("delete a stray link"))?;
        }
        for entry in fs::read_dir(&self.fabric.pins).map_err(step("list pins"))? {
            let entry = entry.map_err(step("list pins"))?;
            let pod = entry.file_name();
            if !pod.to_str().is_some_and(|pod| self.leases.contains_key(pod)) {
                netns::unpin(&entry.path()).map_err(step("remove a stray pin"))?;
            }
        }
        Ok(())
    }

    pub fn attach(&mut self, pod: &str, ports: &[HostPort]) -> Result<Attached, NetError> {
        is_file_name(pod)?;
        let ports = host_port::admit(pod, ports, &self.leases).map_err(refused)?;
        let pin = self.fabric.pin(pod);
        let before = self.leases.get(pod).cloned();
        let is_alive = before.is_some() && netns::is_pinned(&pin);
        let answer = |address| Attached {
            netns: pin.clone(),
            address: IpAddr::V4(address),
            gateway: IpAddr::V4(self.fabric.gateway),
        };
        if let Some(lease) = before.as_ref().filter(|lease| is_alive && lease.ports == ports) {
            return Ok(answer(lease.address));
        }
        self.pool.wake(self.born.elapsed());
        let address =
            self.pool.take(pod).ok_or_else(|| NetError::AddressesExhausted(self.range()))?;
        let offset = self.pool.offset(address).unwrap_or_default();
        let attached = answer(address);
        let lease = Lease { address, ports };
        let old = match &before {
            Some(lease) if is_alive => host_port::elements(&self.fabric.names, offset, lease),
            Some(_) | None => Elements::new(),
        };
        let new = host_port::elements(&self.fabric.names, offset, &lease);
        let changes = ruleset::diff(&old, &new);

        // Policies are told now, so that they are compiled while the links are made.
        self.leases.insert(pod.to_owned(), lease);
        self.publish_leases();

        // The disk is as slow as the links; neither waits for the other.
        let Owner { journal, fabric, ahead, leases, .. } = self;
        let lease = &leases[pod];
        let (recorded, wired) = thread::scope(|scope| {
            let record = scope.spawn(|| journal.hold(pod, lease));
            let wired = if is_alive { Ok(()) } else { wire(fabric, ahead, &pin, offset, address) };
            let panicked = || Err(io::Error::other("panicked"));
            (record.join().unwrap_or_else(|_| panicked()), wired)
        });
        let outcome = recorded
            .map_err(step("record the pod's address"))
            .and(wired)
            .and_then(|()| {
                nfnetlink::apply(&mut self.elements, &self.table, &changes)
                    .map_err(step("put the pod's rules in force"))
            })
            .and_then(|()| {
                let lease = &self.leases[pod];
                conntrack::forget(&mut self.elements, lease, false)
                    .map_err(step("forget flows from before the pod"))
            });
        match outcome {
            Ok(()) => {
                self.published().insert(pod.to_owned(), address);
                Ok(attached)
            }
            Err(error) => {
                // Half an attachment is none, but a pod that runs keeps what it had. What cannot be undone now is undone
                // at the next detach or start.
                let undone = match before.filter(|_| is_alive) {
                    Some(lease) => {
                        let undone = self.journal.hold(pod, &lease);
                        self.leases.insert(pod.to_owned(), lease);
                        undone.map_err(step("record the pod's ports as they were"))
                    }
                    None => self.detach(pod),
                };
                if let Err(also) = undone {
                    tracing::warn!(pod, %also, "could not undo a failed attachment");
                }
                Err(error)
            }
        }
    }

    pub fn detach(&mut self, pod: &str) -> Result<(), NetError> {
        is_file_name(pod)?;
        let Some(lease) = self.leases.get(pod) else {
            return netns::unpin(&self.fabric.pin(pod)).map_err(step("unpin the pod's namespace"));
        };
        let address = lease.address;
        let offset = self.pool.offset(address).unwrap_or_default();
        let members = host_port::elements(&self.fabric.names, offset, lease);
        let mut failures = Vec::new();
        // The rules first: from here on nothing of the pod gets through, though it may still run.
        let outcome = nfnetlink::remove(&mut self.elements, &self.table, &members);
        failures.extend(outcome.map_err(step("remove the pod's rules")).err());
        let outcome = conntrack::forget(&mut self.elements, lease, true);
        failures.extend(outcome.map_err(step("forget the pod's flows")).err());
        failures.extend(self.retire(address).err());
        failures.extend(self.fabric.disconnect(pod, address));
        if !failures.is_empty() {
            let reasons: Vec<_> = failures.iter().map(ToString::to_string).collect();
            return Err(NetError::Step { step: "detach the pod", reason: reasons.join("; ") });
        }
        self.journal.free(pod).map_err(step("record that the address is free"))?;
        self.leases.remove(pod);
        self.pool.rest(pod, self.born.elapsed() + REST);
        self.published().remove(pod);
        self.publish_leases();
        Ok(())
    }

    /// Brings the part's rules to `plan`; on return they are in force, or as they were.
    pub fn put(&mut self, part: Part, plan: PartPlan) -> Result<(), NetError> {
        let strays = plan.strays(part);
        assert!(strays.is_empty(), "{part:?} names what is not its own: {strays:?}");
        let before = self.parts.remove(&part);
        let before = before.unwrap_or_else(|| Before::Unknown(self.found.clone()));
        let outcome = match part::transition(&self.table, part, &before, &plan) {
            Transition::Nothing => Ok(()),
            Transition::Elements(changes) => {
                match nfnetlink::apply(&mut self.elements, &self.table, &changes) {
                    // Somebody else changed the table: what is there counts, not what we remember.
                    Err(error) if is_surprise(&error) => self.put_anew(part, &plan),
                    outcome => outcome.map_err(step("change the part's members")),
                }
            }
            Transition::Rules(transaction) => {
                nft::apply(&transaction).map_err(step("put the part's rules in force"))
            }
            Transition::Programs(changes) => {
                match nfnetlink::reprogram(&mut self.elements, &self.table, &changes) {
                    Err(error) if is_surprise(&error) => self.put_anew(part, &plan),
                    outcome => outcome.map_err(step("put the part's programs in force")),
                }
            }
        };
        let outcome = outcome.and_then(|()| {
            let old = match &before {
                Before::InForce(before) if before.flows == plan.flows => return Ok(()),
                Before::InForce(before) => before.flows.clone(),
                Before::Unknown(_) => BTreeSet::new(),
            };
            conntrack::forget_strays(&mut self.elements, self.services, &old, &plan.flows)
                .map_err(step("forget flows to endpoints that are gone"))
        });
        let outcome = outcome.and_then(|()| self.forget_remembered(&before, &plan));
        match outcome {
            Ok(()) => {
                self.parts.insert(part, Before::InForce(plan));
                Ok(())
            }
            Err(error) => {
                // Nothing has changed, unless the answer was lost on its way. The next plan replaces everything.
                match nft::list(&self.table) {
                    Ok(listing) => {
                        let present = listing.as_ref().map(Present::read).unwrap_or_default();
                        self.parts.insert(part, Before::Unknown(present));
                    }
                    Err(_) => drop(self.parts.insert(part, before)),
                }
                Err(error)
            }
        }
    }

    /// Takes out of the maps that rules write what is no longer valid.
    fn forget_remembered(&mut self, before: &Before, plan: &PartPlan) -> Result<(), NetError> {
        for (name, declaration) in &plan.declarations {
            let Some(memory) = &declaration.memory else {
                continue;
            };
            let none = BTreeSet::new();
            let valid = plan.elements.get(memory.valid).unwrap_or(&none);
            if let Before::InForce(before) = before
                && before.elements.get(memory.valid).unwrap_or(&none).is_subset(valid)
            {
                continue;
            }
            let held = nfnetlink::list(&mut self.elements, &self.table, name, declaration)
                .map_err(step("list what is remembered"))?;
            let is_wrong = |element: &Element| {
                let meaning = element.key.iter().skip(1).chain(&element.value).cloned();
                !valid.contains(&Element::member(meaning.collect()))
            };
            let wrong = held.into_iter().filter(is_wrong).collect();
            let wrong = Elements::from([(name.clone(), wrong)]);
            nfnetlink::remove(&mut self.elements, &self.table, &wrong)
                .map_err(step("forget what is remembered"))?;
        }
        Ok(())
    }

    fn put_anew(&mut self, part: Part, plan: &PartPlan) -> Result<(), NetError> {
        let listing = nft::list(&self.table).map_err(step("list the rules"))?;
        let present = listing.as_ref().map(Present::read).unwrap_or_default();
        match part::transition(&self.table, part, &Before::Unknown(present), plan) {
            Transition::Rules(transaction) => {
                nft::apply(&transaction).map_err(step("put the part's rules in force anew"))
            }
            Transition::Programs(changes) => {
                nfnetlink::reprogram(&mut self.elements, &self.table, &changes)
                    .map_err(step("put the part's programs in force anew"))
            }
            Transition::Nothing | Transition::Elements(_) => Ok(()),
        }
    }

    fn published(&self) -> MutexGuard<'_, BTreeMap<String, Ipv4Addr>> {
        self.seen.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Problems of the host, found with packets. A probe that cannot be made is a problem, not a failure.
    fn probe(&mut self, config: &NetworkConfig) -> Vec<String> {
        let first = self.pool.spare(None);
        let second = self.pool.spare(first);
        let (Some(first), Some(second)) = (first, second) else {
            return Vec::new(); // Every address is in use: the pods themselves are the proof.
        };
        let outcome = self.probe_between(first, second);
        for offset in [first, second] {
            let address = self.pool.address(offset);
            let lease = Lease { address, ports: Vec::new() };
            let members = host_port::elements(&self.fabric.names, offset, &lease);
            let removed = nfnetlink::remove(&mut self.elements, &self.table, &members);
            if let Err(error) = removed.and(self.fabric.delete_port(offset)) {
                tracing::warn!(%error, "could not remove a probe; the next start does");
            }
            if let Err(error) = self.open_to(address, false) {
                tracing::warn!(%error, "could not close the way of a probe; the first plan does");
            }
        }
        match outcome {
            Ok(passed) if passed.between_pods && passed.with_host => Vec::new(),
            Ok(passed) => {
                let listing = nft::list_all().unwrap_or_default();
                let culprit = Culprit::find(&listing, probe::has_legacy_rules());
                probe::explain(passed, config.pod_cidr, &culprit)
            }
            Err(error) => vec![format!("whether pods' packets pass could not be tried ({error})")],
        }
    }

    fn probe_between(&mut self, first: u32, second: u32) -> Result<probe::Passed, NetError> {
        let (one, other) = (self.probe_at(first)?, self.probe_at(second)?);
        probe::run((&one.0, one.1), (&other.0, other.1)).map_err(step("send a probe"))
    }

    fn probe_at(&mut self, offset: u32) -> Result<(Prepared, Ipv4Addr), NetError> {
        let address = self.pool.address(offset);
        let mut prepared = Prepared::make().map_err(step("make a network namespace"))?;
        self.fabric.connect(offset, address, &mut prepared)?;
        let lease = Lease { address, ports: Vec::new() };
        let changes = ElementChanges {
            add: host_port::elements(&self.fabric.names, offset, &lease),
            ..ElementChanges::default()
        };
        nfnetlink::apply(&mut self.elements, &self.table, &changes)
            .map_err(step("put the probe's rules in force"))?;
        self.open_to(address, true)?;
        Ok((prepared, address))
    }

    fn range(&self) -> String {
        format!("the pod range after {}", self.fabric.gateway)
    }
}

fn wire(
    fabric: &mut Fabric,
    ahead: &blocking::Receiver<io::Result<Prepared>>,
    pin: &Path,
    offset: u32,
    address: Ipv4Addr,
) -> Result<(), NetError> {
    let mut prepared = ahead
        .recv()
        .unwrap_or_else(|_| Prepared::make())
        .map_err(step("make a network namespace"))?;
    fabric.connect(offset, address, &mut prepared)?;
    prepared.pin(pin).map_err(step("pin the pod's namespace"))
}

/// A member or a set that should (not) be there.
fn is_surprise(error: &io::Error) -> bool {
    [Errno::ENOENT, Errno::EEXIST].iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// What the kernel held before.
fn put_in_force(plan: &RulesetPlan) -> Result<Present, NetError> {
    let before = nft::list(&plan.table).map_err(step("list the rules"))?;
    let before = before.as_ref().map(Present::read).unwrap_or_default();
    nft::apply(&plan.render(&before)).map_err(step("put the rules in force"))?;
    let after = nft::list(&plan.table).map_err(step("list the rules"))?;
    let missing = plan.missing_in(&after.unwrap_or_default());
    if missing.is_empty() {
        Ok(before)
    } else {
        Err(NetError::Step {
            step: "verify the rules",
            reason: format!("not in force: {}", missing.join(", ")),
        })
    }
}

fn refused(refusal: Refused) -> NetError {
    match refusal {
        Refused::Taken(port, by) => NetError::HostPortTaken(port, by),
        Refused::Address(port, ip) => NetError::Step {
            step: "open a host port",
            reason: format!(
                "port {port} on {ip}: only addresses of the host that are IPv4 and not loopback lead to pods"
            ),
        },
    }
}

/// A pod's name becomes a file's.
fn is_file_name(pod: &str) -> Result<(), NetError> {
    let is_plain = !pod.is_empty()
        && pod.len() <= 200
        && !pod.starts_with('.')
        && pod
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if is_plain {
        Ok(())
    } else {
        Err(NetError::Step { step: "name the pod", reason: format!("{pod:?} is not a uid") })
    }
}

/// Removes every trace of the instance; nothing may be serving it.
pub fn reset(config: &NetworkConfig) -> Result<(), NetError> {
    let names = names(config)?;
    let paths = Paths::of(config);
    let mut failures: Vec<NetError> = Vec::new();
    let mut note = |outcome: Result<(), NetError>| failures.extend(outcome.err());
    for entry in fs::read_dir(&paths.pins).into_iter().flatten().flatten() {
        note(netns::unpin(&entry.path()).map_err(step("remove a pin")));
    }
    let mut socket = link::open().map_err(step("open rtnetlink"))?;
    let links = link::links(&mut socket).map_err(step("list links"))?;
    for found in &links {
        if found.name == names.anchor() || found.name.starts_with(&names.ports()) {
            let outcome = socket
                .exchange(&[link::delete(found.index)])
                .and_then(|replies| replies.except(&[Errno::ENODEV]));
            note(outcome.map(drop).map_err(step("delete a link")));
        }
    }
    if let IpAddr::V4(network) = config.pod_cidr.address() {
        let request =
            link::unreachable_delete(network, config.pod_cidr.prefix(), names.route_metric());
        let outcome =
            socket.exchange(&[request]).and_then(|replies| replies.except(&[Errno::ESRCH]));
        note(outcome.map(drop).map_err(step("delete the route of the pod range")));
    }
    if let IpAddr::V4(network) = config.service_cidr.address() {
        let range = (network, config.service_cidr.prefix());
        let request = link::route_to_services_delete(range, names.route_metric());
        // It goes with its link.
        let outcome =
            socket.exchange(&[request]).and_then(|replies| replies.except(&[Errno::ESRCH]));
        note(outcome.map(drop).map_err(step("delete the route of the Service range")));
    }
    let survey = host::survey(&names, &links, &[], &[]);
    note(
        host::restore(&paths.forwarding, survey.has_neighbours)
            .map_err(step("put forwarding back")),
    );
    note(nft::delete(&names.table()).map_err(step("delete the rules")));
    for directory in [&paths.pins, &paths.directory] {
        let outcome = match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        };
        note(outcome.map_err(step("remove a directory")));
    }
    match failures.is_empty() {
        true => Ok(()),
        false => {
            let reasons: Vec<_> = failures.iter().map(ToString::to_string).collect();
            Err(NetError::Step { step: "reset the network", reason: reasons.join("; ") })
        }
    }
}
