//! What has to hold at every step.

use std::collections::BTreeMap;

use joey::reconcile::decide::Key;
use joey::reconcile::deployment::revision;
use joey::reconcile::deployment::rollout::Limits;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::{Resource, ResourceExt};

use super::api::{Server, is_over};
use super::machine::{Machine, is_ready, is_replica, set_of};

/// What is promised for each Deployment since its last rest.
#[derive(Default)]
pub struct Rules {
    promises: BTreeMap<Key, Promise>,
}

#[derive(Clone, Copy)]
struct Promise {
    /// The highest number of pods that any wish since then allows.
    most: i32,
    /// The lowest number of ready pods that any wish since then demands.
    least: i32,
    /// Pods that others than the controllers have taken away.
    disturbances: i32,
    /// So many are known to serve; before, there is nothing to be kept, and those of whose readiness nobody has
    /// heard yet may go.
    was_met: bool,
}

pub fn limits(deployment: &Deployment) -> Limits {
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
            let limits = limits(deployment);
            let least = if is_recreate(deployment) { 0 } else { limits.least_available() };
            let promise = self.promises.entry(key.clone()).or_insert(Promise {
                most: limits.most(),
                least,
                disturbances: 0,
                was_met: false,
            });
            promise.most = promise.most.max(limits.most());
            promise.least = promise.least.min(least);
        }
        self.promises.retain(|key, _| server.deployments.objects.contains_key(key));
    }

    /// Everything is as wished: only the newest wish counts from now on.
    pub fn rested(&mut self, server: &Server) {
        self.promises.clear();
        self.wished(server);
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
            let ready = replicas.iter().filter(|(_, pod)| is_ready(pod)).count();
            let ready = i32::try_from(ready).unwrap();
            let known = deployment.status.as_ref().and_then(|status| status.available_replicas);
            promise.was_met |= known.unwrap_or(0) >= promise.least;
            if promise.was_met && stopped.iter().any(|pod| pod.namespace == key.namespace) {
                assert!(
                    ready >= promise.least - promise.disturbances || ready == count,
                    "{key}: a pod was stopped and {ready} are left ready; the least is {} with {} disturbances",
                    promise.least,
                    promise.disturbances
                );
            }
            if is_recreate(deployment) {
                let sets: std::collections::BTreeSet<_> = server
                    .pods
                    .objects
                    .values()
                    .filter(|pod| !is_over(pod))
                    .filter_map(|pod| set_of(server, pod))
                    .filter(|set| owned_by(set, deployment))
                    .map(|set| set.name_any())
                    .collect();
                assert!(sets.len() <= 1, "{key}: pods of two templates at once: {sets:?}");
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

fn owned_by(set: &ReplicaSet, deployment: &Deployment) -> bool {
    set.owner_references().iter().any(|owner| Some(&owner.uid) == deployment.metadata.uid.as_ref())
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
