//! Who may use an image that was pulled with somebody's credentials (KEP-2535).
//!
//! Pure. An image that the host's administrator brought is everybody's. One that a pod's pull brought is for whoever
//! presents credentials that have pulled it from the same repository; whoever presents others asks the registry.

use serde::{Deserialize, Serialize};

use super::Credentials;
use super::reference::{Digest, Reference};
use super::registry::matching;

/// Grants of one image that are kept; who falls out asks the registry again.
const MOST_GRANTS: usize = 64;

/// One successful pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// `registry.example.com/team/app`.
    pub repository: String,
    /// Digest of the credentials; absent: the registry asked for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

/// Who may use an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Access {
    /// `None`: everybody.
    grants: Option<Vec<Grant>>,
}

impl Grant {
    /// `used`: the credentials that the registry wanted to see.
    pub fn of(name: &Reference, used: Option<&Credentials>) -> Grant {
        Grant { repository: repository(name), credential: used.map(fingerprint) }
    }
}

impl Access {
    pub fn everybody() -> Access {
        Access { grants: None }
    }

    pub fn is_everybody(&self) -> bool {
        self.grants.is_none()
    }

    /// One more pull by a pod, of an image that is here with the access `before`, if it is.
    pub fn granted(before: Option<Access>, grant: Grant) -> Access {
        let mut grants = match before {
            // Here for everybody already: somebody's pull takes it from nobody.
            Some(Access { grants: None }) => return Access::everybody(),
            Some(Access { grants: Some(grants) }) => grants,
            None => Vec::new(),
        };
        grants.retain(|known| *known != grant);
        grants.push(grant);
        grants.drain(..grants.len().saturating_sub(MOST_GRANTS));
        Access { grants: Some(grants) }
    }

    /// Whether a pod that names the image `reference` and presents `credentials` may use it. A reference that is
    /// no name (an image id) stands for every repository that the image came from.
    pub fn admits(&self, reference: &str, credentials: &[Credentials]) -> bool {
        let Some(grants) = &self.grants else { return true };
        let named = match super::parse_id(reference) {
            Some(_) => None,
            None => reference.parse::<Reference>().ok().map(|name| repository(&name)),
        };
        let of_name = |grant: &&Grant| named.as_ref().is_none_or(|name| grant.repository == *name);
        grants.iter().filter(of_name).any(|grant| match &grant.credential {
            None => true,
            Some(wanted) => {
                let domain = grant.repository.split('/').next().unwrap_or_default();
                matching(credentials, domain).is_some_and(|one| fingerprint(one) == *wanted)
            }
        })
    }
}

fn repository(name: &Reference) -> String {
    format!("{}/{}", name.domain(), name.path())
}

/// Tells credentials apart without holding them.
fn fingerprint(credentials: &Credentials) -> String {
    let mut text = String::new();
    for part in [&credentials.username, &credentials.password] {
        text.push_str(&format!("{}:{part}", part.len()));
    }
    Digest::of(text.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(registry: &str, password: &str) -> Credentials {
        Credentials {
            registry: registry.to_owned(),
            username: "user".to_owned(),
            password: password.to_owned(),
        }
    }

    fn pulled(reference: &str, used: Option<&Credentials>) -> Access {
        Access::granted(None, Grant::of(&reference.parse().unwrap(), used))
    }

    const ID: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    #[test]
    fn only_credentials_that_have_pulled_it_from_there_open_an_image() {
        let good = secret("https://r.example.com/v1/", "good");
        let access = pulled("r.example.com/team/app:1", Some(&good));
        for (reference, presented, expected) in [
            ("r.example.com/team/app:1", vec![good.clone()], true),
            ("r.example.com/team/app:2", vec![good.clone()], true),
            (ID, vec![good.clone()], true),
            ("r.example.com/team/app:1", vec![], false),
            (ID, vec![], false),
            ("r.example.com/team/app:1", vec![secret("r.example.com", "bad")], false),
            ("r.example.com/team/other:1", vec![good.clone()], false),
            ("mirror.example.com/team/app:1", vec![secret("mirror.example.com", "good")], false),
            ("app:1", vec![good.clone()], false),
        ] {
            assert_eq!(access.admits(reference, &presented), expected, "{reference} {expected}");
        }
    }

    #[test]
    fn what_needs_no_credentials_or_was_brought_by_the_administrator_is_everybodys() {
        let anonymous = pulled("r.example.com/app", None);
        assert!(anonymous.admits("r.example.com/app:1", &[]));
        assert!(!anonymous.admits("r.example.com/private", &[]));
        let grant = Grant::of(&"r.example.com/app".parse().unwrap(), Some(&secret("r", "p")));
        let access = Access::granted(Some(Access::everybody()), grant);
        assert!(access.admits("r.example.com/app", &[]));
    }

    #[test]
    fn grants_add_up_and_are_bounded() {
        let name: Reference = "r.example.com/app".parse().unwrap();
        let secrets: Vec<_> =
            (0..=MOST_GRANTS).map(|n| secret("r.example.com", &n.to_string())).collect();
        let access = secrets
            .iter()
            .chain(&secrets)
            .fold(None, |before, used| Some(Access::granted(before, Grant::of(&name, Some(used)))));
        let access = access.unwrap();
        let admitted = secrets
            .iter()
            .filter(|one| access.admits("r.example.com/app", std::slice::from_ref(one)))
            .count();
        assert_eq!(admitted, MOST_GRANTS);
    }
}
