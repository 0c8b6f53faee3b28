//! Every kind this server serves: one row each.
//!
//! It never holds behaviour; what a row says is obeyed by the router, discovery, and the verbs.

mod rows;

use rows::KINDS;

use crate::model::key::ResourceId;

/// What can be done with a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

impl Verb {
    /// The word discovery and authorization use.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }
}

/// Whether names of a resource are unique in the cluster or in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Cluster,
    Namespaced,
}

/// What a DELETE that removed the object answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteAnswer {
    /// A Success Status that names the object.
    Status,
    /// The object as it last was.
    Object,
}

/// What a PUT to a name that does not exist does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutAbsent {
    NotFound,
    Creates,
}

/// Whether `metadata.generation` counts the changes of everything but metadata and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    Counted,
    Absent,
}

/// Whether objects are kept, or answered and forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    Stored,
    Review(Review),
    /// Looked up when they are read.
    Measured(Measured),
}

/// What is measured and not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measured {
    NodeUsage,
    PodUsage,
    /// A row is for discovery only: paths are [`super::path::Metric`]s, and there are more than the rows tell.
    Figure,
}

/// A question a client POSTs and gets back answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Review {
    WhoAmI,
    Access,
    Rules,
}

/// A group, version and kind by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupVersionKind {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
}

impl GroupVersionKind {
    /// `v1`, `autoscaling/v1`.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }
}

fn api_version(group: &str, version: &str) -> String {
    match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    }
}

/// What a path below an object is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Status,
    Finalize,
    /// The number of replicas, as `autoscaling/v1` Scale.
    Scale,
    Binding,
    Eviction,
    Token,
    Log,
    Exec,
    Attach,
    PortForward,
    /// HTTP to a pod, by any method and with a path of its own below.
    Proxy,
    /// Known to clients, refused by name.
    EphemeralContainers,
}

/// A path below an object.
#[derive(Debug)]
pub struct Subresource {
    pub name: &'static str,
    pub purpose: Purpose,
    /// The kind of request and answer bodies.
    pub kind: GroupVersionKind,
    /// Empty when it is recognised but not offered.
    pub verbs: &'static [Verb],
}

/// A served kind.
#[derive(Debug)]
pub struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub scope: Scope,
    pub verbs: &'static [Verb],
    pub subresources: &'static [Subresource],
    pub delete_answer: DeleteAnswer,
    pub put_absent: PutAbsent,
    pub generation: Generation,
    pub keeping: Keeping,
    /// The group under which objects are stored: another one for a second presentation.
    storage_group: Option<&'static str>,
}

impl Kind {
    /// `v1`, `coordination.k8s.io/v1`.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }

    /// `pods`, `leases.coordination.k8s.io`: how messages, defaults and validation name it.
    pub fn resource(&self) -> String {
        qualified(self.group, self.plural)
    }

    /// Where the store keeps it.
    pub fn stored_as(&self) -> ResourceId {
        ResourceId::new(self.storage_group.unwrap_or(self.group), self.plural)
    }

    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    pub fn allows(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }

    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        let all: &'static [Subresource] = self.subresources;
        all.iter().find(|subresource| subresource.name == name)
    }
}

/// `plural` or `plural.group`.
pub fn qualified(group: &str, plural: &str) -> String {
    match group {
        "" => plural.to_owned(),
        group => format!("{plural}.{group}"),
    }
}

/// The kind served at `group`, `version`, `plural`.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|row| row.group == group && row.version == version && row.plural == plural)
}

/// The kind whose objects say `api_version` and `kind`.
pub fn find_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|row| row.kind == kind && row.api_version() == api_version)
}

/// The row of a kind this module itself declares.
pub fn namespaces() -> &'static Kind {
    find("", "v1", "namespaces").expect("a row of this table")
}

/// See [`namespaces`].
pub fn events() -> &'static Kind {
    find("", "v1", "events").expect("a row of this table")
}

/// See [`namespaces`].
pub fn nodes() -> &'static Kind {
    find("", "v1", "nodes").expect("a row of this table")
}

/// See [`namespaces`].
pub fn pods() -> &'static Kind {
    find("", "v1", "pods").expect("a row of this table")
}

/// See [`namespaces`].
pub fn endpoints() -> &'static Kind {
    find("", "v1", "endpoints").expect("a row of this table")
}

/// See [`namespaces`].
pub fn service_accounts() -> &'static Kind {
    find("", "v1", "serviceaccounts").expect("a row of this table")
}

/// See [`namespaces`].
pub fn ingress_classes() -> &'static Kind {
    find("networking.k8s.io", "v1", "ingressclasses").expect("a row of this table")
}

/// Served groups, the core group (empty name) first, each with its versions, preferred first.
pub fn groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&'static str, Vec<&'static str>)> = Vec::new();
    for row in KINDS {
        match groups.iter_mut().find(|(group, _)| *group == row.group) {
            Some((_, versions)) if versions.contains(&row.version) => {}
            Some((_, versions)) => versions.push(row.version),
            None => groups.push((row.group, vec![row.version])),
        }
    }
    groups
}

/// The kinds of one group-version, by plural name.
pub fn kinds(group: &str, version: &str) -> Vec<&'static Kind> {
    let mut rows: Vec<_> =
        KINDS.iter().filter(|row| row.group == group && row.version == version).collect();
    rows.sort_by_key(|row| row.plural);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_reachable_by_path_and_by_kind() {
        for row in KINDS {
            let by_path = find(row.group, row.version, row.plural).expect("by path");
            assert_eq!(by_path.kind, row.kind);
            if row.keeping == Keeping::Measured(Measured::Figure) {
                continue;
            }
            let by_kind = find_kind(&row.api_version(), row.kind).expect("by kind");
            assert_eq!(by_kind.plural, row.plural);
            assert!(!row.singular.is_empty());
        }
    }

    #[test]
    fn both_presentations_of_events_share_one_storage() {
        let core = find("", "v1", "events").expect("core");
        let group = find("events.k8s.io", "v1", "events").expect("group");
        assert_eq!(core.stored_as(), group.stored_as());
        assert_ne!(core.resource(), group.resource());
    }

    #[test]
    fn the_core_group_comes_first() {
        assert_eq!(groups()[0], ("", vec!["v1"]));
    }
}
