//! The hub that hands commits to watchers, and the watcher: replay from the log, then follow.
//!
//! A watcher whose queue is full is not cut off: the hub stops feeding it, and when it has drained what it has it reads
//! on from the log, up to a commit from which the hub feeds it again. Only what the log no longer holds is lost, and then
//! the watcher says [`Watched::Lagged`]. So memory is bounded by the queue, and patience by the log.
//!
//! ```text
//!             ┌──────────── queue overflowed ───────────┐
//!             ▼                                         │
//!   Replay (log, up to the commit known at attach) ──▶ Follow (queue)      any ──▶ Lagged · Closed
//! ```
//!
//! It never writes, and never holds a lock while it reads the log or waits.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::snapshot::Snapshot;
use super::tables::LogKey;
use super::{Event, Scope, Unavailable, Watched};
use crate::model::key::ResourceId;
use crate::model::revision::Revision;

/// Bounds of what waits in memory for one watcher.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueLimits {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// How many events one reading of the log yields at most (plus the rest of a commit).
const REPLAY_STRETCH: usize = 128;

/// Where the newest published commit meets everyone who waits for one.
pub(super) struct Hub {
    /// Replaced under the lock of `state`, read without it.
    snapshot: ArcSwap<Snapshot>,
    state: Mutex<State>,
    limits: QueueLimits,
}

struct State {
    subscribers: HashMap<ResourceId, Vec<Arc<Subscriber>>>,
    is_closed: bool,
}

struct Subscriber {
    scope: Scope,
    queue: Mutex<Queue>,
    fed: Notify,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Queued>,
    bytes: usize,
    /// Set when an event did not fit; from then on nothing is queued until the watcher attaches anew.
    is_overflowed: bool,
    is_closed: bool,
}

struct Queued {
    /// The log position that is done with once this event has been yielded.
    done: LogKey,
    event: Event,
}

/// What a look into the queue found.
enum Taken {
    Event(Queued),
    Overflowed,
    Closed,
    Nothing,
}

/// What a watcher can do next.
enum Step {
    Yield(Watched),
    Progress,
    Wait,
}

impl Hub {
    pub(super) fn new(snapshot: Snapshot, limits: QueueLimits) -> Hub {
        Hub {
            snapshot: ArcSwap::from_pointee(snapshot),
            state: Mutex::new(State { subscribers: HashMap::new(), is_closed: false }),
            limits,
        }
    }

    /// The newest published commit.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Makes `snapshot` the newest, and queues `commits` (in order, each its events in order) for whom they concern.
    pub(super) fn publish(&self, snapshot: Snapshot, commits: &[Vec<Event>]) {
        let state = self.state();
        // Before the events: who has seen an event must not read an older state.
        let previous = self.snapshot.swap(Arc::new(snapshot));
        for commit in commits {
            for (index, event) in commit.iter().enumerate() {
                let concerned = state.subscribers.get(&event.key.resource);
                for subscriber in concerned.into_iter().flatten() {
                    if subscriber.scope.holds(event) {
                        subscriber.offer(index, event, commit, self.limits);
                    }
                }
            }
        }
        drop(state);
        // Releasing pages of the old snapshot takes locks of redb's; not under ours.
        drop(previous);
    }

    /// Ends every watch.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        for subscriber in state.subscribers.values().flatten() {
            subscriber.queue().is_closed = true;
            subscriber.fed.notify_one();
        }
    }

    pub(super) fn watch(
        self: &Arc<Hub>,
        scope: &Scope,
        since: Revision,
    ) -> Result<Watch, Unavailable> {
        let mut state = self.state();
        let snapshot = self.snapshot();
        snapshot.reaches(since)?;
        let newest = snapshot.head().revision;
        let subscriber = Arc::new(Subscriber {
            scope: scope.clone(),
            queue: Mutex::new(Queue { is_closed: state.is_closed, ..Queue::default() }),
            fed: Notify::new(),
        });
        let neighbours = state.subscribers.entry(scope.resource.clone());
        neighbours.or_default().push(subscriber.clone());
        drop(state);
        Ok(Watch {
            hub: self.clone(),
            subscriber,
            done: (since.get(), u32::MAX),
            replayed: VecDeque::new(),
            replay_until: (since < newest).then_some(newest),
            is_lagged: false,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scope {
    fn holds(&self, event: &Event) -> bool {
        self.resource == event.key.resource
            && (self.namespace.is_none() || self.namespace == event.key.namespace)
    }
}

impl Subscriber {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(&self, index: usize, event: &Event, commit: &[Event], limits: QueueLimits) {
        let bytes = event.weight();
        let mut queue = self.queue();
        if queue.is_overflowed {
            return;
        }
        // One event always fits, whatever its size, so that a watcher with an empty queue never needs the log.
        let is_full = queue.events.len() >= limits.events || queue.bytes + bytes > limits.bytes;
        if is_full && !queue.events.is_empty() {
            queue.is_overflowed = true;
            return;
        }
        let is_last = !commit[index + 1..].iter().any(|later| self.scope.holds(later));
        let position = if is_last { u32::MAX } else { index as u32 };
        queue.bytes += bytes;
        queue
            .events
            .push_back(Queued { done: (event.revision.get(), position), event: event.clone() });
        drop(queue);
        self.fed.notify_one();
    }

    fn take(&self) -> Taken {
        let mut queue = self.queue();
        match queue.events.pop_front() {
            Some(queued) => {
                queue.bytes -= queued.event.weight();
                if queue.events.is_empty() {
                    // A burst must not leave its room behind in a watcher that idles from now on.
                    queue.events.shrink_to(16);
                }
                Taken::Event(queued)
            }
            None if queue.is_closed => Taken::Closed,
            None if queue.is_overflowed => Taken::Overflowed,
            None => Taken::Nothing,
        }
    }
}

impl Event {
    fn weight(&self) -> usize {
        let length = |value: &Option<bytes::Bytes>| value.as_ref().map_or(0, bytes::Bytes::len);
        size_of::<Queued>() + length(&self.value) + length(&self.previous)
    }
}

/// A stream of events after some revision: replay from the log, then follow.
pub struct Watch {
    hub: Arc<Hub>,
    subscriber: Arc<Subscriber>,
    /// The log position up to which everything has been yielded; index `u32::MAX` for a whole commit.
    done: LogKey,
    replayed: VecDeque<Queued>,
    /// Events up to here come from the log, later ones from the queue.
    replay_until: Option<Revision>,
    is_lagged: bool,
}

impl Watch {
    /// Waits for the next event of the scope. Cancel-safe. After `Lagged` and `Closed` it repeats them.
    pub async fn next(&mut self) -> Watched {
        loop {
            match self.step() {
                Step::Yield(watched) => return watched,
                // Reading the log is work; let others run between two stretches of it.
                Step::Progress => tokio::task::yield_now().await,
                Step::Wait => self.subscriber.fed.notified().await,
            }
        }
    }

    /// What [`Watch::next`] would yield without waiting, for a writer that flushes when there is no more.
    pub fn try_next(&mut self) -> Option<Watched> {
        loop {
            match self.step() {
                Step::Yield(watched) => return Some(watched),
                Step::Progress => {}
                Step::Wait => return None,
            }
        }
    }

    /// Everything up to this revision has been yielded (the revision a bookmark may carry).
    pub fn position(&self) -> Revision {
        let whole = self.whole();
        if self.is_lagged || self.replay_until.is_some() || !self.replayed.is_empty() {
            return whole;
        }
        // Under the hub's lock nothing is published, so an empty queue means that all published is yielded.
        let _unchanging = self.hub.state();
        let queue = self.subscriber.queue();
        match queue.events.front() {
            Some(front) => whole.max(front.event.revision.previous()),
            None if queue.is_overflowed => whole,
            None => whole.max(self.hub.snapshot().head().revision),
        }
    }

    /// The last commit of which nothing is left to yield, as far as events tell.
    fn whole(&self) -> Revision {
        let (number, index) = self.done;
        let revision = Revision::new(number).expect("positions start at the first revision");
        match index {
            u32::MAX => revision,
            _ => revision.previous(),
        }
    }

    fn step(&mut self) -> Step {
        if self.is_lagged {
            return Step::Yield(Watched::Lagged);
        }
        if let Some(queued) = self.replayed.pop_front() {
            return self.yielded(queued);
        }
        if let Some(until) = self.replay_until {
            self.is_lagged = self.replay(until).is_err();
            return Step::Progress;
        }
        match self.subscriber.take() {
            Taken::Event(queued) => self.yielded(queued),
            Taken::Closed => Step::Yield(Watched::Closed),
            Taken::Overflowed => {
                self.attach();
                Step::Progress
            }
            Taken::Nothing => Step::Wait,
        }
    }

    fn yielded(&mut self, queued: Queued) -> Step {
        self.done = queued.done;
        Step::Yield(Watched::Event(queued.event))
    }

    /// Has the hub feed the queue again, and everything before that come from the log.
    fn attach(&mut self) {
        let _unchanging = self.hub.state();
        self.subscriber.queue().is_overflowed = false;
        self.replay_until = Some(self.hub.snapshot().head().revision);
    }

    /// Reads the next stretch of the log.
    fn replay(&mut self, until: Revision) -> Result<(), Unavailable> {
        let snapshot = self.hub.snapshot();
        // Of a commit that has been yielded in part the rest is still needed.
        snapshot.reaches(self.whole())?;
        let scope = &self.subscriber.scope;
        let stretch = snapshot.events(scope, self.done, until, REPLAY_STRETCH)?;
        let mut later = stretch.events.into_iter().peekable();
        while let Some((position, event)) = later.next() {
            let is_last = later.peek().is_none_or(|(next, _)| next.0 != position.0);
            let index = if is_last { u32::MAX } else { position.1 };
            self.replayed.push_back(Queued { done: (position.0, index), event });
        }
        if self.replayed.is_empty() {
            self.done = (stretch.through.get(), u32::MAX);
        }
        if stretch.through >= until {
            self.replay_until = None;
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        let resource = &self.subscriber.scope.resource;
        if let Some(subscribers) = state.subscribers.get_mut(resource) {
            subscribers.retain(|other| !Arc::ptr_eq(other, &self.subscriber));
            if subscribers.is_empty() {
                state.subscribers.remove(resource);
            }
        }
    }
}
