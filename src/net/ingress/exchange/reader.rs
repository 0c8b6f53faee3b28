//! An HTTP/1.1 answer as its bytes come (pure): where its head ends, how its body is delimited, when it is over.
//!
//! A pod is nobody's judge of where the next answer begins: whatever is not beyond doubt breaks the exchange, and its connection
//! carries no other one (RFC 9112 §6.3, §7.1; security D8).

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};
use http_body::{Frame, SizeHint};
use httparse::{EMPTY_HEADER, Status};

use crate::net::ingress::head::MAX_HEADERS;

/// Bytes of a head; twice what haproxy takes.
pub const MAX_HEAD: usize = 32 << 10;
/// Bytes of all trailers of an answer, and of a chunk's size with its extensions.
const MAX_TRAILERS: usize = 8 << 10;
const MAX_SIZE_LINE: usize = 1 << 10;
/// Hexadecimal digits of a chunk's size: more than a disk holds.
const MAX_DIGITS: u32 = 15;

/// Why an answer is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("its head is not one of HTTP/1: {0}")]
    Head(httparse::Error),
    #[error("its head is larger than 32 KiB")]
    TooLarge,
    #[error("its status is not a number from 100 to 999")]
    Status,
    #[error("Content-Length is not one decimal number")]
    ContentLength,
    #[error("Transfer-Encoding is not exactly chunked, in HTTP/1.1")]
    TransferEncoding,
    #[error("Content-Length and Transfer-Encoding exclude each other")]
    Both,
    #[error("it switches to a protocol that nobody has asked for")]
    Unasked,
    #[error("a chunk's size is not a hexadecimal number on a line of its own")]
    ChunkSize,
    #[error("a chunk is not followed by CR LF")]
    ChunkEnd,
    #[error("its trailers are malformed or too long")]
    Trailers,
    #[error("the connection ended before the answer did")]
    Short,
}

/// What has been asked, as far as the answer depends on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// With HEAD: an answer without a body, whatever its head says.
    pub for_head: bool,
    /// To switch protocols.
    pub to_switch: bool,
}

/// Follows one answer. What has come and is not part of it stays.
#[derive(Debug, Default)]
pub struct Reader {
    asked: Asked,
    stage: Stage,
    /// What has come and was not taken.
    came: Bytes,
}

#[derive(Debug, Default)]
enum Stage {
    /// So many bytes have been read in vain.
    Head(usize),
    /// So many bytes are to come.
    Length(u64),
    Chunked(Chunk),
    /// All that comes until the connection ends.
    Rest,
    #[default]
    Over,
}

#[derive(Debug)]
enum Chunk {
    Size,
    Data(u64),
    End,
    Trailers,
}

impl Reader {
    /// The answer to the next question. What came before it was asked cannot belong to it; see [`Reader::is_at_rest`].
    pub fn begin(&mut self, asked: Asked) {
        self.asked = asked;
        self.stage = Stage::Head(0);
    }

    pub fn take(&mut self, bytes: Bytes) {
        if self.came.is_empty() {
            self.came = bytes;
            return;
        }
        let mut both = BytesMut::with_capacity(self.came.len() + bytes.len());
        both.extend_from_slice(&self.came);
        both.extend_from_slice(&bytes);
        self.came = both.freeze();
    }

    /// The head of the answer when it is whole. Those that announce it (1xx) are passed over.
    pub fn head(&mut self) -> Result<Option<Response<()>>, Malformed> {
        loop {
            let Stage::Head(seen) = &mut self.stage else { return Ok(None) };
            // Not read again and again while it comes byte by byte.
            let is_worth_it = *seen == 0 || has_end(&self.came[seen.saturating_sub(2)..]);
            let parsed = if is_worth_it { parse_head(&self.came)? } else { None };
            let Some((length, mut head)) = parsed else {
                *seen = self.came.len();
                return if *seen >= MAX_HEAD { Err(Malformed::TooLarge) } else { Ok(None) };
            };
            *seen = 0;
            self.came.advance(length);
            let status = head.status();
            if status == StatusCode::SWITCHING_PROTOCOLS {
                if !self.asked.to_switch {
                    return Err(Malformed::Unasked);
                }
                self.stage = Stage::Over;
                return Ok(Some(head));
            }
            if !status.is_informational() {
                self.stage = body_of(&head, self.asked)?;
                say_length_once(head.headers_mut());
                return Ok(Some(head));
            }
        }
    }

    /// The next piece of the body, or its trailers. `None`: more must come first, unless it [is over](Reader::is_over).
    pub fn frame(&mut self) -> Result<Option<Frame<Bytes>>, Malformed> {
        let data = match &mut self.stage {
            Stage::Head(_) | Stage::Over => None,
            Stage::Length(left) => {
                let data = split(&mut self.came, *left);
                *left -= data.len() as u64;
                if *left == 0 {
                    self.stage = Stage::Over;
                }
                Some(data)
            }
            Stage::Rest => Some(std::mem::take(&mut self.came)),
            Stage::Chunked(_) => {
                let trailers = self.skip_to_data()?;
                if let Some(trailers) = trailers {
                    return Ok(Some(Frame::trailers(trailers)));
                }
                let Stage::Chunked(Chunk::Data(left)) = &mut self.stage else {
                    return Ok(None);
                };
                let data = split(&mut self.came, *left);
                *left -= data.len() as u64;
                if *left == 0 {
                    self.stage = Stage::Chunked(Chunk::End);
                }
                Some(data)
            }
        };
        Ok(data.filter(|data| !data.is_empty()).map(Frame::data))
    }

    /// Reads on if that shows that there is nothing more: who waits for the last byte need not wait for a further turn.
    pub fn look_ahead(&mut self) {
        // Trailers, if there are any, are a frame of their own.
        if matches!(self.stage, Stage::Chunked(Chunk::End)) && self.came.starts_with(LAST_CHUNK) {
            self.came.advance(LAST_CHUNK.len());
            self.stage = Stage::Over;
        }
    }

    /// The connection has ended.
    pub fn end(&mut self) -> Result<(), Malformed> {
        match self.stage {
            Stage::Rest => {
                self.stage = Stage::Over;
                Ok(())
            }
            Stage::Over => Ok(()),
            Stage::Head(_) | Stage::Length(_) | Stage::Chunked(_) => Err(Malformed::Short),
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// Whether something of an answer has come.
    pub fn has_begun(&self) -> bool {
        !matches!(self.stage, Stage::Head(_)) || !self.came.is_empty()
    }

    /// Whether the body ends where the connection does, which so carries no other answer.
    pub fn ends_with_connection(&self) -> bool {
        matches!(self.stage, Stage::Rest)
    }

    /// The answer is over and nothing has come that nobody asked for.
    pub fn is_at_rest(&self) -> bool {
        self.is_over() && self.came.is_empty()
    }

    /// What has come after the answer: of another protocol, if it has switched to one.
    pub fn into_rest(self) -> Bytes {
        self.came
    }

    /// What is yet to come of the body.
    pub fn size_hint(&self) -> SizeHint {
        match self.stage {
            Stage::Over => SizeHint::with_exact(0),
            Stage::Length(left) => SizeHint::with_exact(left),
            Stage::Head(_) | Stage::Chunked(_) | Stage::Rest => SizeHint::default(),
        }
    }

    /// Takes everything of a chunked body that is not data; returns its trailers at the end, if it has any.
    fn skip_to_data(&mut self) -> Result<Option<HeaderMap>, Malformed> {
        loop {
            let Stage::Chunked(chunk) = &mut self.stage else { return Ok(None) };
            match chunk {
                Chunk::Data(_) => return Ok(None),
                Chunk::End => match &*self.came {
                    [] | [b'\r'] => return Ok(None),
                    [b'\r', b'\n', ..] => {
                        self.came.advance(2);
                        *chunk = Chunk::Size;
                    }
                    _ => return Err(Malformed::ChunkEnd),
                },
                Chunk::Size => {
                    let Some((length, size)) = chunk_size(&self.came)? else { return Ok(None) };
                    self.came.advance(length);
                    *chunk = if size == 0 { Chunk::Trailers } else { Chunk::Data(size) };
                }
                Chunk::Trailers => {
                    let Some((length, trailers)) = parse_trailers(&self.came)? else {
                        return Ok(None);
                    };
                    self.came.advance(length);
                    self.stage = Stage::Over;
                    return Ok((!trailers.is_empty()).then_some(trailers));
                }
            }
        }
    }
}

/// The end of the last chunk's data and of a body without trailers.
const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

fn split(came: &mut Bytes, most: u64) -> Bytes {
    let length = usize::try_from(most).unwrap_or(usize::MAX).min(came.len());
    came.split_to(length)
}

/// The head and its length, with the empty line.
fn parse_head(came: &Bytes) -> Result<Option<(usize, Response<()>)>, Malformed> {
    let within = &came[..came.len().min(MAX_HEAD)];
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let Status::Complete(length) = parsed.parse(within).map_err(Malformed::Head)? else {
        return Ok(None);
    };
    let mut head = Response::new(());
    *head.version_mut() =
        if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    *head.status_mut() =
        parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed::Status)?;
    *head.headers_mut() = fields(came, parsed.headers).map_err(Malformed::Head)?;
    Ok(Some((length, head)))
}

/// Whether there is an empty line after another one.
fn has_end(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

/// Their values are parts of `came`, which they keep.
fn fields(came: &Bytes, parsed: &[httparse::Header<'_>]) -> Result<HeaderMap, httparse::Error> {
    // What the proxy adds has room, too.
    let mut headers = HeaderMap::with_capacity(parsed.len() + 2);
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| httparse::Error::HeaderName)?;
        let value = HeaderValue::from_maybe_shared(came.slice_ref(field.value))
            .map_err(|_| httparse::Error::HeaderValue)?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// RFC 9112 §6.3.
fn body_of(head: &Response<()>, asked: Asked) -> Result<Stage, Malformed> {
    let headers = head.headers();
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let is_chunked = match (codings.next(), codings.next()) {
        (None, _) => false,
        (Some(coding), None)
            if coding.as_bytes().eq_ignore_ascii_case(b"chunked")
                && head.version() == Version::HTTP_11 =>
        {
            true
        }
        _ => return Err(Malformed::TransferEncoding),
    };
    let length = content_length(headers)?;
    let is_empty = asked.for_head
        || matches!(head.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    match (length, is_chunked) {
        (Some(_), true) => Err(Malformed::Both),
        _ if is_empty => Ok(Stage::Over),
        (Some(0), false) => Ok(Stage::Over),
        (Some(length), false) => Ok(Stage::Length(length)),
        (None, true) => Ok(Stage::Chunked(Chunk::Size)),
        (None, false) => Ok(Stage::Rest),
    }
}

/// One number, however often it is said.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut length = None;
    let values = headers.get_all(header::CONTENT_LENGTH).iter();
    for value in values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')) {
        let digits = value.trim_ascii();
        let is_number =
            !digits.is_empty() && digits.len() <= 18 && digits.iter().all(u8::is_ascii_digit);
        let said = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
        match (said.filter(|_| is_number), length) {
            (Some(said), before) if before.is_none_or(|before| before == said) => {
                length = Some(said);
            }
            _ => return Err(Malformed::ContentLength),
        }
    }
    Ok(length)
}

/// HTTP/2 clients take no length that is said twice.
fn say_length_once(headers: &mut HeaderMap) {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let (first, second) = (values.next(), values.next());
    let is_list = first.is_some_and(|first| first.as_bytes().contains(&b','));
    if (second.is_some() || is_list)
        && let Ok(Some(length)) = content_length(headers)
    {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// A chunk's size and the length of its line. Extensions are passed over: nobody here reads them.
fn chunk_size(came: &[u8]) -> Result<Option<(usize, u64)>, Malformed> {
    let within = &came[..came.len().min(MAX_SIZE_LINE)];
    let Some(end) = within.iter().position(|byte| *byte == b'\n') else {
        let digits = within.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let is_hopeless = within.len() == MAX_SIZE_LINE || digits > MAX_DIGITS as usize;
        return if is_hopeless { Err(Malformed::ChunkSize) } else { Ok(None) };
    };
    let line = within[..end].strip_suffix(b"\r").ok_or(Malformed::ChunkSize)?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, extension) = line.split_at(digits);
    let extension = extension.trim_ascii_start();
    let is_whole = extension.is_empty() || extension.starts_with(b";");
    if digits.is_empty()
        || digits.len() > MAX_DIGITS as usize
        || !is_whole
        || extension.contains(&b'\r')
    {
        return Err(Malformed::ChunkSize);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| Malformed::ChunkSize)?;
    let size = u64::from_str_radix(digits, 16).map_err(|_| Malformed::ChunkSize)?;
    Ok(Some((end + 1, size)))
}

fn parse_trailers(came: &Bytes) -> Result<Option<(usize, HeaderMap)>, Malformed> {
    let within = &came[..came.len().min(MAX_TRAILERS)];
    if !within.starts_with(b"\r\n") && !has_end(within) {
        return if within.len() == MAX_TRAILERS { Err(Malformed::Trailers) } else { Ok(None) };
    }
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    match httparse::parse_headers(within, &mut headers) {
        Ok(Status::Complete((length, parsed))) => {
            let trailers = fields(came, parsed).map_err(|_| Malformed::Trailers)?;
            Ok(Some((length, trailers)))
        }
        Ok(Status::Partial) => Ok(None),
        Err(_) => Err(Malformed::Trailers),
    }
}

#[cfg(test)]
mod tests;
