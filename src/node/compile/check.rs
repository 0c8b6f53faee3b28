//! From probes and lifecycle hooks as written to what is performed: ports by number, times as durations.
//!
//! Pure. A port name that no port of the container has is a text that stands for the action; it fails when its
//! time comes, as under kubelet.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::node::health::{Declared, Kind, Timing};

/// On a pod: `"false"` takes its containers for ready as soon as they run, whether or not their ports are
/// listened on; `"true"` waits for them although the node's setting says otherwise.
pub const READY_WHEN_LISTENING: &str = "joey/ready-when-listening";

/// One thing to do to find out, or to tell the container.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Exec(Vec<String>),
    Http(HttpGet),
    Tcp {
        /// `None`: the pod.
        host: Option<String>,
        port: u16,
    },
    Grpc {
        port: u16,
        service: String,
    },
    Sleep(Duration),
}

#[derive(Debug, Clone, PartialEq)]
pub struct HttpGet {
    pub is_tls: bool,
    /// `None`: the pod.
    pub host: Option<String>,
    pub port: u16,
    /// Path and query, beginning with a slash.
    pub path: String,
    pub headers: Vec<(String, String)>,
}

/// A probe of a container.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// What to do, or why that cannot be told.
    pub action: Result<Action, String>,
    pub timeout: Duration,
    /// `terminationGracePeriodSeconds` of the probe, which then beats the pod's.
    pub grace: Option<Duration>,
}

/// Which hook of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    PostStart,
    PreStop,
}

/// The numbers of the probes of `container`. `awaits_ports` is the node's setting.
pub fn declared(pod: &core::Pod, container: &core::Container, awaits_ports: bool) -> Declared {
    let annotation =
        pod.metadata.annotations.as_ref().and_then(|all| all.get(READY_WHEN_LISTENING));
    let awaits_ports = match annotation.map(String::as_str) {
        Some("true") => true,
        Some("false") => false,
        Some(_) | None => awaits_ports,
    };
    let read = |probe: &Option<core::Probe>| probe.as_ref().map(timing);
    Declared {
        startup: read(&container.startup_probe),
        liveness: read(&container.liveness_probe),
        readiness: read(&container.readiness_probe),
        awaits_ports: awaits_ports
            && container.readiness_probe.is_none()
            && !tcp_ports(container).is_empty(),
    }
}

/// The TCP ports that the container says it listens on.
pub fn tcp_ports(container: &core::Container) -> Vec<u16> {
    let ports = container.ports.iter().flatten();
    ports
        .filter(|port| matches!(port.protocol.as_deref(), None | Some("TCP" | "")))
        .filter_map(|port| u16::try_from(port.container_port).ok())
        .collect()
}

/// The probe of that kind, if the container has one.
pub fn check(container: &core::Container, kind: Kind) -> Option<Check> {
    let probe = match kind {
        Kind::Startup => &container.startup_probe,
        Kind::Liveness => &container.liveness_probe,
        Kind::Readiness => &container.readiness_probe,
    };
    let probe = probe.as_ref()?;
    let action = if let Some(exec) = &probe.exec {
        Ok(Action::Exec(exec.command.clone().unwrap_or_default()))
    } else if let Some(http) = &probe.http_get {
        http_get(container, http)
    } else if let Some(tcp) = &probe.tcp_socket {
        tcp_socket(container, tcp)
    } else if let Some(grpc) = &probe.grpc {
        let service = grpc.service.clone().unwrap_or_default();
        number(grpc.port).map(|port| Action::Grpc { port, service })
    } else {
        Err("missing probe handler".to_owned())
    };
    let grace = probe.termination_grace_period_seconds;
    Some(Check {
        action,
        timeout: seconds(probe.timeout_seconds, 1),
        grace: grace.and_then(|grace| u64::try_from(grace).ok()).map(Duration::from_secs),
    })
}

/// The hook, if the container has it.
pub fn hook(container: &core::Container, which: Hook) -> Option<Result<Action, String>> {
    let lifecycle = container.lifecycle.as_ref()?;
    let handler = match which {
        Hook::PostStart => lifecycle.post_start.as_ref()?,
        Hook::PreStop => lifecycle.pre_stop.as_ref()?,
    };
    Some(if let Some(exec) = &handler.exec {
        Ok(Action::Exec(exec.command.clone().unwrap_or_default()))
    } else if let Some(http) = &handler.http_get {
        http_get(container, http)
    } else if let Some(sleep) = &handler.sleep {
        Ok(Action::Sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))))
    } else if handler.tcp_socket.is_some() {
        Err("tcpSocket is no lifecycle hook: Kubernetes ignores it".to_owned())
    } else {
        Err("missing lifecycle handler".to_owned())
    })
}

fn timing(probe: &core::Probe) -> Timing {
    let count = |value: Option<i32>, default| {
        value.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default)
    };
    Timing {
        initial_delay: seconds(probe.initial_delay_seconds, 0),
        period: seconds(probe.period_seconds, 10),
        successes: count(probe.success_threshold, 1),
        failures: count(probe.failure_threshold, 3),
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    let given = value.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
    Duration::from_secs(given.unwrap_or(default))
}

fn http_get(container: &core::Container, http: &core::HTTPGetAction) -> Result<Action, String> {
    let path = http.path.as_deref().unwrap_or_default();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let headers = http.http_headers.iter().flatten();
    Ok(Action::Http(HttpGet {
        is_tls: http.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
        host: http.host.clone().filter(|host| !host.is_empty()),
        port: port(container, &http.port)?,
        path,
        headers: headers.map(|header| (header.name.clone(), header.value.clone())).collect(),
    }))
}

fn tcp_socket(container: &core::Container, tcp: &core::TCPSocketAction) -> Result<Action, String> {
    let host = tcp.host.clone().filter(|host| !host.is_empty());
    Ok(Action::Tcp { host, port: port(container, &tcp.port)? })
}

fn port(container: &core::Container, wanted: &IntOrString) -> Result<u16, String> {
    match wanted {
        IntOrString::Int(number_) => number(*number_),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_ref() == Some(name));
            match (named, name.parse::<i32>()) {
                (Some(port), _) => number(port.container_port),
                (None, Ok(digits)) => number(digits),
                (None, Err(_)) => {
                    Err(format!("couldn't find port: {name:?} in container {}", container.name))
                }
            }
        }
    }
}

fn number(port: i32) -> Result<u16, String> {
    u16::try_from(port)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("invalid port number: {port}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn container(more: Value) -> core::Container {
        let mut spec = json!({"name": "web", "ports": [
            {"name": "http", "containerPort": 8080},
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
        ]});
        let Value::Object(more) = more else { panic!("not an object") };
        spec.as_object_mut().unwrap().extend(more);
        serde_json::from_value(spec).unwrap()
    }

    fn action(handler: Value) -> Result<Action, String> {
        let container = container(json!({ "livenessProbe": handler }));
        check(&container, Kind::Liveness).unwrap().action
    }

    #[test]
    fn a_port_is_a_number_or_the_name_of_a_port_of_the_container() {
        for (written, meant) in [
            (json!(80), Ok(80)),
            (json!("http"), Ok(8080)),
            (json!("81"), Ok(81)),
            (json!("nosuch"), Err("couldn't find port: \"nosuch\" in container web".to_owned())),
            (json!(70000), Err("invalid port number: 70000".to_owned())),
        ] {
            let found = action(json!({"tcpSocket": {"port": written}}));
            assert_eq!(found, meant.map(|port| Action::Tcp { host: None, port }));
        }
    }

    #[test]
    fn an_http_check_has_a_path_and_goes_to_the_pod_unless_it_names_a_host() {
        let get = |more: Value| {
            let mut http = json!({"port": "http"});
            http.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            match action(json!({ "httpGet": http })) {
                Ok(Action::Http(get)) => get,
                other => panic!("{other:?}"),
            }
        };
        let plain = get(json!({}));
        assert_eq!((plain.is_tls, plain.host, plain.path.as_str()), (false, None, "/"));
        let full = get(json!({"scheme": "HTTPS", "host": "example.com", "path": "healthz?full=1",
            "httpHeaders": [{"name": "Host", "value": "a.b"}]}));
        assert_eq!((full.is_tls, full.host.as_deref()), (true, Some("example.com")));
        assert_eq!(full.path, "/healthz?full=1");
        assert_eq!(full.headers, [("Host".to_owned(), "a.b".to_owned())]);
    }

    #[test]
    fn numbers_left_out_are_kubernetes_defaults() {
        let container = container(json!({"readinessProbe": {"grpc": {"port": 9}},
            "startupProbe": {"exec": {"command": ["true"]}, "periodSeconds": 2, "failureThreshold": 30,
                "initialDelaySeconds": 1, "terminationGracePeriodSeconds": 4, "timeoutSeconds": 7}}));
        let declared = declared(&core::Pod::default(), &container, true);
        assert_eq!(
            declared.readiness.map(|t| (t.period.as_secs(), t.successes, t.failures)),
            Some((10, 1, 3))
        );
        let startup = declared.startup.unwrap();
        assert_eq!(
            (startup.initial_delay.as_secs(), startup.period.as_secs(), startup.failures),
            (1, 2, 30)
        );
        let check = check(&container, Kind::Startup).unwrap();
        assert_eq!((check.timeout.as_secs(), check.grace.map(|g| g.as_secs())), (7, Some(4)));
    }

    #[test]
    fn ports_are_awaited_by_setting_annotation_and_only_without_a_readiness_probe() {
        let pod = |word: Option<&str>| core::Pod {
            metadata: kube::api::ObjectMeta {
                annotations: word.map(|w| [(READY_WHEN_LISTENING.to_owned(), w.to_owned())].into()),
                ..kube::api::ObjectMeta::default()
            },
            ..core::Pod::default()
        };
        let plain = container(json!({}));
        assert_eq!(tcp_ports(&plain), [8080]);
        for (word, setting, awaits) in [
            (None, true, true),
            (None, false, false),
            (Some("false"), true, false),
            (Some("true"), false, true),
            (Some("nonsense"), true, true),
        ] {
            assert_eq!(declared(&pod(word), &plain, setting).awaits_ports, awaits, "{word:?}");
        }
        let probed = container(json!({"readinessProbe": {"tcpSocket": {"port": 1}}}));
        assert!(!declared(&pod(None), &probed, true).awaits_ports);
        let silent: core::Container = serde_json::from_value(json!({"name": "a"})).unwrap();
        assert!(!declared(&pod(None), &silent, true).awaits_ports);
    }

    #[test]
    fn hooks_are_read_like_probes() {
        let container = container(json!({"lifecycle": {
            "postStart": {"exec": {"command": ["a", "b"]}}, "preStop": {"sleep": {"seconds": 3}}}}));
        assert_eq!(
            hook(&container, Hook::PostStart),
            Some(Ok(Action::Exec(vec!["a".to_owned(), "b".to_owned()])))
        );
        assert_eq!(
            hook(&container, Hook::PreStop),
            Some(Ok(Action::Sleep(Duration::from_secs(3))))
        );
    }
}
