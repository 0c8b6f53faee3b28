//! How an Ingress and an IngressClass are described.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::endpoints;
use super::text::{Text, given, items, joined, number, or, plain};

/// A Service that an Ingress names.
pub struct Backend {
    pub service: Value,
    pub slices: Vec<Value>,
}

/// The Services that an Ingress names, or why one cannot be read.
pub type Backends = BTreeMap<String, Result<Backend, String>>;

/// The names of the Services behind an Ingress.
pub fn services(ingress: &Value) -> BTreeSet<String> {
    let spec = &ingress["spec"];
    let paths = items(&spec["rules"]).iter().flat_map(|rule| items(&rule["http"]["paths"]));
    let backends = paths.map(|path| &path["backend"]).chain([&spec["defaultBackend"]]);
    backends.filter_map(|backend| given(&backend["service"]["name"])).map(str::to_owned).collect()
}

pub fn lay_out(text: &mut Text, ingress: &Value, backends: &Backends) {
    let (metadata, spec) = (&ingress["metadata"], &ingress["spec"]);
    text.field(0, "Name", plain(&metadata["name"]));
    text.labels("Labels", &metadata["labels"]);
    text.field(0, "Namespace", plain(&metadata["namespace"]));
    let addresses: BTreeSet<&str> = items(&ingress["status"]["loadBalancer"]["ingress"])
        .iter()
        .filter_map(|entry| given(&entry["ip"]).or(given(&entry["hostname"])))
        .collect();
    text.field(0, "Address", addresses.into_iter().collect::<Vec<_>>().join(","));
    text.field(0, "Ingress Class", or(&spec["ingressClassName"], "<none>"));
    let default = match &spec["defaultBackend"] {
        Value::Null => "<default>".to_owned(),
        backend => target(backend, backends),
    };
    text.field(0, "Default backend", &default);
    let certificates = items(&spec["tls"]);
    if !certificates.is_empty() {
        text.line(0, "TLS:");
    }
    for certificate in certificates {
        let hosts = joined(&certificate["hosts"], ",");
        match given(&certificate["secretName"]) {
            None => text.line(1, format_args!("SNI routes {hosts}")),
            Some(secret) => text.line(1, format_args!("{secret} terminates {hosts}")),
        }
    }
    text.line(0, "Rules:");
    text.line(1, "Host\tPath\tBackends");
    text.line(1, "----\t----\t--------");
    let rules: Vec<&Value> =
        items(&spec["rules"]).iter().filter(|rule| !rule["http"].is_null()).collect();
    for rule in &rules {
        text.line(1, format_args!("{}\t", given(&rule["host"]).unwrap_or("*")));
        for path in items(&rule["http"]["paths"]) {
            let target = target(&path["backend"], backends);
            text.line(2, format_args!("\t{} \t{target}", plain(&path["path"])));
        }
    }
    if rules.is_empty() {
        text.line(1, format_args!("*\t*\t{default}"));
    }
    text.annotations("Annotations", &metadata["annotations"]);
}

/// `web:80 (10.42.0.5:80)`.
fn target(backend: &Value, backends: &Backends) -> String {
    if let resource @ Value::Object(_) = &backend["resource"] {
        return format!(
            "APIGroup: {}, Kind: {}, Name: {}",
            or(&resource["apiGroup"], "<none>"),
            plain(&resource["kind"]),
            plain(&resource["name"])
        );
    }
    let (name, port) = (plain(&backend["service"]["name"]), &backend["service"]["port"]);
    let shown = match number(&port["number"]) {
        0 => plain(&port["name"]),
        number => number.to_string(),
    };
    let found = match backends.get(&name) {
        Some(Ok(backend)) => {
            let is_meant = |one: &&Value| match number(&port["number"]) {
                0 => one["name"] == port["name"],
                number => one["port"] == number,
            };
            let port = items(&backend.service["spec"]["ports"]).iter().rfind(is_meant);
            let port = port.map(|port| plain(&port["name"])).unwrap_or_default();
            endpoints::behind(&backend.slices, &port)
        }
        Some(Err(why)) => format!("<error: {why}>"),
        None => String::new(),
    };
    format!("{name}:{shown} ({found})")
}

pub fn class(text: &mut Text, class: &Value) {
    let (metadata, spec) = (&class["metadata"], &class["spec"]);
    text.field(0, "Name", plain(&metadata["name"]));
    text.labels("Labels", &metadata["labels"]);
    text.annotations("Annotations", &metadata["annotations"]);
    text.field(0, "Controller", plain(&spec["controller"]));
    if let parameters @ Value::Object(_) = &spec["parameters"] {
        text.line(0, "Parameters:");
        if let Some(group) = parameters["apiGroup"].as_str() {
            text.field(1, "APIGroup", group);
        }
        text.field(1, "Kind", plain(&parameters["kind"]));
        text.field(1, "Name", plain(&parameters["name"]));
    }
}
