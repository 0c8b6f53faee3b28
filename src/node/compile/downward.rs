//! What a pod may learn about itself: fields and resources, for environment variables and files.
//!
//! Pure. Field paths are parsed here and nowhere else.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;

use super::Refusal;
use super::resources::{nanos, round_up};

/// Addresses that a pod may ask for; its own are empty before it has a network.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Addresses {
    pub pod: Vec<IpAddr>,
    pub host: Vec<IpAddr>,
}

/// What a limit reads as where the container names none.
#[derive(Debug, Clone, Copy)]
pub struct ResourceDefaults {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
}

/// The value of `fieldRef.fieldPath`.
pub fn field(pod: &core::Pod, path: &str, addresses: &Addresses) -> Result<String, Refusal> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    let join = |list: &[IpAddr]| list.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    let first = |list: &[IpAddr]| list.first().map(IpAddr::to_string);
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => &metadata.labels,
            "metadata.annotations" => &metadata.annotations,
            _ => return Err(unknown(path)),
        };
        return Ok(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let value = match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "metadata.labels" => metadata.labels.as_ref().map(lines),
        "metadata.annotations" => metadata.annotations.as_ref().map(lines),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()),
        "status.hostIP" => first(&addresses.host),
        "status.hostIPs" => Some(join(&addresses.host)),
        "status.podIP" => first(&addresses.pod),
        "status.podIPs" => Some(join(&addresses.pod)),
        _ => return Err(unknown(path)),
    };
    Ok(value.unwrap_or_default())
}

/// The value of `resourceFieldRef`, divided and rounded up as Kubernetes does.
pub fn resource(
    pod: &core::Pod,
    own: Option<&core::Container>,
    selector: &core::ResourceFieldSelector,
    defaults: ResourceDefaults,
) -> Result<String, Refusal> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match (named, own) {
        (Some(name), _) => pod
            .spec
            .iter()
            .flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()))
            .find(|c| c.name == name)
            .ok_or_else(|| Refusal::config(format!("container {name} not found")))?,
        (None, Some(container)) => container,
        (None, None) => {
            return Err(Refusal::config("resourceFieldRef names no container".into()));
        }
    };
    let resources = container.resources.as_ref();
    let limit = |name: &str| resources.and_then(|r| r.limits.as_ref()?.get(name)).and_then(nanos);
    let request =
        |name: &str| resources.and_then(|r| r.requests.as_ref()?.get(name)).and_then(nanos);
    let cpu = i128::from(defaults.cpu_millis) * 1_000_000;
    let memory = i128::from(defaults.memory_bytes) * 1_000_000_000;
    let amount = match selector.resource.as_str() {
        "limits.cpu" => limit("cpu").unwrap_or(cpu),
        "limits.memory" => limit("memory").unwrap_or(memory),
        "requests.cpu" => request("cpu").or(limit("cpu")).unwrap_or(0),
        "requests.memory" => request("memory").or(limit("memory")).unwrap_or(0),
        other => {
            return Err(Refusal::config(format!("unsupported container resource : {other}")));
        }
    };
    let divisor =
        selector.divisor.as_ref().and_then(nanos).filter(|n| *n > 0).unwrap_or(1_000_000_000);
    Ok(round_up(amount, divisor).to_string())
}

/// `metadata.labels['app']` → (`metadata.labels`, `app`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// One `key="value"` a line, values quoted as Go's `%q`.
fn lines(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={}", quoted(value))).collect::<Vec<_>>().join("\n")
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn unknown(path: &str) -> Refusal {
    Refusal::config(format!("unsupported fieldPath: {path}"))
}
