//! How EndpointSlices and Endpoints are described, and how others tell of them.

use serde_json::Value;

use super::text::{Text, given, items, joined, number, or, plain};

/// So many addresses are named; the others are counted.
const NAMED: usize = 3;

pub fn slice(text: &mut Text, slice: &Value) {
    text.head(slice);
    text.field(0, "AddressType", plain(&slice["addressType"]));
    let ports = items(&slice["ports"]);
    match ports.is_empty() {
        true => text.line(0, "Ports: <unset>"),
        false => text.line(0, "Ports:"),
    }
    port_rows(text, ports, 1);
    let endpoints = items(&slice["endpoints"]);
    match endpoints.is_empty() {
        true => text.line(0, "Endpoints: <none>"),
        false => text.line(0, "Endpoints:"),
    }
    for endpoint in endpoints {
        let addresses = joined(&endpoint["addresses"], ", ");
        let addresses = if addresses.is_empty() { "<none>" } else { &addresses };
        text.field(1, "- Addresses", addresses);
        text.line(2, "Conditions:");
        text.field(3, "Ready", or(&endpoint["conditions"]["ready"], "<unset>"));
        text.field(2, "Hostname", or(&endpoint["hostname"], "<unset>"));
        if let target @ Value::Object(_) = &endpoint["targetRef"] {
            let (kind, name) = (plain(&target["kind"]), plain(&target["name"]));
            text.field(2, "TargetRef", format_args!("{kind}/{name}"));
        }
        text.field(2, "NodeName", or(&endpoint["nodeName"], "<unset>"));
        text.field(2, "Zone", or(&endpoint["zone"], "<unset>"));
    }
}

pub fn endpoints(text: &mut Text, endpoints: &Value) {
    text.head(endpoints);
    text.line(0, "Subsets:");
    for subset in items(&endpoints["subsets"]) {
        for (title, key) in [("Addresses", "addresses"), ("NotReadyAddresses", "notReadyAddresses")]
        {
            let addresses: Vec<String> =
                items(&subset[key]).iter().map(|address| plain(&address["ip"])).collect();
            let none = || "<none>".to_owned();
            text.field(1, title, if addresses.is_empty() { none() } else { addresses.join(",") });
        }
        let ports = items(&subset["ports"]);
        if !ports.is_empty() {
            text.line(1, "Ports:");
        }
        port_rows(text, ports, 2);
        text.line(0, "");
    }
}

fn port_rows(text: &mut Text, ports: &[Value], depth: usize) {
    if ports.is_empty() {
        return;
    }
    text.line(depth, "Name\tPort\tProtocol");
    text.line(depth, "----\t----\t--------");
    for port in ports {
        let name = given(&port["name"]).unwrap_or("<unset>");
        let (number, protocol) = (or(&port["port"], "<unset>"), plain(&port["protocol"]));
        text.line(depth, format_args!("{name}\t{number}\t{protocol}"));
    }
}

/// The ready addresses behind one port of a Service, the first three by name.
pub fn behind(slices: &[Value], port: &str) -> String {
    if slices.is_empty() {
        return "<none>".to_owned();
    }
    let (mut named, mut count, mut are_more) = (Vec::new(), 0, false);
    for slice in slices {
        let ports = items(&slice["ports"]);
        // Slices of headless Services may have no ports.
        let numbers: Vec<Option<i64>> = match ports.is_empty() {
            true => vec![None],
            false => {
                let fitting = ports.iter().filter(|p| plain(&p["name"]) == port);
                fitting.map(|port| Some(number(&port["port"]))).collect()
            }
        };
        for number in numbers {
            for endpoint in items(&slice["endpoints"]) {
                // Also for one that is not ready: so kubectl counts.
                are_more |= named.len() == NAMED;
                if endpoint["conditions"]["ready"] == false {
                    continue;
                }
                count += 1;
                if !are_more {
                    named.push(address(endpoint, number));
                }
            }
        }
    }
    match are_more {
        true => format!("{} + {} more...", named.join(","), count - NAMED),
        false => named.join(","),
    }
}

fn address(endpoint: &Value, port: Option<i64>) -> String {
    let address = plain(&endpoint["addresses"][0]);
    match port {
        None => address,
        Some(port) if address.contains(':') => format!("[{address}]:{port}"),
        Some(port) => format!("{address}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn three_ready_addresses_are_named_and_the_others_counted() {
        let slice = |ready: &[Option<bool>]| {
            let endpoints: Vec<Value> = ready
                .iter()
                .enumerate()
                .map(|(index, ready)| {
                    json!({"addresses": [format!("10.0.0.{index}")], "conditions": {"ready": ready}})
                })
                .collect();
            json!({"ports": [{"name": "web", "port": 80}, {"name": "more", "port": 81}], "endpoints": endpoints})
        };
        let (yes, no) = (Some(true), Some(false));
        for (slices, expected) in [
            (vec![], "<none>"),
            (vec![slice(&[])], ""),
            (vec![slice(&[yes, no, None])], "10.0.0.0:80,10.0.0.2:80"),
            (vec![slice(&[yes; 3])], "10.0.0.0:80,10.0.0.1:80,10.0.0.2:80"),
            (
                vec![slice(&[yes, yes]), slice(&[yes, yes, yes])],
                "10.0.0.0:80,10.0.0.1:80,10.0.0.0:80 + 2 more...",
            ),
            (vec![slice(&[yes, yes, yes, no])], "10.0.0.0:80,10.0.0.1:80,10.0.0.2:80 + 0 more..."),
            (vec![json!({"endpoints": [{"addresses": ["fd00::1"]}]})], "fd00::1"),
            (
                vec![
                    json!({"ports": [{"name": "web", "port": 1}], "endpoints": [{"addresses": ["fd00::1"]}]}),
                ],
                "[fd00::1]:1",
            ),
        ] {
            assert_eq!(behind(&slices, "web"), expected);
        }
    }
}
