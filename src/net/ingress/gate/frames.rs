//! Counts HTTP/2 frames that cost the server and carry nothing: floods end the connection (security C11).
//!
//! ```text
//! length (24) | type (8) | flags (8) | stream (32) | payload …        RFC 9113 §4.1
//! ```
//! h2 bounds streams, resets and header lists itself; this bounds PING, SETTINGS, PRIORITY, CONTINUATION, empty DATA and
//! tiny WINDOW_UPDATE floods, each of which is cheap to send and answered or parsed at our cost.

use std::io;

use tokio::time::Instant;

/// Frames without use that may come at once …
const BURST: f64 = 2_000.0;
/// … and per second ever after. A browser sends a handful.
const PER_SECOND: f64 = 200.0;
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

pub(super) struct FrameBudget {
    skip: usize,
    header: [u8; HEADER],
    have: usize,
    tokens: f64,
    at: Option<Instant>,
    continuations: u32,
}

impl Default for FrameBudget {
    fn default() -> FrameBudget {
        FrameBudget {
            skip: PREFACE,
            header: [0; HEADER],
            have: 0,
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
            if self.skip > 0 {
                if self.is_wish() {
                    followed = Followed::Wish;
                }
                let here = self.skip.min(bytes.len());
                self.skip -= here;
                bytes = &bytes[here..];
                continue;
            }
            let here = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + here].copy_from_slice(&bytes[..here]);
            self.have += here;
            bytes = &bytes[here..];
            if self.have == HEADER {
                self.have = 0;
                self.frame()?;
            }
        }
        Ok(followed)
    }

    /// Whether the frame that is being followed asks for something. Before the first there are only zeros.
    fn is_wish(&self) -> bool {
        matches!(self.header[3], HEADERS | DATA) && self.header != [0; HEADER]
    }

    /// What we send earns the client the window updates that acknowledge it: Go's sends two for 4 KiB.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.tokens = (self.tokens + bytes as f64 / 512.0).min(BURST);
    }

    fn frame(&mut self) -> io::Result<()> {
        let [a, b, c, kind, ..] = self.header;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.skip = length as usize;
        match kind {
            // A request pays for itself: the number of streams is bounded elsewhere.
            HEADERS => self.continuations = 0,
            DATA if length > 0 => {}
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
            let flood = frame(kind, payload).repeat(BURST as usize + 1);
            assert!(budget.follow(&flood).is_err(), "type {kind}");
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
        for _block in 0..100_000 {
            budget.sent(4096);
            budget.follow(&frame(0x8, 4).repeat(2)).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_and_bodies_cost_nothing() {
        let mut budget = FrameBudget::default();
        budget.follow(&preface()).unwrap();
        let exchange = [frame(HEADERS, 40), frame(DATA, 1000), frame(0x8, 4)].concat();
        let bytes = exchange.repeat(1000);
        for piece in bytes.chunks(7) {
            budget.follow(piece).unwrap();
        }
    }
}
