//! Strict reading of HTTP/1 messages on the way in: what two parsers could read differently is refused.
//!
//! It says where a head and its body end and whether they are beyond doubt (RFC 9112 §2.2, §6.3, §7.1; security D8);
//! it never changes a byte. What passes is parsed again by hyper and serialized anew, so nothing here needs to
//! keep what it read.

mod chunked;

pub use self::chunked::Chunked;

/// Bytes of a head; nginx takes 4 × 8 KiB.
pub const MAX_HEAD: usize = 64 << 10;
pub const MAX_HEADERS: usize = 100;

/// How a request's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
}

/// A whole head that is beyond doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Bytes, with the empty line.
    pub length: usize,
    pub framing: Framing,
    /// It asks for another protocol on this connection, and may: nothing follows it until the answer.
    pub is_upgrade: bool,
}

/// Why a message is refused. The text is for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("a line does not end with CR LF")]
    LineEnd,
    #[error("the request line is not METHOD TARGET HTTP/1.1")]
    RequestLine,
    #[error("the protocol version is not HTTP/1.0 or HTTP/1.1")]
    Version,
    #[error("the request target holds a character that URIs do not have")]
    Target,
    #[error("a header line is folded, or a space stands where a name must begin")]
    Folded,
    #[error("a header's name is not a token directly followed by a colon")]
    HeaderName,
    #[error("a header's value holds a control character")]
    HeaderValue,
    #[error("the head is larger than 64 KiB")]
    TooLarge,
    #[error("the head has more than 100 headers")]
    TooMany,
    #[error("an HTTP/1.1 request has exactly one Host header, which names a host")]
    Host,
    #[error("Content-Length is not one decimal number")]
    ContentLength,
    #[error("Transfer-Encoding is not exactly chunked, once, in HTTP/1.1")]
    TransferEncoding,
    #[error("Content-Length and Transfer-Encoding exclude each other")]
    Both,
    #[error("Connection names a header that delimits or routes the message")]
    Connection,
    #[error("a chunk's size is not hexadecimal digits and CR LF")]
    ChunkSize,
    #[error("a chunk is not followed by CR LF")]
    ChunkEnd,
    #[error("a trailer is malformed, too long, or may not be one")]
    Trailer,
}

impl Refusal {
    /// RFC 9110 §15, RFC 6585 §5.
    pub fn status(self) -> u16 {
        match self {
            Refusal::TooLarge | Refusal::TooMany => 431,
            Refusal::Version => 505,
            Refusal::LineEnd
            | Refusal::RequestLine
            | Refusal::Target
            | Refusal::Folded
            | Refusal::HeaderName
            | Refusal::HeaderValue
            | Refusal::Host
            | Refusal::ContentLength
            | Refusal::TransferEncoding
            | Refusal::Both
            | Refusal::Connection
            | Refusal::ChunkSize
            | Refusal::ChunkEnd
            | Refusal::Trailer => 400,
        }
    }
}

/// Looks at what has been received so far; `None`: the head is not whole yet.
pub fn examine(received: &[u8]) -> Result<Option<Head>, Refusal> {
    let within = &received[..received.len().min(MAX_HEAD)];
    let mut facts = Facts::default();
    let mut at = 0;
    let mut lines = 0;
    loop {
        let Some(line) = next_line(&within[at..])? else {
            return match received.len() >= MAX_HEAD {
                true => Err(Refusal::TooLarge),
                false => Ok(None),
            };
        };
        at += line.len() + 2;
        match (lines, line) {
            (0, line) => facts.request_line(line)?,
            (_, []) => return facts.finish(at).map(Some),
            (lines, line) => {
                if lines > MAX_HEADERS {
                    return Err(Refusal::TooMany);
                }
                facts.header(line)?;
            }
        }
        lines += 1;
    }
}

/// The next line without its CR LF; `None`: it is not whole yet.
fn next_line(bytes: &[u8]) -> Result<Option<&[u8]>, Refusal> {
    let end = bytes.iter().position(|b| matches!(b, b'\n' | b'\r' | 0));
    match end.map(|end| (end, &bytes[end..])) {
        None => Ok(None),
        Some((end, [b'\r', b'\n', ..])) => Ok(Some(&bytes[..end])),
        Some((_, [b'\r'])) => Ok(None),
        Some(_) => Err(Refusal::LineEnd),
    }
}

#[derive(Default)]
struct Facts {
    is_1_0: bool,
    is_get: bool,
    hosts: usize,
    length: Option<u64>,
    is_chunked: bool,
    connection_upgrade: bool,
    upgrade: bool,
    upgrade_to_h2c: bool,
}

impl Facts {
    fn request_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let mut parts = line.split(|b| *b == b' ');
        let (method, target, version) = match (parts.next(), parts.next(), parts.next()) {
            (Some(method), Some(target), Some(version)) => (method, target, version),
            _ => return Err(Refusal::RequestLine),
        };
        if parts.next().is_some() || !is_token(method) || target.is_empty() {
            return Err(Refusal::RequestLine);
        }
        if !target.iter().all(|b| (0x21..0x7f).contains(b) && !b"\"#<>\\^`{|}".contains(b)) {
            return Err(Refusal::Target);
        }
        self.is_get = method == b"GET";
        self.is_1_0 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            version if version.starts_with(b"HTTP/") => return Err(Refusal::Version),
            _ => return Err(Refusal::RequestLine),
        };
        Ok(())
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let (name, value) = name_and_value(line)?;
        if name.eq_ignore_ascii_case(b"host") {
            self.hosts += 1;
            // RFC 3986 §3.2: no user information, no lists, no spaces.
            let fits = |b: &u8| b.is_ascii_alphanumeric() || b"-._~:[]%".contains(b);
            if value.is_empty() || !value.iter().all(fits) {
                return Err(Refusal::Host);
            }
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let is_number = !value.is_empty()
                && value.len() <= 18
                && value.iter().all(u8::is_ascii_digit)
                && self.length.is_none();
            let digits = is_number.then(|| std::str::from_utf8(value).ok()).flatten();
            self.length = Some(digits.and_then(|d| d.parse().ok()).ok_or(Refusal::ContentLength)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.is_chunked || self.is_1_0 || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::TransferEncoding);
            }
            self.is_chunked = true;
        } else if name.eq_ignore_ascii_case(b"connection") {
            for option in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                const DELIMITING: [&[u8]; 3] = [b"content-length", b"transfer-encoding", b"host"];
                if DELIMITING.iter().any(|name| option.eq_ignore_ascii_case(name)) {
                    return Err(Refusal::Connection);
                }
                self.connection_upgrade |= option.eq_ignore_ascii_case(b"upgrade");
            }
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
            self.upgrade_to_h2c |=
                value.split(|b| *b == b',').any(|p| p.trim_ascii().eq_ignore_ascii_case(b"h2c"));
        }
        Ok(())
    }

    fn finish(self, length: usize) -> Result<Head, Refusal> {
        if self.hosts > 1 || (self.hosts == 0 && !self.is_1_0) {
            return Err(Refusal::Host);
        }
        let framing = match (self.length, self.is_chunked) {
            (Some(_), true) => return Err(Refusal::Both),
            (None, true) => Framing::Chunked,
            (None | Some(0), false) => Framing::None,
            (Some(length), false) => Framing::Length(length),
        };
        let is_upgrade = self.upgrade
            && self.connection_upgrade
            && self.is_get
            && !self.is_1_0
            && !self.upgrade_to_h2c
            && framing == Framing::None;
        Ok(Head { length, framing, is_upgrade })
    }
}

/// Splits a header or trailer line; spaces around the value are not part of it.
fn name_and_value(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Refusal::Folded);
    }
    let colon = line.iter().position(|b| *b == b':').ok_or(Refusal::HeaderName)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if !is_token(name) {
        return Err(Refusal::HeaderName);
    }
    if value.iter().any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f) {
        return Err(Refusal::HeaderValue);
    }
    // Not `trim_ascii` alone: it also takes form feeds, which were refused above.
    Ok((name, value.trim_ascii()))
}

/// RFC 9110 §5.6.2.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty()
        && text.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

#[cfg(test)]
mod tests;
