//! HorizontalPodAutoscalers: asks for the figures, has a size decided, and writes it to the target's scale.
//!
//! ```text
//! every 15 s, and when a spec changes:  scale + pods + metrics ─▶ DECIDE (with memory) ─▶ scale, status, Events
//! ```
//!
//! Everything goes through the API: the scale subresource of whatever kind is named, and the metrics APIs. It never looks
//! at a pod's template, and it knows no workload.

mod calculate;
mod decide;
mod limits;
mod readings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::autoscaling::v1::Scale as ScaleObject;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, MetricSpec};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::decide::{Decision, Reading, Resize, Scale, Source, World};
use self::limits::Memory;
use crate::events::{self, Recorder};
use crate::reconcile::decide::{Key, Note};
use crate::sys::clock;

const NAME: &str = "horizontal-pod-autoscaler";
/// Between two decisions about one autoscaler (`--horizontal-pod-autoscaler-sync-period`).
const PERIOD: Duration = Duration::from_secs(15);

/// Scales until cancelled.
pub async fn run(client: kube::Client, stop: CancellationToken) {
    let recorder = Recorder::start(client.clone(), NAME, String::new(), stop.child_token());
    let controller = Controller { client, recorder };
    stop.run_until_cancelled(controller.run()).await;
}

struct Controller {
    client: kube::Client,
    recorder: Recorder,
}

/// An autoscaler, and what is remembered of it.
struct Held {
    scaler: HorizontalPodAutoscaler,
    memory: Memory,
    due: Instant,
}

impl Controller {
    async fn run(self) {
        let all = Api::<HorizontalPodAutoscaler>::all(self.client.clone());
        let mut events = pin!(watcher(all, watcher::Config::default()).default_backoff());
        let mut held: BTreeMap<Key, Held> = BTreeMap::new();
        let mut listed: Vec<Key> = Vec::new();
        loop {
            let due = held.values().map(|one| one.due).min();
            let event = tokio::select! {
                event = events.next() => match event {
                    Some(event) => event,
                    None => return,
                },
                () = sleep_until(due) => {
                    self.take_turns(&mut held).await;
                    continue;
                }
            };
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(scaler)) => {
                    listed.push(Key::of(&scaler.metadata));
                    take(&mut held, scaler);
                }
                Ok(watcher::Event::InitDone) => held.retain(|key, _| listed.contains(key)),
                Ok(watcher::Event::Apply(scaler)) => take(&mut held, scaler),
                Ok(watcher::Event::Delete(scaler)) => drop(held.remove(&Key::of(&scaler.metadata))),
                Err(error) => tracing::debug!(%error, "the watch of autoscalers begins anew"),
            }
        }
    }

    /// Decides about all that are due, at the same time: one whose figures are slow holds up nobody but this round.
    async fn take_turns(&self, held: &mut BTreeMap<Key, Held>) {
        let now = Instant::now();
        let targets: Vec<(Key, [String; 3])> =
            held.iter().map(|(key, one)| (key.clone(), target(&one.scaler))).collect();
        let turns = held.iter_mut().filter(|(_, one)| one.due <= now).map(|(key, one)| {
            let aims = target(&one.scaler);
            let rivals = targets.iter().filter(|(other, theirs)| {
                other != key && other.namespace == key.namespace && *theirs == aims
            });
            let rivals = rivals.map(|(other, _)| other.to_string()).collect();
            one.due = now + PERIOD;
            Box::pin(self.take_turn(one, rivals))
        });
        futures::future::join_all(turns).await;
    }

    async fn take_turn(&self, held: &mut Held, rivals: Vec<String>) {
        let scaler = held.scaler.clone();
        let mut target = self.target(&scaler).await;
        let world = self.observe(&scaler, target.as_ref(), rivals).await;
        let mut decided = decide::decide(&world, &mut held.memory, clock::now());
        if let (Some(resize), Ok(target)) = (decided.resize.clone(), &mut target) {
            match target.resize(&resize).await {
                Ok(()) => {
                    if scaler.spec.behavior.is_some() {
                        held.memory.changed(resize.from, resize.to, clock::now());
                    }
                    decided.notes.push(decide::told(&resize));
                }
                Err(error) => {
                    decided = decide::failed(decided, &resize, &told(&error), clock::now());
                }
            }
        }
        self.report(&scaler, decided).await;
    }

    async fn target(&self, scaler: &HorizontalPodAutoscaler) -> Result<Target, String> {
        let reference = &scaler.spec.scale_target_ref;
        let api_version = reference.api_version.as_deref().unwrap_or_default();
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kind = GroupVersionKind::gvk(group, version, &reference.kind);
        let unknown = |_| format!("no matches for kind \"{}\" in group \"{group}\"", kind.kind);
        let (resource, _) =
            kube::discovery::pinned_kind(&self.client, &kind).await.map_err(unknown)?;
        let namespace = scaler.namespace().unwrap_or_default();
        let api = Api::namespaced_with(self.client.clone(), &namespace, &resource);
        let scale = api.get_scale(&reference.name).await.map_err(|error| told(&error))?;
        Ok(Target { api, name: reference.name.clone(), scale })
    }

    async fn observe(
        &self,
        scaler: &HorizontalPodAutoscaler,
        target: Result<&Target, &String>,
        rivals: Vec<String>,
    ) -> World {
        let mut world = World {
            scaler: scaler.clone(),
            scale: target.map(Target::scale).map_err(Clone::clone),
            pods: Vec::new(),
            readings: Vec::new(),
            rivals,
        };
        let Ok(target) = target else { return world };
        let namespace = scaler.namespace().unwrap_or_default();
        let selector = target.selector();
        if selector.is_empty() {
            return world;
        }
        let pods = Api::<Pod>::namespaced(self.client.clone(), &namespace);
        let pods = pods.list(&ListParams::default().labels(selector)).await;
        let metrics = scaler.spec.metrics.as_deref().unwrap_or_default();
        match pods {
            Ok(pods) => world.pods = pods.items,
            Err(error) => {
                let error = format!("unable to get pods while calculating replica count: {error}");
                world.readings = vec![Err(error); metrics.len()];
                return world;
            }
        }
        let mut ask = Ask { client: &self.client, namespace: &namespace, selector, usage: None };
        for metric in metrics {
            world.readings.push(ask.reading(metric).await);
        }
        world
    }

    async fn report(&self, scaler: &HorizontalPodAutoscaler, decided: Decision) {
        for Note { kind, reason, message } in decided.notes {
            let about = about(scaler);
            self.recorder.note(events::Note { about, kind, reason: reason.into(), message });
        }
        if scaler.status.as_ref() == Some(&decided.status) {
            return;
        }
        let namespace = scaler.namespace().unwrap_or_default();
        let api = Api::<HorizontalPodAutoscaler>::namespaced(self.client.clone(), &namespace);
        // Another of the same name has a status of its own.
        let patch = json!({"metadata": {"uid": scaler.uid()}, "status": decided.status});
        let patch = Patch::Merge(patch);
        let written = api.patch_status(&scaler.name_any(), &PatchParams::default(), &patch).await;
        match written {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            // The next turn says it again.
            Err(error) => tracing::warn!(scaler = scaler.name_any(), %error, "no status written"),
        }
    }
}

/// What is scaled.
struct Target {
    api: Api<DynamicObject>,
    name: String,
    scale: ScaleObject,
}

impl Target {
    fn scale(&self) -> Scale {
        Scale {
            replicas: self.wanted(),
            present: self.scale.status.as_ref().map_or(0, |status| status.replicas),
            has_selector: !self.selector().is_empty(),
        }
    }

    fn wanted(&self) -> i32 {
        self.scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0)
    }

    fn selector(&self) -> &str {
        self.scale.status.as_ref().and_then(|status| status.selector.as_deref()).unwrap_or_default()
    }

    /// Writes the new size. Whatever else has changed about the target meanwhile is none of our business; a size that
    /// somebody else has written is.
    async fn resize(&mut self, resize: &Resize) -> Result<(), kube::Error> {
        let parameters =
            PostParams { field_manager: Some(NAME.to_owned()), ..PostParams::default() };
        loop {
            let mut scale = self.scale.clone();
            scale.spec.get_or_insert_default().replicas = Some(resize.to);
            let conflict = match self.api.replace_scale(&self.name, &parameters, &scale).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => kube::Error::Api(status),
                Err(error) => return Err(error),
            };
            let before = self.scale.metadata.resource_version.clone();
            self.scale = self.api.get_scale(&self.name).await?;
            let is_news = self.scale.metadata.resource_version != before;
            if self.wanted() != resize.from || !is_news {
                return Err(conflict);
            }
        }
    }
}

/// Asks the metrics APIs on behalf of one autoscaler.
struct Ask<'a> {
    client: &'a kube::Client,
    namespace: &'a str,
    selector: &'a str,
    /// The answer about resources, which several metrics may share.
    usage: Option<Result<Value, String>>,
}

impl Ask<'_> {
    async fn reading(&mut self, metric: &MetricSpec) -> Result<Reading, String> {
        match Source::of(metric) {
            Source::Resource { of, .. } => {
                if self.usage.is_none() {
                    let path = format!(
                        "/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods?labelSelector={}",
                        self.namespace,
                        encoded(self.selector),
                    );
                    self.usage = Some(self.get(path).await);
                }
                let usage = self.usage.as_ref().map(Result::as_ref);
                let usage = usage.unwrap_or(Ok(&Value::Null)).map_err(Clone::clone)?;
                readings::usage(usage, of).map(Reading::Pods)
            }
            Source::Pods { metric, .. } => {
                let path = format!(
                    "/apis/custom.metrics.k8s.io/v1beta2/namespaces/{}/pods/*/{}?labelSelector={}{}",
                    self.namespace,
                    encoded(&metric.name),
                    encoded(self.selector),
                    series(metric.selector.as_ref())?,
                );
                readings::values(&self.get(path).await?).map(Reading::Pods)
            }
            Source::Object { metric: named, .. } => {
                let Some(source) = &metric.object else { return Err("no object".to_owned()) };
                let object = &source.described_object;
                let api_version = object.api_version.as_deref().unwrap_or_default();
                let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
                let kind = GroupVersionKind::gvk(group, version, &object.kind);
                let unknown = |_| format!("no matches for kind \"{}\"", object.kind);
                let (resource, _) =
                    kube::discovery::pinned_kind(self.client, &kind).await.map_err(unknown)?;
                let plural = match group {
                    "" => resource.plural,
                    group => format!("{}.{group}", resource.plural),
                };
                let selector = series(named.selector.as_ref())?;
                let path = format!(
                    "/apis/custom.metrics.k8s.io/v1beta2/namespaces/{}/{plural}/{}/{}?{}",
                    self.namespace,
                    encoded(&object.name),
                    encoded(&named.name),
                    selector.trim_start_matches('&'),
                );
                let values = readings::values(&self.get(path).await?)?;
                let value = values.get(&object.name).ok_or("the object has no such metric")?;
                Ok(Reading::Object { milli: value.milli })
            }
            Source::Other => Err(format!("unknown metric source type \"{}\"", metric.type_)),
        }
    }

    async fn get(&self, path: String) -> Result<Value, String> {
        let request = http::Request::get(path).body(Vec::new()).map_err(|e| e.to_string())?;
        self.client.request::<Value>(request).await.map_err(|error| told(&error))
    }
}

/// Keeps the newest of an autoscaler; one whose spec is new is due at once.
fn take(held: &mut BTreeMap<Key, Held>, scaler: HorizontalPodAutoscaler) {
    let key = Key::of(&scaler.metadata);
    match held.get_mut(&key) {
        Some(one) if one.scaler.metadata.uid == scaler.metadata.uid => {
            if one.scaler.spec != scaler.spec {
                one.due = Instant::now();
            }
            one.scaler = scaler;
        }
        Some(_) | None => {
            let one = Held { scaler, memory: Memory::default(), due: Instant::now() };
            held.insert(key, one);
        }
    }
}

fn target(scaler: &HorizontalPodAutoscaler) -> [String; 3] {
    let reference = &scaler.spec.scale_target_ref;
    let api_version = reference.api_version.as_deref().unwrap_or_default();
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    [group.to_owned(), reference.kind.clone(), reference.name.clone()]
}

fn about(scaler: &HorizontalPodAutoscaler) -> ObjectReference {
    ObjectReference {
        api_version: Some("autoscaling/v2".to_owned()),
        kind: Some("HorizontalPodAutoscaler".to_owned()),
        namespace: scaler.namespace(),
        name: Some(scaler.name_any()),
        uid: scaler.uid(),
        resource_version: scaler.resource_version(),
        ..ObjectReference::default()
    }
}

/// As the API server worded it.
fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// `&metricLabelSelector=…`, or nothing.
fn series(
    selector: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>,
) -> Result<String, String> {
    let Some(selector) = selector else { return Ok(String::new()) };
    let value = serde_json::to_value(selector).map_err(|error| error.to_string())?;
    let selector = crate::model::selector::LabelSelector::from_json(&value)
        .map_err(|error| format!("metric selector: {error}"))?;
    let text = selector.to_string();
    Ok(if text.is_empty() { text } else { format!("&metricLabelSelector={}", encoded(&text)) })
}

/// Percent-encoded for a path segment or a query value (RFC 3986 §2.3).
fn encoded(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| match is_plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
