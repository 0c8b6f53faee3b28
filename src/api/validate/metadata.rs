//! The metadata every object carries: names, labels, annotations, owners, finalizers.
//!
//! It never looks at `spec`, `status` or `data`. What the server itself keeps in order (resourceVersion,
//! generation, managedFields) is not judged here.

use serde_json::Value;

use super::field::FieldError;
use super::name;
use super::place::Place;

/// Keys and values of all annotations together.
const MOST_ANNOTATION_BYTES: usize = 256 << 10;

/// Whether objects of a resource live in namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Cluster,
    Namespaced,
}

/// Complaints about a name.
pub type NameRule = fn(&str) -> Vec<String>;

/// Scope and name rule of a resource. Most names are DNS subdomains in a namespace.
pub fn rules(resource: &str) -> (Scope, NameRule) {
    match resource {
        "namespaces" => (Scope::Cluster, name::dns1123_label),
        "services" => (Scope::Namespaced, name::dns1035_label),
        "roles.rbac.authorization.k8s.io" | "rolebindings.rbac.authorization.k8s.io" => {
            (Scope::Namespaced, name::path_segment)
        }
        "clusterroles.rbac.authorization.k8s.io"
        | "clusterrolebindings.rbac.authorization.k8s.io"
        | "apiservices.apiregistration.k8s.io" => (Scope::Cluster, name::path_segment),
        _ if CLUSTER_SCOPED.contains(&resource) => (Scope::Cluster, name::dns1123_subdomain),
        _ => (Scope::Namespaced, name::dns1123_subdomain),
    }
}

/// The other built-in resources that live outside namespaces.
const CLUSTER_SCOPED: &[&str] = &[
    "certificatesigningrequests.certificates.k8s.io",
    "csidrivers.storage.k8s.io",
    "csinodes.storage.k8s.io",
    "customresourcedefinitions.apiextensions.k8s.io",
    "flowschemas.flowcontrol.apiserver.k8s.io",
    "ingressclasses.networking.k8s.io",
    "ipaddresses.networking.k8s.io",
    "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "nodes",
    "persistentvolumes",
    "priorityclasses.scheduling.k8s.io",
    "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io",
    "runtimeclasses.node.k8s.io",
    "servicecidrs.networking.k8s.io",
    "storageclasses.storage.k8s.io",
    "validatingadmissionpolicies.admissionregistration.k8s.io",
    "validatingadmissionpolicybindings.admissionregistration.k8s.io",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
    "volumeattachments.storage.k8s.io",
    "volumeattributesclasses.storage.k8s.io",
];

/// Errors in the metadata of a new object, whose name has been generated if it was to be.
pub fn create(object: &Value, (scope, rule): (Scope, NameRule)) -> Vec<FieldError> {
    let metadata = Place::root(object, "metadata");
    let mut errors = Vec::new();

    let prefix = metadata.child("generateName");
    if prefix.is_filled() {
        errors.extend(prefix.complain(rule(&without_trailing_dash(prefix.text()))));
    }
    let own = metadata.child("name");
    if own.is_filled() {
        errors.extend(own.complain(rule(own.text())));
    } else {
        errors.push(own.required_because("name or generateName is required"));
    }

    let namespace = metadata.child("namespace");
    match (scope, namespace.is_filled()) {
        (Scope::Namespaced, false) => errors.push(namespace.required()),
        (Scope::Namespaced, true) => {
            errors.extend(namespace.complain(name::dns1123_label(namespace.text())))
        }
        (Scope::Cluster, true) => errors.push(namespace.forbidden("not allowed on this type")),
        (Scope::Cluster, false) => {}
    }
    errors.extend(shared(&metadata));
    errors
}

/// Errors in what an update makes of the metadata. What `new` leaves out is meant to stay.
pub fn update(old: &Value, new: &Value) -> Vec<FieldError> {
    let metadata = Place::root(new, "metadata");
    let before = &old["metadata"];
    let mut errors = Vec::new();

    let finalizers = metadata.child("finalizers");
    if !before["deletionTimestamp"].is_null() {
        let kept = before["finalizers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut added: Vec<&str> =
            finalizers.items().filter(|f| !kept.contains(f.value)).map(|f| f.text()).collect();
        added.sort_unstable();
        if !added.is_empty() {
            errors.push(finalizers.forbidden(&format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{\"{}\"}}",
                added.join("\", \"")
            )));
        }
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        let place = metadata.child(field);
        if place.is_set() && *place.value != before[field] {
            errors.push(place.invalid("field is immutable"));
        }
    }
    errors.extend(shared(&metadata));
    errors
}

/// Labels and annotations of a pod template, which has no name.
pub fn template(metadata: &Place<'_>) -> Vec<FieldError> {
    let mut errors = labels(&metadata.child("labels"));
    errors.extend(annotations(&metadata.child("annotations")));
    errors
}

/// A map of labels or a node selector.
pub fn labels(labels: &Place<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in labels.entries() {
        for complaint in name::qualified_name(key) {
            errors.push(labels.invalid_value(&key.into(), &complaint));
        }
        for complaint in name::label_value(value.text()) {
            errors.push(labels.invalid_value(value.value, &complaint));
        }
    }
    errors
}

fn shared(metadata: &Place<'_>) -> Vec<FieldError> {
    let mut errors = template(metadata);
    errors.extend(owner_references(&metadata.child("ownerReferences")));
    errors.extend(finalizers(&metadata.child("finalizers")));
    errors
}

fn annotations(annotations: &Place<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut bytes = 0;
    for (key, value) in annotations.entries() {
        bytes += key.len() + value.text().len();
        // Case does not matter in annotation keys.
        for complaint in name::qualified_name(&key.to_lowercase()) {
            errors.push(annotations.invalid_value(&key.into(), &complaint));
        }
    }
    if bytes > MOST_ANNOTATION_BYTES {
        errors.push(FieldError::too_long(annotations, MOST_ANNOTATION_BYTES));
    }
    errors
}

fn owner_references(owners: &Place<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut controller: Option<String> = None;
    for owner in owners.items() {
        let text = |field: &str| owner.value[field].as_str().unwrap_or_default();
        if text("apiVersion").rsplit('/').next().is_none_or(str::is_empty) {
            errors.push(
                owners
                    .child("apiVersion")
                    .invalid_value(&text("apiVersion").into(), "version must not be empty"),
            );
        }
        for field in ["kind", "name", "uid"] {
            if text(field).is_empty() {
                errors.push(owners.child(field).invalid_value(&"".into(), "must not be empty"));
            }
        }
        if (text("apiVersion"), text("kind")) == ("v1", "Event") {
            errors.push(
                owners.invalid_value(
                    owner.value,
                    "/v1, Kind=Event is disallowed from being an owner",
                ),
            );
        }
        if owner.child("controller").is_true() {
            let this = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                Some(first) => errors.push(owners.invalid(&format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                ))),
                None => controller = Some(this),
            }
        }
    }
    errors
}

fn finalizers(finalizers: &Place<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for finalizer in finalizers.items() {
        for complaint in name::qualified_name(finalizer.text()) {
            errors.push(finalizers.invalid_value(finalizer.value, &complaint));
        }
    }
    let has = |text: &str| finalizers.items().any(|f| f.text() == text);
    if has("orphan") && has("foregroundDeletion") {
        errors
            .push(finalizers.invalid("finalizer orphan and foregroundDeletion cannot be both set"));
    }
    for finalizer in finalizers.items() {
        let text = finalizer.text();
        if !text.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&text) {
            errors
                .push(finalizer.invalid(
                    "name is neither a standard finalizer name nor is it fully qualified",
                ));
        }
    }
    errors
}

/// A prefix may end in dashes: the generated characters follow them.
fn without_trailing_dash(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => {
            let mut rest = rest.to_owned();
            rest.pop();
            rest.push('a');
            rest
        }
        _ => prefix.to_owned(),
    }
}
