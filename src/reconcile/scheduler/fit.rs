//! May a pod run on a node, and if not, why: in the words of kube-scheduler.
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::model::quantity;

/// Amounts in billionths by resource name (`cpu`, `memory`, `ephemeral-storage`, extended ones).
pub type Amounts = BTreeMap<String, i128>;

/// A host port as it is taken: protocol, address (empty for all), number.
pub type HostPort = (String, String, i32);

/// What a pod asks of a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Demand {
    pub requests: Amounts,
    pub host_ports: Vec<HostPort>,
}

impl Demand {
    /// The sum over containers, at least the largest init container, plus overhead.
    pub fn of(pod: &core::Pod) -> Demand {
        let Some(spec) = &pod.spec else { return Demand::default() };
        let mut requests = Amounts::new();
        for container in &spec.containers {
            for (name, amount) in container_requests(container) {
                *requests.entry(name).or_default() += amount;
            }
        }
        for container in spec.init_containers.iter().flatten() {
            for (name, amount) in container_requests(container) {
                let held = requests.entry(name).or_default();
                *held = amount.max(*held);
            }
        }
        for (name, amount) in spec.overhead.iter().flat_map(amounts) {
            *requests.entry(name).or_default() += amount;
        }
        let host_network = spec.host_network.unwrap_or(false);
        let host_ports = spec
            .containers
            .iter()
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

/// A node with what its pods hold already.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeView {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub unschedulable: bool,
    pub taints: Vec<core::Taint>,
    pub allocatable: Amounts,
    pub used: Amounts,
    pub pods: usize,
    pub host_ports: BTreeSet<HostPort>,
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
            ..NodeView::default()
        }
    }

    /// Counts a pod that is bound here.
    pub fn take(&mut self, demand: &Demand) {
        for (name, amount) in &demand.requests {
            *self.used.entry(name.clone()).or_default() += amount;
        }
        self.host_ports.extend(demand.host_ports.iter().cloned());
        self.pods += 1;
    }
}

/// Why a pod does not fit a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reason {
    pub text: String,
    /// Taking other pods away would help.
    pub preemptible: bool,
}

/// Every reason against this node; none: it fits.
pub fn reasons(pod: &core::Pod, demand: &Demand, node: &NodeView) -> Vec<Reason> {
    let fixed = |text: String| Reason { text, preemptible: false };
    let spec = pod.spec.as_ref();
    let no_tolerations = Vec::new();
    let tolerations = spec.and_then(|s| s.tolerations.as_ref()).unwrap_or(&no_tolerations);
    let cordon = core::Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..core::Taint::default()
    };
    if node.unschedulable && !tolerated(tolerations, &cordon) {
        return vec![fixed("node(s) were unschedulable".into())];
    }
    if node.allocatable.is_empty() {
        // It has registered and not said yet what it has.
        return vec![fixed(
            "node(s) had untolerated taint {node.kubernetes.io/not-ready: }".into(),
        )];
    }
    let selector = spec.and_then(|s| s.node_selector.as_ref());
    let matches = |(key, value): (&String, &String)| node.labels.get(key) == Some(value);
    if !selector.into_iter().flatten().all(matches) {
        return vec![fixed("node(s) didn't match Pod's node affinity/selector".into())];
    }
    let repels = |taint: &&core::Taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !tolerated(tolerations, taint)
    };
    if let Some(taint) = node.taints.iter().find(repels) {
        let value = taint.value.as_deref().unwrap_or_default();
        return vec![fixed(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key))];
    }
    if demand.host_ports.iter().any(|port| is_taken(port, &node.host_ports)) {
        let text = "node(s) didn't have free ports for the requested pod ports";
        return vec![Reason { text: text.into(), preemptible: true }];
    }
    let mut reasons = Vec::new();
    let pods = node.allocatable.get("pods").copied().unwrap_or(0);
    if (node.pods as i128 + 1) * NANO > pods {
        reasons.push(Reason { text: "Too many pods".into(), preemptible: true });
    }
    for (name, amount) in &demand.requests {
        let allocatable = node.allocatable.get(name).copied().unwrap_or(0);
        let used = node.used.get(name).copied().unwrap_or(0);
        if *amount > 0 && used + amount > allocatable {
            reasons.push(Reason {
                text: format!("Insufficient {name}"),
                preemptible: *amount <= allocatable,
            });
        }
    }
    reasons
}

const NANO: i128 = 1_000_000_000;

/// The message of the PodScheduled condition and of the FailedScheduling Event.
pub fn message(against: &[Vec<Reason>]) -> String {
    if against.is_empty() {
        return "no nodes available to schedule pods".into();
    }
    let total = against.len();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in against.iter().flatten() {
        *counts.entry(&reason.text).or_default() += 1;
    }
    let list: Vec<String> = counts.iter().map(|(text, count)| format!("{count} {text}")).collect();
    let hopeless =
        against.iter().filter(|list| list.iter().any(|reason| !reason.preemptible)).count();
    let mut preemption = Vec::new();
    if total > hopeless {
        let helpless = total - hopeless;
        preemption.push(format!("{helpless} No preemption victims found for incoming pod"));
    }
    if hopeless > 0 {
        preemption.push(format!("{hopeless} Preemption is not helpful for scheduling"));
    }
    format!(
        "0/{total} nodes are available: {}. preemption: 0/{total} nodes are available: {}.",
        list.join(", "),
        preemption.join(", ")
    )
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

fn tolerated(tolerations: &[core::Toleration], taint: &core::Taint) -> bool {
    tolerations.iter().any(|toleration| {
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let key = toleration.key.as_deref().unwrap_or_default();
        let exists = toleration.operator.as_deref() == Some("Exists");
        let value = toleration.value.as_deref().unwrap_or_default();
        (effect.is_empty() || effect == taint.effect)
            && (key.is_empty() && exists || key == taint.key)
            && (exists || value == taint.value.as_deref().unwrap_or_default())
    })
}

/// The same protocol and number on the same address, or on all addresses on either side.
fn is_taken(port: &HostPort, taken: &BTreeSet<HostPort>) -> bool {
    taken.iter().any(|(protocol, address, number)| {
        *protocol == port.0
            && *number == port.2
            && (address.is_empty() || port.1.is_empty() || *address == port.1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn node(extra: Value) -> NodeView {
        let mut node = json!({
            "metadata": {"name": "box", "labels": {"disk": "ssd"}},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "10"}},
        });
        if !extra.is_null() {
            node["spec"] = extra;
        }
        NodeView::of(&serde_json::from_value(node).unwrap())
    }

    fn pod(spec: Value) -> core::Pod {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    fn check(spec: Value, node: &NodeView, expected: Expect) {
        let pod = pod(spec);
        let reasons = reasons(&pod, &Demand::of(&pod), node);
        let text = if reasons.is_empty() { "fits".into() } else { message(&[reasons]) };
        expected.assert_eq(&text);
    }

    fn asks(cpu: &str) -> Value {
        json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]})
    }

    #[test]
    fn pods_fit_by_requests_and_say_why_not() {
        let mut busy = node(Value::Null);
        check(asks("2"), &busy, expect!["fits"]);
        check(
            asks("2001m"),
            &busy,
            expect![
                "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ],
        );
        busy.take(&Demand::of(&pod(asks("1500m"))));
        check(
            asks("1"),
            &busy,
            expect![
                "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
            ],
        );
        busy.pods = 10;
        check(
            json!({"containers": [{"name": "a", "resources": {"limits": {"memory": "2Gi"}}}]}),
            &busy,
            expect![
                "0/1 nodes are available: 1 Insufficient memory, 1 Too many pods. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ],
        );
    }

    #[test]
    fn selectors_taints_cordons_and_ports_keep_pods_away() {
        let plain = node(Value::Null);
        check(
            json!({"containers": [], "nodeSelector": {"disk": "hdd"}}),
            &plain,
            expect![
                "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ],
        );
        check(json!({"containers": [], "nodeSelector": {"disk": "ssd"}}), &plain, expect!["fits"]);
        let tainted =
            node(json!({"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}));
        check(
            json!({"containers": []}),
            &tainted,
            expect![
                "0/1 nodes are available: 1 node(s) had untolerated taint {gpu: yes}. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ],
        );
        for toleration in [
            json!({"operator": "Exists"}),
            json!({"key": "gpu", "operator": "Exists"}),
            json!({"key": "gpu", "value": "yes", "effect": "NoSchedule"}),
        ] {
            check(
                json!({"containers": [], "tolerations": [toleration]}),
                &tainted,
                expect!["fits"],
            );
        }
        check(
            json!({"containers": []}),
            &node(json!({"unschedulable": true})),
            expect![
                "0/1 nodes are available: 1 node(s) were unschedulable. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ],
        );
        let mut busy = node(Value::Null);
        let web = |ip: &str, protocol: &str| {
            json!({"containers": [{"name": "a", "ports": [
                {"containerPort": 80, "hostPort": 80, "hostIP": ip, "protocol": protocol}]}]})
        };
        busy.take(&Demand::of(&pod(web("10.0.0.1", "TCP"))));
        check(
            web("", "TCP"),
            &busy,
            expect![
                "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
            ],
        );
        check(web("10.0.0.2", "TCP"), &busy, expect!["fits"]);
        check(web("10.0.0.1", "UDP"), &busy, expect!["fits"]);
        assert_eq!(message(&[]), "no nodes available to schedule pods");
    }

    #[test]
    fn a_pod_demands_its_containers_or_its_largest_init_container() {
        let pod = pod(json!({
            "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "3", "memory": "1"}}}],
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "5", "memory": "2"}}},
                {"name": "b", "resources": {"requests": {"cpu": "500m"}}},
            ],
            "overhead": {"cpu": "1"},
        }));
        let requests = Demand::of(&pod).requests;
        assert_eq!(requests["cpu"], 4 * NANO);
        assert_eq!(requests["memory"], 2 * NANO);
    }
}
