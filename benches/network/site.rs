//! Hosts, clients and servers: namespaces, the packets between them, and how long they take.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use joey::sys::netns;

/// A server takes connections here and lets them go.
pub const PORT: u16 = 8080;
/// Here it reads to the end.
const SINK: u16 = 8081;
/// Of a Service, by its number, wherever it is programmed.
pub const SERVICE_PORT: u16 = 80;
const SERVICES: u32 = 0x0a2b_0100;
const BLOCK: usize = 256 << 10;

/// Where the Service of this number is found.
pub fn service(number: usize) -> SocketAddr {
    (Ipv4Addr::from(SERVICES + number as u32), SERVICE_PORT).into()
}

/// Where the Service leads, for a stream that is read to its end.
pub fn sink(of: SocketAddr) -> SocketAddr {
    let port = if of.port() == SERVICE_PORT { SERVICE_PORT + 1 } else { SINK };
    (of.ip(), port).into()
}

pub const SINK_PORT: u16 = SINK;

/// # Panics
/// When the command fails; what it said is told.
pub fn sh(command: &str) {
    let output = Command::new("/bin/sh").args(["-ec", command]).output().expect("there is a shell");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {said}");
}

/// A client and where it finds its server.
pub struct Site {
    pub client: OwnedFd,
    pub server: SocketAddr,
    /// The host between them; `None`: ours.
    pub host: Option<OwnedFd>,
}

impl Site {
    /// A host of its own that routes between the two and holds no rules.
    pub fn routed() -> Site {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let empty = || netns::make(|| Ok(())).expect("a namespace can be had").0;
        let [host, client, server] = [empty(), empty(), empty()];
        for (name, ends, address) in
            [("client", &client, "10.42.1"), ("server", &server, "10.42.2")]
        {
            let pin = PathBuf::from(format!("/tmp/{name}-{number}"));
            netns::pin(ends.as_fd(), &pin).expect("a namespace can be pinned");
            inside(host.as_fd(), || {
                sh(&format!(
                    "ip link set lo up; echo 1 > /proc/sys/net/ipv4/ip_forward
                     ip link add {name} type veth peer name eth0 netns {}
                     ip link set {name} up; ip addr add {address}.1/30 dev {name}",
                    pin.display()
                ));
            });
            inside(ends.as_fd(), || {
                sh(&format!(
                    "ip link set lo up; ip link set eth0 up; ip addr add {address}.2/30 dev eth0
                     ip route add default via {address}.1"
                ));
            });
        }
        serve(server.as_fd());
        let server = (Ipv4Addr::new(10, 42, 2, 2), PORT).into();
        let site = Site { client, server, host: Some(host) };
        site.forget_quickly();
        site
    }

    /// Between two pods of the cluster.
    pub fn between(client: OwnedFd, server: &OwnedFd, address: IpAddr) -> Site {
        serve(server.as_fd());
        let site = Site { client, server: (address, PORT).into(), host: None };
        site.forget_quickly();
        site
    }

    /// Ended connections leave connection tracking at once: thousands a second would fill it.
    fn forget_quickly(&self) {
        let forget = || {
            let path = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close";
            // A host that tracks nothing has no such file yet, and needs none.
            let _ = std::fs::write(path, "1");
        };
        self.on_host(forget);
    }

    /// Does `work` where the rules are.
    pub fn on_host<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.host {
            Some(host) => inside(host.as_fd(), work),
            None => work(),
        }
    }

    /// Microseconds until each of `count` connections stood.
    pub fn connect(
        &self,
        to: impl Fn(usize) -> SocketAddr + Send + Sync,
        count: usize,
    ) -> Vec<f64> {
        self.forget_quickly();
        inside(self.client.as_fd(), || {
            (0..count)
                .map(|number| {
                    let to = to(number);
                    let started = Instant::now();
                    let stream = TcpStream::connect(to);
                    let took = started.elapsed();
                    hang_up(stream.unwrap_or_else(|error| panic!("{to}: {error}")));
                    took.as_secs_f64() * 1e6
                })
                .collect()
        })
    }

    /// Connections a second, one after the other, until the server has let each go.
    pub fn rate(&self, to: impl Fn(usize) -> SocketAddr + Send + Sync, span: Duration) -> f64 {
        inside(self.client.as_fd(), || {
            let started = Instant::now();
            let mut count = 0;
            while started.elapsed() < span {
                hang_up(TcpStream::connect(to(count)).expect("the server listens"));
                count += 1;
            }
            count as f64 / started.elapsed().as_secs_f64()
        })
    }

    /// Gigabits a second over one connection.
    pub fn throughput(&self, to: SocketAddr, span: Duration) -> f64 {
        inside(self.client.as_fd(), || {
            let mut stream = TcpStream::connect(to).expect("the server listens");
            let block = vec![0; BLOCK];
            let started = Instant::now();
            let mut bytes = 0;
            while started.elapsed() < span {
                stream.write_all(&block).expect("the server reads");
                bytes += BLOCK;
            }
            // What is still on its way counts when it has arrived.
            stream.shutdown(std::net::Shutdown::Write).expect("it is connected");
            let _ = stream.read(&mut [0]);
            bytes as f64 * 8.0 / 1e9 / started.elapsed().as_secs_f64()
        })
    }

    /// Asks without a pause until connections to `to` do as `is_open` says; when that was.
    pub fn until(&self, to: SocketAddr, is_open: bool) -> JoinHandle<Instant> {
        let client = self.client.try_clone().expect("a descriptor more");
        let (ready, started) = std::sync::mpsc::channel();
        let asking = thread::spawn(move || {
            inside(client.as_fd(), || {
                ready.send(()).expect("somebody waits");
                let patience = Instant::now() + Duration::from_secs(60);
                loop {
                    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(1));
                    let now = Instant::now();
                    let has_connected = stream.is_ok();
                    if let Ok(stream) = stream {
                        hang_up(stream);
                    }
                    if has_connected == is_open {
                        return now;
                    }
                    assert!(now < patience, "{to} never became open={is_open}");
                }
            })
        });
        started.recv().expect("the thread begins");
        asking
    }
}

/// Does `work` in a namespace.
pub fn inside<T: Send>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> T {
    netns::enter(namespace, || Ok(work())).expect("a namespace can be entered")
}

/// Waits until the server has taken the connection and let it go, so that its queue never fills; then no port is left
/// waiting on either side.
fn hang_up(mut stream: TcpStream) {
    let patience = Some(Duration::from_secs(5));
    stream.set_read_timeout(patience).expect("a socket waits");
    let _ = stream.read(&mut [0]);
    let now = libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &now)
        .expect("a TCP socket lingers");
}

/// Takes connections in `namespace` until the process ends.
fn serve(namespace: BorrowedFd<'_>) {
    let listen = |port| {
        let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
        netns::enter(namespace, bind).expect("nobody listens there")
    };
    let (short, long) = (listen(PORT), listen(SINK));
    thread::spawn(move || short.incoming().for_each(drop));
    thread::spawn(move || {
        for stream in long.incoming() {
            thread::spawn(move || read_to_end(stream));
        }
    });
}

fn read_to_end(stream: io::Result<TcpStream>) {
    let Ok(mut stream) = stream else { return };
    let mut block = vec![0; BLOCK];
    while stream.read(&mut block).is_ok_and(|read| read > 0) {}
}

/// Runs `program` with `input`; how long it took, or what it said.
pub fn feed(program: &str, arguments: &[&str], input: &str) -> Result<Duration, String> {
    let started = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{program} is not installed ({error})"))?;
    let mut stdin = child.stdin.take().expect("it was asked for");
    // A program that refuses early says why on its other end.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(started.elapsed()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(said.lines().next().unwrap_or("it failed").to_owned())
        }
    }
}
