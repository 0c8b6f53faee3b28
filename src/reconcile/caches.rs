//! What the controllers know of the API: one cache a kind, shared by all of them.
//!
//! A cache holds the newest state of every object that its watch has shown, and how far that watch has come. It
//! never writes, and it does not know who listens. A kind that a controller needs is a row in [`kinds!`].
//!
//! Without a client a cache is fed by hand ([`Cache::take`]); that is how the simulator runs the controllers.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::{apps::v1 as apps, core::v1 as core, discovery::v1 as discovery};
use kube::core::discovery::ApiResource;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::decide::{Key, Wake};

mod follow;
mod view;

pub use view::Change;
use view::View;

/// A kind that the caches hold.
pub trait Held:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug + Send + Sync + 'static
{
    const KIND: Kind;

    fn cache(caches: &Caches) -> &Cache<Self>;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $field:ident: $kind:ident = $type:ty,)+) => {
        /// The kinds that the caches hold and that controllers write.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($kind,)+
        }

        /// One cache for each [`Kind`].
        pub struct Caches {
            $($(#[$doc])* pub $field: Cache<$type>,)+
            /// The newest revision that a write of ours has returned; shared with every cache.
            newest_write: Arc<AtomicU64>,
            /// Rises with every event of every kind.
            progress: Arc<watch::Sender<u64>>,
        }

        $(impl Held for $type {
            const KIND: Kind = Kind::$kind;

            fn cache(caches: &Caches) -> &Cache<Self> {
                &caches.$field
            }
        })+

        impl Kind {
            pub const ALL: &[Kind] = &[$(Kind::$kind,)+];

            /// Where the API serves it.
            pub fn resource(self) -> ApiResource {
                match self {
                    $(Kind::$kind => ApiResource::erase::<$type>(&()),)+
                }
            }
        }

        impl Caches {
            /// Empty caches that nobody feeds yet.
            pub fn new() -> Arc<Caches> {
                let newest_write = Arc::new(AtomicU64::new(0));
                let progress = Arc::new(watch::Sender::new(0));
                Arc::new(Caches {
                    $($field: Cache::new(newest_write.clone(), progress.clone()),)+
                    newest_write,
                    progress,
                })
            }

            fn any(&self, kind: Kind) -> &dyn AnyCache {
                match kind {
                    $(Kind::$kind => &self.$field,)+
                }
            }

            /// Watches every kind until cancelled.
            pub async fn follow(
                self: Arc<Caches>,
                client: kube::Client,
                stop: tokio_util::sync::CancellationToken,
            ) {
                let all = async {
                    tokio::join!($(follow::follow(&self.$field, client.clone()),)+)
                };
                stop.run_until_cancelled(all).await;
            }
        }
    };
}

kinds! {
    deployments: Deployment = apps::Deployment,
    replica_sets: ReplicaSet = apps::ReplicaSet,
    pods: Pod = core::Pod,
    services: Service = core::Service,
    endpoint_slices: EndpointSlice = discovery::EndpointSlice,
    endpoints: Endpoints = core::Endpoints,
    nodes: Node = core::Node,
}

impl Caches {
    /// Everything that happened to `kind` up to this revision is known.
    pub fn reached(&self, kind: Kind) -> u64 {
        self.any(kind).reached()
    }

    /// Whether the object with this uid is gone or being deleted.
    pub fn is_going(&self, kind: Kind, key: &Key, uid: &str) -> bool {
        self.any(kind).is_going(key, uid)
    }

    /// Whether all objects of `kind` are known.
    pub fn is_whole(&self, kind: Kind) -> bool {
        self.any(kind).lists_done() > 0
    }

    /// The number of the last list that has arrived whole.
    pub fn lists_done(&self, kind: Kind) -> u64 {
        self.any(kind).lists_done()
    }

    /// Asks for a new list of `kind`; returns its number.
    pub fn list_again(&self, kind: Kind) -> u64 {
        self.any(kind).list_again()
    }

    /// Notes that a write has returned `revision`: a list that is asked for from now on will show it.
    pub fn wrote(&self, revision: u64) {
        self.newest_write.fetch_max(revision, Ordering::SeqCst);
    }

    /// Changes whenever any cache has changed.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }
}

/// What does not depend on the type of the objects.
trait AnyCache {
    fn reached(&self) -> u64;
    fn is_going(&self, key: &Key, uid: &str) -> bool;
    fn lists_done(&self) -> u64;
    fn list_again(&self) -> u64;
}

type Listener<K> = Arc<dyn Fn(&Change<K>) + Send + Sync>;

/// The newest known state of all objects of a kind.
pub struct Cache<K> {
    /// Held for the time of a look-up or one event; never while somebody listens.
    view: Mutex<View<K>>,
    listeners: Mutex<Arc<[Listener<K>]>>,
    newest_write: Arc<AtomicU64>,
    progress: Arc<watch::Sender<u64>>,
    /// The number of the newest list that has been wanted.
    wanted_list: watch::Sender<u64>,
}

impl<K: Held> Cache<K> {
    fn new(newest_write: Arc<AtomicU64>, progress: Arc<watch::Sender<u64>>) -> Cache<K> {
        Cache {
            view: Mutex::new(View::default()),
            listeners: Mutex::new(Arc::new([])),
            newest_write,
            progress,
            wanted_list: watch::Sender::new(0),
        }
    }

    fn view(&self) -> MutexGuard<'_, View<K>> {
        // A view is whole between any two of its calls, whoever panicked.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.view().get(key)
    }

    /// Every object of a namespace, by name.
    pub fn within(&self, namespace: &str) -> Vec<Arc<K>> {
        self.view().within(namespace)
    }

    /// Every object, by namespace and name.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.view().all()
    }

    /// Calls `listener` after every change, and once for every object that is known already. One that changes while
    /// it registers may be told twice, and never not at all.
    pub fn listen(&self, listener: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let listener: Listener<K> = Arc::new(listener);
        {
            let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
            let mut more = listeners.to_vec();
            more.push(listener.clone());
            *listeners = more.into();
        }
        for object in self.all() {
            listener(&Change { old: None, new: Some(object) });
        }
    }

    /// Whether somebody waits for a list that has not been begun.
    pub fn wants_list(&self) -> bool {
        *self.wanted_list.borrow() > self.view().lists_begun()
    }

    /// Takes one event of the watch, tells the listeners what has changed.
    pub fn take(&self, event: Event<K>) {
        let newest_write = self.newest_write.load(Ordering::SeqCst);
        let changes = self.view().take(event, newest_write);
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for change in &changes {
            listeners.iter().for_each(|listener| listener(change));
        }
        self.progress.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl<K: Held> AnyCache for Cache<K> {
    fn reached(&self) -> u64 {
        self.view().reached()
    }

    fn is_going(&self, key: &Key, uid: &str) -> bool {
        self.get(key).is_none_or(|object| {
            object.meta().uid.as_deref() != Some(uid) || object.meta().deletion_timestamp.is_some()
        })
    }

    fn lists_done(&self) -> u64 {
        self.view().lists_done()
    }

    fn list_again(&self) -> u64 {
        // A list under way may have been read before: the one after it counts.
        let wanted = self.view().lists_begun() + 1;
        self.wanted_list.send_modify(|held| *held = (*held).max(wanted));
        wanted
    }
}

/// Wakes every root that controls or selects an object.
///
/// For the listener of a child's cache: `kind` and `api_group` are the root's, `selects` lists the roots that might
/// adopt an object without a controller.
pub fn wake_controller<K: Held>(
    change: &Change<K>,
    kind: &str,
    wake: &Wake,
    selects: impl Fn(&K) -> Vec<Key>,
) {
    let mut keys = Vec::new();
    for object in [&change.old, &change.new].into_iter().flatten() {
        match controller(object.as_ref()) {
            Some(owner) if owner.kind == kind => {
                let namespace = object.meta().namespace.as_deref().unwrap_or_default();
                keys.push(Key::new(namespace, &owner.name));
            }
            Some(_) => {}
            None => keys.extend(selects(object)),
        }
    }
    keys.dedup();
    keys.into_iter().for_each(|key| wake(key));
}

/// The owner that controls an object.
pub fn controller<K: Resource>(
    object: &K,
) -> Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference> {
    object.owner_references().iter().find(|owner| owner.controller == Some(true))
}

/// The number of `metadata.resourceVersion`; 0 when there is none.
fn revision<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

type Objects<K> = BTreeMap<Key, Arc<K>>;

#[cfg(test)]
mod tests;
