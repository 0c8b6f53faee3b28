use proptest::prelude::*;

use super::*;

/// What an answer says: its status, the data of its body, its trailers, what came after it.
type Said = (u16, Vec<u8>, Vec<(String, String)>, Vec<u8>);

const PLAIN: Asked = Asked { for_head: false, to_switch: false };

/// Reads an answer that comes in `pieces`, after which the connection ends.
fn read(asked: Asked, pieces: &[&[u8]]) -> Result<Said, Malformed> {
    let mut reader = Reader::default();
    reader.begin(asked);
    let mut pieces = pieces.iter();
    let mut more = |reader: &mut Reader| match pieces.next() {
        Some(piece) => {
            reader.take(Bytes::copy_from_slice(piece));
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
    let (mut data, mut trailers) = (Vec::new(), Vec::new());
    loop {
        match reader.frame()? {
            Some(frame) => match frame.into_data() {
                Ok(piece) => {
                    data.extend_from_slice(&piece);
                    reader.look_ahead();
                }
                Err(frame) => {
                    for (name, value) in &frame.into_trailers().unwrap() {
                        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                        trailers.push((name.to_string(), value));
                    }
                }
            },
            None if reader.is_over() => break,
            None => more(&mut reader)?,
        }
    }
    let rest = pieces.fold(reader.into_rest().to_vec(), |rest, piece| [&rest, *piece].concat());
    Ok((head.status().as_u16(), data, trailers, rest))
}

fn said(status: u16, data: &str) -> Result<Said, Malformed> {
    Ok((status, data.into(), Vec::new(), Vec::new()))
}

const TO_HEAD: Asked = Asked { for_head: true, to_switch: false };
const TO_SWITCH: Asked = Asked { for_head: false, to_switch: true };

/// Answers, and how they are read (RFC 9112 §6.3).
fn answers() -> Vec<(Asked, &'static str, Result<Said, Malformed>)> {
    let with = |status, data: &str, trailers: &[(&str, &str)], rest: &str| {
        let trailers = trailers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        Ok((status, data.into(), trailers.collect(), rest.into()))
    };
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let of_chunks = |body: &str| -> &'static str { format!("{chunked}{body}").leak() };
    vec![
        (PLAIN, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", said(200, "hello")),
        (PLAIN, "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", said(200, "")),
        (PLAIN, "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", said(200, "ok")),
        (
            PLAIN,
            "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\nContent-Length: 2\r\n\r\nok",
            said(200, "ok"),
        ),
        (PLAIN, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP", with(200, "ok", &[], "HTTP")),
        // Until the connection ends.
        (PLAIN, "HTTP/1.1 200 OK\r\n\r\nall of it", said(200, "all of it")),
        (PLAIN, "HTTP/1.0 200 OK\r\n\r\n", said(200, "")),
        // Without a body.
        (TO_HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", said(200, "")),
        (TO_HEAD, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", said(200, "")),
        (PLAIN, "HTTP/1.1 204 No Content\r\n\r\n", said(204, "")),
        (PLAIN, "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", said(304, "")),
        // Announced.
        (
            PLAIN,
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 x\r\n\r\n",
            said(204, ""),
        ),
        (
            TO_SWITCH,
            "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\nframes",
            with(101, "", &[], "frames"),
        ),
        (PLAIN, "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", Err(Malformed::Unasked)),
        // In chunks.
        (PLAIN, of_chunks("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"), said(200, "hello world")),
        (PLAIN, of_chunks("0\r\n\r\n"), said(200, "")),
        (
            PLAIN,
            of_chunks("00A ;n=v;q=\"w\"\r\n0123456789\r\n0;x\r\n\r\nrest"),
            with(200, "0123456789", &[], "rest"),
        ),
        (
            PLAIN,
            of_chunks("1\r\nx\r\n0\r\nSum: 7\r\nEnd: yes\r\n\r\n"),
            with(200, "x", &[("sum", "7"), ("end", "yes")], ""),
        ),
        (PLAIN, of_chunks("\r\nx\r\n0\r\n\r\n"), Err(Malformed::ChunkSize)),
        (PLAIN, of_chunks("+1\r\nx\r\n0\r\n\r\n"), Err(Malformed::ChunkSize)),
        (PLAIN, of_chunks("0x1\r\nx\r\n0\r\n\r\n"), Err(Malformed::ChunkSize)),
        (PLAIN, of_chunks("1\nx\r\n0\r\n\r\n"), Err(Malformed::ChunkSize)),
        (PLAIN, of_chunks("1;a\rb\r\nx\r\n0\r\n\r\n"), Err(Malformed::ChunkSize)),
        (PLAIN, of_chunks("10000000000000000\r\nx"), Err(Malformed::ChunkSize)),
        (PLAIN, of_chunks("1\r\nxy\r\n0\r\n\r\n"), Err(Malformed::ChunkEnd)),
        (PLAIN, of_chunks("1\r\nx\n0\r\n\r\n"), Err(Malformed::ChunkEnd)),
        (PLAIN, of_chunks("0\r\nno trailer\r\n\r\n"), Err(Malformed::Trailers)),
        // In doubt.
        (
            PLAIN,
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            Err(Malformed::Both),
        ),
        (
            PLAIN,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            Err(Malformed::TransferEncoding),
        ),
        (
            PLAIN,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            Err(Malformed::TransferEncoding),
        ),
        (
            PLAIN,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
            Err(Malformed::TransferEncoding),
        ),
        (
            PLAIN,
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            Err(Malformed::TransferEncoding),
        ),
        (PLAIN, "HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n", Err(Malformed::ContentLength)),
        (
            PLAIN,
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            Err(Malformed::ContentLength),
        ),
        (PLAIN, "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n", Err(Malformed::ContentLength)),
        (PLAIN, "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", Err(Malformed::ContentLength)),
        (
            PLAIN,
            "HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999\r\n\r\n",
            Err(Malformed::ContentLength),
        ),
        (PLAIN, "HTTP/2 200 OK\r\n\r\n", Err(Malformed::Head(httparse::Error::Version))),
        (
            PLAIN,
            "HTTP/1.1 200 OK\r\nName : x\r\n\r\n",
            Err(Malformed::Head(httparse::Error::HeaderName)),
        ),
        (
            PLAIN,
            "HTTP/1.1 200 OK\r\nA: x\r\n folded\r\n\r\n",
            Err(Malformed::Head(httparse::Error::HeaderName)),
        ),
        (
            PLAIN,
            "HTTP/1.1 200 OK\r\nA: x\0\r\n\r\n",
            Err(Malformed::Head(httparse::Error::HeaderValue)),
        ),
        (PLAIN, "HTTP/1.1 0200 OK\r\n\r\n", Err(Malformed::Head(httparse::Error::Status))),
        (PLAIN, "HTTP/1.1 099 Low\r\n\r\n", Err(Malformed::Status)),
        // Cut off.
        (PLAIN, "HTTP/1.1 200 OK\r\nContent-Le", Err(Malformed::Short)),
        (PLAIN, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", Err(Malformed::Short)),
        (PLAIN, of_chunks("5\r\nhello\r\n"), Err(Malformed::Short)),
        (PLAIN, of_chunks("5\r\nhello\r\n0\r\n"), Err(Malformed::Short)),
    ]
}

#[test]
fn answers_are_read_one_way_however_they_come() {
    for (asked, answer, expected) in answers() {
        let bytes = answer.as_bytes();
        assert_eq!(read(asked, &[bytes]), expected, "{answer:?}");
        for at in 0..bytes.len() {
            let (first, second) = bytes.split_at(at);
            assert_eq!(read(asked, &[first, second]), expected, "{answer:?} cut at {at}");
        }
        let bytewise: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(asked, &bytewise), expected, "{answer:?} byte by byte");
    }
}

#[test]
fn what_never_ends_is_given_up() {
    let head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(MAX_HEAD));
    assert_eq!(read(PLAIN, &[head.as_bytes()]), Err(Malformed::TooLarge));
    let fits = format!("HTTP/1.1 204 OK\r\nX: {}\r\n\r\n", "x".repeat(MAX_HEAD - 30));
    assert_eq!(read(PLAIN, &[fits.as_bytes()]), said(204, ""));
    let many = format!("HTTP/1.1 204 OK\r\n{}\r\n", "X: y\r\n".repeat(MAX_HEADERS + 1));
    let too_many = Err(Malformed::Head(httparse::Error::TooManyHeaders));
    assert_eq!(read(PLAIN, &[many.as_bytes()]), too_many);
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let extension = format!("1;{}", "x".repeat(MAX_SIZE_LINE));
    assert_eq!(read(PLAIN, &[chunked, extension.as_bytes()]), Err(Malformed::ChunkSize));
    let trailer = format!("0\r\nX: {}", "x".repeat(MAX_TRAILERS));
    assert_eq!(read(PLAIN, &[chunked, trailer.as_bytes()]), Err(Malformed::Trailers));
}

#[test]
fn a_length_that_is_said_twice_is_passed_on_once() {
    for said in ["2", "2, 2", "2\r\nContent-Length: 2"] {
        let mut reader = Reader::default();
        reader.begin(PLAIN);
        reader.take(format!("HTTP/1.1 200 OK\r\nContent-Length: {said}\r\n\r\n").into());
        let head = reader.head().unwrap().unwrap();
        let lengths: Vec<_> = head.headers().get_all(header::CONTENT_LENGTH).iter().collect();
        assert_eq!(lengths, ["2"], "{said:?}");
    }
}

#[test]
fn an_answer_is_over_with_its_last_byte() {
    for body in
        ["Content-Length: 2\r\n\r\nok", "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"]
    {
        let mut reader = Reader::default();
        reader.begin(PLAIN);
        reader.take(format!("HTTP/1.1 200 OK\r\n{body}").into());
        assert!(reader.head().unwrap().is_some());
        assert!(!reader.is_over());
        assert_eq!(reader.frame().unwrap().unwrap().into_data().unwrap(), "ok");
        reader.look_ahead();
        assert!(reader.is_at_rest(), "{body:?}");
        reader.take("x".into());
        assert!(!reader.is_at_rest(), "somebody speaks who was not asked");
    }
}

proptest! {
    /// What a body is cut into, by the pod or on its way, is not seen in what is read.
    #[test]
    fn a_chunked_body_is_what_its_chunks_hold(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..8),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in &chunks {
            bytes.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
        prop_assert_eq!(read(PLAIN, &pieces), Ok((200, chunks.concat(), Vec::new(), Vec::new())));
    }

    /// No bytes are read beyond what they are, nor make it stop.
    #[test]
    fn anything_is_an_answer_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..400), for_head: bool) {
        let start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice();
        let asked = Asked { for_head, to_switch: false };
        let _ = read(asked, &[&bytes]);
        let _ = read(asked, &[start, &bytes]);
    }
}
