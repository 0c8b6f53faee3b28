//! What crash tests look at: who a pod is, what a living Joey holds, and chance that can be repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cluster::{Cluster, leaks};

/// The long forms of the tests (`make test-long`).
pub fn is_long() -> bool {
    std::env::var_os("JOEY_TEST_LONG").is_some_and(|value| value == "1")
}

/// Chance from a seed (splitmix64), so that a failure can be repeated.
pub struct Chance(u64);

impl Chance {
    /// From `JOEY_TEST_SEED`, or a new seed; prints which.
    pub fn new() -> Chance {
        let given = std::env::var("JOEY_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
        eprintln!("repeat with JOEY_TEST_SEED={seed}");
        Chance(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Numbers its lines, ends at SIGTERM, and starts no process once it runs.
pub const WRITER: &str = "trap 'exit 0' TERM; mkfifo /tmp/never; exec 3<>/tmp/never; i=0; \
                          while :; do echo line $i; i=$((i+1)); read -t 0.05 -u 3; done";

/// A pod of one container that runs `script` in bash.
pub fn pod(name: &str, policy: &str, script: &str) -> String {
    let script = serde_json::to_string(script).expect("text is JSON");
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{step: \"0\"}}\nspec:\n  \
         restartPolicy: {policy}\n  terminationGracePeriodSeconds: 2\n  containers:\n  - name: main\n    \
         image: toolbox\n    imagePullPolicy: IfNotPresent\n    command: [/bin/bash, -c, {script}]\n"
    )
}

/// The story's backend.
pub const BACKEND: &str = "apiVersion: v1
kind: Pod
metadata: {name: kangaroo-backend}
spec:
  containers:
  - {name: kangaroo-backend, image: 'kangaroo-backend:1.14.2'}
";

/// What of a running pod must not change while nobody touches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uid: String,
    pub address: String,
    /// Container id and start of every container.
    pub containers: Vec<String>,
    pub restarts: i64,
    pub network_namespace: Option<u64>,
    /// Pid and start time of every process, shim included.
    pub processes: BTreeSet<(u32, u64)>,
}

/// Every pod of the default namespace that is Ready and stays.
pub fn identities(cluster: &Cluster) -> BTreeMap<String, Identity> {
    let listed = cluster.kubectl(&["get", "pods", "-o", "json"]).ok();
    let listed: Value = serde_json::from_str(&listed).expect("kubectl prints JSON");
    let groups = groups(cluster);
    let empty = Vec::new();
    let pods = listed["items"].as_array().unwrap_or(&empty);
    pods.iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .filter(|pod| {
            let conditions = pod["status"]["conditions"].as_array().unwrap_or(&empty);
            conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
        })
        .map(|pod| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let uid = text(&pod["metadata"]["uid"]);
            let statuses = pod["status"]["containerStatuses"].as_array().unwrap_or(&empty);
            let namespace = cluster.run_dir().join("netns").join(&uid);
            let identity = Identity {
                address: text(&pod["status"]["podIP"]),
                containers: statuses
                    .iter()
                    .map(|s| format!("{} {}", s["containerID"], s["state"]["running"]["startedAt"]))
                    .collect(),
                restarts: statuses.iter().filter_map(|s| s["restartCount"].as_i64()).sum(),
                network_namespace: inode(&namespace),
                processes: groups
                    .iter()
                    .filter(|(path, _)| path.contains(&uid))
                    .flat_map(|(_, pids)| pids)
                    .filter_map(|pid| Some((*pid, started(*pid)?)))
                    .collect(),
                uid,
            };
            (text(&pod["metadata"]["name"]), identity)
        })
        .collect()
}

fn inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|metadata| metadata.ino())
}

/// When a process started, in clock ticks since boot: with the pid it names one process.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// Every cgroup of this Joey, relative to its own, with the processes in it.
pub fn groups(cluster: &Cluster) -> BTreeMap<String, Vec<u32>> {
    let id = fs::read_to_string(cluster.data_dir().join("instance")).expect("Joey has an id");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo can be read");
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let mount = mount.and_then(|line| line.split(' ').nth(4)).expect("cgroup v2 is mounted");
    let top = PathBuf::from(mount).join(format!("joey-{}", id.trim()));
    let mut found = BTreeMap::new();
    let mut open = vec![top.clone()];
    while let Some(directory) = open.pop() {
        // A group may go while we look.
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        let directories = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        open.extend(directories.map(|entry| entry.path()));
        let pids = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        let name = directory.strip_prefix(&top).expect("below the top").display().to_string();
        found.insert(name, pids.lines().filter_map(|pid| pid.parse().ok()).collect());
    }
    found
}

/// The process that supervises a pod.
pub fn shim_of(cluster: &Cluster, uid: &str) -> u32 {
    let groups = groups(cluster);
    let shim = groups.iter().find(|(path, _)| path.contains(uid) && path.ends_with("/shim"));
    *shim.and_then(|(_, pids)| pids.first()).expect("the pod has a shim")
}

/// A Joey that has had a pod, so that what stays for good (directories, groups of a class) is there,
/// with what it holds now.
pub fn start(name: &str) -> (Cluster, BTreeMap<&'static str, String>) {
    let mut cluster = Cluster::start(name);
    cluster.apply(&pod("first", "Always", WRITER)).ok();
    cluster.wait_running("first");
    delete(&mut cluster, "first");
    let held = held(&cluster);
    (cluster, held)
}

/// Everything that a living Joey holds of the machine (faults.md, the leak check): equal before and
/// after whatever has come and gone.
pub fn held(cluster: &Cluster) -> BTreeMap<&'static str, String> {
    let mut held = leaks(&cluster.dir);
    let groups = groups(cluster);
    held.insert("cgroups", format!("{groups:#?}"));
    held
}

/// Waits until Joey holds what it held before, and fails with what it holds more or less.
#[track_caller]
pub fn wait_held(cluster: &mut Cluster, before: &BTreeMap<&'static str, String>) {
    let end = std::time::Instant::now() + crate::cluster::PATIENCE;
    loop {
        let now = held(cluster);
        let differs = before.iter().find(|(what, text)| now.get(*what) != Some(text));
        let Some((what, text)) = differs else { return };
        if std::time::Instant::now() > end {
            let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
            let (old, new) = (lines(text), lines(&now[what]));
            let more: Vec<&String> = new.difference(&old).collect();
            let less: Vec<&String> = old.difference(&new).collect();
            panic!("{what} differ: more {more:#?}, less {less:#?}\n{}", cluster.daemon_log());
        }
        std::thread::park_timeout(std::time::Duration::from_millis(50));
    }
}

/// Descriptors by what they are, and threads, of the daemon.
pub fn inside(cluster: &Cluster) -> BTreeMap<String, usize> {
    let pid = cluster.daemon_pid();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("the daemon runs").flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default().display().to_string();
        let kind = target.split_once(":[").map_or(target.as_str(), |(kind, _)| kind);
        *counts.entry(kind.to_owned()).or_default() += 1;
    }
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the daemon runs").count();
    counts.insert("threads".to_owned(), threads);
    counts
}

/// Deletes a pod and waits until its object is gone.
#[track_caller]
pub fn delete(cluster: &mut Cluster, name: &str) {
    let pod = format!("pod/{name}");
    cluster.kubectl(&["delete", &pod, "--ignore-not-found", "--wait=false"]).ok();
    cluster.wait_for(&format!("{pod} is gone"), |cluster| {
        cluster.kubectl(&["get", &pod, "--ignore-not-found", "-o", "name"]).stdout.is_empty()
    });
}

/// Processes of a pod's containers.
pub fn container_pids(cluster: &Cluster, uid: &str) -> Vec<u32> {
    let groups = groups(cluster);
    let containers =
        groups.iter().filter(|(path, _)| path.contains(uid) && !path.ends_with("/shim"));
    containers.flat_map(|(_, pids)| pids.clone()).collect()
}

/// kill -9 of one process.
pub fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
}
