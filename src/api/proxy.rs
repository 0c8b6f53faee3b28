//! `pods/proxy` and `services/proxy`: HTTP to a pod through the API, on the same way as logs and shells.
//!
//! The API finds out which port of which pod is meant and hands the request to the pod's node, which alone knows the address
//! and connects: `/proxy/{namespace}/{pod}/{scheme}/{port}/{client}/{path}`, with the query of the API request. No address
//! that anybody wrote is ever connected to, and no redirect is followed (CVE-2020-8555, CVE-2020-8559).

mod headers;
mod target;

use std::net::IpAddr;

use axum::body::Body;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use serde_json::Value;

use self::headers::Asked;
use self::target::{Backend, Id};
use crate::api::catalog;
use crate::api::failure::Failure;
use crate::api::path::Object;
use crate::api::verbs::{key_of, write};
use crate::api::{Api, object, streams};
use crate::sys::clock;

/// Who is at the other end of a connection; attached by the listener.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client(pub IpAddr);

/// On an answer that is a pod's own: nothing of it is changed any more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passed;

/// Passes the request on to the pod that `target` means; `path` is what follows `proxy/`.
pub(super) async fn pass(
    api: &Api,
    mut request: Request<Body>,
    target: &Object,
    path: Option<&str>,
) -> Result<Response<Body>, Failure> {
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Failure::method_not_allowed());
    }
    let way = way(api, target)?;
    let is_upgrade = headers::upgrade(request.headers()).is_some();
    // Relative links of a page need to know where it is (kubernetes#4958).
    if path.is_none() && !is_upgrade && matches!(*request.method(), Method::GET | Method::HEAD) {
        return moved(&request);
    }
    let mut sender = streams::connect(api, &way.node).await?;
    let client = is_upgrade.then(|| hyper::upgrade::on(&mut request));
    let asked_path = request.uri().path().to_owned();
    let host = host(&request);
    let onward = onward(request, &way, path.unwrap_or_default(), &asked_path, &host)?;
    // For as long as the pod wants: a client that has had enough goes, and its request with it.
    let mut answer =
        sender.send_request(onward).await.map_err(|error| streams::unreachable_node(&error))?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = client else {
            return Err(Failure::internal("the pod switched protocols unasked"));
        };
        streams::copy_both_ways(api, client, hyper::upgrade::on(&mut answer));
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        headers::switched(response.headers_mut());
        return Ok(response);
    }
    let root =
        path.map_or(asked_path.as_str(), |path| &asked_path[..asked_path.len() - path.len()]);
    headers::answer(answer.headers_mut(), root.trim_end_matches('/'), &host);
    let mut response = answer.map(Body::new);
    response.extensions_mut().insert(Passed);
    Ok(response)
}

/// Where a request goes.
struct Way {
    node: String,
    /// The beginning of the path at the node.
    start: String,
}

fn way(api: &Api, target: &Object) -> Result<Way, Failure> {
    let plural = target.kind.plural;
    let id = Id::parse(&target.name).ok_or_else(|| {
        let one = target.kind.singular;
        Failure::bad_request(format!("invalid {one} request {:?}", target.name))
    })?;
    let named = Object { name: id.name.to_owned(), ..target.clone() };
    let found = write::read(api, named.kind, &key_of(&named))?
        .ok_or_else(|| Failure::not_found(named.kind, &named.name))?;
    let (pod, port) = match plural {
        "services" => behind(api, &found, target, id)?,
        _ => {
            let port = target::port_of_pod(&found, id)?;
            (found, port)
        }
    };
    let node = target::node_of(&pod)?.to_owned();
    let namespace = object::text(&pod, &["metadata", "namespace"]);
    let start = format!("/proxy/{namespace}/{}/{}/{port}", object::name(&pod), id.scheme.as_str());
    Ok(Way { node, start })
}

/// A pod that serves `service`, any of them: who asks through here balances no load.
fn behind(
    api: &Api,
    service: &Value,
    target: &Object,
    id: Id<'_>,
) -> Result<(Value, u16), Failure> {
    let namespace = object::text(service, &["metadata", "namespace"]);
    let of = |kind: &'static catalog::Kind, name: &str| {
        let namespace = Some(namespace.to_owned());
        let object = Object { kind, namespace, name: name.to_owned() };
        write::read(api, kind, &key_of(&object))
    };
    let endpoints = of(catalog::endpoints(), id.name)?;
    let found = target::backends(service, endpoints.as_ref(), namespace, id, &target.name)?;
    let mut seed = [0; 8];
    clock::random(&mut seed);
    let first = (u64::from_le_bytes(seed) % found.len() as u64) as usize;
    for Backend { pod, address, port } in found[first..].iter().chain(&found[..first]) {
        let pod = of(catalog::pods(), pod)?;
        // An endpoint may be older than the pod that has its name now, or written by hand.
        if let Some(pod) = pod.filter(|pod| target::has_address(pod, address)) {
            return Ok((pod, *port));
        }
    }
    let asked = &target.name;
    Err(Failure::unavailable(&format!("no endpoints available for service {asked:?}")))
}

fn moved(request: &Request<Body>) -> Result<Response<Body>, Failure> {
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let to = HeaderValue::from_str(&format!("{}/{query}", request.uri().path()))
        .map_err(|_| Failure::bad_request("the path cannot be redirected to"))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, to);
    Ok(response)
}

/// Host and port as the client wrote them: HTTP/2 has them in the URI.
fn host(request: &Request<Body>) -> String {
    let header = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    authority.or(header).unwrap_or_default().to_owned()
}

/// The request as the node gets it: method, query, body and what headers a pod may see.
fn onward(
    request: Request<Body>,
    way: &Way,
    path: &str,
    asked_path: &str,
    host: &str,
) -> Result<Request<Body>, Failure> {
    let (parts, body) = request.into_parts();
    let client = parts.extensions.get::<Client>().map(|Client(address)| address.to_canonical());
    let from = client.map_or_else(|| "-".to_owned(), |client| client.to_string());
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut headers = parts.headers;
    headers::request(&mut headers, &Asked { client, host, path: asked_path });
    let mut onward = Request::builder()
        .method(parts.method)
        .version(Version::HTTP_11)
        .uri(format!("{}/{from}/{path}{query}", way.start))
        .body(body)
        .map_err(|_| Failure::bad_request("the request cannot be passed on"))?;
    *onward.headers_mut() = headers;
    Ok(onward)
}
