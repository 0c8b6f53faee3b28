//! Heads and bodies that two parsers have read differently somewhere, and those that everybody reads alike.

use proptest::prelude::*;

use super::*;

fn framing(head: &str) -> Result<Option<Framing>, Refusal> {
    examine(head.as_bytes()).map(|head| head.map(|head| head.framing))
}

#[test]
fn plain_heads_pass() {
    for (head, expected) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::None),
        ("GET / HTTP/1.0\r\n\r\n", Framing::None),
        ("GET /a?b=c&d=%20 HTTP/1.1\r\nhost:a:80\r\n\r\n", Framing::None),
        ("GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n", Framing::None),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Framing::None),
        ("POST / HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 5\r\n\r\n", Framing::Length(5)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", Framing::None),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n", Framing::Chunked),
        ("GET / HTTP/1.1\r\nHost: a\r\nX:\r\nY: \t \r\nZ: \u{e9}\r\n\r\n", Framing::None),
    ] {
        assert_eq!(framing(head), Ok(Some(expected)), "{head:?}");
        for cut in 0..head.len() {
            if head.is_char_boundary(cut) {
                assert_eq!(framing(&head[..cut]), Ok(None), "{:?}", &head[..cut]);
            }
        }
    }
}

#[test]
fn only_a_bodiless_get_that_says_so_twice_is_an_upgrade() {
    let upgrade = |lines: &str| {
        let head = format!("{lines}\r\n\r\n");
        examine(head.as_bytes()).unwrap().unwrap().is_upgrade
    };
    let ws = "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket";
    assert!(upgrade(ws));
    assert!(!upgrade("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket"));
    assert!(!upgrade("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade"));
    assert!(!upgrade(&ws.replace("GET", "POST")));
    assert!(!upgrade(&ws.replace("websocket", "h2c")));
    assert!(!upgrade(&ws.replace("HTTP/1.1", "HTTP/1.0")));
    assert!(!upgrade(&format!("{ws}\r\nContent-Length: 3")));
}

#[test]
fn doubtful_heads_are_refused() {
    const LINE: &str = "POST / HTTP/1.1\r\nHost: a\r\n";
    let cases: &[(&str, Refusal)] = &[
        ("\r\nGET / HTTP/1.1\r\n", Refusal::RequestLine),
        ("GET / HTTP/1.1\nHost: a\n\n", Refusal::LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", Refusal::LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", Refusal::LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\0\r\n\r\n", Refusal::LineEnd),
        ("GET /\r\n", Refusal::RequestLine),
        ("GET  / HTTP/1.1\r\n", Refusal::RequestLine),
        ("GET / HTTP/1.1 \r\n", Refusal::RequestLine),
        (" GET / HTTP/1.1\r\n", Refusal::RequestLine),
        ("GET\t/\tHTTP/1.1\r\n", Refusal::RequestLine),
        ("GE(T / HTTP/1.1\r\n", Refusal::RequestLine),
        ("GET / http/1.1\r\n", Refusal::RequestLine),
        ("GET / HTTP/2.0\r\n", Refusal::Version),
        ("GET / HTTP/1.2\r\n", Refusal::Version),
        ("GET / HTTP/0.9\r\n", Refusal::Version),
        ("GET /a#b HTTP/1.1\r\n", Refusal::Target),
        ("GET /\u{e9} HTTP/1.1\r\n", Refusal::Target),
        ("GET /a\\b HTTP/1.1\r\n", Refusal::Target),
        ("GET / HTTP/1.1\r\n\r\n", Refusal::Host),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Refusal::Host),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Refusal::Host),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Refusal::Host),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Refusal::Host),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Refusal::Host),
        ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", Refusal::Host),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Refusal::HeaderName),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Refusal::Folded),
        ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", Refusal::Folded),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", Refusal::HeaderName),
        ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", Refusal::HeaderName),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\u{1}b\r\n\r\n", Refusal::HeaderValue),
    ];
    for (head, refusal) in cases {
        assert_eq!(framing(head), Err(*refusal), "{head:?}");
    }
    let bodies: &[(&str, Refusal)] = &[
        ("Content-Length: +5", Refusal::ContentLength),
        ("Content-Length: -5", Refusal::ContentLength),
        ("Content-Length: 0x5", Refusal::ContentLength),
        ("Content-Length: 5,5", Refusal::ContentLength),
        ("Content-Length: 5 5", Refusal::ContentLength),
        ("Content-Length:", Refusal::ContentLength),
        ("Content-Length: 9999999999999999999", Refusal::ContentLength),
        ("Content-Length: 5\r\nContent-Length: 5", Refusal::ContentLength),
        ("Content-Length: 5\r\ncontent-length: 6", Refusal::ContentLength),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", Refusal::Both),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0", Refusal::Both),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Refusal::TransferEncoding),
        ("Transfer-Encoding: identity", Refusal::TransferEncoding),
        ("Transfer-Encoding: gzip, chunked", Refusal::TransferEncoding),
        ("Transfer-Encoding: chunked, identity", Refusal::TransferEncoding),
        ("Transfer-Encoding: xchunked", Refusal::TransferEncoding),
        ("Transfer-Encoding: chunked;q=1", Refusal::TransferEncoding),
        ("Transfer-Encoding: \"chunked\"", Refusal::TransferEncoding),
        ("Transfer-Encoding: \u{b}chunked", Refusal::HeaderValue),
        ("Transfer-Encoding : chunked", Refusal::HeaderName),
        ("Transfer-Encoding:\r\n chunked", Refusal::TransferEncoding),
        ("Connection: close, Content-Length", Refusal::Connection),
        ("Connection: transfer-encoding", Refusal::Connection),
    ];
    for (lines, refusal) in bodies {
        assert_eq!(framing(&format!("{LINE}{lines}\r\n\r\n")), Err(*refusal), "{lines:?}");
    }
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(framing(old), Err(Refusal::TransferEncoding));
}

#[test]
fn heads_have_a_limit() {
    let many = "X: y\r\n".repeat(MAX_HEADERS);
    assert_eq!(framing(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")), Err(Refusal::TooMany));
    let long = "x".repeat(MAX_HEAD);
    assert_eq!(framing(&format!("GET / HTTP/1.1\r\nX: {long}")), Err(Refusal::TooLarge));
    assert_eq!(framing(&format!("GET /{long}")), Err(Refusal::TooLarge));
}

fn follow(body: &str) -> Result<Option<usize>, Refusal> {
    let mut chunked = Chunked::default();
    let taken = chunked.follow(body.as_bytes())?;
    Ok(chunked.is_done().then_some(taken))
}

#[test]
fn chunks_end_where_everybody_says_they_end() {
    for (body, rest) in [
        ("0\r\n\r\n", 0),
        ("5\r\nhello\r\n0\r\n\r\nGET", 3),
        ("00A\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n", 0),
    ] {
        assert_eq!(follow(body), Ok(Some(body.len() - rest)), "{body:?}");
    }
    for (body, refusal) in [
        ("5;a=b\r\nhello\r\n0\r\n\r\n", Refusal::ChunkSize),
        ("5 \r\nhello", Refusal::ChunkSize),
        (" 5\r\nhello", Refusal::ChunkSize),
        ("+5\r\nhello", Refusal::ChunkSize),
        ("0x5\r\nhello", Refusal::ChunkSize),
        ("5\nhello\n", Refusal::ChunkSize),
        ("5\rhello", Refusal::ChunkSize),
        ("\r\nhello", Refusal::ChunkSize),
        ("000000005\r\nhello", Refusal::ChunkSize),
        ("fffffffffffffffff\r\n", Refusal::ChunkSize),
        ("5\r\nhelloX\r\n", Refusal::ChunkEnd),
        ("5\r\nhello\n0\r\n\r\n", Refusal::ChunkEnd),
        ("5\r\nhello0\r\n\r\n", Refusal::ChunkEnd),
        ("0\r\nContent-Length: 5\r\n\r\n", Refusal::Trailer),
        ("0\r\nTransfer-Encoding: chunked\r\n\r\n", Refusal::Trailer),
        ("0\r\nX : y\r\n\r\n", Refusal::Trailer),
        ("0\r\nX: y\n\n", Refusal::Trailer),
        ("0\r\nGET / HTTP/1.1\r\n", Refusal::Trailer),
    ] {
        assert_eq!(follow(body), Err(refusal), "{body:?}");
    }
}

proptest! {
    #[test]
    fn where_a_body_is_cut_changes_nothing(
        body in proptest::collection::vec(prop_oneof![
            Just("5\r\nhello\r\n"), Just("0\r\n\r\n"), Just("1\r\nx\r\n"), Just("\r\n"), Just("a"), Just("0\r\n"), Just("X: y\r\n")], 0..8),
        cut in 0usize..64,
    ) {
        let body = body.concat();
        let cut = cut.min(body.len());
        let mut halves = Chunked::default();
        let first = halves.follow(&body.as_bytes()[..cut]);
        let both = first.and_then(|taken| match taken < cut {
            true => Ok(taken),
            false => halves.follow(&body.as_bytes()[cut..]).map(|more| taken + more),
        });
        let mut whole = Chunked::default();
        let all = whole.follow(body.as_bytes());
        prop_assert_eq!(&both, &all);
        if all.is_ok() {
            prop_assert_eq!(halves, whole);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(Some(head)) = examine(&bytes) {
            prop_assert!(head.length <= bytes.len());
        }
        let mut chunked = Chunked::default();
        if let Ok(taken) = chunked.follow(&bytes) {
            prop_assert!(taken <= bytes.len());
        }
    }
}
