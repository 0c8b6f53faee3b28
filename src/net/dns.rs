//! The cluster's DNS: names of Services and pods, and the host's resolvers for everything else (KEP-2436, DNS-Based
//! Service Discovery 1.1.0).
//!
//! ```text
//! server   sockets, one rate for each pod ─▶ answer (pure) over zone (a snapshot, swapped whole)
//!                                              └▶ forward  the host's resolvers, one question at a time, a small cache
//! ```
//! It answers at the gateway's address, where only pods and the host itself come; pods ask the Service `kube-dns`, which
//! leads there. Policies see a packet to the gateway's address and the port that was free, and know it as [`PORT`].

mod answer;
pub mod ask;
mod forward;
mod rate;
mod server;
mod shares;
pub mod zone;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use self::server::Server;
use super::sync::Services;
use crate::model::cidr::Cidr;

/// Where resolvers are asked.
pub const PORT: u16 = 53;
/// When the host has a server of its own that took every address.
pub const OTHER_PORT: u16 = 10_053;
/// What the policies of the world select DNS by, and where; the Service is named so, too.
pub const NAMESPACE: &str = "kube-system";
pub const NAME: &str = "kube-dns";
/// The place of its address in the Service range, by custom.
pub const OFFSET: u128 = 10;

/// Listens on `gateway`, serves callers of `pods` from `services`' names until cancelled.
pub async fn bind(gateway: IpAddr, pods: Cidr) -> io::Result<Server> {
    match Server::bind(gateway, PORT, pods).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Server::bind(gateway, OTHER_PORT, pods).await
        }
        other => other,
    }
}

/// Serves until cancelled.
pub async fn run(server: Server, services: Arc<Services>, stop: CancellationToken) {
    // Before the names are known, silence: who asks tries again, who hears "no such name" believes it.
    let serve = async {
        services.is_whole().await;
        server.serve(services).await;
    };
    stop.run_until_cancelled(serve).await;
}
