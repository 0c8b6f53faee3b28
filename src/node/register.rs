//! The Node object and its Lease: what this host is, what it can give, and that it is alive.
//!
//! It never touches pods. Idle cost: one small Lease patch every ten seconds; the status only when it changes
//! or is five minutes old. A daemon that comes back on a host that is as it was writes nothing before that.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1 as coordination;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::events::{Kind, Note};
use crate::model::time::Timestamp;
use crate::node::agent::NodeConfig;
use crate::node::worker::Shared;
use crate::placement::RESERVED_PORTS;
use crate::sys::clock;

pub mod describe;
pub mod host;

const RENEW_EVERY: Duration = Duration::from_secs(10);
const STATUS_EVERY: Duration = Duration::from_secs(300);
const LEASE_SECONDS: i32 = 40;
/// kubelet's `nodeStatusMaxImages`.
const MAX_IMAGES: usize = 50;
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Registers the node and keeps it registered.
pub(super) async fn run(shared: Arc<Shared>, config: NodeConfig) {
    let api: Api<core::Node> = Api::all(shared.client.clone());
    let leases: Api<coordination::Lease> = Api::namespaced(shared.client.clone(), LEASE_NAMESPACE);
    let mut changes = shared.images.changes();
    let mut images = list_images(&shared).await;
    let mut written: Option<(Value, Timestamp)> = None;
    let mut uid = None;
    let mut found = None;
    let mut told = false;
    let mut is_alive = lives(&leases, &config.node_name).await;
    loop {
        if let Some(known) = &uid
            && let Ok(current) = api.get_opt(&config.node_name).await
            && current.and_then(|node| node.metadata.uid).as_ref() != Some(known)
        {
            // Deleted by somebody, and perhaps made anew by hand: no pod can be placed until it is whole again.
            uid = None;
            written = None;
        }
        if uid.is_none() {
            match ensure(&api, &config).await {
                Ok(node) => {
                    uid = node.metadata.uid.clone();
                    found = Some(node);
                }
                Err(error) => tracing::warn!(%error, "the node is not registered yet"),
            }
        }
        if let Some(uid_text) = &uid {
            let now = clock::now();
            let facts = describe::Facts {
                config: &config,
                addresses: &shared.facts.addresses,
                controllers: &shared.facts.controllers,
                network_problems: &shared.network.problems(),
                capacity: host::capacity(&config.data_dir),
                pressure: host::pressure(&config.data_dir),
                identity: host::identity(),
                images: &images,
            };
            let status = describe::status(&facts);
            let found = found.take();
            let same_since = found.as_ref().and_then(|node| describe::same_since(&status, node));
            if let Some(at) = same_since {
                written = Some((status.clone(), at));
            }
            let due = written
                .as_ref()
                .is_none_or(|(before, at)| *before != status || now.since(*at) >= STATUS_EVERY);
            if due {
                let before = api.get_opt(&config.node_name).await.ok().flatten();
                let stamped = describe::stamped(&status, before.as_ref(), now);
                let patch = Patch::Strategic(json!({ "status": stamped }));
                match api.patch_status(&config.node_name, &PatchParams::default(), &patch).await {
                    Ok(_) => written = Some((status, now)),
                    Err(kube::Error::Api(answer)) if answer.code == 404 => {
                        // Deleted by somebody: registered anew on the next round.
                        uid = None;
                        written = None;
                        continue;
                    }
                    Err(error) => tracing::warn!(%error, "the node's status was not written"),
                }
            }
            if !told && let Some(found) = &found {
                told = true;
                let start = describe::start(&facts.identity, &config, found);
                // Beside a restart, only what became worse meanwhile is news.
                if start != describe::Start::Resumed || same_since.is_none() {
                    tell_start(&shared, &config, found, start);
                }
            }
            if !std::mem::take(&mut is_alive)
                && let Err(error) = renew(&leases, &config.node_name, uid_text).await
            {
                tracing::warn!(%error, "the node's lease was not renewed");
            }
        }
        let pause = if uid.is_some() { RENEW_EVERY } else { Duration::from_millis(200) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Ok(()) = changes.changed() => images = list_images(&shared).await,
        }
    }
}

/// Tells what is new about the node. That a daemon came back is not: nobody but its log knows.
fn tell_start(shared: &Shared, config: &NodeConfig, found: &core::Node, start: describe::Start) {
    let about = core::ObjectReference {
        kind: Some("Node".into()),
        name: Some(config.node_name.clone()),
        // kubelet has always used the name here; kubectl describe looks for both.
        uid: found.metadata.uid.clone(),
        ..core::ObjectReference::default()
    };
    let note = |kind, reason: &'static str, message: String| {
        let reason = reason.into();
        shared.recorder.note(Note { about: about.clone(), kind, reason, message });
    };
    match start {
        describe::Start::Resumed => {}
        describe::Start::Fresh => note(Kind::Normal, "Starting", "Starting kubelet.".into()),
        describe::Start::Rebooted { boot_id } => {
            note(Kind::Normal, "Starting", "Starting kubelet.".into());
            let node = &config.node_name;
            let message = format!("Node {node} has been rebooted, boot id: {boot_id}");
            note(Kind::Warning, "Rebooted", message);
        }
    }
    let missing = describe::missing_controllers(&shared.facts.controllers);
    if !missing.is_empty() {
        note(Kind::Warning, describe::MISSING_CONTROLLERS, describe::missing_message(&missing));
    }
    for problem in shared.network.problems() {
        note(Kind::Warning, describe::NETWORK_OBSTRUCTED, problem);
    }
}

/// The Node object with our labels; made when absent.
async fn ensure(api: &Api<core::Node>, config: &NodeConfig) -> Result<core::Node, kube::Error> {
    let labels = describe::labels(&config.node_name);
    let ports: Vec<String> = config.reserved_ports.iter().map(SocketAddr::to_string).collect();
    let annotations = BTreeMap::from([(RESERVED_PORTS.to_owned(), ports.join(","))]);
    if api.get_opt(&config.node_name).await?.is_some() {
        let metadata = json!({"labels": labels, "annotations": annotations});
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        return api.patch(&config.node_name, &PatchParams::default(), &patch).await;
    }
    let node = core::Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        ..core::Node::default()
    };
    api.create(&PostParams::default(), &node).await
}

async fn list_images(shared: &Shared) -> Vec<core::ContainerImage> {
    let images = shared.images.clone();
    let listed = tokio::task::spawn_blocking(move || images.list()).await;
    let mut listed = match listed {
        Ok(Ok(listed)) => listed,
        Ok(Err(error)) => {
            tracing::warn!(%error, "images could not be listed");
            Vec::new()
        }
        Err(_) => Vec::new(),
    };
    listed.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then(a.id.cmp(&b.id)));
    listed
        .into_iter()
        .take(MAX_IMAGES)
        .map(|image| core::ContainerImage {
            names: Some(image.digests.into_iter().chain(image.names).take(5).collect()),
            size_bytes: i64::try_from(image.size_bytes).ok(),
        })
        .collect()
}

/// Whether the Lease is as young as it ever is: the daemon before this one has just renewed it.
async fn lives(leases: &Api<coordination::Lease>, node: &str) -> bool {
    let held = leases.get_opt(node).await.ok().flatten().and_then(|lease| lease.spec);
    held.is_some_and(|spec| {
        let renewed = spec.renew_time.map(|time| Timestamp::from(time.0));
        spec.holder_identity.as_deref() == Some(node)
            && renewed.is_some_and(|at| clock::now().since(at) < RENEW_EVERY)
    })
}

async fn renew(
    leases: &Api<coordination::Lease>,
    node: &str,
    node_uid: &str,
) -> Result<(), kube::Error> {
    let now = MicroTime(clock::now().as_jiff());
    let patch = Patch::Merge(json!({"spec": {"renewTime": now}}));
    match leases.patch(node, &PatchParams::default(), &patch).await {
        Ok(_) => return Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(error),
    }
    let lease = coordination::Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            namespace: Some(LEASE_NAMESPACE.into()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: node.to_owned(),
                uid: node_uid.to_owned(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(coordination::LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(now),
            ..coordination::LeaseSpec::default()
        }),
    };
    leases.create(&PostParams::default(), &lease).await.map(drop)
}
