//! A container's environment: its variables and where they come from.

use serde_json::Value;

use super::text::{Text, given, items, plain};
use crate::model::quantity::Quantity;

/// `pod` is the one that the container runs in, if it runs.
pub fn lay_out(text: &mut Text, container: &Value, pod: Option<&Value>) {
    let sources = items(&container["envFrom"]);
    if !sources.is_empty() {
        text.line(2, "Environment Variables from:");
    }
    for source in sources {
        let (kind, of) = match &source["configMapRef"] {
            Value::Null => ("Secret", &source["secretRef"]),
            of => ("ConfigMap", of),
        };
        let prefix = given(&source["prefix"]).map(|prefix| format!(" with prefix '{prefix}'"));
        let (name, optional) = (plain(&of["name"]), of["optional"] == true);
        let prefix = prefix.unwrap_or_default();
        text.line(3, format_args!("{name}\t{kind}{prefix}\tOptional: {optional}"));
    }
    let variables = items(&container["env"]);
    text.line(2, if variables.is_empty() { "Environment:\t<none>" } else { "Environment:" });
    for variable in variables {
        let name = plain(&variable["name"]);
        match &variable["valueFrom"] {
            Value::Null => {
                let value = plain(&variable["value"]);
                let mut lines = value.split('\n');
                text.field(3, name, lines.next().unwrap_or_default());
                lines.for_each(|line| text.line(3, format_args!("\t{line}")));
            }
            from => text.field(3, name, origin(from, container, pod)),
        }
    }
}

/// Where a variable's value comes from, with the value where the object itself tells it.
fn origin(from: &Value, container: &Value, pod: Option<&Value>) -> String {
    let optional = |key: &Value| key["optional"] == true;
    if let field @ Value::Object(_) = &from["fieldRef"] {
        let path = plain(&field["fieldPath"]);
        // Of a pod's fields, kubectl resolves these two.
        let value = match (pod, path.as_str()) {
            (Some(pod), "metadata.name") => plain(&pod["metadata"]["name"]),
            (Some(pod), "metadata.namespace") => plain(&pod["metadata"]["namespace"]),
            _ => String::new(),
        };
        format!("{value} ({}:{path})", plain(&field["apiVersion"]))
    } else if let amount @ Value::Object(_) = &from["resourceFieldRef"] {
        let resource = plain(&amount["resource"]);
        let value = match amount_of(amount, &resource, container) {
            Some(0) if ["limits.cpu", "limits.memory"].contains(&resource.as_str()) => {
                "node allocatable".to_owned()
            }
            value => value.map(|value| value.to_string()).unwrap_or_default(),
        };
        format!("{value} ({resource})")
    } else if let key @ Value::Object(_) = &from["secretKeyRef"] {
        let (name, of) = (plain(&key["key"]), plain(&key["name"]));
        format!("<set to the key '{name}' in secret '{of}'>\tOptional: {}", optional(key))
    } else {
        let key = &from["configMapKeyRef"];
        let (name, of) = (plain(&key["key"]), plain(&key["name"]));
        format!("<set to the key '{name}' of config map '{of}'>\tOptional: {}", optional(key))
    }
}

/// The container's own limit or request, in units of the divisor, rounded up.
fn amount_of(amount: &Value, resource: &str, container: &Value) -> Option<i64> {
    let (list, name) = resource.split_once('.')?;
    let own = &container["resources"][list][name];
    let own = Quantity::from_json(own).unwrap_or(Quantity::ZERO);
    let divisor = Quantity::from_json(&amount["divisor"]).ok().filter(|d| !d.is_zero());
    let divisor = divisor.unwrap_or(Quantity::from_milli(1000));
    let (own, divisor) = match name {
        "cpu" => (own.milli_value(), divisor.milli_value()),
        _ => (own.value(), divisor.value()),
    };
    Some(own.div_euclid(divisor) + i64::from(own.rem_euclid(divisor) > 0))
}
