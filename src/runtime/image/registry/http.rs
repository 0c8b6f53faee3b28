//! HTTP to one registry: connections, TLS, redirects, tokens, and the limits of each.
//!
//! A connection serves one request.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, USER_AGENT, WWW_AUTHENTICATE,
};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};

use super::auth::{self, Challenge};
use super::names::Names;
use crate::runtime::image::reference::{Digest, Reference};
use crate::runtime::image::{Credentials, Registries};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two pieces of a body.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const REDIRECTS_MAX: usize = 5;
const TOKEN_MAX_BYTES: u64 = 1 << 20;

/// Where distributions keep the host's trusted authorities; the first that is there is used.
const HOST_AUTHORITIES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why something was not fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("cannot read certificate authorities of {path}: {reason}")]
    Authorities { path: String, reason: String },
    #[error("lookup {host}: {reason}")]
    Resolve { host: String, reason: String },
    #[error("{0} is not an address images are fetched from")]
    Forbidden(String),
    #[error("connect to {host}: {reason}")]
    Connect { host: String, reason: String },
    #[error("tls with {host}: {reason}")]
    Tls { host: String, reason: String },
    #[error("request to {host}: {reason}")]
    Request { host: String, reason: String },
    #[error("timeout waiting for {0}")]
    Timeout(&'static str),
    #[error("not found")]
    NotFound,
    #[error("pull access denied, repository does not exist or may require authorization: {0}")]
    Denied(String),
    #[error("toomanyrequests: the registry limits how often it may be asked")]
    TooMany,
    #[error("unexpected status {status} from {host}")]
    Status { host: String, status: u16 },
    #[error("redirect: {0}")]
    Redirect(String),
    #[error("token: {0}")]
    Token(String),
    #[error("{0}")]
    Content(String),
    /// The receiver of a stream has gone and knows why.
    #[error("stopped")]
    Stopped,
}

/// A client for one repository.
pub struct Client {
    tls: tokio_rustls::TlsConnector,
    names: Names,
    plain_http: Vec<String>,
    /// Scheme and authority of the registry.
    base: String,
    domain: String,
    path: String,
    credentials: Option<Credentials>,
    /// The value of `Authorization` once a challenge has been answered.
    authorization: Mutex<Option<String>>,
    /// Whether anybody wanted the credentials.
    has_used_credentials: AtomicBool,
}

/// A small reply, whole.
pub struct Reply {
    pub content_type: Option<String>,
    pub body: Vec<u8>,
}

impl Client {
    pub fn new(
        registries: &Registries,
        name: &Reference,
        credentials: &[Credentials],
    ) -> Result<Client, FetchError> {
        let domain = name.domain();
        let authority = if domain == "docker.io" { auth::DOCKER_HUB } else { domain };
        let is_plain = is_listed(&registries.plain_http, domain);
        let scheme = if is_plain { "http" } else { "https" };
        Ok(Client {
            tls: tls(registries.ca_file.as_deref())?,
            names: Names::of_host(),
            plain_http: registries.plain_http.clone(),
            base: format!("{scheme}://{authority}"),
            domain: domain.to_owned(),
            path: name.path().to_owned(),
            credentials: auth::matching(credentials, domain).cloned(),
            authorization: Mutex::new(None),
            has_used_credentials: AtomicBool::new(false),
        })
    }

    /// The credentials that the registry, or its token server, was shown.
    pub fn used_credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref().filter(|_| self.has_used_credentials.load(Ordering::Relaxed))
    }

    fn show_credentials(&self, credentials: &Credentials) -> String {
        self.has_used_credentials.store(true, Ordering::Relaxed);
        auth::basic(credentials)
    }

    /// A small document of the registry.
    pub async fn get(&self, path: &str, accept: &str, limit: u64) -> Result<Reply, FetchError> {
        let response = self.fetch(path, accept).await?;
        let content_type = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(|value| value.split(';').next().unwrap_or_default().trim().to_owned())
            .filter(|value| !value.is_empty());
        let body = collect(response.into_body(), limit).await?;
        Ok(Reply { content_type, body })
    }

    /// A small blob, verified.
    pub async fn blob(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, FetchError> {
        let path = format!("/v2/{}/blobs/{digest}", self.path);
        let body = self.get(&path, "*/*", size).await?.body;
        let got = Digest::of(&body);
        if got != *digest || body.len() as u64 != size {
            return Err(FetchError::Content(format!(
                "digest mismatch: expected {digest} of {size} bytes, got {got} of {}",
                body.len()
            )));
        }
        Ok(body)
    }

    /// Sends a blob's pieces as they come. Their digest is for the receiver to verify.
    pub async fn stream_blob(
        &self,
        digest: &Digest,
        size: u64,
        sink: &mpsc::Sender<Option<Bytes>>,
    ) -> Result<(), FetchError> {
        let path = format!("/v2/{}/blobs/{digest}", self.path);
        let mut body = self.fetch(&path, "*/*").await?.into_body();
        let mut left = size;
        while let Some(piece) = next_piece(&mut body).await? {
            if piece.len() as u64 > left {
                return Err(FetchError::Content(format!(
                    "size mismatch: blob {digest} is larger than the {size} bytes announced"
                )));
            }
            left -= piece.len() as u64;
            if sink.send(Some(piece)).await.is_err() {
                return Err(FetchError::Stopped);
            }
        }
        Ok(())
    }

    /// Asks the registry, answering at most one challenge.
    async fn fetch(&self, path: &str, accept: &str) -> Result<Response<Incoming>, FetchError> {
        let uri = format!("{}{path}", self.base);
        let known = self.authorization.lock().await.clone();
        let response = self.follow(&uri, accept, known.as_deref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.check(response);
        }
        let challenges: Vec<Challenge> = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| auth::challenge(value.to_str().ok()?))
            .collect();
        let answer = self.answer(&challenges).await?;
        if known.as_deref() == Some(&answer) {
            return Err(FetchError::Denied("authorization failed".to_owned()));
        }
        *self.authorization.lock().await = Some(answer.clone());
        let response = self.follow(&uri, accept, Some(&answer)).await?;
        self.check(response)
    }

    fn check(&self, response: Response<Incoming>) -> Result<Response<Incoming>, FetchError> {
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::NOT_FOUND => Err(FetchError::NotFound),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(FetchError::Denied("authorization failed".to_owned()))
            }
            StatusCode::TOO_MANY_REQUESTS => Err(FetchError::TooMany),
            status => {
                Err(FetchError::Status { host: self.domain.clone(), status: status.as_u16() })
            }
        }
    }

    async fn answer(&self, challenges: &[Challenge]) -> Result<String, FetchError> {
        let bearer = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer { realm, service } => Some((realm, service)),
            Challenge::Basic => None,
        });
        if let Some((realm, service)) = bearer {
            return self.token(realm, service.as_deref()).await;
        }
        if challenges.contains(&Challenge::Basic) {
            return match &self.credentials {
                Some(credentials) => Ok(self.show_credentials(credentials)),
                None => Err(FetchError::Denied("no credentials".to_owned())),
            };
        }
        Err(FetchError::Denied("no challenge that can be answered".to_owned()))
    }

    /// A bearer token for reading this repository (distribution/docs/spec/auth/token.md).
    async fn token(&self, realm: &str, service: Option<&str>) -> Result<String, FetchError> {
        let uri: Uri =
            realm.parse().map_err(|_| FetchError::Token(format!("bad realm {realm:?}")))?;
        let host = uri.host().unwrap_or_default().to_owned();
        let registry: Uri = self
            .base
            .parse()
            .map_err(|_| FetchError::Token("the registry has no address".to_owned()))?;
        let may_know = auth::may_share(registry.host().unwrap_or_default(), &host);
        let secret = self.credentials.as_ref().filter(|_| may_know);
        let secret = secret.map(|credentials| self.show_credentials(credentials));
        let mut query = format!("scope={}", escape(&format!("repository:{}:pull", self.path)));
        if let Some(service) = service {
            query.push_str(&format!("&service={}", escape(service)));
        }
        let glue = if realm.contains('?') { '&' } else { '?' };
        let uri = format!("{realm}{glue}{query}");
        let response = self.follow(&uri, "application/json", secret.as_deref()).await?;
        if response.status() != StatusCode::OK {
            let note = match self.credentials.is_some() && !may_know {
                true => format!("; {host} is not told the credentials for {}", self.domain),
                false => String::new(),
            };
            return Err(FetchError::Denied(format!(
                "the token server answered {}{note}",
                response.status().as_u16()
            )));
        }
        let body = collect(response.into_body(), TOKEN_MAX_BYTES).await?;
        #[derive(serde::Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let token: Token = serde_json::from_slice(&body)
            .map_err(|_| FetchError::Token("the answer is not JSON".to_owned()))?;
        let token = token
            .token
            .or(token.access_token)
            .ok_or_else(|| FetchError::Token("the answer holds none".to_owned()))?;
        Ok(format!("Bearer {token}"))
    }

    /// Follows redirects; only the host that was asked first sees `authorization`.
    async fn follow(
        &self,
        uri: &str,
        accept: &str,
        authorization: Option<&str>,
    ) -> Result<Response<Incoming>, FetchError> {
        let mut uri: Uri =
            uri.parse().map_err(|_| FetchError::Redirect(format!("bad address {uri:?}")))?;
        let first = uri.clone();
        // Once away from the first host, coming back does not bring the secret back.
        let mut is_home = true;
        for _ in 0..=REDIRECTS_MAX {
            is_home &= uri.authority() == first.authority() && uri.scheme() == first.scheme();
            let secret = authorization.filter(|_| is_home);
            let response = self.send(&uri, accept, secret).await?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let location = response
                .headers()
                .get(LOCATION)
                .and_then(|value| value.to_str().ok())
                .ok_or_else(|| FetchError::Redirect("without a location".to_owned()))?;
            uri = redirected(&uri, location)?;
        }
        Err(FetchError::Redirect(format!("more than {REDIRECTS_MAX}")))
    }

    async fn send(
        &self,
        uri: &Uri,
        accept: &str,
        authorization: Option<&str>,
    ) -> Result<Response<Incoming>, FetchError> {
        let authority =
            uri.authority().ok_or_else(|| FetchError::Redirect("without a host".to_owned()))?;
        if authority.as_str().contains('@') {
            return Err(FetchError::Redirect("with credentials in the address".to_owned()));
        }
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if is_listed(&self.plain_http, authority.as_str()) => false,
            _ => return Err(FetchError::Forbidden(format!("{}", Shown(uri)))),
        };
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let stream = self.connect(&host, port, authority.as_str()).await?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .header(HOST, authority.as_str())
            .header(ACCEPT, accept)
            .header(USER_AGENT, concat!("joey/", env!("CARGO_PKG_VERSION")));
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let failed = |reason: String| FetchError::Request { host: host.clone(), reason };
        let request = request.body(Empty::new()).map_err(|e| failed(e.to_string()))?;
        let exchange = async {
            if !is_tls {
                return exchange(stream, request).await.map_err(|e| failed(chain(&e)));
            }
            let name = ServerName::try_from(host.clone())
                .map_err(|e| FetchError::Tls { host: host.clone(), reason: e.to_string() })?;
            let stream = self
                .tls
                .connect(name, stream)
                .await
                .map_err(|e| FetchError::Tls { host: host.clone(), reason: e.to_string() })?;
            exchange(stream, request).await.map_err(|e| failed(chain(&e)))
        };
        tokio::time::timeout(REPLY_TIMEOUT, exchange)
            .await
            .map_err(|_| FetchError::Timeout("the reply"))?
    }

    async fn connect(
        &self,
        host: &str,
        port: u16,
        authority: &str,
    ) -> Result<TcpStream, FetchError> {
        let unresolved = |reason| FetchError::Resolve { host: host.to_owned(), reason };
        let resolved = self.names.addresses(host).await.map_err(unresolved)?;
        let is_own = is_same_host(authority, &self.domain);
        let is_configured = is_listed(&self.plain_http, authority);
        let mut failure = unresolved("no addresses".to_owned());
        for address in resolved {
            // Checked where it is used: a name cannot resolve to something else in between.
            if !is_configured && !is_reachable(address, is_own) {
                failure = FetchError::Forbidden(format!("{host} ({address})"));
                continue;
            }
            let attempt = TcpStream::connect(SocketAddr::new(address, port));
            match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => {
                    failure =
                        FetchError::Connect { host: host.to_owned(), reason: error.to_string() };
                }
                Err(_) => failure = FetchError::Timeout("a connection"),
            }
        }
        Err(failure)
    }
}

async fn exchange<S>(
    stream: S,
    request: Request<Empty<Bytes>>,
) -> Result<Response<Incoming>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Lives as long as the response's body: it ends when that is read or dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to a registry ended badly");
        }
    });
    sender.send_request(request).await
}

async fn next_piece(body: &mut Incoming) -> Result<Option<Bytes>, FetchError> {
    loop {
        let frame = tokio::time::timeout(IDLE_TIMEOUT, body.frame())
            .await
            .map_err(|_| FetchError::Timeout("more of the body"))?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => {
                return Err(FetchError::Request {
                    host: "the registry".to_owned(),
                    reason: chain(&error),
                });
            }
            // Trailers say nothing that counts.
            Some(Ok(frame)) => {
                if let Ok(piece) = frame.into_data() {
                    return Ok(Some(piece));
                }
            }
        }
    }
}

async fn collect(mut body: Incoming, limit: u64) -> Result<Vec<u8>, FetchError> {
    let mut content = Vec::new();
    while let Some(piece) = next_piece(&mut body).await? {
        if (content.len() + piece.len()) as u64 > limit {
            return Err(FetchError::Content(format!("a document exceeds {limit} bytes")));
        }
        content.extend_from_slice(&piece);
    }
    Ok(content)
}

/// Absolute, or absolute on the same host.
fn redirected(from: &Uri, location: &str) -> Result<Uri, FetchError> {
    let bad =
        || FetchError::Redirect(format!("to {:?}", location.chars().take(200).collect::<String>()));
    let target: Uri = location.parse().map_err(|_| bad())?;
    if target.scheme().is_some() && target.authority().is_some() {
        return Ok(target);
    }
    if location.starts_with('/') && !location.starts_with("//") {
        let mut parts = from.clone().into_parts();
        parts.path_and_query = target.path_and_query().cloned();
        return Uri::from_parts(parts).map_err(|_| bad());
    }
    Err(bad())
}

/// Whether an address may be asked. Nobody's registry lives on link-local addresses (metadata services
/// do); on this machine itself only when the image's own name says so.
fn is_reachable(address: IpAddr, is_own: bool) -> bool {
    let address = address.to_canonical();
    let is_special = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if is_special || address.is_unspecified() || address.is_multicast() {
        return false;
    }
    is_own || !address.is_loopback()
}

fn is_same_host(authority: &str, domain: &str) -> bool {
    authority.eq_ignore_ascii_case(domain)
}

fn is_listed(hosts: &[String], authority: &str) -> bool {
    hosts.iter().any(|host| is_same_host(host, authority))
}

fn tls(ca_file: Option<&Path>) -> Result<tokio_rustls::TlsConnector, FetchError> {
    let mut roots = rustls::RootCertStore::empty();
    let host = HOST_AUTHORITIES.iter().map(Path::new).find(|path| path.is_file());
    for (path, is_ours) in
        host.map(|path| (path, false)).into_iter().chain(ca_file.map(|path| (path, true)))
    {
        let failed =
            |reason: String| FetchError::Authorities { path: path.display().to_string(), reason };
        let certificates =
            CertificateDer::pem_file_iter(path).map_err(|e| failed(e.to_string()))?;
        for certificate in certificates {
            let added = certificate
                .map_err(|e| e.to_string())
                .and_then(|certificate| roots.add(certificate).map_err(|e| e.to_string()));
            // Distributions ship certificates that are too odd for webpki; a configured one must work.
            if let (Err(reason), true) = (added, is_ours) {
                return Err(failed(reason));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| FetchError::Tls { host: "any host".to_owned(), reason: e.to_string() })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(tokio_rustls::TlsConnector::from(Arc::new(config)))
}

/// Percent-encodes a query value.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    text
}

/// An address for a message: without its query, which may hold a signature.
struct Shown<'a>(&'a Uri);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = self.0.scheme_str().unwrap_or("?");
        write!(f, "{scheme}://{}", self.0.authority().map_or("?", |a| a.as_str()))
    }
}
