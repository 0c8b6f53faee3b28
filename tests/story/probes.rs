//! "Check each other's health": probes as kubectl shows them, and who a pod is.

use crate::cluster::Cluster;

const PROBED: &str = "
apiVersion: v1
kind: Pod
metadata: {name: kangaroo-backend}
spec:
  containers:
  - name: kangaroo-backend
    image: kangaroo-backend:1.14.2
    ports: [{name: http, containerPort: 80}]
    startupProbe: {httpGet: {path: /, port: http}, periodSeconds: 1, failureThreshold: 30}
    livenessProbe: {tcpSocket: {port: 80}}
    readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: mistaken}
spec:
  containers:
  - name: kangaroo-backend
    image: kangaroo-backend:1.14.2
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
";

#[test]
fn a_pod_is_ready_when_its_probe_says_so_and_describe_tells_why_not() {
    let mut cluster = Cluster::start("probes");
    cluster.apply(PROBED).ok();
    let waits = ["wait", "--for=condition=Ready", "pod/kangaroo-backend", "--timeout=60s"];
    assert_eq!(cluster.kubectl(&waits).ok(), "pod/kangaroo-backend condition met");
    let described = cluster.kubectl(&["describe", "pod", "kangaroo-backend"]).ok();
    for expected in [
        "Liveness:       tcp-socket :80 delay=0s timeout=1s period=10s ",
        "Readiness:      http-get http://:http/ delay=0s timeout=1s period=1s ",
        "Startup:        http-get http://:http/ delay=0s timeout=1s period=1s ",
    ] {
        assert!(described.contains(expected), "no {expected:?} in\n{described}");
    }
    cluster.wait_for("the mistake to be told", |cluster| {
        let described = cluster.kubectl(&["describe", "pod", "mistaken"]).ok();
        described.contains("Readiness probe failed: Get \"http://")
            && described.contains(":8080: connect: connection refused")
    });
    let row = cluster.kubectl(&["get", "pod", "mistaken", "--no-headers"]).ok();
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words[..4], ["mistaken", "0/1", "Running", "0"]);
    cluster.kubectl(&["delete", "pod", "--all"]).ok();
    cluster.finish();
}

/// Whether the API knows whom `token` stands for.
fn is_known(cluster: &Cluster, token: &str) -> bool {
    let server = ["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"];
    let url = format!("{}/api", cluster.kubectl(&server).ok());
    let answer = std::process::Command::new("curl")
        .args(["-sk", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}"])
        .args(["-H", &format!("Authorization: Bearer {token}"), &url])
        .output()
        .expect("curl can run");
    match String::from_utf8_lossy(&answer.stdout).as_ref() {
        "200" => true,
        "401" => false,
        other => panic!("status {other} of {url}"),
    }
}

#[test]
fn a_token_in_a_pod_is_good_until_the_pod_is_gone() {
    let mut cluster = Cluster::start("token");
    let manifest = "
apiVersion: v1
kind: Pod
metadata: {name: kangaroo-backend}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: kangaroo-backend
    image: kangaroo-backend:1.14.2
";
    cluster.apply(manifest).ok();
    cluster.wait_running("kangaroo-backend");
    let directory = "/var/run/secrets/kubernetes.io/serviceaccount";
    let read = |cluster: &Cluster, file: &str| {
        let path = format!("{directory}/{file}");
        cluster.kubectl(&["exec", "kangaroo-backend", "--", "cat", &path]).ok()
    };
    assert_eq!(read(&cluster, "namespace"), "default");
    assert!(read(&cluster, "ca.crt").starts_with("-----BEGIN CERTIFICATE-----"));
    let token = read(&cluster, "token");
    assert!(is_known(&cluster, &token));
    assert!(!is_known(&cluster, "nonsense"));
    cluster.kubectl(&["delete", "pod", "kangaroo-backend"]).ok();
    assert!(!is_known(&cluster, &token), "the pod is gone, its token is not");
    cluster.finish();
}
