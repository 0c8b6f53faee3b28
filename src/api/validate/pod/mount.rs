//! Where a container sees the volumes of its pod.
//!
//! It never judges the volumes themselves; see [`super::volume`].

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::Errors;
use super::volume::{Volumes, descending, without_backsteps};
use crate::api::validate::field::FieldError;
use crate::api::validate::place::Place;

pub(super) fn mounts(container: &Place<'_>, volumes: &Volumes<'_>, errors: &mut Errors) {
    let mounts = container.child("volumeMounts");
    let devices = container.child("volumeDevices");
    let is_privileged = container.value["securityContext"]["privileged"] == true;
    let mut paths = BTreeSet::new();
    for mount in mounts.items() {
        let own = mount.child("name");
        let path = mount.child("mountPath");
        if !own.is_filled() {
            errors.push(own.required());
        }
        let volume = volumes.get(own.text());
        if volume.is_none() {
            errors.push(FieldError::not_found(own, &own.text().into()));
        }
        if !path.is_filled() {
            errors.push(path.required());
        }
        if !paths.insert(path.text().to_owned()) {
            errors.push(path.invalid_value(&path.text().into(), "must be unique"));
        }
        if devices.items().any(|device| device.value["name"] == *own.value) {
            errors.push(own.invalid("must not already exist in volumeDevices"));
        }
        if devices.items().any(|device| device.value["devicePath"] == *path.value) {
            errors.push(path.invalid("must not already exist as a path in volumeDevices"));
        }
        let sub_path = mount.child("subPath");
        let expression = mount.child("subPathExpr");
        for place in [&sub_path, &expression] {
            if place.is_filled() && volume.is_some_and(|volume| has(volume, "image")) {
                errors.push(place.invalid("not allowed in image volume sources"));
            }
        }
        // From here on Kubernetes blames the list, not the mount.
        if sub_path.is_filled() {
            descending(&mounts.blame("subPath", sub_path.value), errors);
        }
        if expression.is_filled() {
            if sub_path.is_filled() {
                errors.push(expression.invalid("subPathExpr and subPath are mutually exclusive"));
            }
            descending(&mounts.blame("subPathExpr", expression.value), errors);
        }
        propagation(&mounts, &mount, is_privileged, errors);
        recursive_read_only(&mounts, &mount, errors);
    }
}

fn propagation(mounts: &Place<'_>, mount: &Place<'_>, is_privileged: bool, errors: &mut Errors) {
    let mode = mounts.blame("mountPropagation", &mount.value["mountPropagation"]);
    if !mode.is_set() {
        return;
    }
    let supported = ["Bidirectional", "HostToContainer", "None"];
    if !supported.contains(&mode.text()) {
        errors.push(mode.not_supported(&supported));
    }
    if mode.text() == "Bidirectional" && !is_privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(mode.forbidden(detail));
    }
}

fn recursive_read_only(mounts: &Place<'_>, mount: &Place<'_>, errors: &mut Errors) {
    let mode = mounts.blame("recursiveReadOnly", &mount.value["recursiveReadOnly"]);
    match mode.text() {
        _ if !mode.is_set() => {}
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if mount.value["readOnly"] != true {
                errors.push(mode.forbidden("may only be specified when readOnly is true"));
            }
            let propagation = &mount.value["mountPropagation"];
            if !propagation.is_null() && propagation != "None" {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errors.push(mode.forbidden(detail));
            }
        }
        _ => errors.push(mode.not_supported(&["Disabled", "Enabled", "IfPossible"])),
    }
}

/// Raw block devices need a claim.
pub(super) fn devices(container: &Place<'_>, volumes: &Volumes<'_>, errors: &mut Errors) {
    let mut paths = BTreeSet::new();
    let mut names = BTreeSet::new();
    for device in container.child("volumeDevices").items() {
        let own = device.child("name");
        let path = device.child("devicePath");
        if !own.is_filled() {
            errors.push(own.required());
        } else if !names.insert(own.text().to_owned()) {
            errors.push(own.invalid("must be unique"));
        }
        let is_claim = |volume| has(volume, "persistentVolumeClaim") || has(volume, "ephemeral");
        match volumes.get(own.text()) {
            None => errors.push(own.not_found()),
            Some(volume) if !is_claim(volume) => errors.push(own.invalid(
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            )),
            Some(_) => {}
        }
        if !path.is_filled() {
            errors.push(path.required());
        } else if !without_backsteps(path.text()) {
            errors.push(path.invalid("can not contain backsteps ('..')"));
        } else if !paths.insert(path.text().to_owned()) {
            errors.push(path.invalid("must be unique"));
        }
    }
}

fn has(volume: &Map<String, Value>, source: &str) -> bool {
    volume.get(source).is_some_and(|value| !value.is_null())
}
