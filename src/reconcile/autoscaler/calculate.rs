//! From what one metric says to a number of pods (pure; `pkg/controller/podautoscaler/replica_calculator.go`).
//!
//! What is not known is guessed so that it slows the change down: pods without figures count as busy when fewer would
//! do, and as idle when more were needed. It keeps nothing and limits nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::model::quantity::Quantity;
use crate::model::time::Timestamp;
use crate::reconcile::pods;

/// A young pod's processor time is that of its start, not of its work.
const INITIALIZATION: Duration = Duration::from_secs(300);
/// A pod that became unready this soon has never been ready.
const INITIAL_READINESS: Duration = Duration::from_secs(30);

/// One pod's figure, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    pub milli: i64,
    /// When it was taken, and the time it is the average of.
    pub at: Timestamp,
    pub window: Duration,
}

/// Figures by the name of the pod.
pub type Samples = BTreeMap<String, Sample>;

/// Which requests a utilisation is a share of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource<'a> {
    pub name: &'a str,
    /// `None`: all containers of a pod.
    pub container: Option<&'a str>,
}

/// What is aimed at, of figures per pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// Percent of the requests.
    Utilization { percent: i32, of: Resource<'a> },
    /// Thousandths a pod.
    Average { milli: i64 },
}

/// How far off a ratio may be without anything being done, per direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    pub up: f64,
    pub down: f64,
}

impl Tolerance {
    /// That of the cluster.
    pub const DEFAULT: Tolerance = Tolerance { up: 0.1, down: 0.1 };

    fn holds(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// What a metric wants, and what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proposal {
    pub replicas: i32,
    pub current: Current,
}

/// A metric as the status tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Current {
    Utilization { percent: i32, average_milli: i64 },
    Average { milli: i64 },
    Value { milli: i64 },
}

/// The pods of a workload, by what their figures are worth.
struct Grouped<'a> {
    ready: usize,
    unready: Vec<&'a str>,
    missing: Vec<&'a str>,
    ignored: Vec<&'a str>,
}

/// What figures of single pods want. `is_processor`: they are of processor time, which starting costs.
///
/// # Errors
/// Too little is known to say anything.
pub fn per_pod(
    replicas: i32,
    pods: &[Pod],
    samples: &Samples,
    target: Target<'_>,
    is_processor: bool,
    tolerance: Tolerance,
    now: Timestamp,
) -> Result<Proposal, String> {
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let grouped = group(pods, samples, is_processor, now);
    let is_out = |name: &String| {
        grouped.ignored.contains(&name.as_str()) || grouped.unready.contains(&name.as_str())
    };
    let mut known: BTreeMap<&str, i64> = samples
        .iter()
        .filter(|(name, _)| !is_out(name))
        .map(|(name, sample)| (name.as_str(), sample.milli))
        .collect();
    if known.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let requests = match target {
        Target::Utilization { of, .. } => requests(pods, of)?,
        Target::Average { .. } => BTreeMap::new(),
    };
    let (ratio, current) = ratio(&known, &requests, target)?;
    let propose = |replicas| Ok(Proposal { replicas, current });
    let counts_unready = !grouped.unready.is_empty() && ratio > 1.0;
    if !counts_unready && grouped.missing.is_empty() {
        return propose(match tolerance.holds(ratio) {
            true => replicas,
            false => ceil(ratio * grouped.ready as f64),
        });
    }
    for name in &grouped.missing {
        let guess = match target {
            Target::Utilization { percent, .. } if ratio < 1.0 => {
                // All that it asked for, or what is aimed at if that is more.
                requests.get(name).copied().unwrap_or(0) * i64::from(percent.max(100)) / 100
            }
            Target::Average { milli } if ratio < 1.0 => milli,
            // On the line between, nothing is guessed of utilisations.
            Target::Utilization { .. } if ratio == 1.0 => continue,
            Target::Utilization { .. } | Target::Average { .. } => 0,
        };
        known.insert(name, guess);
    }
    if counts_unready {
        known.extend(grouped.unready.iter().map(|name| (*name, 0)));
    }
    let (guessed, _) = self::ratio(&known, &requests, target)?;
    let has_turned = ratio < 1.0 && guessed > 1.0 || ratio > 1.0 && guessed < 1.0;
    if tolerance.holds(guessed) || has_turned {
        return propose(replicas);
    }
    let wanted = ceil(guessed * known.len() as f64);
    // What was guessed must not turn the change around.
    let is_backwards = guessed < 1.0 && wanted > replicas || guessed > 1.0 && wanted < replicas;
    propose(if is_backwards { replicas } else { wanted })
}

/// What one figure about another object wants, when that figure as a whole is aimed at.
pub fn of_object(
    replicas: i32,
    pods: &[Pod],
    milli: i64,
    target_milli: i64,
    tolerance: Tolerance,
) -> Proposal {
    let ratio = milli as f64 / target_milli as f64;
    let wanted = match replicas {
        0 => ceil(ratio),
        _ if tolerance.holds(ratio) => replicas,
        _ => ceil(ratio * pods.iter().filter(|pod| counts_as_ready(pod)).count() as f64),
    };
    Proposal { replicas: wanted, current: Current::Value { milli } }
}

/// What one figure about another object wants, when its share of each of `replicas` pods is aimed at.
pub fn of_object_per_pod(
    replicas: i32,
    milli: i64,
    target_milli: i64,
    tolerance: Tolerance,
) -> Proposal {
    let ratio = milli as f64 / (target_milli as f64 * f64::from(replicas));
    let wanted = match tolerance.holds(ratio) {
        true => replicas,
        false => ceil(milli as f64 / target_milli as f64),
    };
    let share = match replicas {
        0 => milli,
        replicas => {
            let replicas = i64::from(replicas);
            milli / replicas + i64::from(milli % replicas != 0)
        }
    };
    Proposal { replicas: wanted, current: Current::Average { milli: share } }
}

fn ceil(count: f64) -> i32 {
    // Saturates, and NaN (nothing of nothing) is zero.
    count.ceil() as i32
}

fn counts_as_ready(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running") && pods::ready_since(pod).is_some()
}

fn group<'a>(
    pods: &'a [Pod],
    samples: &Samples,
    is_processor: bool,
    now: Timestamp,
) -> Grouped<'a> {
    let mut grouped = Grouped { ready: 0, unready: vec![], missing: vec![], ignored: vec![] };
    for pod in pods {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if pod.metadata.deletion_timestamp.is_some() || phase == Some("Failed") {
            grouped.ignored.push(name);
        } else if phase == Some("Pending") {
            grouped.unready.push(name);
        } else {
            match samples.get(name) {
                None => grouped.missing.push(name),
                Some(sample) if is_processor && is_starting(pod, sample, now) => {
                    grouped.unready.push(name);
                }
                Some(_) => grouped.ready += 1,
            }
        }
    }
    grouped
}

/// Whether the figure may still be that of the pod's start.
fn is_starting(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let status = pod.status.as_ref();
    let ready = status.and_then(|status| {
        status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready")
    });
    let started = status.and_then(|status| status.start_time.as_ref());
    let (Some(ready), Some(started)) = (ready, started) else { return true };
    let (started, changed) = (timestamp(started), changed(ready));
    let is_unready = ready.status == "False";
    match started.plus(INITIALIZATION) > now {
        // Or a window has not passed whole since it became ready.
        true => is_unready || sample.at < changed.plus(sample.window),
        false => is_unready && started.plus(INITIAL_READINESS) > changed,
    }
}

fn changed(condition: &PodCondition) -> Timestamp {
    condition.last_transition_time.as_ref().map_or(Timestamp::from_unix(0, 0), timestamp)
}

fn timestamp(time: &Time) -> Timestamp {
    Timestamp::from_unix(time.0.as_second(), time.0.subsec_nanosecond())
}

fn ratio(
    known: &BTreeMap<&str, i64>,
    requests: &BTreeMap<&str, i64>,
    target: Target<'_>,
) -> Result<(f64, Current), String> {
    match target {
        Target::Average { milli } => {
            let average = known.values().sum::<i64>() / known.len() as i64;
            Ok((average as f64 / milli as f64, Current::Average { milli: average }))
        }
        Target::Utilization { percent, .. } => {
            let (mut used, mut requested, mut count) = (0i64, 0i64, 0);
            for (name, milli) in known {
                // A pod that the list does not have has gone since.
                let Some(request) = requests.get(name) else { continue };
                used = used.saturating_add(*milli);
                requested = requested.saturating_add(*request);
                count += 1;
            }
            if requested == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let share = i128::from(used) * 100 / i128::from(requested);
            let share = i32::try_from(share).unwrap_or(i32::MAX);
            let current = Current::Utilization { percent: share, average_milli: used / count };
            Ok((f64::from(share) / f64::from(percent), current))
        }
    }
}

/// What each pod asks for, in thousandths. Init containers that keep running count as the others do.
fn requests<'a>(pods: &'a [Pod], of: Resource<'_>) -> Result<BTreeMap<&'a str, i64>, String> {
    let mut all = BTreeMap::new();
    for pod in pods {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let Some(spec) = &pod.spec else { continue };
        let beside = spec.init_containers.iter().flatten();
        let beside = beside.filter(|one| one.restart_policy.as_deref() == Some("Always"));
        let mut sum = 0i64;
        for container in spec.containers.iter().chain(beside) {
            if of.container.is_some_and(|only| only != container.name) {
                continue;
            }
            let missing = || {
                format!(
                    "missing request for {} in container {} of Pod {name}",
                    of.name, container.name
                )
            };
            sum = sum.saturating_add(request(container, of.name).ok_or_else(missing)?);
        }
        all.insert(name, sum);
    }
    Ok(all)
}

fn request(container: &Container, resource: &str) -> Option<i64> {
    let asked = container.resources.as_ref()?.requests.as_ref()?.get(resource)?;
    Quantity::from_json(&asked.0.as_str().into()).ok().map(Quantity::milli_value)
}
