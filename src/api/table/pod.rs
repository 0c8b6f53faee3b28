//! Pods: the one word that says how a pod is.
//!
//! It never judges health; it reads what the node reported.

use serde_json::{Value, json};

use super::column::{AGE, Column, NAME, string, wide};
use super::{Printer, age, is_true, items, name, number, or, text};
use crate::model::time::Timestamp;

pub(super) const PODS: Printer = Printer { columns: COLUMNS, cells };

const COLUMNS: &[Column] = &[
    NAME,
    string("Ready", "How many containers are ready, of how many."),
    string("Status", "The phase of the pod, or what keeps it from running."),
    string("Restarts", "How often its containers were restarted, and when last."),
    AGE,
    wide(string("IP", "The address of the pod.")),
    wide(string("Node", "The node the pod is bound to.")),
    wide(string("Nominated Node", "The node that makes room for the pod.")),
    wide(string("Readiness Gates", "How many readiness gates are open, of how many.")),
];

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summarize(pod);
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts > 0 => {
            let ago = super::age::human_duration(super::age::between(last, now));
            format!("{} ({ago} ago)", summary.restarts)
        }
        Some(_) | None => summary.restarts.to_string(),
    };
    vec![
        name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.status.into(),
        restarts.into(),
        age(pod, now),
        or(pod["status"]["podIPs"][0]["ip"].as_str().unwrap_or_default(), "<none>").into(),
        or(text(pod, &["spec", "nodeName"]), "<none>").into(),
        or(text(pod, &["status", "nominatedNodeName"]), "<none>").into(),
        readiness_gates(pod).into(),
    ]
}

/// What kubectl greys out: pods that will not run again.
pub(super) fn row_conditions(pod: &Value) -> Option<Value> {
    let phase = text(pod, &["status", "phase"]);
    let message = match phase {
        "Succeeded" => "The pod has completed successfully.",
        "Failed" => "The pod failed.",
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": phase, "message": message}]))
}

fn readiness_gates(pod: &Value) -> String {
    let gates = items(pod, &["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let is_open = |gate: &&Value| is_true(pod, text(gate, &["conditionType"]));
    format!("{}/{}", gates.iter().filter(is_open).count(), gates.len())
}

struct Summary {
    status: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

/// Restarts of some containers and when the last one ended before.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += number(container, &["restartCount"]);
        let finished = &container["lastState"]["terminated"]["finishedAt"];
        self.last = self.last.max(super::age::parse(finished));
    }
}

fn summarize(pod: &Value) -> Summary {
    let phase = text(pod, &["status", "phase"]);
    let reported = text(pod, &["status", "reason"]);
    let init_containers = items(pod, &["spec", "initContainers"]);
    let is_sidecar = |status: &Value| {
        init_containers
            .iter()
            .any(|c| c["name"] == status["name"] && c["restartPolicy"] == "Always")
    };
    let sidecars = init_containers.iter().filter(|c| c["restartPolicy"] == "Always").count();

    let mut status = or(reported, phase).to_owned();
    let is_gated = |c: &Value| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated";
    if items(pod, &["status", "conditions"]).iter().any(is_gated) {
        status = "SchedulingGated".to_owned();
    }
    let mut ready = 0;
    let mut restarts = Restarts::default();
    let mut sidecar_restarts = Restarts::default();
    let mut is_initializing = false;
    for (i, container) in items(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
        restarts.add(container);
        if is_sidecar(container) {
            sidecar_restarts.add(container);
        }
        let state = &container["state"];
        if !state["terminated"].is_null() && number(state, &["terminated", "exitCode"]) == 0 {
            continue;
        }
        if is_sidecar(container) && container["started"] == true {
            ready += usize::from(container["ready"] == true);
            continue;
        }
        let waiting = text(state, &["waiting", "reason"]);
        status = if !state["terminated"].is_null() {
            format!("Init:{}", end(&state["terminated"]))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{}", init_containers.len())
        };
        is_initializing = true;
        break;
    }

    if !is_initializing || is_true(pod, "Initialized") {
        restarts = sidecar_restarts;
        let mut is_running = false;
        for container in items(pod, &["status", "containerStatuses"]).iter().rev() {
            restarts.add(container);
            let state = &container["state"];
            let waiting = text(state, &["waiting", "reason"]);
            if !waiting.is_empty() {
                status = waiting.to_owned();
            } else if !state["terminated"].is_null() {
                status = end(&state["terminated"]);
            } else if container["ready"] == true && !state["running"].is_null() {
                is_running = true;
                ready += 1;
            }
        }
        // One container may be done while another still works.
        if status == "Completed" && is_running {
            status = if is_true(pod, "Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }

    if !pod["metadata"]["deletionTimestamp"].is_null() {
        if reported == "NodeLost" {
            status = "Unknown".to_owned();
        } else if !["Succeeded", "Failed"].contains(&phase) {
            status = "Terminating".to_owned();
        }
    }
    Summary {
        status,
        ready,
        total: items(pod, &["spec", "containers"]).len() + sidecars,
        restarts: restarts.count,
        last_restart: restarts.last,
    }
}

/// How a container ended: its reason, else its signal, else its exit code.
fn end(terminated: &Value) -> String {
    match (text(terminated, &["reason"]), number(terminated, &["signal"])) {
        ("", 0) => format!("ExitCode:{}", number(terminated, &["exitCode"])),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}
