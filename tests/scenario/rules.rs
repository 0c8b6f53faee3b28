//! What has to hold at every step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use joey::reconcile::decide::{Key, Write};
use joey::reconcile::deployment::revision;
use joey::reconcile::deployment::rollout::Limits;
use joey::reconcile::pods::{self, Availability};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};

use super::api::{Server, instant, is_over};
use super::machine::{Decided, Machine, is_ready, is_replica, set_of};

/// What is promised for each Deployment since its last rest.
#[derive(Default)]
pub struct Rules {
    promises: BTreeMap<Key, Promise>,
    /// How often a Deployment came to rest: what is never renewed soon promises nothing.
    pub rests: usize,
}

#[derive(Clone, Copy)]
struct Promise {
    /// The highest number of pods that any wish since then allows.
    most: i32,
    /// The lowest number of available pods that any wish since then demands.
    least: i32,
    /// Pods that others than the controllers have taken away.
    disturbances: i32,
    /// So many are known to serve; before, there is nothing to be kept, and those of whose readiness nobody has
    /// heard yet may go.
    was_met: bool,
    /// It has become Recreate in the middle of a rollout: pods of two templates may stand until that is over.
    is_mixed: bool,
}

impl Promise {
    /// What the wish of now promises.
    fn of(deployment: &Deployment) -> Promise {
        let (limits, is_recreate) = (limits(deployment), is_recreate(deployment));
        Promise {
            most: limits.most(),
            least: if is_recreate { 0 } else { limits.least_available() },
            disturbances: 0,
            was_met: false,
            is_mixed: !is_recreate,
        }
    }
}

fn limits(deployment: &Deployment) -> Limits {
    let spec = deployment.spec.as_ref().unwrap();
    let strategy = spec.strategy.as_ref().unwrap();
    match &strategy.rolling_update {
        Some(rolling) => Limits::rolling(
            spec.replicas.unwrap(),
            rolling.max_surge.as_ref(),
            rolling.max_unavailable.as_ref(),
        ),
        None => Limits::recreate(spec.replicas.unwrap()),
    }
}

fn is_recreate(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().unwrap().strategy.as_ref().unwrap().rolling_update.is_none()
}

impl Rules {
    /// A user has wished for something: both the old and the new wish hold until there is rest.
    pub fn wished(&mut self, server: &Server) {
        for (key, deployment) in &server.deployments.objects {
            let newest = Promise::of(deployment);
            let promise = self.promises.entry(key.clone()).or_insert(newest);
            promise.is_mixed |= newest.is_mixed;
            promise.most = promise.most.max(newest.most);
            promise.least = promise.least.min(newest.least);
        }
        self.promises.retain(|key, _| server.deployments.objects.contains_key(key));
    }

    /// Where everything is as wished, and nobody has anything else in mind, only the newest wish counts from now on.
    pub fn rest(&mut self, machine: &mut Machine) {
        if !machine.is_idle() {
            return;
        }
        let server = &machine.server;
        for (key, deployment) in &server.deployments.objects {
            if is_as_wished(server, deployment) {
                let promise = Promise { was_met: true, ..Promise::of(deployment) };
                self.promises.insert(key.clone(), promise);
                self.rests += 1;
            }
        }
    }

    pub fn disturbed(&mut self, namespace: &str) {
        for (key, promise) in &mut self.promises {
            if &*key.namespace == namespace {
                promise.disturbances += 1;
            }
        }
    }

    /// # Panics
    /// If a rule is broken.
    pub fn check(&mut self, machine: &mut Machine) {
        let stopped = std::mem::take(&mut machine.stopped);
        let server = &machine.server;
        for (key, deployment) in &server.deployments.objects {
            let Some(promise) = self.promises.get_mut(key) else { continue };
            let replicas: Vec<_> = server
                .pods
                .objects
                .iter()
                .filter(|(_, pod)| is_replica(server, deployment, pod))
                .collect();
            let count = i32::try_from(replicas.len()).unwrap();
            assert!(count <= promise.most, "{key}: {count} pods, and {} is the most", promise.most);
            let available =
                replicas.iter().filter(|(_, pod)| is_available(server, deployment, pod));
            let available = i32::try_from(available.count()).unwrap();
            let known = deployment.status.as_ref().and_then(|status| status.available_replicas);
            promise.was_met |= known.unwrap_or(0) >= promise.least;
            if promise.was_met && stopped.iter().any(|pod| pod.namespace == key.namespace) {
                assert!(
                    available >= promise.least - promise.disturbances,
                    "{key}: a pod was stopped and {available} are left available; the least is {} with {} disturbances",
                    promise.least,
                    promise.disturbances
                );
            }
            if is_recreate(deployment) {
                let standing = standing(server, deployment);
                let obeyed = is_seen(&deployment.metadata, observed(deployment));
                promise.is_mixed &= !(obeyed && may_stand(server, deployment) <= 1);
                assert!(
                    standing.len() <= 1 || promise.is_mixed,
                    "{key}: pods of two templates at once: {standing:?}"
                );
            }
            let sets: Vec<_> = sets(server, deployment);
            for (index, set) in sets.iter().enumerate() {
                let template = set.spec.as_ref().unwrap().template.as_ref().unwrap();
                let twin =
                    sets[..index].iter().find(|other| revision::has_template(other, template));
                assert!(twin.is_none(), "{key}: two sets of one template: {}", set.name_any());
            }
        }
        owned_once(server.pods.objects.values());
        owned_once(server.replica_sets.objects.values());
        for pod in server.pods.objects.values() {
            for owner in pod.owner_references() {
                let foreign = server.replica_sets.objects.values().find(|set| {
                    set.metadata.uid.as_ref() == Some(&owner.uid)
                        && set.namespace() != pod.namespace()
                });
                assert!(foreign.is_none(), "{} is owned from another namespace", pod.name_any());
            }
        }
    }

    /// What has to hold once everything has come to rest.
    ///
    /// # Panics
    /// If it does not.
    pub fn check_rest(&self, machine: &Machine) {
        let server = &machine.server;
        for (key, deployment) in &server.deployments.objects {
            let desired = deployment.spec.as_ref().unwrap().replicas.unwrap();
            let template = &deployment.spec.as_ref().unwrap().template;
            let replicas: Vec<_> = server
                .pods
                .objects
                .values()
                .filter(|pod| is_replica(server, deployment, pod))
                .collect();
            assert_eq!(replicas.len(), usize::try_from(desired).unwrap(), "{key}: replicas");
            for pod in replicas {
                assert!(is_ready(pod), "{key}: {} is not ready", pod.name_any());
                let set = set_of(server, pod).unwrap();
                assert!(revision::has_template(set, template), "{key}: an old pod is left");
            }
            let mut sets = sets(server, deployment);
            sets.sort_by_key(|set| revision::of(set));
            if let Some(newest) = sets.last().filter(|_| desired > 0) {
                assert!(
                    revision::has_template(newest, template),
                    "{key}: the newest revision is another"
                );
                let told = deployment.annotations().get(revision::REVISION);
                assert_eq!(told, newest.annotations().get(revision::REVISION), "{key}");
            }
            let status = deployment.status.clone().unwrap();
            assert_eq!(status.observed_generation, deployment.metadata.generation, "{key}");
            let told = (status.replicas, status.updated_replicas, status.available_replicas);
            let wanted = Some(desired).filter(|desired| *desired > 0);
            assert_eq!(told, (wanted, wanted, wanted), "{key}: the status");
        }
        for set in server.replica_sets.objects.values() {
            let owner = &set.owner_references()[0].uid;
            let alive =
                server.deployments.objects.values().any(|d| d.metadata.uid.as_ref() == Some(owner));
            assert!(alive, "{} outlived its Deployment", set.name_any());
        }
        for pod in server.pods.objects.values() {
            let is_released = pod.owner_references().is_empty();
            assert!(
                is_released || set_of(server, pod).is_some(),
                "{} outlived its set",
                pod.name_any()
            );
        }
    }
}

/// A paused Deployment has the size that it is told, and rolls no further.
///
/// # Panics
/// If it makes a set, or takes away from what serves more than its size demands.
pub fn check_decided(decided: &Decided) {
    let deployment = decided.deployment.as_ref();
    let spec = deployment.spec.as_ref().unwrap();
    if spec.paused != Some(true) {
        return;
    }
    let key = Key::of(&deployment.metadata);
    let made = decided.writes.iter().find(|write| matches!(write, Write::Create { .. }));
    assert!(made.is_none(), "{key}: is paused and makes a set");
    let (mut before, mut after) = (0, 0);
    for set in decided.sets.iter().filter(|set| owned_by(set, deployment)) {
        let wanted = set.spec.as_ref().unwrap().replicas.unwrap();
        let next = decided.writes.iter().find_map(|write| match write {
            Write::Patch { target, patch, .. }
                if Some(&target.uid) == set.metadata.uid.as_ref() =>
            {
                patch["spec"]["replicas"].as_i64()
            }
            _ => None,
        });
        let next = next.map_or(wanted, |next| i32::try_from(next).unwrap());
        // Scaling keeps the proportion of what is rolling; without rolling, only what serves counts.
        let serves = set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
        let most = if is_recreate(deployment) { serves } else { i32::MAX };
        before += wanted.min(most);
        after += next.min(most);
    }
    let least = before.min(spec.replicas.unwrap());
    assert!(after >= least, "{key}: is paused and goes from {before} to {after} replicas");
}

/// The sets of a Deployment that have pods.
fn standing(server: &Server, deployment: &Deployment) -> BTreeSet<String> {
    let pods = server.pods.objects.values().filter(|pod| !is_over(pod));
    pods.filter_map(|pod| set_of(server, pod))
        .filter(|set| owned_by(set, deployment))
        .map(|set| set.name_any())
        .collect()
}

/// How many sets of a Deployment have pods or may still make some.
fn may_stand(server: &Server, deployment: &Deployment) -> usize {
    let standing = standing(server, deployment);
    let sets = sets(server, deployment).into_iter();
    let stands = |set: &&ReplicaSet| {
        let status = set.status.clone().unwrap_or_default();
        standing.contains(&set.name_any())
            || set.spec.as_ref().unwrap().replicas != Some(0)
            || status.replicas > 0
            || !is_seen(&set.metadata, status.observed_generation)
    };
    sets.filter(stands).count()
}

/// All its pods are there, of the newest template and available, its status says so, and no set has others in mind.
fn is_as_wished(server: &Server, deployment: &Deployment) -> bool {
    let spec = deployment.spec.as_ref().unwrap();
    let desired = spec.replicas.unwrap();
    let is_new = |set: &ReplicaSet| revision::has_template(set, &spec.template);
    let is_settled = |set: &ReplicaSet| {
        let observed = set.status.as_ref().and_then(|status| status.observed_generation);
        let wanted = if is_new(set) { desired } else { 0 };
        is_seen(&set.metadata, observed) && set.spec.as_ref().unwrap().replicas == Some(wanted)
    };
    let pods = server.pods.objects.values();
    let replicas: Vec<_> = pods.filter(|pod| is_replica(server, deployment, pod)).collect();
    let serves = |pod: &Pod| {
        is_available(server, deployment, pod) && set_of(server, pod).is_some_and(is_new)
    };
    let status = deployment.status.clone().unwrap_or_default();
    is_seen(&deployment.metadata, status.observed_generation)
        && status.available_replicas.unwrap_or(0) == desired
        && sets(server, deployment).into_iter().all(is_settled)
        && replicas.len() == usize::try_from(desired).unwrap()
        && replicas.into_iter().all(serves)
}

fn observed(deployment: &Deployment) -> Option<i64> {
    deployment.status.as_ref()?.observed_generation
}

fn is_seen(metadata: &ObjectMeta, observed: Option<i64>) -> bool {
    observed.unwrap_or(0) >= metadata.generation.unwrap_or(0)
}

fn owned_by(set: &ReplicaSet, deployment: &Deployment) -> bool {
    set.owner_references().iter().any(|owner| Some(&owner.uid) == deployment.metadata.uid.as_ref())
}

/// Ready for as long as the Deployment demands.
fn is_available(server: &Server, deployment: &Deployment, pod: &Pod) -> bool {
    let seconds = deployment.spec.as_ref().unwrap().min_ready_seconds.unwrap_or(0);
    let min_ready = Duration::from_secs(u64::try_from(seconds).unwrap());
    is_ready(pod)
        && pods::availability(pod, min_ready, instant(server.now)) == Availability::Available
}

fn sets<'a>(server: &'a Server, deployment: &Deployment) -> Vec<&'a ReplicaSet> {
    server.replica_sets.objects.values().filter(|set| owned_by(set, deployment)).collect()
}

fn owned_once<'a, K: Resource + 'a>(objects: impl Iterator<Item = &'a K>) {
    for object in objects {
        let controllers =
            object.owner_references().iter().filter(|owner| owner.controller == Some(true)).count();
        assert!(controllers <= 1, "{} has two controllers", object.name_any());
    }
}
