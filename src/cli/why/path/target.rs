//! What was typed after `--to` (pure).

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, bail};

use crate::net::Protocol;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub host: Host,
    /// `None`: the Service's only port.
    pub port: Option<u16>,
    pub protocol: Protocol,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    Service(String),
    Pod(String),
    Address(IpAddr),
    /// Of a Service, as pods say it, or of the world.
    Name(String),
}

impl Target {
    /// # Errors
    /// What is wrong with the text, and what to say instead.
    pub fn parse(text: &str) -> anyhow::Result<Target> {
        let (text, protocol) = match text.rsplit_once('/') {
            Some((rest, "tcp")) => (rest, Protocol::Tcp),
            Some((rest, "udp")) => (rest, Protocol::Udp),
            Some((rest, "sctp")) => (rest, Protocol::Sctp),
            Some(_) | None => (text, Protocol::Tcp),
        };
        if let Ok(address) = text.parse::<SocketAddr>() {
            let host = Host::Address(address.ip());
            return Ok(Target { host, port: Some(address.port()), protocol });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => {
                let port = port.parse().with_context(|| format!("{port:?} is not a port"))?;
                (host, Some(port))
            }
            None => (text, None),
        };
        let host = match host.split_once('/') {
            Some(("svc" | "service" | "services", name)) => Host::Service(name.to_owned()),
            Some(("po" | "pod" | "pods", name)) => Host::Pod(name.to_owned()),
            Some((kind, _)) => bail!(
                "{kind:?} is neither svc nor pod; say svc/NAME, pod/NAME:PORT, ADDRESS:PORT or NAME:PORT"
            ),
            None => match host.parse() {
                Ok(address) => Host::Address(address),
                Err(_) => Host::Name(host.to_owned()),
            },
        };
        if port.is_none() && !matches!(host, Host::Service(_) | Host::Name(_)) {
            bail!("which port of {text}? Say {text}:PORT");
        }
        Ok(Target { host, port, protocol })
    }

    /// Whether the pod asks DNS first.
    pub fn is_named(&self) -> bool {
        matches!(self.host, Host::Service(_) | Host::Name(_))
    }
}

/// As Kubernetes spells it.
pub fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}
