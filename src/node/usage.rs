//! What pods and the host use, as the kubelet's `/stats/summary` tells it.
//!
//! Processor time is a counter, so a rate needs an earlier reading: a task keeps those of the last seconds, and a
//! question compares them with a reading of its own. It limits nothing and tells the API nothing by itself.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::pods::Pods;
use super::register::host;
use crate::model::time::Timestamp;
use crate::runtime::{self, ContainerPhase};
use crate::sys::clock;

/// Between two readings that are kept.
const PERIOD: Duration = Duration::from_secs(5);
/// Readings older than this are forgotten: a rate is that of the last 10 to 15 seconds.
const HORIZON: Duration = Duration::from_secs(15);
/// A rate over less time would be noise: the kernel accounts in ticks.
const SHORTEST: Duration = Duration::from_secs(1);

/// Measures. Clones share the readings.
#[derive(Clone)]
pub struct Usage {
    pods: Pods,
    node: Arc<str>,
    /// The clock of the readings.
    began: Instant,
    /// Held for one insertion or look, never across a wait.
    history: Arc<Mutex<History>>,
}

/// One attempt of one container; the host is the one without names.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Who {
    uid: String,
    container: String,
    attempt: u32,
}

/// Processor time at moments of the past, by whose it was.
#[derive(Debug, Default)]
struct History {
    readings: BTreeMap<Who, VecDeque<(Duration, Duration)>>,
}

/// Processors used, over which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate {
    nanocores: u64,
    window: Duration,
}

impl History {
    /// Remembers one round; who is not in it is gone.
    fn take(&mut self, at: Duration, round: Vec<(Who, Duration)>) {
        let mut kept = BTreeMap::new();
        for (who, spent) in round {
            let mut readings = self.readings.remove(&who).unwrap_or_default();
            readings.retain(|(then, _)| at.saturating_sub(*then) <= HORIZON);
            readings.push_back((at, spent));
            kept.insert(who, readings);
        }
        self.readings = kept;
    }

    /// The rate up to now, since the oldest reading.
    fn rate(&self, who: &Who, at: Duration, spent: Duration) -> Option<Rate> {
        let (then, before) = self.readings.get(who)?.front()?;
        let window = at.checked_sub(*then).filter(|window| *window >= SHORTEST)?;
        let used = spent.saturating_sub(*before).as_nanos();
        let nanocores = used * 1_000_000_000 / window.as_nanos();
        Some(Rate { nanocores: u64::try_from(nanocores).unwrap_or(u64::MAX), window })
    }
}

/// A container that runs.
struct Running {
    who: Who,
    pod: runtime::Pod,
    namespace: String,
    name: String,
    started_at: Timestamp,
}

impl Usage {
    pub fn new(pods: Pods, node: &str) -> Usage {
        Usage { pods, node: node.into(), began: Instant::now(), history: Arc::default() }
    }

    /// Keeps readings until it is dropped.
    pub async fn run(self) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let running = self.running();
            let round = tokio::task::spawn_blocking(move || {
                let all = running.iter().map(|one| (one.who.clone(), one.spent()));
                let host = (Who::default(), host::processor_time());
                // Who cannot be read has just ended.
                let all = all.chain([host]).filter_map(|(who, spent)| Some((who, spent.ok()?)));
                all.collect::<Vec<_>>()
            });
            if let Ok(round) = round.await {
                self.lock().take(self.began.elapsed(), round);
            }
        }
    }

    /// The host and every pod that runs, in the shape of `k8s.io/kubelet/pkg/apis/stats/v1alpha1`. Beside it stands
    /// `cpu.windowSeconds`, the time that `usageNanoCores` is the average of. What has no rate yet is left out.
    pub async fn summary(&self) -> Value {
        let usage = self.clone();
        let running = self.running();
        tokio::task::spawn_blocking(move || usage.measure(&running)).await.unwrap_or_default()
    }

    fn measure(&self, running: &[Running]) -> Value {
        let mut pods: BTreeMap<&str, Value> = BTreeMap::new();
        for one in running {
            let Some(figures) = self.figures(&one.who, || one.spent(), || one.memory()) else {
                continue;
            };
            let pod = pods.entry(&one.who.uid).or_insert_with(|| {
                let reference =
                    json!({"name": one.name, "namespace": one.namespace, "uid": one.who.uid});
                json!({"podRef": reference, "containers": []})
            });
            let mut container =
                json!({"name": one.who.container, "startTime": one.started_at.to_seconds_text()});
            merge(&mut container, figures);
            if let Value::Array(containers) = &mut pod["containers"] {
                containers.push(container);
            }
        }
        let mut node = json!({"nodeName": &*self.node});
        let memory = || Ok(host::memory_in_use());
        if let Some(figures) = self.figures(&Who::default(), host::processor_time, memory) {
            merge(&mut node, figures);
        }
        json!({"node": node, "pods": pods.into_values().collect::<Vec<_>>()})
    }

    fn figures(
        &self,
        who: &Who,
        spent: impl Fn() -> io::Result<Duration>,
        memory: impl Fn() -> io::Result<u64>,
    ) -> Option<Value> {
        let time = clock::now().to_seconds_text();
        let spent = spent().ok()?;
        let rate = self.lock().rate(who, self.began.elapsed(), spent)?;
        let bytes = memory().ok()?;
        Some(json!({
            "cpu": {
                "time": time,
                "usageNanoCores": rate.nanocores,
                "usageCoreNanoSeconds": u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX),
                "windowSeconds": rate.window.as_secs_f64(),
            },
            "memory": {"time": time, "workingSetBytes": bytes},
        }))
    }

    fn running(&self) -> Vec<Running> {
        let mut all = Vec::new();
        for entry in self.pods.all() {
            let Some(pod) = &entry.pod else { continue };
            let states = pod.state().borrow().containers.clone();
            for (container, state) in states {
                if let ContainerPhase::Running { started_at, .. } = state.phase {
                    all.push(Running {
                        who: Who { uid: entry.uid.clone(), container, attempt: state.attempt },
                        pod: pod.clone(),
                        namespace: entry.namespace.clone(),
                        name: entry.name.clone(),
                        started_at,
                    });
                }
            }
        }
        all
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn spent(&self) -> io::Result<Duration> {
        self.pod.processor_time(&self.who.container, self.who.attempt)
    }

    fn memory(&self) -> io::Result<u64> {
        self.pod.memory(&self.who.container, self.who.attempt)
    }
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(attempt: u32) -> Who {
        Who { uid: "u".into(), container: "c".into(), attempt }
    }

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_rate_is_that_of_the_last_seconds_and_of_one_attempt() {
        let mut history = History::default();
        let rate = |history: &History, who: &Who, at, spent| {
            history
                .rate(who, seconds(at), seconds(spent))
                .map(|r| (r.nanocores, r.window.as_secs()))
        };
        assert_eq!(rate(&history, &who(0), 9, 9), None, "without a reading there is no rate");
        for (at, spent) in [(0, 0), (5, 5), (10, 5), (15, 5), (20, 10)] {
            history.take(seconds(at), vec![(who(0), seconds(spent))]);
        }
        assert_eq!(rate(&history, &who(0), 20, 10), Some((1_000_000_000 / 3, 15)));
        assert_eq!(rate(&history, &who(1), 20, 10), None, "a new attempt begins at nothing");
        history.take(seconds(21), vec![(who(1), seconds(0))]);
        assert_eq!(rate(&history, &who(0), 25, 10), None, "who has gone is forgotten");
        assert_eq!(rate(&history, &who(1), 21, 9), None, "too short a time tells nothing");
        assert_eq!(rate(&history, &who(1), 25, 2), Some((500_000_000, 4)));
    }

    #[test]
    fn a_counter_that_falls_is_no_use() {
        let mut history = History::default();
        history.take(seconds(0), vec![(who(0), seconds(8))]);
        let rate = history.rate(&who(0), seconds(5), seconds(1)).expect("a rate");
        assert_eq!(rate.nanocores, 0);
    }
}
