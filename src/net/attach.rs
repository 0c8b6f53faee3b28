//! What stands in the kernel for a pod, in the order in which it is made and unmade.
//!
//! It decides nothing about addresses or rules; every step is idempotent, so an interrupted one is simply done again.
//!
//! ```text
//!  pod's namespace          │ host
//!  eth0 10.42.0.5/32 ═══════╪═ jy<inst>-5 ── nftables, routing ── other pods' ports, uplink
//!   10.42.0.1 dev eth0      │   10.42.0.5/32 dev jy<inst>-5      jy<inst> 10.42.0.1/32 (the gateway's address)
//!   default via 10.42.0.1   │   (neighbour entries by hand on both ends, no ARP)
//! ```
//! There is no bridge between the ports: where br_netfilter is loaded (Docker, Kubernetes), the kernel answers a
//! translated packet between two pods of one bridge by *bridging* it (`br_nf_pre_routing_finish`), which isolated
//! ports then drop and others let around the rules.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::names::{Names, pod_mac};
use super::netlink::Socket;
use super::{NetError, link, step, sysctl};
use crate::model::cidr::Cidr;
use crate::sys::netns;

/// Namespaces made ahead of need: unshare(2) is the longest step of an attachment.
const PREPARED: usize = 4;

/// Without any load the kernel needs microseconds; a pod that waited for longer is started all the same.
const RUNS_WITHIN: Duration = Duration::from_secs(2);

/// A namespace with the parameters of a pod and nothing in it yet but `lo`.
#[derive(Debug)]
pub struct Prepared {
    namespace: OwnedFd,
    /// Opened inside, so the links there are configured without going there.
    socket: Socket,
}

impl Prepared {
    pub fn make() -> io::Result<Prepared> {
        let (namespace, socket) = netns::make(|| {
            let parameters = [
                // Kubernetes' promise to unprivileged pods of modern runtimes: ping without raw sockets, low
                // ports without a capability; both mean this namespace only.
                ("ipv4/ping_group_range", "0\t2147483647"),
                ("ipv4/ip_unprivileged_port_start", "0"),
                // A new namespace inherits these from the host (net.core.devconf_inherit_init_net).
                ("ipv4/conf/all/accept_redirects", "0"),
                ("ipv4/conf/default/accept_redirects", "0"),
                ("ipv4/conf/all/forwarding", "0"),
                // IPv4 only for now: eth0 gets no IPv6 address to advertise or be advertised to; lo keeps ::1.
                ("ipv6/conf/all/accept_ra", "0"),
                ("ipv6/conf/default/accept_ra", "0"),
                ("ipv6/conf/default/disable_ipv6", "1"),
            ];
            for (name, value) in parameters {
                sysctl::write_if_there(name, value)?;
            }
            link::open()
        })?;
        Ok(Prepared { namespace, socket })
    }

    pub fn namespace(&self) -> &OwnedFd {
        &self.namespace
    }

    /// Keeps the namespace alive at `path` and ends our hold on it.
    pub fn pin(self, path: &Path) -> io::Result<()> {
        netns::pin(self.namespace.as_fd(), path)
    }

    /// The namespace that a pod already has.
    pub fn from_pin(pin: &Path) -> io::Result<Prepared> {
        let namespace = netns::open(pin)?;
        let socket = netns::enter(namespace.as_fd(), link::open)?;
        Ok(Prepared { namespace, socket })
    }
}

/// A thread keeps [`PREPARED`] namespaces ready; it ends when the receiver is dropped.
pub fn prepare_ahead() -> io::Result<mpsc::Receiver<io::Result<Prepared>>> {
    let (sender, receiver) = mpsc::sync_channel(PREPARED);
    thread::Builder::new()
        .name("netns-ahead".into())
        .spawn(move || while sender.send(Prepared::make()).is_ok() {})?;
    Ok(receiver)
}

/// The links of an instance.
#[derive(Debug)]
pub struct Fabric {
    pub names: Names,
    pub gateway: Ipv4Addr,
    pub mtu: u32,
    /// Directory of the pins.
    pub pins: PathBuf,
    pub socket: Socket,
}

/// The pod's end was opened before the other, so its queue throws packets away until the kernel's link watcher has run
/// (net/core/link_watch.c): what a pod sends first of all would be lost. Asking for the link makes it run at once from
/// Linux 6.8 on; before, it runs within milliseconds.
fn await_running(prepared: &mut Prepared) -> io::Result<()> {
    let end = Instant::now() + RUNS_WITHIN;
    loop {
        let answers = prepared.socket.exchange(&[link::get(link::POD_LINK)])?.except(&[])?;
        if answers.first().is_some_and(|reply| link::is_running(reply)) || Instant::now() > end {
            return Ok(());
        }
        thread::sleep(Duration::from_micros(200));
    }
}

impl Fabric {
    pub fn pin(&self, pod: &str) -> PathBuf {
        self.pins.join(pod)
    }

    /// Makes the gateway's address one of the host's, and the one that it speaks to Services with.
    pub fn anchor(&mut self, services: Cidr) -> Result<(), NetError> {
        self.anchor_make(services).map_err(step("make the gateway's link"))
    }

    fn anchor_make(&mut self, services: Cidr) -> io::Result<()> {
        let name = self.names.anchor();
        let answers = self
            .socket
            .exchange(&[link::anchor_new(&name), link::get(&name)])?
            .except(&[Errno::EEXIST])?;
        let index = link::index_of(answers.first().ok_or(Errno::ENODEV)?)?;
        sysctl::write_if_there(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
        let mut requests = vec![link::address(index, self.gateway), link::up(index)];
        if let IpAddr::V4(network) = services.address() {
            let (range, metric) = ((network, services.prefix()), self.names.route_metric());
            requests.push(link::route_to_services(index, range, self.gateway, metric));
        }
        self.socket.exchange(&requests)?.except(&[]).map(drop)
    }

    /// Wires `prepared` up as the pod at `address`, whose place in the range is `offset`.
    pub fn connect(
        &mut self,
        offset: u32,
        address: Ipv4Addr,
        prepared: &mut Prepared,
    ) -> Result<(), NetError> {
        let name = self.names.port(offset);
        let index = self.veth(offset, &name, address, prepared).map_err(step("make veth"))?;
        self.inside(address, prepared).map_err(step("configure the pod's link"))?;
        self.admit(&name, index, address)?;
        await_running(prepared).map_err(step("wait for the pod's link"))
    }

    /// Opens the host's end of a pod. Also right for one that is open already.
    pub fn admit(&mut self, name: &str, index: u32, address: Ipv4Addr) -> Result<(), NetError> {
        self.open(name, index, address).map_err(step("route to the pod"))
    }

    fn open(&mut self, name: &str, index: u32, address: Ipv4Addr) -> io::Result<()> {
        // Before the link is up, so it never has an IPv6 address nor says a word of IPv6.
        sysctl::write_if_there(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
        sysctl::write(&format!("ipv4/conf/{name}/forwarding"), "1")?;
        self.socket
            .exchange(&[
                link::up(index),
                link::neighbour(index, address, pod_mac(address)),
                link::route_to_pod(index, address, self.gateway),
            ])?
            .except(&[])
            .map(drop)
    }

    fn veth(
        &mut self,
        offset: u32,
        name: &str,
        address: Ipv4Addr,
        prepared: &Prepared,
    ) -> io::Result<u32> {
        let namespace = prepared.namespace.as_fd();
        let mac = self.names.gateway_mac();
        let requests = [link::veth_new(name, mac, self.mtu, namespace, address), link::get(name)];
        let mut replies = self.socket.exchange(&requests)?;
        if replies.refused.first() == Some(&(0, Errno::EEXIST)) {
            // A pod that had this address before is still being swept up by the kernel: rare, so slow is fine.
            self.delete_port(offset)?;
            replies = self.socket.exchange(&requests)?;
        }
        let answers = replies.except(&[])?;
        link::index_of(answers.first().ok_or(Errno::ENODEV)?)
    }

    /// Configures the pod's end. Also right for one that is configured already.
    pub fn inside(&self, address: Ipv4Addr, prepared: &mut Prepared) -> io::Result<()> {
        let socket = &mut prepared.socket;
        let answers = socket.exchange(&[link::get(link::POD_LINK)])?.except(&[])?;
        let index = link::index_of(answers.first().ok_or(Errno::ENODEV)?)?;
        let [direct, default] = link::routes_of_pod(index, self.gateway);
        socket
            .exchange(&[
                link::up_by_name("lo"),
                link::up(index),
                link::address(index, address),
                link::neighbour(index, self.gateway, self.names.gateway_mac()),
                direct,
                default,
            ])?
            .except(&[])
            .map(drop)
    }

    /// Deletes the host's end, and with it the pod's: the slow way, for those who cannot wait for the kernel.
    pub fn delete_port(&mut self, offset: u32) -> io::Result<()> {
        let name = self.names.port(offset);
        let answers = self.socket.exchange(&[link::get(&name)])?.except(&[Errno::ENODEV])?;
        if let Some(reply) = answers.first() {
            let index = link::index_of(reply)?;
            self.socket.exchange(&[link::delete(index)])?.except(&[Errno::ENODEV])?;
        }
        Ok(())
    }

    /// Takes away what leads to the pod, then its namespace. The link dies with the namespace, in the kernel's own
    /// time: deleting it here would cost 30 ms, and without rules and route it is dead already.
    pub fn disconnect(&mut self, pod: &str, address: Ipv4Addr) -> Vec<NetError> {
        let outcome = self
            .socket
            .exchange(&[link::route_to_pod_delete(address)])
            .and_then(|replies| replies.except(&[Errno::ESRCH]));
        let unpinned = netns::unpin(&self.pin(pod));
        [
            outcome.map(drop).map_err(step("remove the pod's route")),
            unpinned.map_err(step("unpin the pod's namespace")),
        ]
        .into_iter()
        .filter_map(Result::err)
        .collect()
    }
}
