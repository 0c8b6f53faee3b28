//! Runs a controller: wakes its roots, keeps them behind the gate, decides, has the decision carried out.
//!
//! It knows nothing of what is decided. A decision that panics is contained: its root waits and is tried again, the
//! others go on.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::Resource;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::apply::{self, Context};
use super::caches::{Caches, Held};
use super::decide::{Decide, Decision, Failure, Key, Seen, Wake};
use super::gate::{Gate, Until};
use super::roots::{Outcome, Roots, Turn};
use crate::events::Recorder;
use crate::metrics::{Counter, Family, Histogram, LATENCY, Registry};
use crate::model::time::Timestamp;
use crate::sys::clock;

/// Runs controller `D` until cancelled.
pub async fn run<D: Decide>(
    client: kube::Client,
    caches: Arc<Caches>,
    meters: &Meters,
    stop: CancellationToken,
) {
    let recorder = Recorder::start(client.clone(), D::NAME, String::new(), stop.child_token());
    let meters = meters.of(D::NAME);
    let shared = Arc::new(Shared { client, caches, recorder, meters });
    stop.run_until_cancelled(drive::<D>(shared)).await;
}

struct Shared {
    client: kube::Client,
    caches: Arc<Caches>,
    recorder: Recorder,
    meters: Series,
}

/// What all controllers count.
#[derive(Clone)]
pub struct Meters {
    turns: Family<Counter>,
    failures: Family<Counter>,
    seconds: Family<Histogram>,
}

/// What one controller counts.
struct Series {
    turns: Counter,
    failures: Counter,
    seconds: Histogram,
}

impl Meters {
    pub fn new(registry: &Registry) -> Meters {
        const LABELS: &[&str] = &["controller"];
        Meters {
            turns: registry.counters(
                "joey_controller_turns_total",
                "Decisions about one object, with what they write.",
                LABELS,
            ),
            failures: registry.counters(
                "joey_controller_failures_total",
                "Writes that went wrong, and decisions that could not be made.",
                LABELS,
            ),
            seconds: registry.histograms(
                "joey_controller_turn_duration_seconds",
                "A decision and its writes.",
                LABELS,
                LATENCY,
            ),
        }
    }

    fn of(&self, controller: &str) -> Series {
        Series {
            turns: self.turns.with(&[controller]),
            failures: self.failures.with(&[controller]),
            seconds: self.seconds.with(&[controller]),
        }
    }
}

/// The queue, reached by the caches' listeners. Never held across an await.
#[derive(Default)]
struct Queue {
    roots: Mutex<Roots>,
    woken: Notify,
}

impl Queue {
    fn roots(&self) -> MutexGuard<'_, Roots> {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, key: Key) {
        self.roots().wake(key);
        self.woken.notify_one();
    }
}

async fn drive<D: Decide>(shared: Arc<Shared>) {
    let began = Instant::now();
    let mut progress = shared.caches.progress();
    while !is_whole::<D>(&shared.caches) {
        if progress.changed().await.is_err() {
            return;
        }
    }
    let queue = Arc::new(Queue::default());
    listen::<D>(&shared.caches, &queue);
    let mut turns: JoinSet<(Turn, Outcome)> = JoinSet::new();
    loop {
        let due = {
            let mut roots = queue.roots();
            let now = began.elapsed();
            list_for_stuck(&mut roots, &shared.caches, now);
            while let Some(turn) = roots.next(now, |gate| gate.is_open(&shared.caches)) {
                turns.spawn(take_turn::<D>(shared.clone(), turn));
            }
            roots.due()
        };
        let waits = queue.roots().waits_for_caches();
        tokio::select! {
            Some(ended) = turns.join_next() => match ended {
                Ok((turn, outcome)) => {
                    queue.roots().finish(&turn.key, turn.may_change, outcome, began.elapsed());
                }
                // Decisions are contained, so this is a bug of the driver's: the daemon begins anew.
                Err(error) => return tracing::error!(%error, controller = D::NAME, "a turn failed"),
            },
            () = queue.woken.notified() => {}
            changed = progress.changed(), if waits => if changed.is_err() {
                return;
            },
            () = sleep_until(due.map(|due| began + due)) => {}
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn is_whole<D: Decide>(caches: &Caches) -> bool {
    caches.is_whole(D::Root::KIND) && D::READS.iter().all(|kind| caches.is_whole(*kind))
}

fn listen<D: Decide>(caches: &Arc<Caches>, queue: &Arc<Queue>) {
    let own = queue.clone();
    D::Root::cache(caches).listen(move |change| {
        if let Some(object) = change.new.as_ref().or(change.old.as_ref()) {
            own.wake(Key::of(object.meta()));
        }
    });
    let queue = queue.clone();
    let wake: Wake = Arc::new(move |key| queue.wake(key));
    D::wakes(caches, &wake);
}

/// Where a gate has been closed for long, an event has been lost: a new list will tell.
fn list_for_stuck(roots: &mut Roots, caches: &Caches, now: Duration) {
    for (key, old) in roots.stuck(now) {
        if old.is_open(caches) {
            continue;
        }
        tracing::warn!(root = %key, waiting = ?old, "the caches have not shown a write; listing again");
        let mut gate = Gate::default();
        for kind in old.kinds() {
            gate.add(Until::Listed { kind, list: caches.list_again(kind) });
        }
        roots.set_gate(&key, gate, now);
    }
}

async fn take_turn<D: Decide>(shared: Arc<Shared>, turn: Turn) -> (Turn, Outcome) {
    let context =
        Context { client: &shared.client, caches: &shared.caches, recorder: &shared.recorder };
    let begun = Instant::now();
    let root = D::Root::cache(&shared.caches).get(&turn.key);
    let decided = decide::<D>(&shared.caches, &turn, root.as_ref(), clock::now());
    let outcome = match (decided, root) {
        (Ok(decision), Some(root)) => {
            apply::apply(&context, root.as_ref(), decision, turn.may_change).await
        }
        (Ok(decision), None) => apply::apply_without_root(&context, decision.changes).await,
        (Err(message), root) => {
            tracing::error!(root = %turn.key, controller = D::NAME, message, "a decision panicked");
            if let Some(root) = root {
                apply::tell_of_panic(&context, root.as_ref(), &message);
            }
            let failure = Failure { reason: "InternalError", message };
            Outcome { failures: vec![failure], ..Outcome::default() }
        }
    };
    shared.meters.turns.increment();
    shared.meters.failures.add(outcome.failures.len() as u64);
    shared.meters.seconds.observe(begun.elapsed());
    (turn, outcome)
}

/// Decides, with a panic as an error.
pub fn decide<D: Decide>(
    caches: &Caches,
    turn: &Turn,
    root: Option<&Arc<D::Root>>,
    now: Timestamp,
) -> Result<Decision, String> {
    let seen = Seen { caches, failures: &turn.failures };
    catch_unwind(AssertUnwindSafe(|| match root {
        Some(root) => D::decide(&D::observe(root, &seen), now),
        None => D::gone(&turn.key, &seen),
    }))
    .map_err(|panic| reason(panic.as_ref()))
}

fn reason(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".into())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::runtime::watcher::Event;

    use super::super::caches::Kind;
    use super::*;

    struct Poisonous;

    impl Decide for Poisonous {
        type Root = Pod;
        type World = Option<String>;
        const NAME: &'static str = "poisonous-controller";
        const READS: &'static [Kind] = &[];

        fn wakes(_: &Arc<Caches>, _: &Wake) {}

        fn observe(root: &Arc<Pod>, _: &Seen<'_>) -> Option<String> {
            root.metadata.name.clone()
        }

        fn decide(world: &Option<String>, _: Timestamp) -> Decision {
            assert_ne!(world.as_deref(), Some("poison"), "it does not agree with me");
            Decision::default()
        }
    }

    #[test]
    fn a_panic_is_the_fault_of_one_object_and_stops_no_other() {
        let caches = Caches::new();
        for name in ["poison", "bread"] {
            let metadata =
                serde_json::json!({"namespace": "default", "name": name, "resourceVersion": "3"});
            let pod = serde_json::from_value(serde_json::json!({"metadata": metadata}));
            caches.pods.take(Event::Apply(pod.expect("a pod")));
        }
        let decided = |name: &str| {
            let key = Key::new("default", name);
            let root = caches.pods.get(&key);
            let turn = Turn { key, failures: Vec::new(), may_change: true };
            decide::<Poisonous>(&caches, &turn, root.as_ref(), clock::now())
        };
        assert!(decided("poison").is_err_and(|message| message.contains("does not agree")));
        assert_eq!(decided("bread"), Ok(Decision::default()));
        assert_eq!(decided("gone"), Ok(Decision::default()));
    }
}
