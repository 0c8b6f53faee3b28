//! Empties namespaces that are being deleted, pods first, then lets them go.
//!
//! Pods go before everything else (KEP-5080), so that no pod runs on without its policies and secrets. What does not go
//! is told in the namespace's conditions. It never touches a namespace that is not being deleted.

mod remains;

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1 as core;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::discovery::{ApiResource, Scope, verbs};
use kube::discovery::Discovery;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::remains::{Remains, Round};
use crate::sys::clock;

const FINALIZER: &str = "kubernetes";
/// As conditions name them.
const PODS: &str = "pods.";
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Works until cancelled.
pub async fn run(client: kube::Client, stop: CancellationToken) {
    stop.run_until_cancelled(watch(client)).await;
}

#[derive(Debug, PartialEq)]
enum Next {
    DeletePods,
    DeleteOthers,
    /// Nothing is left: our finalizer goes.
    Finalize,
}

fn next(content: &Remains) -> Next {
    match (content.pods, content.others.is_empty()) {
        (1.., _) => Next::DeletePods,
        (0, false) => Next::DeleteOthers,
        (0, true) => Next::Finalize,
    }
}

async fn watch(client: kube::Client) {
    let events = watcher(Api::<core::Namespace>::all(client.clone()), watcher::Config::default());
    let mut events = pin!(events.default_backoff());
    let mut emptying: BTreeMap<String, tokio::task::AbortHandle> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(watcher::Event::Apply(namespace) | watcher::Event::InitApply(namespace))) => {
                    let name = namespace.name_any();
                    let going = namespace.metadata.deletion_timestamp.is_some();
                    if going && !emptying.contains_key(&name) {
                        let handle = tasks.spawn(empty(client.clone(), name.clone()));
                        emptying.insert(name, handle);
                    }
                }
                Some(Ok(watcher::Event::Delete(namespace))) => {
                    if let Some(task) = emptying.remove(&namespace.name_any()) {
                        task.abort();
                    }
                }
                Some(Ok(watcher::Event::Init | watcher::Event::InitDone)) => {}
                Some(Err(error)) => tracing::debug!(%error, "watching namespaces"),
                None => return,
            },
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                if let Ok(name) = ended {
                    emptying.remove(&name);
                }
            }
        }
    }
}

/// Empties one namespace, however long its pods take.
async fn empty(client: kube::Client, name: String) -> String {
    let mut pause = FIRST_PAUSE;
    let mut before = None;
    loop {
        let round = match step(&client, &name).await {
            Ok(None) => return name,
            Ok(Some(remains)) => Round::Left(remains),
            Err(failed) => {
                tracing::debug!(namespace = name, error = ?failed, "the namespace is not empty yet");
                failed.into_round()
            }
        };
        // Progress keeps us quick; waiting for a slow pod makes us patient.
        let moved = before.as_ref() != Some(&round) && matches!(round, Round::Left(_));
        pause = if moved { FIRST_PAUSE } else { (pause * 2).min(LAST_PAUSE) };
        // What goes by itself is nobody's question.
        if !moved && let Err(error) = tell(&client, &name, &round).await {
            tracing::debug!(namespace = name, %error, "what remains was not told");
        }
        before = Some(round);
        tokio::time::sleep(pause).await;
    }
}

/// What has gone wrong in a round; the next one tries again.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("it is not known which kinds there are")]
    Discover(#[source] kube::Error),
    /// By resource and group.
    #[error("not everything could be counted or deleted")]
    Content(Vec<(String, kube::Error)>),
    #[error("the finalizer could not be taken off")]
    Finalize(#[source] kube::Error),
}

impl Failed {
    fn into_round(self) -> Round {
        match self {
            Failed::Discover(error) => Round::NotDiscovered(error.to_string()),
            Failed::Content(errors) => Round::NotDeleted(
                errors.into_iter().map(|(kind, error)| format!("{kind}: {error}")).collect(),
            ),
            // Everything has gone; only the namespace itself is still there.
            Failed::Finalize(_) => Round::Left(Remains::default()),
        }
    }
}

/// One round; `None` when the namespace has been let go. A kind that cannot be emptied keeps no other.
async fn step(client: &kube::Client, name: &str) -> Result<Option<Remains>, Failed> {
    let kinds = namespaced_kinds(client).await.map_err(Failed::Discover)?;
    let content = count(client, name, &kinds).await?;
    let (all, now) = (ListParams::default(), DeleteParams::default());
    match next(&content) {
        Next::DeletePods => {
            let pods: Api<core::Pod> = Api::namespaced(client.clone(), name);
            let deleted = pods.delete_collection(&now, &all).await;
            deleted.map_err(|error| Failed::Content(vec![(PODS.to_owned(), error)]))?;
        }
        Next::DeleteOthers => {
            let mut failed = Vec::new();
            for kind in kinds.iter().filter(|kind| content.others.contains_key(&resource(kind))) {
                let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), name, kind);
                if let Err(error) = api.delete_collection(&now, &all).await {
                    failed.push((resource(kind), error));
                }
            }
            if !failed.is_empty() {
                return Err(Failed::Content(failed));
            }
        }
        Next::Finalize => {
            finalize(client, name).await.map_err(Failed::Finalize)?;
            return Ok(None);
        }
    }
    Ok(Some(content))
}

/// Writes the conditions where they read otherwise.
async fn tell(client: &kube::Client, name: &str, round: &Round) -> Result<(), kube::Error> {
    let api: Api<core::Namespace> = Api::all(client.clone());
    let Some(namespace) = api.get_opt(name).await? else {
        return Ok(());
    };
    let held = namespace.status.and_then(|status| status.conditions).unwrap_or_default();
    if let Some(conditions) = round.conditions(&held, clock::now()) {
        let patch = json!({
            "metadata": {"uid": namespace.metadata.uid, "resourceVersion": namespace.metadata.resource_version},
            "status": {"conditions": conditions},
        });
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    }
    Ok(())
}

/// As conditions name it.
fn resource(kind: &ApiResource) -> String {
    format!("{}.{}", kind.plural, kind.group)
}

/// Every namespaced kind that can be listed and deleted, pods apart.
async fn namespaced_kinds(client: &kube::Client) -> Result<Vec<ApiResource>, kube::Error> {
    let discovery = Discovery::new(client.clone()).run().await?;
    let kinds = discovery.groups().flat_map(|group| group.recommended_resources());
    Ok(kinds
        .filter(|(kind, capabilities)| {
            capabilities.scope == Scope::Namespaced
                && capabilities.supports_operation(verbs::LIST)
                && capabilities.supports_operation(verbs::DELETE_COLLECTION)
                && !(kind.group.is_empty() && kind.plural == "pods")
        })
        .map(|(kind, _)| kind)
        // Events last: they tell of the others' end. Both groups serve the same ones.
        .filter(|kind| !(kind.group == "events.k8s.io" && kind.plural == "events"))
        .collect())
}

async fn count(
    client: &kube::Client,
    name: &str,
    kinds: &[ApiResource],
) -> Result<Remains, Failed> {
    let failed = |kind: String| move |error| Failed::Content(vec![(kind, error)]);
    let some = ListParams::default().limit(500);
    let pods: Api<core::Pod> = Api::namespaced(client.clone(), name);
    let left = pods.list_metadata(&some).await.map_err(failed(PODS.to_owned()))?.items;
    let mut content = Remains { pods: left.len(), ..Remains::default() };
    note_finalizers(&mut content.finalizers, left.iter().flat_map(ResourceExt::finalizers));
    if content.pods > 0 {
        return Ok(content);
    }
    for kind in kinds {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), name, kind);
        let left = api.list_metadata(&some).await.map_err(failed(resource(kind)))?.items;
        note_finalizers(&mut content.finalizers, left.iter().flat_map(ResourceExt::finalizers));
        if !left.is_empty() {
            content.others.insert(resource(kind), left.len());
        }
    }
    Ok(content)
}

fn note_finalizers<'a>(
    counts: &mut BTreeMap<String, usize>,
    finalizers: impl Iterator<Item = &'a String>,
) {
    for finalizer in finalizers {
        *counts.entry(finalizer.clone()).or_default() += 1;
    }
}

/// Takes our finalizer off, which removes the namespace.
async fn finalize(client: &kube::Client, name: &str) -> Result<(), kube::Error> {
    let api: Api<core::Namespace> = Api::all(client.clone());
    let Some(mut namespace) = api.get_opt(name).await? else {
        return Ok(());
    };
    if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    let body = serde_json::to_vec(&namespace).map_err(kube::Error::SerdeError)?;
    let request = http::Request::put(format!("/api/v1/namespaces/{name}/finalize"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(kube::Error::HttpError)?;
    match client.request::<core::Namespace>(request).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An API without pods that serves config maps, and fails to delete them.
    fn failing() -> kube::Client {
        let service = tower::service_fn(|request: http::Request<kube::client::Body>| {
            let (code, body) = match (request.method().as_str(), request.uri().path()) {
                ("GET", "/api") => (
                    200,
                    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
                ),
                ("GET", "/apis") => (200, json!({"kind": "APIGroupList", "groups": []})),
                ("GET", "/api/v1") => {
                    let all = json!({"name": "configmaps", "singularName": "configmap", "namespaced": true,
                        "kind": "ConfigMap", "verbs": ["list", "deletecollection"]});
                    (
                        200,
                        json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [all]}),
                    )
                }
                ("GET", path) => {
                    let held = json!({"metadata": {"name": "held"}});
                    let items = if path.ends_with("configmaps") { vec![held] } else { Vec::new() };
                    (200, json!({"metadata": {}, "items": items}))
                }
                _ => (500, json!({"kind": "Status", "code": 500, "message": "no disk"})),
            };
            let body = kube::client::Body::from(body.to_string().into_bytes());
            std::future::ready(http::Response::builder().status(code).body(body))
        });
        kube::Client::new(service, "default")
    }

    #[tokio::test]
    async fn a_kind_that_cannot_be_emptied_is_named() {
        let failed = step(&failing(), "team").await.expect_err("nothing can be deleted");
        let Round::NotDeleted(why) = failed.into_round() else { panic!("another failure") };
        assert!(why[0].starts_with("configmaps.: ") && why[0].contains("no disk"), "{why:?}");
    }

    #[test]
    fn pods_go_first_and_the_namespace_last() {
        let others = || [("secrets.".to_owned(), 2)].into();
        let remains = |pods, others| Remains { pods, others, ..Remains::default() };
        assert_eq!(next(&remains(1, others())), Next::DeletePods);
        assert_eq!(next(&remains(0, others())), Next::DeleteOthers);
        assert_eq!(next(&Remains::default()), Next::Finalize);
    }
}
