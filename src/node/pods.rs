//! What runs here, as others may see it: one immutable entry per pod, replaced whole by its worker.
//!
//! It never starts, stops or changes anything; readers (logs, exec, attach, port-forward) take a
//! snapshot and never wait for a worker.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1 as core;
use tokio::sync::watch;

use crate::runtime::{self, plan::ContainerPlan};

/// The pods of this node by namespace and name. Clones share it.
#[derive(Clone)]
pub struct Pods {
    /// A `std` mutex: held for one map operation, never across an await.
    entries: Arc<Mutex<BTreeMap<(String, String), Arc<PodEntry>>>>,
    changes: watch::Sender<u64>,
}

/// One pod as of its worker's last step.
#[derive(Clone)]
pub struct PodEntry {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// The shim that holds its containers; `None` before it exists and after the pod has ended (logs remain).
    pub pod: Option<runtime::Pod>,
    /// Every container that was started at least once, init containers included.
    pub containers: BTreeMap<String, ContainerEntry>,
    /// Why each of the others was not started yet: the waiting reason of its status.
    pub waiting: BTreeMap<String, String>,
    /// Pinned network namespace; `None` for a pod in the host's network or without a network yet.
    pub netns: Option<PathBuf>,
    pub address: Option<IpAddr>,
    pub host_network: bool,
    /// Where it asks to have its metrics read.
    pub metrics: Option<super::scrape::Place>,
}

/// One container as of its newest attempt.
#[derive(Debug, Clone)]
pub struct ContainerEntry {
    /// The plan of the newest attempt (user, environment and directory for exec); `None` when it ended in the
    /// time of an earlier daemon.
    pub plan: Option<ContainerPlan>,
    pub attempt: u32,
    /// The attempt that `lastState` tells of, whose log `--previous` means: while the next one waits it is the newest.
    pub previous: Option<u32>,
    /// Directory of this container's log files, see [`ContainerEntry::log_path`].
    pub log_dir: PathBuf,
}

impl ContainerEntry {
    /// The log of one attempt, `<log_dir>/<attempt>.log`; the shim rotates it to `<attempt>.log.<time>`.
    pub fn log_path(&self, attempt: u32) -> PathBuf {
        self.log_dir.join(format!("{attempt}.log"))
    }
}

impl PodEntry {
    /// What Events about the pod refer to.
    pub fn reference(&self) -> core::ObjectReference {
        core::ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.name.clone()),
            uid: Some(self.uid.clone()),
            ..core::ObjectReference::default()
        }
    }
}

impl Default for Pods {
    fn default() -> Pods {
        Pods { entries: Arc::default(), changes: watch::Sender::new(0) }
    }
}

impl Pods {
    /// The pod of that name as it is now.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<PodEntry>> {
        self.lock().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// The pod of that uid.
    pub fn find_uid(&self, uid: &str) -> Option<Arc<PodEntry>> {
        self.lock().values().find(|entry| entry.uid == uid).cloned()
    }

    /// Every pod as it is now.
    pub fn all(&self) -> Vec<Arc<PodEntry>> {
        self.lock().values().cloned().collect()
    }

    /// Wakes whenever an entry was replaced or taken out (a followed log learns of restart and end this way).
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Replaces the pod's entry, if its object is still there at that moment: a pod that was removed by force
    /// still comes down while a younger one of its name has this place.
    pub(super) fn publish(&self, entry: PodEntry, is_there: impl Fn() -> bool) {
        let key = (entry.namespace.clone(), entry.name.clone());
        let mut entries = self.lock();
        if !is_there() {
            return;
        }
        entries.insert(key, Arc::new(entry));
        drop(entries);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Takes the entry out, unless a younger pod of the same name has taken its place.
    pub(super) fn withdraw(&self, namespace: &str, name: &str, uid: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        let mut entries = self.lock();
        if entries.get(&key).is_some_and(|entry| entry.uid == uid) {
            entries.remove(&key);
            drop(entries);
            self.changes.send_modify(|count| *count += 1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Arc<PodEntry>>> {
        // Each operation leaves the map whole, so a panic elsewhere does not spoil it.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(uid: &str) -> PodEntry {
        PodEntry {
            namespace: "default".into(),
            name: "web".into(),
            uid: uid.into(),
            pod: None,
            containers: BTreeMap::new(),
            waiting: BTreeMap::new(),
            netns: None,
            address: None,
            host_network: false,
            metrics: None,
        }
    }

    #[test]
    fn a_late_withdrawal_does_not_take_the_younger_pod_of_the_same_name() {
        let pods = Pods::default();
        pods.publish(entry("old"), || true);
        pods.publish(entry("new"), || true);
        pods.publish(entry("old"), || false);
        pods.withdraw("default", "web", "old");
        assert_eq!(pods.find("default", "web").map(|e| e.uid.clone()), Some("new".into()));
        pods.withdraw("default", "web", "new");
        assert!(pods.find("default", "web").is_none());
    }
}
