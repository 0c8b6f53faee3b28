//! Names of things: which resource, which namespace, which object.

use std::fmt;
use std::sync::Arc;

/// A served resource in its qualified form: `pods`, `deployments.apps`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceId(Arc<str>);

impl ResourceId {
    /// `group` is empty for the core group.
    pub fn new(group: &str, plural: &str) -> ResourceId {
        match group {
            "" => ResourceId(plural.into()),
            _ => ResourceId(format!("{plural}.{group}").into()),
        }
    }

    /// The inverse of [`ResourceId::as_str`].
    pub fn from_qualified(text: &str) -> ResourceId {
        ResourceId(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The key of one object. Orders by resource, then namespace, then name, as lists do.
///
/// Namespace and name are validated where a request enters (`api::path`, `api::validate`);
/// they never contain `/` or NUL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub resource: ResourceId,
    /// `None` for cluster-scoped resources.
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{}/{}", self.resource, namespace, self.name),
            None => write!(f, "{}/{}", self.resource, self.name),
        }
    }
}
