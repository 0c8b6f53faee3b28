//! A cluster for packets: namespaces, pods and policies, put in force as the daemon's task does.

mod names;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::networking::v1 as networking;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, getpeername, setsockopt, socket, sockopt,
};

use self::names::Names;
use crate::net::names::PROBE_MARK;
use crate::net::owner::{Ended, PolicyOrder};
use crate::net::policy::tests::{Cluster, oracle};
use crate::net::policy::{Asked, Flow, Labels, Nature, Pod, compile, explain};
use crate::net::service::{
    self, Endpoint, Facts, Service, ServiceName, ServicePort, Slice, SlicePort,
};
use crate::net::tests::machine::*;
use crate::net::{Attached, Network, NetworkConfig, Part, Policies, Protocol};

const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];
const PORTS: [u16; 2] = [80, 81];

/// From, to, protocol and port.
pub type Cell = (String, String, Protocol, u16);

pub struct Scene {
    pub network: Network,
    pub policies: Vec<networking::NetworkPolicy>,
    namespaces: BTreeMap<String, Labels>,
    pods: BTreeMap<String, (Pod, Attached)>,
    names: Option<Names>,
}

fn enforcing() -> NetworkConfig {
    NetworkConfig { policies: Policies::Enforced, ..config("abc123", "10.42.0.0/16") }
}

/// A cluster without a daemon.
pub struct Stopped {
    policies: Vec<networking::NetworkPolicy>,
    namespaces: BTreeMap<String, Labels>,
    pods: BTreeMap<String, (Pod, Attached)>,
}

impl Stopped {
    pub async fn begin(self) -> Scene {
        let network = Network::start(enforcing()).await.unwrap();
        let Stopped { policies, namespaces, pods } = self;
        Scene { network, policies, namespaces, pods, names: None }
    }
}

impl Scene {
    pub async fn start() -> Scene {
        let network = Network::start(enforcing()).await.unwrap();
        assert_eq!(network.problems(), Vec::<String>::new());
        let (namespaces, pods) = Default::default();
        Scene { network, policies: Vec::new(), namespaces, pods, names: None }
    }

    /// The daemon ends and another begins.
    pub async fn restart(self) -> Scene {
        self.stop().begin().await
    }

    /// The daemon ends; the pods live on.
    pub fn stop(self) -> Stopped {
        let Scene { network, policies, namespaces, pods, names } = self;
        drop((network, names));
        Stopped { policies, namespaces, pods }
    }

    pub fn namespace(&mut self, name: &str, labels: Labels) {
        let mut labels = labels;
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
        self.namespaces.insert(name.to_owned(), labels);
    }

    /// Attaches while the rules that know the pod are put in force.
    pub async fn pod(&mut self, namespace: &str, name: &str, labels: Labels) -> Attached {
        let uid = format!("{namespace}-{name}");
        let pod = Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels,
            addresses: Vec::new(),
            ports: Default::default(),
            nature: Nature::Pod,
        };
        let network = self.network.clone();
        let mut leases = network.leases();
        let enforce = async {
            let leased = leases.wait_for(|leases| leases.contains_key(&uid)).await.unwrap();
            let address = leased[&uid];
            drop(leased);
            let mut cluster = self.cluster();
            cluster.pods.push(Pod { addresses: vec![address], ..pod.clone() });
            put(&self.network, &cluster, Arc::clone(&self.network.leases().borrow())).await;
        };
        let (attached, ()) = tokio::join!(network.attach(&uid, &[]), enforce);
        let attached = attached.unwrap();
        let pod = Pod { addresses: vec![attached.address], ..pod };
        self.pods.insert(uid, (pod, attached.clone()));
        attached
    }

    pub fn relabel(&mut self, namespace: &str, name: &str, labels: Labels) {
        self.pods.get_mut(&format!("{namespace}-{name}")).unwrap().0.labels = labels;
    }

    pub async fn remove(&mut self, namespace: &str, name: &str) {
        let uid = format!("{namespace}-{name}");
        self.network.detach(&uid).await.unwrap();
        self.pods.remove(&uid);
    }

    fn cluster(&self) -> Cluster {
        let pods = self.pods.values().map(|(pod, _)| pod.clone());
        Cluster {
            policies: self.policies.clone(),
            namespaces: self.namespaces.clone(),
            pods: pods.chain(self.names.as_ref().map(Names::pod)).collect(),
        }
    }

    /// On return also the flows are over that policies deny.
    pub async fn enforce(&self) {
        assert!(self.enforce_at_once().await.wait().await);
    }

    pub async fn enforce_at_once(&self) -> Ended {
        put(&self.network, &self.cluster(), Arc::clone(&self.network.leases().borrow())).await
    }

    /// As a task does that has compiled before pods left.
    pub async fn enforce_stale(&self, left: &[(&str, IpAddr)]) {
        let mut leases = BTreeMap::clone(&self.network.leases().borrow());
        leases.extend(left.iter().map(|(pod, address)| ((*pod).to_owned(), *address)));
        put(&self.network, &self.cluster(), Arc::new(leases)).await;
    }

    pub fn allows(&self, from: &str, to: &str, protocol: Protocol, port: u16) -> bool {
        let (source, destination) = (&self.pods[from].1, &self.pods[to].1);
        let asked = Asked::Port(protocol, port);
        let flow = Flow { source: source.address, destination: destination.address, asked };
        let cluster = self.cluster();
        let expected = oracle::allows(&cluster, flow);
        assert_eq!(explain(&cluster.world(), flow).is_allowed(), expected, "{flow:?}");
        expected
    }

    /// What the statements say of everybody and everybody else.
    pub fn table(&self) -> BTreeMap<Cell, bool> {
        let mut table = BTreeMap::new();
        for from in self.pods.keys() {
            for to in self.pods.keys() {
                for protocol in PROTOCOLS {
                    for port in PORTS {
                        let cell = (from.clone(), to.clone(), protocol, port);
                        table.insert(cell, self.allows(from, to, protocol, port));
                    }
                }
            }
        }
        table
    }
}

async fn put(network: &Network, cluster: &Cluster, leases: Arc<BTreeMap<String, IpAddr>>) -> Ended {
    let world = Arc::new(cluster.world());
    network.put_policies(PolicyOrder { plan: compile(&world).into(), world, leases }).await.unwrap()
}

/// How a pod is called by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Address,
    /// Of a Service whose ports are others than the pod's.
    ClusterIp,
    /// Of the same Service, which DNS has to be asked for first.
    Name,
    NodePort,
}

const SERVICES: Ipv4Addr = Ipv4Addr::new(10, 43, 1, 0);
const NODE_PORTS: u16 = 30_000;
/// What a Service's port is more than the pod's.
const MORE: u16 = 8000;

impl Scene {
    /// A Service for each pod.
    pub async fn serve(&self) {
        let plan = service::compile(&self.facts(), "here", &Default::default());
        self.network.put(Part::Services, plan).await.unwrap();
    }

    fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        for (number, (uid, (_, attached))) in (0u16..).zip(&self.pods) {
            let both = || PORTS.iter().flat_map(|port| PROTOCOLS.map(|protocol| (protocol, *port)));
            let title = |protocol: Protocol, port: u16| format!("{}-{port}", protocol.word());
            let service = Service {
                addresses: vec![self.at(Way::ClusterIp, uid, 0).ip()],
                ports: both()
                    .map(|(protocol, port)| ServicePort {
                        name: title(protocol, port),
                        protocol,
                        port: port + MORE,
                        node_port: Some(NODE_PORTS + number * 100 + port),
                    })
                    .collect(),
                affinity: None,
                is_internal_local: false,
                is_external_local: false,
                is_on_host: false,
                external_name: None,
            };
            let slice = Slice {
                ports: both()
                    .map(|(protocol, port)| SlicePort {
                        name: title(protocol, port),
                        protocol,
                        port,
                    })
                    .collect(),
                endpoints: vec![Endpoint {
                    address: attached.address,
                    is_ready: true,
                    is_serving: true,
                    is_terminating: false,
                    hostname: None,
                    node: None,
                }],
            };
            let name = ServiceName { namespace: "x".to_owned(), name: uid.clone() };
            facts.services.insert(name.clone(), service);
            facts.slices.insert(name, BTreeMap::from([("one".to_owned(), slice)]));
        }
        facts
    }

    /// Where the pod's port is found.
    pub fn at(&self, way: Way, uid: &str, port: u16) -> SocketAddr {
        let place = self.pods.keys().position(|other| other == uid).unwrap() as u16;
        match way {
            Way::Address => (v4(&self.pods[uid].1), port).into(),
            Way::ClusterIp | Way::Name => {
                let address = SERVICES.to_bits() + 1 + u32::from(place);
                (Ipv4Addr::from_bits(address), port + MORE).into()
            }
            Way::NodePort => (HOST, NODE_PORTS + place * 100 + port).into(),
        }
    }
}

/// Every pod's ears.
pub struct Servers {
    udp: BTreeMap<(String, u16), UdpSocket>,
    tcp: Vec<TcpListener>,
}

impl Servers {
    pub fn listen(scene: &Scene) -> Servers {
        let mut servers = Servers { udp: BTreeMap::new(), tcp: Vec::new() };
        for (uid, (_, attached)) in &scene.pods {
            for port in PORTS {
                let socket = bound(attached, port);
                socket.set_nonblocking(true).unwrap();
                servers.udp.insert((uid.clone(), port), socket);
                let listener = listen(attached, port);
                listener.set_nonblocking(true).unwrap();
                servers.tcp.push(listener);
            }
        }
        servers
    }

    /// Sends everything at once and tells what got through: at least as long as `expected` has not, and a little longer
    /// for what should not.
    pub fn ask_everybody(
        &self,
        scene: &Scene,
        way: Way,
        expected: &BTreeMap<Cell, bool>,
    ) -> BTreeMap<Cell, bool> {
        let mut found: BTreeMap<Cell, bool> =
            expected.keys().map(|cell| (cell.clone(), false)).collect();
        let mut connecting = BTreeMap::new();
        let mut senders = Vec::new();
        for (uid, (_, attached)) in &scene.pods {
            let cells = expected.keys().filter(|cell| cell.0 == *uid);
            let (udp, tcp) = inside(attached, || {
                let udp = UdpSocket::bind("0.0.0.0:0")?;
                let mut tcp = BTreeMap::new();
                let mut found = BTreeMap::new();
                for cell in cells {
                    let name = || names::address(&cell.1);
                    if way == Way::Name && found.entry(&cell.1).or_insert_with(name).is_none() {
                        continue;
                    }
                    let to = scene.at(way, &cell.1, cell.3);
                    match cell.2 {
                        Protocol::Udp => drop(udp.send_to(uid.as_bytes(), to)),
                        Protocol::Tcp => drop(tcp.insert(cell.clone(), beginning(to)?)),
                        Protocol::Sctp => unreachable!("not asked"),
                    }
                }
                Ok((udp, tcp))
            })
            .unwrap();
            senders.push(udp);
            connecting.extend(tcp);
        }
        let patience = Instant::now() + ARRIVES;
        let mut end = patience;
        while Instant::now() < end {
            for (cell, socket) in &connecting {
                if getpeername::<SockaddrIn>(socket.as_raw_fd()).is_ok() {
                    found.insert(cell.clone(), true);
                }
            }
            for ((to, port), socket) in &self.udp {
                let mut said = [0; 64];
                while let Ok(length) = socket.recv(&mut said) {
                    let from = String::from_utf8(said[..length].to_vec()).unwrap();
                    found.insert((from, to.clone(), Protocol::Udp, *port), true);
                }
            }
            if end == patience && expected.iter().all(|(cell, wanted)| !wanted || found[cell]) {
                end = Instant::now() + NEVER;
            }
            std::thread::yield_now();
        }
        // A queue of callers that is full would refuse the next ones.
        for listener in &self.tcp {
            while listener.accept().is_ok() {}
        }
        found
    }
}

fn beginning(to: SocketAddr) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    let SocketAddr::V4(to) = to else { unreachable!("pods hold IPv4 addresses") };
    match nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrIn::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS | Errno::ECONNREFUSED) => Ok(socket),
        Err(other) => Err(other.into()),
    }
}

/// Connects as the node's probes do.
pub fn marked(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::Mark, &PROBE_MARK)?;
    let SocketAddr::V4(to) = to else { unreachable!("pods hold IPv4 addresses") };
    nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrIn::from(to))?;
    Ok(TcpStream::from(socket))
}
