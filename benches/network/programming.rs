//! From a change in the API (or a peer's command) to the first packet that meets it.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::peers::Peer;
use crate::site::{Site, service};
use crate::table::{Row, print};

/// Milliseconds until connections to the first Service do as `is_open` says, from before `change`.
async fn until(site: &Site, is_open: bool, change: impl Future<Output = ()>) -> f64 {
    let asking = site.until(service(0), is_open);
    let started = std::time::Instant::now();
    change.await;
    let ended = tokio::task::spawn_blocking(|| asking.join()).await.expect("it runs");
    ended.expect("the asking ends well").saturating_duration_since(started).as_secs_f64() * 1e3
}

pub async fn services(cluster: &Cluster, peers: &[Peer], count: usize, rounds: usize) {
    let mut whole = vec![Row::new("Joey: compiled and in force")];
    whole[0].samples.extend(cluster.whole_tables(count, rounds.min(3)).await.iter().map(millis));
    for peer in peers {
        let mut row = Row::new(peer.name);
        row.samples.extend(peer.loaded.iter().map(millis));
        whole.push(row);
    }
    print(&format!("The whole table, {count} Services"), "ms", &whole);

    let mut ready = vec![Row::new("Joey: API write → first packet")];
    let mut gone = vec![Row::new("Joey: API write → refused")];
    for peer in peers {
        ready.push(Row::new(format!("{}: command → first packet", peer.name)));
        gone.push(Row::new(format!("{}: command → refused", peer.name)));
    }
    for _ in 0..rounds {
        for is_open in [false, true] {
            let rows = if is_open { &mut ready } else { &mut gone };
            let change = cluster.first_is_ready(is_open);
            rows[0].samples.push(until(&cluster.open, is_open, change).await);
            for (peer, row) in peers.iter().zip(&mut rows[1..]) {
                if peer.loaded.is_ok() {
                    let change = async { peer.change(is_open).expect("it did so before") };
                    row.samples.push(until(&peer.site, is_open, change).await);
                }
            }
        }
    }
    print(&format!("An endpoint becomes ready, {count} Services"), "ms", &ready);
    print(&format!("An endpoint goes, {count} Services"), "ms", &gone);
}

fn millis(span: &Duration) -> f64 {
    span.as_secs_f64() * 1e3
}
