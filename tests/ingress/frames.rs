//! HTTP/2 frames as they are, for clients that do what no library would.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::scene::PATIENCE;

/// With an empty SETTINGS frame.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// SETTINGS_INITIAL_WINDOW_SIZE 0 (RFC 9113 §6.5.2).
pub const NO_WINDOW: &[u8] = &[0, 4, 0, 0, 0, 0];
/// `:method GET, :scheme http, :path /, :authority a` (RFC 7541 appendix B; literal without indexing).
pub const REQUEST: &[u8] = &[0x82, 0x86, 0x84, 0x01, 0x01, b'a'];
/// The same of `endless`.
pub const ENDLESS: &[u8] =
    &[0x82, 0x86, 0x84, 0x01, 0x07, b'e', b'n', b'd', b'l', b'e', b's', b's'];
/// The same with POST.
pub const POST: &[u8] = &[0x83, 0x86, 0x84, 0x01, 0x01, b'a'];

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// A four-byte number in the payload: an error's code, a last stream.
    pub fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// A client that sends and hears frames, and answers nothing by itself.
pub struct RawHttp2 {
    stream: TcpStream,
}

impl RawHttp2 {
    pub async fn connect(address: SocketAddr, settings: &[u8]) -> RawHttp2 {
        let mut client = RawHttp2 { stream: TcpStream::connect(address).await.unwrap() };
        client.stream.write_all(&PREFACE[..24]).await.unwrap();
        client.send(&frame(SETTINGS, 0, 0, settings)).await;
        client
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // The proxy may have closed already; what it said is what counts.
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn hear(&mut self) -> Option<Frame> {
        let next = async {
            let mut header = [0; 9];
            self.stream.read_exact(&mut header).await.ok()?;
            let [a, b, c, kind, flags, ref stream @ ..] = header;
            let length = u32::from_be_bytes([0, a, b, c]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.stream.read_exact(&mut payload).await.ok()?;
            Some(Frame { kind, flags, stream: u32::from_be_bytes(*stream), payload })
        };
        tokio::time::timeout(PATIENCE, next).await.expect("a frame or the end in time")
    }

    /// The next frame of a kind; what comes before it is passed over.
    pub async fn hear_kind(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.hear().await;
            let frame = frame.unwrap_or_else(|| panic!("the connection ended before type {kind}"));
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Passes over everything until the connection ends.
    pub async fn hear_the_end(&mut self) {
        while self.hear().await.is_some() {}
    }
}
