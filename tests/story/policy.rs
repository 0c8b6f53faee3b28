//! "I want to control which services talk to each other": the story's NetworkPolicy, from inside real pods.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use crate::cluster::Cluster;

/// As the story has it, word for word.
const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: kangaroo-network-policy
  labels:
    app: kangaroo
    role: network-policy
spec:
  podSelector:
    matchLabels:
      app: kangaroo
      role: backend
  policyTypes:
    - Ingress
    - Egress
  # Each element of `ingress` opens some port of Kangaroo to receive requests from a client.
  ingress:
    # Anything can ingress to the public API port
    - ports:
        - protocol: TCP
          port: 80
    # Hypothetical example: say your Platform team has configured cluster-wide metrics,
    # you'll need to grant it access to your pod's metrics server. Your company will
    # have examples for this. Assume kangaroo-backend serves metrics on TCP :81
    - from:
        - namespaceSelector:
            matchLabels:
              project: monitoring-system
      ports:
        - protocol: TCP
          port: 81
  # Each element of `egress` opens some port of Kangaroo to send requests to some server
  egress:
    # Say the Kangaroo backend calls into a membership microservice.
    # You'll need to allow egress to it!
    - ports:
        - port: 443
      to:
        - namespaceSelector:
            matchLabels:
              project: membership
              role: api
";

pub const DENY_ALL: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
";

/// Serves every port of the list and nothing else.
pub fn server(namespace: &str, name: &str, role: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: kangaroo, role: {role}}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: a
    image: toolbox
    imagePullPolicy: Never
    command: [/bin/bash, -c, 'for port in 80 81 443; do httpd -p $port -h /etc; done; sleep infinity']
---
"
    )
}

fn namespace(name: &str, labels: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n---\n"
    )
}

/// Whether `from` (`namespace/pod`) connects to the address and port; asked once, waiting no longer than a second.
pub fn connects(cluster: &Cluster, from: &str, address: &str, port: u16) -> bool {
    let (namespace, pod) = from.split_once('/').expect("namespace/pod");
    let script = format!("timeout 1 bash -c 'exec 3<>/dev/tcp/{address}/{port}'");
    let ran = cluster.kubectl(&["exec", "-n", namespace, pod, "--", "/bin/bash", "-c", &script]);
    ran.code == 0
}

/// Until the policy's own annotation says that the rules follow it.
pub fn wait_in_force(cluster: &mut Cluster, policy: &str) {
    cluster.wait_for(&format!("{policy} is in force"), |cluster| {
        let generation = cluster.value(policy, "{.metadata.generation}");
        let in_force = "{.metadata.annotations.policy\\.joey\\.dev/generation-in-force}";
        !generation.is_empty() && cluster.value(policy, in_force) == generation
    });
}

#[test]
fn the_storys_policy_lets_in_and_out_what_it_says_and_nothing_else() {
    let mut cluster = Cluster::start("policy");
    let manifest = [
        namespace("monitoring", "project: monitoring-system"),
        namespace("membership", "project: membership, role: api"),
        namespace("half", "project: membership"),
        server("default", "backend", "backend"),
        server("default", "other", "other"),
        server("monitoring", "scraper", "scraper"),
        server("membership", "members", "api"),
        server("half", "stranger", "api"),
    ];
    cluster.apply(&manifest.concat()).ok();
    let mut address = std::collections::BTreeMap::new();
    for pod in [
        "default/backend",
        "default/other",
        "monitoring/scraper",
        "membership/members",
        "half/stranger",
    ] {
        let (namespace, name) = pod.split_once('/').expect("namespace/pod");
        cluster
            .kubectl(&["wait", "--for=condition=Ready", "-n", namespace, &format!("pod/{name}")])
            .ok();
        let at = ["get", "pod", "-n", namespace, name, "-o", "jsonpath={.status.podIP}"];
        address.insert(pod, cluster.kubectl(&at).ok());
    }
    let backend = address["default/backend"].clone();
    assert!(connects(&cluster, "default/other", &backend, 443), "before any policy all is open");

    assert_eq!(
        cluster.apply(POLICY).ok(),
        "networkpolicy.networking.k8s.io/kangaroo-network-policy created"
    );
    wait_in_force(&mut cluster, "networkpolicy/kangaroo-network-policy");
    // kubectl takes a defaulted protocol in an atomic list for a difference; the object does not change.
    cluster.apply(POLICY).ok();
    let generation = "{.metadata.generation}";
    assert_eq!(cluster.value("networkpolicy/kangaroo-network-policy", generation), "1");
    let described = cluster.kubectl(&["describe", "networkpolicy", "kangaroo-network-policy"]).ok();
    assert!(described.contains("To Port: 443/TCP"), "{described}");

    // Port 80 for everybody, pods and host; port 81 for the monitoring system; others for nobody.
    for (from, port, is_open) in [
        ("default/other", 80, true),
        ("half/stranger", 80, true),
        ("monitoring/scraper", 81, true),
        ("default/other", 81, false),
        ("membership/members", 81, false),
        ("monitoring/scraper", 443, false),
        ("default/other", 443, false),
    ] {
        assert_eq!(connects(&cluster, from, &backend, port), is_open, "{from} to :{port}");
    }
    assert_eq!(cluster.fetch(&format!("http://{backend}:80/hostname")).code, 0, "the host");

    // Out to port 443 of namespaces that carry both labels, and to nothing else: a hacked backend is contained.
    for (to, port, is_open) in [
        ("membership/members", 443, true),
        ("membership/members", 80, false),
        ("half/stranger", 443, false),
        ("default/other", 443, false),
        ("default/other", 80, false),
    ] {
        let open = connects(&cluster, "default/backend", &address[to], port);
        assert_eq!(open, is_open, "to {to}:{port}");
    }

    // A label decides, on either side, as soon as it changes.
    cluster.kubectl(&["label", "namespace", "half", "role=api"]).ok();
    cluster.wait_for("the namespace is a member now", |cluster| {
        connects(cluster, "default/backend", &address["half/stranger"], 443)
    });
    cluster.kubectl(&["label", "pod", "backend", "role-"]).ok();
    cluster.wait_for("the pod is no backend any more", |cluster| {
        connects(cluster, "default/backend", &address["default/other"], 80)
    });

    // Whatever policies say, a pod that starts under them is isolated when it starts.
    cluster.apply(DENY_ALL).ok();
    wait_in_force(&mut cluster, "networkpolicy/default-deny");
    let first = "\
apiVersion: v1
kind: Pod
metadata: {name: first}
spec:
  restartPolicy: Never
  containers:
  - name: a
    image: toolbox
    imagePullPolicy: Never
    command: [/bin/bash, -c, 'timeout 1 bash -c \"exec 3<>/dev/tcp/ADDRESS/80\" && echo leaked || echo denied']
";
    cluster.apply(&first.replace("ADDRESS", &address["half/stranger"])).ok();
    cluster.wait_for("the pod has ended", |cluster| {
        cluster.value("pod/first", "{.status.phase}") == "Succeeded"
    });
    let said = cluster.kubectl(&["logs", "first"]).ok();
    // Two streams, whose lines meet in the log in either order.
    let is_last = said.lines().any(|line| line == "denied");
    assert!(said.contains("Connection refused") && is_last, "{said}");

    cluster.kubectl(&["delete", "networkpolicy", "--all"]).ok();
    cluster.wait_for("nothing is denied any more", |cluster| {
        connects(cluster, "default/other", &address["half/stranger"], 80)
    });
    cluster.finish();
}

/// Whoever may label a namespace must not pass it off as another one, nor take its name from it.
#[test]
fn a_namespace_is_known_by_its_own_name_whatever_label_it_is_given() {
    let mut cluster = Cluster::start("policy-names");
    // Port 81 tells that the rules know the namespace as it is labelled last.
    let policy = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends}
spec:
  podSelector: {}
  ingress:
  - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: friend}}}]
    ports: [{port: 80}]
  - from: [{namespaceSelector: {matchLabels: {told: last}}}]
    ports: [{port: 81}]
";
    let manifest = [
        namespace("friend", ""),
        namespace("foe", "kubernetes.io/metadata.name: friend"),
        server("default", "backend", "backend"),
        server("friend", "a", "client"),
        server("foe", "a", "client"),
    ];
    cluster.apply(&manifest.concat()).ok();
    for (namespace, pod) in [("default", "backend"), ("friend", "a"), ("foe", "a")] {
        let pod = format!("pod/{pod}");
        cluster.kubectl(&["wait", "--for=condition=Ready", "-n", namespace, &pod]).ok();
    }
    let backend = cluster.value("pod/backend", "{.status.podIP}");
    cluster.apply(policy).ok();
    wait_in_force(&mut cluster, "networkpolicy/friends");
    assert!(connects(&cluster, "friend/a", &backend, 80));
    assert!(!connects(&cluster, "foe/a", &backend, 80), "as it was made");

    let label = "kubernetes.io/metadata.name";
    for (name, change) in [("foe", format!("{label}=friend")), ("friend", format!("{label}-"))] {
        let change = ["label", "--overwrite", "namespace", name, &change, "told=last"];
        cluster.kubectl(&change).ok();
        let from = format!("{name}/a");
        cluster.wait_for("the rules know its labels", |cluster| {
            connects(cluster, &from, &backend, 81)
        });
        assert_eq!(connects(&cluster, &from, &backend, 80), name == "friend", "{name}");
    }
    cluster.finish();
}

/// The backend behind a Service and an Ingress at `/hostname`.
const DOOR: &str = "\
apiVersion: v1
kind: Service
metadata: {name: backend}
spec:
  selector: {app: kangaroo, role: backend}
  ports: [{port: 8080, targetPort: 80}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: door}
spec:
  rules:
  - http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: backend, port: {number: 8080}}}}
";

/// Only who matches `from` reaches the backend.
fn only_from(from: &str) -> String {
    format!(
        "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: guard}}
spec:
  podSelector: {{matchLabels: {{role: backend}}}}
  policyTypes: [Ingress]
  ingress: [{{from: [{from}]}}]
"
    )
}

const NODE_PORT: &str = "\
apiVersion: v1
kind: Service
metadata: {name: many-doors}
spec:
  type: NodePort
  selector: {role: backend}
  ports: [{port: 80, nodePort: 30080}]
";

/// Chapter 14, "it's still secure, because you can limit who can connect": plain HTTP inside is safe since policy decides who
/// may speak it, and the proxy is no way around that (security D13).
#[test]
fn a_policy_holds_through_the_ingress_and_can_let_in_the_ingress_alone() {
    let mut cluster = Cluster::start("guard");
    let by_the_host = "    ports: [{containerPort: 80, hostPort: 8081}]\n---\n";
    let manifest = [
        server("default", "backend", "backend").replace("---\n", by_the_host),
        server("default", "friend", "friend"),
        server("default", "enemy", "enemy"),
        DOOR.to_owned(),
        "---\n".to_owned(),
        NODE_PORT.to_owned(),
    ];
    cluster.apply(&manifest.concat()).ok();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "--all"]).ok();
    let backend = cluster.value("pod/backend", "{.status.podIP}");
    let service = cluster.value("service/many-doors", "{.spec.clusterIP}");
    let node = cluster.value("node", "{.items[0].status.addresses[0].address}");
    let from_outside =
        |cluster: &Cluster| cluster.fetch("http://127.0.0.1/hostname").stdout.trim_end().to_owned();
    // The status with which the ingress answers a pod.
    let through = |cluster: &Cluster, from: &str| {
        let script = format!(
            "exec 3<>/dev/tcp/{node}/80 && printf 'GET /hostname HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n' >&3 \
             && read -r -t 10 _ status _ <&3 && echo $status"
        );
        cluster.kubectl(&["exec", from, "--", "/bin/bash", "-c", &script]).stdout.trim().to_owned()
    };
    cluster.wait_for("the ingress serves it", |cluster| from_outside(cluster) == "backend");
    assert_eq!(through(&cluster, "enemy"), "200", "before any policy all is open");
    // Every way that leads to the pod: by its own address, the Service's, the node's port of the Service, the host's port.
    let ways = [(&backend, 80), (&service, 80), (&node, 30_080), (&node, 8081)];
    for (address, port) in ways {
        cluster.wait_for("before any policy all is open", |cluster| {
            connects(cluster, "default/enemy", address, port)
        });
    }

    cluster.apply(&only_from("{podSelector: {matchLabels: {role: friend}}}")).ok();
    wait_in_force(&mut cluster, "networkpolicy/guard");
    for (pod, is_open, status) in [("friend", true, "200"), ("enemy", false, "403")] {
        let from = format!("default/{pod}");
        for (address, port) in ways {
            assert_eq!(
                connects(&cluster, &from, address, port),
                is_open,
                "{pod} to {address}:{port}"
            );
        }
        assert_eq!(through(&cluster, pod), status, "{pod} through the ingress");
    }
    assert_ne!(from_outside(&cluster), "backend", "customers are not the friend");

    let ingress = "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, \
                   podSelector: {matchLabels: {app.kubernetes.io/name: joey-ingress}}}";
    cluster.apply(&only_from(ingress)).ok();
    wait_in_force(&mut cluster, "networkpolicy/guard");
    assert_eq!(from_outside(&cluster), "backend", "customers come through the ingress");
    for pod in ["friend", "enemy"] {
        for (address, port) in ways {
            let from = format!("default/{pod}");
            assert!(!connects(&cluster, &from, address, port), "{pod} to {address}:{port}");
        }
        assert_eq!(through(&cluster, pod), "403", "{pod} is not the ingress by asking it");
    }
    cluster.finish();
}

#[test]
fn joey_says_who_denies_a_connection_and_proves_it() {
    let mut cluster = Cluster::start("policy-why");
    let service = "\
apiVersion: v1
kind: Service
metadata: {name: members, namespace: membership}
spec: {selector: {app: kangaroo}, ports: [{port: 8443, targetPort: 443}]}
---
";
    let manifest = [
        namespace("membership", "project: membership, role: api"),
        server("default", "backend", "backend"),
        server("default", "other", "other"),
        server("membership", "members", "api"),
        service.to_owned(),
    ];
    cluster.apply(&manifest.concat()).ok();
    for (namespace, pod) in
        [("default", "backend"), ("default", "other"), ("membership", "members")]
    {
        let pod = format!("pod/{pod}");
        cluster.kubectl(&["wait", "--for=condition=Ready", "-n", namespace, &pod]).ok();
    }
    let at = |cluster: &Cluster, namespace: &str, pod: &str| {
        cluster
            .kubectl(&["get", "pod", "-n", namespace, pod, "-o", "jsonpath={.status.podIP}"])
            .ok()
    };
    let members = at(&cluster, "membership", "members");
    let other = at(&cluster, "default", "other");

    cluster.wait_for("the Service leads to its pod", |cluster| {
        cluster.joey(&["why", "backend", "--to", "svc/members.membership", "--live"]).code == 0
    });
    let open = cluster.joey(&["why", "backend", "--to", "svc/members.membership", "--live"]).ok();
    for said in [
        "is allowed: no NetworkPolicy isolates either end",
        &format!(
            "answers {}",
            cluster
                .kubectl(&[
                    "get",
                    "svc",
                    "-n",
                    "membership",
                    "members",
                    "-o",
                    "jsonpath={.spec.clusterIP}"
                ])
                .ok()
        ),
        "membership/members (port 443) got the first packet and answered",
    ] {
        assert!(open.contains(said), "{said} in\n{open}");
    }

    cluster.apply(POLICY).ok();
    wait_in_force(&mut cluster, "networkpolicy/kangaroo-network-policy");
    let why = |cluster: &Cluster, pod: &str, to: &str, code: i32, words: &[&str]| {
        let ran = cluster.joey(&["why", pod, "--to", to, "--live"]);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.code, code, "{pod} to {to}: {said}");
        for word in words {
            assert!(said.contains(word), "{word:?} in what is said of {pod} to {to}:\n{said}");
        }
        assert!(!said.contains("disagree"), "{said}");
    };
    // The story's own trap: the policy allows the connection and not the question for its address.
    why(
        &cluster,
        "backend",
        "svc/members.membership",
        1,
        &[
            "fails at the name, which does not resolve",
            "NetworkPolicy default/kangaroo-network-policy isolates default/backend and no rule allows port 53",
            "k8s-app=kube-dns",
            "failed",
            "got the first packet and answered",
        ],
    );
    why(&cluster, "backend", &format!("{members}:443"), 0, &["egress rule 1 of NetworkPolicy"]);
    let denied = "NetworkPolicy default/kangaroo-network-policy isolates default/backend and no";
    let nowhere = "no packet arrived anywhere";
    why(&cluster, "backend", &format!("{other}:443"), 1, &[denied, nowhere, "refused at once"]);
    why(&cluster, "other", "pod/backend:81", 1, &[denied, nowhere, "heard nothing"]);
    why(&cluster, "other", "pod/backend:80", 0, &["ingress rule 1 of NetworkPolicy"]);
    why(&cluster, "other", "pod/backend:80/udp", 1, &[denied, nowhere]);
    why(&cluster, "backend", "169.254.169.254:80", 1, &[nowhere]);
    // Nobody listens: the packet comes through all the same.
    why(&cluster, "other", &format!("{members}:7"), 0, &["nothing listens there"]);
    cluster.finish();
}

#[test]
fn what_is_denied_is_seen_in_events_figures_and_the_log() {
    let mut cluster = Cluster::start("policy-log");
    cluster.apply(&[server("default", "one", "x"), server("default", "two", "x")].concat()).ok();
    for pod in ["one", "two"] {
        cluster.wait_running(pod);
    }
    let two = cluster.value("pod/two", "{.status.podIP}");
    let one = cluster.value("pod/one", "{.status.podIP}");
    cluster.apply(DENY_ALL).ok();
    wait_in_force(&mut cluster, "networkpolicy/default-deny");
    for _ in 0..3 {
        assert!(!connects(&cluster, "default/one", &two, 80));
    }
    let sentence =
        format!("NetworkPolicy default/default-deny denies TCP 80 to default/two ({two}) (egress)");
    cluster.wait_for("an Event tells of it", |cluster| {
        let events = [
            "get",
            "events",
            "-o",
            "jsonpath={range .items[*]}{.reason} {.involvedObject.name} {.message}{'\\n'}{end}",
        ];
        let told = cluster.kubectl(&events).ok();
        let of_it = told.lines().filter(|line| line.starts_with("NetworkPolicyDenied one"));
        of_it.filter(|line| line.ends_with(&sentence)).count() == 1
    });
    let line = |said: &str| {
        said.contains(&format!("egress {one}:"))
            && said.contains("(default/one) -> ")
            && said.contains(&format!("{two}:80 (default/two) TCP denied by default/default-deny"))
    };
    // The kernel hands what is denied over in batches.
    cluster.wait_for("every attempt is in the log", |cluster| {
        let shown = cluster.joey(&["policy", "log"]).ok();
        shown.lines().filter(|said| line(said)).count() >= 3
    });
    let json = cluster.joey(&["policy", "log", "--json"]).ok();
    assert!(json.contains("\"policies\":[\"default/default-deny\"]"), "{json}");
    let figures = cluster.fetch("http://127.0.0.1:9464/metrics").stdout;
    let series = "joey_network_policy_denied_packets_total{policy=\"default/default-deny\",direction=\"egress\"}";
    assert!(figures.lines().any(|one| one.starts_with(series)), "{figures}");

    // Who follows sees the next one.
    let mut follower = cluster
        .joey_command()
        .args(["policy", "log", "-f"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("joey can run");
    let out = follower.stdout.take().expect("its output is piped");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(out));
    let mut said =
        move |wanted: &str| lines.by_ref().any(|line| line.expect("text").contains(wanted));
    assert!(said("(default/one) -> "), "what came before is shown first");
    connects(&cluster, "default/two", &one, 443);
    assert!(said(":443 (default/one) TCP denied by default/default-deny"));
    follower.kill().expect("it runs");
    follower.wait().expect("it ends");
    cluster.finish();
}

#[test]
fn rules_outlive_the_daemon_and_are_followed_again_by_the_next() {
    let mut cluster = Cluster::start("policy-restart");
    cluster.apply(&[server("default", "one", "x"), server("default", "two", "x")].concat()).ok();
    for pod in ["one", "two"] {
        cluster.wait_running(pod);
    }
    cluster.apply(DENY_ALL).ok();
    wait_in_force(&mut cluster, "networkpolicy/default-deny");
    let two = cluster.value("pod/two", "{.status.podIP}");
    assert!(!connects(&cluster, "default/one", &two, 80));
    cluster.kill_daemon();
    cluster.start_daemon();
    assert!(!connects(&cluster, "default/one", &two, 80));
    cluster.kubectl(&["delete", "networkpolicy", "default-deny"]).ok();
    cluster.wait_for("nothing is denied any more", |cluster| {
        connects(cluster, "default/one", &two, 80)
    });
    cluster.finish();
}

const WEB: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {role: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  ingressClassName: joey
  defaultBackend: {service: {name: web, port: {number: 80}}}
";

/// Lets in whom the ingress leads in from `CIDR`.
const FROM_OUTSIDE: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {role: web}}
  ingress: [{from: [{ipBlock: {cidr: CIDR}}]}]
";

/// Where a program of the pod listens.
pub fn serve(cluster: &Cluster, pod: &str, port: u16) -> TcpListener {
    let uid = cluster.value(&format!("pod/{pod}"), "{.metadata.uid}");
    let netns =
        std::fs::File::open(cluster.run_dir().join("netns").join(uid)).expect("it is pinned");
    let bind = move || {
        nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).expect("it can be entered");
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("nobody listens there")
    };
    std::thread::spawn(bind).join().expect("it binds")
}

/// A program of the pod: begins an answer on a connection and hands it over, head read.
fn begin_answer(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().expect("somebody connects");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a request comes");
        head.extend(byte);
    }
    let begin = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst\n\r\n";
    stream.write_all(begin).expect("the answer begins");
    stream
}

/// A client over HTTP/2 from outside, whom the pod is answering when a policy takes the client's leave back.
#[test]
fn a_policy_that_allows_less_cuts_an_http2_stream_through_the_ingress_and_lets_no_other_begin() {
    let mut cluster = Cluster::start("policy-stream");
    cluster.apply(&[server("default", "web", "web"), WEB.to_owned()].concat()).ok();
    cluster.wait_running("web");
    let listener = serve(&cluster, "web", 8080);
    let curl = |path: &str| {
        let mut command = Command::new("curl");
        let url = format!("http://127.0.0.1/{path}");
        let args = ["-sS", "-N", "--http2-prior-knowledge", "--max-time", "60", "-o", "-"];
        command.args(args).args(["-w", "\n%{http_version} %{http_code}"]).arg(url);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    cluster.apply(&FROM_OUTSIDE.replace("CIDR", "0.0.0.0/0")).ok();
    wait_in_force(&mut cluster, "networkpolicy/web");
    // Until the ingress knows the rule and the pod, nothing comes.
    cluster.wait_for("the ingress leads to the pod", |cluster| {
        let told = cluster.fetch("http://127.0.0.1/").stdout;
        listener.set_nonblocking(true).expect("a socket does not wait");
        let has_come = listener.accept().is_ok();
        has_come || told.contains("first")
    });
    listener.set_nonblocking(false).expect("a socket waits");
    while listener.set_nonblocking(true).is_ok() && listener.accept().is_ok() {}
    listener.set_nonblocking(false).expect("a socket waits");

    let mut client = curl("events").spawn().expect("curl can run");
    let mut served = begin_answer(&listener);
    let mut out = client.stdout.take().expect("it is piped");
    let mut first = [0; 6];
    out.read_exact(&mut first).expect("the beginning comes");
    assert_eq!(&first, b"first\n");
    // Another policy that allows the same: the stream goes on.
    cluster.apply(&FROM_OUTSIDE.replace("CIDR", "127.0.0.0/8")).ok();
    wait_in_force(&mut cluster, "networkpolicy/web");
    served.write_all(b"7\r\nsecond\n\r\n").expect("the proxy reads");
    let mut second = [0; 7];
    out.read_exact(&mut second).expect("it goes on");
    assert_eq!(&second, b"second\n");

    cluster.apply(&FROM_OUTSIDE.replace("CIDR", "192.0.2.0/24")).ok();
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("text");
    let ended = client.wait().expect("it ends");
    // CURLE_HTTP2_STREAM: no end that looks like a whole answer's.
    assert_eq!((ended.code(), rest.trim()), (Some(92), "2 200"));
    let _ = served.read_to_end(&mut Vec::new());
    assert_eq!(served.write_all(b"x").and_then(|()| served.read(&mut [0])).unwrap_or(0), 0);
    wait_in_force(&mut cluster, "networkpolicy/web");
    let denied = curl("again").output().expect("curl can run");
    let said = String::from_utf8_lossy(&denied.stdout);
    assert!(said.ends_with("\n2 403"), "{said}");
    cluster.finish();
}
