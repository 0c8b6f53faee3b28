//! A client's leave to talk to a pod: asked for before the first byte, and again whenever policies may have taken it
//! back.
//!
//! The kernel ends the flows that a policy denies, but knows the proxy's as the proxy's: here they end (security D13).

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;

/// Says whether a client may reach a pod: the pod's NetworkPolicies, asked for the client itself.
pub trait Verdict: Send + Sync {
    fn permits(&self, client: IpAddr, pod: SocketAddr) -> bool;

    /// Changes after anything that may have taken a leave back.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// Of one client for one pod. Clones notice each for itself.
#[derive(Clone)]
pub struct Leave(Option<Granted>);

#[derive(Clone)]
struct Granted {
    verdict: Arc<Box<dyn Verdict>>,
    changes: watch::Receiver<u64>,
    client: IpAddr,
    pod: SocketAddr,
}

impl Granted {
    fn holds(&self) -> bool {
        self.verdict.permits(self.client, self.pod)
    }
}

impl Leave {
    /// `None` when it is not given. Without anybody to ask, everybody has it.
    pub fn ask(
        verdict: Option<&Arc<Box<dyn Verdict>>>,
        client: IpAddr,
        pod: SocketAddr,
    ) -> Option<Leave> {
        let Some(verdict) = verdict else {
            return Some(Leave(None));
        };
        // In this order, so that no change falls between.
        let changes = verdict.changes();
        let granted = Granted { verdict: Arc::clone(verdict), changes, client, pod };
        granted.holds().then_some(Leave(Some(granted)))
    }

    /// Whether it has been taken back since it was last looked at.
    pub fn is_over(&mut self) -> bool {
        let Some(granted) = &mut self.0 else {
            return false;
        };
        let has_changed = granted.changes.has_changed().unwrap_or(false);
        if has_changed {
            granted.changes.mark_unchanged();
        }
        has_changed && !granted.holds()
    }

    /// Ends when it is taken back.
    pub async fn over(&mut self) {
        if let Some(granted) = &mut self.0 {
            while granted.changes.changed().await.is_ok() {
                if !granted.holds() {
                    return;
                }
            }
        }
        std::future::pending().await
    }

    /// Does `work` as long as it holds; `None` when it does no longer. What is worked on is pinned where it stands: a future
    /// that is handed over is copied, and one that is wrapped holds it twice.
    pub async fn during<T>(&mut self, work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        let done = tokio::select! {
            biased;
            done = work => Some(done),
            () = self.over() => None,
        };
        done.filter(|_| !self.is_over())
    }
}
