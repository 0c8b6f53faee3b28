//! Fields that are right but that this version cannot honour yet: each is refused by name.
//!
//! Nothing is ever accepted and then ignored. To implement a field is to delete its row.

use serde_json::Value;

use super::field::FieldError;
use super::place::Place;
use crate::model::quantity::Quantity;

const REFUSAL: &str = "not implemented by this version of Joey";

/// A field, and the values that need no implementation because they mean "as it is anyway".
struct Row {
    /// Steps of the way: `name`, `name[]` for every item of a list, `name{}` for every key of a map.
    path: &'static str,
    harmless: &'static [&'static str],
    /// Whether `{}` is a request, too: an empty source still makes a volume.
    refuses_empty: bool,
}

const fn never(path: &'static str) -> Row {
    Row { path, harmless: &[], refuses_empty: false }
}

const fn only(path: &'static str, harmless: &'static [&'static str]) -> Row {
    Row { path, harmless, refuses_empty: false }
}

const fn source(path: &'static str) -> Row {
    Row { path, harmless: &[], refuses_empty: true }
}

/// Below the spec of a pod or of a pod template.
const POD_SPEC: &[Row] = &[
    never("affinity"),
    never("ephemeralContainers"),
    only("hostUsers", &["true"]),
    never("hostnameOverride"),
    only("os.name", &["linux"]),
    never("overhead"),
    never("resourceClaims"),
    never("resources"),
    never("runtimeClassName"),
    only("schedulerName", &["default-scheduler"]),
    never("schedulingGates"),
    never("schedulingGroup"),
    only("setHostnameAsFQDN", &["false"]),
    only("shareProcessNamespace", &["false"]),
    never("topologySpreadConstraints"),
    never("securityContext.appArmorProfile"),
    only("securityContext.fsGroupChangePolicy", &["Always"]),
    only("securityContext.seLinuxChangePolicy", &["Recursive"]),
    never("securityContext.seLinuxOptions"),
    never("securityContext.windowsOptions"),
    only("securityContext.sysctls[].name", SAFE_SYSCTLS),
    only("volumes[].emptyDir.medium", &["Memory"]),
    source("volumes[].projected.sources[].clusterTrustBundle"),
    source("volumes[].projected.sources[].podCertificate"),
    source("volumes[].awsElasticBlockStore"),
    source("volumes[].azureDisk"),
    source("volumes[].azureFile"),
    source("volumes[].cephfs"),
    source("volumes[].cinder"),
    source("volumes[].csi"),
    source("volumes[].ephemeral"),
    source("volumes[].fc"),
    source("volumes[].flexVolume"),
    source("volumes[].flocker"),
    source("volumes[].gcePersistentDisk"),
    source("volumes[].gitRepo"),
    source("volumes[].glusterfs"),
    source("volumes[].image"),
    source("volumes[].iscsi"),
    source("volumes[].nfs"),
    source("volumes[].persistentVolumeClaim"),
    source("volumes[].photonPersistentDisk"),
    source("volumes[].portworxVolume"),
    source("volumes[].quobyte"),
    source("volumes[].rbd"),
    source("volumes[].scaleIO"),
    source("volumes[].storageos"),
    source("volumes[].vsphereVolume"),
];

/// Below every container: init, regular, ephemeral.
const CONTAINER: &[Row] = &[
    never("env[].valueFrom.fileKeyRef"),
    // Kubernetes accepts it and then ignores it.
    never("lifecycle.postStart.tcpSocket"),
    never("lifecycle.preStop.tcpSocket"),
    // A beta of Kubernetes' own.
    never("lifecycle.stopSignal"),
    // "Always" makes a sidecar of an init container, and nothing else may have it.
    only("restartPolicy", &["Always"]),
    never("restartPolicyRules"),
    only("resizePolicy[].restartPolicy", &["NotRequired"]),
    never("resources.claims"),
    only("resources.limits{}", CONTAINER_RESOURCES),
    only("resources.requests{}", CONTAINER_RESOURCES),
    never("securityContext.appArmorProfile"),
    only("securityContext.procMount", &["Default"]),
    never("securityContext.seLinuxOptions"),
    never("securityContext.windowsOptions"),
    never("volumeDevices"),
    only("volumeMounts[].recursiveReadOnly", &["Disabled"]),
    never("volumeMounts[].subPathExpr"),
];

const NODE: &[Row] = &[never("spec.configSource")];

/// Everything about a balancer that is not this host.
const SERVICE: &[Row] = &[
    never("spec.healthCheckNodePort"),
    never("spec.loadBalancerClass"),
    never("spec.loadBalancerIP"),
    never("spec.loadBalancerSourceRanges"),
];

const INGRESS: &[Row] =
    &[source("spec.defaultBackend.resource"), source("spec.rules[].http.paths[].backend.resource")];

const AUTOSCALER: &[Row] = &[
    source("spec.metrics[].external"),
    never("spec.metrics[].object.metric.selector"),
    never("spec.metrics[].pods.metric.selector"),
];

const LEASE: &[Row] = &[never("spec.preferredHolder"), never("spec.strategy")];

/// Of a `{}` step the key is the value.
const CONTAINER_RESOURCES: &[&str] = &["cpu", "memory", "hugepages-2Mi", "hugepages-1Gi"];

/// Sysctls that belong to the pod's own namespaces and bother nobody else.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// An error for every field of `object` that this version does not implement.
pub(super) fn refusals(resource: &str, object: &Value) -> Vec<FieldError> {
    let mut refused = Vec::new();
    match resource {
        "pods" => pod_spec(&Place::root(object, "spec"), &mut refused),
        "nodes" => object_rows(object, NODE, &mut refused),
        "leases.coordination.k8s.io" => object_rows(object, LEASE, &mut refused),
        "services" => object_rows(object, SERVICE, &mut refused),
        "ingresses.networking.k8s.io" => object_rows(object, INGRESS, &mut refused),
        "ingressclasses.networking.k8s.io" => class_parameters(object, &mut refused),
        "horizontalpodautoscalers.autoscaling" => {
            object_rows(&super::autoscaler::in_v2(object), AUTOSCALER, &mut refused);
        }
        "deployments.apps" | "replicasets.apps" | "statefulsets.apps" | "daemonsets.apps"
        | "jobs.batch" => {
            let spec = Place::root(object, "spec");
            pod_spec(&spec.child("template").child("spec"), &mut refused);
        }
        _ => {}
    }
    refused
}

fn object_rows(object: &Value, rows: &[Row], refused: &mut Vec<FieldError>) {
    for row in rows {
        if let Some((first, rest)) = row.path.split_once('.') {
            visit(&Place::root(object, first), rest, row, refused);
        }
    }
}

/// What parameters mean only the controller knows that they are for, and this one has none.
fn class_parameters(class: &Value, refused: &mut Vec<FieldError>) {
    let spec = Place::root(class, "spec");
    let parameters = spec.child("parameters");
    if class["spec"]["controller"] == "joey.dev/ingress" && parameters.is_set() {
        refused.push(parameters.forbidden(REFUSAL));
    }
}

fn pod_spec(spec: &Place<'_>, refused: &mut Vec<FieldError>) {
    for row in POD_SPEC {
        visit(spec, row.path, row, refused);
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec.child(list).items() {
            for row in CONTAINER {
                visit(&container, row.path, row, refused);
            }
        }
    }
    for volume in spec.child("volumes").items() {
        size_limit(&volume.child("emptyDir"), refused);
    }
}

/// Follows the steps of `path` and refuses what stands at the end, unless it is harmless.
fn visit(place: &Place<'_>, path: &str, row: &Row, refused: &mut Vec<FieldError>) {
    let (step, rest) = path.split_once('.').unwrap_or((path, ""));
    let continue_at = |next: &Place<'_>, refused: &mut Vec<FieldError>| {
        if !rest.is_empty() {
            visit(next, rest, row, refused);
            return;
        }
        let is_asked_for = if row.refuses_empty { next.is_set() } else { next.is_filled() };
        if is_asked_for && !is_harmless(next.value, row.harmless) {
            refused.push(next.forbidden(REFUSAL));
        }
    };
    if let Some(list) = step.strip_suffix("[]") {
        place.child(list).items().for_each(|item| continue_at(&item, refused));
    } else if let Some(map) = step.strip_suffix("{}") {
        for (key, entry) in place.child(map).entries() {
            if !is_harmless(&key.into(), row.harmless) && !key.contains('/') {
                refused.push(entry.forbidden(REFUSAL));
            }
        }
    } else {
        continue_at(&place.child(step), refused);
    }
}

fn is_harmless(value: &Value, harmless: &[&str]) -> bool {
    match value {
        // A sysctl may be written with slashes.
        Value::String(text) => {
            harmless.contains(&text.replace('/', ".").as_str()) || harmless.contains(&text.as_str())
        }
        Value::Bool(flag) => harmless.contains(&if *flag { "true" } else { "false" }),
        Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

/// On disk nothing enforces a size yet; in memory tmpfs does.
fn size_limit(empty_dir: &Place<'_>, refused: &mut Vec<FieldError>) {
    let limit = empty_dir.child("sizeLimit");
    let is_limited = Quantity::from_json(limit.value).is_ok_and(|quantity| !quantity.is_zero());
    if is_limited && empty_dir.value["medium"] != "Memory" {
        refused.push(limit.forbidden(REFUSAL));
    }
}
