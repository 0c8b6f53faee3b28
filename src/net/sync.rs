//! Follows Services and EndpointSlices and keeps rules and names as they say.
//!
//! It holds no opinion: [`facts`] reads the objects, `service::compile` says what follows, the owner puts it in force.

mod facts;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::facts::read;
use super::dns::zone::{Ranges, Zone};
use super::part::Part;
use super::service::{self, Facts};
use super::withdraw::DataPlane;
use super::{NetError, Network};

/// After the kernel refused a plan.
const AGAIN: Duration = Duration::from_secs(1);

/// The plane of Service maps and DNS.
pub struct Services {
    withheld: watch::Sender<BTreeSet<IpAddr>>,
    /// Addresses that somebody may be led to; `None` as long as that is what an earlier daemon left.
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
        let mut services = Mirror::<core::Service>::new(client.clone());
        let mut slices = Mirror::<EndpointSlice>::new(client);
        let mut withheld = self.withheld.subscribe();
        let mut again = None;
        loop {
            tokio::select! {
                () = services.advance() => {}
                () = slices.advance() => {}
                changed = withheld.changed() => changed.expect("the sender is ours"),
                () = sleep(again) => {}
            }
            // What has arrived meanwhile is one change.
            while services.advance().now_or_never().is_some()
                || slices.advance().now_or_never().is_some()
            {}
            let (Some(services), Some(slices)) = (&services.whole, &slices.whole) else {
                continue;
            };
            let facts = facts::read(services.values(), slices.values());
            let out = withheld.borrow_and_update().clone();
            again = match self.put(network, &facts, node, &out).await {
                Ok(()) => None,
                Err(error) => {
                    tracing::error!(%error, "Services are not as they should be");
                    Some(AGAIN)
                }
            };
        }
    }

    pub(super) async fn put(
        &self,
        network: &Network,
        facts: &Facts,
        node: &str,
        withheld: &BTreeSet<IpAddr>,
    ) -> Result<(), NetError> {
        let plan = service::compile(facts, node, withheld);
        let mut led_to = service::addresses(&plan);
        let zone = Zone::of(&self.zone.load(), facts, withheld);
        led_to.extend(zone.addresses_of_pods());
        network.put(Part::Services, plan).await?;
        self.zone.store(Arc::new(zone));
        self.is_whole.send_replace(true);
        self.in_force.send_replace(Some(led_to));
        Ok(())
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

/// All objects of a kind, as a watch tells them.
struct Mirror<K> {
    events: std::pin::Pin<Box<dyn Stream<Item = watcher::Result<Event<K>>> + Send>>,
    /// A list that is still coming in.
    coming: BTreeMap<(String, String), K>,
    /// Nothing until the first list is complete.
    whole: Option<BTreeMap<(String, String), K>>,
}

impl<K> Mirror<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    fn new(client: Client) -> Mirror<K> {
        let events = watcher(Api::<K>::all(client), watcher::Config::default()).default_backoff();
        Mirror { events: events.boxed(), coming: BTreeMap::new(), whole: None }
    }

    /// Takes the next event. Dropped before it ends, it has taken none.
    async fn advance(&mut self) {
        let key = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
        match self.events.next().await {
            Some(Ok(Event::Init)) => self.coming.clear(),
            Some(Ok(Event::InitApply(object))) => {
                self.coming.insert(key(&object), object);
            }
            Some(Ok(Event::InitDone)) => self.whole = Some(std::mem::take(&mut self.coming)),
            Some(Ok(Event::Apply(object))) => {
                self.whole.get_or_insert_default().insert(key(&object), object);
            }
            Some(Ok(Event::Delete(object))) => {
                self.whole.get_or_insert_default().remove(&key(&object));
            }
            Some(Err(error)) => tracing::debug!(%error, "a watch of the network is interrupted"),
            None => std::future::pending().await,
        }
    }
}
