//! PATCH: the next object computed from the current one, again whenever another writer was faster.
//!
//! The dialects themselves are in [`crate::api::patch`]; server-side apply is [`super::apply`].

use std::collections::BTreeMap;

use http::header;
use serde_json::Value;

use crate::api::admit::{self, Part};
use crate::api::catalog::GroupVersionKind;
use crate::api::decode::{self, Decoded};
use crate::api::failure::Failure;
use crate::api::managed::Writer;
use crate::api::patch::{self, PatchError};
use crate::api::path::Object;
use crate::api::query::FieldValidation;
use crate::api::reply::{Answer, Content};
use crate::api::validate::FieldError;
use crate::api::verbs::{Call, apply, body, create, key_of, pod_security, update, write};
use crate::api::{Api, negotiate};
use crate::sys::clock;

/// A patch that has been read.
pub enum Patch {
    Json(bytes::Bytes),
    Merge(Value),
    Strategic(Value),
}

const ACCEPTED: &str = "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";

pub async fn patch(api: &Api, call: &Call, target: &Object, part: Part) -> Result<Answer, Failure> {
    let content_type = call.header(header::CONTENT_TYPE).unwrap_or_default();
    if negotiate::media_type(content_type) == "application/apply-patch+yaml" {
        return apply::apply(api, call, target, part).await;
    }
    let manager = call.manager();
    let writer = Writer { manager: &manager, subresource: part.subresource(), now: clock::now() };
    let effect = call.query.effect()?;
    let validation = call.query.field_validation()?;
    let patch = read(call)?;
    let mut warnings = Vec::new();
    let written = write::change(api, target.kind, &key_of(target), effect, |current| {
        let next = patched(create::own_kind(target.kind), &patch, current, validation)?;
        warnings = next.warnings;
        let next = update::named_as(target, next.object)?;
        update::compare_version(target, &next, current)?;
        let next = admit::update_by(target.kind, part, current, next, &writer)?;
        let next = pod_security::permit(api, target.kind, part, current, next)?;
        warnings.extend(pod_security::warnings(
            api,
            target.kind,
            part,
            Some(current),
            next.value(),
        ));
        Ok(write::Next::Put(next))
    })
    .await;
    match written {
        Ok(written) => Ok(Answer::ok(Content::One(written.into_object())).with_warnings(warnings)),
        Err(failure) => Err(failure.with_warnings(warnings)),
    }
}

/// The patch of a request.
pub fn read(call: &Call) -> Result<Patch, Failure> {
    if call.query.flag("force") {
        return Err(Failure::invalid_causes(
            "meta.k8s.io",
            "PatchOptions",
            "",
            vec![crate::api::failure::Cause {
                reason: "FieldValueForbidden".to_owned(),
                message: "Forbidden: may not be specified for non-apply patch".to_owned(),
                field: "force".to_owned(),
            }],
        ));
    }
    let content_type = call.header(header::CONTENT_TYPE).unwrap_or_default();
    let document = || {
        decode::json(&call.body)
            .map(|decoded| decoded.value)
            .map_err(|error| Failure::bad_request(format!("error decoding patch: {error}")))
    };
    match negotiate::media_type(content_type).as_str() {
        "application/json-patch+json" => Ok(Patch::Json(call.body.clone())),
        "application/merge-patch+json" => document().map(Patch::Merge),
        "application/strategic-merge-patch+json" => document().map(Patch::Strategic),
        _ => Err(Failure::unsupported_media_type(ACCEPTED)),
    }
}

/// What `patch` makes of `current`, an object of `kind`.
pub fn patched(
    kind: GroupVersionKind,
    patch: &Patch,
    current: &Value,
    validation: FieldValidation,
) -> Result<body::Typed, Failure> {
    let value = match patch {
        Patch::Json(text) => patch::json::apply(current, text),
        Patch::Merge(document) => patch::merge::apply(current, document),
        Patch::Strategic(document) => {
            patch::strategic::apply(current, document, &kind.api_version(), kind.kind)
        }
    }
    .map_err(refused)?;
    let decoded = Decoded { value, duplicates: Vec::new() };
    // What does not read as the kind any more is the patch's fault.
    body::typed(decoded, kind, validation, |why| {
        Failure::invalid("", "", "", &[FieldError::invalid("patch", &patch.document(), why)])
    })
}

impl Patch {
    /// The document, as Kubernetes quotes it: only what the client itself has said.
    fn document(&self) -> Value {
        match self {
            Patch::Json(text) => String::from_utf8_lossy(text).into(),
            Patch::Merge(document) => document.to_string().into(),
            Patch::Strategic(document) => go_map(document).into(),
        }
    }
}

/// As Go prints maps of anything: `map[data:map[z:3]]`, keys in order.
fn go_map(value: &Value) -> String {
    let list = |items: Vec<String>| items.join(" ");
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) => format!("[{}]", list(items.iter().map(go_map).collect())),
        Value::Object(members) => {
            let ordered: BTreeMap<&String, &Value> = members.iter().collect();
            let members = ordered.iter().map(|(name, value)| format!("{name}:{}", go_map(value)));
            format!("map[{}]", list(members.collect()))
        }
    }
}

fn refused(error: PatchError) -> Failure {
    match error {
        PatchError::BadRequest(why) => Failure::bad_request(why),
        PatchError::TooLarge(why) => Failure::too_large_because(why),
        PatchError::Unsupported(why) => Failure::unsupported_media_type(why),
        PatchError::Invalid(why) => Failure::unprocessable(&why),
    }
}
