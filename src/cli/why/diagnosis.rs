//! Why something is not as declared: from an object, what belongs to it and what was told of it, to one sentence.
//!
//! Pure. It never asks for more than it is given; what has to be gathered is [`Case`].

use serde_json::Value;

use crate::model::selector::LabelSelector;
use crate::model::time::Timestamp;

mod pod;

/// Everything a diagnosis looks at. Objects are as the API shows them.
#[derive(Debug, Default)]
pub struct Case {
    pub object: Value,
    /// ReplicaSets of the namespace.
    pub sets: Vec<Value>,
    /// Pods of the namespace.
    pub pods: Vec<Value>,
    /// Events of the namespace.
    pub events: Vec<Value>,
    pub nodes: Vec<Value>,
    /// Pods that run on a node, of all namespaces.
    pub bound: Vec<Value>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Diagnosis {
    /// For scripts and for the suite's score; the sentence is for people.
    pub cause: Cause,
    pub sentence: String,
    /// What the sentence rests on, a line each.
    pub evidence: Vec<String>,
}

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Nothing: it is as declared.
    AsDeclared,
    /// It is on its way and nothing has gone wrong so far.
    UnderWay,
    /// Somebody wants it so: paused, scaled to nothing, gated.
    Wanted,
    ImageMissing,
    ImageRefused,
    ImageNameInvalid,
    /// What must end before the containers may start runs for longer than is plausible.
    NeverDone,
    Crashes,
    OutOfMemory,
    CannotStart,
    ConfigurationMissing,
    VolumeMissing,
    NetworkFailed,
    Unschedulable,
    ReadinessFails,
    LivenessFails,
    StartupFails,
    /// It has ended well, as it was to.
    Done,
    Ended,
    Terminating,
    SelectsNothing,
    NothingReady,
    Forbidden,
    RolloutStuck,
    NotSeen,
    ConditionFalse,
}

impl Diagnosis {
    fn new(cause: Cause, sentence: impl Into<String>) -> Diagnosis {
        Diagnosis { cause, sentence: sentence.into(), evidence: Vec::new() }
    }

    fn with(mut self, evidence: impl IntoIterator<Item = String>) -> Diagnosis {
        for line in evidence {
            if !line.is_empty() && !self.evidence.contains(&line) {
                self.evidence.push(line);
            }
        }
        self
    }
}

/// Says why `case.object` is not as declared.
pub fn diagnose(case: &Case, now: Timestamp) -> Diagnosis {
    let object = &case.object;
    let diagnosis = match text(&object["kind"]) {
        "Pod" => pod::diagnose(case, object, now).map(|found| match found.cause {
            Cause::Terminating => found,
            _ => pod::about_itself(object, found),
        }),
        "Deployment" => deployment(case, now),
        "ReplicaSet" => replica_set(case, object, now),
        "Service" => service(case, now),
        _ => None,
    };
    diagnosis.or_else(|| general(case)).unwrap_or_else(|| {
        Diagnosis::new(Cause::AsDeclared, format!("{} is as declared.", named(object)))
    })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// `Deployment web`
fn named(object: &Value) -> String {
    format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    list(&object["status"]["conditions"]).iter().find(|condition| condition["type"] == name)
}

fn condition_line(condition: &Value) -> String {
    format!(
        "condition {}={} {}: {}",
        text(&condition["type"]),
        text(&condition["status"]),
        text(&condition["reason"]),
        text(&condition["message"])
    )
}

/// The events about an object, newest last.
fn events_of<'a>(case: &'a Case, object: &Value) -> Vec<&'a Value> {
    let uid = &object["metadata"]["uid"];
    let mut events: Vec<&Value> =
        case.events.iter().filter(|event| &event["involvedObject"]["uid"] == uid).collect();
    events.sort_by_key(|event| text(&event["lastTimestamp"]).to_owned());
    events
}

fn event_line(event: &Value) -> String {
    let times = match number(&event["count"]) {
        count if count > 1 => format!(" ({count} times)"),
        _ => String::new(),
    };
    format!("event {}{times}: {}", text(&event["reason"]), text(&event["message"]))
}

/// The newest event with one of these reasons.
fn told<'a>(case: &'a Case, object: &Value, reasons: &[&str]) -> Option<&'a Value> {
    let events = events_of(case, object);
    events.into_iter().rev().find(|event| reasons.contains(&text(&event["reason"])))
}

fn owner_uid(object: &Value) -> &str {
    let owners = list(&object["metadata"]["ownerReferences"]);
    owners.iter().find(|o| o["controller"] == true).map_or("", |owner| text(&owner["uid"]))
}

fn is_going(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// What keeps an object that is being deleted.
fn terminating(object: &Value) -> Option<Diagnosis> {
    let since = object["metadata"]["deletionTimestamp"].as_str()?;
    let gone = format!("deleted for {since}");
    if let Some((held, what)) = remains(object) {
        let sentence = format!("{} is being deleted and waits for {what}.", named(object));
        let evidence = [condition_line(held), gone];
        return Some(Diagnosis::new(Cause::Terminating, sentence).with(evidence));
    }
    let finalizers: Vec<&str> = list(&object["metadata"]["finalizers"])
        .iter()
        .chain(list(&object["spec"]["finalizers"]))
        .map(text)
        .collect();
    let why = match finalizers.is_empty() {
        true => "has not ended yet".to_owned(),
        false => format!("waits for the finalizer {}", finalizers.join(", ")),
    };
    let sentence = format!("{} is being deleted and {why}.", named(object));
    Some(Diagnosis::new(Cause::Terminating, sentence).with([gone]))
}

/// What is still in a namespace that goes, as its conditions tell.
fn remains(namespace: &Value) -> Option<(&Value, String)> {
    let told = [
        ("NamespaceFinalizersRemaining", "the finalizers of what is in it"),
        ("NamespaceContentRemaining", "what is still in it"),
    ];
    told.into_iter().find_map(|(name, what)| {
        let held = condition(namespace, name).filter(|held| held["status"] == "True")?;
        let (_, which) = text(&held["message"]).split_once("remaining: ")?;
        Some((held, format!("{what}: {which}")))
    })
}

fn deployment(case: &Case, now: Timestamp) -> Option<Diagnosis> {
    let (object, name) = (&case.object, named(&case.object));
    if let Some(going) = terminating(object) {
        return Some(going);
    }
    let (spec, status) = (&object["spec"], &object["status"]);
    let desired = spec["replicas"].as_i64().unwrap_or(1);
    if number(&status["observedGeneration"]) < number(&object["metadata"]["generation"]) {
        let sentence =
            format!("{name} has not been looked at since it was changed: is the daemon up?");
        return Some(Diagnosis::new(Cause::NotSeen, sentence));
    }
    let uid = text(&object["metadata"]["uid"]);
    let own: Vec<&Value> = case.sets.iter().filter(|set| owner_uid(set) == uid).collect();
    let newest = own.iter().max_by_key(|set| revision(set)).copied();
    if let Some(failed) = refused(object, newest) {
        return Some(failed);
    }
    let is_paused = spec["paused"] == true;
    let updated = number(&status["updatedReplicas"]);
    let available = number(&status["availableReplicas"]);
    if updated == desired && available == desired && number(&status["replicas"]) == desired {
        return match desired {
            _ if is_paused => Some(paused(&name)),
            0 => Some(Diagnosis::new(Cause::Wanted, format!("{name} is scaled to 0."))),
            _ => None,
        };
    }
    let timed_out = condition(object, "Progressing")
        .filter(|held| held["reason"] == "ProgressDeadlineExceeded");
    // The newest template's pods tell; when all of them serve, those of the others do.
    let fault = newest.and_then(|set| fault_of(case, set, now)).or_else(|| {
        own.iter().filter(|set| Some(**set) != newest).find_map(|set| fault_of(case, set, now))
    });
    // What merely takes its time is no fault, and while it is paused it may take for ever.
    let fault = fault.filter(|(_, fault)| !is_paused || fault.cause != Cause::UnderWay);
    if is_paused && fault.is_none() {
        return Some(paused(&name));
    }
    let images = newest.map(images).unwrap_or_default();
    let old = available - newest.map_or(0, |set| number(&set["status"]["availableReplicas"]));
    let serve = match old {
        1.. => format!(" {old} pods of the version before still serve."),
        _ => String::new(),
    };
    let stand = format!("{updated} of {desired} replicas are updated and {available} available");
    let evidence = [timed_out.map(condition_line).unwrap_or_default(), format!("status: {stand}")];
    Some(match fault {
        Some((pod, fault)) => {
            let how = if timed_out.is_some() { "is stuck" } else { "does not get on" };
            let also = if is_paused { " And it is paused." } else { "" };
            let sentence = format!(
                "{name} {how} at {images}: {stand}, because pod {pod}: {}{serve}{also}",
                fault.sentence
            );
            // What is under way and has used up the time it was given has gone wrong all the same.
            let cause = match (fault.cause, timed_out) {
                (Cause::UnderWay, Some(_)) => Cause::RolloutStuck,
                (cause, _) => cause,
            };
            let paused = is_paused.then(|| IS_PAUSED.to_owned());
            let evidence = evidence.into_iter().chain(paused);
            Diagnosis::new(cause, sentence).with(evidence).with(fault.evidence)
        }
        None if timed_out.is_some() => {
            let sentence =
                format!("{name} has made no progress within its deadline: {stand}.{serve}");
            Diagnosis::new(Cause::RolloutStuck, sentence).with(evidence)
        }
        None => {
            let sentence = format!("{name} is being rolled out: {stand}.{serve}");
            Diagnosis::new(Cause::UnderWay, sentence).with(evidence)
        }
    })
}

const IS_PAUSED: &str = "spec.paused: true";

fn paused(name: &str) -> Diagnosis {
    let sentence = format!("{name} is paused, so changes to it are not rolled out.");
    Diagnosis::new(Cause::Wanted, sentence).with([IS_PAUSED.to_owned()])
}

fn revision(set: &Value) -> i64 {
    let annotations = &set["metadata"]["annotations"];
    text(&annotations["deployment.kubernetes.io/revision"]).parse().unwrap_or(0)
}

fn images(set: &Value) -> String {
    let containers = list(&set["spec"]["template"]["spec"]["containers"]);
    containers.iter().map(|container| text(&container["image"])).collect::<Vec<_>>().join(", ")
}

/// Pods that could not even be created.
fn refused(object: &Value, newest: Option<&Value>) -> Option<Diagnosis> {
    let set = newest.and_then(|set| condition(set, "ReplicaFailure"));
    let held = condition(object, "ReplicaFailure").or(set).or_else(|| {
        condition(object, "Progressing").filter(|held| held["reason"] == "ReplicaSetCreateError")
    })?;
    let message = text(&held["message"]);
    let why = match message.split_once("exceeded quota: ") {
        Some((_, quota)) => format!("quota {quota}"),
        None => message.to_owned(),
    };
    let sentence = format!("{} may not create its pods: {why}.", named(object));
    Some(Diagnosis::new(Cause::Forbidden, sentence).with([condition_line(held)]))
}

fn replica_set(case: &Case, set: &Value, now: Timestamp) -> Option<Diagnosis> {
    if let Some(going) = terminating(set) {
        return Some(going);
    }
    if let Some(failed) = refused(set, None) {
        return Some(failed);
    }
    let desired = set["spec"]["replicas"].as_i64().unwrap_or(1);
    let available = number(&set["status"]["availableReplicas"]);
    if desired == 0 {
        return Some(Diagnosis::new(Cause::Wanted, format!("{} is scaled to 0.", named(set))));
    }
    if available >= desired {
        return None;
    }
    let stand = format!("{available} of {desired} replicas are available");
    Some(match fault_of(case, set, now) {
        Some((pod, fault)) => {
            let sentence =
                format!("{}: {stand}, because pod {pod}: {}", named(set), fault.sentence);
            Diagnosis::new(fault.cause, sentence).with(fault.evidence)
        }
        None => Diagnosis::new(Cause::UnderWay, format!("{}: {stand} so far.", named(set))),
    })
}

/// The pod of a set that is worst off, and why.
fn fault_of(case: &Case, set: &Value, now: Timestamp) -> Option<(String, Diagnosis)> {
    let uid = text(&set["metadata"]["uid"]);
    let own = case.pods.iter().filter(|pod| owner_uid(pod) == uid && !is_going(pod));
    own.filter_map(|pod| {
        let fault = pod::diagnose(case, pod, now)?;
        Some((text(&pod["metadata"]["name"]).to_owned(), fault))
    })
    // What is merely under way explains nothing when another has gone wrong.
    .min_by_key(|(_, fault)| fault.cause == Cause::UnderWay)
}

fn service(case: &Case, now: Timestamp) -> Option<Diagnosis> {
    let (object, name) = (&case.object, named(&case.object));
    if let Some(going) = terminating(object) {
        return Some(going);
    }
    let selector =
        object["spec"]["selector"].as_object().filter(|selector| !selector.is_empty())?;
    let words: Vec<String> =
        selector.iter().map(|(key, value)| format!("{key}={}", text(value))).collect();
    let words = words.join(",");
    let matcher = LabelSelector::parse(&words).ok()?;
    let no_labels = serde_json::Map::new();
    let chosen: Vec<&Value> = case
        .pods
        .iter()
        .filter(|pod| matcher.matches(pod["metadata"]["labels"].as_object().unwrap_or(&no_labels)))
        .collect();
    if chosen.is_empty() {
        let near = case.pods.iter().filter_map(|pod| {
            let labels = pod["metadata"]["labels"].as_object()?;
            let shared = selector.keys().any(|key| labels.contains_key(key));
            shared.then(|| {
                let held: Vec<String> = selector
                    .keys()
                    .map(|key| format!("{key}={}", labels.get(key).map_or("(none)", text)))
                    .collect();
                format!("pod {} has {}", text(&pod["metadata"]["name"]), held.join(","))
            })
        });
        let sentence =
            format!("{name} has no pods: its selector {words} matches none in this namespace.");
        return Some(Diagnosis::new(Cause::SelectsNothing, sentence).with(near.take(3)));
    }
    for port in list(&object["spec"]["ports"]) {
        let Some(wanted) = port["targetPort"].as_str() else { continue };
        let has = |pod: &&Value| {
            let containers = list(&pod["spec"]["containers"]).iter();
            containers.flat_map(|c| list(&c["ports"])).any(|port| port["name"] == wanted)
        };
        if !chosen.iter().any(has) {
            let sentence = format!(
                "{name} forwards to the port named {wanted}, which none of its {} pods has.",
                chosen.len()
            );
            return Some(Diagnosis::new(Cause::SelectsNothing, sentence));
        }
    }
    let faults: Vec<_> = chosen.iter().map(|pod| (pod, pod::diagnose(case, pod, now))).collect();
    if faults.iter().any(|(_, fault)| fault.is_none()) {
        return None;
    }
    let (pod, fault) = faults.into_iter().find_map(|(pod, fault)| Some((pod, fault?)))?;
    let sentence = format!(
        "{name} has no ready pod among {}: pod {}: {}",
        chosen.len(),
        text(&pod["metadata"]["name"]),
        fault.sentence
    );
    Some(Diagnosis::new(Cause::NothingReady, sentence).with(fault.evidence))
}

/// Any kind: its deletion, a condition that is not as it should be, a warning.
fn general(case: &Case) -> Option<Diagnosis> {
    let object = &case.object;
    if matches!(text(&object["kind"]), "Pod" | "Deployment" | "ReplicaSet" | "Service") {
        return None;
    }
    if let Some(going) = terminating(object) {
        return Some(going);
    }
    let bad_when_true = |name: &str| {
        name.ends_with("Pressure") || name.ends_with("Failure") || name == "NetworkUnavailable"
    };
    let wrong = list(&object["status"]["conditions"]).iter().find(|held| {
        let expected = if bad_when_true(text(&held["type"])) { "False" } else { "True" };
        text(&held["status"]) != expected
    });
    if let Some(held) = wrong {
        let sentence = format!(
            "{} is not {}: {}",
            named(object),
            text(&held["type"]),
            [text(&held["message"]), text(&held["reason"])]
                .into_iter()
                .find(|t| !t.is_empty())
                .unwrap_or("no reason is told")
        );
        return Some(Diagnosis::new(Cause::ConditionFalse, sentence).with([condition_line(held)]));
    }
    let warning =
        events_of(case, object).into_iter().rev().find(|event| event["type"] == "Warning")?;
    let sentence = format!("{}: {}", named(object), text(&warning["message"]));
    Some(Diagnosis::new(Cause::ConditionFalse, sentence).with([event_line(warning)]))
}

#[cfg(test)]
mod tests;
