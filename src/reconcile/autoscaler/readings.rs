//! The answers of `metrics.k8s.io` and `custom.metrics.k8s.io` as figures (pure).
//!
//! It never asks; what does not read is left out, as if it had not been there.

use std::time::Duration;

use serde_json::Value;

use super::calculate::{Resource, Sample, Samples};
use crate::model::quantity::Quantity;
use crate::model::time::Timestamp;

/// What the pods of a `PodMetricsList` use of a resource. A pod of which one container has no figure has none.
///
/// # Errors
/// There is nothing, or a pod has no such container.
pub fn usage(list: &Value, of: Resource<'_>) -> Result<Samples, String> {
    let mut samples = Samples::new();
    let pods = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    for pod in pods {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let containers = pod["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_meant =
            |container: &&Value| of.container.is_none_or(|only| container["name"] == only);
        let meant: Vec<&Value> = containers.iter().filter(is_meant).collect();
        if let (Some(only), true) = (of.container, meant.is_empty()) {
            let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
            return Err(format!(
                "container {only} not present in metrics for pod {namespace}/{name}"
            ));
        }
        let figures = meant.iter().map(|container| milli(&container["usage"][of.name]));
        let Some(sum) = figures.sum::<Option<i64>>() else { continue };
        let Some(at) = time(&pod["timestamp"]) else { continue };
        let window = window(&pod["window"]).unwrap_or_default();
        samples.insert(name.to_owned(), Sample { milli: sum, at, window });
    }
    match samples.is_empty() {
        true => Err("no metrics returned from resource metrics API".to_owned()),
        false => Ok(samples),
    }
}

/// The values of a `MetricValueList`, by the name of what they describe.
///
/// # Errors
/// There are none.
pub fn values(list: &Value) -> Result<Samples, String> {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let samples: Samples = items
        .iter()
        .filter_map(|item| {
            let name = item["describedObject"]["name"].as_str()?.to_owned();
            let seconds = item["windowSeconds"].as_u64().unwrap_or(0);
            let sample = Sample {
                milli: milli(&item["value"])?,
                at: time(&item["timestamp"])?,
                window: Duration::from_secs(seconds),
            };
            Some((name, sample))
        })
        .collect();
    match samples.is_empty() {
        true => Err("no metrics returned from custom metrics API".to_owned()),
        false => Ok(samples),
    }
}

fn milli(value: &Value) -> Option<i64> {
    Quantity::from_json(value).ok().map(Quantity::milli_value)
}

fn time(value: &Value) -> Option<Timestamp> {
    let at: jiff::Timestamp = value.as_str()?.parse().ok()?;
    Some(Timestamp::from(at))
}

/// `15s`, `12.345s`, as both Kubernetes and we write a window.
fn window(value: &Value) -> Option<Duration> {
    let text = value.as_str()?;
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => (text.strip_suffix('s')?, 1.0),
    };
    let (minutes, seconds) = number.split_once('m').unwrap_or(("0", number));
    let minutes: f64 = minutes.parse().ok()?;
    let seconds: f64 = seconds.parse().ok()?;
    Duration::try_from_secs_f64(minutes * 60.0 + seconds * unit).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, containers: Value) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "ns"},
            "timestamp": "2026-01-02T03:04:05Z", "window": "12.5s", "containers": containers,
        })
    }

    #[test]
    fn containers_are_summed_and_a_pod_that_is_half_known_is_not_known() {
        let list = json!({"items": [
            pod("a", json!([
                {"name": "x", "usage": {"cpu": "250m", "memory": "1Ki"}},
                {"name": "y", "usage": {"cpu": "1500000n"}},
            ])),
            pod("b", json!([{"name": "x", "usage": {"cpu": "1"}}])),
        ]});
        let cpu = usage(&list, Resource { name: "cpu", container: None }).expect("figures");
        assert_eq!((cpu["a"].milli, cpu["b"].milli), (252, 1000));
        assert_eq!(cpu["a"].window, Duration::from_millis(12_500));
        let memory = usage(&list, Resource { name: "memory", container: None });
        assert_eq!(memory.unwrap_err(), "no metrics returned from resource metrics API");
        let only = usage(&list, Resource { name: "cpu", container: Some("y") });
        assert_eq!(only.unwrap_err(), "container y not present in metrics for pod ns/b");
    }

    #[test]
    fn values_are_named_by_what_they_describe() {
        let list = json!({"items": [
            {"describedObject": {"name": "a"}, "timestamp": "2026-01-02T03:04:05Z", "windowSeconds": 10, "value": "1500m"},
            {"describedObject": {"name": "b"}, "timestamp": "yesterday", "value": "1"},
        ]});
        let values = values(&list).expect("figures");
        assert_eq!(values.len(), 1);
        assert_eq!(values["a"].milli, 1500);
    }
}
