//! Services: ports, addresses, what belongs to which type, what may change.
//!
//! It never allocates and never knows which addresses are taken; see `api::allocate`. Source:
//! `ValidateService` of `pkg/apis/core/validation`.

use serde_json::{Value, json};

use super::address::address;
use super::field::FieldError;
use super::place::Place;
use super::rule::choice;
use super::{metadata, name};

type Errors = Vec<FieldError>;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const POLICIES: &[&str] = &["Cluster", "Local"];
const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameNode", "PreferSameZone"];
/// A day, in seconds.
const LONGEST_AFFINITY: i64 = 86400;
/// Clients that name the kubelet's port mean the kubelet.
const KUBELET_PORT: i64 = 10250;

pub(super) fn create(service: &Value) -> Errors {
    let mut errors = metadata::create(service, metadata::rules("services"));
    errors.extend(self::service(service));
    errors
}

pub(super) fn update(old: &Value, new: &Value) -> Errors {
    let mut errors = metadata::update(old, new);
    let spec = Place::root(new, "spec");
    same_primary_address(&old["spec"], &spec, &mut errors);
    errors.extend(service(new));
    errors
}

pub(super) fn update_status(old: &Value, new: &Value) -> Errors {
    let mut errors = metadata::update(old, new);
    let status = Place::root(new, "status");
    let balancer = status.child("loadBalancer");
    let ingress = balancer.child("ingress");
    if ingress.is_filled() && new["spec"]["type"] != "LoadBalancer" {
        errors.push(ingress.forbidden("may only be used when `spec.type` is \"LoadBalancer\""));
    }
    load_balancer(&ingress, &mut errors);
    errors
}

/// The addresses that a balancer answers at: an ingress has such a status, too.
pub(super) fn load_balancer(ingress: &Place<'_>, errors: &mut Errors) {
    for entry in ingress.items() {
        let ip = entry.child("ip");
        if ip.is_filled() {
            address(&ip, errors);
        }
        let host = entry.child("hostname");
        if host.is_filled() {
            errors.extend(host.complain(name::dns1123_subdomain(host.text())));
        }
    }
}

fn service(service: &Value) -> Errors {
    let mut errors = Errors::new();
    let spec = Place::root(service, "spec");
    let kind = spec.child("type");
    let is_headless = spec.value["clusterIP"] == "None";
    let ports = spec.child("ports");
    if !ports.is_filled() && !is_headless && kind.text() != "ExternalName" {
        errors.push(ports.required());
    }
    match kind.text() {
        "LoadBalancer" => {
            for port in ports.items().filter(|port| port.value["port"] == KUBELET_PORT) {
                let detail = "may not expose port 10250 externally since it is used by kubelet";
                errors.push(port.child("port").invalid(detail));
            }
            not_headless(&spec, is_headless, &mut errors);
        }
        "NodePort" => not_headless(&spec, is_headless, &mut errors),
        "ExternalName" => external_name(&spec, &mut errors),
        _ => {}
    }
    all_ports(&ports, kind.text(), &mut errors);
    errors.extend(metadata::labels(&spec.child("selector")));
    affinity(&spec, &mut errors);
    choice(&kind, TYPES, &mut errors);
    addresses(&spec, &mut errors);
    families(&spec, &mut errors);
    traffic_policies(&spec, &mut errors);
    let balancers = kind.text() == "LoadBalancer";
    for field in ["loadBalancerSourceRanges", "allocateLoadBalancerNodePorts", "loadBalancerClass"]
    {
        let place = spec.child(field);
        if place.is_filled() && !balancers {
            errors.push(place.forbidden("may only be used when `type` is 'LoadBalancer'"));
        }
    }
    errors
}

fn not_headless(spec: &Place<'_>, is_headless: bool, errors: &mut Errors) {
    if is_headless {
        let kind = spec.value["type"].as_str().unwrap_or_default();
        let detail = format!("may not be set to 'None' for {kind} services");
        let addresses = spec.child("clusterIPs");
        for first in addresses.items().take(1) {
            errors.push(first.invalid(&detail));
        }
    }
}

fn external_name(spec: &Place<'_>, errors: &mut Errors) {
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let place = spec.child(field);
        if place.is_filled() {
            errors.push(place.forbidden("may not be set for ExternalName services"));
        }
    }
    let external = spec.child("externalName");
    let text = external.text().strip_suffix('.').unwrap_or(external.text());
    if text.is_empty() {
        errors.push(external.required());
    } else {
        errors.extend(external.complain(name::dns1123_subdomain(text)));
    }
}

fn all_ports(ports: &Place<'_>, kind: &str, errors: &mut Errors) {
    let needs_names = ports.items().count() > 1;
    let mut names: Vec<String> = Vec::new();
    let mut numbers: Vec<(String, i64)> = Vec::new();
    let mut node_ports: Vec<(String, i64)> = Vec::new();
    for port in ports.items() {
        let label = port.child("name");
        if label.text().is_empty() {
            if needs_names {
                errors.push(label.required());
            }
        } else {
            errors.extend(label.complain(name::dns1123_label(label.text())));
            match names.iter().any(|name| name == label.text()) {
                true => errors.push(label.duplicate()),
                false => names.push(label.text().to_owned()),
            }
        }
        let number = port.child("port");
        port_number(&number, errors);
        let protocol = port.child("protocol");
        choice(&protocol, PROTOCOLS, errors);
        port_number_or_name(&port.child("targetPort"), errors);
        let application = port.child("appProtocol");
        if application.is_set() {
            errors.extend(application.complain(name::qualified_name(application.text())));
        }
        let node_port = port.child("nodePort");
        let chosen = node_port.number().unwrap_or(0);
        if chosen != 0 && kind == "ClusterIP" {
            errors.push(node_port.forbidden("may not be used when `type` is 'ClusterIP'"));
        }
        let key = (protocol.text().to_owned(), number.number().unwrap_or(0));
        if numbers.contains(&key) {
            let shown = json!({"protocol": key.0, "port": key.1});
            errors.push(FieldError::duplicate(port, &shown));
        }
        if chosen != 0 {
            let own = (key.0.clone(), chosen);
            match node_ports.contains(&own) {
                true => errors.push(node_port.duplicate()),
                false => node_ports.push(own),
            }
        }
        numbers.push(key);
    }
}

/// A port of TCP or UDP.
pub(super) fn port_number(place: &Place<'_>, errors: &mut Errors) {
    let number = place.number().unwrap_or(0);
    if !(1..=65535).contains(&number) {
        let detail = "must be between 1 and 65535, inclusive";
        errors.push(place.invalid_value(&number.into(), detail));
    }
}

/// A port by number, or by the name that the container gives it.
pub(super) fn port_number_or_name(place: &Place<'_>, errors: &mut Errors) {
    match place.value {
        Value::String(text) => errors.extend(place.complain(name::port_name(text))),
        _ => port_number(place, errors),
    }
}

fn affinity(spec: &Place<'_>, errors: &mut Errors) {
    let affinity = spec.child("sessionAffinity");
    choice(&affinity, &["ClientIP", "None"], errors);
    let config = spec.child("sessionAffinityConfig");
    let client = config.child("clientIP");
    let timeout = client.child("timeoutSeconds");
    match (affinity.text(), timeout.number()) {
        ("ClientIP", None) => {
            errors.push(timeout.required_because("when session affinity type is ClientIP"));
        }
        ("ClientIP", Some(seconds)) if seconds <= 0 || seconds > LONGEST_AFFINITY => {
            errors.push(timeout.invalid("must be greater than 0 and less than 86400"));
        }
        ("None", _) if config.is_set() => {
            errors.push(config.forbidden("must not be set when session affinity is None"));
        }
        _ => {}
    }
}

fn addresses(spec: &Place<'_>, errors: &mut Errors) {
    if spec.value["type"] == "ExternalName" {
        return;
    }
    let one = spec.child("clusterIP");
    let all = spec.child("clusterIPs");
    if one.text().is_empty() {
        if all.is_filled() {
            errors.push(all.invalid("must be empty when `clusterIP` is not specified"));
        }
        return;
    }
    if all.value[0] != *one.value {
        errors.push(one.invalid("clusterIPs[0] must match clusterIP"));
    }
    if all.items().count() > 1 {
        let detail = match all.items().any(|address| address.text() == "None") {
            true => "'None' must be the first and only value",
            false => "may not hold more than one value: this cluster has IPv4 alone",
        };
        errors.push(all.invalid(detail));
        return;
    }
    for place in all.items().filter(|place| place.text() != "None") {
        address(&place, errors);
    }
}

/// The cluster has IPv4 alone.
fn families(spec: &Place<'_>, errors: &mut Errors) {
    for family in spec.child("ipFamilies").items() {
        match family.text() {
            "IPv4" => {}
            "IPv6" => errors.push(family.invalid("not configured on this cluster")),
            _ => errors.push(family.not_supported(&["IPv4", "IPv6"])),
        }
    }
    let policy = spec.child("ipFamilyPolicy");
    match policy.text() {
        "" | "SingleStack" | "PreferDualStack" => {}
        "RequireDualStack" => {
            errors.push(policy.invalid("this cluster is not configured for dual-stack services"));
        }
        _ => errors.push(policy.not_supported(&[
            "PreferDualStack",
            "RequireDualStack",
            "SingleStack",
        ])),
    }
}

fn traffic_policies(spec: &Place<'_>, errors: &mut Errors) {
    let kind = spec.value["type"].as_str().unwrap_or_default();
    let outside = spec.child("externalTrafficPolicy");
    if matches!(kind, "NodePort" | "LoadBalancer") {
        choice(&outside, POLICIES, errors);
    } else if outside.is_filled() {
        let detail = "may only be set for externally-accessible services";
        errors.push(outside.invalid(detail));
    }
    let inside = spec.child("internalTrafficPolicy");
    // Of a type that does not exist nothing is required: one complaint is enough.
    let needs_one = matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer");
    if needs_one || kind != "ExternalName" && inside.is_set() {
        choice(&inside, POLICIES, errors);
    }
    let distribution = spec.child("trafficDistribution");
    if distribution.is_set() {
        choice(&distribution, DISTRIBUTIONS, errors);
    }
}

/// Clients keep a Service's address for as long as it lives.
fn same_primary_address(old: &Value, spec: &Place<'_>, errors: &mut Errors) {
    if old["type"] == "ExternalName" || spec.value["type"] == "ExternalName" {
        return;
    }
    let addresses = spec.child("clusterIPs");
    match (old["clusterIPs"][0].as_str(), addresses.value[0].as_str()) {
        (Some(_), None) => {
            errors.push(addresses.invalid("primary clusterIP can not be unset"));
        }
        (Some(before), Some(after)) if before != after => {
            for first in addresses.items().take(1) {
                errors.push(first.invalid_value(addresses.value, "may not change once set"));
            }
        }
        _ => {}
    }
}
