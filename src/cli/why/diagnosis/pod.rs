//! Why a pod is not ready: the first thing that stands in its way, from scheduling to the last probe.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use super::{
    Case, Cause, Diagnosis, condition, condition_line, event_line, events_of, list, named, number,
    terminating, text, told,
};
use crate::api::table::age::human_duration;
use crate::model::time::Timestamp;
use crate::placement::{Demand, NodeView};

/// How long what goes before the containers may take until it counts as gone wrong: what a Deployment that says
/// nothing about it gives its rollout (`progressDeadlineSeconds`).
const PATIENCE: Duration = Duration::from_secs(600);

/// `None` when it is ready.
pub fn diagnose(case: &Case, pod: &Value, now: Timestamp) -> Option<Diagnosis> {
    if let Some(going) = terminating(pod) {
        return Some(going);
    }
    ended(pod)
        .or_else(|| unscheduled(case, pod))
        .or_else(|| container_faults(case, pod))
        .or_else(|| not_started(case, pod, now))
        .or_else(|| not_ready(case, pod))
}

fn ended(pod: &Value) -> Option<Diagnosis> {
    let status = &pod["status"];
    match text(&status["phase"]) {
        "Succeeded" => {
            Some(Diagnosis::new(Cause::Done, "it has done its work and ended with exit code 0."))
        }
        "Failed" => {
            let reason = text(&status["reason"]);
            let exits: Vec<String> = list(&status["containerStatuses"])
                .iter()
                .filter_map(|c| Some((text(&c["name"]), c["state"]["terminated"].as_object()?)))
                .map(|(name, end)| {
                    format!("container {name} {}", exit(&Value::Object(end.clone())))
                })
                .collect();
            let why = match reason {
                "" => format!("{}, and it is not to be restarted", exits.join(", ")),
                reason => format!("{reason}: {}", text(&status["message"])),
            };
            Some(
                Diagnosis::new(Cause::Ended, format!("it has failed for good: {why}.")).with(exits),
            )
        }
        _ => None,
    }
}

/// `was killed for want of memory` or `exited with code 3`.
fn exit(end: &Value) -> String {
    match (text(&end["reason"]), end["signal"].as_i64(), number(&end["exitCode"])) {
        ("OOMKilled", _, _) => "was killed because it used more memory than its limit".into(),
        (_, Some(signal), _) if signal > 0 => format!("was ended by signal {signal}"),
        (_, _, code @ 129..=192) => format!("exited with code {code} (signal {})", code - 128),
        (_, _, code) => format!("exited with code {code}"),
    }
}

fn unscheduled(case: &Case, pod: &Value) -> Option<Diagnosis> {
    if !text(&pod["spec"]["nodeName"]).is_empty() {
        return None;
    }
    let held = condition(pod, "PodScheduled");
    let gates: Vec<&str> =
        list(&pod["spec"]["schedulingGates"]).iter().map(|gate| text(&gate["name"])).collect();
    if !gates.is_empty() {
        let sentence =
            format!("it may not be scheduled before its gate {} is lifted.", gates.join(", "));
        return Some(Diagnosis::new(Cause::Wanted, sentence));
    }
    let Some(held) = held.filter(|held| held["status"] == "False") else {
        let scheduler = text(&pod["spec"]["schedulerName"]);
        return Some(match scheduler {
            "" | "default-scheduler" => {
                Diagnosis::new(Cause::UnderWay, "it waits to be scheduled.")
            }
            other => Diagnosis::new(
                Cause::Unschedulable,
                format!(
                    "it waits for a scheduler named {other}, and there is none of that name here."
                ),
            ),
        });
    };
    let message = text(&held["message"]);
    let short = shortages(case, pod);
    let why = match short.first() {
        Some(short) => short.clone(),
        None => message
            .split(" preemption:")
            .next()
            .unwrap_or_default()
            .trim_end_matches('.')
            .to_owned(),
    };
    let sentence = format!("it fits on no node: {why}.");
    Some(
        Diagnosis::new(Cause::Unschedulable, sentence)
            .with(short.into_iter().skip(1))
            .with([condition_line(held)]),
    )
}

/// What is missing, and how much of it, on each node.
fn shortages(case: &Case, pod: &Value) -> Vec<String> {
    let Ok(wanting) = serde_json::from_value::<core::Pod>(pod.clone()) else { return Vec::new() };
    let demand = Demand::of(&wanting);
    let mut lines = Vec::new();
    for node in &case.nodes {
        let Ok(node) = serde_json::from_value::<core::Node>(node.clone()) else { continue };
        let mut view = NodeView::of(&node);
        for bound in &case.bound {
            let Ok(bound) = serde_json::from_value::<core::Pod>(bound.clone()) else { continue };
            let on = bound.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            let phase = bound.status.as_ref().and_then(|status| status.phase.as_deref());
            if on == Some(&view.name) && !matches!(phase, Some("Succeeded" | "Failed")) {
                view.take(&Demand::of(&bound));
            }
        }
        for (name, wanted) in &demand.requests {
            let all = view.allocatable.get(name).copied().unwrap_or(0);
            let free = all - view.used.get(name).copied().unwrap_or(0);
            if *wanted > free {
                lines.push(format!(
                    "it asks for {} {name}, and node {} has {} of {} free",
                    amount(name, *wanted),
                    view.name,
                    amount(name, free.max(0)),
                    amount(name, all)
                ));
            }
        }
    }
    lines
}

/// Bytes in the largest unit that keeps them readable, everything else as a decimal number.
fn amount(name: &str, nanos: i128) -> String {
    let units = nanos as f64 / 1e9;
    if !matches!(name, "memory" | "ephemeral-storage") && !name.starts_with("hugepages-") {
        return format!("{}", (units * 1000.0).round() / 1000.0);
    }
    let (size, unit) = match units {
        u if u >= 1073741824.0 => (u / 1073741824.0, "Gi"),
        u if u >= 1048576.0 => (u / 1048576.0, "Mi"),
        u if u >= 1024.0 => (u / 1024.0, "Ki"),
        u => (u, ""),
    };
    format!("{}{unit}", (size * 10.0).round() / 10.0)
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let status = &pod["status"];
    list(&status["initContainerStatuses"]).iter().chain(list(&status["containerStatuses"]))
}

fn image_of<'a>(pod: &'a Value, name: &str) -> &'a str {
    let spec = &pod["spec"];
    let mut all = list(&spec["initContainers"]).iter().chain(list(&spec["containers"]));
    all.find(|container| container["name"] == name)
        .map_or("", |container| text(&container["image"]))
}

fn container_faults(case: &Case, pod: &Value) -> Option<Diagnosis> {
    containers(pod).find_map(|container| {
        let waiting = &container["state"]["waiting"];
        waiting.is_object().then(|| container_fault(case, pod, container, waiting)).flatten()
    })
}

fn container_fault(
    case: &Case,
    pod: &Value,
    container: &Value,
    waiting: &Value,
) -> Option<Diagnosis> {
    let (name, message) = (text(&container["name"]), text(&waiting["message"]));
    let image = image_of(pod, name);
    let state = format!("container {name} waits: {}: {message}", text(&waiting["reason"]));
    let (cause, sentence) = match text(&waiting["reason"]) {
        "ErrImagePull" | "ImagePullBackOff" => {
            // The reason for waiting says that it waits; the event before says why.
            let event = told(case, pod, &["Failed"])
                .map(|event| text(&event["message"]))
                .filter(|told| told.contains("image"));
            let detail =
                if message.starts_with("Back-off") { event.unwrap_or(message) } else { message };
            let refused = ["denied", "unauthorized", "authentication", "401", "403"];
            let lower = detail.to_lowercase();
            match refused.iter().any(|word| lower.contains(word)) {
                true => (
                    Cause::ImageRefused,
                    format!(
                        "the registry does not let us have the image {image} of container {name}: {}",
                        last(detail)
                    ),
                ),
                false => (
                    Cause::ImageMissing,
                    format!(
                        "the image {image} of container {name} cannot be had: {}",
                        last(detail)
                    ),
                ),
            }
        }
        "ErrImageNeverPull" => (
            Cause::ImageMissing,
            format!(
                "the image {image} of container {name} is not on this host, and imagePullPolicy Never forbids to fetch it."
            ),
        ),
        "InvalidImageName" => (
            Cause::ImageNameInvalid,
            format!("\"{image}\", the image of container {name}, is no image name."),
        ),
        "CreateContainerConfigError" => (
            Cause::ConfigurationMissing,
            format!("container {name} cannot be configured: {message}."),
        ),
        "CreateContainerError" | "RunContainerError" => (
            Cause::CannotStart,
            format!("container {name} cannot be started: {}.", message.trim_end_matches('.')),
        ),
        "CrashLoopBackOff" => return Some(crash(case, pod, container)),
        _ => return None,
    };
    Some(Diagnosis::new(cause, sentence).with([state]).with(newest_warning(case, pod)))
}

/// The end of a chain of errors, which names the cause.
fn last(message: &str) -> String {
    let message = message.trim().trim_end_matches('.');
    format!("{message}.")
}

fn crash(case: &Case, pod: &Value, container: &Value) -> Diagnosis {
    let name = text(&container["name"]);
    let end = match &container["state"]["terminated"] {
        Value::Null => &container["lastState"]["terminated"],
        end => end,
    };
    let restarts = number(&container["restartCount"]);
    let evidence = format!("container {name} has been restarted {restarts} times");
    if let Some(killed) = killed_by_probe(case, pod, name, end) {
        return killed.with([evidence]);
    }
    let (cause, message) = match text(&end["reason"]) {
        "OOMKilled" => (Cause::OutOfMemory, String::new()),
        "StartError" | "ContainerCannotRun" => {
            (Cause::CannotStart, text(&end["message"]).to_owned())
        }
        _ => (Cause::Crashes, text(&end["message"]).trim().to_owned()),
    };
    if cause == Cause::CannotStart && !message.is_empty() {
        let sentence = format!("container {name} cannot be started: {message}.");
        return Diagnosis::new(cause, sentence).with([evidence]);
    }
    let said = match message.as_str() {
        "" => String::new(),
        message => format!(": {message}"),
    };
    let sentence =
        format!("container {name} {}{said}; it is restarted with growing pauses.", exit(end));
    Diagnosis::new(cause, sentence).with([evidence])
}

/// A container that is restarted because a probe fails: its newest end was asked for by that.
fn killed_by_probe(case: &Case, pod: &Value, container: &str, end: &Value) -> Option<Diagnosis> {
    let events = events_of(case, pod);
    let killed = |event: &&&Value, word: &str| {
        let begins = format!("Container {container} failed {word} probe");
        event["reason"] == "Killing"
            && text(&event["message"]).starts_with(&begins)
            && is_within(event, end)
    };
    let (cause, word, killing) =
        [(Cause::LivenessFails, "liveness"), (Cause::StartupFails, "startup")]
            .into_iter()
            .find_map(|(cause, word)| {
                let killing = events.iter().rev().find(|event| killed(event, word))?;
                Some((cause, word, *killing))
            })?;
    let failed = failed_probe(case, pod, container, word);
    let answer = failed.map_or_else(|| "its answer is not known".to_owned(), answer);
    let sentence =
        format!("container {container} is restarted because its {word} probe fails: {answer}.");
    Some(Diagnosis::new(cause, sentence).with(failed.map(event_line)).with([event_line(killing)]))
}

/// Whether an event was told during the run of a container that ended so. Both have whole seconds.
fn is_within(event: &Value, end: &Value) -> bool {
    let time = |value: &Value| text(value).parse::<Timestamp>().ok();
    let (began, ended) = (time(&end["startedAt"]), time(&end["finishedAt"]));
    time(&event["lastTimestamp"]).is_some_and(|told| {
        began.is_some_and(|began| told >= began) && ended.is_some_and(|ended| told <= ended)
    })
}

/// The newest event of a probe of this container that has failed.
fn failed_probe<'a>(case: &'a Case, pod: &Value, container: &str, word: &str) -> Option<&'a Value> {
    events_of(case, pod).into_iter().rev().find(|event| {
        event["reason"] == "Unhealthy"
            && text(&event["message"]).to_lowercase().starts_with(word)
            && is_about(event, container)
    })
}

/// An event about a container names it in its field path.
fn is_about(event: &Value, container: &str) -> bool {
    match text(&event["involvedObject"]["fieldPath"]) {
        "" => true,
        path => path.ends_with(&format!("{{{container}}}")),
    }
}

/// What a probe got, from the event that tells of it.
fn answer(failed: &Value) -> String {
    let message = text(&failed["message"]);
    let answer = message.split_once(':').map_or(message, |(_, answer)| answer);
    match answer.trim().trim_end_matches('.') {
        "" => "the command failed and printed nothing".to_owned(),
        answer => answer.to_owned(),
    }
}

fn newest_warning(case: &Case, pod: &Value) -> Option<String> {
    let events = events_of(case, pod);
    events.into_iter().rev().find(|event| event["type"] == "Warning").map(event_line)
}

/// Nothing of it runs yet.
fn not_started(case: &Case, pod: &Value, now: Timestamp) -> Option<Diagnosis> {
    let has_waiting = containers(pod).any(|container| container["state"]["waiting"].is_object());
    let has_none = containers(pod).next().is_none();
    if !has_waiting && !has_none {
        return None;
    }
    if let Some(event) = told(case, pod, &["FailedMount", "FailedAttachVolume"]) {
        let sentence = format!("a volume is not to be had: {}", last(text(&event["message"])));
        return Some(Diagnosis::new(Cause::VolumeMissing, sentence).with([event_line(event)]));
    }
    if let Some(event) = told(case, pod, &["FailedCreatePodSandBox", "NetworkNotReady"]) {
        let sentence = format!("its network could not be made: {}", last(text(&event["message"])));
        return Some(Diagnosis::new(Cause::NetworkFailed, sentence).with([event_line(event)]));
    }
    if let Some(unfinished) = before_its_containers(case, pod, now) {
        return Some(unfinished);
    }
    let newest = events_of(case, pod).last().map(|event| event_line(event));
    Some(Diagnosis::new(Cause::UnderWay, "it is being started.").with(newest))
}

/// The first of its init containers and sidecars that the others still wait for.
fn before_its_containers(case: &Case, pod: &Value, now: Timestamp) -> Option<Diagnosis> {
    let specs = list(&pod["spec"]["initContainers"]);
    let is_sidecar = |name: &Value| {
        specs.iter().any(|spec| spec["name"] == *name && spec["restartPolicy"] == "Always")
    };
    let init =
        list(&pod["status"]["initContainerStatuses"]).iter().find(|container| match is_sidecar(
            &container["name"],
        ) {
            true => container["started"] != true,
            false => container["state"]["terminated"]["exitCode"] != 0,
        })?;
    let name = text(&init["name"]);
    let is_sidecar = is_sidecar(&init["name"]);
    let warning = newest_warning(case, pod);
    let end = &init["state"]["terminated"];
    if end.is_object() {
        let sentence = format!("its init container {name} {}.", exit(end));
        return Some(Diagnosis::new(Cause::Crashes, sentence).with(warning));
    }
    if let Some(failed) = failed_probe(case, pod, name, "startup").filter(|_| is_sidecar) {
        let sentence =
            format!("the startup probe of its sidecar {name} fails: {}.", answer(failed));
        return Some(Diagnosis::new(Cause::StartupFails, sentence).with([event_line(failed)]));
    }
    let (kind, not_yet) = match is_sidecar {
        true => ("sidecar", "started up"),
        false => ("init container", "ended"),
    };
    let others = behind(pod, name);
    let Ok(since) = text(&init["state"]["running"]["startedAt"]).parse::<Timestamp>() else {
        let sentence = format!("its {kind} {name} does not run yet, and {others} for it.");
        return Some(Diagnosis::new(Cause::UnderWay, sentence).with(warning));
    };
    let span = now.since(since);
    let sentence = format!(
        "its {kind} {name} has been running for {} (since {}) and has not {not_yet}, and {others} for it.",
        human_duration(span.as_secs().cast_signed()),
        since.to_seconds_text(),
    );
    let cause = if span < PATIENCE { Cause::UnderWay } else { Cause::NeverDone };
    let hint = format!(
        "joey logs {} -n {} -c {name} shows what it says",
        text(&pod["metadata"]["name"]),
        text(&pod["metadata"]["namespace"])
    );
    Some(Diagnosis::new(cause, sentence).with(warning).with([hint]))
}

/// The containers that may not start before this one is done, with their verb: `after and web wait`.
fn behind(pod: &Value, name: &str) -> String {
    let spec = &pod["spec"];
    let after = list(&spec["initContainers"]).iter().skip_while(|c| c["name"] != name).skip(1);
    let names: Vec<&str> =
        after.chain(list(&spec["containers"])).map(|container| text(&container["name"])).collect();
    match names.split_last() {
        Some((last, [])) => format!("{last} waits"),
        Some((last, others)) => format!("{} and {last} wait", others.join(", ")),
        None => "the others wait".to_owned(),
    }
}

/// It runs, and is not ready.
fn not_ready(case: &Case, pod: &Value) -> Option<Diagnosis> {
    let ready = condition(pod, "Ready");
    if ready.is_some_and(|ready| ready["status"] == "True") {
        return None;
    }
    // Between two crashes.
    if let Some(container) =
        containers(pod).find(|c| c["state"]["terminated"].is_object() && c["ready"] != true)
        && list(&pod["status"]["containerStatuses"]).contains(container)
    {
        return Some(crash(case, pod, container));
    }
    let waiting_for = list(&pod["spec"]["readinessGates"]).iter().find(|gate| {
        condition(pod, text(&gate["conditionType"])).is_none_or(|held| held["status"] != "True")
    });
    let unready: Vec<&Value> = list(&pod["status"]["containerStatuses"])
        .iter()
        .filter(|container| container["ready"] != true)
        .collect();
    let Some(container) = unready.first() else {
        return Some(match waiting_for {
            Some(gate) => Diagnosis::new(
                Cause::Wanted,
                format!("its readiness gate {} has not been opened.", text(&gate["conditionType"])),
            ),
            None => Diagnosis::new(Cause::UnderWay, "it is about to be ready.")
                .with(ready.map(condition_line)),
        });
    };
    let name = text(&container["name"]);
    let evidence = newest_warning(case, pod);
    for (cause, word, field) in [
        (Cause::StartupFails, "startup", "startupProbe"),
        (Cause::ReadinessFails, "readiness", "readinessProbe"),
    ] {
        if cause == Cause::StartupFails && container["started"] == true {
            continue;
        }
        if let Some(failed) = failed_probe(case, pod, name, word) {
            let answer = answer(failed);
            let sentence = format!("the {word} probe of container {name} fails: {answer}.");
            return Some(Diagnosis::new(cause, sentence).with(evidence));
        }
        let has_probe = list(&pod["spec"]["containers"])
            .iter()
            .any(|c| c["name"] == name && c[field].is_object());
        if has_probe {
            let sentence = format!("the {word} probe of container {name} has not succeeded yet.");
            return Some(Diagnosis::new(Cause::UnderWay, sentence).with(evidence));
        }
    }
    let sentence = format!("container {name} runs and is not ready yet.");
    Some(Diagnosis::new(Cause::UnderWay, sentence).with(evidence))
}

/// The sentence about a pod that is asked about itself.
pub fn about_itself(pod: &Value, diagnosis: Diagnosis) -> Diagnosis {
    let sentence = match (diagnosis.cause, diagnosis.sentence.strip_prefix("it ")) {
        (Cause::Done, Some(done)) => format!("{} {done}", named(pod)),
        (_, _) => format!("{} is not ready: {}", named(pod), diagnosis.sentence),
    };
    Diagnosis { sentence, ..diagnosis }
}
