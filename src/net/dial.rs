//! Connections to a port of a pod: from inside, as port-forward needs them, and from the node, as probes and the API's proxy do.
//!
//! Inside, the socket is made in the pod's namespace by a thread that ends there; afterwards it is used like any other.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpSocket;

use super::names::{PROBE_MARK, PROXY_MARK};
use crate::sys::netns;

/// On loopback a live listener answers at once; a full backlog may take a retransmission or two.
const DEADLINE: Duration = Duration::from_secs(5);

/// Connects to 127.0.0.1, then ::1, at `port` in the namespace pinned at `netns`.
///
/// The error is the first address's.
pub async fn dial(netns: &Path, port: u16) -> io::Result<tokio::net::TcpStream> {
    let netns = PathBuf::from(netns);
    let stream = tokio::task::spawn_blocking(move || netns::enter_path(&netns, || connect(port)))
        .await
        .map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    tokio::net::TcpStream::from_std(stream)
}

/// Connects from the node's own namespace with [`PROBE_MARK`] on the socket and so on every packet of it.
pub async fn dial_as_probe(address: SocketAddr) -> io::Result<tokio::net::TcpStream> {
    dial_marked(address, PROBE_MARK).await
}

/// As [`dial_as_probe`] with [`PROXY_MARK`]: for those who have asked [`super::Network::permits_through`] before.
pub async fn dial_as_proxy(address: SocketAddr) -> io::Result<tokio::net::TcpStream> {
    dial_marked(address, PROXY_MARK).await
}

async fn dial_marked(address: SocketAddr, mark: u32) -> io::Result<tokio::net::TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    setsockopt(&socket, sockopt::Mark, &mark)?;
    socket.connect(address).await
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let first = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let second = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&first, DEADLINE)
        .or_else(|error| TcpStream::connect_timeout(&second, DEADLINE).map_err(|_| error))
}
