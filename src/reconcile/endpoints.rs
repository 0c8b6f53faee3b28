//! Endpoints of Services: EndpointSlices and Endpoints follow the pods, and a LoadBalancer gets the host's addresses.
//!
//! ```text
//! Service with a selector    pods that match ─▶ EndpointSlices (≤ 100 each) and Endpoints
//! Service without            its Endpoints, written by somebody ─▶ EndpointSlices (mirrored)
//! type LoadBalancer          free ports of the host ─▶ status.loadBalancer
//! ```
//! A pod that is being deleted is not ready from that moment on, and still serves as long as its probes say so (KEP-1672).

mod balancer;
mod mirror;
mod pods;
mod slices;

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::caches::{Caches, Kind};
use super::decide::{Decide, Decision, Intent, Key, Seen, Target, Told, Wake, Write};
use crate::model::time::Timestamp;

const SERVICE: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const MIRROR: &str = "endpointslicemirroring-controller.k8s.io";

pub struct Endpoints;

/// A Service and everything that may stand behind it.
pub struct World {
    service: Arc<core::Service>,
    /// Those that match its selector.
    pods: Vec<Arc<core::Pod>>,
    /// Of this Service, whoever wrote them.
    slices: Vec<Arc<EndpointSlice>>,
    endpoints: Option<Arc<core::Endpoints>>,
    /// Other Services that want addresses of the host.
    balancers: Vec<Arc<core::Service>>,
    /// The host's, from its Node.
    addresses: Vec<String>,
    /// Ports of the host, by protocol, that no balancer may have.
    reserved: BTreeSet<(String, i32)>,
}

/// The selector of a Service that has one; an empty one selects nothing (types.go).
fn selector(service: &core::Service) -> Option<&std::collections::BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

fn selects(service: &core::Service, pod: &core::Pod) -> bool {
    selector(service).is_some_and(|selector| {
        selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
    })
}

impl Decide for Endpoints {
    type Root = core::Service;
    type World = World;
    const NAME: &'static str = "endpoints-controller";
    const READS: &'static [Kind] = &[Kind::Pod, Kind::EndpointSlice, Kind::Endpoints, Kind::Node];

    fn wakes(caches: &Arc<Caches>, wake: &Wake) {
        let (tell, weak) = (wake.clone(), Arc::downgrade(caches));
        caches.pods.listen(move |change| {
            let Some(caches) = weak.upgrade() else { return };
            let states = || change.old.iter().chain(&change.new);
            let Some(namespace) = states().next().and_then(|pod| pod.namespace()) else { return };
            for service in caches.services.within(&namespace) {
                if states().any(|pod| selects(&service, pod)) {
                    tell(Key::of(&service.metadata));
                }
            }
        });
        // What is written before its Service is somebody's: only a Service that goes takes Endpoints along. Ours may
        // have been left by a daemon that was killed between the two.
        let (tell, weak) = (wake.clone(), Arc::downgrade(caches));
        let wake_existing = move |key: Key, is_ours: bool| {
            let Some(caches) = weak.upgrade() else { return };
            if is_ours || caches.services.get(&key).is_some() {
                tell(key);
            }
        };
        let existing = wake_existing.clone();
        caches.endpoint_slices.listen(move |change| {
            for slice in change.old.iter().chain(&change.new) {
                if let (Some(namespace), Some(service)) =
                    (slice.namespace(), slice.labels().get(SERVICE))
                {
                    existing(Key::new(&namespace, service), false);
                }
            }
        });
        caches.endpoints.listen(move |change| {
            for endpoints in change.old.iter().chain(&change.new) {
                let (mark, controller) = MANAGED_BY_ENDPOINTS;
                let is_ours = endpoints.labels().get(mark).is_some_and(|by| by == controller);
                wake_existing(Key::of(&endpoints.metadata), is_ours);
            }
        });
        // A port that becomes free is another's; an address that changes is everybody's.
        let (tell, weak) = (wake.clone(), Arc::downgrade(caches));
        let wake_balancers = move || {
            let Some(caches) = weak.upgrade() else { return };
            for service in caches.services.all().iter().filter(|service| balancer::is_one(service))
            {
                tell(Key::of(&service.metadata));
            }
        };
        let again = wake_balancers.clone();
        caches.services.listen(move |change| {
            if change.old.iter().chain(&change.new).any(|service| balancer::is_one(service)) {
                again();
            }
        });
        caches.nodes.listen(move |change| {
            let addresses = |node: &Option<Arc<core::Node>>| {
                node.as_ref().map(|node| {
                    let addresses = balancer::addresses(node);
                    (balancer::reserved(node, &addresses), addresses)
                })
            };
            if addresses(&change.old) != addresses(&change.new) {
                wake_balancers();
            }
        });
    }

    fn observe(root: &Arc<core::Service>, seen: &Seen<'_>) -> World {
        let namespace = root.namespace().unwrap_or_default();
        let caches = seen.caches;
        let name = root.name_any();
        let mut pods = caches.pods.within(&namespace);
        pods.retain(|pod| selects(root, pod));
        let mut slices = caches.endpoint_slices.within(&namespace);
        slices.retain(|slice| slice.labels().get(SERVICE) == Some(&name));
        let mut balancers = caches.services.all();
        balancers
            .retain(|other| balancer::is_one(other) && other.metadata.uid != root.metadata.uid);
        let nodes = caches.nodes.all();
        let addresses: Vec<String> =
            nodes.iter().flat_map(|node| balancer::addresses(node)).collect();
        World {
            service: root.clone(),
            pods,
            slices,
            endpoints: caches.endpoints.get(&Key::of(&root.metadata)),
            balancers,
            reserved: nodes.iter().flat_map(|node| balancer::reserved(node, &addresses)).collect(),
            addresses,
        }
    }

    fn decide(world: &World, _now: Timestamp) -> Decision {
        let mut decision = Decision::default();
        if world.service.metadata.deletion_timestamp.is_some() {
            return decision;
        }
        let is_ours = |slice: &&Arc<EndpointSlice>, who: &str| {
            slice.labels().get(MANAGED_BY).is_some_and(|by| by == who)
        };
        let of = |who: &str| -> Vec<&EndpointSlice> {
            world.slices.iter().filter(|slice| is_ours(slice, who)).map(AsRef::as_ref).collect()
        };
        let (from_pods, mirrored) = match selector(&world.service) {
            Some(_) => (Some(pods::groups(&world.service, &world.pods)), Vec::new()),
            None => (None, mirror::groups(&world.service, world.endpoints.as_deref())),
        };
        if let Some(groups) = &from_pods {
            let wanted = pods::endpoints(&world.service, groups);
            decision.changes.extend(endpoints(world, wanted));
        }
        let groups: Vec<_> =
            from_pods.unwrap_or_default().into_iter().map(|group| group.slice).collect();
        let has_selector = selector(&world.service).is_some();
        decision.changes.extend(slices::pack(
            &world.service,
            CONTROLLER,
            has_selector,
            groups,
            &of(CONTROLLER),
        ));
        decision.changes.extend(slices::pack(&world.service, MIRROR, false, mirrored, &of(MIRROR)));
        decision.status =
            balancer::status(&world.service, &world.balancers, &world.addresses, &world.reserved);
        decision
    }

    /// The Service was deleted. Slices have an owner; Endpoints, by custom, have the name.
    fn gone(key: &Key, seen: &Seen<'_>) -> Decision {
        let left = seen.caches.endpoints.get(key);
        let delete = left.map(|endpoints| Intent {
            write: Write::Delete { kind: Kind::Endpoints, target: Target::of(&endpoints.metadata) },
            told: Told::Nothing,
        });
        Decision { changes: delete.into_iter().collect(), ..Decision::default() }
    }
}

/// The write that makes the Endpoints object say `subsets`, if it says anything else.
fn endpoints(world: &World, subsets: Vec<Value>) -> Option<Intent> {
    let metadata = &world.service.metadata;
    // Whoever reads slices reads ours already (KEP-1412).
    let skip = "endpointslice.kubernetes.io/skip-mirror";
    let write = match &world.endpoints {
        None => Write::Create {
            kind: Kind::Endpoints,
            object: json!({
                "apiVersion": "v1", "kind": "Endpoints",
                "metadata": {
                    "name": metadata.name, "namespace": metadata.namespace,
                    "labels": {MANAGED_BY_ENDPOINTS.0: MANAGED_BY_ENDPOINTS.1, skip: "true"},
                },
                "subsets": subsets,
            }),
        },
        Some(held) => {
            let said = serde_json::to_value(&held.subsets).unwrap_or_default();
            let said = said.as_array().cloned().unwrap_or_default();
            let is_marked = held.labels().contains_key(skip);
            if slices::same(&Value::Array(said), &Value::Array(subsets.clone())) && is_marked {
                return None;
            }
            let patch = json!({"metadata": {"labels": {skip: "true"}}, "subsets": subsets});
            Write::Patch { kind: Kind::Endpoints, target: Target::of(&held.metadata), patch }
        }
    };
    Some(Intent { write, told: Told::Nothing })
}

/// What kube-controller-manager marks its Endpoints with (1.33).
const MANAGED_BY_ENDPOINTS: (&str, &str) =
    ("endpoints.kubernetes.io/managed-by", "endpoint-controller");

#[cfg(test)]
mod tests;
