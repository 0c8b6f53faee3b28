//! Whether a pod may be on a node: what it asks for, what the node has left, whom the node keeps away.
//!
//! Pure, and nobody's words: the scheduler and the node each say in their own why not.

pub mod taint;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::model::quantity;

/// Amounts in billionths by resource name (`cpu`, `memory`, `ephemeral-storage`, `pods`, extended ones).
pub type Amounts = BTreeMap<String, i128>;

/// A whole one, in billionths.
pub const NANO: i128 = 1_000_000_000;

/// A host port as it is taken: protocol, address (empty for all), number.
pub type HostPort = (String, String, i32);

/// The annotation in which a node names the TCP ports of its own that pods and Services may not take from it, as
/// `ADDRESS:PORT,…`.
pub const RESERVED_PORTS: &str = "joey.dev/reserved-host-ports";

/// What the node keeps for itself. What cannot be read is nothing: somebody else wrote it.
pub fn reserved_ports(node: &core::Node) -> BTreeSet<HostPort> {
    let annotation = node.metadata.annotations.as_ref().and_then(|all| all.get(RESERVED_PORTS));
    annotation
        .iter()
        .flat_map(|list| list.split(','))
        .filter_map(|text| text.trim().parse::<SocketAddr>().ok())
        .map(|at| {
            let address = match at.ip() {
                any if any.is_unspecified() => String::new(),
                one => one.to_string(),
            };
            ("TCP".to_owned(), address, i32::from(at.port()))
        })
        .collect()
}

/// What a pod asks of a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Demand {
    pub requests: Amounts,
    pub host_ports: Vec<HostPort>,
}

impl Demand {
    /// The sum over what runs at a time, at its highest, plus overhead: sidecars run beside the containers and beside
    /// the init containers after them (KEP-753).
    pub fn of(pod: &core::Pod) -> Demand {
        let Some(spec) = &pod.spec else { return Demand::default() };
        let mut requests = Amounts::new();
        for container in &spec.containers {
            add(&mut requests, container_requests(container));
        }
        let (mut sidecars, mut highest) = (Amounts::new(), Amounts::new());
        for container in spec.init_containers.iter().flatten() {
            let asked = container_requests(container);
            let mut together = sidecars.clone();
            add(&mut together, asked.clone());
            if is_sidecar(container) {
                add(&mut requests, asked);
                sidecars = together.clone();
            }
            raise(&mut highest, together);
        }
        raise(&mut requests, highest);
        add(&mut requests, spec.overhead.iter().flat_map(amounts).collect());
        let host_network = spec.host_network.unwrap_or(false);
        let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c));
        let host_ports = spec
            .containers
            .iter()
            .chain(sidecars)
            .flat_map(|c| c.ports.iter().flatten())
            .filter_map(|port| {
                let number = port.host_port.or(host_network.then_some(port.container_port))?;
                let address = port.host_ip.as_deref().filter(|ip| *ip != "0.0.0.0" && *ip != "::");
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
                Some((protocol, address.unwrap_or_default().to_owned(), number))
            })
            .filter(|(_, _, number)| *number > 0)
            .collect();
        Demand { requests, host_ports }
    }
}

/// Whether an init container runs on beside the containers (KEP-753).
pub fn is_sidecar(container: &core::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// A node with what its pods hold already.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeView {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub unschedulable: bool,
    pub taints: Vec<core::Taint>,
    /// Empty when it has registered and not said yet what it has.
    pub allocatable: Amounts,
    pub used: Amounts,
    pub pods: usize,
    pub host_ports: BTreeSet<HostPort>,
}

/// Something of which a node has too little left for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    pub resource: String,
    pub requested: i128,
    pub used: i128,
    pub capacity: i128,
}

impl NodeView {
    pub fn of(node: &core::Node) -> NodeView {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        NodeView {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            unschedulable: spec.and_then(|s| s.unschedulable).unwrap_or(false),
            taints: spec.and_then(|s| s.taints.clone()).unwrap_or_default(),
            allocatable: status
                .and_then(|s| s.allocatable.as_ref())
                .map(|list| amounts(list).into_iter().collect())
                .unwrap_or_default(),
            host_ports: reserved_ports(node),
            ..NodeView::default()
        }
    }

    /// Counts a pod that is bound here.
    pub fn take(&mut self, demand: &Demand) {
        add(&mut self.used, demand.requests.clone());
        self.host_ports.extend(demand.host_ports.iter().cloned());
        self.pods += 1;
    }

    /// Whether the node has the labels that the pod selects by.
    pub fn is_selected_by(&self, pod: &core::Pod) -> bool {
        let selector = pod.spec.as_ref().and_then(|s| s.node_selector.as_ref());
        selector.into_iter().flatten().all(|(key, value)| self.labels.get(key) == Some(value))
    }

    /// Whether no pod holds a host port of the demand: the same protocol and number on the same address, or on all
    /// addresses on either side.
    pub fn has_free_ports(&self, demand: &Demand) -> bool {
        !demand.host_ports.iter().any(|(protocol, address, number)| {
            self.host_ports.iter().any(|(taken, at, taken_number)| {
                taken == protocol
                    && taken_number == number
                    && (at.is_empty() || address.is_empty() || at == address)
            })
        })
    }

    /// What there is too little of, the number of pods first.
    pub fn shortages(&self, demand: &Demand) -> Vec<Shortage> {
        let pods = ("pods".to_owned(), NANO);
        let requests = demand.requests.iter().map(|(name, amount)| (name.clone(), *amount));
        [pods]
            .into_iter()
            .chain(requests)
            .filter_map(|(resource, requested)| {
                let used = match resource.as_str() {
                    "pods" => i128::try_from(self.pods).unwrap_or(i128::MAX / NANO) * NANO,
                    _ => self.used.get(&resource).copied().unwrap_or(0),
                };
                let capacity = self.allocatable.get(&resource).copied().unwrap_or(0);
                (requested > 0 && used + requested > capacity).then_some(Shortage {
                    resource,
                    requested,
                    used,
                    capacity,
                })
            })
            .collect()
    }
}

fn add(sum: &mut Amounts, more: Amounts) {
    for (name, amount) in more {
        *sum.entry(name).or_default() += amount;
    }
}

fn raise(highest: &mut Amounts, to: Amounts) {
    for (name, amount) in to {
        let held = highest.entry(name).or_default();
        *held = amount.max(*held);
    }
}

fn container_requests(container: &core::Container) -> Amounts {
    let resources = container.resources.as_ref();
    let mut requests: Amounts =
        resources.and_then(|r| r.limits.as_ref()).map(amounts).unwrap_or_default();
    requests.extend(resources.and_then(|r| r.requests.as_ref()).map(amounts).unwrap_or_default());
    requests
}

fn amounts(list: &BTreeMap<String, Quantity>) -> Amounts {
    list.iter()
        .filter_map(|(name, amount)| {
            Some((name.clone(), amount.0.parse::<quantity::Quantity>().ok()?.nanos()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn demand(spec: Value) -> Demand {
        Demand::of(&serde_json::from_value(json!({ "spec": spec })).unwrap())
    }

    #[test]
    fn a_pod_demands_its_containers_or_its_largest_init_container() {
        let requests = demand(json!({
            "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "3", "memory": "1"}}}],
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "5", "memory": "2"}}},
                {"name": "b", "resources": {"requests": {"cpu": "500m"}}},
            ],
            "overhead": {"cpu": "1"},
        }))
        .requests;
        assert_eq!(requests["cpu"], 4 * NANO);
        assert_eq!(requests["memory"], 2 * NANO);
    }

    #[test]
    fn sidecars_count_beside_the_containers_and_beside_what_starts_after_them() {
        let container = |name: &str, cpu: &str, policy: Option<&str>| {
            json!({"name": name, "restartPolicy": policy,
                   "resources": {"requests": {"cpu": cpu}},
                   "ports": [{"containerPort": 80, "hostPort": cpu.parse::<i32>().unwrap()}]})
        };
        let always = Some("Always");
        // The table of KEP-753: before the sidecar, beside it, and all the containers beside all sidecars.
        for (init, expected) in [
            (vec![("i", "9", None), ("s", "2", always)], 9),
            (vec![("s", "2", always), ("i", "9", None)], 11),
            (vec![("s", "2", always), ("t", "4", always), ("i", "1", None)], 7),
            (vec![("s", "2", always), ("i", "4", None), ("t", "3", always)], 6),
        ] {
            let init: Vec<Value> = init.iter().map(|(n, c, p)| container(n, c, *p)).collect();
            let spec = json!({"initContainers": init, "containers": [container("a", "1", None)]});
            assert_eq!(demand(spec.clone()).requests["cpu"], expected * NANO, "{spec}");
        }
        let spec = json!({
            "initContainers": [container("i", "9", None), container("s", "2", always)],
            "containers": [container("a", "1", None)],
        });
        let ports: Vec<i32> = demand(spec).host_ports.iter().map(|port| port.2).collect();
        assert_eq!(ports, [1, 2]);
    }

    #[test]
    fn ports_that_the_node_keeps_are_taken() {
        let node = NodeView::of(
            &serde_json::from_value(json!({"metadata": {"annotations": {
                "joey.dev/reserved-host-ports": "0.0.0.0:6443, 192.0.2.1:9090,nonsense"}}}))
            .unwrap(),
        );
        let is_free = |port: u16, address: &str, protocol: &str| {
            node.has_free_ports(&demand(json!({"containers": [{"name": "a", "ports": [
                {"containerPort": 80, "hostPort": port, "hostIP": address, "protocol": protocol}]}]})))
        };
        assert!(!is_free(6443, "", "TCP") && !is_free(6443, "192.0.2.9", "TCP"));
        assert!(!is_free(9090, "", "TCP") && !is_free(9090, "192.0.2.1", "TCP"));
        assert!(is_free(6443, "", "UDP") && is_free(9090, "192.0.2.2", "TCP"));
    }

    #[test]
    fn a_node_says_of_what_it_has_how_little() {
        let node = json!({"status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "2"}}});
        let mut node = NodeView::of(&serde_json::from_value(node).unwrap());
        let asks = |cpu: &str| {
            demand(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]}))
        };
        assert_eq!(node.shortages(&asks("2")), []);
        node.take(&asks("1500m"));
        let short = |resource: &str, requested, used, capacity| Shortage {
            resource: resource.to_owned(),
            requested,
            used,
            capacity,
        };
        let cpu = short("cpu", NANO, NANO / 2 * 3, 2 * NANO);
        assert_eq!(node.shortages(&asks("1")), std::slice::from_ref(&cpu));
        node.take(&Demand::default());
        let pods = short("pods", NANO, 2 * NANO, 2 * NANO);
        assert_eq!(node.shortages(&asks("1")), [pods, cpu]);
    }
}
