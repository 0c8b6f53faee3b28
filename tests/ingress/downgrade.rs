//! HTTP/2 requests that would be two once they are written as HTTP/1.1 (security D8): lengths that differ, codings, line ends in
//! places that HTTP/2 delimits otherwise.
//!
//! Each case is followed by an innocent request on the same connection. A case is refused or is one request at a pod; never
//! two, and never part of the next.

use super::frames::*;
use super::scene::*;

struct Case {
    name: String,
    /// In order, pseudo-headers too.
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    trailers: Vec<(Vec<u8>, Vec<u8>)>,
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
const PLAIN: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":path", "/case"), (":authority", "a")];

fn owned(fields: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields
        .iter()
        .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .collect()
}

fn corpus() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: String, headers: Vec<(Vec<u8>, Vec<u8>)>, body: &str| {
        let (body, trailers) = (body.as_bytes().to_vec(), Vec::new());
        cases.push(Case { name, headers, body, trailers });
    };
    let with = |more: &[(&str, &str)]| [owned(&PLAIN), owned(more)].concat();
    let chunks = format!("0\r\n\r\n{SMUGGLED}");
    for length in
        ["0", "1", "5", "99", "+37", " 37", "37 ", "37, 37", "37,0", "0x25", "037", "-1", "", "3７"]
    {
        add(format!("length {length:?}"), with(&[("content-length", length)]), SMUGGLED);
        let twice = [("content-length", "37"), ("content-length", length)];
        add(format!("length 37 and {length:?}"), with(&twice), SMUGGLED);
    }
    for coding in ["chunked", "identity", "gzip, chunked", " chunked", "xchunked", ""] {
        add(format!("coding {coding:?}"), with(&[("transfer-encoding", coding)]), &chunks);
        let both = [("content-length", "5"), ("transfer-encoding", coding)];
        add(format!("length and coding {coding:?}"), with(&both), &chunks);
    }
    for end in ["\r\n", "\n", "\r", "\0", "\r\n ", "\u{85}", "\u{b}"] {
        let smuggling = format!("y{end}Transfer-Encoding: chunked{end}{end}{SMUGGLED}");
        add(format!("value with {end:?}"), with(&[("x", &smuggling)]), &chunks);
        add(format!("cookie with {end:?}"), with(&[("cookie", &smuggling)]), &chunks);
        let name = format!("x: y{end}transfer-encoding");
        add(format!("name with {end:?}"), with(&[(&name, "chunked")]), &chunks);
        for (at, pseudo) in PLAIN.iter().enumerate() {
            let mut headers = owned(&PLAIN);
            let value = format!("{}{end}Host: b{end}{end}{SMUGGLED}", pseudo.1);
            headers[at].1 = value.into_bytes();
            add(format!("{} with {end:?}", pseudo.0), headers, "");
        }
    }
    for name in [
        "Transfer-Encoding",
        "transfer-encoding ",
        " transfer-encoding",
        "transfer-encoding:",
        "",
        "x y",
        "x:y",
        "é",
        "(x)",
    ] {
        add(format!("name {name:?}"), with(&[(name, "chunked")]), &chunks);
    }
    for (at, value) in [
        (0, "GET /smuggled HTTP/1.1\r\nX: y"),
        (0, "GET "),
        (0, "CONNECT"),
        (0, ""),
        (0, "TRACE"),
        (1, "http://b/"),
        (1, ""),
        (1, "ftp"),
        (2, "/case HTTP/1.1"),
        (2, "/case HTTP/1.1\r\nX: y"),
        (2, "case"),
        (2, ""),
        (2, "*"),
        (2, "http://b/case"),
        (2, "/case#x"),
        (2, "/../case"),
        (2, "/case%00"),
        (2, "/case\\x"),
        (3, "b@a"),
        (3, "a b"),
        (3, "a, b"),
        (3, ""),
        (3, "a/b"),
        (3, "a:80:80"),
    ] {
        let mut headers = owned(&PLAIN);
        headers[at].1 = value.as_bytes().to_vec();
        add(format!("{} {value:?}", PLAIN[at].0), headers, "");
    }
    for (name, value) in [
        ("host", "b"),
        ("host", "a, b"),
        ("host", ""),
        ("connection", "close"),
        ("connection", "x-secret"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "websocket"),
        ("te", "chunked"),
        ("te", "trailers, chunked"),
        (":path", "/other"),
        (":authority", "b"),
        (":status", "200"),
        (":protocol", "websocket"),
        (":foo", "bar"),
        ("expect", "100-continue"),
        ("http2-settings", "AAMAAABk"),
    ] {
        add(format!("{name}: {value}"), with(&[(name, value)]), "");
    }
    let late = [owned(&[("x", "y")]), owned(&PLAIN)].concat();
    add("pseudo-headers late".to_owned(), late, "");
    for left_out in 0..PLAIN.len() {
        let mut headers = owned(&PLAIN);
        let (name, _) = headers.remove(left_out);
        add(format!("without {}", String::from_utf8_lossy(&name)), headers, "");
    }
    for (name, value) in [
        ("content-length", "0"),
        ("transfer-encoding", "chunked"),
        (":path", "/smuggled"),
        (":status", "200"),
        ("x", "y\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("x: y\r\nz", "1"),
        ("host", "b"),
        ("connection", "close"),
    ] {
        cases.push(Case {
            name: format!("trailer {name:?}: {value:?}"),
            headers: [owned(&PLAIN), owned(&[("trailer", "x, host, content-length")])].concat(),
            body: b"hello".to_vec(),
            trailers: owned(&[(name, value)]),
        });
    }
    cases
}

/// RFC 7541 §5.1 with seven bits, without Huffman coding.
fn string(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match bytes.len() {
        short @ 0..127 => out.push(short as u8),
        long => {
            out.push(127);
            let mut rest = long - 127;
            while rest >= 128 {
                out.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            out.push(rest as u8);
        }
    }
    out.extend_from_slice(bytes);
    out
}

/// Literals that are not indexed (RFC 7541 §6.2.2).
fn block(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let literal =
        |(name, value): &(Vec<u8>, Vec<u8>)| [vec![0], string(name), string(value)].concat();
    fields.iter().flat_map(literal).collect()
}

fn bytes_of(case: &Case) -> Vec<u8> {
    let end = |is_last: bool| if is_last { END_STREAM } else { 0 };
    let (body, trailers) = (&case.body, &case.trailers);
    let is_alone = body.is_empty() && trailers.is_empty();
    let mut bytes = frame(HEADERS, END_HEADERS | end(is_alone), 1, &block(&case.headers));
    if !body.is_empty() {
        bytes.extend(frame(DATA, end(trailers.is_empty()), 1, body));
    }
    if !trailers.is_empty() {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(trailers)));
    }
    bytes
}

#[tokio::test]
async fn no_request_is_smuggled_out_of_http2() {
    let cases = corpus();
    assert!(cases.len() >= 150, "{} cases", cases.len());
    let (mut one, mut none) = (0, 0);
    for case in &cases {
        let pods = [Pod::start("a").await, Pod::start("b").await];
        let scene = Scene::start(&[pods[0].address, pods[1].address]).await;
        let mut client = RawHttp2::connect(scene.http, &[]).await;
        client.send(&bytes_of(case)).await;
        let mut innocent = owned(&PLAIN);
        (innocent[0].1, innocent[2].1) = (b"GET".to_vec(), b"/innocent".to_vec());
        client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &block(&innocent))).await;
        // Both are over when both have been answered or reset, or when the connection is.
        let mut over = [false; 2];
        while over != [true; 2] {
            let Some(heard) = client.hear().await else { break };
            let which = usize::from(heard.stream == 3);
            let ends = matches!(heard.kind, DATA | HEADERS) && heard.flags & END_STREAM != 0;
            if [1, 3].contains(&heard.stream) && (ends || heard.kind == RST_STREAM) {
                over[which] = true;
            }
        }
        let seen: Vec<Seen> = pods.iter().flat_map(Pod::requests).collect();
        let told = || format!("{}: pods saw {seen:#?}", case.name);
        let whole = seen.iter().filter(|seen| !seen.head.starts_with("BROKEN"));
        let lines: Vec<&str> = whole.clone().filter_map(|seen| seen.head.lines().next()).collect();
        let innocents = lines.iter().filter(|line| **line == "GET /innocent HTTP/1.1").count();
        assert!(innocents <= 1 && lines.len() - innocents <= 1, "{}", told());
        assert!(!lines.iter().any(|line| line.contains("smuggled")), "{}", told());
        for seen in whole {
            let lengths =
                seen.header("content-length").len() + seen.header("transfer-encoding").len();
            assert!(lengths <= 1, "{}", told());
            let host = seen.header("host");
            assert!(host.len() == 1 && !host[0].contains(['b', ',', ' ', '@']), "{}", told());
            assert!(seen.header("upgrade").is_empty(), "{}", told());
            assert!(!seen.body.contains("innocent"), "{}", told());
        }
        match lines.len() - innocents {
            0 => none += 1,
            _ => one += 1,
        }
    }
    eprintln!("{} cases: {one} one request, {none} none", cases.len());
    assert!(none > cases.len() * 2 / 3, "{none} of {} were refused", cases.len());
    assert!(one > 0, "nothing comes through at all");
}
