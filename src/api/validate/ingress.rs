//! Ingresses and their classes: hosts, paths, backends, certificates.
//!
//! It never matches a request. Source: `pkg/apis/networking/validation`.

use std::net::IpAddr;

use serde_json::Value;

use super::field::FieldError;
use super::place::Place;
use super::service::{load_balancer, port_number};
use super::{metadata, name};

type Errors = Vec<FieldError>;

const INGRESSES: &str = "ingresses.networking.k8s.io";
const CLASSES: &str = "ingressclasses.networking.k8s.io";
/// What named the class before there was a field.
pub const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
/// Of `controller`, in bytes.
const LONGEST_CONTROLLER: usize = 250;

pub(super) fn create(ingress: &Value) -> Errors {
    let mut errors = metadata::create(ingress, metadata::rules(INGRESSES));
    let by_annotation = &ingress["metadata"]["annotations"][CLASS_ANNOTATION];
    if !by_annotation.is_null() && !ingress["spec"]["ingressClassName"].is_null() {
        let metadata = Place::root(ingress, "metadata");
        let annotations = metadata.child("annotations");
        errors.push(
            annotations
                .child(CLASS_ANNOTATION)
                .invalid("can not be set when the class field is also set"),
        );
    }
    errors.extend(spec(ingress));
    errors
}

pub(super) fn update(old: &Value, new: &Value) -> Errors {
    let mut errors = metadata::update(old, new);
    errors.extend(spec(new));
    errors
}

pub(super) fn update_status(old: &Value, new: &Value) -> Errors {
    let mut errors = metadata::update(old, new);
    let status = Place::root(new, "status");
    load_balancer(&status.child("loadBalancer").child("ingress"), &mut errors);
    errors
}

pub(super) fn create_class(class: &Value) -> Errors {
    let mut errors = metadata::create(class, metadata::rules(CLASSES));
    errors.extend(self::class(class));
    errors
}

pub(super) fn update_class(old: &Value, new: &Value) -> Errors {
    let mut errors = metadata::update(old, new);
    let spec = Place::root(new, "spec");
    let controller = spec.child("controller");
    if *controller.value != old["spec"]["controller"] {
        errors.push(controller.invalid("field is immutable"));
    }
    errors.extend(class(new));
    errors
}

fn spec(ingress: &Value) -> Errors {
    let mut errors = Errors::new();
    let spec = Place::root(ingress, "spec");
    let rules = spec.child("rules");
    let default = spec.child("defaultBackend");
    if !rules.is_filled() && !default.is_set() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.push(spec.invalid_value(&Value::Array(Vec::new()), detail));
    }
    if default.is_set() {
        backend(&default, &mut errors);
    }
    for rule in rules.items() {
        let host = rule.child("host");
        if host.is_filled() {
            if host.text().parse::<IpAddr>().is_ok() {
                errors.push(host.invalid("must be a DNS name, not an IP address"));
            }
            self::host(&host, &mut errors);
        }
        let http = rule.child("http");
        let paths = http.child("paths");
        if http.is_set() && !paths.is_filled() {
            errors.push(paths.required());
        }
        for path in paths.items() {
            self::path(&path, &mut errors);
        }
    }
    for tls in spec.child("tls").items() {
        tls.child("hosts").items().for_each(|host| self::host(&host, &mut errors));
        let secret = tls.child("secretName");
        if secret.is_filled() {
            errors.extend(secret.complain(name::dns1123_subdomain(secret.text())));
        }
    }
    let class = spec.child("ingressClassName");
    if class.is_set() {
        errors.extend(class.complain(name::dns1123_subdomain(class.text())));
    }
    errors
}

fn host(host: &Place<'_>, errors: &mut Errors) {
    let complaints = match host.text().strip_prefix("*.") {
        Some(rest) => name::dns1123_subdomain(rest)
            .into_iter()
            .map(|_| {
                "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')".to_owned()
            })
            .take(1)
            .collect(),
        None => name::dns1123_subdomain(host.text()),
    };
    errors.extend(host.complain(complaints));
}

fn path(entry: &Place<'_>, errors: &mut Errors) {
    let kind = entry.child("pathType");
    let path = entry.child("path");
    match kind.text() {
        "" => errors.push(kind.required_because("pathType must be specified")),
        "Exact" | "Prefix" => {
            let shown = Value::from(path.text());
            if !path.text().starts_with('/') {
                errors.push(path.invalid_value(&shown, "must be an absolute path"));
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"] {
                if path.text().contains(part) {
                    errors.push(path.invalid(&format!("must not contain '{part}'")));
                }
            }
            for end in ["/..", "/."] {
                if path.text().ends_with(end) {
                    errors.push(path.invalid(&format!("cannot end with '{end}'")));
                }
            }
        }
        "ImplementationSpecific" => {
            if path.is_filled() && !path.text().starts_with('/') {
                errors.push(path.invalid("must be an absolute path"));
            }
        }
        _ => errors.push(kind.not_supported(&["Exact", "ImplementationSpecific", "Prefix"])),
    }
    backend(&entry.child("backend"), errors);
}

fn backend(backend: &Place<'_>, errors: &mut Errors) {
    let empty = Value::from("");
    let service = backend.child("service");
    match (service.is_set(), backend.child("resource").is_set()) {
        (true, true) => {
            let detail = "cannot set both resource and service backends";
            errors.push(backend.invalid_value(&empty, detail));
        }
        (false, false) => {
            let detail = "resource or service backend is required";
            errors.push(backend.required_because(detail));
        }
        // What this version cannot reach is refused elsewhere.
        (false, true) => {}
        (true, false) => {
            let called = service.child("name");
            match called.text() {
                "" => errors.push(called.required()),
                text => errors.extend(called.complain(name::dns1035_label(text))),
            }
            let port = service.child("port");
            let by_name = port.child("name");
            let number = port.child("number");
            match (by_name.is_filled(), number.number().unwrap_or(0) != 0) {
                (true, true) => {
                    let detail = "cannot set both port name & port number";
                    errors.push(backend.invalid_value(&empty, detail));
                }
                (true, false) => {
                    errors.extend(by_name.complain(name::port_name(by_name.text())));
                }
                (false, true) => port_number(&number, errors),
                (false, false) => {
                    errors.push(backend.required_because("port name or number is required"));
                }
            }
        }
    }
}

fn class(class: &Value) -> Errors {
    let mut errors = Errors::new();
    let spec = Place::root(class, "spec");
    let controller = spec.child("controller");
    if controller.text().is_empty() {
        errors.push(controller.required());
    } else if controller.text().len() > LONGEST_CONTROLLER {
        errors.push(FieldError::too_long(controller, LONGEST_CONTROLLER));
    } else if !is_domain_prefixed(controller.text()) {
        errors.push(controller.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")"));
    }
    let parameters = spec.child("parameters");
    if parameters.is_set() {
        for field in ["kind", "name"] {
            let place = parameters.child(field);
            if place.text().is_empty() {
                errors.push(place.required_because(&format!("{field} is required")));
            }
        }
    }
    errors
}

fn is_domain_prefixed(text: &str) -> bool {
    text.split_once('/').is_some_and(|(domain, path)| {
        let is_path =
            path.bytes().all(|c| c.is_ascii_alphanumeric() || b"/:@!$&'()*+,;=-._~%".contains(&c));
        name::dns1123_subdomain(domain).is_empty() && !path.is_empty() && is_path
    })
}
