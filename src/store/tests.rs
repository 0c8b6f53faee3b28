//! What the store promises, checked from outside: commits, lists, watches, failures and crashes.

mod disks;
mod failure;
mod history;
mod model;
mod simulated;

use std::time::Duration;

use super::*;

fn key(resource: &str, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey {
        resource: ResourceId::from_qualified(resource),
        namespace: (!namespace.is_empty()).then(|| namespace.into()),
        name: name.into(),
    }
}

fn pod(name: &str) -> ObjectKey {
    key("pods", "default", name)
}

fn scope(resource: &str, namespace: &str) -> Scope {
    Scope {
        resource: ResourceId::from_qualified(resource),
        namespace: (!namespace.is_empty()).then(|| namespace.into()),
    }
}

fn put(key: ObjectKey, when: Precondition, value: &str) -> Change {
    Change { key, when, op: Op::Put(Bytes::copy_from_slice(value.as_bytes())) }
}

fn delete(key: ObjectKey, when: Precondition) -> Change {
    Change { key, when, op: Op::Delete }
}

async fn write(store: &Store, name: &str, value: &str) -> Revision {
    store
        .commit(vec![put(pod(name), Precondition::Any, value)])
        .await
        .expect("an unconditional put succeeds")
}

fn small(events: u64, queue: usize) -> Store {
    let limits = Limits {
        log: compact::Retention { events, bytes: u64::MAX },
        queue: watch::QueueLimits { events: queue, bytes: usize::MAX },
        ..Limits::default()
    };
    Store::start(InMemoryBackend::new(), limits).expect("memory does not fail")
}

fn names(listed: &Listed) -> Vec<String> {
    let name = |item: &Stored| format!("{}={}", item.key, String::from_utf8_lossy(&item.value));
    listed.items.iter().map(name).collect()
}

async fn next(watch: &mut Watch) -> Watched {
    tokio::time::timeout(Duration::from_secs(20), watch.next())
        .await
        .expect("a watch yields in time")
}

async fn next_event(watch: &mut Watch) -> Event {
    match next(watch).await {
        Watched::Event(event) => event,
        other => panic!("{other:?} instead of an event"),
    }
}

fn refused(answer: Result<Revision, CommitError>) -> (usize, Refused) {
    match answer {
        Err(CommitError::Refused { index, refused }) => (index, refused),
        other => panic!("{other:?} instead of a refusal"),
    }
}

#[tokio::test]
async fn an_empty_store_stands_at_the_first_revision() {
    let store = Store::in_memory();
    assert_eq!(store.revision(), Revision::FIRST);
    assert_eq!(store.get(&pod("a")), Ok(None));
    let listed = store.list(&scope("pods", ""), None, 0, None).expect("lists");
    assert_eq!((listed.items.len(), listed.revision), (0, Revision::FIRST));
    assert_eq!(store.resources(None), Ok(vec![]));
    assert!(store.failed().is_none());
}

#[tokio::test]
async fn preconditions_decide_over_each_commit() {
    let store = Store::in_memory();
    let first = write(&store, "a", "1").await;
    assert_eq!(first, Revision::FIRST.next());
    let second = write(&store, "a", "2").await;
    let commit = |change| store.commit(vec![change]);
    for (change, refusal) in [
        (put(pod("a"), Precondition::Absent, "x"), Refused::Exists),
        (delete(pod("a"), Precondition::Absent), Refused::Exists),
        (put(pod("b"), Precondition::Exists, "x"), Refused::Missing),
        (put(pod("b"), Precondition::At(first), "x"), Refused::Missing),
        (delete(pod("b"), Precondition::Any), Refused::Missing),
        (delete(pod("b"), Precondition::Absent), Refused::Missing),
        (put(pod("a"), Precondition::At(first), "x"), Refused::Conflict { current: second }),
        (delete(pod("a"), Precondition::At(first)), Refused::Conflict { current: second }),
    ] {
        assert_eq!(refused(commit(change.clone()).await), (0, refusal), "{change:?}");
    }
    assert_eq!(store.revision(), second, "a refusal uses no revision");
    let third = commit(put(pod("a"), Precondition::At(second), "3")).await;
    assert_eq!(third.expect("the precondition holds"), second.next());
    let gone = commit(delete(pod("a"), Precondition::At(second.next()))).await;
    assert!(gone.is_ok());
    assert_eq!(store.get(&pod("a")), Ok(None));
}

#[tokio::test]
async fn a_commit_is_all_or_nothing_under_one_revision() {
    let store = Store::in_memory();
    let at = write(&store, "a", "1").await;
    let answer = store
        .commit(vec![
            put(pod("b"), Precondition::Absent, "1"),
            delete(pod("a"), Precondition::At(at)),
            put(pod("c"), Precondition::Exists, "1"),
        ])
        .await;
    assert_eq!(refused(answer), (2, Refused::Missing));
    assert_eq!(store.get(&pod("b")), Ok(None));
    let mut watch = store.watch(&scope("pods", ""), at).expect("watches");
    let answer = store
        .commit(vec![
            put(pod("b"), Precondition::Absent, "1"),
            delete(pod("a"), Precondition::At(at)),
        ])
        .await;
    assert_eq!(answer.expect("all preconditions hold"), at.next());
    let created = next_event(&mut watch).await;
    assert_eq!(watch.position(), at, "half a commit is no position");
    let deleted = next_event(&mut watch).await;
    assert_eq!(watch.position(), at.next());
    assert_eq!((created.revision, deleted.revision), (at.next(), at.next()));
    assert_eq!((created.previous, deleted.value), (None, None));
    assert_eq!(deleted.previous.as_deref(), Some(&b"1"[..]));
}

#[tokio::test]
async fn lists_are_ordered_scoped_and_paged() {
    let store = Store::in_memory();
    for (resource, namespace, name) in [
        ("pods", "b", "x"),
        ("pods", "a", "y"),
        ("pods", "a", "x"),
        ("pods", "a-b", "x"),
        ("pods.metrics.k8s.io", "a", "x"),
        ("nodes", "", "n1"),
        ("pod", "a", "x"),
    ] {
        let change = put(key(resource, namespace, name), Precondition::Absent, "1");
        store.commit(vec![change]).await.expect("creates");
    }
    let list = |resource, namespace, after: Option<&ObjectKey>, limit| {
        store.list(&scope(resource, namespace), after, limit, None).expect("lists")
    };
    assert_eq!(
        names(&list("pods", "", None, 0)),
        ["pods/a/x=1", "pods/a/y=1", "pods/a-b/x=1", "pods/b/x=1"]
    );
    assert_eq!(names(&list("pods", "a", None, 0)), ["pods/a/x=1", "pods/a/y=1"]);
    assert_eq!(names(&list("nodes", "", None, 0)), ["nodes/n1=1"]);
    let page = list("pods", "", None, 2);
    assert_eq!((page.items.len(), page.remaining), (2, 2));
    let rest = list("pods", "", Some(&page.items[1].key), 2);
    assert_eq!(names(&rest), ["pods/a-b/x=1", "pods/b/x=1"]);
    assert_eq!(rest.remaining, 0);
    assert_eq!(names(&list("pods", "a", Some(&key("pods", "b", "x")), 0)), [""; 0]);
    let all = |namespace| -> Vec<String> {
        let resources = store.resources(namespace).expect("lists");
        resources.iter().map(ToString::to_string).collect()
    };
    assert_eq!(all(None), ["nodes", "pod", "pods", "pods.metrics.k8s.io"]);
    assert_eq!(all(Some("b")), ["pods"]);
    assert_eq!(all(Some("c")), [""; 0]);
}

#[tokio::test]
async fn the_past_can_be_listed_until_it_is_compacted() {
    let store = small(4, 16);
    let scope = scope("pods", "");
    write(&store, "a", "1").await;
    let then = write(&store, "b", "1").await;
    write(&store, "a", "2").await;
    write(&store, "c", "1").await;
    store.commit(vec![delete(pod("b"), Precondition::Any)]).await.expect("deletes");
    let past = store.list(&scope, None, 0, Some(then)).expect("is in the log");
    assert_eq!(names(&past), ["pods/default/a=1", "pods/default/b=1"]);
    assert_eq!((past.revision, past.items[1].revision), (then, then));
    let page = store.list(&scope, None, 1, Some(then)).expect("is in the log");
    assert_eq!((names(&page), page.remaining), (vec!["pods/default/a=1".to_owned()], 1));
    let rest = store.list(&scope, Some(&pod("a")), 1, Some(then)).expect("is in the log");
    assert_eq!(names(&rest), ["pods/default/b=1"]);
    write(&store, "d", "1").await;
    write(&store, "e", "1").await;
    let oldest = store.oldest();
    assert!(oldest > then);
    let expired = Unavailable::Expired { oldest };
    assert_eq!(store.list(&scope, None, 0, Some(then)), Err(expired.clone()));
    assert_eq!(store.watch(&scope, then).err(), Some(expired));
    assert!(store.list(&scope, None, 0, Some(oldest)).is_ok());
    let current = store.revision();
    let future = Unavailable::Future { current };
    assert_eq!(store.watch(&scope, current.next()).err(), Some(future.clone()));
    assert_eq!(store.list(&scope, None, 0, Some(current.next())), Err(future));
}

#[tokio::test]
async fn compaction_never_splits_a_commit() {
    let store = small(5, 16);
    for round in 0..20 {
        let changes =
            (0..3).map(|n| put(pod(&n.to_string()), Precondition::Any, &round.to_string()));
        store.commit(changes.collect()).await.expect("puts");
        let since = store.oldest();
        let mut watch = store.watch(&scope("pods", ""), since).expect("the oldest is in reach");
        while let Some(Watched::Event(first)) = watch.try_next() {
            for _ in 0..2 {
                assert_eq!(next_event(&mut watch).await.revision, first.revision);
            }
        }
    }
}

#[tokio::test]
async fn a_slow_reader_reads_on_from_the_log_and_lags_only_behind_its_end() {
    let store = small(100, 4);
    let mut slow = store.watch(&scope("pods", ""), Revision::FIRST).expect("watches");
    let mut lost = store.watch(&scope("pods", ""), Revision::FIRST).expect("watches");
    for round in 0..50 {
        write(&store, "a", &round.to_string()).await;
    }
    for round in 0..50 {
        let event = next_event(&mut slow).await;
        assert_eq!(event.value, Some(round.to_string().into()));
    }
    assert_eq!(slow.position(), store.revision());
    for round in 0..200 {
        write(&store, "a", &round.to_string()).await;
    }
    let mut yielded = 0;
    while let Watched::Event(_) = next(&mut lost).await {
        yielded += 1;
    }
    assert_eq!(yielded, 4, "what was queued is still delivered");
    assert_eq!(next(&mut lost).await, Watched::Lagged);
}

#[tokio::test]
async fn a_quiet_watch_bookmarks_what_happens_elsewhere() {
    let store = small(10, 4);
    let mut quiet = store.watch(&scope("nodes", ""), Revision::FIRST).expect("watches");
    for round in 0..100 {
        write(&store, "a", &round.to_string()).await;
    }
    assert_eq!(quiet.position(), store.revision());
    let node = put(key("nodes", "", "n"), Precondition::Absent, "1");
    store.commit(vec![node]).await.expect("creates");
    assert_eq!(next_event(&mut quiet).await.revision, store.revision());
}

#[tokio::test]
async fn closing_finishes_commits_and_ends_watches() {
    let store = Store::in_memory();
    let mut watch = store.watch(&scope("pods", ""), Revision::FIRST).expect("watches");
    let asked = (0..10).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { write(&store, &n.to_string(), "1").await })
    });
    let asked: Vec<_> = asked.collect();
    for task in asked {
        task.await.expect("is answered");
    }
    store.close().await;
    for _ in 0..10 {
        next_event(&mut watch).await;
    }
    assert_eq!(next(&mut watch).await, Watched::Closed);
    let late = store.commit(vec![put(pod("z"), Precondition::Any, "1")]).await;
    assert!(matches!(late, Err(CommitError::Failed(_))), "{late:?}");
}
