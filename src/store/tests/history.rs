//! What watchers see beside a model of the store: events ordered, unique, reliable, atomic, resumable and bookmarked, in
//! the sense of etcd's guarantees (<https://etcd.io/docs/v3.6/learning/api_guarantees/>).

use std::collections::HashMap;

use proptest::prelude::*;

use super::model::Model;
use super::simulated::{Chance, Disk, is_long};
use super::*;

/// One step of a small history.
#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Wish>),
    /// A watch of a scope, from so many commits ago.
    Watch(usize, u64),
    /// At most so many events of a watch.
    Read(usize, usize),
    /// A watch is dropped and goes on from its position.
    Resume(usize),
    /// A list of a scope, as of so many commits ago.
    List(usize, u64),
    /// The store is closed and opened again; all watches go on from their positions.
    Reopen,
}

#[derive(Debug, Clone)]
struct Wish {
    key: usize,
    when: When,
    deletes: bool,
}

#[derive(Debug, Clone, Copy)]
enum When {
    Any,
    Absent,
    Exists,
    /// At the revision of so many commits before the key's own.
    At(u64),
}

fn keys() -> Vec<ObjectKey> {
    [
        ("pods", "a", "x"),
        ("pods", "a", "y"),
        ("pods", "a-b", "x"),
        ("pods", "b", "x"),
        ("pods.metrics.k8s.io", "a", "x"),
        ("nodes", "", "x"),
    ]
    .map(|(resource, namespace, name)| key(resource, namespace, name))
    .to_vec()
}

fn scopes() -> Vec<Scope> {
    [("pods", ""), ("pods", "a"), ("pods", "a-b"), ("pods.metrics.k8s.io", ""), ("nodes", "")]
        .map(|(resource, namespace)| scope(resource, namespace))
        .to_vec()
}

fn step() -> impl Strategy<Value = Step> {
    let when = prop_oneof![
        4 => Just(When::Any),
        1 => Just(When::Absent),
        1 => Just(When::Exists),
        2 => (0..2u64).prop_map(When::At),
    ];
    let wish = (0..6usize, when, proptest::bool::weighted(0.3))
        .prop_map(|(key, when, deletes)| Wish { key, when, deletes });
    prop_oneof![
        8 => proptest::collection::vec(wish, 1..4).prop_map(Step::Commit),
        2 => (0..5usize, 0..6u64).prop_map(|(scope, back)| Step::Watch(scope, back)),
        6 => (0..4usize, 1..6usize).prop_map(|(watch, most)| Step::Read(watch, most)),
        2 => (0..4usize).prop_map(Step::Resume),
        2 => (0..5usize, 0..6u64).prop_map(|(scope, back)| Step::List(scope, back)),
        1 => Just(Step::Reopen),
    ]
}

struct Watcher {
    watch: Watch,
    scope: Scope,
    since: Revision,
    seen: usize,
    bookmark: Revision,
}

struct History {
    disk: Disk,
    limits: Limits,
    store: Store,
    model: Model,
    watchers: Vec<Watcher>,
    written: usize,
}

impl History {
    fn new(limits: Limits) -> History {
        let disk = Disk::of(Vec::new());
        let store = Store::start(disk.clone(), limits.clone()).expect("memory does not fail");
        let (model, watchers) = (Model::new(), Vec::new());
        History { disk, limits, store, model, watchers, written: 0 }
    }

    async fn take(&mut self, step: &Step) {
        match step {
            Step::Commit(wishes) => {
                let changes = self.changes(wishes);
                let answer = match self.store.commit(changes.clone()).await {
                    Ok(revision) => Ok(revision),
                    answer => Err(refused(answer)),
                };
                assert_eq!(answer, self.model.commit(&changes), "{changes:?}");
                assert_eq!(self.store.revision(), self.model.revision());
            }
            Step::Watch(scope, back) => {
                let scope = scopes().swap_remove(*scope);
                let since = self.ago(*back);
                if let Some(watcher) = self.watch(scope, since) {
                    self.watchers.push(watcher);
                    if self.watchers.len() > 4 {
                        self.watchers.remove(0);
                    }
                }
            }
            Step::Read(watch, most) => self.read(*watch, *most),
            Step::Resume(watch) => {
                if *watch < self.watchers.len() {
                    let watcher = self.watchers.swap_remove(*watch);
                    self.resume(watcher);
                }
            }
            Step::List(scope, back) => {
                let scope = &scopes()[*scope];
                let at = self.ago(*back);
                match self.store.list(scope, None, 0, Some(at)) {
                    Ok(listed) => assert_eq!(listed.items, self.model.list(scope, at)),
                    Err(error) => self.expired(&error, at),
                }
            }
            Step::Reopen => {
                let watchers: Vec<_> = self.watchers.drain(..).collect();
                self.store.close().await;
                self.disk = Disk::of(self.disk.content());
                self.store = Store::start(self.disk.clone(), self.limits.clone()).expect("opens");
                assert_eq!(self.store.revision(), self.model.revision());
                for watcher in watchers {
                    self.resume(watcher);
                }
            }
        }
    }

    /// A revision of the past.
    fn ago(&self, back: u64) -> Revision {
        let now = self.model.revision().get();
        Revision::new(now.saturating_sub(back).max(1)).unwrap()
    }

    fn changes(&mut self, wishes: &[Wish]) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::new();
        for wish in wishes {
            let key = keys().swap_remove(wish.key);
            if changes.iter().any(|change| change.key == key) {
                continue;
            }
            let written = self.model.now().get(&key).map(|(revision, _)| *revision);
            let when = match wish.when {
                When::Any => Precondition::Any,
                When::Absent => Precondition::Absent,
                When::Exists => Precondition::Exists,
                When::At(before) => {
                    let written = written.unwrap_or(Revision::FIRST).get();
                    Precondition::At(Revision::new(written.saturating_sub(before).max(1)).unwrap())
                }
            };
            self.written += 1;
            changes.push(match wish.deletes {
                true => delete(key, when),
                false => put(key, when, &self.written.to_string()),
            });
        }
        changes
    }

    fn watch(&self, scope: Scope, since: Revision) -> Option<Watcher> {
        match self.store.watch(&scope, since) {
            Ok(watch) => Some(Watcher { watch, scope, since, seen: 0, bookmark: since }),
            Err(error) => {
                self.expired(&error, since);
                None
            }
        }
    }

    /// `error` is right to say that `at` has left the log.
    fn expired(&self, error: &Unavailable, at: Revision) {
        let oldest = self.store.oldest();
        assert_eq!(*error, Unavailable::Expired { oldest });
        assert!(at < oldest, "{at} is not before {oldest}");
    }

    fn resume(&mut self, watcher: Watcher) {
        let position = watcher.bookmark;
        self.watchers.extend(self.watch(watcher.scope, position));
    }

    fn read(&mut self, index: usize, most: usize) {
        let Some(watcher) = self.watchers.get_mut(index) else {
            return;
        };
        let expected = self.model.events(&watcher.scope, watcher.since);
        for _ in 0..most {
            match watcher.watch.try_next() {
                Some(Watched::Event(event)) => {
                    assert_eq!(expected.get(watcher.seen), Some(&event), "the next of this scope");
                    assert!(event.revision > watcher.bookmark, "{} was done", watcher.bookmark);
                    watcher.seen += 1;
                }
                None => assert_eq!(watcher.seen, expected.len(), "nothing more, says the watch"),
                Some(Watched::Lagged) => {
                    let oldest = self.store.oldest();
                    assert!(watcher.bookmark < oldest, "{} is in the log", watcher.bookmark);
                    self.watchers.remove(index);
                    return;
                }
                Some(Watched::Closed) => panic!("the store is open"),
            }
            let position = watcher.watch.position();
            let done = expected.iter().filter(|event| event.revision <= position).count();
            assert!(done <= watcher.seen, "{position} is not done with");
            assert!(position >= watcher.bookmark && position <= self.model.revision());
            watcher.bookmark = position;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if is_long() { 3000 } else { 200 }))]

    #[test]
    fn every_small_history_reads_like_its_model(
        steps in proptest::collection::vec(step(), 1..60),
        events in 1u64..24,
        queue in 1usize..6,
    ) {
        let limits = Limits {
            log: compact::Retention { events, bytes: u64::MAX },
            queue: watch::QueueLimits { events: queue, bytes: usize::MAX },
            ..Limits::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut history = History::new(limits);
            for step in &steps {
                history.take(step).await;
            }
            for watch in 0..4 {
                history.read(watch, 1000);
            }
            history.store.close().await;
        });
    }
}

/// A commit that somebody asked for.
struct Attempt {
    changes: Vec<Change>,
    /// The newest revision before it was asked, and after it was answered.
    between: (Revision, Revision),
    /// `None` when the caller stopped waiting.
    answer: Option<Result<Revision, (usize, Refused)>>,
}

/// What one watcher saw, over all its connections.
struct Sight {
    scope: Scope,
    since: Revision,
    events: Vec<Event>,
    /// Positions that were told, and how many events had been seen up to them.
    bookmarks: Vec<(Revision, usize)>,
}

const NAMESPACES: [&str; 3] = ["a", "a-b", "b"];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_writers_and_eight_watchers_agree_on_one_history_whoever_gives_up() {
    let mut chance = Chance::printed();
    let rounds = if is_long() { 2000 } else { 150 };
    let limits = Limits {
        log: compact::Retention { events: u64::MAX, bytes: u64::MAX },
        queue: watch::QueueLimits { events: 8, bytes: usize::MAX },
        ..Limits::default()
    };
    let store = Store::start(InMemoryBackend::new(), limits).expect("memory does not fail");
    let watchers: Vec<_> =
        (0..8).map(|_| tokio::spawn(watching(store.clone(), chance.fork()))).collect();
    let writers: Vec<_> = (0..8)
        .map(|writer| tokio::spawn(writing(store.clone(), writer, rounds, chance.fork())))
        .collect();
    let mut attempts = Vec::new();
    for writer in writers {
        attempts.extend(writer.await.expect("a writer writes"));
    }
    let end =
        NAMESPACES.map(|namespace| put(key("pods", namespace, "end"), Precondition::Absent, "end"));
    let before = store.revision();
    let answer = store.commit(end.to_vec()).await.map_err(|error| panic!("{error}"));
    attempts.push(Attempt {
        changes: end.to_vec(),
        between: (before, store.revision()),
        answer: Some(answer),
    });
    let model = in_order(&store, &attempts);
    let all = scope("pods", "");
    let listed = store.list(&all, None, 0, None).expect("lists");
    assert_eq!(listed.items, model.list(&all, model.revision()));
    for attempt in &attempts {
        let (before, after) = attempt.between;
        match &attempt.answer {
            Some(Ok(revision)) => {
                assert!(before < *revision && *revision <= after, "acknowledged in its time");
            }
            Some(Err(refused)) => {
                let mut then = (before.get()..=after.get()).map(|at| Revision::new(at).unwrap());
                let is_right =
                    then.any(|at| model.refusal(at, &attempt.changes).as_ref() == Some(refused));
                assert!(is_right, "{refused:?} was never true for {:?}", attempt.changes);
            }
            None => {}
        }
    }
    for watcher in watchers {
        let sight = watcher.await.expect("a watcher watches");
        let expected = model.events(&sight.scope, sight.since);
        assert_eq!(sight.events, expected, "{:?} from {}", sight.scope, sight.since);
        for (position, seen) in sight.bookmarks {
            let done = expected.iter().filter(|event| event.revision <= position).count();
            assert_eq!(done, seen, "{:?} at the bookmark {position}", sight.scope);
        }
    }
}

async fn writing(store: Store, writer: usize, rounds: usize, mut chance: Chance) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for round in 0..rounds {
        let mut changes: Vec<Change> = Vec::new();
        for part in 0..=chance.below(3) {
            let name = format!("n{}", chance.below(3));
            let key = key("pods", NAMESPACES[chance.below(3)], &name);
            if changes.iter().any(|change| change.key == key) {
                continue;
            }
            let stored = store.get(&key).expect("reads").map(|stored| stored.revision);
            let when = match (chance.below(4), stored) {
                (0, None) => Precondition::Absent,
                (1, Some(_)) => Precondition::Exists,
                (2, Some(revision)) => Precondition::At(revision),
                _ => Precondition::Any,
            };
            // The first puts, so that every commit can be told by its values.
            changes.push(match part > 0 && chance.below(2) == 0 {
                true => delete(key, when),
                false => put(key, when, &format!("{writer}-{round}")),
            });
        }
        let before = store.revision();
        let asked = tokio::spawn({
            let (store, changes) = (store.clone(), changes.clone());
            async move { store.commit(changes).await }
        });
        if chance.below(5) == 0 {
            for _ in 0..chance.below(3) {
                tokio::task::yield_now().await;
            }
            asked.abort();
        }
        let answer = match asked.await {
            Ok(Ok(revision)) => Some(Ok(revision)),
            Ok(answer) => Some(Err(refused(answer))),
            Err(given_up) => {
                assert!(given_up.is_cancelled());
                None
            }
        };
        attempts.push(Attempt { changes, between: (before, store.revision()), answer });
    }
    attempts
}

async fn watching(store: Store, mut chance: Chance) -> Sight {
    let namespace = ["", "a", "a-b", "b"][chance.below(4)];
    let scope = scope("pods", namespace);
    let since = store.revision();
    let mut sight = Sight { scope, since, events: Vec::new(), bookmarks: vec![(since, 0)] };
    loop {
        let (position, seen) = *sight.bookmarks.last().expect("begins with one");
        // Of a commit that was cut in two the first half comes again.
        sight.events.truncate(seen);
        let mut watch = store.watch(&sight.scope, position).expect("all is in the log");
        for _ in 0..=chance.below(100) {
            let Watched::Event(event) = next(&mut watch).await else {
                panic!("nothing leaves the log, and the store is open");
            };
            let told = sight.bookmarks.last().expect("begins with one").0;
            assert!(event.revision > told, "{} comes after the bookmark {told}", event.revision);
            let is_end = event.value.as_deref() == Some(b"end");
            sight.events.push(event);
            let position = watch.position();
            let seen = sight.events.partition_point(|event| event.revision <= position);
            sight.bookmarks.push((position, seen));
            if is_end && seen == sight.events.len() {
                return sight;
            }
        }
    }
}

/// The one order in which `attempts` explain what a watch from the beginning shows.
fn in_order(store: &Store, attempts: &[Attempt]) -> Model {
    let mut by_value = HashMap::new();
    for attempt in attempts {
        let values = attempt.changes.iter().filter_map(|change| match &change.op {
            Op::Put(value) => Some(value.clone()),
            Op::Delete => None,
        });
        by_value.extend(values.map(|value| (value, attempt)));
    }
    let mut history: std::collections::BTreeMap<Revision, Vec<Event>> = Default::default();
    let mut watch = store.watch(&scope("pods", ""), Revision::FIRST).expect("all is in the log");
    while let Some(Watched::Event(event)) = watch.try_next() {
        history.entry(event.revision).or_default().push(event);
    }
    let mut model = Model::new();
    for (revision, events) in history {
        let value = events.iter().find_map(|event| event.value.clone()).expect("one puts");
        let attempt = by_value.remove(&value).expect("asked for, and once");
        assert_eq!(model.commit(&attempt.changes), Ok(revision), "{:?}", attempt.changes);
        let all = model.events(&scope("pods", ""), revision.previous());
        assert_eq!(events, all, "a whole commit, as it was asked for");
        if let Some(answer) = &attempt.answer {
            assert_eq!(*answer, Ok(revision), "{:?}", attempt.changes);
        }
    }
    let acknowledged = attempts.iter().filter(|a| matches!(a.answer, Some(Ok(_)))).count();
    let missing = by_value.values().filter(|a| matches!(a.answer, Some(Ok(_)))).count();
    assert_eq!(missing, 0, "of {acknowledged} acknowledged commits");
    model
}
