//! How a HorizontalPodAutoscaler (autoscaling/v2) is described.

use serde_json::Value;

use super::text::{Clock, Text, items, number, or, plain, quantity};

pub fn lay_out(text: &mut Text, autoscaler: &Value, clock: &Clock) {
    let (metadata, spec, status) =
        (&autoscaler["metadata"], &autoscaler["spec"], &autoscaler["status"]);
    text.field(0, "Name", plain(&metadata["name"]));
    text.field(0, "Namespace", plain(&metadata["namespace"]));
    text.labels("Labels", &metadata["labels"]);
    text.annotations("Annotations", &metadata["annotations"]);
    text.field(0, "CreationTimestamp", clock.date(&metadata["creationTimestamp"]));
    let target = &spec["scaleTargetRef"];
    let (kind, name) = (plain(&target["kind"]), plain(&target["name"]));
    text.field(0, "Reference", format_args!("{kind}/{name}"));
    text.field(0, "Metrics", "( current / target )");
    for (position, wanted) in items(&spec["metrics"]).iter().enumerate() {
        metric(text, wanted, &status["currentMetrics"][position]);
    }
    text.field(0, "Min replicas", or(&spec["minReplicas"], "<unset>"));
    text.field(0, "Max replicas", number(&spec["maxReplicas"]));
    if let behavior @ Value::Object(_) = &spec["behavior"] {
        text.line(0, "Behavior:");
        for (title, key) in [("Scale Up", "scaleUp"), ("Scale Down", "scaleDown")] {
            direction(text, title, &behavior[key]);
        }
    }
    let (is, wanted) = (number(&status["currentReplicas"]), number(&status["desiredReplicas"]));
    text.field(0, format_args!("{kind} pods"), format_args!("{is} current / {wanted} desired"));
    let conditions = items(&status["conditions"]);
    if conditions.is_empty() {
        return;
    }
    text.line(0, "Conditions:");
    text.line(1, "Type\tStatus\tReason\tMessage");
    text.line(1, "----\t------\t------\t-------");
    for condition in conditions {
        let cells = ["type", "status", "reason", "message"].map(|key| plain(&condition[key]));
        text.line(1, cells.join("\t"));
    }
}

/// One metric: what it is, and `CURRENT / TARGET`.
fn metric(text: &mut Text, wanted: &Value, found: &Value) {
    let kind = plain(&wanted["type"]);
    let key = match kind.as_str() {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return text.line(1, format_args!("<unknown metric type {kind:?}>")),
    };
    let (source, current) = (&wanted[key], &found[key]["current"]);
    let target = &source["target"];
    let name = plain(&source["metric"]["name"]);
    let is_average = !target["averageValue"].is_null();
    let (what, value) = match kind.as_str() {
        "External" if is_average => {
            (format!("{name:?} (target average value)"), values(current, target, "averageValue"))
        }
        "External" => (format!("{name:?} (target value)"), values(current, target, "value")),
        "Pods" => (format!("{name:?} on pods"), values(current, target, "averageValue")),
        "Object" => {
            let of = &source["describedObject"];
            let of = format!("\"{name}\" on {}/{}", plain(&of["kind"]), plain(&of["name"]));
            match target["type"] == "AverageValue" {
                true => (
                    format!("{of} (target average value)"),
                    values(current, target, "averageValue"),
                ),
                false => (format!("{of} (target value)"), values(current, target, "value")),
            }
        }
        _ => {
            let container = match kind.as_str() {
                "ContainerResource" => format!(" of container \"{}\"", plain(&source["container"])),
                _ => String::new(),
            };
            let what = format!("resource {}{container} on pods", plain(&source["name"]));
            match is_average {
                true => (what, values(current, target, "averageValue")),
                false => {
                    (format!("{what}  (as a percentage of request)"), percents(current, target))
                }
            }
        }
    };
    text.field(1, what, value);
}

fn values(current: &Value, target: &Value, key: &str) -> String {
    // Go's word for a quantity that its status leaves out.
    let amount = |of: &Value| match &of[key] {
        Value::Null => "<nil>".to_owned(),
        value => quantity(value),
    };
    let current = if current.is_null() { "<unknown>".to_owned() } else { amount(current) };
    format!("{current} / {}", amount(target))
}

fn percents(current: &Value, target: &Value) -> String {
    let is = match &current["averageUtilization"] {
        Value::Null => "<unknown>".to_owned(),
        percent => format!("{percent}% ({})", quantity(&current["averageValue"])),
    };
    match &target["averageUtilization"] {
        Value::Null => format!("{is} / <auto>"),
        percent => format!("{is} / {percent}%"),
    }
}

fn direction(text: &mut Text, title: &str, rules: &Value) {
    if rules.is_null() {
        return;
    }
    text.line(1, format_args!("{title}:"));
    if let Some(seconds) = rules["stabilizationWindowSeconds"].as_i64() {
        text.line(2, format_args!("Stabilization Window: {seconds} seconds"));
    }
    let policies = items(&rules["policies"]);
    if policies.is_empty() {
        return;
    }
    text.line(2, format_args!("Select Policy: {}", or(&rules["selectPolicy"], "Max")));
    text.line(2, "Policies:");
    for policy in policies {
        let (kind, value) = (plain(&policy["type"]), number(&policy["value"]));
        let seconds = number(&policy["periodSeconds"]);
        text.line(3, format_args!("- Type: {kind}\tValue: {value}\tPeriod: {seconds} seconds"));
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn metrics_are_told_with_what_is_and_what_should_be() {
        let object = json!({"kind": "Ingress", "name": "web"});
        let name = json!({"name": "rps"});
        let mut text = Text::default();
        for (kind, wanted, found) in [
            ("external", json!({"metric": name, "target": {"averageValue": "1000m"}}), json!({})),
            ("external", json!({"metric": name, "target": {"value": "2"}}), json!({"value": "1"})),
            ("pods", json!({"metric": name, "target": {"averageValue": "2"}}), Value::Null),
            (
                "object",
                json!({"metric": name, "describedObject": object, "target": {"type": "Value", "value": "2"}}),
                json!({"value": "500m"}),
            ),
            (
                "resource",
                json!({"name": "cpu", "target": {"averageUtilization": 80}}),
                json!({"averageUtilization": 7, "averageValue": "70m"}),
            ),
            (
                "containerResource",
                json!({"name": "cpu", "container": "web", "target": {"averageValue": "1"}}),
                Value::Null,
            ),
        ] {
            let title = format!("{}{}", kind[..1].to_uppercase(), &kind[1..]);
            let wanted = json!({"type": title, kind: wanted});
            metric(&mut text, &wanted, &json!({kind: {"current": found}}));
        }
        // The first line keeps the others where they are: they are indented, all of them.
        expect![[r#"
            Metrics:
              "rps" (target average value):                        <nil> / 1
              "rps" (target value):                                1 / 2
              "rps" on pods:                                       <unknown> / 2
              "rps" on Ingress/web (target value):                 500m / 2
              resource cpu on pods  (as a percentage of request):  7% (70m) / 80%
              resource cpu of container "web" on pods:             <unknown> / 1
        "#]]
        .assert_eq(&format!("Metrics:\n{}", text.aligned()));
    }
}
