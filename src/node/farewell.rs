//! The host goes down: every pod ends in order within its own grace, and stays declared.
//!
//! Workers stop containers as for a deletion (preStop, stop signal, grace, kill) and then end, telling the API nothing:
//! whatever it knows is true again once the host is back, and a pod that the shutdown has ended is no pod that failed.
//! Pods that others lean on (priority `system-cluster-critical` and above) go after all others, as kubelet's graceful
//! node shutdown has it (KEP-2000, KEP-2712).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use tokio::sync::watch;

/// How far the host's going down has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It stays up.
    Up,
    /// Ordinary pods end.
    Ordinary,
    /// All pods end.
    All,
}

/// The priority of system-cluster-critical.
const CRITICAL: i32 = 2_000_000_000;

/// Shared by the agent and its workers. Clones are the same.
#[derive(Debug, Clone)]
pub struct Farewell {
    phase: Arc<watch::Sender<Phase>>,
    /// Workers that have not ended, by uid of their pod, and whether it is critical.
    roster: Arc<watch::Sender<BTreeMap<String, bool>>>,
}

/// A worker's place on the roster, until it is dropped.
#[derive(Debug)]
pub struct Place {
    farewell: Farewell,
    uid: String,
    phase: watch::Receiver<Phase>,
}

impl Default for Farewell {
    fn default() -> Farewell {
        Farewell { phase: Arc::new(watch::Sender::new(Phase::Up)), roster: Arc::default() }
    }
}

impl Farewell {
    /// Has ordinary pods end, then critical ones; returns when no worker is left.
    pub async fn say(&self) {
        for (phase, concerns_critical) in [(Phase::Ordinary, false), (Phase::All, true)] {
            self.phase.send_replace(phase);
            let mut roster = self.roster.subscribe();
            let done = |roster: &BTreeMap<String, bool>| {
                !roster.values().any(|critical| concerns_critical || !critical)
            };
            // The sender is ours, so waiting cannot fail.
            let _ = roster.wait_for(done).await;
        }
    }

    pub fn enter(&self, uid: &str, pod: &core::Pod) -> Place {
        let critical = is_critical(pod);
        self.roster.send_modify(|roster| {
            let _ = roster.insert(uid.to_owned(), critical);
        });
        Place { farewell: self.clone(), uid: uid.to_owned(), phase: self.phase.subscribe() }
    }
}

impl Place {
    /// Whether this pod is to end because the host goes down.
    pub fn is_over(&self, pod: &core::Pod) -> bool {
        let phase = *self.phase.borrow();
        phase == Phase::All || (phase == Phase::Ordinary && !is_critical(pod))
    }

    /// Waits until the phase changes.
    pub async fn changed(&mut self) {
        if self.phase.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.farewell.roster.send_modify(|roster| {
            let _ = roster.remove(&self.uid);
        });
    }
}

fn is_critical(pod: &core::Pod) -> bool {
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority);
    priority.is_some_and(|priority| priority >= CRITICAL)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(priority: i32) -> core::Pod {
        serde_json::from_value(json!({"spec": {"containers": [], "priority": priority}})).unwrap()
    }

    #[tokio::test]
    async fn critical_pods_go_after_all_others() {
        let farewell = Farewell::default();
        let (web, dns) = (pod(0), pod(CRITICAL));
        let (first, second) = (farewell.enter("web", &web), farewell.enter("dns", &dns));
        assert!(!first.is_over(&web) && !second.is_over(&dns));
        let said = tokio::spawn({
            let farewell = farewell.clone();
            async move { farewell.say().await }
        });
        let mut phases = farewell.phase.subscribe();
        phases.wait_for(|phase| *phase == Phase::Ordinary).await.unwrap();
        assert!(first.is_over(&web) && !second.is_over(&dns));
        drop(first);
        phases.wait_for(|phase| *phase == Phase::All).await.unwrap();
        assert!(second.is_over(&dns) && !said.is_finished());
        drop(second);
        said.await.unwrap();
    }
}
