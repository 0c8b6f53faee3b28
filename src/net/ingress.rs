//! Traffic from outside: HTTP on the host's ports to ready pods, as Ingress objects say.
//!
//! It forwards straight to pod addresses and never terminates a pod's life; which pods are ready, it is told.
//!
//! ```text
//!  client ─▶ listener ─▶ (tls) ─▶ gate ─▶ hyper ─▶ proxy ─▶ routes ─▶ balance ─▶ pool ─▶ exchange ─▶ pod
//!            bounds                strict bytes     what is forwarded    who gets it         HTTP/1.1
//! ```

mod access;
mod answer;
mod balance;
mod bell;
mod body;
mod classes;
mod deadline;
pub(crate) mod exchange;
mod figures;
pub(crate) mod forward;
mod gate;
mod guard;
pub(crate) mod head;
mod id;
mod lease;
mod leave;
mod listener;
mod measure;
mod observe;
mod pace;
pub(crate) mod path;
mod plane;
mod pool;
mod proxy;
pub mod resolve;
pub mod routes;
mod strikes;
pub mod sync;
pub mod tls;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

pub use self::access::{AccessLog, UnknownAccessLog};
pub use self::gate::Patience;
pub use self::guard::Guard;
pub use self::leave::Verdict;
pub use self::listener::Bounds;
use self::measure::Measure;
use self::pool::Dialer;
use self::proxy::Proxy;
use self::resolve::Directory;
use self::routes::{BackendKey, IngressFact, ObjectName};
use self::tls::{CertificateStore, Certificates, TlsError};
use crate::metrics::Registry;
use crate::model::cidr::Cidr;

/// Connections that wait to be accepted; more than one burst of a browser farm.
const BACKLOG: u32 = 4096;
/// How often connections to pods that are idle for too long are looked for.
const PRUNE: Duration = Duration::from_secs(10);

/// How the ingress of this instance runs.
#[derive(Debug, Clone, Default)]
pub struct IngressConfig {
    /// Where plain HTTP is served; `None`: nowhere.
    pub http: Option<SocketAddr>,
    pub https: Option<SocketAddr>,
    /// Ranges of proxies whose word about their clients is taken.
    pub trusted: Vec<Cidr>,
    pub access_log: AccessLog,
    /// SO_MARK of connections to pods.
    pub mark: Option<u32>,
    pub bounds: Bounds,
    pub patience: Patience,
}

/// The proxy of this instance. Clones share it.
#[derive(Clone)]
pub struct Ingress {
    proxy: Arc<Proxy>,
    certificates: Arc<CertificateStore>,
    tls: Arc<rustls::ServerConfig>,
    bounds: Bounds,
    patience: Patience,
}

/// A port that could not be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "Ingresses are not served on {address}: it cannot be listened on; free it (`ss -ltnp` says who holds it), choose \
     another with {setting}, or {setting} off"
)]
pub struct PortTaken {
    pub address: SocketAddr,
    /// The flag that chooses another.
    pub setting: &'static str,
    pub source: io::Error,
}

/// Ports that are bound and not served yet.
#[derive(Default)]
pub struct Doors {
    ports: Vec<listener::Port>,
}

impl Doors {
    /// Addresses in force, plain HTTP first.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.ports.iter().map(|port| port.local).collect()
    }
}

impl Ingress {
    /// A proxy without routes: it answers 404 to everything.
    ///
    /// # Errors
    /// When TLS cannot be had at all.
    pub fn new(config: &IngressConfig, registry: &Registry) -> Result<Ingress, TlsError> {
        let certificates = CertificateStore::new()?;
        let tls = Arc::new(tls::server_config(Arc::clone(&certificates))?);
        let proxy = Arc::new(Proxy::new(
            Measure::new(registry),
            Dialer { mark: config.mark },
            config.trusted.clone(),
            config.access_log,
            config.bounds.requests_per_pod,
        ));
        let (bounds, patience) = (config.bounds, config.patience);
        Ok(Ingress { proxy, certificates, tls, bounds, patience })
    }

    /// Binds what the configuration says, in the network namespace of the calling thread. What cannot be bound is
    /// told and left out.
    pub fn open(&self, config: &IngressConfig) -> (Doors, Vec<PortTaken>) {
        let mut doors = Doors::default();
        let mut taken = Vec::new();
        let wanted =
            [(config.http, "--ingress-http", false), (config.https, "--ingress-https", true)];
        for (address, setting, is_tls) in wanted {
            let Some(address) = address else { continue };
            match bind(address) {
                Ok((listener, local)) => {
                    let tls =
                        is_tls.then(|| tokio_rustls::TlsAcceptor::from(Arc::clone(&self.tls)));
                    if is_tls {
                        self.proxy.redirect_to_port(local.port());
                    }
                    doors.ports.push(listener::Port { listener, local, tls });
                }
                Err(source) => taken.push(PortTaken { address, setting, source }),
            }
        }
        (doors, taken)
    }

    /// Serves until `stop`; answers under way are finished then.
    pub async fn serve(&self, doors: Doors, stop: CancellationToken) {
        let prune = async {
            let mut interval = tokio::time::interval(PRUNE);
            loop {
                interval.tick().await;
                self.proxy.upstreams.prune();
            }
        };
        let ended = stop.clone();
        let serve = listener::serve(
            Arc::clone(&self.proxy),
            doors.ports,
            (self.bounds, self.patience),
            stop,
        );
        tokio::select! {
            // Without any door nothing is served, and nothing is wrong with the daemon.
            () = async { serve.await; ended.cancelled().await } => {}
            () = prune => {}
        }
    }

    /// Puts rules and pods in force, for every request from now on.
    pub fn apply(&self, ingresses: &[IngressFact], directory: &Directory) {
        let table = routes::compile(ingresses);
        let mut keys: BTreeSet<BackendKey> = BTreeSet::new();
        table.each(|route| {
            keys.insert(route.backend.clone());
        });
        // Lists first: a new route must not find its pods missing.
        for key in &keys {
            self.proxy.upstreams.get(key);
        }
        self.apply_pods(directory);
        self.proxy.swap(table);
        self.proxy.upstreams.retain(|key| keys.contains(key));
        let names: BTreeSet<&ObjectName> = ingresses.iter().map(|ingress| &ingress.name).collect();
        self.proxy.measure.retain(|name| names.contains(name));
    }

    /// Puts pods in force behind the rules that are.
    pub fn apply_pods(&self, directory: &Directory) {
        self.proxy.upstreams.update(|key| directory.resolve(key));
    }

    /// Puts certificates in force, for every handshake from now on.
    pub fn apply_certificates(&self, certificates: Certificates) {
        self.certificates.swap(certificates);
    }

    /// Takes a leaving pod's address out of every list, and keeps it out until [`Ingress::release`].
    pub fn withdraw(&self, address: IpAddr) {
        self.proxy.upstreams.withdraw(address);
    }

    /// The address may belong to another pod now.
    pub fn release(&self, address: IpAddr) {
        self.proxy.upstreams.release(address);
    }

    /// Waits until an address has been released since the last time: lists may be made anew.
    pub async fn one_released(&self) {
        self.proxy.upstreams.one_released().await;
    }

    /// Whether a request could still be sent to the address.
    pub fn holds(&self, address: IpAddr) -> bool {
        self.proxy.upstreams.holds(address)
    }

    /// Asks before each request whether its client may reach the pod, and ends what is under way when it may no longer.
    pub fn ask_before_connecting(&self, verdict: Box<dyn Verdict>) {
        self.proxy.ask_before_connecting(verdict);
    }
}

fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A daemon that returns must not wait for TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    let local = listener.local_addr()?;
    Ok((listener, local))
}
