//! Which port of which pod `pods/ID/proxy` and `services/ID/proxy` mean (pure).
//!
//! An ID is `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`, read as Kubernetes reads it (apimachinery `SplitSchemeNamePort`).
//! What comes out is a pod and never an address: the node knows which one the pod really has (CVE-2020-8555).

use serde_json::Value;

use crate::api::failure::Failure;
use crate::api::object;

/// What is spoken to the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    /// The certificate is not verified, as in Kubernetes: a pod has none that anybody could verify.
    Https,
}

impl Scheme {
    /// `http`, `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    fn usual_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// An ID in its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id<'a> {
    pub scheme: Scheme,
    pub name: &'a str,
    /// A name, a number, or nothing.
    pub port: &'a str,
}

impl<'a> Id<'a> {
    /// `None` if Kubernetes would not read it either.
    pub fn parse(id: &'a str) -> Option<Id<'a>> {
        let parts: Vec<&str> = id.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        let scheme = match scheme {
            "" | "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        (!name.is_empty()).then_some(Id { scheme, name, port })
    }
}

/// The port of `pod` that `id` means: by number, by the name of a container's port, or else the first that a container
/// declares, or else the scheme's usual one.
pub fn port_of_pod(pod: &Value, id: Id<'_>) -> Result<u16, Failure> {
    let declared = || declared(pod);
    let is_of_host = pod["spec"]["hostNetwork"] == true;
    let port = match id.port {
        "" => declared().next().map_or(id.scheme.usual_port(), |(_, port)| port),
        asked => match asked.parse::<u16>() {
            Ok(port) if port > 0 => port,
            _ => declared().find(|(name, _)| *name == asked).map(|(_, port)| port).ok_or_else(
                || Failure::bad_request(format!("pod {:?} has no port {asked:?}", id.name)),
            )?,
        },
    };
    // The address of a pod in the host's network is the host's: what else listens there is not the pod.
    if is_of_host && !declared().any(|(_, own)| own == port) {
        return Err(Failure::bad_request(format!(
            "address not allowed: pod {:?} is in the host's network and declares no port {port}",
            id.name
        )));
    }
    Ok(port)
}

fn declared(pod: &Value) -> impl Iterator<Item = (&str, u16)> {
    let ports = |container: &'static str| {
        let containers = pod["spec"][container].as_array().into_iter().flatten();
        containers.flat_map(|container| container["ports"].as_array().into_iter().flatten())
    };
    ports("containers").chain(ports("initContainers")).filter_map(|port| {
        let number = port["containerPort"].as_u64().and_then(|port| u16::try_from(port).ok())?;
        Some((object::text(port, &["name"]), number))
    })
}

/// A place where a Service is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    pub pod: String,
    /// The address that the endpoint says the pod has.
    pub address: String,
    pub port: u16,
}

/// The ready places of what `id` means of `service`; `asked` is the ID as it was written.
///
/// As in Kubernetes a port is named by its number or name in the Service, and without one the port without a name is meant.
/// Endpoints that are no pods of `namespace` do not count (CVE-2021-25740).
pub fn backends(
    service: &Value,
    endpoints: Option<&Value>,
    namespace: &str,
    id: Id<'_>,
    asked: &str,
) -> Result<Vec<Backend>, Failure> {
    let port = match id.port.parse::<i64>() {
        Err(_) => id.port,
        Ok(number) => {
            let ports = service["spec"]["ports"].as_array().into_iter().flatten();
            let found = ports.into_iter().find(|port| port["port"].as_i64() == Some(number));
            object::text(
                found.ok_or_else(|| {
                    let name = id.name;
                    let why = format!("no service port {number} found for service {name:?}");
                    Failure::unavailable(&why)
                })?,
                &["name"],
            )
        }
    };
    let subsets = endpoints.and_then(|endpoints| endpoints["subsets"].as_array());
    let subsets = subsets.map(Vec::as_slice).unwrap_or_default();
    if subsets.is_empty() {
        let name = id.name;
        return Err(Failure::unavailable(&format!("no endpoints available for service {name:?}")));
    }
    let mut backends = Vec::new();
    for subset in subsets {
        let ports = subset["ports"].as_array().into_iter().flatten();
        let number = ports
            .into_iter()
            .find(|own| object::text(own, &["name"]) == port)
            .and_then(|own| own["port"].as_u64().and_then(|port| u16::try_from(port).ok()));
        let Some(number) = number else { continue };
        let addresses = subset["addresses"].as_array().into_iter().flatten();
        backends.extend(addresses.filter_map(|address| backend(address, namespace, number)));
    }
    match backends.is_empty() {
        true => Err(Failure::unavailable(&format!("no endpoints available for service {asked:?}"))),
        false => Ok(backends),
    }
}

fn backend(address: &Value, namespace: &str, port: u16) -> Option<Backend> {
    let target = &address["targetRef"];
    let is_pod = object::text(target, &["kind"]) == "Pod"
        && object::text(target, &["namespace"]) == namespace;
    is_pod.then(|| Backend {
        pod: object::text(target, &["name"]).to_owned(),
        address: object::text(address, &["ip"]).to_owned(),
        port,
    })
}

/// Whether `pod` has `address`.
pub fn has_address(pod: &Value, address: &str) -> bool {
    let all = pod["status"]["podIPs"].as_array().into_iter().flatten();
    !address.is_empty()
        && (object::text(pod, &["status", "podIP"]) == address
            || all.into_iter().any(|one| object::text(one, &["ip"]) == address))
}

/// The node of a pod that can be spoken to.
pub fn node_of(pod: &Value) -> Result<&str, Failure> {
    let name = object::name(pod);
    let phase = object::text(pod, &["status", "phase"]);
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(Failure::unavailable(&format!(
            "error trying to reach service: pod {name:?} is not running. Current status={phase}"
        )));
    }
    match object::text(pod, &["spec", "nodeName"]) {
        "" => Err(Failure::bad_request(format!("pod {name} does not have a host assigned"))),
        _ if object::text(pod, &["status", "podIP"]).is_empty() => Err(Failure::bad_request(
            format!("address not allowed: pod {name:?} has no address yet"),
        )),
        node => Ok(node),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_id_is_a_name_with_an_optional_scheme_and_port() {
        let id = |scheme, name, port| Some(Id { scheme, name, port });
        for (text, expected) in [
            ("web", id(Scheme::Http, "web", "")),
            ("web:", id(Scheme::Http, "web", "")),
            ("web:80", id(Scheme::Http, "web", "80")),
            ("http:web:", id(Scheme::Http, "web", "")),
            (":web:http", id(Scheme::Http, "web", "http")),
            ("https:web:8443", id(Scheme::Https, "web", "8443")),
            ("ftp:web:21", None),
            ("HTTPS:web:1", None),
            ("", None),
            (":80", None),
            ("https::80", None),
            ("a:b:c:d", None),
        ] {
            assert_eq!(Id::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_pods_port_is_a_number_or_one_that_a_container_declares() {
        let pod = json!({"spec": {"containers": [
            {"name": "a"},
            {"name": "b", "ports": [{"name": "web", "containerPort": 8080}, {"containerPort": 9}]},
        ]}});
        let bare = json!({"spec": {"containers": [{"name": "a"}]}});
        let mut host = pod.clone();
        host["spec"]["hostNetwork"] = true.into();
        for (pod, id, expected) in [
            (&pod, "p", Ok(8080)),
            (&pod, "p:web", Ok(8080)),
            (&pod, "p:81", Ok(81)),
            (&bare, "p", Ok(80)),
            (&bare, "https:p:", Ok(443)),
            (&bare, "p:web", Err("pod \"p\" has no port \"web\"")),
            (&bare, "p:0", Err("pod \"p\" has no port \"0\"")),
            (&bare, "p:65536", Err("pod \"p\" has no port \"65536\"")),
            (&bare, "p:-1", Err("pod \"p\" has no port \"-1\"")),
            (&host, "p:9", Ok(9)),
            (
                &host,
                "p:22",
                Err(
                    "address not allowed: pod \"p\" is in the host's network and declares no port 22",
                ),
            ),
        ] {
            let id = Id::parse(id).expect("an id");
            let got = port_of_pod(pod, id).map_err(|failure| (failure.code, failure.message));
            assert_eq!(got, expected.map_err(|message| (400, message.to_owned())), "{id:?}");
        }
    }

    #[test]
    fn a_service_is_served_by_ready_pods_of_its_namespace_alone() {
        let service = json!({"spec": {"ports": [
            {"port": 80}, {"name": "admin", "port": 8001, "targetPort": 9001},
        ]}});
        let pod = |name: &str, ip: &str| json!({"ip": ip, "targetRef": {"kind": "Pod", "namespace": "ns", "name": name}});
        let endpoints = json!({"subsets": [
            {
                "addresses": [
                    pod("a", "10.0.0.1"),
                    {"ip": "10.0.0.9"},
                    {"ip": "10.0.0.8", "targetRef": {"kind": "Node", "name": "n"}},
                    {"ip": "10.0.0.7", "targetRef": {"kind": "Pod", "namespace": "other", "name": "x"}},
                ],
                "notReadyAddresses": [pod("late", "10.0.0.2")],
                "ports": [{"port": 8080}, {"name": "admin", "port": 9001}],
            },
            {"addresses": [pod("b", "10.0.0.3")], "ports": [{"port": 8081}]},
        ]});
        let none = json!({"subsets": []});
        let show = |endpoints: Option<&Value>, asked: &str| {
            let id = Id::parse(asked).expect("an id");
            match backends(&service, endpoints, "ns", id, asked) {
                Ok(found) => {
                    let show = |b: &Backend| format!("{} {}:{}", b.pod, b.address, b.port);
                    found.iter().map(show).collect::<Vec<_>>().join(", ")
                }
                Err(failure) => format!("{} {}", failure.code, failure.message),
            }
        };
        let some = Some(&endpoints);
        for (endpoints, asked, expected) in [
            (some, "s", "a 10.0.0.1:8080, b 10.0.0.3:8081"),
            (some, "s:80", "a 10.0.0.1:8080, b 10.0.0.3:8081"),
            (some, "s:admin", "a 10.0.0.1:9001"),
            (some, "https:s:8001", "a 10.0.0.1:9001"),
            (some, "s:81", "503 no service port 81 found for service \"s\""),
            (some, "s:none", "503 no endpoints available for service \"s:none\""),
            (Some(&none), "s:admin", "503 no endpoints available for service \"s\""),
            (None, "s", "503 no endpoints available for service \"s\""),
        ] {
            assert_eq!(show(endpoints, asked), expected, "{asked}");
        }
    }

    #[test]
    fn only_a_pod_that_runs_is_spoken_to() {
        let pod = |node: &str, phase: &str, ip: &str| {
            json!({
                "metadata": {"name": "p"}, "spec": {"nodeName": node},
                "status": {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}]},
            })
        };
        let show = |pod: &Value| match node_of(pod) {
            Ok(node) => node.to_owned(),
            Err(failure) => format!("{} {}", failure.code, failure.message),
        };
        let running = pod("n", "Running", "10.0.0.1");
        assert_eq!(show(&running), "n");
        assert_eq!(
            show(&pod("n", "Failed", "10.0.0.1")),
            "503 error trying to reach service: pod \"p\" is not running. Current status=Failed"
        );
        assert_eq!(show(&pod("", "Pending", "")), "400 pod p does not have a host assigned");
        assert_eq!(
            show(&pod("n", "Pending", "")),
            "400 address not allowed: pod \"p\" has no address yet"
        );
        assert!(has_address(&running, "10.0.0.1"));
        assert!(!has_address(&running, "10.0.0.2"));
        assert!(!has_address(&pod("n", "Pending", ""), ""));
    }
}
