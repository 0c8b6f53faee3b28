//! Which ways a connection may take: what its address is translated to, and who refuses it without any policy (pure).

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, bail};

use super::facts::Facts;
use super::target::{Host, Target, word};
use crate::net::Protocol;
use crate::net::service::{self, Backend, ServiceName};

/// One way that a connection may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// What the pod sends to.
    pub asked: SocketAddr,
    /// Where its packets go, after translation; `None` where nothing serves.
    pub destination: Option<SocketAddr>,
    /// Who stops it, whatever policies say.
    pub stopped: Option<&'static str>,
}

impl Way {
    fn direct(to: SocketAddr, stopped: Option<&'static str>) -> Way {
        Way { asked: to, destination: Some(to), stopped }
    }
}

/// A name that is no Service's must be looked up first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ways {
    Known(Vec<Way>),
    Ask(String),
}

/// # Errors
/// What of the target does not exist, or what to say more.
pub fn ways(facts: &Facts, namespace: &str, target: &Target, said: &str) -> anyhow::Result<Ways> {
    let port = || target.port.with_context(|| format!("which port? Say {said}:PORT"));
    match &target.host {
        Host::Address(address) => {
            Ok(Ways::Known(to_address(facts, SocketAddr::new(*address, port()?), target.protocol)))
        }
        Host::Pod(name) => {
            let (name, within) = name.split_once('.').unwrap_or((name, namespace));
            let pod = facts.pod(within, name)?;
            let address = pod.addresses.first();
            let address = address.with_context(|| format!("pod {name} has no address yet"))?;
            Ok(Ways::Known(vec![Way::direct(SocketAddr::new(*address, port()?), None)]))
        }
        Host::Service(name) => match facts.service(namespace, name) {
            Some(name) => to_service(facts, &name, target),
            None => bail!("there is no Service {name} for pods of {namespace}"),
        },
        Host::Name(name) => match facts.service(namespace, name) {
            Some(name) => to_service(facts, &name, target),
            None => {
                port()?;
                Ok(Ways::Ask(name.clone()))
            }
        },
    }
}

/// Where packets to an address of the network itself go.
pub fn to_address(facts: &Facts, to: SocketAddr, protocol: Protocol) -> Vec<Way> {
    let has = |name: &&ServiceName| facts.services.services[*name].addresses.contains(&to.ip());
    if let Some(name) = facts.services.services.keys().find(has) {
        let found =
            service::backends(&facts.services, name, protocol, to.port(), Some(&facts.node.name));
        return each(to, found);
    }
    if facts.node.addresses.contains(&to.ip()) {
        let found =
            service::backends_of_host(&facts.services, protocol, to.port(), &facts.node.name);
        if !found.is_empty() {
            return each(to, found);
        }
        if let Some(pod) = facts.host_ports.get(&(protocol, to.port())) {
            return each(to, [(pod.ip(), pod.port())]);
        }
        if protocol == Protocol::Tcp && facts.doors.contains(&to.port()) {
            return vec![Way::direct(to, None)];
        }
        let refused = "of the host pods reach ports of Services, hostPorts and the ingress only; it refuses the rest";
        return vec![Way::direct(to, Some(refused))];
    }
    if facts.ranges.services.contains(to.ip()) {
        return each(to, []);
    }
    let stopped = match to.ip() {
        IpAddr::V4(v4) if v4.is_loopback() => Some("127.0.0.0/8 never leaves the pod"),
        IpAddr::V4(v4) if v4.is_link_local() => {
            Some("no pod reaches 169.254.0.0/16, where clouds keep credentials")
        }
        ip if facts.ranges.pods.nth(1) == Some(ip) => Some(
            "pods reach the host at this address through Services only, such as kubernetes and kube-dns",
        ),
        ip if facts.ranges.pods.contains(ip) && facts.world.pod_at(ip).is_none() => {
            Some("no pod has this address")
        }
        _ => None, // Every other address is the world's.
    };
    vec![Way::direct(to, stopped)]
}

/// One way for each endpoint that may be drawn; without any, the one that ends here.
fn each(asked: SocketAddr, backends: impl IntoIterator<Item = Backend>) -> Vec<Way> {
    let mut ways: Vec<Way> = backends
        .into_iter()
        .map(|(address, port)| Way {
            asked,
            destination: Some(SocketAddr::new(address, port)),
            stopped: None,
        })
        .collect();
    if ways.is_empty() {
        let stopped = Some("no ready pod serves this port, so every connection is refused");
        ways.push(Way { asked, destination: None, stopped });
    }
    ways
}

fn to_service(facts: &Facts, name: &ServiceName, target: &Target) -> anyhow::Result<Ways> {
    let ServiceName { namespace: within, name: own } = name;
    let service = &facts.services.services[name];
    if let Some(alias) = &service.external_name {
        target.port.with_context(|| format!("which port? {own} is an alias of {alias}"))?;
        return Ok(Ways::Ask(alias.clone()));
    }
    let spoken: Vec<u16> = service
        .ports
        .iter()
        .filter(|port| port.protocol == target.protocol)
        .map(|port| port.port)
        .collect();
    let port = match (target.port, spoken.as_slice()) {
        (Some(port), _) if spoken.contains(&port) => port,
        (None, [only]) => *only,
        (None, [_, _, ..]) => {
            bail!("Service {within}/{own} has several ports; say svc/{own}:PORT")
        }
        (Some(_), _) | (None, []) => {
            let has: Vec<_> = service
                .ports
                .iter()
                .map(|port| format!("{}/{}", port.port, word(port.protocol)))
                .collect();
            let spoken = word(target.protocol);
            bail!("Service {within}/{own} has no such {spoken} port; it has {}", has.join(", "))
        }
    };
    if let Some(address) = service.addresses.first() {
        return Ok(Ways::Known(to_address(
            facts,
            SocketAddr::new(*address, port),
            target.protocol,
        )));
    }
    // Headless: DNS tells the pods' own addresses, and nothing translates the port.
    let pods = service::backends(&facts.services, name, target.protocol, port, None);
    if pods.is_empty() {
        bail!(
            "Service {within}/{own} is headless and has no ready pod, so its name has no address"
        );
    }
    let direct = |(address, _): Backend| Way::direct(SocketAddr::new(address, port), None);
    Ok(Ways::Known(pods.into_iter().map(direct).collect()))
}
