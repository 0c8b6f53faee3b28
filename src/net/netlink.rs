//! One blocking netlink socket: requests out in one datagram, an acknowledgement back for each.
//!
//! It knows headers and error numbers only (netlink(7)); what the messages mean is `link`'s and `nfnetlink`'s.
//!
//! ```text
//!  0        4      6       8          12        16
//!  ├ length ┼ type ┼ flags ┼ sequence ┼ port id ┤ payload …, padded to 4
//! ```

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

pub const REQUEST: u16 = 0x1;
pub const ACK: u16 = 0x4;
/// `NLM_F_ROOT | NLM_F_MATCH`.
pub const DUMP: u16 = 0x300;
pub const REPLACE: u16 = 0x100;
pub const EXCLUSIVE: u16 = 0x200;
pub const CREATE: u16 = 0x400;

const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The reply was cut because something changed meanwhile (`NLM_F_DUMP_INTR`).
const DUMP_INTERRUPTED: u16 = 0x10;
const HEADER: usize = 16;
/// The kernel answers inside our send; a reply that is missing after this long was lost.
const DEADLINE_SECONDS: i64 = 5;
/// Datagrams grow up to 32 KiB in dumps (netlink(7)).
const BUFFER: usize = 64 * 1024;
/// Bytes that any socket has room for (net.core.rmem_default, half of it the kernel's overhead).
const UNFORCED: usize = 106_496;
/// Bytes that any socket sends at once (net.core.wmem_default less the kernel's overhead).
const ORDINARY: usize = 64 * 1024;
/// Requests are idempotent, so what was lost (ENOBUFS) or cut short is asked again, a few times.
const ATTEMPTS: usize = 4;

/// One message to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub kind: u16,
    pub flags: u16,
    pub payload: Vec<u8>,
}

/// What the kernel told unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    pub kind: u16,
    /// Of the socket that caused it; 0 for the kernel itself.
    pub port: u32,
    pub payload: Vec<u8>,
}

/// What came back for a datagram.
#[derive(Debug, Default)]
pub struct Replies {
    /// Payloads of everything that is neither acknowledgement nor error, in order.
    pub payloads: Vec<Vec<u8>>,
    /// Requests that were refused, by place in the datagram.
    pub refused: Vec<(usize, Errno)>,
}

impl Replies {
    /// The first refusal that is not among `tolerated` is the error.
    pub fn except(self, tolerated: &[Errno]) -> io::Result<Vec<Vec<u8>>> {
        match self.refused.iter().find(|(_, errno)| !tolerated.contains(errno)) {
            Some((_, errno)) => Err((*errno).into()),
            None => Ok(self.payloads),
        }
    }
}

/// Bound to the namespace of the thread that opened it, wherever it is used afterwards.
#[derive(Debug)]
pub struct Socket {
    descriptor: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    pub fn open(protocol: SockProtocol) -> io::Result<Socket> {
        let descriptor =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(descriptor.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&descriptor, sockopt::ReceiveTimeout, &TimeVal::new(DEADLINE_SECONDS, 0))?;
        // Each request is answered; without CAP_NET_ADMIN over the first user namespace the default stays, and ENOBUFS
        // is retried.
        let _ = setsockopt(&descriptor, sockopt::RcvBufForce, &room(4 * 1024 * 1024, UNFORCED));
        Ok(Socket { descriptor, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// A socket that hears of changes in `groups` (a bit mask) and asks nothing.
    pub fn listen(protocol: SockProtocol, groups: u32) -> io::Result<Socket> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let descriptor = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(descriptor.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        // Large transactions are told in as many messages; used only as long as they wait to be read.
        let _ = setsockopt(&descriptor, sockopt::RcvBufForce, &room(16 * 1024 * 1024, 1));
        Ok(Socket { descriptor, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Which of the namespace's netlink sockets this is, as the kernel tells of what it did.
    pub fn port(&self) -> io::Result<u32> {
        Ok(getsockname::<NetlinkAddr>(self.descriptor.as_raw_fd())?.pid())
    }

    /// The notices that have come; an error when some were lost.
    pub fn heard(&mut self) -> io::Result<Vec<Heard>> {
        let mut notices = Vec::new();
        loop {
            let length = match retry(|| {
                recv(self.descriptor.as_raw_fd(), &mut self.buffer, MsgFlags::empty())
            }) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(notices),
                other => other?,
            };
            for message in messages(&self.buffer[..length]) {
                let Message { kind, port, payload, .. } = message?;
                notices.push(Heard { kind, port, payload: payload.to_vec() });
            }
        }
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Sends all requests as one datagram. Each must carry [`ACK`]; one refused does not stop those after it,
    /// unless the family says so (a batch of nfnetlink is all or nothing).
    pub fn exchange(&mut self, requests: &[Request]) -> io::Result<Replies> {
        self.insist(|socket| socket.exchange_once(requests))
    }

    /// Asks for a whole table.
    pub fn dump(&mut self, kind: u16, payload: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let request = [Request { kind, flags: REQUEST | DUMP, payload: payload.to_vec() }];
        self.insist(|socket| socket.exchange_once(&request))?.except(&[])
    }

    fn insist(
        &mut self,
        mut ask: impl FnMut(&mut Socket) -> io::Result<Replies>,
    ) -> io::Result<Replies> {
        for _ in 1..ATTEMPTS {
            match ask(self) {
                Err(error) if lost(&error) => {}
                other => return other,
            }
        }
        ask(self)
    }

    fn exchange_once(&mut self, requests: &[Request]) -> io::Result<Replies> {
        let first = self.sequence.wrapping_add(1);
        let datagram = encode(requests, first);
        self.sequence = self.sequence.wrapping_add(requests.len() as u32);
        // A batch must fit whole (EMSGSIZE), so large ones need room; the kernel counts its own overhead, too.
        if datagram.len() > ORDINARY {
            let _ = setsockopt(&self.descriptor, sockopt::SndBufForce, &(2 * datagram.len()));
        }
        retry(|| send(self.descriptor.as_raw_fd(), &datagram, MsgFlags::empty()))?;
        let mut waiting: Vec<bool> =
            requests.iter().map(|request| request.flags & (ACK | DUMP) != 0).collect();
        let mut replies = Replies::default();
        let mut is_cut = false;
        while waiting.contains(&true) {
            let length =
                retry(|| recv(self.descriptor.as_raw_fd(), &mut self.buffer, MsgFlags::empty()))?;
            for message in messages(&self.buffer[..length]) {
                let message = message?;
                let place = message.sequence.wrapping_sub(first) as usize;
                if place >= requests.len() {
                    continue; // The late answer of an attempt that was given up.
                }
                is_cut |= message.flags & DUMP_INTERRUPTED != 0;
                match message.kind {
                    ERROR | DONE => {
                        waiting[place] = false;
                        let errno = message
                            .payload
                            .first_chunk::<4>()
                            .map_or(0, |code| i32::from_ne_bytes(*code).saturating_neg());
                        if errno > 0 {
                            replies.refused.push((place, Errno::from_raw(errno)));
                            // The border of a batch is answered only when the whole batch failed; nothing follows.
                            if requests[place].flags & (ACK | DUMP) == 0 {
                                waiting.fill(false);
                            }
                        }
                    }
                    _ => replies.payloads.push(message.payload.to_vec()), // Every other type is an answer.
                }
            }
        }
        // Not before its end: as long as one table is being told, the kernel refuses to tell another (EBUSY).
        if is_cut {
            return Err(Errno::EINTR.into());
        }
        replies.refused.sort_by_key(|(place, _)| *place);
        Ok(replies)
    }
}

/// What a socket may hold until it is read.
#[cfg(not(test))]
fn room(wanted: usize, _narrow: usize) -> usize {
    wanted
}

/// Less on a test's host that has this file.
#[cfg(test)]
pub const NARROW: &str = "/tmp/narrow";

#[cfg(test)]
fn room(wanted: usize, narrow: usize) -> usize {
    if std::path::Path::new(NARROW).exists() { narrow } else { wanted }
}

fn lost(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .is_some_and(|raw| matches!(Errno::from_raw(raw), Errno::ENOBUFS | Errno::EINTR))
}

fn retry(mut call: impl FnMut() -> nix::Result<usize>) -> io::Result<usize> {
    // A signal may come at any time, a storm of them may not keep us here for ever.
    for _ in 0..1000 {
        match call() {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
    Err(Errno::EINTR.into())
}

/// Lays the requests out as they travel, numbered from `first`.
pub fn encode(requests: &[Request], first: u32) -> Vec<u8> {
    let mut datagram =
        Vec::with_capacity(requests.iter().map(|request| HEADER + request.payload.len() + 3).sum());
    for (place, request) in requests.iter().enumerate() {
        let length = (HEADER + request.payload.len()) as u32;
        datagram.extend_from_slice(&length.to_ne_bytes());
        datagram.extend_from_slice(&request.kind.to_ne_bytes());
        datagram.extend_from_slice(&request.flags.to_ne_bytes());
        datagram.extend_from_slice(&first.wrapping_add(place as u32).to_ne_bytes());
        datagram.extend_from_slice(&0u32.to_ne_bytes());
        datagram.extend_from_slice(&request.payload);
        datagram.resize(datagram.len().next_multiple_of(4), 0);
    }
    datagram
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    payload: &'a [u8],
}

fn messages(mut datagram: &[u8]) -> impl Iterator<Item = io::Result<Message<'_>>> {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let parsed = message(datagram);
        datagram = match &parsed {
            Some(found) => {
                let taken = (HEADER + found.payload.len()).next_multiple_of(4);
                datagram.get(taken..).unwrap_or_default()
            }
            None => &[],
        };
        Some(parsed.ok_or_else(|| io::Error::from(Errno::EBADMSG)))
    })
}

fn message(datagram: &[u8]) -> Option<Message<'_>> {
    let header = datagram.first_chunk::<HEADER>()?;
    let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
    Some(Message {
        kind: u16::from_ne_bytes([header[4], header[5]]),
        flags: u16::from_ne_bytes([header[6], header[7]]),
        sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
        port: u32::from_ne_bytes([header[12], header[13], header[14], header[15]]),
        payload: datagram.get(HEADER..length)?,
    })
}
