//! Counts HTTP/2 frames that cost the server and carry nothing: floods end the connection (security C11).
//!
//! ```text
//! length (24) | type (8) | flags (8) | stream (32) | payload …        RFC 9113 §4.1
//! ```
//! h2 bounds streams, resets and header lists itself; this bounds PING, SETTINGS, PRIORITY, CONTINUATION, empty DATA and
//! tiny WINDOW_UPDATE floods, each of which is cheap to send and answered or parsed at our cost.

use std::io;

use tokio::time::Instant;

/// Frames without use that may come at once: a browser that takes back all it has asked for sends some hundred. Few
/// enough that a flood is over in the first block that is read of it …
const BURST: f64 = 500.0;
/// … and per second ever after. A browser sends a handful.
const PER_SECOND: f64 = 200.0;
/// What an answer earns its client for each frame of its own: who streams small messages acknowledges every one of them (gRPC
/// measures the way with a PING a message), and a request may end with an empty DATA frame …
const EARNED_BY_FRAME: f64 = 2.0;
/// … and for so many bytes one more, the window updates that acknowledge them: Go's sends two for 4 KiB.
const BYTES_THAT_EARN: f64 = 512.0;
const PREFACE: usize = 24;
const HEADER: usize = 9;
/// CONTINUATION frames of one header block; ours fit in 64 KiB, four frames of the default size (CVE-2024-27316).
const MAX_CONTINUATIONS: u32 = 8;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;

/// What a client said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Followed {
    /// A request, or a part of one.
    Wish,
    /// Nothing that anybody waits for.
    Idle,
}

/// Finds the frames in a stream of bytes, however it is cut.
#[derive(Default)]
struct Frames {
    /// Bytes until the next header.
    skip: usize,
    header: [u8; HEADER],
    have: usize,
}

struct Frame {
    kind: u8,
    length: usize,
}

impl Frames {
    /// The next frame whose header ends in `bytes`, which are moved on to behind it.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let here = self.skip.min(bytes.len());
                self.skip -= here;
                *bytes = &bytes[here..];
                continue;
            }
            let here = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + here].copy_from_slice(&bytes[..here]);
            self.have += here;
            *bytes = &bytes[here..];
            if self.have == HEADER {
                self.have = 0;
                let [a, b, c, kind, ..] = self.header;
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                return Some(Frame { kind, length: self.skip });
            }
        }
        None
    }

    /// Whether a frame is being followed that asks for something. Before the first there are only zeros.
    fn is_in_wish(&self) -> bool {
        self.skip > 0 && matches!(self.header[3], HEADERS | DATA) && self.header != [0; HEADER]
    }
}

pub(super) struct FrameBudget {
    received: Frames,
    sent: Frames,
    tokens: f64,
    at: Option<Instant>,
    continuations: u32,
}

impl Default for FrameBudget {
    fn default() -> FrameBudget {
        FrameBudget {
            received: Frames { skip: PREFACE, ..Frames::default() },
            sent: Frames::default(),
            tokens: BURST,
            at: None,
            continuations: 0,
        }
    }
}

impl FrameBudget {
    /// Follows received bytes; an error ends the connection.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) -> io::Result<Followed> {
        let mut followed = Followed::Idle;
        while !bytes.is_empty() {
            if self.received.is_in_wish() {
                followed = Followed::Wish;
            }
            if let Some(frame) = self.received.next(&mut bytes) {
                self.account(&frame)?;
            }
        }
        Ok(followed)
    }

    /// Follows what we send. Answers earn; acknowledgements, which a flood makes us send, do not.
    pub(super) fn sent(&mut self, mut bytes: &[u8]) {
        while let Some(Frame { kind, length }) = self.sent.next(&mut bytes) {
            if matches!(kind, DATA | HEADERS) {
                let earned = EARNED_BY_FRAME + length as f64 / BYTES_THAT_EARN;
                self.tokens = (self.tokens + earned).min(BURST);
            }
        }
    }

    fn account(&mut self, frame: &Frame) -> io::Result<()> {
        match frame.kind {
            // A request pays for itself: the number of streams is bounded elsewhere.
            HEADERS => self.continuations = 0,
            DATA if frame.length > 0 => {}
            CONTINUATION => {
                self.continuations += 1;
                if self.continuations > MAX_CONTINUATIONS {
                    return Err(flood("CONTINUATION frames"));
                }
                self.spend()?;
            }
            _ => self.spend()?,
        }
        Ok(())
    }

    fn spend(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let since = self.at.replace(now).map_or(0.0, |at| (now - at).as_secs_f64());
        self.tokens = (self.tokens + since * PER_SECOND).min(BURST) - 1.0;
        match self.tokens < 0.0 {
            true => Err(flood("control frames")),
            false => Ok(()),
        }
    }
}

fn flood(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a flood of {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let mut frame = (payload as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, 0, 0, 0, 0, 1]);
        frame.extend(vec![0; payload]);
        frame
    }

    fn preface() -> Vec<u8> {
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()
    }

    #[tokio::test(start_paused = true)]
    async fn floods_end_and_a_browser_goes_on() {
        for (kind, payload) in [(0x6, 8), (0x4, 0), (0x2, 5), (DATA, 0), (0x8, 4), (0x3, 4)] {
            let mut budget = FrameBudget::default();
            budget.follow(&preface()).unwrap();
            let burst = frame(kind, payload).repeat(BURST as usize);
            budget.follow(&burst).unwrap();
            assert!(budget.follow(&frame(kind, payload)).is_err(), "type {kind}");
            let mut calm = FrameBudget::default();
            calm.follow(&preface()).unwrap();
            for _second in 0..100 {
                calm.follow(&frame(kind, payload).repeat(PER_SECOND as usize / 2)).unwrap();
                tokio::time::advance(std::time::Duration::from_secs(1)).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_block_has_few_continuations() {
        let mut budget = FrameBudget::default();
        budget.follow(&preface()).unwrap();
        for _block in 0..50 {
            budget.follow(&frame(HEADERS, 10)).unwrap();
            budget.follow(&frame(CONTINUATION, 10).repeat(4)).unwrap();
        }
        assert!(budget.follow(&frame(CONTINUATION, 1).repeat(9)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_download_earns_its_window_updates() {
        let mut budget = FrameBudget::default();
        budget.follow(&preface()).unwrap();
        let sent = frame(DATA, 4096);
        for _block in 0..10_000 {
            sent.chunks(1000).for_each(|part| budget.sent(part));
            budget.follow(&frame(0x8, 4).repeat(10)).unwrap();
        }
    }

    /// A message of few bytes, answered with a PING and a window update, as gRPC does.
    #[tokio::test(start_paused = true)]
    async fn small_messages_earn_what_acknowledges_them_and_acknowledgements_earn_nothing() {
        let mut budget = FrameBudget::default();
        budget.follow(&preface()).unwrap();
        for _message in 0..10_000 {
            budget.sent(&frame(DATA, 7));
            budget.follow(&[frame(0x6, 8), frame(0x8, 4)].concat()).unwrap();
        }
        let mut flooded = FrameBudget::default();
        flooded.follow(&preface()).unwrap();
        let mut answered = (0..10_000).take_while(|_| {
            flooded.sent(&frame(0x6, 8));
            flooded.sent(&frame(0x4, 0));
            flooded.follow(&frame(0x6, 8)).is_ok()
        });
        assert_eq!(answered.by_ref().count(), BURST as usize);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_and_bodies_cost_nothing() {
        let mut budget = FrameBudget::default();
        budget.follow(&preface()).unwrap();
        let exchange = [frame(HEADERS, 40), frame(DATA, 1000), frame(0x8, 4)].concat();
        for _exchange in 0..1000 {
            for piece in exchange.chunks(7) {
                budget.follow(piece).unwrap();
            }
            budget.sent(&frame(HEADERS, 5));
        }
    }
}
