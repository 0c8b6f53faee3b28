//! Brings what the ingress counts to whoever asks for figures: requests of each Ingress, Service and pod.
//!
//! A route that nobody uses has the figure zero; what no route leads to has none.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Ingress;
use super::measure::Totals;
use crate::metrics::figures::{Figure, Figures, Reading, Subject};

/// As `kubectl explain`'s own example of an HorizontalPodAutoscaler calls it.
const REQUEST_RATE: &str = "requests-per-second";
/// As often as the usage of containers is read: each look costs a host that has nothing to do three wake-ups.
const PERIOD: Duration = Duration::from_secs(5);

impl Ingress {
    /// Tells until cancelled.
    pub async fn tell(self, figures: Figures, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            figures.take(self.readings());
        }
    }

    fn readings(&self) -> Vec<(Figure, Reading)> {
        let Totals { ingresses, services } = self.proxy.measure.totals();
        let mut addresses = BTreeMap::new();
        for (address, count) in self.proxy.upstreams.handed() {
            *addresses.entry(address).or_insert(0) += count;
        }
        let ingresses = ingresses.into_iter().map(|(one, count)| {
            (Subject::Ingress { namespace: one.namespace, name: one.name }, count)
        });
        let services = services.into_iter().map(|(one, count)| {
            (Subject::Service { namespace: one.namespace, name: one.name }, count)
        });
        let addresses =
            addresses.into_iter().map(|(address, count)| (Subject::Address(address), count));
        let all = ingresses.chain(services).chain(addresses);
        all.map(|(of, count)| {
            let figure = Figure { of, metric: REQUEST_RATE.to_owned() };
            (figure, Reading::Counter(count as f64))
        })
        .collect()
    }
}
