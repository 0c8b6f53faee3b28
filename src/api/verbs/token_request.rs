//! POST serviceaccounts/NAME/token: a signed token for an account, perhaps bound to a pod.
//!
//! It never stores a token.

use std::time::Duration;

use serde_json::{Value, json};

use crate::api::catalog::{self, Subresource};
use crate::api::failure::{Cause, Failure};
use crate::api::path::Object;
use crate::api::reply::{Answer, Content};
use crate::api::token::{Bound, Subject};
use crate::api::verbs::{Call, body, key, key_of, write};
use crate::api::{Api, object};
use crate::sys::clock;

const DEFAULT_SECONDS: i64 = 3600;
const SHORTEST_SECONDS: i64 = 600;
const LONGEST_SECONDS: i64 = 1 << 32;

pub fn request(
    api: &Api,
    call: &Call,
    target: &Object,
    subresource: &Subresource,
) -> Result<Answer, Failure> {
    call.query.effect()?;
    let mut typed = body::read(call, subresource.kind)?;
    let account = write::read(api, target.kind, &key_of(target))?
        .ok_or_else(|| Failure::not_found(target.kind, &target.name))?;
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let spec = &typed.object["spec"];
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    if !(SHORTEST_SECONDS..=LONGEST_SECONDS).contains(&seconds) {
        let why = match seconds < SHORTEST_SECONDS {
            true => "may not specify a duration less than 10 minutes",
            false => "may not specify a duration larger than 2^32 seconds",
        };
        return Err(invalid(
            "spec.expirationSeconds",
            "FieldValueInvalid",
            &format!("Invalid value: {seconds}: {why}"),
        ));
    }
    let mut audiences: Vec<String> = spec["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|audience| audience.as_str().map(str::to_owned))
        .collect();
    if audiences.is_empty() {
        audiences.push(api.inner.tokens.audience().to_owned());
    }
    let pod = bound_pod(api, namespace, &target.name, &spec["boundObjectRef"])?;
    let now = clock::now();
    let expires = now.plus(Duration::from_secs(seconds.unsigned_abs()));
    let token = api
        .inner
        .tokens
        .sign(
            &Subject {
                namespace: namespace.to_owned(),
                name: target.name.clone(),
                uid: object::uid(&account).to_owned(),
                pod,
            },
            &audiences,
            now,
            expires,
        )
        .map_err(|_| Failure::internal("the token cannot be signed"))?;
    let mut spec = typed.object["spec"].clone();
    spec["audiences"] = json!(audiences);
    spec["expirationSeconds"] = seconds.into();
    if spec.get("boundObjectRef").is_none() {
        spec["boundObjectRef"] = Value::Null;
    }
    typed.object["metadata"] = json!({
        "name": target.name,
        "namespace": namespace,
        "creationTimestamp": now.to_seconds_text(),
    });
    typed.object["spec"] = spec;
    typed.object["status"] = json!({
        "token": token,
        "expirationTimestamp": expires.to_seconds_text(),
    });
    let answered = object::canonical(typed.object);
    Ok(Answer::created(Content::Other(answered)).with_warnings(typed.warnings))
}

fn bound_pod(
    api: &Api,
    namespace: &str,
    account: &str,
    reference: &Value,
) -> Result<Option<Bound>, Failure> {
    if reference.is_null() {
        return Ok(None);
    }
    let text = |field: &str| object::text(reference, &[field]).to_owned();
    let (kind, api_version, name, uid) =
        (text("kind"), text("apiVersion"), text("name"), text("uid"));
    if (api_version.as_str(), kind.as_str()) != ("v1", "Pod") {
        return Err(Failure::bad_request(format!(
            "cannot bind token for serviceaccount \"{account}\" to object type {api_version}, Kind={kind}: only v1, Kind=Pod is supported"
        )));
    }
    let pods = catalog::pods();
    let pod = write::read(api, pods, &key(pods, Some(namespace), &name))?
        .ok_or_else(|| Failure::not_found(pods, &name))?;
    if object::text(&pod, &["spec", "serviceAccountName"]) != account {
        return Err(Failure::bad_request(format!(
            "cannot bind token for serviceaccount \"{account}\" to pod running with different serviceaccount name."
        )));
    }
    if !uid.is_empty() && uid != object::uid(&pod) {
        return Err(Failure::conflict(
            pods,
            &name,
            &format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            ),
        ));
    }
    Ok(Some(Bound { name, uid: object::uid(&pod).to_owned() }))
}

fn invalid(field: &str, reason: &str, message: &str) -> Failure {
    Failure::invalid_causes(
        "authentication.k8s.io",
        "TokenRequest",
        "",
        vec![Cause {
            reason: reason.to_owned(),
            message: message.to_owned(),
            field: field.to_owned(),
        }],
    )
}
