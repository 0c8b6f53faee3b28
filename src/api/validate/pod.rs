//! Pods: what a spec may say, on its own and inside a workload's template.
//!
//! It never judges whether this version can do what is asked; see [`super::unimplemented`].

mod container;
mod dns;
mod environment;
mod mount;
mod probe;
pub(super) mod resources;
pub(super) mod scheduling;
mod security;
mod status;
mod update;
mod volume;

use serde_json::Value;

use super::field::FieldError;
use super::place::Place;
use super::rule::{choice, not_negative, within};
use super::{metadata, name};

pub(super) use status::update_status;
pub(super) use update::update;

type Errors = Vec<FieldError>;

/// Whose spec it is. Some rules hold only for what really runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Pod,
    Template,
}

/// Errors of a new Pod.
pub(super) fn create(pod: &Value) -> Errors {
    let mut errors = metadata::create(pod, metadata::rules("pods"));
    let spec = Place::root(pod, "spec");
    errors.extend(pod_spec(&spec, Owner::Pod));
    let ephemeral = spec.child("ephemeralContainers");
    if ephemeral.is_filled() {
        errors.push(ephemeral.forbidden("cannot be set on create"));
    }
    if spec.child("nodeName").is_filled() && spec.child("schedulingGates").is_filled() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.push(spec.child("nodeName").forbidden(detail));
    }
    errors
}

/// Errors of the pod template at `template` (`spec.template` of a workload).
pub fn template(template: &Place<'_>) -> Errors {
    let mut errors = metadata::template(&template.child("metadata"));
    let spec = template.child("spec");
    errors.extend(pod_spec(&spec, Owner::Template));
    let ephemeral = spec.child("ephemeralContainers");
    if ephemeral.is_filled() {
        errors.push(ephemeral.forbidden("ephemeral containers not allowed in pod template"));
    }
    errors
}

fn pod_spec(spec: &Place<'_>, owner: Owner) -> Errors {
    let mut errors = Errors::new();
    let grace = spec.child("terminationGracePeriodSeconds");
    if !grace.is_set() {
        errors.push(grace.required());
    }
    let volumes = volume::volumes(&spec.child("volumes"), &mut errors);
    container::containers(spec, &volumes, owner, &mut errors);
    host_network(spec, owner, &mut errors);

    choice(&spec.child("restartPolicy"), &["Always", "OnFailure", "Never"], &mut errors);
    let dns_policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    choice(&spec.child("dnsPolicy"), &dns_policies, &mut errors);
    errors.extend(metadata::labels(&spec.child("nodeSelector")));
    security::pod(spec, &mut errors);
    dns::config(&spec.child("dnsConfig"), spec.child("dnsPolicy").text(), &mut errors);
    for gate in spec.child("readinessGates").items() {
        let kind = gate.child("conditionType");
        errors.extend(kind.complain(name::qualified_name(kind.text())));
    }

    let subdomains = ["serviceAccountName", "nodeName"];
    let labels = ["hostname", "subdomain"];
    filled(spec, &subdomains, name::dns1123_subdomain, &mut errors);
    within(&spec.child("activeDeadlineSeconds"), 1, i64::from(i32::MAX), &mut errors);
    filled(spec, &labels, name::dns1123_label, &mut errors);
    scheduling::tolerations(&spec.child("tolerations"), &mut errors);
    dns::host_aliases(&spec.child("hostAliases"), &mut errors);
    filled(spec, &["priorityClassName", "runtimeClassName"], name::dns1123_subdomain, &mut errors);
    let preemption = spec.child("preemptionPolicy");
    if preemption.is_set() {
        choice(&preemption, &["PreemptLowerPriority", "Never"], &mut errors);
    }
    errors
}

/// With the host's network there is nothing to map a port to but itself.
fn host_network(spec: &Place<'_>, owner: Owner, errors: &mut Errors) {
    if !spec.child("hostNetwork").is_true() {
        return;
    }
    for container in spec.child("containers").items() {
        for port in container.child("ports").items() {
            let host = port.child("hostPort");
            let number = host.number().unwrap_or_default();
            let is_checked = owner == Owner::Pod || number != 0;
            if is_checked && Some(number) != port.child("containerPort").number() {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(host.invalid_value(&number.into(), detail));
            }
        }
    }
}

/// The names at `fields`, where given, must obey `rule`.
fn filled(spec: &Place<'_>, fields: &[&str], rule: metadata::NameRule, errors: &mut Errors) {
    for field in fields {
        let place = spec.child(field);
        if place.is_filled() {
            errors.extend(place.complain(rule(place.text())));
        }
    }
}

#[cfg(test)]
mod tests;
