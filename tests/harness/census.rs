//! Counts a workload's pods at every event of a watch, so that no moment between two looks is missed: the most that
//! were wanted at once, and the fewest that were ready.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::Value;

use crate::cluster::Cluster;

/// A watch of the pods of the default namespace that a selector chooses. It outlives the daemon.
pub struct Census {
    shared: Arc<Shared>,
    selector: &'static str,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    is_over: AtomicBool,
}

/// What has been counted since it was asked last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extremes {
    /// Pods that are neither over nor being stopped.
    pub most: usize,
    /// Those of them that are ready.
    pub fewest_ready: usize,
}

#[derive(Default)]
struct Seen {
    /// By uid, whether it is ready; only those that are not being stopped.
    pods: BTreeMap<String, bool>,
    /// Those of a list that is coming in.
    listing: Option<BTreeMap<String, bool>>,
    /// Of the newest pod that was shown.
    revision: u64,
    extremes: Option<Extremes>,
}

impl Census {
    /// Begins to watch; returns when it knows every pod there is.
    pub fn start(cluster: &mut Cluster, selector: &'static str) -> Census {
        let shared = Arc::new(Shared::default());
        let dirs = [("data-dir", cluster.data_dir()), ("run-dir", cluster.run_dir())];
        let flags = dirs.map(|(name, dir)| (name, vec![dir.display().to_string()]));
        let watching = shared.clone();
        let thread = std::thread::spawn(move || {
            let sources = joey::cli::settings::Sources {
                flags: flags.into(),
                environment: &|_| None,
                file: None,
            };
            let settings = joey::cli::settings::Settings::merge(sources).expect("two directories");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be built").block_on(async {
                let client = joey::cli::client::connect(&settings).expect("a daemon has run");
                let config = watcher::Config::default().labels(selector);
                let events = watcher(Api::<Pod>::default_namespaced(client), config);
                let mut events = pin!(events.default_backoff());
                while !watching.is_over.load(Ordering::Relaxed) {
                    // What fails while no daemon runs is tried again.
                    let next = tokio::time::timeout(Duration::from_millis(100), events.next());
                    if let Ok(Some(Ok(event))) = next.await {
                        held(&watching.seen).take(event);
                    }
                }
            });
        });
        let census = Census { shared, selector, thread: Some(thread) };
        census.catch_up(cluster);
        census
    }

    /// Waits until it has seen every pod as it is now; then returns what was counted, and begins to count anew.
    pub fn catch_up(&self, cluster: &mut Cluster) -> Extremes {
        let listed = cluster.kubectl(&["get", "pods", "-l", self.selector, "-o", "json"]).ok();
        let listed: Value = serde_json::from_str(&listed).expect("kubectl prints JSON");
        let revision = |pod: &Value| pod["metadata"]["resourceVersion"].as_str()?.parse().ok();
        let pods = listed["items"].as_array().into_iter().flatten();
        let newest: u64 = pods.filter_map(revision).max().unwrap_or(0);
        cluster.wait_for("the census has seen every pod", |_| {
            let seen = held(&self.shared.seen);
            seen.revision >= newest && seen.extremes.is_some()
        });
        held(&self.shared.seen).begin_anew().expect("it has just been seen")
    }
}

impl Drop for Census {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the census does not panic");
        }
    }
}

fn held<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().expect("nobody panics while it holds this")
}

impl Seen {
    fn take(&mut self, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => self.listing = Some(BTreeMap::new()),
            watcher::Event::InitApply(pod) => {
                let mut listing = self.listing.take().unwrap_or_default();
                self.note(&mut listing, &pod);
                self.listing = Some(listing);
            }
            watcher::Event::InitDone => {
                self.pods = self.listing.take().unwrap_or_default();
                self.count();
            }
            watcher::Event::Apply(pod) => {
                let mut pods = std::mem::take(&mut self.pods);
                self.note(&mut pods, &pod);
                self.pods = pods;
                self.count();
            }
            watcher::Event::Delete(pod) => {
                self.pods.remove(&pod.uid().unwrap_or_default());
                self.count();
            }
        }
    }

    fn note(&mut self, pods: &mut BTreeMap<String, bool>, pod: &Pod) {
        let revision = pod.resource_version().and_then(|text| text.parse().ok()).unwrap_or(0);
        self.revision = self.revision.max(revision);
        let uid = pod.uid().unwrap_or_default();
        match joey::reconcile::pods::is_active(pod) {
            true => pods.insert(uid, joey::reconcile::pods::ready_since(pod).is_some()),
            false => pods.remove(&uid),
        };
    }

    fn now(&self) -> Extremes {
        let ready = self.pods.values().filter(|ready| **ready).count();
        Extremes { most: self.pods.len(), fewest_ready: ready }
    }

    fn count(&mut self) {
        let now = self.now();
        let before = self.extremes.unwrap_or(now);
        self.extremes = Some(Extremes {
            most: before.most.max(now.most),
            fewest_ready: before.fewest_ready.min(now.fewest_ready),
        });
    }

    fn begin_anew(&mut self) -> Option<Extremes> {
        let now = self.now();
        self.extremes.replace(now)
    }
}
