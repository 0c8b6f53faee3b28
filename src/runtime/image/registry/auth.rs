//! Who is told which secret: challenges of registries, and the credentials that fit a host.
//!
//! Pure. A secret goes to the registry it was given for and to that registry's own token server, to
//! nobody else (CVE-2020-15157 is the family).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::runtime::image::Credentials;

/// The host that serves Docker Hub's `/v2/`, and its token server: the one pair of hosts that belong
/// together without one being below the other.
pub const DOCKER_HUB: &str = "registry-1.docker.io";
const DOCKER_HUB_TOKENS: &str = "auth.docker.io";

/// What a registry asks for in `WWW-Authenticate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

/// Reads a header value; the strongest challenge that we can answer.
pub fn challenge(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut realm = None;
    let mut service = None;
    for (key, value) in parameters(rest) {
        match key.to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            // The scope is ours to choose: reading one repository.
            _ => {}
        }
    }
    Some(Challenge::Bearer { realm: realm?, service })
}

/// `key="value", key=value`, with backslash escapes inside quotes (RFC 9110 §11.2).
fn parameters(mut rest: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches(|c: char| c == ',' || c.is_whitespace()).to_owned();
        let mut value = String::new();
        if let Some(quoted) = after.trim_start().strip_prefix('"') {
            let mut characters = quoted.char_indices();
            let mut end = quoted.len();
            while let Some((at, c)) = characters.next() {
                match c {
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    '\\' => value.extend(characters.next().map(|(_, c)| c)),
                    c => value.push(c),
                }
            }
            rest = &quoted[end..];
        } else {
            let end = after.find(',').unwrap_or(after.len());
            value = after[..end].trim().to_owned();
            rest = &after[end..];
        }
        found.push((key, value));
    }
    found
}

/// The credentials for a registry; keys of docker configs may carry a scheme and a path, and Docker
/// Hub's its old address.
pub fn matching<'a>(credentials: &'a [Credentials], domain: &str) -> Option<&'a Credentials> {
    let host = |text: &str| {
        let text = text.strip_prefix("https://").or(text.strip_prefix("http://")).unwrap_or(text);
        let host = text.split('/').next().unwrap_or_default().to_ascii_lowercase();
        match host.as_str() {
            "index.docker.io" | DOCKER_HUB => "docker.io".to_owned(),
            _ => host,
        }
    };
    let wanted = host(domain);
    credentials.iter().find(|one| host(&one.registry) == wanted)
}

/// `Basic …` for a user.
pub fn basic(credentials: &Credentials) -> String {
    let pair = format!("{}:{}", credentials.username, credentials.password);
    format!("Basic {}", STANDARD.encode(pair))
}

/// Whether the token server at host `realm` may learn the secret for the registry at host `registry`.
pub fn may_share(registry: &str, realm: &str) -> bool {
    let (registry, realm) = (registry.to_ascii_lowercase(), realm.to_ascii_lowercase());
    if registry == realm || (registry == DOCKER_HUB && realm == DOCKER_HUB_TOKENS) {
        return true;
    }
    if registry.parse::<std::net::IpAddr>().is_ok() || realm.parse::<std::net::IpAddr>().is_ok() {
        return false;
    }
    let is_below = |inner: &str, outer: &str| {
        outer.contains('.') && inner.strip_suffix(outer).is_some_and(|rest| rest.ends_with('.'))
    };
    is_below(&registry, &realm) || is_below(&realm, &registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.map(Into::into) })
        };
        for (header, expected) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"a:b,c\"",
                bearer("https://auth.docker.io/token", Some("registry.docker.io")),
            ),
            ("bearer realm=https://x/t, service=y", bearer("https://x/t", Some("y"))),
            ("Bearer realm=\"a\\\"b", bearer("a\"b", None)),
            ("Bearer service=\"y\"", None),
            ("Negotiate", None),
            ("", None),
        ] {
            assert_eq!(challenge(header), expected, "{header}");
        }
    }

    #[test]
    fn secrets_stay_with_their_registry() {
        for (registry, realm, shared) in [
            ("registry-1.docker.io", "auth.docker.io", true),
            ("ghcr.io", "ghcr.io", true),
            ("registry.gitlab.com", "gitlab.com", true),
            ("example.com", "auth.example.com", true),
            ("example.com", "evil.com", false),
            ("example.com", "evilexample.com", false),
            ("example.com", "com", false),
            ("a.example.com", "b.example.com", false),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "0.0.1", false),
        ] {
            assert_eq!(may_share(registry, realm), shared, "{registry} {realm}");
        }
        let given = [
            Credentials {
                registry: "https://index.docker.io/v1/".into(),
                username: "u".into(),
                password: "p".into(),
            },
            Credentials {
                registry: "reg.example.com:5000".into(),
                username: "v".into(),
                password: "q".into(),
            },
        ];
        let user = |domain: &str| matching(&given, domain).map(|one| one.username.as_str());
        assert_eq!(user("docker.io"), Some("u"));
        assert_eq!(user("reg.example.com:5000"), Some("v"));
        assert_eq!(user("reg.example.com"), None);
        assert_eq!(basic(&given[0]), "Basic dTpw");
    }
}
