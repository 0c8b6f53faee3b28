//! `metrics.k8s.io`: what pods and nodes use now, asked of the nodes at every read.
//!
//! It stores nothing and measures nothing itself. A pod without figures (not running, or just started) is left out,
//! as the metrics-server does.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde_json::{Map, Value, json};

use crate::api::catalog::{self, Kind, Measured};
use crate::api::failure::Failure;
use crate::api::path::Object;
use crate::api::reply::{Answer, Content};
use crate::api::verbs::selection::Selection;
use crate::api::verbs::{Call, key_of, list as stored, write};
use crate::api::{Api, object, streams};

/// What a node says about itself and its pods: `stats/v1alpha1`.
const SUMMARY: &str = "/stats/summary";

pub async fn get(api: &Api, target: &Object, what: Measured) -> Result<Answer, Failure> {
    let kind = target.kind;
    let subject = Object { kind: subject(what), ..target.clone() };
    // As the metrics-server words it.
    let nothing = || {
        let name = match &target.namespace {
            Some(namespace) => format!("{namespace}/{}", target.name),
            None => target.name.clone(),
        };
        Failure::resource_not_found(kind.group, &kind.kind.to_lowercase(), &name)
    };
    let found = write::read(api, subject.kind, &key_of(&subject))?.ok_or_else(nothing)?;
    let figures = figures(api, kind, what, vec![found]).await?.pop();
    Ok(Answer::ok(Content::One(figures.ok_or_else(nothing)?)))
}

pub async fn list(
    api: &Api,
    call: &Call,
    kind: &'static Kind,
    what: Measured,
    namespace: Option<&str>,
) -> Result<Answer, Failure> {
    // Selectors are about pods and nodes, whose labels the figures carry.
    let selection = Selection::parse(subject(what), &call.query)?;
    let subjects = stored::all(api, subject(what), namespace, &selection)?;
    let items = figures(api, kind, what, subjects).await?;
    Ok(Answer::ok(Content::Many { items, metadata: json!({}) }))
}

/// The kind that is measured.
fn subject(what: Measured) -> &'static Kind {
    match what {
        Measured::NodeUsage => catalog::nodes(),
        Measured::PodUsage | Measured::Figure => catalog::pods(),
    }
}

async fn figures(
    api: &Api,
    kind: &Kind,
    what: Measured,
    subjects: Vec<Value>,
) -> Result<Vec<Value>, Failure> {
    let node_of = |subject: &Value| match what {
        Measured::NodeUsage => object::name(subject).to_owned(),
        Measured::PodUsage | Measured::Figure => {
            object::text(subject, &["spec", "nodeName"]).to_owned()
        }
    };
    let mut summaries: BTreeMap<String, Value> = BTreeMap::new();
    for node in subjects.iter().map(node_of).filter(|node| !node.is_empty()) {
        if let Entry::Vacant(place) = summaries.entry(node) {
            let summary = streams::ask(api, place.key(), SUMMARY).await?;
            place.insert(summary);
        }
    }
    let figures = subjects.iter().filter_map(|subject| {
        let summary = summaries.get(&node_of(subject))?;
        match what {
            Measured::NodeUsage => node_metrics(subject, summary),
            Measured::PodUsage | Measured::Figure => pod_metrics(subject, summary),
        }
    });
    let complete = |mut figures: Map<String, Value>| {
        figures.insert("kind".to_owned(), kind.kind.into());
        figures.insert("apiVersion".to_owned(), kind.api_version().into());
        object::canonical(Value::Object(figures))
    };
    Ok(figures.map(complete).collect())
}

fn node_metrics(node: &Value, summary: &Value) -> Option<Map<String, Value>> {
    let of_node = &summary["node"];
    let mut figures = moment(node, of_node)?;
    figures.insert("usage".to_owned(), usage(of_node)?);
    Some(figures)
}

fn pod_metrics(pod: &Value, summary: &Value) -> Option<Map<String, Value>> {
    let uid = object::uid(pod);
    let of_pod = summary["pods"].as_array()?.iter().find(|one| one["podRef"]["uid"] == uid)?;
    let containers = of_pod["containers"].as_array()?;
    let mut figures = moment(pod, containers.first()?)?;
    let containers = containers
        .iter()
        .filter_map(|one| Some(json!({"name": one["name"], "usage": usage(one)?})))
        .collect();
    figures.insert("containers".to_owned(), Value::Array(containers));
    Some(figures)
}

/// Whose figures they are, of when, and the average of how long.
fn moment(subject: &Value, figures: &Value) -> Option<Map<String, Value>> {
    let time = &figures["cpu"]["time"];
    let window = figures["cpu"]["windowSeconds"].as_f64()?;
    let mut metadata = json!({"name": object::name(subject), "creationTimestamp": time});
    for key in ["namespace", "labels"] {
        if let Some(value) = subject["metadata"].get(key) {
            metadata[key] = value.clone();
        }
    }
    let mut all = Map::new();
    all.insert("metadata".to_owned(), metadata);
    all.insert("timestamp".to_owned(), time.clone());
    all.insert("window".to_owned(), format!("{}s", (window * 1000.0).round() / 1000.0).into());
    Some(all)
}

/// In the units of the metrics-server: billionths of a processor, and KiB.
fn usage(figures: &Value) -> Option<Value> {
    let cores = figures["cpu"]["usageNanoCores"].as_u64()?;
    let bytes = figures["memory"]["workingSetBytes"].as_u64()?;
    let cores = match cores {
        0 => "0".to_owned(),
        cores => format!("{cores}n"),
    };
    let memory = match bytes >> 10 {
        0 => "0".to_owned(),
        kibibytes => format!("{kibibytes}Ki"),
    };
    Some(json!({"cpu": cores, "memory": memory}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Value {
        let figures = |cores: u64, bytes: u64| {
            json!({
                "cpu": {"time": "2026-01-02T03:04:05Z", "usageNanoCores": cores, "windowSeconds": 10.012_345},
                "memory": {"workingSetBytes": bytes},
            })
        };
        let mut container = figures(1_500_000, 3 << 20);
        container["name"] = "app".into();
        json!({
            "node": figures(0, 1 << 30),
            "pods": [{"podRef": {"name": "web", "namespace": "default", "uid": "u"}, "containers": [container]}],
        })
    }

    fn pod(uid: &str) -> Value {
        json!({"metadata": {"name": "web", "namespace": "default", "uid": uid, "labels": {"app": "web"}, "annotations": {"a": "b"}}})
    }

    #[test]
    fn figures_carry_the_pods_names_and_labels() {
        let figures = pod_metrics(&pod("u"), &summary()).map(Value::Object);
        let expected = json!({
            "metadata": {
                "name": "web", "namespace": "default", "labels": {"app": "web"},
                "creationTimestamp": "2026-01-02T03:04:05Z",
            },
            "timestamp": "2026-01-02T03:04:05Z",
            "window": "10.012s",
            "containers": [{"name": "app", "usage": {"cpu": "1500000n", "memory": "3072Ki"}}],
        });
        assert_eq!(figures, Some(expected));
    }

    #[test]
    fn a_pod_of_another_life_has_no_figures() {
        assert_eq!(pod_metrics(&pod("other"), &summary()), None);
        assert_eq!(pod_metrics(&pod("u"), &json!({"pods": []})), None);
        assert_eq!(node_metrics(&pod("u"), &json!({"node": {"nodeName": "n"}})), None);
    }

    #[test]
    fn an_idle_node_uses_nothing() {
        let figures = node_metrics(&json!({"metadata": {"name": "n"}}), &summary()).expect("some");
        assert_eq!(figures["usage"], json!({"cpu": "0", "memory": "1048576Ki"}));
    }
}
