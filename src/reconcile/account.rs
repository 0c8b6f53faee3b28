//! Keeps every namespace's `default` ServiceAccount and `kube-root-ca.crt` ConfigMap in existence.
//!
//! A new namespace has both from its first moment (the API commits them together); this controller brings
//! back what somebody deletes or changes.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
const RETRY: Duration = Duration::from_secs(5);

struct Context {
    client: Client,
    ca_pem: String,
}

/// Runs until cancelled.
pub async fn run(client: Client, ca_pem: String, cancel: CancellationToken) {
    let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    let context = Arc::new(Context { client: client.clone(), ca_pem });
    Controller::new(Api::<Namespace>::all(client.clone()), watcher::Config::default())
        .watches(Api::<ServiceAccount>::all(client.clone()), named(ACCOUNT), |account| {
            account.namespace().map(|namespace| ObjectRef::<Namespace>::new(&namespace))
        })
        .watches(Api::<ConfigMap>::all(client), named(ROOT_CA), |config| {
            config.namespace().map(|namespace| ObjectRef::<Namespace>::new(&namespace))
        })
        .graceful_shutdown_on(async move { cancel.cancelled().await })
        .run(reconcile, |_, _: &kube::Error, _| Action::requeue(RETRY), context)
        .for_each(|outcome| async {
            if let Err(error) = outcome {
                tracing::debug!(%error, "a namespace's account could not be looked after");
            }
        })
        .await;
}

async fn reconcile(
    namespace: Arc<Namespace>,
    context: Arc<Context>,
) -> Result<Action, kube::Error> {
    if namespace.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let name = namespace.name_any();
    let accounts: Api<ServiceAccount> = Api::namespaced(context.client.clone(), &name);
    if accounts.get_opt(ACCOUNT).await?.is_none() {
        let account = ServiceAccount {
            metadata: kube::api::ObjectMeta {
                name: Some(ACCOUNT.to_owned()),
                ..Default::default()
            },
            ..Default::default()
        };
        settle(accounts.create(&PostParams::default(), &account).await)?;
    }
    let configs: Api<ConfigMap> = Api::namespaced(context.client.clone(), &name);
    let current = configs.get_opt(ROOT_CA).await?;
    let held = current.as_ref().and_then(|config| config.data.as_ref()?.get("ca.crt"));
    match (&current, held) {
        (Some(_), Some(pem)) if *pem == context.ca_pem => {}
        (Some(_), _) => {
            let patch = Patch::Merge(json!({"data": {"ca.crt": context.ca_pem}}));
            settle(configs.patch(ROOT_CA, &PatchParams::default(), &patch).await)?;
        }
        (None, _) => {
            let config: ConfigMap = serde_json::from_value(json!({
                "metadata": {"name": ROOT_CA},
                "data": {"ca.crt": context.ca_pem},
            }))
            .map_err(kube::Error::SerdeError)?;
            settle(configs.create(&PostParams::default(), &config).await)?;
        }
    }
    Ok(Action::await_change())
}

/// Somebody else having been faster, or the namespace going away, is fine.
fn settle<T>(outcome: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match outcome {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if [403, 404, 409].contains(&status.code) => Ok(()),
        Err(error) => Err(error),
    }
}
