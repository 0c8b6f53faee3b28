//! From what a client sent to what may be stored: server-owned metadata, admission, defaults,
//! validation.
//!
//! [`Admitted`] is a one-way door: only this module makes one, and only an admitted object is
//! committed. Pure: everything about other objects, time and randomness arrives as facts.

mod account_token;
pub mod ingress;
pub mod pod;
pub mod service;

use serde_json::{Map, Value, json};

use crate::api::catalog::{Generation, Kind, Purpose};
use crate::api::failure::{Cause, Failure};
use crate::api::managed::{self, Writer};
use crate::api::validate::{self, FieldError};
use crate::api::{defaults, object};
use crate::model::time::Timestamp;

/// An object that obeys every rule; the proof that this module has seen it.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted(Value);

impl Admitted {
    pub fn value(&self) -> &Value {
        &self.0
    }

    pub fn into_value(self) -> Value {
        self.0
    }

    /// Puts in what had to be allocated: the object has been judged without it.
    pub fn with_spec(mut self, spec: Map<String, Value>) -> Admitted {
        self.0["spec"] = Value::Object(spec);
        self
    }
}

/// Everything a creation depends on beside the object.
#[derive(Debug)]
pub struct CreateFacts<'a> {
    pub now: Timestamp,
    pub uid: String,
    /// The final name (given, or generated); empty if the client gave neither.
    pub name: String,
    /// For a namespaced kind.
    pub namespace: Option<NamespaceFact<'a>>,
    /// For a pod: the account it asks for, see [`pod::service_account_name`].
    pub service_account: Option<&'a Value>,
    /// For an Ingress without a class: all classes.
    pub ingress_classes: &'a [Value],
}

/// The namespace an object goes to.
#[derive(Debug)]
pub struct NamespaceFact<'a> {
    pub name: &'a str,
    pub object: Option<&'a Value>,
}

/// Which part of an object an update may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but status (for kinds that have a status endpoint).
    Main,
    Status,
    /// A namespace's `spec.finalizers`.
    Finalizers,
}

impl Part {
    /// The endpoint's name in records of ownership.
    pub fn subresource(self) -> &'static str {
        match self {
            Part::Main => "",
            Part::Status => "status",
            Part::Finalizers => "finalize",
        }
    }

    pub fn of(purpose: Purpose) -> Option<Part> {
        match purpose {
            Purpose::Status => Some(Part::Status),
            Purpose::Finalize => Some(Part::Finalizers),
            Purpose::Scale
            | Purpose::Binding
            | Purpose::Eviction
            | Purpose::Token
            | Purpose::Log
            | Purpose::Exec
            | Purpose::Attach
            | Purpose::PortForward
            | Purpose::Proxy
            | Purpose::EphemeralContainers => None,
        }
    }
}

/// Admits a new object.
pub fn create(kind: &Kind, mut new: Value, facts: &CreateFacts<'_>) -> Result<Admitted, Failure> {
    let asked = asked_name(&new, facts).to_owned();
    if let Some(namespace) = &facts.namespace {
        lifecycle(kind, &asked, namespace)?;
    }
    let metadata = object::metadata_mut(&mut new);
    for owned in [
        "selfLink",
        "resourceVersion",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        metadata.shift_remove(owned);
    }
    if !facts.name.is_empty() {
        metadata.insert("name".to_owned(), facts.name.clone().into());
    }
    match &facts.namespace {
        Some(namespace) => {
            metadata.insert("namespace".to_owned(), namespace.name.into());
        }
        None => {
            metadata.shift_remove("namespace");
        }
    }
    metadata.insert("uid".to_owned(), facts.uid.clone().into());
    metadata.insert("creationTimestamp".to_owned(), facts.now.to_seconds_text().into());
    if kind.generation == Generation::Counted {
        metadata.insert("generation".to_owned(), 1.into());
    }
    // A status is told by who observes it. A node tells its first one with itself.
    if kind.subresource("status").is_some() && kind.resource() != "nodes" {
        new["status"] = json!({});
    }
    match kind.resource().as_str() {
        "pods" => pod::prepare(&mut new, &asked, facts)?,
        "namespaces" => prepare_namespace(&mut new),
        "services" => service::refuse_external_ips(kind, &new)?,
        "ingresses.networking.k8s.io" => ingress::prepare(&mut new, facts.ingress_classes),
        _ => {}
    }
    complete(kind, &mut new);
    match kind.resource().as_str() {
        "pods" => pod::initial_status(&mut new),
        "services" => service::prepare(&mut new),
        _ => {}
    }
    refuse_any(kind, &facts.name, validate::create(&kind.resource(), &new))?;
    if kind.resource() == "pods" {
        let namespace = facts.namespace.as_ref().and_then(|fact| fact.object);
        pod::hold_to_standard(&new, &facts.name, namespace)?;
    }
    Ok(Admitted(object::canonical(new)))
}

/// Admits a change of `old`. The caller has compared resource versions already.
pub fn update(kind: &Kind, part: Part, old: &Value, mut new: Value) -> Result<Admitted, Failure> {
    let name = object::name(old);
    let uid = object::uid(&new);
    if !uid.is_empty() && uid != object::uid(old) {
        return Err(Failure::conflict(
            kind,
            name,
            &format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                object::uid(old)
            ),
        ));
    }
    keep_owned_metadata(old, &mut new);
    keep_other_parts(kind, part, old, &mut new);
    complete(kind, &mut new);
    if kind.resource() == "services" {
        service::refuse_external_ips(kind, &new)?;
        if part == Part::Main {
            service::carry_over(old, &mut new);
        }
    }
    let mut new = object::canonical(new);
    if kind.generation == Generation::Counted && !same_intent(old, &new) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        object::metadata_mut(&mut new).insert("generation".to_owned(), (generation + 1).into());
        new = object::canonical(new);
    }
    refuse_any(kind, name, new_finalizers(old, &new))?;
    let resource = kind.resource();
    let errors = match part {
        Part::Main | Part::Finalizers => validate::update(&resource, old, &new),
        Part::Status => validate::update_status(&resource, old, &new),
    };
    refuse_any(kind, name, errors)?;
    Ok(Admitted(new))
}

/// As [`update`], and records that `writer` did it.
pub fn update_by(
    kind: &Kind,
    part: Part,
    old: &Value,
    new: Value,
    writer: &Writer<'_>,
) -> Result<Admitted, Failure> {
    let Admitted(mut new) = update(kind, part, old, new)?;
    managed::track(kind, old, &mut new, writer);
    Ok(Admitted(new))
}

/// Admits the mark of a begun deletion: the object stays until its finalizers are gone and, for a
/// pod, its node has let go of it.
pub fn mark_deleted(
    kind: &Kind,
    old: &Value,
    at: Timestamp,
    grace_seconds: i64,
    finalizers: &[&str],
) -> Admitted {
    let mut new = old.clone();
    let is_first = !object::is_terminating(old);
    let metadata = object::metadata_mut(&mut new);
    metadata.insert("finalizers".to_owned(), finalizers.into());
    metadata.insert("deletionTimestamp".to_owned(), at.to_seconds_text().into());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), grace_seconds.into());
    if is_first && kind.generation == Generation::Counted {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        metadata.insert("generation".to_owned(), (generation + 1).into());
    }
    if kind.resource() == "namespaces" {
        new["status"]["phase"] = "Terminating".into();
    }
    Admitted(object::canonical(new))
}

/// Admits the binding of a pod that is bound to no node yet.
pub fn bind(kind: &Kind, old: &Value, node: &str, now: Timestamp) -> Admitted {
    let mut new = old.clone();
    object::map_mut(&mut new, "spec").insert("nodeName".to_owned(), node.into());
    pod::set_scheduled(&mut new, now);
    if kind.generation == Generation::Counted {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        object::metadata_mut(&mut new).insert("generation".to_owned(), (generation + 1).into());
    }
    Admitted(object::canonical(new))
}

/// The name that a refusal shows before the object is complete: what the client said. Kubernetes' mutating admission comes
/// before the name is generated, and its validation after.
fn asked_name<'a>(new: &'a Value, facts: &'a CreateFacts<'_>) -> &'a str {
    match (object::name(new), object::text(new, &["metadata", "generateName"])) {
        ("", base) if !base.is_empty() => base,
        _ => &facts.name,
    }
}

/// Defaults, and the schema's idea of an identity.
fn complete(kind: &Kind, new: &mut Value) {
    new["kind"] = kind.kind.into();
    new["apiVersion"] = kind.api_version().into();
    defaults::apply(&kind.resource(), new);
}

/// NamespaceLifecycle: nothing is created where there is no namespace, or in one that goes away.
fn lifecycle(kind: &Kind, name: &str, namespace: &NamespaceFact<'_>) -> Result<(), Failure> {
    let Some(found) = namespace.object else {
        return Err(Failure::resource_not_found("", "namespaces", namespace.name));
    };
    if object::is_terminating(found) {
        return Err(Failure::forbidden(
            kind.group,
            kind.plural,
            name,
            &format!(
                "unable to create new content in namespace {} because it is being terminated",
                namespace.name
            ),
        )
        .with_cause(Cause {
            reason: "NamespaceTerminating".to_owned(),
            message: format!("namespace {} is being terminated", namespace.name),
            field: "metadata.namespace".to_owned(),
        }));
    }
    Ok(())
}

fn prepare_namespace(new: &mut Value) {
    new["status"] = json!({"phase": "Active"});
    let spec = object::map_mut(new, "spec");
    let finalizers = spec.entry("finalizers").or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(list) = finalizers
        && !list.iter().any(|item| item == "kubernetes")
    {
        list.push("kubernetes".into());
    }
}

/// Metadata that no client changes.
fn keep_owned_metadata(old: &Value, new: &mut Value) {
    for key in [
        "name",
        "generateName",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        object::copy_metadata(new, old, key);
    }
    managed::carry_over(old, new);
    object::metadata_mut(new).shift_remove("selfLink");
}

fn keep_other_parts(kind: &Kind, part: Part, old: &Value, new: &mut Value) {
    let has_status_endpoint = kind.subresource("status").is_some();
    match part {
        Part::Main => {
            if has_status_endpoint {
                object::copy(new, old, "status");
            }
            if kind.resource() == "namespaces" {
                let finalizers = old["spec"]["finalizers"].clone();
                object::map_mut(new, "spec").insert("finalizers".to_owned(), finalizers);
            }
        }
        Part::Status => {
            let keys: Vec<String> = both_keys(old, new);
            for key in keys {
                if !matches!(key.as_str(), "metadata" | "status" | "kind" | "apiVersion") {
                    object::copy(new, old, &key);
                }
            }
            object::copy_metadata(new, old, "ownerReferences");
        }
        Part::Finalizers => {
            let finalizers = new["spec"]["finalizers"].clone();
            let status = new.get("status").cloned();
            let metadata = new["metadata"].clone();
            *new = old.clone();
            new["metadata"] = metadata;
            if let Some(status) = status {
                new["status"] = status;
            }
            object::map_mut(new, "spec").insert("finalizers".to_owned(), finalizers);
        }
    }
}

fn both_keys(one: &Value, other: &Value) -> Vec<String> {
    let keys = |value: &Value| -> Vec<String> {
        value.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default()
    };
    let mut all = keys(one);
    all.extend(keys(other));
    all.sort();
    all.dedup();
    all
}

/// Whether everything but metadata and status is the same.
fn same_intent(old: &Value, new: &Value) -> bool {
    both_keys(old, new)
        .iter()
        .filter(|key| !matches!(key.as_str(), "metadata" | "status"))
        .all(|key| old.get(key) == new.get(key))
}

/// Once a deletion has begun, finalizers can only go.
fn new_finalizers(old: &Value, new: &Value) -> Vec<FieldError> {
    if !object::is_terminating(old) {
        return Vec::new();
    }
    let before = object::finalizers(old);
    let added: Vec<String> = object::finalizers(new)
        .into_iter()
        .filter(|finalizer| !before.contains(finalizer))
        .map(|finalizer| format!("{finalizer:?}"))
        .collect();
    if added.is_empty() {
        return Vec::new();
    }
    vec![FieldError::forbidden(
        "metadata.finalizers",
        &format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            added.join(", ")
        ),
    )]
}

fn refuse_any(kind: &Kind, name: &str, errors: Vec<FieldError>) -> Result<(), Failure> {
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Failure::invalid(kind.group, kind.kind, name, &errors)),
    }
}

#[cfg(test)]
mod tests;
