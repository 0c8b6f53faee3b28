//! Carries a decision out: the only place where a controller built on [`Decide`](super::decide::Decide) writes.
//!
//! It makes no choice of its own. Every write names what it expects to find, so that one that comes too late is
//! refused and not repeated.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use kube::{Api, ResourceExt};
use serde_json::{Map, Value, json};

use super::caches::{Caches, Held, Kind};
use super::decide::{Decision, Failure, Intent, Note, Target, Told, Write};
use super::gate::Until;
use super::roots::Outcome;
use crate::events::{self, Recorder};

/// Writes of one decision at a time. The store commits those that come together in one sync.
const ABREAST: usize = 16;

/// What writing needs.
pub struct Context<'a> {
    pub client: &'a kube::Client,
    pub caches: &'a Caches,
    pub recorder: &'a Recorder,
}

/// Carries out a decision about `root`; its changes and notes only if `may_change`.
pub async fn apply<R: Held>(
    context: &Context<'_>,
    root: &R,
    decision: Decision,
    may_change: bool,
) -> Outcome {
    let root_is = Root { about: reference(root), kind: R::KIND, target: Target::of(root.meta()) };
    let mut outcome = Outcome { again: decision.again, ..Outcome::default() };
    if may_change {
        changes(context, Some(&root_is), decision.changes, &mut outcome).await;
        decision.notes.into_iter().for_each(|note| tell(context, &root_is, note));
    }
    if let Some(status) = decision.status {
        let held = serde_json::to_value(root).unwrap_or_default();
        let patch = json!({"status": difference(&held["status"], &status)});
        let target = &root_is.target;
        let api = api(context.client, R::KIND, &target.key.namespace);
        let patch = Patch::Merge(guarded(target, patch));
        let written = api.patch_status(&target.key.name, &PatchParams::default(), &patch).await;
        settle(context, Missed::Target(target), R::KIND, written.map(Some), &mut outcome);
    }
    outcome
}

/// Carries out changes that are left of a root that has gone.
pub async fn apply_without_root(context: &Context<'_>, left: Vec<Intent>) -> Outcome {
    let mut outcome = Outcome::default();
    changes(context, None, left, &mut outcome).await;
    outcome.is_gone = outcome.failures.is_empty() && !outcome.was_overtaken;
    outcome
}

struct Root {
    about: ObjectReference,
    kind: Kind,
    target: Target,
}

async fn changes(
    context: &Context<'_>,
    root: Option<&Root>,
    mut changes: Vec<Intent>,
    outcome: &mut Outcome,
) {
    // What has not begun when something fails would most likely fail the same way: it is decided anew.
    while !changes.is_empty() && outcome.failures.is_empty() {
        let rest = changes.split_off(changes.len().min(ABREAST));
        let batch = std::mem::replace(&mut changes, rest);
        // Boxed: the future of a write is large, and there are many in a burst.
        let writes = batch.iter().map(|intent| Box::pin(write(context, root, &intent.write)));
        let results = futures::future::join_all(writes).await;
        for (intent, result) in batch.into_iter().zip(results) {
            let name = name(&intent.write, &result);
            let missed = match &intent.write {
                Write::Create { .. } => Missed::Nothing,
                Write::Patch { target, .. } | Write::Adopt { target, .. } => Missed::Target(target),
                Write::Delete { target, .. } => Missed::Deleted(target),
            };
            let ended = settle(context, missed, intent.write.kind(), result, outcome);
            if let Some(root) = root
                && let Some(note) = note(intent.told, ended, &mut outcome.failures, &name)
            {
                tell(context, root, note);
            }
        }
    }
}

type Written = Result<Option<DynamicObject>, kube::Error>;

async fn write(context: &Context<'_>, root: Option<&Root>, write: &Write) -> Written {
    match write {
        Write::Create { kind, object } => {
            let object: DynamicObject =
                serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
            let api = api(context.client, *kind, &object.namespace().unwrap_or_default());
            api.create(&PostParams::default(), &object).await.map(Some)
        }
        Write::Adopt { kind, target, patch } => match root {
            Some(root) if !is_alive(context.client, root).await? => Ok(None),
            Some(_) | None => patch_object(context, *kind, target, patch).await.map(Some),
        },
        Write::Patch { kind, target, patch } => {
            patch_object(context, *kind, target, patch).await.map(Some)
        }
        Write::Delete { kind, target } => {
            let uid = Some(target.uid.clone());
            let parameters = DeleteParams {
                preconditions: Some(Preconditions { uid, resource_version: None }),
                ..DeleteParams::background()
            };
            let api = api(context.client, *kind, &target.key.namespace);
            api.delete(&target.key.name, &parameters).await.map(|deleted| deleted.left())
        }
    }
}

async fn patch_object(
    context: &Context<'_>,
    kind: Kind,
    target: &Target,
    patch: &Value,
) -> Result<DynamicObject, kube::Error> {
    let api = api(context.client, kind, &target.key.namespace);
    let patch = Patch::Merge(guarded(target, patch.clone()));
    api.patch(&target.key.name, &PatchParams::default(), &patch).await
}

/// Whether the root itself, past all caches, is still there and stays.
async fn is_alive(client: &kube::Client, root: &Root) -> Result<bool, kube::Error> {
    let key = &root.target.key;
    let found = api(client, root.kind, &key.namespace).get_opt(&key.name).await?;
    Ok(found.is_some_and(|found| {
        found.metadata.uid.as_deref() == Some(root.target.uid.as_str())
            && found.metadata.deletion_timestamp.is_none()
    }))
}

/// What the caches will show once a write has found nothing, or has removed what it found.
enum Missed<'a> {
    Nothing,
    /// The write was for this object.
    Target(&'a Target),
    /// The write was to delete it.
    Deleted(&'a Target),
}

/// How a write ended, for those who tell of it.
enum Ended {
    Done,
    /// Somebody was faster, or there is nothing left to write.
    Overtaken,
    Failed,
}

/// Notes what a write means for the next decision.
fn settle(
    context: &Context<'_>,
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
                context.caches.wrote(revision);
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
                let list = context.caches.list_again(kind);
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

fn name(write: &Write, written: &Written) -> String {
    match (written, write) {
        (Ok(Some(object)), _) => object.name_any(),
        (_, Write::Create { object, .. }) => {
            object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
        }
        (
            _,
            Write::Patch { target, .. }
            | Write::Adopt { target, .. }
            | Write::Delete { target, .. },
        ) => target.key.name.to_string(),
    }
}

fn note(told: Told, ended: Ended, failures: &mut [Failure], name: &str) -> Option<Note> {
    let (done, failed, name) = match told {
        Told::Nothing => return None,
        Told::ByName { done, failed } => (done, failed, name),
        Told::Whole { done, failed } => (done, failed, ""),
    };
    match ended {
        Ended::Overtaken => None,
        Ended::Done => Some(Note {
            kind: events::Kind::Normal,
            reason: done.reason,
            message: format!("{}{name}", done.text),
        }),
        Ended::Failed => failures.last_mut().map(|failure| {
            failure.reason = failed.reason;
            Note {
                kind: events::Kind::Warning,
                reason: failed.reason,
                message: format!("{}{}", failed.text, failure.message),
            }
        }),
    }
}

/// Tells that the controller has a defect that this object brings out.
pub fn tell_of_panic<R: Held>(context: &Context<'_>, root: &R, message: &str) {
    let target = Target::of(root.meta());
    let root = Root { about: reference(root), kind: R::KIND, target };
    let message = format!("The controller failed on this object and will try again: {message}");
    tell(context, &root, Note { kind: events::Kind::Warning, reason: "InternalError", message });
}

fn tell(context: &Context<'_>, root: &Root, note: Note) {
    context.recorder.note(events::Note {
        about: root.about.clone(),
        kind: note.kind,
        reason: note.reason,
        message: note.message,
    });
}

fn api(client: &kube::Client, kind: Kind, namespace: &str) -> Api<DynamicObject> {
    let resource = kind.resource();
    match namespace {
        "" => Api::all_with(client.clone(), &resource),
        _ => Api::namespaced_with(client.clone(), namespace, &resource),
    }
}

fn reference<R: Held>(root: &R) -> ObjectReference {
    ObjectReference {
        api_version: Some(R::api_version(&()).into_owned()),
        kind: Some(R::kind(&()).into_owned()),
        namespace: root.namespace(),
        name: root.meta().name.clone(),
        uid: root.uid(),
        resource_version: root.resource_version(),
        field_path: None,
    }
}

/// The patch, refused by the server if the object is no longer as it was observed.
fn guarded(target: &Target, mut patch: Value) -> Value {
    if patch["metadata"].is_null() {
        patch["metadata"] = json!({});
    }
    // Revisions are never reused, so that this one also says which of several namesakes is meant.
    patch["metadata"]["resourceVersion"] = target.resource_version.as_str().into();
    patch
}

/// The JSON merge patch (RFC 7396) that makes `new` of `old`.
fn difference(old: &Value, new: &Value) -> Value {
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
