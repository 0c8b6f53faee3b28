//! proxy: an HTTP request to a port of a pod, from the node and to the address that the pod has, nothing else.
//!
//! NetworkPolicies are asked for whoever sent the request to the API, and again when they allow less: the detour gives
//! nobody anything (security D13). The host is a neighbour like any other. Redirects are handed back, never followed.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode, Uri, Version, header};
use axum::response::Response;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{AnyRequest, Refusal, ServeState};
use crate::net::policy::{self, Flow};
use crate::net::{self, Network, Protocol};
use crate::node::pods::PodEntry;
use crate::node::{probe, unverified};

/// Kubernetes' proxy waits as long for a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// `/proxy/{namespace}/{pod}/{scheme}/{port}/{client}/{path}`: the path is the pod's own and stays as it was written; the
/// client is an address, or `-` for the daemon itself.
pub async fn proxy(State(serve): ServeState, request: AnyRequest) -> Result<Response, Refusal> {
    let asked = Asked::read(request.uri())
        .ok_or_else(|| Refusal::bad_request("the API asked for no port of a pod"))?;
    let pod = serve.pod(&asked.namespace, &asked.pod)?;
    let address = match (&pod.pod, pod.address) {
        (Some(_), Some(address)) => SocketAddr::new(address, asked.port),
        (Some(_) | None, _) => {
            return Err(untold(format!("pod {:?} is not running", asked.pod)));
        }
    };
    let source = match asked.client {
        // From where the host's own connections to pods come.
        None => serve.network.gateway(),
        Some(client) if client.is_loopback() => serve.network.gateway(),
        Some(client) => client,
    };
    let permission = Permission {
        network: serve.network.clone(),
        flow: Flow {
            source,
            destination: address.ip(),
            asked: policy::Asked::Port(Protocol::Tcp, address.port()),
        },
    };
    if !permission.holds() {
        return Err(untold(format!(
            "a NetworkPolicy lets nothing through from {source} to {address}"
        )));
    }
    let stream = connect(&pod, address, asked.is_tls).await.map_err(untold)?;
    exchange(stream, request, asked.path, permission).await
}

/// In the words of Kubernetes' proxy.
fn untold(why: String) -> Refusal {
    Refusal::unavailable(format!("error trying to reach service: {why}"))
}

/// What the API has found out.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    namespace: String,
    pod: String,
    is_tls: bool,
    port: u16,
    client: Option<IpAddr>,
    /// Path and query at the pod.
    path: Uri,
}

impl Asked {
    fn read(uri: &Uri) -> Option<Asked> {
        let mut parts = uri.path().splitn(8, '/').skip(2);
        let mut next = || parts.next();
        let (namespace, pod) = (next()?.to_owned(), next()?.to_owned());
        let is_tls = match next()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let port = next()?.parse().ok()?;
        let client = match next()? {
            "-" => None,
            address => Some(address.parse().ok()?),
        };
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let path = format!("/{}{query}", next()?).parse().ok()?;
        Some(Asked { namespace, pod, is_tls, port, client, path })
    }
}

/// A client's leave to reach a pod.
struct Permission {
    network: Network,
    flow: Flow,
}

impl Permission {
    fn holds(&self) -> bool {
        self.network.permits_through(None, self.flow)
    }

    /// Does `work` for as long as it is permitted.
    async fn bound(self, work: impl Future<Output = ()>) {
        let mut tightened = self.network.tightened();
        let denied = async {
            // What was tightened before this began was seen then or is seen now.
            while self.holds() {
                if tightened.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = denied => tracing::debug!(flow = ?self.flow, "a proxied connection is no longer permitted"),
        }
    }
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Errors read as Go's, which people search for.
async fn connect(
    pod: &PodEntry,
    address: SocketAddr,
    is_tls: bool,
) -> Result<Box<dyn Wire>, String> {
    let connecting = async {
        let connected = match pod.host_network {
            true => TcpStream::connect(address).await,
            false => net::dial_as_proxy(address).await,
        };
        let stream = connected
            .map_err(|error| format!("dial tcp {address}: connect: {}", probe::words(&error)))?;
        if !is_tls {
            return Ok(Box::new(stream) as Box<dyn Wire>);
        }
        let name = ServerName::IpAddress(address.ip().into());
        let stream = unverified::connector().connect(name, stream).await;
        let stream = stream.map_err(|error| format!("remote error: tls: {error}"))?;
        Ok(Box::new(stream) as Box<dyn Wire>)
    };
    tokio::time::timeout(CONNECT_WITHIN, connecting)
        .await
        .unwrap_or_else(|_| Err(format!("dial tcp {address}: i/o timeout")))
}

/// One request on a connection of its own.
async fn exchange(
    stream: Box<dyn Wire>,
    mut request: Request<Body>,
    path: Uri,
    permission: Permission,
) -> Result<Response, Refusal> {
    let (mut sender, connection) = http1::handshake::<_, Body>(TokioIo::new(stream))
        .await
        .map_err(|error| untold(error.to_string()))?;
    let again = Permission { network: permission.network.clone(), flow: permission.flow };
    // It ends with the answer's body, or when the API lets go of that.
    tokio::spawn(permission.bound(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection has ended");
        }
    }));
    let is_upgrade = request.headers().contains_key(header::UPGRADE);
    let client = is_upgrade.then(|| hyper::upgrade::on(&mut request));
    *request.uri_mut() = path;
    let mut answer = sender.send_request(request).await.map_err(|error| {
        untold(match error.is_incomplete_message() {
            true => "EOF".to_owned(),
            false => error.to_string(),
        })
    })?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = client else {
            return Err(untold("the pod switched protocols unasked".to_owned()));
        };
        let pod = hyper::upgrade::on(&mut answer);
        tokio::spawn(again.bound(async move {
            let copied = async {
                let (client, pod) = tokio::try_join!(client, pod).map_err(std::io::Error::other)?;
                let (mut client, mut pod) = (TokioIo::new(client), TokioIo::new(pod));
                tokio::io::copy_bidirectional(&mut client, &mut pod).await
            };
            if let Err(error) = copied.await {
                tracing::debug!(%error, "a proxied stream has ended");
            }
        }));
        return Ok(answer.map(|_| Body::empty()));
    }
    // What delimits the body is said anew on the next leg.
    answer.headers_mut().remove(header::TRANSFER_ENCODING);
    *answer.version_mut() = Version::HTTP_11;
    Ok(answer.map(Body::new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_behind_the_client_is_the_pods_as_it_was_written() {
        let read = |uri: &str| {
            let asked = Asked::read(&uri.parse().expect("a URI"))?;
            let client = asked.client.map_or("-".to_owned(), |client| client.to_string());
            Some(format!(
                "{} {} {} {} {client} {}",
                asked.namespace, asked.pod, asked.is_tls, asked.port, asked.path
            ))
        };
        for (uri, expected) in [
            ("/proxy/ns/p/http/80/-/", Some("ns p false 80 - /")),
            (
                "/proxy/ns/p/https/8443/10.0.0.1/a%2Fb//c/?x=%41&x",
                Some("ns p true 8443 10.0.0.1 /a%2Fb//c/?x=%41&x"),
            ),
            ("/proxy/ns/p/http/80/fd00::1//", Some("ns p false 80 fd00::1 //")),
            ("/proxy/ns/p/http/80/-", None),
            ("/proxy/ns/p/ftp/80/-/", None),
            ("/proxy/ns/p/http/web/-/", None),
            ("/proxy/ns/p/http/80/me/", None),
        ] {
            assert_eq!(read(uri).as_deref(), expected, "{uri}");
        }
    }
}
