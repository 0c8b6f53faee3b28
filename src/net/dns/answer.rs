//! What a question is answered with (pure).

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::zone::{Found, Node, Zone};

/// Seconds that an answer may be kept. Short, as endpoints come and go.
const TTL: u32 = 5;
/// Seconds that "no such name" may be kept: a Service made a moment ago is to be found.
const NEGATIVE_TTL: u32 = 1;
/// What fits everywhere without fragments (DNS flag day 2020), and without EDNS (RFC 1035).
const PAYLOAD: u16 = 1232;
const PLAIN_PAYLOAD: u16 = 512;
/// Aliases within the zone followed at most.
const ALIASES: usize = 8;

/// What is to be done about a question.
#[derive(Debug, Clone)]
pub enum Answer {
    Reply(Message),
    /// Ask the host's resolvers for this, then send `so_far` with what they say.
    Forward {
        so_far: Message,
        ask: Query,
    },
    /// Not even a question: silence.
    Nothing,
}

/// Decides about the bytes of a datagram or a stream's message.
pub fn answer(zone: &Zone, bytes: &[u8]) -> Answer {
    let Ok(asked) = Message::from_vec(bytes) else {
        return match bytes.first_chunk::<2>() {
            // Bit 7 of the third byte: an answer is never answered, or two servers talk for ever.
            Some(id) if bytes.get(2).is_some_and(|flags| flags & 0x80 == 0) => Answer::Reply(
                Message::error_msg(u16::from_be_bytes(*id), OpCode::Query, ResponseCode::FormErr),
            ),
            Some(_) | None => Answer::Nothing,
        };
    };
    if asked.metadata.message_type == MessageType::Response {
        return Answer::Nothing;
    }
    let mut reply = Message::response(asked.metadata.id, asked.metadata.op_code);
    reply.metadata.recursion_desired = asked.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    if asked.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        reply.set_edns(edns);
    }
    let refuse = |mut reply: Message, code| {
        reply.metadata.response_code = code;
        Answer::Reply(reply)
    };
    if asked.metadata.op_code != OpCode::Query {
        return refuse(reply, ResponseCode::NotImp);
    }
    let [query] = asked.queries.as_slice() else {
        return refuse(reply, ResponseCode::FormErr);
    };
    reply.add_query(query.clone());
    if asked.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return refuse(reply, ResponseCode::BADVERS);
    }
    match query.query_type() {
        // Large answers to small questions (RFC 8482), and the whole zone at once.
        RecordType::ANY | RecordType::AXFR | RecordType::IXFR => {
            return refuse(reply, ResponseCode::Refused);
        }
        _ => {} // Every other type is looked up.
    }
    if query.query_class() != DNSClass::IN {
        return refuse(reply, ResponseCode::Refused);
    }
    resolve(zone, query, reply)
}

fn resolve(zone: &Zone, query: &Query, mut reply: Message) -> Answer {
    // Answers carry the name as it was asked for, whatever its case.
    let mut name = query.name().clone();
    for _ in 0..ALIASES {
        match zone.find(&text_of(&name)) {
            Found::Foreign => {
                let mut ask = query.clone();
                ask.set_name(name);
                return Answer::Forward { so_far: reply, ask };
            }
            Found::Missing => return Answer::Reply(negative(zone, reply, ResponseCode::NXDomain)),
            Found::Pointers(names) => {
                reply.metadata.authoritative = true;
                if query.query_type() == RecordType::PTR {
                    for target in names.iter().filter_map(|name| absolute(name)) {
                        reply.add_answer(record(&name, RData::PTR(PTR(target))));
                    }
                    return Answer::Reply(reply);
                }
                return Answer::Reply(negative(zone, reply, ResponseCode::NoError));
            }
            Found::Node(node) => {
                reply.metadata.authoritative = true;
                match node.alias.as_deref().and_then(absolute) {
                    Some(target) => {
                        reply.add_answer(record(&name, RData::CNAME(CNAME(target.clone()))));
                        if query.query_type() == RecordType::CNAME {
                            return Answer::Reply(reply);
                        }
                        name = target;
                    }
                    None => return Answer::Reply(data(zone, query, &name, &node, reply)),
                }
            }
        }
    }
    // Aliases in a circle.
    reply.answers.clear();
    reply.metadata.response_code = ResponseCode::ServFail;
    Answer::Reply(reply)
}

fn data(zone: &Zone, query: &Query, name: &Name, node: &Node, mut reply: Message) -> Message {
    let before = reply.answers.len();
    match query.query_type() {
        RecordType::A | RecordType::AAAA => {
            let is_wanted =
                |address: &&IpAddr| address.is_ipv4() == (query.query_type() == RecordType::A);
            let mut all: Vec<_> = node
                .addresses
                .iter()
                .filter(is_wanted)
                .map(|address| record(name, to(*address)))
                .collect();
            // Clients take the first: each gets another.
            if !all.is_empty() {
                let turn = usize::from(reply.metadata.id) % all.len();
                all.rotate_left(turn);
            }
            reply.add_answers(all);
        }
        RecordType::SRV => {
            let mut seen = BTreeSet::new();
            for (host, port) in &node.services {
                let Some(target) = absolute(host) else {
                    continue;
                };
                reply.add_answer(record(name, RData::SRV(SRV::new(0, 100, *port, target.clone()))));
                if seen.insert(host)
                    && let Found::Node(there) = zone.find(host)
                {
                    reply.add_additionals(
                        there.addresses.iter().map(|address| record(&target, to(*address))),
                    );
                }
            }
        }
        RecordType::TXT => {
            if let Some(text) = node.text {
                reply.add_answer(record(name, RData::TXT(TXT::new(vec![text.to_owned()]))));
            }
        }
        RecordType::SOA if text_of(name) == zone.domain() => {
            reply.add_answers(authority(zone, TTL));
        }
        _ => {} // The name is there, the type is not.
    }
    if reply.answers.len() == before {
        return negative(zone, reply, ResponseCode::NoError);
    }
    reply
}

/// With the record that says how long the absence holds (RFC 2308).
fn negative(zone: &Zone, mut reply: Message, code: ResponseCode) -> Message {
    reply.metadata.authoritative = true;
    reply.metadata.response_code = code;
    reply.add_authorities(authority(zone, NEGATIVE_TTL));
    reply
}

fn authority(zone: &Zone, ttl: u32) -> Option<Record> {
    let domain = absolute(zone.domain())?;
    let server = absolute(&format!("ns.dns.{}", zone.domain()))?;
    let owner = absolute(&format!("hostmaster.{}", zone.domain()))?;
    let data = SOA::new(server, owner, 1, 7200, 1800, 86_400, NEGATIVE_TTL);
    Some(Record::from_rdata(domain, ttl, RData::SOA(data)))
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn to(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

fn absolute(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// As the zone spells names. Bytes beyond a name of ours come out escaped and so are never found.
pub fn text_of(name: &Name) -> String {
    let mut text = name.to_ascii().to_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

/// Bytes for a datagram to a client who can take so many, cut when they are too many.
pub fn datagram(reply: &Message, asked_payload: u16) -> Option<Vec<u8>> {
    let room = asked_payload.clamp(PLAIN_PAYLOAD, PAYLOAD);
    let bytes = reply.to_vec().ok()?;
    match bytes.len() <= usize::from(room) {
        true => Some(bytes),
        false => reply.truncate().to_vec().ok(),
    }
}

#[cfg(test)]
mod tests;
