//! Which pods stand behind a Service, at which ports, and in what condition (pure).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::slices::Group;
use crate::placement::is_sidecar;

/// Addresses in one Endpoints object at most (KEP-752).
const ENDPOINTS_ROOM: usize = 1000;

/// Pods that share ports, as slices and as Endpoints list them.
#[derive(Debug, Clone, PartialEq)]
pub struct PodGroup {
    pub slice: Group,
    ports: Vec<Value>,
    /// By address.
    ready: BTreeMap<String, Value>,
    not_ready: BTreeMap<String, Value>,
}

/// The pods of `service`, apart by the numbers that its ports mean in each.
pub fn groups(service: &Service, pods: &[Arc<Pod>]) -> Vec<PodGroup> {
    let mut groups: BTreeMap<Vec<(usize, i32)>, PodGroup> = BTreeMap::new();
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    for pod in pods.iter().filter(|pod| !is_over(pod)) {
        let status = pod.status.as_ref();
        let Some(address) = status.and_then(|status| status.pod_ip.clone()) else {
            continue;
        };
        let numbers: Vec<(usize, i32)> = ports
            .iter()
            .enumerate()
            .filter_map(|(place, port)| Some((place, target(port, pod)?)))
            .collect();
        // Without any of the ports it serves nothing, unless the Service has none and is but a list of pods.
        if numbers.is_empty() && !ports.is_empty() {
            continue;
        }
        let group = groups.entry(numbers.clone()).or_insert_with(|| {
            let list = numbers.iter().map(|(place, number)| {
                let port = &ports[*place];
                let mut entry = json!({
                    "name": port.name.clone().unwrap_or_default(),
                    "port": number,
                    "protocol": port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                });
                if let Some(protocol) = &port.app_protocol {
                    entry["appProtocol"] = json!(protocol);
                }
                entry
            });
            let ports: Vec<Value> = list.collect();
            PodGroup {
                slice: Group { ports: ports.clone(), endpoints: BTreeMap::new() },
                ports,
                ready: BTreeMap::new(),
                not_ready: BTreeMap::new(),
            }
        });
        add(group, service, pod, address, spec.publish_not_ready_addresses.unwrap_or(false));
    }
    groups.into_values().collect()
}

fn add(group: &mut PodGroup, service: &Service, pod: &Pod, address: String, publishes: bool) {
    let is_serving = is_ready(pod);
    let is_terminating = pod.metadata.deletion_timestamp.is_some();
    let is_ready = publishes || (is_serving && !is_terminating);
    let spec = pod.spec.as_ref();
    let node = spec.and_then(|spec| spec.node_name.clone());
    let reference = json!({
        "kind": "Pod", "namespace": pod.metadata.namespace, "name": pod.metadata.name,
        "uid": pod.metadata.uid,
    });
    let mut endpoint = json!({
        "addresses": [address],
        "conditions": {"ready": is_ready, "serving": is_serving, "terminating": is_terminating},
        "targetRef": reference,
    });
    let mut listed = json!({"ip": address, "targetRef": reference});
    if let Some(node) = node {
        endpoint["nodeName"] = json!(node);
        listed["nodeName"] = json!(node);
    }
    // The name that the pod has within its subdomain, which is the Service.
    let subdomain = spec.and_then(|spec| spec.subdomain.as_ref());
    if subdomain == service.metadata.name.as_ref()
        && let Some(hostname) = spec.and_then(|spec| spec.hostname.as_ref())
    {
        endpoint["hostname"] = json!(hostname);
        listed["hostname"] = json!(hostname);
    }
    group.slice.endpoints.insert(address.clone(), endpoint);
    match is_ready {
        true => drop(group.ready.insert(address, listed)),
        false if !is_terminating => drop(group.not_ready.insert(address, listed)),
        false => {}
    }
}

/// `subsets` of the Endpoints object.
pub fn endpoints(_service: &Service, groups: &[PodGroup]) -> Vec<Value> {
    let mut room = ENDPOINTS_ROOM;
    let mut subsets = Vec::new();
    for group in groups {
        let mut take = |all: &BTreeMap<String, Value>| {
            let some: Vec<Value> = all.values().take(room).cloned().collect();
            room -= some.len();
            some
        };
        let (ready, not_ready) = (take(&group.ready), take(&group.not_ready));
        if ready.is_empty() && not_ready.is_empty() {
            continue;
        }
        let mut subset = json!({});
        for (field, list) in
            [("addresses", ready), ("notReadyAddresses", not_ready), ("ports", group.ports.clone())]
        {
            if !list.is_empty() {
                subset[field] = Value::Array(list);
            }
        }
        subsets.push(subset);
    }
    subsets
}

/// A name means what the pod's containers say, so it may be another number in each pod.
fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(number)) if *number != 0 => return Some(*number),
        Some(IntOrString::Int(_)) => return Some(port.port),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let protocol = |word: &Option<String>| word.clone().unwrap_or_else(|| "TCP".to_owned());
    let sidecars = spec.init_containers.iter().flatten().filter(|one| is_sidecar(one));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .find(|own| {
            own.name.as_ref() == Some(name) && protocol(&own.protocol) == protocol(&port.protocol)
        })
        .map(|own| own.container_port)
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
