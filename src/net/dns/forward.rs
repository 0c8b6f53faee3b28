//! Names of the world, from the host's resolvers.
//!
//! Against forged answers (RFC 5452, CVE-2019-19794): each question has a random number and, with a fresh socket, a random
//! port; the socket hears only the server it asked; the answer must repeat the question; one question is outstanding for
//! each name and type, so guesses do not add up; of the answer only what the question leads to is kept.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::answer::text_of;
use crate::sys::clock;

/// resolv.conf(5): five seconds are the default; two rounds of two servers stay below a client's patience.
const PATIENCE: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
const SERVERS: usize = 3;
/// What is kept at most, and for how long whatever the answer says. Large answers are asked for again: whoever has a
/// name may answer with as much as fits a message, and a record takes many times its bytes in memory.
const KEPT: usize = 4096;
const KEPT_RECORDS: usize = 24;
const KEPT_BYTES: usize = 2048;
/// The largest answer by stream.
const LARGEST_BYTES: u16 = 16 << 10;
const LONGEST: u32 = 300;
const LONGEST_NEGATIVE: u32 = 10;
const PAYLOAD: u16 = 1232;

type Asked = (String, RecordType);
type Outcome = Option<Arc<Message>>;

/// The way to the host's resolvers.
pub struct Forwarder {
    /// The host's file, read anew when something is asked: it follows the host from network to network.
    resolv_conf: std::path::PathBuf,
    /// Never ourselves.
    own: IpAddr,
    port: u16,
    /// Short sections only.
    kept: Mutex<HashMap<Asked, (Instant, Arc<Message>)>>,
    asking: Mutex<HashMap<Asked, Arc<OnceCell<Outcome>>>>,
}

impl Forwarder {
    pub fn new(own: IpAddr) -> Forwarder {
        Forwarder {
            resolv_conf: "/etc/resolv.conf".into(),
            own,
            port: 53,
            kept: Mutex::default(),
            asking: Mutex::default(),
        }
    }

    #[cfg(test)]
    pub fn to(resolv_conf: &std::path::Path, port: u16) -> Forwarder {
        let own = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Forwarder { resolv_conf: resolv_conf.to_owned(), port, ..Forwarder::new(own) }
    }

    /// `so_far` with what the resolvers say about `ask`; SERVFAIL when none says anything.
    pub async fn complete(&self, mut so_far: Message, ask: &Query) -> Message {
        match self.ask(ask).await {
            Some(found) => {
                so_far.metadata.response_code = found.metadata.response_code;
                so_far.metadata.authoritative = false;
                so_far.add_answers(found.answers.iter().cloned());
                so_far.add_authorities(found.authorities.iter().cloned());
            }
            None => {
                so_far.answers.clear();
                so_far.metadata.response_code = ResponseCode::ServFail;
            }
        }
        so_far
    }

    async fn ask(&self, query: &Query) -> Outcome {
        let key = (text_of(query.name()), query.query_type());
        if let Some(kept) = self.kept(&key, Instant::now()) {
            return Some(kept);
        }
        let cell = {
            let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
            asking.entry(key.clone()).or_default().clone()
        };
        let outcome = cell
            .get_or_init(|| async {
                let outcome = self.ask_servers(query).await.map(Arc::new);
                if let Some(found) = &outcome {
                    self.keep(key.clone(), found);
                }
                outcome
            })
            .await
            .clone();
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if asking.get(&key).is_some_and(|current| Arc::ptr_eq(current, &cell)) {
            asking.remove(&key);
        }
        outcome
    }

    fn kept(&self, key: &Asked, now: Instant) -> Option<Arc<Message>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(key).filter(|(until, _)| now < *until).map(|(_, message)| message.clone())
    }

    fn keep(&self, key: Asked, message: &Arc<Message>) {
        let now = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.retain(|_, (until, _)| now < *until);
        }
        let seconds = lifetime(message);
        if kept.len() < KEPT && seconds > 0 && is_small(message) {
            kept.insert(key, (now + Duration::from_secs(seconds.into()), message.clone()));
        }
    }

    async fn ask_servers(&self, query: &Query) -> Option<Message> {
        let text = tokio::fs::read_to_string(&self.resolv_conf).await.unwrap_or_default();
        let servers: Vec<SocketAddr> = name_servers(&text)
            .filter(|server| *server != self.own)
            .take(SERVERS)
            .map(|server| SocketAddr::new(server, self.port))
            .collect();
        let mut last = None;
        for server in servers.iter().cycle().take(servers.len() * ROUNDS) {
            match timeout(PATIENCE, ask(*server, query)).await {
                Ok(Ok(found)) => match found.metadata.response_code {
                    ResponseCode::NoError | ResponseCode::NXDomain => return Some(found),
                    _ => last = Some(found), // It cannot say: another may.
                },
                Ok(Err(error)) => tracing::debug!(%server, %error, "a resolver of the host failed"),
                Err(_) => tracing::debug!(%server, "a resolver of the host is silent"),
            }
        }
        last
    }
}

/// resolv.conf(5).
fn name_servers(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
    })
}

/// Whether thousands like it do no harm.
fn is_small(message: &Message) -> bool {
    message.answers.len() + message.authorities.len() <= KEPT_RECORDS
        && message.to_vec().is_ok_and(|bytes| bytes.len() <= KEPT_BYTES)
}

/// How long the answer may be kept, in seconds.
fn lifetime(message: &Message) -> u32 {
    let shortest = message.answers.iter().map(|record| record.ttl).min();
    match shortest {
        Some(ttl) => ttl.min(LONGEST),
        None => {
            let negative = |record: &Record| match &record.data {
                RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                _ => None, // Only it says how long an absence holds (RFC 2308).
            };
            message.authorities.iter().find_map(negative).unwrap_or(0).min(LONGEST_NEGATIVE)
        }
    }
}

/// One question to one server; by stream when the answer does not fit a datagram.
async fn ask(server: SocketAddr, query: &Query) -> io::Result<Message> {
    let mut number = [0; 2];
    clock::random(&mut number);
    let mut question = Message::query();
    question.metadata.id = u16::from_be_bytes(number);
    question.metadata.recursion_desired = true;
    question.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD);
    question.set_edns(edns);
    let bytes = question.to_vec().map_err(io::Error::other)?;

    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let Some(found) = belongs(&question, &buffer[..length]) else {
            continue; // A guess, or a late answer to somebody else.
        };
        if found.metadata.truncation {
            return by_stream(server, &question, &bytes).await;
        }
        return Ok(relevant(query, found));
    }
}

async fn by_stream(server: SocketAddr, question: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let length = stream.read_u16().await?;
    if length > LARGEST_BYTES {
        return Err(io::Error::other("an answer that is too large"));
    }
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let found = belongs(question, &buffer).ok_or(io::ErrorKind::InvalidData)?;
    let query = question.queries.first().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(relevant(query, found))
}

/// The answer to `question`, if it is one.
fn belongs(question: &Message, bytes: &[u8]) -> Option<Message> {
    let found = Message::from_vec(bytes).ok()?;
    let is_answer = found.metadata.message_type == MessageType::Response
        && found.metadata.id == question.metadata.id
        && found.queries == question.queries;
    is_answer.then_some(found)
}

/// Only what the question leads to by way of aliases, and the record that says how long an absence holds.
fn relevant(query: &Query, mut found: Message) -> Message {
    let mut names = vec![text_of(query.name())];
    let mut kept: Vec<Record> = Vec::new();
    for mut record in std::mem::take(&mut found.answers) {
        if !names.contains(&text_of(&record.name)) {
            continue;
        }
        if let RData::CNAME(target) = &record.data {
            names.push(text_of(&target.0));
        }
        if record.record_type() == query.query_type() || record.record_type() == RecordType::CNAME {
            record.ttl = record.ttl.min(LONGEST);
            kept.push(record);
        }
    }
    found.answers = kept;
    let says_absence = |record: &Record| {
        record.record_type() == RecordType::SOA && record.name.zone_of(query.name())
    };
    found.authorities.retain(says_absence);
    found.additionals.clear();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_the_resolver_does() {
        let text = "# nameserver 192.0.2.9\nsearch a b\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\n nameserver 192.0.2.2 x\n";
        let servers: Vec<String> = name_servers(text).map(|server| server.to_string()).collect();
        assert_eq!(servers, ["192.0.2.1", "192.0.2.2"]);
    }

    #[test]
    fn only_small_answers_are_kept() {
        let name = hickory_proto::rr::Name::from_ascii("large.example.").unwrap();
        let answer = |records: u32| {
            let mut message = Message::query();
            message.add_answers((0..records).map(|n| {
                let address = Ipv4Addr::from(n);
                Record::from_rdata(name.clone(), 60, RData::A(address.into()))
            }));
            Arc::new(message)
        };
        let forwarder = Forwarder::new(Ipv4Addr::LOCALHOST.into());
        let key = |name: &str| (name.to_owned(), RecordType::A);
        forwarder.keep(key("small"), &answer(24));
        forwarder.keep(key("large"), &answer(25));
        assert!(forwarder.kept(&key("small"), Instant::now()).is_some());
        assert!(forwarder.kept(&key("large"), Instant::now()).is_none());
    }
}
