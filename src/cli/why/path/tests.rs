use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use k8s_openapi::api::networking::v1 as networking;
use serde_json::json;

use super::facts::Node;
use super::*;
use crate::net::policy::{Labels, NamedPort, Nature, Pod, Policy, World, by_namespace};
use crate::net::{service, sync};

fn pod(namespace: &str, name: &str, at: &str, labels: &[(&str, &str)]) -> Pod {
    Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        addresses: vec![at.parse().unwrap()],
        ports: [NamedPort::new("https", Protocol::Tcp, 443)].into(),
        nature: Nature::Pod,
    }
}

/// A Service and one slice with `endpoints`, all at `port`.
fn service(
    namespace: &str,
    spec: serde_json::Value,
    port: (u16, &str),
    endpoints: &[&str],
) -> service::Facts {
    let name = spec["name"].as_str().unwrap();
    let object = serde_json::from_value(json!({
        "metadata": {"namespace": namespace, "name": name}, "spec": spec,
    }));
    let slice = serde_json::from_value(json!({
        "metadata": {
            "namespace": namespace, "name": name,
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "port": port.0, "protocol": port.1}],
        "endpoints": endpoints.iter().map(|at| json!({"addresses": [at], "nodeName": "n"})).collect::<Vec<_>>(),
    }));
    sync::read([object.unwrap()].iter(), [slice.unwrap()].iter())
}

/// The story's namespaces and its policy, and a Service of the membership team.
fn story() -> Facts {
    let object: networking::NetworkPolicy = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "kangaroo-network-policy"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "kangaroo", "role": "backend"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"ports": [{"protocol": "TCP", "port": 80}]}, {
                "from": [{"namespaceSelector": {"matchLabels": {"project": "monitoring-system"}}}],
                "ports": [{"protocol": "TCP", "port": 81}],
            }],
            "egress": [{
                "ports": [{"port": 443}],
                "to": [{"namespaceSelector": {"matchLabels": {"project": "membership", "role": "api"}}}],
            }],
        },
    }))
    .unwrap();
    let namespace = |name: &str, pairs: &[(&str, &str)]| {
        let labels: Labels =
            pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        (name.to_owned(), labels)
    };
    let world = World {
        policies: by_namespace([Policy::read(&object).into()]),
        namespaces: BTreeMap::from([
            namespace("default", &[]),
            namespace("membership", &[("project", "membership"), ("role", "api")]),
        ]),
        pods: vec![
            pod("default", "backend", "10.42.0.2", &[("app", "kangaroo"), ("role", "backend")]),
            pod("default", "other", "10.42.0.3", &[]),
            pod("membership", "one", "10.42.0.4", &[("app", "members")]),
        ],
    };
    let members = json!({
        "name": "members", "clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"], "type": "NodePort",
        "ports": [{"port": 8443, "nodePort": 30443, "protocol": "TCP"}],
    });
    let dns = json!({
        "name": "kube-dns", "clusterIP": "10.43.0.10", "clusterIPs": ["10.43.0.10"],
        "ports": [{"port": 53, "protocol": "UDP"}],
    });
    let empty = json!({
        "name": "empty", "clusterIP": "10.43.0.11", "clusterIPs": ["10.43.0.11"],
        "ports": [{"port": 80, "protocol": "TCP"}],
    });
    let mut services = service("membership", members, (443, "TCP"), &["10.42.0.4"]);
    for more in [
        // The host has a name server of its own.
        service("kube-system", dns, (10053, "UDP"), &["10.42.0.1"]),
        service("default", empty, (80, "TCP"), &[]),
    ] {
        services.services.extend(more.services);
        services.slices.extend(more.slices);
    }
    let node = Node { name: "n".to_owned(), addresses: vec!["192.0.2.1".parse().unwrap()] };
    let ranges =
        Ranges { pods: "10.42.0.0/16".parse().unwrap(), services: "10.43.0.0/16".parse().unwrap() };
    Facts::of(world, services, node, ranges)
}

fn check(pod: &str, to: &str, expected: Expect) {
    let facts = story();
    let answer = Target::parse(to).and_then(|target| {
        let source = source(&facts, "default", pod)?;
        match ways(&facts, "default", &target, to)? {
            Ways::Known(ways) => Ok(answer(&facts, &source, &target, &ways, to)),
            Ways::Ask(name) => Ok((format!("asks for {name}: "), true)),
        }
    });
    expected.assert_eq(&match answer {
        Ok((text, comes_through)) => format!("{text}{comes_through}"),
        Err(error) => format!("{error}"),
    });
}

#[test]
fn the_storys_trap_is_named() {
    check(
        "backend",
        "svc/members.membership",
        expect![[r#"
        default/backend to svc/members.membership fails at the name, which does not resolve; by address it is allowed: egress rule 1 of NetworkPolicy default/kangaroo-network-policy allows it.
          egress   egress rule 1 of default/kangaroo-network-policy allows it
          DNAT     10.43.0.9:8443 becomes 10.42.0.4:443
          ingress  no policy isolates membership/one
          DNS      denied: NetworkPolicy default/kangaroo-network-policy isolates default/backend and no rule allows port 53 of the cluster's DNS, so the name does not resolve and the connection is never tried; allow egress to port 53 (UDP and TCP) of pods labelled k8s-app=kube-dns in namespace kube-system
        false"#]],
    );
    check(
        "backend",
        "members.membership.svc.cluster.local:8443",
        expect![[r#"
        default/backend to members.membership.svc.cluster.local:8443 fails at the name, which does not resolve; by address it is allowed: egress rule 1 of NetworkPolicy default/kangaroo-network-policy allows it.
          egress   egress rule 1 of default/kangaroo-network-policy allows it
          DNAT     10.43.0.9:8443 becomes 10.42.0.4:443
          ingress  no policy isolates membership/one
          DNS      denied: NetworkPolicy default/kangaroo-network-policy isolates default/backend and no rule allows port 53 of the cluster's DNS, so the name does not resolve and the connection is never tried; allow egress to port 53 (UDP and TCP) of pods labelled k8s-app=kube-dns in namespace kube-system
        false"#]],
    );
}

#[test]
fn whoever_decided_is_named() {
    check(
        "other",
        "pod/backend:80",
        expect![[r#"
        default/other to pod/backend:80 is allowed: ingress rule 1 of NetworkPolicy default/kangaroo-network-policy allows it.
          egress   no policy isolates default/other
          ingress  ingress rule 1 of default/kangaroo-network-policy allows it
        true"#]],
    );
    check(
        "other",
        "pod/backend:81",
        expect![[r#"
        default/other to pod/backend:81 is denied: NetworkPolicy default/kangaroo-network-policy isolates default/backend and no ingress rule allows TCP 81 from default/other.
          egress   no policy isolates default/other
          ingress  denied: NetworkPolicy default/kangaroo-network-policy isolates default/backend, and no ingress rule allows it
        false"#]],
    );
    check(
        "backend",
        "10.42.0.3:443",
        expect![[r#"
        default/backend to 10.42.0.3:443 is denied: NetworkPolicy default/kangaroo-network-policy isolates default/backend and no egress rule allows TCP 443 to default/other.
          egress   denied: NetworkPolicy default/kangaroo-network-policy isolates default/backend, and no egress rule allows it
          ingress  no policy isolates default/other
          DNS      denied: NetworkPolicy default/kangaroo-network-policy isolates default/backend and no rule allows port 53 of the cluster's DNS, so no name resolves in this pod; allow egress to port 53 (UDP and TCP) of pods labelled k8s-app=kube-dns in namespace kube-system
        false"#]],
    );
    check(
        "backend",
        "203.0.113.7:53/udp",
        expect![[r#"
        default/backend to 203.0.113.7:53/udp is denied: NetworkPolicy default/kangaroo-network-policy isolates default/backend and no egress rule allows UDP 53 to 203.0.113.7.
          egress   denied: NetworkPolicy default/kangaroo-network-policy isolates default/backend, and no egress rule allows it
          ingress  203.0.113.7 is no pod that a policy could isolate
          DNS      denied: NetworkPolicy default/kangaroo-network-policy isolates default/backend and no rule allows port 53 of the cluster's DNS, so no name resolves in this pod; allow egress to port 53 (UDP and TCP) of pods labelled k8s-app=kube-dns in namespace kube-system
        false"#]],
    );
    check(
        "other",
        "10.43.0.9:8443",
        expect![[r#"
        default/other to 10.43.0.9:8443 is allowed: no NetworkPolicy isolates either end.
          egress   no policy isolates default/other
          DNAT     10.43.0.9:8443 becomes 10.42.0.4:443
          ingress  no policy isolates membership/one
        true"#]],
    );
}

#[test]
fn what_no_policy_decides_is_told_as_well() {
    check(
        "other",
        "svc/empty",
        expect![[r#"
        default/other to svc/empty fails: no ready pod serves this port, so every connection is refused.
          DNAT     10.43.0.11:80 leads to nobody
        false"#]],
    );
    check(
        "other",
        "192.0.2.1:30443",
        expect![[r#"
        default/other to 192.0.2.1:30443 is allowed: no NetworkPolicy isolates either end.
          egress   no policy isolates default/other
          DNAT     192.0.2.1:30443 becomes 10.42.0.4:443
          ingress  no policy isolates membership/one
        true"#]],
    );
    check(
        "other",
        "192.0.2.1:22",
        expect![[r#"
            default/other to 192.0.2.1:22 is denied: of the host pods reach ports of Services, hostPorts and the ingress only; it refuses the rest.
              egress   no policy isolates default/other
              ingress  192.0.2.1 is no pod that a policy could isolate
            false"#]],
    );
    check(
        "other",
        "169.254.169.254:80",
        expect![[r#"
        default/other to 169.254.169.254:80 is denied: no pod reaches 169.254.0.0/16, where clouds keep credentials.
          egress   no policy isolates default/other
          ingress  169.254.169.254 is no pod that a policy could isolate
        false"#]],
    );
    check(
        "other",
        "10.42.0.99:80",
        expect![[r#"
        default/other to 10.42.0.99:80 is denied: no pod has this address.
          egress   no policy isolates default/other
          ingress  10.42.0.99 is no pod that a policy could isolate
        false"#]],
    );
    check(
        "other",
        "10.42.0.1:10053/udp",
        expect![[r#"
            default/other to 10.42.0.1:10053/udp is denied: pods reach the host at this address through Services only, such as kubernetes and kube-dns.
              egress   no policy isolates default/other
              ingress  kube-system/dns is no pod that a policy could isolate
            false"#]],
    );
}

#[test]
fn what_cannot_be_answered_says_what_to_say() {
    check("backend", "pod/other", expect!["which port of pod/other? Say pod/other:PORT"]);
    check(
        "backend",
        "svc/members.membership:1",
        expect!["Service membership/members has no such TCP port; it has 8443/TCP"],
    );
    check("backend", "svc/nobody", expect!["there is no Service nobody for pods of default"]);
    check(
        "nobody",
        "pod/other:80",
        expect![
            "pod default/nobody has no address of its own: it does not exist, has ended, or uses the host's"
        ],
    );
    check(
        "backend",
        "deploy/web:80",
        expect![[
            r#""deploy" is neither svc nor pod; say svc/NAME, pod/NAME:PORT, ADDRESS:PORT or NAME:PORT"#
        ]],
    );
    check("backend", "example.com", expect!["which port? Say example.com:PORT"]);
    check("backend", "example.com:443", expect!["asks for example.com: true"]);
}

#[test]
fn what_was_seen_is_told_in_words() {
    use crate::net::trace::{Outcome, Seen};
    let at: SocketAddr = "10.42.0.4:443".parse().unwrap();
    let mut lines = Vec::new();
    for (outcome, arrived, left_by) in [
        (Outcome::Answered, Some(at), None),
        (Outcome::Refused, Some(at), None),
        (Outcome::Refused, None, None),
        (Outcome::Silence, None, None),
        (Outcome::Unreachable, None, None),
        (Outcome::Silence, None, Some("eth0".to_owned())),
    ] {
        let seen = Seen { outcome, arrived, left_by };
        let (said, came) = live::told(&seen, |_| "membership/one".to_owned());
        lines.push(format!("{came} {said}"));
    }
    expect![[r#"
        true membership/one got the first packet and answered
        true membership/one got the first packet and refused it: nothing listens there
        false no packet arrived anywhere; the pod was refused at once
        false no packet arrived anywhere; the pod heard nothing for two seconds
        false no packet arrived anywhere; the pod was told that the way is prohibited
        true the packet left by eth0; the pod heard nothing for two seconds"#]]
    .assert_eq(&lines.join("\n"));
}
