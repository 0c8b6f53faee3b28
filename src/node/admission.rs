//! Whether this node takes a pod that was bound to it, in kubelet's words: a user who sets `spec.nodeName` passes the
//! scheduler by, and what the node cannot hold must not run.
//!
//! Pure. Pods that were taken once stay, whatever the node says of itself later.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;

use crate::placement::taint::{self, Effect};
use crate::placement::{Demand, NANO, NodeView, Shortage};

/// What the node has, and who holds what of it.
#[derive(Debug, Default)]
pub struct Room {
    /// `None` until the node has said what it has.
    node: Option<NodeView>,
    /// By uid.
    held: BTreeMap<String, Demand>,
}

/// Why a pod is not taken: `status.reason`, and the message of the Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub reason: String,
    pub message: String,
}

impl Room {
    /// Takes in what the Node says now.
    pub fn see(&mut self, node: &core::Node) {
        let view = NodeView::of(node);
        if !view.allocatable.is_empty() {
            self.node = Some(view);
        }
    }

    /// Whether the node has said what it has.
    pub fn is_known(&self) -> bool {
        self.node.is_some()
    }

    /// Counts a pod that runs here, or is about to.
    pub fn hold(&mut self, uid: &str, pod: &core::Pod) {
        self.held.entry(uid.to_owned()).or_insert_with(|| Demand::of(pod));
    }

    /// Nothing of the pod runs any more.
    pub fn release(&mut self, uid: &str) {
        self.held.remove(uid);
    }

    /// Whether the pod is taken beside those that are held.
    pub fn judge(&self, pod: &core::Pod) -> Result<(), Rejection> {
        let Some(node) = &self.node else { return Ok(()) };
        let mut node = node.clone();
        self.held.values().for_each(|demand| node.take(demand));
        let mut demand = Demand::of(pod);
        // What a node does not have at all, others may provide under that name outside its books.
        demand.requests.retain(|name, _| !is_extended(name) || node.allocatable.contains_key(name));
        match rejection(pod, &demand, &node) {
            Some(rejection) => Err(rejection),
            None => Ok(()),
        }
    }
}

/// The first of kubelet's predicates that does not hold.
fn rejection(pod: &core::Pod, demand: &Demand, node: &NodeView) -> Option<Rejection> {
    let predicate = |name: &str, why: &str| Rejection {
        reason: name.to_owned(),
        message: format!("Predicate {name} failed: {why}"),
    };
    if let Some(short) = node.shortages(demand).first() {
        return Some(Rejection {
            reason: format!("OutOf{}", short.resource),
            message: shortage_message(short),
        });
    }
    if !node.is_selected_by(pod) {
        return Some(predicate(
            "NodeAffinity",
            "node(s) didn't match Pod's node affinity/selector",
        ));
    }
    if !node.has_free_ports(demand) {
        let why = "node(s) didn't have free ports for the requested pod ports";
        return Some(predicate("NodePorts", why));
    }
    // NoSchedule is the scheduler's business alone.
    taint::untolerated(&node.taints, pod, &[Effect::NoExecute])
        .map(|_| predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate"))
}

fn shortage_message(short: &Shortage) -> String {
    // Thousandths of processors, whole ones of everything else.
    let unit = if short.resource == "cpu" { NANO / 1000 } else { NANO };
    format!(
        "Node didn't have enough resource: {}, requested: {}, used: {}, capacity: {}",
        short.resource,
        short.requested / unit,
        short.used / unit,
        short.capacity / unit
    )
}

/// A resource that is none of Kubernetes' own, as `example.com/dongle`.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn node(spec: Value) -> core::Node {
        serde_json::from_value(json!({
            "metadata": {"name": "box", "labels": {"disk": "ssd"}},
            "spec": spec,
            "status": {"allocatable": {
                "cpu": "1900m", "memory": "1Gi", "pods": "3", "example.com/dongle": "1"}},
        }))
        .unwrap()
    }

    fn pod(spec: Value) -> core::Pod {
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    fn asks(name: &str, amount: &str) -> Value {
        json!({"containers": [{"name": "a", "resources": {"requests": {name: amount}},
            "ports": [{"containerPort": 80, "hostPort": 8080}]}]})
    }

    fn check(room: &Room, spec: Value, expected: Expect) {
        let text = match room.judge(&pod(spec)) {
            Ok(()) => "taken".to_owned(),
            Err(Rejection { reason, message }) => format!("{reason}: {message}"),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn what_the_node_cannot_hold_is_rejected_as_kubelet_says() {
        let mut room = Room::default();
        room.see(&node(json!({})));
        check(&room, asks("cpu", "1900m"), expect!["taken"]);
        room.hold("u", &pod(asks("cpu", "1")));
        check(
            &room,
            asks("cpu", "1"),
            expect![
                "OutOfcpu: Node didn't have enough resource: cpu, requested: 1000, used: 1000, capacity: 1900"
            ],
        );
        check(
            &room,
            asks("memory", "2Gi"),
            expect![
                "OutOfmemory: Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824"
            ],
        );
        check(
            &room,
            asks("example.com/dongle", "2"),
            expect![
                "OutOfexample.com/dongle: Node didn't have enough resource: example.com/dongle, requested: 2, used: 0, capacity: 1"
            ],
        );
        check(
            &room,
            asks("cpu", "100m"),
            expect![
                "NodePorts: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
            ],
        );
        room.release("u");
        check(&room, asks("cpu", "1"), expect!["taken"]);
        check(&room, asks("example.com/unknown", "1"), expect!["taken"]);
        for uid in ["a", "b", "c"] {
            room.hold(uid, &core::Pod::default());
        }
        check(
            &room,
            json!({"containers": []}),
            expect![
                "OutOfpods: Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3"
            ],
        );
    }

    #[test]
    fn selectors_and_taints_that_send_away_count_those_of_the_scheduler_do_not() {
        let mut room = Room::default();
        room.see(&node(json!({"unschedulable": true,
            "taints": [{"key": "gpu", "effect": "NoSchedule"}]})));
        check(&room, json!({"containers": []}), expect!["taken"]);
        check(
            &room,
            json!({"containers": [], "nodeSelector": {"disk": "hdd"}}),
            expect![
                "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
            ],
        );
        room.see(&node(json!({"taints": [{"key": "gpu", "effect": "NoExecute"}]})));
        check(
            &room,
            json!({"containers": []}),
            expect![
                "TaintToleration: Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"
            ],
        );
        let tolerant = json!({"containers": [], "tolerations": [{"operator": "Exists"}]});
        check(&room, tolerant, expect!["taken"]);
    }

    #[test]
    fn before_the_node_has_said_what_it_has_nothing_is_known() {
        let mut room = Room::default();
        room.see(&core::Node::default());
        assert!(!room.is_known());
        room.see(&node(json!({})));
        assert!(room.is_known());
        // A status that somebody emptied takes nothing back.
        room.see(&core::Node::default());
        assert!(room.is_known());
    }
}
