//! "How do my services talk to each other?"

use std::collections::BTreeSet;

use crate::cluster::{Cluster, image_archive};

/// As the story has it, word for word.
pub const SERVICE: &str = "\
# The kangaroo-backend Service.
# Other services inside the Kubernetes cluster will address the
# kangaroo-backend containers using this service.
apiVersion: v1
kind: Service
metadata:
  name: kangaroo-backend
  labels:
    app: kangaroo-backend
spec:
  ports:
    # Port 8080 of the Service will be forwarded to port 80 of one of the Pods.
    - port: 8080
      protocol: TCP
      targetPort: 80
  # Select which pods the service will proxy to
  selector:
    app: kangaroo
    role: backend
";

fn backend(name: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: kangaroo, role: backend}}}}
spec:
  containers:
  - name: kangaroo-backend
    image: kangaroo-backend:1.14.2
    ports: [{{name: http, containerPort: 80}}]
---"
    )
}

pub const TOOLS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: tools}
spec:
  containers:
  - name: tools
    image: toolbox
    imagePullPolicy: IfNotPresent
    command: [sleep, '1000']
---
";

const FRONTEND: &str = "
apiVersion: v1
kind: Pod
metadata: {name: kangaroo-frontend}
spec:
  containers:
  - name: kangaroo-frontend
    image: kangaroo-frontend
    imagePullPolicy: IfNotPresent
---
";

fn ready(cluster: &Cluster) -> BTreeSet<String> {
    let path =
        "{range .items[*].endpoints[?(@.conditions.ready==true)]}{.targetRef.name}{\"\\n\"}{end}";
    let select = "kubernetes.io/service-name=kangaroo-backend";
    let args = ["get", "endpointslices", "-l", select, "-o", &format!("jsonpath={path}")];
    cluster.kubectl(&args).stdout.lines().map(str::to_owned).collect()
}

/// Which of the backends answer at `url`, asked from within `pod`, until as many as `count` have.
fn answering(cluster: &Cluster, url: &str, attempts: usize) -> BTreeSet<String> {
    let script =
        format!("for n in $(seq {attempts}); do fetch -T 5 -qO- {url} || echo failed; done");
    let answers = cluster.kubectl(&["exec", "tools", "--", "/bin/bash", "-c", &script]).ok();
    assert!(!answers.contains("failed"), "{answers}");
    ["backend-a", "backend-b", "backend-c"]
        .into_iter()
        .filter(|name| answers.contains(*name))
        .map(str::to_owned)
        .collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn the_storys_service_is_a_name_for_whoever_matches() {
    let mut cluster = Cluster::start("service");
    let image = image_archive("kangaroo-frontend.oci.tar").display().to_string();
    cluster.joey(&["image", "import", &image]).ok();
    let pods = backend("backend-a") + &backend("backend-b") + TOOLS + FRONTEND;
    cluster.apply(&pods).ok();
    for pod in ["backend-a", "backend-b", "tools", "kangaroo-frontend"] {
        cluster.wait_running(pod);
    }
    let tools = |cluster: &Cluster, script: &str| {
        cluster.kubectl(&["exec", "tools", "--", "/bin/bash", "-c", script])
    };
    tools(&cluster, "fetch -T 5 -qO- http://kangaroo-backend:8080/").refused();

    // A name that was missing a moment ago is there as soon as it is made.
    std::fs::write(cluster.dir.join("service.yaml"), SERVICE).unwrap();
    let created = cluster.kubectl(&["apply", "-f", "service.yaml"]).ok();
    assert_eq!(created, "service/kangaroo-backend created");
    cluster.wait_for("both are endpoints", |cluster| {
        ready(cluster) == set(&["backend-a", "backend-b"])
    });
    for name in [
        "kangaroo-backend",
        "kangaroo-backend.default",
        "kangaroo-backend.default.svc",
        "kangaroo-backend.default.svc.cluster.local",
    ] {
        let url = format!("http://{name}:8080/");
        cluster.wait_for(name, |cluster| {
            cluster.kubectl(&["exec", "tools", "--", "fetch", "-T", "5", "-qO-", &url]).code == 0
        });
    }
    assert_eq!(
        answering(&cluster, "http://kangaroo-backend:8080/", 40),
        set(&["backend-a", "backend-b"])
    );
    // The story's own frontend, which knows nothing but the name.
    let address = cluster.value("pod/kangaroo-frontend", "{.status.podIP}");
    let page = cluster.fetch(&format!("http://{address}/")).ok();
    assert!(page.contains("1.14.2"), "{page}");

    // Relabelled, a pod leaves; labelled again, it is back; a third one joins.
    let label = |cluster: &Cluster, role: &str| {
        let role = format!("role={role}");
        cluster.kubectl(&["label", "pod", "backend-a", &role, "--overwrite"]).ok();
    };
    label(&cluster, "none");
    cluster.wait_for("one has left", |cluster| ready(cluster) == set(&["backend-b"]));
    cluster.wait_for("nobody is led to it", |cluster| {
        answering(cluster, "http://kangaroo-backend:8080/", 20) == set(&["backend-b"])
    });
    label(&cluster, "backend");
    cluster.apply(&backend("backend-c")).ok();
    let all = set(&["backend-a", "backend-b", "backend-c"]);
    cluster.wait_for("three are endpoints", |cluster| ready(cluster) == all);
    cluster.wait_for("all three answer", |cluster| {
        answering(cluster, "http://kangaroo-backend:8080/", 60) == all
    });
    let endpoints = cluster.kubectl(&["get", "endpoints", "kangaroo-backend", "--no-headers"]).ok();
    assert_eq!(endpoints.matches(":80").count(), 3, "{endpoints}");

    // Without the daemon names rest, addresses do not.
    let service = cluster.value("service/kangaroo-backend", "{.spec.clusterIP}");
    cluster.kill_daemon();
    let page = cluster.fetch(&format!("http://{service}:8080/")).ok();
    assert!(page.contains("1.14.2"), "{page}");
    cluster.start_daemon();
    cluster.wait_for("names are back", |cluster| {
        let url = "http://kangaroo-backend:8080/";
        cluster.kubectl(&["exec", "tools", "--", "fetch", "-T", "5", "-qO-", url]).code == 0
    });

    cluster.kubectl(&["delete", "service", "kangaroo-backend"]).ok();
    cluster.wait_for("its name goes with it", |cluster| {
        let url = "http://kangaroo-backend:8080/";
        cluster.kubectl(&["exec", "tools", "--", "fetch", "-T", "5", "-qO-", url]).code != 0
    });
    cluster.kubectl(&["delete", "pods", "--all"]).ok();
    cluster.finish();
}

/// Serves its own name. Told to stop, it asks the Service and the headless one, and writes down who answers.
fn witness(name: &str, out: &std::path::Path) -> String {
    let script = format!(
        "mkdir /tmp/www; echo {name} > /tmp/www/name; httpd -p 80 -h /tmp/www; \
         ask() {{ for n in $(seq 30); do for at in web:8080 crowd:80; do \
         fetch -T 5 -qO- http://$at/name || echo failed; done; done >> /out/heard; }}; \
         trap \"ask; exit 0\" TERM; sleep infinity & wait"
    );
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: web}}, annotations: {{joey/wait-for-connections: 'false'}}}}
spec:
  # It is not to be cut short, however busy the machine.
  terminationGracePeriodSeconds: 300
  volumes: [{{name: out, hostPath: {{path: {}}}}}]
  containers:
  - name: a
    image: toolbox
    imagePullPolicy: Never
    command: [/bin/bash, -c, '{script}']
    ports: [{{containerPort: 80}}]
    volumeMounts: [{{name: out, mountPath: /out}}]
---",
        out.display()
    )
}

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 8080, targetPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: crowd}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80}]}
---
";

/// By the time a pod hears its stop signal nobody is led to it any more, itself included. It is told as soon as that is
/// acknowledged: no wait for connections hides an acknowledgement that comes too early.
#[test]
fn an_endpoint_is_out_of_maps_and_names_before_its_pod_is_told_to_stop() {
    let mut cluster = Cluster::start("withdrawn");
    let out = cluster.dir.join("out");
    std::fs::create_dir(&out).expect("the directory is ours");
    let pods = witness("stays", &out) + &witness("leaves", &out);
    cluster.apply(&(pods + WEB + TOOLS)).ok();
    for pod in ["stays", "leaves", "tools"] {
        cluster.wait_running(pod);
    }
    cluster.wait_for("both are led to", |cluster| {
        let script = "for n in $(seq 20); do fetch -T 5 -qO- http://web:8080/name; done";
        let heard = cluster.kubectl(&["exec", "tools", "--", "/bin/bash", "-c", script]).stdout;
        heard.contains("stays") && heard.contains("leaves")
    });
    cluster.kubectl(&["delete", "pod", "leaves"]).ok();
    let heard = std::fs::read_to_string(out.join("heard")).expect("it was told to stop");
    assert_eq!(heard.lines().count(), 60, "{heard}");
    assert!(heard.lines().all(|name| name == "stays"), "{heard}");
    cluster.finish();
}

#[test]
fn pods_reach_the_api_by_its_service_and_nothing_else_of_the_node() {
    let mut cluster = Cluster::start("in-cluster");
    cluster.apply(TOOLS).ok();
    cluster.wait_running("tools");
    cluster.wait_for("both Services are there", |cluster| {
        cluster.kubectl(&["get", "service", "kubernetes"]).code == 0
            && cluster.kubectl(&["get", "service", "kube-dns", "-n", "kube-system"]).code == 0
    });
    let opens = |cluster: &Cluster, host: &str, port: &str| {
        let script = format!("exec 3<>/dev/tcp/{host}/{port} && echo open");
        cluster
            .kubectl(&["exec", "tools", "--", "/bin/bash", "-c", &script])
            .stdout
            .contains("open")
    };
    cluster.wait_for("the API is open to pods", |cluster| {
        opens(cluster, "kubernetes.default.svc", "443")
    });
    assert!(opens(&cluster, "kube-dns.kube-system", "53"));
    // The listener of the host, which the administrator uses, is not theirs.
    assert!(!opens(&cluster, "127.0.0.1", "6443"));
    let resolv = cluster.kubectl(&["exec", "tools", "--", "cat", "/etc/resolv.conf"]).ok();
    assert!(resolv.contains("nameserver 10.43.0.10"), "{resolv}");
    assert!(
        resolv.contains("search default.svc.cluster.local svc.cluster.local cluster.local"),
        "{resolv}"
    );
    assert!(resolv.contains("options ndots:5"), "{resolv}");
    cluster.kubectl(&["delete", "pods", "--all"]).ok();
    cluster.finish();
}

/// A server that says everything again, and a client that keeps one connection to its Service and fails when that breaks.
const TALK: &str = "\
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {clusterIP: 10.43.0.77, selector: {app: echo}, ports: [{port: 7000, targetPort: 7}]}
---
apiVersion: v1
kind: Pod
metadata: {name: echo, labels: {app: echo}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: echo
    image: toolbox
    imagePullPolicy: IfNotPresent
    command: [/bin/bash, -c, 'nc -ll -p 7 -e cat']
---
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - name: talker
    image: toolbox
    imagePullPolicy: IfNotPresent
    command:
    - /bin/bash
    - -c
    - |
      until exec 3<>/dev/tcp/10.43.0.77/7000; do sleep 0.1; done 2>/dev/null
      number=0
      while echo $number >&3 && read -t 20 said <&3 && [ \"$said\" = $number ]; do
        echo $number; number=$((number + 1)); sleep 0.05
      done
      echo broken; exit 1
";

#[test]
fn a_connection_through_a_service_outlives_the_daemon() {
    let mut cluster = Cluster::start("service-flow");
    cluster.apply(TALK).ok();
    let said = |cluster: &Cluster| {
        let logs = cluster.kubectl(&["logs", "talker", "--tail=1"]).stdout;
        logs.trim().parse::<u64>().ok()
    };
    cluster.wait_for("they talk", |cluster| said(cluster).is_some());
    for _ in 0..3 {
        let mut before = 0;
        cluster.wait_for("they talk", |cluster| {
            said(cluster).is_some_and(|number| {
                before = number;
                true
            })
        });
        cluster.kill_daemon();
        cluster.start_daemon();
        cluster.wait_for("they talk on", |cluster| {
            assert_eq!(cluster.value("pod/talker", "{.status.phase}"), "Running");
            said(cluster).is_some_and(|number| number > before + 10)
        });
    }
    cluster.finish();
}
