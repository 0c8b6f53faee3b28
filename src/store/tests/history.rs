//! The store against a model: what eight writers were told and eight watchers saw must fit one history.
//!
//! Writers give up on commits half-way and watchers on waiting; watchers also stop and resume. Checked are etcd's
//! watch guarantees (Ordered, Unique, Reliable, Atomic, Resumable, Bookmarkable) and that the history itself obeys
//! every precondition that was answered with yes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::disks::Dice;
use super::*;

const WRITERS: u64 = 8;
const WATCHERS: u64 = 8;
const COMMITS: u64 = 40;

fn any_key(dice: &mut Dice) -> ObjectKey {
    let resource = ["pods", "leases"][dice.below(2) as usize];
    let namespace = ["a", "b"][dice.below(2) as usize];
    key(resource, namespace, &dice.below(3).to_string())
}

fn any_change(store: &Store, dice: &mut Dice, value: &str) -> Change {
    let key = any_key(dice);
    let current = store.get(&key).expect("reads");
    let when = match (dice.below(5), current) {
        (0, _) => Precondition::Any,
        (1, _) => Precondition::Absent,
        (2, _) => Precondition::Exists,
        (_, Some(current)) => Precondition::At(current.revision),
        (_, None) => Precondition::Absent,
    };
    match dice.one_in(4) {
        true => delete(key, when),
        false => put(key, when, value),
    }
}

/// Lets `future` run for a few polls, then drops it.
async fn abandon<F: Future>(future: F, polls: u64) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    for _ in 0..=polls {
        tokio::select! {
            biased;
            output = &mut future => return Some(output),
            () = tokio::task::yield_now() => {}
        }
    }
    None
}

/// The commits that were answered with yes.
async fn writes(store: Store, mut dice: Dice, writer: u64) -> Vec<(Revision, Vec<Change>)> {
    let mut acknowledged = Vec::new();
    for round in 0..COMMITS {
        let value = format!("{writer}.{round}");
        let mut changes: Vec<Change> = Vec::new();
        for _ in 0..=dice.below(3) {
            let change = any_change(&store, &mut dice, &value);
            if changes.iter().all(|other| other.key != change.key) {
                changes.push(change);
            }
        }
        let commit = store.commit(changes.clone());
        let answer = match dice.one_in(5) {
            true => abandon(commit, dice.below(3)).await,
            false => Some(commit.await),
        };
        match answer {
            Some(Ok(revision)) => {
                assert!(store.revision() >= revision, "answered before it was shown");
                acknowledged.push((revision, changes));
            }
            Some(Err(CommitError::Refused { .. })) | None => {}
            Some(Err(error)) => panic!("{error}"),
        }
    }
    acknowledged
}

/// What one watcher got, and the bookmarks it read: (how many events it had by then, position).
struct Seen {
    scope: Scope,
    events: Vec<Event>,
    bookmarks: Vec<(usize, Revision)>,
    lags: u64,
}

async fn watches(store: Store, mut dice: Dice, is_done: &AtomicBool) -> Seen {
    let scope = match dice.below(3) {
        0 => scope("pods", ""),
        1 => scope("pods", "a"),
        _ => scope("leases", "b"),
    };
    let mut seen = Seen {
        scope: scope.clone(),
        events: Vec::new(),
        bookmarks: vec![(0, Revision::FIRST)],
        lags: 0,
    };
    let mut watch = store.watch(&scope, Revision::FIRST).expect("watches");
    loop {
        let was_done = is_done.load(Ordering::SeqCst);
        let patience = dice.below(4);
        match abandon(watch.next(), patience).await {
            Some(Watched::Event(event)) => {
                // Reading after an event never gives an older state than the event's.
                let current = store.get(&event.key).expect("reads");
                let is_older = current.is_some_and(|current| current.revision < event.revision);
                assert!(!is_older, "a read went back in time");
                seen.events.push(event);
            }
            Some(Watched::Lagged) => seen.lags += 1,
            Some(Watched::Closed) => panic!("nobody closes the store"),
            None if was_done && watch.position() == store.revision() => return seen,
            None => tokio::task::yield_now().await,
        }
        if dice.one_in(6) {
            seen.bookmarks.push((seen.events.len(), watch.position()));
        }
        if seen.lags > 0 {
            return seen;
        }
        if dice.one_in(20) {
            // What a client does whose connection broke: it resumes after the last commit it has whole.
            let since = watch.position();
            seen.events.retain(|event| event.revision <= since);
            watch = store.watch(&scope, since).expect("is in the log");
        }
    }
}

/// Every event there ever was.
fn all_events(store: &Store) -> Vec<Event> {
    let mut events = Vec::new();
    for resource in ["pods", "leases"] {
        let mut watch = store
            .watch(&scope(resource, ""), Revision::FIRST)
            .expect("watches");
        while let Some(Watched::Event(event)) = watch.try_next() {
            events.push(event);
        }
    }
    events.sort_by_key(|event| event.revision);
    events
}

fn check_history(store: &Store, events: &[Event], acknowledged: &[(Revision, Vec<Change>)]) {
    let mut model: BTreeMap<ObjectKey, (Revision, Bytes)> = BTreeMap::new();
    let mut now = Revision::FIRST;
    for commit in events.chunk_by(|a, b| a.revision == b.revision) {
        assert_eq!(commit[0].revision, now.next(), "revisions have no holes");
        now = commit[0].revision;
        if let Some((_, changes)) = acknowledged.iter().find(|(revision, _)| *revision == now) {
            assert_eq!(
                changes.len(),
                commit.len(),
                "all of a commit and nothing else"
            );
            for change in changes {
                let event = commit.iter().find(|event| event.key == change.key);
                let value = match &change.op {
                    Op::Put(value) => Some(value.clone()),
                    Op::Delete => None,
                };
                assert_eq!(event.expect("all of a commit").value, value);
                let current = model.get(&change.key).map(|(revision, _)| *revision);
                let holds = match change.when {
                    Precondition::Absent => current.is_none(),
                    Precondition::At(revision) => current == Some(revision),
                    Precondition::Exists => current.is_some(),
                    Precondition::Any => true,
                };
                assert!(holds, "{change:?} happened to {current:?}");
            }
        }
        for event in commit {
            let before = match &event.value {
                Some(value) => model.insert(event.key.clone(), (now, value.clone())),
                None => model.remove(&event.key),
            };
            assert_eq!(before.map(|(_, value)| value), event.previous);
        }
        if now.get().is_multiple_of(16) {
            check_list(store, &model, now);
        }
    }
    assert_eq!(now, store.revision());
    check_list(store, &model, now);
    let revisions: std::collections::BTreeSet<_> = acknowledged.iter().map(|a| a.0).collect();
    assert_eq!(
        revisions.len(),
        acknowledged.len(),
        "each commit has its own revision"
    );
    assert!(revisions.iter().all(|revision| *revision <= now));
}

/// The store's list at `then` is the model's.
fn check_list(store: &Store, model: &BTreeMap<ObjectKey, (Revision, Bytes)>, then: Revision) {
    for (resource, namespace) in [("pods", ""), ("pods", "b"), ("leases", "a")] {
        let scope = scope(resource, namespace);
        let listed = store
            .list(&scope, None, 0, Some(then))
            .expect("is in the log");
        let expected = model
            .iter()
            .filter(|(key, _)| key.resource == scope.resource)
            .filter(|(key, _)| namespace.is_empty() || key.namespace == scope.namespace)
            .map(|(key, (revision, value))| Stored {
                key: key.clone(),
                revision: *revision,
                value: value.clone(),
            });
        assert_eq!(listed.items, expected.collect::<Vec<_>>());
        let mut paged: Vec<Stored> = Vec::new();
        loop {
            let after = paged.last().map(|item| item.key.clone());
            let page = store
                .list(&scope, after.as_ref(), 2, Some(then))
                .expect("is in the log");
            assert_eq!(
                paged.len() + page.items.len() + page.remaining as usize,
                listed.items.len()
            );
            paged.extend(page.items);
            if page.remaining == 0 {
                break;
            }
        }
        assert_eq!(paged, listed.items);
    }
}

/// Exactly the events of the scope, once and in order, and bookmarks that promise nothing too much.
fn check_seen(seen: &Seen, events: &[Event]) {
    let mut expected: Vec<&Event> = events
        .iter()
        .filter(|event| event.key.resource == seen.scope.resource)
        .filter(|event| {
            seen.scope.namespace.is_none() || seen.scope.namespace == event.key.namespace
        })
        .collect();
    assert_eq!(seen.lags, 0, "the log holds everything");
    expected.sort_by_key(|event| event.revision);
    assert_eq!(seen.events.iter().collect::<Vec<_>>(), expected);
    for pair in seen.bookmarks.windows(2) {
        assert!(pair[0].1 <= pair[1].1, "bookmarks do not go back");
    }
    for (count, position) in &seen.bookmarks {
        let yielded = expected
            .iter()
            .filter(|event| event.revision <= *position)
            .count();
        // A resumed watch may have been shown half a commit that was then counted back.
        assert!(
            yielded <= *count,
            "a bookmark at {position} before {yielded} events"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn writers_and_watchers_agree_on_one_history(seed in any::<u64>(), queue in 1usize..6) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(3)
            .enable_time()
            .build()
            .expect("a runtime starts");
        let store = small(1_000_000, queue);
        let is_done = Arc::new(AtomicBool::new(false));
        let (acknowledged, seen) = runtime.block_on(async {
            let watchers = (0..WATCHERS).map(|watcher| {
                let (store, is_done) = (store.clone(), is_done.clone());
                let dice = Dice::new(seed ^ watcher << 8);
                tokio::spawn(async move { watches(store, dice, &is_done).await })
            });
            let watchers: Vec<_> = watchers.collect();
            let writers = (0..WRITERS).map(|writer| {
                tokio::spawn(writes(store.clone(), Dice::new(seed ^ writer << 16), writer))
            });
            let mut acknowledged = Vec::new();
            for writer in writers.collect::<Vec<_>>() {
                acknowledged.extend(writer.await.expect("a writer ends"));
            }
            // An abandoned commit may still be under way; one more waits behind it.
            let last = put(key("nodes", "", "last"), Precondition::Any, "1");
            let _last = store.commit(vec![last]).await.expect("puts");
            is_done.store(true, Ordering::SeqCst);
            let mut seen = Vec::new();
            for watcher in watchers {
                let watched = tokio::time::timeout(Duration::from_secs(60), watcher).await;
                seen.push(watched.expect("a watcher catches up").expect("a watcher ends"));
            }
            (acknowledged, seen)
        });
        let mut events = all_events(&store);
        let mut nodes = store.watch(&scope("nodes", ""), Revision::FIRST).expect("watches");
        match nodes.try_next() {
            Some(Watched::Event(event)) => events.push(event),
            other => panic!("{other:?} instead of the last event"),
        }
        check_history(&store, &events, &acknowledged);
        for seen in &seen {
            check_seen(seen, &events);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_of_a_compacting_log_gets_a_prefix_and_then_lagged() {
    let store = small(20, 2);
    let mut watch = store
        .watch(&scope("pods", ""), Revision::FIRST)
        .expect("watches");
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..400 {
                write(&store, "a", &round.to_string()).await;
            }
        })
    };
    let mut count = 0;
    let lagged = loop {
        match tokio::time::timeout(Duration::from_secs(20), watch.next()).await {
            Ok(Watched::Event(event)) => {
                assert_eq!(
                    event.value,
                    Some(count.to_string().into()),
                    "no hole before the end"
                );
                count += 1;
                if count == 400 {
                    break false;
                }
            }
            Ok(Watched::Lagged) => break true,
            other => panic!("{other:?}"),
        }
    };
    writer.await.expect("the writer ends");
    if lagged {
        let oldest = store.oldest();
        assert!(
            watch.position() < oldest,
            "lagged though the log reached back to {oldest}"
        );
    }
}
