//! Other programs at the rules of the pods' network: nothing is opened, and whoever runs the host hears of it.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::cluster::Cluster;
use crate::policy::{DENY_ALL, connects, server, wait_in_force};

/// Whether the node's metrics have this line. The whole line: the text of help begins with a number as well.
fn counts(cluster: &Cluster, line: &str) -> bool {
    let figures = cluster.fetch("http://127.0.0.1:9464/metrics").stdout;
    figures.lines().any(|one| one == line)
}

fn wait_told(cluster: &mut Cluster, reason: &str, line: &str) {
    cluster.wait_for(&format!("{reason} is told"), |cluster| {
        let events = ["get", "events", "-A", "-o", "jsonpath={.items[*].reason}"];
        cluster.kubectl(&events).ok().contains(reason) && counts(cluster, line)
    });
}

#[test]
fn rules_that_others_take_are_missed_told_of_and_put_back() {
    let mut cluster = Cluster::start("rivals");
    cluster.apply(&[server("default", "one", "x"), server("default", "two", "x")].concat()).ok();
    for pod in ["one", "two"] {
        cluster.wait_running(pod);
    }
    let two = cluster.value("pod/two", "{.status.podIP}");
    cluster.apply(DENY_ALL).ok();
    wait_in_force(&mut cluster, "networkpolicy/default-deny");

    Command::new("nft").args(["flush", "ruleset"]).status().expect("nft can run");
    wait_told(&mut cluster, "NetworkRulesRestored", "joey_network_rules_restored_total 1");
    assert!(!connects(&cluster, "default/one", &two, 80));

    // Nobody may change a table that a live program owns (`NFT_TABLE_F_OWNER`).
    let tables = Command::new("nft").args(["list", "tables", "inet"]).output();
    let tables = String::from_utf8(tables.expect("nft can run").stdout).expect("text");
    let table = tables.split_whitespace().find(|word| word.starts_with("joey_")).expect("ours");
    let nft = Command::new("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    let mut owner = nft.expect("nft can run");
    let taken = format!("delete table inet {table}; add table inet {table} {{ flags owner; }}\n");
    let mut orders = owner.stdin.take().expect("its input is piped");
    orders.write_all(taken.as_bytes()).expect("it reads");
    wait_told(&mut cluster, "NetworkRulesBroken", "joey_network_rules_broken 1");
    assert!(!connects(&cluster, "default/one", &two, 80));
    drop(orders);
    owner.wait().expect("it ends with its input");
    cluster
        .wait_for("the rules are back", |cluster| counts(cluster, "joey_network_rules_broken 0"));
    assert!(!connects(&cluster, "default/one", &two, 80));
    cluster.kubectl(&["delete", "networkpolicy", "default-deny"]).ok();
    cluster.wait_for("what is not denied passes", |cluster| {
        connects(cluster, "default/one", &two, 80)
    });
    cluster.finish();
}
