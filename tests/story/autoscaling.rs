//! "I can't handle the traffic": what pods use, and how many of them there are because of it.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::cluster::{Cluster, kubectls};
use crate::deployment::DEPLOYMENT;

/// One that works all the time and one that sleeps, each with a container beside.
const BUSY_AND_IDLE: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: busy
  labels: {app: mill}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: wheel
    image: toolbox
    imagePullPolicy: Never
    command: [sh, -c, 'while :; do :; done']
  - name: miller
    image: toolbox
    imagePullPolicy: Never
    command: [sleep, infinity]
---
apiVersion: v1
kind: Pod
metadata:
  name: idle
  labels: {app: mill}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: miller
    image: toolbox
    imagePullPolicy: Never
    command: [sleep, infinity]
";

/// The number in front of `m` (thousandths of a processor) in the column of `kubectl top`.
fn millicores(line: &str, column: usize) -> u64 {
    let cell = line.split_whitespace().nth(column).unwrap_or_default();
    cell.strip_suffix('m').and_then(|number| number.parse().ok()).unwrap_or_default()
}

#[test]
fn top_shows_who_uses_the_host() {
    for (number, kubectl) in kubectls().into_iter().enumerate() {
        let cluster = &mut Cluster::start_with(&format!("top-{number}"), kubectl);
        cluster.apply(BUSY_AND_IDLE).ok();
        for pod in ["busy", "idle"] {
            cluster.wait_running(pod);
        }
        // Two processors are shared with everything else that runs; a tenth of one is left for sure.
        cluster.wait_for("the working pod shows", |cluster| {
            let top = cluster.kubectl(&["top", "pods", "--no-headers", "--sort-by=cpu"]).stdout;
            let lines: Vec<&str> = top.lines().collect();
            lines.len() == 2 && lines[0].starts_with("busy ") && millicores(lines[0], 1) >= 100
        });
        let top = cluster.kubectl(&["top", "pods", "-l", "app=mill", "--sort-by=cpu"]).ok();
        assert!(millicores(top.lines().last().unwrap_or_default(), 1) < 50, "sleeping: {top}");
        let containers =
            cluster.kubectl(&["top", "pod", "busy", "--containers", "--no-headers"]).ok();
        let line = |name: &str| {
            let mut lines = containers.lines();
            lines.find(|line| line.split_whitespace().nth(1) == Some(name)).unwrap_or_default()
        };
        assert!(millicores(line("wheel"), 2) >= 100, "{containers}");
        assert!(millicores(line("miller"), 2) < 50, "{containers}");
        let node = cluster.kubectl(&["top", "nodes", "--no-headers"]).ok();
        assert!(millicores(&node, 1) >= 100 && node.contains('%'), "{node}");
        let all = cluster.kubectl(&["get", "pods.metrics.k8s.io", "-A"]).ok();
        assert!(all.contains("WINDOW") && all.contains("idle"), "{all}");
        let refused = cluster.kubectl(&["top", "pod", "nobody"]).refused();
        assert!(
            refused.contains("podmetrics.metrics.k8s.io \"default/nobody\" not found"),
            "{refused}"
        );
        cluster.kubectl(&["delete", "pod", "busy", "idle"]).ok();
        assert!(cluster.kubectl(&["get", "pods.metrics.k8s.io"]).ok().is_empty());
    }
}

/// The story's Service, its Ingress and the class that serves it.
pub const DOOR: &str = "
apiVersion: v1
kind: Service
metadata:
  name: kangaroo-backend
spec:
  selector: {app: kangaroo, role: backend}
  ports:
  - port: 8080
    targetPort: 80
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata:
  name: kangaroo
spec:
  controller: joey.dev/ingress
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: minimal-ingress
spec:
  ingressClassName: kangaroo
  rules:
  - http:
      paths:
      - path: /api
        pathType: Prefix
        backend:
          service:
            name: kangaroo-backend
            port:
              number: 8080
";

/// \"Requests per replica per second below …\": of one metric, down again without the usual five minutes.
fn autoscaler(metric: &str) -> String {
    format!(
        "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: kangaroo
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: kangaroo-backend-deployment
  minReplicas: 1
  maxReplicas: 4
  metrics:
  - {metric}
  behavior:
    scaleUp: {{stabilizationWindowSeconds: 0}}
    scaleDown: {{stabilizationWindowSeconds: 0}}
"
    )
}

fn ready_replicas(cluster: &Cluster) -> String {
    cluster
        .value("deployment/kangaroo-backend-deployment", "{.status.readyReplicas}/{.spec.replicas}")
}

/// Customers who ask again as soon as they have been answered, until they are sent home.
struct Customers {
    go_home: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Customers {
    /// In the network of the thread that calls.
    fn of(url: &str) -> Customers {
        let go_home = Arc::new(AtomicBool::new(false));
        let (over, url) = (go_home.clone(), url.to_owned());
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                // One process asks a hundred times: what is measured is requests, not processes.
                let hundred = format!("{url}?[1-100]");
                let asked = Command::new("curl").args(["-s", "-o", "/dev/null", &hundred]).status();
                asked.expect("curl can run");
            }
        });
        Customers { go_home, thread }
    }

    fn leave(self) {
        self.go_home.store(true, Ordering::Relaxed);
        self.thread.join().expect("customers leave in peace");
    }
}

#[test]
fn requests_through_the_ingress_scale_the_storys_deployment_out_and_back() {
    let cluster = &mut Cluster::start("autoscaling-ingress");
    cluster.apply(&DEPLOYMENT.replace("replicas: 3", "replicas: 1")).ok();
    cluster.apply(DOOR).ok();
    let per_replica = "{type: Object, object: {metric: {name: requests-per-second}, describedObject: {apiVersion: networking.k8s.io/v1, kind: Ingress, name: minimal-ingress}, target: {type: AverageValue, averageValue: 20}}}";
    cluster.apply(&autoscaler(per_replica)).ok();
    cluster.wait_for("one replica is ready", |cluster| ready_replicas(cluster) == "1/1");
    // Idle is a figure.
    cluster.wait_for("nothing is asked for", |cluster| {
        cluster.kubectl(&["get", "hpa", "--no-headers"]).stdout.contains(" 0/20 (avg)")
    });
    let customers = Customers::of("http://127.0.0.1/api");
    cluster.wait_for("four replicas are ready", |cluster| ready_replicas(cluster) == "4/4");
    let told = cluster.kubectl(&["describe", "hpa", "kangaroo"]).ok();
    for sentence in [
        "SuccessfulRescale",
        "Ingress metric requests-per-second above target",
        "ScalingActive   True    ValidMetricFound",
        "\"requests-per-second\" on Ingress/minimal-ingress (target average value):",
    ] {
        assert!(told.contains(sentence), "{sentence}: {told}");
    }
    let raw = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/pods/*/requests-per-second?labelSelector=app%3Dkangaroo";
    cluster.wait_for("every replica has its share", |cluster| {
        let list = cluster.kubectl(&["get", "--raw", raw]).stdout;
        list.matches("\"describedObject\"").count() == 4
    });
    customers.leave();
    cluster.wait_for("one replica is left", |cluster| ready_replicas(cluster) == "1/1");
    let told = cluster.kubectl(&["describe", "hpa", "kangaroo"]).ok();
    assert!(told.contains("All metrics below target"), "{told}");
}

#[test]
fn traffic_from_inside_scales_by_what_the_pods_count_themselves() {
    let cluster = &mut Cluster::start("autoscaling-inside");
    let annotated = DEPLOYMENT.replace("replicas: 3", "replicas: 1").replace(
        "    metadata:\n",
        "    metadata:\n      annotations: {prometheus.io/scrape: 'true', prometheus.io/port: '81'}\n",
    );
    cluster.apply(&annotated).ok();
    cluster.apply(DOOR).ok();
    let rate = |name: &str| {
        format!(
            "{{type: Pods, pods: {{metric: {{name: {name}}}, target: {{type: AverageValue, averageValue: 5}}}}}}"
        )
    };
    // A series that nobody has: it says so, and leaves the size alone.
    cluster.apply(&autoscaler(&rate("no_such_thing_per_second"))).ok();
    cluster.wait_for("the missing series is named", |cluster| {
        let told = cluster.kubectl(&["describe", "hpa", "kangaroo"]).stdout;
        told.contains("FailedGetPodsMetric") && told.contains("no_such_thing_per_second for pods")
    });
    assert_eq!(cluster.value("deployment/kangaroo-backend-deployment", "{.spec.replicas}"), "1");
    cluster.apply(&autoscaler(&rate("kangaroo_requests_per_second"))).ok();
    cluster
        .apply(
            "
apiVersion: v1
kind: Pod
metadata: {name: joey-at-work}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: a
    image: toolbox
    imagePullPolicy: Never
    command: [sh, -c, 'while :; do wget -q -O /dev/null http://kangaroo-backend:8080/api; done']
",
        )
        .ok();
    cluster.wait_for("more replicas are ready", |cluster| {
        matches!(ready_replicas(cluster).as_str(), "2/2" | "3/3" | "4/4")
    });
    cluster.kubectl(&["delete", "pod", "joey-at-work"]).ok();
    cluster.wait_for("one replica is left", |cluster| ready_replicas(cluster) == "1/1");
}

#[test]
fn kubectl_autoscale_keeps_processors_half_busy() {
    let cluster = &mut Cluster::start("autoscaling-cpu");
    cluster
        .apply(
            "
apiVersion: apps/v1
kind: Deployment
metadata: {name: mill}
spec:
  selector: {matchLabels: {app: mill}}
  template:
    metadata: {labels: {app: mill}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: wheel
        image: toolbox
        imagePullPolicy: Never
        command: [sh, -c, 'while :; do :; done']
        resources: {requests: {cpu: 10m}}
",
        )
        .ok();
    let flags = ["autoscale", "deployment", "mill", "--cpu-percent=50", "--min=1", "--max=2"];
    cluster.kubectl(&flags).ok();
    cluster.wait_for("a second pod is there", |cluster| {
        cluster.value("deployment/mill", "{.status.readyReplicas}") == "2"
    });
    cluster.wait_for("it says why not a third", |cluster| {
        let told = cluster.kubectl(&["describe", "hpa", "mill"]).stdout;
        told.contains("TooManyReplicas") && told.contains("resource cpu on pods")
    });
    for kubectl in kubectls() {
        cluster.use_kubectl(&kubectl);
        cluster.kubectl(&["delete", "hpa", "mill"]).ok();
        cluster.kubectl(&flags).ok();
        cluster.wait_for("it is measured", |cluster| {
            let table = cluster.kubectl(&["get", "hpa", "mill", "--no-headers"]).stdout;
            table.contains("Deployment/mill") && table.contains("%/50%")
        });
    }
    cluster.wait_for("it is the size that it was", |cluster| {
        cluster.value("hpa/mill", "{.status.desiredReplicas}") == "2"
    });
    let old = cluster.kubectl(&[
        "get",
        "horizontalpodautoscalers.v1.autoscaling",
        "mill",
        "-o",
        "jsonpath={.spec.targetCPUUtilizationPercentage} {.status.desiredReplicas}",
    ]);
    assert_eq!(old.ok(), "50 2");
}

/// Two containers, of which one holds some 30 MiB.
const KEEPER: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: store}
spec:
  selector: {matchLabels: {app: store}}
  template:
    metadata: {labels: {app: store}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: keeper
        image: toolbox
        imagePullPolicy: Never
        command: [bash, -c, 'kept=$(head -c 30000000 /dev/zero | tr \"\\0\" x); while :; do sleep 1000; done']
        resources: {requests: {memory: 16Mi}}
      - name: idler
        image: toolbox
        imagePullPolicy: Never
        command: [sleep, infinity]
        resources: {requests: {memory: 16Mi}}
";

fn autoscaler_of_the_store(metric: &str) -> String {
    autoscaler(metric)
        .replace("kangaroo-backend-deployment", "store")
        .replace("name: kangaroo", "name: store")
        .replace("maxReplicas: 4", "maxReplicas: 2")
}

#[test]
fn memory_of_a_container_and_of_the_whole_pod_scales() {
    let cluster = &mut Cluster::start("autoscaling-memory");
    cluster.apply(KEEPER).ok();
    let of_container = |name: &str| {
        format!(
            "{{type: ContainerResource, containerResource: {{name: memory, container: {name}, target: {{type: AverageValue, averageValue: 20Mi}}}}}}"
        )
    };
    let pods = |cluster: &Cluster| {
        cluster.value("deployment/store", "{.status.readyReplicas}/{.spec.replicas}")
    };
    cluster.apply(&autoscaler_of_the_store(&of_container("keeper"))).ok();
    cluster.wait_for("the keeper holds more than 20 MiB", |cluster| pods(cluster) == "2/2");
    for kubectl in kubectls() {
        cluster.use_kubectl(&kubectl);
        let told = cluster.kubectl(&["describe", "hpa", "store"]).ok();
        for sentence in [
            "resource memory of container \"keeper\" on pods:",
            "/ 20Mi",
            "ScalingActive   True    ValidMetricFound",
            "memory container resource above target",
        ] {
            assert!(told.contains(sentence), "{sentence}: {told}");
        }
        let table = cluster.kubectl(&["get", "hpa", "store", "--no-headers"]).ok();
        assert!(table.contains("Deployment/store") && table.contains("/20Mi"), "{table}");
    }
    // The other container holds next to nothing.
    cluster.apply(&autoscaler_of_the_store(&of_container("idler"))).ok();
    cluster.wait_for("the idler alone needs one pod", |cluster| pods(cluster) == "1/1");
    // Of the 32 MiB that the pod asks for, more than four fifths.
    let of_pod = "{type: Resource, resource: {name: memory, target: {type: Utilization, averageUtilization: 40}}}";
    cluster.apply(&autoscaler_of_the_store(of_pod)).ok();
    cluster.wait_for("the pod uses more than it should", |cluster| pods(cluster) == "2/2");
    for kubectl in kubectls() {
        cluster.use_kubectl(&kubectl);
        let told = cluster.kubectl(&["describe", "hpa", "store"]).ok();
        assert!(told.contains("resource memory on pods  (as a percentage of request):"), "{told}");
        let table = cluster.kubectl(&["get", "hpa", "store", "--no-headers"]).ok();
        assert!(table.contains("%/40%"), "{table}");
    }
    // A container that no pod has is a metric that nobody knows, and takes no pod away.
    cluster.apply(&autoscaler_of_the_store(&of_container("nobody"))).ok();
    cluster.wait_for("the missing container is named", |cluster| {
        let told = cluster.kubectl(&["describe", "hpa", "store"]).stdout;
        told.contains("FailedGetContainerResourceMetric") && told.contains("nobody")
    });
    assert_eq!(pods(cluster), "2/2");
}
