//! Probes and lifecycle hooks: handlers and their numbers.
//!
//! It never runs one.

use super::{Errors, not_negative, within};
use crate::api::validate::name;
use crate::api::validate::place::Place;

pub(super) fn lifecycle_and_probes(container: &Place<'_>, grace: Option<i64>, errors: &mut Errors) {
    let lifecycle = container.child("lifecycle");
    for hook in ["postStart", "preStop"] {
        let hook = lifecycle.child(hook);
        if hook.is_set() {
            handler(&hook, &["exec", "httpGet", "tcpSocket", "sleep"], grace, errors);
        }
    }
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let place = container.child(kind);
        if place.is_set() {
            probe(&place, grace, errors);
            let own_grace = place.child("terminationGracePeriodSeconds");
            let successes = place.child("successThreshold");
            if kind != "readinessProbe" && successes.number() != Some(1) {
                errors.push(successes.invalid("must be 1"));
            } else if kind == "readinessProbe" && own_grace.is_set() {
                errors.push(own_grace.invalid("must not be set for readinessProbes"));
            }
        }
    }
}

fn probe(probe: &Place<'_>, grace: Option<i64>, errors: &mut Errors) {
    handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], grace, errors);
    let numbers = [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ];
    for field in numbers {
        not_negative(&probe.child(field), errors);
    }
    let own_grace = probe.child("terminationGracePeriodSeconds");
    if own_grace.number().is_some_and(|seconds| seconds <= 0) {
        errors.push(own_grace.invalid("must be greater than 0"));
    }
}

/// Exactly one of `kinds`.
fn handler(handler: &Place<'_>, kinds: &[&str], grace: Option<i64>, errors: &mut Errors) {
    let mut has_one = false;
    for kind in kinds {
        let place = handler.child(kind);
        if !place.is_set() {
            continue;
        }
        if has_one {
            errors.push(place.forbidden("may not specify more than 1 handler type"));
            continue;
        }
        has_one = true;
        match *kind {
            "exec" => {
                let command = place.child("command");
                if !command.is_filled() {
                    errors.push(command.required());
                }
            }
            "httpGet" => http_get(&place, errors),
            "tcpSocket" => port(&place.child("port"), errors),
            "grpc" => within(&place.child("port"), 1, 65535, errors),
            _ => sleep(&place, grace, errors),
        }
    }
    if !has_one {
        errors.push(handler.required_because("must specify a handler type"));
    }
}

fn http_get(http: &Place<'_>, errors: &mut Errors) {
    let path = http.child("path");
    if !path.is_filled() {
        errors.push(path.required());
    }
    port(&http.child("port"), errors);
    let scheme = http.child("scheme");
    if !["HTTP", "HTTPS"].contains(&scheme.text()) {
        errors.push(scheme.not_supported(&["HTTP", "HTTPS"]));
    }
    let headers = http.child("httpHeaders");
    for header in headers.items() {
        let own = header.child("name");
        for complaint in name::http_header(own.text()) {
            errors.push(headers.invalid_value(&own.text().into(), &complaint));
        }
    }
}

fn port(port: &Place<'_>, errors: &mut Errors) {
    match port.number() {
        Some(_) => within(port, 1, 65535, errors),
        // Left out is port 0 in Kubernetes.
        None if !port.is_set() => {
            errors.push(port.invalid_value(&0.into(), "must be between 1 and 65535, inclusive"));
        }
        None => errors.extend(port.complain(name::port_name(port.text()))),
    }
}

fn sleep(sleep: &Place<'_>, grace: Option<i64>, errors: &mut Errors) {
    let seconds = sleep.value["seconds"].as_i64().unwrap_or_default();
    if let Some(grace) = grace
        && !(0..=grace).contains(&seconds)
    {
        errors.push(sleep.invalid_value(
            &seconds.into(),
            &format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})"),
        ));
    }
}
