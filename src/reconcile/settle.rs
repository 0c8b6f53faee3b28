//! What a write's answer means: what the next decision has to wait for, and whether something has failed.
//!
//! Pure. [`apply`](super::apply) asks it after every request, and so does the simulator.

use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::core::Status;
use serde_json::{Map, Value, json};

use super::caches::{Caches, Kind};
use super::decide::{Failure, Target, Write};
use super::gate::Until;
use super::roots::Outcome;

/// The answer: the object as it is now, or nothing where there was nothing to write or nothing is returned.
pub type Written = Result<Option<DynamicObject>, kube::Error>;

/// What the caches will show once a write has found nothing, or has removed what it found.
pub enum Missed<'a> {
    Nothing,
    /// The write was for this object.
    Target(&'a Target),
    /// The write was to delete it.
    Deleted(&'a Target),
}

impl Missed<'_> {
    pub fn of(write: &Write) -> Missed<'_> {
        match write {
            Write::Create { .. } => Missed::Nothing,
            Write::Patch { target, .. } | Write::Adopt { target, .. } => Missed::Target(target),
            Write::Delete { target, .. } => Missed::Deleted(target),
        }
    }
}

/// How a write ended, for those who tell of it.
pub enum Ended {
    Done,
    /// Somebody was faster, or there is nothing left to write.
    Overtaken,
    Failed,
}

/// Notes what a write means for the next decision.
pub fn settle(
    caches: &Caches,
    missed: Missed<'_>,
    kind: Kind,
    result: Written,
    outcome: &mut Outcome,
) -> Ended {
    let going =
        |target: &Target| Until::Going { kind, key: target.key.clone(), uid: target.uid.clone() };
    match (result, missed) {
        (Ok(_), Missed::Deleted(target)) => {
            outcome.gate.add(going(target));
            Ended::Done
        }
        (Ok(None), _) => Ended::Overtaken,
        (Ok(Some(object)), _) => {
            if let Some(revision) = object.resource_version().and_then(|text| text.parse().ok()) {
                caches.wrote(revision);
                outcome.gate.add(Until::Reached { kind, revision });
            }
            Ended::Done
        }
        (Err(kube::Error::Api(status)), Missed::Target(target) | Missed::Deleted(target))
            if status.code == 404 =>
        {
            outcome.gate.add(going(target));
            Ended::Overtaken
        }
        (Err(kube::Error::Api(status)), _) if status.code == 409 || is_terminating(&status) => {
            outcome.was_overtaken = true;
            Ended::Overtaken
        }
        (Err(error), _) => {
            let (message, is_certain) = match &error {
                kube::Error::Api(status) => (status.message.clone(), status.code < 500),
                other => (other.to_string(), false),
            };
            if !is_certain {
                // It may have been written all the same.
                let list = caches.list_again(kind);
                outcome.gate.add(Until::Listed { kind, list });
            }
            outcome.failures.push(Failure { reason: "FailedWrite", message });
            if let Some(failure) = outcome.failures.last() {
                tracing::debug!(?kind, message = failure.message, "a controller's write failed");
            }
            Ended::Failed
        }
    }
}

/// Nothing can be created in a namespace that goes; its objects go with it.
fn is_terminating(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// The patch, refused by the server if the object is no longer as it was observed.
pub fn guarded(target: &Target, mut patch: Value) -> Value {
    if patch["metadata"].is_null() {
        patch["metadata"] = json!({});
    }
    // Revisions are never reused, so that this one also says which of several namesakes is meant.
    patch["metadata"]["resourceVersion"] = target.resource_version.as_str().into();
    patch
}

/// The JSON merge patch (RFC 7396) that makes `new` of `old`.
pub fn difference(old: &Value, new: &Value) -> Value {
    let (Value::Object(held), Value::Object(wanted)) = (old, new) else {
        return new.clone();
    };
    let mut patch = Map::new();
    for (key, value) in wanted {
        match held.get(key) {
            Some(same) if same == value => {}
            Some(other) => {
                patch.insert(key.clone(), difference(other, value));
            }
            None => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in held.keys().filter(|key| !wanted.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use super::super::decide::Key;
    use super::*;

    #[test]
    fn a_patch_holds_only_what_differs_and_removes_what_is_no_longer_said() {
        let old = json!({"replicas": 3, "readyReplicas": 2, "conditions": [1], "same": {"a": 1}});
        let new = json!({"replicas": 3, "conditions": [1, 2], "same": {"a": 1}});
        assert_eq!(difference(&old, &new), json!({"conditions": [1, 2], "readyReplicas": null}));
        assert_eq!(difference(&Value::Null, &new), new);
    }

    #[test]
    fn every_patch_demands_the_revision_that_was_observed() {
        let target = Target {
            key: Key::new("default", "web"),
            uid: "u".into(),
            resource_version: "41".into(),
        };
        let patch = guarded(&target, json!({"metadata": {"labels": {"a": "b"}}, "spec": {}}));
        assert_eq!(
            patch,
            json!({"metadata": {"labels": {"a": "b"}, "resourceVersion": "41"}, "spec": {}})
        );
    }
}
