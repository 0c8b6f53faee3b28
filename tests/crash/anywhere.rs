//! The daemon is killed at its n-th system call of a kind, while a pod is made, deleted or entered, and
//! while it recovers.
//!
//! strace counts for each thread on its own, so that the place differs from run to run. The promise does not.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::cluster::Cluster;
use crate::scene::{
    WRITER, container_pids, delete, groups, held, identities, is_long, pod, start, wait_held,
};

/// System calls by what they are for: what the store writes, what changes files, talk with shims, the
/// zygote and the kernel's network, namespaces and mounts.
const KINDS: [(&str, &str); 4] = [
    ("store", "pwrite64,pwritev,fdatasync,fsync,ftruncate,fallocate"),
    ("files", "openat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,chmod,fchmod"),
    ("talk", "sendmsg,recvmsg,sendto,connect,socket,bind"),
    ("mounts", "mount,umount2,setns,unshare,clone,clone3,openat2,open_tree,move_mount"),
];

/// The numbers at which the daemon is killed, per kind.
fn stride() -> Vec<u32> {
    match is_long() {
        true => (1..=60).chain((61..=400).step_by(7)).collect(),
        false => vec![1, 3, 9],
    }
}

/// An strace that has hold of every thread of the daemon.
struct Trap(Child);

impl Trap {
    fn set(cluster: &mut Cluster, calls: &str, number: u32) -> Trap {
        let pid = cluster.daemon_pid();
        let child = Command::new("strace")
            .args(["-f", "-qqq", "-o", "/dev/null", "-p", &pid.to_string()])
            .args(["-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:signal=SIGKILL:when={number}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace can run");
        let tracer = format!("TracerPid:\t{}", child.id());
        cluster.wait_for("strace has hold of the daemon", |cluster| {
            // It may be caught at once.
            if !cluster.daemon_is_alive() {
                return true;
            }
            let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
            threads.flatten().all(|thread| {
                let status = fs::read_to_string(thread.path().join("status"));
                // A thread that ended meanwhile is nobody's.
                status.map_or(true, |status| status.lines().any(|line| line == tracer))
            })
        });
        Trap(child)
    }

    /// Lets go of a daemon that has not been caught.
    fn remove(mut self) {
        // SIGKILL: an strace that is told to end politely while its tracee dies waits for ever. The
        // kernel lets go of the threads.
        self.0.kill().expect("strace can be killed");
        self.0.wait().expect("strace can be waited for");
    }
}

/// Performs `deed` with the trap set and starts a new daemon if it was killed; says whether it was.
fn strike(
    cluster: &mut Cluster,
    calls: &str,
    number: u32,
    deed: impl FnOnce(&mut Cluster),
) -> bool {
    let trap = Trap::set(cluster, calls, number);
    deed(cluster);
    trap.remove();
    // Dying takes a moment; whoever answers lives.
    settled(cluster, "the daemon answers or is dead", |cluster| {
        cluster.kubectl(&["get", "--raw", "/readyz"]).stdout == "ok"
    });
    let was_killed = !cluster.daemon_is_alive();
    if was_killed {
        cluster.start_daemon();
    }
    was_killed
}

/// Waits until the deed has come to its end or the daemon to its own.
fn settled(cluster: &mut Cluster, what: &str, mut done: impl FnMut(&mut Cluster) -> bool) {
    cluster.wait_for(what, |cluster| !cluster.daemon_is_alive() || done(cluster));
}

fn is_ready(cluster: &Cluster, name: &str) -> bool {
    let path = "{.status.conditions[?(@.type=='Ready')].status}";
    cluster.value(&format!("pod/{name}"), path) == "True"
}

fn is_gone(cluster: &Cluster, name: &str) -> bool {
    let args = ["get", &format!("pod/{name}"), "--ignore-not-found", "-o", "name"];
    let got = cluster.kubectl(&args);
    got.code == 0 && got.stdout.is_empty()
}

/// One container runs, once, and it is the first.
#[track_caller]
fn runs_once(cluster: &mut Cluster, name: &str) {
    cluster.wait_running(name);
    let seen = identities(cluster);
    let identity = &seen[name];
    assert_eq!(identity.restarts, 0, "{name} was restarted\n{}", cluster.daemon_log());
    assert_eq!(identity.containers.len(), 1);
    cluster
        .wait_for("one process runs", |cluster| container_pids(cluster, &identity.uid).len() == 1);
    let attempts = groups(cluster);
    let attempts = attempts.keys().filter(|path| path.contains(&identity.uid));
    let attempts: Vec<_> = attempts.filter(|path| path.contains("main.")).collect();
    assert_eq!(attempts.len(), 1, "{attempts:?}");
}

#[test]
fn a_daemon_killed_at_any_system_call_finishes_or_undoes() {
    let (mut cluster, _) = start("anywhere");
    cluster.apply(&pod("canary", "Always", WRITER)).ok();
    cluster.wait_running("canary");
    let canary = identities(&cluster)["canary"].clone();
    let before = held(&cluster);
    let (mut kills, mut escapes) = (0, 0);
    for (kind, calls) in KINDS {
        for number in stride() {
            let name = format!("{kind}-{number}");
            eprintln!("{name}");
            let manifest = pod(&name, "Always", WRITER);
            let mut killed = 0;
            killed += u32::from(strike(&mut cluster, calls, number, |cluster| {
                let _ = cluster.apply(&manifest);
                settled(cluster, "the pod is made", |cluster| is_ready(cluster, &name));
            }));
            // What a user does who got no answer.
            cluster.apply(&manifest).ok();
            runs_once(&mut cluster, &name);
            killed += u32::from(strike(&mut cluster, calls, number, |cluster| {
                let _ = cluster.kubectl(&["exec", &name, "--", "/bin/bash", "-c", "echo inside"]);
            }));
            runs_once(&mut cluster, &name);
            killed += u32::from(strike(&mut cluster, calls, number, |cluster| {
                let _ = cluster.kubectl(&["delete", "pod", &name, "--wait=false"]);
                settled(cluster, "the pod is deleted", |cluster| is_gone(cluster, &name));
            }));
            delete(&mut cluster, &name);
            wait_held(&mut cluster, &before);
            assert_eq!(identities(&cluster)["canary"], canary, "{}", cluster.daemon_log());
            kills += killed;
            escapes += 3 - killed;
            if killed == 0 {
                // None of the three comes that far.
                break;
            }
        }
    }
    eprintln!("{kills} daemons were killed, {escapes} operations ended before the kill");
    assert!(kills >= 12, "only {kills} daemons were killed: the traps are set in the wrong places");
    cluster.finish();
}

#[test]
fn a_daemon_killed_while_it_recovers_recovers_the_next_time() {
    let (mut cluster, before) = start("recovery");
    for name in ["canary", "other"] {
        cluster.apply(&pod(name, "Always", WRITER)).ok();
        cluster.wait_running(name);
    }
    let pods = identities(&cluster);
    let mut kills = 0;
    for (kind, calls) in KINDS {
        let numbers: Vec<u32> = match is_long() {
            true => (1..=200).step_by(5).collect(),
            false => vec![2, 11, 40],
        };
        for number in numbers {
            eprintln!("{kind} {number}");
            cluster.kill_daemon();
            let inject = format!("inject={calls}:signal=SIGKILL:when={number}");
            // -D: the daemon is our child, and strace beside it ends with it.
            let strace = ["strace", "-D", "-f", "-qqq", "-o", "/dev/null", "-e", &inject];
            // Its zygote is under strace as well, and may be the one that is killed.
            cluster.spawn_daemon(&strace);
            let ready = "{.items[*].status.conditions[?(@.type=='Ready')].status}";
            settled(&mut cluster, "it has recovered or was killed", |cluster| {
                let args = ["get", "nodes", "-o", &format!("jsonpath={ready}")];
                cluster.kubectl(&args).stdout == "True"
            });
            if cluster.daemon_is_alive() {
                cluster.kill_daemon();
            } else {
                kills += 1;
            }
            cluster.start_daemon();
            assert_eq!(identities(&cluster), pods, "{}", cluster.daemon_log());
        }
    }
    assert!(kills >= 4, "only {kills} daemons were killed");
    for name in ["canary", "other"] {
        delete(&mut cluster, name);
    }
    wait_held(&mut cluster, &before);
    cluster.finish();
}
