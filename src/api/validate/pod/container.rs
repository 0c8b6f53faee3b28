//! Containers of every kind: init, regular, ephemeral. One visitor sees them all.
//!
//! It never compares an old container with a new one; see [`super::update`].

use std::collections::BTreeSet;

use serde_json::Value;

use super::volume::Volumes;
use super::{Errors, Owner, choice, environment, mount, probe, resources, security, within};
use crate::api::validate::field::FieldError;
use crate::api::validate::name;
use crate::api::validate::place::Place;

/// The lists a pod keeps containers in, in the order Kubernetes judges them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Regular,
    Init,
    Ephemeral,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Regular, Kind::Init, Kind::Ephemeral];

    fn field(self) -> &'static str {
        match self {
            Kind::Regular => "containers",
            Kind::Init => "initContainers",
            Kind::Ephemeral => "ephemeralContainers",
        }
    }
}

/// Facts of the pod that its containers are judged by.
struct Pod<'a> {
    volumes: &'a Volumes<'a>,
    owner: Owner,
    /// `terminationGracePeriodSeconds`, in seconds.
    grace: Option<i64>,
    restart_policy: &'a str,
    has_own_users: bool,
}

pub(super) fn containers(
    spec: &Place<'_>,
    volumes: &Volumes<'_>,
    owner: Owner,
    errors: &mut Errors,
) {
    let pod = Pod {
        volumes,
        owner,
        grace: spec.child("terminationGracePeriodSeconds").number(),
        restart_policy: spec.value["restartPolicy"].as_str().unwrap_or_default(),
        has_own_users: spec.value["hostUsers"] == false,
    };
    let mut names = BTreeSet::new();
    for kind in Kind::ALL {
        let list = spec.child(kind.field());
        if kind == Kind::Regular && !list.is_filled() {
            errors.push(list.required());
        }
        for container in list.items() {
            every(&container, &pod, errors);
            // Names are unique among all kinds; the later one is told.
            let own = container.value["name"].as_str().unwrap_or_default();
            if !own.is_empty() && !names.insert(own.to_owned()) {
                errors.push(container.child("name").duplicate());
            }
            match kind {
                Kind::Regular => regular(&container, &pod, errors),
                Kind::Init => init(&container, &pod, errors),
                Kind::Ephemeral => ephemeral(&container, spec.value, errors),
            }
        }
        match kind {
            // They share the host at the same time.
            Kind::Regular => host_ports(list.items(), errors),
            // They run one after the other.
            Kind::Init => list.items().for_each(|c| host_ports([c].into_iter(), errors)),
            Kind::Ephemeral => {}
        }
    }
}

/// What holds for every container, whichever list it stands in.
fn every(container: &Place<'_>, pod: &Pod<'_>, errors: &mut Errors) {
    let own = container.child("name");
    if own.is_filled() {
        errors.extend(own.complain(name::dns1123_label(own.text())));
    } else {
        errors.push(own.required());
    }
    let image = container.child("image");
    if !image.is_filled() {
        errors.push(image.required());
    } else if pod.owner == Owner::Pod && image.text().trim() != image.text() {
        errors.push(image.invalid("must not have leading or trailing whitespace"));
    }
    let policy = container.child("terminationMessagePolicy");
    choice(&policy, &["File", "FallbackToLogsOnError"], errors);
    ports(&container.child("ports"), errors);
    environment::variables(&container.child("env"), errors);
    environment::sources(&container.child("envFrom"), errors);
    mount::mounts(container, pod.volumes, errors);
    mount::devices(container, pod.volumes, errors);
    choice(&container.child("imagePullPolicy"), &["Always", "IfNotPresent", "Never"], errors);
    resources::requirements(&container.child("resources"), errors);
    resources::resize_policy(&container.child("resizePolicy"), pod.restart_policy, errors);
    security::container(&container.child("securityContext"), pod.has_own_users, errors);
}

fn regular(container: &Place<'_>, pod: &Pod<'_>, errors: &mut Errors) {
    probe::lifecycle_and_probes(container, pod.grace, errors);
    let policy = container.child("restartPolicy");
    if policy.is_set() {
        errors.push(policy.forbidden("may not be set for non-init containers"));
    }
}

fn init(container: &Place<'_>, pod: &Pod<'_>, errors: &mut Errors) {
    let policy = container.child("restartPolicy");
    if policy.is_set() && policy.text() != "Always" {
        errors.push(policy.not_supported(&["Always"]));
    }
    if policy.text() == "Always" {
        probe::lifecycle_and_probes(container, pod.grace, errors);
        return;
    }
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        let place = container.child(field);
        if place.is_set() {
            errors.push(
                place.forbidden("may not be set for init containers without restartPolicy=Always"),
            );
        }
    }
}

fn ephemeral(container: &Place<'_>, spec: &Value, errors: &mut Errors) {
    let target = container.child("targetContainerName");
    let is_known = [Kind::Regular, Kind::Init].iter().any(|kind| {
        let list = spec[kind.field()].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().any(|other| other["name"] == *target.value)
    });
    if target.is_filled() && !is_known {
        errors.push(target.not_found());
    }
    let denied = [
        "ports",
        "resources",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
        "resizePolicy",
        "restartPolicy",
    ];
    for field in denied {
        let place = container.child(field);
        if place.is_filled() {
            errors.push(place.forbidden("cannot be set for an Ephemeral Container"));
        }
    }
    for mount in container.child("volumeMounts").items() {
        for field in ["subPath", "subPathExpr"] {
            let place = mount.child(field);
            if place.is_filled() {
                errors.push(place.forbidden("cannot be set for an Ephemeral Container"));
            }
        }
    }
}

fn ports(ports: &Place<'_>, errors: &mut Errors) {
    let mut names = BTreeSet::new();
    for port in ports.items() {
        let own = port.child("name");
        if own.is_filled() {
            let complaints = name::port_name(own.text());
            if complaints.is_empty() && !names.insert(own.text().to_owned()) {
                errors.push(own.duplicate());
            }
            errors.extend(own.complain(complaints));
        }
        let number = port.child("containerPort");
        if number.number().unwrap_or_default() == 0 {
            errors.push(number.required());
        }
        for field in ["containerPort", "hostPort"] {
            let place = port.child(field);
            if place.number() != Some(0) {
                within(&place, 1, 65535, errors);
            }
        }
        choice(&port.child("protocol"), &["SCTP", "TCP", "UDP"], errors);
    }
}

/// Two of these containers may not want the same port of the host.
fn host_ports<'a>(containers: impl Iterator<Item = Place<'a>>, errors: &mut Errors) {
    let mut taken = BTreeSet::new();
    for container in containers {
        for port in container.child("ports").items() {
            let host = port.child("hostPort");
            let number = host.number().unwrap_or_default();
            if number == 0 {
                continue;
            }
            let text = |field: &str| port.value[field].as_str().unwrap_or_default();
            let key = format!("{}/{}/{number}", text("protocol"), text("hostIP"));
            if !taken.insert(key.clone()) {
                errors.push(FieldError::duplicate(host, &key.into()));
            }
        }
    }
}
