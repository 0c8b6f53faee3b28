//! `scale`: the number of replicas of a workload, read and written as `autoscaling/v1` Scale.
//!
//! It never creates or removes a pod; the workload's controller does.

use serde_json::{Value, json};

use crate::api::admit::{self, Part};
use crate::api::catalog::{Subresource, Verb};
use crate::api::failure::Failure;
use crate::api::managed::Writer;
use crate::api::path::Object;
use crate::api::reply::{Answer, Content};
use crate::api::validate::scale;
use crate::api::verbs::{Call, body, key_of, patch, update, write};
use crate::api::{Api, object};
use crate::model::selector::LabelSelector;
use crate::sys::clock;

/// GET, PUT and PATCH of `target`'s scale.
pub async fn scale(
    api: &Api,
    call: &Call,
    target: &Object,
    subresource: &Subresource,
    verb: Verb,
) -> Result<Answer, Failure> {
    match verb {
        Verb::Get => {
            let found = write::read(api, target.kind, &key_of(target))?
                .ok_or_else(|| Failure::not_found(target.kind, &target.name))?;
            Ok(Answer::ok(Content::Scale(view(&found))))
        }
        Verb::Update => replace(api, call, target, subresource).await,
        Verb::Patch => merge(api, call, target, subresource).await,
        Verb::Create | Verb::Delete | Verb::DeleteCollection | Verb::List | Verb::Watch => {
            Err(Failure::method_not_allowed())
        }
    }
}

async fn replace(
    api: &Api,
    call: &Call,
    target: &Object,
    subresource: &Subresource,
) -> Result<Answer, Failure> {
    let effect = call.query.effect()?;
    let manager = call.manager();
    let typed = body::read(call, subresource.kind)?;
    let wanted = update::named_as(target, typed.object)?;
    let written = write::change(api, target.kind, &key_of(target), effect, |current| {
        scaled(target, current, &wanted, &manager).map(write::Next::Put)
    })
    .await;
    answer(written, typed.warnings)
}

async fn merge(
    api: &Api,
    call: &Call,
    target: &Object,
    subresource: &Subresource,
) -> Result<Answer, Failure> {
    let effect = call.query.effect()?;
    let manager = call.manager();
    let validation = call.query.field_validation()?;
    let patch = patch::read(call)?;
    let mut warnings = Vec::new();
    let written = write::change(api, target.kind, &key_of(target), effect, |current| {
        let shown = view(current);
        let next = patch::patched(subresource.kind, &patch, &shown, validation)?;
        warnings = next.warnings;
        let wanted = update::named_as(target, next.object)?;
        scaled(target, current, &wanted, &manager).map(write::Next::Put)
    })
    .await;
    answer(written, warnings)
}

fn answer(
    written: Result<write::Written, Failure>,
    warnings: Vec<String>,
) -> Result<Answer, Failure> {
    match written {
        Ok(written) => {
            let content = Content::Scale(view(&written.into_object()));
            Ok(Answer::ok(content).with_warnings(warnings))
        }
        Err(failure) => Err(failure.with_warnings(warnings)),
    }
}

/// `current` with the replicas that the Scale `wanted` asks for.
fn scaled(
    target: &Object,
    current: &Value,
    wanted: &Value,
    manager: &str,
) -> Result<admit::Admitted, Failure> {
    update::compare_version(target, wanted, current)?;
    let errors = scale::update(wanted);
    if !errors.is_empty() {
        return Err(Failure::invalid("autoscaling", "Scale", &target.name, &errors));
    }
    let mut next = current.clone();
    let uid = object::uid(wanted);
    if !uid.is_empty() {
        object::metadata_mut(&mut next).insert("uid".to_owned(), uid.into());
    }
    // A Scale is a value, not a wish: replicas left out are zero, as in Go.
    let replicas = wanted["spec"]["replicas"].as_i64().unwrap_or(0);
    object::map_mut(&mut next, "spec").insert("replicas".to_owned(), replicas.into());
    let writer = Writer { manager, subresource: "scale", now: clock::now() };
    admit::update_by(target.kind, Part::Main, current, next, &writer)
}

/// The Scale of `workload`.
fn view(workload: &Value) -> Value {
    let mut metadata = json!({});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = workload["metadata"].get(key) {
            metadata[key] = value.clone();
        }
    }
    // Validation has seen the selector; what cannot be read selects nothing.
    let selector = LabelSelector::from_json(&workload["spec"]["selector"])
        .unwrap_or_else(|_| LabelSelector::nothing());
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {},
        "status": {"replicas": workload["status"]["replicas"].as_i64().unwrap_or(0)},
    });
    // Zero is left out in Go, and clients compare.
    if let Some(replicas) = workload["spec"]["replicas"].as_i64().filter(|n| *n != 0) {
        scale["spec"]["replicas"] = replicas.into();
    }
    let text = selector.to_string();
    if !text.is_empty() {
        scale["status"]["selector"] = text.into();
    }
    scale
}
