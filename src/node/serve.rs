//! The node's own HTTP surface, as a kubelet has it: logs, exec, attach, port-forward, what is used; and the way to what
//! pods themselves serve.
//!
//! Whoever reaches it has been authorised: the API dials it in memory, and no port is opened. It reads
//! the snapshot of running pods and never changes a pod.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use serde_json::{Value, json};

use self::logwatch::LogWatch;
use super::pods::{ContainerEntry, PodEntry, Pods};
use super::usage::Usage;
use crate::net::Network;

mod exec;
mod logfile;
mod logs;
mod logwatch;
mod portforward;
mod proxy;
mod remote;
mod spdy;
mod websocket;

/// What the handlers share.
#[derive(Clone)]
pub struct Serve {
    pods: Pods,
    log_watch: LogWatch,
    usage: Usage,
    network: Network,
}

/// The router that the wiring serves to whoever the API dials.
///
/// # Errors
/// The kernel gives no inotify instance.
pub fn router(pods: Pods, usage: Usage, network: Network) -> std::io::Result<Router> {
    let state = Serve { pods, log_watch: LogWatch::new()?, usage, network };
    let exec = get(exec::exec).post(exec::exec);
    let attach = get(exec::attach).post(exec::attach);
    let forward = get(portforward::port_forward).post(portforward::port_forward);
    Ok(Router::new()
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::logs))
        .route("/exec/{namespace}/{pod}/{container}", exec)
        .route("/attach/{namespace}/{pod}/{container}", attach)
        .route("/portForward/{namespace}/{pod}", forward)
        .route("/proxy/{*rest}", any(proxy::proxy))
        .route("/stats/summary", get(summary))
        .with_state(state))
}

async fn summary(State(state): ServeState) -> Json<Value> {
    Json(state.usage.summary().await)
}

/// A refusal before any stream exists: a `metav1.Status` that the API passes on as it is.
#[derive(Debug)]
struct Refusal {
    code: StatusCode,
    reason: &'static str,
    message: String,
}

impl Refusal {
    fn bad_request(message: impl Into<String>) -> Refusal {
        Refusal { code: StatusCode::BAD_REQUEST, reason: "BadRequest", message: message.into() }
    }

    fn not_found(message: impl Into<String>) -> Refusal {
        Refusal { code: StatusCode::NOT_FOUND, reason: "NotFound", message: message.into() }
    }

    fn unavailable(message: impl Into<String>) -> Refusal {
        Refusal {
            code: StatusCode::SERVICE_UNAVAILABLE,
            reason: "ServiceUnavailable",
            message: message.into(),
        }
    }

    fn internal(message: impl std::fmt::Display) -> Refusal {
        Refusal {
            code: StatusCode::INTERNAL_SERVER_ERROR,
            reason: "InternalError",
            message: format!("Internal error occurred: {message}"),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code.as_u16(),
        });
        (self.code, [(header::CONTENT_TYPE, "application/json")], format!("{status}\n"))
            .into_response()
    }
}

/// `Success` as the last word of exec and attach.
fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

fn failure(reason: &str, message: String) -> Value {
    json!({"metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": 500})
}

impl Serve {
    fn pod(&self, namespace: &str, name: &str) -> Result<Arc<PodEntry>, Refusal> {
        self.pods.find(namespace, name).ok_or_else(|| {
            Refusal::not_found(format!("pod {namespace}/{name} does not run on this node"))
        })
    }
}

fn container<'a>(pod: &'a PodEntry, name: &str) -> Result<&'a ContainerEntry, Refusal> {
    pod.containers
        .get(name)
        .ok_or_else(|| Refusal::not_found(format!("container not found (\"{name}\")")))
}

/// A container that has a log; in kubelet's words (`validateContainerLogStatus`) why it has none.
fn logged<'a>(pod: &'a PodEntry, name: &str) -> Result<&'a ContainerEntry, Refusal> {
    let why = match pod.waiting.get(name).map(String::as_str) {
        None => return container(pod, name),
        Some(_) if pod.containers.contains_key(name) => return container(pod, name),
        Some("ErrImagePull") => "image can't be pulled",
        Some("ImagePullBackOff") => "trying and failing to pull image",
        Some("") => "no logs yet",
        Some(reason) => reason,
    };
    Err(Refusal::bad_request(format!(
        "container {name:?} in pod {:?} is waiting to start: {why}",
        pod.name
    )))
}

/// One value of the query; the last one wins, as with Go's single-valued parameters the first would:
/// clients never repeat these.
fn query_value(request_query: &str, name: &str) -> Option<String> {
    query_pairs(request_query).find(|(key, _)| key == name).map(|(_, value)| value)
}

/// The decoded pairs of a query string.
fn query_pairs(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key), decode(value))
    })
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = bytes.get(index + 1..index + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match (bytes[index], hex.and_then(|pair| u8::from_str_radix(pair, 16).ok())) {
            (b'%', Some(byte)) => {
                plain.push(byte);
                index += 3;
            }
            (b'+', _) => {
                plain.push(b' ');
                index += 1;
            }
            (byte, _) => {
                plain.push(byte);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// A boolean parameter as Kubernetes clients write it.
fn query_flag(query: &str, name: &str) -> bool {
    matches!(query_value(query, name).as_deref(), Some("true" | "1"))
}

type PodContainer = Path<(String, String, String)>;
type ServeState = State<Serve>;
type AnyRequest = Request;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_container_that_was_never_started_says_why_it_has_no_log() {
        let waiting = [("web", "ImagePullBackOff"), ("side", "ContainerCreating")];
        let pod = PodEntry {
            namespace: "default".into(),
            name: "p".into(),
            uid: "u".into(),
            pod: None,
            containers: BTreeMap::new(),
            waiting: waiting.map(|(name, why)| (name.to_owned(), why.to_owned())).into(),
            metrics: None,
            netns: None,
            address: None,
            host_network: false,
        };
        let told = |name: &str| match logged(&pod, name) {
            Ok(_) => panic!("a log"),
            Err(refusal) => (refusal.code, refusal.message),
        };
        let web =
            "container \"web\" in pod \"p\" is waiting to start: trying and failing to pull image";
        assert_eq!(told("web"), (StatusCode::BAD_REQUEST, web.to_owned()));
        let side = "container \"side\" in pod \"p\" is waiting to start: ContainerCreating";
        assert_eq!(told("side"), (StatusCode::BAD_REQUEST, side.to_owned()));
        assert_eq!(told("none").0, StatusCode::NOT_FOUND);
    }

    #[test]
    fn queries_are_decoded_once() {
        let query = "command=echo&command=a%20b%2Bc&command=%25&x=1+2&flag=true";
        let commands: Vec<String> = query_pairs(query)
            .filter(|(key, _)| key == "command")
            .map(|(_, value)| value)
            .collect();
        assert_eq!(commands, ["echo", "a b+c", "%"]);
        assert_eq!(query_value(query, "x").as_deref(), Some("1 2"));
        assert!(query_flag(query, "flag"));
        assert_eq!(decode("%zz%4"), "%zz%4");
    }
}
