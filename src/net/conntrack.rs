//! Flows that the kernel remembers, forgotten when the translation or the policy they were made under changes.
//!
//! Translation is decided once a flow, and so is admission. A UDP client that keeps sending from one port would reach a pod that is gone
//! (or, from before the pod came, nobody) for as long as it sends. TCP notices by itself. Only pods with UDP or
//! SCTP ports of the host pay the walk through the table.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use nix::errno::Errno;

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
#[derive(Debug, PartialEq, Eq)]
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
    pub icmp_type: Option<u8>,
    pub mark: u32,
    /// The original tuple as the kernel wrote it, which names the flow.
    tuple: Vec<u8>,
}

/// Forgets every flow that `is_over` says is.
pub fn end(socket: &mut Socket, is_over: impl Fn(&Flow) -> bool) -> io::Result<()> {
    let requests: Vec<Request> = socket
        .dump(GET, &FAMILY)?
        .iter()
        .filter_map(|reply| parse(reply.get(FAMILY.len()..)?))
        .filter(is_over)
        .map(|flow| Request {
            kind: DELETE,
            flags: REQUEST | ACK,
            payload: [&FAMILY[..], &flow.tuple].concat(),
        })
        .collect();
    for some in requests.chunks(64) {
        // One that ended meanwhile is forgotten as well.
        socket.exchange(some)?.except(&[Errno::ENOENT])?;
    }
    Ok(())
}

/// Forgets flows through the connectionless ports of `lease` that its coming or going makes wrong.
pub fn forget(socket: &mut Socket, lease: &Lease, is_leaving: bool) -> io::Result<()> {
    let is_connectionless = |port: &&HostPort| port.protocol != Protocol::Tcp;
    if !lease.ports.iter().any(|port| is_connectionless(&port)) {
        return Ok(());
    }
    end(socket, |flow| {
        let is_port = |port: &HostPort| {
            nfnetlink::number(port.protocol) == flow.protocol && Some(port.host_port) == flow.port
        };
        let is_ours = flow.answered_by == lease.address && flow.to != lease.address;
        let is_astray = flow.answered_by == flow.to && flow.to != lease.address;
        (if is_leaving { is_ours } else { is_astray })
            && lease.ports.iter().filter(is_connectionless).any(is_port)
    })
}

/// Forgets flows without connections to Services that lead to none of `now`'s endpoints: those of the range, and those to
/// ports of the host that `old` or `now` name.
pub fn forget_strays(
    socket: &mut Socket,
    services: Cidr,
    old: &BTreeSet<part::Flow>,
    now: &BTreeSet<part::Flow>,
) -> io::Result<()> {
    let connectionless = [Protocol::Udp, Protocol::Sctp].map(nfnetlink::number);
    let key = |flow: &part::Flow| (nfnetlink::number(flow.protocol), flow.to, flow.port);
    let mut served: BTreeMap<_, BTreeSet<IpAddr>> = BTreeMap::new();
    for flow in now {
        served.entry(key(flow)).or_default().insert(flow.backend);
    }
    let node_ports: BTreeSet<(u8, u16)> = old
        .union(now)
        .filter(|flow| flow.to.is_none())
        .map(|flow| (nfnetlink::number(flow.protocol), flow.port))
        .collect();
    let known: BTreeSet<IpAddr> = old.union(now).map(|flow| flow.backend).collect();
    end(socket, |flow| {
        let (to, by) = (IpAddr::V4(flow.to), IpAddr::V4(flow.answered_by));
        let Some(port) = flow.port.filter(|_| connectionless.contains(&flow.protocol)) else {
            return false;
        };
        let is_served = |to: Option<IpAddr>| {
            served.get(&(flow.protocol, to, port)).is_some_and(|all| all.contains(&by))
        };
        if services.contains(to) {
            return !is_served(Some(to));
        }
        // Also what went to the host itself before anybody served the port.
        node_ports.contains(&(flow.protocol, port))
            && (to == by || known.contains(&by))
            && !known.contains(&to)
            && !is_served(None)
    })
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
        icmp_type: find(protocol, 5).and_then(|kind| kind.first().copied()),
        mark: mark.map_or(0, |mark| u32::from_be_bytes(*mark)),
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

    proptest! {
        #[test]
        fn no_answer_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            let _ = parse(&bytes);
        }
    }
}
