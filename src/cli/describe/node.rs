//! How a node is described: what it is, and what its pods ask of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::text::{Clock, Text, given, items, joined, or, pairs, plain, quantity};
use crate::model::quantity::Quantity;

const ROLE: &str = "node-role.kubernetes.io/";

/// `lease` is its Lease, or why that cannot be read; `pods` are those on it that have not ended.
pub fn lay_out(
    text: &mut Text,
    node: &Value,
    lease: &Result<Value, String>,
    pods: &[Value],
    clock: &Clock,
) {
    let (metadata, spec, status) = (&node["metadata"], &node["spec"], &node["status"]);
    text.field(0, "Name", plain(&metadata["name"]));
    text.field(0, "Roles", roles(&metadata["labels"]));
    text.labels("Labels", &metadata["labels"]);
    text.annotations("Annotations", &metadata["annotations"]);
    text.field(0, "CreationTimestamp", clock.date(&metadata["creationTimestamp"]));
    let mut taints: Vec<&Value> = items(&spec["taints"]).iter().collect();
    taints.sort_by_key(|taint| (plain(&taint["effect"]), plain(&taint["key"])));
    text.list("Taints", &taints.into_iter().map(taint).collect::<Vec<_>>());
    text.field(0, "Unschedulable", spec["unschedulable"] == true);
    held(text, lease, clock);
    conditions(text, status, clock);
    text.line(0, "Addresses:");
    for address in items(&status["addresses"]) {
        text.field(1, plain(&address["type"]), plain(&address["address"]));
    }
    for (title, key) in [("Capacity", "capacity"), ("Allocatable", "allocatable")] {
        let mut amounts = pairs(&status[key]).peekable();
        if amounts.peek().is_some() {
            text.line(0, format_args!("{title}:"));
        }
        amounts.for_each(|(name, amount)| text.field(1, name, quantity(amount)));
    }
    text.line(0, "System Info:");
    for (title, key) in [
        ("Machine ID", "machineID"),
        ("System UUID", "systemUUID"),
        ("Boot ID", "bootID"),
        ("Kernel Version", "kernelVersion"),
        ("OS Image", "osImage"),
        ("Operating System", "operatingSystem"),
        ("Architecture", "architecture"),
        ("Container Runtime Version", "containerRuntimeVersion"),
        ("Kubelet Version", "kubeletVersion"),
    ] {
        text.field(1, title, plain(&status["nodeInfo"][key]));
    }
    if let Some(cidr) = given(&spec["podCIDR"]) {
        text.field(0, "PodCIDR", cidr);
    }
    if !items(&spec["podCIDRs"]).is_empty() {
        text.field(0, "PodCIDRs", joined(&spec["podCIDRs"], ","));
    }
    if let Some(provider) = given(&spec["providerID"]) {
        text.field(0, "ProviderID", provider);
    }
    let allocatable = match status["allocatable"].as_object().is_none_or(|map| map.is_empty()) {
        true => &status["capacity"],
        false => &status["allocatable"],
    };
    usage(text, pods, allocatable, clock);
}

fn roles(labels: &Value) -> String {
    let role = |(key, value): (&String, &Value)| match key.strip_prefix(ROLE) {
        Some(role) => Some(role.to_owned()),
        None if key == "kubernetes.io/role" => Some(plain(value)),
        None => None,
    };
    let roles: BTreeSet<String> =
        pairs(labels).filter_map(role).filter(|role| !role.is_empty()).collect();
    match roles.is_empty() {
        true => "<none>".to_owned(),
        false => roles.into_iter().collect::<Vec<_>>().join(","),
    }
}

/// `KEY=VALUE:EFFECT`.
fn taint(taint: &Value) -> String {
    let value = given(&taint["value"]).map(|value| format!("={value}"));
    let effect = given(&taint["effect"]).map(|effect| format!(":{effect}"));
    format!("{}{}{}", plain(&taint["key"]), value.unwrap_or_default(), effect.unwrap_or_default())
}

fn held(text: &mut Text, lease: &Result<Value, String>, clock: &Clock) {
    let lease = match lease {
        Ok(lease) => &lease["spec"],
        Err(why) => return text.field(0, "Lease", format_args!("Failed to get lease: {why}")),
    };
    text.line(0, "Lease:");
    text.field(1, "HolderIdentity", or(&lease["holderIdentity"], "<unset>"));
    for (title, key) in [("AcquireTime", "acquireTime"), ("RenewTime", "renewTime")] {
        match &lease[key] {
            Value::Null => text.field(1, title, "<unset>"),
            time => text.field(1, title, clock.date(time)),
        }
    }
}

fn conditions(text: &mut Text, status: &Value, clock: &Clock) {
    let conditions = items(&status["conditions"]);
    if conditions.is_empty() {
        return;
    }
    text.line(0, "Conditions:");
    text.line(1, "Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage");
    text.line(1, "----\t------\t-----------------\t------------------\t------\t-------");
    for condition in conditions {
        let [kind, status, reason, message] =
            ["type", "status", "reason", "message"].map(|key| plain(&condition[key]));
        let [heartbeat, transition] =
            ["lastHeartbeatTime", "lastTransitionTime"].map(|key| clock.date(&condition[key]));
        text.line(
            1,
            format_args!("{kind} \t{status} \t{heartbeat} \t{transition} \t{reason} \t{message}"),
        );
    }
}

type Amounts = BTreeMap<String, Quantity>;

/// What each pod asks for, and all together.
fn usage(text: &mut Text, pods: &[Value], allocatable: &Value, clock: &Clock) {
    text.field(0, "Non-terminated Pods", format_args!("({} in total)", pods.len()));
    let heads = "Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge";
    text.line(1, heads);
    text.line(
        1,
        "---------\t----\t\t------------\t----------\t---------------\t-------------\t---",
    );
    let (mut all_requests, mut all_limits) = (Amounts::new(), Amounts::new());
    for pod in pods {
        let (requests, limits) = (asked(pod, "requests"), asked(pod, "limits"));
        let metadata = &pod["metadata"];
        text.line(
            1,
            format_args!(
                "{}\t{}\t\t{}\t{}\t{}\t{}\t{}",
                plain(&metadata["namespace"]),
                plain(&metadata["name"]),
                share(&requests, "cpu", allocatable),
                share(&limits, "cpu", allocatable),
                share(&requests, "memory", allocatable),
                share(&limits, "memory", allocatable),
                clock.age(&metadata["creationTimestamp"])
            ),
        );
        add(&mut all_requests, &requests);
        add(&mut all_limits, &limits);
    }
    text.line(0, "Allocated resources:");
    text.line(1, "(Total limits may be over 100 percent, i.e., overcommitted.)");
    text.line(1, "Resource\tRequests\tLimits");
    text.line(1, "--------\t--------\t------");
    let standard = ["cpu", "memory", "ephemeral-storage"];
    let names = || pairs(allocatable).map(|(name, _)| name.as_str());
    let huge = names().filter(|name| name.starts_with("hugepages-"));
    for name in standard.into_iter().chain(huge) {
        let [requests, limits] =
            [&all_requests, &all_limits].map(|amounts| share(amounts, name, allocatable));
        text.line(1, format_args!("{name}\t{requests}\t{limits}"));
    }
    let is_extended = |name: &&str| {
        !standard.contains(name) && !name.starts_with("hugepages-") && *name != "pods"
    };
    for name in names().filter(is_extended) {
        let [requests, limits] = [&all_requests, &all_limits]
            .map(|amounts| amounts.get(name).copied().unwrap_or(Quantity::ZERO));
        text.line(1, format_args!("{name}\t{requests}\t{limits}"));
    }
}

/// `100m (5%)`: how much, and how much of what there is.
fn share(amounts: &Amounts, name: &str, allocatable: &Value) -> String {
    let amount = amounts.get(name).copied().unwrap_or(Quantity::ZERO);
    let whole = Quantity::from_json(&allocatable[name]).unwrap_or(Quantity::ZERO);
    let (part, whole) = match name {
        "cpu" => (amount.milli_value(), whole.milli_value()),
        _ => (amount.value(), whole.value()),
    };
    let percent = if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 };
    format!("{amount} ({}%)", percent as i64)
}

fn add(sum: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        let before = sum.get(name).copied().unwrap_or(Quantity::ZERO);
        sum.insert(name.clone(), before.plus(*amount));
    }
}

fn raise(highest: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        if highest.get(name).is_none_or(|before| before < amount) {
            highest.insert(name.clone(), *amount);
        }
    }
}

/// What a pod asks for at its highest: its containers with the sidecars, or one of its init containers with the
/// sidecars before it (KEP-753); and its overhead.
fn asked(pod: &Value, list: &str) -> Amounts {
    let spec = &pod["spec"];
    let read = |map: &Value| -> Amounts {
        let amount = |(name, amount): (&String, &Value)| {
            Some((name.clone(), Quantity::from_json(amount).ok()?))
        };
        pairs(map).filter_map(amount).collect()
    };
    let (mut together, mut sidecars, mut highest) =
        (Amounts::new(), Amounts::new(), Amounts::new());
    for container in items(&spec["containers"]) {
        add(&mut together, &read(&container["resources"][list]));
    }
    for container in items(&spec["initContainers"]) {
        let mut own = read(&container["resources"][list]);
        match container["restartPolicy"] == "Always" {
            true => {
                add(&mut together, &own);
                add(&mut sidecars, &own);
                own = sidecars.clone();
            }
            false => add(&mut own, &sidecars),
        }
        raise(&mut highest, &own);
    }
    raise(&mut together, &highest);
    let mut overhead = read(&spec["overhead"]);
    // Overhead alone limits nothing.
    overhead.retain(|name, _| {
        list == "requests" || together.get(name).is_some_and(|limit| !limit.is_zero())
    });
    add(&mut together, &overhead);
    together
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_asks_for_what_runs_at_a_time_at_its_highest() {
        let of =
            |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}, "limits": {"memory": cpu}}});
        let sidecar = |cpu: &str| {
            let mut container = of(cpu);
            container["restartPolicy"] = json!("Always");
            container
        };
        for (init, containers, expected) in [
            (vec![], vec![of("1"), of("500m")], "1500m"),
            (vec![of("2")], vec![of("1")], "2"),
            (vec![sidecar("1"), of("2")], vec![of("1")], "3"),
            (vec![of("2"), sidecar("1")], vec![of("1500m")], "2500m"),
        ] {
            let pod = json!({"spec": {"initContainers": init, "containers": containers,
                "overhead": {"cpu": "0", "memory": "1"}}});
            assert_eq!(asked(&pod, "requests")["cpu"].to_string(), expected);
            assert!(!asked(&pod, "limits").contains_key("cpu"));
        }
    }

    #[test]
    fn shares_are_whole_percents() {
        let amounts = Amounts::from([("cpu".to_owned(), "1500m".parse().unwrap())]);
        let allocatable = json!({"cpu": "1900m", "memory": "1Gi"});
        assert_eq!(share(&amounts, "cpu", &allocatable), "1500m (78%)");
        assert_eq!(share(&amounts, "memory", &allocatable), "0 (0%)");
        assert_eq!(share(&amounts, "hugepages-2Mi", &allocatable), "0 (0%)");
    }
}
