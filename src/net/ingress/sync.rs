//! Keeps the proxy at what the API says: watches, swaps, fills in statuses, tells what is wrong.
//!
//! It decides nothing: facts come from [`super::observe`], routes and lists from pure code.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::{ObjectReference, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1 as networking;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource, ResourceExt as _};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::classes::{self, Claim, ClassFact};
use super::observe::{self, Trouble};
use super::resolve::{Directory, ServiceFact, SliceFact};
use super::routes::{IngressFact, ObjectName};
use super::{Ingress, PortTaken};
use crate::events::{Kind, Note, Recorder};
use crate::model::time::Timestamp;
use crate::sys::clock;

/// Changes that come together are put in force together.
const BATCH: usize = 1024;
/// How long certificates are not looked at for their age, at most: a clock may be set.
const AGE_CHECK: Duration = Duration::from_secs(3600);
/// After a failed write.
const RETRY: Duration = Duration::from_secs(5);

/// What the controller needs besides the proxy.
pub struct Controller {
    pub client: kube::Client,
    pub recorder: Recorder,
    /// Where the ingress is reached, for statuses; `None` when no port could be had.
    pub address: Option<IpAddr>,
    pub taken: Vec<PortTaken>,
}

/// Runs until cancelled.
pub async fn run(ingress: Ingress, controller: Controller, stop: CancellationToken) {
    stop.run_until_cancelled(keep(ingress, controller)).await;
}

enum Seen {
    Ingress(Change<networking::Ingress>),
    Class(Change<networking::IngressClass>),
    Service(Change<Service>),
    Slice(Change<EndpointSlice>),
    Secret(Change<Secret>),
    Trouble,
}

enum Change<K> {
    /// A list begins: what it does not hold is gone.
    Begin,
    Has(K),
    Gone(K),
    Whole,
}

/// Objects of one kind, complete or still being listed.
struct Cache<K> {
    held: BTreeMap<ObjectName, Arc<K>>,
    listing: Option<BTreeMap<ObjectName, Arc<K>>>,
    is_whole: bool,
}

impl<K> Default for Cache<K> {
    fn default() -> Cache<K> {
        Cache { held: BTreeMap::new(), listing: None, is_whole: false }
    }
}

impl<K: kube::ResourceExt> Cache<K> {
    /// True when what is held has changed.
    fn take(&mut self, change: Change<K>) -> bool {
        match change {
            Change::Begin => {
                self.listing = Some(BTreeMap::new());
                false
            }
            Change::Has(object) => {
                let name = observe::name(object.meta());
                let place = self.listing.as_mut().unwrap_or(&mut self.held);
                place.insert(name, Arc::new(object));
                self.listing.is_none()
            }
            Change::Gone(object) => {
                self.held.remove(&observe::name(object.meta()));
                true
            }
            Change::Whole => {
                if let Some(listed) = self.listing.take() {
                    self.held = listed;
                }
                self.is_whole = true;
                true
            }
        }
    }
}

#[derive(Default)]
struct Caches {
    ingresses: Cache<networking::Ingress>,
    classes: Cache<networking::IngressClass>,
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
    secrets: Cache<Secret>,
}

#[derive(Default, Clone, Copy)]
struct Stale {
    rules: bool,
    pods: bool,
    certificates: bool,
}

impl Caches {
    fn take(&mut self, seen: Seen, stale: &mut Stale) {
        match seen {
            Seen::Ingress(change) => {
                let changed = self.ingresses.take(change);
                stale.rules |= changed;
                stale.certificates |= changed;
            }
            Seen::Class(change) => {
                let changed = self.classes.take(change);
                stale.rules |= changed;
                stale.certificates |= changed;
            }
            Seen::Service(change) => stale.pods |= self.services.take(change),
            Seen::Slice(change) => stale.pods |= self.slices.take(change),
            Seen::Secret(change) => stale.certificates |= self.secrets.take(change),
            Seen::Trouble => {}
        }
    }

    /// Nothing is put in force before everything is known: a restart must not answer 404 or 503 for want of a list.
    fn is_whole(&self) -> bool {
        self.ingresses.is_whole
            && self.classes.is_whole
            && self.services.is_whole
            && self.slices.is_whole
            && self.secrets.is_whole
    }

    fn directory(&self) -> Directory {
        let services: Vec<ServiceFact> =
            self.services.held.values().map(|service| observe::service(service)).collect();
        let slices: Vec<SliceFact> =
            self.slices.held.values().filter_map(|slice| observe::slice(slice)).collect();
        Directory::new(services, slices)
    }
}

/// Ingresses by whose they are.
#[derive(Default)]
struct Claimed {
    ours: Vec<Arc<networking::Ingress>>,
    others: Vec<Arc<networking::Ingress>>,
    troubles: Vec<Trouble>,
}

fn claimed(caches: &Caches) -> Claimed {
    let classes: Vec<ClassFact> =
        caches.classes.held.values().map(|class| observe::class(class)).collect();
    let mut claimed = Claimed::default();
    for (name, ingress) in &caches.ingresses.held {
        match observe::claim(ingress, &classes) {
            Claim::Ours => claimed.ours.push(Arc::clone(ingress)),
            Claim::Foreign => claimed.others.push(Arc::clone(ingress)),
            Claim::Nobody(message) => {
                claimed.others.push(Arc::clone(ingress));
                let (ingress, reason) = (name.clone(), "NotServed");
                claimed.troubles.push(Trouble { ingress, reason, message });
            }
        }
    }
    claimed
}

async fn keep(ingress: Ingress, controller: Controller) {
    for taken in &controller.taken {
        tracing::warn!(error = %taken.source, "{taken}");
    }
    let client = controller.client.clone();
    let mut seen = watches(&client).ready_chunks(BATCH);
    let mut caches = Caches::default();
    let mut stale = Stale::default();
    let mut told =
        Told { controller: &controller, troubles: BTreeSet::new(), by: [const { Vec::new() }; 2] };
    let mut age = tokio::time::Instant::now() + AGE_CHECK;
    let mut retry = None;
    let mut has_own_class = false;
    loop {
        tokio::select! {
            batch = seen.next() => match batch {
                Some(batch) => batch.into_iter().for_each(|seen| caches.take(seen, &mut stale)),
                None => return,
            },
            () = tokio::time::sleep_until(age) => {
                age = tokio::time::Instant::now() + AGE_CHECK;
                stale.certificates = true;
            }
            () = ingress.one_released() => stale.pods = true,
            () = sleep_until(retry) => {
                retry = None;
                stale.rules = true;
            }
        }
        if !caches.is_whole() {
            continue;
        }
        if !has_own_class {
            match ensure_own_class(&client, &caches).await {
                Ok(()) => has_own_class = true,
                Err(error) => {
                    tracing::warn!(%error, "IngressClass {} is not there yet", classes::OWN_CLASS);
                    retry = Some(tokio::time::Instant::now() + RETRY);
                }
            }
        }
        let now = std::mem::take(&mut stale);
        let Claimed { ours, others, troubles } = claimed(&caches);
        if now.certificates {
            let at = clock::now();
            let served = observe::certificates(&ours, &caches.secrets.held, at);
            ingress.apply_certificates(served.certificates);
            told.by[0] = served.troubles;
            age = tokio::time::Instant::now() + until(served.until, at).min(AGE_CHECK);
        }
        if now.rules {
            let mut all = troubles;
            let facts: Vec<IngressFact> = ours
                .iter()
                .map(|ingress| {
                    let (fact, troubles) = observe::ingress(ingress);
                    all.extend(troubles);
                    fact
                })
                .collect();
            ingress.apply(&facts, &caches.directory());
            told.by[1] = all;
        } else if now.pods {
            ingress.apply_pods(&caches.directory());
        }
        told.tell(&caches);
        if now.rules && !fill_statuses(&controller, &ours, &others).await {
            retry = Some(tokio::time::Instant::now() + RETRY);
        }
    }
}

/// From one moment to the other, which has passed when this has.
fn until(then: Option<Timestamp>, now: Timestamp) -> Duration {
    let seconds = then.map(|then| then.unix_seconds() - now.unix_seconds());
    seconds.map_or(Duration::MAX, |seconds| {
        Duration::from_secs(u64::try_from(seconds).unwrap_or_default() + 1)
    })
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Troubles that stand; each is told when it begins.
struct Told<'a> {
    controller: &'a Controller,
    troubles: BTreeSet<Trouble>,
    /// Of certificates, of rules.
    by: [Vec<Trouble>; 2],
}

impl Told<'_> {
    fn tell(&mut self, caches: &Caches) {
        let now: BTreeSet<Trouble> = self.by.iter().flatten().cloned().collect();
        for trouble in now.difference(&self.troubles) {
            let Some(ingress) = caches.ingresses.held.get(&trouble.ingress) else { continue };
            self.controller.recorder.note(Note {
                about: about(ingress),
                kind: Kind::Warning,
                reason: trouble.reason.into(),
                message: trouble.message.clone(),
            });
        }
        self.troubles = now;
    }
}

fn about(ingress: &networking::Ingress) -> ObjectReference {
    ObjectReference {
        api_version: Some("networking.k8s.io/v1".into()),
        kind: Some("Ingress".into()),
        namespace: ingress.metadata.namespace.clone(),
        name: ingress.metadata.name.clone(),
        uid: ingress.metadata.uid.clone(),
        resource_version: ingress.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// Class `joey`, the default unless another is. Who changes it keeps the change.
async fn ensure_own_class(client: &kube::Client, caches: &Caches) -> Result<(), kube::Error> {
    let classes = &caches.classes.held;
    if classes.keys().any(|name| name.name == classes::OWN_CLASS) {
        return Ok(());
    }
    let is_default = !classes.values().any(|class| observe::class(class).is_default);
    let class: networking::IngressClass = serde_json::from_value(json!({
        "metadata": {
            "name": classes::OWN_CLASS,
            "annotations": {classes::DEFAULT_ANNOTATION: is_default.to_string()},
        },
        "spec": {"controller": classes::CONTROLLER},
    }))
    .expect("an IngressClass as the API defines it");
    let api: Api<networking::IngressClass> = Api::all(client.clone());
    match api.create(&PostParams::default(), &class).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => other.map(drop),
    }
}

/// Says where ours are reached, and no longer says so for those that were. True when all is written.
async fn fill_statuses(
    controller: &Controller,
    ours: &[Arc<networking::Ingress>],
    others: &[Arc<networking::Ingress>],
) -> bool {
    let mut is_done = true;
    let wanted = controller.address.map(|address| address.to_string());
    for ingress in ours {
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        if addresses(ingress) != wanted {
            is_done &= write_status(&controller.client, ingress, &wanted).await;
        }
    }
    for ingress in others {
        // Only what we wrote: another controller's word stays.
        if wanted.as_deref().is_some_and(|ours| addresses(ingress) == [ours]) {
            is_done &= write_status(&controller.client, ingress, &[]).await;
        }
    }
    is_done
}

fn addresses(ingress: &networking::Ingress) -> Vec<&str> {
    let status = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let points = status.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    points.filter_map(|point| point.ip.as_deref()).collect()
}

async fn write_status(
    client: &kube::Client,
    ingress: &networking::Ingress,
    addresses: &[&str],
) -> bool {
    let points: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    let patch = json!({"status": {"loadBalancer": {"ingress": points}}});
    let namespace = ingress.namespace().unwrap_or_default();
    let api: Api<networking::Ingress> = Api::namespaced(client.clone(), &namespace);
    let params = PatchParams::default();
    match api.patch_status(&ingress.name_any(), &params, &Patch::Merge(&patch)).await {
        Ok(_) => true,
        Err(kube::Error::Api(status)) if status.code == 404 => true,
        Err(error) => {
            tracing::warn!(%error, ingress = %observe::name(&ingress.metadata), "its status is not written");
            false
        }
    }
}

fn watches(client: &kube::Client) -> BoxStream<'static, Seen> {
    let any = watcher::Config::default;
    let tls = any().fields("type=kubernetes.io/tls");
    futures::stream::select_all([
        watch::<networking::Ingress>(client, any(), Seen::Ingress),
        watch::<networking::IngressClass>(client, any(), Seen::Class),
        watch::<Service>(client, any(), Seen::Service),
        watch::<EndpointSlice>(client, any(), Seen::Slice),
        watch::<Secret>(client, tls, Seen::Secret),
    ])
    .boxed()
}

fn watch<K>(
    client: &kube::Client,
    config: watcher::Config,
    seen: impl Fn(Change<K>) -> Seen + Send + 'static,
) -> BoxStream<'static, Seen>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + 'static,
    K: serde::de::DeserializeOwned,
{
    watcher(Api::<K>::all(client.clone()), config)
        .default_backoff()
        .map(move |event| match event {
            Ok(watcher::Event::Init) => seen(Change::Begin),
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                seen(Change::Has(object))
            }
            Ok(watcher::Event::InitDone) => seen(Change::Whole),
            Ok(watcher::Event::Delete(object)) => seen(Change::Gone(object)),
            Err(error) => {
                tracing::debug!(%error, "a watch of the ingress begins anew");
                Seen::Trouble
            }
        })
        .boxed()
}
