//! Variables that tell a container where Services are (S31), in both forms that Kubernetes inherited.
//!
//! Pure. Services count as they are when the container starts; the API's own is told to every container, the others
//! only with `enableServiceLinks`.

use k8s_openapi::api::core::v1 as core;

/// Name and value, in order.
pub fn variables(pod: &core::Pod, services: &[core::Service]) -> Vec<(String, String)> {
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let namespace = pod.metadata.namespace.as_deref();
    let mut told: Vec<&core::Service> = services
        .iter()
        .filter(|service| {
            let metadata = &service.metadata;
            is_api(service) || links && metadata.namespace.as_deref() == namespace
        })
        // A Service of the pod's own namespace hides the API's, should it have its name.
        .filter(|service| {
            !is_api(service)
                || namespace == Some("default")
                || !links
                || !services.iter().any(|other| {
                    other.metadata.name == service.metadata.name
                        && other.metadata.namespace.as_deref() == namespace
                })
        })
        .collect();
    told.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    told.into_iter().flat_map(of_service).collect()
}

fn is_api(service: &core::Service) -> bool {
    service.metadata.name.as_deref() == Some("kubernetes")
        && service.metadata.namespace.as_deref() == Some("default")
}

/// Nothing for a Service without an address of its own, or without ports.
fn of_service(service: &core::Service) -> Vec<(String, String)> {
    let spec = service.spec.as_ref();
    let address = spec.and_then(|spec| spec.cluster_ip.as_deref());
    let Some(address) = address.filter(|address| !address.is_empty() && *address != "None") else {
        return Vec::new();
    };
    let ports: Vec<&core::ServicePort> =
        spec.and_then(|s| s.ports.as_ref()).into_iter().flatten().collect();
    let Some(first) = ports.first() else {
        return Vec::new();
    };
    let service = variable(service.metadata.name.as_deref().unwrap_or_default());
    let mut told = vec![
        (format!("{service}_SERVICE_HOST"), address.to_owned()),
        (format!("{service}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in &ports {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            told.push((
                format!("{service}_SERVICE_PORT_{}", variable(name)),
                port.port.to_string(),
            ));
        }
    }
    // As Docker's links told it.
    let url = |port: &core::ServicePort| {
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        format!("{}://{host}:{}", protocol(port).to_lowercase(), port.port)
    };
    told.push((format!("{service}_PORT"), url(first)));
    for port in &ports {
        let prefix = format!("{service}_PORT_{}_{}", port.port, protocol(port));
        told.push((prefix.clone(), url(port)));
        told.push((format!("{prefix}_PROTO"), protocol(port).to_lowercase()));
        told.push((format!("{prefix}_PORT"), port.port.to_string()));
        told.push((format!("{prefix}_ADDR"), address.to_owned()));
    }
    told
}

fn protocol(port: &core::ServicePort) -> String {
    port.protocol.as_deref().filter(|p| !p.is_empty()).unwrap_or("TCP").to_uppercase()
}

fn variable(name: &str) -> String {
    name.to_uppercase().replace(['-', '.'], "_")
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    use super::*;

    fn check(pod: Value, services: Value, expected: Expect) {
        let pod: core::Pod = serde_json::from_value(pod).unwrap();
        let services: Vec<core::Service> = serde_json::from_value(services).unwrap();
        let told = variables(&pod, &services);
        let lines: Vec<String> =
            told.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        expected.assert_eq(&lines.concat());
    }

    fn services() -> Value {
        let ports = json!([{"name": "http", "port": 80}, {"name": "dns-udp", "port": 53, "protocol": "UDP"}]);
        json!([
            {"metadata": {"name": "kangaroo-backend", "namespace": "shop"},
             "spec": {"clusterIP": "10.43.0.9", "ports": ports}},
            {"metadata": {"name": "headless", "namespace": "shop"},
             "spec": {"clusterIP": "None", "ports": [{"port": 80}]}},
            {"metadata": {"name": "kubernetes", "namespace": "default"},
             "spec": {"clusterIP": "10.43.0.1", "ports": [{"name": "https", "port": 443}]}},
            {"metadata": {"name": "elsewhere", "namespace": "other"},
             "spec": {"clusterIP": "10.43.0.7", "ports": [{"port": 80}]}},
        ])
    }

    #[test]
    fn services_are_told_in_both_forms() {
        check(
            json!({"metadata": {"namespace": "shop"}}),
            services(),
            expect![[r#"
                KANGAROO_BACKEND_SERVICE_HOST=10.43.0.9
                KANGAROO_BACKEND_SERVICE_PORT=80
                KANGAROO_BACKEND_SERVICE_PORT_HTTP=80
                KANGAROO_BACKEND_SERVICE_PORT_DNS_UDP=53
                KANGAROO_BACKEND_PORT=tcp://10.43.0.9:80
                KANGAROO_BACKEND_PORT_80_TCP=tcp://10.43.0.9:80
                KANGAROO_BACKEND_PORT_80_TCP_PROTO=tcp
                KANGAROO_BACKEND_PORT_80_TCP_PORT=80
                KANGAROO_BACKEND_PORT_80_TCP_ADDR=10.43.0.9
                KANGAROO_BACKEND_PORT_53_UDP=udp://10.43.0.9:53
                KANGAROO_BACKEND_PORT_53_UDP_PROTO=udp
                KANGAROO_BACKEND_PORT_53_UDP_PORT=53
                KANGAROO_BACKEND_PORT_53_UDP_ADDR=10.43.0.9
                KUBERNETES_SERVICE_HOST=10.43.0.1
                KUBERNETES_SERVICE_PORT=443
                KUBERNETES_SERVICE_PORT_HTTPS=443
                KUBERNETES_PORT=tcp://10.43.0.1:443
                KUBERNETES_PORT_443_TCP=tcp://10.43.0.1:443
                KUBERNETES_PORT_443_TCP_PROTO=tcp
                KUBERNETES_PORT_443_TCP_PORT=443
                KUBERNETES_PORT_443_TCP_ADDR=10.43.0.1
            "#]],
        );
    }

    #[test]
    fn without_links_only_the_api_is_told() {
        check(
            json!({"metadata": {"namespace": "default"}, "spec": {"enableServiceLinks": false, "containers": []}}),
            services(),
            expect![[r#"
                KUBERNETES_SERVICE_HOST=10.43.0.1
                KUBERNETES_SERVICE_PORT=443
                KUBERNETES_SERVICE_PORT_HTTPS=443
                KUBERNETES_PORT=tcp://10.43.0.1:443
                KUBERNETES_PORT_443_TCP=tcp://10.43.0.1:443
                KUBERNETES_PORT_443_TCP_PROTO=tcp
                KUBERNETES_PORT_443_TCP_PORT=443
                KUBERNETES_PORT_443_TCP_ADDR=10.43.0.1
            "#]],
        );
    }
}
