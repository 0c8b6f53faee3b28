//! The cluster's DNS: questions a second and the processor's time for each, beside dnsmasq with the same names.

use std::fmt::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use crate::cluster::Cluster;
use crate::site::{Site, inside, service};
use crate::table::{Row, print};

/// Each asks one question at a time; a pod may ask so many a second (`net::dns`), and what is measured is not that.
const ASKERS: usize = 4;
const QUESTIONS: usize = 400;

fn question(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message
        .add_query(Query::query(Name::from_ascii(name).expect("names are ASCII"), RecordType::A));
    message.to_vec().expect("a question can be written")
}

/// Asks for `count` names in turn; how long it took, and each answer in microseconds.
fn ask(
    client: &OwnedFd,
    to: SocketAddr,
    name: impl Fn(usize) -> String + Sync,
    count: usize,
) -> (Duration, Vec<f64>) {
    let questions: Vec<Vec<u8>> =
        (0..QUESTIONS).map(|number| question(&name(number * 7919 % count))).collect();
    inside(client.as_fd(), || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a port is free");
        socket.connect(to).expect("there is a route");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket waits");
        let mut answer = [0; 1500];
        let started = Instant::now();
        let took = questions
            .iter()
            .map(|question| {
                let asked = Instant::now();
                socket.send(question).expect("there is a route");
                let length = socket.recv(&mut answer).expect("an answer comes");
                let took = asked.elapsed();
                let said = Message::from_vec(&answer[..length]).expect("it is DNS");
                assert_eq!(said.metadata.response_code, ResponseCode::NoError, "{said:?}");
                assert!(!said.answers.is_empty(), "the name has an address");
                took.as_secs_f64() * 1e6
            })
            .collect();
        (started.elapsed(), took)
    })
}

/// Processor time of a thread or a process without others, in nanoseconds.
fn cpu(path: &str) -> f64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split(' ').next().and_then(|cpu| cpu.parse().ok()).unwrap_or(f64::NAN)
}

pub async fn measure(cluster: &Cluster, count: usize, rounds: usize) {
    let mut rows = [Row::new("Joey"), Row::new("dnsmasq")];
    let mut rates = [Row::new("Joey"), Row::new("dnsmasq")];
    let mut each = [Row::new("Joey"), Row::new("dnsmasq")];
    let joey = |number: usize| format!("s{number}.default.svc.cluster.local.");
    let site = Site::routed();
    let peer = Dnsmasq::start(&site, count, joey);
    let clients = cluster.askers(ASKERS).await;
    let (dns, thread) = cluster.dns();
    let joeys = format!("/proc/self/task/{thread}/schedstat");
    let theirs = peer.as_ref().map(|peer| format!("/proc/{}/schedstat", peer.process.id()));
    for _ in 0..rounds {
        for index in 0..2 {
            let (path, to) = match (index, &theirs) {
                (0, _) => (&joeys, dns),
                (_, Some(path)) => (path, SocketAddr::from(([10, 42, 1, 1], 53))),
                (_, None) => continue,
            };
            let before = cpu(path);
            let started = Instant::now();
            thread::scope(|scope| {
                let asking: Vec<_> = (0..ASKERS)
                    .map(|asker| {
                        let client = if index == 0 { &clients[asker] } else { &site.client };
                        scope.spawn(move || ask(client, to, joey, count))
                    })
                    .collect();
                for one in asking {
                    let (_, took) = one.join().expect("an asker ends well");
                    rows[index].samples.extend(took);
                }
            });
            let (took, asked) = (started.elapsed(), (ASKERS * QUESTIONS) as f64);
            rates[index].samples.push(asked / took.as_secs_f64());
            each[index].samples.push((cpu(path) - before) / 1e3 / asked);
        }
        // Nobody is to meet the rate of a pod: what was asked is earned back.
        tokio::time::sleep(Duration::from_millis(QUESTIONS as u64)).await;
    }
    if peer.is_none() {
        println!("dnsmasq is not installed: apt-get install dnsmasq-base");
    }
    print(&format!("A name of {count}, {ASKERS} asking at once"), "µs to the answer", &rows);
    print(&format!("A name of {count}, {ASKERS} asking at once"), "questions/s", &rates);
    print(&format!("A name of {count}"), "CPU µs a question", &each);
}

/// Ends with its owner.
struct Dnsmasq {
    process: Child,
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Dnsmasq {
    fn start(site: &Site, count: usize, name: impl Fn(usize) -> String) -> Option<Dnsmasq> {
        let mut hosts = String::new();
        for number in 0..count {
            let name = name(number);
            let _ = writeln!(hosts, "{} {}", service(number).ip(), name.trim_end_matches('.'));
        }
        std::fs::write("/tmp/hosts", hosts).expect("the directory is ours");
        let spawned = site.on_host(|| {
            Command::new("dnsmasq")
                .args([
                    "--keep-in-foreground",
                    "--conf-file=/dev/null",
                    "--no-resolv",
                    "--no-hosts",
                ])
                .args(["--addn-hosts=/tmp/hosts", "--user=root", "--pid-file=", "--cache-size=150"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
        });
        let peer = Dnsmasq { process: spawned.ok()? };
        // It answers when it has read its names.
        let asked = question(&name(count - 1));
        let is_up = inside(site.client.as_fd(), || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a port is free");
            socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket waits");
            let patience = Instant::now() + Duration::from_secs(10);
            while Instant::now() < patience {
                let _ = socket.send_to(&asked, "10.42.1.1:53");
                if socket.recv(&mut [0; 1500]).is_ok() {
                    return true;
                }
            }
            false
        });
        is_up.then_some(peer)
    }
}
