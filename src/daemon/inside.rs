//! What the daemon itself is to pods: the API and DNS at the gateway's address, behind Services of their own.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, anyhow};
use tokio::net::TcpListener;

use crate::cli::settings::Settings;
use crate::net::dns;
use crate::net::dns::zone::Ranges;
use crate::reconcile::builtin;

/// The addresses that follow from the ranges.
#[derive(Debug, Clone)]
pub struct Places {
    pub ranges: Ranges,
    /// Where pods find the daemon, and nobody else does.
    pub gateway: IpAddr,
    /// Of the Service `kubernetes`: the first of the range.
    pub api_service: IpAddr,
    /// Of the Service `kube-dns`.
    pub dns_service: IpAddr,
}

impl Places {
    pub fn of(settings: &Settings) -> anyhow::Result<Places> {
        let (pods, services) = (settings.pod_cidr(), settings.service_cidr());
        let narrow = |range| anyhow!("{range} has no room; choose a wider one");
        Ok(Places {
            ranges: Ranges { pods, services },
            gateway: pods.nth(1).ok_or_else(|| narrow(pods)).context("--pod-cidr")?,
            api_service: services
                .nth(1)
                .ok_or_else(|| narrow(services))
                .context("--service-cidr")?,
            dns_service: services
                .nth(dns::OFFSET)
                .ok_or_else(|| narrow(services))
                .context("--service-cidr")?,
        })
    }
}

/// Sockets at the gateway's address, which is there once the network has started.
pub struct Inside {
    api: SocketAddr,
    /// Nothing when the host leaves no port for it; pods then have no cluster DNS.
    pub dns: Option<dns::Server>,
}

impl Inside {
    /// Adds the API's socket to `listeners`, unless one of them is everywhere already.
    pub async fn listen(
        places: &Places,
        listeners: &mut Vec<(SocketAddr, TcpListener)>,
    ) -> anyhow::Result<Inside> {
        let everywhere = listeners.iter().find(|(address, _)| address.ip().is_unspecified());
        let port = everywhere.or(listeners.first()).map_or(6443, |(address, _)| address.port());
        let api = SocketAddr::new(places.gateway, port);
        if everywhere.is_none() {
            let listener = TcpListener::bind(api)
                .await
                .with_context(|| format!("listening on {api}, where pods find the API"))?;
            listeners.push((api, listener));
        }
        let dns = match dns::bind(places.gateway, places.ranges.pods).await {
            Ok(server) => Some(server),
            Err(error) => {
                tracing::error!(
                    %error,
                    "no cluster DNS: ports {} and {} of {} are taken by a name server of this host, which should \
                     listen on its own addresses only",
                    dns::PORT, dns::OTHER_PORT, places.gateway,
                );
                None
            }
        };
        Ok(Inside { api, dns })
    }

    /// What the built-in Services lead to.
    pub fn services(&self, places: &Places) -> builtin::Places {
        builtin::Places {
            api: (places.api_service, self.api),
            dns: self.dns.as_ref().map(|server| (places.dns_service, server.address())),
        }
    }
}
