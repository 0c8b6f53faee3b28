use std::future::poll_fn;

use super::*;

const HOST: HeaderValue = HeaderValue::from_static("x");

fn serialized(method: &str, target: &str, framing: Option<&Framing>) -> String {
    let headers = [("host", "not this"), ("accept", "a"), ("Accept", "b")].map(|(name, value)| {
        (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static(value))
    });
    let mut fields = HeaderMap::new();
    for (name, value) in headers {
        fields.append(name, value);
    }
    let head = Head {
        method: &method.parse().unwrap(),
        target: &target.parse().unwrap(),
        host: HOST,
        headers: &fields,
        upgrade: None,
    };
    let mut bytes = Vec::new();
    write_head(&mut bytes, &head, framing);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_head_says_how_long_the_body_is() {
    let head = |line: &str, more: &str| {
        format!("{line} HTTP/1.1\r\nhost: x\r\naccept: a\r\naccept: b\r\n{more}\r\n")
    };
    assert_eq!(serialized("GET", "/a?b=c", None), head("GET /a?b=c", ""));
    assert_eq!(serialized("DELETE", "/", None), head("DELETE /", ""));
    let length = serialized("POST", "/", Some(&Framing::Length(7)));
    assert_eq!(length, head("POST /", "content-length: 7\r\n"));
    let chunked = serialized("GET", "/", Some(&Framing::Chunked));
    assert_eq!(chunked, head("GET /", "transfer-encoding: chunked\r\n"));
    for method in ["POST", "PUT", "PATCH"] {
        let nothing = head(&format!("{method} /"), "content-length: 0\r\n");
        assert_eq!(serialized(method, "/", None), nothing);
    }
}

#[test]
fn a_wish_to_switch_is_said() {
    let head = Head {
        method: &Method::GET,
        target: &PathAndQuery::from_static("/"),
        host: HOST,
        headers: &HeaderMap::new(),
        upgrade: Some(&HeaderValue::from_static("websocket")),
    };
    let mut bytes = Vec::new();
    write_head(&mut bytes, &head, None);
    let expected =
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    assert_eq!(bytes, expected);
}

#[test]
fn pieces_are_delimited_and_counted() {
    let mut bytes = Vec::new();
    let mut chunked = Framing::Chunked;
    for data in ["0123456789abcdef!", "", "x"] {
        piece(&mut bytes, &mut chunked, &data.into()).unwrap();
    }
    assert_eq!(bytes, b"11\r\n0123456789abcdef!\r\n1\r\nx\r\n");
    bytes.clear();
    let mut length = Framing::Length(3);
    piece(&mut bytes, &mut length, &"ab".into()).unwrap();
    assert!(matches!(length, Framing::Length(1)));
    let too_much = piece(&mut bytes, &mut length, &"cd".into());
    assert!(matches!(too_much, Err(Unsent::Length)));
    assert_eq!(bytes, b"ab");
}

/// Takes seven bytes at a time, and every second time none.
#[derive(Default)]
struct Slow {
    taken: Vec<u8>,
    is_full: bool,
}

impl AsyncWrite for Slow {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.is_full = !self.is_full;
        if self.is_full {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let taken = bytes.len().min(7);
        self.taken.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn what_a_slow_connection_takes_is_counted_and_nothing_is_sent_twice() {
    let (mut slow, mut written) = (Slow::default(), 0);
    let mut expected = String::new();
    let mut writer = Writer::default();
    for path in ["/first", "/second-and-longer"] {
        let head = Head {
            method: &Method::GET,
            target: &PathAndQuery::from_static(path),
            host: HOST,
            headers: &HeaderMap::new(),
            upgrade: None,
        };
        writer.begin(&head, RequestBody::empty());
        assert!(!writer.is_done());
        poll_fn(|cx| writer.poll(cx, &mut slow, &mut written)).await.unwrap();
        assert!(writer.is_done());
        expected += &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        assert_eq!(written, expected.len() as u64);
    }
    assert_eq!(String::from_utf8(slow.taken).unwrap(), expected);
}
