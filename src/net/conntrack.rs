//! Flows that the kernel remembers: forgotten when the translation or the policy they were made under changes, waited
//! for when a pod leaves.
//!
//! Translation is decided once a flow, and so is admission. A UDP client that keeps sending from one port would reach a pod that is gone
//! (or, from before the pod came, nobody) for as long as it sends. TCP notices by itself. Who walks through the table, and when, is the
//! owner's (`owner/ends`, `owner/sweep`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use nix::errno::Errno;
use tokio::sync::Semaphore;

use super::host_port::Lease;
use super::netlink::{ACK, REQUEST, Request, Socket};
use super::nfnetlink::find;
use super::{HostPort, Protocol, nfnetlink, part};
use crate::model::cidr::Cidr;

/// ctnetlink's messages (nfnetlink_conntrack.h).
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
/// nfgenmsg: AF_INET, version, resource.
const FAMILY: [u8; 4] = [2, 0, 0, 0];
const NESTED: u16 = 0x8000;

/// A flow as conntrack keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// IANA's number.
    pub protocol: u8,
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    /// Where it was sent to; `None` where the protocol has no ports.
    pub port: Option<u16>,
    /// Who answers: another than `to` when translated.
    pub answered_by: Ipv4Addr,
    pub answered_at: Option<u16>,
    /// To whom answers go: another than `from` when masqueraded.
    pub answered_to: Ipv4Addr,
    pub answered_to_port: Option<u16>,
    pub icmp_type: Option<u8>,
    pub mark: u32,
    /// `TCP_CONNTRACK_…`; 0 of other protocols.
    pub tcp_state: u8,
    /// The original tuple as the kernel wrote it, which names the flow.
    tuple: Vec<u8>,
}

#[cfg(test)]
impl Flow {
    /// Straight to `to`.
    pub fn tcp(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Flow {
        Flow {
            protocol: 6,
            from,
            to,
            port: Some(port),
            answered_by: to,
            answered_at: Some(port),
            answered_to: from,
            answered_to_port: Some(40_000),
            icmp_type: None,
            mark: 0,
            tcp_state: 3,
            tuple: Vec::new(),
        }
    }
}

/// Flows without connections to Services that lead to nobody who serves: those of the range, and those to ports of the host.
#[derive(Debug)]
pub struct Strays {
    services: Cidr,
    /// By protocol, address and port.
    served: BTreeMap<(u8, Option<IpAddr>, u16), BTreeSet<IpAddr>>,
    node_ports: BTreeSet<(u8, u16)>,
    known: BTreeSet<IpAddr>,
}

impl Strays {
    /// Where `served` is led to, and `gone` was before.
    pub fn of<'a>(
        services: Cidr,
        served: impl Iterator<Item = &'a part::Flow>,
        gone: &BTreeSet<&part::Flow>,
    ) -> Strays {
        let mut strays = Strays {
            services,
            served: BTreeMap::new(),
            node_ports: BTreeSet::new(),
            known: BTreeSet::new(),
        };
        for flow in served {
            let key = (nfnetlink::number(flow.protocol), flow.to, flow.port);
            strays.served.entry(key).or_default().insert(flow.backend);
            strays.know(flow);
        }
        gone.iter().for_each(|flow| strays.know(flow));
        strays
    }

    fn know(&mut self, flow: &part::Flow) {
        self.known.insert(flow.backend);
        if flow.to.is_none() {
            self.node_ports.insert((nfnetlink::number(flow.protocol), flow.port));
        }
    }

    /// Whether `flow` is one.
    pub fn have(&self, flow: &Flow) -> bool {
        let (to, by) = (IpAddr::V4(flow.to), IpAddr::V4(flow.answered_by));
        let is_served = |to: Option<IpAddr>| {
            flow.port.is_some_and(|port| {
                self.served.get(&(flow.protocol, to, port)).is_some_and(|all| all.contains(&by))
            })
        };
        if ![Protocol::Udp, Protocol::Sctp].map(nfnetlink::number).contains(&flow.protocol) {
            false
        } else if self.services.contains(to) {
            !is_served(Some(to))
        } else {
            // Also what went to the host itself before anybody served the port.
            flow.port.is_some_and(|port| self.node_ports.contains(&(flow.protocol, port)))
                && (to == by || self.known.contains(&by))
                && !self.known.contains(&to)
                && !is_served(None)
        }
    }
}

/// Forgets every flow that `is_over` says is; an error when the kernel keeps one of them, after all others have gone.
pub fn end(socket: &mut Socket, is_over: impl Fn(&Flow) -> bool) -> io::Result<()> {
    let over = those(socket, is_over)?;
    forget_all(socket, &over)
}

/// The flows of which `is_meant` is true.
pub fn those(socket: &mut Socket, is_meant: impl Fn(&Flow) -> bool) -> io::Result<Vec<Flow>> {
    let replies = socket.dump(GET, &FAMILY)?;
    let flows = replies.iter().filter_map(|reply| parse(reply.get(FAMILY.len()..)?));
    Ok(flows.filter(is_meant).collect())
}

/// Forgets `flows`; an error when the kernel keeps one of them, after all others have gone.
pub fn forget_all(socket: &mut Socket, flows: &[Flow]) -> io::Result<()> {
    let request = |flow: &Flow| Request {
        kind: DELETE,
        flags: REQUEST | ACK,
        payload: [&FAMILY[..], &flow.tuple].concat(),
    };
    let requests: Vec<Request> = flows.iter().map(request).collect();
    let mut outcome = Ok(());
    for some in requests.chunks(64) {
        // One that ended meanwhile is forgotten as well.
        let ended = socket.exchange(some)?.except(&[Errno::ENOENT]);
        outcome = outcome.and(ended.map(drop));
    }
    outcome
}

/// Between two looks at the table.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// `TCP_CONNTRACK_SYN_SENT` to `TCP_CONNTRACK_CLOSE_WAIT`: at least one side may still send.
const IN_USE: std::ops::RangeInclusive<u8> = 1..=5;

/// Who follows the pods' addresses by a watch of its own learns a moment later that one leaves: so long nobody may have
/// come anew.
const QUIET: Duration = Duration::from_millis(250);

/// What the table held.
struct Look {
    begun: tokio::time::Instant,
    /// TCP connections by who answers; the error in words.
    seen: Result<BTreeMap<Ipv4Addr, Vec<Connection>>, String>,
}

/// Looks at the table, one at a time: it may be large, and each look copies it. All who ask before one begins share it.
#[derive(Default)]
pub struct Looks(Arc<Turns>);

struct Turns {
    turn: Semaphore,
    /// The look that has not begun. Short sections only.
    next: Mutex<Option<SharedLook>>,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns { turn: Semaphore::new(1), next: Mutex::default() }
    }
}

type SharedLook = Shared<BoxFuture<'static, Arc<Look>>>;

impl Looks {
    /// Waits until no TCP connection to `address` is in use and nobody has come anew for a moment, `limit` at most; true when
    /// it is so. An address that nobody has talked to (for as long as the kernel remembers ended connections) is waited for not at all.
    /// Connections that the pod made itself do not count, nor do UDP flows, which only time ends.
    pub async fn drained(&self, address: IpAddr, limit: Duration) -> bool {
        let IpAddr::V4(address) = address else {
            return true;
        };
        let end = tokio::time::Instant::now() + limit;
        let mut visits = Visits::default();
        loop {
            let look = self.look().await;
            match &look.seen {
                Ok(connections) => {
                    let ours = connections.get(&address).map(Vec::as_slice).unwrap_or_default();
                    if visits.are_over(ours, look.begun) {
                        return true;
                    }
                }
                Err(error) => {
                    tracing::debug!(
                        error,
                        "connection tracking cannot be asked: nothing is waited for"
                    );
                    return true;
                }
            }
            let now = tokio::time::Instant::now();
            if now >= end {
                return false;
            }
            // A long table costs time; at most a tenth of it goes into looking.
            let pause = LOOK_EVERY.max((now - look.begun) * 9);
            tokio::time::sleep(pause.min(end - now)).await;
        }
    }

    /// A look that begins after this call.
    fn look(&self) -> SharedLook {
        let mut next = self.0.next.lock().unwrap_or_else(PoisonError::into_inner);
        next.get_or_insert_with(|| {
            // A task of its own: it ends also when whoever asked first asks no more.
            let look = tokio::spawn(Arc::clone(&self.0).begin());
            let look = look.map(|look| look.unwrap_or_else(|error| Arc::new(Look::failed(&error))));
            look.boxed().shared()
        })
        .clone()
    }
}

impl Turns {
    async fn begin(self: Arc<Self>) -> Arc<Look> {
        let _turn = self.turn.acquire().await;
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let begun = tokio::time::Instant::now();
        let seen = tokio::task::spawn_blocking(|| connections(&mut nfnetlink::open()?)).await;
        let seen = seen.map_err(io::Error::other).flatten();
        Arc::new(Look { begun, seen: seen.map_err(|error| error.to_string()) })
    }
}

impl Look {
    fn failed(error: &dyn std::fmt::Display) -> Look {
        Look { begun: tokio::time::Instant::now(), seen: Err(error.to_string()) }
    }
}

/// What was seen of the connections to an address.
#[derive(Default)]
struct Visits {
    known: BTreeSet<Vec<u8>>,
    /// When the last one was new; nothing before the first look.
    newest: Option<tokio::time::Instant>,
}

impl Visits {
    /// Whether nobody is there and nobody seems to come, as seen at `now`.
    fn are_over(&mut self, connections: &[Connection], now: tokio::time::Instant) -> bool {
        if connections.is_empty() && self.newest.is_none() {
            return true;
        }
        let is_in_use = connections.iter().any(|one| IN_USE.contains(&one.state));
        let tuples: BTreeSet<Vec<u8>> = connections.iter().map(|one| one.tuple.clone()).collect();
        let has_new = !tuples.is_subset(&self.known);
        self.known = tuples;
        let newest = if has_new { now } else { self.newest.unwrap_or(now) };
        self.newest = Some(newest);
        !is_in_use && now - newest >= QUIET
    }
}

/// A TCP connection as connection tracking names it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Connection {
    tuple: Vec<u8>,
    /// `TCP_CONNTRACK_…`
    state: u8,
}

/// TCP connections by who answers.
fn connections(socket: &mut Socket) -> io::Result<BTreeMap<Ipv4Addr, Vec<Connection>>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for flow in those(socket, |flow| flow.protocol == 6)? {
        let connection = Connection { tuple: flow.tuple, state: flow.tcp_state };
        found.entry(flow.answered_by).or_default().push(connection);
    }
    Ok(found)
}

/// Whether `flow` goes through a connectionless port of `lease` and its coming or going makes it wrong.
pub fn goes_wrong(flow: &Flow, lease: &Lease, is_leaving: bool) -> bool {
    let is_port = |port: &HostPort| {
        nfnetlink::number(port.protocol) == flow.protocol && Some(port.host_port) == flow.port
    };
    let is_ours = flow.answered_by == lease.address && flow.to != lease.address;
    // What pods send to others through the host is masqueraded, and goes there rightly.
    let is_astray =
        flow.answered_by == flow.to && flow.answered_to == flow.from && flow.to != lease.address;
    (if is_leaving { is_ours } else { is_astray }) && lease.connectionless().any(is_port)
}

fn parse(attributes: &[u8]) -> Option<Flow> {
    let original = find(attributes, 1)?;
    let reply = find(attributes, 2)?;
    let protocol = find(original, 2)?;
    let [asked, answer] = [find(original, 1)?, find(reply, 1)?];
    let port = |said, kind| Some(u16::from_be_bytes(*find(said, kind)?.first_chunk()?));
    let mark = find(attributes, 8).and_then(|mark| mark.first_chunk::<4>());
    let mut tuple = Vec::with_capacity(original.len() + 4);
    tuple.extend_from_slice(&((original.len() + 4) as u16).to_ne_bytes());
    tuple.extend_from_slice(&(1 | NESTED).to_ne_bytes());
    tuple.extend_from_slice(original);
    Some(Flow {
        protocol: *find(protocol, 1)?.first()?,
        from: address(find(asked, 1)?)?,
        to: address(find(asked, 2)?)?,
        port: port(protocol, 3),
        answered_by: address(find(answer, 1)?)?,
        answered_at: find(reply, 2).and_then(|said| port(said, 2)),
        answered_to: address(find(answer, 2)?)?,
        answered_to_port: find(reply, 2).and_then(|said| port(said, 3)),
        icmp_type: find(protocol, 5).and_then(|kind| kind.first().copied()),
        mark: mark.map_or(0, |mark| u32::from_be_bytes(*mark)),
        tcp_state: find(attributes, 4)
            .and_then(|protocol| find(find(protocol, 1)?, 1)?.first().copied())
            .unwrap_or_default(),
        tuple,
    })
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// When each look sees tuples with their states, whether the visits are over then.
    fn check(looks: &[(u64, &[(u8, u8)])], expected: &[bool]) {
        let start = tokio::time::Instant::now();
        let mut visits = Visits::default();
        let over: Vec<bool> = looks
            .iter()
            .map(|(at, seen)| {
                let connection =
                    |(tuple, state): &(u8, u8)| Connection { tuple: vec![*tuple], state: *state };
                let seen: Vec<Connection> = seen.iter().map(connection).collect();
                visits.are_over(&seen, start + Duration::from_millis(*at))
            })
            .collect();
        assert_eq!(over, expected, "{looks:?}");
    }

    #[test]
    fn a_pod_is_left_when_nobody_talks_to_it_and_nobody_has_come_for_a_moment() {
        const OPEN: u8 = 3;
        const TIME_WAIT: u8 = 7;
        // Nobody ever came.
        check(&[(0, &[])], &[true]);
        // An open connection is waited for, however long; an ended one for a moment.
        check(
            &[(0, &[(1, OPEN)]), (900, &[(1, OPEN)]), (950, &[(1, TIME_WAIT)])],
            &[false, false, true],
        );
        check(
            &[(0, &[(1, TIME_WAIT)]), (200, &[(1, TIME_WAIT)]), (250, &[(1, TIME_WAIT)])],
            &[false, false, true],
        );
        // A late one begins the moment anew, also when it has ended before it was seen.
        check(
            &[
                (0, &[(1, TIME_WAIT)]),
                (200, &[(2, TIME_WAIT)]),
                (400, &[(2, TIME_WAIT)]),
                (450, &[]),
            ],
            &[false, false, false, true],
        );
    }

    #[test]
    fn a_port_of_the_host_concerns_flows_that_went_to_the_host_itself_or_to_the_pod() {
        const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 9);
        const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
        let lease = Lease {
            address: Ipv4Addr::new(10, 42, 0, 2),
            ports: vec![HostPort {
                protocol: Protocol::Udp,
                host_ip: None,
                host_port: 53,
                container_port: 5353,
            }],
        };
        let flow = Flow { protocol: 17, ..Flow::tcp(CLIENT, HOST, 53) };
        for (flow, [when_it_comes, when_it_leaves]) in [
            (flow.clone(), [true, false]),
            (Flow { answered_by: lease.address, ..flow.clone() }, [false, true]),
            (
                Flow { to: lease.address, answered_by: lease.address, ..flow.clone() },
                [false, false],
            ),
            (Flow { answered_to: HOST, ..flow.clone() }, [false, false]),
            (Flow { port: Some(54), ..flow.clone() }, [false, false]),
            (Flow { protocol: 6, ..flow }, [false, false]),
        ] {
            assert_eq!(goes_wrong(&flow, &lease, false), when_it_comes, "{flow:?}");
            assert_eq!(goes_wrong(&flow, &lease, true), when_it_leaves, "{flow:?}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            let _ = parse(&bytes);
        }
    }
}
