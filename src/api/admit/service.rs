//! What the server keeps in order in a Service: addresses and node ports that the client left out, and
//! fields that its type no longer has.
//!
//! It never allocates. Source: `pkg/registry/core/service/{strategy,storage/storage}.go`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::api::catalog::Kind;
use crate::api::failure::Failure;
use crate::api::object;

/// Whoever may name addresses outside the cluster may take their traffic (CVE-2020-8554).
pub(super) fn refuse_external_ips(kind: &Kind, service: &Value) -> Result<(), Failure> {
    let addresses = service["spec"]["externalIPs"].as_array();
    match addresses.is_none_or(Vec::is_empty) {
        true => Ok(()),
        false => Err(Failure::forbidden(
            kind.group,
            kind.plural,
            object::name(service),
            "Use of external IPs is denied by admission control",
        )),
    }
}

/// A new Service, its defaults filled in.
pub(super) fn prepare(new: &mut Value) {
    let spec = object::map_mut(new, "spec");
    if is_empty(spec.get("clusterIPs")) {
        list_address(spec);
    }
    fill_families(spec);
}

/// Makes `new` the successor of `old`: what it does not mention stays, unless its type forbids that.
pub(super) fn carry_over(old: &Value, new: &mut Value) {
    let before = &old["spec"];
    if new["spec"]["type"] != "LoadBalancer" && old["spec"]["type"] == "LoadBalancer" {
        object::map_mut(new, "status").insert("loadBalancer".to_owned(), json!({}));
    }
    let spec = object::map_mut(new, "spec");
    match_address_lists(before, spec);
    if has_address(before) && has_address(&Value::Object(spec.clone())) {
        if is_empty(spec.get("clusterIP")) && !before["clusterIP"].is_null() {
            spec.insert("clusterIP".to_owned(), before["clusterIP"].clone());
        }
        if is_empty(spec.get("clusterIPs")) && spec.get("clusterIP") == before.get("clusterIP") {
            copy(before, spec, "clusterIPs");
        }
    }
    match (has_node_ports(before), has_node_ports(&Value::Object(spec.clone()))) {
        (true, true) => keep_node_ports(before, spec),
        (true, false) => drop_node_ports(before, spec),
        (false, _) => {}
    }
    if has_address(before) && !has_address(&Value::Object(spec.clone())) {
        for field in
            ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]
        {
            drop_same(before, spec, field);
        }
    }
    if is_external(before) && !is_external(&Value::Object(spec.clone())) {
        drop_same(before, spec, "externalTrafficPolicy");
    }
    if before["type"] == "LoadBalancer" && spec.get("type") != Some(&"LoadBalancer".into()) {
        drop_same(before, spec, "allocateLoadBalancerNodePorts");
    }
    fill_families(spec);
}

/// `clusterIP` is the first of `clusterIPs`; a client that knows only one of them changes only that.
fn match_address_lists(before: &Value, spec: &mut Map<String, Value>) {
    let is_same = |spec: &Map<String, Value>, field: &str| {
        spec.get(field).unwrap_or(&Value::Null) == &before[field]
    };
    let one_changed = !is_same(spec, "clusterIP");
    let all_same = is_same(spec, "clusterIPs");
    if is_empty(spec.get("clusterIPs")) {
        if one_changed {
            list_address(spec);
        }
    } else if one_changed && all_same {
        match is_empty(spec.get("clusterIP")) {
            true => {
                spec.shift_remove("clusterIPs");
            }
            false => list_address(spec),
        }
    }
}

/// `clusterIPs` from `clusterIP`.
fn list_address(spec: &mut Map<String, Value>) {
    match spec.get("clusterIP").and_then(Value::as_str) {
        Some(address) if !address.is_empty() => {
            let all = json!([address]);
            spec.insert("clusterIPs".to_owned(), all);
        }
        _ => {}
    }
}

fn fill_families(spec: &mut Map<String, Value>) {
    if spec.get("type").and_then(Value::as_str) == Some("ExternalName") {
        return;
    }
    if is_empty(spec.get("ipFamilies")) {
        spec.insert("ipFamilies".to_owned(), json!(["IPv4"]));
    }
    if is_empty(spec.get("ipFamilyPolicy")) {
        spec.insert("ipFamilyPolicy".to_owned(), "SingleStack".into());
    }
}

/// Ports keep their node ports by name, unless those are asked for elsewhere in the Service.
fn keep_node_ports(before: &Value, spec: &mut Map<String, Value>) {
    let old = ports(before);
    let mut used: BTreeSet<i64> = {
        let now: BTreeSet<i64> = ports(&Value::Object(spec.clone())).iter().map(|p| p.1).collect();
        old.iter().map(|port| port.1).filter(|port| now.contains(port)).collect()
    };
    let list = spec.get_mut("ports").and_then(Value::as_array_mut);
    for port in list.into_iter().flatten().filter_map(Value::as_object_mut) {
        if port.get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0 {
            continue;
        }
        let called = port.get("name").and_then(Value::as_str).unwrap_or_default();
        let known = old.iter().find(|(name, number)| name == called && *number != 0);
        if let Some((_, number)) = known
            && used.insert(*number)
        {
            port.insert("nodePort".to_owned(), (*number).into());
        }
    }
}

/// Node ports of a type that has none go, if they are the old ones; others are the client's mistake.
fn drop_node_ports(before: &Value, spec: &mut Map<String, Value>) {
    let numbers = |spec: &Value| -> BTreeSet<i64> {
        ports(spec).into_iter().map(|port| port.1).filter(|port| *port != 0).collect()
    };
    if numbers(before) != numbers(&Value::Object(spec.clone())) {
        return;
    }
    let list = spec.get_mut("ports").and_then(Value::as_array_mut);
    for port in list.into_iter().flatten().filter_map(Value::as_object_mut) {
        port.shift_remove("nodePort");
    }
}

/// Name and node port of every port.
fn ports(spec: &Value) -> Vec<(String, i64)> {
    let list = spec["ports"].as_array().into_iter().flatten();
    list.map(|port| {
        let name = port["name"].as_str().unwrap_or_default().to_owned();
        (name, port["nodePort"].as_i64().unwrap_or(0))
    })
    .collect()
}

/// Whether a Service of this spec has an address of its own (or none on purpose).
pub fn has_address(spec: &Value) -> bool {
    spec["type"] != "ExternalName"
}

/// Whether a Service of this spec has node ports.
pub fn has_node_ports(spec: &Value) -> bool {
    match spec["type"].as_str() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

fn is_external(spec: &Value) -> bool {
    matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer"))
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    }
}

fn copy(from: &Value, to: &mut Map<String, Value>, field: &str) {
    if let Some(value) = from.get(field) {
        to.insert(field.to_owned(), value.clone());
    }
}

fn drop_same(before: &Value, spec: &mut Map<String, Value>, field: &str) {
    if spec.get(field) == before.get(field) {
        spec.shift_remove(field);
    }
}
