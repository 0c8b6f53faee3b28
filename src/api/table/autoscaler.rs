//! HorizontalPodAutoscalers.
//!
//! It never measures; it reads what the controller reported.

use serde_json::Value;

use super::column::{AGE, NAME, string};
use super::{Printer, age, items, name, number, text};
use crate::api::autoscaler;

/// So many metrics fit a cell; the others are counted.
const MOST_SHOWN: usize = 2;

pub(super) const AUTOSCALERS: Printer = Printer {
    columns: &[
        NAME,
        string("Reference", "What is scaled."),
        string("Targets", "What is measured, and what is aimed at."),
        string("MinPods", "So many pods at least."),
        string("MaxPods", "So many pods at most."),
        string("Replicas", "How many pods there are."),
        AGE,
    ],
    cells: |shown, now| {
        let stored;
        let scaler = match shown["apiVersion"] == "autoscaling/v1" {
            true => {
                stored = autoscaler::to_v2(shown.clone());
                &stored
            }
            false => shown,
        };
        let target = ["spec", "scaleTargetRef"];
        let part = |field| text(scaler, &[target[0], target[1], field]);
        let least = match scaler["spec"]["minReplicas"].as_i64() {
            Some(number) => number.to_string(),
            None => "<unset>".to_owned(),
        };
        vec![
            name(scaler),
            format!("{}/{}", part("kind"), part("name")).into(),
            targets(scaler).into(),
            least.into(),
            number(scaler, &["spec", "maxReplicas"]).to_string().into(),
            number(scaler, &["status", "currentReplicas"]).to_string().into(),
            age(scaler, now),
        ]
    },
};

fn targets(scaler: &Value) -> String {
    let metrics = items(scaler, &["spec", "metrics"]);
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let current = items(scaler, &["status", "currentMetrics"]);
    let texts: Vec<String> = metrics
        .iter()
        .enumerate()
        .take(MOST_SHOWN)
        .map(|(index, metric)| target(metric, current.get(index).unwrap_or(&Value::Null)))
        .collect();
    let more = metrics.len() - texts.len();
    match more {
        0 => texts.join(", "),
        more => format!("{} + {more} more...", texts.join(", ")),
    }
}

fn target(metric: &Value, current: &Value) -> String {
    let source = match metric["type"].as_str().unwrap_or_default() {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => return "<unknown type>".to_owned(),
    };
    let (wanted, is) = (&metric[source]["target"], &current[source]["current"]);
    let known = |value: &Value, unit: &str| match value {
        Value::Number(number) => format!("{number}{unit}"),
        Value::String(text) => text.clone(),
        _ => "<unknown>".to_owned(),
    };
    let measured = |field: &str, unit: &str| {
        format!("{}/{}", known(&is[field], unit), known(&wanted[field], unit))
    };
    let is_average = !wanted["averageValue"].is_null();
    match source {
        "resource" | "containerResource" => {
            let called = metric[source]["name"].as_str().unwrap_or_default();
            let field = if is_average { "averageValue" } else { "averageUtilization" };
            format!("{called}: {}", measured(field, "%"))
        }
        "pods" => measured("averageValue", ""),
        _ if is_average => format!("{} (avg)", measured("averageValue", "")),
        _ => measured("value", ""),
    }
}
