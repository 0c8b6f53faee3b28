//! Policies: from a change in the API to the first packet that meets it, and what they cost a connection.

use std::time::Instant;

use crate::cluster::Cluster;
use crate::table::{Row, print};

const CONNECTIONS: usize = 200;

/// A policy that denies the client everything comes and goes beside `count` others.
pub async fn change(cluster: &Cluster, count: usize, rounds: usize) {
    let mut tightened = Row::new("created → denied");
    let mut loosened = Row::new("deleted → allowed");
    let site = &cluster.open;
    for _ in 0..rounds {
        for is_open in [false, true] {
            let asking = site.until(site.server, is_open);
            let started = Instant::now();
            match is_open {
                true => cluster.allow_client().await,
                false => cluster.deny_client().await,
            }
            let ended = tokio::task::spawn_blocking(|| asking.join()).await.expect("it runs");
            let took = ended.expect("the asking ends well").saturating_duration_since(started);
            let row = if is_open { &mut loosened } else { &mut tightened };
            row.samples.push(took.as_secs_f64() * 1e3);
        }
    }
    print(&format!("A policy, {count} others"), "ms", &[tightened, loosened]);
}

/// To a pod that a policy with `peers` blocks of addresses guards, beside one that none does.
pub async fn path(cluster: &Cluster, peers: usize, rounds: usize) {
    let guarded = cluster.guard(peers).await;
    let mut rows = vec![
        Row::new("no policy"),
        Row::new(format!("a policy that allows {peers} blocks of addresses")),
    ];
    for _ in 0..rounds {
        for (site, row) in [&cluster.open, &guarded].into_iter().zip(&mut rows) {
            row.samples.extend(site.connect(|_| site.server, CONNECTIONS));
        }
    }
    print("A connection to a pod's address", "µs", &rows);
}
