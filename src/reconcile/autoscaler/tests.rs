//! Sizes, limits and conditions as Kubernetes documents them
//! (<https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/>) and computes them
//! (`replica_calculator_test.go`, `horizontal_test.go`).

use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::calculate::{Sample, Samples};
use super::decide::{self, Decision, Reading, Scale, World};
use super::limits::Memory;
use crate::model::time::Timestamp;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(1_000_000 + seconds, 0)
}

/// A world that begins with `replicas` pods, ready for long, each of which asks for a processor.
struct Scene {
    spec: Value,
    replicas: i32,
    /// By pod, in thousandths; `None`: no figure.
    figures: Vec<Option<i64>>,
    pods: Vec<Value>,
    object: Option<i64>,
    memory: Memory,
    status: Value,
}

fn pod(number: usize) -> Value {
    json!({
        "metadata": {"name": format!("p{number}")},
        "spec": {"containers": [
            {"name": "app", "resources": {"requests": {"cpu": "1", "memory": "1Ki"}}},
        ]},
        "status": {
            "phase": "Running", "startTime": at(-10_000).to_seconds_text(),
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at(-9_990).to_seconds_text()}],
        },
    })
}

fn cpu(percent: i64) -> Value {
    json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}}])
}

fn rate(per_pod: &str) -> Value {
    json!([{"type": "Pods", "pods": {"metric": {"name": "requests-per-second"}, "target": {"type": "AverageValue", "averageValue": per_pod}}}])
}

fn of_ingress(target: Value) -> Value {
    let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "web"});
    json!([{"type": "Object", "object": {"describedObject": object, "metric": {"name": "requests-per-second"}, "target": target}}])
}

impl Scene {
    fn new(metrics: Value, figures: &[i64]) -> Scene {
        let spec = json!({
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": 1, "maxReplicas": 100, "metrics": metrics,
        });
        Scene {
            spec,
            replicas: i32::try_from(figures.len()).expect("few"),
            figures: figures.iter().map(|one| Some(*one)).collect(),
            pods: (0..figures.len()).map(pod).collect(),
            object: None,
            memory: Memory::default(),
            status: json!({"desiredReplicas": 0}),
        }
    }

    fn bounds(mut self, least: i64, most: i64) -> Scene {
        self.spec["minReplicas"] = least.into();
        self.spec["maxReplicas"] = most.into();
        self
    }

    fn behavior(mut self, behavior: Value) -> Scene {
        self.spec["behavior"] = behavior;
        self
    }

    fn world(&self, now: Timestamp) -> World {
        let scaler = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": self.spec, "status": self.status});
        let names = (0..self.figures.len()).map(|number| format!("p{number}"));
        let samples: Samples = names
            .zip(&self.figures)
            .filter_map(|(name, milli)| {
                let window = std::time::Duration::from_secs(15);
                Some((name, Sample { milli: (*milli)?, at: now, window }))
            })
            .collect();
        let reading = match self.object {
            Some(milli) => Ok(Reading::Object { milli }),
            None if samples.is_empty() => Err("no metrics returned".to_owned()),
            None => Ok(Reading::Pods(samples)),
        };
        let metrics = self.spec["metrics"].as_array().expect("metrics").len();
        World {
            scaler: serde_json::from_value(scaler).expect("an autoscaler"),
            scale: Ok(Scale {
                replicas: self.replicas,
                present: self.replicas,
                has_selector: true,
            }),
            pods: serde_json::from_value(Value::Array(self.pods.clone())).expect("pods"),
            readings: vec![reading; metrics],
            rivals: Vec::new(),
        }
    }

    fn decide(&mut self, now: Timestamp) -> Decision {
        self.decide_in(&self.world(now), now)
    }

    fn decide_in(&mut self, world: &World, now: Timestamp) -> Decision {
        let decided = decide::decide(world, &mut self.memory, now);
        self.status = serde_json::to_value(&decided.status).expect("a status");
        decided
    }

    /// The size after a decision that is carried out.
    fn size(&mut self, now: Timestamp) -> i32 {
        self.size_in(&self.world(now), now)
    }

    fn size_in(&mut self, world: &World, now: Timestamp) -> i32 {
        if let Some(resize) = self.decide_in(world, now).resize {
            if self.spec["behavior"].is_object() {
                self.memory.changed(resize.from, resize.to, now);
            }
            self.replicas = resize.to;
        }
        self.replicas
    }
}

fn sizes(scene: Scene) -> i32 {
    // Without the first recommendation, which would hold the size for minutes.
    scene.behavior(json!({"scaleDown": {"stabilizationWindowSeconds": 0}})).size(at(0))
}

#[test]
fn the_size_follows_the_ratio_beyond_the_tolerance() {
    for (percent, figures, expected) in [
        // 200m against 100m: twice as many; 50m: half (the documentation's own example).
        (10, vec![200], 2),
        (20, vec![100, 100], 1),
        (30, vec![300, 500, 700], 5),
        (50, vec![300, 500, 700], 3),
        (100, vec![100, 300, 500, 250, 250], 2),
        // 1.09 and 0.91 are within a tenth, 1.12 and 0.88 are not.
        (100, vec![1090, 1090], 2),
        (100, vec![910, 910], 2),
        (100, vec![1120, 1120], 3),
        (100, vec![490, 490], 1),
    ] {
        assert_eq!(sizes(Scene::new(cpu(percent), &figures)), expected, "{percent} {figures:?}");
    }
}

#[test]
fn requests_per_second_and_pod() {
    for (figures, expected) in [
        (vec![1_500_000, 1_500_000], 3),
        (vec![1_000_000, 1_050_000], 2),
        (vec![4_000_000], 4),
        (vec![100_000, 100_000, 100_000], 1),
        // Idle is a figure: nothing is asked of it.
        (vec![0, 0, 0], 1),
    ] {
        assert_eq!(sizes(Scene::new(rate("1k"), &figures)), expected, "{figures:?}");
    }
}

#[test]
fn what_is_missing_slows_every_change() {
    let missing = |metrics: Value, figures: &[i64], missing: usize| {
        let mut scene = Scene::new(metrics, figures);
        for _ in 0..missing {
            scene.pods.push(pod(scene.pods.len()));
            scene.figures.push(None);
            scene.replicas += 1;
        }
        sizes(scene)
    };
    // Up: counted as idle. 2 × 200 % would want 4; with two at nothing the ratio is on target.
    assert_eq!(missing(cpu(100), &[2000, 2000], 0), 4);
    assert_eq!(missing(cpu(100), &[2000, 2000], 2), 4);
    assert_eq!(missing(cpu(100), &[2000, 2000], 1), 4);
    assert_eq!(missing(cpu(100), &[1200, 1200], 1), 3, "the guess must not turn the change around");
    // Down: counted as doing all that they asked for.
    assert_eq!(missing(cpu(100), &[100, 100], 0), 1);
    assert_eq!(missing(cpu(100), &[100, 100], 2), 3);
    assert_eq!(missing(cpu(50), &[450, 450], 2), 4, "not more either");
    assert_eq!(missing(rate("1k"), &[100_000, 100_000], 2), 3);
    assert_eq!(missing(rate("1k"), &[3_000_000], 1), 3);
}

#[test]
fn a_pod_that_starts_says_nothing_of_its_work() {
    let young = |ready: &str, started: i64, changed: i64| {
        let mut scene = Scene::new(cpu(50), &[1000, 1000, 1000]);
        scene.pods[2]["status"] = json!({
            "phase": "Running", "startTime": at(started).to_seconds_text(),
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": at(changed).to_seconds_text()}],
        });
        sizes(scene)
    };
    assert_eq!(young("True", -9_000, -8_000), 6);
    // Within five minutes: unready, or its figures are older than its readiness.
    assert_eq!(young("False", -60, -60), 4);
    assert_eq!(young("True", -60, -10), 4);
    assert_eq!(young("True", -60, -20), 6);
    // Later: only one that never was ready.
    assert_eq!(young("False", -600, -590), 4);
    assert_eq!(young("False", -600, -100), 6);
    let mut pending = Scene::new(cpu(50), &[1000, 1000, 1000]);
    pending.pods[2]["status"]["phase"] = "Pending".into();
    assert_eq!(sizes(pending), 4);
    let mut going = Scene::new(cpu(50), &[1000, 1000, 1000]);
    going.pods[2]["metadata"]["deletionTimestamp"] = at(0).to_seconds_text().into();
    assert_eq!(sizes(going), 4);
    // Requests are no work of starting.
    let mut asked = Scene::new(rate("500"), &[1_000_000, 1_000_000]);
    asked.pods[1]["status"]["conditions"][0]["status"] = "False".into();
    assert_eq!(sizes(asked), 4);
}

#[test]
fn a_figure_of_an_object_is_aimed_at_whole_or_shared() {
    let whole = |replicas: usize, milli: i64, target: Value| {
        let mut scene = Scene::new(of_ingress(target), &vec![0; replicas]);
        scene.object = Some(milli);
        sizes(scene)
    };
    let value = || json!({"type": "Value", "value": "1k"});
    let average = || json!({"type": "AverageValue", "averageValue": "1k"});
    assert_eq!(whole(2, 3_000_000, value()), 6);
    assert_eq!(whole(2, 1_050_000, value()), 2);
    assert_eq!(whole(4, 500_000, value()), 2);
    assert_eq!(whole(2, 3_000_000, average()), 3);
    assert_eq!(whole(3, 3_000_000, average()), 3);
    assert_eq!(whole(3, 2_950_000, average()), 3);
    assert_eq!(whole(3, 1_900_000, average()), 2);
    assert_eq!(whole(3, 0, average()), 1);
}

#[test]
fn bounds_come_before_metrics() {
    assert_eq!(Scene::new(cpu(50), &[500]).bounds(3, 5).size(at(0)), 3);
    assert_eq!(Scene::new(cpu(50), &[500; 8]).bounds(3, 5).size(at(0)), 5);
    let mut off = Scene::new(cpu(50), &[500]);
    off.replicas = 0;
    assert_eq!(off.size(at(0)), 0);
    assert_eq!(off.status["conditions"][1]["reason"], "ScalingDisabled");
}

#[test]
fn without_rules_it_doubles_and_waits_five_minutes() {
    let mut scene = Scene::new(cpu(10), &[1000]);
    assert_eq!(scene.size(at(0)), 4, "from one to four at most");
    scene.figures = vec![Some(1000); 4];
    scene.pods = (0..4).map(pod).collect();
    assert_eq!(scene.size(at(15)), 8, "then twice as many");
    assert_eq!(scene.status["conditions"][2]["reason"], "ScaleUpLimit");
    scene.figures = vec![Some(10); 8];
    scene.pods = (0..8).map(pod).collect();
    let mut seen = Vec::new();
    for round in 2..=24 {
        seen.push(scene.size(at(round * 15)));
    }
    // What was wanted in the first seconds was 40: held, and cut to what is allowed, until it is five minutes old.
    let last = seen.iter().rposition(|size| *size > 1).expect("it was held");
    assert_eq!((last + 2) * 15, 300, "held until the last high wish, of 15 s, is 300 s old");
    assert_eq!(seen.last(), Some(&1));
}

#[test]
fn windows_hold_both_ways() {
    let mut scene = Scene::new(rate("100"), &[400_000]).behavior(json!({
        "scaleUp": {"stabilizationWindowSeconds": 60, "selectPolicy": "Max", "policies": [{"type": "Percent", "value": 900, "periodSeconds": 15}]},
        "scaleDown": {"stabilizationWindowSeconds": 30, "selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]},
    }));
    // The first recommendation is what there is.
    assert_eq!(scene.size(at(0)), 1);
    assert_eq!(scene.status["conditions"][0]["reason"], "ScaleUpStabilized");
    assert_eq!(scene.size(at(45)), 1);
    assert_eq!(scene.size(at(61)), 4);
    scene.figures = vec![Some(10_000); 4];
    scene.pods = (0..4).map(pod).collect();
    assert_eq!(scene.size(at(76)), 4);
    assert_eq!(scene.status["conditions"][0]["reason"], "ScaleDownStabilized");
    assert_eq!(scene.size(at(91)), 1);
}

#[test]
fn policies_bound_each_period() {
    let up = |select: &str| {
        json!({"scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": select, "policies": [
            {"type": "Pods", "value": 4, "periodSeconds": 60}, {"type": "Percent", "value": 50, "periodSeconds": 60},
        ]}})
    };
    let grown = |select: &str, times: &[i64]| {
        let mut scene = Scene::new(rate("1"), &[1_000_000; 10]).behavior(up(select));
        times.iter().map(|time| scene.size(at(*time))).collect::<Vec<_>>()
    };
    assert_eq!(grown("Max", &[0, 15, 59, 60, 121]), [15, 15, 15, 23, 35]);
    assert_eq!(grown("Min", &[0, 15, 60]), [14, 14, 18]);
    assert_eq!(grown("Disabled", &[0, 60]), [10, 10]);
    let down = |select: &str, times: &[i64]| {
        let rules = json!({"scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": select, "policies": [
            {"type": "Pods", "value": 4, "periodSeconds": 60}, {"type": "Percent", "value": 10, "periodSeconds": 60},
        ]}});
        let mut scene = Scene::new(rate("1k"), &[0; 80]).behavior(rules);
        times.iter().map(|time| scene.size(at(*time))).collect::<Vec<_>>()
    };
    // The documentation's example: 80, 72, 65 …
    assert_eq!(down("Max", &[0, 15, 60, 120]), [72, 72, 64, 57]);
    assert_eq!(down("Min", &[0, 30, 60]), [76, 76, 72]);
    assert_eq!(down("Disabled", &[0, 60]), [80, 80]);
}

#[test]
fn a_tolerance_of_its_own() {
    let size = |tolerance: &str| {
        Scene::new(cpu(100), &[1050; 10])
            .behavior(json!({"scaleUp": {"stabilizationWindowSeconds": 0, "tolerance": tolerance}}))
            .size(at(0))
    };
    assert_eq!(size("100m"), 10);
    assert_eq!(size("10m"), 11);
}

fn check(scene: &mut Scene, now: i64, expected: Expect) {
    let decided = scene.decide(at(now));
    let mut lines = Vec::new();
    if let Some(resize) = &decided.resize {
        lines.push(format!("{} -> {}: {}", resize.from, resize.to, resize.reason));
    }
    for condition in decided.status.conditions.iter().flatten() {
        let (reason, message) = (&condition.reason, &condition.message);
        let (reason, message) = (reason.as_deref().unwrap_or(""), message.as_deref().unwrap_or(""));
        lines.push(format!("{} {} {reason}: {message}", condition.type_, condition.status));
    }
    let metrics = serde_json::to_string(&decided.status.current_metrics).expect("metrics");
    lines.push(metrics);
    lines.extend(decided.notes.iter().map(|note| format!("{}: {}", note.reason, note.message)));
    lines.push(String::new());
    expected.assert_eq(&lines.join("\n"));
}

#[test]
fn it_says_what_it_does() {
    let mut scene = Scene::new(cpu(50), &[900, 1100]).bounds(1, 3);
    check(
        &mut scene,
        0,
        expect![[r#"
        2 -> 3: cpu resource utilization (percentage of request) above target
        AbleToScale True SucceededRescale: the HPA controller was able to update the target scale to 3
        ScalingActive True ValidMetricFound: the HPA was able to successfully calculate a replica count from cpu resource utilization (percentage of request)
        ScalingLimited True TooManyReplicas: the desired replica count is more than the maximum replica count
        [{"resource":{"current":{"averageUtilization":100,"averageValue":"1"},"name":"cpu"},"type":"Resource"}]
    "#]],
    );
}

#[test]
fn it_says_what_it_cannot_know() {
    let mut silent = Scene::new(cpu(50), &[0, 0]);
    silent.figures = vec![None, None];
    check(
        &mut silent,
        0,
        expect![[r#"
        AbleToScale True SucceededGetScale: the HPA controller was able to get the target's current scale
        ScalingActive False FailedGetResourceMetric: the HPA was unable to compute the replica count: failed to get cpu resource utilization (percentage of request): no metrics returned
        [{"type":""}]
        FailedGetResourceMetric: failed to get cpu resource utilization (percentage of request): no metrics returned
        FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource utilization (percentage of request): no metrics returned
    "#]],
    );
    let mut unasked = Scene::new(cpu(50), &[100]);
    unasked.pods[0]["spec"]["containers"][0]["resources"] = json!({});
    check(
        &mut unasked,
        0,
        expect![[r#"
        AbleToScale True SucceededGetScale: the HPA controller was able to get the target's current scale
        ScalingActive False FailedGetResourceMetric: the HPA was unable to compute the replica count: failed to get cpu resource utilization (percentage of request): missing request for cpu in container app of Pod p0
        [{"type":""}]
        FailedGetResourceMetric: failed to get cpu resource utilization (percentage of request): missing request for cpu in container app of Pod p0
        FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource utilization (percentage of request): missing request for cpu in container app of Pod p0
    "#]],
    );
}

#[test]
fn a_metric_that_is_not_known_takes_no_pod_away_but_lets_some_be_added() {
    let mut both = cpu(50);
    both.as_array_mut().expect("a list").extend(rate("1k").as_array().expect("a list").clone());
    for (milli, expected) in [(10, 2), (2000, 4)] {
        let mut scene = Scene::new(both.clone(), &[milli, milli])
            .behavior(json!({"scaleDown": {"stabilizationWindowSeconds": 0}}));
        let mut world = scene.world(at(0));
        world.readings[1] = Err("no such series".to_owned());
        let decided = decide::decide(&world, &mut scene.memory, at(0));
        let size = decided.resize.map_or(2, |resize| resize.to);
        assert_eq!(size, if expected == 4 { 8 } else { 2 });
        assert!(decided.notes.iter().any(|note| note.reason == "FailedGetPodsMetric"));
    }
}

#[test]
fn two_of_one_target_stand_still() {
    let mut scene = Scene::new(cpu(50), &[1000]);
    let mut world = scene.world(at(0));
    world.rivals = vec!["default/other".to_owned()];
    let decided = decide::decide(&world, &mut scene.memory, at(0));
    assert_eq!(decided.resize, None);
    assert!(decided.notes.iter().any(|note| note.reason == "AmbiguousSelector"));
}

#[test]
fn a_target_that_is_not_there_is_named() {
    let mut scene = Scene::new(cpu(50), &[1000]);
    let mut world = scene.world(at(0));
    world.scale = Err("deployments.apps \"web\" not found".to_owned());
    let decided = decide::decide(&world, &mut scene.memory, at(0));
    let conditions = decided.status.conditions.expect("conditions");
    assert_eq!(conditions[0].status, "False");
    assert_eq!(conditions[0].reason.as_deref(), Some("FailedGetScale"));
    assert_eq!(decided.resize, None);
}

/// xorshift64*, so that a seed means the same everywhere.
fn random(state: &mut u64, bound: u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
}

#[test]
fn whatever_is_measured_the_size_stays_within_its_bounds_and_steady_load_is_left_alone() {
    let pods: Vec<Value> = (0..50).map(pod).collect();
    let pods: Vec<Pod> = serde_json::from_value(Value::Array(pods)).expect("pods");
    for seed in 1..100u64 {
        let state = &mut seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (least, spread) = (1 + random(state, 5) as i64, random(state, 30) as i64);
        let most = least + spread;
        let start = 1 + random(state, 40) as usize;
        let mut scene = Scene::new(rate("1k"), &vec![0; start]).bounds(least, most);
        scene.pods.clear();
        if random(state, 2) == 0 {
            let window = random(state, 60) as i64;
            scene = scene.behavior(json!({
                "scaleUp": {"stabilizationWindowSeconds": random(state, 60), "selectPolicy": "Max", "policies": [{"type": "Pods", "value": 1 + random(state, 6), "periodSeconds": 15}]},
                "scaleDown": {"stabilizationWindowSeconds": window, "selectPolicy": "Max", "policies": [{"type": "Percent", "value": 1 + random(state, 100), "periodSeconds": 15}]},
            }));
        }
        let mut time = 0;
        let mut total = 0;
        let rest = |scene: &mut Scene, total: i64, rounds: i64, time: &mut i64| {
            let mut size = scene.replicas;
            for _ in 0..rounds {
                *time += 15;
                let count = usize::try_from(scene.replicas).expect("not negative");
                scene.figures = vec![Some(total / i64::from(scene.replicas)); count];
                let mut world = scene.world(at(*time));
                world.pods = pods[..count].to_vec();
                size = scene.size_in(&world, at(*time));
                let size = i64::from(size);
                assert!((least..=most).contains(&size), "seed {seed}: {size}");
            }
            size
        };
        for _ in 0..6 {
            total = random(state, 40_000_000) as i64;
            rest(&mut scene, total, 1 + random(state, 5) as i64, &mut time);
        }
        // Long after the last change the load fits: neither more than a tenth too much, nor a pod too many.
        let size = i64::from(rest(&mut scene, total, 120, &mut time));
        let share = total / size;
        assert!(share <= 1_100_000 || size == most, "seed {seed}: {share} on each of {size}");
        let fewer = (size - 1).max(1);
        assert!(size == least || total / fewer >= 900_000, "seed {seed}: {total} on {size}");
        let before = scene.status["lastScaleTime"].clone();
        rest(&mut scene, total, 20, &mut time);
        assert_eq!(scene.status["lastScaleTime"], before, "seed {seed}: steady load, moving size");
    }
}
