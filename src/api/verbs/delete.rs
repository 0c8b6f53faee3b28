//! DELETE of one object and of a collection: preconditions, grace, finalizers.
//!
//! Dependents are not looked after here: Foreground and Orphan leave the object a finalizer that the
//! garbage collector takes away when it has done its part.

use std::time::Duration;

use serde_json::{Value, json};

use crate::api::admit;
use crate::api::catalog::{DeleteAnswer, Kind};
use crate::api::failure::{self, Cause, Failure};
use crate::api::path::Object;
use crate::api::query::{self, Effect};
use crate::api::reply::{Answer, Content};
use crate::api::verbs::selection::Selection;
use crate::api::verbs::{Call, body, key_of, list, write};
use crate::api::{Api, object};
use crate::model::time::Timestamp;
use crate::sys::clock;

/// Namespaces the cluster cannot be without.
const IMMORTAL_NAMESPACES: &[&str] = &["default", "kube-system", "kube-public"];
const DEFAULT_POD_GRACE_SECONDS: i64 = 30;

/// DeleteOptions, from the body or the query.
#[derive(Debug, Default)]
pub(super) struct Options {
    grace_seconds: Option<i64>,
    uid: Option<String>,
    resource_version: Option<String>,
    propagation: Option<Propagation>,
    is_dry_run: bool,
    /// A pod is to show that it was evicted.
    pub(super) is_eviction: bool,
    warnings: Vec<String>,
}

/// What becomes of an object's dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// The object goes when its dependents that block it are gone.
const FOREGROUND: &str = "foregroundDeletion";
/// The object goes when its dependents have forgotten it.
const ORPHAN: &str = "orphan";

pub async fn delete(api: &Api, call: &Call, target: &Object) -> Result<Answer, Failure> {
    let options = options(call)?;
    let written = remove(api, target, &options).await?;
    let kind = target.kind;
    let content = match written {
        write::Written::Stored(object) => Content::One(object),
        write::Written::Removed(object) => match kind.delete_answer {
            DeleteAnswer::Object => Content::One(object),
            DeleteAnswer::Status => {
                Content::Other(failure::deleted(kind, &target.name, object::uid(&object)))
            }
        },
    };
    Ok(Answer::ok(content).with_warnings(options.warnings))
}

/// Deletes every object that the selectors of the request choose; answers them as a list.
pub async fn delete_collection(
    api: &Api,
    call: &Call,
    kind: &'static Kind,
    namespace: Option<&str>,
) -> Result<Answer, Failure> {
    let options = options(call)?;
    let selection = Selection::parse(kind, &call.query)?;
    let chosen = list::all(api, kind, namespace, &selection)?;
    let mut deleted = Vec::with_capacity(chosen.len());
    for object in chosen {
        let target = Object {
            kind,
            namespace: object["metadata"]["namespace"].as_str().map(str::to_owned),
            name: object::name(&object).to_owned(),
        };
        match remove(api, &target, &options).await {
            Ok(written) => deleted.push(written.into_object()),
            // Gone meanwhile: what the client wanted.
            Err(failure) if failure.reason == "NotFound" => {}
            Err(failure) => return Err(failure),
        }
    }
    let metadata = serde_json::json!({"resourceVersion": api.inner.store.revision().to_string()});
    Ok(Answer::ok(Content::Many { items: deleted, metadata }).with_warnings(options.warnings))
}

/// Deletes one object.
pub(super) async fn remove(
    api: &Api,
    target: &Object,
    options: &Options,
) -> Result<write::Written, Failure> {
    let effect = match options.is_dry_run {
        true => Effect::DryRun,
        false => Effect::Persist,
    };
    let kind = target.kind;
    let now = clock::now();
    let _alone = match kind.resource().as_str() {
        "namespaces" => Some(api.inner.namespace_gate.write().await),
        _ => None,
    };
    write::change(api, kind, &key_of(target), effect, |current| {
        check_preconditions(kind, current, options)?;
        if kind.resource() == "namespaces" && IMMORTAL_NAMESPACES.contains(&target.name.as_str()) {
            return Err(Failure::forbidden(
                "",
                "namespaces",
                &target.name,
                "this namespace may not be deleted",
            ));
        }
        match options.is_eviction && !object::is_terminating(current) {
            true => Ok(decide(kind, &evicted(current.clone(), now), options, now)),
            false => Ok(decide(kind, current, options, now)),
        }
    })
    .await
}

/// The condition by which others know that a pod did not end by itself (KEP-3329).
fn evicted(mut pod: Value, now: Timestamp) -> Value {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastTransitionTime": now.to_seconds_text(),
    });
    if let Value::Array(conditions) = &mut pod["status"]["conditions"] {
        conditions.retain(|held| held["type"] != condition["type"]);
        conditions.push(condition);
    } else {
        pod["status"]["conditions"] = json!([condition]);
    }
    pod
}

/// What becomes of `current` when it is to be deleted now.
fn decide(kind: &Kind, current: &Value, options: &Options, now: Timestamp) -> write::Next {
    let grace = match kind.resource().as_str() {
        "pods" => pod_grace(current, options.grace_seconds),
        _ => 0,
    };
    let finalizers = finalizers(kind, current, options.propagation);
    let is_kept = grace > 0
        || !finalizers.is_empty()
        || kind.resource() == "namespaces"
            && current["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    if !is_kept {
        return write::Next::Remove;
    }
    let mark =
        |at, grace| write::Next::Put(admit::mark_deleted(kind, current, at, grace, &finalizers));
    if !object::is_terminating(current) {
        return mark(now.plus(Duration::from_secs(grace.unsigned_abs())), grace);
    }
    let pending = current["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    let end = object::text(current, &["metadata", "deletionTimestamp"])
        .parse::<Timestamp>()
        .unwrap_or(now)
        .unix_seconds();
    // Grace can only shrink.
    match (grace < pending, finalizers == object::finalizers(current)) {
        (true, _) => mark(Timestamp::from_unix(end - pending + grace, 0), grace),
        (false, false) => mark(Timestamp::from_unix(end, 0), pending),
        (false, true) => write::Next::Keep,
    }
}

/// The finalizers of `current` once it is being deleted. What was said last about dependents holds; who
/// says nothing leaves it at that.
fn finalizers<'a>(
    kind: &Kind,
    current: &'a Value,
    propagation: Option<Propagation>,
) -> Vec<&'a str> {
    let mut finalizers = object::finalizers(current);
    // Events own nothing.
    let Some(propagation) = propagation.filter(|_| kind.kind != "Event") else {
        return finalizers;
    };
    finalizers.retain(|finalizer| ![FOREGROUND, ORPHAN].contains(finalizer));
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push(FOREGROUND),
        Propagation::Orphan => finalizers.push(ORPHAN),
    }
    finalizers
}

/// Seconds that the pod's node gets; zero when there is nothing to wait for.
fn pod_grace(pod: &Value, asked: Option<i64>) -> i64 {
    let is_bound = !object::text(pod, &["spec", "nodeName"]).is_empty();
    let is_over = matches!(object::text(pod, &["status", "phase"]), "Succeeded" | "Failed");
    if !is_bound || is_over {
        return 0;
    }
    let grace = asked
        .or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64())
        .unwrap_or(DEFAULT_POD_GRACE_SECONDS);
    // Negative values once meant "as soon as possible, but gracefully".
    if grace < 0 { 1 } else { grace }
}

fn check_preconditions(kind: &Kind, current: &Value, options: &Options) -> Result<(), Failure> {
    let name = object::name(current);
    if let Some(wanted) = &options.uid
        && wanted != object::uid(current)
    {
        return Err(Failure::conflict(
            kind,
            name,
            &format!(
                "the UID in the precondition ({wanted}) does not match the UID in record ({}). The object might have been deleted and then recreated",
                object::uid(current)
            ),
        ));
    }
    if let Some(wanted) = &options.resource_version
        && wanted != object::resource_version(current)
    {
        return Err(Failure::conflict(
            kind,
            name,
            &format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({}). The object might have been modified",
                object::resource_version(current)
            ),
        ));
    }
    Ok(())
}

fn options(call: &Call) -> Result<Options, Failure> {
    let mut options =
        Options { is_dry_run: call.query.effect()? == Effect::DryRun, ..Options::default() };
    let (policy, orphan) = if call.body.is_empty() {
        options.grace_seconds = call.query.number("gracePeriodSeconds")?;
        (
            call.query.get("propagationPolicy").map(str::to_owned),
            call.query.has("orphanDependents").then(|| call.query.flag("orphanDependents")),
        )
    } else {
        let decoded = body::decode(call)?;
        read(&decoded.value, &mut options)?
    };
    options.propagation = propagation(policy, orphan)?;
    Ok(options)
}

/// DeleteOptions that another body holds, beside the request's own query.
pub(super) fn embedded(call: &Call, value: &Value) -> Result<Options, Failure> {
    let mut options =
        Options { is_dry_run: call.query.effect()? == Effect::DryRun, ..Options::default() };
    if !value.is_null() {
        let (policy, orphan) = read(value, &mut options)?;
        options.propagation = propagation(policy, orphan)?;
    }
    Ok(options)
}

fn propagation(
    policy: Option<String>,
    orphan: Option<bool>,
) -> Result<Option<Propagation>, Failure> {
    if let (Some(policy), Some(_)) = (&policy, orphan) {
        return Err(invalid_option(
            "propagationPolicy",
            "FieldValueInvalid",
            &format!(
                "Invalid value: \"{policy}\": orphanDependents and deletionPropagation cannot be both set"
            ),
        ));
    }
    Ok(match (policy.as_deref(), orphan) {
        (None, None) => None,
        (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
        (Some("Foreground"), _) => Some(Propagation::Foreground),
        (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
        (Some(other), _) => {
            return Err(invalid_option(
                "propagationPolicy",
                "FieldValueNotSupported",
                &format!(
                    "Unsupported value: \"{other}\": supported values: \"Background\", \"Foreground\", \"Orphan\""
                ),
            ));
        }
    })
}

/// `propagationPolicy` and its predecessor `orphanDependents`.
type Asked = (Option<String>, Option<bool>);

fn read(value: &Value, options: &mut Options) -> Result<Asked, Failure> {
    let Value::Object(fields) = value else {
        return Err(Failure::bad_request("DeleteOptions must be an object"));
    };
    for (key, field) in fields {
        let is_right = match key.as_str() {
            "kind" | "apiVersion" | "propagationPolicy" => field.is_string() || field.is_null(),
            "gracePeriodSeconds" => field.is_i64() || field.is_null(),
            "orphanDependents" => field.is_boolean() || field.is_null(),
            "dryRun" => field.is_array() || field.is_null(),
            "preconditions" => field.is_object() || field.is_null(),
            "ignoreStoreReadErrorWithClusterBreakingPotential" => {
                if field == true {
                    return Err(invalid_option(
                        key,
                        "FieldValueForbidden",
                        "Forbidden: this server never deletes what it cannot read",
                    ));
                }
                true
            }
            unknown => {
                options.warnings.push(format!("unknown field \"{unknown}\""));
                true
            }
        };
        if !is_right {
            return Err(Failure::bad_request(format!(
                "DeleteOptions in version \"v1\" cannot be handled as a DeleteOptions: field {key} has the wrong type"
            )));
        }
    }
    options.grace_seconds = value["gracePeriodSeconds"].as_i64();
    let precondition = |key: &str| value["preconditions"][key].as_str().map(str::to_owned);
    options.uid = precondition("uid");
    options.resource_version = precondition("resourceVersion");
    let dry_run = value["dryRun"].as_array().into_iter().flatten();
    if query::effect(dry_run.filter_map(Value::as_str))? == Effect::DryRun {
        options.is_dry_run = true;
    }
    Ok((
        value["propagationPolicy"].as_str().map(str::to_owned),
        value["orphanDependents"].as_bool(),
    ))
}

fn invalid_option(field: &str, reason: &str, message: &str) -> Failure {
    Failure::invalid_causes(
        "meta.k8s.io",
        "DeleteOptions",
        "",
        vec![Cause {
            reason: reason.to_owned(),
            message: message.to_owned(),
            field: field.to_owned(),
        }],
    )
}
