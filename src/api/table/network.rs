//! Services, Endpoints, EndpointSlices, Ingresses and NetworkPolicies.
//!
//! It never resolves or allocates an address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::column::{AGE, NAME, string, wide};
use super::{Printer, age, items, name, number, or, selector, text};

/// So many addresses fit a cell; the others are counted.
const MOST_SHOWN: usize = 3;

pub(super) const SERVICES: Printer = Printer {
    columns: &[
        NAME,
        string("Type", "How it is exposed."),
        string("Cluster-IP", "Its address inside the cluster."),
        string("External-IP", "Its addresses outside the cluster."),
        string("Port(s)", "Its ports."),
        AGE,
        wide(string("Selector", "Which pods answer for it.")),
    ],
    cells: |service, now| {
        let cluster_ip = service["spec"]["clusterIPs"][0].as_str();
        let cluster_ip = cluster_ip.unwrap_or(text(service, &["spec", "clusterIP"]));
        vec![
            name(service),
            text(service, &["spec", "type"]).into(),
            or(cluster_ip, "<none>").into(),
            external_ip(service).into(),
            service_ports(service).into(),
            age(service, now),
            selector::labels(&service["spec"]["selector"]).into(),
        ]
    },
};

pub(super) const ENDPOINTS: Printer = Printer {
    columns: &[NAME, string("Endpoints", "The addresses behind the service."), AGE],
    cells: |endpoints, now| {
        vec![name(endpoints), endpoint_addresses(endpoints).into(), age(endpoints, now)]
    },
};

pub(super) const ENDPOINT_SLICES: Printer = Printer {
    columns: &[
        NAME,
        string("AddressType", "The family of the addresses."),
        string("Ports", "The ports of every endpoint."),
        string("Endpoints", "The addresses."),
        AGE,
    ],
    cells: |slice, now| {
        let ports = items(slice, &["ports"]).iter().map(|port| match port["port"].as_i64() {
            Some(number) => number.to_string(),
            None => port["name"].as_str().unwrap_or("*").to_owned(),
        });
        let addresses = items(slice, &["endpoints"])
            .iter()
            .flat_map(|endpoint| items(endpoint, &["addresses"]))
            .map(|address| address.as_str().unwrap_or_default().to_owned());
        vec![
            name(slice),
            text(slice, &["addressType"]).into(),
            shortened(ports.collect(), "<unset>").into(),
            shortened(addresses.collect(), "<unset>").into(),
            age(slice, now),
        ]
    },
};

pub(super) const INGRESSES: Printer = Printer {
    columns: &[
        NAME,
        string("Class", "Which controller serves it."),
        string("Hosts", "The host names it answers for."),
        string("Address", "Where it is reached."),
        string("Ports", "The ports it is served on."),
        AGE,
    ],
    cells: |ingress, now| {
        let rules = items(ingress, &["spec", "rules"]);
        let hosts = rules.iter().map(|rule| text(rule, &["host"]).to_owned());
        let hosts: Vec<String> = hosts.filter(|host| !host.is_empty()).collect();
        let ports = if items(ingress, &["spec", "tls"]).is_empty() { "80" } else { "80, 443" };
        vec![
            name(ingress),
            or(text(ingress, &["spec", "ingressClassName"]), "<none>").into(),
            shortened(hosts, "*").into(),
            load_balancer(ingress).into(),
            ports.into(),
            age(ingress, now),
        ]
    },
};

pub(super) const INGRESS_CLASSES: Printer = Printer {
    columns: &[
        NAME,
        string("Controller", "Which controller it means."),
        string("Parameters", "Where its parameters are."),
        AGE,
    ],
    cells: |class, now| {
        let parameters = &class["spec"]["parameters"];
        let parameters = match (parameters.is_null(), text(parameters, &["apiGroup"])) {
            (true, _) => "<none>".to_owned(),
            (false, "") => {
                format!("{}/{}", text(parameters, &["kind"]), text(parameters, &["name"]))
            }
            (false, group) => {
                format!("{}.{group}/{}", text(parameters, &["kind"]), text(parameters, &["name"]))
            }
        };
        vec![
            name(class),
            text(class, &["spec", "controller"]).into(),
            parameters.into(),
            age(class, now),
        ]
    },
};

pub(super) const NETWORK_POLICIES: Printer = Printer {
    columns: &[NAME, string("Pod-Selector", "Which pods it isolates."), AGE],
    cells: |policy, now| {
        let chosen = selector::selector(&policy["spec"]["podSelector"]);
        vec![name(policy), chosen.into(), age(policy, now)]
    },
};

fn external_ip(service: &Value) -> String {
    let external = items(service, &["spec", "externalIPs"]);
    let external: Vec<&str> = external.iter().filter_map(Value::as_str).collect();
    match text(service, &["spec", "type"]) {
        "ClusterIP" | "NodePort" => or(&external.join(","), "<none>").to_owned(),
        "LoadBalancer" => {
            let balancer = load_balancer(service);
            let all = std::iter::once(balancer.as_str()).chain(external);
            let all: Vec<&str> = all.filter(|address| !address.is_empty()).collect();
            or(&all.join(","), "<pending>").to_owned()
        }
        "ExternalName" => text(service, &["spec", "externalName"]).to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

/// Addresses of a load balancer, sorted; host names where there is no address.
fn load_balancer(object: &Value) -> String {
    let points: BTreeSet<&str> = items(object, &["status", "loadBalancer", "ingress"])
        .iter()
        .map(|point| or(text(point, &["ip"]), text(point, &["hostname"])))
        .filter(|point| !point.is_empty())
        .collect();
    points.into_iter().collect::<Vec<_>>().join(",")
}

fn service_ports(service: &Value) -> String {
    let ports: Vec<String> = items(service, &["spec", "ports"])
        .iter()
        .map(|port| {
            let (own, protocol) = (number(port, &["port"]), text(port, &["protocol"]));
            match number(port, &["nodePort"]) {
                0 => format!("{own}/{protocol}"),
                node => format!("{own}:{node}/{protocol}"),
            }
        })
        .collect();
    or(&ports.join(","), "<none>").to_owned()
}

fn endpoint_addresses(endpoints: &Value) -> String {
    let mut all = Vec::new();
    for subset in items(endpoints, &["subsets"]) {
        let addresses =
            || items(subset, &["addresses"]).iter().map(|address| text(address, &["ip"]));
        let ports = items(subset, &["ports"]);
        if ports.is_empty() {
            all.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            all.extend(addresses().map(|address| with_port(address, number(port, &["port"]))));
        }
    }
    shortened(all, "<none>")
}

fn with_port(address: &str, port: i64) -> String {
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => format!("[{address}]:{port}"),
        Ok(IpAddr::V4(_)) | Err(_) => format!("{address}:{port}"),
    }
}

fn shortened(all: Vec<String>, empty: &str) -> String {
    match all.len() {
        0 => empty.to_owned(),
        count if count <= MOST_SHOWN => all.join(","),
        count => format!("{} + {} more...", all[..MOST_SHOWN].join(","), count - MOST_SHOWN),
    }
}
