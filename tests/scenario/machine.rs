//! One host: the server, a fake node, and a process with the real controllers in it, which may die at any step.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use joey::reconcile::caches::{Caches, Held, Kind};
use joey::reconcile::decide::{Decide, Intent, Key, Target, Told, Wake, Write};
use joey::reconcile::deployment::Deployments;
use joey::reconcile::driver;
use joey::reconcile::garbage::graph::{Graph, Node, Policy, Presence, Verdict};
use joey::reconcile::replicaset::ReplicaSets;
use joey::reconcile::roots::{Outcome, Roots, Turn};
use joey::reconcile::settle::{Ended, Missed, Written, guarded, settle};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::api::{Served, Server, answer, api_error, instant, is_over, refusal};
use super::feed::Feed;

/// The container of a pod with this image never gets ready.
pub const BAD: &str = "bad";

pub struct Machine {
    pub server: Server,
    pub process: Process,
    /// What the controllers have written, in words, newest last.
    pub told: Vec<String>,
    /// Ready pods that a controller has just told to stop.
    pub stopped: Vec<Key>,
    /// What the Deployments' controller has just decided.
    pub decided: Vec<Decided>,
    /// What becomes of the next write.
    pub fault: Option<Fault>,
}

/// A decision about a Deployment, and on what it was made.
pub struct Decided {
    pub deployment: Arc<Deployment>,
    pub sets: Vec<Arc<ReplicaSet>>,
    pub writes: Vec<Write>,
}

/// How a write goes wrong.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// It is refused for good reason: a quota.
    Refused,
    /// The server fails before it has done anything.
    NotMade,
    /// The server fails to answer after it has done everything.
    Unanswered,
}

/// What dies with the daemon.
pub struct Process {
    caches: Arc<Caches>,
    pub feeds: (Feed, Feed, Feed),
    roots: (Arc<Mutex<Roots>>, Arc<Mutex<Roots>>),
    flights: Vec<Flight>,
    graph: Arc<Mutex<Graph>>,
    again: BTreeSet<String>,
    /// When it was started: back-off counts from there.
    began: u64,
}

/// A decision whose writes are under way.
struct Flight {
    kind: Kind,
    turn: Turn,
    root: Target,
    pending: VecDeque<Intent>,
    status: Option<Value>,
    outcome: Outcome,
}

impl Process {
    fn start(now: u64) -> Process {
        let caches = Caches::new();
        let graph = Arc::new(Mutex::new(Graph::default()));
        feed_graph(&caches.deployments, &graph);
        feed_graph(&caches.replica_sets, &graph);
        feed_graph(&caches.pods, &graph);
        let roots = (listen::<Deployments>(&caches), listen::<ReplicaSets>(&caches));
        Process {
            caches,
            feeds: Default::default(),
            roots,
            flights: Vec::new(),
            graph,
            again: BTreeSet::new(),
            began: now,
        }
    }
}

fn listen<D: Decide>(caches: &Arc<Caches>) -> Arc<Mutex<Roots>> {
    let roots = Arc::new(Mutex::new(Roots::default()));
    let own = roots.clone();
    D::Root::cache(caches).listen(move |change| {
        let object = change.new.as_ref().or(change.old.as_ref()).unwrap();
        own.lock().unwrap().wake(Key::of(object.meta()));
    });
    let waker = roots.clone();
    let wake: Wake = Arc::new(move |key| waker.lock().unwrap().wake(key));
    D::wakes(caches, &wake);
    roots
}

fn feed_graph<K: Held>(cache: &joey::reconcile::caches::Cache<K>, graph: &Arc<Mutex<Graph>>) {
    let graph = graph.clone();
    cache.listen(move |change| {
        let mut graph = graph.lock().unwrap();
        // A list may show a namesake where another was: the collector tells them apart by uid.
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && old.meta().uid != new.meta().uid
        {
            graph.forget(old.meta().uid.as_deref().unwrap());
        }
        match (&change.new, &change.old) {
            (Some(new), _) => graph.see(Node {
                api_version: K::api_version(&()).into_owned(),
                kind: K::kind(&()).into_owned(),
                metadata: new.meta().clone(),
            }),
            (None, Some(old)) => graph.forget(old.meta().uid.as_deref().unwrap()),
            (None, None) => {}
        }
    });
}

impl Machine {
    pub fn new() -> Machine {
        let server = Server::default();
        let process = Process::start(0);
        let (told, stopped, decided) = (Vec::new(), Vec::new(), Vec::new());
        Machine { server, process, told, stopped, decided, fault: None }
    }

    /// kill −9, and a new daemon that knows nothing.
    pub fn crash(&mut self) {
        self.process = Process::start(self.server.now);
    }

    /// One event of one kind arrives; false when all have.
    pub fn deliver(&mut self, kind: usize) -> bool {
        let (server, process) = (&mut self.server, &mut self.process);
        let caches = process.caches.clone();
        let (deployments, sets, pods) = &mut process.feeds;
        match kind {
            0 if !deployments.is_current(server, &caches.deployments) => {
                deployments.deliver(server, &caches.deployments);
            }
            1 if !sets.is_current(server, &caches.replica_sets) => {
                sets.deliver(server, &caches.replica_sets);
            }
            2 if !pods.is_current(server, &caches.pods) => pods.deliver(server, &caches.pods),
            _ => return false,
        }
        true
    }

    /// Whether the caches show everything, and no decision is under way.
    pub fn is_idle(&mut self) -> bool {
        let (server, process) = (&mut self.server, &mut self.process);
        let caches = process.caches.clone();
        let (deployments, sets, pods) = &mut process.feeds;
        process.flights.is_empty()
            && deployments.is_current(server, &caches.deployments)
            && sets.is_current(server, &caches.replica_sets)
            && pods.is_current(server, &caches.pods)
    }

    /// An old event comes again (`Some`: how many back), or the watch breaks.
    pub fn disturb_feed(&mut self, kind: usize, back: Option<usize>) {
        let (server, process) = (&mut self.server, &mut self.process);
        let caches = process.caches.clone();
        let (deployments, sets, pods) = &mut process.feeds;
        match (kind, back) {
            (0, Some(back)) => deployments.double(server, &caches.deployments, back),
            (0, None) => deployments.list(server, &caches.deployments),
            (1, Some(back)) => sets.double(server, &caches.replica_sets, back),
            (1, None) => sets.list(server, &caches.replica_sets),
            (_, Some(back)) => pods.double(server, &caches.pods, back),
            (_, None) => pods.list(server, &caches.pods),
        }
    }

    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.server.now - self.process.began)
    }

    /// A controller takes the next turn it has; false when it has none.
    pub fn take_turn(&mut self, kind: Kind) -> bool {
        match kind {
            Kind::Deployment => self.take_turn_of::<Deployments>(),
            _ => self.take_turn_of::<ReplicaSets>(),
        }
    }

    fn roots(&self, kind: Kind) -> Arc<Mutex<Roots>> {
        match kind {
            Kind::Deployment => self.process.roots.0.clone(),
            _ => self.process.roots.1.clone(),
        }
    }

    fn take_turn_of<D: Decide>(&mut self) -> bool
    where
        D::Root: Served,
    {
        let caches = self.process.caches.clone();
        if ![Kind::Deployment, Kind::ReplicaSet, Kind::Pod]
            .iter()
            .all(|kind| caches.is_whole(*kind))
        {
            return false;
        }
        let now = self.elapsed();
        let roots = self.roots(D::Root::KIND);
        let Some(turn) = roots.lock().unwrap().next(now, |gate| gate.is_open(&caches)) else {
            return false;
        };
        let root = D::Root::cache(&caches).get(&turn.key);
        let decision = driver::decide::<D>(&caches, &turn, root.as_ref(), instant(self.server.now));
        let decision = decision.expect("decisions do not panic");
        let Some(root) = root else {
            let outcome = Outcome { is_gone: true, ..Outcome::default() };
            roots.lock().unwrap().finish(&turn.key, turn.may_change, outcome, now);
            return true;
        };
        if D::Root::KIND == Kind::Deployment && turn.may_change {
            self.decided.push(Decided {
                deployment: caches.deployments.get(&turn.key).unwrap(),
                sets: caches.replica_sets.within(&turn.key.namespace),
                writes: decision.changes.iter().map(|intent| intent.write.clone()).collect(),
            });
        }
        let status = decision.status.map(|status| {
            let held = serde_json::to_value(root.as_ref()).unwrap();
            let difference = joey::reconcile::settle::difference(&held["status"], &status);
            let mut patch = json!({"status": difference});
            if !decision.annotations.is_empty() {
                patch["metadata"] = json!({"annotations": decision.annotations});
            }
            patch
        });
        self.process.flights.push(Flight {
            kind: D::Root::KIND,
            pending: if turn.may_change { decision.changes.into() } else { VecDeque::new() },
            root: Target::of(root.meta()),
            turn,
            status,
            outcome: Outcome { again: decision.again, ..Outcome::default() },
        });
        true
    }

    /// One write of one decision under way (`choice` says which); false when none is.
    pub fn advance(&mut self, choice: usize) -> bool {
        if self.process.flights.is_empty() {
            return false;
        }
        let index = choice % self.process.flights.len();
        let caches = self.process.caches.clone();
        let mut flight = self.process.flights.swap_remove(index);
        if !flight.pending.is_empty() && flight.outcome.failures.is_empty() {
            // Changes are independent of each other: any order must do.
            let place = choice / 7 % flight.pending.len();
            let intent = flight.pending.remove(place).unwrap();
            let serves = |key: &Key| self.server.pods.objects.get(key).is_some_and(is_ready);
            let stops = match &intent.write {
                Write::Delete { kind: Kind::Pod, target } if serves(&target.key) => {
                    Some(target.key.clone())
                }
                _ => None,
            };
            let fault = self.fault.take();
            let before = self.server.revision;
            let result = spoil(fault, || {
                self.server.write(&intent.write, Some((&flight.root, flight.kind)))
            });
            self.stopped.extend(stops.filter(|_| self.server.revision != before));
            let name = match (&result, &intent.write) {
                (Ok(Some(object)), _) => object.name_any(),
                (_, Write::Delete { target, .. }) => target.key.name.to_string(),
                _ => String::new(),
            };
            let missed = Missed::of(&intent.write);
            let ended = settle(&caches, missed, intent.write.kind(), result, &mut flight.outcome);
            if matches!(ended, Ended::Done) {
                self.tell(&flight.root.key, &intent, &name);
            }
            self.process.flights.push(flight);
            return true;
        }
        let went_well = flight.outcome.failures.is_empty() && !flight.outcome.was_overtaken;
        if let Some(patch) = flight.status.take().filter(|_| went_well) {
            let patch = guarded(&flight.root, patch);
            let key = &flight.root.key;
            let fault = self.fault.take();
            let written = spoil(fault, || match flight.kind {
                Kind::Deployment => answer(self.server.patch::<Deployment>(key, &patch, true)),
                _ => answer(self.server.patch::<ReplicaSet>(key, &patch, true)),
            });
            let missed = Missed::Target(&flight.root);
            settle(&caches, missed, flight.kind, written, &mut flight.outcome);
        }
        let (now, roots) = (self.elapsed(), self.roots(flight.kind));
        let turn = &flight.turn;
        roots.lock().unwrap().finish(&turn.key, turn.may_change, flight.outcome, now);
        true
    }

    fn tell(&mut self, root: &Key, intent: &Intent, name: &str) {
        let text = match &intent.told {
            Told::Whole { done, .. } => format!("{}: {}", done.reason, done.text),
            Told::ByName { done, .. } => format!("{}: {}{name}", done.reason, done.text),
            Told::Nothing | Told::Failed { .. } => return,
        };
        self.told.push(format!("{:>4} s  {root}  {}", self.server.now, text.trim_end()));
    }

    /// The garbage collector judges what is suspect; false when nothing is.
    pub fn collect(&mut self) -> bool {
        let caches = self.process.caches.clone();
        if ![Kind::Deployment, Kind::ReplicaSet, Kind::Pod]
            .iter()
            .all(|kind| caches.is_whole(*kind))
        {
            return false;
        }
        let mut suspects = self.process.graph.lock().unwrap().suspects();
        suspects.append(&mut self.process.again);
        let mut acted = false;
        for uid in suspects {
            let mut read = std::collections::BTreeMap::new();
            loop {
                let graph = self.process.graph.lock().unwrap();
                let Some(node) = graph.get(&uid).cloned() else { break };
                let verdict = graph.judge(&uid, &read);
                drop(graph);
                let key = Key::of(&node.metadata);
                let done = match verdict {
                    Verdict::Keep => break,
                    Verdict::Read(owners) => {
                        for owner in owners {
                            let owner_key = Key::new(&key.namespace, &owner.name);
                            let found = match owner.kind.as_str() {
                                "Deployment" => {
                                    self.server.get::<Deployment>(&owner_key).map(|o| o.metadata)
                                }
                                _ => self.server.get::<ReplicaSet>(&owner_key).map(|o| o.metadata),
                            };
                            let same = found.is_some_and(|m| m.uid.as_deref() == Some(&owner.uid));
                            let presence = match same {
                                true => Presence::Present { goes_after_dependents: false },
                                false => Presence::Absent,
                            };
                            read.insert(owner.uid, presence);
                        }
                        continue;
                    }
                    Verdict::Delete { policy } => {
                        assert_eq!(policy, Policy::Background);
                        match node.kind.as_str() {
                            "ReplicaSet" => self.server.delete::<ReplicaSet>(&key, Some(&uid)),
                            _ => self.server.delete::<Pod>(&key, Some(&uid)),
                        }
                    }
                    other => panic!("nothing here asks for {other:?}"),
                };
                acted = true;
                if done.is_err_and(|status| status.code == 409) {
                    self.process.again.insert(uid.clone());
                }
                break;
            }
        }
        acted
    }

    /// The node does one thing about one pod; false when there is nothing to do for it.
    pub fn work_on_node(&mut self, choice: usize) -> bool {
        let is_due = |pod: &Pod| {
            let is_bad = pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some(BAD);
            pod.metadata.deletion_timestamp.is_some()
                || pod.spec.as_ref().unwrap().node_name.is_none()
                || !is_ready(pod) && !is_bad && !is_over(pod)
        };
        let due: Vec<Key> = self
            .server
            .pods
            .objects
            .iter()
            .filter(|(_, pod)| is_due(pod))
            .map(|(key, _)| key.clone())
            .collect();
        let Some(key) = due.get(choice % due.len().max(1)) else { return false };
        let mut pod = self.server.get::<Pod>(key).unwrap();
        if pod.metadata.deletion_timestamp.is_some() {
            self.server.remove::<Pod>(key);
            return true;
        }
        let spec = pod.spec.as_mut().unwrap();
        if spec.node_name.is_none() {
            spec.node_name = Some("box".into());
        } else {
            self.set_ready(&mut pod, true);
        }
        self.server.put(pod).unwrap();
        true
    }

    fn set_ready(&self, pod: &mut Pod, ready: bool) {
        let status = if ready { "True" } else { "False" };
        pod.status = Some(PodStatus {
            phase: Some("Running".into()),
            conditions: Some(vec![PodCondition {
                type_: "Ready".into(),
                status: status.into(),
                last_transition_time: Some(self.server.time()),
                ..PodCondition::default()
            }]),
            ..PodStatus::default()
        });
    }

    /// A ready pod stops serving by itself.
    pub fn break_pod(&mut self, choice: usize) -> Option<Key> {
        let ready: Vec<Key> = self
            .server
            .pods
            .objects
            .iter()
            .filter(|(_, pod)| is_ready(pod))
            .map(|(key, _)| key.clone())
            .collect();
        let key = ready.get(choice % ready.len().max(1))?.clone();
        let mut pod = self.server.get::<Pod>(&key).unwrap();
        self.set_ready(&mut pod, false);
        self.server.put(pod).unwrap();
        Some(key)
    }

    /// Everything that is due happens, in order and without faults, until nothing is left to do.
    ///
    /// # Panics
    /// If that takes for ever: the controllers work against each other.
    pub fn run_until_quiet(&mut self) {
        let (mut rounds, mut quiet) = (0, 0);
        while quiet < 2 {
            rounds += 1;
            assert!(rounds < 5_000, "the controllers do not come to rest");
            if self.run_round() {
                quiet = 0;
                continue;
            }
            // Back-offs end, and only then is it quiet.
            quiet += 1;
            self.server.now += 40;
        }
    }

    /// One thing after the other of whatever is due; false when nothing was.
    pub fn run_round(&mut self) -> bool {
        let mut did = false;
        for kind in 0..3 {
            while self.deliver(kind) {
                did = true;
            }
        }
        did |= self.take_turn(Kind::Deployment);
        did |= self.take_turn(Kind::ReplicaSet);
        while self.advance(0) {
            did = true;
        }
        did |= self.collect();
        did | self.work_on_node(0)
    }
}

/// A write, and what a fault makes of it and of its answer.
fn spoil(fault: Option<Fault>, write: impl FnOnce() -> Written) -> Written {
    match fault {
        None => write(),
        Some(Fault::Refused) => Err(api_error(refusal(403, "Forbidden"))),
        Some(Fault::NotMade) => Err(api_error(refusal(500, "InternalError"))),
        Some(Fault::Unanswered) => {
            let written = write();
            // Only what has been made can be left without an answer.
            written.and(Err(api_error(refusal(500, "InternalError"))))
        }
    }
}

pub fn is_ready(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && !is_over(pod)
        && joey::reconcile::pods::ready_since(pod).is_some()
}

/// Whether `pod` is an active replica of one of `deployment`'s ReplicaSets.
pub fn is_replica(server: &Server, deployment: &Deployment, pod: &Pod) -> bool {
    let wanted = deployment.spec.as_ref().unwrap().selector.match_labels.as_ref().unwrap();
    pod.metadata.deletion_timestamp.is_none()
        && !is_over(pod)
        && wanted.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
        && set_of(server, pod).is_some_and(|set| {
            set.owner_references()
                .iter()
                .any(|owner| Some(&owner.uid) == deployment.metadata.uid.as_ref())
        })
}

pub fn set_of<'a>(server: &'a Server, pod: &Pod) -> Option<&'a ReplicaSet> {
    let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true))?;
    let key = Key::new(&pod.namespace()?, &owner.name);
    server
        .replica_sets
        .objects
        .get(&key)
        .filter(|set| set.metadata.uid.as_ref() == Some(&owner.uid))
}
