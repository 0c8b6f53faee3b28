//! Image references: `kangaroo-backend:1.14.2` as the user types it, and what it stands for.
//!
//! Pure text, by the grammar of `distribution/reference` that containerd and the kubelet share. It
//! never looks anything up.

use std::fmt;
use std::str::FromStr;

/// Longest repository name with its domain (`reference.NameTotalLengthMax`).
const NAME_MAX: usize = 255;

/// A complete reference: a registry, a repository in it, and a tag or a digest (or both; the digest
/// then decides).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// `sha256:` and 64 lower-case hexadecimal digits; the only algorithm that is accepted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

/// Why a text is no reference, worded as `distribution/reference` words it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    #[error(
        "invalid reference format: repository name must not be more than {NAME_MAX} characters"
    )]
    TooLong,
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    #[error("unsupported digest algorithm")]
    Algorithm,
    #[error("invalid checksum digest format")]
    Digest,
}

impl Reference {
    /// The registry as users write it, `docker.io` or `registry.example.com:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository inside the registry, `library/kangaroo-backend`.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository, without tag and digest.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The key this reference is recorded under: by digest when it has one, else by tag.
    pub fn canonical(&self) -> String {
        match &self.digest {
            Some(digest) => format!("{}/{}@{digest}", self.domain, self.path),
            None => self.to_string(),
        }
    }

    /// The same repository by `digest`.
    pub fn with_digest(&self, digest: &Digest) -> Reference {
        Reference { tag: None, digest: Some(digest.clone()), ..self.clone() }
    }

    /// The same repository by `tag`.
    pub fn with_tag(&self, tag: &str) -> Result<Reference, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Format);
        }
        Ok(Reference { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// Reads `text` and reports whether it named a tag or digest itself; without one the tag is `latest`.
    fn parse(text: &str) -> Result<Reference, ReferenceError> {
        if is_hex_of(text, 64) {
            return Err(ReferenceError::LooksLikeId(text.to_owned()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        // A colon after the last slash starts the tag; an earlier one belongs to a port.
        let name_end = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[name_end..].find(':') {
            Some(colon) => (&rest[..name_end + colon], Some(&rest[name_end + colon + 1..])),
            None => (rest, None),
        };
        let (domain, path) = split_domain(name);
        if path.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(path));
        }
        if !is_domain(&domain) || !is_path(&path) || !tag.is_none_or(is_tag) {
            return Err(ReferenceError::Format);
        }
        if domain.len() + 1 + path.len() > NAME_MAX {
            return Err(ReferenceError::TooLong);
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Reference { domain, path, tag, digest })
    }
}

/// Docker's rule: the first component is a registry when it has a dot, a colon or an upper-case
/// letter, or is `localhost`; everything else lives on Docker Hub.
fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(|c| c.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => ("docker.io", name),
    };
    let domain = if domain == "index.docker.io" { "docker.io" } else { domain };
    if domain == "docker.io" && !path.contains('/') {
        return (domain.to_owned(), format!("library/{path}"));
    }
    (domain.to_owned(), path.to_owned())
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = if let Some(rest) = domain.strip_prefix('[') {
        // An IPv6 literal in brackets.
        let Some((address, rest)) = rest.split_once(']') else {
            return false;
        };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        match rest {
            "" => return true,
            _ => match rest.strip_prefix(':') {
                Some(port) => ("x", Some(port)),
                None => return false,
            },
        }
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        }
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(is_label) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// `[a-z0-9]+` runs joined by `.`, `_`, `__` or any number of `-`, in components joined by `/`.
fn is_path(path: &str) -> bool {
    let is_component = |component: &str| {
        let bytes = component.as_bytes();
        let mut at = 0;
        loop {
            let run = bytes[at..]
                .iter()
                .take_while(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
                .count();
            if run == 0 {
                return false;
            }
            at += run;
            if at == bytes.len() {
                return true;
            }
            at += match &bytes[at..] {
                [b'.', ..] => 1,
                [b'_', b'_', ..] => 2,
                [b'_', ..] => 1,
                rest @ [b'-', ..] => rest.iter().take_while(|b| **b == b'-').count(),
                _ => return false,
            };
        }
    };
    !path.is_empty() && path.split('/').all(is_component)
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&tag.len())
        && word(tag.as_bytes()[0])
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// True for exactly `length` lower-case hexadecimal digits.
pub fn is_hex_of(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        Reference::parse(text)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl Digest {
    /// The 64 hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digest of `content`.
    pub fn of(content: &[u8]) -> Digest {
        use sha2::Digest as _;
        Digest::from_hash(&sha2::Sha256::digest(content))
    }

    /// The digest whose 32 bytes are `hash`.
    pub fn from_hash(hash: &[u8]) -> Digest {
        let mut text = String::with_capacity(71);
        text.push_str("sha256:");
        for byte in hash {
            text.push(char::from_digit(u32::from(byte >> 4), 16).expect("a nibble is below 16"));
            text.push(char::from_digit(u32::from(byte & 15), 16).expect("a nibble is below 16"));
        }
        Digest(text)
    }
}

impl FromStr for Digest {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Digest, ReferenceError> {
        let (algorithm, hex) = text.split_once(':').ok_or(ReferenceError::Digest)?;
        if algorithm != "sha256" {
            return Err(ReferenceError::Algorithm);
        }
        if !is_hex_of(hex, 64) {
            return Err(ReferenceError::Digest);
        }
        Ok(Digest(text.to_owned()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn references_mean_what_docker_means() {
        let digest = format!("sha256:{HEX}");
        for (text, meaning) in [
            ("kangaroo-backend:1.14.2", "docker.io/library/kangaroo-backend:1.14.2".to_owned()),
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("team/app", "docker.io/team/app:latest".to_owned()),
            ("a/b/c:x", "docker.io/a/b/c:x".to_owned()),
            ("index.docker.io/library/x:1", "docker.io/library/x:1".to_owned()),
            ("docker.io/x", "docker.io/library/x:latest".to_owned()),
            ("localhost/x", "localhost/x:latest".to_owned()),
            ("localhost:5000/x:1", "localhost:5000/x:1".to_owned()),
            ("reg.example.com:5000/a/b:V1.0_x-y", "reg.example.com:5000/a/b:V1.0_x-y".to_owned()),
            ("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest".to_owned()),
            ("[::1]:5000/x", "[::1]:5000/x:latest".to_owned()),
            ("Reg/x", "Reg/x:latest".to_owned()),
            ("a__b/c--d.e_f", "docker.io/a__b/c--d.e_f:latest".to_owned()),
            (&format!("x@{digest}"), format!("docker.io/library/x@{digest}")),
            (&format!("x:1@{digest}"), format!("docker.io/library/x:1@{digest}")),
        ] {
            let reference: Reference = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(reference.to_string(), meaning, "{text}");
            assert_eq!(reference.to_string().parse(), Ok(reference));
        }
    }

    #[test]
    fn malformed_references_are_refused_in_dockers_words() {
        let long = format!("{}/x", "a".repeat(250));
        for (text, error) in [
            ("", "invalid reference format"),
            (":1", "invalid reference format"),
            ("x:", "invalid reference format"),
            ("x:-1", "invalid reference format"),
            ("x y", "invalid reference format"),
            ("x//y", "invalid reference format"),
            ("/x", "invalid reference format"),
            ("x/", "invalid reference format"),
            ("-x", "invalid reference format"),
            ("x-", "invalid reference format"),
            ("a___b", "invalid reference format"),
            ("a..b", "invalid reference format"),
            ("../x", "invalid reference format"),
            ("x/../y", "invalid reference format"),
            ("x\0", "invalid reference format"),
            ("https://x/y", "invalid reference format"),
            ("reg.example.com:port/x", "invalid reference format"),
            ("reg.example.com:99999/x", "invalid reference format"),
            ("ünï", "invalid reference format"),
            ("FOO", "invalid reference format: repository name (library/FOO) must be lowercase"),
            ("reg.io/Foo", "invalid reference format: repository name (Foo) must be lowercase"),
            (
                HEX,
                &format!(
                    "invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"
                ),
            ),
            ("x@md5:00", "unsupported digest algorithm"),
            ("x@sha256:../../x", "invalid checksum digest format"),
            (&format!("x@sha256:{}", HEX.to_uppercase()), "invalid checksum digest format"),
            ("x@sha256", "invalid checksum digest format"),
            (&format!("x:{}", "a".repeat(129)), "invalid reference format"),
            (
                &long,
                "invalid reference format: repository name must not be more than 255 characters",
            ),
        ] {
            let refused = text.parse::<Reference>().expect_err(text);
            assert_eq!(refused.to_string(), error, "{text}");
        }
    }
}
