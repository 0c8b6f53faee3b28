//! Removes pods that are bound to a node which does not exist: nobody runs them, and nobody would ever finish their
//! deletion (kube-controller-manager's pod-garbage-collector).
//!
//! It looks only at pods of other nodes than this host's own, of which there are none as a rule.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::eviction::{gone_is_fine, until};
use crate::model::time::Timestamp;
use crate::sys::clock;

/// How long a node may be missing before its pods go, as in Kubernetes. A pod that is being deleted does not wait.
const QUARANTINE: Duration = Duration::from_secs(40);
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Removes until cancelled. `node` is this host's own.
pub async fn run(client: kube::Client, node: String, stop: CancellationToken) {
    let selector = format!("spec.nodeName!={node},spec.nodeName!=");
    let work = Collector { client, strays: Strays::default() }.run(selector);
    stop.run_until_cancelled(work).await;
}

/// Pods of other nodes, by uid, each with the moment at which its node is to be asked for.
#[derive(Default)]
struct Strays(BTreeMap<String, (core::Pod, Timestamp)>);

impl Strays {
    fn see(&mut self, pod: core::Pod, now: Timestamp) {
        let uid = pod.uid().unwrap_or_default();
        let is_going = pod.metadata.deletion_timestamp.is_some();
        let since = self.0.get(&uid).map_or(now.plus(QUARANTINE), |(_, at)| *at);
        let at = if is_going { since.min(now) } else { since };
        self.0.insert(uid, (pod, at));
    }

    /// Those whose node is to be asked for now.
    fn due(&self, now: Timestamp) -> Vec<core::Pod> {
        self.0.values().filter(|(_, at)| *at <= now).map(|(pod, _)| pod.clone()).collect()
    }

    fn next(&self) -> Option<Timestamp> {
        self.0.values().map(|(_, at)| *at).min()
    }

    fn put_off(&mut self, pod: &core::Pod, until: Timestamp) {
        if let Some((_, at)) = self.0.get_mut(&pod.uid().unwrap_or_default()) {
            *at = until;
        }
    }
}

struct Collector {
    client: kube::Client,
    strays: Strays,
}

impl Collector {
    async fn run(mut self, selector: String) {
        let config = watcher::Config::default().fields(&selector);
        let events = watcher(Api::<core::Pod>::all(self.client.clone()), config);
        let mut events = pin!(events.default_backoff());
        loop {
            let next = self.strays.next();
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(watcher::Event::Init)) => self.strays.0.clear(),
                    Some(Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod))) => {
                        self.strays.see(pod, clock::now());
                    }
                    Some(Ok(watcher::Event::Delete(pod))) => {
                        self.strays.0.remove(&pod.uid().unwrap_or_default());
                    }
                    Some(Ok(watcher::Event::InitDone)) => {}
                    Some(Err(error)) => tracing::debug!(%error, "watching pods of other nodes"),
                    None => return,
                },
                () = until(next) => {
                    for pod in self.strays.due(clock::now()) {
                        self.look_at(&pod).await;
                    }
                }
            }
        }
    }

    async fn look_at(&mut self, pod: &core::Pod) {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let nodes = Api::<core::Node>::all(self.client.clone());
        let outcome = match nodes.get_opt(node.unwrap_or_default()).await {
            // Its node is there, if not this host.
            Ok(Some(_)) => Ok(QUARANTINE),
            // The watch shows the end of it.
            Ok(None) => self.remove(pod).await.map(|()| QUARANTINE),
            Err(error) => Err(error),
        };
        let wait = outcome.unwrap_or_else(|error| {
            tracing::warn!(pod = pod.name_any(), %error, "a pod without a node was not removed");
            RETRY
        });
        self.strays.put_off(pod, clock::now().plus(wait));
    }

    async fn remove(&self, pod: &core::Pod) -> Result<(), kube::Error> {
        let api: Api<core::Pod> =
            Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let name = pod.name_any();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if !matches!(phase, Some("Succeeded" | "Failed")) {
            let condition = json!({
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists",
                "lastTransitionTime": Time(clock::now().as_jiff()),
                "observedGeneration": pod.metadata.generation,
            });
            let patch = Patch::Strategic(json!({
                "metadata": {"uid": pod.metadata.uid},
                "status": {"phase": "Failed", "conditions": [condition]},
            }));
            gone_is_fine(api.patch_status(&name, &PatchParams::default(), &patch).await)?;
        }
        let this_one = Preconditions { uid: pod.uid(), resource_version: None };
        let now = DeleteParams::default().grace_period(0).preconditions(this_one);
        gone_is_fine(api.delete(&name, &now).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix(1_800_000_000 + seconds, 0)
    }

    fn pod(uid: &str, deleted: Option<&str>) -> core::Pod {
        serde_json::from_value(json!({
            "metadata": {"name": uid, "uid": uid, "deletionTimestamp": deleted},
            "spec": {"nodeName": "other", "containers": []},
        }))
        .unwrap()
    }

    fn due(strays: &Strays, now: Timestamp) -> Vec<String> {
        strays.due(now).iter().map(ResourceExt::name_any).collect()
    }

    #[test]
    fn a_node_may_be_missing_for_a_while_unless_the_pod_is_being_deleted() {
        let mut strays = Strays::default();
        assert_eq!(strays.next(), None);
        strays.see(pod("a", None), at(0));
        strays.see(pod("b", Some("2027-01-15T08:00:00Z")), at(1));
        assert_eq!((strays.next(), due(&strays, at(1))), (Some(at(1)), vec!["b".to_owned()]));
        // What is seen once more does not begin anew.
        strays.see(pod("a", None), at(30));
        assert_eq!(due(&strays, at(39)), ["b"]);
        assert_eq!(due(&strays, at(40)), ["a", "b"]);
        strays.put_off(&pod("a", None), at(80));
        assert_eq!(due(&strays, at(41)), ["b"]);
        strays.see(pod("a", Some("2027-01-15T08:00:00Z")), at(42));
        assert_eq!(due(&strays, at(42)), ["a", "b"]);
    }
}
