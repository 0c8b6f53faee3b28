//! What a request's and an answer's headers become on the way through the API to a pod and back (pure).
//!
//! What ends at this hop ends here, and so does who the client is: its credentials are the API's and never a pod's. The
//! rest is as Kubernetes has it (apimachinery `util/proxy`). Links in pages are not rewritten, `Location` is.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// What the pod learns of who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// `None`: this program itself.
    pub client: Option<IpAddr>,
    /// Host and port as the client wrote them.
    pub host: &'a str,
    /// The path of the API's own URL.
    pub path: &'a str,
}

/// Makes a client's headers those that the pod gets. The wish for another protocol stays.
pub fn request(headers: &mut HeaderMap, asked: &Asked<'_>) {
    let upgrade = upgrade(headers);
    drop_those_of_hop(headers);
    let is_about_client = |name: &HeaderName| {
        let name = name.as_str();
        matches!(name, "authorization" | "expect")
            || ["x-remote-", "impersonate-"].iter().any(|start| name.starts_with(start))
    };
    drop_named(headers, is_about_client);
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
    let client = asked.client.map(|client| client.to_canonical().to_string());
    let before = headers.get_all(&FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let chain: Vec<&str> = before.chain(client.as_deref()).collect();
    let chain = chain.join(", ");
    let said = [
        (FORWARDED_FOR, chain.as_str()),
        (FORWARDED_HOST, asked.host),
        (FORWARDED_PROTO, "https"),
        (FORWARDED_URI, asked.path),
        (header::HOST, asked.host),
    ];
    for (name, text) in said {
        match HeaderValue::from_str(text) {
            Ok(value) if !text.is_empty() => drop(headers.insert(name, value)),
            Ok(_) | Err(_) => drop(headers.remove(name)),
        }
    }
    // HTTP/1.1 wants one, whatever the client's protocol has.
    headers.entry(header::HOST).or_insert(HeaderValue::from_static("localhost"));
}

/// Makes a pod's headers those that the client gets. `root` is the path that the pod's own `/` has at the API.
pub fn answer(headers: &mut HeaderMap, root: &str, host: &str) {
    drop_those_of_hop(headers);
    let moved = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    let moved = moved.and_then(|to| relocated(to, root, host));
    if let Some(value) = moved.and_then(|to| HeaderValue::from_str(&to).ok()) {
        headers.insert(header::LOCATION, value);
    }
}

/// As [`answer`], of an answer that switches protocols: what names the protocol stays.
pub fn switched(headers: &mut HeaderMap) {
    let upgrade = upgrade(headers);
    drop_those_of_hop(headers);
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Some(upgrade) = upgrade {
        headers.insert(header::UPGRADE, upgrade);
    }
}

/// Another protocol that is asked for, or was agreed on.
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut named = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    let is_meant =
        named.any(|list| list.split(',').any(|word| word.trim().eq_ignore_ascii_case("upgrade")));
    headers.get(header::UPGRADE).filter(|_| is_meant).cloned()
}

/// RFC 9110 §7.6.1, and what `Connection` names besides.
fn drop_those_of_hop(headers: &mut HeaderMap) {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        // What routes and delimits is never a matter of one hop.
        .filter(|name| name != "host" && name != "content-length")
        .collect();
    drop_named(headers, |name| {
        let name = name.as_str();
        matches!(
            name,
            "connection"
                | "keep-alive"
                | "proxy-authenticate"
                | "proxy-authorization"
                | "proxy-connection"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "upgrade"
        ) || named.iter().any(|own| own == name)
    });
}

fn drop_named(headers: &mut HeaderMap, is_dropped: impl Fn(&HeaderName) -> bool) {
    let dropped: Vec<HeaderName> =
        headers.keys().filter(|name| is_dropped(name)).cloned().collect();
    for name in dropped {
        headers.remove(name);
    }
}

/// Where a pod's redirect leads a client of the API: a path of the pod itself is below `root`, every other place is left alone.
fn relocated(to: &str, root: &str, host: &str) -> Option<String> {
    let uri: Uri = to.parse().ok()?;
    let is_elsewhere = uri.authority().is_some_and(|authority| authority.as_str() != host);
    if is_elsewhere || to.starts_with("//") || !uri.path().starts_with('/') {
        return None;
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let fragment = to.split_once('#').map(|(_, rest)| format!("#{rest}")).unwrap_or_default();
    let is_below = path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
    let path = if is_below { path.to_owned() } else { format!("{root}{path}") };
    Some(format!("{path}{fragment}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(given: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
            .collect();
        lines.sort();
        lines
    }

    const ASKED: Asked<'_> = Asked {
        client: Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)),
        host: "box:6443",
        path: "/api/v1/namespaces/ns/pods/p/proxy/x",
    };

    #[test]
    fn a_pod_learns_nothing_that_would_open_the_api() {
        let mut headers = map(&[
            ("authorization", "Bearer secret"),
            ("x-remote-user", "root"),
            ("x-remote-group", "system:masters"),
            ("impersonate-user", "root"),
            ("proxy-authorization", "Basic x"),
            ("connection", "close, x-mine, host"),
            ("x-mine", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("cookie", "session=1"),
            ("x-forwarded-for", "10.0.0.7"),
            ("x-forwarded-host", "lie"),
        ]);
        request(&mut headers, &ASKED);
        assert_eq!(
            shown(&headers),
            [
                "cookie: session=1",
                "host: box:6443",
                "x-forwarded-for: 10.0.0.7, 127.0.0.1",
                "x-forwarded-host: box:6443",
                "x-forwarded-proto: https",
                "x-forwarded-uri: /api/v1/namespaces/ns/pods/p/proxy/x",
            ]
        );
    }

    #[test]
    fn a_wish_for_another_protocol_is_passed_on_and_only_where_it_is_meant() {
        let mut headers = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        request(&mut headers, &ASKED);
        assert_eq!(
            (&headers["connection"], &headers["upgrade"]),
            (&HeaderValue::from_static("Upgrade"), &HeaderValue::from_static("websocket"),)
        );
        let mut headers = map(&[("upgrade", "h2c")]);
        request(&mut headers, &ASKED);
        assert!(!headers.contains_key("upgrade"));
    }

    #[test]
    fn an_answers_own_hop_ends_here() {
        let mut headers = map(&[
            ("connection", "keep-alive, x-mine"),
            ("keep-alive", "timeout=5"),
            ("x-mine", "1"),
            ("transfer-encoding", "chunked"),
            ("content-type", "text/plain"),
        ]);
        answer(&mut headers, "/r", "box");
        assert_eq!(shown(&headers), ["content-type: text/plain"]);
    }

    #[test]
    fn a_redirect_within_the_pod_stays_below_the_proxys_path() {
        let root = "/api/v1/namespaces/ns/pods/p/proxy";
        for (to, expected) in [
            ("/login?next=%2Fa#top", "/api/v1/namespaces/ns/pods/p/proxy/login?next=%2Fa#top"),
            ("/", "/api/v1/namespaces/ns/pods/p/proxy/"),
            ("https://box:6443/login", "/api/v1/namespaces/ns/pods/p/proxy/login"),
            ("/api/v1/namespaces/ns/pods/p/proxy/x", "/api/v1/namespaces/ns/pods/p/proxy/x"),
            ("login", "login"),
            ("https://elsewhere/login", "https://elsewhere/login"),
            ("//elsewhere/login", "//elsewhere/login"),
        ] {
            let mut headers = map(&[("location", to)]);
            answer(&mut headers, root, "box:6443");
            assert_eq!(headers["location"], expected, "{to}");
        }
    }
}
