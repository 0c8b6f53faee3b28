//! The Node's labels and status from what the host is.
//!
//! Pure. Beside Kubernetes' own conditions it tells two of ours: cgroup controllers that are missing, and what
//! of the host stands in the way of pod traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::host::{Capacity, Identity, Pressure};
use crate::model::time::Timestamp;
use crate::node::agent::NodeConfig;
use crate::node::huge_pages::SIZES;

pub const MISSING_CONTROLLERS: &str = "MissingCgroupControllers";
pub const NETWORK_OBSTRUCTED: &str = "NetworkObstructed";

/// Controllers that limits and requests need.
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];

pub struct Facts<'a> {
    pub config: &'a NodeConfig,
    pub addresses: &'a [IpAddr],
    pub controllers: &'a BTreeSet<String>,
    pub network_problems: &'a [String],
    pub capacity: Capacity,
    pub pressure: Pressure,
    pub identity: Identity,
    pub images: &'a [core::ContainerImage],
}

pub fn labels(node: &str) -> BTreeMap<String, String> {
    [
        ("beta.kubernetes.io/arch", ARCHITECTURE),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", ARCHITECTURE),
        ("kubernetes.io/hostname", node),
        ("kubernetes.io/os", "linux"),
        ("node-role.kubernetes.io/control-plane", ""),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// As Go names it.
const ARCHITECTURE: &str = match std::env::consts::ARCH.as_bytes() {
    b"x86_64" => "amd64",
    b"aarch64" => "arm64",
    _ => std::env::consts::ARCH,
};

pub fn missing_controllers(present: &BTreeSet<String>) -> Vec<&'static str> {
    NEEDED.into_iter().filter(|name| !present.contains(*name)).collect()
}

pub fn missing_message(missing: &[&str]) -> String {
    format!(
        "cgroup v2 controllers are missing: {}. Requests and default limits of these are not applied; pods that \
         set such a limit do not start.",
        missing.join(", ")
    )
}

/// The status without times, so that equal hosts compare equal.
pub fn status(facts: &Facts<'_>) -> Value {
    let identity = &facts.identity;
    let addresses: Vec<Value> = facts
        .addresses
        .iter()
        .map(|address| json!({"type": "InternalIP", "address": address.to_string()}))
        .chain([json!({"type": "Hostname", "address": facts.config.node_name})])
        .collect();
    let mut replaced = vec![json!({"$patch": "replace"})];
    replaced.extend(addresses);
    json!({
        "capacity": resources(facts.capacity, facts.config.max_pods),
        "allocatable": resources(facts.capacity.allocatable(), facts.config.max_pods),
        "addresses": replaced,
        "conditions": conditions(facts),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": facts.config.kubelet_port}},
        "nodeInfo": {
            "machineID": identity.machine_id,
            "systemUUID": identity.system_uuid,
            "bootID": identity.boot_id,
            "kernelVersion": identity.kernel,
            "osImage": identity.os_image,
            "containerRuntimeVersion": format!("joey://{}", facts.config.version),
            "kubeletVersion": facts.config.kubelet_version,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": ARCHITECTURE,
        },
        "images": facts.images,
    })
}

/// The status as it is written: conditions with the time of this heartbeat, and of their last change.
pub fn stamped(status: &Value, before: Option<&core::Node>, now: Timestamp) -> Value {
    let mut status = status.clone();
    let held = before.and_then(|node| node.status.as_ref()?.conditions.as_ref());
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        let same = held.into_iter().flatten().find(|held| {
            condition["type"] == held.type_.as_str() && condition["status"] == held.status.as_str()
        });
        let changed = same.and_then(|held| held.last_transition_time.clone());
        condition["lastHeartbeatTime"] = json!(Time(now.as_jiff()));
        condition["lastTransitionTime"] = json!(changed.unwrap_or(Time(now.as_jiff())));
    }
    status
}

fn resources(capacity: Capacity, pods: u32) -> Value {
    let cpu = match capacity.cpu_millis % 1000 {
        0 => (capacity.cpu_millis / 1000).to_string(),
        _ => format!("{}m", capacity.cpu_millis),
    };
    let mut resources = json!({
        "cpu": cpu,
        "memory": format!("{}Ki", capacity.memory_bytes / 1024),
        "ephemeral-storage": format!("{}Ki", capacity.storage_bytes / 1024),
        "pods": pods.to_string(),
    });
    for (size, bytes) in SIZES.iter().zip(capacity.huge_pages) {
        if let Some(bytes) = bytes {
            resources[size.resource] = json!(format!("{}Ki", bytes / 1024));
        }
    }
    resources
}

fn conditions(facts: &Facts<'_>) -> Vec<Value> {
    let condition = |kind: &str, is_true: bool, reason: &str, message: &str| {
        json!({
            "type": kind,
            "status": if is_true { "True" } else { "False" },
            "reason": reason,
            "message": message,
        })
    };
    let pressure = facts.pressure;
    let either =
        |is_true: bool, yes: (&'static str, &'static str), no: (&'static str, &'static str)| {
            if is_true { yes } else { no }
        };
    let memory = either(
        pressure.memory,
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    );
    let disk = either(
        pressure.disk,
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    );
    let pids = either(
        pressure.pids,
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    );
    let missing = missing_controllers(facts.controllers);
    let missing_text = match missing.is_empty() {
        true => "every cgroup v2 controller that pods need is there".to_owned(),
        false => missing_message(&missing),
    };
    let obstructed = !facts.network_problems.is_empty();
    let network_text = match obstructed {
        true => facts.network_problems.join(" "),
        false => "nothing of the host stands in the way of pod traffic".to_owned(),
    };
    vec![
        condition(
            MISSING_CONTROLLERS,
            !missing.is_empty(),
            if missing.is_empty() { "ControllersPresent" } else { "ControllersMissing" },
            &missing_text,
        ),
        condition(
            NETWORK_OBSTRUCTED,
            obstructed,
            if obstructed { "HostRulesDropPodTraffic" } else { "HostLetsPodTrafficPass" },
            &network_text,
        ),
        condition("MemoryPressure", pressure.memory, memory.0, memory.1),
        condition("DiskPressure", pressure.disk, disk.0, disk.1),
        condition("PIDPressure", pressure.pids, pids.0, pids.1),
        condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
    ]
}
