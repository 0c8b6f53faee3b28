//! What Kubernetes refuses, in its own words, by resource; and what this version does not do yet.
//!
//! It never changes an object and never looks at other objects; defaulting ran before.
//! Sentences follow `pkg/apis/*/validation` and apimachinery of Kubernetes 1.36.

mod address;
mod autoscaler;
mod config;
mod endpoints;
mod event;
pub mod field;
pub mod ingress;
mod lease;
pub mod metadata;
pub mod name;
mod namespace;
mod network_policy;
mod node;
pub mod place;
pub mod pod;
mod rule;
pub mod scale;
mod selector;
mod service;
mod unimplemented;
mod workload;

use serde_json::Value;

pub use field::{FieldError, Reason};

/// Errors of a new object. Empty means valid.
pub fn create(resource: &str, object: &Value) -> Vec<FieldError> {
    let mut errors = match resource {
        "pods" => pod::create(object),
        "configmaps" => config::create_config_map(object),
        "secrets" => config::create_secret(object),
        "namespaces" => namespace::create(object),
        "nodes" => node::create(object),
        "events" | "events.events.k8s.io" => event::create(resource, object),
        "leases.coordination.k8s.io" => lease::create(object),
        "deployments.apps" => workload::create_deployment(object),
        "replicasets.apps" => workload::create_replica_set(object),
        "services" => service::create(object),
        "endpoints" => endpoints::create(object),
        "endpointslices.discovery.k8s.io" => endpoints::create_slice(object),
        "networkpolicies.networking.k8s.io" => network_policy::create(object),
        "ingresses.networking.k8s.io" => ingress::create(object),
        "ingressclasses.networking.k8s.io" => ingress::create_class(object),
        "horizontalpodautoscalers.autoscaling" => autoscaler::create(object),
        // ServiceAccounts have no other rules.
        _ => metadata::create(object, metadata::rules(resource)),
    };
    refuse_unimplemented(resource, object, &mut errors);
    once_each(errors)
}

/// Errors of replacing `old` by `new` on the main endpoint.
pub fn update(resource: &str, old: &Value, new: &Value) -> Vec<FieldError> {
    let mut errors = match resource {
        "pods" => pod::update(old, new),
        "configmaps" => config::update_config_map(old, new),
        "secrets" => config::update_secret(old, new),
        "nodes" => node::update(old, new),
        "events" | "events.events.k8s.io" => event::update(resource, old, new),
        "leases.coordination.k8s.io" => lease::update(old, new),
        "deployments.apps" => workload::update_deployment(old, new),
        "replicasets.apps" => workload::update_replica_set(old, new),
        "services" => service::update(old, new),
        "endpoints" => endpoints::update(old, new),
        "endpointslices.discovery.k8s.io" => endpoints::update_slice(old, new),
        "networkpolicies.networking.k8s.io" => network_policy::update(old, new),
        "ingresses.networking.k8s.io" => ingress::update(old, new),
        "ingressclasses.networking.k8s.io" => ingress::update_class(old, new),
        "horizontalpodautoscalers.autoscaling" => autoscaler::update(old, new),
        // Namespaces and ServiceAccounts have no other rules; nor is the finalize endpoint judged otherwise.
        "namespaces" => namespace::update(old, new),
        _ => metadata::update(old, new),
    };
    refuse_unimplemented(resource, new, &mut errors);
    once_each(errors)
}

/// Errors of replacing `old` by `new` on the status endpoint.
pub fn update_status(resource: &str, old: &Value, new: &Value) -> Vec<FieldError> {
    once_each(match resource {
        "pods" => pod::update_status(old, new),
        "namespaces" => namespace::update_status(old, new),
        "nodes" => node::update_status(old, new),
        "deployments.apps" | "replicasets.apps" => workload::update_status(old, new),
        "services" => service::update_status(old, new),
        "ingresses.networking.k8s.io" => ingress::update_status(old, new),
        _ => metadata::update(old, new),
    })
}

/// A field that is wrong is told so first; that it would not work either helps nobody.
fn refuse_unimplemented(resource: &str, object: &Value, errors: &mut Vec<FieldError>) {
    for refusal in unimplemented::refusals(resource, object) {
        if !errors.iter().any(|error| error.field == refusal.field) {
            errors.push(refusal);
        }
    }
}

/// Several rules may find the same fault.
fn once_each(errors: Vec<FieldError>) -> Vec<FieldError> {
    let mut told: Vec<FieldError> = Vec::with_capacity(errors.len());
    for error in errors {
        if !told.contains(&error) {
            told.push(error);
        }
    }
    told
}

#[cfg(test)]
mod tests;
