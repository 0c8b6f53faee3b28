//! Jobs and CronJobs.
//!
//! It never makes the selector of a Job: that needs its uid; see `api::admit`.

use serde_json::{Map, Value};

use super::{ensure_map, fill, is_unset, map_in, pod};

pub(super) fn job(object: &mut Value) {
    if let Some(object) = object.as_object_mut()
        && let Some(spec) = ensure_map(object, "spec")
    {
        job_spec(spec);
    }
}

pub(super) fn cron_job(object: &mut Value) {
    let Some(object) = object.as_object_mut() else {
        return;
    };
    let Some(spec) = ensure_map(object, "spec") else {
        return;
    };
    fill(spec, "concurrencyPolicy", "Allow".into());
    fill(spec, "suspend", false.into());
    fill(spec, "successfulJobsHistoryLimit", 3.into());
    fill(spec, "failedJobsHistoryLimit", 1.into());
    // The Job's own defaults come when it is made; only its pod template is completed here.
    if let Some(template) = map_in(spec, "jobTemplate")
        && let Some(spec) = map_in(template, "spec")
    {
        pod::template(spec);
    }
}

fn job_spec(spec: &mut Map<String, Value>) {
    if is_unset(spec.get("completions")) && is_unset(spec.get("parallelism")) {
        fill(spec, "completions", 1.into());
    }
    fill(spec, "parallelism", 1.into());
    let is_indexed_limit = !is_unset(spec.get("backoffLimitPerIndex"));
    fill(spec, "backoffLimit", if is_indexed_limit { i32::MAX.into() } else { 6.into() });
    fill(spec, "completionMode", "NonIndexed".into());
    fill(spec, "suspend", false.into());
    let replacement =
        if is_unset(spec.get("podFailurePolicy")) { "TerminatingOrFailed" } else { "Failed" };
    fill(spec, "podReplacementPolicy", replacement.into());
    fill(spec, "manualSelector", false.into());
    pod::template(spec);
}
