//! "I can't handle the traffic": what pods use, and how many of them there are because of it.

use crate::cluster::{Cluster, kubectls};

/// One that works all the time and one that sleeps, each with a container beside.
const BUSY_AND_IDLE: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: busy
  labels: {app: mill}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: wheel
    image: toolbox
    imagePullPolicy: Never
    command: [sh, -c, 'while :; do :; done']
  - name: miller
    image: toolbox
    imagePullPolicy: Never
    command: [sleep, infinity]
---
apiVersion: v1
kind: Pod
metadata:
  name: idle
  labels: {app: mill}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: miller
    image: toolbox
    imagePullPolicy: Never
    command: [sleep, infinity]
";

/// The number in front of `m` (thousandths of a processor) in the column of `kubectl top`.
fn millicores(line: &str, column: usize) -> u64 {
    let cell = line.split_whitespace().nth(column).unwrap_or_default();
    cell.strip_suffix('m').and_then(|number| number.parse().ok()).unwrap_or_default()
}

#[test]
fn top_shows_who_uses_the_host() {
    for (number, kubectl) in kubectls().into_iter().enumerate() {
        let cluster = &mut Cluster::start_with(&format!("top-{number}"), kubectl);
        cluster.apply(BUSY_AND_IDLE).ok();
        for pod in ["busy", "idle"] {
            cluster.wait_running(pod);
        }
        // Two processors are shared with everything else that runs; a tenth of one is left for sure.
        cluster.wait_for("the working pod shows", |cluster| {
            let top = cluster.kubectl(&["top", "pods", "--no-headers", "--sort-by=cpu"]).stdout;
            let lines: Vec<&str> = top.lines().collect();
            lines.len() == 2 && lines[0].starts_with("busy ") && millicores(lines[0], 1) >= 100
        });
        let top = cluster.kubectl(&["top", "pods", "-l", "app=mill", "--sort-by=cpu"]).ok();
        assert!(millicores(top.lines().last().unwrap_or_default(), 1) < 50, "sleeping: {top}");
        let containers =
            cluster.kubectl(&["top", "pod", "busy", "--containers", "--no-headers"]).ok();
        let line = |name: &str| {
            let mut lines = containers.lines();
            lines.find(|line| line.split_whitespace().nth(1) == Some(name)).unwrap_or_default()
        };
        assert!(millicores(line("wheel"), 2) >= 100, "{containers}");
        assert!(millicores(line("miller"), 2) < 50, "{containers}");
        let node = cluster.kubectl(&["top", "nodes", "--no-headers"]).ok();
        assert!(millicores(&node, 1) >= 100 && node.contains('%'), "{node}");
        let all = cluster.kubectl(&["get", "pods.metrics.k8s.io", "-A"]).ok();
        assert!(all.contains("WINDOW") && all.contains("idle"), "{all}");
        let refused = cluster.kubectl(&["top", "pod", "nobody"]).refused();
        assert!(
            refused.contains("podmetrics.metrics.k8s.io \"default/nobody\" not found"),
            "{refused}"
        );
        cluster.kubectl(&["delete", "pod", "busy", "idle"]).ok();
        assert!(cluster.kubectl(&["get", "pods.metrics.k8s.io"]).ok().is_empty());
    }
}
