//! Endpoints, EndpointSlices and NetworkPolicies.
//!
//! It never fills in a port number: absent means every port.

use serde_json::{Value, json};

use super::{ensure_map, fill, maps_in};

pub(super) fn endpoints(object: &mut Value) {
    let Some(object) = object.as_object_mut() else { return };
    for subset in maps_in(object, "subsets") {
        for port in maps_in(subset, "ports") {
            fill(port, "protocol", "TCP".into());
        }
    }
}

pub(super) fn endpoint_slice(object: &mut Value) {
    let Some(object) = object.as_object_mut() else { return };
    for port in maps_in(object, "ports") {
        fill(port, "name", "".into());
        fill(port, "protocol", "TCP".into());
    }
}

pub(super) fn network_policy(object: &mut Value) {
    let Some(object) = object.as_object_mut() else { return };
    let Some(spec) = ensure_map(object, "spec") else { return };
    // A null selector means the same as an empty one: every pod.
    ensure_map(spec, "podSelector");
    for rules in ["ingress", "egress"] {
        for rule in maps_in(spec, rules) {
            for port in maps_in(rule, "ports") {
                fill(port, "protocol", "TCP".into());
            }
        }
    }
    let has_types = spec.get("policyTypes").is_some_and(|types| {
        types.as_array().is_none_or(|list| !list.is_empty()) && !types.is_null()
    });
    if !has_types {
        let has_egress =
            spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
        let types = if has_egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        spec.insert("policyTypes".to_owned(), types);
    }
}
