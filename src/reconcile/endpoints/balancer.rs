//! Who of the LoadBalancers gets the host's addresses (pure).
//!
//! There is one host, so a port of it goes to one Service: the oldest that wants it and gets all it wants. The others
//! wait, as for an address that a cloud has not given yet, and hold no port meanwhile. Nobody gets a port that the node
//! itself needs, such as the one where it is administrated.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::placement::reserved_ports;

pub fn is_one(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let class = spec.and_then(|spec| spec.load_balancer_class.as_ref());
    // A class names another implementation than the one at hand (KEP-1959).
    spec.and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer")
        && class.is_none()
        && service.metadata.deletion_timestamp.is_none()
}

pub fn addresses(node: &Node) -> Vec<String> {
    let status = node.status.as_ref();
    let all = status.and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let internal = all.iter().filter(|address| address.type_ == "InternalIP");
    internal.map(|address| address.address.clone()).collect()
}

fn ports(service: &Service) -> BTreeSet<(String, i32)> {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.ports.as_deref())
        .unwrap_or_default()
        .iter()
        .map(|port| (port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), port.port))
        .collect()
}

/// The ports that the node itself needs at one of its `addresses`.
pub fn reserved(node: &Node, addresses: &[String]) -> BTreeSet<(String, i32)> {
    reserved_ports(node)
        .into_iter()
        .filter(|(_, address, _)| address.is_empty() || addresses.contains(address))
        .map(|(protocol, _, port)| (protocol, port))
        .collect()
}

/// Whether every port of `service` is left over by the node and by those that came before it.
fn is_given(
    service: &Service,
    others: &[Arc<Service>],
    reserved: &BTreeSet<(String, i32)>,
) -> bool {
    let age = |service: &Service| {
        (
            service.metadata.creation_timestamp.as_ref().map(|time| time.0),
            service.namespace().unwrap_or_default(),
            service.name_any(),
        )
    };
    let mut older: Vec<&Service> = others.iter().map(AsRef::as_ref).collect();
    older.retain(|other| age(other) < age(service));
    older.sort_by_key(|other| age(other));
    let mut taken = reserved.clone();
    for other in older {
        let wanted = ports(other);
        if taken.is_disjoint(&wanted) {
            taken.extend(wanted);
        }
    }
    taken.is_disjoint(&ports(service))
}

/// The status that `service` should have, unless it has it.
pub fn status(
    service: &Service,
    others: &[Arc<Service>],
    addresses: &[String],
    reserved: &BTreeSet<(String, i32)>,
) -> Option<Value> {
    let given: Vec<Value> = match is_one(service) && is_given(service, others, reserved) {
        true => addresses.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect(),
        false => Vec::new(),
    };
    let status = service.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let has = serde_json::to_value(balancer.and_then(|balancer| balancer.ingress.as_ref()));
    let has = has.unwrap_or_default().as_array().cloned().unwrap_or_default();
    if super::slices::same(&json!(has), &json!(given)) {
        return None;
    }
    // Whoever else writes the status keeps what it says.
    let mut whole = serde_json::to_value(status).unwrap_or_default();
    if !whole.is_object() {
        whole = json!({});
    }
    whole["loadBalancer"] = match given.is_empty() {
        true => json!({}),
        false => json!({"ingress": given}),
    };
    Some(whole)
}
