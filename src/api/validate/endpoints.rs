//! Endpoints and EndpointSlices: addresses that nobody may be sent astray with, and ports.
//!
//! It never compares them with pods. Source: `ValidateEndpoints` of `pkg/apis/core/validation`,
//! `pkg/apis/discovery/validation`.

use std::net::IpAddr;

use serde_json::Value;

use super::address::{address, endpoint};
use super::field::FieldError;
use super::place::Place;
use super::rule::choice;
use super::service::port_number;
use super::{metadata, name};

type Errors = Vec<FieldError>;

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const MOST_ENDPOINTS: usize = 1000;
const MOST_ADDRESSES: usize = 100;
const MOST_PORTS: usize = 20000;

pub(super) fn create(endpoints: &Value) -> Errors {
    let mut errors = metadata::create(endpoints, metadata::rules("endpoints"));
    errors.extend(subsets(endpoints));
    errors
}

pub(super) fn update(old: &Value, new: &Value) -> Errors {
    let mut errors = metadata::update(old, new);
    errors.extend(subsets(new));
    errors
}

pub(super) fn create_slice(slice: &Value) -> Errors {
    let rules = metadata::rules("endpointslices.discovery.k8s.io");
    let mut errors = metadata::create(slice, rules);
    errors.extend(self::slice(slice));
    errors
}

pub(super) fn update_slice(old: &Value, new: &Value) -> Errors {
    let mut errors = metadata::update(old, new);
    let kind = Place::root(new, "addressType");
    if *kind.value != old["addressType"] {
        errors.push(kind.invalid("field is immutable"));
    }
    errors.extend(slice(new));
    errors
}

fn subsets(endpoints: &Value) -> Errors {
    let mut errors = Errors::new();
    for subset in Place::root(endpoints, "subsets").items() {
        let ready = subset.child("addresses");
        let unready = subset.child("notReadyAddresses");
        if !ready.is_filled() && !unready.is_filled() {
            let detail = "must specify `addresses` or `notReadyAddresses`";
            errors.push(subset.required_because(detail));
        }
        for entry in ready.items().chain(unready.items()) {
            endpoint(&entry.child("ip"), &mut errors);
            host_name(&entry, &mut errors);
        }
        let ports = subset.child("ports");
        let needs_names = ports.items().count() > 1;
        for port in ports.items() {
            let label = port.child("name");
            if !label.text().is_empty() {
                errors.extend(label.complain(name::dns1123_label(label.text())));
            } else if needs_names {
                errors.push(label.required());
            }
            port_number(&port.child("port"), &mut errors);
            common_port(&port, &mut errors);
        }
    }
    errors
}

fn slice(slice: &Value) -> Errors {
    let mut errors = Errors::new();
    let kind = Place::root(slice, "addressType");
    choice(&kind, &["FQDN", "IPv4", "IPv6"], &mut errors);
    let endpoints = Place::root(slice, "endpoints");
    let count = endpoints.items().count();
    if count > MOST_ENDPOINTS {
        errors.push(FieldError::too_many(endpoints, count, MOST_ENDPOINTS));
        return errors;
    }
    for entry in endpoints.items() {
        let addresses = entry.child("addresses");
        let count = addresses.items().count();
        if count == 0 {
            errors.push(addresses.required_because("must contain at least 1 address"));
        } else if count > MOST_ADDRESSES {
            errors.push(FieldError::too_many(addresses, count, MOST_ADDRESSES));
        }
        for place in addresses.items() {
            slice_address(&place, kind.text(), &mut errors);
        }
        host_name(&entry, &mut errors);
    }
    let ports = Place::root(slice, "ports");
    let count = ports.items().count();
    if count > MOST_PORTS {
        errors.push(FieldError::too_many(ports, count, MOST_PORTS));
        return errors;
    }
    let mut names: Vec<String> = Vec::new();
    for port in ports.items() {
        let label = port.child("name");
        if !label.text().is_empty() {
            errors.extend(label.complain(name::dns1123_label(label.text())));
        }
        match names.iter().any(|name| name == label.text()) {
            true => errors.push(label.duplicate()),
            false => names.push(label.text().to_owned()),
        }
        let number = port.child("port");
        if number.is_set() {
            port_number(&number, &mut errors);
        }
        common_port(&port, &mut errors);
    }
    errors
}

fn slice_address(place: &Place<'_>, kind: &str, errors: &mut Errors) {
    match kind {
        "IPv4" | "IPv6" => {
            let is_right = match endpoint(place, errors) {
                None => return,
                Some(IpAddr::V4(_)) => kind == "IPv4",
                Some(IpAddr::V6(_)) => kind == "IPv6",
            };
            if !is_right {
                errors.push(place.invalid(&format!("must be an {kind} address")));
            }
        }
        _ => {
            // A name that is a number is an address in disguise.
            let text = place.text().strip_suffix('.').unwrap_or(place.text());
            if text.parse::<IpAddr>().is_ok() {
                address(place, errors);
                errors.push(place.invalid("must be a fully qualified domain name"));
            } else {
                errors.extend(place.complain(name::dns1123_subdomain(text)));
            }
        }
    }
}

fn host_name(entry: &Place<'_>, errors: &mut Errors) {
    let host = entry.child("hostname");
    if host.is_filled() {
        errors.extend(host.complain(name::dns1123_label(host.text())));
    }
    let node = entry.child("nodeName");
    if node.is_filled() {
        errors.extend(node.complain(name::dns1123_subdomain(node.text())));
    }
}

fn common_port(port: &Place<'_>, errors: &mut Errors) {
    choice(&port.child("protocol"), PROTOCOLS, errors);
    let application = port.child("appProtocol");
    if application.is_set() {
        errors.extend(application.complain(name::qualified_name(application.text())));
    }
}
