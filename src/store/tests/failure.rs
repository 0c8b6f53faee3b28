//! What is left after the disk fails, the power goes or the process is killed: every acknowledged commit, whole.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::disks::{Dice, TestDisk};
use super::*;

fn on(disk: &TestDisk) -> Result<Store, String> {
    // Hardly any cache, so that reading means reading the disk.
    let limits = Limits {
        page_cache_bytes: 32 << 10,
        ..Limits::default()
    };
    Store::start(disk.clone(), limits)
}

/// A commit of two keys, so that half of one would show.
async fn write_pair(store: &Store, name: &str, value: &str) -> Result<Revision, CommitError> {
    let left = put(pod(&format!("{name}-left")), Precondition::Any, value);
    let right = put(pod(&format!("{name}-right")), Precondition::Any, value);
    store.commit(vec![left, right]).await
}

/// All commits of the log are whole, and replaying them gives the current state. Returns revision → (key, value)s.
fn audited(store: &Store) -> std::collections::BTreeMap<Revision, Vec<(String, String)>> {
    let mut commits = std::collections::BTreeMap::<Revision, Vec<(String, String)>>::new();
    let mut state = std::collections::BTreeMap::new();
    let all = scope("pods", "");
    let mut watch = store
        .watch(&all, Revision::FIRST)
        .expect("the log is whole");
    while let Some(watched) = watch.try_next() {
        let Watched::Event(event) = watched else {
            panic!("{watched:?} instead of an event")
        };
        let value = event.value.clone().expect("nothing was deleted");
        let value = String::from_utf8(value.to_vec()).expect("is text");
        assert_eq!(
            state.insert(event.key.clone(), event.value).flatten(),
            event.previous
        );
        let commit = commits.entry(event.revision).or_default();
        commit.push((event.key.name.to_string(), value));
    }
    for (revision, commit) in &commits {
        assert_eq!(commit.len(), 2, "half a commit at {revision}: {commit:?}");
    }
    let revisions: Vec<u64> = commits.keys().map(|revision| revision.get()).collect();
    assert_eq!(
        revisions,
        (2..2 + revisions.len() as u64).collect::<Vec<_>>()
    );
    let listed = store.list(&all, None, 0, None).expect("lists").items;
    let listed = listed.into_iter().map(|item| (item.key, Some(item.value)));
    assert_eq!(listed.collect::<std::collections::BTreeMap<_, _>>(), state);
    commits
}

#[tokio::test]
async fn after_any_failed_operation_nothing_is_acknowledged_and_reads_go_on() {
    let mut completed = false;
    for good in 0..2000 {
        let disk = TestDisk::default();
        let store = on(&disk).expect("a good disk opens");
        disk.fail_after(good);
        let mut acknowledged = Vec::new();
        let mut refused = 0;
        for round in 0..8 {
            let value = format!("{round}-{}", "v".repeat(3000));
            match write_pair(&store, &(round % 3).to_string(), &value).await {
                Ok(revision) => {
                    assert_eq!(refused, 0, "acknowledged after a failure");
                    acknowledged.push((revision, value));
                }
                Err(CommitError::Failed(reason)) => {
                    refused += 1;
                    assert!(reason.contains("on fire"), "{reason}");
                    assert_eq!(store.failed(), Some(reason));
                }
                Err(other) => panic!("{other}"),
            }
            assert_eq!(audited(&store).len(), acknowledged.len());
        }
        let operations = disk.operations();
        store.close().await;
        if refused > 0 {
            assert_eq!(disk.operations(), operations, "a failed disk is left alone");
        }
        let disk = disk.after_power_loss(Dice::new(good));
        let commits = audited(&on(&disk).expect("what is left opens"));
        for (revision, value) in acknowledged {
            assert_eq!(commits[&revision][0].1, value, "good for {good}");
        }
        completed = refused == 0;
        if completed {
            break;
        }
    }
    assert!(completed, "the work never got through");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn power_loss_keeps_every_acknowledged_commit(good in 0u64..400, seed in any::<u64>()) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .expect("a runtime starts");
        let disk = TestDisk::default();
        let store = on(&disk).expect("a good disk opens");
        disk.fail_after(good);
        let acknowledged = runtime.block_on(async {
            let writers = (0..4).map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    let mut acknowledged = Vec::new();
                    for round in 0..20 {
                        let value = format!("{writer}.{round}");
                        match write_pair(&store, &(round % 5).to_string(), &value).await {
                            Ok(revision) => acknowledged.push((revision, value)),
                            Err(_) => break,
                        }
                    }
                    acknowledged
                })
            });
            let mut all = Vec::new();
            for writer in writers.collect::<Vec<_>>() {
                all.extend(writer.await.expect("a writer ends"));
            }
            all
        });
        // The power goes before anything can be tidied up.
        let mut disk = disk.after_power_loss(Dice::new(seed));
        for again in 0..2 {
            let store = on(&disk).expect("what is left opens");
            let commits = audited(&store);
            for (revision, value) in &acknowledged {
                prop_assert_eq!(&commits[revision][0].1, value);
            }
            disk = disk.after_power_loss(Dice::new(seed ^ again));
        }
    }
}

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        let path = std::env::temp_dir().join(format!("store-{}", crate::sys::clock::uuid()));
        std::fs::create_dir(&path).expect("a new directory");
        Scratch(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("state.redb")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: what is left is in the temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const CHILD: &str = "STORE_TEST_CHILD";

#[test]
fn kill_minus_nine_keeps_every_acknowledged_commit() {
    if let Ok(path) = std::env::var(CHILD) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
        let store = Store::open(Path::new(&path)).expect("opens");
        let writers = (0..4).map(|writer| {
            let store = store.clone();
            runtime.spawn(async move {
                // Bounded, should the parent be gone.
                for round in 0..100_000 {
                    let value = format!("{writer}.{round}");
                    let name = (round % 7).to_string();
                    let revision = write_pair(&store, &name, &value).await.expect("writes");
                    println!("\nacknowledged {revision} {value}");
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            runtime.block_on(writer).expect("a writer ends");
        }
        return;
    }
    let scratch = Scratch::new();
    let mut acknowledged = Vec::new();
    for round in 1..=5 {
        let mut child = Command::new(std::env::current_exe().expect("is known"))
            .args(["--exact", "--nocapture"])
            .arg("store::tests::failure::kill_minus_nine_keeps_every_acknowledged_commit")
            .env(CHILD, scratch.file())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
        let mut seen = 0;
        for line in lines.map_while(Result::ok) {
            if let Some(rest) = line.strip_prefix("acknowledged ") {
                let (revision, value) = rest.split_once(' ').expect("two words");
                let revision: u64 = revision.parse().expect("a number");
                acknowledged.push((Revision::new(revision).expect("not zero"), value.to_owned()));
                seen += 1;
                if seen == 37 * round {
                    child.kill().expect("is ours");
                }
            }
        }
        child.wait().expect("is ours");
        assert!(seen >= 37 * round, "the child died by itself");
        let store = Store::open(&scratch.file()).expect("opens after a kill");
        let commits = audited(&store);
        for (revision, value) in &acknowledged {
            assert_eq!(&commits[revision][0].1, value);
        }
        tokio::runtime::Runtime::new()
            .expect("a runtime starts")
            .block_on(store.close());
    }
}

#[tokio::test]
async fn a_file_has_one_owner_is_private_and_survives_closing() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let store = Store::open(&scratch.file()).expect("creates");
    let revision = write(&store, "a", "1").await;
    let mode = std::fs::metadata(scratch.file())
        .expect("is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(Store::open(&scratch.file()).is_err(), "a second owner");
    store.close().await;
    let store = Store::open(&scratch.file()).expect("opens again");
    assert_eq!(store.revision(), revision);
    assert_eq!(
        store
            .get(&pod("a"))
            .expect("reads")
            .expect("is there")
            .revision,
        revision
    );
}

#[test]
fn a_foreign_file_is_refused_by_name() {
    let scratch = Scratch::new();
    std::fs::write(scratch.file(), "not a store".repeat(1000)).expect("writes");
    let error = Store::open(&scratch.file())
        .err()
        .expect("is refused")
        .to_string();
    assert!(error.contains("state.redb"), "{error}");
}
