//! Nodes.
//!
//! It never judges whether a node is well.

use std::collections::BTreeSet;

use serde_json::Value;

use super::column::{AGE, Column, NAME, string, wide};
use super::{Printer, age, items, name, or, text};
use crate::model::time::Timestamp;

pub(super) const NODES: Printer = Printer { columns: COLUMNS, cells };

const COLUMNS: &[Column] = &[
    NAME,
    string("Status", "Whether the node is ready, and whether it takes new pods."),
    string("Roles", "The roles its labels give it."),
    AGE,
    string("Version", "The version of its node agent."),
    wide(string("Internal-IP", "Its address inside the cluster.")),
    wide(string("External-IP", "Its address outside the cluster.")),
    wide(string("OS-Image", "Its operating system.")),
    wide(string("Kernel-Version", "The version of its kernel.")),
    wide(string("Container-Runtime", "What runs its containers, and the version.")),
];

fn cells(node: &Value, now: Timestamp) -> Vec<Value> {
    let info = |field: &str| text(node, &["status", "nodeInfo", field]);
    vec![
        name(node),
        status(node).into(),
        roles(node).into(),
        age(node, now),
        info("kubeletVersion").into(),
        address(node, "InternalIP").into(),
        address(node, "ExternalIP").into(),
        or(info("osImage"), "<unknown>").into(),
        or(info("kernelVersion"), "<unknown>").into(),
        or(info("containerRuntimeVersion"), "<unknown>").into(),
    ]
}

fn status(node: &Value) -> String {
    let conditions = items(node, &["status", "conditions"]);
    let mut status = match conditions.iter().find(|condition| condition["type"] == "Ready") {
        Some(ready) if ready["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let roles: BTreeSet<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    let roles: Vec<&str> = roles.into_iter().collect();
    or(&roles.join(","), "<none>").to_owned()
}

fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let addresses = items(node, &["status", "addresses"]);
    let found = addresses.iter().find(|address| address["type"] == kind);
    found.map_or("<none>", |address| text(address, &["address"]))
}
