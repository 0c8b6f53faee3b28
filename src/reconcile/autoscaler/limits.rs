//! How fast and how far a number of pods may change (pure; `pkg/controller/podautoscaler/horizontal.go`).
//!
//! What was wanted and what was done lately is kept in [`Memory`], in the process only: after a restart the first
//! recommendation is the number of pods there are. It never looks at metrics.

use std::collections::VecDeque;
use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

use crate::model::time::Timestamp;

/// How long fewer pods must have been enough when nothing else is said: that of the cluster.
const DOWNSCALE_STABILIZATION: Duration = Duration::from_secs(300);
/// The longest window and the longest period that validation lets through.
const LONGEST: Duration = Duration::from_secs(3600);
/// Without rules, twice as many and at least this many are the most in one step.
const FIRST_STEP: i32 = 4;

/// What happened lately.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    recommendations: VecDeque<(Timestamp, i32)>,
    /// Pods added, taken away: positive counts.
    added: VecDeque<(Timestamp, i32)>,
    removed: VecDeque<(Timestamp, i32)>,
}

impl Memory {
    /// Begins with what there is.
    pub fn begin(&mut self, replicas: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push_back((now, replicas));
        }
    }

    /// Remembers a change that was made.
    pub fn changed(&mut self, from: i32, to: i32, now: Timestamp) {
        let (events, count) = match to > from {
            true => (&mut self.added, to - from),
            false => (&mut self.removed, from - to),
        };
        forget(events, now, LONGEST);
        events.push_back((now, count));
    }
}

/// What was made of a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limited {
    pub replicas: i32,
    /// Reason and message of the condition AbleToScale.
    pub able: (&'static str, &'static str),
    /// Whether the wish was cut, reason and message of ScalingLimited.
    pub is_limited: bool,
    pub limited: (&'static str, &'static str),
}

/// The wish and its bounds.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    pub current: i32,
    pub desired: i32,
    pub least: i32,
    pub most: i32,
    pub behavior: Option<&'a HorizontalPodAutoscalerBehavior>,
}

/// Steadies and bounds a wish, and remembers it.
pub fn limit(wish: Wish<'_>, memory: &mut Memory, now: Timestamp) -> Limited {
    let (steady, held) = match wish.behavior {
        None => steady(wish.desired, memory, now),
        Some(behavior) => steady_with(wish, behavior, memory, now),
    };
    let able = held.unwrap_or(("ReadyForNewScale", "recommended size matches current size"));
    let wish = Wish { desired: steady, ..wish };
    let bounds = match wish.behavior {
        None => bounds(wish),
        Some(behavior) => bounds_with(wish, behavior, memory, now),
    };
    let (replicas, limited) = bounds.apply(steady);
    Limited { replicas, able, is_limited: replicas != steady, limited }
}

type Said = (&'static str, &'static str);

const HIGHER: Said = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const LOWER: Said = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const WITHIN: Said = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_FEW: Said =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_MANY: Said =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FAST_UP: Said =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_FAST_DOWN: Said = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
);

/// The highest recommendation of the last minutes.
fn steady(desired: i32, memory: &mut Memory, now: Timestamp) -> (i32, Option<Said>) {
    forget(&mut memory.recommendations, now, DOWNSCALE_STABILIZATION);
    let highest = memory.recommendations.iter().map(|(_, count)| *count).max();
    memory.recommendations.push_back((now, desired));
    let steady = highest.map_or(desired, |highest| highest.max(desired));
    (steady, (steady != desired).then_some(HIGHER))
}

/// Up as far as the lowest recommendation of one window, down as far as the highest of the other.
fn steady_with(
    wish: Wish<'_>,
    behavior: &HorizontalPodAutoscalerBehavior,
    memory: &mut Memory,
    now: Timestamp,
) -> (i32, Option<Said>) {
    let (mut up, mut down) = (wish.desired, wish.desired);
    let up_window = window(behavior.scale_up.as_ref()).unwrap_or_default();
    let down_window = window(behavior.scale_down.as_ref()).unwrap_or(DOWNSCALE_STABILIZATION);
    for (at, count) in &memory.recommendations {
        let age = now.since(*at);
        if age < up_window {
            up = up.min(*count);
        }
        if age < down_window {
            down = down.max(*count);
        }
    }
    forget(&mut memory.recommendations, now, LONGEST);
    memory.recommendations.push_back((now, wish.desired));
    let steady = wish.current.max(up).min(down);
    let why = if wish.desired >= wish.current { LOWER } else { HIGHER };
    (steady, (steady != wish.desired).then_some(why))
}

fn window(rules: Option<&HPAScalingRules>) -> Option<Duration> {
    let seconds = rules?.stabilization_window_seconds?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Where a wish is cut, and what is said then.
struct Bounds {
    least: (i32, Said),
    most: (i32, Said),
}

impl Bounds {
    fn apply(&self, desired: i32) -> (i32, Said) {
        match desired {
            few if few < self.least.0 => self.least,
            many if many > self.most.0 => self.most,
            fine => (fine, WITHIN),
        }
    }
}

fn bounds(wish: Wish<'_>) -> Bounds {
    let step = wish.current.saturating_mul(2).max(FIRST_STEP);
    let most = if wish.most > step { (step, TOO_FAST_UP) } else { (wish.most, TOO_MANY) };
    Bounds { least: (wish.least, TOO_FEW), most }
}

fn bounds_with(
    wish: Wish<'_>,
    behavior: &HorizontalPodAutoscalerBehavior,
    memory: &Memory,
    now: Timestamp,
) -> Bounds {
    let up = up_limit(wish.current, behavior.scale_up.as_ref(), memory, now).max(wish.current);
    let down =
        down_limit(wish.current, behavior.scale_down.as_ref(), memory, now).min(wish.current);
    Bounds {
        least: if wish.least < down { (down, TOO_FAST_DOWN) } else { (wish.least, TOO_FEW) },
        most: if wish.most > up { (up, TOO_FAST_UP) } else { (wish.most, TOO_MANY) },
    }
}

/// How many there may be now, by the policies. Without rules there is no limit (defaults fill them in).
fn up_limit(current: i32, rules: Option<&HPAScalingRules>, memory: &Memory, now: Timestamp) -> i32 {
    let Some(rules) = rules else { return i32::MAX };
    let proposals = rules.policies.iter().flatten().map(|policy| {
        let start = at_start_of_period(current, policy.period_seconds, memory, now);
        match policy.type_.as_str() {
            "Pods" => start.saturating_add(policy.value),
            // Rounded up: a small share of a few pods must not come to nothing.
            _ => (f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
        }
    });
    match rules.select_policy.as_deref() {
        Some("Disabled") => current,
        Some("Min") => proposals.min().unwrap_or(i32::MAX),
        _ => proposals.max().unwrap_or(i32::MAX),
    }
}

/// How few there may be now: the smallest change is the one that leaves the most.
fn down_limit(
    current: i32,
    rules: Option<&HPAScalingRules>,
    memory: &Memory,
    now: Timestamp,
) -> i32 {
    let Some(rules) = rules else { return 0 };
    let proposals = rules.policies.iter().flatten().map(|policy| {
        let start = at_start_of_period(current, policy.period_seconds, memory, now);
        match policy.type_.as_str() {
            "Pods" => start.saturating_sub(policy.value),
            _ => (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
        }
    });
    match rules.select_policy.as_deref() {
        Some("Disabled") => current,
        Some("Min") => proposals.max().unwrap_or(0),
        _ => proposals.min().unwrap_or(0),
    }
}

/// How many there were when the period began, had only the autoscaler changed them.
fn at_start_of_period(current: i32, seconds: i32, memory: &Memory, now: Timestamp) -> i32 {
    let period = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let within = |events: &VecDeque<(Timestamp, i32)>| -> i32 {
        events.iter().filter(|(at, _)| now.since(*at) < period).map(|(_, count)| *count).sum()
    };
    current - within(&memory.added) + within(&memory.removed)
}

fn forget(events: &mut VecDeque<(Timestamp, i32)>, now: Timestamp, after: Duration) {
    events.retain(|(at, _)| now.since(*at) < after);
}
