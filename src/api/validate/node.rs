//! Nodes: taints, ranges, amounts, and what may not change.
//!
//! It never judges whether the node is well.

use serde_json::Value;

use super::field::FieldError;
use super::place::Place;
use super::{metadata, pod};
use crate::model::cidr::{Cidr, InvalidCidr};

type Errors = Vec<FieldError>;

pub(super) fn create(node: &Value) -> Errors {
    let mut errors = metadata::create(node, metadata::rules("nodes"));
    errors.extend(taints(node));
    errors.extend(amounts(node));
    let spec = Place::root(node, "spec");
    let ranges = spec.child("podCIDRs");
    for range in ranges.items() {
        // Host bits are tolerated, as Kubernetes does.
        if let Err(error @ InvalidCidr::Form) = range.text().parse::<Cidr>() {
            errors.push(range.invalid(&error.to_string()));
        }
    }
    let of_six = |range: &Place<'_>| range.text().contains(':');
    let six = ranges.items().filter(of_six).count();
    let count = ranges.items().count();
    if count > 1 && (count > 2 || six != 1) {
        errors.push(ranges.invalid("may specify no more than one CIDR for each IP family"));
    }
    errors
}

pub(super) fn update(old: &Value, new: &Value) -> Errors {
    let mut errors = metadata::update(old, new);
    errors.extend(amounts(new));
    errors.extend(addresses(new));
    let spec = Place::root(new, "spec");
    for (field, told) in [("podCIDRs", "podCIDR"), ("providerID", "providerID")] {
        let before = &old["spec"][field];
        let was_set = before.as_str().is_some_and(|text| !text.is_empty())
            || before.as_array().is_some_and(|items| !items.is_empty());
        let place = spec.child(field);
        if was_set && place.value != before {
            let detail = format!("node updates may not change {told} except from \"\" to valid");
            errors.push(place.forbidden(&detail));
        }
    }
    errors.extend(taints(new));
    errors
}

pub(super) fn update_status(old: &Value, new: &Value) -> Errors {
    let mut errors = metadata::update(old, new);
    errors.extend(amounts(new));
    errors.extend(addresses(new));
    errors
}

fn taints(node: &Value) -> Errors {
    let metadata = Place::root(node, "metadata");
    let mut errors = Errors::new();
    pod::scheduling::taints(&metadata.blame("taints", &node["spec"]["taints"]), &mut errors);
    errors
}

/// Resource names are fields here: `status.capacity.cpu`.
fn amounts(node: &Value) -> Errors {
    let status = Place::root(node, "status");
    let mut errors = Errors::new();
    for list in ["capacity", "allocatable"] {
        let list = status.child(list);
        for (resource, amount) in list.entries() {
            pod::resources::quantity(resource, &list.blame(resource, amount.value), &mut errors);
        }
    }
    errors
}

fn addresses(node: &Value) -> Errors {
    let status = Place::root(node, "status");
    let list = status.child("addresses");
    let mut seen: Vec<Value> = Vec::new();
    let mut errors = Errors::new();
    for address in list.items() {
        if seen.contains(address.value) {
            errors.push(address.duplicate());
        }
        seen.push(address.value.clone());
    }
    errors
}
