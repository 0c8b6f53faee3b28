//! Deployments, ReplicaSets, StatefulSets and DaemonSets.
//!
//! It never derives selectors from labels: apps/v1 demands them from the user.

use serde_json::{Map, Value};

use super::{ensure_map, fill, pod};

pub(super) fn deployment(object: &mut Value) {
    let Some(spec) = spec_of(object) else { return };
    fill(spec, "replicas", 1.into());
    if let Some(strategy) = ensure_map(spec, "strategy") {
        rolling(strategy, &[("maxUnavailable", "25%".into()), ("maxSurge", "25%".into())]);
    }
    fill(spec, "revisionHistoryLimit", 10.into());
    fill(spec, "progressDeadlineSeconds", 600.into());
    pod::template(spec);
}

pub(super) fn replica_set(object: &mut Value) {
    let Some(spec) = spec_of(object) else { return };
    fill(spec, "replicas", 1.into());
    pod::template(spec);
}

pub(super) fn stateful_set(object: &mut Value) {
    let Some(spec) = spec_of(object) else { return };
    fill(spec, "replicas", 1.into());
    fill(spec, "podManagementPolicy", "OrderedReady".into());
    if let Some(strategy) = ensure_map(spec, "updateStrategy") {
        rolling(strategy, &[("partition", 0.into())]);
    }
    fill(spec, "revisionHistoryLimit", 10.into());
    if let Some(retention) = ensure_map(spec, "persistentVolumeClaimRetentionPolicy") {
        fill(retention, "whenDeleted", "Retain".into());
        fill(retention, "whenScaled", "Retain".into());
    }
    pod::template(spec);
}

pub(super) fn daemon_set(object: &mut Value) {
    let Some(spec) = spec_of(object) else { return };
    if let Some(strategy) = ensure_map(spec, "updateStrategy") {
        rolling(strategy, &[("maxUnavailable", 1.into()), ("maxSurge", 0.into())]);
    }
    fill(spec, "revisionHistoryLimit", 10.into());
    pod::template(spec);
}

fn spec_of(object: &mut Value) -> Option<&mut Map<String, Value>> {
    ensure_map(object.as_object_mut()?, "spec")
}

fn rolling(strategy: &mut Map<String, Value>, defaults: &[(&str, Value)]) {
    fill(strategy, "type", "RollingUpdate".into());
    if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate")
        && let Some(parameters) = ensure_map(strategy, "rollingUpdate")
    {
        for (key, value) in defaults {
            fill(parameters, key, value.clone());
        }
    }
}
