//! A pod template, as Deployments and their like show it, and where pods may go.

use serde_json::Value;

use super::text::{Text, given, items, plain, selector};
use super::{container, volumes};

pub fn lay_out(text: &mut Text, template: &Value) {
    let (metadata, spec) = (&template["metadata"], &template["spec"]);
    text.line(0, "Pod Template:");
    text.labels("  Labels", &metadata["labels"]);
    if metadata["annotations"].as_object().is_some_and(|map| !map.is_empty()) {
        text.annotations("  Annotations", &metadata["annotations"]);
    }
    if let Some(account) = given(&spec["serviceAccountName"]) {
        text.field(1, "Service Account", account);
    }
    if !items(&spec["initContainers"]).is_empty() {
        container::lay_out(text, "Init Containers", spec, "initContainer", None);
    }
    container::lay_out(text, "Containers", spec, "container", None);
    volumes::lay_out(text, &spec["volumes"], "  ");
    spread(text, &spec["topologySpreadConstraints"], "  ");
    if let Some(class) = given(&spec["priorityClassName"]) {
        text.field(1, "Priority Class Name", class);
    }
    text.labels("  Node-Selectors", &spec["nodeSelector"]);
    tolerations(text, "  Tolerations", &spec["tolerations"]);
}

/// By key, as kubectl sorts them.
pub fn tolerations(text: &mut Text, name: &str, tolerations: &Value) {
    let mut sorted: Vec<&Value> = items(tolerations).iter().collect();
    sorted.sort_by_key(|toleration| plain(&toleration["key"]));
    text.list(name, &sorted.into_iter().map(toleration).collect::<Vec<_>>());
}

fn toleration(toleration: &Value) -> String {
    let mut shown = plain(&toleration["key"]);
    let value = given(&toleration["value"]);
    if let Some(value) = value {
        shown.push_str(&format!("={value}"));
    }
    if let Some(effect) = given(&toleration["effect"]) {
        shown.push_str(&format!(":{effect}"));
    }
    if toleration["operator"] == "Exists" && value.is_none() {
        shown.push_str(if shown.is_empty() { "op=Exists" } else { " op=Exists" });
    }
    if let Some(seconds) = toleration["tolerationSeconds"].as_i64() {
        shown.push_str(&format!(" for {seconds}s"));
    }
    shown
}

/// How pods are spread; nothing without constraints.
pub fn spread(text: &mut Text, constraints: &Value, indent: &str) {
    let mut sorted: Vec<&Value> = items(constraints).iter().collect();
    if sorted.is_empty() {
        return;
    }
    sorted.sort_by_key(|constraint| plain(&constraint["topologyKey"]));
    let lines: Vec<String> = sorted
        .into_iter()
        .map(|constraint| {
            let labels = match &constraint["labelSelector"] {
                Value::Null => String::new(),
                labels => format!(" for selector {}", selector(labels)),
            };
            format!(
                "{}:{} when max skew {} is exceeded{labels}",
                plain(&constraint["topologyKey"]),
                plain(&constraint["whenUnsatisfiable"]),
                plain(&constraint["maxSkew"])
            )
        })
        .collect();
    text.list(&format!("{indent}Topology Spread Constraints"), &lines);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tolerations_read_as_kubectl_writes_them() {
        for (given, expected) in [
            (json!({"operator": "Exists"}), "op=Exists"),
            (json!({"operator": "Exists", "effect": "NoExecute"}), ":NoExecute op=Exists"),
            (
                json!({"key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute", "tolerationSeconds": 3}),
                "a=b:NoExecute for 3s",
            ),
            (json!({"key": "a"}), "a"),
        ] {
            assert_eq!(toleration(&given), expected);
        }
    }
}
