//! ReplicaSets and Deployments: selectors against templates, strategies, counts.
//!
//! It never compares a workload with its pods. Source: `pkg/apis/apps/validation`.

use serde_json::Value;

use super::field::FieldError;
use super::place::Place;
use super::rule::{amount, at_most_all, count_or_percent, not_negative};
use super::{metadata, pod, selector};
use crate::model::selector::LabelSelector;

type Errors = Vec<FieldError>;

pub(super) fn create_replica_set(set: &Value) -> Errors {
    let mut errors = metadata::create(set, metadata::rules("replicasets.apps"));
    errors.extend(replica_set(set));
    errors
}

pub(super) fn update_replica_set(old: &Value, new: &Value) -> Errors {
    let mut errors = metadata::update(old, new);
    errors.extend(replica_set(new));
    errors.extend(same_selector(old, new));
    errors
}

pub(super) fn create_deployment(deployment: &Value) -> Errors {
    let mut errors = metadata::create(deployment, metadata::rules("deployments.apps"));
    errors.extend(self::deployment(deployment));
    errors
}

pub(super) fn update_deployment(old: &Value, new: &Value) -> Errors {
    let mut errors = metadata::update(old, new);
    errors.extend(deployment(new));
    errors.extend(same_selector(old, new));
    errors
}

fn replica_set(set: &Value) -> Errors {
    let mut errors = Errors::new();
    let spec = Place::root(set, "spec");
    not_negative(&spec.child("replicas"), &mut errors);
    not_negative(&spec.child("minReadySeconds"), &mut errors);
    selection(&spec, &mut errors);
    errors
}

fn deployment(deployment: &Value) -> Errors {
    let mut errors = Errors::new();
    let spec = Place::root(deployment, "spec");
    not_negative(&spec.child("replicas"), &mut errors);
    selection(&spec, &mut errors);
    strategy(&spec.child("strategy"), &mut errors);
    let settle = spec.child("minReadySeconds");
    not_negative(&settle, &mut errors);
    not_negative(&spec.child("revisionHistoryLimit"), &mut errors);
    let deadline = spec.child("progressDeadlineSeconds");
    not_negative(&deadline, &mut errors);
    if deadline.number().is_some_and(|seconds| seconds <= settle.number().unwrap_or(0)) {
        errors.push(deadline.invalid("must be greater than minReadySeconds"));
    }
    errors
}

/// Selector and template. The workload's own labels may differ from both.
fn selection(spec: &Place<'_>, errors: &mut Errors) {
    let chosen = spec.child("selector");
    if !chosen.is_set() {
        errors.push(chosen.required());
    } else {
        errors.extend(selector::label_selector(&chosen));
        if selector::is_empty(&chosen) {
            errors.push(chosen.invalid("empty selector is invalid for deployment"));
        }
    }
    let Ok(readable) = LabelSelector::from_json(chosen.value) else {
        errors.push(chosen.invalid("invalid label selector"));
        return;
    };
    let template = spec.child("template");
    if !readable.is_everything() {
        let metadata = template.child("metadata");
        let labels = metadata.child("labels");
        if !readable.matches(&labels.map()) {
            let shown = Value::Object(labels.map().cloned().unwrap_or_default());
            let detail = "`selector` does not match template `labels`";
            errors.push(labels.invalid_value(&shown, detail));
        }
    }
    errors.extend(pod::template(&template));
    let pod = template.child("spec");
    let restart = pod.child("restartPolicy");
    if restart.text() != "Always" {
        errors.push(restart.not_supported(&["Always"]));
    }
    let deadline = pod.child("activeDeadlineSeconds");
    if deadline.is_set() {
        errors.push(deadline.forbidden("activeDeadlineSeconds in ReplicaSet is not Supported"));
    }
}

fn strategy(strategy: &Place<'_>, errors: &mut Errors) {
    let rolling = strategy.child("rollingUpdate");
    match strategy.child("type").text() {
        "Recreate" => {
            if rolling.is_set() {
                errors.push(
                    rolling.forbidden("may not be specified when strategy `type` is 'Recreate'"),
                );
            }
        }
        "RollingUpdate" => {
            let unavailable = rolling.child("maxUnavailable");
            let surge = rolling.child("maxSurge");
            count_or_percent(&unavailable, errors);
            count_or_percent(&surge, errors);
            if amount(&unavailable) == 0 && amount(&surge) == 0 {
                errors.push(unavailable.invalid("may not be 0 when `maxSurge` is 0"));
            }
            at_most_all(&unavailable, errors);
        }
        _ => errors.push(strategy.not_supported(&["Recreate", "RollingUpdate"])),
    }
}

fn same_selector(old: &Value, new: &Value) -> Option<FieldError> {
    let spec = Place::root(new, "spec");
    let selector = spec.child("selector");
    (*selector.value != old["spec"]["selector"]).then(|| selector.invalid("field is immutable"))
}

pub(super) fn update_status(old: &Value, new: &Value) -> Errors {
    let mut errors = metadata::update(old, new);
    let status = Place::root(new, "status");
    for field in [
        "replicas",
        "fullyLabeledReplicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "observedGeneration",
        "collisionCount",
    ] {
        not_negative(&status.child(field), &mut errors);
    }
    let count = |field: &str| status.value[field].as_i64().unwrap_or(0);
    for part in ["fullyLabeledReplicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
        if count(part) > count("replicas") {
            errors.push(status.child(part).invalid("cannot be greater than status.replicas"));
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        let available = status.child("availableReplicas");
        errors.push(available.invalid("cannot be greater than readyReplicas"));
    }
    if count("collisionCount") < old["status"]["collisionCount"].as_i64().unwrap_or(0) {
        errors.push(status.child("collisionCount").invalid("cannot be decremented"));
    }
    errors
}
