//! `joey describe` against `kubectl describe`: the same objects, the same text, byte for byte.

use std::time::Instant;

use crate::cluster::{Cluster, PATIENCE, Ran, kubectls};

/// Something of everything that is described, with every field that has a line of its own.
const OBJECTS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata:
  name: settings
  labels: {a: b, c: d}
  annotations: {example.com/note: short, example.com/lines: "one\ntwo\n", example.com/wide: "{WIDE}"}
data: {log.level: debug, lines: "a\tb\nlonger\tc\n\nend\n", empty: ""}
binaryData: {blob: AAECAwQF}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {password: hunter2, empty: ""}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot}
imagePullSecrets: [{name: keys}, {name: more}]
---
apiVersion: v1
kind: Pod
metadata: {name: rich, labels: {app: rich, tier: front}, annotations: {example.com/note: hi}}
spec:
  terminationGracePeriodSeconds: 0
  nodeSelector: {kubernetes.io/os: linux}
  tolerations:
  - {operator: Exists, key: zz, effect: NoSchedule}
  - {key: aa, operator: Equal, value: v, effect: NoExecute, tolerationSeconds: 9}
  securityContext: {seccompProfile: {type: RuntimeDefault}}
  initContainers:
  - {name: first, image: toolbox, imagePullPolicy: Never, command: [sh, -c, "echo from\necho first"]}
  containers:
  - name: a
    image: toolbox
    imagePullPolicy: Never
    command: [sh, -c]
    args: ["echo from a\nsleep 1000", x]
    ports: [{containerPort: 8080, name: http}, {containerPort: 53, protocol: UDP}]
    resources: {requests: {cpu: "0.1", memory: 33554432}}
    livenessProbe: {exec: {command: [sh, -c, "true"]}, periodSeconds: 300}
    readinessProbe: {exec: {command: ["true"]}, periodSeconds: 300}
    envFrom: [{configMapRef: {name: settings, optional: true}}, {prefix: K_, secretRef: {name: keys}}]
    env:
    - {name: PLAIN, value: "one\ntwo"}
    - {name: EMPTY}
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: LABEL, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: requests.memory, divisor: 1Mi}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: password}}}
    - {name: LEVEL, valueFrom: {configMapKeyRef: {name: settings, key: log.level, optional: true}}}
    volumeMounts: [{name: settings, mountPath: /z, readOnly: true}, {name: scratch, mountPath: /a, subPath: in}]
  - name: b
    image: toolbox
    imagePullPolicy: Never
    command: [sleep, "1000"]
    securityContext: {seccompProfile: {type: Unconfined}}
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: keys, secret: {secretName: keys, optional: true}}
  - {name: scratch, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 10Mi}}
  - {name: host, hostPath: {path: /tmp, type: Directory}}
  - name: down
    downwardAPI:
      items: [{path: name, fieldRef: {fieldPath: metadata.name}}, {path: cpu, resourceFieldRef: {containerName: a, resource: limits.cpu}}]
  - name: mix
    projected: {sources: [{secret: {name: keys}}, {configMap: {name: settings, optional: true}}, {downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: ended, labels: {app: ended}}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  containers: [{name: a, image: toolbox, imagePullPolicy: Never, command: [sh, -c, "echo bye >/dev/termination-log; exit 3"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: pending}
spec:
  nodeSelector: {no: where}
  automountServiceAccountToken: false
  containers: [{name: a, image: toolbox, imagePullPolicy: Never}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector:
    matchLabels: {app: web}
    matchExpressions: [{key: tier, operator: In, values: [z, front]}, {key: away, operator: DoesNotExist}]
  template:
    metadata: {labels: {app: web, tier: front}, annotations: {note: some}}
    spec:
      terminationGracePeriodSeconds: 0
      tolerations: [{operator: Exists}]
      volumes: [{name: scratch, emptyDir: {}}]
      containers:
      - name: web
        image: kangaroo-backend:1.14.2
        imagePullPolicy: Never
        ports: [{containerPort: 80}]
        volumeMounts: [{name: scratch, mountPath: /scratch}]
        resources: {requests: {cpu: 10m}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, type: NodePort, ports: [{name: http, port: 80}, {name: more, port: 81, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: typed, labels: {app: typed}}
spec: {selector: {app: web}, ports: [{name: http, port: 80, appProtocol: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: nobody}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  tls: [{hosts: [a.example.com], secretName: keys}]
  rules:
  - host: a.example.com
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
      - {path: /x, pathType: Prefix, backend: {service: {name: nope, port: {name: http}}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: strict}
spec:
  podSelector: {matchLabels: {app: rich}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {matchLabels: {a: b}}, namespaceSelector: {}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]
    ports: [{port: 80}, {port: 90, endPort: 99, protocol: UDP}, {protocol: TCP}]
  - {}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  minReplicas: 2
  maxReplicas: 4
  behavior: {scaleDown: {stabilizationWindowSeconds: 60, policies: [{type: Pods, value: 1, periodSeconds: 60}]}}
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]
"#;

/// Told long ago, so that their ages are the same in two looks.
const EVENTS: &str = r#"
apiVersion: v1
kind: Event
metadata: {name: settings.one}
involvedObject: {apiVersion: v1, kind: ConfigMap, name: settings, namespace: default, uid: "{UID}"}
type: Normal
reason: Seen
message: "  once \u001b[2J\r  "
source: {component: somebody}
firstTimestamp: "2020-01-01T00:00:00Z"
lastTimestamp: "2020-01-02T00:00:00Z"
count: 1
---
apiVersion: v1
kind: Event
metadata: {name: settings.two}
involvedObject: {apiVersion: v1, kind: ConfigMap, name: settings, namespace: default, uid: "{UID}", fieldPath: "data{a}"}
type: Warning
reason: SeenAgain
message: often
source: {component: somebody}
firstTimestamp: "2020-01-01T00:00:00Z"
lastTimestamp: "2020-01-01T00:00:00Z"
count: 7
"#;

/// What both kubectls that are tried say in the same words.
const ALIKE: &[&str] = &[
    "deployment web",
    "replicasets",
    "services -l !app",
    "service headless",
    "namespaces",
    "secrets -A",
    "secret/keys deployment/web",
    "ingress web",
    "ingressclasses",
    "networkpolicy strict",
    "hpa web",
    "endpoints -A",
    "endpointslices -n kube-system",
    "pod ended",
    "pod pending",
    "pods -l app=ended",
    "po end",
];

/// What the newest kubectl says in words of its own.
const NEWEST: &[&str] =
    &["pod rich", "services", "svc typed web", "serviceaccount robot", "leases -A", "node"];

/// What needs no silence about events: it has old ones, none, or is not described at all.
const WITH_EVENTS: &[&str] = &[
    "configmap settings",
    "configmaps -A",
    "secret/keys",
    "pods",
    "pods we",
    "pods -l app=web",
    "service/web deployment/web",
    "pods -l app=nobody",
    "pods -n nowhere",
    "namespaces -l no=body",
    "pod nope",
    "pod/ric",
    "all",
    "pod rich ended nope",
    "pod rich -A",
    "pod rich -l app=rich",
    "pod/rich -l app=rich",
    "pod/rich -A",
    "nonsense",
];

/// Both say the same of `args`, exit code included, as long as the world does not change meanwhile.
fn same(cluster: &Cluster, args: &str) {
    let args: Vec<&str> = ["describe"].into_iter().chain(args.split(' ')).collect();
    let is_node = args.contains(&"node");
    let shown = |ran: Ran| {
        let text = if is_node { without_ages(&ran.stdout) } else { ran.stdout };
        (ran.code, text, ran.stderr)
    };
    let until = Instant::now() + PATIENCE;
    loop {
        let before = shown(cluster.kubectl(&args));
        let ours = shown(cluster.joey(&args));
        if before == shown(cluster.kubectl(&args)) {
            assert_eq!(ours.1, before.1, "{args:?}");
            assert_eq!((ours.0, ours.2), (before.0, before.2), "{args:?}");
            return;
        }
        assert!(Instant::now() < until, "{args:?}: what is described never comes to rest");
    }
}

/// The ages of a node's pods grow while one looks; they end their lines.
fn without_ages(text: &str) -> String {
    let mut in_table = false;
    let line = |line: &str| {
        in_table = line.starts_with(if in_table { "  " } else { "Non-terminated Pods:" });
        match in_table {
            true => line.rsplit_once(' ').map_or(line, |(rest, _)| rest).to_owned(),
            false => line.to_owned(),
        }
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn joey_describes_word_for_word_as_kubectl_does() {
    let mut cluster = Cluster::start("described");
    let objects = OBJECTS.replace("{WIDE}", &"0123456789".repeat(16));
    cluster.apply(&objects).ok();
    cluster.wait_running("rich");
    cluster.wait_for("the pods have come to rest", |cluster| {
        let columns = "jsonpath={.status.availableReplicas}";
        cluster.kubectl(&["get", "deployment", "web", "-o", columns]).stdout == "2"
            && cluster.kubectl(&["get", "pod", "ended", "-o", "jsonpath={.status.phase}"]).stdout
                == "Failed"
    });
    let uid = cluster.kubectl(&["get", "configmap", "settings", "-o", "jsonpath={.metadata.uid}"]);
    cluster.apply(&EVENTS.replace("{UID}", &uid.ok())).ok();

    let file = cluster.dir.join("objects.yaml");
    std::fs::write(&file, &objects).unwrap();
    WITH_EVENTS.iter().for_each(|args| same(&cluster, args));
    same(&cluster, &format!("-f {}", file.display()));
    NEWEST.iter().for_each(|args| same(&cluster, &format!("{args} --show-events=false")));
    // Ages of what happened just now differ between two looks.
    let told = cluster.joey(&["describe", "pod", "rich"]).ok();
    assert!(told.contains("Successfully assigned default/rich to"), "{told}");
    let told = cluster.joey(&["describe", "node"]).ok();
    assert!(told.contains("Starting kubelet."), "{told}");

    for kubectl in kubectls() {
        cluster.use_kubectl(&kubectl);
        ALIKE.iter().for_each(|args| same(&cluster, &format!("{args} --show-events=false")));
    }
    cluster.finish();
}
