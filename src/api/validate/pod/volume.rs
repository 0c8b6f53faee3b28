//! Volumes of a pod: exactly one source each, and what that source may say.
//!
//! It never checks that a ConfigMap, Secret or path exists.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::Errors;
use super::environment::{FILE_FIELDS, container_resource, pod_field};
use crate::api::validate::name;
use crate::api::validate::place::Place;
use crate::model::quantity::Quantity;

/// The valid volumes by name: what containers may mount.
pub(super) type Volumes<'a> = BTreeMap<&'a str, &'a Map<String, Value>>;

/// Every source, in the order Kubernetes looks for them.
const SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

const HOST_PATH_TYPES: &[&str] = &[
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

pub(super) fn volumes<'a>(list: &Place<'a>, errors: &mut Errors) -> Volumes<'a> {
    let mut valid = Volumes::new();
    let values = list.value.as_array().map(Vec::as_slice).unwrap_or_default();
    for (volume, value) in list.items().zip(values) {
        let mut found = Errors::new();
        source(&volume, &mut found);
        let own = volume.child("name");
        if own.is_filled() {
            found.extend(own.complain(name::dns1123_label(own.text())));
        } else {
            found.push(own.required());
        }
        if valid.contains_key(own.text()) {
            found.push(own.duplicate());
        }
        if let (true, Some(map)) = (found.is_empty(), value.as_object()) {
            valid.insert(value["name"].as_str().unwrap_or_default(), map);
        }
        errors.extend(found);
    }
    valid
}

fn source(volume: &Place<'_>, errors: &mut Errors) {
    let mut has_one = false;
    for kind in SOURCES {
        let place = volume.child(kind);
        if !place.is_set() {
            continue;
        }
        if has_one {
            errors.push(place.forbidden("may not specify more than 1 volume type"));
            continue;
        }
        has_one = true;
        match *kind {
            "emptyDir" => empty_dir(&place, errors),
            "hostPath" => host_path(&place, errors),
            "secret" => keyed(&place, "secretName", errors),
            "configMap" => keyed(&place, "name", errors),
            "downwardAPI" => {
                mode(&place.child("defaultMode"), errors);
                // Kubernetes blames the volume, not the item.
                place.child("items").items().for_each(|item| {
                    downward_file(&place, item.value, errors);
                });
            }
            "projected" => projected(&place, errors),
            // The rest this version refuses by name.
            _ => {}
        }
    }
    if !has_one {
        errors.push(volume.required_because("must specify a volume type"));
    }
}

fn empty_dir(empty_dir: &Place<'_>, errors: &mut Errors) {
    let limit = empty_dir.child("sizeLimit");
    match Quantity::from_json(limit.value) {
        Ok(quantity) if quantity.is_negative() => {
            errors.push(limit.forbidden("SizeLimit field must be a valid resource quantity"));
        }
        Err(error) if limit.is_set() => errors.push(limit.invalid(&error.to_string())),
        Ok(_) | Err(_) => {}
    }
}

fn host_path(host_path: &Place<'_>, errors: &mut Errors) {
    let path = host_path.child("path");
    if !path.is_filled() {
        errors.push(path.required());
        return;
    }
    backsteps(&path, errors);
    let kind = host_path.child("type");
    if kind.is_set() && !HOST_PATH_TYPES.contains(&kind.text()) {
        errors.push(kind.not_supported(HOST_PATH_TYPES));
    }
}

/// A ConfigMap or Secret, and which keys become which files.
fn keyed(source: &Place<'_>, name_field: &str, errors: &mut Errors) {
    let own = source.child(name_field);
    if !own.is_filled() {
        errors.push(own.required());
    }
    mode(&source.child("defaultMode"), errors);
    source.child("items").items().for_each(|item| key_to_path(&item, errors));
}

fn key_to_path(item: &Place<'_>, errors: &mut Errors) {
    for field in ["key", "path"] {
        let place = item.child(field);
        if !place.is_filled() {
            errors.push(place.required());
        }
    }
    file_path(&item.child("path"), errors);
    mode(&item.child("mode"), errors);
}

fn downward_file(blamed: &Place<'_>, item: &Value, errors: &mut Errors) {
    let path = blamed.blame("path", &item["path"]);
    if !path.is_filled() {
        errors.push(path.required());
    }
    file_path(&path, errors);
    let field = blamed.blame("fieldRef", &item["fieldRef"]);
    let resource = blamed.blame("resourceFieldRef", &item["resourceFieldRef"]);
    if field.is_set() {
        pod_field(&field, FILE_FIELDS, errors);
        if resource.is_set() {
            let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.push(blamed.invalid_value(&"resource".into(), detail));
        }
    } else if resource.is_set() {
        // A file belongs to the pod, so it must say whose resources it tells.
        let container = resource.child("containerName");
        if container.is_filled() {
            container_resource(&resource, errors);
        } else {
            errors.push(container.required());
        }
    } else {
        errors.push(blamed.required_because("one of fieldRef and resourceFieldRef is required"));
    }
    mode(&blamed.blame("mode", &item["mode"]), errors);
}

fn projected(projected: &Place<'_>, errors: &mut Errors) {
    mode(&projected.child("defaultMode"), errors);
    let mut paths = BTreeSet::new();
    let mut claim = |path: &Value, told: &Value, errors: &mut Errors| {
        let path = path.as_str().unwrap_or_default();
        if !path.is_empty() && !paths.insert(path.to_owned()) {
            errors.push(projected.invalid_value(told, "conflicting duplicate paths"));
        }
    };
    for source in projected.child("sources").items() {
        let mut count = 0;
        for kind in ["secret", "configMap"] {
            let place = source.child(kind);
            if place.is_set() {
                count += 1;
                keyed(&place, "name", errors);
                for item in place.child("items").items() {
                    claim(&item.value["path"], &place.value["name"], errors);
                }
            }
        }
        let downward = source.child("downwardAPI");
        if downward.is_set() {
            count += 1;
            for item in downward.child("items").items() {
                downward_file(&downward, item.value, errors);
                claim(&item.value["path"], &item.value["path"], errors);
            }
        }
        let token = source.child("serviceAccountToken");
        if token.is_set() {
            count += 1;
            let expiration = token.child("expirationSeconds");
            match expiration.number().unwrap_or(3600) {
                seconds if seconds < 600 => {
                    errors.push(
                        expiration.invalid("may not specify a duration less than 10 minutes"),
                    );
                }
                seconds if seconds > 1 << 32 => {
                    errors.push(
                        expiration.invalid("may not specify a duration larger than 2^32 seconds"),
                    );
                }
                _ => {}
            }
            let path = projected.blame("path", &token.value["path"]);
            if path.is_filled() {
                file_path(&path, errors);
            } else {
                errors.push(path.required());
            }
        }
        if count > 1 {
            errors.push(source.forbidden("may not specify more than 1 volume type per source"));
        }
    }
}

fn mode(mode: &Place<'_>, errors: &mut Errors) {
    if mode.number().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        errors.push(mode.invalid(MODE));
    }
}

/// A file inside a volume: relative, never upwards, not one of the `..data` links.
fn file_path(path: &Place<'_>, errors: &mut Errors) {
    descending(path, errors);
    if path.text().starts_with("..") && !path.text().starts_with("../") {
        errors.push(path.invalid("must not start with '..'"));
    }
}

/// Relative and never upwards.
pub(super) fn descending(path: &Place<'_>, errors: &mut Errors) {
    if path.text().starts_with('/') {
        errors.push(path.invalid("must be a relative path"));
    }
    backsteps(path, errors);
}

fn backsteps(path: &Place<'_>, errors: &mut Errors) {
    if !without_backsteps(path.text()) {
        errors.push(path.invalid("must not contain '..'"));
    }
}

pub(super) fn without_backsteps(path: &str) -> bool {
    path.split('/').all(|part| part != "..")
}
