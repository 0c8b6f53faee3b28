//! PATCH with `application/apply-patch+yaml`: server-side apply, which also creates.
//!
//! What is whose is decided in [`crate::api::managed`].

use serde_json::Value;

use crate::api::admit::{self, Part};
use crate::api::decode;
use crate::api::failure::{Cause, Failure};
use crate::api::managed::{self, Refused, Writer};
use crate::api::path::Object;
use crate::api::query::{Effect, FieldValidation};
use crate::api::reply::{Answer, Content};
use crate::api::schema;
use crate::api::verbs::{Call, body, create, key_of, pod_security, update, write};
use crate::api::{Api, object};
use crate::sys::clock;

/// The longest name of a manager, in bytes.
const LONGEST_MANAGER: usize = 128;
/// How often an object may come or go while it is applied.
const ATTEMPTS: usize = 10;

pub async fn apply(api: &Api, call: &Call, target: &Object, part: Part) -> Result<Answer, Failure> {
    let effect = call.query.effect()?;
    let is_forced = call.query.flag("force");
    let manager = manager(call)?;
    let (applied, warnings) = read(call, target)?;
    let result = run(api, target, part, effect, &applied, &manager, is_forced).await;
    match result {
        Ok(answer) => Ok(answer.with_warnings(warnings)),
        Err(failure) => Err(failure.with_warnings(warnings)),
    }
}

async fn run(
    api: &Api,
    target: &Object,
    part: Part,
    effect: Effect,
    applied: &Value,
    manager: &str,
    is_forced: bool,
) -> Result<Answer, Failure> {
    let kind = target.kind;
    let subresource = part.subresource();
    let writer = Writer { manager, subresource, now: clock::now() };
    for _ in 0..ATTEMPTS {
        let mut noted = Vec::new();
        let written = write::change(api, kind, &key_of(target), effect, |current| {
            update::compare_version(target, applied, current)?;
            let next = managed::apply(kind, Some(current), applied, &writer, is_forced)
                .map_err(|refused| told(target, refused))?;
            let next = admit::update(kind, part, current, next)?;
            let next = pod_security::permit(api, kind, part, current, next)?;
            noted = pod_security::warnings(api, kind, part, Some(current), next.value());
            Ok(write::Next::Put(next))
        })
        .await;
        match written {
            Ok(written) => {
                let answer = Answer::ok(Content::One(written.into_object()));
                return Ok(answer.with_warnings(noted));
            }
            Err(failure) if failure.reason == "NotFound" && part == Part::Main => {}
            Err(failure) => return Err(failure),
        }
        if !matches!(object::resource_version(applied), "" | "0") {
            return Err(Failure::not_found(kind, &target.name));
        }
        let new = managed::apply(kind, None, applied, &writer, is_forced)
            .map_err(|refused| told(target, refused))?;
        match create::insert(api, kind, target.namespace.as_deref(), new, effect).await {
            Ok(created) => {
                let noted = pod_security::warnings(api, kind, part, None, &created);
                return Ok(Answer::created(Content::One(created)).with_warnings(noted));
            }
            // Somebody else has just created it: on top of that, then.
            Err(failure) if failure.reason == "AlreadyExists" => {}
            Err(failure) => return Err(failure),
        }
    }
    Err(Failure::modified(kind, &target.name))
}

fn manager(call: &Call) -> Result<String, Failure> {
    let refuse = |reason: &str, message: &str| {
        let cause = Cause {
            reason: reason.to_owned(),
            message: message.to_owned(),
            field: "fieldManager".to_owned(),
        };
        Err(Failure::invalid_causes("meta.k8s.io", "PatchOptions", "", vec![cause]))
    };
    let manager = call.query.get("fieldManager").unwrap_or_default();
    if manager.is_empty() {
        return refuse("FieldValueRequired", "Required value: is required for apply patch");
    }
    if manager.len() > LONGEST_MANAGER {
        return refuse("FieldValueTooLong", "Too long: may not be more than 128 bytes");
    }
    if manager.chars().any(char::is_control) {
        let message =
            format!("Invalid value: {manager:?}: should only contain printable characters");
        return refuse("FieldValueInvalid", &message);
    }
    Ok(manager.to_owned())
}

/// What the client says, and warnings about how.
fn read(call: &Call, target: &Object) -> Result<(Value, Vec<String>), Failure> {
    let kind = target.kind;
    let mut decoded = decode::yaml(&call.body)
        .map_err(|error| Failure::bad_request(format!("error decoding YAML: {error}")))?;
    let is_told = |value: &Value| !value.is_null() && value != &Value::Array(Vec::new());
    if is_told(&decoded.value["metadata"]["managedFields"]) {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    let mut checked = decoded.value.clone();
    let cannot = |why: &str| {
        let place = match &target.namespace {
            Some(namespace) => format!("{namespace}/{}", target.name),
            None => format!("/{}", target.name),
        };
        Failure::unknown_500(&format!(
            "failed to create typed patch object ({place}; {}, Kind={}): {why}",
            kind.api_version(),
            kind.kind
        ))
    };
    let unknown = schema::check(&kind.api_version(), kind.kind, &mut checked)
        .map_err(Failure::bad_request)?;
    if !unknown.is_empty() {
        let told: Vec<String> =
            unknown.iter().map(|path| format!(".{path}: field not declared in schema")).collect();
        return Err(cannot(&match told.as_slice() {
            [one] => one.clone(),
            several => format!("errors:\n  {}", several.join("\n  ")),
        }));
    }
    let duplicates = std::mem::take(&mut decoded.duplicates);
    let validation = call.query.field_validation()?;
    if let (FieldValidation::Strict, [first, ..]) = (validation, duplicates.as_slice()) {
        return Err(Failure::bad_request(format!(
            "error strict decoding YAML: duplicate field \"{first}\""
        )));
    }
    let warnings = match validation {
        FieldValidation::Warn => {
            duplicates.iter().map(|path| format!("duplicate field \"{path}\"")).collect()
        }
        FieldValidation::Strict | FieldValidation::Ignore => Vec::new(),
    };
    let typed = body::typed(decoded, create::own_kind(kind), FieldValidation::Ignore, |why| {
        Failure::bad_request(why)
    })?;
    Ok((update::named_as(target, typed.object)?, warnings))
}

fn told(target: &Object, refused: Refused) -> Failure {
    let kind = target.kind;
    match refused {
        Refused::NoSchema => Failure::unsupported_media_type(format!(
            "{} cannot be applied by this server",
            kind.resource()
        )),
        Refused::Duplicate(why) => Failure::unknown_500(&format!(
            "failed to create typed patch object ({}; {}, Kind={}): {why}",
            target.name,
            kind.api_version(),
            kind.kind
        )),
        Refused::Conflicts(conflicts) => Failure::apply_conflict(&conflicts),
    }
}
