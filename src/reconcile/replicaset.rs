//! ReplicaSets: as many pods as wanted, of one template.
//!
//! Pure. It never looks at Deployments but to spread their pods; who scales a set is none of its business.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::json;

use super::caches::{Caches, Kind, controller, wake_controller};
use super::decide::{
    Decide, Decision, Failure, Intent, Key, Phrase, Seen, Target, Told, Wake, Write,
};
use super::owners::{self, Claim};
use super::pods::{self, Availability};
use crate::model::time::Timestamp;

/// Pods that one decision creates or deletes at most.
const BURST: usize = 500;

pub struct ReplicaSets;

/// A ReplicaSet and its pods.
pub struct World {
    set: Arc<ReplicaSet>,
    /// Those that are not over.
    claim: Claim<Pod>,
    /// Active pods of the whole workload by node.
    crowd: BTreeMap<String, usize>,
    failure: Option<Failure>,
}

impl Decide for ReplicaSets {
    type Root = ReplicaSet;
    type World = World;
    const NAME: &'static str = "replicaset-controller";
    const READS: &'static [Kind] = &[Kind::Pod];

    fn wakes(caches: &Arc<Caches>, wake: &Wake) {
        let (wake, sets) = (wake.clone(), Arc::downgrade(caches));
        caches.pods.listen(move |change| {
            wake_controller(change, "ReplicaSet", &wake, |pod| {
                let Some(caches) = sets.upgrade() else { return Vec::new() };
                let namespace = pod.namespace().unwrap_or_default();
                let all = caches.replica_sets.within(&namespace);
                let selects = |set: &&Arc<ReplicaSet>| {
                    set.spec
                        .as_ref()
                        .is_some_and(|spec| owners::selector(&spec.selector).matches(pod.labels()))
                };
                all.iter().filter(selects).map(|set| Key::of(&set.metadata)).collect()
            });
        });
    }

    fn observe(root: &Arc<ReplicaSet>, seen: &Seen<'_>) -> World {
        let namespace = root.namespace().unwrap_or_default();
        let all = seen.caches.pods.within(&namespace);
        let selector = root.spec.as_ref().map(|spec| owners::selector(&spec.selector));
        let selector = selector.unwrap_or_else(crate::model::selector::LabelSelector::nothing);
        World {
            crowd: crowd(root, &all, &seen.caches.replica_sets.within(&namespace)),
            claim: owners::claim(
                root.as_ref(),
                &selector,
                all.into_iter().filter(|pod| !pods::is_over(pod)),
            ),
            set: root.clone(),
            failure: seen.failures.first().cloned(),
        }
    }

    fn decide(world: &World, now: Timestamp) -> Decision {
        let mut decision = Decision::default();
        let Some(spec) = &world.set.spec else { return decision };
        let owner = owners::controlled_by(world.set.as_ref());
        let active: Vec<_> =
            world.claim.owned.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        let is_going = world.set.metadata.deletion_timestamp.is_some();
        decision.changes = world.claim.intents(&owner);
        let held = active.len() + world.claim.adopt.len();
        if is_going {
            // Its pods are the garbage collector's.
        } else if held < wanted {
            let template = spec.template.clone().unwrap_or_default();
            let namespace = world.set.namespace().unwrap_or_default();
            let object = pods::from_template(&namespace, &owner, &template);
            let told = Told::ByName {
                done: Phrase::new("SuccessfulCreate", "Created pod: "),
                failed: Phrase::new("FailedCreate", "Error creating: "),
            };
            let create = Intent { write: Write::Create { kind: Kind::Pod, object }, told };
            decision.changes.extend(std::iter::repeat_n(create, (wanted - held).min(BURST)));
        } else {
            let victims = victims(&active, held - wanted, &world.crowd);
            decision.changes.extend(victims.into_iter().take(BURST).map(|pod| Intent {
                write: Write::Delete { kind: Kind::Pod, target: Target::of(&pod.metadata) },
                told: Told::ByName {
                    done: Phrase::new("SuccessfulDelete", "Deleted pod: "),
                    failed: Phrase::new("FailedDelete", "Error deleting: "),
                },
            }));
        }
        let min_ready =
            Duration::from_secs(u64::try_from(spec.min_ready_seconds.unwrap_or(0)).unwrap_or(0));
        let (status, next) = status(world, &active, min_ready, now);
        if world.set.status.as_ref() != Some(&status) {
            decision.status = Some(json!(status));
        }
        if let Some(span) = next {
            decision.wake_within(span);
        }
        decision
    }
}

/// How many active pods of the same workload each node has: the set's own, and those of its siblings under the same
/// Deployment.
fn crowd(
    root: &ReplicaSet,
    pods: &[Arc<Pod>],
    sets: &[Arc<ReplicaSet>],
) -> BTreeMap<String, usize> {
    let parent = controller(root).map(|owner| owner.uid.as_str());
    let is_sibling = |set: &&Arc<ReplicaSet>| {
        parent.is_some() && controller(set.as_ref()).map(|owner| owner.uid.as_str()) == parent
    };
    let mut family: Vec<&str> =
        sets.iter().filter(is_sibling).filter_map(|set| set.metadata.uid.as_deref()).collect();
    family.extend(root.metadata.uid.as_deref());
    let mut crowd = BTreeMap::new();
    for pod in pods.iter().filter(|pod| pods::is_active(pod)) {
        let is_ours = controller(pod.as_ref()).is_some_and(|o| family.contains(&o.uid.as_str()));
        if is_ours && let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
            *crowd.entry(node).or_insert(0) += 1;
        }
    }
    crowd
}

/// The pods to part with, in order.
fn victims(active: &[Arc<Pod>], surplus: usize, crowd: &BTreeMap<String, usize>) -> Vec<Arc<Pod>> {
    if surplus == 0 {
        return Vec::new();
    }
    let mut order = active.to_vec();
    order.sort_by(|a, b| pods::dispensable_first(a, b, crowd));
    order.truncate(surplus);
    order
}

/// The status, and when time alone will change it.
fn status(
    world: &World,
    active: &[Arc<Pod>],
    min_ready: Duration,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let held = world.set.status.clone().unwrap_or_default();
    let template_labels = world.set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    let template_labels = template_labels
        .and_then(|template| template.metadata.as_ref()?.labels.clone())
        .unwrap_or_default();
    let (mut ready, mut available, mut labelled) = (0, 0, 0);
    let mut next: Option<Duration> = None;
    for pod in active {
        let labels = pod.labels();
        labelled += i32::from(template_labels.iter().all(|(k, v)| labels.get(k) == Some(v)));
        match pods::availability(pod, min_ready, now) {
            Availability::NotReady => {}
            Availability::Ready { missing } => {
                ready += 1;
                next = Some(next.map_or(missing, |held| held.min(missing)));
            }
            Availability::Available => {
                ready += 1;
                available += 1;
            }
        }
    }
    let count = |pods: usize| i32::try_from(pods).unwrap_or(i32::MAX);
    let terminating = world.claim.owned.len() - active.len();
    let positive = |number: i32| Some(number).filter(|number| *number > 0);
    let mut conditions = held.conditions.unwrap_or_default();
    let failed = conditions.iter().any(|condition| condition.type_ == "ReplicaFailure");
    match &world.failure {
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
        // The first failure stays: its time tells since when.
        Some(_) if failed => {}
        Some(failure) => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(failure.reason.into()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(Time(now.whole_seconds().as_jiff())),
        }),
    }
    let status = ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: positive(labelled),
        ready_replicas: positive(ready),
        available_replicas: positive(available),
        terminating_replicas: positive(count(terminating)),
        observed_generation: world.set.metadata.generation,
        conditions: Some(conditions).filter(|conditions| !conditions.is_empty()),
    };
    (status, next)
}

#[cfg(test)]
mod tests;
