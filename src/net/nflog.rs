//! What rules log (`log group …`), packet by packet, from the kernel.
//!
//! Layout of nfnetlink_log.h; integers of the payload are big-endian, attribute headers are not:
//!
//! ```text
//! CONFIG  family, version, group │ 1 command │ 2 copy range, copy mode │ 4 patience │ 5 how many make a message
//! PACKET  family, version, group │ 10 prefix │ 9 the packet's first bytes
//! ```

use std::io;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::netlink::{ACK, Heard, REQUEST, Request, Socket};
use super::nfnetlink::{attribute, find};
use super::packet::Head;

const LOG: u16 = 4;
const PACKET: u16 = LOG << 8;
const CONFIG: u16 = LOG << 8 | 1;
/// `NFULNL_CFG_CMD_BIND`.
const BIND: u8 = 1;
/// `NFULNL_COPY_PACKET`.
const COPY_PACKET: u8 = 2;
/// Packets that make one message at most, and how long the first waits for the last, in hundredths of a second.
const TOGETHER: u32 = 16;
const PATIENCE: u32 = 5;

/// A packet, and what its rule says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    pub prefix: String,
    pub head: Head,
}

/// Hears what is logged to `group`, the first `bytes` of each packet. Reading never blocks.
///
/// # Errors
/// `EBUSY`: another program hears it already.
pub fn open(group: u16, bytes: u32) -> io::Result<Socket> {
    let mut socket = Socket::listen(SockProtocol::NetlinkNetFilter, 0)?;
    socket.exchange(&[bind(group)])?.except(&[])?;
    socket.exchange(&[configure(group, bytes)])?.except(&[])?;
    Ok(socket)
}

fn request(group: u16) -> Request {
    let [high, low] = group.to_be_bytes();
    Request { kind: CONFIG, flags: REQUEST | ACK, payload: vec![0, 0, high, low] }
}

fn bind(group: u16) -> Request {
    let mut request = request(group);
    attribute(&mut request.payload, 1, |out| out.push(BIND));
    request
}

fn configure(group: u16, bytes: u32) -> Request {
    let mut request = request(group);
    attribute(&mut request.payload, 2, |out| {
        out.extend_from_slice(&bytes.to_be_bytes());
        out.extend_from_slice(&[COPY_PACKET, 0]);
    });
    attribute(&mut request.payload, 4, |out| out.extend_from_slice(&PATIENCE.to_be_bytes()));
    attribute(&mut request.payload, 5, |out| out.extend_from_slice(&TOGETHER.to_be_bytes()));
    request
}

/// The packets that have come since.
pub fn take(socket: &mut Socket) -> Vec<Logged> {
    match socket.heard() {
        Ok(heard) => heard.iter().filter_map(read).collect(),
        Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => Vec::new(),
        Err(error) => {
            tracing::debug!(%error, "reading what rules log");
            Vec::new()
        }
    }
}

fn read(heard: &Heard) -> Option<Logged> {
    let attributes = heard.payload.get(4..).filter(|_| heard.kind == PACKET)?;
    let prefix = find(attributes, 10)?;
    let prefix = prefix.strip_suffix(&[0]).unwrap_or(prefix);
    let head = Head::read(find(attributes, 9)?)?;
    Some(Logged { prefix: String::from_utf8_lossy(prefix).into_owned(), head })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_are_laid_out_as_the_kernel_reads_them() {
        assert_eq!(bind(0x4a59).payload, [0, 0, 0x4a, 0x59, 5, 0, 1, 0, 1, 0, 0, 0]);
        let payload = configure(0x4a59, 64).payload;
        assert_eq!(payload[4..16], [10, 0, 2, 0, 0, 0, 0, 64, 2, 0, 0, 0]);
        assert_eq!(payload[16..], [8, 0, 4, 0, 0, 0, 0, 5, 8, 0, 5, 0, 0, 0, 0, 16]);
    }

    proptest! {
        #[test]
        fn no_message_is_too_strange(payload in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = read(&Heard { kind: PACKET, port: 0, payload });
        }
    }
}
