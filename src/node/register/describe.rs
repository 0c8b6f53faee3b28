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
use crate::node::compile::resources::nanos;
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
            "containerRuntimeVersion": runtime_version(facts.config),
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

/// What a start of the daemon means for the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// The first one, or one of another version.
    Fresh,
    Rebooted {
        boot_id: String,
    },
    /// The host and its pods ran on meanwhile.
    Resumed,
}

/// What a start means, by what the Node tells of the one before.
pub fn start(identity: &Identity, config: &NodeConfig, held: &core::Node) -> Start {
    let Some(info) = held.status.as_ref().and_then(|status| status.node_info.as_ref()) else {
        return Start::Fresh;
    };
    let runtime = runtime_version(config);
    if info.boot_id != identity.boot_id {
        Start::Rebooted { boot_id: identity.boot_id.clone() }
    } else if info.container_runtime_version != runtime {
        Start::Fresh
    } else {
        Start::Resumed
    }
}

/// The last heartbeat of a Node that says all of `status` already.
pub fn same_since(status: &Value, held: &core::Node) -> Option<Timestamp> {
    let held = held.status.as_ref()?;
    let mut wanted = status.clone();
    if let Some(addresses) = wanted["addresses"].as_array_mut() {
        addresses.retain(|address| address.get("$patch").is_none());
    }
    let wanted: core::NodeStatus = serde_json::from_value(wanted).ok()?;
    let conditions = held.conditions.as_deref().unwrap_or_default();
    let said = |wanted: &core::NodeCondition| {
        let same = conditions.iter().find(|held| held.type_ == wanted.type_)?;
        let is_same = (&same.status, &same.reason, &same.message)
            == (&wanted.status, &wanted.reason, &wanted.message);
        same.last_heartbeat_time.as_ref().filter(|_| is_same).map(|time| Timestamp::from(time.0))
    };
    // What others add, conditions and attached volumes, is theirs.
    let bare = |status: &core::NodeStatus| core::NodeStatus {
        addresses: status.addresses.clone(),
        daemon_endpoints: status.daemon_endpoints.clone(),
        node_info: status.node_info.clone(),
        images: status.images.clone().filter(|images| !images.is_empty()),
        ..core::NodeStatus::default()
    };
    // The API spells amounts in its own way.
    let amounts = |status: &core::NodeStatus| {
        [&status.capacity, &status.allocatable].map(|list| {
            let list = list.iter().flatten();
            list.map(|(name, amount)| (name.clone(), nanos(amount))).collect::<BTreeMap<_, _>>()
        })
    };
    let is_same = bare(&wanted) == bare(held) && amounts(&wanted) == amounts(held);
    let heartbeats: Option<Vec<Timestamp>> = wanted.conditions.iter().flatten().map(said).collect();
    heartbeats?.into_iter().min().filter(|_| is_same)
}

fn runtime_version(config: &NodeConfig) -> String {
    format!("joey://{}", config.version)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn config(version: &str) -> NodeConfig {
        NodeConfig {
            node_name: "box".into(),
            data_dir: PathBuf::new(),
            run_dir: PathBuf::new(),
            cluster_domain: "cluster.local".into(),
            cluster_dns: None,
            version: version.into(),
            kubelet_version: "v1.34.1".into(),
            max_pods: 500,
            ready_when_listening: true,
            kubelet_port: 0,
            reserved_ports: Vec::new(),
        }
    }

    fn identity(boot_id: &str) -> Identity {
        Identity { boot_id: boot_id.into(), ..Identity::default() }
    }

    fn told(pressure: Pressure, images: &[core::ContainerImage]) -> Value {
        let capacity = Capacity {
            cpu_millis: 2000,
            memory_bytes: 1 << 31,
            storage_bytes: 1 << 40,
            huge_pages: [Some(0), None],
        };
        status(&Facts {
            config: &config("1"),
            addresses: &["10.0.0.1".parse().unwrap()],
            controllers: &["cpu", "memory", "pids"].map(str::to_owned).into(),
            network_problems: &[],
            capacity,
            pressure,
            identity: identity("one"),
            images,
        })
    }

    /// As the API gives it back.
    fn held(status: &Value, at: Timestamp) -> core::Node {
        let mut status = stamped(status, None, at);
        status["addresses"].as_array_mut().unwrap().remove(0);
        for list in ["capacity", "allocatable"] {
            assert_eq!(status[list]["hugepages-2Mi"], "0Ki");
            status[list]["hugepages-2Mi"] = json!("0");
        }
        serde_json::from_value(json!({"metadata": {"name": "box"}, "status": status})).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix(1_800_000_000 + seconds, 0)
    }

    #[test]
    fn a_host_that_is_as_it_was_is_told_again_no_sooner_than_without_a_restart() {
        let image = core::ContainerImage { names: Some(vec!["box:1".into()]), size_bytes: Some(9) };
        let calm = told(Pressure::default(), std::slice::from_ref(&image));
        let mut node = held(&calm, at(7));
        assert_eq!(same_since(&calm, &node), Some(at(7)));
        // Another's condition does not concern us.
        let conditions = node.status.as_mut().unwrap().conditions.as_mut().unwrap();
        conditions
            .push(core::NodeCondition { type_: "KernelDeadlock".into(), ..Default::default() });
        assert_eq!(same_since(&calm, &node), Some(at(7)));
        let pressed = told(Pressure { disk: true, ..Pressure::default() }, &[image]);
        assert_eq!(same_since(&pressed, &node), None);
        assert_eq!(same_since(&told(Pressure::default(), &[]), &node), None);
        assert_eq!(same_since(&calm, &core::Node::default()), None);
    }

    #[test]
    fn a_boot_and_another_version_are_told_a_restart_is_not() {
        let node = held(&told(Pressure::default(), &[]), at(0));
        assert_eq!(start(&identity("one"), &config("1"), &node), Start::Resumed);
        assert_eq!(start(&identity("one"), &config("2"), &node), Start::Fresh);
        assert_eq!(
            start(&identity("two"), &config("1"), &node),
            Start::Rebooted { boot_id: "two".into() }
        );
        assert_eq!(start(&identity("one"), &config("1"), &core::Node::default()), Start::Fresh);
    }
}
