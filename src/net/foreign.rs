//! Notices when somebody else changes our table, and tells that it was put back.
//!
//! The kernel tells of every transaction: what it did, table by table, and at its end whose socket it came from. The
//! owner's own socket is known by its port; what the owner does through `nft` it knows by the ruleset's generation.
//!
//! ```text
//! NEWRULE │ DELTABLE │ … (1 table name …)   what a transaction did, one message each
//! NEWGEN (1 generation)                     its end
//! ```
//! It decides nothing: the owner does (`owner/restore`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::SockProtocol;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Network;
use super::netlink::{Heard, Socket};
use super::nfnetlink::find;
use super::owner::Command;
use crate::events::{self, Kind, Note, Recorder};
use crate::metrics::Registry;

/// `NFNLGRP_NFTABLES` is group 7 (nfnetlink.h).
const GROUP: u32 = 1 << (7 - 1);
const NFTABLES: u16 = 10 << 8;
const NEW_GENERATION: u16 = NFTABLES | 15;

/// A socket that hears of every transaction from now on.
pub fn listen() -> io::Result<Socket> {
    Socket::listen(SockProtocol::NetlinkNetFilter, GROUP)
}

/// Starts the thread that listens. What comes from the socket with port `own` is not told. It ends when the owner has
/// gone, which closes `alive`'s other end.
pub fn watch(
    mut socket: Socket,
    table: String,
    own: u32,
    commands: mpsc::WeakSender<Command>,
    alive: OwnedFd,
) -> io::Result<()> {
    thread::Builder::new().name("net-foreign".into()).spawn(move || {
        let mut sieve = Sieve { table, own, touches_ours: false };
        while wait(&socket, &alive) {
            let found = match socket.heard() {
                Ok(heard) => heard.iter().filter_map(|one| sieve.take(one)).map(Some).collect(),
                // Something was lost, nobody knows what.
                Err(_) => vec![None],
            };
            for generation in found {
                let Some(commands) = commands.upgrade() else { return };
                if commands.blocking_send(Command::Changed { generation }).is_err() {
                    return;
                }
            }
        }
    })?;
    Ok(())
}

/// False when the owner has gone.
fn wait(socket: &Socket, alive: &OwnedFd) -> bool {
    let mut entries = [
        PollFd::new(socket.as_fd(), PollFlags::POLLIN),
        PollFd::new(alive.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut entries, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => {
            entries[1].revents().is_none_or(|happened| happened.is_empty())
        }
        Err(error) => {
            tracing::error!(%error, "changes of the rules by others go unnoticed from here on");
            false
        }
    }
}

/// Picks transactions of others that touch our table.
struct Sieve {
    table: String,
    own: u32,
    /// Something of the transaction that is being told does.
    touches_ours: bool,
}

impl Sieve {
    /// The generation that such a transaction has made.
    fn take(&mut self, heard: &Heard) -> Option<u32> {
        let attributes = heard.payload.get(4..).unwrap_or_default();
        if heard.kind != NEW_GENERATION {
            let name = find(attributes, 1).unwrap_or_default();
            self.touches_ours |= name.strip_suffix(&[0]).unwrap_or(name) == self.table.as_bytes();
            return None;
        }
        let is_told = std::mem::take(&mut self.touches_ours) && heard.port != self.own;
        let generation = find(attributes, 1)?.first_chunk()?;
        is_told.then_some(u32::from_be_bytes(*generation))
    }
}

/// Tells with an Event on the node and counts, until cancelled.
pub async fn tell(
    network: Network,
    recorder: Recorder,
    registry: Registry,
    node: String,
    stop: CancellationToken,
) {
    let restored = registry.counters(
        "joey_network_rules_restored_total",
        "How often another program changed the instance's nftables table and it was put back.",
        &[],
    );
    let restored = restored.with(&[]);
    let mut times = network.restored();
    let mut told = 0;
    let work = async {
        while times.changed().await.is_ok() {
            let now = *times.borrow_and_update();
            restored.add(now.saturating_sub(told));
            told = now;
            recorder.note(Note {
                // A node's uid in references is its name, as the kubelet has it.
                about: events::about("Node", None, &node, Some(node.clone())),
                kind: Kind::Warning,
                reason: "NetworkRulesRestored",
                message: "Another program changed or flushed the cluster's nftables table; it has been put back. \
                    No packet of a pod was forwarded while it was gone"
                    .to_owned(),
            });
        }
    };
    stop.run_until_cancelled(work).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(kind: u16, port: u32, attribute: &[u8]) -> Heard {
        let length = (attribute.len() + 4) as u16;
        let header = [0, 0, 0, 0, length.to_ne_bytes()[0], length.to_ne_bytes()[1], 1, 0];
        Heard { kind, port, payload: [&header, attribute].concat() }
    }

    #[test]
    fn only_what_others_do_to_our_table_is_told() {
        const DELETE_TABLE: u16 = NFTABLES | 2;
        let end = |port| heard(NEW_GENERATION, port, &7u32.to_be_bytes());
        for (told, expected) in [
            (vec![heard(DELETE_TABLE, 9, b"joey_abc123\0"), end(9)], vec![7]),
            (vec![heard(DELETE_TABLE, 9, b"joey_abc1234\0"), end(9)], vec![]),
            (vec![heard(DELETE_TABLE, 1, b"joey_abc123\0"), end(1)], vec![]),
            (vec![heard(DELETE_TABLE, 9, b"joey_abc123\0"), end(9), end(9)], vec![7]),
            (
                vec![
                    heard(DELETE_TABLE, 9, b"filter\0"),
                    heard(DELETE_TABLE, 9, b"joey_abc123\0"),
                    end(9),
                ],
                vec![7],
            ),
        ] {
            let mut sieve = Sieve { table: "joey_abc123".to_owned(), own: 1, touches_ours: false };
            let found: Vec<_> = told.iter().filter_map(|one| sieve.take(one)).collect();
            assert_eq!(found, expected);
        }
    }
}
