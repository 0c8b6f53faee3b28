//! From a URL path to what it names.
//!
//! One canonical reading: every segment is percent-decoded once, and a path with empty segments, dot
//! segments, encoded slashes or control characters names nothing. It never looks at objects.

use crate::api::catalog::{self, Kind, Subresource};

/// What a path names.
#[derive(Debug, Clone)]
pub enum Target {
    /// `/readyz`, `/readyz/{check}`.
    Health {
        endpoint: &'static str,
        check: Option<String>,
    },
    Version,
    OpenApiIndex,
    /// `api/v1`, `apis/apps/v1`.
    OpenApiDocument(String),
    OpenApiV2,
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/{group}`.
    Group(&'static str),
    /// `/api/v1`, `/apis/{group}/{version}`.
    Resources {
        group: &'static str,
        version: &'static str,
    },
    /// All objects of a kind, in one namespace or in all.
    Collection {
        kind: &'static Kind,
        namespace: Option<String>,
    },
    Object(Object),
    Subresource {
        object: Object,
        subresource: &'static Subresource,
    },
    /// A path at a pod, or at a pod behind a Service. The object's name is an ID that holds scheme and port as well.
    Proxy {
        object: Object,
        subresource: &'static Subresource,
        /// As it was written, without the slash that begins it; `None` without one.
        path: Option<String>,
    },
    /// A figure of one object or, with the name `*`, of all.
    Metric(Metric),
}

/// `/apis/custom.metrics.k8s.io/{version}/namespaces/{namespace}/{resource}/{name}/{metric}`.
#[derive(Debug, Clone)]
pub struct Metric {
    pub version: &'static str,
    pub namespace: String,
    /// `pods`, `ingresses.networking.k8s.io`.
    pub resource: String,
    pub name: String,
    pub metric: String,
}

impl Metric {
    pub const GROUP: &'static str = "custom.metrics.k8s.io";

    pub fn api_version(&self) -> String {
        format!("{}/{}", Metric::GROUP, self.version)
    }
}

/// A path to one object.
#[derive(Debug, Clone)]
pub struct Object {
    pub kind: &'static Kind,
    pub namespace: Option<String>,
    pub name: String,
}

/// Reads `path`; `None` if it names nothing that this server has.
pub fn parse(path: &str) -> Option<Target> {
    if let Some((start, rest)) = split_proxy(path) {
        let Some(Target::Subresource { object, subresource }) = parse_own(start) else {
            return None;
        };
        // What a pod makes of its own paths is its affair, but where they begin must be beyond doubt.
        let climbs = rest.is_some_and(|rest| {
            rest.split('/').any(|part| {
                let plain = part.to_ascii_lowercase().replace("%2e", ".");
                matches!(plain.as_str(), "." | "..")
            })
        });
        let path = rest.map(str::to_owned);
        return (!climbs).then_some(Target::Proxy { object, subresource, path });
    }
    parse_own(path)
}

/// `/api/v1/namespaces/{namespace}/{pods|services}/{id}/proxy`, and what follows its slash.
fn split_proxy(path: &str) -> Option<(&str, Option<&str>)> {
    let mut ends = path.match_indices('/').map(|(at, _)| at).skip(1);
    let start = ends.nth(5)?;
    let end = ends.next();
    let is_proxy = path.starts_with("/api/v1/namespaces/")
        && path.get(start..end.unwrap_or(path.len())) == Some("/proxy");
    is_proxy.then(|| match end {
        Some(end) => (&path[..end], Some(&path[end + 1..])),
        None => (path, None),
    })
}

fn parse_own(path: &str) -> Option<Target> {
    let segments = segments(path)?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match segments.as_slice() {
        [endpoint, check @ ..] if check.len() < 2 && health(endpoint).is_some() => {
            let check = check.first().map(|check| (*check).to_owned());
            health(endpoint).map(|endpoint| Target::Health { endpoint, check })
        }
        ["version"] => Some(Target::Version),
        ["openapi", "v2"] => Some(Target::OpenApiV2),
        ["openapi", "v3"] => Some(Target::OpenApiIndex),
        ["openapi", "v3", document @ ..] => Some(Target::OpenApiDocument(document.join("/"))),
        ["api"] => Some(Target::CoreVersions),
        ["apis"] => Some(Target::Groups),
        ["apis", group] => known_group(group).map(Target::Group),
        ["api", version] => resources("", version),
        ["apis", group, version] => resources(group, version),
        ["apis", Metric::GROUP, version, "namespaces", namespace, resource, name, metric] => {
            let versions = catalog::kinds(Metric::GROUP, version);
            Some(Target::Metric(Metric {
                version: versions.first()?.version,
                namespace: (*namespace).to_owned(),
                resource: (*resource).to_owned(),
                name: (*name).to_owned(),
                metric: (*metric).to_owned(),
            }))
        }
        ["api", version, rest @ ..] => within("", version, rest),
        ["apis", group, version, rest @ ..] if !group.is_empty() => within(group, version, rest),
        _ => None,
    }
}

fn health(endpoint: &str) -> Option<&'static str> {
    ["livez", "readyz", "healthz"].into_iter().find(|known| *known == endpoint)
}

fn known_group(name: &str) -> Option<&'static str> {
    catalog::groups()
        .into_iter()
        .map(|(group, _)| group)
        .find(|group| !group.is_empty() && *group == name)
}

fn resources(group: &str, version: &str) -> Option<Target> {
    let (group, versions) = catalog::groups().into_iter().find(|(known, _)| *known == group)?;
    let version = versions.into_iter().find(|known| *known == version)?;
    Some(Target::Resources { group, version })
}

fn within(group: &str, version: &str, rest: &[&str]) -> Option<Target> {
    // "namespaces/x" and its subresources are the Namespace itself; what follows is inside it.
    if let ["namespaces", namespace, plural, below @ ..] = rest
        && let Some(kind) = catalog::find(group, version, plural)
        && kind.is_namespaced()
    {
        return below_kind(kind, Some((*namespace).to_owned()), below);
    }
    let (plural, below) = rest.split_first()?;
    let kind = catalog::find(group, version, plural)?;
    // Objects of a namespaced kind have no address without their namespace.
    if kind.is_namespaced() && !below.is_empty() {
        return None;
    }
    below_kind(kind, None, below)
}

fn below_kind(kind: &'static Kind, namespace: Option<String>, below: &[&str]) -> Option<Target> {
    match below {
        [] => Some(Target::Collection { kind, namespace }),
        [name] => Some(Target::Object(Object { kind, namespace, name: (*name).to_owned() })),
        [name, subresource] => Some(Target::Subresource {
            subresource: kind.subresource(subresource)?,
            object: Object { kind, namespace, name: (*name).to_owned() },
        }),
        _ => None,
    }
}

/// Decoded segments; `None` when two readings of the path would be possible.
fn segments(path: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix('/')?;
    // kubectl asks for "/api/" nowhere, but curl users and health checks do end with a slash.
    let path = path.strip_suffix('/').unwrap_or(path);
    path.split('/').map(segment).collect()
}

fn segment(raw: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |byte: u8| (byte as char).to_digit(16);
        let high = bytes.next().and_then(digit)?;
        let low = bytes.next().and_then(digit)?;
        decoded.push(u8::try_from(high << 4 | low).ok()?);
    }
    let text = String::from_utf8(decoded).ok()?;
    let is_plain = !text.is_empty()
        && text != "."
        && text != ".."
        && !text.contains('/')
        && !text.contains('\\')
        && !text.chars().any(char::is_control);
    is_plain.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(path: &str) -> String {
        match parse(path) {
            None => "nothing".to_owned(),
            Some(Target::Collection { kind, namespace }) => {
                format!("{} in {:?}", kind.resource(), namespace)
            }
            Some(Target::Object(object)) => {
                format!("{} {:?} {}", object.kind.resource(), object.namespace, object.name)
            }
            Some(Target::Subresource { object, subresource }) => format!(
                "{}/{} {:?} {}",
                object.kind.resource(),
                subresource.name,
                object.namespace,
                object.name
            ),
            Some(Target::Proxy { object, subresource, path }) => format!(
                "{}/{} {:?} {} {path:?}",
                object.kind.resource(),
                subresource.name,
                object.namespace,
                object.name
            ),
            Some(other) => format!("{other:?}"),
        }
    }

    #[test]
    fn paths_name_exactly_one_thing() {
        for (path, expected) in [
            ("/api/v1/pods", "pods in None"),
            ("/api/v1/namespaces/a/pods", "pods in Some(\"a\")"),
            ("/api/v1/namespaces/a/pods/p", "pods Some(\"a\") p"),
            ("/api/v1/namespaces/a/pods/p/log", "pods/log Some(\"a\") p"),
            ("/api/v1/namespaces/a", "namespaces None a"),
            ("/api/v1/namespaces/a/status", "namespaces/status None a"),
            ("/api/v1/namespaces/a/finalize", "namespaces/finalize None a"),
            ("/api/v1/namespaces", "namespaces in None"),
            ("/api/v1/nodes/n/status", "nodes/status None n"),
            (
                "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n",
                "leases.coordination.k8s.io Some(\"kube-node-lease\") n",
            ),
            ("/api/v1/namespaces/a/pods/system%3Ax", "pods Some(\"a\") system:x"),
            ("/openapi/v3/apis/apps/v1", "OpenApiDocument(\"apis/apps/v1\")"),
            ("/apis/events.k8s.io", "Group(\"events.k8s.io\")"),
        ] {
            assert_eq!(show(path), expected, "{path}");
        }
    }

    #[test]
    fn what_follows_proxy_is_the_pods_own_as_it_was_written() {
        const POD: &str = "/api/v1/namespaces/a/pods/p/proxy";
        for (path, expected) in [
            (POD, "pods/proxy Some(\"a\") p None"),
            ("/api/v1/namespaces/a/pods/p/proxy/", "pods/proxy Some(\"a\") p Some(\"\")"),
            (
                "/api/v1/namespaces/a/services/https:s:1/proxy/x//y%2Fz/",
                "services/proxy Some(\"a\") https:s:1 Some(\"x//y%2Fz/\")",
            ),
            (
                "/api/v1/namespaces/a/services/s%3Aweb/proxy/proxy",
                "services/proxy Some(\"a\") s:web Some(\"proxy\")",
            ),
            ("/api/v1/namespaces/proxy/pods/proxy/log", "pods/log Some(\"proxy\") proxy"),
            ("/api/v1/namespaces/a/pods/p/proxy/../../x", "nothing"),
            ("/api/v1/namespaces/a/pods/p/proxy/x/%2E%2e/y", "nothing"),
            ("/api/v1/namespaces/a/pods/p/proxy/x/.", "nothing"),
            ("/api/v1/namespaces/a/pods/p%2Fx/proxy/", "nothing"),
            ("/api/v1/namespaces/a/configmaps/c/proxy/", "nothing"),
            ("/api/v1/namespaces//pods/p/proxy/", "nothing"),
            ("/api/v1/nodes/n/proxy/metrics", "nothing"),
            ("/api/v1/nodes/n/proxy", "nothing"),
        ] {
            assert_eq!(show(path), expected, "{path}");
        }
    }

    #[test]
    fn ambiguous_and_unknown_paths_name_nothing() {
        for path in [
            "",
            "/",
            "api/v1",
            "//api/v1/pods",
            "/api//v1/pods",
            "/api/v1/namespaces/a%2fb/pods",
            "/api/v1/namespaces/../pods",
            "/api/v1/namespaces/%2e%2e/pods",
            "/api/v1/namespaces/./pods",
            "/api/v1/namespaces/a/pods/p%00",
            "/api/v1/namespaces/a/pods/p%",
            "/api/v1/namespaces/a/pods/p%zz",
            "/api/v1/namespaces/a/pods/%ff",
            "/api/v1/pods/p",
            "/api/v1/namespaces/a/nodes",
            "/api/v1/Pods",
            "/api/v2/pods",
            "/apis//v1/pods",
            "/apis/v1",
            "/api/v1/namespaces/a/pods/p/log/x",
            "/api/v1/namespaces/a/configmaps/c/status",
            "/apis/coordination.k8s.io/v1/nodes",
            "/api/v1/namespaces/a\\b/pods",
        ] {
            assert_eq!(show(path), "nothing", "{path}");
        }
    }
}
