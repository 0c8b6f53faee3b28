//! How many pods a HorizontalPodAutoscaler wants and what it says about itself (pure).
//!
//! Order and words are those of `pkg/controller/podautoscaler/horizontal.go`: of several metrics the one that wants most
//! wins, and one that is not known forbids to take pods away. It never asks anybody.

use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec,
    HorizontalPodAutoscalerStatus, MetricIdentifier, MetricSpec, MetricStatus, MetricTarget,
    MetricValueStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::calculate::{self, Current, Proposal, Resource, Samples, Target, Tolerance};
use super::limits::{self, Memory, Wish};
use crate::events;
use crate::model::quantity::Quantity;
use crate::model::time::Timestamp;
use crate::reconcile::decide::Note;

/// Everything a decision looks at.
#[derive(Debug, Clone)]
pub struct World {
    pub scaler: HorizontalPodAutoscaler,
    /// Why not, in the API's words.
    pub scale: Result<Scale, String>,
    /// Those that the scale's selector finds.
    pub pods: Vec<Pod>,
    /// One for each metric of the spec, in order.
    pub readings: Vec<Result<Reading, String>>,
    /// Other autoscalers of the same target.
    pub rivals: Vec<String>,
}

/// The target's scale subresource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// As wanted now.
    pub replicas: i32,
    /// As there are.
    pub present: i32,
    pub has_selector: bool,
}

/// What a metric said.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    Pods(Samples),
    /// Of an object, in thousandths.
    Object {
        milli: i64,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The new size and why, if it is to change.
    pub resize: Option<Resize>,
    /// The status, as it is when the size could be written.
    pub status: HorizontalPodAutoscalerStatus,
    pub notes: Vec<Note>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resize {
    pub from: i32,
    pub to: i32,
    pub reason: String,
}

/// Decides anew; `memory` is that of this autoscaler.
pub fn decide(world: &World, memory: &mut Memory, now: Timestamp) -> Decision {
    let mut account = Account::of(world, now);
    // Where nothing is known, nothing is wanted.
    let resize = resize(world, memory, now, &mut account).unwrap_or_default();
    if let Some(resize) = &resize {
        account.status.desired_replicas = resize.to;
        account.status.last_scale_time = Some(Time(now.whole_seconds().as_jiff()));
        let message =
            format!("the HPA controller was able to update the target scale to {}", resize.to);
        account.say("AbleToScale", "True", "SucceededRescale", &message);
    }
    Decision { resize, status: account.status, notes: account.notes }
}

/// The status and the Event when the new size could not be written.
pub fn failed(mut decided: Decision, resize: &Resize, error: &str, now: Timestamp) -> Decision {
    let mut account = Account { status: decided.status, notes: Vec::new(), now };
    account.status.desired_replicas = resize.from;
    let message = format!("the HPA controller was unable to update the target scale: {error}");
    account.say("AbleToScale", "False", "FailedUpdateScale", &message);
    let message = format!("New size: {}; reason: {}; error: {error}", resize.to, resize.reason);
    account.warn("FailedRescale", message);
    decided.status = account.status;
    decided.notes.extend(account.notes);
    decided
}

/// What is told of a new size.
pub fn told(resize: &Resize) -> Note {
    Note {
        kind: events::Kind::Normal,
        reason: "SuccessfulRescale",
        message: format!("New size: {}; reason: {}", resize.to, resize.reason),
    }
}

/// Too little is known to want a size; the account says why.
struct Unknown;

fn resize(
    world: &World,
    memory: &mut Memory,
    now: Timestamp,
    account: &mut Account,
) -> Result<Option<Resize>, Unknown> {
    let spec = &world.scaler.spec;
    let scale = match &world.scale {
        Ok(scale) => scale,
        Err(error) => {
            let message =
                format!("the HPA controller was unable to get the target's current scale: {error}");
            account.say("AbleToScale", "False", "FailedGetScale", &message);
            account.warn("FailedGetScale", error.clone());
            return Err(Unknown);
        }
    };
    let message = "the HPA controller was able to get the target's current scale";
    account.say("AbleToScale", "True", "SucceededGetScale", message);
    let current = scale.replicas;
    account.status.current_replicas = Some(current);
    account.status.desired_replicas = current;
    memory.begin(current, now);
    let (least, most) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    let (to, reason) = if current == 0 && least != 0 {
        let message = "scaling is disabled since the replica count of the target is zero";
        account.say("ScalingActive", "False", "ScalingDisabled", message);
        return Ok(None);
    } else if current > most {
        (most, "Current number of replicas above Spec.MaxReplicas".to_owned())
    } else if current < least {
        (least, "Current number of replicas below Spec.MinReplicas".to_owned())
    } else {
        let (desired, metric) = desired(world, scale, account, now)?;
        let reason = match desired > current {
            true => format!("{metric} above target"),
            false => "All metrics below target".to_owned(),
        };
        let behavior = spec.behavior.as_ref();
        let wish = Wish { current, desired, least, most, behavior };
        let limited = limits::limit(wish, memory, now);
        account.say("AbleToScale", "True", limited.able.0, limited.able.1);
        let is_limited = if limited.is_limited { "True" } else { "False" };
        account.say("ScalingLimited", is_limited, limited.limited.0, limited.limited.1);
        (limited.replicas, reason)
    };
    Ok((to != current).then_some(Resize { from: current, to, reason }))
}

/// The most that a metric wants, and which one.
fn desired(
    world: &World,
    scale: &Scale,
    account: &mut Account,
    now: Timestamp,
) -> Result<(i32, String), Unknown> {
    let spec = &world.scaler.spec;
    if !scale.has_selector {
        let message = "the HPA target's scale is missing a selector";
        account.say("ScalingActive", "False", "InvalidSelector", message);
        account.warn("SelectorRequired", "selector is required".to_owned());
        return Err(Unknown);
    }
    if !world.rivals.is_empty() {
        let message =
            format!("the target is controlled by multiple HPAs: {}", world.rivals.join(", "));
        account.say("ScalingActive", "False", "AmbiguousSelector", &message);
        account.warn("AmbiguousSelector", message);
        return Err(Unknown);
    }
    let metrics = spec.metrics.as_deref().unwrap_or_default();
    let mut best: Option<(i32, String)> = None;
    let mut unknown: Vec<(&MetricSpec, String)> = Vec::new();
    let mut statuses = Vec::new();
    for (metric, reading) in metrics.iter().zip(&world.readings) {
        let proposal = reading
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|reading| propose(metric, reading, world, scale, now));
        match proposal {
            Ok(proposal) => {
                statuses.push(status_of(metric, Some(proposal.current)));
                if best.as_ref().is_none_or(|(most, _)| proposal.replicas > *most) {
                    best = Some((proposal.replicas, name_of(metric)));
                }
            }
            Err(error) => {
                // Its place is kept: the table pairs wanted and current by position.
                statuses.push(MetricStatus::default());
                let error = format!("failed to get {}: {error}", name_of(metric));
                account.warn(reason_of(metric), error.clone());
                unknown.push((metric, error));
            }
        }
    }
    account.status.current_metrics = Some(statuses);
    if let Some((metric, first)) = unknown.first() {
        let would_shrink = best.as_ref().is_none_or(|(most, _)| *most < scale.replicas);
        if would_shrink {
            let message = format!("the HPA was unable to compute the replica count: {first}");
            account.say("ScalingActive", "False", reason_of(metric), &message);
            let (count, all) = (unknown.len(), metrics.len());
            let message =
                format!("invalid metrics ({count} invalid out of {all}), first error is: {first}");
            account.warn("FailedComputeMetricsReplicas", message);
            return Err(Unknown);
        }
    }
    let (replicas, metric) = best.ok_or(Unknown)?;
    let message =
        format!("the HPA was able to successfully calculate a replica count from {metric}");
    account.say("ScalingActive", "True", "ValidMetricFound", &message);
    Ok((replicas, metric))
}

fn propose(
    metric: &MetricSpec,
    reading: &Reading,
    world: &World,
    scale: &Scale,
    now: Timestamp,
) -> Result<Proposal, String> {
    let tolerance = tolerance(&world.scaler.spec);
    let per_pod = |samples: &Samples, target: Target<'_>, is_processor: bool| {
        let (replicas, pods) = (scale.replicas, &world.pods);
        calculate::per_pod(replicas, pods, samples, target, is_processor, tolerance, now)
    };
    match (reading, Source::of(metric)) {
        (Reading::Pods(samples), Source::Resource { of, target }) => {
            let target = match target.average_utilization {
                Some(percent) => Target::Utilization { percent, of },
                None => Target::Average { milli: milli(target.average_value.as_ref())? },
            };
            per_pod(samples, target, of.name == "cpu")
        }
        (Reading::Pods(samples), Source::Pods { target, .. }) => {
            let target = Target::Average { milli: milli(target.average_value.as_ref())? };
            per_pod(samples, target, false)
        }
        (Reading::Object { milli: figure }, Source::Object { target, .. }) => {
            match target.average_value.as_ref() {
                Some(average) => {
                    let target = milli(Some(average))?;
                    Ok(calculate::of_object_per_pod(scale.present, *figure, target, tolerance))
                }
                None => {
                    let target = milli(target.value.as_ref())?;
                    let (replicas, pods) = (scale.replicas, &world.pods);
                    Ok(calculate::of_object(replicas, pods, *figure, target, tolerance))
                }
            }
        }
        (Reading::Pods(_) | Reading::Object { .. }, _) => {
            Err(format!("unknown metric source type \"{}\"", metric.type_))
        }
    }
}

/// Where a metric of the spec comes from, with what it needs.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    Resource {
        of: Resource<'a>,
        target: &'a MetricTarget,
    },
    Pods {
        metric: &'a MetricIdentifier,
        target: &'a MetricTarget,
    },
    Object {
        kind: &'a str,
        metric: &'a MetricIdentifier,
        target: &'a MetricTarget,
    },
    /// External, or nothing that is known: validation lets none through.
    Other,
}

impl Source<'_> {
    pub fn of(metric: &MetricSpec) -> Source<'_> {
        if let Some(one) = &metric.resource {
            let of = Resource { name: &one.name, container: None };
            Source::Resource { of, target: &one.target }
        } else if let Some(one) = &metric.container_resource {
            let of = Resource { name: &one.name, container: Some(&one.container) };
            Source::Resource { of, target: &one.target }
        } else if let Some(one) = &metric.pods {
            Source::Pods { metric: &one.metric, target: &one.target }
        } else if let Some(one) = &metric.object {
            let kind = &one.described_object.kind;
            Source::Object { kind, metric: &one.metric, target: &one.target }
        } else {
            Source::Other
        }
    }
}

/// As conditions and Events call it.
fn name_of(metric: &MetricSpec) -> String {
    match Source::of(metric) {
        Source::Resource { of, target } => {
            let whose = of.container.map_or("", |_| "container ");
            match target.average_utilization {
                Some(_) => {
                    format!("{} {whose}resource utilization (percentage of request)", of.name)
                }
                None => format!("{} {whose}resource", of.name),
            }
        }
        Source::Pods { metric, .. } => format!("pods metric {}", metric.name),
        Source::Object { kind, metric, .. } => format!("{kind} metric {}", metric.name),
        Source::Other => format!("{} metric", metric.type_),
    }
}

fn reason_of(metric: &MetricSpec) -> &'static str {
    match Source::of(metric) {
        Source::Resource { of, .. } if of.container.is_some() => "FailedGetContainerResourceMetric",
        Source::Resource { .. } => "FailedGetResourceMetric",
        Source::Pods { .. } => "FailedGetPodsMetric",
        Source::Object { .. } => "FailedGetObjectMetric",
        Source::Other => "InvalidMetricSourceType",
    }
}

fn status_of(metric: &MetricSpec, current: Option<Current>) -> MetricStatus {
    let text = |milli: i64| Some(Text(written(metric, milli)));
    let current = match current {
        Some(Current::Utilization { percent, average_milli }) => MetricValueStatus {
            average_utilization: Some(percent),
            average_value: text(average_milli),
            value: None,
        },
        Some(Current::Average { milli }) => {
            MetricValueStatus { average_value: text(milli), ..MetricValueStatus::default() }
        }
        Some(Current::Value { milli }) => {
            MetricValueStatus { value: text(milli), ..MetricValueStatus::default() }
        }
        None => MetricValueStatus::default(),
    };
    let mut status = MetricStatus { type_: metric.type_.clone(), ..MetricStatus::default() };
    if let Some(one) = &metric.resource {
        status.resource = Some(ResourceMetricStatus { name: one.name.clone(), current });
    } else if let Some(one) = &metric.container_resource {
        let (container, name) = (one.container.clone(), one.name.clone());
        status.container_resource =
            Some(ContainerResourceMetricStatus { container, name, current });
    } else if let Some(one) = &metric.pods {
        status.pods = Some(PodsMetricStatus { metric: one.metric.clone(), current });
    } else if let Some(one) = &metric.object {
        let (described_object, metric) = (one.described_object.clone(), one.metric.clone());
        status.object = Some(ObjectMetricStatus { described_object, metric, current });
    }
    status
}

/// Memory is whole bytes, for which thousandths would only be unreadable.
fn written(metric: &MetricSpec, milli: i64) -> String {
    match Source::of(metric) {
        Source::Resource { of, .. } if of.name == "memory" => (milli / 1000).to_string(),
        _ => Quantity::from_milli(milli).to_string(),
    }
}

fn milli(target: Option<&Text>) -> Result<i64, String> {
    let text = target.map_or("", |target| target.0.as_str());
    let quantity = Quantity::from_json(&text.into()).map_err(|error| error.to_string())?;
    match quantity.milli_value() {
        0 => Err("the target is zero".to_owned()),
        milli => Ok(milli),
    }
}

fn tolerance(spec: &HorizontalPodAutoscalerSpec) -> Tolerance {
    let default = Tolerance::DEFAULT;
    let Some(behavior) = &spec.behavior else { return default };
    let told = |rules: Option<&k8s_openapi::api::autoscaling::v2::HPAScalingRules>, or: f64| {
        let text = rules.and_then(|rules| rules.tolerance.as_ref());
        let told = text.and_then(|text| Quantity::from_json(&text.0.as_str().into()).ok());
        told.map_or(or, |told| told.milli_value() as f64 / 1000.0)
    };
    Tolerance {
        up: told(behavior.scale_up.as_ref(), default.up),
        down: told(behavior.scale_down.as_ref(), default.down),
    }
}

/// The status that is being written, and what is told.
struct Account {
    status: HorizontalPodAutoscalerStatus,
    notes: Vec<Note>,
    now: Timestamp,
}

impl Account {
    fn of(world: &World, now: Timestamp) -> Account {
        let status = world.scaler.status.clone().unwrap_or_default();
        Account { status, notes: Vec::new(), now }
    }

    /// Sets a condition; its time is that of its last change of status.
    fn say(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let conditions = self.status.conditions.get_or_insert_default();
        let at = Time(self.now.whole_seconds().as_jiff());
        let index = conditions.iter().position(|one| one.type_ == kind);
        let index = index.unwrap_or_else(|| {
            conditions.push(HorizontalPodAutoscalerCondition {
                type_: kind.to_owned(),
                ..HorizontalPodAutoscalerCondition::default()
            });
            conditions.len() - 1
        });
        let condition = &mut conditions[index];
        if condition.status != status {
            status.clone_into(&mut condition.status);
            condition.last_transition_time = Some(at);
        }
        condition.reason = Some(reason.to_owned());
        condition.message = Some(message.to_owned());
    }

    fn warn(&mut self, reason: &'static str, message: String) {
        self.notes.push(Note { kind: events::Kind::Warning, reason, message });
    }
}
