//! HorizontalPodAutoscalers are stored as `autoscaling/v2`; `autoscaling/v1` shows one of them with
//! what v1 cannot say in annotations.
//!
//! It never judges. Pure. Source: `pkg/apis/autoscaling/v1/conversion.go`.

use serde_json::{Map, Value, json};

use crate::api::catalog::Kind;
use crate::api::object;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
/// What is aimed at when nothing is said: percent of the requested CPU.
pub const DEFAULT_CPU_PERCENT: i64 = 80;

/// Whether `kind` is the older presentation.
pub fn is_v1(kind: &Kind) -> bool {
    kind.plural == "horizontalpodautoscalers" && kind.version == "v1"
}

/// An `autoscaling/v2` object as v1 shows it.
pub fn to_v1(mut object: Value) -> Value {
    object["apiVersion"] = "autoscaling/v1".into();
    let spec = object::map_mut(&mut object, "spec");
    let behavior = spec.shift_remove("behavior");
    let metrics = list(spec.shift_remove("metrics"));
    let mut others = Vec::new();
    for metric in metrics {
        match cpu_utilization(&metric, "target") {
            Some(percent) => {
                spec.insert("targetCPUUtilizationPercentage".to_owned(), percent.into());
            }
            None => others.push(metric_to_v1(&metric, "target")),
        }
    }
    let mut notes: Vec<(&str, Value)> = vec![(METRICS, Value::Array(others))];
    notes.push((BEHAVIOR, behavior.unwrap_or(Value::Null)));
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        let current = list(status.shift_remove("currentMetrics"));
        for metric in &current {
            if let Some(percent) = cpu_utilization(metric, "current") {
                status.insert("currentCPUUtilizationPercentage".to_owned(), percent.into());
            }
        }
        let current = current.iter().map(|metric| metric_to_v1(metric, "current")).collect();
        notes.push((CURRENT_METRICS, Value::Array(current)));
        notes.push((CONDITIONS, status.shift_remove("conditions").unwrap_or(Value::Null)));
    }
    notes.retain(|(_, value)| match value {
        Value::Array(items) => !items.is_empty(),
        other => !other.is_null(),
    });
    if !notes.is_empty() {
        let metadata = object::metadata_mut(&mut object);
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        for (key, value) in notes {
            annotations[key] = value.to_string().into();
        }
    }
    object::canonical(object)
}

/// An `autoscaling/v1` object as it is stored. Annotations that do not read are dropped, as in
/// Kubernetes.
pub fn to_v2(mut object: Value) -> Value {
    object["apiVersion"] = "autoscaling/v2".into();
    let mut note = |key: &str| -> Value {
        let metadata = object::metadata_mut(&mut object);
        let annotations = metadata.get_mut("annotations").and_then(Value::as_object_mut);
        let text = annotations.and_then(|all| all.shift_remove(key));
        let text = text.as_ref().and_then(Value::as_str).unwrap_or_default();
        serde_json::from_str(text).unwrap_or(Value::Null)
    };
    let [metrics, current, behavior, conditions] =
        [METRICS, CURRENT_METRICS, BEHAVIOR, CONDITIONS].map(&mut note);
    let spec = object::map_mut(&mut object, "spec");
    let mut all = Vec::new();
    if let Some(percent) = spec.shift_remove("targetCPUUtilizationPercentage")
        && !percent.is_null()
    {
        all.push(json!({"type": "Resource", "resource": {
            "name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": percent},
        }}));
    }
    all.extend(list(Some(metrics)).iter().map(|metric| metric_to_v2(metric, "target")));
    if !all.is_empty() {
        spec.insert("metrics".to_owned(), Value::Array(all));
    }
    if !behavior.is_null() {
        spec.insert("behavior".to_owned(), behavior);
    }
    if object["status"].is_object() {
        let status = object::map_mut(&mut object, "status");
        let percent = status.shift_remove("currentCPUUtilizationPercentage");
        let mut all: Vec<Value> =
            list(Some(current)).iter().map(|metric| metric_to_v2(metric, "current")).collect();
        if let Some(percent) = percent
            && all.iter().all(|metric| cpu_utilization(metric, "current").is_none())
        {
            all.push(json!({"type": "Resource", "resource": {
                "name": "cpu", "current": {"averageUtilization": percent},
            }}));
        }
        if !all.is_empty() {
            status.insert("currentMetrics".to_owned(), Value::Array(all));
        }
        if !conditions.is_null() {
            status.insert("conditions".to_owned(), conditions);
        }
    }
    object::canonical(object)
}

fn list(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

/// The percentage of a metric that v1 has a field for. `part` is `target` or `current`.
fn cpu_utilization(metric: &Value, part: &str) -> Option<i64> {
    let resource = &metric["resource"];
    (metric["type"] == "Resource" && resource["name"] == "cpu")
        .then(|| resource[part]["averageUtilization"].as_i64())?
}

/// `Pods` is described by `pods`, `ContainerResource` by `containerResource`.
fn source_of(metric: &Value) -> String {
    let kind = metric["type"].as_str().unwrap_or_default();
    let mut letters = kind.chars();
    letters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(letters).collect()
}

/// How v1 names a target's or a current value's parts.
fn v1_names(source: &str, part: &str) -> [(&'static str, &'static str); 3] {
    match (part, source) {
        ("target", "pods" | "resource" | "containerResource") | ("target", "external") => [
            ("averageUtilization", "targetAverageUtilization"),
            ("averageValue", "targetAverageValue"),
            ("value", "targetValue"),
        ],
        ("target", _) => [
            ("averageUtilization", "targetAverageUtilization"),
            ("averageValue", "averageValue"),
            ("value", "targetValue"),
        ],
        (_, "object") => [
            ("averageUtilization", "currentAverageUtilization"),
            ("averageValue", "averageValue"),
            ("value", "currentValue"),
        ],
        _ => [
            ("averageUtilization", "currentAverageUtilization"),
            ("averageValue", "currentAverageValue"),
            ("value", "currentValue"),
        ],
    }
}

fn metric_to_v1(metric: &Value, part: &str) -> Value {
    let source = source_of(metric);
    let from = &metric[&source];
    let mut to = Map::new();
    match source.as_str() {
        "resource" | "containerResource" => {
            for key in ["name", "container"] {
                move_member(from, key, &mut to, key);
            }
        }
        _ => {
            let selector = if source == "external" { "metricSelector" } else { "selector" };
            move_member(from, "describedObject", &mut to, "target");
            move_member(&from["metric"], "name", &mut to, "metricName");
            move_member(&from["metric"], "selector", &mut to, selector);
        }
    }
    for (v2, v1) in v1_names(&source, part) {
        move_member(&from[part], v2, &mut to, v1);
    }
    json!({"type": metric["type"], source: to})
}

fn metric_to_v2(metric: &Value, part: &str) -> Value {
    let source = source_of(metric);
    let from = &metric[&source];
    let mut to = Map::new();
    match source.as_str() {
        "resource" | "containerResource" => {
            for key in ["name", "container"] {
                move_member(from, key, &mut to, key);
            }
        }
        _ => {
            let selector = if source == "external" { "metricSelector" } else { "selector" };
            move_member(from, "target", &mut to, "describedObject");
            let mut named = Map::new();
            move_member(from, "metricName", &mut named, "name");
            move_member(from, selector, &mut named, "selector");
            to.insert("metric".to_owned(), named.into());
        }
    }
    let mut value = Map::new();
    for (v2, v1) in v1_names(&source, part) {
        move_member(from, v1, &mut value, v2);
    }
    if part == "target" {
        let kind =
            match (value.contains_key("averageUtilization"), value.contains_key("averageValue")) {
                (true, _) => "Utilization",
                (false, true) => "AverageValue",
                (false, false) => "Value",
            };
        value.insert("type".to_owned(), kind.into());
    }
    to.insert(part.to_owned(), value.into());
    json!({"type": metric["type"], source: to})
}

fn move_member(from: &Value, key: &str, to: &mut Map<String, Value>, name: &str) {
    if let Some(value) = from.get(key).filter(|value| !value.is_null()) {
        to.insert(name.to_owned(), value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_v1_cannot_say_travels_in_annotations_and_back() {
        let stored = json!({
            "kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v2",
            "metadata": {"name": "h"},
            "spec": {
                "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "minReplicas": 1, "maxReplicas": 3,
                "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                    {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
                    {"type": "Pods", "pods": {"metric": {"name": "rps", "selector": {"matchLabels": {"a": "b"}}}, "target": {"type": "AverageValue", "averageValue": "1k"}}},
                    {"type": "Object", "object": {"describedObject": {"kind": "Ingress", "name": "i"}, "metric": {"name": "rps"}, "target": {"type": "Value", "value": "2k"}}},
                ],
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
            },
            "status": {
                "currentReplicas": 2,
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 40, "averageValue": "4m"}}}],
                "conditions": [{"type": "AbleToScale", "status": "True"}],
            },
        });
        let shown = to_v1(stored.clone());
        assert_eq!(shown["spec"]["targetCPUUtilizationPercentage"], 50);
        assert_eq!(shown["spec"].get("metrics"), None);
        assert_eq!(shown["status"]["currentCPUUtilizationPercentage"], 40);
        assert_eq!(
            shown["metadata"]["annotations"][METRICS],
            r#"[{"type":"Resource","resource":{"name":"memory","targetAverageValue":"1Gi"}},{"type":"Pods","pods":{"metricName":"rps","selector":{"matchLabels":{"a":"b"}},"targetAverageValue":"1k"}},{"type":"Object","object":{"target":{"kind":"Ingress","name":"i"},"metricName":"rps","targetValue":"2k"}}]"#
        );
        assert_eq!(to_v2(shown), stored);
    }

    #[test]
    fn annotations_that_do_not_read_are_dropped() {
        let shown = json!({
            "apiVersion": "autoscaling/v1", "metadata": {"annotations": {METRICS: "{", "mine": "x"}},
            "spec": {"targetCPUUtilizationPercentage": 7},
        });
        let stored = to_v2(shown);
        assert_eq!(stored["metadata"]["annotations"], json!({"mine": "x"}));
        assert_eq!(stored["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 7);
    }
}
