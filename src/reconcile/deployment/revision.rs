//! Which template is which: hashes and names of ReplicaSets, revisions, and the annotations that carry them.
//!
//! Pure. `kubectl rollout history` and `undo` read these annotations, so they are written as Kubernetes does.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::ResourceExt;

pub const HASH_LABEL: &str = "pod-template-hash";
pub const REVISION: &str = "deployment.kubernetes.io/revision";
pub const HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";

/// Annotations of a Deployment that its ReplicaSets do not share.
const OWN: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAXIMUM,
    "deprecated.deployment.rollback.to",
];
/// The history is cut to this length, as the reference controller does.
const HISTORY_LIMIT: usize = 2000;

/// The template's hash as Kubernetes writes hashes: digits in an alphabet that spells no words.
///
/// `collisions` is `status.collisionCount`, which tells templates apart that hash alike.
pub fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let text = serde_json::to_string(template).unwrap_or_default();
    let mut sum = 0x811c_9dc5_u32;
    let suffix = collisions.map(i32::to_le_bytes);
    for byte in text.bytes().chain(suffix.into_iter().flatten()) {
        // FNV-1a, 32 bits.
        sum = (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    let digits = sum.to_string();
    digits.bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

/// Whether a ReplicaSet has this very template, its hash label apart.
pub fn has_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let Some(held) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else {
        return false;
    };
    without_hash(held) == without_hash(template)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut plain = template.clone();
    let metadata = plain.metadata.get_or_insert_default();
    if let Some(labels) = &mut metadata.labels {
        labels.remove(HASH_LABEL);
    }
    metadata.labels = metadata.labels.take().filter(|labels| !labels.is_empty());
    metadata.annotations = metadata.annotations.take().filter(|held| !held.is_empty());
    plain
}

/// The revision of a ReplicaSet; 0 before it has one.
pub fn of(set: &ReplicaSet) -> i64 {
    set.annotations().get(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The annotations that the ReplicaSet of the newest template is to have. `set` is `None` when it is to be made.
pub fn annotations(
    deployment: &Deployment,
    set: Option<&ReplicaSet>,
    revision: i64,
    (desired, maximum): (i32, i32),
) -> BTreeMap<String, String> {
    let mut wanted = set.map(|set| set.annotations().clone()).unwrap_or_default();
    for (key, value) in deployment.annotations() {
        if !OWN.contains(&key.as_str()) {
            wanted.insert(key.clone(), value.clone());
        }
    }
    let held = wanted.get(REVISION).cloned();
    let number = held.as_ref().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    if number < revision {
        wanted.insert(REVISION.into(), revision.to_string());
        if let Some(held) = held {
            let history = wanted.get(HISTORY).cloned().unwrap_or_default();
            wanted.insert(HISTORY.into(), longer(&history, &held));
        }
    }
    if set.is_none() {
        wanted.insert(DESIRED.into(), desired.to_string());
        wanted.insert(MAXIMUM.into(), maximum.to_string());
    }
    wanted
}

/// The annotations of a Deployment that goes back to the template of `set`: those that came with it, such as the
/// change-cause, and nothing that came since (kubectl's `rollback.go`). What is the Deployment's own stays.
pub fn annotations_of_undo(deployment: &Deployment, set: &ReplicaSet) -> BTreeMap<String, String> {
    let is_own = |key: &String| OWN.contains(&key.as_str());
    let kept = deployment.annotations().iter().filter(|(key, _)| is_own(key));
    let restored = set.annotations().iter().filter(|(key, _)| !is_own(key));
    kept.chain(restored).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The history with one more revision, its oldest entries dropped when it gets too long.
fn longer(history: &str, revision: &str) -> String {
    let mut entries: Vec<&str> = history.split(',').filter(|entry| !entry.is_empty()).collect();
    entries.push(revision);
    while entries.len() > 1 && entries.iter().map(|e| e.len() + 1).sum::<usize>() > HISTORY_LIMIT {
        entries.remove(0);
    }
    entries.join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "a", "image": image}]},
        }))
        .unwrap()
    }

    fn set(image: &str, annotations: serde_json::Value) -> ReplicaSet {
        let mut set: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"name": "web-x", "annotations": annotations},
            "spec": {"selector": {}, "template": template(image)},
        }))
        .unwrap();
        let template = set.spec.as_mut().unwrap().template.as_mut().unwrap();
        let labels = template.metadata.as_mut().unwrap().labels.as_mut().unwrap();
        labels.insert(HASH_LABEL.into(), "bcd".into());
        set
    }

    #[test]
    fn undo_brings_back_the_annotations_that_came_with_the_template() {
        let deployment: Deployment = serde_json::from_value(json!({"metadata": {"annotations": {
            "kubernetes.io/change-cause": "newer", "only": "newer", REVISION: "3",
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
        }}}))
        .expect("a Deployment");
        let old =
            set("a:1", json!({"kubernetes.io/change-cause": "older", REVISION: "2", DESIRED: "3"}));
        let restored = annotations_of_undo(&deployment, &old);
        let lines: Vec<_> = restored.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            lines,
            [
                "deployment.kubernetes.io/revision=3",
                "kubectl.kubernetes.io/last-applied-configuration={}",
                "kubernetes.io/change-cause=older",
            ]
        );
    }

    #[test]
    fn equal_templates_hash_alike_and_a_collision_tells_others_apart() {
        let hashed = hash(&template("web:1"), None);
        assert_eq!(hashed, hash(&template("web:1"), None));
        assert_ne!(hashed, hash(&template("web:2"), None));
        assert_ne!(hashed, hash(&template("web:1"), Some(1)));
        assert!(hashed.len() <= 10 && hashed.chars().all(|c| c.is_ascii_alphanumeric()));
    }

    #[test]
    fn a_template_is_recognised_by_everything_but_its_hash_label() {
        assert!(has_template(&set("web:1", json!({})), &template("web:1")));
        assert!(!has_template(&set("web:1", json!({})), &template("web:2")));
        let mut restarted = template("web:1");
        let metadata = restarted.metadata.as_mut().unwrap();
        metadata.annotations =
            Some([("kubectl.kubernetes.io/restartedAt".into(), "now".into())].into());
        assert!(!has_template(&set("web:1", json!({})), &restarted));
    }

    #[test]
    fn a_reused_set_gets_the_newest_revision_and_remembers_its_old_ones() {
        let deployment: Deployment = serde_json::from_value(json!({"metadata": {"annotations": {
            "kubernetes.io/change-cause": "back", REVISION: "3",
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
        }}}))
        .unwrap();
        let old = set("web:1", json!({REVISION: "1", DESIRED: "3", MAXIMUM: "4"}));
        let wanted = annotations(&deployment, Some(&old), 4, (3, 4));
        let wanted: Vec<_> = wanted.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            wanted,
            [
                "deployment.kubernetes.io/desired-replicas=3",
                "deployment.kubernetes.io/max-replicas=4",
                "deployment.kubernetes.io/revision=4",
                "deployment.kubernetes.io/revision-history=1",
                "kubernetes.io/change-cause=back",
            ]
        );
        assert_eq!(longer("1,3", "7"), "1,3,7");
        assert!(longer(&"1234,".repeat(500), "5").len() <= HISTORY_LIMIT);
    }
}
