//! Follows Services and EndpointSlices and keeps rules and names as they say.
//!
//! It holds no opinion: [`facts`] reads the objects, `service::compile` says what follows, the owner puts it in force. What
//! is told of one Service costs what that Service costs, however many there are.

mod facts;
mod told;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::facts::read;
use self::told::Told;
use super::dns::zone::{Ranges, Zone};
use super::part::Part;
use super::service::{Compilation, Compiled, Facts, ServiceName};
use super::withdraw::DataPlane;
use super::{NetError, Network};

/// After the kernel refused a plan.
const AGAIN: Duration = Duration::from_secs(1);

/// The plane of Service maps and DNS.
pub struct Services {
    withheld: watch::Sender<BTreeSet<IpAddr>>,
    /// Addresses that somebody may be led to, beside those that have names; `None` as long as that is what an earlier daemon
    /// left. It is written after the names.
    in_force: watch::Sender<Option<BTreeSet<IpAddr>>>,
    zone: arc_swap::ArcSwap<Zone>,
    /// Whether the zone holds what the API says.
    is_whole: watch::Sender<bool>,
}

impl Services {
    /// Registers with the network; [`Services::run`] must follow.
    pub fn new(network: &Network, cluster_domain: &str, ranges: Ranges) -> Arc<Services> {
        let services = Arc::new(Services {
            withheld: watch::Sender::new(BTreeSet::new()),
            in_force: watch::Sender::new(None),
            zone: arc_swap::ArcSwap::from_pointee(Zone::empty(cluster_domain, ranges)),
            is_whole: watch::Sender::new(false),
        });
        network.register(services.clone());
        services
    }

    /// The names as they are now.
    pub fn zone(&self) -> Arc<Zone> {
        self.zone.load_full()
    }

    /// Ends when the names are known; an answer before would deny what exists.
    pub async fn is_whole(&self) {
        let _ = self.is_whole.subscribe().wait_for(|is_whole| *is_whole).await;
    }

    /// Follows the API until cancelled. `node` is our own name.
    pub async fn run(
        self: Arc<Services>,
        network: Network,
        client: Client,
        node: String,
        stop: CancellationToken,
    ) {
        stop.run_until_cancelled(self.follow(&network, client, &node)).await;
    }

    async fn follow(&self, network: &Network, client: Client, node: &str) {
        let mut services = changes::<core::Service>(client.clone());
        let mut slices = changes::<EndpointSlice>(client);
        let mut told = Told::default();
        let mut withheld = self.withheld.subscribe();
        let mut out = BTreeSet::new();
        // Nothing as long as it is not known what is in force.
        let mut compiled = None;
        let mut again = None;
        loop {
            tokio::select! {
                event = services.next() => take(event, |event| told.service(event)).await,
                event = slices.next() => take(event, |event| told.slice(event)).await,
                changed = withheld.changed() => changed.expect("the sender is ours"),
                () = sleep(again) => {}
            }
            // What has arrived meanwhile is one change.
            loop {
                if let Some(event) = services.next().now_or_never() {
                    take(event, |event| told.service(event)).await;
                } else if let Some(event) = slices.next().now_or_never() {
                    take(event, |event| told.slice(event)).await;
                } else {
                    break;
                }
            }
            let mut changed = told.changed();
            let Some(facts) = told.facts() else {
                continue;
            };
            let before = std::mem::replace(&mut out, withheld.borrow_and_update().clone());
            for address in before.symmetric_difference(&out) {
                changed.extend(facts.services_at(*address));
            }
            let outcome = match compiled.take() {
                Some(known) => self.update(network, known, &changed, facts, node, &out).await,
                None => self.put(network, facts, node, &out).await,
            };
            again = match outcome {
                Ok(now) => {
                    compiled = Some(now);
                    None
                }
                Err(error) => {
                    tracing::error!(%error, "Services are not as they should be");
                    Some(AGAIN)
                }
            };
        }
    }

    /// Puts all that `facts` say in force.
    pub(super) async fn put(
        &self,
        network: &Network,
        facts: &Facts,
        node: &str,
        withheld: &BTreeSet<IpAddr>,
    ) -> Result<Compiled, NetError> {
        let mut compiled = Compiled::default();
        let (plan, led_to) = compiled.whole(facts, node, withheld);
        let zone = Zone::of(&self.zone.load(), facts, withheld);
        network.put(Part::Services, plan).await?;
        self.publish(zone, |all| *all = led_to);
        Ok(compiled)
    }

    /// Puts in force what they say of `names`, where `compiled` is so far.
    async fn update(
        &self,
        network: &Network,
        mut compiled: Compiled,
        names: &BTreeSet<ServiceName>,
        facts: &Facts,
        node: &str,
        withheld: &BTreeSet<IpAddr>,
    ) -> Result<Compiled, NetError> {
        if names.is_empty() {
            return Ok(compiled);
        }
        let Compilation { change, led_to, left } = compiled.update(names, facts, node, withheld);
        let zone = self.zone.load().with(names, facts, withheld);
        if !change.is_empty() {
            network.change(Part::Services, change).await?;
        }
        self.publish(zone, |all| {
            for address in &left {
                all.remove(address);
            }
            all.extend(led_to);
        });
        Ok(compiled)
    }

    fn publish(&self, zone: Zone, change: impl FnOnce(&mut BTreeSet<IpAddr>)) {
        self.zone.store(Arc::new(zone));
        self.is_whole.send_replace(true);
        self.in_force.send_modify(|all| change(all.get_or_insert_default()));
    }
}

impl DataPlane for Services {
    fn name(&self) -> &'static str {
        "services"
    }

    fn without(&self, address: IpAddr) -> BoxFuture<'_, ()> {
        let mut in_force = self.in_force.subscribe();
        Box::pin(async move {
            let is_out = |known: &Option<BTreeSet<IpAddr>>| {
                known.as_ref().is_some_and(|led_to| !led_to.contains(&address))
                    && !self.zone.load().gives(address)
            };
            let _ = in_force.wait_for(is_out).await;
        })
    }

    fn withhold(&self, address: IpAddr) {
        self.withheld.send_if_modified(|withheld| withheld.insert(address));
    }

    fn release(&self, address: IpAddr) {
        self.withheld.send_if_modified(|withheld| withheld.remove(&address));
    }
}

async fn sleep(span: Option<Duration>) {
    match span {
        Some(span) => tokio::time::sleep(span).await,
        None => std::future::pending().await,
    }
}

fn changes<K>(client: Client) -> BoxStream<'static, watcher::Result<Event<K>>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(Api::<K>::all(client), watcher::Config::default()).default_backoff().boxed()
}

async fn take<K>(event: Option<watcher::Result<Event<K>>>, tell: impl FnOnce(Event<K>)) {
    match event {
        Some(Ok(event)) => tell(event),
        Some(Err(error)) => tracing::debug!(%error, "a watch of the network is interrupted"),
        None => std::future::pending().await,
    }
}
