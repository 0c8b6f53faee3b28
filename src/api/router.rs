//! From a request to its verb: path, authorization, body, dispatch, and what every answer carries.
//!
//! One function serves the TLS listener and the in-process client. It trusts the [`Identity`] extension,
//! which only those two attach; a request without one is anonymous.

use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Limited};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::api::admit::Part;
use crate::api::authorize::{self, Attributes, ResourceAttributes, Verdict};
use crate::api::catalog::{self, Keeping, Kind, Purpose, Subresource, Verb};
use crate::api::failure::Failure;
use crate::api::identity::{AUTHENTICATED, Identity};
use crate::api::path::{self, Metric, Object, Target};
use crate::api::query::Query;
use crate::api::reply::{self, Answer, Wish};
use crate::api::verbs::selection::Selection;
use crate::api::verbs::{
    Call, binding, create, delete, eviction, figures, get, list, measured, patch, review, scale,
    token_request, update, watch,
};
use crate::api::{Api, discovery, health, negotiate, openapi, proxy, streams};
use crate::sys::clock;

/// Request bodies beyond this are refused.
pub const BODY_LIMIT: usize = 3 * 1024 * 1024;
/// Answers from this size on are compressed when the client can read that.
const COMPRESS_FROM: u64 = 128 * 1024;
/// A request that is no stream ends after this, whatever it does.
const LONGEST_REQUEST: Duration = Duration::from_secs(60);

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// Tells the router when the connection's server goes down; attached by the listener.
#[derive(Clone)]
pub struct Shutdown(pub CancellationToken);

/// Answers one request. Never panics; a panic of a verb becomes a 500.
pub async fn answer(api: &Api, request: Request<Body>) -> Response<Body> {
    let accepts_gzip = request
        .headers()
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().split(';').next() == Some("gzip"));
    let is_pretty = Query::parse(request.uri()).is_ok_and(|query| {
        negotiate::is_pretty(query.get("pretty"), user_agent(request.headers()))
    });
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let meter = api.inner.meters.start(&method, request.uri());
    let outcome = AssertUnwindSafe(respond(api, request)).catch_unwind().await;
    let response = match outcome {
        Ok(Ok(response)) => response,
        Ok(Err(failure)) => failure.into_response(),
        Err(_) => {
            tracing::error!(%method, path, "a request ended in a panic");
            Failure::internal("the request could not be handled").into_response()
        }
    };
    meter.answered(response.status());
    // The query stays out of the log: it holds the commands of exec.
    tracing::debug!(%method, path, code = response.status().as_u16(), "answered");
    // What a pod has said is passed on as it is.
    if response.extensions().get::<proxy::Passed>().is_some() {
        return finish(response, false).await;
    }
    let response = if is_pretty { indent(response).await } else { response };
    finish(response, accepts_gzip).await
}

/// The answer to a request that is refused before it gets here.
pub async fn refuse(failure: Failure) -> Response<Body> {
    finish(failure.into_response(), false).await
}

async fn respond(api: &Api, request: Request<Body>) -> Result<Response<Body>, Failure> {
    let (mut parts, body) = request.into_parts();
    let identity = parts.extensions.remove::<Identity>().unwrap_or_else(Identity::anonymous);
    let shutdown =
        parts.extensions.remove::<Shutdown>().map(|Shutdown(token)| token).unwrap_or_default();
    let path = parts.uri.path().to_owned();
    let target = path::parse(&path);
    if let Some(Target::Proxy { object, path: rest, .. }) = &target {
        authorize(&identity, &parts.method, &path, target.as_ref(), Act::Proxy)?;
        let request = Request::from_parts(parts, body);
        return proxy::pass(api, request, object, rest.as_deref()).await;
    }
    let query = Query::parse(&parts.uri)?;
    let act = match &target {
        Some(target) => act(target, &parts.method, &query),
        None => Act::Path,
    };
    authorize(&identity, &parts.method, &path, target.as_ref(), act)?;
    let Some(target) = target else {
        return Ok(not_found_page());
    };
    match &target {
        Target::Collection { .. } | Target::Object(_) | Target::Metric(_) => {}
        Target::Subresource { object, subresource } => {
            let stream = streams::Kind::of(subresource.purpose);
            if let (Some(stream), Act::Resource(_)) = (stream, act) {
                let request = Request::from_parts(parts, body);
                return streams::open(api, request, object, &query, stream).await;
            }
        }
        other => {
            if !matches!(parts.method, Method::GET | Method::HEAD) {
                return Err(Failure::method_not_allowed());
            }
            return document(api, other, &query, &parts.headers);
        }
    }
    let Act::Resource(verb) = act else {
        return Err(Failure::method_not_allowed());
    };
    let limit = request_limit(&query)?;
    let work = async {
        let body = read_body(body).await?;
        let call = Call {
            identity,
            wish: Wish {
                representation: negotiate::representation(accept(&parts.headers))?,
                include_object: negotiate::include_object(query.get("includeObject"))?,
                is_pretty: negotiate::is_pretty(query.get("pretty"), user_agent(&parts.headers)),
            },
            query,
            headers: parts.headers,
            body,
            shutdown,
        };
        dispatch(api, &call, &target, verb).await
    };
    // Writes are messages to the store: giving up here never halves one.
    tokio::time::timeout(limit, work)
        .await
        .map_err(|_| Failure::timed_out("request did not complete within the allotted timeout"))?
}

/// What a request means to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// A document of the server itself.
    Path,
    Resource(Verb),
    /// Whatever the pod makes of it.
    Proxy,
    /// A known resource, but no such method on it.
    NotAllowed,
}

fn act(target: &Target, method: &Method, query: &Query) -> Act {
    let offered = |allowed: &[Verb], verb: Verb| match allowed.contains(&verb) {
        true => Act::Resource(verb),
        false => Act::NotAllowed,
    };
    match target {
        Target::Collection { kind, namespace } => {
            let has_place = namespace.is_some() || !kind.is_namespaced();
            match *method {
                Method::GET | Method::HEAD if query.flag("watch") => {
                    offered(kind.verbs, Verb::Watch)
                }
                Method::GET | Method::HEAD => offered(kind.verbs, Verb::List),
                Method::POST if has_place => offered(kind.verbs, Verb::Create),
                Method::DELETE if has_place => offered(kind.verbs, Verb::DeleteCollection),
                _ => Act::NotAllowed,
            }
        }
        Target::Object(object) => match *method {
            Method::GET | Method::HEAD if query.flag("watch") => {
                offered(object.kind.verbs, Verb::Watch)
            }
            Method::GET | Method::HEAD => offered(object.kind.verbs, Verb::Get),
            Method::PUT => offered(object.kind.verbs, Verb::Update),
            Method::PATCH => offered(object.kind.verbs, Verb::Patch),
            Method::DELETE => offered(object.kind.verbs, Verb::Delete),
            _ => Act::NotAllowed,
        },
        Target::Subresource { subresource, .. } => {
            let verb = match *method {
                Method::GET | Method::HEAD => Verb::Get,
                Method::POST => Verb::Create,
                Method::PUT => Verb::Update,
                Method::PATCH => Verb::Patch,
                _ => return Act::NotAllowed,
            };
            match subresource.purpose {
                // Refused by name, whatever the method.
                Purpose::EphemeralContainers => Act::Resource(verb),
                _ => offered(subresource.verbs, verb),
            }
        }
        Target::Metric(_) => match *method {
            Method::GET | Method::HEAD => Act::Resource(Verb::Get),
            _ => Act::NotAllowed,
        },
        _ => Act::Path,
    }
}

fn authorize(
    identity: &Identity,
    method: &Method,
    path: &str,
    target: Option<&Target>,
    act: Act,
) -> Result<(), Failure> {
    let lower = method.as_str().to_ascii_lowercase();
    let empty = "";
    if let Some(Target::Metric(metric)) = target {
        return authorize_metric(identity, &lower, metric);
    }
    let (kind, namespace, name, subresource): (&Kind, &str, &str, Option<&Subresource>) =
        match target {
            Some(Target::Collection { kind, namespace }) => {
                (kind, namespace.as_deref().unwrap_or(empty), empty, None)
            }
            Some(Target::Object(object)) => {
                (object.kind, object.namespace.as_deref().unwrap_or(empty), &object.name, None)
            }
            Some(
                Target::Subresource { object, subresource }
                | Target::Proxy { object, subresource, .. },
            ) => (
                object.kind,
                object.namespace.as_deref().unwrap_or(empty),
                &object.name,
                Some(subresource),
            ),
            _ => {
                let verb = if lower == "head" { "get" } else { &lower };
                return match authorize::decide(identity, &Attributes::Path { verb, path }) {
                    Verdict::Allowed { .. } => Ok(()),
                    Verdict::NotAllowed if !identity.is_in(AUTHENTICATED) => {
                        Err(Failure::unauthorized())
                    }
                    Verdict::NotAllowed => Err(Failure::forbidden_path(&identity.user, verb, path)),
                };
            }
        };
    let verb = match (subresource.map(|subresource| subresource.purpose), act) {
        // A WebSocket is a GET, but what it opens is as powerful as a POST (kubernetes#78741).
        (Some(Purpose::Exec | Purpose::Attach | Purpose::PortForward | Purpose::Proxy), _) => {
            "create"
        }
        (_, Act::Resource(verb)) => verb.as_str(),
        (_, Act::Path | Act::Proxy | Act::NotAllowed) => &lower,
    };
    let attributes = ResourceAttributes {
        verb,
        group: kind.group,
        resource: kind.plural,
        subresource: subresource.map_or("", |subresource| subresource.name),
        namespace,
        name,
    };
    match authorize::decide(identity, &Attributes::Resource(attributes)) {
        Verdict::Allowed { .. } => Ok(()),
        Verdict::NotAllowed if !identity.is_in(AUTHENTICATED) => Err(Failure::unauthorized()),
        Verdict::NotAllowed => Err(Failure::forbidden(
            kind.group,
            kind.plural,
            name,
            &authorize::refusal(identity, &attributes),
        )),
    }
}

/// Figures are below what they are of: `pods/requests-per-second`, as adapters have it.
fn authorize_metric(identity: &Identity, method: &str, metric: &Metric) -> Result<(), Failure> {
    let attributes = ResourceAttributes {
        verb: method,
        group: Metric::GROUP,
        resource: &metric.resource,
        subresource: &metric.metric,
        namespace: &metric.namespace,
        name: &metric.name,
    };
    match authorize::decide(identity, &Attributes::Resource(attributes)) {
        Verdict::Allowed { .. } => Ok(()),
        Verdict::NotAllowed if !identity.is_in(AUTHENTICATED) => Err(Failure::unauthorized()),
        Verdict::NotAllowed => {
            let why = authorize::refusal(identity, &attributes);
            Err(Failure::forbidden(Metric::GROUP, &metric.resource, &metric.name, &why))
        }
    }
}

async fn dispatch(
    api: &Api,
    call: &Call,
    target: &Target,
    verb: Verb,
) -> Result<Response<Body>, Failure> {
    let (kind, answer) = match target {
        Target::Collection { kind, namespace } => {
            (*kind, collection(api, call, kind, namespace.as_deref(), verb).await?)
        }
        Target::Object(object) => (object.kind, one(api, call, object, verb).await?),
        Target::Subresource { object, subresource } => {
            (object.kind, below(api, call, object, subresource, verb).await?)
        }
        // Of no kind that is shown as a table.
        Target::Metric(metric) => (catalog::pods(), figures::get(api, call, metric)?),
        Target::Health { .. }
        | Target::Version
        | Target::OpenApiIndex
        | Target::OpenApiDocument(_)
        | Target::OpenApiV2
        | Target::CoreVersions
        | Target::Groups
        | Target::Group(_)
        | Target::Proxy { .. }
        | Target::Resources { .. } => return Err(Failure::method_not_allowed()),
    };
    reply::render(kind, call.wish, answer)
}

async fn collection(
    api: &Api,
    call: &Call,
    kind: &'static Kind,
    namespace: Option<&str>,
    verb: Verb,
) -> Result<Answer, Failure> {
    if let Keeping::Measured(what) = kind.keeping {
        return measured::list(api, call, kind, what, namespace).await;
    }
    match verb {
        Verb::Create => match kind.keeping {
            Keeping::Review(question) => review::review(call, kind, question),
            Keeping::Stored | Keeping::Measured(_) => {
                create::create(api, call, kind, namespace).await
            }
        },
        Verb::List => list::list(api, call, kind, namespace),
        Verb::Watch => {
            let selection = Selection::parse(kind, &call.query)?;
            watch::watch(api, call, kind, namespace, selection)
        }
        Verb::DeleteCollection => delete::delete_collection(api, call, kind, namespace).await,
        Verb::Get | Verb::Update | Verb::Patch | Verb::Delete => Err(Failure::method_not_allowed()),
    }
}

async fn one(api: &Api, call: &Call, object: &Object, verb: Verb) -> Result<Answer, Failure> {
    if let Keeping::Measured(what) = object.kind.keeping {
        return measured::get(api, object, what).await;
    }
    match verb {
        Verb::Get => get::get(api, call, object),
        Verb::Watch => {
            let selection = Selection::named(object.kind, &call.query, &object.name)?;
            watch::watch(api, call, object.kind, object.namespace.as_deref(), selection)
        }
        Verb::Update => update::update(api, call, object, Part::Main).await,
        Verb::Patch => patch::patch(api, call, object, Part::Main).await,
        Verb::Delete => delete::delete(api, call, object).await,
        Verb::Create | Verb::List | Verb::DeleteCollection => Err(Failure::method_not_allowed()),
    }
}

async fn below(
    api: &Api,
    call: &Call,
    object: &Object,
    subresource: &Subresource,
    verb: Verb,
) -> Result<Answer, Failure> {
    if let Some(part) = Part::of(subresource.purpose) {
        return match verb {
            Verb::Get => get::get(api, call, object),
            Verb::Update => update::update(api, call, object, part).await,
            Verb::Patch => patch::patch(api, call, object, part).await,
            Verb::Create | Verb::Delete | Verb::DeleteCollection | Verb::List | Verb::Watch => {
                Err(Failure::method_not_allowed())
            }
        };
    }
    match subresource.purpose {
        Purpose::Scale => scale::scale(api, call, object, subresource, verb).await,
        Purpose::Binding => binding::bind(api, call, object, subresource).await,
        Purpose::Eviction => eviction::evict(api, call, object, subresource).await,
        Purpose::Token => token_request::request(api, call, object, subresource),
        // A 404 without a name is what kubectl debug reports as "disabled for this cluster". It looks for
        // the name in the details, and crashes (seen with 1.37) where there are none.
        Purpose::EphemeralContainers => Err(Failure::nothing_here(
            object.kind.group,
            object.kind.plural,
            "ephemeral containers are not supported by this server yet",
        )),
        Purpose::Status
        | Purpose::Finalize
        | Purpose::Log
        | Purpose::Exec
        | Purpose::Attach
        | Purpose::PortForward
        | Purpose::Proxy => Err(Failure::method_not_allowed()),
    }
}

/// Documents of the server itself.
fn document(
    api: &Api,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response<Body>, Failure> {
    if let Some(answer) = api.inner.discovery.answer(target, headers) {
        return answer;
    }
    match target {
        Target::Health { endpoint, check } => {
            let failed = api.inner.store.failed();
            Ok(well_being(failed.as_deref(), endpoint, check.as_deref(), query))
        }
        Target::Version => Ok(reply::text_response(
            StatusCode::OK,
            "application/json",
            format!("{:#}\n", version()),
        )),
        Target::OpenApiIndex => Ok(reply::text_response(
            StatusCode::OK,
            "application/json",
            api.inner.openapi.index_v3(),
        )),
        Target::OpenApiV2 => openapi_v2(headers),
        Target::OpenApiDocument(path) => openapi_v3(api, path, headers),
        Target::CoreVersions
        | Target::Groups
        | Target::Group(_)
        | Target::Resources { .. }
        | Target::Collection { .. }
        | Target::Object(_)
        | Target::Subresource { .. }
        | Target::Proxy { .. }
        | Target::Metric(_) => Ok(not_found_page()),
    }
}

/// A store that has stopped acknowledging writes makes the server unfit; only a restart helps.
fn well_being(
    failed: Option<&str>,
    endpoint: &str,
    only: Option<&str>,
    query: &Query,
) -> Response<Body> {
    let question = health::Question {
        endpoint,
        only,
        is_verbose: query.has("verbose"),
        excluded: query.all("exclude").collect(),
    };
    let checks = [
        health::Check { name: "ping", is_well: true },
        health::Check { name: "store", is_well: failed.is_none() },
    ];
    let Some(answer) = health::answer(&question, &checks) else { return not_found_page() };
    let code = if answer.is_well { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    reply::text_response(code, "text/plain; charset=utf-8", answer.text)
}

/// The Kubernetes release whose API this is.
fn version() -> serde_json::Value {
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "major": "1",
        "minor": "36",
        "gitVersion": crate::api::KUBERNETES_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "2026-04-22T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{machine}"),
    })
}

fn openapi_v2(headers: &HeaderMap) -> Result<Response<Body>, Failure> {
    let wants_protobuf = accept(headers)
        .is_none_or(|accept| accept.contains("proto-openapi.spec.v2") || accept.contains("*/*"));
    if !wants_protobuf {
        return Err(Failure::not_acceptable());
    }
    // A dot where the Accept header has an '@': clients cannot parse their own form.
    Ok(reply::text_response(
        StatusCode::OK,
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
        Bytes::from_static(openapi::v2_protobuf()),
    ))
}

fn openapi_v3(api: &Api, path: &str, headers: &HeaderMap) -> Result<Response<Body>, Failure> {
    let group_version = path.strip_prefix("apis/").or_else(|| path.strip_prefix("api/"));
    let Some(document) = group_version.and_then(|gv| api.inner.openapi.document_v3(gv)) else {
        return Ok(not_found_page());
    };
    let etag = HeaderValue::from_str(&format!("\"{}\"", document.hash))
        .map_err(|_| Failure::internal("the document has no usable hash"))?;
    let mut response = match discovery::matches_etag(headers, &etag) {
        true => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
        false => reply::text_response(StatusCode::OK, "application/json", document.bytes.clone()),
    };
    let expires = clock::now()
        .plus(Duration::from_secs(365 * 24 * 3600))
        .as_jiff()
        .strftime("%a, %d %b %Y %H:%M:%S GMT")
        .to_string();
    for (name, value) in [
        (header::ETAG, Some(etag)),
        (header::VARY, Some(HeaderValue::from_static("Accept"))),
        (header::CACHE_CONTROL, Some(HeaderValue::from_static("public, immutable"))),
        (header::EXPIRES, HeaderValue::from_str(&expires).ok()),
    ] {
        if let Some(value) = value {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

fn not_found_page() -> Response<Body> {
    reply::text_response(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n")
}

fn accept(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::ACCEPT).and_then(|value| value.to_str().ok())
}

async fn read_body(body: Body) -> Result<Bytes, Failure> {
    // Told in advance: refused before the client is asked to go on.
    if body.size_hint().lower() > BODY_LIMIT as u64 {
        return Err(Failure::too_large(BODY_LIMIT));
    }
    match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Failure::too_large(BODY_LIMIT))
        }
        Err(_) => Err(Failure::bad_request("the request body ended early")),
    }
}

/// `timeout=32s`: how long the client gives the server.
fn request_limit(query: &Query) -> Result<Duration, Failure> {
    let Some(text) = query.get("timeout") else {
        return Ok(LONGEST_REQUEST);
    };
    match go_duration(text) {
        Some(Duration::ZERO) => Ok(LONGEST_REQUEST),
        Some(limit) => Ok(limit.min(LONGEST_REQUEST)),
        None => Err(Failure::bad_request(format!(
            "invalid timeout specified in the request URL: time: invalid duration \"{text}\""
        ))),
    }
}

/// Go's `1h2m3.5s`; a bare number is only allowed to be zero.
fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_length = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let seconds = match &rest[..unit_length] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = &rest[unit_length..];
    }
    (!text.is_empty()).then_some(total)
}

async fn finish(response: Response<Body>, accepts_gzip: bool) -> Response<Body> {
    let mut response = match response.body().size_hint().exact() {
        Some(size) if size >= COMPRESS_FROM && accepts_gzip => compress(response).await,
        _ => response,
    };
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&clock::uuid()) {
        headers.insert(AUDIT_ID, id);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    response
}

fn user_agent(headers: &HeaderMap) -> &str {
    headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Indents JSON that is complete; streams stay as they are.
async fn indent(response: Response<Body>) -> Response<Body> {
    let is_json =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if !is_json || response.body().size_hint().exact().is_none() {
        return response;
    }
    let (parts, body) = response.into_parts();
    let Ok(collected) = body.collect().await else {
        return Failure::internal("the answer could not be read").into_response();
    };
    let text = collected.to_bytes();
    let body = reply::indented(&text).map_or(Body::from(text), Body::from);
    Response::from_parts(parts, body)
}

async fn compress(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let Ok(collected) = body.collect().await else {
        return Failure::internal("the answer could not be read").into_response();
    };
    let plain = collected.to_bytes();
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::fast());
    let packed = encoder.write_all(&plain).and_then(|()| encoder.finish());
    match packed {
        Ok(packed) => {
            parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            parts.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
            Response::from_parts(parts, Body::from(packed))
        }
        Err(_) => Response::from_parts(parts, Body::from(plain)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_cannot_write_ends_readiness_without_telling_strangers_why() {
        let ready = |failed| well_being(failed, "readyz", None, &Query::default());
        assert_eq!(ready(None).status(), StatusCode::OK);
        let sick = ready(Some("sync: Input/output error"));
        assert_eq!(sick.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = sick.into_body().collect().now_or_never().expect("is whole").expect("is text");
        let told = "[+]ping ok\n[-]store failed: reason withheld\nreadyz check failed\n";
        assert_eq!(body.to_bytes(), told);
    }

    #[test]
    fn timeouts_read_as_go_durations() {
        for (text, expected) in [
            ("32s", Some(Duration::from_secs(32))),
            ("1m30s", Some(Duration::from_secs(90))),
            ("1.5h", Some(Duration::from_secs(5400))),
            ("250ms", Some(Duration::from_millis(250))),
            ("0", Some(Duration::ZERO)),
            ("0s", Some(Duration::ZERO)),
            ("5", None),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("1e9s", None),
            ("1x", None),
        ] {
            assert_eq!(go_duration(text), expected, "{text}");
        }
    }
}
