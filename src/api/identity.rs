//! Who is asking: from a client certificate, a bearer token, or (in process) a typed extension.
//!
//! It never decides what somebody may do; see [`crate::api::authorize`].

use std::collections::BTreeMap;

pub const ANONYMOUS: &str = "system:anonymous";
pub const AUTHENTICATED: &str = "system:authenticated";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
pub const MASTERS: &str = "system:masters";

/// An authenticated caller; travels as a request extension, never as a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub groups: Vec<String>,
    pub uid: Option<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    /// Nobody in particular.
    pub fn anonymous() -> Identity {
        Identity {
            user: ANONYMOUS.to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            uid: None,
            extra: BTreeMap::new(),
        }
    }

    /// `user` with `groups`, who has proven to be so.
    pub fn authenticated(user: &str, groups: impl IntoIterator<Item = String>) -> Identity {
        let mut groups: Vec<String> = groups.into_iter().collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Identity { user: user.to_owned(), groups, uid: None, extra: BTreeMap::new() }
    }

    /// A part of this program (`system:kube-controller-manager`, `system:node:NAME`), which may do all.
    pub fn component(user: &str) -> Identity {
        Identity::authenticated(user, [MASTERS.to_owned()])
    }

    /// A service account by namespace and name.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Identity {
        let mut identity = Identity::authenticated(
            &format!("system:serviceaccount:{namespace}:{name}"),
            ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")],
        );
        identity.uid = Some(uid.to_owned());
        identity
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}
