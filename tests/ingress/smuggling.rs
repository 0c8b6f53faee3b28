//! Requests that parsers have read differently, in front of two pods that count what they saw (security D8).
//!
//! Each case is followed by an innocent request on the same connection. A case is either refused, with 400 and the end
//! of the connection, or it is one request at a pod; never two, and never part of the next.

use super::scene::*;

/// Every case with its name: a head, or what stands in for one.
fn corpus() -> Vec<(String, String)> {
    let mut cases: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, bytes: String| cases.push((name.to_owned(), bytes));
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = |headers: &str, body: &str| {
        format!("POST /case HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n{body}")
    };
    let chunked = format!("0\r\n\r\n{smuggled}");

    // Two lengths.
    for length in [
        "+5",
        "-5",
        "5,5",
        "5, 6",
        "5 ",
        "5\t",
        " 5",
        "0x5",
        "05",
        "5.0",
        "5e0",
        "５",
        "",
        "\u{b}5",
        "5;",
        "5\u{0}",
        "99999999999999999999",
        "18446744073709551616",
        "1_0",
        "\"5\"",
    ] {
        add(
            &format!("content-length {length:?}"),
            post(&format!("Content-Length: {length}"), smuggled),
        );
        add(
            &format!("content-length 0 and {length:?}"),
            post(&format!("Content-Length: 0\r\nContent-Length: {length}"), smuggled),
        );
    }
    // Content-Length and Transfer-Encoding together, in both orders.
    for coding in [
        "chunked",
        "Chunked",
        "CHUNKED",
        " chunked",
        "chunked ",
        "\tchunked",
        "\u{b}chunked",
        "chunked\u{b}",
        "x",
        "identity",
        "identity, chunked",
        "chunked, identity",
        "chunked, chunked",
        "gzip, chunked",
        "chunked;foo=bar",
        "\"chunked\"",
        "'chunked'",
        "chunked\u{0}",
        "cHuNkEd",
        "xchunked",
        "chunkedx",
        "chunk",
        "chunked,",
        ",chunked",
        ", chunked",
        "\u{7f}chunked",
        "chünked",
        "[chunked]",
        "chunked\r\n ",
        "\r\n chunked",
        "chunked\r",
        "\rchunked",
        "chunked\n",
        "\nchunked",
    ] {
        let te = format!("Transfer-Encoding: {coding}");
        add(&format!("te {coding:?}"), post(&te, &chunked));
        add(
            &format!("cl+te {coding:?}"),
            post(&format!("Content-Length: {}\r\n{te}", chunked.len()), &chunked),
        );
        add(&format!("te+cl {coding:?}"), post(&format!("{te}\r\nContent-Length: 4"), &chunked));
        add(
            &format!("te twice {coding:?}"),
            post(&format!("Transfer-Encoding: chunked\r\n{te}"), &chunked),
        );
    }
    // Names that are nearly the name.
    for name in [
        "Transfer-Encoding ",
        " Transfer-Encoding",
        "\tTransfer-Encoding",
        "Transfer-Encoding\t",
        "Transfer_Encoding",
        "Transfer Encoding",
        "Transfer-Encoding\u{0}",
        "X\r\nTransfer-Encoding",
        "X\nTransfer-Encoding",
        "X\rTransfer-Encoding",
        "Transfer\u{2010}Encoding",
        "Transfer-Encoding\u{b}",
        "\u{b}Transfer-Encoding",
        "(Transfer-Encoding",
        "Content-Length ",
        " Content-Length",
        "Content_Length",
        "Content-Length\u{0}",
        "X\nContent-Length",
        "Content-Length\t",
        "Content Length",
    ] {
        add(&format!("name {name:?}"), post(&format!("{name}: chunked"), &chunked));
        add(
            &format!("name {name:?} after cl"),
            post(&format!("Content-Length: 0\r\n{name}: 37"), smuggled),
        );
    }
    // Ends of lines.
    for end in
        ["\n", "\r", "\n\r", "\r\r\n", "\r\n ", "\r\n\t", " \n", "\u{0}\r\n", "\u{85}", "\u{2028}"]
    {
        add(
            &format!("line end {end:?}"),
            format!("GET /case HTTP/1.1{end}Host: a{end}X: y{end}{end}{smuggled}"),
        );
        add(
            &format!("one line end {end:?}"),
            format!("GET /case HTTP/1.1\r\nHost: a{end}X: y\r\n\r\n"),
        );
        add(
            &format!("head end {end:?}"),
            format!("GET /case HTTP/1.1\r\nHost: a\r\nX: y{end}\r\n"),
        );
        add(
            &format!("header after {end:?}"),
            post(&format!("X: y{end}Transfer-Encoding: chunked"), &chunked),
        );
    }
    // Request lines.
    for line in [
        "GET /case",
        "GET  /case HTTP/1.1",
        "GET /case  HTTP/1.1",
        "GET /case HTTP/1.1 ",
        " GET /case HTTP/1.1",
        "GET\t/case\tHTTP/1.1",
        "GET /case HTTP/1.1 HTTP/1.0",
        "GET /case HTTP/1,1",
        "GET /case HTTP/1.1.1",
        "GET /case HTTP/11",
        "GET /case HTTP/ 1.1",
        "GET /case http/1.1",
        "GET /case HTTP/2.0",
        "GET /case HTTP/1.2",
        "GET /case HTTP/0.9",
        "GET /case\u{0} HTTP/1.1",
        "GET /case#x HTTP/1.1",
        "GET case HTTP/1.1",
        "GET \\case HTTP/1.1",
        "GET /case\u{b}x HTTP/1.1",
        "G\u{0}T /case HTTP/1.1",
        "GET: /case HTTP/1.1",
        "\r\nGET /case HTTP/1.1",
        "\nGET /case HTTP/1.1",
        "GET http://b/case HTTP/1.1",
        "GET //b/case HTTP/1.1",
        "CONNECT b:80 HTTP/1.1",
        "CONNECT /case HTTP/1.1",
        "TRACE /case HTTP/1.1",
        "PRI * HTTP/2.0",
        "GET /case%00 HTTP/1.1",
        "GET /../case HTTP/1.1",
        "GET /%2e%2e/case HTTP/1.1",
        "GET /case%0d%0aX:y HTTP/1.1",
    ] {
        add(&format!("line {line:?}"), format!("{line}\r\nHost: a\r\n\r\n"));
    }
    // Hosts.
    for hosts in [
        "",
        "Host: a\r\nHost: a",
        "Host: a\r\nHost: b",
        "Host: a, b",
        "Host: a b",
        "Host:",
        "Host: a/b",
        "Host: u@a",
        "Host: a\\b",
        "Host: a\u{0}",
        "Host : a",
        " Host: a",
        "Host: a\r\n b",
        "Host: a:80:80x",
        "host: a\r\nHOST: b",
        "Host: a\r\nConnection: host",
        "Host: a?b",
        "Host: a#b",
        "Host: \"a\"",
        "Host: <a>",
    ] {
        add(&format!("hosts {hosts:?}"), format!("GET /case HTTP/1.1\r\n{hosts}\r\n\r\n"));
    }
    // Chunked bodies.
    for body in [
        "5\nhello\n0\n\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5;x\r\nhello\r\n0\r\n\r\n",
        "5 ;x=y\r\nhello\r\n0\r\n\r\n",
        "5;x=\"\r\n\"\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\t\r\nhello\r\n0\r\n\r\n",
        "5\rhello\r0\r\r",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "100000005\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff5\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffb\r\nhello\r\n0\r\n\r\n",
        "5_0\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX : y\r\n\r\n",
        "5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n",
        "5\r\nhello\r\n0\r\nTransfer-Encoding: x\r\n\r\n",
        "5\r\nhello\r\n0\r\nHost: b\r\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n00\n\r\n",
        "5\r\nhello\r\n0;\r\n\r\n",
        "5\r\nhello\r\n0 \r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\u{0}\r\nhello\r\n0\r\n\r\n",
    ] {
        add(
            &format!("chunks {body:?}"),
            post("Transfer-Encoding: chunked", &format!("{body}{smuggled}")),
        );
    }
    // Upgrades, with a request in what would be the tunnel.
    for headers in [
        "Connection: Upgrade\r\nUpgrade: websocket",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        "Connection: upgrade\r\nUpgrade: TLS/1.0",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 37",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked",
        "Upgrade: websocket",
        "Connection: close, Upgrade\r\nUpgrade: foo",
    ] {
        add(
            &format!("upgrade {headers:?}"),
            format!("GET /case HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n{smuggled}"),
        );
    }
    // HTTP/1.0.
    for headers in ["Transfer-Encoding: chunked", "Content-Length: 5\r\nTransfer-Encoding: chunked"]
    {
        add(
            &format!("1.0 {headers:?}"),
            format!("POST /case HTTP/1.0\r\nHost: a\r\n{headers}\r\n\r\n{chunked}"),
        );
    }
    // What is named in Connection.
    for option in ["content-length", "Transfer-Encoding", "host", "close, content-length"] {
        add(
            &format!("connection {option:?}"),
            post(&format!("Content-Length: 5\r\nConnection: {option}"), "hello"),
        );
    }
    cases
}

#[tokio::test]
async fn no_request_is_smuggled_past_the_proxy() {
    let cases = corpus();
    assert!(cases.len() >= 300, "{} cases", cases.len());
    let mut refused = 0;
    for (name, bytes) in &cases {
        let pods = [Pod::start("a").await, Pod::start("b").await];
        let scene = Scene::start(&[pods[0].address, pods[1].address]).await;
        // The innocent request closes, so that the connection ends either way.
        let innocent = "GET /innocent HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let heard = scene.raw(format!("{bytes}{innocent}").as_bytes()).await;
        let heads = heard.split("HTTP/1.1 ").skip(1);
        let answers = heads.filter(|head| head.starts_with(|c: char| c.is_ascii_digit())).count();
        let bad = ["400", "405", "431", "505"];
        let is_refused = bad.iter().any(|code| heard.contains(&format!("HTTP/1.1 {code}")));
        let seen: Vec<Seen> = pods.iter().flat_map(Pod::requests).collect();
        let told = || format!("{name}: heard {heard:?}, pods saw {seen:#?}");

        assert!(
            seen.iter()
                .all(|seen| !seen.head.starts_with("BROKEN POST /case HTTP/1.1\r\n") || is_refused),
            "{}",
            told()
        );
        // A smuggled request that the bytes openly contain is a request like any other, and is answered.
        let whole = seen.iter().filter(|seen| !seen.head.starts_with("BROKEN")).count();
        let good_answers = answers - usize::from(is_refused);
        assert_eq!(whole, good_answers, "each request that a pod saw was answered: {}", told());
        for seen in &seen {
            let ambiguous =
                seen.header("content-length").len() + seen.header("transfer-encoding").len();
            assert!(ambiguous <= 1, "{}", told());
            assert_eq!(seen.header("host").len(), 1, "{}", told());
            assert!(!seen.header("host")[0].contains(['b', ',', ' ', '/']), "{}", told());
            assert!(!seen.body.contains("innocent"), "the next request became a body: {}", told());
            assert!(seen.header("upgrade").is_empty() || name.starts_with("upgrade"), "{}", told());
        }
        // Two lengths, or a length and a coding, are refused whatever they say.
        let twice = ["content-length 0 and", "cl+te", "te+cl", "te twice"];
        let must = twice.iter().any(|prefix| name.starts_with(prefix));
        assert!(is_refused || !must, "{}", told());
        refused += usize::from(is_refused);
    }
    eprintln!("{} cases, {refused} refused", cases.len());
    assert!(refused > cases.len() * 3 / 4, "{refused} of {} refused", cases.len());
}
