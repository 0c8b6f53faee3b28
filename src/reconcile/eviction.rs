//! Sends pods away from nodes whose NoExecute taints they do not tolerate, or no longer (kube-controller-manager's
//! taint-eviction-controller).
//!
//! It never taints a node. While no node has such a taint it does not look at pods at all. How long a pod has stayed
//! already is not remembered beyond the daemon, as in Kubernetes.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::events::{Kind, Note, Recorder, about_pod};
use crate::model::time::Timestamp;
use crate::placement::taint::{self, Effect, Stay};
use crate::sys::clock;

const NAME: &str = "taint-eviction-controller";
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Evicts until cancelled.
pub async fn run(client: kube::Client, stop: CancellationToken) {
    let recorder = Recorder::start(client.clone(), NAME, String::new(), stop.child_token());
    let evictor = Evictor { client, recorder, world: World::default(), limits: BTreeMap::new() };
    stop.run_until_cancelled(evictor.run()).await;
}

/// What is known: the taints that send away, and the pods while there are any.
#[derive(Default)]
struct World {
    /// By node.
    taints: BTreeMap<String, Vec<core::Taint>>,
    /// By uid.
    pods: BTreeMap<String, Arc<core::Pod>>,
    /// Uids of those that have been deleted here, whether the watch shows it yet or not.
    going: BTreeSet<String>,
}

/// Since when each pod stays only for a limited time, by uid.
type Limits = BTreeMap<String, Timestamp>;

/// What follows from the world at a moment.
#[derive(Debug, Default, PartialEq)]
struct Decision {
    /// Uids of those that go now.
    evicted: Vec<String>,
    /// Those that were to go and may stay after all.
    spared: Vec<String>,
    limits: Limits,
    /// When the next one goes.
    next: Option<Timestamp>,
}

impl World {
    fn see_node(&mut self, node: core::Node) {
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        let sends_away = |taint: &core::Taint| taint.effect == Effect::NoExecute.as_str();
        let taints: Vec<_> = taints.into_iter().filter(sends_away).collect();
        let name = node.metadata.name.unwrap_or_default();
        match taints.is_empty() {
            true => drop(self.taints.remove(&name)),
            false => drop(self.taints.insert(name, taints)),
        }
    }

    fn decide(&self, limits: &Limits, now: Timestamp) -> Decision {
        let mut decision = Decision::default();
        for (uid, pod) in &self.pods {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            let taints = node.and_then(|node| self.taints.get(node)).map_or(&[][..], Vec::as_slice);
            if pod.metadata.deletion_timestamp.is_some() || self.going.contains(uid) {
                continue;
            }
            match taint::stay(taints, pod) {
                Stay::Over => decision.evicted.push(uid.clone()),
                Stay::Unlimited if limits.contains_key(uid) => decision.spared.push(uid.clone()),
                Stay::Unlimited => {}
                Stay::For(span) => {
                    let since = limits.get(uid).copied().unwrap_or(now);
                    let until = since.plus(span);
                    decision.limits.insert(uid.clone(), since);
                    if until <= now {
                        decision.evicted.push(uid.clone());
                    } else {
                        decision.next = Some(decision.next.map_or(until, |next| next.min(until)));
                    }
                }
            }
        }
        decision
    }
}

/// The condition that tells why the pod goes.
fn disruption(pod: &core::Pod, now: Timestamp) -> Value {
    json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {"conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": Time(now.as_jiff()),
            "observedGeneration": pod.metadata.generation,
        }]},
    })
}

struct Evictor {
    client: kube::Client,
    recorder: Recorder,
    world: World,
    limits: Limits,
}

type Pods = BoxStream<'static, Result<watcher::Event<core::Pod>, watcher::Error>>;

impl Evictor {
    async fn run(mut self) {
        let nodes =
            watcher(Api::<core::Node>::all(self.client.clone()), watcher::Config::default());
        let mut nodes = pin!(nodes.default_backoff());
        let mut pods: Option<Pods> = None;
        // A list under way: nobody goes before all are known, so that one Event tells of all taints.
        let mut is_listed = false;
        let mut wake = None;
        loop {
            tokio::select! {
                event = nodes.next() => match event {
                    Some(Ok(watcher::Event::Init)) => self.world.taints.clear(),
                    Some(Ok(watcher::Event::Apply(node) | watcher::Event::InitApply(node))) => {
                        self.world.see_node(node);
                    }
                    Some(Ok(watcher::Event::Delete(node))) => {
                        self.world.taints.remove(&node.name_any());
                    }
                    Some(Ok(watcher::Event::InitDone)) => {}
                    Some(Err(error)) => tracing::debug!(%error, "watching nodes for taints"),
                    None => return,
                },
                Some(event) = next(&mut pods) => match event {
                    Ok(watcher::Event::Init) => {
                        is_listed = false;
                        self.world.pods.clear();
                        self.world.going.clear();
                    }
                    Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => {
                        self.world.pods.insert(pod.uid().unwrap_or_default(), Arc::new(pod));
                    }
                    Ok(watcher::Event::Delete(pod)) => {
                        let uid = pod.uid().unwrap_or_default();
                        self.world.pods.remove(&uid);
                        self.world.going.remove(&uid);
                    }
                    Ok(watcher::Event::InitDone) => is_listed = true,
                    Err(error) => tracing::debug!(%error, "watching pods for taints"),
                },
                () = until(wake) => {}
            }
            wake = match (self.world.taints.is_empty(), &pods) {
                (true, None) => None,
                (true, Some(_)) => {
                    // Those that were to go are told that they stay; then nobody is looked at any more.
                    self.act().await;
                    self.world.pods.clear();
                    self.world.going.clear();
                    (pods, is_listed) = (None, false);
                    None
                }
                (false, None) => {
                    let api = Api::<core::Pod>::all(self.client.clone());
                    let events = watcher(api, watcher::Config::default()).default_backoff();
                    pods = Some(events.boxed());
                    None
                }
                (false, Some(_)) if is_listed => self.act().await,
                (false, Some(_)) => None,
            };
        }
    }

    /// Carries the decision out; the moment to look again.
    async fn act(&mut self) -> Option<Timestamp> {
        let now = clock::now();
        let decision = self.world.decide(&self.limits, now);
        self.limits = decision.limits;
        let mut next = decision.next;
        for uid in decision.spared {
            if let Some(pod) = self.world.pods.get(&uid) {
                self.tell(pod, "Cancelling deletion of Pod");
            }
        }
        for uid in decision.evicted {
            let Some(pod) = self.world.pods.get(&uid).cloned() else { continue };
            match self.evict(&pod, now).await {
                Ok(()) => drop(self.world.going.insert(uid)),
                Err(error) => {
                    tracing::warn!(pod = pod.name_any(), %error, "a pod was not evicted");
                    next = Some(next.map_or(now.plus(RETRY), |at| at.min(now.plus(RETRY))));
                }
            }
        }
        next
    }

    async fn evict(&self, pod: &core::Pod, now: Timestamp) -> Result<(), kube::Error> {
        let api: Api<core::Pod> =
            Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let name = pod.name_any();
        let patch = Patch::Strategic(disruption(pod, now));
        gone_is_fine(api.patch_status(&name, &PatchParams::default(), &patch).await)?;
        let this_one = Preconditions { uid: pod.uid(), resource_version: None };
        gone_is_fine(api.delete(&name, &DeleteParams::default().preconditions(this_one)).await)?;
        self.tell(pod, "Marking for deletion Pod");
        Ok(())
    }

    fn tell(&self, pod: &core::Pod, what: &str) {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        self.recorder.note(Note {
            about: about_pod(pod, None),
            kind: Kind::Normal,
            reason: "TaintManagerEviction".into(),
            message: format!("{what} {namespace}/{name}"),
        });
    }
}

/// Another pod has its name, or none.
pub(super) fn gone_is_fine<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}

async fn next(
    pods: &mut Option<Pods>,
) -> Option<Result<watcher::Event<core::Pod>, watcher::Error>> {
    match pods {
        Some(pods) => pods.next().await,
        None => std::future::pending().await,
    }
}

/// Sleeps until the moment, or for ever when there is none.
pub(super) async fn until(wake: Option<Timestamp>) {
    match wake {
        Some(at) => tokio::time::sleep(at.since(clock::now())).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix(1_800_000_000 + seconds, 0)
    }

    fn world(taint_keys: &[&str], pods: Value) -> World {
        let mut world = World::default();
        let taint = |key: &&str| json!({"key": key, "effect": "NoExecute"});
        let mut taints: Vec<Value> = taint_keys.iter().map(taint).collect();
        taints.push(json!({"key": "other", "effect": "NoSchedule"}));
        let node = json!({"metadata": {"name": "box"}, "spec": {"taints": taints}});
        world.see_node(serde_json::from_value(node).unwrap());
        for (uid, tolerations) in pods.as_object().unwrap() {
            let pod = json!({
                "metadata": {"name": uid, "uid": uid},
                "spec": {"nodeName": "box", "containers": [], "tolerations": tolerations},
            });
            world.pods.insert(uid.clone(), Arc::new(serde_json::from_value(pod).unwrap()));
        }
        world
    }

    fn tolerates(key: &str, seconds: Option<i64>) -> Value {
        json!([{"key": key, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": seconds}])
    }

    #[test]
    fn who_does_not_tolerate_goes_at_once_and_who_does_for_a_while_later() {
        let pods = json!({
            "stays": tolerates("gpu", None),
            "goes": [],
            "soon": tolerates("gpu", Some(60)),
            "sooner": tolerates("gpu", Some(30)),
        });
        let world = world(&["gpu"], pods);
        let first = world.decide(&Limits::new(), at(0));
        assert_eq!(first.evicted, ["goes"]);
        assert_eq!(first.next, Some(at(30)));
        let second = world.decide(&first.limits, at(31));
        assert_eq!(second.evicted, ["goes", "sooner"]);
        assert_eq!(second.next, Some(at(60)), "the time before counts");
    }

    #[test]
    fn nobody_goes_for_a_taint_that_only_keeps_away_or_on_another_node() {
        let world = world(&[], json!({"a": []}));
        assert!(world.taints.is_empty());
        assert_eq!(world.decide(&Limits::new(), at(0)), Decision::default());
    }

    #[test]
    fn a_taint_that_goes_in_time_spares_the_pod_and_a_new_one_begins_anew() {
        let pods = json!({"soon": tolerates("gpu", Some(60))});
        let tainted = world(&["gpu"], pods.clone());
        let limits = tainted.decide(&Limits::new(), at(0)).limits;
        let spared = world(&[], pods).decide(&limits, at(50));
        assert_eq!(spared, Decision { spared: vec!["soon".into()], ..Decision::default() });
        let again = tainted.decide(&spared.limits, at(70));
        assert_eq!((again.evicted, again.next), (Vec::new(), Some(at(130))));
    }

    #[test]
    fn a_pod_that_goes_anyway_is_left_alone() {
        let mut world = world(&["gpu"], json!({"goes": []}));
        let mut pod = world.pods["goes"].as_ref().clone();
        pod.metadata.deletion_timestamp = Some(Time(at(0).as_jiff()));
        let seen = world.pods.insert("goes".into(), Arc::new(pod));
        assert_eq!(world.decide(&Limits::new(), at(0)), Decision::default());
        // Deleted here, and the watch has not shown it yet.
        world.pods.extend(seen.map(|pod| ("goes".to_owned(), pod)));
        world.going.insert("goes".to_owned());
        assert_eq!(world.decide(&Limits::new(), at(0)), Decision::default());
    }
}
