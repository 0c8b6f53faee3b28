//! Gathers the facts that a plan is made from: objects from the API, files of the host and of images.
//!
//! It never decides anything about them.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::authentication::v1 as auth;
use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::{ListParams, PostParams};

use crate::model::time::Timestamp;
use crate::node::compile::ObjectFacts;
use crate::node::compile::dns::HostDns;
use crate::node::credentials::credentials;
use crate::node::volume::payload::{References, TokenWant};
use crate::runtime::image::{Credentials, Image, Images};
use crate::sys::clock;

/// Larger passwd and group files are not read: nobody needs them, and they cost memory at every start.
const NAMES_LIMIT: usize = 1 << 20;

/// The ConfigMaps and Secrets named; absent ones are simply not among them.
pub async fn objects(
    client: &kube::Client,
    namespace: &str,
    references: &References,
) -> Result<ObjectFacts, kube::Error> {
    let mut facts = ObjectFacts::default();
    let maps: Api<core::ConfigMap> = Api::namespaced(client.clone(), namespace);
    for name in references.config_maps.iter().filter(|name| !name.is_empty()) {
        if let Some(map) = maps.get_opt(name).await? {
            facts.config_maps.insert(name.clone(), map);
        }
    }
    let secrets: Api<core::Secret> = Api::namespaced(client.clone(), namespace);
    for name in references.secrets.iter().filter(|name| !name.is_empty()) {
        if let Some(secret) = secrets.get_opt(name).await? {
            facts.secrets.insert(name.clone(), secret);
        }
    }
    Ok(facts)
}

/// The Services whose addresses a new container of `namespace` is told: those beside it, and the API's own.
pub async fn services(
    client: &kube::Client,
    namespace: &str,
) -> Result<Vec<core::Service>, kube::Error> {
    let own: Api<core::Service> = Api::namespaced(client.clone(), namespace);
    let mut services = match own.list(&ListParams::default()).await {
        Ok(list) => list.items,
        // An API server that has no such kind.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    if namespace != "default" {
        let shared: Api<core::Service> = Api::namespaced(client.clone(), "default");
        services.extend(shared.get_opt("kubernetes").await?);
    }
    Ok(services)
}

/// What is to be had of a pod's image pull secrets.
#[derive(Default)]
pub struct PullSecrets {
    pub credentials: Vec<Credentials>,
    /// Names of those that could not be read.
    pub missing: Vec<String>,
}

/// What the pod's image pull secrets hold; one that cannot be read keeps nobody from reading the others.
pub async fn pull_secrets(client: &kube::Client, pod: &core::Pod) -> PullSecrets {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let secrets: Api<core::Secret> = Api::namespaced(client.clone(), namespace);
    let mut found = PullSecrets::default();
    let references = pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten());
    for reference in references.filter(|reference| !reference.name.is_empty()) {
        match secrets.get_opt(&reference.name).await {
            Ok(Some(secret)) => found.credentials.extend(credentials(&secret)),
            Ok(None) => found.missing.push(reference.name.clone()),
            Err(error) => {
                tracing::warn!(secret = reference.name, %error, "an image pull secret cannot be read");
                found.missing.push(reference.name.clone());
            }
        }
    }
    found
}

/// The host's resolver files; absent ones are empty.
pub async fn host_dns() -> HostDns {
    let (resolv_conf, stub_upstreams) =
        tokio::join!(read_text("/etc/resolv.conf"), read_text("/run/systemd/resolve/resolv.conf"));
    HostDns { resolv_conf: resolv_conf.unwrap_or_default(), stub_upstreams }
}

/// The host's /etc/hosts, for pods in its network.
pub async fn host_hosts() -> String {
    read_text("/etc/hosts").await.unwrap_or_default()
}

async fn read_text(path: &str) -> Option<String> {
    tokio::fs::read_to_string(path).await.ok()
}

/// The image's own passwd and group texts.
pub async fn image_names(images: &Images, image: &Image) -> (String, String) {
    let (images, image) = (images.clone(), image.clone());
    let read = move |path: &str| {
        let bytes = images.read_file(&image, path, NAMES_LIMIT).ok().flatten();
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    };
    let both = move || (read("/etc/passwd"), read("/etc/group"));
    tokio::task::spawn_blocking(both).await.unwrap_or_default()
}

/// The pod's service-account tokens, renewed when four fifths of their time have passed.
#[derive(Default)]
pub struct Tokens {
    held: BTreeMap<TokenWant, (String, Timestamp)>,
}

impl Tokens {
    /// Asks for those that are due, for each whatever became of the others.
    ///
    /// # Errors
    /// The first failure; a token that could not be renewed is still held.
    pub async fn bring_up(
        &mut self,
        client: &kube::Client,
        pod: &core::Pod,
        references: &References,
    ) -> Result<(), kube::Error> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref());
        let account = account.filter(|name| !name.is_empty()).unwrap_or("default");
        let api: Api<core::ServiceAccount> = Api::namespaced(client.clone(), namespace);
        let mut outcome = Ok(());
        for want in &references.tokens {
            let now = clock::now();
            if self.held.get(want).is_some_and(|(_, renew_at)| *renew_at > now) {
                continue;
            }
            let request = auth::TokenRequest {
                spec: Some(auth::TokenRequestSpec {
                    audiences: Some(want.audience.clone())
                        .filter(|audience| !audience.is_empty())
                        .map(|audience| vec![audience]),
                    expiration_seconds: Some(want.expiration_seconds),
                    bound_object_ref: Some(auth::BoundObjectReference {
                        api_version: Some("v1".into()),
                        kind: Some("Pod".into()),
                        name: pod.metadata.name.clone(),
                        uid: pod.metadata.uid.clone(),
                    }),
                }),
                ..auth::TokenRequest::default()
            };
            let given = api.create_token_request(account, &PostParams::default(), &request).await;
            let status = match given {
                Ok(given) => given.status.unwrap_or_default(),
                Err(error) => {
                    outcome = outcome.and(Err(error));
                    continue;
                }
            };
            if let (Some(token), Some(ends)) = (status.token, status.expiration_timestamp) {
                let life = Timestamp::from(ends.0).since(now);
                self.held.insert(want.clone(), (token, now.plus(life * 4 / 5)));
            }
        }
        self.held.retain(|want, _| references.tokens.contains(want));
        outcome
    }

    pub fn held(&self) -> BTreeMap<TokenWant, String> {
        self.held.iter().map(|(want, (token, _))| (want.clone(), token.clone())).collect()
    }

    /// When the next token is due; far away when there is none.
    pub fn renew_in(&self) -> Duration {
        let now = clock::now();
        let soonest = self.held.values().map(|(_, renew_at)| renew_at.since(now)).min();
        soonest.unwrap_or(Duration::from_secs(365 * 86400))
    }
}
