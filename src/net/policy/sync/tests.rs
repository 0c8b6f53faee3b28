//! A pod never gets rules that are older than itself, however late a watch is.

use std::convert::Infallible;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use serde_json::Value;
use tower::service_fn;

use super::*;
use crate::net::policy::{Asked, Flow};
use crate::net::tests::machine::{ARRIVES, config, on_a_host};
use crate::net::{NetworkConfig, Policies};

fn pod(uid: &str, app: &str, at: u64) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": uid, "namespace": "x", "uid": uid, "labels": {"app": app},
            "resourceVersion": at.to_string(),
        },
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    })
}

fn namespace(at: u64) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "x", "uid": "x", "resourceVersion": at.to_string()},
    })
}

/// Selects pods labelled `app` and allows them nothing.
fn denial(app: &str, at: u64) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {
            "name": "denial", "namespace": "x", "uid": "denial", "generation": 1,
            "resourceVersion": at.to_string(),
            "annotations": {IN_FORCE: "1"},
        },
        "spec": {
            "podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress", "Egress"],
        },
    })
}

fn read<K: serde::de::DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

/// Everything listed at revision 10, with one pod that holds an address.
fn seen() -> Seen {
    let mut seen = Seen::default();
    seen.take(Change::Policy(Told::All(vec![], 10)));
    seen.take(Change::Namespace(Told::All(vec![read(namespace(5))], 10)));
    seen.take(Change::Pod(Told::All(vec![read(pod("old", "a", 9))], 10)));
    seen.leases = Arc::new([("old".to_owned(), [10, 42, 0, 2].into())].into());
    assert!(seen.is_complete());
    assert_eq!(seen.admit(), None);
    seen
}

/// Labels of the pods that rules would know.
fn known(seen: &Seen) -> Vec<String> {
    seen.world(None).pods.iter().map(|pod| format!("{} {}", pod.name, pod.labels["app"])).collect()
}

#[test]
fn a_new_pod_is_nobody_until_policies_of_its_revision_are_known() {
    let mut seen = seen();
    let mut leases = BTreeMap::clone(&seen.leases);
    leases.insert("new".to_owned(), [10, 42, 0, 3].into());
    seen.leases = Arc::new(leases);
    assert_eq!(seen.admit(), None, "not even the API has told of it");
    seen.take(Change::Pod(Told::Changed(read(pod("new", "b", 13)), 13)));
    assert_eq!(seen.admit(), Some(Behind { revision: 13, known: 10 }));
    assert_eq!(known(&seen), ["old a"]);
    // One kind is not enough, and an event says nothing of others of its own revision.
    seen.take(Change::Namespace(Told::UpTo(14)));
    seen.take(Change::Policy(Told::Changed(read(denial("b", 13)), 13)));
    assert_eq!(seen.admit(), Some(Behind { revision: 13, known: 12 }));
    assert_eq!(known(&seen), ["old a"]);
    seen.take(Change::Policy(Told::UpTo(13)));
    assert_eq!(seen.admit(), None);
    assert_eq!(known(&seen), ["new b", "old a"]);
}

#[test]
fn a_pod_that_changes_stays_as_it_was_until_policies_of_its_revision_are_known() {
    let mut seen = seen();
    seen.take(Change::Pod(Told::Changed(read(pod("old", "b", 12)), 12)));
    assert_eq!(seen.admit(), Some(Behind { revision: 12, known: 10 }));
    assert_eq!(known(&seen), ["old a"]);
    seen.take(Change::Policy(Told::UpTo(12)));
    seen.take(Change::Namespace(Told::UpTo(12)));
    assert_eq!(seen.admit(), None);
    assert_eq!(known(&seen), ["old b"]);
    // What does not matter to policies asks for nothing.
    seen.take(Change::Pod(Told::Changed(read(pod("old", "b", 20)), 20)));
    assert_eq!(seen.admit(), None);
    // Who has gone leaves at once.
    seen.take(Change::Pod(Told::Gone(read(pod("old", "b", 21)), 21)));
    assert_eq!(seen.admit(), None);
    assert_eq!(known(&seen), [""; 0]);
}

/// A watch that somebody has opened.
struct Opened {
    path: String,
    since: u64,
    lines: mpsc::Sender<Bytes>,
}

impl Opened {
    async fn tell(&self, kind: &str, object: Value) {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        self.lines.send(line.into()).await.unwrap();
    }

    async fn mark(&self, at: u64) {
        let (version, kind) = match self.path.rsplit('/').next() {
            Some("networkpolicies") => ("networking.k8s.io/v1", "NetworkPolicy"),
            Some("namespaces") => ("v1", "Namespace"),
            _ => ("v1", "Pod"),
        };
        let metadata = json!({"resourceVersion": at.to_string()});
        let object = json!({"apiVersion": version, "kind": kind, "metadata": metadata});
        self.tell("BOOKMARK", object).await;
    }
}

/// An API that holds a namespace at revision 10, and whose watches tell what the test says.
fn api() -> (kube::Client, mpsc::Receiver<Opened>) {
    let (open, opened) = mpsc::channel(16);
    let service = service_fn(move |request: Request<kube::client::Body>| {
        let open = open.clone();
        async move {
            let path = request.uri().path().to_owned();
            let query = request.uri().query().unwrap_or_default().to_owned();
            if !query.contains("watch=true") {
                let items = if path.ends_with("/namespaces") { vec![namespace(5)] } else { vec![] };
                let list = json!({
                    "apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "10"},
                    "items": items,
                });
                return Ok::<_, Infallible>(Response::new(Body::from(list.to_string())));
            }
            let since = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="));
            let since = since.unwrap().parse().unwrap();
            let (lines, told) = mpsc::channel::<Bytes>(16);
            let _ = open.send(Opened { path, since, lines }).await;
            let lines = futures::stream::unfold(told, |mut told| async {
                Some((Ok::<_, Infallible>(told.recv().await?), told))
            });
            Ok(Response::new(Body::from_stream(lines)))
        }
    });
    (kube::Client::new(service, "default"), opened)
}

/// The next watch of each kind: policies, namespaces, pods.
async fn next(opened: &mut mpsc::Receiver<Opened>, kinds: &[&str]) -> Vec<Opened> {
    let mut all = Vec::new();
    for _ in kinds {
        let one = tokio::time::timeout(ARRIVES * 5, opened.recv()).await;
        all.push(one.expect("a watch is opened").unwrap());
    }
    let place = |one: &Opened| kinds.iter().position(|kind| one.path.ends_with(kind));
    all.sort_by_key(place);
    assert!(all.iter().enumerate().all(|(index, one)| place(one) == Some(index)));
    all
}

#[test]
fn a_pod_waits_for_the_policies_that_were_written_before_it() {
    on_a_host(|_| async {
        let config =
            NetworkConfig { policies: Policies::Enforced, ..config("abc123", "10.42.0.0/16") };
        let network = Network::start(config).await.unwrap();
        let (client, mut opened) = api();
        let stop = CancellationToken::new();
        tokio::spawn(run(client, network.clone(), None, stop.clone()));
        let kinds = ["networkpolicies", "namespaces", "pods"];
        let first = next(&mut opened, &kinds).await;
        assert!(first.iter().all(|one| one.since == 10));
        for one in &first {
            one.mark(10).await;
        }
        let attaching = network.clone();
        let attach = tokio::spawn(async move { attaching.attach("a", &[]).await });
        // The policy is older than the pod, and its watch is silent.
        first[2].tell("ADDED", pod("a", "a", 12)).await;
        let again = next(&mut opened, &kinds[..2]).await;
        assert!(again.iter().all(|one| one.since == 10), "nothing was missed, nothing comes twice");
        assert!(!attach.is_finished());
        again[1].mark(12).await;
        again[0].tell("ADDED", denial("a", 11)).await;
        again[0].mark(12).await;
        let attached = attach.await.unwrap().unwrap();
        let asked = Asked::Port(Protocol::Tcp, 80);
        let flow = Flow { source: attached.address, destination: network.node_address(), asked };
        assert!(!network.explain(flow).is_allowed(), "its very first packet meets the policy");

        // What never becomes known is said, after a time; nothing of it waits really.
        tokio::time::pause();
        first[2].tell("ADDED", pod("b", "a", 20)).await;
        let error = network.attach("b", &[]).await.unwrap_err().to_string();
        let why = "put the pod's network policies in force: NetworkPolicies and Namespaces are known up to revision 12";
        assert!(error.starts_with(why), "{error}");
        stop.cancel();
    });
}
