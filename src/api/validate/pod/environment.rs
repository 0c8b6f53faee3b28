//! Environment variables and where their values come from; the downward API selectors volumes share.
//!
//! It never expands `$(VAR)` and never looks a key up.

use serde_json::Value;

use super::Errors;
use crate::api::validate::name;
use crate::api::validate::place::Place;
use crate::model::quantity::Quantity;

/// Pod fields a variable can take, sorted as Kubernetes prints them.
const VARIABLE_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Pod fields a file can take.
pub(super) const FILE_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

/// Every pod field the downward API knows (`ConvertDownwardAPIFieldLabel`).
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];

const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

const BYTE_DIVISORS: &[&str] =
    &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

pub(super) fn variables(variables: &Place<'_>, errors: &mut Errors) {
    for variable in variables.items() {
        let own = variable.child("name");
        if own.is_filled() {
            errors.extend(own.complain(name::environment_variable(own.text())));
        } else {
            errors.push(own.required());
        }
        value_from(&variable.child("valueFrom"), variable.child("value").is_filled(), errors);
    }
}

fn value_from(source: &Place<'_>, has_value: bool, errors: &mut Errors) {
    if !source.is_set() {
        return;
    }
    let field = source.child("fieldRef");
    if field.is_set() {
        pod_field(&field, VARIABLE_FIELDS, errors);
    }
    let resource = source.child("resourceFieldRef");
    if resource.is_set() {
        container_resource(&resource, errors);
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        let reference = source.child(kind);
        if reference.is_set() {
            key_reference(&reference, errors);
        }
    }
    let sources = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    match sources.iter().filter(|kind| source.child(kind).is_set()).count() {
        0 => errors.push(source.invalid_value(
            &"".into(),
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        )),
        _ if has_value => {
            errors.push(source.invalid_value(&"".into(), "may not be specified when `value` is not empty"));
        }
        1 => {}
        _ => {
            let detail = "may not have more than one field specified at a time";
            errors.push(source.invalid_value(&"".into(), detail));
        }
    }
}

pub(super) fn sources(sources: &Place<'_>, errors: &mut Errors) {
    for source in sources.items() {
        let prefix = source.child("prefix");
        if prefix.is_filled() {
            errors.extend(prefix.complain(name::environment_variable(prefix.text())));
        }
        let mut count = 0;
        for kind in ["configMapRef", "secretRef"] {
            let reference = source.child(kind);
            if reference.is_set() {
                count += 1;
                let own = reference.child("name");
                if own.is_filled() {
                    let text = own.text().strip_suffix('-').unwrap_or(own.text());
                    errors.extend(own.complain(name::dns1123_subdomain(text)));
                } else {
                    errors.push(own.required());
                }
            }
        }
        // Kubernetes blames the list.
        match count {
            0 => {
                let detail = "must specify one of: `configMapRef` or `secretRef`";
                errors.push(sources.invalid_value(&"".into(), detail));
            }
            1 => {}
            _ => {
                let detail = "may not have more than one field specified at a time";
                errors.push(sources.invalid_value(&"".into(), detail));
            }
        }
    }
}

fn key_reference(reference: &Place<'_>, errors: &mut Errors) {
    let own = reference.child("name");
    for complaint in name::dns1123_subdomain(own.text()) {
        errors.push(own.invalid_value(&own.text().into(), &complaint));
    }
    let key = reference.child("key");
    if key.is_filled() {
        errors.extend(key.complain(name::config_key(key.text())));
    } else {
        errors.push(key.required());
    }
}

/// A `fieldRef` to one of `fields`, or to a single label or annotation.
pub(super) fn pod_field(selector: &Place<'_>, fields: &[&str], errors: &mut Errors) {
    let version = selector.child("apiVersion");
    let path = selector.child("fieldPath");
    for place in [&version, &path] {
        if !place.is_filled() {
            errors.push(place.required());
            return;
        }
    }
    let conversion_failed =
        |why: String| path.invalid(&format!("error converting fieldPath: {why}"));
    if version.text() != "v1" {
        errors.push(conversion_failed(format!("unsupported pod version: {}", version.text())));
        return;
    }
    let text = path.text();
    let subscripted = text.strip_suffix("']").and_then(|rest| rest.split_once("['"));
    if let Some((map, key)) = subscripted {
        let checked = match map {
            "metadata.annotations" => key.to_lowercase(),
            "metadata.labels" => key.to_owned(),
            _ => {
                errors.push(conversion_failed(format!(
                    "field label does not support subscript: {text}"
                )));
                return;
            }
        };
        for complaint in name::qualified_name(&checked) {
            errors.push(selector.invalid_value(&checked.as_str().into(), &complaint));
        }
    } else if !KNOWN_FIELDS.contains(&text) {
        errors.push(conversion_failed(format!("field label not supported: {text}")));
    } else if !fields.contains(&text) {
        errors.push(path.not_supported(fields));
    }
}

/// A `resourceFieldRef` and the unit it is counted in.
pub(super) fn container_resource(selector: &Place<'_>, errors: &mut Errors) {
    let resource = selector.child("resource");
    let is_huge =
        ["limits.hugepages-", "requests.hugepages-"].iter().any(|p| resource.text().starts_with(p));
    if !resource.is_filled() {
        errors.push(resource.required());
    } else if !RESOURCES.contains(&resource.text()) && !is_huge {
        errors.push(resource.not_supported(RESOURCES));
    }
    let divisor = selector.child("divisor");
    let quantity = match Quantity::from_json(divisor.value) {
        Ok(quantity) => quantity,
        Err(_) if !divisor.is_set() => return,
        Err(error) => {
            errors.push(divisor.invalid(&error.to_string()));
            return;
        }
    };
    let is_cpu = resource.text().ends_with(".cpu");
    let allowed = if is_cpu { &["1m", "1"] } else { BYTE_DIVISORS };
    if quantity.is_zero() || allowed.contains(&quantity.to_string().as_str()) {
        return;
    }
    let units = if is_cpu { "1m and 1".to_owned() } else { BYTE_DIVISORS.join(", ") };
    let what = match resource.text().split_once('.').map_or("", |(_, name)| name) {
        "cpu" => "cpu",
        "memory" => "memory",
        "ephemeral-storage" => "local ephemeral storage",
        name if name.starts_with("hugepages-") => "hugepages",
        _ => return, // Refused above.
    };
    let detail = format!("only divisor's values {units} are supported with the {what} resource");
    errors.push(divisor.invalid_value(&Value::from(resource.text()), &detail));
}
