//! The process that supervises a pod dies: its containers are killed, that is told, and the policy decides.

use crate::cluster::Cluster;
use crate::scene::{
    WRITER, container_pids, delete, identities, kill, pod, shim_of, start, wait_held,
};

const RESTARTS: &str = "{.status.containerStatuses[0].restartCount}";
const LAST: &str = "{.status.containerStatuses[0].lastState.terminated.exitCode}";

/// Nothing of an earlier life of the pod runs on.
#[track_caller]
fn died(pids: &[u32]) {
    for pid in pids {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let runs = state.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']));
        assert!(!runs, "process {pid} of a pod without its shim still runs");
    }
}

/// What follows from the loss of the shims of the pods `always` and `never`.
fn aftermath(cluster: &mut Cluster, pids: &[u32]) {
    cluster
        .wait_for("the restart is counted", |cluster| cluster.value("pod/always", RESTARTS) == "1");
    cluster.wait_running("always");
    assert_eq!(cluster.value("pod/always", LAST), "137");
    cluster.wait_for("the end of the other is told", |cluster| {
        cluster.value("pod/never", "{.status.phase}") == "Failed"
    });
    let code = "{.status.containerStatuses[0].state.terminated.exitCode}";
    assert_eq!(cluster.value("pod/never", code), "137");
    assert_eq!(cluster.value("pod/never", RESTARTS), "0");
    died(pids);
    let seen = identities(cluster);
    cluster.wait_for("one process runs", |cluster| {
        container_pids(cluster, &seen["always"].uid).len() == 1
    });
    assert_eq!(seen["canary"].restarts, 0);
}

/// Both pods and a canary; returns their processes and kills the shims, last with `also`.
fn play(name: &str, with_daemon: bool) {
    let (mut cluster, before) = start(name);
    for (name, policy) in [("always", "Always"), ("never", "Never"), ("canary", "Always")] {
        cluster.apply(&pod(name, policy, WRITER)).ok();
        cluster.wait_running(name);
    }
    let pods = identities(&cluster);
    let victims = [&pods["always"].uid, &pods["never"].uid];
    let pids: Vec<u32> = victims.iter().flat_map(|uid| container_pids(&cluster, uid)).collect();
    assert_eq!(pids.len(), 2, "{pids:?}");
    let shims = victims.map(|uid| shim_of(&cluster, uid));
    if with_daemon {
        cluster.kill_daemon();
    }
    for shim in shims {
        kill(shim);
    }
    if with_daemon {
        cluster.start_daemon();
    }
    aftermath(&mut cluster, &pids);
    assert_eq!(identities(&cluster)["canary"], pods["canary"]);
    for name in ["always", "never", "canary"] {
        delete(&mut cluster, name);
    }
    wait_held(&mut cluster, &before);
    cluster.finish();
}

#[test]
fn the_containers_of_a_dead_shim_are_killed_told_and_restarted_by_policy() {
    play("shim", false);
}

#[test]
fn a_shim_that_dies_together_with_the_daemon_is_found_dead() {
    play("both", true);
}

#[test]
fn a_pod_whose_shim_is_dead_can_be_deleted() {
    let (mut cluster, before) = start("shimless");
    cluster.apply(&pod("doomed", "Never", WRITER)).ok();
    cluster.wait_running("doomed");
    let uid = identities(&cluster)["doomed"].uid.clone();
    let pids = container_pids(&cluster, &uid);
    cluster.kill_daemon();
    kill(shim_of(&cluster, &uid));
    cluster.start_daemon();
    delete(&mut cluster, "doomed");
    died(&pids);
    wait_held(&mut cluster, &before);
    cluster.finish();
}
