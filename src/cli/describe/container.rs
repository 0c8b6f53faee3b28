//! The containers of a pod, each with how it does, or of a pod template.

use serde_json::Value;

use super::text::{Clock, Text, capital, given, items, number, pairs, plain, quantity};
use super::{environment, probe};

/// A pod that runs, and the moment at which it is looked at.
#[derive(Clone, Copy)]
pub struct Living<'a> {
    pub pod: &'a Value,
    pub clock: &'a Clock,
}

/// One of the lists of containers. A template has no living pod; its lines stand two spaces further in.
pub fn lay_out(text: &mut Text, title: &str, spec: &Value, kind: &str, living: Option<Living>) {
    let containers = items(&spec[format!("{kind}s")]);
    let (indent, name_indent) = if living.is_some() { ("", "") } else { ("  ", " ") };
    let none = if containers.is_empty() { " <none>" } else { "" };
    text.line(0, format_args!("{indent}{title}:{none}"));
    for container in containers {
        let name = &container["name"];
        text.line(1, format_args!("{name_indent}{}:", plain(name)));
        let status = living.and_then(|living| {
            let statuses = items(&living.pod["status"][format!("{kind}Statuses")]);
            Some((statuses.iter().find(|status| &status["name"] == name)?, living.clock))
        });
        head(text, container, status.map(|(status, _)| status));
        if let Some((status, clock)) = status {
            how_it_does(text, status, clock);
        }
        resources(text, &container["resources"]);
        probe::lay_out(text, container);
        environment::lay_out(text, container, living.map(|living| living.pod));
        mounts(text, container);
    }
}

fn head(text: &mut Text, container: &Value, status: Option<&Value>) {
    if let Some(status) = status {
        text.field(2, "Container ID", plain(&status["containerID"]));
    }
    text.field(2, "Image", plain(&container["image"]));
    if let Some(status) = status {
        text.field(2, "Image ID", plain(&status["imageID"]));
    }
    for (title, key) in [("Port", "containerPort"), ("Host Port", "hostPort")] {
        let ports: Vec<String> =
            items(&container["ports"]).iter().map(|port| numbered(port, key)).collect();
        match &ports[..] {
            [] => text.field(2, title, "<none>"),
            [port] => text.field(2, title, port),
            ports => text.field(2, format_args!("{title}s"), ports.join(", ")),
        }
    }
    seccomp(text, &container["securityContext"]["seccompProfile"], 2);
    for (title, key) in [("Command", "command"), ("Args", "args")] {
        let words = items(&container[key]);
        if !words.is_empty() {
            text.line(2, format_args!("{title}:"));
        }
        for word in words {
            plain(word).split('\n').for_each(|line| text.line(3, line));
        }
    }
}

/// `8080/TCP (http)`.
fn numbered(port: &Value, key: &str) -> String {
    let shown = format!("{}/{}", number(&port[key]), plain(&port["protocol"]));
    given(&port["name"]).map_or(shown.clone(), |name| format!("{shown} ({name})"))
}

/// A seccomp profile, if there is one.
pub fn seccomp(text: &mut Text, profile: &Value, depth: usize) {
    if profile.is_null() {
        return;
    }
    text.field(depth, "SeccompProfile", plain(&profile["type"]));
    if profile["type"] == "Localhost" {
        // One step further in within a container only.
        let depth = if depth == 0 { 0 } else { depth + 1 };
        text.field(depth, "LocalhostProfile", plain(&profile["localhostProfile"]));
    }
}

fn how_it_does(text: &mut Text, status: &Value, clock: &Clock) {
    state(text, "State", &status["state"], clock);
    if !status["lastState"]["terminated"].is_null() {
        state(text, "Last State", &status["lastState"], clock);
    }
    text.field(2, "Ready", capital(&status["ready"]));
    text.field(2, "Restart Count", number(&status["restartCount"]));
}

fn state(text: &mut Text, name: &str, state: &Value, clock: &Clock) {
    if let running @ Value::Object(_) = &state["running"] {
        text.field(2, name, "Running");
        text.field(3, "Started", clock.date(&running["startedAt"]));
    } else if let ended @ Value::Object(_) = &state["terminated"] {
        text.field(2, name, "Terminated");
        for (title, key) in [("Reason", "reason"), ("Message", "message")] {
            if let Some(value) = given(&ended[key]) {
                text.field(3, title, value);
            }
        }
        text.field(3, "Exit Code", number(&ended["exitCode"]));
        if number(&ended["signal"]) > 0 {
            text.field(3, "Signal", number(&ended["signal"]));
        }
        text.field(3, "Started", clock.date(&ended["startedAt"]));
        text.field(3, "Finished", clock.date(&ended["finishedAt"]));
    } else {
        text.field(2, name, "Waiting");
        if let Some(reason) = given(&state["waiting"]["reason"]) {
            text.field(3, "Reason", reason);
        }
    }
}

fn resources(text: &mut Text, resources: &Value) {
    for (title, key) in [("Limits", "limits"), ("Requests", "requests")] {
        let mut amounts = pairs(&resources[key]).peekable();
        if amounts.peek().is_some() {
            text.line(2, format_args!("{title}:"));
        }
        for (name, amount) in amounts {
            text.field(3, name, quantity(amount));
        }
    }
}

fn mounts(text: &mut Text, container: &Value) {
    let mut mounts: Vec<&Value> = items(&container["volumeMounts"]).iter().collect();
    mounts.sort_by_key(|mount| plain(&mount["mountPath"]));
    text.line(2, if mounts.is_empty() { "Mounts:\t<none>" } else { "Mounts:" });
    for mount in mounts {
        let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
        let below = given(&mount["subPath"]).map(|path| format!(",path={path:?}"));
        let (path, name) = (plain(&mount["mountPath"]), plain(&mount["name"]));
        text.line(3, format_args!("{path} from {name} ({mode}{})", below.unwrap_or_default()));
    }
}
