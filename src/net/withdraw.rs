//! How an address leaves everything that leads traffic to pods: before its pod is told to stop, and as soon as its pod is
//! known not to answer.
//!
//! It knows no plane: Service maps, DNS and the ingress register, and each answers for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};

/// How long the API has to take an address out by itself (endpoints that end).
const BY_ITSELF: Duration = Duration::from_millis(500);
/// How long a plane has to take it out when told.
const WHEN_TOLD: Duration = Duration::from_secs(5);
/// How long the API has to say that a pod is not ready. Longer would hide those that are published all the same
/// (`publishNotReadyAddresses`).
const TOLD_BY_THEN: Duration = Duration::from_secs(1);

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
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    planes: Vec<Arc<dyn DataPlane>>,
    leaving: BTreeSet<IpAddr>,
    /// How many pass each over for the moment.
    passed_over: BTreeMap<IpAddr, usize>,
}

impl State {
    fn is_out(&self, address: IpAddr) -> bool {
        self.leaving.contains(&address) || self.passed_over.contains_key(&address)
    }

    /// Changes who is out, and tells the planes when `address` goes or returns.
    fn change(&mut self, address: IpAddr, change: impl FnOnce(&mut State)) {
        let before = self.is_out(address);
        change(self);
        match (before, self.is_out(address)) {
            (false, true) => self.planes.iter().for_each(|plane| plane.withhold(address)),
            (true, false) => self.planes.iter().for_each(|plane| plane.release(address)),
            (true, true) | (false, false) => {}
        }
    }
}

impl Planes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn register(&self, plane: Arc<dyn DataPlane>) {
        self.state().planes.push(plane);
    }

    fn all(&self) -> Vec<Arc<dyn DataPlane>> {
        self.state().planes.clone()
    }

    /// See [`super::Network::withdraw`].
    pub async fn withdraw(&self, address: IpAddr) {
        let planes = self.all();
        let gone = join_all(planes.iter().map(|plane| plane.without(address)));
        let _ = tokio::time::timeout(BY_ITSELF, gone).await;
        // Also when it went by itself: were the others to fail now, it would be chosen again, as the one that still serves.
        self.state().change(address, |state| {
            state.leaving.insert(address);
        });
        join_all(planes.iter().map(|plane| async {
            if tokio::time::timeout(WHEN_TOLD, plane.without(address)).await.is_err() {
                tracing::error!(plane = plane.name(), %address, "still leads to a pod that is about to stop");
            }
        }))
        .await;
    }

    /// See [`super::Network::pass_over`].
    pub async fn pass_over(&self, address: IpAddr) {
        self.state().change(address, |state| {
            *state.passed_over.entry(address).or_default() += 1;
        });
        let _returns = PassedOver { planes: self, address };
        tokio::time::sleep(TOLD_BY_THEN).await;
    }

    /// The pod has gone, whatever was said of it.
    pub fn release(&self, address: IpAddr) {
        self.state().change(address, |state| {
            state.leaving.remove(&address);
        });
    }
}

/// Ends with the future that holds it, also when that is dropped.
struct PassedOver<'a> {
    planes: &'a Planes,
    address: IpAddr,
}

impl Drop for PassedOver<'_> {
    fn drop(&mut self) {
        let address = self.address;
        self.planes.state().change(address, |state| {
            if let Some(count) = state.passed_over.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    state.passed_over.remove(&address);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// Holds out what it is told to, at once.
    #[derive(Default)]
    struct Plane {
        out: Mutex<BTreeSet<IpAddr>>,
    }

    impl DataPlane for Plane {
        fn name(&self) -> &'static str {
            "plane"
        }

        fn without(&self, _: IpAddr) -> BoxFuture<'_, ()> {
            Box::pin(std::future::ready(()))
        }

        fn withhold(&self, address: IpAddr) {
            assert!(self.out.lock().unwrap().insert(address), "told once");
        }

        fn release(&self, address: IpAddr) {
            assert!(self.out.lock().unwrap().remove(&address), "told once");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_leaves_stays_out_however_often_it_was_passed_over() {
        let (planes, plane) = (Planes::default(), Arc::new(Plane::default()));
        planes.register(plane.clone());
        let address = IpAddr::from([10, 42, 0, 7]);
        let is_out = || plane.out.lock().unwrap().contains(&address);

        planes.pass_over(address).await;
        assert!(!is_out(), "the API has had its time");
        let mut first = Box::pin(planes.pass_over(address));
        let mut second = Box::pin(planes.pass_over(address));
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        drop(first);
        assert!(is_out(), "the second still passes it over");
        planes.withdraw(address).await;
        drop(second);
        assert!(is_out(), "it leaves");
        planes.release(address);
        assert!(!is_out(), "the address is another's");
    }
}
