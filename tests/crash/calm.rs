//! A restart that finds everything as it was writes nothing, however much there is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, PATIENCE};

const PODS: usize = 40;

const MANY: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: many}
spec:
  replicas: 40
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: many, image: toolbox, imagePullPolicy: IfNotPresent, command: [sleep, inf]}
---
apiVersion: v1
kind: Service
metadata: {name: many}
spec: {selector: {app: many}, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: many}
spec: {podSelector: {matchLabels: {app: many}}, policyTypes: [Ingress]}
";

/// Goes the same way through every controller and the node, once they have seen everything else.
const LATER: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: later}
spec:
  selector: {matchLabels: {app: later}}
  template:
    metadata: {labels: {app: later}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: later, image: toolbox, imagePullPolicy: IfNotPresent, command: [sleep, inf]}
---
apiVersion: v1
kind: Service
metadata: {name: later}
spec: {selector: {app: later}, ports: [{port: 80}]}
";

/// The version of every object of every kind, but for the Lease that says every ten seconds that the node lives.
fn versions(cluster: &Cluster) -> BTreeMap<String, String> {
    let kinds = cluster.kubectl(&["api-resources", "--verbs=list", "-o", "name"]).ok();
    // Measured anew whenever it is asked for.
    let kinds: BTreeSet<&str> =
        kinds.lines().filter(|kind| !kind.contains("metrics.k8s.io")).collect();
    let kinds = kinds.into_iter().collect::<Vec<_>>().join(",");
    let path = "jsonpath={range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name} {.metadata.uid} {.metadata.resourceVersion}{'\\n'}{end}";
    let listed = cluster.kubectl(&["get", &kinds, "-A", "-o", path]).ok();
    let lines = listed.lines().filter(|line| !line.starts_with("Lease kube-node-lease/"));
    let split = lines.map(|line| line.rsplit_once(' ').expect("an object has a version"));
    split.map(|(object, version)| (object.to_owned(), version.to_owned())).collect()
}

/// What the daemon counts under a series, since its start.
fn counted(cluster: &Cluster, series: &str) -> Option<f64> {
    let text = cluster.fetch("http://127.0.0.1:9464/metrics").stdout;
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok())
}

/// Everything, once nothing of it has changed for longer than anything is put off.
fn at_rest(cluster: &Cluster) -> BTreeMap<String, String> {
    let end = Instant::now() + PATIENCE;
    let (mut seen, mut since) = (versions(cluster), Instant::now());
    while since.elapsed() < Duration::from_secs(4) {
        assert!(Instant::now() < end, "it does not come to rest: {seen:#?}");
        std::thread::park_timeout(Duration::from_millis(250));
        let now = versions(cluster);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
    seen
}

#[test]
fn a_restart_that_finds_nothing_changed_writes_nothing() {
    let mut cluster = Cluster::start("calm");
    cluster.apply(MANY).ok();
    cluster.kubectl(&["rollout", "status", "deployment/many", "--timeout=300s"]).ok();
    for round in 0..2 {
        let before = at_rest(&cluster);
        assert!(before.keys().filter(|key| key.starts_with("Pod default/many-")).count() == PODS);
        cluster.kill_daemon();
        let start = Instant::now();
        cluster.start_daemon();
        cluster.wait_for("every pod is the node's again", |cluster| {
            let running = counted(cluster, "joey_node_pods{state=\"running\"}");
            running == Some(PODS as f64)
        });
        let commits = counted(&cluster, "joey_store_commits_total").expect("commits are counted");
        let took = start.elapsed();
        println!("{PODS} pods: adopted {took:.1?} after the start, {commits} commits");
        // One as soon as the Lease is ten seconds old, and every ten seconds from then on.
        assert!(commits <= 1.0 + took.as_secs_f64() / 10.0, "{commits} commits in {took:?}");
        cluster.apply(LATER).ok();
        cluster.kubectl(&["rollout", "status", "deployment/later", "--timeout=120s"]).ok();
        cluster.wait_for("its endpoints are told", |cluster| {
            !cluster.value("endpoints/later", "{.subsets[0].addresses[0].ip}").is_empty()
        });
        let after = versions(&cluster);
        let written: Vec<_> = before
            .iter()
            .filter(|(object, version)| after.get(*object) != Some(version))
            .map(|(object, version)| format!("{object} {version} → {:?}", after.get(object)))
            .collect();
        assert!(written.is_empty(), "written or deleted by restart {round}: {written:#?}");
        let is_later = |object: &str| object.contains(" default/later");
        let made: Vec<_> = after
            .keys()
            .filter(|object| !before.contains_key(*object) && !is_later(object))
            .collect();
        assert!(made.is_empty(), "made by restart {round}: {made:#?}");
        cluster.kubectl(&["delete", "deployment/later", "service/later", "--wait=false"]).ok();
        cluster.wait_for("it is gone", |cluster| {
            versions(cluster).keys().all(|object| !object.starts_with("Pod default/later"))
        });
    }
    cluster.finish();
}
