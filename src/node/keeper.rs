//! The pods of this node: a worker for each, from the first sight of its object to the end of its last trace.
//!
//! It decides nothing about a pod: whether the node takes it stands in `admission`, what becomes of what the host still
//! holds after a start in `adopt`.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::events::{self, Note};
use crate::node::admission::{Rejection, Room};
use crate::node::adopt::{self, Fate};
use crate::node::compile::PodPaths;
use crate::node::volume;
use crate::node::worker::{self, Existing, Found, Shared, Worker};
use crate::runtime::{self, RuntimeError};

/// The owner of all workers.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    stop: CancellationToken,
    workers: BTreeMap<String, Employed>,
    running: JoinSet<String>,
    /// Found on the host, not yet claimed by a pod of the API.
    unclaimed: BTreeMap<String, Existing>,
    traces: BTreeSet<String>,
    /// Pods whose shims have not answered yet, by uid: nothing is done about them before.
    silent: BTreeMap<String, Option<Arc<core::Pod>>>,
    answers: JoinSet<(String, Result<runtime::Found, RuntimeError>)>,
    /// Whether all pods that are wanted have been told once.
    is_sorted: bool,
    room: Room,
    /// Pods whose admission is still to be decided, by uid.
    unjudged: BTreeMap<String, Arc<core::Pod>>,
}

struct Employed {
    object: watch::Sender<Option<Arc<core::Pod>>>,
    /// Workers of this pod that panicked one after the other.
    panics: u32,
}

impl Keeper {
    pub fn new(
        shared: Arc<Shared>,
        adopted: runtime::Adopted,
        traces: BTreeSet<String>,
        stop: CancellationToken,
    ) -> Keeper {
        let mut answers = JoinSet::new();
        let mut silent = BTreeMap::new();
        for runtime::Late { uid, found } in adopted.late {
            silent.insert(uid.clone(), None);
            answers.spawn(async move { (uid, found.await) });
        }
        let found = adopted.found.into_iter();
        Keeper {
            shared,
            stop,
            workers: BTreeMap::new(),
            running: JoinSet::new(),
            unclaimed: found.map(existing).collect(),
            traces,
            silent,
            answers,
            is_sorted: false,
            room: Room::default(),
            unjudged: BTreeMap::new(),
        }
    }

    pub async fn run(mut self, client: kube::Client, node: String) {
        let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
        let events = watcher(Api::<core::Pod>::all(client.clone()), config).default_backoff();
        let mut events = pin!(events);
        let config = watcher::Config::default().fields(&format!("metadata.name={node}"));
        let nodes = watcher(Api::<core::Node>::all(client), config).default_backoff();
        let mut nodes = pin!(nodes.applied_objects());
        let mut listed = None;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                event = events.next() => match event {
                    Some(Ok(event)) => self.heed(event, &node, &mut listed),
                    Some(Err(error)) => tracing::warn!(%error, "watching the pods of this node"),
                    None => break,
                },
                seen = nodes.next() => match seen {
                    Some(Ok(node)) => self.room.see(&node),
                    Some(Err(error)) => tracing::warn!(%error, "watching this node"),
                    None => break,
                },
                Some(answered) = self.answers.join_next(), if !self.answers.is_empty() => {
                    match answered {
                        Ok((uid, answer)) => self.answered(uid, answer),
                        Err(error) => tracing::error!(%error, "asking a shim panicked"),
                    }
                }
                Some(ended) = self.running.join_next_with_id(), if !self.running.is_empty() => {
                    match ended {
                        Ok((_, uid)) => self.let_go(&uid),
                        Err(error) => self.revive(&error),
                    }
                }
            }
            // A list under way may still tell of pods that hold what a new one asks for.
            if listed.is_none() && self.room.is_known() {
                self.judge(&node).await;
            }
        }
        while self.running.join_next().await.is_some() {}
    }

    fn heed(
        &mut self,
        event: watcher::Event<core::Pod>,
        node: &str,
        listed: &mut Option<BTreeSet<String>>,
    ) {
        match event {
            watcher::Event::Init => *listed = Some(BTreeSet::new()),
            watcher::Event::InitApply(pod) => {
                if let (Some(listed), Some(uid)) = (listed.as_mut(), pod.metadata.uid.clone()) {
                    listed.insert(uid);
                }
                self.take(pod, node);
            }
            watcher::Event::InitDone => {
                let listed = listed.take().unwrap_or_default();
                self.unjudged.retain(|uid, _| listed.contains(uid));
                for (_, pod) in self.silent.iter_mut().filter(|(uid, _)| !listed.contains(*uid)) {
                    *pod = None;
                }
                for (uid, employed) in &self.workers {
                    if !listed.contains(uid) {
                        self.room.release(uid);
                        employed.object.send_replace(None);
                    }
                }
                self.sort_out(&listed);
            }
            watcher::Event::Apply(pod) => self.take(pod, node),
            watcher::Event::Delete(pod) => {
                let uid = pod.metadata.uid.unwrap_or_default();
                self.unjudged.remove(&uid);
                self.silent.entry(uid.clone()).and_modify(|pod| *pod = None);
                // At once: whoever is bound in its place comes after this in the same watch.
                self.room.release(&uid);
                if let Some(employed) = self.workers.get(&uid) {
                    employed.object.send_replace(None);
                }
            }
        }
    }

    fn take(&mut self, pod: core::Pod, node: &str) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        // Only what a server without that field selector would send.
        if pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) != Some(node) {
            return;
        }
        let pod = Arc::new(pod);
        if is_over(&pod) {
            self.room.release(&uid);
        }
        if let Some(employed) = self.workers.get(&uid) {
            employed.object.send_replace(Some(pod));
            return;
        }
        if let Some(parked) = self.silent.get_mut(&uid) {
            self.room.hold(&uid, &pod);
            *parked = Some(pod);
            return;
        }
        self.unjudged.remove(&uid);
        let existing = self.unclaimed.remove(&uid);
        if existing.is_none() && is_new(&pod) {
            self.unjudged.insert(uid, pod);
            return;
        }
        self.employ(uid, pod, existing, None, 0);
    }

    /// Decides on the pods that came, the oldest first, as kubelet does.
    async fn judge(&mut self, node: &str) {
        let mut pods: Vec<_> = std::mem::take(&mut self.unjudged).into_iter().collect();
        pods.sort_by_key(|(_, pod)| pod.metadata.creation_timestamp.clone());
        let mut is_fresh = false;
        for (uid, pod) in pods {
            let mut rejection = self.room.judge(&pod).err();
            if rejection.is_some() && !std::mem::replace(&mut is_fresh, true) {
                // What made the scheduler bind it, a new label perhaps, may still be on its way here.
                let api: Api<core::Node> = Api::all(self.shared.client.clone());
                if let Ok(Some(node)) = api.get_opt(node).await {
                    self.room.see(&node);
                }
                rejection = self.room.judge(&pod).err();
            }
            if let Some(rejection) = &rejection {
                self.shared.recorder.note(Note {
                    about: events::about_pod(&pod, None),
                    kind: events::Kind::Warning,
                    reason: rejection.reason.clone().into(),
                    message: rejection.message.clone(),
                });
            }
            self.employ(uid, pod, None, rejection, 0);
        }
    }

    fn employ(
        &mut self,
        uid: String,
        pod: Arc<core::Pod>,
        existing: Option<Existing>,
        rejection: Option<Rejection>,
        panics: u32,
    ) {
        let (object, objects) = watch::channel(Some(pod.clone()));
        if rejection.is_none() && !is_over(&pod) {
            self.room.hold(&uid, &pod);
        }
        let attached = self.shared.network.attached().contains(&uid);
        let found = Found { existing, attached, rejection };
        self.traces.remove(&uid);
        let (shared, stop) = (self.shared.clone(), self.stop.clone());
        // One bad pod must not spin: each panic doubles the pause before its next worker.
        let pause = match panics {
            0 => Duration::ZERO,
            n => Duration::from_secs(10).saturating_mul(1 << (n - 1).min(5)),
        };
        let name = uid.clone();
        self.running.spawn(async move {
            if !pause.is_zero() {
                let rest = tokio::time::sleep(pause);
                if stop.run_until_cancelled(rest).await.is_none() {
                    return name;
                }
            }
            Worker::new(shared, objects, pod, found, stop).run().await;
            name
        });
        self.workers.insert(uid, Employed { object, panics });
    }

    fn let_go(&mut self, uid: &str) {
        self.workers.remove(uid);
        self.room.release(uid);
    }

    /// A worker panicked: another one takes the pod over as a new daemon would.
    fn revive(&mut self, error: &tokio::task::JoinError) {
        tracing::error!(%error, "a pod's worker panicked; another one takes over");
        // Whose it was: the one whose receiver is gone.
        let orphans: Vec<String> = self
            .workers
            .iter()
            .filter(|(_, employed)| employed.object.is_closed())
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in orphans {
            let Some(employed) = self.workers.remove(&uid) else { continue };
            let newest = employed.object.borrow().clone();
            let Some(pod) = newest else {
                // Nobody wants it any more, so nobody else will ever take it away.
                let entry = self.shared.pods.find_uid(&uid);
                if let Some(entry) = &entry {
                    self.shared.pods.withdraw(&entry.namespace, &entry.name, &uid);
                }
                self.clear_away(uid, entry.and_then(|entry| entry.pod.clone()));
                continue;
            };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let existing =
                self.shared.pods.find(namespace, name).filter(|entry| entry.uid == uid).and_then(
                    |entry| {
                        let plans =
                            entry.containers.values().filter_map(|c| c.plan.clone()).collect();
                        Some(Existing { pod: entry.pod.clone()?, plans })
                    },
                );
            self.room.release(&uid);
            let rejection = match existing.is_none() && is_new(&pod) {
                true => self.room.judge(&pod).err(),
                false => None,
            };
            self.employ(uid, pod, existing, rejection, employed.panics.saturating_add(1));
        }
    }

    /// After the first list: what the host holds and the API does not know goes.
    fn sort_out(&mut self, wanted: &BTreeSet<String>) {
        self.is_sorted = true;
        let running: BTreeSet<String> = self.unclaimed.keys().cloned().collect();
        let mut traces = std::mem::take(&mut self.traces);
        traces.retain(|uid| !self.silent.contains_key(uid));
        for (uid, fate) in adopt::fates(&running, &traces, wanted) {
            let existing = self.unclaimed.remove(&uid);
            match fate {
                Fate::Keep => {}
                Fate::Kill | Fate::Forget => {
                    tracing::info!(pod = %uid, ?fate, "left over from an earlier daemon");
                    self.clear_away(uid, existing.map(|e| e.pod));
                }
            }
        }
    }

    /// A shim that was silent has answered, or is lost.
    fn answered(&mut self, uid: String, answer: Result<runtime::Found, RuntimeError>) {
        let parked = self.silent.remove(&uid).flatten();
        let found = match answer {
            Ok(found) => Some(existing(found).1),
            Err(error) => {
                tracing::warn!(pod = %uid, %error, "a pod of an earlier daemon cannot be read");
                None
            }
        };
        match (parked, found) {
            (Some(pod), found) => self.employ(uid, pod, found, None, 0),
            (None, found) if self.is_sorted => self.clear_away(uid, found.map(|found| found.pod)),
            (None, Some(found)) => drop(self.unclaimed.insert(uid, found)),
            (None, None) => drop(self.traces.insert(uid)),
        }
    }

    fn clear_away(&mut self, uid: String, pod: Option<runtime::Pod>) {
        let shared = self.shared.clone();
        self.running.spawn(async move {
            clear_away(&shared, &uid, pod).await;
            uid
        });
    }
}

/// As workers take it, by uid.
fn existing(found: runtime::Found) -> (String, Existing) {
    let uid = found.plan.uid.as_str().to_owned();
    (uid, Existing { pod: found.pod, plans: found.containers })
}

/// Whether nothing of it is to run any more.
fn is_over(pod: &core::Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether no daemon has taken the pod yet, and it is to run.
fn is_new(pod: &core::Pod) -> bool {
    let is_known = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
    !is_known && !is_over(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Ends and removes everything of a pod that the API no longer knows.
async fn clear_away(shared: &Shared, uid: &str, pod: Option<runtime::Pod>) {
    if let Some(pod) = pod {
        let mut state = pod.state();
        let names: Vec<String> = state.borrow().containers.keys().cloned().collect();
        for name in names {
            // What has ended cannot hear it.
            let _ = pod.signal(&name, libc::SIGTERM).await;
        }
        let all_ended = state.wait_for(|state| {
            state.containers.values().all(|c| matches!(c.phase, runtime::ContainerPhase::Exited(_)))
        });
        // Those that do not end by themselves are killed with the pod.
        let _ = tokio::time::timeout(Duration::from_secs(2), all_ended).await;
        if let Err(error) = pod.remove().await {
            tracing::warn!(pod = %uid, %error, "a pod left over could not be removed");
            return;
        }
    }
    if let Err(error) = shared.network.detach(uid).await {
        tracing::warn!(pod = %uid, %error, "an address left over could not be given back");
    }
    let paths = PodPaths::new(&shared.data_dir, &shared.run_dir, uid);
    let (images, holder) = (shared.images.clone(), uid.to_owned());
    let removed = tokio::task::spawn_blocking(move || {
        volume::remove(&paths).and_then(|()| volume::remove_tree(&paths.data))?;
        worker::release(&images, &holder).map_err(std::io::Error::other)
    });
    if !matches!(removed.await, Ok(Ok(()))) {
        tracing::warn!(pod = %uid, "directories left over could not be removed");
    }
}
