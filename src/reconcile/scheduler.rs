//! Binds pods to nodes: to the first node that they fit, else they wait and say why.
//!
//! It never preempts and never scores: with one node there is nothing to prefer. What fits is decided in
//! [`fit`].

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::events::{Kind, Note, Recorder, about_pod};
use crate::model::time::Timestamp;
use crate::placement::{Demand, NodeView};
use crate::sys::clock;

pub mod fit;

/// The name that pods without a wish have.
const NAME: &str = "default-scheduler";
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Schedules until cancelled.
pub async fn run(client: kube::Client, stop: CancellationToken) {
    let recorder = Recorder::start(client.clone(), NAME, String::new(), stop.child_token());
    let scheduler = Scheduler { client, recorder, world: World::default() };
    stop.run_until_cancelled(scheduler.run()).await;
}

/// What the scheduler knows.
#[derive(Default)]
struct World {
    nodes: BTreeMap<String, core::Node>,
    /// By uid.
    bound: BTreeMap<String, Bound>,
    waiting: BTreeMap<String, Arc<core::Pod>>,
}

struct Bound {
    node: String,
    demand: Demand,
}

/// What to do about a waiting pod.
#[derive(Debug, PartialEq)]
enum Decision {
    Bind { node: String },
    Wait { message: String },
}

impl World {
    fn see(&mut self, pod: core::Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let spec = pod.spec.as_ref();
        let node = spec.and_then(|s| s.node_name.clone()).filter(|node| !node.is_empty());
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        let is_over = matches!(phase, Some("Succeeded" | "Failed"));
        let ours = spec.and_then(|s| s.scheduler_name.as_deref()).is_none_or(|name| name == NAME);
        let gated = spec.and_then(|s| s.scheduling_gates.as_ref()).is_some_and(|g| !g.is_empty());
        self.forget(&uid);
        match node {
            Some(node) if !is_over => {
                self.bound.insert(uid, Bound { node, demand: Demand::of(&pod) });
            }
            None if ours && !gated && !is_over && pod.metadata.deletion_timestamp.is_none() => {
                self.waiting.insert(uid, Arc::new(pod));
            }
            Some(_) | None => {}
        }
    }

    fn forget(&mut self, uid: &str) {
        self.bound.remove(uid);
        self.waiting.remove(uid);
    }

    /// Every waiting pod, the most important and oldest first, each after those before it have been placed.
    fn decide(&self) -> Vec<(Arc<core::Pod>, Decision)> {
        let mut views: Vec<NodeView> = self.nodes.values().map(NodeView::of).collect();
        for bound in self.bound.values() {
            if let Some(view) = views.iter_mut().find(|view| view.name == bound.node) {
                view.take(&bound.demand);
            }
        }
        let mut waiting: Vec<&Arc<core::Pod>> = self.waiting.values().collect();
        waiting.sort_by_key(|pod| {
            let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
            (std::cmp::Reverse(priority), pod.metadata.creation_timestamp.clone())
        });
        waiting
            .into_iter()
            .map(|pod| {
                let demand = Demand::of(pod);
                let against: Vec<_> =
                    views.iter().map(|view| fit::reasons(pod, &demand, view)).collect();
                let decision = match against.iter().position(Vec::is_empty) {
                    Some(index) => {
                        views[index].take(&demand);
                        Decision::Bind { node: views[index].name.clone() }
                    }
                    None => Decision::Wait { message: fit::message(&against) },
                };
                (pod.clone(), decision)
            })
            .collect()
    }
}

/// The condition that a waiting pod is to have; `None` when it has it already.
fn unschedulable(pod: &core::Pod, message: &str, now: Timestamp) -> Option<Value> {
    let held = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let held = held.into_iter().find(|c| c.type_ == "PodScheduled");
    if held.is_some_and(|c| c.status == "False" && c.message.as_deref() == Some(message)) {
        return None;
    }
    let since = held.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
    Some(json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {"conditions": [{
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastProbeTime": null,
            "lastTransitionTime": since.unwrap_or(Time(now.as_jiff())),
            "observedGeneration": pod.metadata.generation,
        }]},
    }))
}

enum Seen {
    Pod(watcher::Event<core::Pod>),
    Node(watcher::Event<core::Node>),
    Failed(watcher::Error),
}

struct Scheduler {
    client: kube::Client,
    recorder: Recorder,
    world: World,
}

impl Scheduler {
    async fn run(mut self) {
        let config = watcher::Config::default;
        let pods = watcher(Api::<core::Pod>::all(self.client.clone()), config());
        let nodes = watcher(Api::<core::Node>::all(self.client.clone()), config());
        let pods = pods.default_backoff().map(|e| e.map_or_else(Seen::Failed, Seen::Pod));
        let nodes = nodes.default_backoff().map(|e| e.map_or_else(Seen::Failed, Seen::Node));
        let mut events = pin!(futures::stream::select(pods, nodes));
        // A list under way: nothing is decided before both are known whole.
        let (mut pods_known, mut nodes_known) = (false, false);
        let mut retry = false;
        loop {
            let event = tokio::select! {
                event = events.next() => match event {
                    Some(event) => Some(event),
                    None => return,
                },
                () = tokio::time::sleep(RETRY), if retry => None,
            };
            match event {
                Some(Seen::Pod(watcher::Event::Init)) => {
                    pods_known = false;
                    self.world.bound.clear();
                    self.world.waiting.clear();
                }
                Some(Seen::Pod(watcher::Event::InitDone)) => pods_known = true,
                Some(Seen::Pod(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod))) => {
                    self.world.see(pod);
                }
                Some(Seen::Pod(watcher::Event::Delete(pod))) => {
                    self.world.forget(pod.metadata.uid.as_deref().unwrap_or_default());
                }
                Some(Seen::Node(watcher::Event::Init)) => {
                    nodes_known = false;
                    self.world.nodes.clear();
                }
                Some(Seen::Node(watcher::Event::InitDone)) => nodes_known = true,
                Some(Seen::Node(watcher::Event::Apply(node) | watcher::Event::InitApply(node))) => {
                    self.world.nodes.insert(node.name_any(), node);
                }
                Some(Seen::Node(watcher::Event::Delete(node))) => {
                    self.world.nodes.remove(&node.name_any());
                }
                Some(Seen::Failed(error)) => {
                    tracing::warn!(%error, "the scheduler's watch failed");
                    continue;
                }
                None => {}
            }
            if pods_known && nodes_known && !self.world.waiting.is_empty() {
                retry = !self.act().await;
            } else {
                retry = false;
            }
        }
    }

    /// Carries the decisions out; false when a write failed and is to be tried again.
    async fn act(&mut self) -> bool {
        let mut all_written = true;
        for (pod, decision) in self.world.decide() {
            let written = match decision {
                Decision::Bind { node } => self.bind(&pod, node).await,
                Decision::Wait { message } => self.tell(&pod, &message).await,
            };
            if let Err(error) = written {
                tracing::debug!(pod = pod.name_any(), %error, "a pod was not scheduled");
                all_written = false;
            }
        }
        all_written
    }

    async fn bind(&mut self, pod: &core::Pod, node: String) -> Result<(), kube::Error> {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let binding = core::Binding {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.clone()),
                // Refused when a younger pod has taken the name.
                uid: pod.metadata.uid.clone(),
                ..ObjectMeta::default()
            },
            target: core::ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Node".into()),
                name: Some(node.clone()),
                ..core::ObjectReference::default()
            },
        };
        let api: Api<core::Pod> = Api::namespaced(self.client.clone(), &namespace);
        let bound: Result<Value, _> =
            api.create_subresource("binding", &name, &PostParams::default(), &binding).await;
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        match bound {
            Ok(_) => {
                // Counted at once, before the watch shows it.
                self.world.waiting.remove(&uid);
                let demand = Demand::of(pod);
                self.world.bound.insert(uid, Bound { node: node.clone(), demand });
                self.recorder.note(Note {
                    about: about_pod(pod, None),
                    kind: Kind::Normal,
                    reason: "Scheduled".into(),
                    message: format!("Successfully assigned {namespace}/{name} to {node}"),
                });
                Ok(())
            }
            // Gone, or bound by somebody else: the watch will tell.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {
                self.world.waiting.remove(&uid);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn tell(&mut self, pod: &core::Pod, message: &str) -> Result<(), kube::Error> {
        let Some(patch) = unschedulable(pod, message, clock::now()) else {
            return Ok(());
        };
        let api: Api<core::Pod> =
            Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let patch = Patch::Strategic(patch);
        match api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await {
            Ok(newer) => {
                self.recorder.note(Note {
                    about: about_pod(pod, None),
                    kind: Kind::Warning,
                    reason: "FailedScheduling".into(),
                    message: message.to_owned(),
                });
                // Known before the watch shows it, so that it is told once.
                self.world.see(newer);
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, created: &str, node: Option<&str>, cpu: &str) -> core::Pod {
        serde_json::from_value(json!({
            "metadata": {"name": uid, "uid": uid, "creationTimestamp": created},
            "spec": {"nodeName": node, "containers": [
                {"name": "a", "resources": {"requests": {"cpu": cpu}}}]},
        }))
        .unwrap()
    }

    fn world(pods: &[core::Pod]) -> World {
        let mut world = World::default();
        let node = json!({"metadata": {"name": "box"}, "status": {"allocatable": {"cpu": "2", "pods": "9"}}});
        world.nodes.insert("box".into(), serde_json::from_value(node).unwrap());
        for pod in pods {
            world.see(pod.clone());
        }
        world
    }

    fn decided(world: &World) -> Vec<String> {
        let decisions = world.decide();
        decisions
            .into_iter()
            .map(|(pod, decision)| match decision {
                Decision::Bind { node } => format!("{} → {node}", pod.name_any()),
                Decision::Wait { .. } => format!("{} waits", pod.name_any()),
            })
            .collect()
    }

    #[test]
    fn what_is_placed_counts_for_those_after_it_and_the_oldest_comes_first() {
        let mut world = world(&[
            pod("young", "2026-01-02T00:00:00Z", None, "1"),
            pod("old", "2026-01-01T00:00:00Z", None, "1500m"),
            pod("small", "2026-01-03T00:00:00Z", None, "400m"),
        ]);
        assert_eq!(decided(&world), ["old → box", "young waits", "small → box"]);
        world.see(pod("running", "2026-01-01T00:00:00Z", Some("box"), "2"));
        assert_eq!(decided(&world), ["old waits", "young waits", "small waits"]);
        world.forget("running");
        assert_eq!(decided(&world), ["old → box", "young waits", "small → box"]);
    }

    #[test]
    fn finished_deleted_foreign_and_gated_pods_are_left_alone() {
        let base = pod("p", "2026-01-01T00:00:00Z", None, "1");
        let change = |change: fn(&mut core::Pod)| {
            let mut pod = base.clone();
            change(&mut pod);
            decided(&world(&[pod])).len()
        };
        assert_eq!(change(|_| ()), 1);
        assert_eq!(
            change(|p| p.metadata.deletion_timestamp = p.metadata.creation_timestamp.clone()),
            0
        );
        assert_eq!(change(|p| p.spec.as_mut().unwrap().scheduler_name = Some("other".into())), 0);
        assert_eq!(
            change(|p| {
                let gate = core::PodSchedulingGate { name: "g".into() };
                p.spec.as_mut().unwrap().scheduling_gates = Some(vec![gate]);
            }),
            0
        );
        let mut done = pod("d", "2026-01-01T00:00:00Z", Some("box"), "2");
        done.status =
            Some(core::PodStatus { phase: Some("Succeeded".into()), ..core::PodStatus::default() });
        assert_eq!(decided(&world(&[done, base.clone()])), ["p → box"]);
    }

    #[test]
    fn a_waiting_pod_is_told_once_and_keeps_its_transition_time() {
        let now = Timestamp::from_unix(1_800_000_000, 0);
        let mut waiting = pod("p", "2026-01-01T00:00:00Z", None, "9");
        let patch = unschedulable(&waiting, "no", now).unwrap();
        waiting.status = serde_json::from_value(patch["status"].clone()).unwrap();
        assert_eq!(unschedulable(&waiting, "no", now), None);
        let later = now.plus(Duration::from_secs(60));
        let patch = unschedulable(&waiting, "other", later).unwrap();
        assert_eq!(
            patch["status"]["conditions"][0]["lastTransitionTime"],
            json!(Time(now.as_jiff()))
        );
    }
}
