//! Carries a decision out: the only place where a controller built on [`Decide`](super::decide::Decide) writes.
//!
//! It makes no choice of its own. Every write names what it expects to find, so that one that comes too late is
//! refused and not repeated.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::caches::{Caches, Held, Kind};
use super::decide::{Decision, Failure, Intent, Note, Target, Told, Write};
use super::roots::Outcome;
use super::settle::{Ended, Missed, Written, difference, guarded, settle};
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
    // A status that speaks of changes is true only if they were made.
    let went_well = outcome.failures.is_empty() && !outcome.was_overtaken;
    if let Some(status) = decision.status.filter(|_| went_well) {
        let held = serde_json::to_value(root).unwrap_or_default();
        let mut patch = json!({"status": difference(&held["status"], &status)});
        if !decision.annotations.is_empty() {
            patch["metadata"] = json!({"annotations": decision.annotations});
        }
        let target = &root_is.target;
        let api = api(context.client, R::KIND, &target.key.namespace);
        let patch = Patch::Merge(guarded(target, patch));
        let written = api.patch_status(&target.key.name, &PatchParams::default(), &patch).await;
        settle(context.caches, Missed::Target(target), R::KIND, written.map(Some), &mut outcome);
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
            let ended = settle(
                context.caches,
                Missed::of(&intent.write),
                intent.write.kind(),
                result,
                outcome,
            );
            if let Some(root) = root
                && let Some(note) = note(intent.told, ended, &mut outcome.failures, &name)
            {
                tell(context, root, note);
            }
        }
    }
}

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
        Told::Failed { failed } => match ended {
            Ended::Failed => (failed.clone(), failed, ""),
            Ended::Done | Ended::Overtaken => return None,
        },
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
        reason: note.reason.into(),
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
