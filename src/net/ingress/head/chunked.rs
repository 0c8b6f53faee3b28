//! Follows a chunked body byte by byte; it never holds more than a line of it.

use super::{Refusal, name_and_value, next_line};

/// Digits of a chunk's size: 16⁸ bytes are more than anybody sends in one.
const MAX_DIGITS: usize = 8;
/// Bytes of all trailers together.
const MAX_TRAILERS: usize = 8 << 10;

/// Where in a chunked body we are (RFC 9112 §7.1). Extensions are refused: parsers disagree on where they end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunked {
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Size { digits: usize, size: u64 },
    SizeEnd { size: u64 },
    Data { left: u64 },
    DataEnd { seen_cr: bool },
    Trailers { line: Vec<u8>, total: usize },
    Done,
}

impl Default for Chunked {
    fn default() -> Chunked {
        Chunked { state: State::Size { digits: 0, size: 0 } }
    }
}

impl Chunked {
    /// Follows `bytes`; says how many of them belong to this body. Fewer than all only when it is done.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            at += self.step(&bytes[at..])?;
        }
        Ok(at)
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    fn step(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let byte = bytes[0];
        let (next, taken) = match &mut self.state {
            State::Size { digits, size } => match (byte as char).to_digit(16) {
                Some(digit) if *digits < MAX_DIGITS => {
                    (State::Size { digits: *digits + 1, size: *size * 16 + u64::from(digit) }, 1)
                }
                None if byte == b'\r' && *digits > 0 => (State::SizeEnd { size: *size }, 1),
                Some(_) | None => return Err(Refusal::ChunkSize),
            },
            State::SizeEnd { size } => match (byte, *size) {
                (b'\n', 0) => (State::Trailers { line: Vec::new(), total: 0 }, 1),
                (b'\n', left) => (State::Data { left }, 1),
                _ => return Err(Refusal::ChunkSize),
            },
            State::Data { left } => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                match *left - taken as u64 {
                    0 => (State::DataEnd { seen_cr: false }, taken),
                    left => (State::Data { left }, taken),
                }
            }
            State::DataEnd { seen_cr } => match (byte, *seen_cr) {
                (b'\r', false) => (State::DataEnd { seen_cr: true }, 1),
                (b'\n', true) => (State::Size { digits: 0, size: 0 }, 1),
                _ => return Err(Refusal::ChunkEnd),
            },
            State::Trailers { line, total } => {
                line.push(byte);
                *total += 1;
                if *total > MAX_TRAILERS {
                    return Err(Refusal::Trailer);
                }
                match next_line(line).map_err(|_| Refusal::Trailer)? {
                    None => return Ok(1),
                    Some([]) => (State::Done, 1),
                    Some(whole) => {
                        check_trailer(whole)?;
                        (State::Trailers { line: Vec::new(), total: *total }, 1)
                    }
                }
            }
            State::Done => return Ok(0),
        };
        self.state = next;
        Ok(taken)
    }
}

/// RFC 9110 §6.5.1: what delimits, routes or authenticates a message may not come after it.
fn check_trailer(line: &[u8]) -> Result<(), Refusal> {
    const NEVER: [&str; 8] = [
        "content-length",
        "transfer-encoding",
        "host",
        "connection",
        "trailer",
        "upgrade",
        "te",
        "authorization",
    ];
    let (name, _value) = name_and_value(line).map_err(|_| Refusal::Trailer)?;
    match NEVER.iter().any(|never| name.eq_ignore_ascii_case(never.as_bytes())) {
        true => Err(Refusal::Trailer),
        false => Ok(()),
    }
}
