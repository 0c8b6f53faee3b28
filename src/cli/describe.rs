//! `joey describe`: one object for people, in the form that kubectl has taught them, with its events.
//!
//! Pods are laid out like kubectl's; other kinds print their fields in order, so that nothing is hidden.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::Value;

use super::get::{Scope, encode, visible};
use super::report;
use super::resources::{Resource, Resources, Selection, select};
use crate::model::time::Timestamp;
use crate::sys::clock;

#[derive(Debug, clap::Args)]
pub struct DescribeArgs {
    /// TYPE, TYPE NAME… or TYPE/NAME…
    #[arg(required = true)]
    what: Vec<String>,
    #[command(flatten)]
    scope: Scope,
}

pub async fn run(client: kube::Client, args: DescribeArgs) -> anyhow::Result<ExitCode> {
    let resources = Resources::discover(&client).await?;
    let mut code = ExitCode::SUCCESS;
    let mut objects: Vec<(Resource, Value)> = Vec::new();
    let selection = select(&resources, &args.what)?;
    let whole = matches!(selection, Selection::All(_));
    match selection {
        Selection::All(kinds) => {
            for kind in kinds {
                let path =
                    format!("{}{}", kind.path(args.scope.namespace()), args.scope.query(&[]));
                let list: Value =
                    client.request(http::Request::get(path).body(Vec::new())?).await?;
                let items = list["items"].as_array().cloned().unwrap_or_default();
                objects.extend(items.into_iter().map(|item| (kind.clone(), item)));
            }
        }
        Selection::Named(named) => {
            for (kind, name) in named {
                let path = format!("{}/{name}", kind.path(Some(&args.scope.namespace)));
                match client.request(http::Request::get(path).body(Vec::new())?).await {
                    Ok(object) => objects.push((kind, object)),
                    Err(error) => code = report::failure(&error.into()),
                }
            }
        }
    }
    if objects.is_empty() && whole {
        match args.scope.namespace() {
            Some(namespace) => eprintln!("No resources found in {namespace} namespace."),
            None => eprintln!("No resources found"),
        }
    }
    let mut texts = Vec::new();
    for (resource, object) in &objects {
        let events = events_of(&client, resource, object).await?;
        texts.push(render(resource, object, &events, clock::now()));
    }
    print!("{}", texts.join("\n\n"));
    Ok(code)
}

async fn events_of(
    client: &kube::Client,
    resource: &Resource,
    object: &Value,
) -> anyhow::Result<Vec<Value>> {
    let metadata = &object["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let namespace = metadata["namespace"].as_str().unwrap_or("default");
    let selector = format!(
        "involvedObject.kind={},involvedObject.name={},involvedObject.uid={}",
        resource.kind,
        text(&metadata["name"]),
        text(&metadata["uid"])
    );
    let path = format!("/api/v1/namespaces/{namespace}/events?fieldSelector={}", encode(&selector));
    let list: Value = client.request(http::Request::get(path).body(Vec::new())?).await?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// The whole text for one object.
fn render(resource: &Resource, object: &Value, events: &[Value], now: Timestamp) -> String {
    let mut text = Text::default();
    let metadata = &object["metadata"];
    match resource.plural.as_str() {
        "pods" => pod(&mut text, object),
        _ => {
            text.field("Name", metadata["name"].as_str().unwrap_or_default());
            if let Some(namespace) = metadata["namespace"].as_str() {
                text.field("Namespace", namespace);
            }
            text.map("Labels", &metadata["labels"], "=");
            text.map("Annotations", &metadata["annotations"], ": ");
            for (key, value) in object.as_object().into_iter().flatten() {
                if !["kind", "apiVersion", "metadata"].contains(&key.as_str()) {
                    let secret = resource.plural == "secrets" && key == "data";
                    text.tree(&title(key), value, 0, secret);
                }
            }
        }
    }
    text.events(events, now);
    text.0
}

/// `podIP` → `Pod IP`.
fn title(key: &str) -> String {
    let mut words = String::new();
    let mut previous_lower = false;
    for (index, character) in key.chars().enumerate() {
        if character.is_uppercase() && previous_lower {
            words.push(' ');
        }
        previous_lower = character.is_lowercase() || character.is_ascii_digit();
        match index {
            0 => words.extend(character.to_uppercase()),
            _ => words.push(character),
        }
    }
    words
}

const COLUMN: usize = 18;

#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, depth: usize, line: &str) {
        writeln!(self.0, "{:width$}{}", "", visible(line), width = 2 * depth)
            .expect("writing to a String does not fail");
    }

    fn field(&mut self, name: &str, value: &str) {
        self.indented(0, name, value);
    }

    fn indented(&mut self, depth: usize, name: &str, value: &str) {
        let width = COLUMN.saturating_sub(depth);
        self.line(depth, &format!("{:<width$}{value}", format!("{name}:")));
    }

    fn map(&mut self, name: &str, map: &Value, between: &str) {
        let pairs: Vec<String> = map
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| *key != "kubectl.kubernetes.io/last-applied-configuration")
            .map(|(key, value)| format!("{key}{between}{}", plain(value)))
            .collect();
        match pairs.split_first() {
            None => self.field(name, "<none>"),
            Some((first, rest)) => {
                self.field(name, first);
                for pair in rest {
                    self.line(0, &format!("{:COLUMN$}{pair}", ""));
                }
            }
        }
    }

    fn tree(&mut self, name: &str, value: &Value, depth: usize, secret: bool) {
        match value {
            Value::Object(map) if map.is_empty() => self.indented(depth, name, "<none>"),
            Value::Array(list) if list.is_empty() => self.indented(depth, name, "<none>"),
            Value::Object(map) => {
                self.line(depth, &format!("{name}:"));
                for (key, inner) in map {
                    match (secret, inner.as_str()) {
                        (true, Some(encoded)) => {
                            let bytes = encoded.trim_end_matches('=').len() * 3 / 4;
                            self.indented(depth + 1, key, &format!("{bytes} bytes"));
                        }
                        _ => self.tree(&title(key), inner, depth + 1, false),
                    }
                }
            }
            Value::Array(list) => {
                self.line(depth, &format!("{name}:"));
                for item in list {
                    match item {
                        Value::Object(map) => {
                            for (key, inner) in map {
                                self.tree(&title(key), inner, depth + 1, false);
                            }
                        }
                        other => self.line(depth + 1, &plain(other)),
                    }
                }
            }
            other => self.indented(depth, name, &plain(other)),
        }
    }

    fn rows(&mut self, depth: usize, rows: &[Vec<String>]) {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for row in rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  "));
            self.line(depth, cells.collect::<String>().trim_end());
        }
    }

    fn events(&mut self, events: &[Value], now: Timestamp) {
        if events.is_empty() {
            self.field("Events", "<none>");
            return;
        }
        self.line(0, "Events:");
        let mut sorted: Vec<&Value> = events.iter().collect();
        sorted.sort_by_key(|event| plain(&event["lastTimestamp"]));
        let header = [
            ["Type", "Reason", "Age", "From", "Message"],
            ["----", "------", "----", "----", "-------"],
        ];
        let mut rows: Vec<Vec<String>> =
            header.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect();
        rows.extend(sorted.into_iter().map(|event| {
            let age = |field: &str| {
                let time: Option<Timestamp> =
                    event[field].as_str().and_then(|text| text.parse().ok());
                time.map_or_else(|| "<unknown>".to_owned(), |time| span(now.since(time).as_secs()))
            };
            let count = event["count"].as_i64().unwrap_or(1);
            let when = match count > 1 {
                true => {
                    format!("{} (x{count} over {})", age("lastTimestamp"), age("firstTimestamp"))
                }
                false => age("lastTimestamp"),
            };
            let from =
                event["source"]["component"].as_str().or(event["reportingComponent"].as_str());
            vec![
                plain(&event["type"]),
                plain(&event["reason"]),
                when,
                from.unwrap_or_default().to_owned(),
                plain(&event["message"]).trim().to_owned(),
            ]
        }));
        self.rows(1, &rows);
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `45s`, `3m`, `2h`, `5d`.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..10_800 => format!("{}m", seconds / 60),
        10_800..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn or_none(value: &Value) -> String {
    match value {
        Value::Null => "<none>".to_owned(),
        other => plain(other),
    }
}

fn pod(text: &mut Text, object: &Value) {
    let (metadata, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    text.field("Name", &plain(&metadata["name"]));
    text.field("Namespace", &plain(&metadata["namespace"]));
    text.field("Priority", &spec["priority"].as_i64().unwrap_or(0).to_string());
    text.field("Service Account", &plain(&spec["serviceAccountName"]));
    let node = match spec["nodeName"].as_str() {
        Some(node) => format!("{node}/{}", plain(&status["hostIP"])),
        None => "<none>".to_owned(),
    };
    text.field("Node", &node);
    if let Some(start) = status["startTime"].as_str() {
        text.field("Start Time", start);
    }
    text.map("Labels", &metadata["labels"], "=");
    text.map("Annotations", &metadata["annotations"], ": ");
    let phase = match metadata["deletionTimestamp"].is_null() {
        true => plain(&status["phase"]),
        false => "Terminating".to_owned(),
    };
    text.field("Status", &phase);
    for (name, key) in [("Reason", "reason"), ("Message", "message")] {
        if let Some(value) = status[key].as_str() {
            text.field(name, value);
        }
    }
    text.field("IP", &plain(&status["podIP"]));
    containers(text, spec, Some(status));
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    if !conditions.is_empty() {
        text.line(0, "Conditions:");
        let mut rows = vec![vec!["Type".to_owned(), "Status".to_owned()]];
        rows.extend(conditions.iter().map(|c| vec![plain(&c["type"]), plain(&c["status"])]));
        text.rows(1, &rows);
    }
    volumes(text, spec);
    text.field("QoS Class", &plain(&status["qosClass"]));
    placement(text, spec);
}

/// A pod template, as `kubectl rollout history --revision` lays it out.
pub fn template(template: &Value) -> String {
    let mut text = Text::default();
    let (metadata, spec) = (&template["metadata"], &template["spec"]);
    text.map("Labels", &metadata["labels"], "=");
    if metadata["annotations"].is_object() {
        text.map("Annotations", &metadata["annotations"], ": ");
    }
    containers(&mut text, spec, None);
    volumes(&mut text, spec);
    placement(&mut text, spec);
    let mut all = "Pod Template:\n".to_owned();
    for line in text.0.lines() {
        all.push_str(&format!("  {line}\n"));
    }
    all
}

/// Init containers and containers; how they do only where a pod's status says so.
fn containers(text: &mut Text, spec: &Value, status: Option<&Value>) {
    for (title, kind) in [("Init Containers", "initContainer"), ("Containers", "container")] {
        let list = spec[format!("{kind}s")].as_array();
        if let Some(list) = list.filter(|list| !list.is_empty()) {
            text.line(0, &format!("{title}:"));
            for container in list {
                let statuses = status.map(|status| &status[format!("{kind}Statuses")]);
                container_text(text, container, statuses);
            }
        }
    }
}

fn volumes(text: &mut Text, spec: &Value) {
    match spec["volumes"].as_array().filter(|volumes| !volumes.is_empty()) {
        None => text.field("Volumes", "<none>"),
        Some(volumes) => {
            text.line(0, "Volumes:");
            for volume in volumes {
                let mut rest = volume.clone();
                let name = plain(&volume["name"]);
                if let Some(map) = rest.as_object_mut() {
                    map.remove("name");
                }
                text.tree(&name, &rest, 1, false);
            }
        }
    }
}

fn placement(text: &mut Text, spec: &Value) {
    text.map("Node-Selectors", &spec["nodeSelector"], "=");
    let tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    let shown: Vec<String> = tolerations.iter().map(toleration).collect();
    text.field("Tolerations", shown.first().map_or("<none>", String::as_str));
    for more in shown.iter().skip(1) {
        text.line(0, &format!("{:COLUMN$}{more}", ""));
    }
}

fn toleration(toleration: &Value) -> String {
    let mut shown = plain(&toleration["key"]);
    if let Some(value) = toleration["value"].as_str().filter(|value| !value.is_empty()) {
        shown.push_str(&format!("={value}"));
    }
    if let Some(effect) = toleration["effect"].as_str() {
        shown.push_str(&format!(":{effect}"));
    }
    if toleration["operator"] == "Exists" {
        shown.push_str(" op=Exists");
    }
    if let Some(seconds) = toleration["tolerationSeconds"].as_i64() {
        shown.push_str(&format!(" for {seconds}s"));
    }
    shown
}

fn container_text(text: &mut Text, container: &Value, statuses: Option<&Value>) {
    let name = plain(&container["name"]);
    let status = statuses.map(|statuses| {
        let mut all = statuses.as_array().into_iter().flatten();
        all.find(|status| status["name"] == name.as_str()).unwrap_or(&Value::Null)
    });
    text.line(1, &format!("{name}:"));
    if let Some(status) = status {
        text.indented(2, "Container ID", &plain(&status["containerID"]));
    }
    text.indented(2, "Image", &plain(&container["image"]));
    if let Some(status) = status {
        text.indented(2, "Image ID", &plain(&status["imageID"]));
    }
    let ports = container["ports"].as_array().cloned().unwrap_or_default();
    let of = |key: &str| {
        let shown: Vec<String> = ports
            .iter()
            .map(|port| format!("{}/{}", port[key].as_i64().unwrap_or(0), plain(&port["protocol"])))
            .collect();
        if shown.is_empty() { "<none>".to_owned() } else { shown.join(", ") }
    };
    text.indented(2, if ports.len() > 1 { "Ports" } else { "Port" }, &of("containerPort"));
    text.indented(2, if ports.len() > 1 { "Host Ports" } else { "Host Port" }, &of("hostPort"));
    for (title, key) in [("Command", "command"), ("Args", "args")] {
        if let Some(words) = container[key].as_array() {
            text.line(2, &format!("{title}:"));
            for word in words {
                text.line(3, &plain(word));
            }
        }
    }
    if let Some(status) = status {
        state(text, "State", &status["state"]);
        if status["lastState"].as_object().is_some_and(|map| !map.is_empty()) {
            state(text, "Last State", &status["lastState"]);
        }
        let ready = if status["ready"] == true { "True" } else { "False" };
        text.indented(2, "Ready", ready);
        let restarts = status["restartCount"].as_i64().unwrap_or(0);
        text.indented(2, "Restart Count", &restarts.to_string());
    }
    for key in ["limits", "requests"] {
        if let Some(map) = container["resources"][key].as_object() {
            text.line(2, &format!("{}:", title(key)));
            for (resource, amount) in map {
                text.indented(3, resource, &plain(amount));
            }
        }
    }
    match container["env"].as_array().filter(|env| !env.is_empty()) {
        None => text.indented(2, "Environment", "<none>"),
        Some(env) => {
            text.line(2, "Environment:");
            for variable in env {
                let value = match &variable["valueFrom"] {
                    Value::Null => plain(&variable["value"]),
                    source => source.to_string(),
                };
                text.indented(3, &plain(&variable["name"]), &value);
            }
        }
    }
    match container["volumeMounts"].as_array().filter(|mounts| !mounts.is_empty()) {
        None => text.indented(2, "Mounts", "<none>"),
        Some(mounts) => {
            text.line(2, "Mounts:");
            for mount in mounts {
                let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
                text.line(
                    3,
                    &format!(
                        "{} from {} ({mode})",
                        plain(&mount["mountPath"]),
                        plain(&mount["name"])
                    ),
                );
            }
        }
    }
}

fn state(text: &mut Text, name: &str, state: &Value) {
    let Some((kind, detail)) = state.as_object().and_then(|map| map.iter().next()) else {
        text.indented(2, name, "Waiting");
        return;
    };
    text.indented(2, name, &title(kind));
    for (title, key) in [
        ("Reason", "reason"),
        ("Message", "message"),
        ("Exit Code", "exitCode"),
        ("Signal", "signal"),
        ("Started", "startedAt"),
        ("Finished", "finishedAt"),
    ] {
        if !detail[key].is_null() {
            text.indented(3, title, &or_none(&detail[key]));
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_described_with_its_containers_and_events() {
        let resource = Resource {
            group: String::new(),
            version: "v1".into(),
            kind: "Pod".into(),
            plural: "pods".into(),
            singular: "pod".into(),
            short_names: vec![],
            categories: vec![],
            namespaced: true,
        };
        let object = json!({
            "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
            "spec": {"nodeName": "one", "containers": [{"name": "web", "image": "web:1", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]},
            "status": {"phase": "Running", "podIP": "10.42.0.9", "hostIP": "192.0.2.1", "qosClass": "BestEffort",
                "containerStatuses": [{"name": "web", "ready": true, "restartCount": 2, "state": {"running": {"startedAt": "2026-11-23T10:00:00Z"}}}]},
        });
        let events = [
            json!({"type": "Normal", "reason": "Started", "lastTimestamp": "2026-11-23T10:00:00Z",
            "firstTimestamp": "2026-11-23T09:00:00Z", "count": 3, "source": {"component": "kubelet"}, "message": "Started container web\u{1b}[2J"}),
        ];
        let now = "2026-11-23T10:00:45Z".parse().unwrap();
        expect![[r#"
            Name:             web
            Namespace:        default
            Priority:         0
            Service Account:  
            Node:             one/192.0.2.1
            Labels:           app=web
            Annotations:      <none>
            Status:           Running
            IP:               10.42.0.9
            Containers:
              web:
                Container ID:   
                Image:          web:1
                Image ID:       
                Port:           80/TCP
                Host Port:      0/TCP
                State:          Running
                  Started:       2026-11-23T10:00:00Z
                Ready:          True
                Restart Count:  2
                Environment:    <none>
                Mounts:         <none>
            Volumes:          <none>
            QoS Class:        BestEffort
            Node-Selectors:   <none>
            Tolerations:      <none>
            Events:
              Type    Reason   Age                From     Message
              ----    ------   ----               ----     -------
              Normal  Started  45s (x3 over 60m)  kubelet  Started container web\x1b[2J
        "#]]
        .assert_eq(&render(&resource, &object, &events, now));
    }
}
