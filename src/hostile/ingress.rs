//! What clients of the ingress send, heads, chunked bodies, headers and trailers, paths; and what pods answer.

use std::net::IpAddr;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::text;
use crate::net::ingress::exchange::{Asked, Malformed, Reader};
use crate::net::ingress::forward::{self, Client};
use crate::net::ingress::head::{self, Chunked};
use crate::net::ingress::path as ingress_path;
use crate::net::ingress::routes::{
    self, BackendFact, IngressFact, ObjectName, Options, PathFact, PathKind, Port, RuleFact,
};

/// The head of a request to the ingress: what is refused stays refused and what is whole stays the same, however the
/// bytes arrive.
pub fn head(bytes: &[u8]) {
    let whole = head::examine(bytes);
    for end in 0..bytes.len() {
        match head::examine(&bytes[..end]) {
            Ok(None) => {}
            Ok(Some(head)) => {
                assert!(head.length <= end);
                assert_eq!(whole, Ok(Some(head)));
            }
            Err(_) => assert!(whole.is_err(), "refused at {end}, accepted whole"),
        }
    }
}

/// A pod's answer: however its bytes come, it is read the same, and what is not part of it stays.
pub fn answer(bytes: &[u8]) {
    for (for_head, to_switch) in [(false, false), (true, false), (false, true)] {
        let asked = Asked { for_head, to_switch };
        // Which of its faults is found first may differ.
        let whole = read_answer(asked, bytes, bytes.len().max(1)).ok();
        for size in [1, 7] {
            let cut = read_answer(asked, bytes, size).ok();
            assert_eq!(cut, whole, "{asked:?} in pieces of {size}");
        }
    }
}

/// Head, body and trailers as text, and how many bytes are not part of it.
fn read_answer(asked: Asked, bytes: &[u8], size: usize) -> Result<(String, usize), Malformed> {
    let mut pieces = bytes.chunks(size);
    let mut reader = Reader::default();
    reader.begin(asked);
    let mut more = |reader: &mut Reader| match pieces.next() {
        Some(piece) => {
            reader.take(bytes::Bytes::copy_from_slice(piece));
            Ok(())
        }
        None => reader.end(),
    };
    let head = loop {
        match reader.head()? {
            Some(head) => break head,
            None => more(&mut reader)?,
        }
    };
    let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
    while !reader.is_over() {
        match reader.frame()?.map(http_body::Frame::into_data) {
            Some(Ok(piece)) => {
                assert!(!piece.is_empty());
                data.extend_from_slice(&piece);
                reader.look_ahead();
            }
            Some(Err(frame)) => trailers = frame.into_trailers().unwrap_or_default(),
            None if reader.is_over() => break,
            None => more(&mut reader)?,
        }
    }
    let rest = reader.into_rest().len() + pieces.map(<[u8]>::len).sum::<usize>();
    Ok((format!("{head:?} {data:?} {trailers:?}"), rest))
}

/// Lines `HOST PATH` of rules (a `=` before the path: Exact), then one of a request: the table finds what looking at
/// every rule finds, and a path has one spelling.
pub fn route(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let mut lines: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.split_once(' ')).collect();
    let Some((host, raw)) = lines.pop() else { return };
    let Ok(asked) = ingress_path::normalize(raw) else { return };
    assert_eq!(ingress_path::normalize(&asked).as_ref(), Ok(&asked), "one spelling");
    assert!(!ingress_path::is_normal(raw) || raw == asked, "{raw} counts as spelled well");
    let host = routes::plain_host(host);
    let rules: Vec<(String, PathKind, String)> = lines
        .iter()
        .filter(|(host, _)| !host.contains('*') || host.starts_with("*."))
        .filter_map(|(host, path)| {
            let (kind, path) = match path.strip_prefix('=') {
                Some(path) => (PathKind::Exact, path),
                None => (PathKind::Prefix, *path),
            };
            Some((host.to_ascii_lowercase(), kind, ingress_path::normalize(path).ok()?))
        })
        .collect();
    let paths = |number: usize, kind: PathKind, path: &str| PathFact {
        path: path.to_owned(),
        kind,
        backend: BackendFact { service: number.to_string(), port: Port::Number(80) },
    };
    let facts = rules.iter().enumerate().map(|(number, (host, kind, path))| RuleFact {
        host: host.clone(),
        paths: vec![paths(number, *kind, path)],
    });
    let table = routes::compile(&[IngressFact {
        name: ObjectName::new("default", "one"),
        created: 0,
        rules: facts.collect(),
        default: None,
        options: Options::default(),
    }]);
    let found = table.find(&host, &asked).map(|route| route.backend.service.name.clone());
    let naive = naive_route(&rules, &host, &asked).map(|number| number.to_string());
    assert_eq!(found, naive, "{host} {asked} in {rules:?}");
}

/// The first rule of the best kind: exact hosts before wildcards before none, Exact before the longest Prefix.
fn naive_route(rules: &[(String, PathKind, String)], host: &str, path: &str) -> Option<usize> {
    let elements = |path: &str| -> Vec<String> {
        path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let asked = elements(path);
    let parent = host.split_once('.').map(|(_, parent)| format!("*.{parent}"));
    let hosts = [
        Some(host.to_owned()).filter(|host| !host.is_empty() && !host.starts_with("*.")),
        parent,
        Some(String::new()),
    ];
    hosts.iter().flatten().find_map(|host| {
        let mine = || rules.iter().enumerate().filter(|(_, (theirs, ..))| theirs == host);
        let exact = mine().find(|(_, (_, kind, of))| *kind == PathKind::Exact && of == path);
        let prefixes = mine().filter(|(_, (_, kind, of))| {
            *kind == PathKind::Prefix && asked.starts_with(&elements(of))
        });
        // Of the longest, the first: `max_by_key` would give the last.
        let longest = prefixes.rev().max_by_key(|(_, (_, _, of))| elements(of).len());
        exact.or(longest).map(|(number, _)| number)
    })
}

/// A chunked body: wherever it is cut on its way, it is refused or ends at the same byte, and its chunks are those that a naive
/// reader of the whole finds.
pub fn chunked(bytes: &[u8]) {
    let whole = follow([bytes]);
    assert_eq!(whole, follow(bytes.chunks(1)), "byte by byte");
    for end in 0..bytes.len() {
        assert_eq!(whole, follow([&bytes[..end], &bytes[end..]]), "cut at {end}");
    }
    if let Some(end) = whole {
        assert_eq!(naive_end(bytes), Some(end), "two readers disagree on the end");
    }
}

/// How many bytes belong to the body; `None`: it is refused or not over.
fn follow<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<usize> {
    let mut chunked = Chunked::default();
    let mut total = 0;
    for piece in pieces {
        let taken = chunked.follow(piece).ok()?;
        assert!(taken == piece.len() || chunked.is_done(), "it stops only at its end");
        total += taken;
    }
    chunked.is_done().then_some(total)
}

/// A lax reader: what it finds must be what the strict one finds, whenever that one says yes.
fn naive_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let line = |at: usize| {
        let length = bytes[at..].windows(2).position(|pair| pair == b"\r\n")?;
        Some((&bytes[at..at + length], at + length + 2))
    };
    loop {
        let (size, next) = line(at)?;
        let size = std::str::from_utf8(size).ok()?.split(';').next()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        at = next;
        if size == 0 {
            break;
        }
        at = at.checked_add(size + 2).filter(|end| *end <= bytes.len())?;
    }
    loop {
        let (trailer, next) = line(at)?;
        at = next;
        if trailer.is_empty() {
            return Some(at);
        }
    }
}

/// `NAME: VALUE` lines, headers and after an empty line trailers: what reaches a pod says of the client only what the proxy
/// knows, ends nothing at another hop, and stays the same when it passes again.
pub fn forward(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let mut parts = text.splitn(2, "\n\n");
    let [mut headers, mut trailers] =
        [parts.next(), parts.next()].map(|part| fields(part.unwrap_or_default()));
    let named: Vec<String> = headers
        .get_all("connection")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(|name| name.trim().to_ascii_lowercase()))
        .collect();
    let peer: IpAddr = [203, 0, 113, 7].into();
    let client = Client::new(peer, false, 80, false);
    let authority = HeaderValue::from_static("shop.example");
    let new_id = || HeaderValue::from_static("f00d");
    forward::request(&mut headers, &client, &authority, new_id);
    let expected = [
        ("forwarded", "for=203.0.113.7;host=shop.example;proto=http"),
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-host", "shop.example"),
        ("x-forwarded-port", "80"),
        ("x-forwarded-proto", "http"),
        ("x-real-ip", "203.0.113.7"),
        ("x-request-id", "f00d"),
    ];
    for (name, value) in expected {
        let all: Vec<&HeaderValue> = headers.get_all(name).iter().collect();
        assert_eq!(all, [value], "{name}");
    }
    for name in headers.keys().map(HeaderName::as_str) {
        let is_ours = expected.iter().any(|(ours, _)| *ours == name);
        assert!(is_ours || !name.starts_with("x-forwarded-"), "{name}");
        assert!(!name.contains('_') && !ENDS_HERE.contains(&name), "{name}");
        let is_named = named.iter().any(|named| named == name);
        assert!(
            !is_named || is_ours || matches!(name, "host" | "te"),
            "{name} was named in Connection"
        );
    }
    let once = headers.clone();
    forward::request(&mut headers, &client, &authority, new_id);
    assert_eq!(headers, once, "passing twice");

    forward::request_trailers(&mut trailers);
    for name in trailers.keys().map(HeaderName::as_str) {
        let speaks_for_us = expected.iter().any(|(ours, _)| *ours == name);
        assert!(!speaks_for_us && !name.starts_with("x-forwarded-"), "trailer {name}");
        assert!(!name.contains('_') && !ENDS_HERE.contains(&name), "trailer {name}");
        assert!(!["host", "authorization", "cookie", "te"].contains(&name), "trailer {name}");
    }
}

/// What no message carries further.
const ENDS_HERE: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "transfer-encoding",
    "content-length",
    "upgrade",
    "expect",
    "http2-settings",
];

fn fields(text: &str) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in text.lines().filter_map(|line| line.split_once(':')).take(200) {
        let name = HeaderName::from_bytes(name.trim().as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.trim().as_bytes())) {
            map.append(name, value);
        }
    }
    map
}
