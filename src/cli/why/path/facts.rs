//! What the answer depends on, as the API has it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1 as networking;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::target::word;
use crate::model::cidr::Cidr;
use crate::net::policy::{Pod, Policy, World, by_namespace, dns};
use crate::net::service::{self, ServiceName};
use crate::net::{Protocol, dns as cluster_dns, sync};

/// The ranges of this instance.
#[derive(Debug, Clone, Copy)]
pub struct Ranges {
    pub pods: Cidr,
    pub services: Cidr,
}

pub struct Facts {
    pub world: World,
    pub services: service::Facts,
    /// Where the cluster's DNS listens; `None` when its Service leads nowhere.
    pub dns: Option<SocketAddr>,
    pub node: Node,
    /// Uids of pods, by address.
    pub uids: BTreeMap<IpAddr, String>,
    /// Pods' addresses and ports behind ports of the host.
    pub host_ports: BTreeMap<(Protocol, u16), SocketAddr>,
    /// Ports of the host that pods reach.
    pub doors: Vec<u16>,
    pub ranges: Ranges,
}

/// The one that there is.
#[derive(Debug, Clone, Default)]
pub struct Node {
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

impl Facts {
    /// # Errors
    /// What the API refused.
    pub async fn gather(client: &kube::Client, ranges: Ranges) -> anyhow::Result<Facts> {
        let all = ListParams::default();
        let policies: Api<networking::NetworkPolicy> = Api::all(client.clone());
        let namespaces: Api<core::Namespace> = Api::all(client.clone());
        let pods: Api<core::Pod> = Api::all(client.clone());
        let services: Api<core::Service> = Api::all(client.clone());
        let slices: Api<EndpointSlice> = Api::all(client.clone());
        let nodes: Api<core::Node> = Api::all(client.clone());
        let (policies, namespaces, pods, services, slices, nodes) = tokio::try_join!(
            policies.list(&all),
            namespaces.list(&all),
            pods.list(&all),
            services.list(&all),
            slices.list(&all),
            nodes.list(&all),
        )?;
        let world = World {
            policies: by_namespace(policies.items.iter().map(|object| Policy::read(object).into())),
            namespaces: namespaces
                .items
                .iter()
                .map(|one| (one.name_any(), one.labels().clone()))
                .collect(),
            pods: pods.items.iter().filter_map(placed).collect(),
        };
        let services = sync::read(services.items.iter(), slices.items.iter());
        let node = nodes.items.first().map(|node| Node {
            name: node.name_any(),
            addresses: node
                .status
                .iter()
                .flat_map(|status| status.addresses.iter().flatten())
                .filter_map(|address| address.address.parse().ok())
                .collect(),
        });
        let mut facts = Facts::of(world, services, node.unwrap_or_default(), ranges);
        for pod in &pods.items {
            facts.note(pod);
        }
        Ok(facts)
    }

    /// Adds what follows: where DNS is, and that policies know it.
    pub fn of(world: World, services: service::Facts, node: Node, ranges: Ranges) -> Facts {
        let (uids, host_ports) = (BTreeMap::new(), BTreeMap::new());
        let doors = Vec::new();
        let mut facts = Facts { world, services, dns: None, node, uids, host_ports, doors, ranges };
        let name = ServiceName {
            namespace: cluster_dns::NAMESPACE.to_owned(),
            name: cluster_dns::NAME.to_owned(),
        };
        let backends =
            service::backends(&facts.services, &name, Protocol::Udp, cluster_dns::PORT, None);
        facts.dns = backends.first().map(|(address, port)| SocketAddr::new(*address, *port));
        if let Some(at) = facts.dns {
            let pod = dns(at);
            facts.world.namespaces.entry(pod.namespace.clone()).or_default();
            facts.world.pods.push(pod);
        }
        facts
    }

    fn note(&mut self, pod: &core::Pod) {
        let Some(Pod { addresses, .. }) = placed(pod) else {
            return;
        };
        for address in &addresses {
            self.uids.insert(*address, pod.uid().unwrap_or_default());
        }
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        for port in containers.flat_map(|container| container.ports.iter().flatten()) {
            let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
                .into_iter()
                .find(|one| word(*one) == port.protocol.as_deref().unwrap_or("TCP"));
            let outside = port.host_port.and_then(|port| u16::try_from(port).ok());
            let inside = u16::try_from(port.container_port).ok();
            if let (Some(protocol), Some(outside), Some(inside), Some(address)) =
                (protocol, outside, inside, addresses.first())
            {
                let at = SocketAddr::new(*address, inside);
                self.host_ports.insert((protocol, outside), at);
            }
        }
    }

    /// # Errors
    /// There is no such pod with an address of its own.
    pub fn pod(&self, namespace: &str, name: &str) -> anyhow::Result<&Pod> {
        let found = |pod: &&Pod| pod.namespace == namespace && pod.name == name;
        self.world.pods.iter().find(found).with_context(|| {
            format!(
                "pod {namespace}/{name} has no address of its own: it does not exist, has ended, or uses the host's"
            )
        })
    }

    /// The Service behind a name as pods in `namespace` say it: `name`, `name.namespace`, `name.namespace.svc…`.
    pub fn service(&self, namespace: &str, said: &str) -> Option<ServiceName> {
        let mut words = said.trim_end_matches('.').split('.');
        let name = words.next()?.to_owned();
        let within = words.next().unwrap_or(namespace).to_owned();
        let is_service = words.next().is_none_or(|word| word == "svc");
        let name = ServiceName { namespace: within, name };
        (is_service && self.services.services.contains_key(&name)).then_some(name)
    }
}

fn placed(object: &core::Pod) -> Option<Pod> {
    let addresses = object.status.as_ref()?.pod_ips.iter().flatten();
    let addresses: Vec<IpAddr> = addresses.filter_map(|address| address.ip.parse().ok()).collect();
    Some(Pod { addresses, ..Pod::read(object)? })
}
