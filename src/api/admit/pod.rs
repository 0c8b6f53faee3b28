//! What admission adds to a new pod: its account and token, priority and tolerations, and its first status.
//!
//! It never looks accounts up; the caller brings the one [`service_account_name`] names. Pure.

use serde_json::{Value, json};

use crate::api::admit::{CreateFacts, account_token};
use crate::api::failure::Failure;
use crate::api::object;
use crate::api::security::{self, Policy};
use crate::model::quantity::Quantity;
use crate::model::time::Timestamp;

/// The account a pod asks for.
pub fn service_account_name(pod: &Value) -> &str {
    let current = object::text(pod, &["spec", "serviceAccountName"]);
    let deprecated = object::text(pod, &["spec", "serviceAccount"]);
    match (current, deprecated) {
        ("", "") => "default",
        ("", deprecated) => deprecated,
        (current, _) => current,
    }
}

/// Priority classes every cluster has.
const SYSTEM_CLASSES: &[(&str, i64)] =
    &[("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

/// ServiceAccount, Priority and DefaultTolerationSeconds admission.
pub(super) fn prepare(pod: &mut Value, name: &str, facts: &CreateFacts<'_>) -> Result<(), Failure> {
    account(pod, name, facts)?;
    priority(pod, name)?;
    tolerations(pod);
    Ok(())
}

/// PodSecurity admission (KEP-2579): a pod that violates what its namespace enforces is refused, by its name, generated or not.
pub fn hold_to_standard(pod: &Value, name: &str, namespace: Option<&Value>) -> Result<(), Failure> {
    let Some(namespace) = namespace else {
        return Ok(());
    };
    let (policy, _) = Policy::of(namespace);
    let violations = security::violations(policy.enforce, pod);
    if violations.is_empty() {
        return Ok(());
    }
    let told = security::told(&violations);
    let why = format!("violates PodSecurity \"{}\": {told}", policy.enforce);
    Err(Failure::forbidden("", "pods", name, &why))
}

fn account(pod: &mut Value, name: &str, facts: &CreateFacts<'_>) -> Result<(), Failure> {
    let account = service_account_name(pod).to_owned();
    let namespace = facts.namespace.as_ref().map_or("", |fact| fact.name);
    let Some(found) = facts.service_account else {
        return Err(Failure::forbidden(
            "",
            "pods",
            name,
            &format!(
                "error looking up service account {namespace}/{account}: serviceaccount \"{account}\" not found"
            ),
        ));
    };
    let pull_secrets = found["imagePullSecrets"].clone();
    let spec = object::map_mut(pod, "spec");
    spec.insert("serviceAccountName".to_owned(), account.clone().into());
    spec.insert("serviceAccount".to_owned(), account.into());
    let has_none = spec
        .get("imagePullSecrets")
        .is_none_or(|list| list.as_array().is_some_and(Vec::is_empty) || list.is_null());
    if has_none && pull_secrets.as_array().is_some_and(|list| !list.is_empty()) {
        spec.insert("imagePullSecrets".to_owned(), pull_secrets);
    }
    account_token::mount(pod, found, &facts.uid);
    Ok(())
}

fn priority(pod: &mut Value, name: &str) -> Result<(), Failure> {
    let class = object::text(pod, &["spec", "priorityClassName"]).to_owned();
    let computed = match class.as_str() {
        "" => 0,
        class => SYSTEM_CLASSES
            .iter()
            .find(|(known, _)| *known == class)
            .map(|(_, value)| *value)
            .ok_or_else(|| {
                Failure::forbidden(
                    "",
                    "pods",
                    name,
                    &format!("no PriorityClass with name {class} was found"),
                )
            })?,
    };
    if let Some(given) = pod["spec"]["priority"].as_i64()
        && given != computed
    {
        return Err(Failure::forbidden(
            "",
            "pods",
            name,
            &format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {computed} from the given PriorityClass name"
            ),
        ));
    }
    let spec = object::map_mut(pod, "spec");
    spec.insert("priority".to_owned(), computed.into());
    if spec.get("preemptionPolicy").is_none_or(Value::is_null) {
        spec.insert("preemptionPolicy".to_owned(), "PreemptLowerPriority".into());
    }
    Ok(())
}

fn tolerations(pod: &mut Value) {
    const SECONDS: i64 = 300;
    let spec = object::map_mut(pod, "spec");
    let slot = spec.entry("tolerations").or_insert_with(|| Value::Array(Vec::new()));
    if slot.is_null() {
        *slot = Value::Array(Vec::new());
    }
    let Value::Array(list) = slot else {
        return; // Validation names the wrong type.
    };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        if !list.iter().any(|toleration| tolerates(toleration, key)) {
            list.push(json!({
                "key": key,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": SECONDS,
            }));
        }
    }
}

fn tolerates(toleration: &Value, key: &str) -> bool {
    matches!(object::text(toleration, &["effect"]), "" | "NoExecute")
        && matches!(object::text(toleration, &["key"]), own if own.is_empty() || own == key)
}

/// The status of a pod that nobody has looked at yet; whatever the client sent is dropped.
pub(super) fn initial_status(pod: &mut Value) {
    let class = qos_class(pod);
    pod["status"] = json!({"phase": "Pending", "qosClass": class});
}

/// Guaranteed, Burstable or BestEffort, from every container's requests and limits of cpu and memory.
fn qos_class(pod: &Value) -> &'static str {
    let containers: Vec<&Value> = ["containers", "initContainers"]
        .iter()
        .filter_map(|list| pod["spec"][*list].as_array())
        .flatten()
        .collect();
    let mut is_best_effort = true;
    let mut is_guaranteed = true;
    for container in containers {
        for resource in ["cpu", "memory"] {
            let amount = |side: &str| {
                object::text(container, &["resources", side, resource])
                    .parse::<Quantity>()
                    .ok()
                    .filter(|quantity| !quantity.is_zero())
            };
            let (request, limit) = (amount("requests"), amount("limits"));
            if request.is_some() || limit.is_some() {
                is_best_effort = false;
            }
            // A missing request equals the limit by defaulting.
            if limit.is_none() || request.is_some() && request != limit {
                is_guaranteed = false;
            }
        }
    }
    match (is_best_effort, is_guaranteed) {
        (true, _) => "BestEffort",
        (false, true) => "Guaranteed",
        (false, false) => "Burstable",
    }
}

/// Records that the pod has a node.
pub(super) fn set_scheduled(pod: &mut Value, now: Timestamp) {
    let condition = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": now.to_seconds_text(),
    });
    let status = object::map_mut(pod, "status");
    let conditions = status.entry("conditions").or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(list) = conditions {
        list.retain(|existing| existing["type"] != "PodScheduled");
        list.push(condition);
    }
}
