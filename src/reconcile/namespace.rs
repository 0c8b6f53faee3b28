//! Empties a namespace that is being deleted, pods before everything that protects them, then lets it go.
//!
//! Pods go first (KEP-5080): as long as one of them runs, its policies and accounts stay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const FINALIZER: &str = "kubernetes";
const RETRY: Duration = Duration::from_secs(1);

/// Runs until cancelled.
pub async fn run(client: Client, cancel: CancellationToken) {
    let pods = watcher::Config::default();
    Controller::new(Api::<Namespace>::all(client.clone()), watcher::Config::default())
        .watches(Api::<Pod>::all(client.clone()), pods, |pod| {
            // Only the end of a pod brings a namespace further.
            let dying = pod.metadata.deletion_timestamp.is_some();
            pod.namespace()
                .filter(|_| dying)
                .map(|namespace| ObjectRef::<Namespace>::new(&namespace))
        })
        .graceful_shutdown_on(async move { cancel.cancelled().await })
        .run(reconcile, |_, _: &kube::Error, _| Action::requeue(RETRY), Arc::new(client))
        .for_each(|outcome| async {
            if let Err(error) = outcome {
                tracing::debug!(%error, "a namespace could not be emptied yet");
            }
        })
        .await;
}

async fn reconcile(namespace: Arc<Namespace>, client: Arc<Client>) -> Result<Action, kube::Error> {
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
    let ours = finalizers.is_some_and(|list| list.iter().any(|name| name == FINALIZER));
    if namespace.metadata.deletion_timestamp.is_none() || !ours {
        return Ok(Action::await_change());
    }
    let name = namespace.name_any();
    let pods: Api<Pod> = Api::namespaced(Client::clone(&client), &name);
    let running = pods.list(&ListParams::default()).await?;
    if !running.items.is_empty() {
        for pod in running.items.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            pods.delete(&pod.name_any(), &DeleteParams::default())
                .await
                .map(drop)
                .or_else(missing)?;
        }
        // The watch wakes us as they go; the timer is for a watch that was interrupted.
        return Ok(Action::requeue(RETRY));
    }
    if !empty(&client, &name).await? {
        return Ok(Action::requeue(RETRY));
    }
    finalize(&client, &namespace).await?;
    Ok(Action::await_change())
}

/// Deletes everything in the namespace but its events, then the events. True when nothing is left.
async fn empty(client: &Client, namespace: &str) -> Result<bool, kube::Error> {
    let mut left = false;
    for resource in contents(client).await? {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        let found = api.list_metadata(&ListParams::default()).await?;
        for object in &found.items {
            api.delete(&object.name_any(), &DeleteParams::background())
                .await
                .map(drop)
                .or_else(missing)?;
        }
        left |= found.items.iter().any(|object| !object.finalizers().is_empty());
        if !found.items.is_empty() {
            left |= !api.list_metadata(&ListParams::default().limit(1)).await?.items.is_empty();
        }
    }
    Ok(!left)
}

/// Every namespaced resource that can be listed and deleted, one version of each, events last.
async fn contents(client: &Client) -> Result<Vec<ApiResource>, kube::Error> {
    let mut found: BTreeMap<(bool, String, String), ApiResource> = BTreeMap::new();
    let mut add = |group: &str, version: &str, resource: &APIResource| {
        let able = |verb: &str| resource.verbs.iter().any(|has| has == verb);
        let plain =
            !resource.name.contains('/') && resource.namespaced && able("list") && able("delete");
        // Events of both groups are the same objects.
        let twin = group == "events.k8s.io";
        if plain && !twin {
            let api_version =
                if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
            let last = resource.name == "events";
            found.entry((last, group.to_owned(), resource.name.clone())).or_insert(ApiResource {
                group: group.to_owned(),
                version: version.to_owned(),
                api_version,
                kind: resource.kind.clone(),
                plural: resource.name.clone(),
            });
        }
    };
    for resource in client.list_core_api_resources("v1").await?.resources {
        add("", "v1", &resource);
    }
    for group in client.list_api_groups().await?.groups {
        for version in &group.versions {
            for resource in client.list_api_group_resources(&version.group_version).await?.resources
            {
                add(&group.name, &version.version, &resource);
            }
        }
    }
    Ok(found.into_values().collect())
}

/// Takes our finalizer off; the API forgets the namespace when none is left.
async fn finalize(client: &Client, namespace: &Namespace) -> Result<(), kube::Error> {
    let mut object = serde_json::to_value(namespace).map_err(kube::Error::SerdeError)?;
    object["apiVersion"] = json!("v1");
    object["kind"] = json!("Namespace");
    if let Some(finalizers) = object["spec"]["finalizers"].as_array_mut() {
        finalizers.retain(|name| name != FINALIZER);
    }
    let body = serde_json::to_vec(&object).map_err(kube::Error::SerdeError)?;
    let path = format!("/api/v1/namespaces/{}/finalize", namespace.name_any());
    let request = http::Request::put(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(|error| {
            kube::Error::BuildRequest(kube::core::request::Error::BuildRequest(error))
        })?;
    client.request::<Value>(request).await.map(drop).or_else(missing)
}

/// What is gone already is as it should be.
fn missing(error: kube::Error) -> Result<(), kube::Error> {
    match error {
        kube::Error::Api(status) if status.code == 404 => Ok(()),
        other => Err(other),
    }
}
