//! One attempt to connect from inside a pod, and where its first packet was seen.
//!
//! Packet sockets (packet(7)) look into the namespaces that the packet may reach, and at the host's links. They see what
//! has passed every rule on the way in, and change nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, connect,
    getsockname, getsockopt, recv, recvfrom, send, socket, sockopt,
};

use super::Protocol;
use super::names::LINKS_OF_ALL;
use super::packet::{Head, Speaks};
use crate::sys::netns;

/// A refusal comes at once; an answer from the world may take a moment.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much of a packet tells who sends what.
const BYTES: usize = 128;
/// `PACKET_OUTGOING` of linux/if_packet.h.
const OUTGOING: u8 = 4;

/// What is to be tried.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Pinned namespace of the pod that connects.
    pub from: PathBuf,
    pub to: SocketAddrV4,
    pub protocol: Protocol,
    /// Pinned namespaces of those who may get the packet, with the address and port where they would.
    pub watched: Vec<(PathBuf, SocketAddr)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub outcome: Outcome,
    /// Which of the watched got the first packet.
    pub arrived: Option<SocketAddr>,
    /// The link by which it left the host.
    pub left_by: Option<String>,
}

/// What the pod's own socket says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A connection, or an answer to a datagram.
    Answered,
    /// A reset, or "port unreachable".
    Refused,
    /// "Administratively prohibited" or "unreachable".
    Unreachable,
    Silence,
}

/// Tries, and blocks for two seconds at most.
///
/// # Errors
/// A namespace cannot be entered, or the kernel does not speak the protocol.
pub fn attempt(attempt: &Attempt) -> io::Result<Seen> {
    let watches = attempt
        .watched
        .iter()
        .map(|(pin, at)| Ok((netns::enter_path(pin, watch)?, *at)))
        .collect::<io::Result<Vec<_>>>()?;
    let outside = watch()?;
    let (outcome, own) =
        netns::enter_path(&attempt.from, || try_once(attempt.to, attempt.protocol))?;
    let mut seen = Seen { outcome, arrived: None, left_by: None };
    for (watch, at) in &watches {
        let is_it = |head: &Head| is_from(head, own, attempt.protocol, *at);
        if packets(watch)?.iter().any(|(head, _)| is_it(head)) {
            seen.arrived = Some(*at);
        }
    }
    let links = nix::net::if_::if_nameindex()?;
    for (head, link) in packets(&outside)? {
        let name = links.iter().find(|one| one.index() == link.index);
        let name = name.map(|one| one.name().to_string_lossy().into_owned()).unwrap_or_default();
        let to = SocketAddr::V4(attempt.to);
        if link.is_outgoing && !name.starts_with(LINKS_OF_ALL) && is_to(&head, attempt.protocol, to)
        {
            seen.left_by = Some(name);
        }
    }
    Ok(seen)
}

/// The pod keeps its address inside the cluster, except towards itself.
fn is_from(head: &Head, own: SocketAddrV4, protocol: Protocol, at: SocketAddr) -> bool {
    let is_own = head.source == IpAddr::V4(*own.ip()) || at.ip() == IpAddr::V4(*own.ip());
    is_own && is_to(head, protocol, at)
}

fn is_to(head: &Head, protocol: Protocol, at: SocketAddr) -> bool {
    let asks = |speaks| match speaks {
        Speaks::Ports { protocol: spoken, destination, .. } => {
            spoken == protocol && destination == at.port()
        }
        Speaks::Echo | Speaks::Other(_) => false,
    };
    head.destination == at.ip() && asks(head.speaks)
}

fn watch() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll)?)
}

struct Link {
    index: u32,
    is_outgoing: bool,
}

/// What has been seen so far.
fn packets(watch: &OwnedFd) -> io::Result<Vec<(Head, Link)>> {
    let mut packets = Vec::new();
    let mut buffer = [0; BYTES];
    loop {
        match recvfrom::<LinkAddr>(watch.as_raw_fd(), &mut buffer) {
            Ok((length, from)) => {
                let link = from.map_or(Link { index: 0, is_outgoing: false }, |link| Link {
                    index: u32::try_from(link.ifindex()).unwrap_or_default(),
                    is_outgoing: link.pkttype() == OUTGOING,
                });
                packets.extend(Head::read(&buffer[..length.min(BYTES)]).map(|head| (head, link)));
            }
            Err(Errno::EAGAIN) => return Ok(packets),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What became of it, and the pod's end.
fn try_once(to: SocketAddrV4, protocol: Protocol) -> io::Result<(Outcome, SocketAddrV4)> {
    let (kind, number) = match protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
        Protocol::Sctp => (SockType::Stream, SockProtocol::Sctp),
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, kind, flags, number)?;
    let mut outcome = match connect(socket.as_raw_fd(), &SockaddrIn::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => None,
        Err(error) => Some(outcome_of(error)?),
    };
    let own = getsockname::<SockaddrIn>(socket.as_raw_fd())
        .map_or(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), SocketAddrV4::from);
    let ready = match protocol {
        Protocol::Udp => {
            // Empty: nobody takes it for a request.
            if let Err(error) = send(socket.as_raw_fd(), &[], MsgFlags::empty()) {
                outcome = Some(outcome_of(error)?);
            }
            PollFlags::POLLIN
        }
        Protocol::Tcp | Protocol::Sctp => PollFlags::POLLOUT,
    };
    let outcome = match outcome {
        Some(outcome) => outcome,
        None if wait(&socket, ready)? => {
            match Errno::from_raw(getsockopt(&socket, sockopt::SocketError)?) {
                Errno::UnknownErrno if protocol != Protocol::Udp => Outcome::Answered,
                Errno::UnknownErrno => {
                    match recv(socket.as_raw_fd(), &mut [0; BYTES], MsgFlags::empty()) {
                        Ok(_) => Outcome::Answered,
                        Err(error) => outcome_of(error)?,
                    }
                }
                error => outcome_of(error)?,
            }
        }
        None => Outcome::Silence,
    };
    Ok((outcome, own))
}

fn wait(socket: &OwnedFd, ready: PollFlags) -> io::Result<bool> {
    let end = Instant::now() + PATIENCE;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(socket.as_fd(), ready)], left) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn outcome_of(error: Errno) -> io::Result<Outcome> {
    match error {
        Errno::ECONNREFUSED => Ok(Outcome::Refused),
        Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EACCES | Errno::EPERM => {
            Ok(Outcome::Unreachable)
        }
        Errno::ETIMEDOUT => Ok(Outcome::Silence),
        other => Err(other.into()),
    }
}

/// Where the namespace of a pod is pinned.
pub fn pin(run_dir: &Path, uid: &str) -> PathBuf {
    run_dir.join("netns").join(uid)
}
