//! Endpoints are packed into slices, with as little change as the news is (pure).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use serde_json::{Map, Value, json};

use super::super::caches::Kind;
use super::super::decide::{Intent, Target, Told, Write};
use super::{MANAGED_BY, SERVICE};

/// Endpoints of a slice at most: kube-controller-manager's `--max-endpoints-per-slice`.
const ROOM: usize = 100;
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Endpoints that share ports.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Group {
    /// As a slice lists them.
    pub ports: Vec<Value>,
    /// By address, as a slice lists them.
    pub endpoints: BTreeMap<String, Value>,
}

/// The writes that make the slices that `by` manages hold exactly `groups`. Endpoints stay in the slice that they are in.
/// `keeps_one`: a Service whose endpoints are looked for has a slice that says there are none.
pub fn pack(
    service: &Service,
    by: &str,
    keeps_one: bool,
    mut groups: Vec<Group>,
    held: &[&EndpointSlice],
) -> Vec<Intent> {
    if groups.is_empty() && keeps_one {
        groups.push(Group::default());
    }
    let labels = labels(service, by);
    let mut intents = Vec::new();
    let mut used = vec![false; held.len()];
    for mut group in groups {
        let mut kept: Vec<(usize, Vec<Value>)> = Vec::new();
        for (place, slice) in held.iter().enumerate() {
            let ports = serde_json::to_value(&slice.ports).unwrap_or_default();
            let is_of_group = !used[place]
                && slice.address_type == "IPv4"
                && same(&ports, &Value::Array(group.ports.clone()));
            if is_of_group {
                used[place] = true;
                let stay = slice
                    .endpoints
                    .iter()
                    .flatten()
                    .filter_map(|endpoint| group.endpoints.remove(endpoint.addresses.first()?));
                kept.push((place, stay.take(ROOM).collect()));
            }
        }
        let mut new = group.endpoints.into_values();
        for (_, endpoints) in &mut kept {
            let room = ROOM.saturating_sub(endpoints.len());
            endpoints.extend(new.by_ref().take(room));
        }
        let is_empty = kept.iter().all(|(_, endpoints)| endpoints.is_empty()) && new.len() == 0;
        for (number, (place, endpoints)) in kept.iter().enumerate() {
            // The first stays even when it is empty, so that "none" is said and not merely left unsaid.
            let is_needed = !endpoints.is_empty() || (is_empty && number == 0 && keeps_one);
            match is_needed {
                true => intents.extend(patch(held[*place], endpoints, &labels)),
                false => intents.push(delete(held[*place])),
            }
        }
        let mut new: Vec<Value> = new.collect();
        if is_empty && keeps_one && kept.is_empty() {
            intents.push(create(service, &labels, &group.ports, Vec::new()));
        }
        while !new.is_empty() {
            let rest = new.split_off(new.len().min(ROOM));
            intents.push(create(service, &labels, &group.ports, new));
            new = rest;
        }
    }
    let strays = held.iter().zip(&used).filter(|(_, used)| !**used);
    intents.extend(strays.map(|(slice, _)| delete(slice)));
    intents
}

fn labels(service: &Service, by: &str) -> Map<String, Value> {
    let mut labels: Map<String, Value> =
        service.labels().iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    labels.insert(SERVICE.to_owned(), json!(service.name_any()));
    labels.insert(MANAGED_BY.to_owned(), json!(by));
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
    if address == Some("None") {
        labels.insert(HEADLESS.to_owned(), json!(""));
    } else {
        labels.remove(HEADLESS);
    }
    labels
}

fn create(
    service: &Service,
    labels: &Map<String, Value>,
    ports: &[Value],
    endpoints: Vec<Value>,
) -> Intent {
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "generateName": format!("{}-", service.name_any()),
            "namespace": service.metadata.namespace,
            "labels": labels,
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": service.metadata.name,
                "uid": service.metadata.uid, "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": endpoints,
    });
    Intent { write: Write::Create { kind: Kind::EndpointSlice, object }, told: Told::Nothing }
}

fn delete(slice: &EndpointSlice) -> Intent {
    let target = Target::of(&slice.metadata);
    Intent { write: Write::Delete { kind: Kind::EndpointSlice, target }, told: Told::Nothing }
}

fn patch(
    slice: &EndpointSlice,
    endpoints: &[Value],
    labels: &Map<String, Value>,
) -> Option<Intent> {
    let said = serde_json::to_value(&slice.endpoints).unwrap_or_default();
    let labelled = json!(slice.labels());
    let mut patch = Map::new();
    if !same(&said, &json!(endpoints)) {
        patch.insert("endpoints".to_owned(), json!(endpoints));
    }
    if labelled != json!(labels) {
        let mut change = labels.clone();
        for gone in slice.labels().keys().filter(|key| !labels.contains_key(*key)) {
            change.insert(gone.clone(), Value::Null);
        }
        patch.insert("metadata".to_owned(), json!({"labels": change}));
    }
    let target = Target::of(&slice.metadata);
    let write =
        Write::Patch { kind: Kind::EndpointSlice, target, patch: Value::Object(patch.clone()) };
    (!patch.is_empty()).then_some(Intent { write, told: Told::Nothing })
}

/// Whether two texts mean the same object: what is absent, null, or an empty list says nothing.
pub fn same(one: &Value, other: &Value) -> bool {
    fn plain(value: &Value) -> Value {
        match value {
            Value::Object(fields) => fields
                .iter()
                .map(|(key, value)| (key.clone(), plain(value)))
                .filter(|(_, value)| !value.is_null() && *value != json!([]))
                .collect::<std::collections::BTreeMap<_, _>>()
                .into_iter()
                .collect(),
            Value::Array(items) => items.iter().map(plain).collect(),
            Value::Null => json!([]),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
        }
    }
    plain(one) == plain(other)
}
