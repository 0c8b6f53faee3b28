//! What a status update may claim about a pod.
//!
//! It never judges the spec: the status endpoint does not take one.

use serde_json::Value;

use super::{Errors, dns, not_negative};
use crate::api::validate::field::FieldError;
use crate::api::validate::place::Place;
use crate::api::validate::{metadata, name};

/// Errors of replacing `old` by `new` on the status endpoint.
pub(in crate::api::validate) fn update_status(old: &Value, new: &Value) -> Errors {
    let mut errors = metadata::update(old, new);
    let status = Place::root(new, "status");
    let before = &old["status"];

    for condition in status.child("conditions").items() {
        let generation = condition.child("observedGeneration");
        if generation.number().is_some_and(|n| n < 0) {
            errors.push(generation.invalid("must be a non-negative integer"));
        }
        // Kubernetes blames the Go name of the field.
        let kind = condition.blame("Type", &condition.value["type"]);
        errors.extend(kind.complain(name::qualified_name(kind.text())));
    }
    let nominated = status.child("nominatedNodeName");
    if nominated.is_filled() && *nominated.value != before["nominatedNodeName"] {
        errors.extend(nominated.complain(name::dns1123_subdomain(nominated.text())));
    }
    not_negative(&status.child("observedGeneration"), &mut errors);
    let class = status.child("qosClass");
    if class.is_set() && !before["qosClass"].is_null() && *class.value != before["qosClass"] {
        errors.push(class.invalid("field is immutable"));
    }

    let policy = old["spec"]["restartPolicy"].as_str().unwrap_or_default();
    for list in ["containerStatuses", "initContainerStatuses"] {
        terminated_stay(&status.child(list), &before[list], policy, &old["spec"], &mut errors);
    }
    let ephemeral = "ephemeralContainerStatuses";
    terminated_stay(
        &status.child(ephemeral),
        &before[ephemeral],
        "Never",
        &old["spec"],
        &mut errors,
    );
    addresses(&status, &mut errors);
    errors
}

/// A container that will not be restarted stays terminated.
fn terminated_stay(new: &Place<'_>, old: &Value, policy: &str, spec: &Value, errors: &mut Errors) {
    if policy == "Always" {
        return;
    }
    for (i, old) in old.as_array().into_iter().flatten().enumerate() {
        let terminated = &old["state"]["terminated"];
        let may_restart = policy == "OnFailure" && terminated["exitCode"] != 0;
        let sidecars = spec["initContainers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_sidecar =
            sidecars.iter().any(|c| c["name"] == old["name"] && c["restartPolicy"] == "Always");
        if terminated.is_null() || may_restart || is_sidecar {
            continue;
        }
        let is_revived = |status: &Place<'_>| {
            status.value["name"] == old["name"] && status.value["state"]["terminated"].is_null()
        };
        if new.items().any(|status| is_revived(&status)) {
            // Kubernetes counts in the old list.
            let field = format!("{new}[{i}].state");
            let detail = "may not be transitioned to non-terminated state";
            errors.push(FieldError::forbidden(field, detail));
        }
    }
}

fn addresses(status: &Place<'_>, errors: &mut Errors) {
    for list in ["podIPs", "hostIPs"] {
        for entry in status.child(list).items() {
            let place = entry.holding(&entry.value["ip"]);
            dns::address(&place, errors);
        }
    }
    let first = &status.value["hostIPs"][0]["ip"];
    if !first.is_null() && *first != status.value["hostIP"] {
        let field = format!("{status}.hostIPs[0].ip");
        errors.push(FieldError::invalid(field, first, "must be equal to `hostIP`"));
    }
}
