//! HorizontalPodAutoscalers of both versions.
//!
//! It never says how long a falling number is waited for: absent means the cluster's five minutes.

use serde_json::{Value, json};

use super::{ensure_map, fill, map_in};
use crate::api::autoscaler::DEFAULT_CPU_PERCENT;

/// Metrics of v1 that are not CPU utilisation.
const METRICS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/metrics";

pub(super) fn autoscaler(object: &mut Value) {
    let is_v1 = object["apiVersion"] == "autoscaling/v1";
    let has_others = object["metadata"]["annotations"][METRICS_ANNOTATION].is_string();
    let Some(object) = object.as_object_mut() else { return };
    let Some(spec) = ensure_map(object, "spec") else { return };
    fill(spec, "minReplicas", 1.into());
    if is_v1 {
        if !has_others {
            fill(spec, "targetCPUUtilizationPercentage", DEFAULT_CPU_PERCENT.into());
        }
        return;
    }
    let is_empty = |value: Option<&Value>| match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    };
    if is_empty(spec.get("metrics")) {
        let target = json!({"type": "Utilization", "averageUtilization": DEFAULT_CPU_PERCENT});
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
        spec.insert("metrics".to_owned(), json!([metric]));
    }
    let Some(behavior) = map_in(spec, "behavior") else { return };
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    if let Some(up) = ensure_map(behavior, "scaleUp") {
        fill(up, "stabilizationWindowSeconds", 0.into());
        fill(up, "selectPolicy", "Max".into());
        if is_empty(up.get("policies")) {
            up.insert("policies".to_owned(), json!([pods, percent]));
        }
    }
    if let Some(down) = ensure_map(behavior, "scaleDown") {
        fill(down, "selectPolicy", "Max".into());
        if is_empty(down.get("policies")) {
            down.insert("policies".to_owned(), json!([percent]));
        }
    }
}
