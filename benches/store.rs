//! How fast the store is, beside the disk it stands on: `cargo bench --bench store`.
//!
//! Durable writes alternate with plain `pwrite` + `fdatasync` of the same bytes, so that both meet the same disk in the
//! same mood. It never judges; it prints.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use joey::model::key::{ObjectKey, ResourceId};
use joey::model::revision::Precondition;
use joey::store::{Change, Op, Scope, Store, Watched};

/// About the size of a small Pod.
const VALUE_BYTES: usize = 2048;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_millis(600);
const OBJECTS: usize = 5000;
const LATENCIES: usize = 400;

fn main() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("store-bench");
    // A run that was interrupted leaves its files behind.
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("the target directory is writable");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts");
    println!("{:<34} {:>12} {:>12} {:>8}", "durable writes", "store/s", "fdatasync/s", "ratio");
    for clients in [1, 8, 64] {
        durable_writes(&runtime, &directory, clients);
    }
    println!("\n{:<34} {:>12} {:>12}", "latency", "p50", "p99");
    watch_latency(&runtime, &directory);
    println!("\n{:<34} {:>12}", format!("{OBJECTS} objects of {VALUE_BYTES} bytes"), "median");
    reading(&runtime, &directory);
    std::fs::remove_dir_all(&directory).expect("the files are ours");
}

fn change(name: &str) -> Change {
    Change {
        key: ObjectKey {
            resource: ResourceId::new("", "pods"),
            namespace: Some("default".into()),
            name: name.into(),
        },
        when: Precondition::Any,
        op: Op::Put(Bytes::from(vec![b'v'; VALUE_BYTES])),
    }
}

fn pods() -> Scope {
    Scope { resource: ResourceId::new("", "pods"), namespace: None }
}

fn durable_writes(runtime: &tokio::runtime::Runtime, directory: &Path, clients: usize) {
    let store = Store::open(&directory.join(format!("{clients}.redb"))).expect("opens");
    let raw = directory.join(format!("{clients}.raw"));
    let mut rates = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        rates.0.push(runtime.block_on(store_rate(&store, clients)));
        rates.1.push(raw_rate(&raw, clients));
    }
    runtime.block_on(store.close());
    let (store, raw) = (middle(rates.0), middle(rates.1));
    let name = format!("{clients} clients");
    println!("{name:<34} {store:>12.0} {raw:>12.0} {:>8.2}", store / raw);
}

async fn store_rate(store: &Store, clients: usize) -> f64 {
    let start = Instant::now();
    let clients: Vec<_> = (0..clients)
        .map(|client| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut count = 0u64;
                while start.elapsed() < ROUND {
                    let name = format!("{client}-{}", count % 100);
                    store.commit(vec![change(&name)]).await.expect("commits");
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut count = 0;
    for client in clients {
        count += client.await.expect("a client ends");
    }
    count as f64 / start.elapsed().as_secs_f64()
}

fn raw_rate(path: &PathBuf, clients: usize) -> f64 {
    let file: File =
        OpenOptions::new().write(true).create(true).truncate(false).open(path).expect("opens");
    let file = Arc::new(file);
    let end = Arc::new(AtomicU64::new(file.metadata().expect("is there").len()));
    let start = Instant::now();
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            let (file, end) = (file.clone(), end.clone());
            std::thread::spawn(move || {
                let value = vec![b'v'; VALUE_BYTES];
                let mut count = 0u64;
                while start.elapsed() < ROUND {
                    let offset = end.fetch_add(VALUE_BYTES as u64, Ordering::Relaxed);
                    file.write_all_at(&value, offset).expect("writes");
                    file.sync_data().expect("syncs");
                    count += 1;
                }
                count
            })
        })
        .collect();
    let clients = clients.into_iter().map(|client| client.join().expect("a client ends"));
    let count: u64 = clients.sum();
    count as f64 / start.elapsed().as_secs_f64()
}

fn watch_latency(runtime: &tokio::runtime::Runtime, directory: &Path) {
    let store = Store::open(&directory.join("watch.redb")).expect("opens");
    let mut watch = store.watch(&pods(), store.revision()).expect("watches");
    let seen = runtime.spawn(async move {
        let mut seen = Vec::new();
        while seen.len() < LATENCIES {
            match watch.next().await {
                Watched::Event(_) => seen.push(Instant::now()),
                other => panic!("{other:?}"),
            }
        }
        seen
    });
    let writer = store.clone();
    let written = runtime.block_on(runtime.spawn(async move {
        let mut written = Vec::new();
        for round in 0..LATENCIES {
            let asked = Instant::now();
            let name = (round % 100).to_string();
            writer.commit(vec![change(&name)]).await.expect("commits");
            written.push((asked, Instant::now()));
        }
        written
    }));
    let written = written.expect("the writer ends");
    let seen = runtime.block_on(seen).expect("the watcher ends");
    let commits = written.iter().map(|(asked, answered)| *answered - *asked);
    let events = written.iter().zip(&seen).map(|((asked, _), seen)| *seen - *asked);
    let after = written.iter().zip(&seen).map(|((_, answered), seen)| {
        // The watcher may even be told first.
        seen.saturating_duration_since(*answered)
    });
    print_latency("commit → answer", commits.collect());
    print_latency("commit → event at a watcher", events.collect());
    print_latency("answer → event at a watcher", after.collect());
    runtime.block_on(store.close());
}

fn print_latency(name: &str, mut latencies: Vec<Duration>) {
    latencies.sort();
    let at = |share: f64| format!("{:.1?}", latencies[(latencies.len() as f64 * share) as usize]);
    // The arrow is one column wide but three bytes long; `format!` counts characters.
    println!("{name:<34} {:>12} {:>12}", at(0.5), at(0.99));
}

fn reading(runtime: &tokio::runtime::Runtime, directory: &Path) {
    let store = Store::open(&directory.join("list.redb")).expect("opens");
    for chunk in (0..OBJECTS).collect::<Vec<_>>().chunks(100) {
        let changes = chunk.iter().map(|number| change(&format!("pod-{number:05}")));
        runtime.block_on(store.commit(changes.collect())).expect("commits");
    }
    let scope = pods();
    let print = |name: &str, times: Vec<Duration>| {
        let median = middle(times.iter().map(Duration::as_secs_f64).collect());
        println!("{name:<34} {:>12}", format!("{:.1?}", Duration::from_secs_f64(median)));
    };
    print(
        "list all",
        times(10, || {
            assert_eq!(store.list(&scope, None, 0, None).expect("lists").items.len(), OBJECTS);
        }),
    );
    print(
        "list 500, count the rest",
        times(10, || {
            assert_eq!(store.list(&scope, None, 500, None).expect("lists").items.len(), 500);
        }),
    );
    let key = change("pod-02500").key;
    print(
        "get",
        times(1000, || {
            assert!(store.get(&key).expect("reads").is_some());
        }),
    );
    print(
        "replay all",
        times(5, || {
            let oldest = store.oldest();
            let mut watch = store.watch(&scope, oldest).expect("watches");
            let mut count = 0;
            while let Some(Watched::Event(_)) = watch.try_next() {
                count += 1;
            }
            assert_eq!(count, OBJECTS);
        }),
    );
    runtime.block_on(store.close());
    print(
        "open",
        times(5, || {
            let store = Store::open(&directory.join("list.redb")).expect("opens");
            runtime.block_on(store.close());
        }),
    );
}

fn times(rounds: usize, mut work: impl FnMut()) -> Vec<Duration> {
    let once = |_| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..rounds).map(once).collect()
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
