//! The cluster's DNS with real packets: from pods, over datagrams and streams, and from a world that lies.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::super::dns::Server;
use super::super::dns::zone::Ranges;
use super::super::service::{Endpoint, Facts, Service, ServiceName, ServicePort, Slice, SlicePort};
use super::machine::*;
use super::*;
use crate::net::policy::tests as policy;
use crate::net::sync::Services;

const DNS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);
/// Where the world's resolver listens.
const WORLD: u16 = 5353;
const TRUE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const FORGED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 66);

/// DNS behind its Service, a headless Service with `endpoints`, and a resolver of the world that the test plays.
struct Scene {
    network: Network,
    world: UdpSocket,
}

impl Scene {
    async fn start(host: &Host, endpoints: usize) -> Scene {
        let network = network().await;
        let world = outside(host, || UdpSocket::bind((OUTSIDE, WORLD))).unwrap();
        std::fs::write("/tmp/resolv.conf", format!("nameserver {OUTSIDE}\n")).unwrap();
        let cidr = |text: &str| text.parse().unwrap();
        let ranges = Ranges { pods: cidr("10.42.0.0/16"), services: cidr("10.43.0.0/16") };
        let services = Services::new(&network, "cluster.local", ranges);
        // Where a host has its own name server, it is not 53.
        let server = Server::bind(network.gateway(), 10_053, ranges.pods).await.unwrap();
        let server = server.forwarding_to(std::path::Path::new("/tmp/resolv.conf"), WORLD);
        let facts = facts(server.address(), endpoints);
        services.put(&network, &facts, "here", &Default::default()).await.unwrap();
        tokio::spawn(server.serve(services));
        Scene { network, world }
    }
}

fn facts(dns: SocketAddr, endpoints: usize) -> Facts {
    let endpoint = |address| Endpoint {
        address,
        is_ready: true,
        is_serving: true,
        is_terminating: false,
        hostname: None,
        node: Some("here".into()),
    };
    let service = |addresses: Vec<IpAddr>, ports: &[(Protocol, u16)]| Service {
        addresses,
        ports: ports
            .iter()
            .map(|(protocol, port)| ServicePort {
                name: protocol.word().to_owned(),
                protocol: *protocol,
                port: *port,
                node_port: None,
            })
            .collect(),
        affinity: None,
        is_internal_local: false,
        is_external_local: false,
        is_on_host: false,
        external_name: None,
    };
    let slice = |ports: &[(Protocol, u16)], endpoints: Vec<Endpoint>| Slice {
        ports: ports
            .iter()
            .map(|(protocol, port)| SlicePort {
                name: protocol.word().to_owned(),
                protocol: *protocol,
                port: *port,
            })
            .collect(),
        endpoints,
    };
    let both = |port| [(Protocol::Udp, port), (Protocol::Tcp, port)];
    let name = |name: &str| ServiceName { namespace: "kube-system".into(), name: name.into() };
    let crowd = (1..=endpoints)
        .map(|number| endpoint(Ipv4Addr::from(0x0a2a_0100 + number as u32).into()))
        .collect();
    let mut facts = Facts::default();
    for (name, service, slice) in [
        (
            name("kube-dns"),
            service(vec![DNS.into()], &both(53)),
            slice(&both(dns.port()), vec![endpoint(dns.ip())]),
        ),
        (
            name("crowd"),
            service(vec![], &[(Protocol::Tcp, 80)]),
            slice(&[(Protocol::Tcp, 80)], crowd),
        ),
    ] {
        facts.services.insert(name.clone(), service);
        facts.slices.insert(name, [("one".to_owned(), slice)].into());
    }
    facts
}

fn question(name: &str, id: u16, payload: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.id = id;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message
}

/// Asks from the pod, away from the threads that answer.
async fn by_datagram(pod: &Attached, name: &'static str, payload: Option<u16>) -> Option<Message> {
    let pod = pod.clone();
    let ask = move || {
        let socket = bound(&pod, 0);
        socket.set_read_timeout(Some(ARRIVES * 5)).unwrap();
        socket.send_to(&question(name, 7, payload).to_vec().unwrap(), (DNS, 53)).ok()?;
        let mut buffer = [0; 4096];
        let (length, from) = socket.recv_from(&mut buffer).ok()?;
        assert_eq!(from, SocketAddr::from((DNS, 53)), "answers come from whom was asked");
        Some(Message::from_vec(&buffer[..length]).unwrap())
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

async fn by_stream(pod: &Attached, name: &'static str) -> Message {
    let pod = pod.clone();
    let ask = move || {
        let mut stream: TcpStream = inside(&pod, || connect((DNS, 53))).unwrap();
        let bytes = question(name, 8, None).to_vec().unwrap();
        stream.write_all(&[&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat()).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).unwrap();
        Message::from_vec(&answer).unwrap()
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

fn reply(question: &Message, address: Ipv4Addr) -> Message {
    let mut reply = question.clone();
    reply.metadata.message_type = MessageType::Response;
    let name = question.queries[0].name().clone();
    reply.answers.push(Record::from_rdata(name, 300, RData::A(A(address))));
    reply
}

fn addresses(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

#[test]
fn what_does_not_fit_a_datagram_comes_whole_in_a_larger_one_or_by_stream() {
    on_a_host(|host| async move {
        let scene = Scene::start(&host, 60).await;
        let pod = scene.network.attach("a", &[]).await.unwrap();
        let name = "crowd.kube-system.svc.cluster.local.";
        let small = by_datagram(&pod, name, None).await.unwrap();
        assert!(small.metadata.truncation, "60 addresses are more than 512 bytes");
        assert!(small.to_vec().unwrap().len() <= 512);
        let large = by_datagram(&pod, name, Some(1232)).await.unwrap();
        assert!(!large.metadata.truncation && large.edns.is_some());
        assert_eq!(large.answers.len(), 60);
        let whole = by_stream(&pod, name).await;
        assert_eq!((whole.metadata.id, whole.answers.len()), (8, 60));
        let nobody = by_datagram(&pod, "nobody.kube-system.svc.cluster.local.", None).await;
        assert_eq!(nobody.unwrap().metadata.response_code, ResponseCode::NXDomain);
    });
}

#[test]
fn the_world_is_asked_once_however_many_want_to_know() {
    on_a_host(|host| async move {
        let scene = Scene::start(&host, 1).await;
        let pods = [
            scene.network.attach("a", &[]).await.unwrap(),
            scene.network.attach("b", &[]).await.unwrap(),
        ];
        let asked = Arc::new(AtomicUsize::new(0));
        let (world, count) = (scene.world.try_clone().unwrap(), asked.clone());
        let resolver = thread::spawn(move || {
            world.set_read_timeout(Some(ARRIVES)).unwrap();
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = world.recv_from(&mut buffer) {
                count.fetch_add(1, Ordering::SeqCst);
                let question = Message::from_vec(&buffer[..length]).unwrap();
                // While this one waits, others ask the same.
                thread::sleep(NEVER);
                world.send_to(&reply(&question, TRUE).to_vec().unwrap(), from).unwrap();
            }
        });
        let ask = |pod| by_datagram(pod, "example.com.", Some(1232));
        let (one, other) = tokio::join!(ask(&pods[0]), ask(&pods[1]));
        let again = ask(&pods[0]).await;
        for answer in [one, other, again] {
            assert_eq!(addresses(&answer.unwrap()), [TRUE.to_string()]);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        resolver.join().unwrap();
    });
}

/// D7: whoever sees no question must guess its number and its port, repeat it, and be the one who was asked.
#[test]
fn a_forged_answer_is_never_believed() {
    on_a_host(|host| async move {
        let scene = Scene::start(&host, 1).await;
        let pod = scene.network.attach("a", &[]).await.unwrap();
        let world = scene.world.try_clone().unwrap();
        let elsewhere = outside(&host, || UdpSocket::bind((OUTSIDE, 0))).unwrap();
        let ports = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = ports.clone();
        let resolver = thread::spawn(move || {
            world.set_read_timeout(Some(ARRIVES)).unwrap();
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = world.recv_from(&mut buffer) {
                let question = Message::from_vec(&buffer[..length]).unwrap();
                seen.lock().unwrap().push((from.port(), question.metadata.id));
                let forged = reply(&question, FORGED).to_vec().unwrap();
                // The right port and a near number, no more than a socket holds …
                for step in (1..=50).flat_map(|step| [step, 0u16.wrapping_sub(step)]) {
                    let mut guess = forged.clone();
                    let id = question.metadata.id.wrapping_add(step);
                    guess[..2].copy_from_slice(&id.to_be_bytes());
                    world.send_to(&guess, from).ok();
                }
                // … the right number, and another question …
                let mut other = reply(&question, FORGED);
                other.queries[0].set_name(Name::from_str("other.example.").unwrap());
                world.send_to(&other.to_vec().unwrap(), from).ok();
                // … everything right, and another sender …
                elsewhere.send_to(&forged, from).ok();
                // … and the truth, with a gift for another name.
                let mut truth = reply(&question, TRUE);
                let gift = Name::from_str("bank.example.").unwrap();
                let gift = Record::from_rdata(gift, 300, RData::A(A(FORGED)));
                if question.queries[0].name() != &gift.name {
                    truth.answers.push(gift.clone());
                    truth.additionals.push(gift);
                }
                world.send_to(&truth.to_vec().unwrap(), from).unwrap();
            }
        });
        for name in ["a.example.", "b.example.", "bank.example.", "c.example."] {
            let answer = by_datagram(&pod, name, Some(1232)).await.unwrap();
            assert!(!answer.answers.is_empty(), "{name} is answered");
            assert!(!answer.to_string().contains(&FORGED.to_string()), "{answer}");
        }
        resolver.join().unwrap();
        let seen = ports.lock().unwrap();
        let distinct = |pick: fn(&(u16, u16)) -> u16| {
            seen.iter().map(pick).collect::<std::collections::BTreeSet<_>>().len()
        };
        assert!(distinct(|(port, _)| *port) > 1 && distinct(|(_, id)| *id) > 1, "{seen:?}");
    });
}

/// D7, from where questions are not seen: a racer who sends with the right address to ports and with numbers by chance.
#[test]
fn a_racer_who_guesses_blindly_wins_no_race() {
    on_a_host(|host| async move {
        let scene = Scene::start(&host, 1).await;
        let pod = scene.network.attach("a", &[]).await.unwrap();
        let guesses = if std::env::var_os("JOEY_TEST_LONG").is_some() { 1_000_000 } else { 20_000 };
        let is_over = Arc::new(AtomicBool::new(false));
        let (world, over) = (scene.world.try_clone().unwrap(), is_over.clone());
        let resolver = thread::spawn(move || {
            world.set_read_timeout(Some(NEVER)).unwrap();
            let mut buffer = [0; 4096];
            while !over.load(Ordering::SeqCst) {
                if let Ok((length, from)) = world.recv_from(&mut buffer) {
                    let question = Message::from_vec(&buffer[..length]).unwrap();
                    // Time for the racer.
                    thread::sleep(NEVER);
                    world.send_to(&reply(&question, TRUE).to_vec().unwrap(), from).unwrap();
                }
            }
        });
        let (world, sent) = (scene.world.try_clone().unwrap(), Arc::new(AtomicUsize::new(0)));
        let (over, count) = (is_over.clone(), sent.clone());
        let racer = thread::spawn(move || {
            let mut random = policy::Random::new(7);
            let forged = reply(&question("raced.example.", 0, None), FORGED).to_vec().unwrap();
            while !over.load(Ordering::SeqCst) {
                let mut guess = forged.clone();
                guess[..2].copy_from_slice(&(random.below(1 << 16) as u16).to_be_bytes());
                let port = 32_768 + random.below(28_232) as u16;
                world.send_to(&guess, (HOST, port)).ok();
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        let mut rounds = 0;
        while rounds < 2 || sent.load(Ordering::SeqCst) < guesses {
            // What was remembered of the last round is another name's.
            let name: &'static str = format!("r{rounds}.raced.example.").leak();
            let answer = by_datagram(&pod, name, Some(1232)).await.unwrap();
            assert!(!answer.to_string().contains(&FORGED.to_string()), "{answer}");
            let raced = by_datagram(&pod, "raced.example.", Some(1232)).await.unwrap();
            assert_eq!(addresses(&raced), [TRUE.to_string()]);
            rounds += 1;
        }
        is_over.store(true, Ordering::SeqCst);
        resolver.join().unwrap();
        racer.join().unwrap();
        println!("{} guesses in {rounds} rounds", sent.load(Ordering::SeqCst));
    });
}

#[test]
fn a_pod_that_floods_takes_no_answers_from_others_and_strangers_get_none() {
    on_a_host(|host| async move {
        let scene = Scene::start(&host, 1).await;
        let (loud, quiet) = (
            scene.network.attach("loud", &[]).await.unwrap(),
            scene.network.attach("quiet", &[]).await.unwrap(),
        );
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, from) = (is_over.clone(), loud.clone());
        let flood = tokio::task::spawn_blocking(move || {
            let socket = bound(&from, 0);
            socket.set_nonblocking(true).unwrap();
            let bytes = question("crowd.kube-system.svc.cluster.local.", 9, None).to_vec().unwrap();
            let (begin, mut answers, mut asked) = (Instant::now(), 0, 0);
            let mut drain = |socket: &UdpSocket| {
                while socket.recv(&mut [0; 512]).is_ok() {
                    answers += 1;
                }
            };
            while !over.load(Ordering::SeqCst) || asked < 20_000 {
                asked += usize::from(socket.send_to(&bytes, (DNS, 53)).is_ok());
                drain(&socket);
            }
            let seconds = begin.elapsed().as_secs_f64();
            thread::sleep(Duration::from_millis(200));
            drain(&socket);
            (asked, answers, seconds)
        });
        let name = "crowd.kube-system.svc.cluster.local.";
        for _ in 0..50 {
            let answer = by_stream(&quiet, name).await;
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        }
        is_over.store(true, Ordering::SeqCst);
        let (asked, answers, seconds) = flood.await.unwrap();
        let most = 2000.0 + 1000.0 * (seconds + 1.0);
        assert!(
            f64::from(answers) <= most,
            "{answers} answers to {asked} questions in {seconds} s"
        );
        assert!(answers > 0);

        let stranger = outside(&host, || {
            sh("ip route add 10.43.0.0/16 via 192.0.2.2; ip route add 10.42.0.0/16 via 192.0.2.2");
            UdpSocket::bind((OUTSIDE, 0))
        });
        let stranger = stranger.unwrap();
        stranger.set_read_timeout(Some(NEVER)).unwrap();
        for to in [(DNS, 53), (Ipv4Addr::new(10, 42, 0, 1), 10_053)] {
            stranger.send_to(&question(name, 1, None).to_vec().unwrap(), to).ok();
            assert!(stranger.recv(&mut [0; 512]).is_err(), "{to:?} answers a stranger");
        }
    });
}
