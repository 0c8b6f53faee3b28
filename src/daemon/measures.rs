//! What is looked up for scrapers rather than counted: pods and containers of the node, addresses, repairs.
//!
//! It changes nothing. What parts count themselves they register themselves.

use std::collections::BTreeMap;

use tokio::sync::broadcast::error::RecvError;

use crate::metrics::{Counter, Registry};
use crate::net::{Network, Repaired};
use crate::node::pods::Pods;
use crate::runtime::{ContainerPhase, ShimState};

/// Pods and containers of this node.
pub fn node(registry: &Registry, pods: Pods) {
    let count = registry.gauges(
        "joey_node_pods",
        "Pods whose containers a shim holds (running), whose shim is lost, or that have none (waiting).",
        &["state"],
    );
    let containers = registry.gauges(
        "joey_node_containers",
        "Newest attempts of containers, by what became of them.",
        &["state"],
    );
    registry.before_scrape(move || {
        let mut found: BTreeMap<&str, i64> =
            BTreeMap::from([("running", 0), ("lost", 0), ("waiting", 0)]);
        let mut phases: BTreeMap<&str, i64> = BTreeMap::from([("running", 0), ("exited", 0)]);
        for entry in pods.all() {
            let Some(pod) = &entry.pod else {
                *found.entry("waiting").or_default() += 1;
                continue;
            };
            let state = pod.state();
            let state = state.borrow();
            let shim = match state.shim {
                ShimState::Alive => "running",
                ShimState::Lost => "lost",
            };
            *found.entry(shim).or_default() += 1;
            for container in state.containers.values() {
                let phase = match container.phase {
                    ContainerPhase::Running { .. } => "running",
                    ContainerPhase::Exited(_) => "exited",
                };
                *phases.entry(phase).or_default() += 1;
            }
        }
        found.iter().for_each(|(state, number)| count.with(&[state]).set(*number));
        phases.iter().for_each(|(phase, number)| containers.with(&[phase]).set(*number));
    });
}

/// Addresses in use. Returns where repairs are counted.
pub fn network(registry: &Registry, network: &Network) -> Counter {
    let addresses =
        registry.gauges("joey_network_addresses", "Addresses that pods have.", &[]).with(&[]);
    let network = network.clone();
    registry.before_scrape(move || {
        addresses.set(i64::try_from(network.attached().len()).unwrap_or(i64::MAX));
    });
    registry
        .counters(
            "joey_network_repairs_total",
            "Links and namespaces of pods that were changed by hand and put right.",
            &[],
        )
        .with(&[])
}

/// Counts repairs until the network ends.
pub async fn count_repairs(network: Network, repairs: Counter) {
    let mut heard = network.repairs();
    loop {
        match heard.recv().await {
            Ok(Repaired { .. }) => repairs.increment(),
            Err(RecvError::Lagged(missed)) => repairs.add(missed),
            Err(RecvError::Closed) => return,
        }
    }
}
