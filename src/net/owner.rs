//! The one thread that changes the instance's network: it holds the sockets, the pool and the journal.
//!
//! Callers send it messages, so a caller that gives up halves nothing. It decides which steps follow which; what they
//! are is written in `attach`, `ruleset` and `nfnetlink`.

mod ends;
mod led;
mod parts;
mod policies;
mod probes;
mod ranges;
mod reset;
mod restore;
mod sweep;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as blocking};
use std::thread;
use std::time::Instant;

use nix::errno::Errno;
use rustix::pipe::PipeFlags;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

pub use self::ends::Ended;
use self::ends::Ender;
use self::led::Wrong;
use self::policies::REST;
pub use self::policies::{InForce, PolicyOrder};
pub use self::ranges::Ranges;
pub use self::reset::{footprint, reset};
use self::restore::{Broken, OwnGenerations, closed, put_in_force};
use self::sweep::Sweeper;
use super::address_pool::AddressPool;
use super::attach::{Fabric, Prepared, prepare_ahead};
use super::drift::{self, Held, Places, Repaired, What};
use super::host_port::{self, Lease, Refused};
use super::journal::Journal;
use super::link::Link;
use super::names::Names;
use super::netlink::Socket;
use super::part::{Before, Part, PartPlan, PlanChange};
use super::policy::Plan;
use super::ruleset::{self, Element, Elements, Field, Present};
use super::skeleton::{self, Surroundings};
use super::{
    Attached, HostPort, NetError, NetworkConfig, Policies, Protocol, foreign, guard, host, limits,
    link, nfnetlink, step, sysctl,
};
use crate::sys::netns;

/// Repairs that a slow listener may be behind.
const REPAIRS: usize = 64;

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
    /// Of a part's plan only this.
    Change {
        part: Part,
        change: PlanChange,
        answer: oneshot::Sender<Result<(), NetError>>,
    },
    /// Something there may have been changed by hand.
    Inspect {
        places: Places,
    },
    /// Pods may reach these ports of the host, and no others.
    OpenDoors {
        doors: BTreeSet<(Protocol, u16)>,
        answer: oneshot::Sender<Result<(), NetError>>,
    },
    /// Somebody changed the table, in this generation of the ruleset; `None` when the kernel lost count.
    Changed {
        generation: Option<u32>,
    },
    /// Rules of others have changed, and pods' packets may no longer pass.
    Probe,
    PutPolicies {
        order: PolicyOrder,
        answer: oneshot::Sender<Result<Ended, NetError>>,
    },
    /// What looks like an answer of a flow that has been ended begins none.
    KeepOut {
        late: Vec<Element>,
        answer: oneshot::Sender<Result<(), NetError>>,
    },
}

/// What others may look at without asking.
#[derive(Debug)]
pub struct Seen {
    /// Short sections only.
    pub pods: Mutex<BTreeMap<String, Ipv4Addr>>,
    pub node_address: IpAddr,
    /// What was changed by hand and put back.
    pub repairs: broadcast::Sender<Repaired>,
    /// How often somebody else's change of the table was undone.
    pub restored: watch::Sender<u64>,
    /// Why it cannot be undone, as long as it cannot.
    pub broken: watch::Sender<Option<String>>,
    pub log_group: u16,
    pub gateway: IpAddr,
    /// Addresses by pod, from before the first packet until after the last.
    pub leases: watch::Sender<Arc<BTreeMap<String, IpAddr>>>,
    pub in_force: watch::Sender<Arc<InForce>>,
    /// Why a pod may be waiting for its rules. Short sections only.
    pub behind: Mutex<Option<String>>,
    /// How often something was denied that may have been allowed before.
    pub tightened: watch::Sender<u64>,
    /// What of the host stands in the way, as of the last probe.
    pub problems: watch::Sender<Vec<String>>,
}

/// Where things lie on disk.
pub struct Paths {
    pub directory: PathBuf,
    pub journal: PathBuf,
    pub forwarding: PathBuf,
    pub ranges: PathBuf,
    pub pins: PathBuf,
}

impl Paths {
    pub fn of(config: &NetworkConfig) -> Paths {
        let directory = config.data_dir.join("network");
        Paths {
            journal: directory.join("pods.journal"),
            forwarding: directory.join("forwarding.json"),
            ranges: directory.join("ranges.json"),
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
    surroundings: Surroundings,
    own: OwnGenerations,
    /// The ruleset's generation after the last repair, if it is known that nobody else wrote meanwhile.
    repaired_at: Option<u32>,
    broken: Option<Broken>,
    doors: BTreeSet<(Protocol, u16)>,
    policies: Policies,
    /// What was put in force last of them, if it is known what is.
    ordered: Arc<Plan>,
    /// The plan that could not be put in force denies flows.
    owes_end: bool,
    ender: Ender,
    born: Instant,
    journal: Journal,
    fabric: Fabric,
    elements: Socket,
    ahead: blocking::Receiver<io::Result<Prepared>>,
    held: Held,
    sweeper: Sweeper,
    /// Its end tells the watcher that we have gone.
    _alive: OwnedFd,
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
    /// What is changed by hand later comes back through `commands`.
    pub fn start(
        config: &NetworkConfig,
        commands: mpsc::WeakSender<Command>,
    ) -> Result<Owner, NetError> {
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
        for (step, range, setting) in [
            ("use the pod range", config.pod_cidr, "--pod-cidr"),
            ("use the Service range", config.service_cidr, "--service-cidr"),
        ] {
            if let Some(reason) = host::occupied(&names, range, &links, &addresses, &routes) {
                let reason = format!("{range} holds {reason}; choose another with {setting}");
                return Err(NetError::Step { step, reason });
            }
        }
        Ranges::of(config).enter(&paths.ranges, &mut socket, &names)?;
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
        let mut elements_socket = nfnetlink::open().map_err(step("open nfnetlink"))?;
        let foreign_socket = foreign::listen().map_err(step("listen for changes of the rules"))?;
        let mut own = OwnGenerations::default();
        let plan = skeleton::compile(&names, &surroundings, elements);
        let log_group = names.log_group();
        let closed = closed(config.policies, log_group);
        let found = put_in_force(&mut elements_socket, &mut own, &plan, closed.as_ref())?;
        guard::set(&mut socket, config.pod_cidr).map_err(step("guard the pods' routes"))?;

        let (watched_end, alive_end) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(step("make a pipe"))?;
        let also_watched = watched_end.try_clone().map_err(step("make a pipe"))?;
        drift::watch(names.clone(), commands.clone(), watched_end)
            .map_err(step("listen for changes of links"))?;
        let own_port = elements_socket.port().map_err(step("name the nfnetlink socket"))?;
        let ender = Ender::start(commands.clone(), config.service_cidr)
            .map_err(step("start the thread that ends flows"))?;
        foreign::watch(foreign_socket, names.table(), own_port, commands, also_watched)
            .map_err(step("listen for changes of the rules"))?;
        let given = leases.values().map(|lease| lease.address).chain([gateway]).collect();
        let sweeper = Sweeper::start(config.pod_cidr, &given)
            .map_err(step("forget flows of pods that are gone"))?;
        let fabric = Fabric { names, gateway, mtu: survey.mtu, pins: paths.pins, socket };
        let mut owner = Owner {
            table: fabric.names.table(),
            pool,
            leases,
            parts: BTreeMap::new(),
            found,
            surroundings,
            own,
            repaired_at: None,
            broken: None,
            doors: BTreeSet::new(),
            policies: config.policies,
            ordered: Arc::default(),
            owes_end: false,
            ender,
            born: Instant::now(),
            journal,
            fabric,
            elements: elements_socket,
            ahead: prepare_ahead().map_err(step("start preparing namespaces"))?,
            held: Held::default(),
            sweeper,
            _alive: alive_end,
            seen: Arc::new(Seen {
                pods: Mutex::default(),
                repairs: broadcast::Sender::new(REPAIRS),
                problems: watch::Sender::default(),
                node_address: IpAddr::V4(survey.address.unwrap_or(gateway)),
                restored: watch::Sender::default(),
                broken: watch::Sender::default(),
                log_group,
                gateway: IpAddr::V4(gateway),
                leases: watch::Sender::default(),
                in_force: watch::Sender::default(),
                behind: Mutex::default(),
                tightened: watch::Sender::default(),
            }),
        };
        if let Err(error) = owner.put(Part::Limits, limits::compile()) {
            tracing::warn!(%error, "no limit to the connections of one pod: the kernel has no nft_connlimit");
        }
        let table = sysctl::read("netfilter/nf_conntrack_max").ok();
        if let Some(short) = table.and_then(|table| limits::shortage(table.parse().ok()?)) {
            tracing::warn!("{short}; `joey doctor` says how to make it larger");
        }
        owner.take_over(config, &links, &alive)?;
        for pod in &alive {
            owner.held.take(pod, &owner.fabric.pin(pod));
        }
        owner.owe_walks();
        // What was changed while nobody looked.
        owner.inspect(&Places { all_links: true, ..Places::default() });
        owner.publish_leases();
        let held = owner.leases.iter().map(|(pod, lease)| (pod.clone(), lease.address));
        owner.published().extend(held);
        owner.probe();
        Ok(owner)
    }

    pub fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.seen)
    }

    /// Serves until every sender is gone.
    pub fn serve(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = self.next(&mut commands) {
            // A caller that no longer waits does not want the answer; the work stands all the same.
            match command {
                Command::Attach { pod, ports, answer } => {
                    let outcome = self.attach(&pod, &ports);
                    let leads = self.leads_datagrams(&pod);
                    self.answer(leads, answer, outcome);
                }
                Command::Detach { pod, answer } => {
                    let leads = self.leads_datagrams(&pod);
                    let outcome = self.detach(&pod);
                    self.answer(leads, answer, outcome);
                }
                Command::Put { part, plan, answer } => {
                    let outcome = self.put(part, plan);
                    self.answer(part == Part::Services, answer, outcome);
                }
                Command::Change { part, change, answer } => {
                    let outcome = self.change_part(part, &change);
                    self.answer(part == Part::Services, answer, outcome);
                }
                Command::PutPolicies { order, answer } => {
                    let _ = answer.send(self.put_policies(&order));
                }
                Command::KeepOut { late, answer } => {
                    let _ = answer.send(self.keep_out(&late));
                }
                Command::OpenDoors { doors, answer } => {
                    let _ = answer.send(self.open_doors(doors));
                }
                Command::Inspect { places } => self.inspect(&places),
                Command::Changed { generation } => self.changed(generation),
                Command::Probe => self.probe(),
            }
        }
    }

    /// Whether the pod has ports of the host whose flows know no end.
    fn leads_datagrams(&self, pod: &str) -> bool {
        self.leases.get(pod).is_some_and(|lease| lease.connectionless().next().is_some())
    }

    /// What has been done, at once, or where it leads datagrams when those that have begun follow it: whoever waits goes by
    /// that.
    fn answer<T: Send + 'static>(
        &self,
        leads: bool,
        answer: oneshot::Sender<Result<T, NetError>>,
        outcome: Result<T, NetError>,
    ) {
        match outcome {
            Ok(done) if leads => self.ender.once_led(move |led| {
                let _ = answer.send(led.map(|()| done));
            }),
            outcome => drop(answer.send(outcome)),
        }
    }

    /// Repairs what of `places` is not as it should be, and tells.
    fn inspect(&mut self, places: &Places) {
        let tell = |pod: String, what: What| {
            tracing::warn!(pod, "{}", what.sentence());
            // Nobody listening is no failure.
            let _ = self.seen.repairs.send(Repaired { pod, what });
        };
        if places.pins {
            for pod in self.held.pin_again(&self.fabric) {
                tell(pod, What::Unpinned);
            }
        }
        for (pod, lease) in &self.leases {
            let offset = self.pool.offset(lease.address).unwrap_or_default();
            let is_named = places.all_links || places.links.contains(&offset);
            // A pod whose namespace died with the machine has no link to repair.
            if !is_named || !self.held.has(pod) {
                continue;
            }
            match drift::repair_link(&mut self.fabric, pod, offset, lease.address) {
                Ok(Some(what)) => tell(pod.clone(), what),
                Ok(None) => {}
                Err(error) => tracing::warn!(pod, %error, "the pod's link could not be repaired"),
            }
        }
    }

    fn open_doors(&mut self, doors: BTreeSet<(Protocol, u16)>) -> Result<(), NetError> {
        let changes = ruleset::diff(&door_elements(&self.doors), &door_elements(&doors));
        nfnetlink::apply(&mut self.elements, &self.table, &changes)
            .map_err(step("let pods reach ports of the host"))?;
        self.doors = doors;
        Ok(())
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

    /// The daemon before may have died after it had changed where ports of the host lead, and before flows followed.
    fn owe_walks(&self) {
        for (pod, lease) in &self.leases {
            let lease = lease.clone();
            let is_led = self.held.has(pod);
            self.ender.forget_lease(if is_led { Wrong::Came(lease) } else { Wrong::Left(lease) });
        }
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
        self.pool.wake(self.born.elapsed(), |address| self.sweeper.is_clean(address));
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
        let outcome =
            recorded.map_err(step("record the pod's address")).and(wired).and_then(|()| {
                nfnetlink::apply(&mut self.elements, &self.table, &changes)
                    .map_err(step("put the pod's rules in force"))
            });
        match outcome {
            Ok(()) => {
                self.ender.forget_lease(Wrong::Came(self.leases[pod].clone()));
                self.published().insert(pod.to_owned(), address);
                self.held.take(pod, &pin);
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
        self.held.release(pod);
        let address = lease.address;
        let offset = self.pool.offset(address).unwrap_or_default();
        let members = host_port::elements(&self.fabric.names, offset, lease);
        let mut failures = Vec::new();
        // The rules first: from here on nothing of the pod gets through, though it may still run.
        let outcome = nfnetlink::remove(&mut self.elements, &self.table, &members);
        failures.extend(outcome.map_err(step("remove the pod's rules")).err());
        self.ender.forget_lease(Wrong::Left(lease.clone()));
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

    fn published(&self) -> MutexGuard<'_, BTreeMap<String, Ipv4Addr>> {
        self.seen.pods.lock().unwrap_or_else(PoisonError::into_inner)
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

fn door_elements(doors: &BTreeSet<(Protocol, u16)>) -> Elements {
    let member = |(protocol, port): &(Protocol, u16)| {
        Element::member(vec![Field::Protocol(*protocol), Field::Port(*port)])
    };
    Elements::from([(skeleton::DOORS.into(), doors.iter().map(member).collect())])
}

/// A member or a set that should (not) be there.
fn is_surprise(error: &io::Error) -> bool {
    [Errno::ENOENT, Errno::EEXIST].iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
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
