//! PUT: an object replaced, on the main endpoint or a part of it.
//!
//! It never merges; see [`super::patch`].

use serde_json::Value;

use crate::api::admit::{self, Part};
use crate::api::catalog::PutAbsent;
use crate::api::failure::Failure;
use crate::api::managed::Writer;
use crate::api::path::Object;
use crate::api::query::Effect;
use crate::api::reply::{Answer, Content};
use crate::api::verbs::{Call, body, create, key_of, pod_security, write};
use crate::api::{Api, object};
use crate::sys::clock;

pub async fn update(
    api: &Api,
    call: &Call,
    target: &Object,
    part: Part,
) -> Result<Answer, Failure> {
    let effect = call.query.effect()?;
    let manager = call.manager();
    let writer = Writer { manager: &manager, subresource: part.subresource(), now: clock::now() };
    let typed = body::read(call, create::own_kind(target.kind))?;
    let new = named_as(target, typed.object)?;
    let creates = part == Part::Main && target.kind.put_absent == PutAbsent::Creates;
    let key = key_of(target);
    if creates
        && write::read(api, target.kind, &key)?.is_none()
        && let Some(created) = create_absent(api, target, new.clone(), effect).await?
    {
        return Ok(Answer::created(Content::One(created)).with_warnings(typed.warnings));
    }
    let mut noted = Vec::new();
    let written = write::change(api, target.kind, &key, effect, |current| {
        compare_version(target, &new, current)?;
        let next = admit::update_by(target.kind, part, current, new.clone(), &writer)?;
        let next = pod_security::permit(api, target.kind, part, current, next)?;
        noted = pod_security::warnings(api, target.kind, part, Some(current), next.value());
        Ok(write::Next::Put(next))
    })
    .await;
    match written {
        Ok(written) => {
            let warnings = [typed.warnings, noted].concat();
            Ok(Answer::ok(Content::One(written.into_object())).with_warnings(warnings))
        }
        Err(failure) => Err(failure.with_warnings(typed.warnings)),
    }
}

/// Creates what a PUT names; `None` if somebody else just did.
async fn create_absent(
    api: &Api,
    target: &Object,
    mut new: Value,
    effect: Effect,
) -> Result<Option<Value>, Failure> {
    // A version names a state that existed: it is gone.
    if !matches!(object::resource_version(&new), "" | "0") {
        return Err(Failure::not_found(target.kind, &target.name));
    }
    let metadata = object::metadata_mut(&mut new);
    metadata.shift_remove("resourceVersion");
    metadata.shift_remove("managedFields");
    match create::insert(api, target.kind, target.namespace.as_deref(), new, effect).await {
        Ok(created) => Ok(Some(created)),
        Err(failure) if failure.reason == "AlreadyExists" => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The body's own name and namespace must be those of the path.
pub fn named_as(target: &Object, mut new: Value) -> Result<Value, Failure> {
    let name = object::name(&new);
    if name.is_empty() {
        let wanted = target.name.clone();
        object::metadata_mut(&mut new).insert("name".to_owned(), wanted.into());
    } else if name != target.name {
        return Err(Failure::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    let own = object::text(&new, &["metadata", "namespace"]);
    if let Some(namespace) = &target.namespace
        && !own.is_empty()
        && own != namespace
    {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(new)
}

/// A version in the body is a demand; without one the write is unconditional.
pub fn compare_version(target: &Object, new: &Value, current: &Value) -> Result<(), Failure> {
    let wanted = object::resource_version(new);
    if matches!(wanted, "" | "0") || wanted == object::resource_version(current) {
        return Ok(());
    }
    if wanted.parse::<u64>().is_err() {
        return Err(Failure::bad_request(format!(
            "metadata.resourceVersion: Invalid value: \"{wanted}\": must be an integer"
        )));
    }
    Err(Failure::modified(target.kind, &target.name))
}
