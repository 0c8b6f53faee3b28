//! How a Service is described.

use serde_json::Value;

use super::endpoints;
use super::text::{Text, given, items, joined, number, plain, set};

/// `slices` are its EndpointSlices.
pub fn lay_out(text: &mut Text, service: &Value, slices: &[Value]) {
    let (metadata, spec) = (&service["metadata"], &service["spec"]);
    text.field(0, "Name", plain(&metadata["name"]));
    text.field(0, "Namespace", plain(&metadata["namespace"]));
    text.labels("Labels", &metadata["labels"]);
    text.annotations("Annotations", &metadata["annotations"]);
    text.field(0, "Selector", set(&spec["selector"]));
    text.field(0, "Type", plain(&spec["type"]));
    if let Some(policy) = given(&spec["ipFamilyPolicy"]) {
        text.field(0, "IP Family Policy", policy);
    }
    let or_none = |list: &Value| match items(list) {
        [] => "<none>".to_owned(),
        _ => joined(list, ","),
    };
    text.field(0, "IP Families", or_none(&spec["ipFamilies"]));
    text.field(0, "IP", plain(&spec["clusterIP"]));
    text.field(0, "IPs", or_none(&spec["clusterIPs"]));
    let lists = |text: &mut Text, title: &str, key: &str| {
        if !items(&spec[key]).is_empty() {
            text.field(0, title, joined(&spec[key], ","));
        }
    };
    lists(text, "External IPs", "externalIPs");
    for (title, key) in
        [("Desired LoadBalancer IP", "loadBalancerIP"), ("External Name", "externalName")]
    {
        if let Some(value) = given(&spec[key]) {
            text.field(0, title, value);
        }
    }
    let ingress: Vec<String> =
        items(&service["status"]["loadBalancer"]["ingress"]).iter().map(entry).collect();
    if !ingress.is_empty() {
        text.field(0, "LoadBalancer Ingress", ingress.join(", "));
    }
    items(&spec["ports"]).iter().for_each(|one| port(text, one, slices));
    text.field(0, "Session Affinity", plain(&spec["sessionAffinity"]));
    for (title, key) in [
        ("External Traffic Policy", "externalTrafficPolicy"),
        ("Internal Traffic Policy", "internalTrafficPolicy"),
    ] {
        if let Some(value) = given(&spec[key]) {
            text.field(0, title, value);
        }
    }
    if number(&spec["healthCheckNodePort"]) != 0 {
        text.field(0, "HealthCheck NodePort", number(&spec["healthCheckNodePort"]));
    }
    lists(text, "LoadBalancer Source Ranges", "loadBalancerSourceRanges");
    if let Some(distribution) = given(&spec["trafficDistribution"]) {
        text.field(0, "Traffic Distribution", distribution);
    }
}

/// `192.0.2.1 (VIP)`, or a host's name.
fn entry(ingress: &Value) -> String {
    match (given(&ingress["ip"]), given(&ingress["ipMode"])) {
        (None, _) => plain(&ingress["hostname"]),
        (Some(ip), None) => ip.to_owned(),
        (Some(ip), Some(mode)) => format!("{ip} ({mode})"),
    }
}

fn port(text: &mut Text, port: &Value, slices: &[Value]) {
    let name = given(&port["name"]).unwrap_or("<unset>");
    let protocol = plain(&port["protocol"]);
    text.field(0, "Port", format_args!("{name}\t{}/{protocol}", number(&port["port"])));
    text.field(0, "TargetPort", format_args!("{}/{protocol}", plain(&port["targetPort"])));
    if let Some(application) = given(&port["appProtocol"]) {
        text.field(0, "AppProtocol", application);
    }
    let node_port = number(&port["nodePort"]);
    if node_port != 0 {
        text.field(0, "NodePort", format_args!("{name}\t{node_port}/{protocol}"));
    }
    text.field(0, "Endpoints", endpoints::behind(slices, &plain(&port["name"])));
}
