//! Whose an object is: controller references, adoption and release.
//!
//! Pure. A controller's children are those whose controller reference names its uid, and nothing else: names and
//! labels say who may adopt, never who owns.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector as Typed, OwnerReference};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::caches::{Held, controller};
use super::decide::{Intent, Target, Told, Write};
use crate::model::selector::LabelSelector;

/// The children of one root among the objects of its namespace.
#[derive(Debug)]
pub struct Claim<K> {
    /// Ours, by uid and by labels.
    pub owned: Vec<Arc<K>>,
    /// Nobody's, and our selector matches.
    pub adopt: Vec<Arc<K>>,
    /// Ours, but their labels no longer match.
    pub release: Vec<Arc<K>>,
}

/// Sorts `objects` into what `root` owns, may adopt and has to let go. A root that is being deleted does neither.
pub fn claim<R: Resource, K: Held>(
    root: &R,
    selector: &LabelSelector,
    objects: impl IntoIterator<Item = Arc<K>>,
) -> Claim<K> {
    let mut claim = Claim { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    let is_going = root.meta().deletion_timestamp.is_some();
    for object in objects {
        let matches = selector.matches(object.labels());
        match controller(object.as_ref()) {
            Some(owner) if Some(&owner.uid) != root.meta().uid.as_ref() => {}
            Some(_) if matches => claim.owned.push(object),
            Some(_) if is_going => {}
            Some(_) => claim.release.push(object),
            None if matches && !is_going && object.meta().deletion_timestamp.is_none() => {
                claim.adopt.push(object);
            }
            None => {}
        }
    }
    claim
}

impl<K: Held> Claim<K> {
    /// The writes that make the claim true.
    pub fn intents(&self, by: &OwnerReference) -> Vec<Intent> {
        let adopt = self.adopt.iter().map(|object| {
            let mut owners = object.owner_references().to_vec();
            owners.retain(|owner| owner.uid != by.uid);
            owners.push(by.clone());
            let patch = json!({"metadata": {"ownerReferences": owners}});
            Write::Adopt { kind: K::KIND, target: Target::of(object.meta()), patch }
        });
        let release = self.release.iter().map(|object| {
            let mut owners = object.owner_references().to_vec();
            owners.retain(|owner| owner.uid != by.uid);
            let owners = if owners.is_empty() { Value::Null } else { json!(owners) };
            let patch = json!({"metadata": {"ownerReferences": owners}});
            Write::Patch { kind: K::KIND, target: Target::of(object.meta()), patch }
        });
        adopt.chain(release).map(|write| Intent { write, told: Told::Nothing }).collect()
    }
}

/// The reference that makes `root` the controller of what carries it.
pub fn controlled_by<R: Resource<DynamicType = ()>>(root: &R) -> OwnerReference {
    OwnerReference {
        api_version: R::api_version(&()).into_owned(),
        kind: R::kind(&()).into_owned(),
        name: root.meta().name.clone().unwrap_or_default(),
        uid: root.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A typed selector, ready to match. What cannot be read was refused when it was written; it matches nothing.
pub fn selector(typed: &Typed) -> LabelSelector {
    serde_json::to_value(typed)
        .ok()
        .and_then(|value| LabelSelector::from_json(&value).ok())
        .unwrap_or_else(LabelSelector::nothing)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};

    use super::*;

    fn root(deleted: bool) -> ReplicaSet {
        let at = deleted.then_some("2026-01-01T00:00:00Z");
        serde_json::from_value(
            json!({"metadata": {"name": "web", "uid": "R", "deletionTimestamp": at}}),
        )
        .unwrap()
    }

    fn pod(name: &str, label: &str, owner: Option<&str>) -> Arc<Pod> {
        let owners = owner.map(|uid| {
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": uid, "controller": true}])
        });
        let pod = json!({"metadata": {
            "name": name, "uid": name, "resourceVersion": "7", "labels": {"app": label}, "ownerReferences": owners,
        }});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn claimed(deleted: bool) -> [Vec<String>; 3] {
        let pods = [
            pod("mine", "web", Some("R")),
            pod("strayed", "other", Some("R")),
            pod("orphan", "web", None),
            // The same name and labels, another uid: a namesake's.
            pod("foreign", "web", Some("S")),
            pod("unrelated", "other", None),
        ];
        let selector = LabelSelector::parse("app=web").unwrap();
        let claim = claim(&root(deleted), &selector, pods);
        [claim.owned, claim.adopt, claim.release]
            .map(|pods| pods.iter().map(|pod| pod.name_any()).collect())
    }

    #[test]
    fn only_the_uid_owns_and_only_the_selector_adopts_and_releases() {
        assert_eq!(claimed(false), [vec!["mine"], vec!["orphan"], vec!["strayed"]]);
        assert_eq!(claimed(true), [vec!["mine"], vec![], vec![]], "a root that goes");
    }

    #[test]
    fn adoption_is_verified_and_release_leaves_other_owners_alone() {
        let selector = LabelSelector::parse("app=web").unwrap();
        let pods = [pod("strayed", "other", Some("R")), pod("orphan", "web", None)];
        let intents = claim(&root(false), &selector, pods).intents(&controlled_by(&root(false)));
        assert!(matches!(&intents[0].write, Write::Adopt { target, patch, .. }
            if target.uid == "orphan" && patch["metadata"]["ownerReferences"][0]["uid"] == "R"));
        assert!(matches!(&intents[1].write, Write::Patch { target, patch, .. }
            if target.uid == "strayed" && patch["metadata"]["ownerReferences"].is_null()));
    }
}
