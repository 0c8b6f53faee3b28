//! Who watches or follows while the daemon dies, and resumes: nothing is lost, nothing comes twice.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};

use crate::cluster::{Cluster, PATIENCE};
use crate::mixed::count_lines;
use crate::scene::{Chance, WRITER, is_long, pod, start};

fn kills() -> usize {
    if is_long() { 20 } else { 4 }
}

/// What a watcher saw: `init`, or name, revision and the value of `step`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Init,
    Object { name: String, revision: u64, step: String },
    Gone { name: String, revision: u64 },
}

/// kube's own watcher on the ConfigMaps of the default namespace, on a thread of its own (which is in this
/// test's network). It ends when nobody listens any more.
fn watch(kubeconfig: &Path) -> mpsc::Receiver<Seen> {
    let (sender, receiver) = mpsc::channel();
    let kubeconfig = kubeconfig.to_owned();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime can be made").block_on(async {
            let config = kube::config::Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
            let options = kube::config::KubeConfigOptions::default();
            let config = kube::Config::from_custom_kubeconfig(config, &options).await;
            let client = kube::Client::try_from(config.expect("a configuration"));
            let maps: Api<ConfigMap> =
                Api::namespaced(client.expect("a client can be made"), "default");
            let mut events = std::pin::pin!(watcher(maps, watcher::Config::default()));
            while let Some(event) = events.next().await {
                let revision = |map: &ConfigMap| {
                    let revision = map.resource_version().and_then(|text| text.parse().ok());
                    revision.expect("a revision is a number")
                };
                let seen = match event {
                    Ok(watcher::Event::Init) => Seen::Init,
                    Ok(watcher::Event::InitApply(map) | watcher::Event::Apply(map)) => {
                        Seen::Object {
                            name: map.name_any(),
                            revision: revision(&map),
                            step: map
                                .data
                                .and_then(|data| data.get("step").cloned())
                                .unwrap_or_default(),
                        }
                    }
                    Ok(watcher::Event::Delete(map)) => {
                        Seen::Gone { name: map.name_any(), revision: revision(&map) }
                    }
                    Ok(watcher::Event::InitDone) => continue,
                    // Nobody is there at the moment.
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                };
                if sender.send(seen).is_err() {
                    return;
                }
            }
        });
    });
    receiver
}

#[test]
fn a_watch_that_resumes_after_the_daemon_died_sees_every_change_once() {
    let mut cluster = Cluster::start("watching");
    let mut chance = Chance::new();
    let seen = watch(&cluster.data_dir().join("admin.kubeconfig"));
    assert_eq!(seen.recv_timeout(PATIENCE), Ok(Seen::Init));
    // Every write that was answered: name, then its revision.
    let mut answered: BTreeMap<u64, (String, String)> = BTreeMap::new();
    let mut step = 0;
    let write = |cluster: &Cluster, step: usize| {
        let name = format!("map-{}", step % 3);
        let manifest = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{step: \"{step}\"}}\n"
        );
        let args = ["apply", "-f", "-", "-o", "jsonpath={.metadata.resourceVersion}"];
        (name, cluster.kubectl_with(&args, manifest.as_bytes()))
    };
    for _ in 0..kills() {
        for _ in 0..3 {
            step += 1;
            let (name, ran) = write(&cluster, step);
            let revision = ran.ok().parse().expect("a revision is a number");
            answered.insert(revision, (name, step.to_string()));
        }
        // One more write is under way, or has just been answered, when the daemon dies.
        step += 1;
        let delay = Duration::from_millis(chance.below(150) as u64);
        let pid = cluster.daemon_pid();
        let killer = std::thread::spawn(move || {
            std::thread::park_timeout(delay);
            crate::scene::kill(pid);
        });
        let (name, ran) = write(&cluster, step);
        if ran.code == 0 {
            let revision = ran.ok().parse().expect("a revision is a number");
            answered.insert(revision, (name, step.to_string()));
        }
        killer.join().expect("the killer does not panic");
        cluster.wait_for("the daemon is dead", |cluster| !cluster.daemon_is_alive());
        cluster.start_daemon();
    }
    cluster.kubectl(&["delete", "configmap", "map-0"]).ok();

    let mut objects: Vec<(u64, (String, String))> = Vec::new();
    let mut newest = 0;
    let end = Instant::now() + PATIENCE;
    loop {
        let next = seen.recv_timeout(end.saturating_duration_since(Instant::now()));
        match next.unwrap_or_else(|_| panic!("the end never came: {objects:?}")) {
            // A second list would hide what was lost.
            Seen::Init => panic!("the watcher had to list again: {objects:?}"),
            Seen::Object { name, revision, step } => {
                assert!(revision > newest, "{name} {revision} came after {newest}: {objects:?}");
                newest = revision;
                if name.starts_with("map-") {
                    objects.push((revision, (name, step)));
                }
            }
            Seen::Gone { name, revision } => {
                assert_eq!(name, "map-0");
                assert!(revision > newest);
                break;
            }
        }
    }
    let objects: BTreeMap<_, _> = objects.into_iter().collect();
    for (revision, write) in &answered {
        assert_eq!(objects.get(revision), Some(write), "revision {revision} of {objects:?}");
    }
    // What was seen beyond the answered writes are those whose answer died with the daemon.
    assert!(objects.len() <= answered.len() + kills(), "{objects:?}\n{answered:?}");
    cluster.finish();
}

/// A command that runs on, and everything it has printed.
struct Follower {
    child: Child,
    printed: Arc<Mutex<Vec<u8>>>,
    reader: std::thread::JoinHandle<()>,
}

impl Follower {
    fn begin(mut command: std::process::Command) -> Follower {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the command can run");
        let mut stdout = child.stdout.take().expect("stdout is piped");
        let printed = Arc::new(Mutex::new(Vec::new()));
        let reader = std::thread::spawn({
            let printed = printed.clone();
            move || {
                let mut chunk = [0; 4096];
                while let Ok(length @ 1..) = stdout.read(&mut chunk) {
                    let mut printed = printed.lock().expect("nobody panics with it");
                    printed.extend_from_slice(&chunk[..length]);
                }
            }
        });
        Follower { child, printed, reader }
    }

    fn printed(&self) -> String {
        let printed = self.printed.lock().expect("nobody panics with it");
        String::from_utf8(printed.clone()).expect("a writer writes ASCII")
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the command can be waited for").is_none()
    }

    fn end(mut self) -> String {
        self.child.wait().expect("the command can be waited for");
        let printed = self.printed.clone();
        self.reader.join().expect("the reader does not panic");
        let printed = std::mem::take(&mut *printed.lock().expect("nobody panics with it"));
        String::from_utf8(printed).expect("a writer writes ASCII")
    }
}

#[test]
fn a_log_followed_across_the_death_of_the_daemon_is_complete() {
    let (mut cluster, _) = start("following");
    let mut chance = Chance::new();
    cluster.apply(&pod("writer", "Never", WRITER)).ok();
    cluster.wait_running("writer");
    // Ours resumes by itself.
    let mut ours = cluster.joey_command();
    ours.args(["logs", "-f", "writer"]);
    let mut ours = Follower::begin(ours);
    // A client of kubectl's makes what resumes out of times: `--since-time` counts in seconds, so that it
    // has to skip what it knows.
    let mut lines: Vec<String> = Vec::new();
    let mut last: Option<String> = None;
    let mut rounds = 0;
    loop {
        let mut command = cluster.kubectl_command();
        command.args(["logs", "-f", "--timestamps", "writer"]);
        command.args(last.iter().map(|time| format!("--since-time={time}")));
        let mut theirs = Follower::begin(command);
        let seen = lines.len();
        cluster.wait_for("more is written", |cluster| {
            cluster.kubectl(&["logs", "writer"]).stdout.lines().count() > seen + 10
        });
        rounds += 1;
        let is_last = rounds > kills();
        if is_last {
            // A log goes with its pod: whoever has not come back by then has missed the end.
            cluster.wait_for("joey logs -f is back", |_| ours.printed().lines().count() > seen);
            cluster.kubectl(&["delete", "pod", "writer", "--wait=false"]).ok();
        } else {
            std::thread::park_timeout(Duration::from_millis(chance.below(100) as u64));
            cluster.kill_daemon();
        }
        cluster.wait_for_end(&mut theirs);
        let output = theirs.end();
        // A line whose end did not come is asked for again.
        for line in output.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let (time, text) = line.trim_end().split_once(' ').expect("a time and a text");
            if last.as_deref().is_none_or(|last| time > last) {
                lines.push(text.to_owned());
                last = Some(time.to_owned());
            }
        }
        if is_last {
            break;
        }
        assert!(ours.is_running(), "joey logs -f ended with the daemon");
        cluster.start_daemon();
    }
    let theirs = count_lines(&lines.join("\n"));
    cluster.wait_for("joey logs -f ends with the container", |_| !ours.is_running());
    let ours = ours.end();
    assert_eq!(count_lines(&ours), theirs, "both have seen the same to the end");
    assert!(theirs > 10 * kills(), "only {theirs} lines");
    cluster.finish();
}

impl Cluster {
    /// What followed a daemon that is dead, or a container that ended, ends as well.
    #[track_caller]
    fn wait_for_end(&self, follower: &mut Follower) {
        let end = Instant::now() + PATIENCE;
        while follower.is_running() {
            assert!(Instant::now() < end, "kubectl logs -f hangs\n{}", self.daemon_log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}
