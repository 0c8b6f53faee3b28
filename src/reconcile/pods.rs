//! What controllers ask of a pod: is it active, is it ready, for how long, and how dear is it.
//!
//! Pure. It never looks at containers; the node agent has condensed them into conditions.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::model::time::Timestamp;

/// <https://kubernetes.io/docs/reference/labels-annotations-taints/#pod-deletion-cost>
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Neither over nor being deleted: it counts as a replica.
pub fn is_active(pod: &Pod) -> bool {
    !is_over(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// All its containers have ended for good.
pub fn is_over(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Since when the pod is ready; `None` when it is not.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|c| c.type_ == "Ready" && c.status == "True")?;
    let since = ready.last_transition_time.as_ref().or(pod.metadata.creation_timestamp.as_ref());
    Some(since.map_or(Timestamp::from_unix(0, 0), |time| Timestamp::from(time.0)))
}

/// How far a pod is on its way to being available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    NotReady,
    /// Ready, but not yet for `minReadySeconds`: this is missing.
    Ready {
        missing: Duration,
    },
    Available,
}

pub fn availability(pod: &Pod, min_ready: Duration, now: Timestamp) -> Availability {
    let Some(since) = ready_since(pod) else { return Availability::NotReady };
    match min_ready.saturating_sub(now.since(since)) {
        Duration::ZERO => Availability::Available,
        missing => Availability::Ready { missing },
    }
}

/// The pod of a template, as `owner` creates it.
pub fn from_template(namespace: &str, owner: &OwnerReference, template: &PodTemplateSpec) -> Value {
    let held = template.metadata.clone().unwrap_or_default();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": namespace,
            "generateName": format!("{}-", owner.name),
            "labels": held.labels,
            "annotations": held.annotations,
            "finalizers": held.finalizers,
            "ownerReferences": [owner],
        },
        "spec": template.spec,
    })
}

/// In which order a ReplicaSet parts with its pods, the first first: unassigned, pending, not ready, cheap,
/// crowded on their node, young in readiness, restarted often, young.
///
/// `crowd` counts the pods of the same workload on a node. As `ActivePodsWithRanks` of
/// `k8s.io/kubernetes/pkg/controller`; the last word has the name, so that equal worlds decide equally.
pub fn dispensable_first(a: &Pod, b: &Pod, crowd: &BTreeMap<String, usize>) -> Ordering {
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
    let (node_a, node_b) = (node(a), node(b));
    let crowded = |node: &String| crowd.get(node).copied().unwrap_or(0);
    let phase_rank = |pod: &Pod| match phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let (ready_a, ready_b) = (ready_since(a), ready_since(b));
    let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (!node_a.is_empty())
        .cmp(&!node_b.is_empty())
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| ready_a.is_some().cmp(&ready_b.is_some()))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| crowded(&node_b).cmp(&crowded(&node_a)))
        .then_with(|| ready_b.cmp(&ready_a))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| created(b).cmp(&created(a)))
        .then_with(|| a.metadata.name.cmp(&b.metadata.name))
}

fn deletion_cost(pod: &Pod) -> i32 {
    pod.annotations().get(DELETION_COST).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    let containers =
        pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    containers.map(|container| container.restart_count).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: &str, phase: &str, ready: Option<&str>, more: Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase, "conditions": [{
                "type": "Ready", "status": if ready.is_some() { "True" } else { "False" }, "lastTransitionTime": ready,
            }]},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            match key.as_str() {
                "cost" => pod["metadata"]["annotations"] = json!({DELETION_COST: value}),
                "created" => pod["metadata"]["creationTimestamp"] = value.clone(),
                "restarts" => {
                    pod["status"]["containerStatuses"] = json!([{"name": "a", "restartCount": value,
                        "image": "", "imageID": "", "ready": true}]);
                }
                other => panic!("{other}"),
            }
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn the_least_useful_pod_goes_first() {
        let (early, late) = (Some("2026-01-01T01:00:00Z"), Some("2026-01-01T02:00:00Z"));
        let wanted = [
            pod("unassigned", "", "Pending", None, json!({})),
            pod("pending", "n", "Pending", None, json!({})),
            pod("not-ready", "n", "Running", None, json!({"cost": "9"})),
            pod("cheap", "n", "Running", early, json!({"cost": "-1"})),
            pod("crowded", "n", "Running", early, json!({})),
            pod("ready-late", "m", "Running", late, json!({})),
            pod("restarted", "m", "Running", early, json!({"restarts": 3})),
            pod("younger", "m", "Running", early, json!({"created": "2026-01-02T00:00:00Z"})),
            pod("a", "m", "Running", early, json!({})),
            pod("b", "m", "Running", early, json!({})),
            pod("dear", "m", "Running", early, json!({"cost": "5"})),
        ];
        let crowd = [("n".to_owned(), 5), ("m".to_owned(), 2)].into();
        let mut pods = wanted.to_vec();
        pods.reverse();
        pods.sort_by(|a, b| dispensable_first(a, b, &crowd));
        let names: Vec<_> = pods.iter().map(|pod| pod.name_any()).collect();
        let expected: Vec<_> = wanted.iter().map(|pod| pod.name_any()).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn a_pod_is_available_after_its_time_of_probation() {
        let pod = pod("a", "n", "Running", Some("2026-01-01T00:00:10Z"), json!({}));
        let at = |text: &str| availability(&pod, Duration::from_secs(30), text.parse().unwrap());
        let missing = Duration::from_secs(20);
        assert_eq!(at("2026-01-01T00:00:20Z"), Availability::Ready { missing });
        assert_eq!(at("2026-01-01T00:00:40Z"), Availability::Available);
    }
}
