//! Logs, exec, attach and port-forward: authorised here, carried to the node as plain HTTP.
//!
//! After checking pod, container and phase, the request (with its Upgrade headers) is passed to the node
//! over a dialled byte stream and the bytes are copied both ways; WebSocket and SPDY end at the node.
//! Paths at the node, with the query of the API request unchanged:
//! `/containerLogs/{namespace}/{pod}/{container}`, `/exec/{namespace}/{pod}/{container}`,
//! `/attach/{namespace}/{pod}/{container}`, `/portForward/{namespace}/{pod}`.
//!
//! Nothing is copied before the node has answered 101, and no redirect is ever followed
//! (CVE-2018-1002105, CVE-2020-8559).

use std::io;
use std::time::Duration;

use axum::body::Body;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::catalog::Purpose;
use crate::api::failure::Failure;
use crate::api::path::Object;
use crate::api::query::Query;
use crate::api::verbs::{key_of, write};
use crate::api::{Api, object, reply};

/// A byte stream to a node's HTTP server.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens a connection to the named node's HTTP server. Implemented by the wiring.
pub trait Dial: Send + Sync + 'static {
    fn dial(&self, node: &str) -> BoxFuture<'_, io::Result<Box<dyn Stream>>>;
}

/// How long a node may take to accept a connection and answer the head of a request.
const NODE_LIMIT: Duration = Duration::from_secs(30);

/// Which stream of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Log,
    Exec,
    Attach,
    PortForward,
}

impl Kind {
    pub fn of(purpose: Purpose) -> Option<Kind> {
        match purpose {
            Purpose::Log => Some(Kind::Log),
            Purpose::Exec => Some(Kind::Exec),
            Purpose::Attach => Some(Kind::Attach),
            Purpose::PortForward => Some(Kind::PortForward),
            Purpose::Status
            | Purpose::Finalize
            | Purpose::Scale
            | Purpose::Binding
            | Purpose::Eviction
            | Purpose::Token
            | Purpose::Proxy
            | Purpose::EphemeralContainers => None,
        }
    }
}

/// The copies that run, and what ends them.
#[derive(Debug, Default)]
pub(super) struct Running {
    tasks: TaskTracker,
    end: CancellationToken,
}

impl Running {
    /// Ends every copy and waits until all have ended.
    pub async fn close(&self) {
        self.end.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Checks the pod, then hands the request to its node.
pub(super) async fn open(
    api: &Api,
    mut request: Request<Body>,
    target: &Object,
    query: &Query,
    kind: Kind,
) -> Result<Response<Body>, Failure> {
    let pod = write::read(api, target.kind, &key_of(target))?
        .ok_or_else(|| Failure::not_found(target.kind, &target.name))?;
    let route = match route(&pod, query, kind)? {
        Route::Node(route) => route,
        Route::Nothing => {
            return Ok(reply::text_response(StatusCode::OK, "text/plain", ""));
        }
    };
    let is_upgrade = request.headers().contains_key(header::UPGRADE);
    if kind != Kind::Log && !is_upgrade {
        return Err(Failure::bad_request("Upgrade request required"));
    }
    let mut sender = connect(api, &route.node).await?;
    let client = is_upgrade.then(|| hyper::upgrade::on(&mut request));
    let mut answer = within(sender.send_request(onward(&request, &route)?))
        .await?
        .map_err(|error| unreachable_node(&error))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        if answer.status().is_redirection() {
            return Err(Failure::internal("the node answered with a redirect"));
        }
        return Ok(answer.map(Body::new));
    }
    let Some(client) = client else {
        return Err(Failure::internal("the node switched protocols unasked"));
    };
    let node = hyper::upgrade::on(&mut answer);
    copy_both_ways(api, client, node);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answer.headers().clone();
    Ok(response)
}

/// A connection to the named node, driven until what it carries has ended or the API goes down.
pub(super) async fn connect(api: &Api, node: &str) -> Result<http1::SendRequest<Body>, Failure> {
    let stream = within(api.inner.dial.dial(node)).await?.map_err(|error| {
        tracing::warn!(node, %error, "the node cannot be reached");
        Failure::internal(&format!("error dialing backend: node {node}"))
    })?;
    let (sender, connection) = within(http1::handshake::<_, Body>(TokioIo::new(stream)))
        .await?
        .map_err(|error| unreachable_node(&error))?;
    // The connection must be driven for as long as the answer's body or the upgraded stream lives.
    let end = api.inner.streams.end.clone();
    api.inner.streams.tasks.spawn(async move {
        tokio::select! {
            result = connection.with_upgrades() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "the connection to the node ended");
                }
            }
            () = end.cancelled() => {}
        }
    });
    Ok(sender)
}

/// What the node itself answers at `path`, as JSON.
pub(super) async fn ask(api: &Api, node: &str, path: &'static str) -> Result<Value, Failure> {
    let stream = within(api.inner.dial.dial(node)).await?.map_err(|error| {
        tracing::warn!(node, %error, "the node cannot be reached");
        Failure::unavailable(&format!("error dialing backend: node {node}"))
    })?;
    let (mut sender, connection) = within(http1::handshake::<_, Body>(TokioIo::new(stream)))
        .await?
        .map_err(|error| unreachable_node(&error))?;
    let request = Request::get(path).header(header::HOST, "node").body(Body::empty());
    let request = request.map_err(|_| Failure::internal("the node cannot be asked"))?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        let is_well = answer.status() == StatusCode::OK;
        answer.into_body().collect().await.map(|body| is_well.then(|| body.to_bytes()))
    };
    // The connection is driven only as long as its answer is waited for.
    let exchange = async {
        tokio::select! {
            answer = exchange => answer.map_err(|error| unreachable_node(&error)),
            ended = connection => Err(match ended {
                Ok(()) => Failure::internal("the node did not answer"),
                Err(error) => unreachable_node(&error),
            }),
        }
    };
    let body = within(exchange).await??;
    body.and_then(|body| serde_json::from_slice(&body).ok())
        .ok_or_else(|| Failure::internal("the node gave no answer that reads"))
}

/// Carries bytes between two upgraded connections until both ways have ended or the API goes down.
pub(super) fn copy_both_ways(
    api: &Api,
    client: hyper::upgrade::OnUpgrade,
    node: hyper::upgrade::OnUpgrade,
) {
    let end = api.inner.streams.end.clone();
    api.inner.streams.tasks.spawn(async move {
        let copy = async {
            // The client's side completes only after our 101 has been written.
            let (client, node) =
                tokio::time::timeout(NODE_LIMIT, async { tokio::try_join!(client, node) })
                    .await
                    .map_err(io::Error::other)?
                    .map_err(io::Error::other)?;
            // Each direction closes by itself: an end of one is passed on while the other goes on.
            tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(node)).await
        };
        tokio::select! {
            result = copy => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a stream ended");
                }
            }
            () = end.cancelled() => {}
        }
    });
}

async fn within<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::time::timeout(NODE_LIMIT, work)
        .await
        .map_err(|_| Failure::timed_out("the node did not answer"))
}

pub(super) fn unreachable_node(error: &hyper::Error) -> Failure {
    tracing::warn!(%error, "the node did not answer");
    Failure::internal("the node did not answer")
}

/// The request as the node gets it: same method and query, its own path, and only the headers that
/// belong to the stream. Credentials stay here.
fn onward(request: &Request<Body>, route: &Destination) -> Result<Request<Body>, Failure> {
    let path = match request.uri().query() {
        Some(query) => format!("{}?{query}", route.path),
        None => route.path.clone(),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in request.headers() {
        let is_about_the_stream = matches!(
            *name,
            header::CONNECTION
                | header::UPGRADE
                | header::SEC_WEBSOCKET_KEY
                | header::SEC_WEBSOCKET_PROTOCOL
                | header::SEC_WEBSOCKET_VERSION
                | header::SEC_WEBSOCKET_EXTENSIONS
        ) || name.as_str() == "x-stream-protocol-version";
        if is_about_the_stream {
            headers.append(name, value.clone());
        }
    }
    headers.insert(header::HOST, HeaderValue::from_static("node"));
    let method = match *request.method() {
        Method::HEAD => Method::GET,
        ref method => method.clone(),
    };
    let mut onward = Request::builder()
        .method(method)
        .version(Version::HTTP_11)
        .uri(path)
        .body(Body::empty())
        .map_err(|_| Failure::bad_request("the request cannot be passed on"))?;
    *onward.headers_mut() = headers;
    Ok(onward)
}

/// Where a stream goes.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    Node(Destination),
    /// There is no node yet, so there are no logs yet.
    Nothing,
}

#[derive(Debug, PartialEq, Eq)]
struct Destination {
    node: String,
    path: String,
}

fn route(pod: &Value, query: &Query, kind: Kind) -> Result<Route, Failure> {
    let name = object::name(pod);
    let namespace = object::text(pod, &["metadata", "namespace"]);
    let phase = object::text(pod, &["status", "phase"]);
    let is_over = matches!(phase, "Succeeded" | "Failed");
    let path = match kind {
        Kind::PortForward if is_over => {
            return Err(Failure::bad_request(format!(
                "unable to forward port because pod is not running. Current status={phase}"
            )));
        }
        Kind::PortForward => format!("/portForward/{namespace}/{name}"),
        Kind::Exec if is_over => {
            return Err(Failure::bad_request(format!(
                "cannot exec into a container in a completed pod; current phase is {phase}"
            )));
        }
        Kind::Attach if is_over => {
            return Err(Failure::bad_request(format!(
                "cannot attach a container in a completed pod; current phase is {phase}"
            )));
        }
        Kind::Log | Kind::Exec | Kind::Attach => {
            let container = container(pod, query.get("container"))?;
            let verb = match kind {
                Kind::Log => "containerLogs",
                Kind::Exec => "exec",
                Kind::Attach | Kind::PortForward => "attach",
            };
            format!("/{verb}/{namespace}/{name}/{container}")
        }
    };
    match (object::text(pod, &["spec", "nodeName"]), kind) {
        ("", Kind::Log) => Ok(Route::Nothing),
        ("", Kind::Exec | Kind::Attach | Kind::PortForward) => {
            Err(Failure::bad_request(format!("pod {name} does not have a host assigned")))
        }
        (node, _) => Ok(Route::Node(Destination { node: node.to_owned(), path })),
    }
}

/// The container that is meant: the one asked for, or the only one.
fn container(pod: &Value, asked: Option<&str>) -> Result<String, Failure> {
    let name = object::name(pod);
    let names = |list: &str| -> Vec<&str> {
        pod["spec"][list]
            .as_array()
            .map(|all| all.iter().map(|c| object::text(c, &["name"])).collect())
            .unwrap_or_default()
    };
    let (own, init, ephemeral) =
        (names("containers"), names("initContainers"), names("ephemeralContainers"));
    if let Some(asked) = asked {
        let is_known = [&own, &init, &ephemeral].iter().any(|names| names.contains(&asked));
        return match is_known {
            true => Ok(asked.to_owned()),
            false => {
                Err(Failure::bad_request(format!("container {asked} is not valid for pod {name}")))
            }
        };
    }
    if let ([only], [], []) = (own.as_slice(), init.as_slice(), ephemeral.as_slice()) {
        return Ok((*only).to_owned());
    }
    if own.is_empty() {
        return Err(Failure::bad_request(format!(
            "a container name must be specified for pod {name}"
        )));
    }
    let mut message = format!(
        "a container name must be specified for pod {name}, choose one of: [{}]",
        own.join(" ")
    );
    for (names, what) in [(init, "init"), (ephemeral, "ephemeral")] {
        if !names.is_empty() {
            message.push_str(&format!(" or one of the {what} containers: [{}]", names.join(" ")));
        }
    }
    Err(Failure::bad_request(message))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(node: &str, phase: &str, containers: &[&str], init: &[&str]) -> Value {
        let list =
            |names: &[&str]| -> Value { names.iter().map(|name| json!({"name": name})).collect() };
        json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {"nodeName": node, "containers": list(containers), "initContainers": list(init)},
            "status": {"phase": phase},
        })
    }

    fn show(pod: &Value, query: &str, kind: Kind) -> String {
        let uri = format!("/x?{query}").parse().expect("a path");
        let query = Query::parse(&uri).expect("a query");
        match route(pod, &query, kind) {
            Ok(Route::Node(to)) => format!("{}{}", to.node, to.path),
            Ok(Route::Nothing) => "nothing".to_owned(),
            Err(failure) => failure.message,
        }
    }

    #[test]
    fn refusals_are_those_of_kubernetes() {
        let one = pod("n", "Running", &["a"], &[]);
        let two = pod("n", "Running", &["a", "b"], &[]);
        let with_init = pod("n", "Running", &["a"], &["i"]);
        let over = pod("n", "Succeeded", &["a"], &[]);
        let unbound = pod("", "Pending", &["a"], &[]);
        for (pod, query, kind, expected) in [
            (&one, "", Kind::Exec, "n/exec/ns/p/a"),
            (&one, "container=a", Kind::Log, "n/containerLogs/ns/p/a"),
            (&one, "container=x", Kind::Log, "container x is not valid for pod p"),
            (
                &two,
                "",
                Kind::Attach,
                "a container name must be specified for pod p, choose one of: [a b]",
            ),
            (
                &with_init,
                "",
                Kind::Log,
                "a container name must be specified for pod p, choose one of: [a] or one of the init containers: [i]",
            ),
            (&with_init, "container=i", Kind::Log, "n/containerLogs/ns/p/i"),
            (
                &over,
                "",
                Kind::Exec,
                "cannot exec into a container in a completed pod; current phase is Succeeded",
            ),
            (&over, "", Kind::Log, "n/containerLogs/ns/p/a"),
            (&unbound, "", Kind::Exec, "pod p does not have a host assigned"),
            (&unbound, "", Kind::Log, "nothing"),
            (&one, "", Kind::PortForward, "n/portForward/ns/p"),
        ] {
            assert_eq!(show(pod, query, kind), expected);
        }
    }
}
