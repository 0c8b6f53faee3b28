//! Real packets through real links: each test is a host of its own, in fresh network and mount namespaces.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command as Program;
use std::time::{Duration, Instant};

use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use super::*;
use crate::sys::netns;

/// A packet that should arrive has done so long before; one that should not is waited for this long.
const ARRIVES: Duration = Duration::from_secs(3);
const NEVER: Duration = Duration::from_millis(250);
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A host with one uplink, `up0`, to a neighbour that plays the internet.
struct Host {
    outside: OwnedFd,
}

fn sh(command: &str) -> String {
    let output = Program::new("/bin/sh")
        .args(["-ec", command])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `test` on such a host.
fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(Host) -> F + Send) {
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

fn config(instance: &str, pods: &str) -> NetworkConfig {
    NetworkConfig {
        instance: instance.to_owned(),
        data_dir: format!("/tmp/{instance}/data").into(),
        run_dir: format!("/tmp/{instance}/run").into(),
        pod_cidr: pods.parse().unwrap(),
        service_cidr: "10.43.0.0/16".parse().unwrap(),
    }
}

async fn network() -> Network {
    Network::start(config("abc123", "10.42.0.0/16"))
        .await
        .unwrap()
}

fn v4(attached: &Attached) -> Ipv4Addr {
    match attached.address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => unreachable!("pods hold IPv4 addresses"),
    }
}

/// Does `work` where the pod is.
fn inside<T: Send>(pod: &Attached, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    netns::enter_path(&pod.netns, work)
}

use std::io;

fn connect(to: impl Into<SocketAddr>) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to.into(), ARRIVES)?;
    stream.set_read_timeout(Some(ARRIVES))?;
    Ok(stream)
}

/// Sends a line over `client`, has `listener` accept and echo it, and tells whom the server saw.
fn talk(listener: &TcpListener, client: io::Result<TcpStream>) -> io::Result<SocketAddr> {
    let mut client = client?;
    let (mut served, peer) = listener.accept()?;
    say(&mut client, &mut served)?;
    Ok(peer)
}

fn say(from: &mut TcpStream, to: &mut TcpStream) -> io::Result<()> {
    to.set_read_timeout(Some(ARRIVES))?;
    let mut word = [0; 5];
    for (one, other) in [(&mut *from, &mut *to)] {
        one.write_all(b"hello")?;
        other.read_exact(&mut word)?;
        other.write_all(b"world")?;
        one.read_exact(&mut word)?;
    }
    Ok(())
}

fn listen(pod: &Attached, port: u16) -> TcpListener {
    let address = v4(pod);
    inside(pod, || TcpListener::bind((address, port))).unwrap()
}

#[test]
fn pods_and_host_reach_each_other_by_address() {
    on_a_host(|_| async {
        let network = network().await;
        let a = network.attach("a", &[]).await.unwrap();
        let b = network.attach("b", &[]).await.unwrap();
        let server = listen(&b, 80);
        let to = (v4(&b), 80);
        let peer = talk(&server, inside(&a, || connect(to))).unwrap();
        assert_eq!(peer.ip(), a.address, "pod to pod keeps the source");
        let peer = talk(&server, connect(to)).unwrap();
        assert_eq!(peer.ip(), a.gateway, "the host speaks as the gateway");
        let peer = talk(&server, inside(&b, || connect(to))).unwrap();
        assert_eq!(peer.ip(), b.address);
    });
}
