//! Volumes, claims and storage classes.
//!
//! It never binds one to another.

use serde_json::Value;

use super::column::{AGE, NAME, boolean, string, wide};
use super::{Printer, age, items, name, or, text};

pub(super) const PERSISTENT_VOLUMES: Printer = Printer {
    columns: &[
        NAME,
        string("Capacity", "How much it holds."),
        string("Access Modes", "How it may be mounted."),
        string("Reclaim Policy", "What becomes of it when its claim is gone."),
        string("Status", "Whether it is free, bound or released."),
        string("Claim", "The claim it is bound to."),
        string("StorageClass", "Its class."),
        string("VolumeAttributesClass", "The class of its attributes."),
        string("Reason", "Why it is in this state."),
        AGE,
        wide(string("VolumeMode", "Filesystem, or Block.")),
    ],
    cells: |volume, now| {
        let claim = &volume["spec"]["claimRef"];
        let claim = match claim.is_null() {
            true => String::new(),
            false => format!("{}/{}", text(claim, &["namespace"]), text(claim, &["name"])),
        };
        vec![
            name(volume),
            or(text(volume, &["spec", "capacity", "storage"]), "0").into(),
            access_modes(volume, &["spec", "accessModes"]).into(),
            text(volume, &["spec", "persistentVolumeReclaimPolicy"]).into(),
            phase(volume).into(),
            claim.into(),
            text(volume, &["spec", "storageClassName"]).into(),
            or(text(volume, &["spec", "volumeAttributesClassName"]), "<unset>").into(),
            text(volume, &["status", "reason"]).into(),
            age(volume, now),
            or(text(volume, &["spec", "volumeMode"]), "<unset>").into(),
        ]
    },
};

pub(super) const PERSISTENT_VOLUME_CLAIMS: Printer = Printer {
    columns: &[
        NAME,
        string("Status", "Whether it is bound."),
        string("Volume", "The volume it is bound to."),
        string("Capacity", "How much that holds."),
        string("Access Modes", "How it may be mounted."),
        string("StorageClass", "Its class."),
        string("VolumeAttributesClass", "The class of its attributes."),
        AGE,
        wide(string("VolumeMode", "Filesystem, or Block.")),
    ],
    cells: |claim, now| {
        let volume = text(claim, &["spec", "volumeName"]);
        let (capacity, modes) = match volume {
            // What is not bound has nothing yet.
            "" => (String::new(), String::new()),
            _ => (
                or(text(claim, &["status", "capacity", "storage"]), "0").to_owned(),
                access_modes(claim, &["status", "accessModes"]),
            ),
        };
        vec![
            name(claim),
            phase(claim).into(),
            volume.into(),
            capacity.into(),
            modes.into(),
            text(claim, &["spec", "storageClassName"]).into(),
            or(text(claim, &["spec", "volumeAttributesClassName"]), "<unset>").into(),
            age(claim, now),
            or(text(claim, &["spec", "volumeMode"]), "<unset>").into(),
        ]
    },
};

pub(super) const STORAGE_CLASSES: Printer = Printer {
    columns: &[
        NAME,
        string("Provisioner", "Who makes its volumes."),
        string("ReclaimPolicy", "What becomes of them when their claims are gone."),
        string("VolumeBindingMode", "When they are made."),
        boolean("AllowVolumeExpansion", "Whether they may grow."),
        AGE,
    ],
    cells: |class, now| {
        let is_default = class["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"]
            == "true";
        let own = text(class, &["metadata", "name"]);
        vec![
            if is_default { format!("{own} (default)") } else { own.to_owned() }.into(),
            text(class, &["provisioner"]).into(),
            or(text(class, &["reclaimPolicy"]), "Delete").into(),
            or(text(class, &["volumeBindingMode"]), "Immediate").into(),
            (class["allowVolumeExpansion"] == true).into(),
            age(class, now),
        ]
    },
};

fn phase(object: &Value) -> &str {
    match object["metadata"]["deletionTimestamp"].is_null() {
        true => text(object, &["status", "phase"]),
        false => "Terminating",
    }
}

fn access_modes(object: &Value, path: &[&str]) -> String {
    let has = |mode: &str| items(object, path).iter().any(|other| other == mode);
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let modes: Vec<&str> =
        short.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect();
    modes.join(",")
}
