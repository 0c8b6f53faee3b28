//! Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs, CronJobs, ControllerRevisions.
//!
//! It never counts pods; it reads what the controllers reported.

use serde_json::Value;

use super::column::{AGE, Column, NAME, boolean, integer, string, wide};
use super::{Printer, age, at, is_true, items, name, number, or, selector, text};
use crate::model::time::Timestamp;

const CONTAINERS: Column =
    wide(string("Containers", "The names of the containers in the template."));
const IMAGES: Column = wide(string("Images", "The images of the containers in the template."));
const SELECTOR: Column = wide(string("Selector", "Which pods belong to it."));

pub(super) const DEPLOYMENTS: Printer = Printer {
    columns: &[
        NAME,
        string("Ready", "How many pods are ready, of how many."),
        string("Up-to-date", "How many pods have the newest template."),
        string("Available", "How many pods have been ready for long enough."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |deployment, now| {
        let status = |field: &str| number(deployment, &["status", field]);
        let wanted = number(deployment, &["spec", "replicas"]);
        let [containers, images] = template(deployment, &["spec"]);
        vec![
            name(deployment),
            format!("{}/{wanted}", status("readyReplicas")).into(),
            status("updatedReplicas").into(),
            status("availableReplicas").into(),
            age(deployment, now),
            containers,
            images,
            selector::selector(&deployment["spec"]["selector"]).into(),
        ]
    },
};

pub(super) const REPLICA_SETS: Printer = Printer {
    columns: &[
        NAME,
        integer("Desired", "How many pods are wanted."),
        integer("Current", "How many pods there are."),
        integer("Ready", "How many pods are ready."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |set, now| {
        let [containers, images] = template(set, &["spec"]);
        let chosen = &set["spec"]["selector"];
        // A ReplicationController selects by plain labels.
        let is_plain = chosen["matchLabels"].is_null() && chosen["matchExpressions"].is_null();
        vec![
            name(set),
            number(set, &["spec", "replicas"]).into(),
            number(set, &["status", "replicas"]).into(),
            number(set, &["status", "readyReplicas"]).into(),
            age(set, now),
            containers,
            images,
            if is_plain { selector::labels(chosen) } else { selector::selector(chosen) }.into(),
        ]
    },
};

pub(super) const SCALES: Printer = Printer {
    columns: &[
        NAME,
        integer("Desired", "How many pods are wanted."),
        integer("Available", "How many pods there are."),
        AGE,
    ],
    cells: |scale, now| {
        vec![
            name(scale),
            number(scale, &["spec", "replicas"]).into(),
            number(scale, &["status", "replicas"]).into(),
            age(scale, now),
        ]
    },
};

pub(super) const STATEFUL_SETS: Printer = Printer {
    columns: &[
        NAME,
        string("Ready", "How many pods are ready, of how many."),
        AGE,
        CONTAINERS,
        IMAGES,
    ],
    cells: |set, now| {
        let ready = number(set, &["status", "readyReplicas"]);
        let [containers, images] = template(set, &["spec"]);
        vec![
            name(set),
            format!("{ready}/{}", number(set, &["spec", "replicas"])).into(),
            age(set, now),
            containers,
            images,
        ]
    },
};

pub(super) const DAEMON_SETS: Printer = Printer {
    columns: &[
        NAME,
        integer("Desired", "On how many nodes a pod is wanted."),
        integer("Current", "On how many nodes there is one."),
        integer("Ready", "On how many nodes it is ready."),
        integer("Up-to-date", "On how many nodes it has the newest template."),
        integer("Available", "On how many nodes it has been ready for long enough."),
        string("Node Selector", "Which nodes are meant."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |set, now| {
        let status = |field: &str| Value::from(number(set, &["status", field]));
        let [containers, images] = template(set, &["spec"]);
        vec![
            name(set),
            status("desiredNumberScheduled"),
            status("currentNumberScheduled"),
            status("numberReady"),
            status("updatedNumberScheduled"),
            status("numberAvailable"),
            selector::labels(at(set, &["spec", "template", "spec", "nodeSelector"])).into(),
            age(set, now),
            containers,
            images,
            selector::selector(&set["spec"]["selector"]).into(),
        ]
    },
};

pub(super) const JOBS: Printer = Printer {
    columns: &[
        NAME,
        string("Status", "Whether it is running, done or failed."),
        string("Completions", "How many pods succeeded, of how many."),
        string("Duration", "How long it took, or has been running."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |job, now| {
        let [containers, images] = template(job, &["spec"]);
        vec![
            name(job),
            job_status(job).into(),
            completions(job).into(),
            job_duration(job, now).into(),
            age(job, now),
            containers,
            images,
            selector::selector(&job["spec"]["selector"]).into(),
        ]
    },
};

pub(super) const CRON_JOBS: Printer = Printer {
    columns: &[
        NAME,
        string("Schedule", "When it runs, in cron's notation."),
        string("Timezone", "The time zone of the schedule."),
        boolean("Suspend", "Whether it is suspended."),
        integer("Active", "How many of its jobs are running."),
        string("Last Schedule", "How long ago it was last due."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |cron, now| {
        let last = &cron["status"]["lastScheduleTime"];
        let last = if last.is_null() { "<none>".to_owned() } else { super::age::since(last, now) };
        let suspended = match cron["spec"]["suspend"].as_bool() {
            Some(true) => "True",
            Some(false) => "False",
            None => "<unset>",
        };
        let [containers, images] = template(cron, &["spec", "jobTemplate", "spec"]);
        vec![
            name(cron),
            text(cron, &["spec", "schedule"]).into(),
            or(text(cron, &["spec", "timeZone"]), "<none>").into(),
            suspended.into(),
            items(cron, &["status", "active"]).len().into(),
            last.into(),
            age(cron, now),
            containers,
            images,
            selector::selector(at(cron, &["spec", "jobTemplate", "spec", "selector"])).into(),
        ]
    },
};

pub(super) const CONTROLLER_REVISIONS: Printer = Printer {
    columns: &[
        NAME,
        string("Controller", "Whose revision it is."),
        string("Revision", "Its number."),
        AGE,
    ],
    cells: |revision, now| {
        let owners = items(revision, &["metadata", "ownerReferences"]);
        let controller = owners.iter().find(|owner| owner["controller"] == true).map_or_else(
            || "<none>".to_owned(),
            |owner| {
                let kind = text(owner, &["kind"]).to_lowercase();
                match text(owner, &["apiVersion"]).split_once('/') {
                    Some((group, _)) => format!("{kind}.{group}/{}", text(owner, &["name"])),
                    None => format!("{kind}/{}", text(owner, &["name"])),
                }
            },
        );
        let number = number(revision, &["revision"]);
        vec![name(revision), controller.into(), number.into(), age(revision, now)]
    },
};

/// Names and images of the containers in the template below `path`.
fn template(object: &Value, path: &[&str]) -> [Value; 2] {
    let containers = items(at(object, path), &["template", "spec", "containers"]);
    ["name", "image"].map(|field| {
        let texts: Vec<&str> =
            containers.iter().map(|container| text(container, &[field])).collect();
        texts.join(",").into()
    })
}

fn job_status(job: &Value) -> &'static str {
    if is_true(job, "Complete") {
        "Complete"
    } else if is_true(job, "Failed") {
        "Failed"
    } else if !job["metadata"]["deletionTimestamp"].is_null() {
        "Terminating"
    } else if is_true(job, "Suspended") {
        "Suspended"
    } else if is_true(job, "FailureTarget") {
        "FailureTarget"
    } else if is_true(job, "SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn completions(job: &Value) -> String {
    let succeeded = number(job, &["status", "succeeded"]);
    match (job["spec"]["completions"].as_i64(), number(job, &["spec", "parallelism"])) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn job_duration(job: &Value, now: Timestamp) -> String {
    let Some(start) = super::age::parse(&job["status"]["startTime"]) else {
        return String::new();
    };
    let end = super::age::parse(&job["status"]["completionTime"]).unwrap_or(now);
    super::age::human_duration(super::age::between(start, end))
}
