//! Somebody else flushes the rules: nothing gets through meanwhile, and they are put back at once.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::json;

use super::machine::*;
use super::policy::scene::Scene;
use super::policy::{Flood, rounds, seed};
use crate::net::Attached;
use crate::net::policy::Labels;
use crate::net::policy::tests::{Random, policy};

fn labels(app: &str) -> Labels {
    [("app".to_owned(), app.to_owned())].into()
}

/// `client` may not send to `denied` and may to `allowed`.
pub async fn cluster(scene: &mut Scene) -> [Attached; 3] {
    scene.namespace("x", Labels::new());
    let client = scene.pod("x", "client", labels("client")).await;
    let denied = scene.pod("x", "denied", labels("denied")).await;
    let allowed = scene.pod("x", "allowed", labels("allowed")).await;
    let spec = json!({"podSelector": {"matchLabels": {"app": "denied"}}});
    scene.policies = vec![policy("x", "denied", spec)];
    scene.enforce().await;
    [client, denied, allowed]
}

/// Whether a datagram of a new flow is answered.
pub(super) fn is_answered(client: &Attached, echo: &UdpSocket) -> bool {
    let socket = bound(client, 0);
    socket.set_read_timeout(Some(NEVER)).unwrap();
    echo.set_read_timeout(Some(NEVER)).unwrap();
    let to = echo.local_addr().unwrap();
    socket.send_to(b"ask", to).is_ok()
        && echo.recv_from(&mut [0; 8]).is_ok_and(|(_, from)| echo.send_to(b"answer", from).is_ok())
        && socket.recv(&mut [0; 8]).is_ok()
}

#[test]
fn a_flushed_ruleset_is_put_back_at_once_and_opens_nothing() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        let [client, denied, allowed] = cluster(&mut scene).await;
        let (deaf, echo) = (bound(&denied, 80), bound(&allowed, 80));
        let (is_over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (over, count, to) = (is_over.clone(), sent.clone(), (v4(&denied), 80));
        let asker = client.clone();
        let flood = thread::spawn(move || {
            while !over.load(Ordering::SeqCst) {
                // A new flow each time, so that rules decide and not conntrack.
                bound(&asker, 0).send_to(b"denied", to).ok();
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        let restored = scene.network.restored();
        for command in [
            "nft flush ruleset",
            "nft delete table inet joey_abc123",
            "nft flush chain inet joey_abc123 from_pods",
            "nft delete element inet joey_abc123 policy_ingress4 { $(nft list map inet joey_abc123 policy_ingress4 | grep -o '10.42[0-9.]* : goto policy_in[a-z0-9_]*' | head -1) }",
            // What Debian's nftables.service does when it reloads.
            "printf 'flush ruleset\\ntable inet filter { chain input { type filter hook input priority 0;\\n}\\n}\\n' | nft -f -; nft delete table inet filter",
        ] {
            let before = *restored.borrow();
            let asked = sent.load(Ordering::SeqCst);
            sh(command);
            let begin = Instant::now();
            eventually("the rules are put back", || *restored.borrow() > before);
            println!("{:?} after {command}", begin.elapsed());
            eventually("denied questions go on", || sent.load(Ordering::SeqCst) > asked + 50);
            eventually("whoever is allowed gets through", || is_answered(&client, &echo));
            deaf.set_nonblocking(true).unwrap();
            let mut leaked = 0;
            while deaf.recv(&mut [0; 8]).is_ok() {
                leaked += 1;
            }
            // A packet that is between marking and forwarding at that very moment is past the guard: one a processor.
            let processors = thread::available_parallelism().unwrap().get();
            assert!(leaked <= processors, "{command} let {leaked} denied packets through");
        }
        is_over.store(true, Ordering::SeqCst);
        flood.join().unwrap();
        let quiet = *restored.borrow();
        scene.policies.clear();
        scene.enforce().await;
        let late = scene.pod("x", "late", labels("late")).await;
        scene.remove("x", "late").await;
        assert_ne!(late.address, client.address);
        eventually("own changes are in force", || is_answered(&client, &echo));
        assert_eq!(*restored.borrow(), quiet, "own changes are no disturbance");
    });
}

/// Whoever adds something of his own to our table is undone by writing everything again: packets do not notice.
#[test]
fn a_repair_of_rules_that_were_right_loses_nothing() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        let mut random = Random::new(seed());
        let flood = Flood::begin(&mut scene, &mut random).await;
        let only = |to: &str, rule: serde_json::Value| json!({"podSelector": {"matchLabels": {"app": to}}, "ingress": [rule]});
        let from = json!([
            {"ipBlock": {"cidr": "10.42.0.0/16", "except": ["10.42.9.0/24"]}},
            {"podSelector": {"matchLabels": {"app": "client"}}},
        ]);
        let ports = json!([
            {"port": 80, "protocol": "UDP"}, {"port": 90, "endPort": 99, "protocol": "UDP"},
        ]);
        let spec = json!({"podSelector": {"matchLabels": {"app": "denied"}}});
        scene.policies = vec![
            policy("x", "denied", spec),
            policy("y", "allowed", only("allowed", json!({"from": from, "ports": ports}))),
        ];
        scene.enforce().await;
        let mut restored = scene.network.restored();
        let repairs = rounds(60, 600);
        for number in 0..repairs {
            restored.mark_unchanged();
            sh(&format!("nft add chain inet joey_abc123 foreign_{number}"));
            tokio::time::timeout(ARRIVES, restored.changed()).await.unwrap().unwrap();
            flood.watch.check();
        }
        println!("{repairs} repairs under {} questions", flood.end());
    });
}

#[test]
fn without_daemon_and_rules_no_pod_reaches_anybody() {
    on_a_host(|host| async move {
        let mut scene = Scene::start().await;
        let [client, denied, allowed] = cluster(&mut scene).await;
        let (deaf, echo) = (bound(&denied, 80), bound(&allowed, 80));
        let world = outside(&host, || UdpSocket::bind((OUTSIDE, 80))).unwrap();
        assert!(is_answered(&client, &echo) && is_answered(&client, &world));

        let stopped = scene.stop();
        sh("nft flush ruleset");
        for server in [&deaf, &echo, &world] {
            assert!(!is_answered(&client, server), "{server:?} is reached without rules");
        }
        assert!(!is_answered(&allowed, &deaf), "by anybody");
        // The packets were stopped by the guard and nothing else.
        let rules = sh("ip -o rule | grep prohibit | grep -v joey || true");
        assert_eq!(rules.lines().count(), 2, "{rules}");
        sh("ip rule del pref 82; ip rule del pref 83");
        assert!(
            is_answered(&client, &deaf),
            "without guard and rules a pod reaches what policies deny"
        );

        let scene = stopped.begin().await;
        scene.enforce().await;
        eventually("whoever is allowed gets through", || is_answered(&client, &echo));
        assert!(!is_answered(&client, &deaf));
        assert_eq!(sh("ip -o rule | grep -c prohibit").trim(), "2", "the guard is back");
    });
}
