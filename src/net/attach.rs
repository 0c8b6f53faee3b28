//! What stands in the kernel for a pod, in the order in which it is made and unmade.
//!
//! It decides nothing about addresses or rules; every step is idempotent, so an interrupted one is simply done again.
//!
//! ```text
//!  pod's namespace          │ host
//!  eth0 10.42.0.5/32 ═══════╪═ jv<inst>-5 ── isolated, locked port ── jy<inst>-0 10.42.0.1/32 ── routed, nftables
//!   10.42.0.1 dev eth0      │                                          10.42.0.5/32 dev jy<inst>-0
//!   default via 10.42.0.1   │   (neighbour entries by hand on both sides, no ARP)
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use nix::errno::Errno;

use super::names::{Names, SHARD, pod_mac};
use super::netlink::Socket;
use super::{NetError, link, step, sysctl};
use crate::sys::netns;

/// Namespaces made ahead of need: unshare(2) is the longest step of an attachment.
const PREPARED: usize = 4;

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
    /// Interface index of each shard's bridge.
    pub bridges: BTreeMap<u32, u32>,
}

impl Fabric {
    pub fn pin(&self, pod: &str) -> PathBuf {
        self.pins.join(pod)
    }

    /// Wires `prepared` up as the pod at `address`, whose place in the range is `offset`.
    pub fn connect(
        &mut self,
        offset: u32,
        address: Ipv4Addr,
        prepared: &mut Prepared,
    ) -> Result<(), NetError> {
        let bridge = self.bridge(offset / SHARD)?;
        let name = self.names.port(offset);
        let index = self
            .veth(&name, bridge, address, prepared)
            .map_err(step("make veth"))?;
        self.inside(offset / SHARD, address, prepared)
            .map_err(step("configure the pod's link"))?;
        self.admit(bridge, index, address)
    }

    /// Tells host and bridge about the pod behind port `index`. Also right for one that is known already.
    pub fn admit(&mut self, bridge: u32, index: u32, address: Ipv4Addr) -> Result<(), NetError> {
        let mac = pod_mac(address);
        self.socket
            .exchange(&[
                link::port_neighbour(index, mac),
                link::neighbour(bridge, address, mac),
                link::route_to_pod(bridge, address, self.gateway),
            ])
            .and_then(|replies| replies.except(&[]))
            .map(drop)
            .map_err(step("route to the pod"))
    }

    fn veth(
        &mut self,
        name: &str,
        bridge: u32,
        address: Ipv4Addr,
        prepared: &Prepared,
    ) -> io::Result<u32> {
        let requests = [
            link::veth_new(name, bridge, self.mtu, prepared.namespace.as_fd(), address),
            link::port_guard(name),
            link::get(name),
        ];
        let mut replies = self.socket.exchange(&requests)?;
        if replies.refused.first() == Some(&(0, Errno::EEXIST)) {
            // A pod that had this address before is still being swept up by the kernel: rare, so slow is fine.
            let stale = self
                .socket
                .exchange(&[link::get(name)])?
                .except(&[Errno::ENODEV])?;
            if let Some(reply) = stale.first() {
                let index = link::index_of(reply)?;
                self.socket
                    .exchange(&[link::delete(index)])?
                    .except(&[Errno::ENODEV])?;
            }
            replies = self.socket.exchange(&requests)?;
        }
        let answers = replies.except(&[])?;
        link::index_of(answers.first().ok_or(Errno::ENODEV)?)
    }

    fn inside(&self, shard: u32, address: Ipv4Addr, prepared: &mut Prepared) -> io::Result<()> {
        let socket = &mut prepared.socket;
        let answers = socket.exchange(&[link::get(link::POD_LINK)])?.except(&[])?;
        let index = link::index_of(answers.first().ok_or(Errno::ENODEV)?)?;
        let [direct, default] = link::routes_of_pod(index, self.gateway);
        socket
            .exchange(&[
                link::up_by_name("lo"),
                link::up(index),
                link::address(index, address),
                link::neighbour(index, self.gateway, self.names.bridge_mac(shard)),
                direct,
                default,
            ])?
            .except(&[])
            .map(drop)
    }

    /// Takes away what leads to the pod, then its namespace. The links die with the namespace, in the kernel's own
    /// time: deleting them here would cost 30 ms, and without rules and routes they are dead already.
    pub fn disconnect(&mut self, pod: &str, offset: u32, address: Ipv4Addr) -> Vec<NetError> {
        let mut failures = Vec::new();
        if let Some(bridge) = self.bridges.get(&(offset / SHARD)) {
            let outcome = self
                .socket
                .exchange(&[
                    link::route_to_pod_delete(*bridge, address, self.gateway),
                    link::neighbour_delete(*bridge, address, pod_mac(address)),
                ])
                .and_then(|replies| replies.except(&[Errno::ESRCH, Errno::ENOENT, Errno::ENODEV]));
            failures.extend(outcome.map_err(step("remove the pod's route")).err());
        }
        let outcome = netns::unpin(&self.pin(pod));
        failures.extend(outcome.map_err(step("unpin the pod's namespace")).err());
        failures
    }

    /// The bridge of a shard, made when its first pod comes.
    pub fn bridge(&mut self, shard: u32) -> Result<u32, NetError> {
        if let Some(index) = self.bridges.get(&shard) {
            return Ok(*index);
        }
        let index = self.bridge_make(shard).map_err(step("make bridge"))?;
        self.bridges.insert(shard, index);
        Ok(index)
    }

    fn bridge_make(&mut self, shard: u32) -> io::Result<u32> {
        let name = self.names.bridge(shard);
        let mac = self.names.bridge_mac(shard);
        let answers = self
            .socket
            .exchange(&[link::bridge_new(&name, mac, self.mtu), link::get(&name)])?
            .except(&[Errno::EEXIST])?;
        let index = link::index_of(answers.first().ok_or(Errno::ENODEV)?)?;
        self.bridge_configure(&name, index, mac)?;
        Ok(index)
    }

    fn bridge_configure(&mut self, name: &str, index: u32, mac: [u8; 6]) -> io::Result<()> {
        sysctl::write_if_there(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
        let parameters = [
            ("forwarding", "1"),
            ("rp_filter", "1"),
            ("accept_redirects", "0"),
            ("send_redirects", "0"),
            ("route_localnet", "0"),
            ("proxy_arp", "0"),
        ];
        for (parameter, value) in parameters {
            sysctl::write(&format!("ipv4/conf/{name}/{parameter}"), value)?;
        }
        self.socket
            .exchange(&[
                link::bridge_adopt(index, mac),
                link::gateway(index, self.gateway),
                link::up(index),
            ])?
            .except(&[Errno::EEXIST])
            .map(drop)
    }

    /// Takes over the bridge of a shard that a previous daemon made.
    pub fn bridge_adopt(&mut self, shard: u32, index: u32) -> Result<(), NetError> {
        let name = self.names.bridge(shard);
        let mac = self.names.bridge_mac(shard);
        self.bridge_configure(&name, index, mac)
            .map_err(step("take over bridge"))?;
        self.bridges.insert(shard, index);
        Ok(())
    }
}
