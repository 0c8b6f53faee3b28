//! What the Pod Security labels of a namespace have to say about a write: a refusal for a pod that is changed, warnings for
//! what makes pods, and for a namespace that asks for more than before.
//!
//! New pods are refused by admission; the judgement itself is [`crate::api::security`]'s.

use serde_json::Value;

use crate::api::admit::{self, Admitted, Part};
use crate::api::catalog::{self, Kind};
use crate::api::failure::Failure;
use crate::api::security::{self, Policy};
use crate::api::verbs::selection::Selection;
use crate::api::verbs::{key, list, write};
use crate::api::{Api, object};

/// So many pods of a namespace are looked at when it asks for more, as in Kubernetes.
const MOST_PODS: usize = 3000;

/// Lets a change of a pod pass that its namespace does not forbid. As in Kubernetes only another image asks anew.
pub fn permit(
    api: &Api,
    kind: &Kind,
    part: Part,
    old: &Value,
    new: Admitted,
) -> Result<Admitted, Failure> {
    if kind.resource() != "pods" || part != Part::Main || !is_significant(old, new.value()) {
        return Ok(new);
    }
    let namespace = namespace_of(api, new.value())?;
    admit::pod::hold_to_standard(new.value(), object::name(old), namespace.as_ref())?;
    Ok(new)
}

/// What is to be told of an object that has just been written; `old` is what was there before.
pub fn warnings(
    api: &Api,
    kind: &Kind,
    part: Part,
    old: Option<&Value>,
    new: &Value,
) -> Vec<String> {
    if part != Part::Main {
        return Vec::new();
    }
    let pod = match kind.resource().as_str() {
        "namespaces" => return about_namespace(api, old, new),
        "pods" if old.is_some_and(|old| !is_significant(old, new)) => return Vec::new(),
        "pods" => new,
        "deployments.apps" | "replicasets.apps" => &new["spec"]["template"],
        _ => return Vec::new(),
    };
    // It is written: who cannot be asked any more has nothing to add.
    let Ok(Some(namespace)) = namespace_of(api, new) else { return Vec::new() };
    let (policy, _) = Policy::of(&namespace);
    let violations = security::violations(policy.warn, pod);
    if violations.is_empty() {
        return Vec::new();
    }
    let told = security::told(&violations);
    vec![format!("would violate PodSecurity \"{}\": {told}", policy.warn)]
}

fn about_namespace(api: &Api, old: Option<&Value>, new: &Value) -> Vec<String> {
    let (policy, _) = Policy::of(new);
    let before = old.map(|old| Policy::of(old).0);
    let mut warnings = Vec::new();
    let label = |object: &Value| object["metadata"]["labels"][Policy::AUDIT].clone();
    let is_new = old.is_none_or(|old| label(old) != label(new));
    if policy.audit.level != security::Level::Privileged && is_new {
        warnings.push(format!(
            "metadata.labels[{}]: this server keeps no audit log; label the namespace with pod-security.kubernetes.io/warn to be told of violations",
            Policy::AUDIT
        ));
    }
    if let Some(before) = before
        && policy.enforces_more_than(&before)
    {
        let name = object::name(new);
        let pods = catalog::pods();
        let Ok(found) = list::all(api, pods, Some(name), &Selection::everything(pods)) else {
            let told = "failed to list pods while checking new PodSecurity enforce level";
            return [warnings, vec![told.to_owned()]].concat();
        };
        let looked_at = &found[..found.len().min(MOST_PODS)];
        if looked_at.len() < found.len() {
            warnings.push(format!(
                "new PodSecurity enforce level only checked against the first {MOST_PODS} of {} existing pods",
                found.len()
            ));
        }
        warnings.extend(security::existing(name, policy.enforce, looked_at));
    }
    warnings
}

fn namespace_of(api: &Api, object: &Value) -> Result<Option<Value>, Failure> {
    let namespaces = catalog::namespaces();
    let name = object::text(object, &["metadata", "namespace"]);
    write::read(api, namespaces, &key(namespaces, None, name))
}

/// Whether a container has another image: of what the standards look at nothing else of a pod can change.
fn is_significant(old: &Value, new: &Value) -> bool {
    let images = |pod: &Value| -> Vec<Value> {
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        let all = lists.into_iter().flat_map(|list| pod["spec"][list].as_array()).flatten();
        all.map(|container| container["image"].clone()).collect()
    };
    images(old) != images(new)
}
