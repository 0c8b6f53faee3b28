//! How an address leaves everything that leads traffic to pods before its pod is told to stop.
//!
//! It knows no plane: Service maps, DNS and the ingress register, and each answers for itself.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};

/// How long the API has to take an address out by itself (endpoints that end).
const BY_ITSELF: Duration = Duration::from_millis(500);
/// How long a plane has to take it out when told.
const WHEN_TOLD: Duration = Duration::from_secs(5);

/// Something that chooses pods for new connections.
pub trait DataPlane: Send + Sync {
    /// As logs name it.
    fn name(&self) -> &'static str;

    /// Ends when the plane chooses `address` no more.
    fn without(&self, address: IpAddr) -> BoxFuture<'_, ()>;

    /// Takes `address` out soon and keeps it out, whatever the API says, until it is released. Idempotent.
    fn withhold(&self, address: IpAddr);

    /// The address belongs to nobody, or to another pod.
    fn release(&self, address: IpAddr);
}

/// All planes of this host.
#[derive(Default)]
pub struct Planes {
    /// Short sections only.
    planes: Mutex<Vec<Arc<dyn DataPlane>>>,
}

impl Planes {
    pub fn register(&self, plane: Arc<dyn DataPlane>) {
        self.planes.lock().unwrap_or_else(PoisonError::into_inner).push(plane);
    }

    fn all(&self) -> Vec<Arc<dyn DataPlane>> {
        self.planes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// See [`super::Network::withdraw`].
    pub async fn withdraw(&self, address: IpAddr) {
        let planes = self.all();
        let gone = join_all(planes.iter().map(|plane| plane.without(address)));
        let _ = tokio::time::timeout(BY_ITSELF, gone).await;
        // Also when it went by itself: were the others to fail now, it would be chosen again, as the one that still serves.
        for plane in &planes {
            plane.withhold(address);
        }
        join_all(planes.iter().map(|plane| async {
            if tokio::time::timeout(WHEN_TOLD, plane.without(address)).await.is_err() {
                tracing::error!(plane = plane.name(), %address, "still leads to a pod that is about to stop");
            }
        }))
        .await;
    }

    pub fn release(&self, address: IpAddr) {
        for plane in self.all() {
            plane.release(address);
        }
    }
}
