//! Pods come and go, many of them never well, and nothing of them stays.

use crate::cluster::{Cluster, PATIENCE};
use crate::scene::{WRITER, delete, held, inside, is_long, pod, wait_held};

/// Pods of every fate, and how to know that it has come to them.
fn fates(cycle: usize) -> Vec<(String, String, &'static str, &'static str)> {
    let name = |kind: &str| format!("{kind}-{cycle}");
    let waiting = "{.status.containerStatuses[0].state.waiting.reason}";
    let good = name("good");
    let fate = pod(&good, "Always", WRITER);
    let mut all = vec![(good, fate, "{.status.conditions[?(@.type=='Ready')].status}", "True")];
    let (name, manifest, why, reason) = match cycle % 4 {
        0 => {
            let manifest = pod(&name("command"), "Always", "").replace("/bin/bash", "/no/such");
            (name("command"), manifest, waiting, "RunContainerError")
        }
        1 => {
            let manifest = pod(&name("image"), "Always", "").replace("toolbox", "no-such-image");
            let manifest = manifest.replace("IfNotPresent", "Never");
            (name("image"), manifest, waiting, "ErrImageNeverPull")
        }
        2 => {
            let mut manifest = pod(&name("config"), "Always", WRITER);
            manifest.push_str("    envFrom: [{configMapRef: {name: no-such-map}}]\n");
            (name("config"), manifest, waiting, "CreateContainerConfigError")
        }
        _ => (name("short"), pod(&name("short"), "Never", "exit 3"), "{.status.phase}", "Failed"),
    };
    all.push((name, manifest, why, reason));
    all
}

fn cycle(cluster: &mut Cluster, number: usize) {
    let fates = fates(number);
    for (_, manifest, ..) in &fates {
        cluster.apply(manifest).ok();
    }
    for (name, _, path, value) in &fates {
        cluster.wait_for(&format!("{name} comes to {value}"), |cluster| {
            let seen = cluster.value(&format!("pod/{name}"), path);
            // A failed start is tried again in between.
            seen == *value || (*value == "RunContainerError" && seen == "CrashLoopBackOff")
        });
    }
    for (name, ..) in &fates {
        delete(cluster, name);
    }
}

#[test]
fn pods_that_came_and_went_leave_nothing() {
    let cycles = if is_long() { 1000 } else { 200 };
    let mut cluster = Cluster::start("cycles");
    // The first of each kind warms up what stays for good: caches, connections, threads.
    for number in 0..4 {
        cycle(&mut cluster, number);
    }
    let (before, inside_before) = (held(&cluster), settled_inside(&cluster));
    for number in 4..4 + cycles {
        cycle(&mut cluster, number);
    }
    wait_held(&mut cluster, &before);
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        let now = inside(&cluster);
        if now == inside_before {
            break;
        }
        assert!(
            std::time::Instant::now() < end,
            "the daemon holds more or less than before: {inside_before:#?} {now:#?}"
        );
        std::thread::park_timeout(std::time::Duration::from_millis(100));
    }
    cluster.finish();
}

/// What the daemon holds when it is idle: threads for blocking work end after ten idle seconds.
fn settled_inside(cluster: &Cluster) -> std::collections::BTreeMap<String, usize> {
    let end = std::time::Instant::now() + PATIENCE;
    let mut seen = inside(cluster);
    let mut since = std::time::Instant::now();
    while since.elapsed() < std::time::Duration::from_secs(12) {
        assert!(std::time::Instant::now() < end, "the idle daemon does not settle: {seen:#?}");
        std::thread::park_timeout(std::time::Duration::from_millis(100));
        let now = inside(cluster);
        if now != seen {
            seen = now;
            since = std::time::Instant::now();
        }
    }
    seen
}
