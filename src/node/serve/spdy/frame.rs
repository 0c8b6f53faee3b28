//! SPDY/3.1 frames, as bytes and as values.
//!
//! Pure: no socket is touched here. The layout (draft-mbelshe-httpbis-spdy-00, sections 2.2 and 2.6):
//!
//! ```text
//! control  1|version:15  type:16   flags:8 length:24   payload
//! data     0|stream:31             flags:8 length:24   payload
//! ```

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// The last frame of its sender on this stream.
pub const FIN: u8 = 0x01;

/// A frame may carry this much; kubectl sends 32 KiB at a time.
const LONGEST_FRAME: usize = 1 << 20;
/// Header blocks hold a handful of short names.
const LONGEST_HEADERS: usize = 16 << 10;

/// Header names and values of one stream.
pub type Headers = BTreeMap<String, String>;

/// What a peer of kubectl says and hears. Frames that only tune flow control are not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Data {
        stream: u32,
        fin: bool,
        payload: Bytes,
    },
    SynStream {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    SynReply {
        stream: u32,
        headers: Headers,
    },
    /// Ends a stream at once; 5 is CANCEL.
    Reset {
        stream: u32,
        status: u32,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last: u32,
    },
    /// SETTINGS, WINDOW_UPDATE, HEADERS and anything unknown: read and passed over.
    Other,
}

/// What makes a connection unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("SPDY version {0} is not 3")]
    Version(u16),
    #[error("a frame of {0} bytes is too long")]
    TooLong(usize),
    #[error("a frame ends too early")]
    Truncated,
    #[error("the header block cannot be inflated or understood")]
    Headers,
}

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

/// Reads frames out of a byte stream; holds the inflate state that all header blocks share.
pub struct Decoder {
    inflate: Decompress,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { inflate: Decompress::new(true) }
    }
}

impl Decoder {
    /// Takes one frame off the front of `buffer`; `None` when it is not complete yet.
    ///
    /// # Errors
    /// The bytes are not SPDY/3.1; the connection cannot go on.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if buffer.len() < 8 {
            return Ok(None);
        }
        let length =
            usize::from(buffer[5]) << 16 | usize::from(buffer[6]) << 8 | usize::from(buffer[7]);
        if length > LONGEST_FRAME {
            return Err(FrameError::TooLong(length));
        }
        if buffer.len() < 8 + length {
            buffer.reserve(8 + length - buffer.len());
            return Ok(None);
        }
        let mut head = buffer.split_to(8);
        let first = head.get_u32();
        let fin = head[0] & FIN != 0;
        let mut payload = buffer.split_to(length).freeze();
        if first >> 31 == 0 {
            return Ok(Some(Frame::Data { stream: first, fin, payload }));
        }
        let version = (first >> 16) as u16 & 0x7fff;
        if version != 3 {
            return Err(FrameError::Version(version));
        }
        let number = |payload: &mut Bytes| match payload.len() >= 4 {
            true => Ok(payload.get_u32() & 0x7fff_ffff),
            false => Err(FrameError::Truncated),
        };
        let frame = match first as u16 {
            SYN_STREAM => {
                let stream = number(&mut payload)?;
                number(&mut payload)?; // associated stream: only for server push
                if payload.len() < 2 {
                    return Err(FrameError::Truncated);
                }
                payload.advance(2); // priority and credential slot
                Frame::SynStream { stream, fin, headers: self.headers(&payload)? }
            }
            SYN_REPLY => {
                let stream = number(&mut payload)?;
                Frame::SynReply { stream, headers: self.headers(&payload)? }
            }
            RST_STREAM => {
                let stream = number(&mut payload)?;
                Frame::Reset { stream, status: number(&mut payload)? }
            }
            PING if payload.len() >= 4 => Frame::Ping { id: payload.get_u32() },
            GOAWAY => Frame::GoAway { last: number(&mut payload)? },
            8 => {
                // HEADERS: its block must be inflated all the same, the compression state goes on.
                number(&mut payload)?;
                self.headers(&payload)?;
                Frame::Other
            }
            _ => Frame::Other,
        };
        Ok(Some(frame))
    }

    fn headers(&mut self, block: &[u8]) -> Result<Headers, FrameError> {
        let mut plain = Vec::with_capacity(1024);
        let start = self.inflate.total_in();
        loop {
            let consumed = (self.inflate.total_in() - start) as usize;
            let before = plain.len();
            let rest = &block[consumed..];
            let status = self.inflate.decompress_vec(rest, &mut plain, FlushDecompress::Sync);
            match status {
                Ok(Status::StreamEnd) => break,
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(DICTIONARY).map_err(|_| FrameError::Headers)?;
                    continue;
                }
                Err(_) => return Err(FrameError::Headers),
            }
            if plain.len() > LONGEST_HEADERS {
                return Err(FrameError::Headers);
            }
            let consumed = (self.inflate.total_in() - start) as usize;
            if plain.len() == plain.capacity() {
                plain.reserve(plain.len().max(1024));
            } else if consumed == block.len() || plain.len() == before {
                break;
            }
        }
        parse_headers(&plain)
    }
}

fn parse_headers(mut plain: &[u8]) -> Result<Headers, FrameError> {
    let number = |plain: &mut &[u8]| match plain.len() >= 4 {
        true => Ok(plain.get_u32() as usize),
        false => Err(FrameError::Headers),
    };
    let count = number(&mut plain)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let mut text = || {
            let length = number(&mut plain)?;
            let (text, rest) = plain.split_at_checked(length).ok_or(FrameError::Headers)?;
            plain = rest;
            String::from_utf8(text.to_owned()).map_err(|_| FrameError::Headers)
        };
        let (name, value) = (text()?, text()?);
        headers.insert(name.to_ascii_lowercase(), value);
    }
    Ok(headers)
}

/// Writes frames; holds the deflate state that all header blocks share.
pub struct Encoder {
    deflate: Compress,
}

impl Default for Encoder {
    fn default() -> Encoder {
        let mut deflate = Compress::new(Compression::default(), true);
        deflate.set_dictionary(DICTIONARY).expect("a fresh compressor takes a dictionary");
        Encoder { deflate }
    }
}

impl Encoder {
    /// Appends `frame` to `out`.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        match frame {
            Frame::Data { stream, fin, payload } => {
                out.put_u32(*stream);
                put_length(out, u8::from(*fin) * FIN, payload.len());
                out.put_slice(payload);
            }
            Frame::SynStream { stream, fin, headers } => {
                let block = self.headers(headers);
                put_control(out, SYN_STREAM, u8::from(*fin) * FIN, 10 + block.len());
                out.put_u32(*stream);
                out.put_u32(0);
                out.put_u16(0);
                out.put_slice(&block);
            }
            Frame::SynReply { stream, headers } => {
                let block = self.headers(headers);
                put_control(out, SYN_REPLY, 0, 4 + block.len());
                out.put_u32(*stream);
                out.put_slice(&block);
            }
            Frame::Reset { stream, status } => {
                put_control(out, RST_STREAM, 0, 8);
                out.put_u32(*stream);
                out.put_u32(*status);
            }
            Frame::Ping { id } => {
                put_control(out, PING, 0, 4);
                out.put_u32(*id);
            }
            Frame::GoAway { last } => {
                put_control(out, GOAWAY, 0, 8);
                out.put_u32(*last);
                out.put_u32(0);
            }
            Frame::Other => {}
        }
    }

    fn headers(&mut self, headers: &Headers) -> Vec<u8> {
        let mut plain = BytesMut::new();
        plain.put_u32(headers.len() as u32);
        for (name, value) in headers {
            for text in [name, value] {
                plain.put_u32(text.len() as u32);
                plain.put_slice(text.as_bytes());
            }
        }
        let mut block = Vec::with_capacity(plain.len() + 64);
        let start = self.deflate.total_in();
        loop {
            let consumed = (self.deflate.total_in() - start) as usize;
            let rest = &plain[consumed..];
            let status = self.deflate.compress_vec(rest, &mut block, FlushCompress::Sync);
            debug_assert!(status.is_ok(), "deflating into a vector with room does not fail");
            if block.len() < block.capacity() {
                return block;
            }
            block.reserve(block.len());
        }
    }
}

fn put_control(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(0x8003);
    out.put_u16(kind);
    put_length(out, flags, length);
}

fn put_length(out: &mut BytesMut, flags: u8, length: usize) {
    out.put_u32(u32::from(flags) << 24 | length as u32 & 0x00ff_ffff);
}

/// The dictionary that primes header compression (section 2.6.10.1).
const DICTIONARY: &[u8] = b"\
    \x00\x00\x00\x07options\x00\x00\x00\x04head\x00\x00\x00\x04post\x00\x00\x00\x03put\x00\
    \x00\x00\x06delete\x00\x00\x00\x05trace\x00\x00\x00\x06accept\x00\x00\x00\x0eaccept-char\
    set\x00\x00\x00\x0faccept-encoding\x00\x00\x00\x0faccept-language\x00\x00\x00\x0daccept-\
    ranges\x00\x00\x00\x03age\x00\x00\x00\x05allow\x00\x00\x00\x0dauthorization\x00\x00\x00\
    \x0dcache-control\x00\x00\x00\x0aconnection\x00\x00\x00\x0ccontent-base\x00\x00\x00\x10c\
    ontent-encoding\x00\x00\x00\x10content-language\x00\x00\x00\x0econtent-length\x00\x00\
    \x00\x10content-location\x00\x00\x00\x0bcontent-md5\x00\x00\x00\x0dcontent-range\x00\x00\
    \x00\x0ccontent-type\x00\x00\x00\x04date\x00\x00\x00\x04etag\x00\x00\x00\x06expect\x00\
    \x00\x00\x07expires\x00\x00\x00\x04from\x00\x00\x00\x04host\x00\x00\x00\x08if-match\x00\
    \x00\x00\x11if-modified-since\x00\x00\x00\x0dif-none-match\x00\x00\x00\x08if-range\x00\
    \x00\x00\x13if-unmodified-since\x00\x00\x00\x0dlast-modified\x00\x00\x00\x08location\x00\
    \x00\x00\x0cmax-forwards\x00\x00\x00\x06pragma\x00\x00\x00\x12proxy-authenticate\x00\x00\
    \x00\x13proxy-authorization\x00\x00\x00\x05range\x00\x00\x00\x07referer\x00\x00\x00\x0br\
    etry-after\x00\x00\x00\x06server\x00\x00\x00\x02te\x00\x00\x00\x07trailer\x00\x00\x00\
    \x11transfer-encoding\x00\x00\x00\x07upgrade\x00\x00\x00\x0auser-agent\x00\x00\x00\x04va\
    ry\x00\x00\x00\x03via\x00\x00\x00\x07warning\x00\x00\x00\x10www-authenticate\x00\x00\x00\
    \x06method\x00\x00\x00\x03get\x00\x00\x00\x06status\x00\x00\x00\x06200 OK\x00\x00\x00\
    \x07version\x00\x00\x00\x08HTTP/1.1\x00\x00\x00\x03url\x00\x00\x00\x06public\x00\x00\x00\
    \x0aset-cookie\x00\x00\x00\x0akeep-alive\x00\x00\x00\x06origin10010120120220520630030230\
    3304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative In\
    formation204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
    404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb \
    Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
    chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,te\
    xt/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-\
    8859-1,utf-,*,enq=0.";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn frames_survive_the_wire_in_any_split() {
        let frames = vec![
            Frame::SynStream {
                stream: 1,
                fin: false,
                headers: headers(&[("streamtype", "error")]),
            },
            Frame::SynStream {
                stream: 3,
                fin: true,
                headers: headers(&[("streamtype", "data"), ("port", "80")]),
            },
            Frame::SynReply { stream: 3, headers: headers(&[]) },
            Frame::Data { stream: 3, fin: false, payload: Bytes::from_static(b"hello") },
            Frame::Data { stream: 3, fin: true, payload: Bytes::new() },
            Frame::Ping { id: 7 },
            Frame::Reset { stream: 3, status: 5 },
            Frame::GoAway { last: 3 },
        ];
        let mut encoder = Encoder::default();
        let mut wire = BytesMut::new();
        for frame in &frames {
            encoder.encode(frame, &mut wire);
        }
        for step in [1, 3, 7, wire.len()] {
            let mut decoder = Decoder::default();
            let mut buffer = BytesMut::new();
            let mut read = Vec::new();
            for chunk in wire.chunks(step) {
                buffer.extend_from_slice(chunk);
                while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                    read.push(frame);
                }
            }
            assert_eq!(read, frames);
        }
    }

    #[test]
    fn the_dictionary_is_the_one_of_the_standard() {
        // The Adler-32 that zlib streams of SPDY/3 name.
        let mut probe = Compress::new(Compression::default(), true);
        assert_eq!(probe.set_dictionary(DICTIONARY).unwrap(), 0xe3c6_a7c2);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decoder.decode(&mut buffer) {}
        }

        #[test]
        fn hostile_header_blocks_never_panic(block in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut wire = BytesMut::new();
            put_control(&mut wire, SYN_STREAM, 0, 10 + block.len());
            wire.put_slice(&[0; 10]);
            wire.put_slice(&block);
            let _ = Decoder::default().decode(&mut wire);
        }
    }
}
