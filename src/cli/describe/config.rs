//! How namespaces, ConfigMaps, Secrets and ServiceAccounts are described.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::text::{Clock, Text, items, pairs, plain};

/// Quotas and limit ranges are not among what is served, and so not shown.
pub fn namespace(text: &mut Text, namespace: &Value, clock: &Clock) {
    let (metadata, status) = (&namespace["metadata"], &namespace["status"]);
    text.field(0, "Name", plain(&metadata["name"]));
    text.labels("Labels", &metadata["labels"]);
    text.annotations("Annotations", &metadata["annotations"]);
    text.field(0, "Status", plain(&status["phase"]));
    let conditions = items(&status["conditions"]);
    if conditions.is_empty() {
        return;
    }
    text.line(0, "Conditions:");
    text.line(1, "Type\tStatus\tLastTransitionTime\tReason\tMessage");
    text.line(1, "----\t------\t------------------\t------\t-------");
    for condition in conditions {
        let [kind, status, reason, message] =
            ["type", "status", "reason", "message"].map(|key| plain(&condition[key]));
        let since = clock.date(&condition["lastTransitionTime"]);
        text.line(1, format_args!("{kind}\t{status}\t{since}\t{reason}\t{message}"));
    }
}

pub fn config_map(text: &mut Text, map: &Value) {
    text.head(map);
    text.line(0, "\nData\n====");
    for (key, value) in pairs(&map["data"]) {
        text.line(0, format_args!("{key}:\n----\n{}\n", plain(value)));
    }
    text.line(0, "\nBinaryData\n====");
    for (key, value) in pairs(&map["binaryData"]) {
        text.line(0, format_args!("{key}: {} bytes", decoded(value).len()));
    }
    text.line(0, "");
}

/// Sizes only: a description is no place to read a Secret. The token of a service account is the exception that
/// kubectl makes.
pub fn secret(text: &mut Text, secret: &Value) {
    text.head(secret);
    text.line(0, format_args!("\nType:\t{}", plain(&secret["type"])));
    text.line(0, "\nData\n====");
    for (key, value) in pairs(&secret["data"]) {
        let value = decoded(value);
        match key == "token" && secret["type"] == "kubernetes.io/service-account-token" {
            true => text.field(0, key, String::from_utf8_lossy(&value)),
            false => text.field(0, key, format_args!("{} bytes", value.len())),
        }
    }
}

pub fn service_account(text: &mut Text, account: &Value) {
    text.head(account);
    let secrets = items(&account["imagePullSecrets"]).iter();
    let names: Vec<String> = secrets.map(|secret| plain(&secret["name"])).collect();
    if names.is_empty() {
        text.line(0, "Image pull secrets:\t<none>");
    }
    for (position, name) in names.iter().enumerate() {
        let title = if position == 0 { "Image pull secrets:" } else { "                   " };
        text.line(0, format_args!("{title}\t{name}"));
    }
}

/// The server has checked that it can be decoded.
fn decoded(value: &Value) -> Vec<u8> {
    BASE64_STANDARD.decode(plain(value)).unwrap_or_default()
}
