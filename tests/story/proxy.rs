//! What a pod serves, seen through the API: `kubectl get --raw` and `kubectl proxy`.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::cluster::Cluster;
use crate::service::SERVICE;

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: kangaroo-backend, labels: {app: kangaroo, role: backend}}
spec:
  containers:
  - name: kangaroo-backend
    image: kangaroo-backend:1.14.2
    ports: [{name: http, containerPort: 80}]
---
apiVersion: v1
kind: Pod
metadata: {name: socket, labels: {app: socket}}
spec:
  containers:
  - name: socket
    image: toolbox
    imagePullPolicy: IfNotPresent
    ports: [{containerPort: 9000}]
    command: [nc, -ll, -p, "9000", -e, /bin/bash, -c]
    args:
    - |
      while read -r line && [ "$line" != $'\r' ]; do case "$line" in [Uu]pgrade:*) up=1;; esac; done
      [ "$up" ] || { printf 'HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n'; exit; }
      printf 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n'
      read -r word; echo "heard $word"
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec:
  ports: [{port: 80}]
  selector: {app: nobody}
---
"#;

/// `kubectl proxy` at a port of its own choice, which ends with the test.
pub struct Proxy {
    child: Child,
    pub port: u16,
}

impl Proxy {
    pub fn start(cluster: &Cluster) -> Proxy {
        let mut child = cluster
            .kubectl_command()
            .args(["proxy", "--port=0"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("kubectl can run");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("kubectl says where it listens");
        let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
        Proxy { child, port: port.unwrap_or_else(|| panic!("{line}")) }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/api/v1/namespaces/default/{path}", self.port)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn pods_and_services_are_browsed_through_the_api() {
    let mut cluster = Cluster::start("browsed");
    cluster.apply(&format!("{PODS}{SERVICE}")).ok();
    cluster.wait_running("kangaroo-backend");
    cluster.wait_running("socket");
    let raw = |cluster: &Cluster, path: &str| {
        cluster.kubectl(&["get", "--raw", &format!("/api/v1/namespaces/default/{path}")])
    };
    cluster.wait_for("the Service has its pod", |cluster| {
        raw(cluster, "services/kangaroo-backend:8080/proxy/").code == 0
    });
    for path in [
        "services/kangaroo-backend:8080/proxy/",
        "services/http:kangaroo-backend:/proxy/?z=1",
        "pods/kangaroo-backend/proxy/",
        "pods/kangaroo-backend:http/proxy/",
        "pods/http:kangaroo-backend:80/proxy/",
    ] {
        let answer = raw(&cluster, path).ok();
        assert!(answer.contains("1.14.2"), "{path}: {answer}");
    }
    let address = cluster.value("pod/kangaroo-backend", "{.status.podIP}");
    let refused =
        format!("error trying to reach service: dial tcp {address}:7: connect: connection refused");
    for (path, expected) in [
        ("services/nobody/proxy/", "no endpoints available for service \"nobody\""),
        ("services/kangaroo-backend:81/proxy/", "no service port 81 found for service"),
        ("pods/kangaroo-backend:7/proxy/", refused.as_str()),
    ] {
        let said = raw(&cluster, path).refused();
        assert!(said.contains("(ServiceUnavailable)") && said.contains(expected), "{path}: {said}");
    }
    // The link to the names that cluster-info prints leads to what speaks no HTTP, and says so.
    let info = cluster.kubectl(&["cluster-info"]).ok();
    let link = info.split("/api/v1/").nth(1).and_then(|rest| rest.split_whitespace().next());
    let link = link.unwrap_or_else(|| panic!("no link: {info}")).replace("\u{1b}[0m", "");
    let said = cluster.kubectl(&["get", "--raw", &format!("/api/v1/{link}")]).refused();
    assert!(said.contains("no endpoints available for service \"kube-dns:dns\""), "{said}");

    let proxy = Proxy::start(&cluster);
    let answer = cluster.fetch(&proxy.url("services/kangaroo-backend/proxy/")).ok();
    assert!(answer.contains("1.14.2"), "{answer}");
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = "GET /api/v1/namespaces/default/pods/socket/proxy/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    // Before the answer nothing may be sent in the new protocol, and kubectl forgets it.
    let mut answer = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    answer.read_line(&mut first).unwrap();
    assert!(first.starts_with("HTTP/1.1 101"), "{first}");
    stream.write_all(b"hello\n").unwrap();
    let heard = answer.lines().map(Result::unwrap).find(|line| line.starts_with("heard"));
    assert_eq!(heard.as_deref(), Some("heard hello"));
    let plain = raw(&cluster, "pods/socket/proxy/").refused();
    assert!(plain.contains("426") || plain.contains("Upgrade"), "{plain}");
    drop(proxy);
    cluster.finish();
}

const FRIENDS_ONLY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends}
spec:
  podSelector: {matchLabels: {app: kangaroo}}
  ingress:
  - from: [{podSelector: {matchLabels: {friend: 'yes'}}}]
---
";

#[test]
fn the_detour_through_the_api_gives_a_pod_nothing_that_policies_deny() {
    let mut cluster = Cluster::start("detour");
    cluster.apply(&format!("{PODS}{SERVICE}")).ok();
    cluster.wait_running("kangaroo-backend");
    cluster.wait_running("socket");
    let uid = cluster.value("pod/socket", "{.metadata.uid}");
    let netns = cluster.run_dir().join("netns").join(uid);
    let token = cluster.kubectl(&["create", "token", "default", "-n", "kube-system"]).ok();
    let api = cluster.value("service/kubernetes", "{.spec.clusterIP}");
    let from_pod = |path: &str| {
        let output = Command::new("nsenter")
            .arg(format!("--net={}", netns.display()))
            .args(["curl", "-sSk", "--max-time", "10", "-H"])
            .arg(format!("Authorization: Bearer {}", token.trim()))
            .arg(format!("https://{api}/api/v1/namespaces/default/{path}"))
            .output()
            .expect("nsenter and curl can run");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    const PATH: &str = "services/kangaroo-backend/proxy/";
    cluster
        .wait_for("the pod sees the other through the API", |_| from_pod(PATH).contains("1.14.2"));
    cluster.apply(FRIENDS_ONLY).ok();
    cluster.wait_for("the policy holds on the detour", |_| !from_pod(PATH).contains("1.14.2"));
    let denied = from_pod(PATH);
    assert!(denied.contains("a NetworkPolicy lets nothing through from "), "{denied}");
    // The host is a neighbour like any other.
    let host = cluster.kubectl(&["get", "--raw", &format!("/api/v1/namespaces/default/{PATH}")]);
    assert!(host.refused().contains("a NetworkPolicy lets nothing through from "));
    cluster.kubectl(&["label", "pod", "socket", "friend=yes"]).ok();
    cluster.wait_for("a friend comes through", |_| from_pod(PATH).contains("1.14.2"));
    cluster.finish();
}
