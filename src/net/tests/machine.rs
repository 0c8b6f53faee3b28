//! A host for a test: fresh network and mount namespaces, an uplink, and the means to send packets about.
//!
//! Nothing of it outlives the test or touches the machine.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command as Program;
use std::time::{Duration, Instant};

use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use super::super::*;
use crate::sys::netns;

/// A packet that should arrive has done so long before; one that should not is waited for this long.
pub const ARRIVES: Duration = Duration::from_secs(3);
pub const NEVER: Duration = Duration::from_millis(250);
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A host with one uplink, `up0`, to a neighbour that plays the internet.
pub struct Host {
    pub outside: OwnedFd,
}

pub fn sh(command: &str) -> String {
    let output = Program::new("/bin/sh").args(["-ec", command]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `test` on such a host.
pub fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(Host) -> F + Send) {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("REQUIRE_ROOT").is_none(), "needs root");
        eprintln!("SKIPPED: needs root");
        return;
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
                .unwrap();
            nix::mount::mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::empty(), none)
                .unwrap();
            let (outside, ()) = netns::make(|| Ok(())).unwrap();
            netns::pin(outside.as_fd(), Path::new("/tmp/outside")).unwrap();
            sh("ip link set lo up
                ip link add up0 type veth peer name out0 netns /tmp/outside
                ip link set up0 up; ip addr add 192.0.2.2/24 dev up0");
            netns::enter(outside.as_fd(), || {
                sh("ip link set lo up; ip link set out0 up; ip addr add 192.0.2.1/24 dev out0");
                Ok(())
            })
            .unwrap();
            sh("ip route add default via 192.0.2.1");
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(test(Host { outside }));
        });
    });
}

pub fn config(instance: &str, pods: &str) -> NetworkConfig {
    NetworkConfig {
        instance: instance.to_owned(),
        data_dir: format!("/tmp/{instance}/data").into(),
        run_dir: format!("/tmp/{instance}/run").into(),
        pod_cidr: pods.parse().unwrap(),
        service_cidr: "10.43.0.0/16".parse().unwrap(),
        policies: Policies::Open,
    }
}

pub async fn network() -> Network {
    Network::start(config("abc123", "10.42.0.0/16")).await.unwrap()
}

pub fn v4(attached: &Attached) -> Ipv4Addr {
    match attached.address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => unreachable!("pods hold IPv4 addresses"),
    }
}

/// Does `work` where the pod is.
pub fn inside<T: Send>(
    pod: &Attached,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    netns::enter_path(&pod.netns, work)
}

pub fn connect(to: impl Into<SocketAddr>) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to.into(), ARRIVES)?;
    stream.set_read_timeout(Some(ARRIVES))?;
    Ok(stream)
}

/// Sends a line over `client`, has `listener` accept and echo it, and tells whom the server saw.
pub fn talk(listener: &TcpListener, client: io::Result<TcpStream>) -> io::Result<SocketAddr> {
    let mut client = client?;
    let (mut served, peer) = listener.accept()?;
    say(&mut client, &mut served)?;
    Ok(peer)
}

pub fn say(from: &mut TcpStream, to: &mut TcpStream) -> io::Result<()> {
    to.set_read_timeout(Some(ARRIVES))?;
    let mut word = [0; 5];
    from.write_all(b"hello")?;
    to.read_exact(&mut word)?;
    to.write_all(b"world")?;
    from.read_exact(&mut word)?;
    Ok(())
}

/// A UDP socket in the pod, by its own address.
pub fn bound(pod: &Attached, port: u16) -> UdpSocket {
    let address = v4(pod);
    inside(pod, || UdpSocket::bind((address, port))).unwrap()
}

/// Who was heard at `socket` after `send`, with the patience that a busy machine needs.
pub fn heard(socket: &UdpSocket, send: impl FnOnce() -> io::Result<()>) -> Option<IpAddr> {
    socket.set_read_timeout(Some(NEVER * 6)).unwrap();
    send().unwrap();
    socket.recv_from(&mut [0; 64]).ok().map(|(_, from)| from.ip())
}

/// Asks until there is an answer, for as long as a busy machine may take.
pub fn ping(to: Ipv4Addr) -> io::Result<()> {
    let output = Program::new("ping").args(["-c1", "-w20", &to.to_string()]).output()?;
    if output.status.success() { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
}

pub fn is_silent(to: Ipv4Addr) -> bool {
    let output = Program::new("ping").args(["-c1", "-W2", &to.to_string()]).output();
    !output.unwrap().status.success()
}

/// Runs a command in the pod.
pub fn sh_in(pod: &Attached, command: &str) {
    inside(pod, || {
        sh(command);
        Ok(())
    })
    .unwrap();
}

pub fn outside<T: Send>(host: &Host, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    netns::enter(host.outside.as_fd(), work)
}

pub fn port(protocol: Protocol, host_port: u16, container_port: u16) -> HostPort {
    HostPort { protocol, host_ip: None, host_port, container_port }
}

/// Waits until `holds`, since the kernel sweeps namespaces up in its own time.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + ARRIVES;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        thread::yield_now();
    }
}

/// Everything an instance may leave on the host.
pub fn traces() -> String {
    sh("ip -o link | cut -d: -f2; ip rule; ip route; ip neigh; true;
        nft list ruleset; grep -c nsfs /proc/self/mountinfo || true;
        cat /proc/sys/net/ipv4/conf/up0/forwarding")
}

pub fn listen(pod: &Attached, port: u16) -> TcpListener {
    let address = v4(pod);
    inside(pod, || TcpListener::bind((address, port))).unwrap()
}

/// What a daemon killed in the middle of attaching and detaching leaves.
pub fn first_half_made(like: &Attached) {
    let pins = like.netns.parent().unwrap();
    let (namespace, ()) = netns::make(|| Ok(())).unwrap();
    netns::pin(namespace.as_fd(), &pins.join("stray")).unwrap();
    sh("ip link add jyabc123-63 type veth peer name x; ip link set jyabc123-63 up
        ip route add 10.42.0.99/32 dev jyabc123-63
        ip neigh add 10.42.0.99 lladdr 0a:58:0a:2a:00:63 nud permanent dev jyabc123-63
        nft add element inet joey_abc123 sources { jyabc123-63 . 10.42.0.99 . 0a:58:0a:2a:00:63 }");
}
