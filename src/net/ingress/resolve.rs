//! Which pod addresses stand behind a port of a Service.
//!
//! Slices are grouped once, so that each backend costs its own slices only. Never does I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::routes::{BackendKey, ObjectName, Port, Protocol};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceFact {
    pub name: ObjectName,
    pub ports: Vec<ServicePortFact>,
    pub is_external_name: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePortFact {
    /// Empty when the Service has one port without a name.
    pub name: String,
    pub number: u16,
    pub is_tcp: bool,
    pub app_protocol: Option<String>,
}

/// An EndpointSlice of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceFact {
    pub service: ObjectName,
    /// Name (empty for none) and number.
    pub ports: Vec<(String, u16)>,
    /// Addresses that are ready and do not terminate.
    pub ready: Vec<IpAddr>,
}

/// What a backend stands for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    Pods { addresses: BTreeSet<SocketAddr>, protocol: Protocol },
    Nothing(Nothing),
}

/// Why there is nowhere to send a request. The text is for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nothing {
    NoService,
    NoPort,
    NoReadyPod,
    ExternalName,
    /// Every ready pod has as many requests under way as it may.
    Crowded,
}

impl Nothing {
    /// A sentence about the backend.
    pub fn tell(self, backend: &BackendKey) -> String {
        let BackendKey { service, port } = backend;
        match self {
            Nothing::NoService => format!("Service {service} does not exist"),
            Nothing::NoPort => format!("Service {service} has no TCP port {port}"),
            Nothing::NoReadyPod => format!("Service {service} has no ready pod"),
            Nothing::ExternalName => {
                format!("Service {service} is an ExternalName, which the ingress does not follow")
            }
            Nothing::Crowded => {
                format!(
                    "every ready pod of Service {service} has as many requests under way as one may have"
                )
            }
        }
    }
}

/// Services and their slices, ready to be asked.
#[derive(Debug, Default)]
pub struct Directory {
    services: BTreeMap<ObjectName, ServiceFact>,
    slices: BTreeMap<ObjectName, Vec<SliceFact>>,
}

impl Directory {
    pub fn new(services: Vec<ServiceFact>, slices: Vec<SliceFact>) -> Directory {
        let mut directory = Directory::default();
        for service in services {
            directory.services.insert(service.name.clone(), service);
        }
        for slice in slices {
            directory.slices.entry(slice.service.clone()).or_default().push(slice);
        }
        directory
    }

    pub fn resolve(&self, backend: &BackendKey) -> Resolved {
        let Some(service) = self.services.get(&backend.service) else {
            return Resolved::Nothing(Nothing::NoService);
        };
        if service.is_external_name {
            return Resolved::Nothing(Nothing::ExternalName);
        }
        let named = |port: &&ServicePortFact| {
            port.is_tcp
                && match &backend.port {
                    Port::Number(number) => port.number == *number,
                    Port::Name(name) => port.name == *name,
                }
        };
        let Some(port) = service.ports.iter().find(named) else {
            return Resolved::Nothing(Nothing::NoPort);
        };
        let slices = self.slices.get(&backend.service).map_or(&[][..], Vec::as_slice);
        let addresses: BTreeSet<SocketAddr> = slices
            .iter()
            .flat_map(|slice| {
                let numbers = slice.ports.iter().filter(|(name, _)| *name == port.name);
                numbers.flat_map(|(_, number)| {
                    slice.ready.iter().map(|address| SocketAddr::new(*address, *number))
                })
            })
            .collect();
        match addresses.is_empty() {
            true => Resolved::Nothing(Nothing::NoReadyPod),
            false => Resolved::Pods { addresses, protocol: protocol(port) },
        }
    }
}

/// KEP-3726; `grpc` and `h2c` are what people write without the prefix.
fn protocol(port: &ServicePortFact) -> Protocol {
    match port.app_protocol.as_deref() {
        Some("kubernetes.io/h2c" | "h2c" | "grpc" | "http2") => Protocol::H2c,
        Some(_) | None => Protocol::Http1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(app_protocol: Option<&str>, ready: &[&str]) -> Directory {
        let name = ObjectName::new("shop", "web");
        let port = |name: &str, number, is_tcp| ServicePortFact {
            name: name.to_owned(),
            number,
            is_tcp,
            app_protocol: app_protocol.map(str::to_owned),
        };
        let slice = |ready: &[&str]| SliceFact {
            service: name.clone(),
            ports: vec![("http".to_owned(), 8080), ("admin".to_owned(), 9090)],
            ready: ready.iter().map(|address| address.parse().unwrap()).collect(),
        };
        Directory::new(
            vec![ServiceFact {
                name: name.clone(),
                ports: vec![
                    port("http", 80, true),
                    port("admin", 81, true),
                    port("dns", 53, false),
                ],
                is_external_name: false,
            }],
            ready.iter().map(|address| slice(&[*address])).collect(),
        )
    }

    fn resolve(directory: &Directory, service: &str, port: Port) -> Resolved {
        let service = ObjectName::new("shop", service);
        directory.resolve(&BackendKey { service, port })
    }

    #[test]
    fn a_port_by_number_or_name_is_the_pods_own_port() {
        let directory = directory(None, &["10.0.0.1", "10.0.0.2", "10.0.0.1"]);
        for port in [Port::Number(80), Port::Name("http".to_owned())] {
            let addresses = ["10.0.0.1:8080", "10.0.0.2:8080"].map(|a| a.parse().unwrap()).into();
            let expected = Resolved::Pods { addresses, protocol: Protocol::Http1 };
            assert_eq!(resolve(&directory, "web", port), expected);
        }
    }

    #[test]
    fn what_is_not_there_is_named() {
        let empty = directory(None, &[]);
        for (service, port, nothing) in [
            ("web", Port::Number(80), Nothing::NoReadyPod),
            ("web", Port::Number(8080), Nothing::NoPort),
            ("web", Port::Number(53), Nothing::NoPort),
            ("web", Port::Name("grpc".to_owned()), Nothing::NoPort),
            ("gone", Port::Number(80), Nothing::NoService),
        ] {
            assert_eq!(resolve(&empty, service, port), Resolved::Nothing(nothing), "{service}");
        }
    }

    #[test]
    fn app_protocol_says_h2c() {
        for (said, protocol) in [
            ("kubernetes.io/h2c", Protocol::H2c),
            ("grpc", Protocol::H2c),
            ("http", Protocol::Http1),
            ("kubernetes.io/ws", Protocol::Http1),
        ] {
            let directory = directory(Some(said), &["10.0.0.1"]);
            let resolved = resolve(&directory, "web", Port::Number(80));
            assert!(
                matches!(resolved, Resolved::Pods { protocol: p, .. } if p == protocol),
                "{said}"
            );
        }
    }
}
