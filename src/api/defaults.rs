//! What Kubernetes fills in when the user said nothing, by resource.
//!
//! It never refuses and never looks at other objects: malformed values pass through untouched for
//! [`crate::api::validate`] to name. Source: the `SetDefaults_*` functions of `pkg/apis/*/v1/defaults.go`.

mod autoscaler;
mod batch;
mod config;
mod network;
pub mod pod;
mod service;
mod workload;

use serde_json::{Map, Value, json};

use crate::api::quantities;

/// Fills in the defaults of `resource` (`pods`, `leases.coordination.k8s.io`) and writes quantities in
/// their canonical form. Applying twice is the same as once, so objects stored by an older version are
/// completed on read.
pub fn apply(resource: &str, object: &mut Value) {
    quantities::canonicalize(object);
    match resource {
        "pods" => pod::pod(object),
        "namespaces" => config::namespace(object),
        "nodes" => config::node(object),
        "configmaps" => config::config_map(object),
        "secrets" => config::secret(object),
        "services" => service::service(object),
        "endpoints" => network::endpoints(object),
        "endpointslices.discovery.k8s.io" => network::endpoint_slice(object),
        "networkpolicies.networking.k8s.io" => network::network_policy(object),
        "horizontalpodautoscalers.autoscaling" => autoscaler::autoscaler(object),
        "deployments.apps" => workload::deployment(object),
        "replicasets.apps" => workload::replica_set(object),
        "statefulsets.apps" => workload::stateful_set(object),
        "daemonsets.apps" => workload::daemon_set(object),
        "jobs.batch" => batch::job(object),
        "cronjobs.batch" => batch::cron_job(object),
        // Everything else (Events, Leases, ServiceAccounts, …) has no defaults.
        _ => {}
    }
}

/// Sets `key` if the user left it out: absent, null or "".
fn fill(map: &mut Map<String, Value>, key: &str, default: Value) {
    if is_unset(map.get(key)) {
        map.insert(key.to_owned(), default);
    }
}

/// Like [`fill`] for numbers of which zero means "left out".
fn fill_zero(map: &mut Map<String, Value>, key: &str, default: Value) {
    if is_unset(map.get(key)) || map.get(key).and_then(Value::as_i64) == Some(0) {
        map.insert(key.to_owned(), default);
    }
}

/// Removes zero values of fields that Kubernetes omits when they are zero, so that equal objects are
/// equal texts whichever encoding they came in.
fn omit_zero(map: &mut Map<String, Value>, keys: &[&str]) {
    for key in keys {
        if let Some(Value::Null | Value::Bool(false)) = map.get(*key) {
            map.shift_remove(*key);
        } else if map.get(*key).and_then(Value::as_i64) == Some(0) {
            map.shift_remove(*key);
        }
    }
}

fn is_unset(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    }
}

/// The object at `key`, made if absent; `None` if something else stands there.
fn ensure_map<'a>(
    map: &'a mut Map<String, Value>,
    key: &str,
) -> Option<&'a mut Map<String, Value>> {
    if is_unset(map.get(key)) {
        map.insert(key.to_owned(), json!({}));
    }
    map.get_mut(key)?.as_object_mut()
}

/// The object at `key` if there is one.
fn map_in<'a>(map: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    map.get_mut(key)?.as_object_mut()
}

/// The objects in the list at `key`.
fn maps_in<'a>(
    map: &'a mut Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let items = map.get_mut(key).and_then(Value::as_array_mut);
    items.into_iter().flatten().filter_map(Value::as_object_mut)
}

#[cfg(test)]
mod tests;
