//! "Contain a hacked service": policies hold for DNS wherever it listens, and through the daemon's own proxy.

use std::net::{TcpListener, UdpSocket};

use crate::cluster::{Cluster, fresh_namespaces};

fn server(name: &str, app: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {app}}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: a
    image: toolbox
    imagePullPolicy: Never
    command: [/bin/bash, -c, 'httpd -p 80 -h /etc; sleep infinity']
---
"
    )
}

fn wait_in_force(cluster: &mut Cluster, policy: &str) {
    cluster.wait_for(&format!("{policy} is in force"), |cluster| {
        let generation = cluster.value(policy, "{.metadata.generation}");
        let in_force = "{.metadata.annotations.policy\\.joey\\.dev/generation-in-force}";
        !generation.is_empty() && cluster.value(policy, in_force) == generation
    });
}

/// The first line of the answer to a request from inside `pod`; empty when there is none.
fn ask(cluster: &Cluster, pod: &str, address: &str, host: &str) -> String {
    let script = format!(
        "exec 3<>/dev/tcp/{address}/80 && printf 'GET /hostname HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n' >&3 && head -1 <&3"
    );
    let script = format!("timeout 5 bash -c \"{}\"", script.replace('"', "\\\""));
    let ran = cluster.kubectl(&["exec", pod, "--", "/bin/bash", "-c", &script]);
    ran.stdout.trim().to_owned()
}

/// D13: nobody gains by a detour through the daemon.
#[test]
fn a_pod_that_is_denied_a_backend_is_denied_it_through_the_ingress_too() {
    let mut cluster = Cluster::start("containment-ingress");
    let service = "\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  ingressClassName: joey
  rules:
  - host: web.example
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
---
";
    let pods = [("web", "web"), ("friend", "friend"), ("enemy", "enemy")];
    let manifest: String = pods.iter().map(|(name, app)| server(name, app)).collect();
    cluster.apply(&(manifest + service)).ok();
    for (pod, _) in pods {
        cluster.wait_running(pod);
    }
    let node = cluster.value("node", "{.items[0].status.addresses[0].address}");
    cluster.wait_for("pods are served through the ingress", |cluster| {
        ask(cluster, "enemy", &node, "web.example").contains("200")
    });
    let policy = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]
";
    cluster.apply(policy).ok();
    wait_in_force(&mut cluster, "networkpolicy/friends");
    let web = cluster.value("pod/web", "{.status.podIP}");
    for (pod, direct, through) in [("friend", "200", "200"), ("enemy", "", "403")] {
        let said = ask(&cluster, pod, &web, "web");
        assert!(said.contains(direct) && said.is_empty() == direct.is_empty(), "{pod}: {said:?}");
        let said = ask(&cluster, pod, &node, "web.example");
        assert!(said.contains(through), "{pod} through the ingress: {said:?}");
    }
    let outside = std::process::Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: web.example"])
        .arg(format!("http://{node}/hostname"))
        .output()
        .expect("curl can run");
    assert_eq!(String::from_utf8_lossy(&outside.stdout), "403", "whoever is outside is no friend");
    // The next daemon knows no less.
    cluster.kill_daemon();
    cluster.start_daemon();
    cluster.wait_for("the ingress serves again", |cluster| {
        ask(cluster, "friend", &node, "web.example").contains("200")
    });
    let said = ask(&cluster, "enemy", &node, "web.example");
    assert!(said.contains("403"), "{said:?}");
    cluster.finish();
}

/// Story 90: the usual recipe, on a host whose own name server holds port 53.
#[test]
fn the_usual_recipe_allows_dns_even_where_it_had_to_move() {
    fresh_namespaces();
    let _theirs = (
        UdpSocket::bind("0.0.0.0:53").expect("the port is free"),
        TcpListener::bind("0.0.0.0:53").expect("the port is free"),
    );
    let mut cluster = Cluster::start_beside("containment-dns", &[]);
    cluster.apply(&(server("client", "client") + &server("web", "web"))).ok();
    for pod in ["client", "web"] {
        cluster.wait_running(pod);
    }
    let dns =
        ["get", "endpointslice", "-n", "kube-system", "-o", "jsonpath={.items[*].ports[*].port}"];
    assert!(cluster.kubectl(&dns).ok().contains("10053"), "this host's port 53 is taken");
    let knows = |cluster: &Cluster| {
        let ran = cluster.joey(&["why", "client", "--to", "svc/late", "--live"]);
        ran.stdout.contains("answers ")
    };
    // A name that was asked for in vain is known as soon as it exists.
    let asked =
        cluster.joey(&["why", "client", "--to", "late.default.svc.cluster.local:80", "--live"]);
    assert_ne!(asked.code, 0);
    let service = "\
apiVersion: v1
kind: Service
metadata: {name: late}
spec: {selector: {app: web}, ports: [{port: 80}]}
";
    cluster.apply(service).ok();
    cluster.wait_for("the new name is known", |cluster| knows(cluster));

    let deny = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {matchLabels: {app: client}}, policyTypes: [Egress]}
";
    cluster.apply(deny).ok();
    wait_in_force(&mut cluster, "networkpolicy/deny");
    assert!(!knows(&cluster));
    let recipe = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-dns}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
  - to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}
      podSelector: {matchLabels: {k8s-app: kube-dns}}
    ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
";
    cluster.apply(recipe).ok();
    wait_in_force(&mut cluster, "networkpolicy/allow-dns");
    assert!(knows(&cluster));
    let said = cluster.joey(&["why", "client", "--to", "svc/late", "--live"]).stdout;
    assert!(
        said.contains("is denied: NetworkPolicies default/allow-dns, default/deny isolate"),
        "{said}"
    );
    assert!(!said.contains("DNS      denied") && !said.contains("disagree"), "{said}");
    cluster.finish();
}
