//! Services.
//!
//! It never allocates addresses or node ports.

use serde_json::{Value, json};

use super::{ensure_map, fill, is_unset, maps_in};

/// Three hours, in seconds.
const AFFINITY_TIMEOUT: i64 = 10800;

pub(super) fn service(object: &mut Value) {
    let Some(object) = object.as_object_mut() else {
        return;
    };
    if let Some(status) = ensure_map(object, "status") {
        ensure_map(status, "loadBalancer");
    }
    let Some(spec) = ensure_map(object, "spec") else {
        return;
    };
    fill(spec, "type", "ClusterIP".into());
    fill(spec, "sessionAffinity", "None".into());
    let text = |spec: &serde_json::Map<String, Value>, key: &str| {
        spec.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    match text(spec, "sessionAffinity").as_str() {
        "ClientIP" => {
            if let Some(config) = ensure_map(spec, "sessionAffinityConfig")
                && let Some(client) = ensure_map(config, "clientIP")
            {
                fill(client, "timeoutSeconds", AFFINITY_TIMEOUT.into());
            }
        }
        "None" => {
            spec.shift_remove("sessionAffinityConfig");
        }
        _ => {}
    }
    for port in maps_in(spec, "ports") {
        fill(port, "protocol", "TCP".into());
        let is_missing =
            is_unset(port.get("targetPort")) || port.get("targetPort") == Some(&json!(0));
        if let Some(number) = port.get("port").filter(|_| is_missing).cloned() {
            port.insert("targetPort".to_owned(), number);
        }
        super::omit_zero(port, &["nodePort"]);
    }
    let kind = text(spec, "type");
    let has_external_ips =
        spec.get("externalIPs").and_then(Value::as_array).is_some_and(|l| !l.is_empty());
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer")
        || kind == "ClusterIP" && has_external_ips
    {
        fill(spec, "externalTrafficPolicy", "Cluster".into());
    }
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        fill(spec, "internalTrafficPolicy", "Cluster".into());
    }
    if kind == "LoadBalancer" {
        fill(spec, "allocateLoadBalancerNodePorts", true.into());
    }
}
