//! The cluster's network on this host: links, addresses, nftables.
//!
//! It compiles intent to plans and applies them; it never talks to the API.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::model::cidr::Cidr;

/// Where the network of this instance lives.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Six hex digits that tell this instance's links and tables from another's.
    pub instance: String,
    pub data_dir: PathBuf,
    pub run_dir: PathBuf,
    pub pod_cidr: Cidr,
    pub service_cidr: Cidr,
}

/// Links, addresses and rules of one instance. Clones share it.
#[derive(Clone)]
pub struct Network {}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A port of the host that leads into a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub protocol: Protocol,
    /// `None`: every address of the host.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
}

/// A pod's place in the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Pinned network namespace.
    pub netns: PathBuf,
    pub address: IpAddr,
    pub gateway: IpAddr,
}

/// Why the network could not be made or changed; names the failed step.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("{step}: {reason}")]
    Step { step: &'static str, reason: String },
    #[error("no free pod address in {0}")]
    AddressesExhausted(String),
    #[error("host port {0} is taken by pod {1}")]
    HostPortTaken(u16, String),
}

impl Network {
    /// Makes (or takes over from a previous daemon) the instance's table, bridges and addresses.
    pub async fn start(_config: NetworkConfig) -> Result<Network, NetError> {
        unimplemented!()
    }

    /// Gives the pod a namespace, an address, a veth and its rules; everything is in force on return.
    /// Idempotent: a pod already attached gets what it has.
    pub async fn attach(&self, _pod: &str, _ports: &[HostPort]) -> Result<Attached, NetError> {
        unimplemented!()
    }

    /// Takes everything back; the address becomes free for others. Idempotent.
    pub async fn detach(&self, _pod: &str) -> Result<(), NetError> {
        unimplemented!()
    }

    /// Pods that hold an address.
    pub fn attached(&self) -> Vec<String> {
        unimplemented!()
    }

    /// The host's own address towards the default route (the Node's InternalIP), or the gateway's.
    pub fn node_address(&self) -> IpAddr {
        unimplemented!()
    }

    /// What of the host stands in the way of pod traffic, each as one sentence with its cure.
    pub fn problems(&self) -> Vec<String> {
        unimplemented!()
    }
}
