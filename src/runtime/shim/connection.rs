//! One daemon's connection: frames in, frames out, never waiting for the other side.
//!
//! It never interprets a call.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{RecvFlags, SendFlags};

use crate::runtime::protocol::{Call, Inbox, Message, RawRequest, encode};
use crate::sys::socket;

/// Frames that may wait for a daemon that does not read; more closes the connection, which loses
/// nothing: whoever reconnects gets the state anew.
const MOST_FRAMES: usize = 64;

struct Frame {
    bytes: Vec<u8>,
    sent: usize,
    descriptors: Vec<OwnedFd>,
}

pub struct Connection {
    id: u64,
    stream: UnixStream,
    inbox: Inbox,
    outbox: VecDeque<Frame>,
    is_closed: bool,
    /// The other side has not got the newest state.
    pub owes_state: bool,
}

impl Connection {
    pub fn new(id: u64, stream: UnixStream) -> Connection {
        let is_closed = stream.set_nonblocking(true).is_err();
        Connection {
            id,
            stream,
            inbox: Inbox::default(),
            outbox: VecDeque::new(),
            is_closed,
            owes_state: true,
        }
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    pub fn wants_to_write(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Takes in what has arrived.
    pub fn read(&mut self) {
        let mut buffer = [0; 16 << 10];
        // A bounded number of reads: other descriptors of the loop have their turn.
        for _ in 0..16 {
            let received = socket::receive(
                self.stream.as_fd(),
                &mut buffer,
                &mut self.inbox.descriptors,
                RecvFlags::DONTWAIT,
            );
            match received {
                Ok(0) => {
                    self.is_closed = true;
                    return;
                }
                Ok(length) => self.inbox.bytes.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.is_closed = true;
                    return;
                }
            }
        }
    }

    /// The next complete request; `None` in place of a call that this shim does not know.
    pub fn next_request(&mut self) -> Option<(u64, Option<Call>)> {
        let length = match self.inbox.complete() {
            Ok(length) => length?,
            Err(_) => {
                self.is_closed = true;
                return None;
            }
        };
        let request = match serde_json::from_slice::<RawRequest>(&self.inbox.bytes[4..length]) {
            Ok(raw) => Some((raw.id, serde_json::from_str(raw.call.get()).ok())),
            Err(_) => {
                self.is_closed = true;
                None
            }
        };
        self.inbox.bytes.drain(..length);
        if self.inbox.bytes.is_empty() {
            self.inbox.bytes.shrink_to(0);
        }
        request
    }

    pub fn push(&mut self, message: &Message, descriptors: Vec<OwnedFd>) {
        if self.outbox.len() >= MOST_FRAMES {
            self.is_closed = true;
            return;
        }
        let mut bytes = Vec::new();
        encode(message, &mut bytes);
        self.outbox.push_back(Frame { bytes, sent: 0, descriptors });
    }

    /// Sends as much as the other side takes.
    pub fn write(&mut self) {
        while let Some(frame) = self.outbox.front_mut() {
            let descriptors: Vec<BorrowedFd<'_>> = match frame.sent {
                0 => frame.descriptors.iter().map(AsFd::as_fd).collect(),
                _ => Vec::new(),
            };
            let rest = &frame.bytes[frame.sent..];
            match socket::send(self.stream.as_fd(), rest, &descriptors, SendFlags::DONTWAIT) {
                Ok(sent) => frame.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.is_closed = true;
                    return;
                }
            }
            if frame.sent == frame.bytes.len() {
                self.outbox.pop_front();
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
