//! What every cluster has from its first start, and every namespace from its first moment.
//!
//! It never brings back what somebody deleted while the server ran, but at each start it makes whole
//! what is missing.

use serde_json::{Value, json};

use crate::api::admit::{self, Admitted, CreateFacts, NamespaceFact};
use crate::api::catalog::{self, Kind};
use crate::api::failure::Failure;
use crate::api::query::Effect;
use crate::api::verbs::selection::Selection;
use crate::api::verbs::{create, key, list, write};
use crate::api::{Api, object, query};
use crate::model::key::ObjectKey;
use crate::sys::clock;

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Writes what is missing.
pub async fn run(api: &Api) -> Result<(), Failure> {
    let kind = catalog::namespaces();
    for name in NAMESPACES {
        if write::read(api, kind, &key(kind, None, name))?.is_none() {
            let namespace = json!({"metadata": {"name": name}});
            create::insert(api, kind, None, namespace, Effect::Persist).await?;
        }
    }
    let everything = Selection::parse(kind, &query::Query::default())?;
    for namespace in list::all(api, kind, None, &everything)? {
        if !object::is_terminating(&namespace) {
            complete(api, object::name(&namespace)).await?;
        }
    }
    Ok(())
}

async fn complete(api: &Api, namespace: &str) -> Result<(), Failure> {
    for (key, kind, admitted) in companions(api, namespace)? {
        let is_right = write::read(api, kind, &key)?
            .is_some_and(|current| current["data"] == admitted.value()["data"]);
        if is_right {
            continue;
        }
        let created =
            write::create(api, vec![(key.clone(), kind, admitted.clone())], Effect::Persist);
        if created.await?.is_none() {
            // The authority changed since the last start.
            let data = admitted.value()["data"].clone();
            write::change(api, kind, &key, Effect::Persist, |current| {
                let mut next = current.clone();
                next["data"] = data.clone();
                admit::update(kind, admit::Part::Main, current, next).map(write::Next::Put)
            })
            .await?;
        }
    }
    Ok(())
}

/// What is committed together with a new namespace, so that no pod can come before its account.
pub fn companions(
    api: &Api,
    namespace: &str,
) -> Result<Vec<(ObjectKey, &'static Kind, Admitted)>, Failure> {
    let config_maps = catalog::find_kind("v1", "ConfigMap").expect("a row of the catalog");
    let live = json!({"metadata": {"name": namespace}});
    [
        (
            catalog::service_accounts(),
            json!({"metadata": {"name": "default"}}),
        ),
        (
            config_maps,
            json!({
                "metadata": {
                    "name": "kube-root-ca.crt",
                    "annotations": {
                        "kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
                    },
                },
                "data": {"ca.crt": api.inner.ca_pem},
            }),
        ),
    ]
    .into_iter()
    .map(|(kind, new): (&'static Kind, Value)| {
        let name = object::name(&new).to_owned();
        let facts = CreateFacts {
            now: clock::now(),
            uid: clock::uuid(),
            name: name.clone(),
            namespace: Some(NamespaceFact {
                name: namespace,
                object: Some(&live),
            }),
            service_account: None,
            ingress_classes: &[],
        };
        let admitted = admit::create(kind, new, &facts)?;
        Ok((key(kind, Some(namespace), &name), kind, admitted))
    })
    .collect()
}
