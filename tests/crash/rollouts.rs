//! The daemon is killed at random moments of rollouts and scaling.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::census::Census;
use crate::cluster::Cluster;
use crate::scene::{Chance, is_long, start};

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: web, image: 'kangaroo-backend:1.14.2'}
";
const MOST: usize = 4;

/// What of a pod must not change as long as it stands: container ids and restarts.
type Bodies = BTreeMap<String, (Vec<String>, i64)>;

struct Standing {
    /// Pods that are not being stopped.
    active: usize,
    ready: usize,
    bodies: Bodies,
}

fn standing(cluster: &Cluster) -> Standing {
    let listed = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "json"]).ok();
    let listed: Value = serde_json::from_str(&listed).expect("kubectl prints JSON");
    let mut standing = Standing { active: 0, ready: 0, bodies: Bodies::new() };
    for pod in listed["items"].as_array().into_iter().flatten() {
        if pod["metadata"]["deletionTimestamp"].is_string() {
            continue;
        }
        let owners = pod["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len);
        assert_eq!(owners, 1, "{} is one set's", pod["metadata"]["name"]);
        standing.active += 1;
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let is_ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
        if !conditions.into_iter().any(is_ready) {
            continue;
        }
        standing.ready += 1;
        let containers = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let ids = containers.iter().map(|c| c["containerID"].to_string()).collect();
        let restarts = containers.iter().filter_map(|c| c["restartCount"].as_i64()).sum();
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        standing.bodies.insert(uid, (ids, restarts));
    }
    standing
}

/// Waits a moment of chance: what is killed then is not for us to say.
fn moment(chance: &mut Chance) {
    let end = Instant::now() + Duration::from_millis(chance.below(400) as u64);
    while Instant::now() < end {
        std::thread::park_timeout(end.saturating_duration_since(Instant::now()));
    }
}

#[test]
fn kills_during_rollouts_break_no_promise_and_restart_no_container() {
    let kills = if is_long() { 200 } else { 12 };
    let (mut cluster, _) = start("rollouts");
    let mut chance = Chance::new();
    cluster.apply(DEPLOYMENT).ok();
    cluster.wait_for("three serve", |cluster| standing(cluster).ready == 3);
    // The least that has been wished for since all was well last.
    let (mut least, mut wished) = (3, 3);
    let mut known = standing(&cluster).bodies;
    let census = Census::start(&mut cluster, "app=web");
    for kill in 0..kills {
        match chance.below(3) {
            0 => {
                wished = 2 + chance.below(2);
                least = least.min(wished);
                let replicas = format!("--replicas={wished}");
                cluster.kubectl(&["scale", "deployment/web", &replicas]).ok();
            }
            _ => {
                let image = ["web=kangaroo-backend:1.14.2", "web=kangaroo-backend:1.15"][kill % 2];
                cluster.kubectl(&["set", "image", "deployment/web", image]).ok();
            }
        }
        moment(&mut chance);
        cluster.kill_daemon();
        cluster.start_daemon();
        let now = standing(&cluster);
        assert!(now.active <= MOST, "{} pods after kill {kill}", now.active);
        assert!(
            now.ready >= least,
            "{} are ready after kill {kill}, {least} have to be",
            now.ready
        );
        for (uid, body) in &now.bodies {
            assert_eq!(body.1, 0, "a container was restarted after kill {kill}");
            assert!(
                known.get(uid).is_none_or(|held| held == body),
                "another body after kill {kill}"
            );
        }
        known = now.bodies;
        // Nor at any moment before.
        let since = census.catch_up(&mut cluster);
        assert!(
            since.most <= MOST && since.fewest_ready >= least,
            "{since:?} before kill {kill}, between {least} and {MOST} have to be"
        );
        if chance.below(4) == 0 {
            cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]).ok();
            let since = census.catch_up(&mut cluster);
            assert!(since.most <= MOST && since.fewest_ready >= least, "{since:?} after {kill}");
            least = wished;
        }
    }
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]).ok();
    cluster.wait_for("only what is wished for is left", |cluster| {
        let now = standing(cluster);
        now.active == wished && now.ready == wished
    });
    cluster.finish();
}
