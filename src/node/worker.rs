//! Owns one pod on this node: observes it, asks [`lifecycle::next`] for one step, performs it, asks again.
//!
//! It decides nothing itself; what a step does stands in `worker/`. It ends when the pod is finalized, or when
//! the daemon stops, which changes nothing about the pod.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kube::Api;
use tokio::sync::{Semaphore, broadcast, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::events::{Kind, Note, Recorder, about_pod};
use crate::model::time::Timestamp;
use crate::net::{Attached, Network};
use crate::node::admission::Rejection;
use crate::node::adopt;
use crate::node::clock_step::Reading;
use crate::node::compile::{NodeFacts, PodPaths};
use crate::node::farewell::{Farewell, Place};
use crate::node::health::Health;
use crate::node::lifecycle::{
    self, Container, EndReason, Ended, ImageState, Next, Outcome, PodState, Run, Setback, Shim,
    Step, Want,
};
use crate::node::pods::{ContainerEntry, PodEntry, Pods};
use crate::node::report::{Reporter, Target};
use crate::node::resolve::Tokens;
use crate::node::scrape;
use crate::node::status::{self, UsedImage, restart_policy};
use crate::node::volume::payload::{References, references};
use crate::placement::is_sidecar;
use crate::runtime::image::{Image, Images};
use crate::runtime::plan::ContainerPlan;
use crate::runtime::{self, ContainerPhase, Runtime, ShimState};
use crate::sys::clock;

mod checkup;
mod drift;
mod ending;
mod errands;
mod hooks;
mod images;
mod start;
mod steps;

pub(super) use images::release;

/// What the workers of a node share.
pub struct Shared {
    pub client: kube::Client,
    pub runtime: Runtime,
    pub images: Images,
    pub network: Network,
    pub farewell: Farewell,
    pub recorder: Recorder,
    pub pods: Pods,
    pub facts: NodeFacts,
    pub data_dir: PathBuf,
    pub run_dir: PathBuf,
    /// ConfigMaps and Secrets that changed.
    pub objects: broadcast::Sender<ObjectChanged>,
    /// How many commands of probes run at a time on this node.
    pub commands: Arc<Semaphore>,
    /// Containers without a readiness probe are ready once their TCP ports are listened on.
    pub awaits_ports: bool,
}

/// A ConfigMap or Secret of that name changed, came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectChanged {
    pub kind: ObjectKind,
    pub namespace: String,
    pub name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    ConfigMap,
    Secret,
}

/// A pod found on the host.
pub struct Existing {
    pub pod: runtime::Pod,
    pub plans: Vec<ContainerPlan>,
}

/// What there is of a pod when its worker begins.
#[derive(Default)]
pub struct Found {
    pub existing: Option<Existing>,
    /// It has an address.
    pub attached: bool,
    /// The node does not take it.
    pub rejection: Option<Rejection>,
}

pub struct Worker {
    shared: Arc<Shared>,
    /// Its place among the workers that have to end before the host may go down.
    place: Place,
    stop: CancellationToken,
    /// The newest object; `None` once it is gone from the API.
    object: watch::Receiver<Option<Arc<core::Pod>>>,
    pod: Arc<core::Pod>,
    uid: String,
    paths: PodPaths,
    references: References,
    state: PodState,
    shim: Option<runtime::Pod>,
    shim_state: Option<watch::Receiver<runtime::PodState>>,
    attached: Option<Attached>,
    plans: BTreeMap<String, ContainerPlan>,
    /// Images that the next start of each container uses.
    ready_images: BTreeMap<String, Image>,
    used_images: BTreeMap<String, UsedImage>,
    /// References by container, for which its image was last looked for.
    sought_images: BTreeMap<String, String>,
    /// Image ids by container, for which a pin is on disk.
    held_images: BTreeMap<String, String>,
    pulls: JoinSet<images::Pulled>,
    ahead: Option<images::Ahead>,
    /// By container that runs.
    health: BTreeMap<String, Health>,
    errands: JoinSet<errands::Report>,
    /// Since the pod is no longer ready, as long as the API may not have told everybody.
    passed_over: Option<AbortHandle>,
    clocks: Reading,
    /// The deletion that `stop_by` is of.
    deletion_seen: Option<Timestamp>,
    tokens: Tokens,
    reporter: Reporter,
    written: core::PodStatus,
    started_at: Timestamp,
    /// When the deletion was first seen, and the moment it allows.
    stop_by: Option<Timestamp>,
    failures: u32,
    image_changes: watch::Receiver<u64>,
    object_changes: broadcast::Receiver<ObjectChanged>,
    /// When volumes made of objects are looked at even without a change (tokens, lost notices).
    refresh_at: Timestamp,
}

/// Volumes made of objects are compared this often at least (S36 allows 60 s).
const REFRESH_EVERY: Duration = Duration::from_secs(60);
/// A pod whose object is gone without notice ends within this.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);
/// No wait is longer, so that a stepped clock delays nothing for ever.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

impl Worker {
    /// Takes the pod over as it is: from its status, and from what was found on the host.
    pub fn new(
        shared: Arc<Shared>,
        object: watch::Receiver<Option<Arc<core::Pod>>>,
        pod: Arc<core::Pod>,
        found: Found,
        stop: CancellationToken,
    ) -> Worker {
        let now = clock::now();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let Found { existing, attached, rejection } = found;
        let (shim, plans) = match existing {
            Some(existing) => (Some(existing.pod), existing.plans),
            None => (None, Vec::new()),
        };
        let shim_state = shim.as_ref().map(runtime::Pod::state);
        let found = shim_state.as_ref().map(|state| state.borrow().clone());
        let mut state = adopt::revive(&pod, found.as_ref(), attached, now);
        if let Some(Rejection { reason, message }) = rejection {
            let message = format!("Pod was rejected: {message}");
            state.outcome = Some(Outcome::Rejected { reason, message });
        }
        let status = pod.status.clone().unwrap_or_default();
        let started_at = status.start_time.as_ref().map_or(now, |time| time.0.into());
        let used_images = used_images(&status);
        let target = Target {
            api: Api::namespaced(
                shared.client.clone(),
                pod.metadata.namespace.as_deref().unwrap_or_default(),
            ),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: uid.clone(),
        };
        Worker {
            stop,
            object,
            paths: PodPaths::new(&shared.data_dir, &shared.run_dir, &uid),
            references: references(&pod),
            state,
            shim,
            shim_state,
            attached: None,
            plans: plans.into_iter().map(|plan| (plan.name.clone(), plan)).collect(),
            ready_images: BTreeMap::new(),
            used_images,
            sought_images: BTreeMap::new(),
            held_images: BTreeMap::new(),
            pulls: JoinSet::new(),
            ahead: None,
            health: BTreeMap::new(),
            errands: JoinSet::new(),
            passed_over: None,
            clocks: read_clocks(),
            deletion_seen: None,
            tokens: Tokens::default(),
            reporter: Reporter::start(target, status.clone()),
            written: status,
            started_at,
            stop_by: None,
            failures: 0,
            image_changes: shared.images.changes(),
            object_changes: shared.objects.subscribe(),
            refresh_at: now.plus(REFRESH_EVERY),
            place: shared.farewell.enter(&uid, &pod),
            uid,
            pod,
            shared,
        }
    }

    /// Runs until nothing of the pod is left, or until the daemon stops.
    pub async fn run(mut self) {
        if adopt::uses_network(&self.state) {
            // What it has, as the network remembers it.
            self.attach().await;
            self.state.address_unknown = self.attached.is_none();
        }
        // Not all pods of a node at the same moment.
        let spread = REFRESH_EVERY.mul_f64(0.5 + self.phase_of("") / 2.0);
        self.refresh_at = clock::now().plus(spread);
        self.take_up_last_words();
        self.take_up_health();
        self.guard_shim(Duration::ZERO);
        self.publish_entry();
        loop {
            self.observe();
            let now = clock::now();
            self.heed_changed_images(now);
            self.watch_health(now);
            let want = self.want();
            let next = lifecycle::next(&self.state, &want, now);
            if self.goes_with_the_host() {
                if comes_after_the_containers(&next) {
                    return;
                }
            } else {
                self.publish(&want, now);
            }
            match next {
                Next::Settled if self.state.finalized => return,
                Next::Do(step) => {
                    if self.stop.is_cancelled() {
                        return;
                    }
                    self.perform(step, &want).await;
                }
                Next::Wait { until } => {
                    if !self.wait(Some(until)).await {
                        return;
                    }
                }
                Next::Settled => {
                    if !self.wait(None).await {
                        return;
                    }
                }
            }
        }
    }

    fn take_up_last_words(&mut self) {
        let Some(found) = self.shim_state.as_ref().map(|state| state.borrow().clone()) else {
            return;
        };
        let mut state = self.state.clone();
        adopt::last_words(&mut state, &found, |name, attempt, exit| {
            self.termination_message(name, attempt, exit)
        });
        self.state = state;
    }

    /// Whether it comes down because the host does, and is not deleted anyway.
    fn goes_with_the_host(&self) -> bool {
        let is_deleted = self.pod.metadata.deletion_timestamp.is_some();
        !is_deleted && self.place.is_over(&self.pod)
    }

    fn want(&self) -> Want {
        let no_containers = Vec::new();
        let spec = self.pod.spec.as_ref();
        let names = |list: &[core::Container]| list.iter().map(|c| c.name.clone()).collect();
        let seconds = spec
            .and_then(|s| s.active_deadline_seconds)
            .and_then(|seconds| u64::try_from(seconds).ok());
        Want {
            init: names(spec.and_then(|s| s.init_containers.as_ref()).unwrap_or(&no_containers)),
            sidecars: spec
                .into_iter()
                .flat_map(|s| s.init_containers.iter().flatten())
                .filter(|container| is_sidecar(container))
                .map(|container| container.name.clone())
                .collect(),
            containers: names(spec.map_or(&no_containers, |s| &s.containers)),
            restart: spec.map_or(lifecycle::RestartPolicy::Always, restart_policy),
            host_network: self.host_network(),
            active_until: seconds.map(|s| self.started_at.plus(Duration::from_secs(s))),
            stop_by: self.stop_by,
        }
    }

    fn host_network(&self) -> bool {
        self.pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false)
    }

    fn grace(&self) -> Duration {
        let spec = self.pod.spec.as_ref();
        let seconds = self
            .pod
            .metadata
            .deletion_grace_period_seconds
            .or(spec.and_then(|s| s.termination_grace_period_seconds))
            .unwrap_or(30);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// Moves what was planned along when the clock was set.
    fn mind_the_clock(&mut self) {
        let clocks = read_clocks();
        if let Some(shift) = clocks.step_since(self.clocks) {
            tracing::info!(pod = self.uid, ?shift, "the clock was set");
            shift.pod(&mut self.state);
            self.health.values_mut().for_each(|health| health.shift(shift));
            self.stop_by.iter_mut().for_each(|at| shift.moment(at));
            shift.moment(&mut self.refresh_at);
        }
        self.clocks = clocks;
    }

    /// Takes in what changed: the object, the shim's containers.
    fn observe(&mut self) {
        self.mind_the_clock();
        let now = self.clocks.wall;
        let newest = self.object.borrow_and_update().clone();
        let allowed = match newest {
            Some(pod) => {
                self.references = references(&pod);
                let deletion = pod.metadata.deletion_timestamp.as_ref().map(|time| time.0.into());
                let is_read_elsewhere = scrape::Place::of(&pod) != scrape::Place::of(&self.pod);
                self.pod = pod;
                if is_read_elsewhere {
                    self.publish_entry();
                }
                // Seen before, it has been counted from by a clock that may have been set since.
                let deletion = deletion.filter(|at| self.deletion_seen.replace(*at) != Some(*at));
                // The API truncates to seconds, so its moment may be almost a second early; and a daemon that
                // comes late grants no more than was granted then.
                deletion.map(|at: Timestamp| {
                    now.plus(self.grace()).min(at.plus(Duration::from_secs(1)))
                })
            }
            // Removed without waiting for us (force), or while the daemon was down.
            None => Some(now.plus(ORPHAN_GRACE)),
        };
        let allowed = match self.place.is_over(&self.pod) {
            true => allowed.or(Some(now.plus(self.grace()))),
            false => allowed,
        };
        // Grace only shrinks.
        self.stop_by = match (self.stop_by, allowed) {
            (Some(before), Some(allowed)) => Some(before.min(allowed)),
            (before, allowed) => before.or(allowed),
        };
        if self.stop_by.is_some() {
            self.pulls.abort_all();
        }
        let Some(seen) = self.shim_state.as_mut().map(|state| state.borrow_and_update().clone())
        else {
            return;
        };
        for (name, container) in &seen.containers {
            self.observe_container(name, container);
        }
        if seen.shim == ShimState::Lost && self.state.shim == Shim::Alive {
            self.state.shim = Shim::Lost;
            for name in self.running() {
                let attempt = self.state.containers.get(&name).and_then(Container::attempt);
                let started_at = match self.state.containers.get(&name).map(|c| &c.run) {
                    Some(Run::Running(running)) => Some(running.started_at),
                    Some(Run::Idle | Run::Ended(_)) | None => None,
                };
                self.container_ended(
                    &name,
                    Ended {
                        attempt: attempt.unwrap_or(0),
                        exit_code: 137,
                        signal: Some(9),
                        reason: EndReason::Error,
                        message: "the process that supervised this container was lost".into(),
                        started_at,
                        finished_at: now,
                    },
                );
            }
        }
    }

    fn observe_container(&mut self, name: &str, seen: &runtime::ContainerState) {
        let Some(container) = self.state.containers.get(name) else {
            return;
        };
        let known = container.attempt();
        let newer = known.is_none_or(|attempt| seen.attempt > attempt);
        match &seen.phase {
            ContainerPhase::Exited(exit) => {
                let same = known == Some(seen.attempt) && matches!(container.run, Run::Running(_));
                if same || newer {
                    if same {
                        self.tell_if_killed(name, exit);
                    }
                    let message = self.termination_message(name, seen.attempt, exit);
                    self.container_ended(name, adopt::ended(seen.attempt, exit, message));
                }
            }
            ContainerPhase::Running { started_at, .. } if newer => {
                self.container_runs(name, seen.attempt, *started_at);
            }
            ContainerPhase::Running { .. } => {}
        }
    }

    fn container_runs(&mut self, name: &str, attempt: u32, started_at: Timestamp) {
        if let Some(container) = self.state.containers.get_mut(name) {
            if let Run::Ended(before) = &container.run {
                container.previous = Some(before.clone());
            }
            container.run = Run::Running(lifecycle::Running::new(attempt, started_at));
            container.renewed = false;
            container.refused = None;
        }
        if matches!(self.spec_of(name), Some((_, "spec.containers"))) {
            // All that had to run again before it has.
            self.state.stale_init.clear();
        }
        self.begin_health(name);
    }

    fn container_ended(&mut self, name: &str, ended: Ended) {
        self.health.remove(name);
        if let Some(container) = self.state.containers.get_mut(name) {
            match &container.run {
                Run::Ended(before) if before.attempt < ended.attempt => {
                    container.previous = Some(before.clone());
                }
                Run::Ended(_) | Run::Running(_) | Run::Idle => {}
            }
            container.run = Run::Ended(ended);
            // Looked for again before the next start: it may be gone, or its policy may be Always.
            container.image = ImageState::Unchecked;
            container.backoff_told = false;
        }
    }

    fn running(&self) -> Vec<String> {
        self.state
            .containers
            .iter()
            .filter(|(_, c)| matches!(c.run, Run::Running(_)))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Waits until `until` or a change; false when the daemon stops.
    async fn wait(&mut self, until: Option<Timestamp>) -> bool {
        let now = clock::now();
        let refreshes = self.state.shim == Shim::Alive && !self.has_no_references();
        let refresh_at = refreshes.then_some(self.refresh_at);
        let wake = [until, refresh_at, self.next_probe()].into_iter().flatten().min();
        let bound = wake.map_or(LONGEST_WAIT, |at| at.since(now).min(LONGEST_WAIT));
        let timed = wake.is_some();
        let sleep = tokio::time::sleep(bound);
        tokio::select! {
            () = self.stop.cancelled() => return false,
            () = self.place.changed() => {}
            () = sleep, if timed => {}
            changed = self.object.changed() => {
                if changed.is_err() {
                    return false;
                }
            }
            () = state_changed(&mut self.shim_state) => {}
            Some(pulled) = self.pulls.join_next(), if !self.pulls.is_empty() => {
                if let Ok(pulled) = pulled {
                    self.pulled(pulled);
                }
            }
            Some(report) = self.errands.join_next(), if !self.errands.is_empty() => {
                self.heed(report);
            }
            Ok(()) = self.image_changes.changed() => self.look_for_images(),
            changed = self.object_changes.recv() => {
                // Lagged: anything may have changed.
                if changed.map_or(true, |changed| self.refers_to(&changed)) {
                    self.refresh_at = clock::now();
                    self.forgive_refusals();
                }
            }
        }
        if refreshes && self.refresh_at <= clock::now() {
            self.refresh_volumes().await;
        }
        true
    }

    fn has_no_references(&self) -> bool {
        self.references == References::default() && !self.uses_downward_api()
    }

    fn uses_downward_api(&self) -> bool {
        let volumes = self.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        volumes.into_iter().any(|v| v.downward_api.is_some() || v.projected.is_some())
    }

    fn refers_to(&self, changed: &ObjectChanged) -> bool {
        let names = match changed.kind {
            ObjectKind::ConfigMap => &self.references.config_maps,
            ObjectKind::Secret => &self.references.secrets,
        };
        self.pod.metadata.namespace.as_deref() == Some(changed.namespace.as_str())
            && names.contains(&changed.name)
    }

    /// What was missing may be there now: try at once.
    fn forgive_refusals(&mut self) {
        for container in self.state.containers.values_mut() {
            container.refused = None;
        }
        if !self.state.volumes_ready && self.stop_by.is_none() {
            self.state.setback = None;
        }
    }

    /// Tells the world: status to the API, snapshot to whoever streams.
    fn publish(&mut self, want: &Want, now: Timestamp) {
        if self.state.finalized || self.object.borrow().is_none() {
            return;
        }
        let status = status::compile(&status::Facts {
            pod: &self.pod,
            want,
            state: &self.state,
            previous: &self.written,
            address: self.attached.as_ref().map(|a| a.address),
            node_addresses: &self.shared.facts.addresses,
            started_at: self.started_at,
            images: &self.used_images,
            now,
        });
        if status != self.written {
            self.tell_planes(&status);
            self.reporter.set(status.clone());
            self.written = status;
            self.publish_entry();
        }
    }

    fn publish_entry(&self) {
        let statuses = self.written.init_container_statuses.iter().flatten();
        let statuses = statuses.chain(self.written.container_statuses.iter().flatten());
        let waiting: BTreeMap<String, String> = statuses
            .filter_map(|status| {
                let waiting = status.state.as_ref()?.waiting.as_ref()?;
                Some((status.name.clone(), waiting.reason.clone().unwrap_or_default()))
            })
            .collect();
        let containers = self
            .state
            .containers
            .iter()
            .filter_map(|(name, container)| {
                let attempt = container.attempt()?;
                let entry = ContainerEntry {
                    plan: self.plans.get(name).cloned(),
                    attempt,
                    previous: match &container.run {
                        Run::Ended(_) if waiting.contains_key(name) => Some(attempt),
                        Run::Ended(_) | Run::Running(_) | Run::Idle => attempt.checked_sub(1),
                    },
                    log_dir: self.paths.log_dir(name),
                };
                Some((name.clone(), entry))
            })
            .collect();
        let entry = PodEntry {
            namespace: self.pod.metadata.namespace.clone().unwrap_or_default(),
            name: self.pod.metadata.name.clone().unwrap_or_default(),
            uid: self.uid.clone(),
            pod: self.shim.clone(),
            containers,
            waiting,
            netns: self.attached.as_ref().map(|a| a.netns.clone()),
            address: self.attached.as_ref().map(|a| a.address),
            host_network: self.host_network(),
            metrics: scrape::Place::of(&self.pod),
        };
        self.shared.pods.publish(entry, || self.object.borrow().is_some());
    }

    fn spec_of(&self, name: &str) -> Option<(&core::Container, &'static str)> {
        let spec = self.pod.spec.as_ref()?;
        let init = spec.init_containers.iter().flatten().map(|c| (c, "spec.initContainers"));
        let mains = spec.containers.iter().map(|c| (c, "spec.containers"));
        init.chain(mains).find(|(c, _)| c.name == name)
    }

    fn tell(&self, kind: Kind, reason: &'static str, message: String) {
        let about = about_pod(&self.pod, None);
        self.shared.recorder.note(Note { about, kind, reason: reason.into(), message });
    }

    fn tell_container(&self, name: &str, kind: Kind, reason: &'static str, message: String) {
        let path = self.spec_of(name).map(|(_, list)| format!("{list}{{{name}}}"));
        let about = about_pod(&self.pod, path);
        self.shared.recorder.note(Note { about, kind, reason: reason.into(), message });
    }

    fn setback(&mut self) {
        // It may be another by the time of the next try.
        self.ahead = None;
        let of_teardown = lifecycle::comes_down(&self.state, &self.want());
        // The pauses of the way up do not count on the way down.
        if of_teardown && self.state.setback.is_some_and(|before| !before.of_teardown) {
            self.failures = 0;
        }
        let until = clock::now().plus(crate::node::restart::setback(self.failures));
        self.state.setback = Some(Setback { until, of_teardown });
        self.failures = self.failures.saturating_add(1);
    }

    fn progress(&mut self) {
        self.failures = 0;
        self.state.setback = None;
    }
}

fn read_clocks() -> Reading {
    Reading { wall: clock::now(), uptime: clock::uptime() }
}

/// Whether nothing is left to do before a host goes down: no container runs any more.
fn comes_after_the_containers(next: &Next) -> bool {
    match next {
        Next::Do(step) => {
            matches!(step, Step::RemoveShim | Step::Detach | Step::RemoveVolumes | Step::Finalize)
        }
        Next::Settled => true,
        Next::Wait { .. } => false,
    }
}

async fn state_changed(state: &mut Option<watch::Receiver<runtime::PodState>>) {
    let gone = match state {
        Some(receiver) => receiver.changed().await.is_err(),
        None => std::future::pending().await,
    };
    if gone {
        // Its sender went with the shim's last handle; nothing will come of it any more.
        *state = None;
    }
}

/// The images that an earlier daemon has reported.
fn used_images(status: &core::PodStatus) -> BTreeMap<String, UsedImage> {
    let init = status.init_container_statuses.iter().flatten();
    init.chain(status.container_statuses.iter().flatten())
        .filter(|c| !c.image_id.is_empty())
        .map(|c| (c.name.clone(), UsedImage { name: c.image.clone(), id: c.image_id.clone() }))
        .collect()
}
