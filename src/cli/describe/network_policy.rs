//! How a NetworkPolicy is described.

use serde_json::Value;

use super::text::{Clock, Text, items, joined, or, plain, selector};

pub fn lay_out(text: &mut Text, policy: &Value, clock: &Clock) {
    let (metadata, spec) = (&policy["metadata"], &policy["spec"]);
    text.field(0, "Name", plain(&metadata["name"]));
    text.field(0, "Namespace", plain(&metadata["namespace"]));
    text.field(0, "Created on", clock.moment(&metadata["creationTimestamp"]));
    text.labels("Labels", &metadata["labels"]);
    text.annotations("Annotations", &metadata["annotations"]);
    text.line(0, "Spec:");
    let chosen = match selector(&spec["podSelector"]).as_str() {
        "<none>" => {
            "<none> (Allowing the specific traffic to all pods in this namespace)".to_owned()
        }
        chosen => chosen.to_owned(),
    };
    text.line(1, format_args!("PodSelector:     {chosen}"));
    for (direction, kind, peers, to_from, end) in [
        ("ingress", "Ingress", "from", "From", "source"),
        ("egress", "Egress", "to", "To", "destination"),
    ] {
        if !items(&spec["policyTypes"]).iter().any(|one| one == kind) {
            text.line(1, format_args!("Not affecting {direction} traffic"));
            continue;
        }
        text.line(1, format_args!("Allowing {direction} traffic:"));
        let rules = items(&spec[direction]);
        if rules.is_empty() {
            let what = format!("<none> (Selected pods are isolated for {direction} connectivity)");
            text.line(2, what);
        }
        for (position, rule) in rules.iter().enumerate() {
            if position > 0 {
                text.line(2, "----------");
            }
            ports(text, rule);
            let peers = items(&rule[peers]);
            if peers.is_empty() {
                let any = format!("{to_from}: <any> (traffic not restricted by {end})");
                text.line(2, any);
            }
            for one in peers {
                text.line(2, format_args!("{to_from}:"));
                peer(text, one);
            }
        }
    }
    let kinds = joined(&spec["policyTypes"], ", ");
    let kinds = if kinds.is_empty() { "<none>" } else { &kinds };
    text.line(1, format_args!("Policy Types: {kinds}"));
}

fn ports(text: &mut Text, rule: &Value) {
    let ports = items(&rule["ports"]);
    if ports.is_empty() {
        text.line(2, "To Port: <any> (traffic allowed to all ports)");
    }
    for port in ports {
        let protocol = or(&port["protocol"], "TCP");
        // So kubectl names the port of an entry that gives a protocol only.
        let first = or(&port["port"], "<nil>");
        match &port["endPort"] {
            Value::Null => text.line(2, format_args!("To Port: {first}/{protocol}")),
            last => text.line(2, format_args!("To Port Range: {first}-{last}/{protocol}")),
        }
    }
}

fn peer(text: &mut Text, peer: &Value) {
    let choices = [("NamespaceSelector", "namespaceSelector"), ("PodSelector", "podSelector")];
    for (title, key) in choices {
        if !peer[key].is_null() {
            text.line(3, format_args!("{title}: {}", selector(&peer[key])));
        }
    }
    if let block @ Value::Object(_) = &peer["ipBlock"] {
        text.line(3, "IPBlock:");
        text.line(4, format_args!("CIDR: {}", plain(&block["cidr"])));
        text.line(4, format_args!("Except: {}", joined(&block["except"], ", ")));
    }
}
