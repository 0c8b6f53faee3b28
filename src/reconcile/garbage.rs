//! The garbage collector: deletes what has lost its owners, in the order its deletion asked for.
//!
//! It watches the metadata of every kind that the API serves and can delete, and writes what [`graph`] judges. It
//! never looks into an object, and never deletes on the strength of what it has not seen: an absent owner is read
//! for, past all caches, and every deletion names uid and revision.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{
    DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy,
};
use kube::core::PartialObjectMeta;
use kube::core::discovery::{ApiResource, Scope, verbs};
use kube::discovery::Discovery;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::graph::{FOREGROUND, Graph, Node, Policy, Presence, Verdict};
use crate::events::{self, Recorder};

pub mod graph;

const NAME: &str = "garbage-collector-controller";
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// Collects until cancelled.
pub async fn run(client: kube::Client, stop: CancellationToken) {
    let recorder = Recorder::start(client.clone(), NAME, String::new(), stop.child_token());
    let work = async {
        let mut pause = FIRST_PAUSE;
        let kinds = loop {
            match kinds(&client).await {
                Ok(kinds) => break kinds,
                Err(error) => tracing::debug!(%error, "the API does not say what it serves"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        };
        let collector = Collector {
            client,
            recorder,
            kinds,
            graph: Graph::default(),
            again: BTreeMap::new(),
            told: BTreeSet::new(),
        };
        collector.run().await;
    };
    stop.run_until_cancelled(work).await;
}

#[derive(Clone)]
struct Kind {
    resource: ApiResource,
    is_namespaced: bool,
}

/// Everything that can be watched and deleted. Events own nothing and are owned by nobody.
async fn kinds(client: &kube::Client) -> Result<Vec<Kind>, kube::Error> {
    let discovery = Discovery::new(client.clone()).run().await?;
    let all = discovery.groups().flat_map(|group| group.recommended_resources());
    Ok(all
        .filter(|(resource, can)| {
            resource.plural != "events"
                && [verbs::LIST, verbs::WATCH, verbs::DELETE]
                    .iter()
                    .all(|verb| can.supports_operation(verb))
        })
        .map(|(resource, can)| Kind { resource, is_namespaced: can.scope == Scope::Namespaced })
        .collect())
}

enum Treated {
    Done,
    /// To be judged again once the watch has shown what was done: so nobody is left behind.
    InPart,
}

type Seen = (usize, Result<watcher::Event<PartialObjectMeta<DynamicObject>>, watcher::Error>);

struct Collector {
    client: kube::Client,
    recorder: Recorder,
    kinds: Vec<Kind>,
    graph: Graph,
    /// What could not be done, by uid: when to try again, and the pause after that.
    again: BTreeMap<String, (Instant, Duration)>,
    /// Uids of dependents whose crossing references have been told of.
    told: BTreeSet<String>,
}

impl Collector {
    async fn run(mut self) {
        let streams = self.kinds.iter().enumerate().map(|(index, kind)| {
            let api: Api<PartialObjectMeta<DynamicObject>> =
                Api::all_with(self.client.clone(), &kind.resource);
            let events = watcher(api, watcher::Config::default()).default_backoff();
            events.map(move |event| (index, event)).boxed()
        });
        let streams: Vec<BoxStream<'_, Seen>> = streams.collect();
        let mut events = pin!(futures::stream::select_all(streams));
        let mut listing: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        let mut unknown: BTreeSet<usize> = (0..self.kinds.len()).collect();
        loop {
            let due = self.again.values().map(|(at, _)| *at).min();
            tokio::select! {
                seen = events.next() => match seen {
                    Some((index, Ok(event))) => {
                        if matches!(event, watcher::Event::InitDone) {
                            unknown.remove(&index);
                        }
                        self.take(index, event, &mut listing);
                    }
                    Some((index, Err(error))) => {
                        let kind = &self.kinds[index].resource.plural;
                        tracing::debug!(kind, %error, "the garbage collector's watch");
                    }
                    None => return,
                },
                () = sleep_until(due) => {}
            }
            // A dependent that is not known yet would not be waited for.
            if unknown.is_empty() {
                self.work().await;
            }
        }
    }

    fn take(
        &mut self,
        index: usize,
        event: watcher::Event<PartialObjectMeta<DynamicObject>>,
        listing: &mut BTreeMap<usize, BTreeSet<String>>,
    ) {
        let resource = self.kinds[index].resource.clone();
        let node = |object: PartialObjectMeta<DynamicObject>| Node {
            api_version: resource.api_version.clone(),
            kind: resource.kind.clone(),
            metadata: object.metadata,
        };
        match event {
            watcher::Event::Init => {
                listing.insert(index, BTreeSet::new());
            }
            watcher::Event::InitApply(object) => {
                if let Some(listed) = listing.get_mut(&index) {
                    listed.extend(object.metadata.uid.clone());
                }
                self.graph.see(node(object));
            }
            watcher::Event::InitDone => {
                let listed = listing.remove(&index).unwrap_or_default();
                let known = self.graph.of_kind(&resource.api_version, &resource.kind);
                known.difference(&listed).for_each(|uid| self.forget(uid));
            }
            watcher::Event::Apply(object) => self.graph.see(node(object)),
            watcher::Event::Delete(object) => {
                self.forget(object.metadata.uid.as_deref().unwrap_or_default());
            }
        }
    }

    fn forget(&mut self, uid: &str) {
        self.graph.forget(uid);
        self.again.remove(uid);
        self.told.remove(uid);
    }

    /// Judges what has become suspect, and what is to be tried again by now.
    async fn work(&mut self) {
        let now = Instant::now();
        let mut suspects = self.graph.suspects();
        suspects.extend(
            self.again.iter().filter(|(_, (at, _))| *at <= now).map(|(uid, _)| uid.clone()),
        );
        for uid in suspects {
            self.tell_of_crossing(&uid);
            match self.treat(&uid).await {
                Ok(Treated::Done) => {
                    self.again.remove(&uid);
                }
                not_yet => {
                    if let Err(error) = not_yet {
                        tracing::debug!(uid, %error, "not collected yet");
                    }
                    let held = self.again.get(&uid).map(|(_, pause)| *pause);
                    let pause = held.unwrap_or(FIRST_PAUSE);
                    let next = (pause * 2).min(LAST_PAUSE);
                    self.again.insert(uid, (Instant::now() + pause, next));
                }
            }
        }
    }

    async fn treat(&mut self, uid: &str) -> Result<Treated, kube::Error> {
        let mut read = BTreeMap::new();
        loop {
            let Some(node) = self.graph.get(uid).cloned() else { return Ok(Treated::Done) };
            match self.graph.judge(uid, &read) {
                Verdict::Keep => return Ok(Treated::Done),
                Verdict::Read(owners) => {
                    for owner in owners {
                        let presence = self.read(&node, &owner).await?;
                        read.insert(owner.uid.clone(), presence);
                    }
                }
                Verdict::Patch { metadata } => {
                    self.patch(&node, metadata).await?;
                    return Ok(Treated::Done);
                }
                Verdict::Delete { policy } => {
                    self.delete(&node, policy).await?;
                    return Ok(Treated::Done);
                }
                Verdict::Release { dependents } => {
                    for (dependent, metadata) in dependents {
                        if let Some(dependent) = self.graph.get(&dependent).cloned() {
                            self.patch(&dependent, metadata).await?;
                        }
                    }
                    return Ok(Treated::InPart);
                }
            }
        }
    }

    fn api(&self, node: &Node) -> Option<Api<DynamicObject>> {
        let kind = self.kind(&node.api_version, &node.kind)?;
        Some(match node.metadata.namespace.as_deref() {
            Some(namespace) if kind.is_namespaced => {
                Api::namespaced_with(self.client.clone(), namespace, &kind.resource)
            }
            Some(_) | None => Api::all_with(self.client.clone(), &kind.resource),
        })
    }

    fn kind(&self, api_version: &str, kind: &str) -> Option<&Kind> {
        let exact = |k: &&Kind| k.resource.api_version == api_version && k.resource.kind == kind;
        // Another version of the same group names the same objects.
        let group = |text: &str| text.rsplit_once('/').map(|(group, _)| group.to_owned());
        self.kinds.iter().find(exact).or_else(|| {
            self.kinds.iter().find(|k| {
                k.resource.kind == kind && group(&k.resource.api_version) == group(api_version)
            })
        })
    }

    /// Whether the owner that a reference of `node` names is there.
    async fn read(&self, node: &Node, owner: &OwnerReference) -> Result<Presence, kube::Error> {
        let Some(kind) = self.kind(&owner.api_version, &owner.kind) else {
            return Ok(Presence::Unknown);
        };
        let api: Api<DynamicObject> = match (kind.is_namespaced, &node.metadata.namespace) {
            (true, Some(namespace)) => {
                Api::namespaced_with(self.client.clone(), namespace, &kind.resource)
            }
            (true, None) => return Ok(Presence::Unknown),
            (false, _) => Api::all_with(self.client.clone(), &kind.resource),
        };
        let found = api.get_metadata_opt(&owner.name).await?;
        Ok(match found {
            Some(found) if found.metadata.uid.as_deref() == Some(&owner.uid) => Presence::Present {
                goes_after_dependents: found.metadata.deletion_timestamp.is_some()
                    && found.finalizers().iter().any(|finalizer| finalizer == FOREGROUND),
            },
            Some(_) | None => Presence::Absent,
        })
    }

    async fn patch(&self, node: &Node, mut metadata: Value) -> Result<(), kube::Error> {
        let Some(api) = self.api(node) else { return Ok(()) };
        metadata["resourceVersion"] = json!(node.metadata.resource_version);
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let name = node.metadata.name.as_deref().unwrap_or_default();
        gone_is_fine(api.patch_metadata(name, &PatchParams::default(), &patch).await.map(|_| ()))
    }

    async fn delete(&self, node: &Node, policy: Policy) -> Result<(), kube::Error> {
        let Some(api) = self.api(node) else { return Ok(()) };
        let parameters = DeleteParams {
            propagation_policy: Some(match policy {
                Policy::Background => PropagationPolicy::Background,
                Policy::Foreground => PropagationPolicy::Foreground,
                Policy::Orphan => PropagationPolicy::Orphan,
            }),
            preconditions: Some(Preconditions {
                uid: node.metadata.uid.clone(),
                resource_version: node.metadata.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        let name = node.metadata.name.as_deref().unwrap_or_default();
        gone_is_fine(api.delete(name, &parameters).await.map(|_| ()))
    }

    /// A reference into another namespace is a mistake that would otherwise look like a deletion out of nowhere.
    fn tell_of_crossing(&mut self, uid: &str) {
        let Some(node) = self.graph.get(uid) else { return };
        let Some(owner) = self.graph.crosses(node) else { return };
        if !self.told.insert(uid.to_owned()) {
            return;
        }
        let namespace = node.metadata.namespace.clone().unwrap_or_default();
        self.recorder.note(events::Note {
            about: ObjectReference {
                api_version: Some(node.api_version.clone()),
                kind: Some(node.kind.clone()),
                namespace: node.metadata.namespace.clone(),
                name: node.metadata.name.clone(),
                uid: node.metadata.uid.clone(),
                resource_version: node.metadata.resource_version.clone(),
                field_path: None,
            },
            kind: events::Kind::Warning,
            reason: "OwnerRefInvalidNamespace".into(),
            message: format!(
                "ownerRef [{}/{}, namespace: {namespace}, name: {}, uid: {}] does not exist in namespace \"{namespace}\"",
                owner.api_version, owner.kind, owner.name, owner.uid
            ),
        });
    }
}

fn gone_is_fine(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
