//! Pod Security Standards: what the labels of a namespace ask of its pods, and what of a pod violates it (pure, KEP-2579).
//!
//! Names, order and words are those of Kubernetes' PodSecurity admission, which people search for. It neither refuses nor
//! warns; admission and the verbs do.

mod checks;

use std::fmt;

use serde_json::Value;

/// How much a namespace asks of its pods, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }

    fn parse(text: &str) -> Option<Level> {
        [Level::Privileged, Level::Baseline, Level::Restricted]
            .into_iter()
            .find(|level| level.as_str() == text)
    }
}

/// As of which release of Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    /// 1.x
    Minor(u32),
    Latest,
}

impl Version {
    fn parse(text: &str) -> Option<Version> {
        if text == "latest" {
            return Some(Version::Latest);
        }
        let minor = text.strip_prefix("v1.")?;
        let is_plain = minor.bytes().all(|byte| byte.is_ascii_digit())
            && (minor == "0" || !minor.starts_with('0'));
        if !is_plain {
            return None;
        }
        minor.parse().ok().map(Version::Minor)
    }
}

/// A level as of a release; `Display` is `restricted:latest`, `baseline:v1.24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standard {
    pub level: Level,
    version: Version,
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = self.level.as_str();
        match self.version {
            Version::Minor(minor) => write!(f, "{level}:v1.{minor}"),
            Version::Latest => write!(f, "{level}:latest"),
        }
    }
}

/// What a namespace asks for: without a label, nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Pods that violate it are refused.
    pub enforce: Standard,
    /// Violations are told to whoever writes an object.
    pub warn: Standard,
    /// Violations belong into the audit log.
    pub audit: Standard,
}

/// A label that does not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLabel {
    pub label: String,
    pub value: String,
    pub why: &'static str,
}

const PREFIX: &str = "pod-security.kubernetes.io/";

impl Policy {
    /// Of a namespace's labels. A label that does not read means the strictest where it protects and nothing where it only
    /// tells, as in Kubernetes.
    pub fn of(namespace: &Value) -> (Policy, Vec<BadLabel>) {
        let mut bad = Vec::new();
        let mut standard = |mode: &str, otherwise: Level| {
            let label = |suffix: &str| format!("{PREFIX}{mode}{suffix}");
            let value = |label: &str| namespace["metadata"]["labels"][label].as_str();
            let level = value(&label("")).map_or(Level::Privileged, |text| {
                Level::parse(text).unwrap_or_else(|| {
                    let why = "must be one of privileged, baseline, restricted";
                    bad.push(BadLabel { label: label(""), value: text.to_owned(), why });
                    otherwise
                })
            });
            let version = value(&label("-version")).map_or(Version::Latest, |text| {
                Version::parse(text).unwrap_or_else(|| {
                    let why = "must be \"latest\" or \"v1.x\"";
                    bad.push(BadLabel { label: label("-version"), value: text.to_owned(), why });
                    Version::Latest
                })
            });
            Standard { level, version }
        };
        let policy = Policy {
            enforce: standard("enforce", Level::Restricted),
            audit: standard("audit", Level::Privileged),
            warn: standard("warn", Level::Privileged),
        };
        (policy, bad)
    }

    /// The label that asks for violations in the audit log.
    pub const AUDIT: &str = "pod-security.kubernetes.io/audit";

    /// Whether `self` may forbid what `before` allowed.
    pub fn enforces_more_than(&self, before: &Policy) -> bool {
        let (new, old) = (self.enforce, before.enforce);
        new.level != Level::Privileged && (new.version != old.version || new.level > old.level)
    }
}

/// One check that a pod does not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub reason: &'static str,
    /// Who, and what would be right.
    pub detail: String,
}

/// What of a pod, or of a template of pods, violates `standard`: those of baseline first.
pub fn violations(standard: Standard, pod: &Value) -> Vec<Violation> {
    let version = match standard.version {
        Version::Minor(minor) => minor,
        Version::Latest => u32::MAX,
    };
    match standard.level {
        Level::Privileged => Vec::new(),
        Level::Baseline => checks::baseline(pod, version),
        Level::Restricted => checks::restricted(pod, version),
    }
}

/// `host namespaces (hostPID=true), privileged (container "a" must not …)`
pub fn told(violations: &[Violation]) -> String {
    let all: Vec<String> =
        violations.iter().map(|one| format!("{} ({})", one.reason, one.detail)).collect();
    all.join(", ")
}

/// `host namespaces, privileged`
pub fn reasons(violations: &[Violation]) -> String {
    let all: Vec<&str> = violations.iter().map(|one| one.reason).collect();
    all.join(", ")
}

/// What is told of pods that run in `namespace` and violate what it enforces from now on: each way of violating once.
pub fn existing(namespace: &str, enforce: Standard, pods: &[Value]) -> Vec<String> {
    let mut ways: std::collections::BTreeMap<String, (&str, usize)> = Default::default();
    for pod in pods {
        let violations = violations(enforce, pod);
        if violations.is_empty() {
            continue;
        }
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let (first, count) = ways.entry(reasons(&violations)).or_insert((name, 0));
        *first = name.min(first);
        *count += 1;
    }
    if ways.is_empty() {
        return Vec::new();
    }
    let mut told: Vec<String> = ways
        .into_iter()
        .map(|(reasons, (first, count))| match count {
            1 => format!("{first}: {reasons}"),
            2 => format!("{first} (and 1 other pod): {reasons}"),
            more => format!("{first} (and {} other pods): {reasons}", more - 1),
        })
        .collect();
    told.sort();
    let head = format!(
        "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{enforce}\""
    );
    [vec![head], told].concat()
}

#[cfg(test)]
mod tests;
