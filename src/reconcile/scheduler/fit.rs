//! May a pod run on a node, and if not, why: in the words of kube-scheduler.
//!
//! Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;

use crate::placement::taint::{self, Effect};
use crate::placement::{Demand, NodeView};

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
    if node.unschedulable && !taint::tolerates_cordon(pod) {
        return vec![fixed("node(s) were unschedulable".into())];
    }
    if node.allocatable.is_empty() {
        return vec![fixed(
            "node(s) had untolerated taint {node.kubernetes.io/not-ready: }".into(),
        )];
    }
    if !node.is_selected_by(pod) {
        return vec![fixed("node(s) didn't match Pod's node affinity/selector".into())];
    }
    let keeps_away = [Effect::NoSchedule, Effect::NoExecute];
    if let Some(taint) = taint::untolerated(&node.taints, pod, &keeps_away) {
        let value = taint.value.as_deref().unwrap_or_default();
        return vec![fixed(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key))];
    }
    if !node.has_free_ports(demand) {
        let text = "node(s) didn't have free ports for the requested pod ports";
        return vec![Reason { text: text.into(), preemptible: true }];
    }
    let shortages = node.shortages(demand).into_iter();
    shortages
        .map(|short| match short.resource.as_str() {
            "pods" => Reason { text: "Too many pods".into(), preemptible: true },
            name => Reason {
                text: format!("Insufficient {name}"),
                preemptible: short.requested <= short.capacity,
            },
        })
        .collect()
}

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
        let tolerant = json!({"containers": [], "tolerations": [{"key": "gpu", "value": "yes"}]});
        check(tolerant, &tainted, expect!["fits"]);
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
}
