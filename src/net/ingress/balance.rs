//! The pods behind each route, live: who gets the next request, and who gets none any more.
//!
//! Lists are immutable snapshots behind an atomic pointer; a request never waits for a change. An endpoint keeps its
//! connections and its count across changes of its list. What stands in a list, [`super::resolve`] decides.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::pool::Pool;
use super::resolve::{Nothing, Resolved};
use super::routes::{BackendKey, Protocol};

/// A pod that refused a connection is asked last for this long.
const DOUBT: Duration = Duration::from_secs(2);

/// All backends of the table.
pub struct Upstreams {
    /// Requests that one pod may have under way.
    most: usize,
    /// Short sections; the hot path never locks.
    known: Mutex<Known>,
    /// Marked after every change of a list.
    changed: watch::Sender<()>,
    released: Notify,
}

#[derive(Default)]
struct Known {
    backends: HashMap<BackendKey, Arc<Upstream>>,
    endpoints: HashMap<SocketAddr, Arc<Endpoint>>,
    withdrawn: BTreeSet<IpAddr>,
}

/// The pods behind one port of a Service.
pub struct Upstream {
    pub key: BackendKey,
    most: usize,
    state: ArcSwap<State>,
}

struct State {
    endpoints: Vec<Arc<Endpoint>>,
    protocol: Protocol,
    nothing: Nothing,
}

/// A port of a pod.
pub struct Endpoint {
    pub address: SocketAddr,
    in_flight: AtomicUsize,
    /// Requests it was chosen for since it is listed.
    handed: AtomicU64,
    doubted_until: Mutex<Option<Instant>>,
    pub pool: Pool,
}

/// A request that an endpoint is busy with, as long as this lives.
pub struct Assigned(Arc<Endpoint>);

impl std::ops::Deref for Assigned {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.0
    }
}

impl Drop for Assigned {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Upstreams {
    pub fn new(most: usize) -> Upstreams {
        Upstreams {
            most,
            known: Mutex::default(),
            changed: watch::Sender::default(),
            released: Notify::new(),
        }
    }

    /// The live list of a backend; made without pods when it is new.
    pub fn get(&self, key: &BackendKey) -> Arc<Upstream> {
        let mut known = self.lock();
        let upstream = known.backends.entry(key.clone()).or_insert_with(|| {
            Arc::new(Upstream {
                key: key.clone(),
                most: self.most,
                state: ArcSwap::from_pointee(State {
                    endpoints: Vec::new(),
                    protocol: Protocol::Http1,
                    nothing: Nothing::NoService,
                }),
            })
        });
        Arc::clone(upstream)
    }

    /// How many requests each listed address was chosen for since it is.
    pub fn handed(&self) -> Vec<(IpAddr, u64)> {
        let known = self.lock();
        let all = known.endpoints.values();
        all.map(|one| (one.address.ip(), one.handed.load(Ordering::Relaxed))).collect()
    }

    /// Forgets the backends for which `keep` says no; requests under way are not disturbed.
    pub fn retain(&self, keep: impl Fn(&BackendKey) -> bool) {
        let mut known = self.lock();
        known.backends.retain(|key, _| keep(key));
        known.forget_unlisted();
    }

    /// Puts every backend's list in force, as `resolve` gives it, without the withdrawn addresses.
    pub fn update(&self, resolve: impl Fn(&BackendKey) -> Resolved) {
        let mut known = self.lock();
        let all: Vec<Arc<Upstream>> = known.backends.values().cloned().collect();
        for upstream in all {
            let state = known.state(resolve(&upstream.key));
            upstream.state.store(Arc::new(state));
        }
        known.forget_unlisted();
        self.changed.send_replace(());
    }

    /// Takes an address out of every list, at once, and keeps it out until it is released.
    pub fn withdraw(&self, address: IpAddr) {
        let mut known = self.lock();
        known.withdrawn.insert(address);
        for upstream in known.backends.values() {
            let state = upstream.state.load();
            if state.endpoints.iter().any(|endpoint| endpoint.address.ip() == address) {
                let kept = state.endpoints.iter().filter(|e| e.address.ip() != address);
                upstream.state.store(Arc::new(State {
                    endpoints: kept.cloned().collect(),
                    protocol: state.protocol,
                    nothing: Nothing::NoReadyPod,
                }));
            }
        }
        known.forget_unlisted();
        self.changed.send_replace(());
    }

    /// The address may belong to another pod now.
    pub fn release(&self, address: IpAddr) {
        self.lock().withdrawn.remove(&address);
        self.released.notify_one();
    }

    /// Waits until an address has been released since the last time: a list that lacks it may have it again, and
    /// nothing else may ever change that would say so.
    pub async fn one_released(&self) {
        self.released.notified().await;
    }

    /// Whether any list holds the address.
    pub fn holds(&self, address: IpAddr) -> bool {
        self.lock().endpoints.keys().any(|endpoint| endpoint.ip() == address)
    }

    /// Ends when no list holds the address.
    pub async fn without(&self, address: IpAddr) {
        let mut changed = self.changed.subscribe();
        while self.holds(address) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Drops connections that have been idle for too long.
    pub fn prune(&self) {
        for endpoint in self.lock().endpoints.values() {
            endpoint.pool.prune();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn state(&mut self, resolved: Resolved) -> State {
        match resolved {
            Resolved::Nothing(nothing) => {
                State { endpoints: Vec::new(), protocol: Protocol::Http1, nothing }
            }
            Resolved::Pods { addresses, protocol } => {
                let kept = addresses.into_iter().filter(|a| !self.withdrawn.contains(&a.ip()));
                let endpoints = kept.map(|address| {
                    let endpoint = self.endpoints.entry(address).or_insert_with(|| {
                        Arc::new(Endpoint {
                            address,
                            in_flight: AtomicUsize::new(0),
                            handed: AtomicU64::new(0),
                            doubted_until: Mutex::new(None),
                            pool: Pool::default(),
                        })
                    });
                    Arc::clone(endpoint)
                });
                State { endpoints: endpoints.collect(), protocol, nothing: Nothing::NoReadyPod }
            }
        }
    }

    /// The address may come back as another pod: nothing of the old one may wait for it.
    fn forget_unlisted(&mut self) {
        let mut listed = BTreeSet::new();
        for upstream in self.backends.values() {
            listed.extend(upstream.state.load().endpoints.iter().map(|endpoint| endpoint.address));
        }
        self.endpoints.retain(|address, endpoint| {
            let stays = listed.contains(address);
            if !stays {
                endpoint.pool.close();
            }
            stays
        });
    }
}

impl Upstream {
    pub fn protocol(&self) -> Protocol {
        self.state.load().protocol
    }

    /// The less busy of two at random, not counting those that were tried for this request.
    ///
    /// # Errors
    /// Why there is none.
    pub fn pick(&self, tried: &[SocketAddr]) -> Result<Assigned, Nothing> {
        let state = self.state.load();
        let all = &state.endpoints;
        let is_untried = |endpoint: &Endpoint| !tried.contains(&endpoint.address);
        let is_free = |endpoint: &Endpoint| is_untried(endpoint) && endpoint.load() < self.most;
        let is_good = |endpoint: &Endpoint| is_free(endpoint) && !endpoint.is_doubted();
        // Nearly always both that are drawn are good, and nobody needs a list of all that are.
        let (first, second) = draw(all.len()).ok_or(state.nothing)?;
        let chosen = if is_good(&all[first]) && is_good(&all[second]) {
            less_busy(&all[first], &all[second])
        } else {
            let mut fresh: Vec<&Arc<Endpoint>> = all.iter().filter(|e| is_good(e)).collect();
            if fresh.is_empty() {
                fresh.extend(all.iter().filter(|e| is_free(e)));
            }
            let nothing = match all.iter().any(|e| is_untried(e)) {
                true => Nothing::Crowded,
                false => state.nothing,
            };
            let (first, second) = draw(fresh.len()).ok_or(nothing)?;
            less_busy(fresh[first], fresh[second])
        };
        // Others may have chosen it at the same moment.
        if chosen.in_flight.fetch_add(1, Ordering::Relaxed) >= self.most {
            chosen.in_flight.fetch_sub(1, Ordering::Relaxed);
            return Err(Nothing::Crowded);
        }
        chosen.handed.fetch_add(1, Ordering::Relaxed);
        Ok(Assigned(Arc::clone(chosen)))
    }
}

fn less_busy<'a>(one: &'a Arc<Endpoint>, other: &'a Arc<Endpoint>) -> &'a Arc<Endpoint> {
    if other.load() < one.load() { other } else { one }
}

/// Two of so many at random; of one, that one twice.
fn draw(many: usize) -> Option<(usize, usize)> {
    if many <= 1 {
        return (many == 1).then_some((0, 0));
    }
    let dice = dice();
    let first = (dice % many as u64) as usize;
    let step = (dice >> 32) % (many as u64 - 1) + 1;
    Some((first, (first + step as usize) % many))
}

impl Endpoint {
    fn load(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn is_doubted(&self) -> bool {
        let until = *self.doubted_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// It did not take a connection: others are asked first for a while.
    pub fn doubt(&self) {
        let until = Some(Instant::now() + DOUBT);
        *self.doubted_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// Splitmix64 over a counter: spread, not secret.
fn dice() -> u64 {
    static STATE: AtomicU64 = AtomicU64::new(0x6a09_e667_f3bc_c908);
    let mut z = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::super::routes::{ObjectName, Port};
    use super::*;

    fn key() -> BackendKey {
        BackendKey { service: ObjectName::new("shop", "web"), port: Port::Number(80) }
    }

    fn pods(addresses: &[&str]) -> Resolved {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Resolved::Pods { addresses, protocol: Protocol::Http1 }
    }

    const MOST: usize = 1000;
    const THREE: &[&str] = &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];

    #[tokio::test]
    async fn requests_spread_evenly_and_shun_the_busy() {
        let upstreams = Upstreams::new(MOST);
        let upstream = upstreams.get(&key());
        upstreams.update(|_| pods(THREE));
        let held: Vec<Assigned> = (0..300).map(|_| upstream.pick(&[]).unwrap()).collect();
        for address in THREE {
            let count = held.iter().filter(|a| a.address == address.parse().unwrap()).count();
            assert!((90..=110).contains(&count), "{address} has {count} of 300");
        }
    }

    #[tokio::test]
    async fn no_pod_has_more_requests_under_way_than_one_may() {
        let upstreams = Upstreams::new(4);
        let upstream = upstreams.get(&key());
        upstreams.update(|_| pods(THREE));
        let mut held: Vec<Assigned> = (0..12).map(|_| upstream.pick(&[]).unwrap()).collect();
        assert_eq!(upstream.pick(&[]).err(), Some(Nothing::Crowded));
        let freed = held.remove(5).address;
        assert_eq!(upstream.pick(&[freed]).err(), Some(Nothing::Crowded));
        assert_eq!(upstream.pick(&[]).unwrap().address, freed);
        let all: Vec<SocketAddr> = THREE.iter().map(|address| address.parse().unwrap()).collect();
        assert_eq!(upstream.pick(&all).err(), Some(Nothing::NoReadyPod));
    }

    #[tokio::test]
    async fn a_tried_pod_is_not_asked_again_and_a_doubted_one_last() {
        let upstreams = Upstreams::new(MOST);
        let upstream = upstreams.get(&key());
        upstreams.update(|_| pods(&THREE[..2]));
        let first: SocketAddr = THREE[0].parse().unwrap();
        let second: SocketAddr = THREE[1].parse().unwrap();
        assert_eq!(upstream.pick(&[first]).unwrap().address, second);
        assert_eq!(upstream.pick(&[first, second]).err(), Some(Nothing::NoReadyPod));
        upstream.pick(&[second]).unwrap().doubt();
        for _ in 0..32 {
            assert_eq!(upstream.pick(&[]).unwrap().address, second);
        }
        assert_eq!(upstream.pick(&[second]).unwrap().address, first);
    }

    #[tokio::test]
    async fn a_withdrawn_address_stays_out_until_it_is_released() {
        let upstreams = Upstreams::new(MOST);
        upstreams.get(&key());
        upstreams.update(|_| pods(THREE));
        let gone: IpAddr = "10.0.0.2".parse().unwrap();
        let (without, ()) =
            tokio::join!(upstreams.without(gone), async { upstreams.withdraw(gone) });
        assert_eq!(without, ());
        assert!(!upstreams.holds(gone));
        upstreams.update(|_| pods(THREE));
        assert!(!upstreams.holds(gone));
        upstreams.release(gone);
        upstreams.one_released().await;
        upstreams.update(|_| pods(THREE));
        assert!(upstreams.holds(gone));
    }

    #[tokio::test]
    async fn an_endpoint_keeps_its_count_when_its_list_changes() {
        let upstreams = Upstreams::new(MOST);
        let upstream = upstreams.get(&key());
        upstreams.update(|_| pods(&THREE[..1]));
        let busy: Vec<Assigned> = (0..10).map(|_| upstream.pick(&[]).unwrap()).collect();
        upstreams.update(|_| pods(&THREE[..2]));
        for _ in 0..8 {
            assert_eq!(upstream.pick(&[]).unwrap().address, THREE[1].parse().unwrap());
        }
        drop(busy);
        upstreams.update(|_| Resolved::Nothing(Nothing::NoPort));
        assert_eq!(upstream.pick(&[]).err(), Some(Nothing::NoPort));
    }
}
