//! Pods, and the pod templates inside workloads.
//!
//! It never adds what admission adds (service account, priority, tolerations); see `api::admit`.

use serde_json::{Map, Value, json};

use super::{ensure_map, fill, fill_zero, map_in, maps_in, omit_zero};
use crate::model::quantity::Quantity;

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// A Pod: the defaults of any pod spec, and those that only real pods get.
pub(super) fn pod(object: &mut Value) {
    let Some(pod) = object.as_object_mut() else {
        return;
    };
    if let Some(spec) = ensure_map(pod, "spec") {
        pod_spec(spec);
        fill(spec, "enableServiceLinks", true.into());
        let shares_host_network = spec.get("hostNetwork").and_then(Value::as_bool) == Some(true);
        for list in ["initContainers", "containers"] {
            for container in maps_in(spec, list) {
                requests_from_limits(container);
                if shares_host_network {
                    host_ports(container);
                }
            }
        }
    }
    let class = qos_class(object);
    if let Some(pod) = object.as_object_mut()
        && let Some(status) = ensure_map(pod, "status")
    {
        fill(status, "phase", "Pending".into());
        fill(status, "qosClass", class.into());
    }
}

/// The pod template at `template` of a workload's spec.
pub(super) fn template(workload_spec: &mut Map<String, Value>) {
    if let Some(template) = ensure_map(workload_spec, "template")
        && let Some(spec) = ensure_map(template, "spec")
    {
        pod_spec(spec);
    }
}

fn pod_spec(spec: &mut Map<String, Value>) {
    fill(spec, "restartPolicy", "Always".into());
    fill(spec, "terminationGracePeriodSeconds", 30.into());
    fill(spec, "dnsPolicy", "ClusterFirst".into());
    ensure_map(spec, "securityContext");
    fill(spec, "schedulerName", "default-scheduler".into());
    service_account_mirror(spec);
    omit_zero(spec, &["hostNetwork", "hostPID", "hostIPC"]);
    for list in CONTAINER_LISTS {
        maps_in(spec, list).for_each(container);
    }
    maps_in(spec, "volumes").for_each(volume);
}

/// `serviceAccount` is the deprecated name of `serviceAccountName`; both always say the same.
fn service_account_mirror(spec: &mut Map<String, Value>) {
    let text = |key: &str| spec.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(name) = text("serviceAccountName").or(text("serviceAccount")).map(str::to_owned) {
        spec.insert("serviceAccountName".to_owned(), name.clone().into());
        spec.insert("serviceAccount".to_owned(), name.into());
    }
}

fn container(container: &mut Map<String, Value>) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if is_latest(image) { "Always" } else { "IfNotPresent" };
    fill(container, "imagePullPolicy", policy.into());
    fill(container, "terminationMessagePath", "/dev/termination-log".into());
    fill(container, "terminationMessagePolicy", "File".into());
    ensure_map(container, "resources");
    omit_zero(container, &["stdin", "stdinOnce", "tty"]);
    for port in maps_in(container, "ports") {
        fill(port, "protocol", "TCP".into());
        omit_zero(port, &["hostPort"]);
    }
    for mount in maps_in(container, "volumeMounts") {
        omit_zero(mount, &["readOnly"]);
    }
    for variable in maps_in(container, "env") {
        if let Some(source) = map_in(variable, "valueFrom") {
            downward(source);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = map_in(container, name) {
            fill_zero(probe, "timeoutSeconds", 1.into());
            fill_zero(probe, "periodSeconds", 10.into());
            fill_zero(probe, "successThreshold", 1.into());
            fill_zero(probe, "failureThreshold", 3.into());
            omit_zero(probe, &["initialDelaySeconds"]);
            handler(probe);
            if let Some(grpc) = map_in(probe, "grpc")
                && grpc.get("service").is_none_or(Value::is_null)
            {
                grpc.insert("service".to_owned(), "".into());
            }
        }
    }
    if let Some(lifecycle) = map_in(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = map_in(lifecycle, hook) {
                handler(hook);
            }
        }
    }
}

/// Whether an image reference means the tag `latest`: named, or by having neither tag nor digest.
fn is_latest(image: &str) -> bool {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    match (last.split_once(':'), digest) {
        (Some((_, tag)), _) => tag == "latest",
        (None, Some(_)) => false,
        (None, None) => true,
    }
}

fn handler(handler: &mut Map<String, Value>) {
    if let Some(http) = map_in(handler, "httpGet") {
        fill(http, "path", "/".into());
        fill(http, "scheme", "HTTP".into());
    }
}

/// A `fieldRef` says which version of the Pod its path belongs to, a `resourceFieldRef` its unit.
fn downward(source: &mut Map<String, Value>) {
    if let Some(field) = map_in(source, "fieldRef") {
        fill(field, "apiVersion", "v1".into());
    }
    if let Some(resource) = map_in(source, "resourceFieldRef") {
        fill(resource, "divisor", "0".into());
    }
}

const VOLUME_MODE: i64 = 0o644;

fn volume(volume: &mut Map<String, Value>) {
    if volume.iter().all(|(key, value)| key == "name" || value.is_null()) {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = map_in(volume, source) {
            fill(source, "defaultMode", VOLUME_MODE.into());
        }
    }
    if let Some(host_path) = map_in(volume, "hostPath")
        && host_path.get("type").is_none_or(Value::is_null)
    {
        host_path.insert("type".to_owned(), "".into());
    }
    if let Some(files) = map_in(volume, "downwardAPI") {
        maps_in(files, "items").for_each(downward);
    }
    if let Some(projected) = map_in(volume, "projected") {
        for source in maps_in(projected, "sources") {
            if let Some(files) = map_in(source, "downwardAPI") {
                maps_in(files, "items").for_each(downward);
            }
            if let Some(token) = map_in(source, "serviceAccountToken") {
                fill(token, "expirationSeconds", 3600.into());
            }
        }
    }
}

/// Only real pods get this: a template keeps what its author wrote.
fn requests_from_limits(container: &mut Map<String, Value>) {
    let Some(resources) = map_in(container, "resources") else {
        return;
    };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else {
        return;
    };
    if let Some(requests) = ensure_map(resources, "requests") {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

fn host_ports(container: &mut Map<String, Value>) {
    for port in maps_in(container, "ports") {
        if let Some(number) = port.get("containerPort").cloned() {
            fill_zero(port, "hostPort", number);
        }
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from cpu and memory of containers and init containers.
///
/// Guaranteed: each of them limits both, and requests equal limits in sum. BestEffort: none names
/// either (zero does not count). See `pkg/apis/core/helper/qos`.
pub fn qos_class(pod: &Value) -> &'static str {
    const COUNTED: [&str; 2] = ["cpu", "memory"];
    let mut requests = [Quantity::ZERO; 2];
    let mut limits = [Quantity::ZERO; 2];
    let mut all_limited = true;
    for list in ["containers", "initContainers"] {
        for container in pod["spec"][list].as_array().into_iter().flatten() {
            for (i, name) in COUNTED.iter().enumerate() {
                let amount = |side: &str| {
                    let quantity =
                        Quantity::from_json(&container["resources"][side][*name]).ok()?;
                    (!quantity.is_zero() && !quantity.is_negative()).then_some(quantity)
                };
                let limit = amount("limits");
                all_limited &= limit.is_some();
                limits[i] = limits[i].plus(limit.unwrap_or(Quantity::ZERO));
                // Unset requests equal the limits, by defaulting.
                requests[i] =
                    requests[i].plus(amount("requests").or(limit).unwrap_or(Quantity::ZERO));
            }
        }
    }
    if requests.iter().chain(&limits).all(|sum| sum.is_zero()) {
        "BestEffort"
    } else if all_limited && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}
