//! `joey doctor` beside a daemon that runs, and beside what stands in its way.

use std::process::Command;

use crate::cluster::Cluster;

/// The lines of doctor's table by their check's name: verdict and finding; a cure follows after `→`.
fn findings(cluster: &Cluster) -> Vec<(String, String, String)> {
    let text = cluster.joey(&["doctor"]).stdout;
    let mut found: Vec<(String, String, String)> = Vec::new();
    for line in text.lines() {
        match (line.trim_start().strip_prefix("→ "), found.last_mut()) {
            (Some(cure), Some(last)) => last.2.push_str(&format!(" → {cure}")),
            _ => {
                let field = |from: usize, to: usize| {
                    line.get(from..to.min(line.len())).unwrap_or_default().trim().to_owned()
                };
                found.push((field(9, 24), field(0, 7), field(26, usize::MAX)));
            }
        }
    }
    found
}

#[track_caller]
fn check(cluster: &Cluster, name: &str, verdict: &str, words: &str) {
    let all = findings(cluster);
    let found = all.iter().find(|(found, ..)| found == name);
    let (_, seen, finding) = found.unwrap_or_else(|| panic!("{name} is not checked: {all:#?}"));
    assert!(seen == verdict && finding.contains(words), "{name}: {seen} {finding}");
}

fn sh(script: &str) {
    let status = Command::new("sh").args(["-ec", script]).status().expect("sh can run");
    assert!(status.success(), "{script}");
}

const UPLINK: &str = "ip link add up0 type veth peer name up1; ip link set up1 up; ip addr add 192.0.2.1/24 dev up0; ip link set up0 up; \
                      ip route add default via 192.0.2.254";
const FIREWALL: &str = "nft 'add table ip foreign; add chain ip foreign forward \
                        { type filter hook forward priority 0; policy drop; }'";

#[test]
fn doctor_knows_the_daemon_that_runs() {
    let mut cluster = Cluster::start("doctor");
    let ran = cluster.joey(&["doctor"]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    let process = format!("(this Joey runs, process {})", cluster.daemon_pid());
    check(&cluster, "API address", "ok", &process);
    for name in ["privilege", "kernel", "overlayfs", "nftables"] {
        check(&cluster, name, "ok", "");
    }
    // This network has no uplink yet.
    check(&cluster, "forwarding", "ok", "off; ");
    check(&cluster, "network", "ok", "nothing of the host");
    // To others the same port is taken.
    let mut other = cluster.joey_command();
    other.env("JOEY_RUN_DIR", cluster.dir.join("other")).arg("doctor");
    let other = other.output().expect("joey can run");
    let text = String::from_utf8_lossy(&other.stdout).into_owned();
    assert_eq!(other.status.code(), Some(1), "{text}");
    assert!(text.contains("127.0.0.1:6443 is in use by another program"), "{text}");

    assert_eq!(cluster.stop_daemon(), 0);
    check(&cluster, "API address", "ok", "127.0.0.1:6443 is free");
    // What another firewall does to pods is found at a start, and told until the next one.
    sh(UPLINK);
    sh(FIREWALL);
    cluster.start_daemon();
    check(&cluster, "network", "limited", "→");
    check(&cluster, "forwarding", "ok", "set by this Joey and put back by `joey reset`: {\"up0\"");
    assert_eq!(cluster.stop_daemon(), 0);
    sh("nft delete table ip foreign; ip link del up0");
    cluster.start_daemon();
    check(&cluster, "network", "ok", "nothing of the host");
    cluster.finish();
}
