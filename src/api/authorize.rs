//! Who may do what: the seam where RBAC will stand, with one rule for now.
//!
//! Members of `system:masters` and the service accounts of `kube-system` may do all, everybody who is
//! authenticated may discover and review themselves, anybody may ask for health and version.
//! It never authenticates.

use crate::api::identity::{AUTHENTICATED, Identity, MASTERS};

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attributes<'a> {
    Resource(ResourceAttributes<'a>),
    Path { verb: &'a str, path: &'a str },
}

/// A verb on a resource; empty texts mean none (namespace: all of the cluster).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceAttributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
}

/// The answer, with a reason for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Allowed { reason: &'static str },
    NotAllowed,
}

/// A group that may do all; its other half is [`MASTERS`].
const SYSTEM_ACCOUNTS: &str = "system:serviceaccounts:kube-system";

const PUBLIC_PATHS: &[&str] = &["/livez", "/readyz", "/healthz", "/version"];
const DISCOVERY_PATHS: &[&str] = &["/api", "/apis", "/openapi", "/version"];

pub fn decide(who: &Identity, what: &Attributes<'_>) -> Verdict {
    if is_all_powerful(who) {
        return Verdict::Allowed { reason: "" };
    }
    let allowed = match what {
        Attributes::Path { verb, path } => {
            matches!(*verb, "get" | "head")
                && (is_under(path, PUBLIC_PATHS)
                    || who.is_in(AUTHENTICATED) && is_under(path, DISCOVERY_PATHS))
        }
        Attributes::Resource(resource) => {
            who.is_in(AUTHENTICATED)
                && resource.verb == "create"
                && resource.subresource.is_empty()
                && matches!(
                    (resource.group, resource.resource),
                    ("authentication.k8s.io", "selfsubjectreviews")
                        | (
                            "authorization.k8s.io",
                            "selfsubjectaccessreviews" | "selfsubjectrulesreviews"
                        )
                )
        }
    };
    match allowed {
        true => Verdict::Allowed { reason: "" },
        false => Verdict::NotAllowed,
    }
}

/// Whether nothing is refused to `who`.
pub fn is_all_powerful(who: &Identity) -> bool {
    who.is_in(MASTERS) || who.is_in(SYSTEM_ACCOUNTS)
}

/// `User "u" cannot list resource "pods/log" in API group "" in the namespace "default"`.
pub fn refusal(who: &Identity, what: &ResourceAttributes<'_>) -> String {
    let resource = match what.subresource {
        "" => what.resource.to_owned(),
        subresource => format!("{}/{subresource}", what.resource),
    };
    let place = match what.namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace \"{namespace}\""),
    };
    format!(
        "User \"{}\" cannot {} resource \"{resource}\" in API group \"{}\" {place}",
        who.user, what.verb, what.group
    )
}

fn is_under(path: &str, roots: &[&str]) -> bool {
    roots.iter().any(|root| {
        path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(who: &Identity, verb: &str, resource: &str) -> bool {
        decide(
            who,
            &Attributes::Resource(ResourceAttributes {
                verb,
                group: "",
                resource,
                subresource: "",
                namespace: "default",
                name: "",
            }),
        ) != Verdict::NotAllowed
    }

    fn may_get(who: &Identity, path: &str) -> bool {
        decide(who, &Attributes::Path { verb: "get", path }) != Verdict::NotAllowed
    }

    #[test]
    fn only_masters_and_the_accounts_of_kube_system_touch_objects() {
        assert!(may(&Identity::component("system:x"), "delete", "pods"));
        let system = Identity::service_account("kube-system", "c", "u");
        assert!(may(&system, "delete", "secrets"));
        let other = Identity::service_account("default", "kube-system", "u");
        assert!(!may(&other, "get", "pods"));
        assert!(!may(&Identity::authenticated("jo", []), "list", "pods"));
        assert!(!may(&Identity::anonymous(), "list", "pods"));
    }

    #[test]
    fn nobody_in_particular_sees_health_and_version_only() {
        let nobody = Identity::anonymous();
        for path in ["/livez", "/readyz", "/healthz", "/version", "/livez/ping"] {
            assert!(may_get(&nobody, path), "{path}");
        }
        for path in ["/api", "/apis", "/openapi/v3", "/versions", "/", "/metrics"] {
            assert!(!may_get(&nobody, path), "{path}");
        }
        assert!(may_get(&Identity::authenticated("jo", []), "/apis/events.k8s.io/v1"));
    }
}
