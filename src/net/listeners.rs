//! Which TCP ports of a network namespace are listened on: socket diagnosis (sock_diag(7)).
//!
//! It asks the kernel in short intervals, since nothing tells when somebody begins to listen; a listener on
//! loopback alone does not count, because nobody outside reaches it.
//!
//! ```text
//! request = family, protocol, extensions, pad, states (u32), id (48 bytes of zeros: any)
//! answer  = family, state, timer, retransmits, id { source port (be16), destination port,
//!           source (16 bytes), … }, …
//! ```

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::socket::SockProtocol;

use super::netlink::Socket;
use crate::sys::netns;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const TCP: u8 = 6;
/// `1 << TCP_LISTEN`.
const LISTENING: u32 = 1 << 10;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Between two looks: short while a process starts, longer when it takes its time.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Waits until every port is listened on in the namespace pinned at `netns` (`None`: the caller's own), `limit` at
/// most. False when it was the limit.
pub async fn until_listening(
    netns: Option<PathBuf>,
    ports: &[u16],
    limit: Duration,
) -> io::Result<bool> {
    let open = move || match &netns {
        Some(netns) => netns::enter_path(netns, || Socket::open(SockProtocol::NetlinkSockDiag)),
        None => Socket::open(SockProtocol::NetlinkSockDiag),
    };
    // The socket stays in the namespace that it was made in.
    let mut socket = tokio::task::spawn_blocking(open).await.map_err(io::Error::other)??;
    let end = tokio::time::Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    loop {
        let open = listening(&mut socket)?;
        if ports.iter().all(|port| open.contains(port)) {
            return Ok(true);
        }
        let now = tokio::time::Instant::now();
        if now >= end {
            return Ok(false);
        }
        tokio::time::sleep(pause.min(end - now)).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// Answered by the kernel within the call, in microseconds: a namespace has few listeners.
fn listening(socket: &mut Socket) -> io::Result<BTreeSet<u16>> {
    let mut ports = BTreeSet::new();
    for family in [AF_INET, AF_INET6] {
        let mut request = vec![family, TCP, 0, 0];
        request.extend_from_slice(&LISTENING.to_ne_bytes());
        request.resize(56, 0);
        let answers = socket.dump(SOCK_DIAG_BY_FAMILY, &request)?;
        ports.extend(answers.iter().filter_map(|answer| reachable(answer)));
    }
    Ok(ports)
}

/// The port of a listener that others can reach.
fn reachable(answer: &[u8]) -> Option<u16> {
    let family = *answer.first()?;
    let port = u16::from_be_bytes(*answer.get(4..)?.first_chunk()?);
    let source = answer.get(8..24)?;
    let address = match family {
        AF_INET => IpAddr::V4(Ipv4Addr::from(*source.first_chunk::<4>()?)),
        AF_INET6 => IpAddr::V6(Ipv6Addr::from(*source.first_chunk::<16>()?)),
        _ => return None, // Nothing else was asked for.
    };
    (!address.to_canonical().is_loopback()).then_some(port)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    use super::super::tests::machine::on_a_host;

    #[test]
    fn a_listener_is_seen_once_it_listens_unless_only_loopback_reaches_it() {
        on_a_host(async |_host| {
            let mut socket = Socket::open(SockProtocol::NetlinkSockDiag).unwrap();
            assert_eq!(listening(&mut socket).unwrap(), BTreeSet::new());
            let held = ["0.0.0.0:80", "[::]:81", "127.0.0.1:82", "[::1]:83"]
                .map(|address| std::net::TcpListener::bind(address).unwrap());
            assert_eq!(listening(&mut socket).unwrap(), BTreeSet::from([80, 81]));
            drop(held);
            assert_eq!(listening(&mut socket).unwrap(), BTreeSet::new());
        });
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = reachable(&bytes);
        }
    }
}
