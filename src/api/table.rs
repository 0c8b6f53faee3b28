//! Tables as kubectl prints them: columns and rows by resource.
//!
//! It never filters, sorts or reads a clock; `now` comes from the caller. The server always sends the wide
//! form; kubectl drops columns of priority 1 unless asked. Source: `pkg/printers/internalversion`.

pub mod age;
mod autoscaler;
mod cluster;
mod column;
mod config;
mod event;
mod network;
mod node;
mod pod;
mod selector;
mod storage;
mod workload;

use serde_json::{Value, json};

use crate::model::time::Timestamp;
use column::Column;

/// How much of each object travels in its row (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    None,
    /// As PartialObjectMetadata.
    #[default]
    Metadata,
    Object,
}

/// How a resource is printed: its columns and the cells of one object, one each.
struct Printer {
    columns: &'static [Column],
    cells: fn(&Value, Timestamp) -> Vec<Value>,
}

/// The `Table` of `items`. `list_metadata` is the metadata of the list (or for a single GET
/// `{"resourceVersion": …}`).
pub fn render(
    resource: &str,
    items: &[Value],
    include_object: IncludeObject,
    list_metadata: Value,
    now: Timestamp,
) -> Value {
    let rows: Vec<Value> =
        items.iter().map(|item| row(resource, item, include_object, now)).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_metadata,
        "columnDefinitions": columns(resource),
        "rows": rows,
    })
}

/// What a Table says of one object.
pub fn row(resource: &str, item: &Value, include_object: IncludeObject, now: Timestamp) -> Value {
    let mut row = json!({"cells": (printer(resource).cells)(item, now)});
    if resource == "pods"
        && let Some(conditions) = pod::row_conditions(item)
    {
        row["conditions"] = conditions;
    }
    row["object"] = match include_object {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": item["metadata"],
        }),
        IncludeObject::Object => item.clone(),
    };
    row
}

/// The `columnDefinitions` of `resource`.
pub fn columns(resource: &str) -> Vec<Value> {
    printer(resource).columns.iter().map(Column::to_json).collect()
}

fn printer(resource: &str) -> &'static Printer {
    match resource {
        "pods" => &pod::PODS,
        "nodes" => &node::NODES,
        "events" | "events.events.k8s.io" => &event::EVENTS,
        "namespaces" => &config::NAMESPACES,
        "configmaps" => &config::CONFIG_MAPS,
        "secrets" => &config::SECRETS,
        "serviceaccounts" => &config::SERVICE_ACCOUNTS,
        "leases.coordination.k8s.io" => &config::LEASES,
        "deployments.apps" => &workload::DEPLOYMENTS,
        "replicasets.apps" | "replicationcontrollers" => &workload::REPLICA_SETS,
        "scales.autoscaling" => &workload::SCALES,
        "statefulsets.apps" => &workload::STATEFUL_SETS,
        "daemonsets.apps" => &workload::DAEMON_SETS,
        "jobs.batch" => &workload::JOBS,
        "cronjobs.batch" => &workload::CRON_JOBS,
        "controllerrevisions.apps" => &workload::CONTROLLER_REVISIONS,
        "horizontalpodautoscalers.autoscaling" => &autoscaler::AUTOSCALERS,
        "services" => &network::SERVICES,
        "endpoints" => &network::ENDPOINTS,
        "endpointslices.discovery.k8s.io" => &network::ENDPOINT_SLICES,
        "ingresses.networking.k8s.io" => &network::INGRESSES,
        "ingressclasses.networking.k8s.io" => &network::INGRESS_CLASSES,
        "networkpolicies.networking.k8s.io" => &network::NETWORK_POLICIES,
        "persistentvolumes" => &storage::PERSISTENT_VOLUMES,
        "persistentvolumeclaims" => &storage::PERSISTENT_VOLUME_CLAIMS,
        "storageclasses.storage.k8s.io" => &storage::STORAGE_CLASSES,
        "rolebindings.rbac.authorization.k8s.io"
        | "clusterrolebindings.rbac.authorization.k8s.io" => &cluster::ROLE_BINDINGS,
        "priorityclasses.scheduling.k8s.io" => &cluster::PRIORITY_CLASSES,
        "runtimeclasses.node.k8s.io" => &cluster::RUNTIME_CLASSES,
        "poddisruptionbudgets.policy" => &cluster::DISRUPTION_BUDGETS,
        "nodes.metrics.k8s.io" => &cluster::NODE_USAGE,
        "pods.metrics.k8s.io" => &cluster::POD_USAGE,
        // Kubernetes prints kinds it has no columns for like this, too.
        _ => &cluster::ANYTHING,
    }
}

/// The text at the end of `path`, "" if there is none.
fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).as_str().unwrap_or_default()
}

/// The whole number at the end of `path`, zero if there is none.
fn number(object: &Value, path: &[&str]) -> i64 {
    at(object, path).as_i64().unwrap_or_default()
}

fn at<'a>(object: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(object, |value, step| &value[*step])
}

fn items<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    at(object, path).as_array().map(Vec::as_slice).unwrap_or_default()
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

/// The name, without which no row goes.
fn name(object: &Value) -> Value {
    text(object, &["metadata", "name"]).into()
}

/// The age of an object.
fn age(object: &Value, now: Timestamp) -> Value {
    age::since(&object["metadata"]["creationTimestamp"], now).into()
}

/// Whether the condition `kind` of `status` is true.
fn is_true(object: &Value, kind: &str) -> bool {
    items(object, &["status", "conditions"])
        .iter()
        .any(|condition| condition["type"] == kind && condition["status"] == "True")
}

#[cfg(test)]
mod tests;
