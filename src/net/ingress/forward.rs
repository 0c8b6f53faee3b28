//! The headers of a request and of an answer on their way through: what ends at this hop, what we say about the
//! client, what we do not believe (security D11).
//!
//! Nothing a client says about itself passes unless it comes from a trusted range.

use std::borrow::Cow;
use std::net::IpAddr;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, Version};

use crate::model::cidr::Cidr;

/// Who is asking, and how: what is said to pods of every request of one connection.
#[derive(Debug, Clone)]
pub struct Client {
    is_trusted: bool,
    address: HeaderValue,
    /// As `Forwarded` names it.
    node: String,
    proto: &'static str,
    port: HeaderValue,
}

impl Client {
    /// `port` is the one of ours that was asked.
    pub fn new(peer: IpAddr, is_tls: bool, port: u16, is_trusted: bool) -> Client {
        let peer = peer.to_canonical();
        let text = peer.to_string();
        Client {
            is_trusted,
            address: HeaderValue::from_str(&text).expect("an address is of digits and colons"),
            node: node(peer),
            proto: if is_tls { "https" } else { "http" },
            port: HeaderValue::from(port),
        }
    }
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Whether an address is in one of the ranges whose word about clients is taken.
pub fn is_trusted(ranges: &[Cidr], address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(address.to_canonical()))
}

/// Makes a client's headers those that the pod gets. `authority` is the one that was asked for, with its port if it said
/// one; `new_id` is called for a request without an id to believe. Returns the request's id.
pub fn request(
    headers: &mut HeaderMap,
    client: &Client,
    authority: &HeaderValue,
    new_id: impl FnOnce() -> HeaderValue,
) -> HeaderValue {
    let wants_trailers = headers.get_all(header::TE).iter().any(says(b"trailers"));
    end_of_hop(headers);
    // Headers with an underscore read as another header in CGI and WSGI: `X_Real_IP` would be ours.
    drop_named(headers, |name| {
        is_of_hop(name)
            || matches!(name, "te" | "expect" | "content-length")
            || name.contains('_')
            || (!client.is_trusted && is_about_client(name))
    });
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    join_cookies(headers);
    // At once what is about to be said, and not twice as many each time it grows.
    headers.reserve(8);
    describe(headers, client, authority);
    let believed = headers.get(&REQUEST_ID).filter(|id| is_id(id.as_bytes())).cloned();
    believed.unwrap_or_else(|| {
        let id = new_id();
        headers.insert(REQUEST_ID, id.clone());
        id
    })
}

/// Makes a client's trailers those that the pod gets. They come when the request has been routed and judged, and a pod that
/// adds them to the headers must read nothing there that the headers would not say (RFC 9110 §6.5.1); about itself no client
/// says anything here, trusted or not.
pub fn request_trailers(trailers: &mut HeaderMap) {
    drop_named(trailers, |name| is_no_trailer(name) || name.contains('_') || is_about_client(name));
}

/// Makes a pod's trailers those that the client gets.
pub fn answer_trailers(trailers: &mut HeaderMap) {
    drop_named(trailers, is_no_trailer);
}

/// Whether a name delimits, routes, authenticates or conditions the message, or says what its content is.
fn is_no_trailer(name: &str) -> bool {
    const NAMES: [&str; 14] = [
        "authorization",
        "cache-control",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "cookie",
        "expect",
        "host",
        "max-forwards",
        "range",
        "set-cookie",
        "te",
        "trailer",
    ];
    is_of_hop(name) || NAMES.contains(&name) || name.starts_with("if-")
}

/// Makes a pod's headers those that the client gets.
pub fn answer(headers: &mut HeaderMap) {
    end_of_hop(headers);
    drop_named(headers, is_of_hop);
}

/// Whether the connection that an answer comes over carries no other one (RFC 9112 §9.3). One from before HTTP/1.1 is not
/// trusted with it.
pub fn ends_connection<B>(answer: &Response<B>) -> bool {
    answer.version() < Version::HTTP_11
        || answer.headers().get_all(header::CONNECTION).iter().any(says(b"close"))
}

/// Drops what Connection names.
fn end_of_hop(headers: &mut HeaderMap) {
    if let Some(first) = headers.get(header::CONNECTION) {
        // The usual values name nothing further.
        let is_usual = ["keep-alive", "close", "upgrade"].iter().any(|usual| first == usual);
        if !is_usual || headers.get_all(header::CONNECTION).iter().count() > 1 {
            let named: Vec<HeaderName> = headers
                .get_all(header::CONNECTION)
                .iter()
                .flat_map(|value| value.as_bytes().split(|b| *b == b','))
                .filter_map(|option| HeaderName::from_bytes(option.trim_ascii()).ok())
                // What routes and delimits is never a matter of one hop.
                .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH)
                .collect();
            for name in named {
                headers.remove(name);
            }
        }
    }
}

/// RFC 9113 §8.2.3: h2 may split a cookie, HTTP/1.1 may not.
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let Some(first) = crumbs.next() else { return };
    let Some(second) = crumbs.next() else { return };
    let rest = [second].into_iter().chain(crumbs);
    let mut joined = first.as_bytes().to_vec();
    for crumb in rest {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, value);
    }
}

/// Headers that end at every hop (RFC 9110 §7.6.1), and what only servers and clients of this hop use.
fn is_of_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

fn is_about_client(name: &str) -> bool {
    name.starts_with("x-forwarded-") || matches!(name, "forwarded" | "x-real-ip" | "x-request-id")
}

fn drop_named(headers: &mut HeaderMap, is_dropped: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> =
        headers.keys().filter(|name| is_dropped(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn describe(headers: &mut HeaderMap, client: &Client, authority: &HeaderValue) {
    let chain = match joined(headers, &FORWARDED_FOR) {
        Some(before) => joining([before.as_bytes(), b", ", client.address.as_bytes()]),
        None => Some(client.address.clone()),
    };
    set(headers, FORWARDED_FOR, chain);
    let before = joined(headers, &header::FORWARDED);
    let (before, comma) = before.as_deref().map_or(("", ""), |before| (before, ", "));
    let host = quoted(authority.as_bytes());
    let ours = [before, comma, "for=", &client.node, ";host="].map(str::as_bytes);
    let rest = [&*host, b";proto=", client.proto.as_bytes()];
    set(headers, header::FORWARDED, joining(ours.into_iter().chain(rest)));
    let said = [
        (FORWARDED_PROTO, HeaderValue::from_static(client.proto)),
        (FORWARDED_HOST, authority.clone()),
        (FORWARDED_PORT, client.port.clone()),
        (REAL_IP, client.address.clone()),
    ];
    for (name, value) in said {
        // What is there already comes from a proxy that is trusted, which saw more of the client than we do.
        if !client.is_trusted || !headers.contains_key(&name) {
            headers.insert(name, value);
        }
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    if let Some(value) = value {
        headers.insert(name, value);
    }
}

/// The pieces one after the other, without a copy of the whole.
fn joining<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<HeaderValue> {
    let mut bytes = Vec::with_capacity(128);
    for piece in pieces {
        bytes.extend_from_slice(piece);
    }
    HeaderValue::from_maybe_shared(Bytes::from(bytes)).ok()
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let mut all = values.next()?.to_owned();
    for value in values {
        all.push_str(", ");
        all.push_str(value);
    }
    Some(all)
}

/// RFC 7239 §6: an IPv6 address is quoted and in brackets.
fn node(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    }
}

fn quoted(authority: &[u8]) -> Cow<'_, [u8]> {
    match authority.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(b)) {
        true => Cow::Borrowed(authority),
        false => {
            let kept = authority.iter().filter(|b| !b"\"\\".contains(b)).copied();
            Cow::Owned([b'"'].into_iter().chain(kept).chain([b'"']).collect())
        }
    }
}

fn says(word: &'static [u8]) -> impl Fn(&HeaderValue) -> bool {
    move |value| {
        let mut options = value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii);
        options.any(|option| option.eq_ignore_ascii_case(word))
    }
}

fn is_id(id: &[u8]) -> bool {
    (1..=128).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(is_trusted: bool, given: &[(&str, &str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        let client = Client::new("203.0.113.7".parse().unwrap(), true, 8443, is_trusted);
        let authority = HeaderValue::from_static("shop.example:8443");
        request(&mut headers, &client, &authority, || HeaderValue::from_static("f00d"));
        let mut lines: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        lines
    }

    const OURS: [&str; 7] = [
        "forwarded: for=203.0.113.7;host=\"shop.example:8443\";proto=https",
        "x-forwarded-for: 203.0.113.7",
        "x-forwarded-host: shop.example:8443",
        "x-forwarded-port: 8443",
        "x-forwarded-proto: https",
        "x-real-ip: 203.0.113.7",
        "x-request-id: f00d",
    ];

    const CLAIMS: [(&str, &str); 10] = [
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-for", "10.0.0.2"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "intranet"),
        ("x-forwarded-port", "1"),
        ("x-forwarded-user", "root"),
        ("x-real-ip", "10.0.0.1"),
        ("x_real_ip", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1"),
        ("x-request-id", "mine"),
    ];

    #[test]
    fn what_a_client_says_about_itself_is_not_believed() {
        assert_eq!(through(false, &CLAIMS), OURS);
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_added_to() {
        assert_eq!(
            through(true, &CLAIMS),
            [
                "forwarded: for=10.0.0.1, for=203.0.113.7;host=\"shop.example:8443\";proto=https",
                "x-forwarded-for: 10.0.0.1, 10.0.0.2, 203.0.113.7",
                "x-forwarded-host: intranet",
                "x-forwarded-port: 1",
                "x-forwarded-proto: http",
                "x-forwarded-user: root",
                "x-real-ip: 10.0.0.1",
                "x-request-id: mine",
            ]
        );
    }

    #[test]
    fn what_belongs_to_one_hop_ends_there() {
        let lines = through(
            false,
            &[
                ("connection", "close, X-Secret, host"),
                ("x-secret", "1"),
                ("keep-alive", "timeout=5"),
                ("proxy-authorization", "Basic x"),
                ("te", "gzip, trailers"),
                ("expect", "100-continue"),
                ("transfer-encoding", "chunked"),
                ("content-length", "5"),
                ("upgrade", "h2c"),
                ("http2-settings", "AAMAAABk"),
                ("host", "shop.example"),
                ("cookie", "a=1"),
                ("cookie", "b=2"),
                ("accept", "*/*"),
            ],
        );
        let kept: Vec<&str> =
            lines.iter().map(String::as_str).filter(|line| !OURS.contains(line)).collect();
        assert_eq!(kept, ["accept: */*", "cookie: a=1; b=2", "host: shop.example", "te: trailers"]);
    }

    #[test]
    fn ipv6_clients_are_quoted_and_mapped_ones_are_ipv4() {
        for (peer, node, address) in [
            ("2001:db8::1", "\"[2001:db8::1]\"", "2001:db8::1"),
            ("::ffff:10.0.0.9", "10.0.0.9", "10.0.0.9"),
        ] {
            let client = Client::new(peer.parse().unwrap(), false, 80, false);
            assert_eq!(
                (&*client.node, &client.address),
                (node, &HeaderValue::from_static(address))
            );
        }
        let ranges = ["10.0.0.0/8".parse().unwrap()];
        assert!(is_trusted(&ranges, "::ffff:10.1.2.3".parse().unwrap()));
        assert!(!is_trusted(&ranges, "192.0.2.1".parse().unwrap()));
    }
}
