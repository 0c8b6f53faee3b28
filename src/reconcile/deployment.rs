//! Deployments: which ReplicaSets there are, and how many replicas each has next.
//!
//! Pure. It never makes a pod; that is the ReplicaSets' part. The arithmetic is in [`rollout`], what
//! `kubectl rollout` reads in [`status`] and [`revision`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;

use self::rollout::{Limits, Share, Size};
use super::caches::{Caches, Kind, controller, wake_controller};
use super::decide::{
    Decide, Decision, Failure, Intent, Key, Note, Phrase, Seen, Target, Told, Wake, Write,
};
use super::owners::{self, Claim};
use super::pods;
use crate::events;
use crate::model::selector::LabelSelector;
use crate::model::time::Timestamp;

pub mod revision;
pub mod rollout;
pub mod status;

pub struct Deployments;

/// A Deployment and its ReplicaSets.
pub struct World {
    deployment: Arc<Deployment>,
    selector: LabelSelector,
    /// Oldest first.
    claim: Claim<ReplicaSet>,
    /// Pods of these sets that are not over, those that are being stopped included, by uid of the set.
    pods: BTreeMap<String, usize>,
    /// Names of all ReplicaSets of the namespace, whosever they are.
    taken: Vec<String>,
    failure: Option<Failure>,
}

impl Decide for Deployments {
    type Root = Deployment;
    type World = World;
    const NAME: &'static str = "deployment-controller";
    const READS: &'static [Kind] = &[Kind::ReplicaSet, Kind::Pod];

    fn wakes(caches: &Arc<Caches>, wake: &Wake) {
        let (waker, all) = (wake.clone(), Arc::downgrade(caches));
        caches.replica_sets.listen(move |change| {
            wake_controller(change, "Deployment", &waker, |set| {
                let Some(caches) = all.upgrade() else { return Vec::new() };
                let candidates = caches.deployments.within(&set.namespace().unwrap_or_default());
                let selects = |deployment: &&Arc<Deployment>| {
                    deployment
                        .spec
                        .as_ref()
                        .is_some_and(|spec| owners::selector(&spec.selector).matches(set.labels()))
                };
                candidates.iter().filter(selects).map(|d| Key::of(&d.metadata)).collect()
            });
        });
        let (wake, all) = (wake.clone(), Arc::downgrade(caches));
        caches.pods.listen(move |change| {
            // Recreate waits for old pods to go; everything else the sets' own numbers tell.
            let (Some(old), Some(caches)) = (&change.old, all.upgrade()) else { return };
            let is_gone = change.new.as_ref().is_none_or(|pod| pods::is_over(pod));
            if is_gone && let Some(owner) = controller(old.as_ref()) {
                let namespace = old.namespace().unwrap_or_default();
                let set = caches.replica_sets.get(&Key::new(&namespace, &owner.name));
                if let Some(owner) = set.as_ref().and_then(|set| controller(set.as_ref())) {
                    wake(Key::new(&namespace, &owner.name));
                }
            }
        });
    }

    fn observe(root: &Arc<Deployment>, seen: &Seen<'_>) -> World {
        let namespace = root.namespace().unwrap_or_default();
        let sets = seen.caches.replica_sets.within(&namespace);
        let taken = sets.iter().map(|set| set.name_any()).collect();
        let selector = root.spec.as_ref().map(|spec| owners::selector(&spec.selector));
        let selector = selector.unwrap_or_else(LabelSelector::nothing);
        let mut claim = owners::claim(root.as_ref(), &selector, sets);
        claim.owned.sort_by_key(|set| {
            (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.name_any())
        });
        let mut pods = BTreeMap::new();
        if root.spec.as_ref().is_some_and(is_recreate) {
            let all = seen.caches.pods.within(&namespace);
            let standing = all.iter().filter(|pod| !pods::is_over(pod));
            for owner in standing.filter_map(|pod: &Arc<Pod>| controller(pod.as_ref())) {
                *pods.entry(owner.uid.clone()).or_insert(0) += 1;
            }
        }
        World {
            deployment: root.clone(),
            selector,
            claim,
            pods,
            taken,
            failure: seen.failures.first().cloned(),
        }
    }

    fn decide(world: &World, now: Timestamp) -> Decision {
        let Some(spec) = &world.deployment.spec else { return Decision::default() };
        let selects_all = world.selector.is_everything();
        if selects_all {
            return refuse_to_select_all(world);
        }
        let view = View::of(world, spec);
        let mut decision = Decision::default();
        if world.deployment.metadata.deletion_timestamp.is_none() {
            decision.changes =
                world.claim.intents(&owners::controlled_by(world.deployment.as_ref()));
            // What is to be adopted is looked at once it is ours.
            if decision.changes.is_empty() {
                view.plan(&mut decision);
            }
        }
        if view.wants_new_set() && view.collides() && decision.changes.is_empty() {
            let mut next = world.deployment.status.clone().unwrap_or_default();
            next.collision_count = Some(next.collision_count.unwrap_or(0) + 1);
            decision.status = Some(json!(next));
            return decision;
        }
        status::report(&view, &mut decision, now);
        decision
    }
}

fn is_recreate(spec: &DeploymentSpec) -> bool {
    spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

/// An empty selector would own every pod of its namespace; Kubernetes only says so.
fn refuse_to_select_all(world: &World) -> Decision {
    let mut decision = Decision::default();
    let deployment = &world.deployment;
    let mut next = deployment.status.clone().unwrap_or_default();
    if next.observed_generation < deployment.metadata.generation {
        next.observed_generation = deployment.metadata.generation;
        decision.status = Some(json!(next));
        decision.notes.push(Note {
            kind: events::Kind::Warning,
            reason: "SelectingAll",
            message: "This deployment is selecting all pods. A non-empty selector is required."
                .into(),
        });
    }
    decision
}

/// The world, seen with the questions of a Deployment.
pub struct View<'a> {
    deployment: &'a Deployment,
    spec: &'a DeploymentSpec,
    limits: Limits,
    /// The set of the template as it is now.
    newest: Option<&'a ReplicaSet>,
    /// Oldest first.
    old: Vec<&'a ReplicaSet>,
    world: &'a World,
}

impl<'a> View<'a> {
    fn of(world: &'a World, spec: &'a DeploymentSpec) -> View<'a> {
        let desired = spec.replicas.unwrap_or(1).max(0);
        let rolling = spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let limits = match is_recreate(spec) {
            true => Limits::recreate(desired),
            false => Limits::rolling(
                desired,
                rolling.and_then(|r| r.max_surge.as_ref()),
                rolling.and_then(|r| r.max_unavailable.as_ref()),
            ),
        };
        let is_newest = |set: &&ReplicaSet| {
            set.metadata.deletion_timestamp.is_none() && revision::has_template(set, &spec.template)
        };
        let sets = || world.claim.owned.iter().map(Arc::as_ref);
        let newest = sets().find(is_newest);
        let uid = newest.and_then(|set| set.metadata.uid.as_ref());
        View {
            deployment: &world.deployment,
            spec,
            limits,
            newest,
            old: sets().filter(|set| uid.is_none() || set.metadata.uid.as_ref() != uid).collect(),
            world,
        }
    }

    fn all(&self) -> impl Iterator<Item = &'a ReplicaSet> + '_ {
        self.old.iter().copied().chain(self.newest)
    }

    fn active(&self) -> Vec<&'a ReplicaSet> {
        self.all().filter(|set| wanted(set) > 0).collect()
    }

    fn sizes(&self) -> (Size, Vec<Size>) {
        let old = self.old.iter().map(|set| size(set)).collect();
        (self.newest.map_or(Size { is_settled: true, ..Size::default() }, size), old)
    }

    /// The name that the newest set has or will have.
    fn newest_name(&self) -> String {
        match self.newest {
            Some(set) => set.name_any(),
            None => format!("{}-{}", self.deployment.name_any(), self.hash()),
        }
    }

    fn hash(&self) -> String {
        let held = self.deployment.status.as_ref().and_then(|status| status.collision_count);
        revision::hash(&self.spec.template, held)
    }

    /// A set may be made: not while paused or at the end.
    fn wants_new_set(&self) -> bool {
        self.newest.is_none()
            && !self.is_paused()
            && self.deployment.metadata.deletion_timestamp.is_none()
    }

    /// The name of the set that is to be made belongs to another one.
    fn collides(&self) -> bool {
        self.newest.is_none() && self.world.taken.contains(&self.newest_name())
    }

    fn is_paused(&self) -> bool {
        self.spec.paused == Some(true)
    }

    /// The revision that the newest template has.
    fn revision(&self) -> i64 {
        let newest_old = self.old.iter().map(|set| revision::of(set)).max().unwrap_or(0);
        let held = self.newest.map(revision::of).unwrap_or(0);
        held.max(newest_old + 1)
    }

    /// What to change about the sets. One thing at a time: what comes after is decided when the caches show it.
    fn plan(&self, decision: &mut Decision) {
        self.describe_newest(decision);
        if !decision.changes.is_empty() {
            return;
        }
        if self.is_paused() || self.is_being_scaled() {
            self.scale(decision);
            if self.is_paused() && decision.changes.is_empty() {
                self.forget_old(decision);
            }
            return;
        }
        match is_recreate(self.spec) {
            true => self.recreate(decision),
            false => self.roll(decision),
        }
        let status = self.deployment.status.as_ref();
        if decision.changes.is_empty() && status.is_some_and(|s| status::is_complete(self, s)) {
            self.forget_old(decision);
        }
    }

    /// Somebody has changed the number of replicas since the sets were last told.
    fn is_being_scaled(&self) -> bool {
        self.active().iter().any(|set| {
            let told = set.annotations().get(revision::DESIRED).and_then(|text| text.parse().ok());
            told.is_some_and(|told: i32| told != self.limits.desired)
        })
    }

    /// Revision, change cause and the other annotations of the newest set.
    fn describe_newest(&self, decision: &mut Decision) {
        let Some(set) = self.newest else { return };
        let numbers = (self.limits.desired, self.limits.most());
        let wanted = revision::annotations(self.deployment, Some(set), self.revision(), numbers);
        let min_ready = self.spec.min_ready_seconds.unwrap_or(0);
        let held = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        if &wanted != set.annotations() || held != min_ready {
            let patch = json!({
                "metadata": {"annotations": wanted},
                "spec": {"minReadySeconds": min_ready},
            });
            let target = Target::of(&set.metadata);
            let write = Write::Patch { kind: Kind::ReplicaSet, target, patch };
            decision.changes.push(Intent { write, told: Told::Nothing });
        }
    }

    fn roll(&self, decision: &mut Decision) {
        let (newest, old) = self.sizes();
        let Some(set) = self.newest else {
            if !self.collides() {
                decision.changes.push(self.create(rollout::grow(self.limits, newest, &old)));
            }
            return;
        };
        if newest.wanted > self.limits.desired {
            return decision.changes.extend(self.resize(set, self.limits.desired));
        }
        let next = rollout::grow(self.limits, newest, &old);
        if next > newest.wanted {
            return decision.changes.extend(self.resize(set, next));
        }
        if old.iter().all(|size| size.wanted == 0) {
            return;
        }
        let next = rollout::shrink(self.limits, newest, &old);
        for (set, next) in self.old.iter().zip(next) {
            if next < wanted(set) {
                decision.changes.extend(self.resize(set, next));
            }
        }
    }

    fn recreate(&self, decision: &mut Decision) {
        for set in self.old.iter().filter(|set| wanted(set) > 0) {
            decision.changes.extend(self.resize(set, 0));
        }
        let stand = |set: &&ReplicaSet| {
            let uid = set.metadata.uid.as_deref().unwrap_or_default();
            self.world.pods.get(uid).is_some_and(|count| *count > 0)
        };
        // Also while a set has not said that it has seen its new size: it may still make a pod.
        let may_stand = |set: &ReplicaSet| size(set).held > 0 || !size(set).is_settled;
        if !decision.changes.is_empty()
            || self.old.iter().any(stand)
            || self.old.iter().any(|set| may_stand(set))
        {
            return;
        }
        match self.newest {
            Some(set) => decision.changes.extend(self.resize(set, self.limits.desired)),
            None if self.collides() => {}
            None => decision.changes.push(self.create(self.limits.desired)),
        }
    }

    /// Brings the number of replicas of the sets in line with a new total, without rolling.
    fn scale(&self, decision: &mut Decision) {
        let active = self.active();
        // Growing next to a set that has not yet obeyed would exceed the surge.
        let holds_more = |set: &ReplicaSet| !size(set).is_settled || size(set).held > wanted(set);
        if let [] | [_] = active[..] {
            let latest = active.first().copied().or(self.newest).or(self.old.last().copied());
            let Some(set) = latest else { return };
            let mut others = self.all().filter(|other| other.metadata.uid != set.metadata.uid);
            if wanted(set) >= self.limits.desired || !others.any(holds_more) {
                decision.changes.extend(self.resize(set, self.limits.desired));
            }
            return;
        }
        let (newest, _) = self.sizes();
        if newest.wanted == self.limits.desired && newest.available >= self.limits.desired {
            for set in self.old.iter().filter(|set| wanted(set) > 0) {
                decision.changes.extend(self.resize(set, 0));
            }
            return;
        }
        if is_recreate(self.spec) {
            // To empty one set for another is to roll, and a paused Deployment does not.
            if !self.is_paused() {
                self.recreate(decision);
            }
            return;
        }
        let total: i32 = active.iter().map(|set| wanted(set)).sum();
        if total < self.limits.most() && self.all().any(holds_more) {
            return;
        }
        let shares: Vec<Share> = active
            .iter()
            .enumerate()
            .map(|(age, set)| Share {
                wanted: wanted(set),
                maximum_before: self.maximum_before(set),
                age,
            })
            .collect();
        for (set, next) in active.iter().zip(rollout::spread(self.limits, &shares)) {
            decision.changes.extend(self.resize(set, next));
        }
    }

    fn maximum_before(&self, set: &ReplicaSet) -> i32 {
        let told = set.annotations().get(revision::MAXIMUM).and_then(|text| text.parse().ok());
        told.or_else(|| self.deployment.status.as_ref()?.replicas).unwrap_or(self.limits.most())
    }

    /// Tells a set its size, and for what total it was reckoned; `None` when it knows.
    fn resize(&self, set: &ReplicaSet, next: i32) -> Option<Intent> {
        let (desired, maximum) = (self.limits.desired.to_string(), self.limits.most().to_string());
        let knows = set.annotations().get(revision::DESIRED) == Some(&desired)
            && set.annotations().get(revision::MAXIMUM) == Some(&maximum);
        let before = wanted(set);
        if knows && before == next {
            return None;
        }
        let patch = json!({
            "metadata": {"annotations": {revision::DESIRED: desired, revision::MAXIMUM: maximum}},
            "spec": {"replicas": next},
        });
        let name = set.name_any();
        let scaled = |word: &str| {
            let text = format!("Scaled {word} replica set {name} from {before} to {next}");
            Told::Whole {
                done: Phrase::new("ScalingReplicaSet", text),
                failed: Phrase::new("FailedScale", format!("Error scaling replica set {name}: ")),
            }
        };
        let told = match next.cmp(&before) {
            std::cmp::Ordering::Greater => scaled("up"),
            std::cmp::Ordering::Less => scaled("down"),
            std::cmp::Ordering::Equal => Told::Nothing,
        };
        let target = Target::of(&set.metadata);
        Some(Intent { write: Write::Patch { kind: Kind::ReplicaSet, target, patch }, told })
    }

    /// Makes the set of the template as it is now.
    fn create(&self, replicas: i32) -> Intent {
        let hash = self.hash();
        let name = self.newest_name();
        let numbers = (self.limits.desired, self.limits.most());
        let mut template = self.spec.template.clone();
        let metadata = template.metadata.get_or_insert_default();
        let labels = metadata.labels.get_or_insert_default();
        labels.insert(revision::HASH_LABEL.into(), hash.clone());
        let mut selector = self.spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(revision::HASH_LABEL.into(), hash);
        let object = json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "namespace": self.deployment.namespace(),
                "name": name,
                "labels": labels,
                "annotations":
                    revision::annotations(self.deployment, None, self.revision(), numbers),
                "ownerReferences": [owners::controlled_by(self.deployment)],
            },
            "spec": {
                "replicas": replicas,
                "minReadySeconds": self.spec.min_ready_seconds.unwrap_or(0),
                "selector": selector,
                "template": template,
            },
        });
        let done = format!("Scaled up replica set {name} from 0 to {replicas}");
        let failed = format!("Failed to create new replica set \"{name}\": ");
        let failed = Phrase::new("ReplicaSetCreateError", failed);
        Intent {
            write: Write::Create { kind: Kind::ReplicaSet, object },
            told: match replicas {
                0 => Told::Failed { failed },
                _ => Told::Whole { done: Phrase::new("ScalingReplicaSet", done), failed },
            },
        }
    }

    /// Deletes old sets beyond the history's limit.
    fn forget_old(&self, decision: &mut Decision) {
        let Some(limit) = self.spec.revision_history_limit.filter(|limit| *limit != i32::MAX)
        else {
            return;
        };
        let mut old: Vec<_> =
            self.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
        old.sort_by_key(|set| revision::of(set));
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for set in old.into_iter().take(surplus) {
            let size = size(set);
            if size.wanted == 0 && size.held == 0 && size.is_settled {
                let target = Target::of(&set.metadata);
                let write = Write::Delete { kind: Kind::ReplicaSet, target };
                decision.changes.push(Intent { write, told: Told::Nothing });
            }
        }
    }
}

fn wanted(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1).max(0)
}

fn size(set: &ReplicaSet) -> Size {
    let status = set.status.clone().unwrap_or_default();
    Size {
        wanted: wanted(set),
        held: status.replicas,
        available: status.available_replicas.unwrap_or(0),
        is_settled: status.observed_generation.unwrap_or(0) >= set.metadata.generation.unwrap_or(0),
    }
}

/// The progress deadline; `None` when there is none.
fn deadline(spec: &DeploymentSpec) -> Option<Duration> {
    let seconds = spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests;
