//! The Kubernetes API: TLS and in-process, one router for kubectl, controllers and the node agent.
//!
//! It never imports `reconcile`, `node`, `runtime` or `net`; what it needs of a node goes over a dialled
//! byte stream ([`streams::Dial`]).

pub mod admit;
mod allocate;
pub mod authenticate;
pub mod authorize;
mod autoscaler;
mod bootstrap;
pub mod catalog;
pub mod client;
pub mod decode;
pub mod defaults;
mod discovery;
mod event;
mod expiry;
mod failure;
pub mod fields;
mod health;
pub mod identity;
mod managed;
mod meters;
mod negotiate;
mod object;
pub mod openapi;
pub mod patch;
pub(crate) mod path;
pub mod pki;
mod presentation;
mod proxy;
pub mod quantities;
pub(crate) mod query;
mod reply;
mod router;
pub mod schema;
mod security;
pub mod serve;
pub mod streams;
pub mod table;
pub mod token;
pub mod validate;
mod verbs;

use std::sync::Arc;

use crate::metrics::Registry;
use crate::metrics::figures::Figures;
use crate::model::cidr::Cidr;
use crate::store::Store;

/// The Kubernetes release whose group-versions are served, as `/version` and the Node tell it.
pub const KUBERNETES_VERSION: &str = "v1.36.0";

/// What the API needs to know beside its store.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// `cluster.local`; names the issuer and audience of service-account tokens.
    pub cluster_domain: String,
    /// Where Services get their addresses from.
    pub service_cidr: Cidr,
    /// Whether the network can lead SCTP through Services; where it cannot, such ports are refused.
    pub translates_sctp: bool,
    /// Signs and verifies service-account tokens.
    pub token_key: token::Key,
    /// The authority that signed the server certificate, PEM; published in every namespace.
    pub ca_pem: String,
    /// What `custom.metrics.k8s.io` tells.
    pub figures: Figures,
}

/// Why the API cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("writing the objects of a first start: {0}")]
    Bootstrap(String),
}

/// The API; clones share it.
#[derive(Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    tokens: token::Issuer,
    ca_pem: String,
    service_cidr: Cidr,
    translates_sctp: bool,
    dial: Arc<dyn streams::Dial>,
    figures: Figures,
    /// Creations in a namespace share it from looking at the namespace until their commit is queued;
    /// the begin of a namespace's deletion takes it alone. So whoever empties a terminating namespace
    /// sees everything that will ever be in it. Held across an await, hence not a std lock.
    namespace_gate: tokio::sync::RwLock<()>,
    discovery: discovery::Documents,
    openapi: openapi::Documents,
    meters: meters::Meters,
    /// Copies of upgraded connections, so that shutdown can end them.
    streams: streams::Running,
    places: serve::Places,
}

impl Api {
    /// Opens the API over `store`, and writes what every cluster has from its first start: the
    /// system namespaces with their service accounts.
    pub async fn new(
        store: Store,
        config: ApiConfig,
        dial: Arc<dyn streams::Dial>,
    ) -> Result<Api, StartError> {
        let api = Api {
            inner: Arc::new(Inner {
                store,
                tokens: token::Issuer::new(config.token_key, &config.cluster_domain),
                ca_pem: config.ca_pem,
                service_cidr: config.service_cidr,
                translates_sctp: config.translates_sctp,
                dial,
                figures: config.figures,
                meters: meters::Meters::default(),
                namespace_gate: tokio::sync::RwLock::new(()),
                discovery: discovery::Documents::new(),
                openapi: openapi::Documents::new(discovery::resource_docs()),
                streams: streams::Running::default(),
                places: serve::Places::new(),
            }),
        };
        bootstrap::run(&api).await.map_err(|failure| StartError::Bootstrap(failure.message))?;
        Ok(api)
    }

    /// Counts requests from now on. Once.
    pub fn measure(&self, registry: &Registry) {
        self.inner.meters.register(registry);
    }

    /// Whether whoever sends these headers may GET a path that is no resource, such as `/metrics` of another listener.
    pub fn may_get(&self, path: &str, headers: &http::HeaderMap) -> bool {
        let what = authorize::Attributes::Path { verb: "get", path };
        authenticate::identify(self, None, headers).is_ok_and(|who| {
            matches!(authorize::decide(&who, &what), authorize::Verdict::Allowed { .. })
        })
    }
}
