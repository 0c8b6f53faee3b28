//! Members of nftables sets and maps, in and out in microseconds.
//!
//! Element changes travel here, and programs that nft cannot say, as one all-or-nothing batch; all other chains and
//! rules go through `nft`. The layout
//! (nfnetlink.h, nf_tables.h; integers of the payload are big-endian, attribute headers are not):
//!
//! ```text
//! BATCH_BEGIN │ NEWSETELEM or DELSETELEM … │ BATCH_END
//!               ├ family, version, resource
//!               ├ 1 table name ├ 2 set name
//!               └ 3 [ 1 [ 1 key [ 1 bytes ] , 2 value [ 1 bytes ] ] … ]
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::Protocol;
use super::netlink::{ACK, CREATE, REQUEST, Request, Socket};
use super::program::{self, Declaration, Program};
use super::ruleset::{Element, ElementChanges, Elements, Field, SetName, Verdict};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NFTABLES: u16 = 10;
const NEW_ELEMENTS: u16 = NFTABLES << 8 | 12;
const DELETE_ELEMENTS: u16 = NFTABLES << 8 | 14;
const INET: u8 = 1;
pub const NESTED: u16 = 0x8000;
/// Members a message carries at most: attribute lengths are 16 bits.
const MEMBERS: usize = 256;

pub fn open() -> io::Result<Socket> {
    Socket::open(SockProtocol::NetlinkNetFilter)
}

/// Applies `changes` in one transaction.
pub fn apply(socket: &mut Socket, table: &str, changes: &ElementChanges) -> io::Result<()> {
    let requests = batch(table, changes);
    if requests.len() > 2 {
        socket.exchange(&requests)?.except(&[])?;
    }
    Ok(())
}

/// The number of the ruleset's last transaction, whosever it was.
pub fn generation(socket: &mut Socket) -> io::Result<u32> {
    const GET_GENERATION: u16 = NFTABLES << 8 | 16;
    let request = Request { kind: GET_GENERATION, flags: REQUEST | ACK, payload: vec![0; 4] };
    let replies = socket.exchange(&[request])?.except(&[])?;
    let number = replies.first().and_then(|reply| find(reply.get(4..)?, 1)?.first_chunk());
    number.map(|bytes| u32::from_be_bytes(*bytes)).ok_or_else(|| Errno::EBADMSG.into())
}

/// Removes `elements`, whether or not they are (all) there.
pub fn remove(socket: &mut Socket, table: &str, elements: &Elements) -> io::Result<()> {
    let removal = |elements: Elements| ElementChanges { remove: elements, add: Elements::new() };
    match apply(socket, table, &removal(elements.clone())) {
        // One that is missing undid the batch: take them one at a time.
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {
            for (set, members) in elements {
                for member in members {
                    let one = Elements::from([(set.clone(), BTreeSet::from([member.clone()]))]);
                    let requests = batch(table, &removal(one));
                    socket.exchange(&requests)?.except(&[Errno::ENOENT])?;
                }
            }
            Ok(())
        }
        other => other,
    }
}

/// The members of a set or map as the kernel lists them now.
pub fn list(
    socket: &mut Socket,
    table: &str,
    set: &str,
    declaration: &Declaration,
) -> io::Result<Vec<Element>> {
    const GET_ELEMENTS: u16 = NFTABLES << 8 | 13;
    let replies = socket.dump(GET_ELEMENTS, &elements_payload(table, set, &[]))?;
    let member = |element: &[u8]| {
        let bytes = |kind| find(find(element, kind)?, 1);
        declaration.read(bytes(1)?, bytes(2).unwrap_or_default())
    };
    let lists = replies.iter().filter_map(|reply| find(reply.get(4..)?, 3));
    Ok(lists.flat_map(attributes).filter_map(|(_, element)| member(element)).collect())
}

/// The attributes one after the other, up to the first that is cut short.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([header[2], header[3]]) & 0x3fff, value))
    })
}

/// The value of the first attribute of a kind; `None` when it is missing or cut short.
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(other, _)| *other == kind).map(|(_, value)| value)
}

/// The messages of one transaction: removals first, so that a key may change its value.
pub fn batch(table: &str, changes: &ElementChanges) -> Vec<Request> {
    let mut requests = vec![border(BATCH_BEGIN)];
    members(table, changes, &mut requests);
    end(requests)
}

/// Only the last message asks for an answer, lest thousands of them fill our socket; one that is refused is told all the
/// same (nfnetlink_rcv_batch).
fn end(mut requests: Vec<Request>) -> Vec<Request> {
    if let Some((_, others)) = requests.split_last_mut() {
        others.iter_mut().for_each(|request| request.flags &= !ACK);
    }
    requests.push(border(BATCH_END));
    requests
}

fn members(table: &str, changes: &ElementChanges, requests: &mut Vec<Request>) {
    let directions = [
        (DELETE_ELEMENTS, REQUEST | ACK, &changes.remove),
        (NEW_ELEMENTS, REQUEST | ACK | CREATE, &changes.add),
    ];
    for (kind, flags, elements) in directions {
        for (set, members) in elements {
            let members: Vec<_> = members.iter().collect();
            for some in members.chunks(MEMBERS) {
                requests.push(Request { kind, flags, payload: elements_payload(table, set, some) });
            }
        }
    }
}

/// Sets, chains and members of programs that come and go together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProgramChanges {
    pub declare: BTreeMap<SetName, Declaration>,
    /// Emptied, then written.
    pub write: BTreeMap<String, Program>,
    pub empty_sets: BTreeSet<String>,
    pub members: ElementChanges,
    pub delete_sets: BTreeSet<String>,
    pub empty_chains: BTreeSet<String>,
    pub delete_chains: BTreeSet<String>,
}

impl ProgramChanges {
    /// In two transactions where sets of ranges are new: these first, which nobody looks into yet, then the rest.
    ///
    /// In one, a packet may meet the new rules before the kernel shows it the members of such a set: those appear at the
    /// end of a commit, rules at its beginning, and in between what is allowed is denied.
    pub fn apart(mut self) -> Vec<ProgramChanges> {
        let is_early = |name: &SetName, set: &Declaration| {
            set.is_interval && !self.empty_sets.contains(name.as_ref())
        };
        let (early, declare): (BTreeMap<_, _>, _) =
            self.declare.into_iter().partition(|(name, set)| is_early(name, set));
        self.declare = declare;
        if early.is_empty() {
            return vec![self];
        }
        let (members, add): (Elements, _) =
            self.members.add.into_iter().partition(|(name, _)| early.contains_key(name));
        self.members.add = add;
        let members = ElementChanges { add: members, ..ElementChanges::default() };
        vec![ProgramChanges { declare: early, members, ..ProgramChanges::default() }, self]
    }
}

/// Applies `changes`, whose last transaction is the one that counts.
pub fn reprogram(socket: &mut Socket, table: &str, changes: &ProgramChanges) -> io::Result<()> {
    changes.clone().apart().iter().try_for_each(|changes| {
        socket.exchange(&program_batch(table, changes))?.except(&[])?;
        Ok(())
    })
}

/// What is referred to comes before what refers, and goes after it.
pub fn program_batch(table: &str, changes: &ProgramChanges) -> Vec<Request> {
    const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
    const DELETE_CHAIN: u16 = NFTABLES << 8 | 5;
    const NEW_RULE: u16 = NFTABLES << 8 | 6;
    const DELETE_RULE: u16 = NFTABLES << 8 | 8;
    const NEW_SET: u16 = NFTABLES << 8 | 9;
    const DELETE_SET: u16 = NFTABLES << 8 | 11;
    const APPEND: u16 = 0x800;
    let request = |kind: u16, flags: u16, name_at: u16, name: &str| {
        let mut payload = vec![INET, 0, 0, 0];
        attribute(&mut payload, 1, |out| text(out, table));
        attribute(&mut payload, name_at, |out| text(out, name));
        Request { kind, flags: REQUEST | ACK | flags, payload }
    };
    let mut requests = vec![border(BATCH_BEGIN)];
    for (id, (name, declaration)) in (1u32..).zip(&changes.declare) {
        let mut declare = request(NEW_SET, CREATE, 2, name);
        declaration.encode(id, &mut declare.payload);
        requests.push(declare);
    }
    for name in changes.write.keys() {
        requests.push(request(NEW_CHAIN, CREATE, 3, name));
    }
    for name in changes.write.keys().chain(&changes.empty_chains) {
        requests.push(request(DELETE_RULE, 0, 2, name));
    }
    for name in &changes.empty_sets {
        requests.push(request(DELETE_ELEMENTS, 0, 2, name));
    }
    for (name, rules) in &changes.write {
        for rule in rules {
            let mut add = request(NEW_RULE, CREATE | APPEND, 2, name);
            attribute(&mut add.payload, 4 | NESTED, |out| program::encode(rule, out));
            requests.push(add);
        }
    }
    members(table, &changes.members, &mut requests);
    for name in &changes.delete_sets {
        requests.push(request(DELETE_SET, 0, 2, name));
    }
    for name in &changes.delete_chains {
        requests.push(request(DELETE_CHAIN, 0, 3, name));
    }
    end(requests)
}

fn border(kind: u16) -> Request {
    let mut payload = vec![0, 0];
    payload.extend_from_slice(&NFTABLES.to_be_bytes());
    Request { kind, flags: REQUEST, payload }
}

fn elements_payload(table: &str, set: &str, members: &[&Element]) -> Vec<u8> {
    let mut payload = vec![INET, 0, 0, 0];
    attribute(&mut payload, 1, |out| text(out, table));
    attribute(&mut payload, 2, |out| text(out, set));
    attribute(&mut payload, 3 | NESTED, |list| {
        for member in members {
            element(list, member);
        }
    });
    payload
}

/// A range of a single field is two members, its first value and the one after its last (rbtree, nf_tables.h
/// `NFT_SET_ELEM_INTERVAL_END`); a concatenation carries both ends in one (pipapo).
fn element(list: &mut Vec<u8>, member: &Element) {
    attribute(list, 1 | NESTED, |element| {
        data(element, 1, |out| out.extend(concatenation(&member.key, End::First)));
        match member.value.as_slice() {
            [] => {}
            [Field::Verdict(verdict)] => {
                attribute(element, 2 | NESTED, |data| {
                    attribute(data, 2 | NESTED, |out| verdict.encode(out));
                });
            }
            [only] => data(element, 2, |out| only.encode(End::First, out)),
            fields => data(element, 2, |out| out.extend(concatenation(fields, End::First))),
        }
        let is_range = member.key.iter().any(|field| matches!(field, Field::Between(..)));
        if is_range && member.key.len() > 1 {
            data(element, 10, |out| out.extend(concatenation(&member.key, End::Last)));
        }
    });
    if let [field @ Field::Between(..)] = member.key.as_slice() {
        let mut after = Vec::new();
        field.encode(End::Last, &mut after);
        if increment(&mut after) {
            attribute(list, 1 | NESTED, |element| {
                attribute(element, 3, |out| out.extend(1u32.to_be_bytes()));
                data(element, 1, |out| out.extend(after));
            });
        }
    }
}

/// The next number up; false when there is none.
fn increment(number: &mut [u8]) -> bool {
    for byte in number.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return true;
        }
    }
    false
}

/// Appends one attribute whose value `fill` writes; its length counts the header but not the padding.
pub fn attribute(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&kind.to_ne_bytes());
    fill(out);
    let length = (out.len() - start) as u16;
    out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    out.resize(out.len().next_multiple_of(4), 0);
}

pub fn text(out: &mut Vec<u8>, words: &str) {
    out.extend_from_slice(words.as_bytes());
    out.push(0);
}

fn data(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    attribute(out, kind | NESTED, |data| attribute(data, 1, fill));
}

/// Which end of ranges.
#[derive(Clone, Copy)]
enum End {
    First,
    Last,
}

/// Each part padded to the kernel's 4-byte registers; a value that stands alone is not padded.
fn concatenation(fields: &[Field], end: End) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        field.encode(end, &mut bytes);
        if fields.len() > 1 {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
    }
    bytes
}

impl Field {
    /// In network byte order, as packets carry it.
    fn encode(&self, end: End, out: &mut Vec<u8>) {
        match self {
            Field::Link(name) => {
                // IFNAMSIZ, zero-filled.
                let mut padded = [0u8; 16];
                let length = name.len().min(15);
                padded[..length].copy_from_slice(&name.as_bytes()[..length]);
                out.extend_from_slice(&padded);
            }
            Field::Address(IpAddr::V4(address)) => out.extend_from_slice(&address.octets()),
            Field::Address(IpAddr::V6(address)) => out.extend_from_slice(&address.octets()),
            Field::Mac(mac) => out.extend_from_slice(mac),
            Field::Protocol(protocol) => out.push(number(*protocol)),
            Field::Port(port) => out.extend_from_slice(&port.to_be_bytes()),
            Field::Number(number) => out.extend_from_slice(&number.to_ne_bytes()),
            Field::Between(first, last) => match end {
                End::First => first.encode(end, out),
                End::Last => last.encode(end, out),
            },
            Field::Verdict(_) => unreachable!("a verdict is a value that stands alone"),
        }
    }
}

impl Verdict {
    /// `NFTA_VERDICT_CODE`, and `NFTA_VERDICT_CHAIN` where there is one.
    fn encode(&self, out: &mut Vec<u8>) {
        const DROP: i32 = 0;
        const ACCEPT: i32 = 1;
        const JUMP: i32 = -3;
        const GOTO: i32 = -4;
        let (code, chain) = match self {
            Verdict::Drop => (DROP, None),
            Verdict::Accept => (ACCEPT, None),
            Verdict::Jump(chain) => (JUMP, Some(chain)),
            Verdict::Goto(chain) => (GOTO, Some(chain)),
        };
        attribute(out, 1, |out| out.extend(code.to_be_bytes()));
        if let Some(chain) = chain {
            attribute(out, 2, |out| text(out, chain));
        }
    }
}

/// IANA's.
pub fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// The other way; `None` for those that we do not serve.
pub fn protocol(number: u8) -> Option<Protocol> {
    match number {
        6 => Some(Protocol::Tcp),
        17 => Some(Protocol::Udp),
        132 => Some(Protocol::Sctp),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
