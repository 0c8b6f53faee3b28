//! The headers of a request and of an answer on their way through: what ends at this hop, what we say about the
//! client, what we do not believe (security D11).
//!
//! Nothing a client says about itself passes unless it comes from a trusted range.

use std::net::{IpAddr, SocketAddr};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::model::cidr::Cidr;

/// Who is asking, and how.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    pub peer: SocketAddr,
    pub is_tls: bool,
    /// The port of ours that was asked.
    pub port: u16,
    /// The authority that was asked for, with its port if it said one.
    pub authority: &'a str,
    pub is_trusted: bool,
}

/// Headers that end at every hop (RFC 9110 §7.6.1), and what only servers and clients of this hop use.
const HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

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

/// Makes a client's headers those that the pod gets. `new_id` is called for a request without an id to believe.
/// Returns the request's id.
pub fn request(
    headers: &mut HeaderMap,
    client: Client<'_>,
    new_id: impl FnOnce() -> String,
) -> String {
    let wants_trailers = headers.get_all(header::TE).iter().any(says(b"trailers"));
    end_of_hop(headers);
    for name in [header::TE, header::EXPECT, header::CONTENT_LENGTH] {
        headers.remove(name);
    }
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    join_cookies(headers);
    drop_unbelieved(headers, client.is_trusted);
    describe(headers, client);
    let id = headers.get(&REQUEST_ID).and_then(|id| id.to_str().ok()).filter(|id| is_id(id));
    match id {
        Some(id) => id.to_owned(),
        None => {
            let id = new_id();
            let value = HeaderValue::from_str(&id).expect("an id is made of hex digits");
            headers.insert(REQUEST_ID, value);
            id
        }
    }
}

/// Makes a pod's headers those that the client gets.
pub fn answer(headers: &mut HeaderMap) {
    end_of_hop(headers);
}

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
    for name in &HOP {
        headers.remove(name);
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

/// Headers with an underscore read as another header in CGI and WSGI: `X_Real_IP` would be ours.
fn drop_unbelieved(headers: &mut HeaderMap, is_trusted: bool) {
    let unbelieved = |name: &HeaderName| {
        let name = name.as_str();
        let about_client = name.starts_with("x-forwarded-")
            || matches!(name, "forwarded" | "x-real-ip" | "x-request-id");
        name.contains('_') || (about_client && !is_trusted)
    };
    let names: Vec<HeaderName> = headers.keys().filter(|n| unbelieved(n)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn describe(headers: &mut HeaderMap, client: Client<'_>) {
    let peer = client.peer.ip().to_canonical();
    let proto = if client.is_tls { "https" } else { "http" };
    let chain = |before: Option<String>, ours: String| match before {
        Some(before) => format!("{before}, {ours}"),
        None => ours,
    };
    let before = joined(headers, &FORWARDED_FOR);
    set(headers, FORWARDED_FOR, &chain(before, peer.to_string()));
    let forwarded = format!("for={};host={};proto={proto}", node(peer), quoted(client.authority),);
    let before = joined(headers, &header::FORWARDED);
    set(headers, header::FORWARDED, &chain(before, forwarded));
    let said = [
        (FORWARDED_PROTO, proto.to_owned()),
        (FORWARDED_HOST, client.authority.to_owned()),
        (FORWARDED_PORT, client.port.to_string()),
        (REAL_IP, peer.to_string()),
    ];
    for (name, value) in said {
        // What is still there comes from a proxy that is trusted, which saw more of the client than we do.
        if !headers.contains_key(&name) {
            set(headers, name, &value);
        }
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<&str> =
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

/// RFC 7239 §6: an IPv6 address is quoted and in brackets.
fn node(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    }
}

fn quoted(authority: &str) -> String {
    match authority.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b)) {
        true => authority.to_owned(),
        false => format!("\"{}\"", authority.replace(['"', '\\'], "")),
    }
}

fn says(word: &'static [u8]) -> impl Fn(&HeaderValue) -> bool {
    move |value| {
        let mut options = value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii);
        options.any(|option| option.eq_ignore_ascii_case(word))
    }
}

fn is_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(&b))
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
        let peer = "203.0.113.7:4711".parse().unwrap();
        let authority = "shop.example:8443";
        let client = Client { peer, is_tls: true, port: 8443, authority, is_trusted };
        request(&mut headers, client, || "f00d".to_owned());
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
        for (peer, node_text) in
            [("[2001:db8::1]:1", "\"[2001:db8::1]\""), ("[::ffff:10.0.0.9]:1", "10.0.0.9")]
        {
            let peer: SocketAddr = peer.parse().unwrap();
            assert_eq!(node(peer.ip().to_canonical()), node_text);
        }
        let ranges = ["10.0.0.0/8".parse().unwrap()];
        assert!(is_trusted(&ranges, "::ffff:10.1.2.3".parse().unwrap()));
        assert!(!is_trusted(&ranges, "192.0.2.1".parse().unwrap()));
    }
}
