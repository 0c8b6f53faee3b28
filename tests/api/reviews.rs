//! What callers learn about themselves, and tokens for service accounts.

use http::Request;
use joey::api::identity::Identity;
use kube::client::Body;
use serde_json::{Value, json};

use crate::harness::{PODS, Reply, cluster, send};

async fn post(client: &kube::Client, path: &str, body: Value) -> Reply {
    let body = Body::from(body.to_string().into_bytes());
    send(client, Request::post(path).body(body).unwrap()).await
}

#[tokio::test]
async fn callers_learn_who_they_are_and_what_they_may() {
    let cluster = cluster().await;
    let jo = cluster.api.client(Identity::authenticated("jo", ["dev".to_owned()]), "default");
    let who = post(&jo, "/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({})).await;
    assert_eq!(who.code, 201);
    assert_eq!(
        who.json()["status"]["userInfo"],
        json!({"username": "jo", "groups": ["dev", "system:authenticated"]})
    );
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let ask = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}}});
    let no = post(&jo, path, ask.clone()).await.json();
    assert_eq!(no["status"], json!({"allowed": false}));
    let yes = cluster.post(path, ask).await.json();
    assert_eq!(yes["status"], json!({"allowed": true}));
    assert_eq!(cluster.post(path, json!({"spec": {}})).await.code, 422);
    let rules = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let rules = post(&jo, rules, json!({"spec": {"namespace": "default"}})).await.json();
    assert_eq!(rules["status"]["incomplete"], false);
    assert_eq!(rules["status"]["resourceRules"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn refusals_say_who_what_and_where() {
    let cluster = cluster().await;
    let jo = cluster.api.client(Identity::authenticated("jo", []), "default");
    for (path, message) in [
        (
            PODS,
            r#"pods is forbidden: User "jo" cannot list resource "pods" in API group "" in the namespace "default""#,
        ),
        (
            "/api/v1/namespaces/default/pods/p/log",
            r#"pods "p" is forbidden: User "jo" cannot get resource "pods/log" in API group "" in the namespace "default""#,
        ),
        (
            "/api/v1/namespaces/default/pods/p/exec?command=sh",
            r#"pods "p" is forbidden: User "jo" cannot create resource "pods/exec" in API group "" in the namespace "default""#,
        ),
        (
            "/api/v1/nodes",
            r#"nodes is forbidden: User "jo" cannot list resource "nodes" in API group "" at the cluster scope"#,
        ),
        ("/metrics", r#"forbidden: User "jo" cannot get path "/metrics""#),
    ] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let reply = send(&jo, request).await;
        assert_eq!(reply.refusal(), (403, message.to_owned()));
    }
    let discovery = Request::get("/apis").body(Body::empty()).unwrap();
    assert_eq!(send(&jo, discovery).await.code, 200);
    let nobody = cluster.api.client(Identity::anonymous(), "default");
    for (path, code) in [("/api", 401), (PODS, 401), ("/nothing", 401), ("/version", 200)] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        assert_eq!(send(&nobody, request).await.code, code, "{path}");
    }
}

#[tokio::test]
async fn a_token_is_asked_for_within_bounds() {
    let cluster = cluster().await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let made = cluster.post(path, json!({"spec": {}})).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let made = made.json();
    assert_eq!(made["kind"], "TokenRequest");
    assert_eq!(made["spec"]["expirationSeconds"], 3600);
    let token = made["status"]["token"].as_str().unwrap();
    assert_eq!(token.split('.').count(), 3);
    let short = cluster.post(path, json!({"spec": {"expirationSeconds": 5}})).await;
    assert_eq!(short.code, 422);
    let nobody = "/api/v1/namespaces/default/serviceaccounts/nobody/token";
    assert_eq!(cluster.post(nobody, json!({})).await.code, 404);
    let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": "ghost"});
    let bound = json!({"spec": {"boundObjectRef": reference}});
    assert_eq!(cluster.post(path, bound).await.code, 404);
}
