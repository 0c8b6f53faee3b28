//! Requests to the pod: probes and hooks of kind `httpGet`, with kubelet's headers and rules for redirects.
//!
//! Certificates are not verified: a probe asks whether somebody answers, not who. One connection per request.

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

use super::{Answer, MOST_BYTES, Target, dial, shown};
use crate::node::compile::check::HttpGet;
use crate::node::unverified;

/// Go's limit, which kubelet's client has.
const MOST_REDIRECTS: usize = 10;

pub async fn probe(target: &Target, get: &HttpGet) -> Answer {
    let mut get = get.clone();
    for _ in 0..=MOST_REDIRECTS {
        let (status, location, body) = match ask(target, &get).await {
            Ok(answer) => answer,
            Err(reason) => {
                return Answer::Failure(format!("Get \"{}\": {reason}", url(target, &get)));
            }
        };
        let next = location.filter(|_| (300..400).contains(&status) && status != 304);
        match next.and_then(|location| redirected(target, &get, &location)) {
            Some(Redirect::SameHost(next)) => get = next,
            Some(Redirect::OtherHost) => {
                return Answer::Warning(format!(
                    "Probe terminated redirects, Response body: {body}"
                ));
            }
            None if (200..400).contains(&status) => return Answer::Success,
            None => {
                return Answer::Failure(format!("HTTP probe failed with statuscode: {status}"));
            }
        }
    }
    Answer::Failure(format!(
        "Get \"{}\": stopped after {MOST_REDIRECTS} redirects",
        url(target, &get)
    ))
}

/// What a request says that took too long.
pub fn late(target: &Target, get: &HttpGet) -> Answer {
    Answer::Failure(format!(
        "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
        url(target, get)
    ))
}

/// A hook is done once it is answered, whatever the status: that is all kubelet asks for.
pub async fn hook(target: &Target, get: &HttpGet) -> Result<(), String> {
    match ask(target, get).await {
        Ok(_) => Ok(()),
        Err(reason) => Err(format!("Get \"{}\": {reason}", url(target, get))),
    }
}

enum Redirect {
    SameHost(HttpGet),
    OtherHost,
}

/// Status, Location, and the beginning of the body.
async fn ask(target: &Target, get: &HttpGet) -> Result<(u16, Option<String>, String), String> {
    let request = request(target, get)?;
    let stream = dial(target, get.host.as_deref(), get.port).await?;
    let answer = match get.is_tls {
        false => exchange(stream, request).await?,
        true => {
            let connector = unverified::connector();
            let name = server_name(target, get)?;
            let stream =
                connector.connect(name, stream).await.map_err(|error| error.to_string())?;
            exchange(stream, request).await?
        }
    };
    let status = answer.response.status().as_u16();
    let location = answer.response.headers().get(LOCATION);
    let location = location.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut body = answer.response.into_body();
    let mut read = Vec::new();
    while read.len() < MOST_BYTES
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(|error| error.to_string())?;
        if let Ok(data) = frame.into_data() {
            read.extend_from_slice(&data[..data.len().min(MOST_BYTES - read.len())]);
        }
    }
    Ok((status, location, String::from_utf8_lossy(&read).into_owned()))
}

/// An answer and the task that carries its body.
struct Exchanged {
    response: Response<Incoming>,
    _connection: AbortOnDropHandle<()>,
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Exchanged, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let connection = tokio::spawn(async move {
        // Its error is the request's as well.
        let _ = connection.await;
    });
    let connection = AbortOnDropHandle::new(connection);
    let response = sender.send_request(request).await.map_err(|error| {
        match error.is_incomplete_message() {
            true => "EOF".to_owned(),
            false => error.to_string(),
        }
    })?;
    Ok(Exchanged { response, _connection: connection })
}

fn request(target: &Target, get: &HttpGet) -> Result<Request<Empty<Bytes>>, String> {
    let mut builder = Request::get(get.path.as_str());
    let headers = builder.headers_mut().ok_or_else(|| format!("invalid path {:?}", get.path))?;
    let host = shown(target, get.host.as_deref(), get.port);
    let own = |text: &str| HeaderValue::from_str(text).map_err(|error| error.to_string());
    headers.insert(HOST, own(&host)?);
    let agent = format!("kube-probe/{}", env!("CARGO_PKG_VERSION"));
    headers.insert(USER_AGENT, own(&agent)?);
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    let mut replaced: Vec<HeaderName> = Vec::new();
    for (name, value) in &get.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
        // The first of a name replaces ours, further ones are added; an empty one takes ours away.
        if !replaced.contains(&name) {
            headers.remove(&name);
            replaced.push(name.clone());
        }
        if !value.is_empty() {
            headers.append(name, own(value)?);
        }
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    builder.body(Empty::new()).map_err(|error| error.to_string())
}

fn url(target: &Target, get: &HttpGet) -> String {
    let scheme = if get.is_tls { "https" } else { "http" };
    format!("{scheme}://{}{}", shown(target, get.host.as_deref(), get.port), get.path)
}

fn redirected(target: &Target, from: &HttpGet, location: &str) -> Option<Redirect> {
    let uri: Uri = location.parse().ok()?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let own_host = from.host.clone().or_else(|| target.address.map(|a| a.to_string()));
    let Some(authority) = uri.authority() else {
        return Some(Redirect::SameHost(HttpGet { path: path.to_owned(), ..from.clone() }));
    };
    if own_host.as_deref() != Some(authority.host().trim_matches(['[', ']'])) {
        return Some(Redirect::OtherHost);
    }
    let is_tls = uri.scheme_str().map_or(from.is_tls, |scheme| scheme == "https");
    let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    Some(Redirect::SameHost(HttpGet { is_tls, port, path: path.to_owned(), ..from.clone() }))
}

fn server_name(target: &Target, get: &HttpGet) -> Result<ServerName<'static>, String> {
    // What the Host header says is what a server with several certificates wants to hear.
    let named = get.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
    let host = named.map(|(_, value)| value.split(':').next().unwrap_or_default().to_owned());
    let host = host.or_else(|| get.host.clone());
    match (host.and_then(|host| ServerName::try_from(host).ok()), target.address) {
        (Some(name), _) => Ok(name),
        (None, Some(address)) => Ok(ServerName::IpAddress(address.into())),
        (None, None) => Err("the pod has no address".to_owned()),
    }
}
