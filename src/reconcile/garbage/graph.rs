//! Who depends on whom, and what has to become of an object whose owners go.
//!
//! Pure. It knows metadata alone, of every kind. That an owner is absent it never takes from its own ignorance: it
//! asks for a read, and judges on the answer.
//!
//! ```text
//! an owner was deleted …   its dependents …                         and the owner …
//!   in the background        are deleted once every owner is gone     is gone already
//!   in the foreground        are deleted in the foreground            waits for those that block its deletion
//!   orphaning                lose their reference to it               waits until they have
//! ```

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};

/// The finalizers by which a deletion says what becomes of dependents.
pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";

/// One object.
#[derive(Debug, Clone)]
pub struct Node {
    /// As references name it.
    pub api_version: String,
    pub kind: String,
    pub metadata: ObjectMeta,
}

impl Node {
    fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn owners(&self) -> &[OwnerReference] {
        self.metadata.owner_references.as_deref().unwrap_or_default()
    }

    fn has_finalizer(&self, name: &str) -> bool {
        self.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == name)
    }

    fn is_going(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Waits for its dependents to be deleted.
    fn goes_after_dependents(&self) -> bool {
        self.is_going() && self.has_finalizer(FOREGROUND)
    }
}

/// What a read of an owner by the name in a reference has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Present {
        goes_after_dependents: bool,
    },
    /// Nothing of that name, or something younger.
    Absent,
    /// A kind that nobody serves, or one of a namespace where the dependent has none: nothing can be said.
    Unknown,
}

/// What to do about an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Keep,
    /// Read these owners first, then judge again with the answers by uid.
    Read(Vec<OwnerReference>),
    Delete {
        policy: Policy,
    },
    /// A JSON merge patch of the object's metadata.
    Patch {
        metadata: Value,
    },
    /// These dependents lose their reference; each with its patch. Then the object is judged again.
    Release {
        dependents: Vec<(String, Value)>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Background,
    Foreground,
    Orphan,
}

/// All objects, and what has to be judged.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: BTreeMap<String, Node>,
    /// By uid of the owner, which may be unknown.
    dependents: BTreeMap<String, BTreeSet<String>>,
    suspects: BTreeSet<String>,
}

impl Graph {
    /// Learns of an object, new or changed.
    pub fn see(&mut self, node: Node) {
        let uid = node.uid().to_owned();
        let before = self.nodes.get(&uid);
        let was_waiting = before.is_some_and(Node::goes_after_dependents);
        for owner in before.map(|node| node.owners().to_vec()).unwrap_or_default() {
            if let Some(held) = self.dependents.get_mut(&owner.uid) {
                held.remove(&uid);
            }
        }
        for owner in node.owners() {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
            let owner = self.nodes.get(&owner.uid);
            // A reference that was rewritten may have unblocked its owner.
            if owner.is_none_or(Node::goes_after_dependents) {
                self.suspects.insert(uid.clone());
            }
        }
        if let Some(before) = self.nodes.get(&uid) {
            let waiting = before.owners().iter().filter(|owner| {
                self.nodes.get(&owner.uid).is_some_and(Node::goes_after_dependents)
            });
            self.suspects.extend(waiting.map(|owner| owner.uid.clone()));
        }
        if node.is_going() && (node.has_finalizer(FOREGROUND) || node.has_finalizer(ORPHAN)) {
            self.suspects.insert(uid.clone());
            if node.has_finalizer(FOREGROUND) && !was_waiting {
                self.suspects.extend(self.dependents_of(&uid));
            }
        }
        if self.crosses(&node).is_some() {
            self.suspects.insert(uid.clone());
        }
        self.nodes.insert(uid, node);
    }

    /// Learns that an object is gone.
    pub fn forget(&mut self, uid: &str) {
        let Some(node) = self.nodes.remove(uid) else { return };
        self.suspects.remove(uid);
        for owner in node.owners() {
            if let Some(held) = self.dependents.get_mut(&owner.uid) {
                held.remove(uid);
                if held.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
            if self.nodes.get(&owner.uid).is_some_and(Node::goes_after_dependents) {
                self.suspects.insert(owner.uid.clone());
            }
        }
        self.suspects.extend(self.dependents_of(uid));
    }

    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The uids known for one kind.
    pub fn of_kind(&self, api_version: &str, kind: &str) -> BTreeSet<String> {
        let is = |node: &&Node| node.api_version == api_version && node.kind == kind;
        self.nodes.values().filter(is).map(|node| node.uid().to_owned()).collect()
    }

    /// Takes what has to be judged.
    pub fn suspects(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.suspects)
    }

    /// Judges an object. `read` holds what reads have shown, by uid of the owner.
    pub fn judge(&self, uid: &str, read: &BTreeMap<String, Presence>) -> Verdict {
        let Some(node) = self.nodes.get(uid) else { return Verdict::Keep };
        if node.is_going() {
            return self.judge_going(node);
        }
        if node.owners().is_empty() {
            return Verdict::Keep;
        }
        let (mut absent, mut waiting, mut to_read, mut is_held) =
            (Vec::new(), Vec::new(), Vec::new(), false);
        for owner in node.owners() {
            match self.presence(node, owner, read) {
                None => to_read.push(owner.clone()),
                Some(Presence::Absent) => absent.push(owner),
                Some(Presence::Present { goes_after_dependents: true }) => waiting.push(owner),
                Some(Presence::Present { goes_after_dependents: false } | Presence::Unknown) => {
                    is_held = true;
                }
            }
        }
        if !to_read.is_empty() {
            return Verdict::Read(to_read);
        }
        if is_held {
            let going: Vec<&str> =
                absent.iter().chain(&waiting).map(|owner| owner.uid.as_str()).collect();
            return match going.is_empty() {
                true => Verdict::Keep,
                false => Verdict::Patch { metadata: without(node, &going) },
            };
        }
        let has_dependents = !self.dependents_of(uid).is_empty();
        let policy = match node {
            _ if !waiting.is_empty() && has_dependents => Policy::Foreground,
            _ if node.has_finalizer(ORPHAN) => Policy::Orphan,
            _ if node.has_finalizer(FOREGROUND) => Policy::Foreground,
            _ => Policy::Background,
        };
        Verdict::Delete { policy }
    }

    fn judge_going(&self, node: &Node) -> Verdict {
        let dependents = self.dependents_of(node.uid());
        if node.has_finalizer(ORPHAN) {
            let patches: Vec<_> = dependents
                .into_iter()
                .filter_map(|uid| {
                    Some((uid.clone(), without(self.nodes.get(&uid)?, &[node.uid()])))
                })
                .collect();
            return match patches.is_empty() {
                true => Verdict::Patch { metadata: without_finalizer(node, ORPHAN) },
                false => Verdict::Release { dependents: patches },
            };
        }
        if !node.has_finalizer(FOREGROUND) {
            return Verdict::Keep;
        }
        let blocks = |uid: &&String| {
            let dependent = self.nodes.get(*uid);
            dependent.is_some_and(|dependent| {
                dependent.namespace() == node.namespace() || node.namespace().is_empty()
            }) && dependent
                .into_iter()
                .flat_map(Node::owners)
                .any(|owner| owner.uid == node.uid() && owner.block_owner_deletion == Some(true))
        };
        match dependents.iter().any(|uid| blocks(&uid)) {
            true => Verdict::Keep,
            false => Verdict::Patch { metadata: without_finalizer(node, FOREGROUND) },
        }
    }

    fn presence(
        &self,
        node: &Node,
        owner: &OwnerReference,
        read: &BTreeMap<String, Presence>,
    ) -> Option<Presence> {
        match self.nodes.get(&owner.uid) {
            Some(held) if held.namespace().is_empty() || held.namespace() == node.namespace() => {
                Some(Presence::Present { goes_after_dependents: held.goes_after_dependents() })
            }
            // Of another namespace: what counts is whether its name means it here.
            Some(_) | None => read.get(&owner.uid).copied(),
        }
    }

    /// An owner that the graph knows in another namespace: Kubernetes lets no reference cross.
    pub fn crosses(&self, node: &Node) -> Option<OwnerReference> {
        let foreign = |owner: &&OwnerReference| {
            self.nodes.get(&owner.uid).is_some_and(|held| {
                !held.namespace().is_empty() && held.namespace() != node.namespace()
            })
        };
        node.owners().iter().find(foreign).cloned()
    }

    fn dependents_of(&self, uid: &str) -> Vec<String> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }
}

/// The owner references but for those with these uids.
fn without(node: &Node, uids: &[&str]) -> Value {
    let left: Vec<_> =
        node.owners().iter().filter(|owner| !uids.contains(&owner.uid.as_str())).collect();
    match left.is_empty() {
        true => json!({"ownerReferences": null}),
        false => json!({"ownerReferences": left}),
    }
}

fn without_finalizer(node: &Node, name: &str) -> Value {
    let left: Vec<_> =
        node.metadata.finalizers.iter().flatten().filter(|finalizer| *finalizer != name).collect();
    match left.is_empty() {
        true => json!({"finalizers": null}),
        false => json!({"finalizers": left}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Known(Graph);

    impl Known {
        fn see(&mut self, namespace: &str, uid: &str, more: Value) -> &mut Known {
            let mut metadata = json!({"namespace": namespace, "name": uid, "uid": uid});
            for (key, value) in more.as_object().unwrap() {
                metadata[key] = value.clone();
            }
            self.0.see(Node {
                api_version: "v1".into(),
                kind: "Thing".into(),
                metadata: serde_json::from_value(metadata).unwrap(),
            });
            self
        }

        fn judged(&mut self) -> Vec<(String, Verdict)> {
            self.judged_with(&[])
        }

        fn judged_with(&mut self, read: &[(&str, Presence)]) -> Vec<(String, Verdict)> {
            let read = read.iter().map(|(uid, presence)| ((*uid).to_owned(), *presence)).collect();
            let suspects = self.0.suspects();
            suspects
                .into_iter()
                .map(|uid| (uid.clone(), self.0.judge(&uid, &read)))
                .filter(|(_, verdict)| *verdict != Verdict::Keep)
                .collect()
        }
    }

    fn known() -> Known {
        Known(Graph::default())
    }

    fn owned(uids: &[&str]) -> Value {
        json!(
            uids.iter()
                .map(|uid| json!({"apiVersion": "v1", "kind": "Thing", "name": uid, "uid": uid,
                "blockOwnerDeletion": true}))
                .collect::<Vec<_>>()
        )
    }

    fn deleted(finalizer: &str) -> Value {
        json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [finalizer]})
    }

    const BACKGROUND: Verdict = Verdict::Delete { policy: Policy::Background };

    #[test]
    fn what_has_lost_its_only_owner_goes_once_a_read_confirms_it() {
        let mut known = known();
        known.see("a", "owner", json!({})).see(
            "a",
            "child",
            json!({"ownerReferences": owned(&["owner"])}),
        );
        assert_eq!(known.judged(), []);
        known.0.forget("owner");
        let suspects = known.judged();
        assert!(matches!(&suspects[..], [(uid, Verdict::Read(owners))]
            if uid == "child" && owners[0].uid == "owner"));
        known.see("a", "child", json!({"ownerReferences": owned(&["owner"])}));
        assert_eq!(
            known.judged_with(&[("owner", Presence::Absent)]),
            [("child".into(), BACKGROUND)]
        );
        // An owner that we merely have not seen yet keeps it.
        known.see("a", "child", json!({"ownerReferences": owned(&["owner"])}));
        let present = Presence::Present { goes_after_dependents: false };
        assert_eq!(known.judged_with(&[("owner", present)]), []);
        known.see("a", "child", json!({"ownerReferences": owned(&["owner"])}));
        assert_eq!(known.judged_with(&[("owner", Presence::Unknown)]), []);
    }

    #[test]
    fn one_owner_left_keeps_it_and_the_others_are_struck_out() {
        let mut known = known();
        known.see("a", "stays", json!({}));
        known.see("a", "child", json!({"ownerReferences": owned(&["stays", "gone"])}));
        let verdict = known.judged_with(&[("gone", Presence::Absent)]);
        let patch = json!({"ownerReferences": owned(&["stays"])});
        assert_eq!(verdict, [("child".into(), Verdict::Patch { metadata: patch })]);
    }

    #[test]
    fn in_the_foreground_the_leaves_go_first_and_the_owner_last() {
        let mut known = known();
        known
            .see("a", "top", json!({}))
            .see("a", "middle", json!({"ownerReferences": owned(&["top"])}))
            .see("a", "leaf", json!({"ownerReferences": owned(&["middle"])}));
        known.judged();
        known.see("a", "top", deleted(FOREGROUND));
        let foreground = Verdict::Delete { policy: Policy::Foreground };
        assert_eq!(known.judged(), [("middle".into(), foreground)]);
        let mut middle = deleted(FOREGROUND);
        middle["ownerReferences"] = owned(&["top"]);
        known.see("a", "middle", middle);
        assert_eq!(known.judged(), [("leaf".into(), BACKGROUND)]);
        known.0.forget("leaf");
        let done = || Verdict::Patch { metadata: json!({"finalizers": null}) };
        assert_eq!(known.judged(), [("middle".into(), done())]);
        known.0.forget("middle");
        assert_eq!(known.judged(), [("top".into(), done())]);
    }

    #[test]
    fn an_orphaned_child_loses_its_reference_before_the_owner_goes() {
        let mut known = known();
        known.see("a", "owner", json!({})).see(
            "a",
            "child",
            json!({"ownerReferences": owned(&["owner"])}),
        );
        known.judged();
        known.see("a", "owner", deleted(ORPHAN));
        let release = vec![("child".to_owned(), json!({"ownerReferences": null}))];
        assert_eq!(known.judged(), [("owner".into(), Verdict::Release { dependents: release })]);
        known.see("a", "child", json!({}));
        known.see("a", "owner", deleted(ORPHAN));
        let done = Verdict::Patch { metadata: json!({"finalizers": null}) };
        assert_eq!(known.judged(), [("owner".into(), done)]);
    }

    #[test]
    fn an_owner_of_another_namespace_is_none() {
        let mut known = known();
        known.see("a", "owner", json!({})).see(
            "b",
            "child",
            json!({"ownerReferences": owned(&["owner"])}),
        );
        assert!(known.0.crosses(known.0.get("child").unwrap()).is_some());
        assert!(matches!(&known.judged()[..], [(_, Verdict::Read(_))]));
        known.see("b", "child", json!({"ownerReferences": owned(&["owner"])}));
        assert_eq!(
            known.judged_with(&[("owner", Presence::Absent)]),
            [("child".into(), BACKGROUND)]
        );
    }

    #[test]
    fn a_namesake_with_another_uid_owns_nothing() {
        let mut known = known();
        known.see("a", "child", json!({"ownerReferences": owned(&["first"])}));
        known.see("a", "second", json!({"name": "first"}));
        assert!(
            matches!(&known.judged()[..], [(_, Verdict::Read(owners))] if owners[0].uid == "first")
        );
    }
}
