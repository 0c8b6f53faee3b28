//! What a request asks for, read once: host, path, upgrade; and the head that a pod gets for it.

use std::borrow::Cow;
use std::net::SocketAddr;

use http::header::{self, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::tunnel::Tunnel;
use super::{Answered, Bound};
use crate::net::ingress::answer::Plain;
use crate::net::ingress::exchange::Head;
use crate::net::ingress::head::{MAX_HEADERS, Refusal};
use crate::net::ingress::lease::Lease;
use crate::net::ingress::leave::Leave;
use crate::net::ingress::path;
use crate::net::ingress::routes::{Protocol, plain_host};

/// A request's host and path, beyond doubt.
#[derive(Clone)]
pub struct Asked {
    method: Method,
    /// As the client wrote it; empty when an HTTP/1.0 client named none.
    pub authority: HeaderValue,
    /// Its path is normalized.
    target: PathAndQuery,
    is_http2: bool,
}

impl Asked {
    /// # Errors
    /// The answer to a request that cannot be understood or is not offered.
    pub fn read<B>(request: &Request<B>) -> Result<Asked, Plain> {
        let method = request.method();
        if matches!(*method, Method::CONNECT | Method::TRACE) {
            let text = format!("{method} is not offered here");
            return Err(Plain { closes: true, ..Plain::new(StatusCode::METHOD_NOT_ALLOWED, text) });
        }
        let headers = request.headers();
        // Of HTTP/1 the gate has counted them before they were read. h2 may send a cookie in many crumbs (RFC 9113 §8.2.3).
        if request.version() == Version::HTTP_2 {
            let crumbs = headers.get_all(header::COOKIE).iter().count();
            if headers.len() - crumbs.saturating_sub(1) > MAX_HEADERS {
                let too_many = Refusal::TooMany;
                return Err(Plain::new(
                    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                    too_many.to_string(),
                ));
            }
        }
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = hosts.next();
        if hosts.next().is_some() {
            return Err(Plain::bad_request("a request names one host"));
        }
        if host.is_some_and(|host| host.to_str().is_err()) {
            return Err(Plain::bad_request("the Host header is not a host"));
        }
        // RFC 9112 §3.2.2 and RFC 9113 §8.3.1: the target's authority counts, and what differs from it is an attack.
        let authority = match (request.uri().authority().map(Authority::as_str), host) {
            (Some(target), Some(host))
                if !target.as_bytes().eq_ignore_ascii_case(host.as_bytes()) =>
            {
                return Err(Plain::bad_request("the target and the Host header name two hosts"));
            }
            (Some(target), _) => HeaderValue::from_str(target)
                .map_err(|_| Plain::bad_request("the target's authority is not a host"))?,
            (None, Some(host)) => host.clone(),
            (None, None) if request.version() < Version::HTTP_11 => HeaderValue::from_static(""),
            (None, None) => return Err(Plain::bad_request("the request names no host")),
        };
        if authority.as_bytes().contains(&b'@') {
            return Err(Plain::bad_request("a host has no user"));
        }
        Ok(Asked {
            method: method.clone(),
            authority,
            target: target(request.uri(), method)?,
            is_http2: request.version() == Version::HTTP_2,
        })
    }

    fn authority(&self) -> &str {
        self.authority.to_str().unwrap_or_default()
    }

    /// As routes know it.
    pub fn host(&self) -> Cow<'_, str> {
        plain_host(self.authority())
    }

    /// Normalized.
    pub fn path(&self) -> &str {
        self.target.path()
    }

    /// For the access log.
    pub fn line(&self) -> String {
        format!("{} {} {}", self.method, self.host(), self.target)
    }

    /// The same address with TLS.
    pub fn https_location(&self, port: u16) -> String {
        match port {
            443 => format!("https://{}{}", self.host(), self.target),
            port => format!("https://{}:{port}{}", self.host(), self.target),
        }
    }

    /// What is spoken to the pod: gRPC cannot be said in HTTP/1.1.
    pub fn protocol(&self, bound: &Bound, headers: &HeaderMap) -> Protocol {
        let is_grpc = || {
            let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
            self.is_http2 && kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
        };
        match bound.route.protocol.unwrap_or_else(|| bound.upstream.protocol()) {
            Protocol::Http1 if is_grpc() => Protocol::H2c,
            protocol => protocol,
        }
    }

    /// The head of the request as a pod gets it that speaks HTTP/1.1. A client that named no host asks for the pod.
    pub fn head<'a>(&'a self, headers: &'a HeaderMap, pod: SocketAddr) -> Head<'a> {
        let host = match self.authority.is_empty() {
            true => HeaderValue::from_str(&pod.to_string()).ok(),
            false => Some(self.authority.clone()),
        };
        let host = host.unwrap_or_else(|| HeaderValue::from_static(""));
        Head { method: &self.method, target: &self.target, host, headers, upgrade: None }
    }

    /// The same in HTTP/2.
    pub fn head_h2c(&self, headers: &HeaderMap, pod: SocketAddr) -> Request<()> {
        let mut head = Request::new(());
        *head.method_mut() = self.method.clone();
        *head.headers_mut() = headers.clone();
        head.headers_mut().remove(header::HOST);
        let authority = Authority::try_from(self.authority()).ok();
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = authority.or_else(|| pod.to_string().parse().ok());
        uri.path_and_query = Some(self.target.clone());
        *head.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        *head.version_mut() = Version::HTTP_2;
        head
    }
}

/// Path and query with the path in its one spelling.
fn target(uri: &Uri, method: &Method) -> Result<PathAndQuery, Plain> {
    let raw = uri.path();
    if let Some(target) = uri.path_and_query().filter(|_| path::is_normal(raw)) {
        return Ok(target.clone());
    }
    if raw == "*" && *method == Method::OPTIONS {
        return Ok(PathAndQuery::from_static("/"));
    }
    let path = path::normalize(raw).map_err(|bad| Plain::bad_request(bad.to_string()))?;
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    PathAndQuery::try_from(target)
        .map_err(|_| Plain::bad_request("the request target is not a path"))
}

/// Whether a request asks to switch protocols in a way that we pass on. [`crate::net::ingress::head`] says the same
/// of the bytes.
pub fn wants_upgrade<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let names = |name: &header::HeaderName, word: &str| {
        headers.get_all(name).iter().any(|value| {
            let mut options = value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii);
            options.any(|option| option.eq_ignore_ascii_case(word.as_bytes()))
        })
    };
    request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && headers.contains_key(header::UPGRADE)
        && names(&header::CONNECTION, "upgrade")
        && !names(&header::UPGRADE, "h2c")
        && !headers.contains_key(header::TRANSFER_ENCODING)
        && headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0")
}

/// The client's side of a switch of protocols.
pub struct Upgrade {
    client: OnUpgrade,
    protocol: HeaderValue,
}

impl Upgrade {
    pub fn take(request: &mut Request<Incoming>) -> Option<Upgrade> {
        let protocol = request.headers().get(header::UPGRADE).cloned()?;
        Some(Upgrade { client: hyper::upgrade::on(request), protocol })
    }

    /// What the client wants to switch to.
    pub fn protocol(&self) -> HeaderValue {
        self.protocol.clone()
    }

    /// A pod's 101.
    pub fn switch(
        self,
        mut response: Response<()>,
        lease: Lease,
        leave: Leave,
    ) -> Result<Answered, Plain> {
        let mut head = Response::new(());
        *head.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let chosen = response.headers().get(header::UPGRADE).cloned();
        let mut headers = std::mem::take(response.headers_mut());
        crate::net::ingress::forward::answer(&mut headers);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, chosen.unwrap_or_else(|| self.protocol.clone()));
        *head.headers_mut() = headers;
        let tunnel = Tunnel::new(self.client, lease, leave).ok_or_else(|| {
            Plain::new(StatusCode::BAD_GATEWAY, "the pod switched protocols on a shared connection")
        })?;
        Ok(Answered::Switched(head, tunnel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(uri: &str, host: Option<&str>) -> Result<(String, String), u16> {
        let mut request = Request::builder().uri(uri).version(Version::HTTP_11);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        Asked::read(&request.body(()).unwrap())
            .map(|asked| (asked.host().into_owned(), asked.target.to_string()))
            .map_err(|plain| plain.status.as_u16())
    }

    #[test]
    fn host_and_path_are_read_one_way_only() {
        let yes = |host: &str, target: &str| Ok((host.to_owned(), target.to_owned()));
        assert_eq!(read("/a/../b?c=/../d", Some("H.example:80")), yes("h.example", "/b?c=/../d"));
        assert_eq!(read("http://a/x", Some("a")), yes("a", "/x"));
        assert_eq!(read("http://a/x", Some("b")), Err(400));
        assert_eq!(read("/x", None), Err(400));
        assert_eq!(read("/%00", Some("a")), Err(400));
        assert_eq!(read("/../x", Some("a")), Err(400));
        assert_eq!(read("/x", Some("u@a")), Err(400));
    }
}
