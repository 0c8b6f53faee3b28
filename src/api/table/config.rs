//! Namespaces, ConfigMaps, Secrets, ServiceAccounts and Leases.
//!
//! It never prints the content of any of them.

use serde_json::Value;

use super::column::{AGE, NAME, string};
use super::{Printer, age, items, name, text};

pub(super) const NAMESPACES: Printer = Printer {
    columns: &[NAME, string("Status", "Active, or Terminating."), AGE],
    cells: |namespace, now| {
        vec![name(namespace), namespace["status"]["phase"].clone(), age(namespace, now)]
    },
};

pub(super) const CONFIG_MAPS: Printer = Printer {
    columns: &[NAME, string("Data", "How many keys it has."), AGE],
    cells: |map, now| {
        vec![name(map), (keys(&map["data"]) + keys(&map["binaryData"])).into(), age(map, now)]
    },
};

pub(super) const SECRETS: Printer = Printer {
    columns: &[
        NAME,
        string("Type", "What the keys mean."),
        string("Data", "How many keys it has."),
        AGE,
    ],
    cells: |secret, now| {
        let kind = text(secret, &["type"]);
        vec![name(secret), kind.into(), keys(&secret["data"]).into(), age(secret, now)]
    },
};

pub(super) const SERVICE_ACCOUNTS: Printer = Printer {
    columns: &[NAME, string("Secrets", "How many secrets its pods may use."), AGE],
    cells: |account, now| {
        vec![name(account), items(account, &["secrets"]).len().into(), age(account, now)]
    },
};

pub(super) const LEASES: Printer = Printer {
    columns: &[NAME, string("Holder", "Who holds it."), AGE],
    cells: |lease, now| {
        vec![name(lease), text(lease, &["spec", "holderIdentity"]).into(), age(lease, now)]
    },
};

fn keys(map: &Value) -> usize {
    map.as_object().map_or(0, serde_json::Map::len)
}
