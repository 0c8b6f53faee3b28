//! Gives every namespace its `default` ServiceAccount and the `kube-root-ca.crt` ConfigMap.
//!
//! It never touches other accounts, and leaves namespaces that are being deleted alone.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const ACCOUNT: &str = "default";
const CERTIFICATE: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const RETRY: Duration = Duration::from_secs(1);

/// Keeps both there until cancelled. `certificate_pem` is the cluster's certificate authority.
pub async fn run(client: kube::Client, certificate_pem: String, stop: CancellationToken) {
    stop.run_until_cancelled(keep(client, certificate_pem)).await;
}

/// What one namespace has.
#[derive(Debug, Clone, Default, PartialEq)]
struct Held {
    is_active: bool,
    has_account: bool,
    certificate: Option<String>,
}

#[derive(Debug, PartialEq)]
enum Missing {
    Account,
    Certificate,
    /// It is there, with another content.
    CertificateContent,
}

fn missing(held: &Held, certificate_pem: &str) -> Vec<Missing> {
    let mut missing = Vec::new();
    if !held.is_active {
        return missing;
    }
    if !held.has_account {
        missing.push(Missing::Account);
    }
    match &held.certificate {
        None => missing.push(Missing::Certificate),
        Some(held) if held != certificate_pem => missing.push(Missing::CertificateContent),
        Some(_) => {}
    }
    missing
}

enum Seen {
    Namespace(core::Namespace, bool),
    Account(String, bool),
    Certificate(String, Option<String>),
    /// A list is whole.
    Whole,
    Other,
}

async fn keep(client: kube::Client, certificate_pem: String) {
    let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    let namespaces: BoxStream<'_, _> =
        watcher(Api::<core::Namespace>::all(client.clone()), watcher::Config::default())
            .default_backoff()
            .map(|event| match event {
                Ok(watcher::Event::Apply(n) | watcher::Event::InitApply(n)) => {
                    Seen::Namespace(n, true)
                }
                Ok(watcher::Event::Delete(n)) => Seen::Namespace(n, false),
                Ok(watcher::Event::InitDone) => Seen::Whole,
                Ok(watcher::Event::Init) | Err(_) => Seen::Other,
            })
            .boxed();
    let accounts: BoxStream<'_, _> =
        watcher(Api::<core::ServiceAccount>::all(client.clone()), named(ACCOUNT))
            .default_backoff()
            .map(|event| match event {
                Ok(watcher::Event::Apply(a) | watcher::Event::InitApply(a))
                    if a.name_any() == ACCOUNT =>
                {
                    Seen::Account(a.namespace().unwrap_or_default(), true)
                }
                Ok(watcher::Event::Delete(a)) if a.name_any() == ACCOUNT => {
                    Seen::Account(a.namespace().unwrap_or_default(), false)
                }
                Ok(watcher::Event::InitDone) => Seen::Whole,
                Ok(_) | Err(_) => Seen::Other,
            })
            .boxed();
    let certificates: BoxStream<'_, _> =
        watcher(Api::<core::ConfigMap>::all(client.clone()), named(CERTIFICATE))
            .default_backoff()
            .map(|event| match event {
                Ok(watcher::Event::Apply(c) | watcher::Event::InitApply(c))
                    if c.name_any() == CERTIFICATE =>
                {
                    let namespace = c.namespace().unwrap_or_default();
                    let text = c.data.unwrap_or_default().remove(KEY).unwrap_or_default();
                    Seen::Certificate(namespace, Some(text))
                }
                Ok(watcher::Event::Delete(c)) if c.name_any() == CERTIFICATE => {
                    Seen::Certificate(c.namespace().unwrap_or_default(), None)
                }
                Ok(watcher::Event::InitDone) => Seen::Whole,
                Ok(_) | Err(_) => Seen::Other,
            })
            .boxed();
    let mut events = pin!(futures::stream::select_all([namespaces, accounts, certificates]));
    let mut held: BTreeMap<String, Held> = BTreeMap::new();
    let mut lists = 0;
    let mut retry = false;
    loop {
        let event = tokio::select! {
            event = events.next() => match event {
                Some(event) => event,
                None => return,
            },
            () = tokio::time::sleep(RETRY), if retry => Seen::Other,
        };
        match event {
            Seen::Namespace(namespace, false) => {
                held.remove(&namespace.name_any());
            }
            Seen::Namespace(namespace, true) => {
                held.entry(namespace.name_any()).or_default().is_active =
                    namespace.metadata.deletion_timestamp.is_none();
            }
            Seen::Account(namespace, is_there) => {
                held.entry(namespace).or_default().has_account = is_there;
            }
            Seen::Certificate(namespace, text) => {
                held.entry(namespace).or_default().certificate = text;
            }
            Seen::Whole => lists += 1,
            Seen::Other => {}
        }
        // Before all three are known nothing is missing.
        if lists >= 3 {
            retry = !fill(&client, &mut held, &certificate_pem).await;
        }
    }
}

/// Writes what is missing; false when a write failed.
async fn fill(
    client: &kube::Client,
    held: &mut BTreeMap<String, Held>,
    certificate_pem: &str,
) -> bool {
    let mut all_written = true;
    for (namespace, held) in held {
        for missing in missing(held, certificate_pem) {
            match write(client, namespace, &missing, certificate_pem).await {
                Ok(()) => match missing {
                    // Counted at once, before the watch shows it.
                    Missing::Account => held.has_account = true,
                    Missing::Certificate | Missing::CertificateContent => {
                        held.certificate = Some(certificate_pem.to_owned());
                    }
                },
                // The namespace is going.
                Err(kube::Error::Api(status)) if status.code == 403 || status.code == 404 => {}
                Err(error) => {
                    tracing::debug!(namespace, ?missing, %error, "not written yet");
                    all_written = false;
                }
            }
        }
    }
    all_written
}

async fn write(
    client: &kube::Client,
    namespace: &str,
    missing: &Missing,
    certificate_pem: &str,
) -> Result<(), kube::Error> {
    let metadata = |name: &str| ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ObjectMeta::default()
    };
    let maps: Api<core::ConfigMap> = Api::namespaced(client.clone(), namespace);
    let params = PostParams::default();
    let created = match missing {
        Missing::Account => {
            let account =
                core::ServiceAccount { metadata: metadata(ACCOUNT), ..Default::default() };
            let accounts: Api<core::ServiceAccount> = Api::namespaced(client.clone(), namespace);
            accounts.create(&params, &account).await.map(drop)
        }
        Missing::Certificate => {
            let mut metadata = metadata(CERTIFICATE);
            let note = "Contains a CA bundle that can be used to verify the kube-apiserver when using \
                        internal endpoints such as the internal service IP or \
                        kubernetes.default.svc. No other usage is guaranteed across distributions of \
                        Kubernetes clusters.";
            metadata.annotations =
                Some([("kubernetes.io/description".to_owned(), note.to_owned())].into());
            let map = core::ConfigMap {
                metadata,
                data: Some([(KEY.to_owned(), certificate_pem.to_owned())].into()),
                ..Default::default()
            };
            maps.create(&params, &map).await.map(drop)
        }
        Missing::CertificateContent => {
            let patch = Patch::Merge(json!({"data": {KEY: certificate_pem}}));
            maps.patch(CERTIFICATE, &PatchParams::default(), &patch).await.map(drop)
        }
    };
    match created {
        // It came from elsewhere in the meantime.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_gets_what_it_lacks_and_no_more() {
        let held = |is_active, has_account, certificate: Option<&str>| Held {
            is_active,
            has_account,
            certificate: certificate.map(str::to_owned),
        };
        assert_eq!(missing(&held(true, true, Some("ca")), "ca"), []);
        assert_eq!(
            missing(&held(true, false, None), "ca"),
            [Missing::Account, Missing::Certificate]
        );
        assert_eq!(missing(&held(true, true, Some("old")), "ca"), [Missing::CertificateContent]);
        assert_eq!(missing(&held(false, false, None), "ca"), []);
    }
}
