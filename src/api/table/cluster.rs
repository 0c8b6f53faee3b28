//! What belongs to the cluster: bindings, classes, budgets; and whatever has no columns of its own.
//!
//! It never evaluates a rule.

use serde_json::Value;

use super::column::{AGE, CREATED_AT, NAME, boolean, integer, string, wide};
use super::{Printer, age, items, name, number, or, text};
use crate::model::quantity::Quantity;

pub(super) const ANYTHING: Printer = Printer {
    columns: &[NAME, CREATED_AT],
    cells: |object, _| vec![name(object), object["metadata"]["creationTimestamp"].clone()],
};

/// The columns of the metrics-server.
pub(super) const NODE_USAGE: Printer =
    Printer { columns: USAGE_COLUMNS, cells: |node, _| usage_cells(node, &[&node["usage"]]) };

/// See [`NODE_USAGE`]; containers are summed.
pub(super) const POD_USAGE: Printer = Printer {
    columns: USAGE_COLUMNS,
    cells: |pod, _| {
        let containers = items(pod, &["containers"]).iter().map(|one| &one["usage"]);
        usage_cells(pod, &containers.collect::<Vec<_>>())
    },
};

const USAGE_COLUMNS: &[super::Column] = &[
    NAME,
    string("cpu", "Processors used."),
    string("memory", "Memory held."),
    string("Window", "The time that the figures are the average of."),
];

fn usage_cells(object: &Value, usages: &[&Value]) -> Vec<Value> {
    let sum = |resource: &str| {
        let parts = usages.iter().filter_map(|usage| Quantity::from_json(&usage[resource]).ok());
        Value::from(parts.fold(Quantity::ZERO, Quantity::plus).to_string())
    };
    vec![name(object), sum("cpu"), sum("memory"), text(object, &["window"]).into()]
}

pub(super) const ROLE_BINDINGS: Printer = Printer {
    columns: &[
        NAME,
        string("Role", "What they may do."),
        AGE,
        wide(string("Users", "The users who may.")),
        wide(string("Groups", "The groups who may.")),
        wide(string("ServiceAccounts", "The service accounts who may.")),
    ],
    cells: |binding, now| {
        let role = format!(
            "{}/{}",
            text(binding, &["roleRef", "kind"]),
            text(binding, &["roleRef", "name"])
        );
        let subjects = |kind: &str| {
            let subjects = items(binding, &["subjects"]).iter().filter(|s| s["kind"] == kind);
            let names = subjects.map(|subject| match text(subject, &["namespace"]) {
                "" => text(subject, &["name"]).to_owned(),
                namespace => format!("{namespace}/{}", text(subject, &["name"])),
            });
            Value::from(names.collect::<Vec<_>>().join(", "))
        };
        vec![
            name(binding),
            role.into(),
            age(binding, now),
            subjects("User"),
            subjects("Group"),
            subjects("ServiceAccount"),
        ]
    },
};

pub(super) const PRIORITY_CLASSES: Printer = Printer {
    columns: &[
        NAME,
        integer("Value", "The priority of its pods."),
        boolean("Global-Default", "Whether pods without a class get it."),
        AGE,
        string("PreemptionPolicy", "Whether its pods drive out others."),
    ],
    cells: |class, now| {
        vec![
            name(class),
            number(class, &["value"]).into(),
            (class["globalDefault"] == true).into(),
            age(class, now),
            or(text(class, &["preemptionPolicy"]), "PreemptLowerPriority").into(),
        ]
    },
};

pub(super) const RUNTIME_CLASSES: Printer = Printer {
    columns: &[NAME, string("Handler", "What runs its pods."), AGE],
    cells: |class, now| vec![name(class), text(class, &["handler"]).into(), age(class, now)],
};

pub(super) const DISRUPTION_BUDGETS: Printer = Printer {
    columns: &[
        NAME,
        string("Min Available", "How many pods must stay."),
        string("Max Unavailable", "How many pods may be away."),
        integer("Allowed Disruptions", "How many pods may go now."),
        AGE,
    ],
    cells: |budget, now| {
        let bound = |field: &str| match &budget["spec"][field] {
            Value::Null => Value::from("N/A"),
            Value::Number(count) => count.to_string().into(),
            other => other.clone(),
        };
        vec![
            name(budget),
            bound("minAvailable"),
            bound("maxUnavailable"),
            number(budget, &["status", "disruptionsAllowed"]).into(),
            age(budget, now),
        ]
    },
};
