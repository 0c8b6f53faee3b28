//! Statement 25: to policies the API is an address and a port of the host. What leads to it, its Service, is none of
//! their business (20), and it lives in no namespace, not even where DNS does.

use std::net::{Ipv4Addr, TcpListener};

use serde_json::{Value, json};

use super::labels;
use super::scene::Scene;
use crate::net::policy::tests::policy;
use crate::net::service::{
    Endpoint, Facts, Service, ServiceName, ServicePort, Slice, SlicePort, compile,
};
use crate::net::tests::machine::*;
use crate::net::{Part, Protocol};

const API: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 1);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);
const PORT: u16 = 6443;

/// `kubernetes` in `default`, as the daemon makes it.
fn facts() -> Facts {
    let (protocol, name) = (Protocol::Tcp, "https".to_owned());
    let service = Service {
        addresses: vec![API.into()],
        ports: vec![ServicePort { name: name.clone(), protocol, port: 443, node_port: None }],
        affinity: None,
        is_internal_local: false,
        is_external_local: false,
        is_on_host: false,
        external_name: None,
    };
    let endpoint = Endpoint {
        address: GATEWAY.into(),
        is_ready: true,
        is_serving: true,
        is_terminating: false,
        hostname: None,
        node: None,
    };
    let ports = vec![SlicePort { name, protocol, port: PORT }];
    let slice = Slice { ports, endpoints: vec![endpoint] };
    let name = ServiceName { namespace: "default".into(), name: "kubernetes".into() };
    Facts {
        services: [(name.clone(), service)].into(),
        slices: [(name, [("kubernetes".to_owned(), slice)].into())].into(),
    }
}

#[test]
fn the_api_is_an_address_that_only_blocks_mean() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        for namespace in ["x", "default", "kube-system"] {
            scene.namespace(namespace, Default::default());
        }
        // DNS is served from the same address, and is a pod to policies.
        scene.serve_names().await;
        let pod = scene.pod("x", "a", labels("a")).await;
        let plan = compile(&facts(), "here", &Default::default());
        scene.network.put(Part::Services, plan).await.unwrap();
        let server = TcpListener::bind((GATEWAY, PORT)).unwrap();
        let block = |cidr: &str| json!([{"ipBlock": {"cidr": cidr}}]);
        let port = |number: u16| json!([{"port": number}]);
        let dns = json!({"matchLabels": {"k8s-app": "kube-dns"}});
        let but_the_api = json!({"cidr": "0.0.0.0/0", "except": ["10.42.0.1/32"]});
        let rows: [(Value, bool); 11] = [
            (json!({"to": block("10.42.0.1/32"), "ports": port(PORT)}), true),
            (json!({"to": block("10.42.0.1/32")}), true),
            (json!({"to": block("0.0.0.0/0")}), true),
            (json!({"ports": port(PORT)}), true),
            (json!({"to": [{"ipBlock": but_the_api}]}), false),
            // The Service's address and port.
            (json!({"to": block("10.43.0.1/32")}), false),
            (json!({"to": block("10.43.0.0/16"), "ports": port(443)}), false),
            (json!({"to": block("10.42.0.1/32"), "ports": port(443)}), false),
            // Nobody of any namespace.
            (json!({"to": [{"namespaceSelector": {}}]}), false),
            (json!({"to": [{"namespaceSelector": {}, "podSelector": {}}]}), false),
            (json!({"to": [{"namespaceSelector": {}, "podSelector": dns}]}), false),
        ];
        for (rule, is_allowed) in rows {
            let spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [rule]});
            scene.policies = vec![policy("x", "out", spec)];
            scene.enforce().await;
            match inside(&pod, || connect((API, 443))) {
                Ok(client) => {
                    assert!(is_allowed, "{rule}");
                    talk(&server, Ok(client)).unwrap();
                }
                Err(error) => {
                    assert!(!is_allowed, "{rule}: {error}");
                    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{rule}");
                }
            }
        }
    });
}
