//! Flows of addresses that have become free: the kernel forgets them before anybody else gets the address.
//!
//! Finding them takes a walk through all of the kernel's table, some ten milliseconds however few flows there are. A thread
//! of its own walks it once for all pods that have gone meanwhile; who detaches a pod waits for nothing. Where the daemon
//! dies in between, the next one's start walks it for every address that nobody holds.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::model::cidr::Cidr;
use crate::net::conntrack::{self, Flow};
use crate::net::nfnetlink;

/// Between two walks; those that go meanwhile share the next.
const PAUSE: Duration = Duration::from_millis(100);
/// After a walk that failed.
const AGAIN: Duration = Duration::from_secs(1);

/// Ends its thread when it is dropped.
pub struct Sweeper(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Short sections only.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    unclean: BTreeSet<Ipv4Addr>,
    is_over: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be forgotten, once there is something; `None` at the end.
    fn next(&self) -> Option<BTreeSet<Ipv4Addr>> {
        let idle = |state: &mut State| state.unclean.is_empty() && !state.is_over;
        let state = self.changed.wait_while(self.state(), idle);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        (!state.is_over).then(|| state.unclean.clone())
    }

    /// For `pause`, unless it ends before.
    fn rest(&self, pause: Duration) {
        let state = self.changed.wait_timeout_while(self.state(), pause, |state| !state.is_over);
        drop(state.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Sweeper {
    /// Forgets the flows of all addresses of `range` that are not `held`, and begins.
    pub fn start(range: Cidr, held: &BTreeSet<Ipv4Addr>) -> io::Result<Sweeper> {
        let is_free =
            |address: Ipv4Addr| range.contains(IpAddr::V4(address)) && !held.contains(&address);
        conntrack::end(&mut nfnetlink::open()?, |flow| addresses(flow).into_iter().any(is_free))?;
        let sweeper = Sweeper(Arc::default());
        let shared = Arc::clone(&sweeper.0);
        thread::Builder::new().name("joey-flows".to_owned()).spawn(move || sweep(&shared))?;
        Ok(sweeper)
    }

    /// Has the flows of `address` forgotten soon.
    pub fn retire(&self, address: Ipv4Addr) {
        self.0.state().unclean.insert(address);
        self.0.changed.notify_all();
    }

    /// Whether no flow of `address` is left to be forgotten.
    pub fn is_clean(&self, address: Ipv4Addr) -> bool {
        !self.0.state().unclean.contains(&address)
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.0.state().is_over = true;
        self.0.changed.notify_all();
    }
}

fn addresses(flow: &Flow) -> [Ipv4Addr; 4] {
    [flow.from, flow.to, flow.answered_by, flow.answered_to]
}

fn sweep(shared: &Shared) {
    while let Some(unclean) = shared.next() {
        let begun = Instant::now();
        let walk = || {
            let mut socket = nfnetlink::open()?;
            let is_theirs = |address| unclean.contains(&address);
            conntrack::end(&mut socket, |flow| addresses(flow).into_iter().any(is_theirs))
        };
        match walk() {
            Ok(()) => {
                shared.state().unclean.retain(|address| !unclean.contains(address));
                // A long table costs time; at most a tenth of it goes into walking.
                shared.rest(PAUSE.max(begun.elapsed() * 9));
            }
            Err(error) => {
                tracing::warn!(%error, "flows of pods that are gone could not be forgotten: their addresses stay unused");
                shared.rest(AGAIN);
            }
        }
    }
}
