//! Notices when somebody else changes our table, and tells that it was put back; and when the rules of others change,
//! after which pods' packets may no longer pass.
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
use std::time::{Duration, Instant};

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

/// Kinds up to this one are tables, chains and rules; after them come sets and what is in them.
const LAST_OF_RULES: u16 = NFTABLES | 8;
/// Tables that this program makes, of whichever instance.
const TABLES_OF_ALL: &[u8] = b"joey_";

/// A firewall that starts writes its rules in many transactions: it is done when it has been quiet for so long,
const QUIET: Duration = Duration::from_secs(1);
/// or has not been quiet for so long, which is also how often is tried at most.
const RESTLESS: Duration = Duration::from_secs(10);

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
        let mut sieve = Sieve::new(table, own);
        let mut settling = Settling::default();
        // False when the owner has gone.
        let tell = |command: Command| {
            commands.upgrade().is_some_and(|owner| owner.blocking_send(command).is_ok())
        };
        loop {
            match wait(&socket, &alive, settling.due()) {
                Woken::Ended => return,
                Woken::InTime => {
                    settling.tried(Instant::now());
                    if !tell(Command::Probe) {
                        return;
                    }
                }
                Woken::Told => {
                    let found: Vec<Found> = match socket.heard() {
                        Ok(heard) => heard.iter().flat_map(|one| sieve.take(one)).collect(),
                        // Something was lost, nobody knows what.
                        Err(_) => vec![Found::Ours(None), Found::Others],
                    };
                    for found in found {
                        match found {
                            Found::Others => settling.changed(Instant::now()),
                            Found::Ours(generation) => {
                                if !tell(Command::Changed { generation }) {
                                    return;
                                }
                            }
                        }
                    }
                }
            }
        }
    })?;
    Ok(())
}

enum Woken {
    Told,
    /// It was quiet until then.
    InTime,
    /// The owner has gone, or nothing can be heard any more.
    Ended,
}

fn wait(socket: &Socket, alive: &OwnedFd, until: Option<Instant>) -> Woken {
    let mut entries = [
        PollFd::new(socket.as_fd(), PollFlags::POLLIN),
        PollFd::new(alive.as_fd(), PollFlags::POLLIN),
    ];
    let limit = until.map(|until| until.saturating_duration_since(Instant::now()));
    // Rounded up: it is not asked again a moment before.
    let limit = limit.map_or(PollTimeout::NONE, |limit| {
        PollTimeout::try_from(limit.as_millis() + 1).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut entries, limit) {
        Ok(0) => Woken::InTime,
        Ok(_) | Err(Errno::EINTR) => {
            match entries[1].revents().is_none_or(|happened| happened.is_empty()) {
                true => Woken::Told,
                false => Woken::Ended,
            }
        }
        Err(error) => {
            tracing::error!(%error, "changes of the rules by others go unnoticed from here on");
            Woken::Ended
        }
    }
}

/// When rules of others that have changed are to be tried.
#[derive(Debug, Default)]
struct Settling {
    /// The first change that was not tried yet, and the last.
    changed: Option<(Instant, Instant)>,
    tried: Option<Instant>,
}

impl Settling {
    fn changed(&mut self, now: Instant) {
        self.changed = Some((self.changed.map_or(now, |(first, _)| first), now));
    }

    fn tried(&mut self, now: Instant) {
        *self = Settling { changed: None, tried: Some(now) };
    }

    fn due(&self) -> Option<Instant> {
        let (first, last) = self.changed?;
        let settled = (last + QUIET).min(first + RESTLESS);
        Some(self.tried.map_or(settled, |tried| settled.max(tried + RESTLESS)))
    }
}

/// Picks transactions of others.
struct Sieve {
    table: String,
    own: u32,
    /// Something of the transaction that is being told touches our table,
    touches_ours: bool,
    /// or rules of other programs.
    touches_others: bool,
}

/// What a transaction of somebody else did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Changed our table; the generation that it has made, unless nobody knows.
    Ours(Option<u32>),
    /// Changed rules of others.
    Others,
}

impl Sieve {
    fn new(table: String, own: u32) -> Sieve {
        Sieve { table, own, touches_ours: false, touches_others: false }
    }

    fn take(&mut self, heard: &Heard) -> Vec<Found> {
        let attributes = heard.payload.get(4..).unwrap_or_default();
        if heard.kind != NEW_GENERATION {
            let name = find(attributes, 1).unwrap_or_default();
            let name = name.strip_suffix(&[0]).unwrap_or(name);
            self.touches_ours |= name == self.table.as_bytes();
            self.touches_others |= heard.kind <= LAST_OF_RULES && !name.starts_with(TABLES_OF_ALL);
            return Vec::new();
        }
        let (ours, others) = (
            std::mem::take(&mut self.touches_ours) && heard.port != self.own,
            std::mem::take(&mut self.touches_others),
        );
        let generation = find(attributes, 1).and_then(|bytes| bytes.first_chunk());
        let ours = generation
            .filter(|_| ours)
            .map(|generation| Found::Ours(Some(u32::from_be_bytes(*generation))));
        ours.into_iter().chain(others.then_some(Found::Others)).collect()
    }
}

/// Tells with Events on the node and counts, until cancelled.
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
    let broken = registry.gauges(
        "joey_network_rules_broken",
        "1 while the instance's nftables table is not as it should be and cannot be put back.",
        &[],
    );
    let broken = broken.with(&[]);
    let warn = |reason: &'static str, message: String| {
        recorder.note(Note {
            // A node's uid in references is its name, as the kubelet has it.
            about: events::about("Node", None, &node, Some(node.clone())),
            kind: Kind::Warning,
            reason: reason.into(),
            message,
        });
    };
    let (mut times, mut reason) = (network.restored(), network.broken());
    // It may have been so before anybody listened.
    reason.mark_changed();
    let mut told = 0;
    let work = async {
        loop {
            let change = tokio::select! {
                change = times.changed() => change,
                change = reason.changed() => change,
            };
            if change.is_err() {
                return;
            }
            let why = reason.borrow_and_update().clone();
            let was_broken = broken.get() == 1;
            broken.set(why.is_some().into());
            if let Some(why) = why.filter(|_| !was_broken) {
                let message = format!(
                    "Another program changed or flushed the cluster's nftables table, and it cannot be put back: {why}. \
                     Pods are cut off; it is tried again until it can"
                );
                warn("NetworkRulesBroken", message);
            }
            let now = *times.borrow_and_update();
            restored.add(now - told);
            if now > told {
                let message = "Another program changed or flushed the cluster's nftables table; it has been put back. \
                    No packet of a pod was forwarded while it was gone";
                warn("NetworkRulesRestored", message.to_owned());
            }
            told = now;
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
    fn what_others_do_to_our_table_and_to_their_own_rules_is_told() {
        const NEW_RULE: u16 = NFTABLES | 6;
        const DELETE_TABLE: u16 = NFTABLES | 2;
        const NEW_MEMBER: u16 = NFTABLES | 12;
        let end = |port| heard(NEW_GENERATION, port, &7u32.to_be_bytes());
        let ours = Found::Ours(Some(7));
        for (told, expected) in [
            (vec![heard(DELETE_TABLE, 9, b"joey_abc123\0"), end(9)], vec![ours]),
            (vec![heard(DELETE_TABLE, 9, b"joey_abc1234\0"), end(9)], vec![]),
            (vec![heard(DELETE_TABLE, 1, b"joey_abc123\0"), end(1)], vec![]),
            (vec![heard(DELETE_TABLE, 9, b"joey_abc123\0"), end(9), end(9)], vec![ours]),
            (vec![heard(NEW_RULE, 9, b"filter\0"), end(9), end(9)], vec![Found::Others]),
            (vec![heard(NEW_MEMBER, 9, b"filter\0"), end(9)], vec![]),
            (
                vec![
                    heard(DELETE_TABLE, 9, b"filter\0"),
                    heard(DELETE_TABLE, 9, b"joey_abc123\0"),
                    end(9),
                ],
                vec![ours, Found::Others],
            ),
        ] {
            let mut sieve = Sieve::new("joey_abc123".to_owned(), 1);
            let found: Vec<_> = told.iter().flat_map(|one| sieve.take(one)).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn rules_are_tried_when_they_have_settled_and_not_too_often() {
        let begin = Instant::now();
        let second = |number: u64| begin + Duration::from_secs(number);
        let mut settling = Settling::default();
        assert_eq!(settling.due(), None);
        settling.changed(second(0));
        assert_eq!(settling.due(), Some(second(1)));
        settling.changed(second(1));
        assert_eq!(settling.due(), Some(second(2)), "one more change");
        settling.changed(second(30));
        assert_eq!(settling.due(), Some(second(10)), "it never settles");
        settling.tried(second(10));
        assert_eq!(settling.due(), None);
        settling.changed(second(11));
        assert_eq!(settling.due(), Some(second(20)));
        settling.changed(second(40));
        assert_eq!(settling.due(), Some(second(21)));
    }
}
