//! Binds pods that have no node, or says on the pod why it cannot.
//!
//! One pass decides over everything the caches hold; a pod that was just bound counts as placed before its
//! event comes back, so that two pods never share the same free room.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::sys::clock;

pub mod fit;

const NAME: &str = "default-scheduler";
/// After a failed write the same pods are looked at again, event or not.
const RETRY: Duration = Duration::from_secs(1);

/// What shall happen to one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Bind(String),
    Unschedulable(String),
}

/// Runs until cancelled.
pub async fn run(client: Client, cancel: CancellationToken) {
    let (pods, pod_writer) = reflector::store::<Pod>();
    let (nodes, node_writer) = reflector::store::<Node>();
    let config = watcher::Config::default;
    let pod_events = watcher(Api::<Pod>::all(client.clone()), config())
        .default_backoff()
        .reflect(pod_writer)
        .map(|event| event.map(drop));
    let node_events = watcher(Api::<Node>::all(client.clone()), config())
        .default_backoff()
        .reflect(node_writer)
        .map(|event| event.map(drop));
    let mut events = pin!(stream::select(pod_events, node_events));
    let reporter = Reporter { controller: NAME.to_owned(), instance: None };
    let mut scheduler = Scheduler {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        bound: HashMap::new(),
    };
    let mut again = false;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            event = events.next() => match event {
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    tracing::debug!(%error, "the scheduler's watch was interrupted");
                    continue;
                }
                None => return,
            },
            () = tokio::time::sleep(RETRY), if again => {}
        }
        // Events come in bursts; the caches are complete before the first decision.
        if pods.wait_until_ready().now_or_never_ready()
            && nodes.wait_until_ready().now_or_never_ready()
        {
            again = !scheduler.pass(&pods.state(), &nodes.state()).await;
        }
    }
}

/// Whether a future is ready without waiting for it.
trait ReadyNow {
    fn now_or_never_ready(self) -> bool;
}

impl<F, T, E> ReadyNow for F
where
    F: Future<Output = Result<T, E>>,
{
    fn now_or_never_ready(self) -> bool {
        matches!(futures::FutureExt::now_or_never(self), Some(Ok(_)))
    }
}

struct Scheduler {
    client: Client,
    recorder: Recorder,
    /// Bindings written by us that the cache does not show yet, by pod uid.
    bound: HashMap<String, String>,
}

impl Scheduler {
    /// Decides over every pod that waits; false when something must be tried again.
    async fn pass(&mut self, pods: &[Arc<Pod>], nodes: &[Arc<Node>]) -> bool {
        self.bound.retain(|uid, _| {
            pods.iter().any(|pod| pod.metadata.uid.as_ref() == Some(uid) && node_of(pod).is_none())
        });
        let mut all_done = true;
        for (pod, verdict) in decide(pods, nodes, &self.bound) {
            let done = match &verdict {
                Verdict::Bind(node) => self.bind(pod, node).await,
                Verdict::Unschedulable(message) => self.explain(pod, message).await,
            };
            if let Err(error) = done {
                let gone =
                    matches!(&error, kube::Error::Api(status) if [404, 409].contains(&status.code));
                if !gone {
                    tracing::warn!(pod = %pod.name_any(), %error, "a scheduling decision could not be written");
                    all_done = false;
                }
            }
        }
        all_done
    }

    async fn bind(&mut self, pod: &Pod, node: &str) -> Result<(), kube::Error> {
        let namespace = pod.namespace().unwrap_or_default();
        let binding = Binding {
            metadata: kube::api::ObjectMeta {
                name: pod.metadata.name.clone(),
                namespace: pod.metadata.namespace.clone(),
                uid: pod.metadata.uid.clone(),
                ..Default::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..Default::default()
            },
        };
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let _: serde_json::Value = pods
            .create_subresource("binding", &pod.name_any(), &PostParams::default(), &binding)
            .await?;
        self.bound.insert(pod.uid().unwrap_or_default(), node.to_owned());
        let note = format!("Successfully assigned {namespace}/{} to {node}", pod.name_any());
        self.tell(pod, EventType::Normal, "Scheduled", "Binding", note).await;
        Ok(())
    }

    async fn explain(&self, pod: &Pod, message: &str) -> Result<(), kube::Error> {
        if shown_message(pod) == Some(message) {
            return Ok(());
        }
        let pods: Api<Pod> =
            Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastProbeTime": null,
            "lastTransitionTime": clock::now().to_seconds_text(),
        });
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
        pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch))
            .await?;
        self.tell(pod, EventType::Warning, "FailedScheduling", "Scheduling", message.to_owned())
            .await;
        Ok(())
    }

    /// An event that cannot be written is lost; the condition on the pod says the same.
    async fn tell(&self, pod: &Pod, kind: EventType, reason: &str, action: &str, note: String) {
        let event = Event {
            type_: kind,
            reason: reason.to_owned(),
            note: Some(note),
            action: action.to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &pod.object_ref(&())).await {
            tracing::debug!(%error, "an event was not written");
        }
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn shown_message(pod: &Pod) -> Option<&str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
    (scheduled.status == "False").then_some(scheduled.message.as_deref()?)
}

/// Verdicts for all pods that wait for a node, the oldest first; each one bound takes its room.
fn decide<'a>(
    pods: &'a [Arc<Pod>],
    nodes: &[Arc<Node>],
    bound: &HashMap<String, String>,
) -> Vec<(&'a Pod, Verdict)> {
    let mut placed: BTreeMap<String, Vec<&Pod>> = BTreeMap::new();
    let mut waiting: Vec<&Pod> = Vec::new();
    for pod in pods.iter().map(Arc::as_ref).filter(|pod| !is_terminal(pod)) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        match node_of(pod).or(bound.get(uid).map(String::as_str)) {
            Some(node) => placed.entry(node.to_owned()).or_default().push(pod),
            None if pod.metadata.deletion_timestamp.is_none() => waiting.push(pod),
            None => {}
        }
    }
    waiting.sort_by_key(|pod| (pod.creation_timestamp(), pod.namespace(), pod.name_any()));
    let mut verdicts = Vec::new();
    for pod in waiting {
        let mut last = Vec::new();
        let home = nodes.iter().find(|node| {
            let name = node.name_any();
            let here = placed.get(&name).map_or(&[][..], Vec::as_slice);
            last = fit::obstacles(pod, node, here);
            last.is_empty()
        });
        verdicts.push(match home {
            Some(node) => {
                placed.entry(node.name_any()).or_default().push(pod);
                (pod, Verdict::Bind(node.name_any()))
            }
            None if nodes.is_empty() => {
                (pod, Verdict::Unschedulable("no nodes available to schedule pods".to_owned()))
            }
            None => (pod, Verdict::Unschedulable(fit::message(&last))),
        });
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, cpu: &str, node: Option<&str>) -> Arc<Pod> {
        let pod = json!({
            "metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {"nodeName": node, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn node() -> Arc<Node> {
        let node = json!({"metadata": {"name": "one"}, "status": {"allocatable": {"cpu": "2", "pods": "110"}}});
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn bound(verdicts: &[(&Pod, Verdict)]) -> Vec<String> {
        let bind = |(pod, verdict): &(&Pod, Verdict)| match verdict {
            Verdict::Bind(_) => Some(pod.name_any()),
            Verdict::Unschedulable(_) => None,
        };
        verdicts.iter().filter_map(bind).collect()
    }

    #[test]
    fn two_pods_never_share_the_same_free_room() {
        let pods = [pod("a", "1500m", None), pod("b", "1500m", None)];
        assert_eq!(bound(&decide(&pods, &[node()], &HashMap::new())), ["a"]);
        // The event of the binding has not come back yet.
        let written = HashMap::from([("a".to_owned(), "one".to_owned())]);
        assert_eq!(bound(&decide(&pods, &[node()], &written)), Vec::<String>::new());
    }

    #[test]
    fn finished_and_dying_pods_take_no_room() {
        let mut done = pod("a", "2", Some("one")).as_ref().clone();
        done.status = serde_json::from_value(json!({"phase": "Succeeded"})).unwrap();
        let mut dying = pod("b", "2", None).as_ref().clone();
        dying.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-11-23T10:00:00Z")).unwrap();
        let pods = [Arc::new(done), Arc::new(dying), pod("c", "2", None)];
        assert_eq!(bound(&decide(&pods, &[node()], &HashMap::new())), ["c"]);
    }

    #[test]
    fn without_a_node_every_pod_says_so() {
        let pods = [pod("a", "1", None)];
        let verdicts = decide(&pods, &[], &HashMap::new());
        let expected = Verdict::Unschedulable("no nodes available to schedule pods".to_owned());
        assert_eq!(verdicts[0].1, expected);
    }
}
