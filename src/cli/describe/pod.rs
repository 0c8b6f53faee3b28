//! How a pod is described.

use serde_json::Value;

use super::container::{self, Living};
use super::text::{Clock, Text, controller, given, items, number, plain};
use super::{template, volumes};

pub fn lay_out(text: &mut Text, pod: &Value, clock: &Clock) {
    head(text, pod, clock);
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let living = Some(Living { pod, clock });
    if !items(&spec["initContainers"]).is_empty() {
        container::lay_out(text, "Init Containers", spec, "initContainer", living);
    }
    container::lay_out(text, "Containers", spec, "container", living);
    if !items(&spec["ephemeralContainers"]).is_empty() {
        container::lay_out(text, "Ephemeral Containers", spec, "ephemeralContainer", living);
    }
    conditions(text, spec, status);
    volumes::lay_out(text, &spec["volumes"], "");
    text.field(0, "QoS Class", plain(&status["qosClass"]));
    text.labels("Node-Selectors", &spec["nodeSelector"]);
    template::tolerations(text, "Tolerations", &spec["tolerations"]);
    template::spread(text, &spec["topologySpreadConstraints"], "");
}

fn head(text: &mut Text, pod: &Value, clock: &Clock) {
    let (metadata, spec, status) = (&pod["metadata"], &pod["spec"], &pod["status"]);
    text.field(0, "Name", plain(&metadata["name"]));
    text.field(0, "Namespace", plain(&metadata["namespace"]));
    if let Some(priority) = spec["priority"].as_i64() {
        text.field(0, "Priority", priority);
    }
    for (title, key) in [
        ("Priority Class Name", "priorityClassName"),
        ("Runtime Class Name", "runtimeClassName"),
        ("Service Account", "serviceAccountName"),
    ] {
        if let Some(value) = given(&spec[key]) {
            text.field(0, title, value);
        }
    }
    let node = given(&spec["nodeName"]).map(|node| format!("{node}/{}", plain(&status["hostIP"])));
    text.field(0, "Node", node.as_deref().unwrap_or("<none>"));
    if !status["startTime"].is_null() {
        text.field(0, "Start Time", clock.date(&status["startTime"]));
    }
    text.labels("Labels", &metadata["labels"]);
    text.annotations("Annotations", &metadata["annotations"]);
    let phase = plain(&status["phase"]);
    let has_ended = ["Failed", "Succeeded"].contains(&phase.as_str());
    match metadata["deletionTimestamp"].is_null() || has_ended {
        true => text.field(0, "Status", phase),
        false => {
            let age = clock.age(&metadata["deletionTimestamp"]);
            text.field(0, "Status", format_args!("Terminating (lasts {age})"));
            let grace = number(&metadata["deletionGracePeriodSeconds"]);
            text.field(0, "Termination Grace Period", format_args!("{grace}s"));
        }
    }
    for (title, key) in [("Reason", "reason"), ("Message", "message")] {
        if let Some(value) = given(&status[key]) {
            text.field(0, title, value);
        }
    }
    container::seccomp(text, &spec["securityContext"]["seccompProfile"], 0);
    text.field(0, "IP", plain(&status["podIP"]));
    match items(&status["podIPs"]) {
        [] => text.field(0, "IPs", "<none>"),
        addresses => {
            text.line(0, "IPs:");
            addresses.iter().for_each(|address| text.field(1, "IP", plain(&address["ip"])));
        }
    }
    if let Some(controller) = controller(metadata) {
        text.field(0, "Controlled By", controller);
    }
    if let Some(node) = given(&status["nominatedNodeName"]) {
        text.field(0, "NominatedNodeName", node);
    }
}

fn conditions(text: &mut Text, spec: &Value, status: &Value) {
    let conditions = items(&status["conditions"]);
    let gates = items(&spec["readinessGates"]);
    if !gates.is_empty() {
        text.line(0, "Readiness Gates:");
        text.line(1, "Type\tStatus");
    }
    for gate in gates {
        let kind = &gate["conditionType"];
        let found = conditions.iter().find(|condition| &condition["type"] == kind);
        let status = found.map_or("<none>".to_owned(), |condition| plain(&condition["status"]));
        text.line(1, format_args!("{} \t{status} ", plain(kind)));
    }
    if !conditions.is_empty() {
        text.line(0, "Conditions:");
        text.line(1, "Type\tStatus");
    }
    for condition in conditions {
        let (kind, status) = (plain(&condition["type"]), plain(&condition["status"]));
        text.line(1, format_args!("{kind} \t{status} "));
    }
}
