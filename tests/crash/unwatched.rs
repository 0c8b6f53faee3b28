//! What happens to pods while no daemon runs.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::scene::{container_pids, kill};

fn gate(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.dir.join(format!("gate-{name}"))
}

/// A pod that ends with `code` once somebody writes into its gate.
fn gated(cluster: &Cluster, name: &str, policy: &str, code: i32) -> String {
    let gate = gate(cluster, name);
    fs::create_dir(&gate).expect("a gate can be made");
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
    nix::unistd::mkfifo(&gate.join("fifo"), mode).expect("a gate can be made");
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: {policy}\n  \
         terminationGracePeriodSeconds: 0\n  \
         volumes: [{{name: gate, hostPath: {{path: {}}}}}]\n  containers:\n  - name: main\n    \
         image: toolbox\n    imagePullPolicy: IfNotPresent\n    \
         volumeMounts: [{{name: gate, mountPath: /gate}}]\n    \
         command: [/bin/bash, -c, 'read -r line < /gate/fifo; exit {code}']\n",
        gate.display()
    )
}

#[test]
fn exits_while_no_daemon_runs_are_told_with_their_code_and_time() {
    let mut cluster = Cluster::start("unwatched");
    let pods = [("never", "Never", 5), ("always", "Always", 6), ("killed", "Never", 0)];
    for (name, policy, code) in pods {
        cluster.apply(&gated(&cluster, name, policy, code)).ok();
        cluster.wait_running(name);
    }
    let killed = cluster.value("pod/killed", "{.metadata.uid}");
    cluster.kill_daemon();
    let begin = joey::sys::clock::now();
    for name in ["never", "always"] {
        fs::write(gate(&cluster, name).join("fifo"), "go\n").expect("the gate opens");
    }
    for pid in container_pids(&cluster, &killed) {
        kill(pid);
    }
    // So long that a time made up at the next start would be seen to be wrong.
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        std::thread::park_timeout(end.saturating_duration_since(Instant::now()));
    }
    cluster.start_daemon();
    for (name, state, code) in
        [("never", "state", 5), ("always", "lastState", 6), ("killed", "state", 137)]
    {
        let pod = format!("pod/{name}");
        let of =
            |field: &str| format!("{{.status.containerStatuses[0].{state}.terminated.{field}}}");
        cluster.wait_for(&format!("the end of {name} is told"), |cluster| {
            cluster.value(&pod, &of("exitCode")) == code.to_string()
        });
        let finished = cluster.value(&pod, &of("finishedAt"));
        let finished: jiff::Timestamp = finished.parse().expect("a time");
        let after = finished.as_second() - begin.unix_seconds();
        assert!((0..=2).contains(&after), "{name} ended {after} s after the daemon's death");
    }
    let restarts = "{.status.containerStatuses[0].restartCount}";
    assert_eq!(cluster.value("pod/never", "{.status.phase}"), "Failed");
    assert_eq!(cluster.value("pod/never", restarts), "0");
    cluster.wait_running("always");
    assert_eq!(cluster.value("pod/always", restarts), "1");
    cluster.finish();
}
