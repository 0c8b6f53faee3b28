//! `custom.metrics.k8s.io`: figures of pods, Services and Ingresses that the daemon's own parts have read.
//!
//! `pods/*/NAME` answers for every pod that has the figure; one that has none is left out. It reads objects only for
//! who they are, and counts nothing.

use std::time::Duration;

use serde_json::{Value, json};

use crate::api::catalog::{self, Kind};
use crate::api::failure::Failure;
use crate::api::path::Metric;
use crate::api::reply::{Answer, Content};
use crate::api::verbs::selection::Selection;
use crate::api::verbs::{Call, key, list, write};
use crate::api::{Api, object};
use crate::metrics::figures::{self, Figure, Subject};
use crate::sys::clock;

/// Every object of the collection.
const ALL: &str = "*";

pub fn get(api: &Api, call: &Call, asked: &Metric) -> Result<Answer, Failure> {
    if call.query.get("metricLabelSelector").is_some_and(|selector| !selector.is_empty()) {
        return Err(Failure::bad_request(
            "metricLabelSelector is not supported: figures are summed over their series",
        ));
    }
    let kind = subject(&asked.resource).ok_or_else(|| nothing(asked))?;
    let namespace = Some(asked.namespace.as_str());
    let objects = match asked.name.as_str() {
        ALL => list::all(api, kind, namespace, &Selection::parse(kind, &call.query)?)?,
        name => {
            let found = write::read(api, kind, &key(kind, namespace, name))?;
            vec![found.ok_or_else(|| Failure::not_found(kind, name))?]
        }
    };
    let items: Vec<Value> = objects
        .iter()
        .filter_map(|object| {
            let value = figure(api, kind, object, &asked.metric)?;
            Some(item(kind, object, &asked.metric, value))
        })
        .collect();
    if items.is_empty() {
        return Err(nothing(asked));
    }
    Ok(Answer::ok(Content::Other(json!({
        "kind": "MetricValueList",
        "apiVersion": asked.api_version(),
        "metadata": {},
        "items": items,
    }))))
}

/// What has figures.
fn subject(resource: &str) -> Option<&'static Kind> {
    match resource {
        "pods" => Some(catalog::pods()),
        "services" => catalog::find("", "v1", "services"),
        "ingresses.networking.k8s.io" => catalog::find("networking.k8s.io", "v1", "ingresses"),
        _ => None,
    }
}

fn figure(api: &Api, kind: &Kind, of: &Value, metric: &str) -> Option<figures::Value> {
    let get = |of: Subject| api.inner.figures.get(&Figure { of, metric: metric.to_owned() });
    let namespace = object::text(of, &["metadata", "namespace"]).to_owned();
    let name = object::name(of).to_owned();
    match kind.plural {
        "services" => get(Subject::Service { namespace, name }),
        "ingresses" => get(Subject::Ingress { namespace, name }),
        // What it says itself counts all its traffic, and so before what others have sent it.
        _ => get(Subject::Pod(object::uid(of).to_owned())).or_else(|| {
            let is_alive = object::text(of, &["status", "phase"]) == "Running";
            let address = object::text(of, &["status", "podIP"]).parse().ok();
            address.filter(|_| is_alive).and_then(|address| get(Subject::Address(address)))
        }),
    }
}

fn item(kind: &Kind, of: &Value, metric: &str, value: figures::Value) -> Value {
    let age = i64::try_from(value.age.as_secs()).unwrap_or(i64::MAX);
    let now = clock::now();
    let at = crate::model::time::Timestamp::from_unix(now.unix_seconds() - age, 0);
    let mut item = json!({
        "describedObject": {
            "kind": kind.kind,
            "namespace": object::text(of, &["metadata", "namespace"]),
            "name": object::name(of),
            "apiVersion": kind.api_version(),
        },
        "metric": {"name": metric, "selector": null},
        "timestamp": at.to_seconds_text(),
        "value": written(value.value),
    });
    if value.window > Duration::ZERO {
        item["windowSeconds"] = value.window.as_secs().into();
    }
    item
}

/// A quantity in thousandths, the form of the Prometheus adapter.
fn written(value: f64) -> String {
    let milli = (value * 1000.0).round() as i64;
    crate::model::quantity::Quantity::from_milli(milli).to_string()
}

/// As an adapter words it.
fn nothing(asked: &Metric) -> Failure {
    let Metric { resource, metric, name, .. } = asked;
    let of = if name == ALL { String::new() } else { format!(" {name}") };
    let message = format!("the server could not find the metric {metric} for {resource}{of}");
    Failure::nothing_here(Metric::GROUP, resource, &message)
}
