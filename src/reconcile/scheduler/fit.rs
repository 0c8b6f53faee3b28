//! May this pod run on that node, and if not, why, in the words that Kubernetes uses.
//!
//! Pure: it never binds anything.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Node, Pod, Taint, Toleration};

use crate::model::quantity::Quantity;

/// Amounts by resource name, in thousandths.
pub type Amounts = BTreeMap<String, i128>;

/// What a pod takes from its node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demand {
    pub requests: Amounts,
    /// (host address or empty, protocol, port)
    pub host_ports: BTreeSet<(String, String, i32)>,
}

impl Demand {
    /// Requests as the scheduler counts them: the larger of all containers together and the largest init
    /// container; overhead on top.
    pub fn of(pod: &Pod) -> Demand {
        let Some(spec) = &pod.spec else { return Demand::default() };
        let mut requests = Amounts::new();
        for container in &spec.containers {
            for (name, amount) in requested(container) {
                *requests.entry(name).or_default() += amount;
            }
        }
        for container in spec.init_containers.iter().flatten() {
            for (name, amount) in requested(container) {
                let whole = requests.entry(name).or_default();
                *whole = (*whole).max(amount);
            }
        }
        let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
        let host_ports = ports
            .filter_map(|port| {
                let number = port.host_port.filter(|number| *number > 0)?;
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                let address = port.host_ip.clone().unwrap_or_default();
                Some((if address == "0.0.0.0" { String::new() } else { address }, protocol, number))
            })
            .collect();
        Demand { requests, host_ports }
    }

    fn collides(&self, other: &Demand) -> bool {
        self.host_ports.iter().any(|(address, protocol, port)| {
            other.host_ports.iter().any(|(their_address, their_protocol, their_port)| {
                port == their_port
                    && protocol == their_protocol
                    && (address.is_empty() || their_address.is_empty() || address == their_address)
            })
        })
    }
}

fn requested(container: &Container) -> impl Iterator<Item = (String, i128)> + '_ {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    requests
        .into_iter()
        .flatten()
        .filter_map(|(name, quantity)| Some((name.clone(), milli(&quantity.0)?)))
}

fn milli(text: &str) -> Option<i128> {
    text.parse::<Quantity>().ok().map(|quantity| i128::from(quantity.milli_value()))
}

/// Why a node is not for a pod; an empty list means that it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    Insufficient(String),
    TooManyPods,
    HostPort,
    NodeSelector,
    Unschedulable,
    Taint { key: String, value: String },
    NotNamed,
}

impl Obstacle {
    /// As it stands after the count of nodes in the message.
    pub fn words(&self) -> String {
        match self {
            Obstacle::Insufficient(resource) => format!("Insufficient {resource}"),
            Obstacle::TooManyPods => "Too many pods".to_owned(),
            Obstacle::HostPort => {
                "node(s) didn't have free ports for the requested pod ports".to_owned()
            }
            Obstacle::NodeSelector => {
                "node(s) didn't match Pod's node affinity/selector".to_owned()
            }
            Obstacle::Unschedulable => "node(s) were unschedulable".to_owned(),
            Obstacle::Taint { key, value } => {
                format!("node(s) had untolerated taint {{{key}: {value}}}").replace(": }", "}")
            }
            Obstacle::NotNamed => "node(s) didn't match the requested node name".to_owned(),
        }
    }

    /// Whether the end of other pods could help.
    pub fn is_of_resources(&self) -> bool {
        matches!(self, Obstacle::Insufficient(_) | Obstacle::TooManyPods | Obstacle::HostPort)
    }
}

/// Everything of `node` that stands in the pod's way; `placed` are the pods that count there already.
pub fn obstacles(pod: &Pod, node: &Node, placed: &[&Pod]) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let spec = node.spec.clone().unwrap_or_default();
    let tolerations: &[Toleration] =
        pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let unschedulable = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if spec.unschedulable == Some(true) && !tolerated(&unschedulable, tolerations) {
        found.push(Obstacle::Unschedulable);
    }
    for taint in spec.taints.iter().flatten() {
        let counts = ["NoSchedule", "NoExecute"].contains(&taint.effect.as_str());
        let told = taint.key == unschedulable.key && found.contains(&Obstacle::Unschedulable);
        if counts && !told && !tolerated(taint, tolerations) {
            let value = taint.value.clone().unwrap_or_default();
            found.push(Obstacle::Taint { key: taint.key.clone(), value });
            break;
        }
    }
    let selector = pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
    let labels = node.metadata.labels.clone().unwrap_or_default();
    if selector.into_iter().flatten().any(|(key, value)| labels.get(key) != Some(value)) {
        found.push(Obstacle::NodeSelector);
    }
    let demand = Demand::of(pod);
    let demands: Vec<Demand> = placed.iter().map(|pod| Demand::of(pod)).collect();
    if demands.iter().any(|other| demand.collides(other)) {
        found.push(Obstacle::HostPort);
    }
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let available = |name: &str| allocatable.and_then(|map| milli(&map.get(name)?.0)).unwrap_or(0);
    if (placed.len() as i128 + 1) * 1000 > available("pods") {
        found.push(Obstacle::TooManyPods);
    }
    for (name, amount) in demand.requests.iter().filter(|(_, amount)| **amount > 0) {
        let used: i128 = demands.iter().filter_map(|demand| demand.requests.get(name)).sum();
        if used + amount > available(name) {
            found.push(Obstacle::Insufficient(name.clone()));
        }
    }
    found.sort();
    found
}

fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| {
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let key = toleration.key.as_deref().unwrap_or_default();
        let exists = toleration.operator.as_deref() == Some("Exists");
        let value = toleration.value.as_deref().unwrap_or_default();
        (effect.is_empty() || effect == taint.effect)
            && ((key.is_empty() && exists) || key == taint.key)
            && (exists || value == taint.value.as_deref().unwrap_or_default())
    })
}

/// The message of an unschedulable pod on a cluster of one node.
pub fn message(obstacles: &[Obstacle]) -> String {
    let mut why: Vec<String> =
        obstacles.iter().map(|obstacle| format!("1 {}", obstacle.words())).collect();
    why.sort();
    let preemption = match obstacles.iter().all(Obstacle::is_of_resources) {
        true => "1 No preemption victims found for incoming pod",
        false => "1 Preemption is not helpful for scheduling",
    };
    format!(
        "0/1 nodes are available: {}. preemption: 0/1 nodes are available: {preemption}.",
        why.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn asking(cpu: &str, memory: &str) -> Pod {
        pod(
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}),
        )
    }

    fn node(spec: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {"disk": "ssd"}},
            "spec": spec,
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"}},
        }))
        .unwrap()
    }

    fn check(pod: &Pod, node: &Node, placed: &[Pod], expected: &str) {
        let placed: Vec<&Pod> = placed.iter().collect();
        let found = obstacles(pod, node, &placed);
        let text = if found.is_empty() { String::new() } else { message(&found) };
        assert_eq!(text, expected);
    }

    const NOTHING_TO_PREEMPT: &str =
        " preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    const NOT_HELPFUL: &str =
        " preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";

    #[test]
    fn resources_fit_to_the_last_thousandth() {
        let node = node(json!({}));
        check(&asking("2", "1Gi"), &node, &[], "");
        check(&asking("1500m", "1Mi"), &node, &[asking("500m", "1Mi")], "");
        let expected = format!("0/1 nodes are available: 1 Insufficient cpu.{NOTHING_TO_PREEMPT}");
        check(&asking("1501m", "1Mi"), &node, &[asking("500m", "1Mi")], &expected);
        let expected = format!(
            "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory.{NOTHING_TO_PREEMPT}"
        );
        check(&asking("3", "2Gi"), &node, &[], &expected);
        let three = [asking("1m", "1"), asking("1m", "1"), asking("1m", "1")];
        let expected = format!("0/1 nodes are available: 1 Too many pods.{NOTHING_TO_PREEMPT}");
        check(&asking("1m", "1"), &node, &three, &expected);
    }

    #[test]
    fn the_largest_init_container_counts_when_it_is_larger_than_all() {
        let pod = pod(json!({
            "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "3"}}}],
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}],
        }));
        assert_eq!(Demand::of(&pod).requests["cpu"], 3000);
    }

    #[test]
    fn selectors_taints_and_cordons_keep_pods_away() {
        let plain = json!([{"name": "c"}]);
        let selecting = pod(json!({"containers": plain, "nodeSelector": {"disk": "hdd"}}));
        let expected = format!(
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.{NOT_HELPFUL}"
        );
        check(&selecting, &node(json!({})), &[], &expected);
        let any = pod(json!({"containers": plain}));
        let cordoned = node(json!({"unschedulable": true}));
        check(
            &any,
            &cordoned,
            &[],
            &format!("0/1 nodes are available: 1 node(s) were unschedulable.{NOT_HELPFUL}"),
        );
        let tainted =
            node(json!({"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}));
        let expected = format!(
            "0/1 nodes are available: 1 node(s) had untolerated taint {{gpu: yes}}.{NOT_HELPFUL}"
        );
        check(&any, &tainted, &[], &expected);
        let tolerant = pod(
            json!({"containers": plain, "tolerations": [{"key": "gpu", "operator": "Exists"}]}),
        );
        check(&tolerant, &tainted, &[], "");
        let soft = node(json!({"taints": [{"key": "gpu", "effect": "PreferNoSchedule"}]}));
        check(&any, &soft, &[], "");
    }

    #[test]
    fn host_ports_are_taken_once() {
        let with = |address: &str, protocol: &str| {
            pod(
                json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": address, "protocol": protocol}]}]}),
            )
        };
        let node = node(json!({}));
        let expected = format!(
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.{NOTHING_TO_PREEMPT}"
        );
        check(&with("", "TCP"), &node, &[with("127.0.0.1", "TCP")], &expected);
        check(&with("0.0.0.0", "TCP"), &node, &[with("", "TCP")], &expected);
        check(&with("", "TCP"), &node, &[with("", "UDP")], "");
        check(&with("10.0.0.1", "TCP"), &node, &[with("10.0.0.2", "TCP")], "");
    }
}
