//! A disk that says no, at each step in turn: from then on nothing is written or acknowledged, while reads go on.

use super::disks::{check, life, limits, made};
use super::model::Model;
use super::simulated::{COMPLAINT, Chance, Disk};
use super::*;

#[tokio::test]
async fn after_any_failed_step_nothing_is_written_or_acknowledged_and_reads_go_on() {
    let mut chance = Chance::printed();
    let image = made().await;
    let (life, model) = life(&mut chance, 10);
    let mut failures = 0;
    for step in 0.. {
        println!("effect {step} fails");
        let disk = Disk::failing_at(image.clone(), step);
        live(&disk, &life, &model).await;
        assert_eq!(disk.after_failure(), 0, "no second try on the same file");
        if !disk.has_failed() {
            break;
        }
        failures += 1;
    }
    assert!(failures > 2 * life.len(), "{failures} steps cannot be all");
}

async fn live(disk: &Disk, life: &[Vec<Change>], model: &Model) {
    let store = match Store::start(disk.clone(), limits()) {
        Ok(store) => store,
        Err(reason) => return assert!(reason.contains(COMPLAINT), "{reason}"),
    };
    let mut watch = store.watch(&scope("pods", ""), Revision::FIRST).expect("watches");
    let mut acknowledged = Revision::FIRST;
    let mut refused = None;
    for changes in life {
        match store.commit(changes.clone()).await {
            Ok(revision) => {
                assert!(refused.is_none(), "{revision} was acknowledged after a failure");
                assert_eq!(revision, acknowledged.next());
                acknowledged = revision;
            }
            Err(error) => {
                let CommitError::Failed(reason) = error else { panic!("{error}") };
                assert!(reason.contains(COMPLAINT), "{reason}");
                assert_eq!(store.failed(), Some(reason.clone()), "which ends readiness");
                refused = Some(reason);
            }
        }
        check(&store, model, acknowledged, acknowledged);
    }
    let mut events = model.events(&scope("pods", ""), Revision::FIRST);
    events.retain(|event| event.revision <= acknowledged);
    for event in events {
        assert!(watch.try_next() == Some(Watched::Event(event)), "what was acknowledged is told");
    }
    assert!(watch.try_next().is_none(), "what was not acknowledged is not told");
    store.close().await;
    // A new start on what is there: the operator's way out.
    let store = Store::start(Disk::of(disk.content()), limits()).expect("opens anew");
    check(&store, model, acknowledged, model.revision());
    assert!(
        store.revision() <= acknowledged.next(),
        "of the commits after the failure none is there"
    );
    store.close().await;
}

#[tokio::test]
async fn commits_that_wait_together_fail_together() {
    let image = made().await;
    for step in 0.. {
        let disk = Disk::failing_at(image.clone(), step);
        let Ok(store) = Store::start(disk.clone(), limits()) else { continue };
        let asked: Vec<_> = (0..32)
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move {
                    let name = n.to_string();
                    store.commit(vec![put(pod(&name), Precondition::Absent, "1")]).await
                })
            })
            .collect();
        let mut acknowledged = Vec::new();
        for (n, task) in asked.into_iter().enumerate() {
            match task.await.expect("is answered") {
                Ok(revision) => acknowledged.push((revision, n)),
                Err(error) => assert!(matches!(error, CommitError::Failed(_)), "{error}"),
            }
        }
        acknowledged.sort();
        let listed = store.list(&scope("pods", ""), None, 0, None).expect("reads go on");
        assert_eq!(listed.items.len(), acknowledged.len(), "shown is what was acknowledged");
        for (revision, n) in acknowledged {
            let stored = store.get(&pod(&n.to_string())).expect("reads go on");
            assert_eq!(stored.map(|stored| stored.revision), Some(revision));
        }
        store.close().await;
        assert_eq!(disk.after_failure(), 0);
        if !disk.has_failed() {
            break;
        }
    }
}
