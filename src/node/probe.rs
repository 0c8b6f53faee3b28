//! Performs probes and lifecycle hooks: a command in the container, a request or connection to the pod.
//!
//! It counts and decides nothing; `health` does. Requests come from the node; those to the pod itself carry
//! [`net::PROBE_MARK`], so that a policy can let exactly them pass. Answers are read up to a bound, and nothing
//! outlives its time.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::net;
use crate::node::compile::check::{Action, Check};
use crate::runtime;
use crate::runtime::plan::ContainerPlan;

mod command;
mod grpc;
mod http;

/// Of an answer or of a command's output so much is read (kubelet's bound).
const MOST_BYTES: usize = 10 << 10;

/// A wait that ends this much after its time says more about this process (stopped, starved) than about the pod.
const HELD_UP: Duration = Duration::from_secs(1);

/// Whom to ask.
#[derive(Clone)]
pub struct Target {
    pub container: String,
    pub pod: Option<runtime::Pod>,
    /// What the container's own process was started with.
    pub plan: Option<ContainerPlan>,
    /// The pod's address; the node's for a pod in the host's network.
    pub address: Option<IpAddr>,
    pub host_network: bool,
}

/// What a probe came to, with the words for its Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Success,
    /// Success, with something to tell.
    Warning(String),
    Failure(String),
    /// It could not be made.
    Error(String),
}

/// Performs a probe within its time.
pub async fn probe(check: &Check, target: &Target) -> Answer {
    let action = match &check.action {
        Ok(action) => action,
        Err(reason) => return Answer::Error(reason.clone()),
    };
    let begun = Instant::now();
    let limit = check.timeout;
    let answer = match action {
        Action::Exec(argv) => command::probe(target, argv, limit).await,
        Action::Http(get) => {
            within(limit, http::probe(target, get), || http::late(target, get)).await
        }
        Action::Tcp { host, port } => {
            let late = || {
                Answer::Failure(format!(
                    "dial tcp {}: i/o timeout",
                    shown(target, host.as_deref(), *port)
                ))
            };
            let connect = async {
                match dial(target, host.as_deref(), *port).await {
                    Ok(_) => Answer::Success,
                    Err(error) => Answer::Failure(error),
                }
            };
            within(limit, connect, late).await
        }
        Action::Grpc { port, service } => {
            let late = || {
                let address = shown(target, None, *port);
                Answer::Failure(format!(
                    "timeout: failed to connect service \"{address}\" within {}s: context deadline exceeded",
                    limit.as_secs()
                ))
            };
            within(limit, grpc::probe(target, *port, service), late).await
        }
        Action::Sleep(_) => Answer::Error("sleep is no probe".to_owned()),
    };
    if matches!(answer, Answer::Failure(_)) && begun.elapsed() > limit + HELD_UP {
        return Answer::Error("the node was held up during the probe".to_owned());
    }
    answer
}

/// Performs a lifecycle hook, without a limit of its own.
pub async fn hook(action: &Result<Action, String>, target: &Target) -> Result<(), String> {
    match action.as_ref().map_err(Clone::clone)? {
        Action::Exec(argv) => command::run(target, argv).await,
        Action::Http(get) => http::hook(target, get).await,
        Action::Sleep(span) => {
            tokio::time::sleep(*span).await;
            Ok(())
        }
        Action::Tcp { .. } | Action::Grpc { .. } => Err("not a lifecycle hook".to_owned()),
    }
}

async fn within(
    limit: Duration,
    ask: impl Future<Output = Answer>,
    late: impl FnOnce() -> Answer,
) -> Answer {
    tokio::time::timeout(limit, ask).await.unwrap_or_else(|_| late())
}

/// Connects to a port of the pod, or of `host` where the manifest names one. Errors read as Go's, which people
/// search for.
async fn dial(target: &Target, host: Option<&str>, port: u16) -> Result<TcpStream, String> {
    let address = match host {
        Some(host) => resolve(host).await?,
        None => target.address.ok_or_else(|| "the pod has no address".to_owned())?,
    };
    // Whatever else a manifest names is not ours to be let through to.
    let is_pod = !target.host_network && target.address == Some(address);
    let address = SocketAddr::new(address, port);
    let connected = match is_pod {
        true => net::dial_as_probe(address).await,
        false => TcpStream::connect(address).await,
    };
    connected.map_err(|error| format!("dial tcp {address}: connect: {}", words(&error)))
}

async fn resolve(host: &str) -> Result<IpAddr, String> {
    if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        return Ok(address);
    }
    // Never through the C library, which a static binary does not have whole.
    let resolver = hickory_resolver::TokioResolver::builder_tokio().and_then(|b| b.build());
    let failed = |reason: String| format!("dial tcp: lookup {host}: {reason}");
    let found = resolver.map_err(|error| failed(error.to_string()))?.lookup_ip(host).await;
    let found = found.map_err(|error| failed(error.to_string()))?;
    found.iter().next().ok_or_else(|| failed("no such host".to_owned()))
}

/// `host:port` as messages show it.
fn shown(target: &Target, host: Option<&str>, port: u16) -> String {
    let named = host.map(|host| host.trim_matches(['[', ']']).to_owned());
    let host = named.or_else(|| target.address.map(|address| address.to_string()));
    let host = host.unwrap_or_default();
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// As Go words what a connection came to.
pub(super) fn words(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ErrorKind::HostUnreachable => "no route to host".to_owned(),
        ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        ErrorKind::TimedOut => "connection timed out".to_owned(),
        _ => error.to_string(), // Whatever the kernel says.
    }
}
