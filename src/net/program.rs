//! Rules that nft's grammar (1.0.6) cannot say, as the expressions that the kernel runs (pure).
//!
//! nft refuses a drawn number as part of a declared map's key, a value of two fields in JSON, and a looked-up value that is
//! remembered. The kernel has all three (nf_tables.h): registers of four bytes that expressions fill and read. A rule
//! ends quietly at the first expression that finds nothing. Rules that change often are written so, too: a run of `nft`
//! costs more than the change.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::nfnetlink::{self, NESTED, attribute, text};
use super::ruleset::{Element, Field, SetName};

/// Four bytes; longer values take those after it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Register(pub u8);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expression {
    /// IPv4's; the hook knows that it is IPv4, or [`Expression::Version`] has said so.
    SourceAddress(Register),
    DestinationAddress(Register),
    /// IPv6's, four registers long.
    SourceAddress6(Register),
    DestinationAddress6(Register),
    /// Of IP: `NFPROTO_…`, one byte.
    Version(Register),
    Protocol(Register),
    DestinationPort(Register),
    /// One byte each, of a packet whose protocol is known.
    TcpFlags(Register),
    IcmpType(Register),
    /// Four zero bytes, where a key wants an address and means any.
    Zero(Register),
    /// Below `bound`, each as likely.
    Draw {
        bound: u32,
        into: Register,
    },
    /// Ends the rule unless the key is in the map. nft (up to 1.1 at least) does not know how long a value is that was
    /// found; where another expression takes such a register for the beginning of a key or of a value, or meets it in
    /// there, it cannot list the rule and ends (`netlink_parse_concat_expr`). So a value that goes into one begins a register before, and
    /// what nft sees there is what was loaded earlier.
    Find {
        map: &'static str,
        key: Register,
        into: Register,
    },
    /// Of the register's first byte stays what `mask` has.
    Mask {
        register: Register,
        mask: u8,
    },
    /// Ends the rule unless the register's first bytes compare so with `value`.
    Compare {
        register: Register,
        operator: Operator,
        value: Vec<u8>,
    },
    /// Ends the rule unless the key is in the set.
    Require {
        set: SetName,
        key: Register,
    },
    /// Goes where the verdict map says; goes on where it says nothing.
    Follow {
        map: &'static str,
        key: Register,
    },
    /// Unless the key is there, puts `value` in the map for `lifetime` from now; else prolongs what is there. Ends the rule when
    /// the map is full.
    Remember {
        map: &'static str,
        key: Register,
        value: Register,
        lifetime: Duration,
    },
    /// Ends the rule unless whoever the key names has more than `most` connections; counts this one among them.
    Exceed {
        set: &'static str,
        key: Register,
        most: u32,
    },
    /// Counts the packets that come so far.
    Count,
    /// Goes on behind the rule that led to the chain.
    Return,
    /// Comes back when the chain has no answer.
    Jump(String),
    /// The packet's end.
    Drop,
    /// The destination becomes the address and the port after it; the last word of a rule.
    Translate(Register),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    Equal,
    NotEqual,
    AtMost,
    AtLeast,
}

/// A chain of such rules.
pub type Program = Vec<Vec<Expression>>;

/// A set or map that programs look into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// Every field takes whole registers.
    pub key: Vec<Kind>,
    /// Nothing: a set.
    pub value: Vec<Kind>,
    /// Members are ranges ([`Field::Between`]) of a single field.
    pub is_interval: bool,
    /// Rules add members.
    pub memory: Option<Memory>,
    /// Rules count connections by member; so many members at most.
    pub counts: Option<u32>,
}

/// A map that rules write. Who is in it already keeps the value it has (nft_set_hash.c), so what became wrong is taken
/// out by the owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// How long members stay unless the rule says otherwise.
    pub lifetime: Duration,
    /// So many at most.
    pub size: u32,
    /// What a member means must stand in this set: its value without the first field, then its key without the last.
    pub valid: &'static str,
}

/// nft's numbers for types (datatype.h), so that its listing reads well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Address,
    Address6,
    Protocol,
    Port,
    Number,
    Verdict,
}

impl Kind {
    fn number(self) -> u32 {
        match self {
            Kind::Address => 7,
            Kind::Address6 => 8,
            Kind::Protocol => 12,
            Kind::Port => 13,
            Kind::Number => 19,
            Kind::Verdict => 0xffff_ff00,
        }
    }

    /// One field off its registers.
    fn read(self, bytes: &[u8]) -> Option<Field> {
        if self == Kind::Address6 {
            return Some(Field::Address(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into()));
        }
        let bytes = *bytes.first_chunk::<4>()?;
        Some(match self {
            Kind::Address => Field::Address(Ipv4Addr::from(bytes).into()),
            Kind::Number => Field::Number(u32::from_ne_bytes(bytes)),
            Kind::Port => Field::Port(u16::from_be_bytes([bytes[0], bytes[1]])),
            Kind::Protocol => Field::Protocol(nfnetlink::protocol(bytes[0])?),
            Kind::Address6 | Kind::Verdict => return None,
        })
    }

    /// Alone; in a concatenation it fills a register.
    fn length(self) -> u32 {
        match self {
            Kind::Address | Kind::Number => 4,
            Kind::Protocol => 1,
            Kind::Port => 2,
            Kind::Address6 | Kind::Verdict => 16,
        }
    }

    /// What it fills of them.
    fn registers(self) -> u32 {
        self.length().next_multiple_of(4)
    }
}

fn type_and_length(kinds: &[Kind]) -> (u32, u32) {
    match kinds {
        [only] => (only.number(), only.length()),
        many => (
            many.iter().fold(0, |all, kind| all << 6 | kind.number()),
            many.iter().map(|kind| kind.registers()).sum(),
        ),
    }
}

impl Declaration {
    /// A set whose members come from plans alone.
    pub fn set(key: Vec<Kind>) -> Declaration {
        Declaration { key, value: Vec::new(), is_interval: false, memory: None, counts: None }
    }

    pub fn map(key: Vec<Kind>, value: Vec<Kind>) -> Declaration {
        Declaration { value, ..Declaration::set(key) }
    }

    pub fn kind(&self) -> &'static str {
        if self.value.is_empty() { "set" } else { "map" }
    }

    /// A member of several fields as the kernel lists it; `None` for what is not laid out so.
    pub fn read(&self, key: &[u8], value: &[u8]) -> Option<Element> {
        let fields = |kinds: &[Kind], mut bytes: &[u8]| -> Option<Vec<Field>> {
            let field = |kind: &Kind| {
                let (own, rest) = bytes.split_at_checked(kind.registers() as usize)?;
                bytes = rest;
                kind.read(own)
            };
            kinds.iter().map(field).collect()
        };
        Some(Element { key: fields(&self.key, key)?, value: fields(&self.value, value)? })
    }

    /// The attributes of `NFT_MSG_NEWSET` after table and name.
    pub fn encode(&self, id: u32, out: &mut Vec<u8>) {
        const INTERVAL: u32 = 0x4;
        const MAP: u32 = 0x8;
        const TIMEOUT: u32 = 0x10;
        const EVALUATED: u32 = 0x20;
        let (key, key_length) = type_and_length(&self.key);
        let flags = if self.value.is_empty() { 0 } else { MAP }
            | if self.is_interval { INTERVAL } else { 0 }
            | self.memory.as_ref().map_or(0, |_| TIMEOUT | EVALUATED)
            | self.counts.map_or(0, |_| EVALUATED);
        number(out, 3, flags);
        number(out, 4, key);
        number(out, 5, key_length);
        if !self.value.is_empty() {
            let (value, length) = type_and_length(&self.value);
            number(out, 6, value);
            // The kernel knows how long a verdict is and wants no word about it.
            if self.value != [Kind::Verdict] {
                number(out, 7, length);
            }
        }
        if let Some(memory) = &self.memory {
            attribute(out, 9 | NESTED, |description| number(description, 1, memory.size));
            attribute(out, 11, |out| out.extend(milliseconds(memory.lifetime)));
        }
        if let Some(size) = self.counts {
            attribute(out, 9 | NESTED, |description| number(description, 1, size));
        }
        number(out, 10, id);
    }

    /// Whether rules change what is in it.
    pub fn is_written_by_rules(&self) -> bool {
        self.memory.is_some() || self.counts.is_some()
    }
}

impl Expression {
    fn name(&self) -> &'static str {
        match self {
            Expression::SourceAddress(_)
            | Expression::DestinationAddress(_)
            | Expression::SourceAddress6(_)
            | Expression::DestinationAddress6(_)
            | Expression::DestinationPort(_)
            | Expression::TcpFlags(_)
            | Expression::IcmpType(_) => "payload",
            Expression::Version(_) | Expression::Protocol(_) => "meta",
            Expression::Mask { .. } => "bitwise",
            Expression::Compare { .. } => "cmp",
            Expression::Count => "counter",
            Expression::Zero(_) | Expression::Return | Expression::Jump(_) | Expression::Drop => {
                "immediate"
            }
            Expression::Draw { .. } => "numgen",
            Expression::Find { .. } | Expression::Require { .. } | Expression::Follow { .. } => {
                "lookup"
            }
            Expression::Remember { .. } | Expression::Exceed { .. } => "dynset",
            Expression::Translate(_) => "nat",
        }
    }

    fn data(&self, out: &mut Vec<u8>) {
        const NETWORK: u32 = 1;
        const TRANSPORT: u32 = 2;
        match self {
            Expression::SourceAddress(into) => payload(out, *into, NETWORK, 12, 4),
            Expression::DestinationAddress(into) => payload(out, *into, NETWORK, 16, 4),
            Expression::SourceAddress6(into) => payload(out, *into, NETWORK, 8, 16),
            Expression::DestinationAddress6(into) => payload(out, *into, NETWORK, 24, 16),
            Expression::DestinationPort(into) => payload(out, *into, TRANSPORT, 2, 2),
            Expression::TcpFlags(into) => payload(out, *into, TRANSPORT, 13, 1),
            Expression::IcmpType(into) => payload(out, *into, TRANSPORT, 0, 1),
            Expression::Version(into) => {
                const NFPROTO: u32 = 15;
                register(out, 1, *into);
                number(out, 2, NFPROTO);
            }
            Expression::Protocol(into) => {
                const L4PROTO: u32 = 16;
                register(out, 1, *into);
                number(out, 2, L4PROTO);
            }
            Expression::Mask { register: place, mask } => {
                let value =
                    |byte| move |data: &mut Vec<u8>| attribute(data, 1, |out| out.push(byte));
                register(out, 1, *place);
                register(out, 2, *place);
                number(out, 3, 1);
                attribute(out, 4 | NESTED, value(*mask));
                attribute(out, 5 | NESTED, value(0));
            }
            Expression::Compare { register: place, operator, value } => {
                register(out, 1, *place);
                number(out, 2, operator.number());
                attribute(out, 3 | NESTED, |data| attribute(data, 1, |out| out.extend(value)));
            }
            Expression::Count => {}
            Expression::Zero(into) => {
                register(out, 1, *into);
                attribute(out, 2 | NESTED, |data| attribute(data, 1, |out| out.extend([0; 4])));
            }
            Expression::Draw { bound, into } => {
                const RANDOM: u32 = 1;
                register(out, 1, *into);
                number(out, 2, *bound);
                number(out, 3, RANDOM);
            }
            Expression::Find { map, key, into } => {
                attribute(out, 1, |out| text(out, map));
                register(out, 2, *key);
                register(out, 3, *into);
            }
            Expression::Require { set, key } => {
                attribute(out, 1, |out| text(out, set));
                register(out, 2, *key);
            }
            Expression::Follow { map, key } => {
                const VERDICT: u32 = 0;
                attribute(out, 1, |out| text(out, map));
                register(out, 2, *key);
                number(out, 3, VERDICT);
            }
            Expression::Remember { map, key, value, lifetime } => {
                const UPDATE: u32 = 1;
                attribute(out, 1, |out| text(out, map));
                number(out, 3, UPDATE);
                register(out, 4, *key);
                register(out, 5, *value);
                attribute(out, 6, |out| out.extend(milliseconds(*lifetime)));
            }
            Expression::Exceed { set, key, most } => {
                const ADD: u32 = 0;
                const MORE: u32 = 1;
                attribute(out, 1, |out| text(out, set));
                number(out, 3, ADD);
                register(out, 4, *key);
                attribute(out, 7 | NESTED, |expression| {
                    attribute(expression, 1, |out| text(out, "connlimit"));
                    attribute(expression, 2 | NESTED, |data| {
                        number(data, 1, *most);
                        number(data, 2, MORE);
                    });
                });
            }
            Expression::Return => end(out, RETURN, None),
            Expression::Jump(chain) => end(out, JUMP, Some(chain)),
            Expression::Drop => end(out, DROP, None),
            Expression::Translate(to) => {
                const DESTINATION: u32 = 1;
                const IPV4: u32 = 2;
                number(out, 1, DESTINATION);
                number(out, 2, IPV4);
                register(out, 3, *to);
                register(out, 5, Register(to.0 + 1));
            }
        }
    }
}

impl Operator {
    /// `NFT_CMP_…`
    fn number(self) -> u32 {
        match self {
            Operator::Equal => 0,
            Operator::NotEqual => 1,
            Operator::AtMost => 3,
            Operator::AtLeast => 5,
        }
    }
}

const DROP: i32 = 0;
const JUMP: i32 = -3;
const RETURN: i32 = -5;

/// A verdict (`NF_…`, `NFT_…`) in the register for verdicts.
fn end(out: &mut Vec<u8>, code: i32, chain: Option<&str>) {
    /// `NFT_REG_VERDICT`.
    const VERDICT: u32 = 0;
    number(out, 1, VERDICT);
    attribute(out, 2 | NESTED, |data| {
        attribute(data, 2 | NESTED, |verdict| {
            attribute(verdict, 1, |out| out.extend(code.to_be_bytes()));
            if let Some(chain) = chain {
                attribute(verdict, 2, |out| text(out, chain));
            }
        });
    });
}

/// The expressions of a rule, as `NFTA_RULE_EXPRESSIONS` holds them.
pub fn encode(rule: &[Expression], out: &mut Vec<u8>) {
    for expression in rule {
        attribute(out, 1 | NESTED, |element| {
            attribute(element, 1, |out| text(out, expression.name()));
            attribute(element, 2 | NESTED, |data| expression.data(data));
        });
    }
}

fn payload(out: &mut Vec<u8>, into: Register, base: u32, offset: u32, length: u32) {
    register(out, 1, into);
    number(out, 2, base);
    number(out, 3, offset);
    number(out, 4, length);
}

fn number(out: &mut Vec<u8>, kind: u16, value: u32) {
    attribute(out, kind, |out| out.extend(value.to_be_bytes()));
}

fn register(out: &mut Vec<u8>, kind: u16, register: Register) {
    /// `NFT_REG32_00`.
    const FIRST: u32 = 8;
    number(out, kind, FIRST + u32::from(register.0));
}

fn milliseconds(duration: Duration) -> [u8; 8] {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).to_be_bytes()
}
