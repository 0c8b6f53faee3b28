//! What a Deployment says of itself: counts, and the conditions on which `kubectl rollout status` and
//! `kubectl wait` hang.
//!
//! Pure. The reasons are Kubernetes' own, for tools compare them.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::json;

use super::{View, deadline, revision, wanted};
use crate::model::time::Timestamp;
use crate::reconcile::decide::{Decision, Write};

const AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// Puts the status into the decision, if it is not as it is already.
pub fn report(view: &View<'_>, decision: &mut Decision, now: Timestamp) {
    let held = view.deployment.status.clone().unwrap_or_default();
    let mut next = counts(view, &held);
    let mut conditions = Conditions { list: held.conditions.clone().unwrap_or_default(), now };
    availability(view, &next, &mut conditions);
    pause(view, &mut conditions);
    let wakes = progress(view, &held, &next, decision, &mut conditions);
    failure(view, &mut conditions);
    next.conditions = Some(conditions.list).filter(|list| !list.is_empty());
    if next != held {
        decision.status = Some(json!(next));
    }
    if let Some(newest) = view.newest {
        let number = revision::of(newest);
        let text = number.to_string();
        // A set that is used again gets its new revision first.
        if number == view.revision()
            && view.deployment.annotations().get(revision::REVISION) != Some(&text)
        {
            decision.annotations.insert(revision::REVISION.into(), text);
            decision.status.get_or_insert_with(|| json!(held));
        }
    }
    if let Some(span) = wakes {
        decision.wake_within(span);
    }
}

/// All replicas are of the newest template and available, and none is left of the others.
pub fn is_complete(view: &View<'_>, status: &DeploymentStatus) -> bool {
    let desired = view.limits.desired;
    status.updated_replicas.unwrap_or(0) == desired
        && status.replicas.unwrap_or(0) == desired
        && status.available_replicas.unwrap_or(0) == desired
        && status.observed_generation >= view.deployment.metadata.generation
}

fn counts(view: &View<'_>, held: &DeploymentStatus) -> DeploymentStatus {
    let sum = |count: fn(&ReplicaSet) -> i32| view.all().map(count).sum::<i32>();
    let positive = |number: i32| Some(number).filter(|number| *number > 0);
    let available = sum(|set| status(set, |s| s.available_replicas));
    DeploymentStatus {
        observed_generation: view.deployment.metadata.generation,
        replicas: positive(sum(held_by)),
        updated_replicas: positive(view.newest.map_or(0, held_by)),
        ready_replicas: positive(sum(|set| status(set, |s| s.ready_replicas))),
        available_replicas: positive(available),
        unavailable_replicas: positive(sum(wanted) - available),
        terminating_replicas: positive(sum(|set| status(set, |s| s.terminating_replicas))),
        collision_count: held.collision_count,
        conditions: None,
    }
}

fn held_by(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

fn status(
    set: &ReplicaSet,
    count: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> Option<i32>,
) -> i32 {
    set.status.as_ref().and_then(count).unwrap_or(0)
}

fn availability(view: &View<'_>, next: &DeploymentStatus, conditions: &mut Conditions) {
    // With Recreate nothing is promised; the limits then demand everything.
    match next.available_replicas.unwrap_or(0) >= view.limits.least_available() {
        true => conditions.set(
            "Available",
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        ),
        false => conditions.set(
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        ),
    }
}

/// A pause, and its end, start the deadline anew. A rollout that has timed out stays so.
fn pause(view: &View<'_>, conditions: &mut Conditions) {
    if deadline(view.spec).is_none() {
        return;
    }
    let reason = conditions.reason("Progressing");
    match (view.is_paused(), reason) {
        (_, Some(TIMED_OUT)) | (true, Some(PAUSED)) => {}
        (true, _) => conditions.set("Progressing", "Unknown", PAUSED, "Deployment is paused"),
        (false, Some(PAUSED)) => {
            conditions.set("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed");
        }
        (false, _) => {}
    }
}

/// The condition `Progressing`; returns when the deadline will have passed.
fn progress(
    view: &View<'_>,
    held: &DeploymentStatus,
    next: &DeploymentStatus,
    decision: &Decision,
    conditions: &mut Conditions,
) -> Option<Duration> {
    let Some(deadline) = deadline(view.spec) else {
        conditions.list.retain(|condition| condition.type_ != "Progressing");
        return None;
    };
    let name = view.newest_name();
    let creates =
        decision.changes.iter().any(|intent| matches!(intent.write, Write::Create { .. }));
    if let Some(failure) = &view.world.failure
        && failure.reason == "ReplicaSetCreateError"
    {
        let message = format!("Failed to create new replica set \"{name}\": {}", failure.message);
        conditions.set("Progressing", "False", "ReplicaSetCreateError", &message);
        return None;
    }
    if creates {
        let message = format!("Created new replica set \"{name}\"");
        conditions.set("Progressing", "True", "NewReplicaSetCreated", &message);
        return Some(deadline);
    }
    let reason = conditions.reason("Progressing").map(str::to_owned);
    if reason.is_none() && view.newest.is_some() {
        let message = format!("Found new replica set \"{name}\"");
        conditions.set("Progressing", "True", "FoundNewReplicaSet", &message);
    }
    if view.is_paused() {
        return None;
    }
    let was_complete =
        next.replicas == next.updated_replicas && reason.as_deref() == Some(AVAILABLE);
    if was_complete {
        return None;
    }
    let subject = match view.newest {
        Some(_) => format!("ReplicaSet \"{name}\""),
        None => format!("Deployment \"{}\"", view.deployment.name_any()),
    };
    if is_complete(view, next) {
        let message = format!("{subject} has successfully progressed.");
        conditions.set("Progressing", "True", AVAILABLE, &message);
        return None;
    }
    if has_moved(held, next) {
        conditions.renew("ReplicaSetUpdated", &format!("{subject} is progressing."));
        return Some(deadline);
    }
    let progressing = conditions.get("Progressing")?;
    if matches!(progressing.reason.as_deref(), Some(AVAILABLE | TIMED_OUT)) {
        // Complete once, and something has broken since: that is no rollout.
        return None;
    }
    let since = progressing.last_update_time.as_ref().map(|time| Timestamp::from(time.0))?;
    let left = deadline.saturating_sub(conditions.now.since(since));
    if !left.is_zero() {
        // Times are kept in whole seconds.
        return Some(left + Duration::from_secs(1));
    }
    let message = format!("{subject} has timed out progressing.");
    conditions.set("Progressing", "False", TIMED_OUT, &message);
    None
}

fn has_moved(held: &DeploymentStatus, next: &DeploymentStatus) -> bool {
    let number = |value: Option<i32>| value.unwrap_or(0);
    let old = |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    number(next.updated_replicas) > number(held.updated_replicas)
        || old(next) < old(held)
        || number(next.ready_replicas) > number(held.ready_replicas)
        || number(next.available_replicas) > number(held.available_replicas)
}

/// What the sets complain of, the newest first.
fn failure(view: &View<'_>, conditions: &mut Conditions) {
    let complaint = view.newest.into_iter().chain(view.old.iter().copied()).find_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|c| c.type_ == "ReplicaFailure" && c.status == "True")
    });
    match complaint {
        Some(complaint) => conditions.set(
            "ReplicaFailure",
            "True",
            complaint.reason.as_deref().unwrap_or_default(),
            complaint.message.as_deref().unwrap_or_default(),
        ),
        None => conditions.list.retain(|condition| condition.type_ != "ReplicaFailure"),
    }
}

struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    fn get(&self, name: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|condition| condition.type_ == name)
    }

    fn reason(&self, name: &str) -> Option<&str> {
        self.get(name)?.reason.as_deref()
    }

    /// Sets a condition; one that says the same already keeps its times and words.
    fn set(&mut self, name: &str, status: &str, reason: &str, message: &str) {
        let held = self.get(name);
        if held.is_some_and(|held| held.status == status && held.reason.as_deref() == Some(reason))
        {
            return;
        }
        self.put(name, status, reason, message);
    }

    /// `Progressing` is true, and has been heard of now.
    fn renew(&mut self, reason: &str, message: &str) {
        self.put("Progressing", "True", reason, message);
    }

    fn put(&mut self, name: &str, status: &str, reason: &str, message: &str) {
        let now = Time(self.now.whole_seconds().as_jiff());
        let since = self.get(name).filter(|held| held.status == status);
        let since = since.and_then(|held| held.last_transition_time.clone());
        let condition = DeploymentCondition {
            type_: name.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
            last_update_time: Some(now),
        };
        match self.list.iter_mut().find(|held| held.type_ == name) {
            Some(held) => *held = condition,
            None => self.list.push(condition),
        }
    }
}
