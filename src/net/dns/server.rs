//! Sockets of the cluster's DNS.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::answer::{Answer, answer, datagram};
use super::forward::Forwarder;
use super::rate::Rates;
use super::shares::Shares;
use crate::metrics::{Counter, Family, Registry};
use crate::model::cidr::Cidr;
use crate::net::sync::Services;

/// Questions to the host's resolvers under way at once, of all and of one caller: names whose servers are silent keep
/// them for seconds. More are refused for the moment.
const FORWARDED: usize = 512;
const FORWARDED_EACH: usize = 32;
/// Streams at once, of all and of one caller, and how long one may be idle (RFC 7766 §6.2.3).
const STREAMS: usize = 128;
const STREAMS_EACH: usize = 16;
const IDLE: Duration = Duration::from_secs(10);

/// Bound, not yet answering.
pub struct Server {
    datagrams: Arc<UdpSocket>,
    streams: TcpListener,
    address: SocketAddr,
    pods: Cidr,
    forwarder: Arc<Forwarder>,
    questions: Option<Family<Counter>>,
}

impl Server {
    /// The same port for datagrams and streams. Callers outside `pods` get no answer.
    pub async fn bind(address: IpAddr, port: u16, pods: Cidr) -> io::Result<Server> {
        let datagrams = UdpSocket::bind((address, port)).await?;
        let bound = datagrams.local_addr()?;
        let streams = TcpListener::bind(bound).await?;
        Ok(Server {
            datagrams: Arc::new(datagrams),
            streams,
            address: bound,
            pods,
            forwarder: Arc::new(Forwarder::new(address)),
            questions: None,
        })
    }

    /// Counts the questions of pods.
    pub fn measured(self, registry: &Registry) -> Server {
        let questions = registry.counters(
            "joey_dns_questions_total",
            "Questions of pods, by what became of them: answered, forwarded, refused (too many), ignored (no question).",
            &["outcome"],
        );
        Server { questions: Some(questions), ..self }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks another file's resolvers, at another port.
    #[cfg(test)]
    pub fn forwarding_to(self, resolv_conf: &std::path::Path, port: u16) -> Server {
        Server { forwarder: Arc::new(Forwarder::to(resolv_conf, port)), ..self }
    }

    pub async fn serve(self, services: Arc<Services>) {
        let shared = Arc::new(Shared {
            services,
            forwarder: self.forwarder,
            rates: Mutex::default(),
            forwarded: Semaphore::new(FORWARDED),
            questions: self.questions,
            forwarded_each: Shares::new(FORWARDED_EACH),
            streams_each: Shares::new(STREAMS_EACH),
        });
        let datagrams = serve_datagrams(self.datagrams, self.pods, shared.clone());
        tokio::join!(datagrams, serve_streams(self.streams, self.pods, shared));
    }
}

struct Shared {
    services: Arc<Services>,
    forwarder: Arc<Forwarder>,
    /// Short sections only.
    rates: Mutex<Rates>,
    forwarded: Semaphore,
    questions: Option<Family<Counter>>,
    forwarded_each: Shares,
    streams_each: Shares,
}

impl Shared {
    fn admits(&self, caller: IpAddr) -> bool {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let is_admitted = rates.admit(caller, Instant::now());
        if !is_admitted {
            self.count("refused");
        }
        is_admitted
    }

    fn answer(&self, asked: &[u8]) -> Answer {
        let answer = answer(&self.services.zone(), asked);
        self.count(match answer {
            Answer::Nothing => "ignored",
            Answer::Reply(_) => "answered",
            Answer::Forward { .. } => "forwarded",
        });
        answer
    }

    fn count(&self, outcome: &str) {
        if let Some(questions) = &self.questions {
            questions.with(&[outcome]).increment();
        }
    }

    async fn complete(&self, so_far: Message, ask: &Query, caller: IpAddr) -> Message {
        match (self.forwarded_each.take(caller), self.forwarded.try_acquire()) {
            (Some(_share), Ok(_permit)) => self.forwarder.complete(so_far, ask).await,
            _ => {
                let mut busy = so_far;
                busy.answers.clear();
                busy.metadata.response_code = ResponseCode::ServFail;
                busy
            }
        }
    }
}

async fn serve_datagrams(socket: Arc<UdpSocket>, pods: Cidr, shared: Arc<Shared>) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    let mut forwarded = JoinSet::new();
    loop {
        let (length, caller) = tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // An ICMP error of an earlier answer, whose asker is gone.
                Err(error) => {
                    tracing::debug!(%error, "a datagram could not be received");
                    tokio::task::yield_now().await;
                    continue;
                }
            },
            Some(_) = forwarded.join_next() => continue,
        };
        if !pods.contains(caller.ip()) || !shared.admits(caller.ip()) {
            continue;
        }
        let asked = &buffer[..length];
        let payload = Message::from_vec(asked).map_or(0, |asked| asked.max_payload());
        match shared.answer(asked) {
            Answer::Nothing => {}
            Answer::Reply(reply) => send(&socket, &reply, payload, caller).await,
            Answer::Forward { so_far, ask } => {
                // More than this many wait for the host's resolvers: the client asks again.
                if forwarded.len() >= 2 * FORWARDED {
                    continue;
                }
                let (socket, shared) = (socket.clone(), shared.clone());
                forwarded.spawn(async move {
                    let reply = shared.complete(so_far, &ask, caller.ip()).await;
                    send(&socket, &reply, payload, caller).await;
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, reply: &Message, payload: u16, caller: SocketAddr) {
    if let Some(bytes) = datagram(reply, payload)
        && let Err(error) = socket.send_to(&bytes, caller).await
    {
        tracing::debug!(%caller, %error, "an answer could not be sent");
    }
}

async fn serve_streams(listener: TcpListener, pods: Cidr, shared: Arc<Shared>) {
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if streams.len() < STREAMS => match accepted {
                Ok((stream, caller)) => {
                    if pods.contains(caller.ip()) {
                        let shared = shared.clone();
                        streams.spawn(async move {
                            let Some(_share) = shared.streams_each.take(caller.ip()) else { return };
                            if let Err(error) = serve_stream(stream, caller.ip(), &shared).await {
                                tracing::debug!(%caller, %error, "a stream of questions ended early");
                            }
                        });
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a stream of questions could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = streams.join_next() => {}
        }
    }
}

async fn serve_stream(mut stream: TcpStream, caller: IpAddr, shared: &Shared) -> io::Result<()> {
    loop {
        let asked = timeout(IDLE, read(&mut stream)).await;
        let Ok(Some(asked)) = asked.map_err(|_| io::ErrorKind::TimedOut)? else {
            return Ok(());
        };
        if !shared.admits(caller) {
            return Ok(());
        }
        let reply = match shared.answer(&asked) {
            Answer::Nothing => return Ok(()),
            Answer::Reply(reply) => reply,
            Answer::Forward { so_far, ask } => shared.complete(so_far, &ask, caller).await,
        };
        let bytes = reply.to_vec().map_err(io::Error::other)?;
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let whole = [&length.to_be_bytes()[..], &bytes].concat();
        timeout(IDLE, stream.write_all(&whole)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    }
}

/// One message; `None` at the end.
async fn read(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}
