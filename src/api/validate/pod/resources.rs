//! Requests and limits.
//!
//! It never knows what a node has; a pod that is too large is pending, not invalid.

use super::Errors;
use crate::api::validate::field::FieldError;
use crate::api::validate::name;
use crate::api::validate::place::Place;
use crate::model::quantity::Quantity;

pub(super) fn requirements(resources: &Place<'_>, errors: &mut Errors) {
    let limits = resources.child("limits");
    let requests = resources.child("requests");
    for (resource, place) in limits.entries() {
        resource_name(resource, &place, errors);
        quantity(resource, &place, errors);
    }
    for (resource, place) in requests.entries() {
        resource_name(resource, &place, errors);
        let Some(request) = quantity(resource, &place, errors) else {
            continue;
        };
        let limit = limits.value.get(resource).and_then(|limit| Quantity::from_json(limit).ok());
        let relation = match limit {
            Some(limit) if request != limit && !allows_overcommit(resource) => {
                ("must be equal to", limit)
            }
            Some(limit) if request > limit => ("must be less than or equal to", limit),
            None if !allows_overcommit(resource) => {
                errors.push(
                    limits.required_because("Limit must be set for non overcommitable resources"),
                );
                continue;
            }
            _ => continue,
        };
        let (must, limit) = relation;
        errors.push(requests.invalid_value(
            &request.to_string().into(),
            &format!("{must} {resource} limit of {limit}"),
        ));
    }
    let names = |prefix: &str| {
        let all = limits.entries().chain(requests.entries()).map(|(resource, _)| resource);
        all.filter(|resource| resource.starts_with(prefix)).count()
    };
    if names("hugepages-") > 0 && names("cpu") == 0 && names("memory") == 0 {
        errors.push(resources.forbidden("HugePages require cpu or memory"));
    }
}

fn allows_overcommit(resource: &str) -> bool {
    is_native(resource) && !resource.starts_with("hugepages-")
}

/// Without a domain, or of a `kubernetes.io` one.
fn is_native(resource: &str) -> bool {
    !resource.contains('/') || resource.contains("kubernetes.io/")
}

fn resource_name(resource: &str, place: &Place<'_>, errors: &mut Errors) {
    let refuse = |detail: &str| place.invalid_value(&resource.into(), detail);
    let complaints = name::qualified_name(resource);
    if !complaints.is_empty() {
        errors.extend(complaints.iter().map(|complaint| refuse(complaint)));
    } else if !resource.contains('/') {
        let is_standard = ["cpu", "memory", "ephemeral-storage"].contains(&resource)
            || resource.starts_with("hugepages-");
        // What only claims, quotas and nodes count.
        let is_known = is_standard
            || ["storage", "pods", "services", "configmaps", "secrets"].contains(&resource);
        if !is_known {
            errors.push(refuse("must be a standard resource type or fully qualified"));
        }
        if !is_standard {
            errors.push(refuse("must be a standard resource for containers"));
        }
    } else if !is_native(resource) && resource.starts_with("requests.") {
        errors.push(refuse("doesn't follow extended resource name standard"));
    }
}

/// A readable, non-negative amount; whole for everything but cpu, memory and storage.
pub(in crate::api::validate) fn quantity(
    resource: &str,
    place: &Place<'_>,
    errors: &mut Errors,
) -> Option<Quantity> {
    let quantity = match Quantity::from_json(place.value) {
        Ok(quantity) => quantity,
        Err(error) => {
            errors.push(place.invalid(&error.to_string()));
            return None;
        }
    };
    let refuse = |detail: &str| place.invalid_value(&quantity.to_string().into(), detail);
    if quantity.is_negative() {
        errors.push(refuse("must be greater than or equal to 0"));
    }
    let is_whole =
        ["pods", "services", "configmaps", "secrets"].contains(&resource) || !is_native(resource);
    if is_whole && quantity.milli_value() % 1000 != 0 {
        errors.push(refuse("must be an integer"));
    }
    Some(quantity)
}

pub(super) fn resize_policy(policies: &Place<'_>, restart_policy: &str, errors: &mut Errors) {
    let mut seen: Vec<String> = Vec::new();
    for policy in policies.items() {
        let resource = policy.value["resourceName"].as_str().unwrap_or_default();
        let restart = policy.value["restartPolicy"].as_str().unwrap_or_default();
        if seen.iter().any(|other| other == resource) {
            errors.push(FieldError::duplicate(policy, &resource.into()));
        }
        seen.push(resource.to_owned());
        for (value, supported) in
            [(resource, ["cpu", "memory"]), (restart, ["NotRequired", "RestartContainer"])]
        {
            if value.is_empty() {
                errors.push(policies.required());
            } else if !supported.contains(&value) {
                errors.push(FieldError::not_supported(policies, &value.into(), &supported));
            }
        }
        if restart_policy == "Never" && restart != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(policies.invalid_value(&restart.into(), detail));
        }
    }
}
