//! "It does not work": `joey why` on what is broken on purpose, each in a way of its own, in a cluster that really runs it.

use std::time::Instant;

use crate::cluster::{Cluster, PATIENCE};

/// What is applied under a name, and words without which the sentence would be of no use.
type Broken = (&'static str, &'static str, &'static [&'static str]);

/// Specs of pods. `WEB` stands for a container's name and image, `RUNS` for a command that goes on.
const PODS: &[Broken] = &[
    (
        "never-pulled",
        "containers: [{name: web, image: 'nowhere:1', imagePullPolicy: Never}]",
        &["nowhere:1", "imagePullPolicy Never"],
    ),
    (
        "pulled-in-vain",
        "containers: [{name: web, image: 'nowhere:2'}]",
        &["nowhere:2", "cannot be had"],
    ),
    (
        "pulled-always",
        "containers: [{name: web, image: toolbox, imagePullPolicy: Always}]",
        &["toolbox", "cannot be had"],
    ),
    (
        "no-registry",
        "containers: [{name: web, image: '127.0.0.1:1/team/app:1'}]",
        &["127.0.0.1:1/team/app:1", "cannot be had"],
    ),
    (
        "no-image-name",
        "containers: [{name: web, image: 'Not/A/Name:1:2'}]",
        &["Not/A/Name:1:2", "no image name"],
    ),
    (
        "no-settings",
        "containers: [{WEB, envFrom: [{configMapRef: {name: settings}}]}]",
        &["cannot be configured", "settings"],
    ),
    (
        "no-secrets",
        "containers: [{WEB, envFrom: [{secretRef: {name: passwords}}]}]",
        &["cannot be configured", "passwords"],
    ),
    (
        "no-key",
        "containers: [{WEB, env: [{name: A, valueFrom: {secretKeyRef: {name: keys, key: token}}}]}]",
        &["cannot be configured", "keys"],
    ),
    (
        "runs-as-root",
        "{securityContext: {runAsNonRoot: true}, containers: [{WEB}]}",
        &["runAsNonRoot", "root"],
    ),
    (
        "no-volume",
        "{volumes: [{name: keys, secret: {secretName: keys}}], containers: [{WEB, volumeMounts: [{name: keys, mountPath: /keys}]}]}",
        &["keys"],
    ),
    (
        "no-settings-volume",
        "{volumes: [{name: all, configMap: {name: settings}}], containers: [{WEB, volumeMounts: [{name: all, mountPath: /all}]}]}",
        &["volume", "settings"],
    ),
    (
        "no-directory",
        "{volumes: [{name: host, hostPath: {path: /no/such, type: Directory}}], containers: [{WEB, volumeMounts: [{name: host, mountPath: /host}]}]}",
        &["/no/such"],
    ),
    ("crashes", "containers: [{WEB, command: [/bin/bash, -c, exit 3]}]", &["exited with code 3"]),
    (
        "crashes-with-last-words",
        "containers: [{WEB, command: [/bin/bash, -c, 'echo no database > /dev/termination-log; exit 4']}]",
        &["exited with code 4", "no database"],
    ),
    (
        "ends-by-signal",
        "containers: [{WEB, command: [/bin/bash, -c, '(kill -9 $BASHPID); exit $?']}]",
        &["exited with code 137", "signal 9"],
    ),
    ("ends-well", "containers: [{WEB, command: [/bin/bash, -c, exit 0]}]", &["exited with code 0"]),
    ("no-program", "containers: [{WEB, command: [/no/such]}]", &["/no/such"]),
    ("no-right", "containers: [{WEB, command: [/etc/passwd]}]", &["/etc/passwd"]),
    (
        "over",
        "{restartPolicy: Never, containers: [{WEB, command: [/bin/bash, -c, exit 7]}]}",
        &["failed for good", "code 7"],
    ),
    (
        "too-late",
        "{activeDeadlineSeconds: 1, containers: [{WEB, RUNS}]}",
        &["failed for good", "DeadlineExceeded"],
    ),
    (
        "too-big",
        "containers: [{WEB, resources: {requests: {cpu: 1000}}}]",
        &["fits on no node", "1000 cpu"],
    ),
    (
        "too-fat",
        "containers: [{WEB, resources: {requests: {memory: 9Ti}}}]",
        &["fits on no node", "9216Gi memory"],
    ),
    (
        "too-rare",
        "containers: [{WEB, resources: {requests: {example.com/gpu: 1}, limits: {example.com/gpu: 1}}}]",
        &["fits on no node", "example.com/gpu"],
    ),
    (
        "too-choosy",
        "{nodeSelector: {disk: ssd}, containers: [{WEB}]}",
        &["fits on no node", "node affinity/selector"],
    ),
    (
        "port-taken",
        "containers: [{WEB, RUNS, ports: [{containerPort: 80, hostPort: 8088}]}]",
        &["fits on no node", "free ports"],
    ),
    (
        "prepares-badly",
        "{initContainers: [{name: prepare, image: toolbox, imagePullPolicy: IfNotPresent, command: [/bin/bash, -c, exit 2]}], containers: [{WEB}]}",
        &["prepare", "exited with code 2"],
    ),
    (
        "prepares-for-ever",
        "{initContainers: [{name: prepare, image: toolbox, imagePullPolicy: IfNotPresent, RUNS}], containers: [{WEB}]}",
        &["init container prepare has been running for", "has not ended, and web waits for it"],
    ),
    (
        "prepares-with-nothing",
        "{initContainers: [{name: prepare, image: 'nowhere:3', imagePullPolicy: Never}], containers: [{WEB}]}",
        &["nowhere:3", "prepare"],
    ),
    (
        "sidecar-not-up",
        "{initContainers: [{name: beside, restartPolicy: Always, image: toolbox, imagePullPolicy: IfNotPresent, RUNS, startupProbe: {exec: {command: ['false']}, failureThreshold: 1000, periodSeconds: 1}}], containers: [{WEB}]}",
        &["startup probe of its sidecar beside fails"],
    ),
    (
        "does-not-live",
        "{terminationGracePeriodSeconds: 1, containers: [{WEB, RUNS, livenessProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 1}}]}",
        &["restarted because its liveness probe fails", "printed nothing"],
    ),
    (
        "does-not-come-up",
        "{terminationGracePeriodSeconds: 1, containers: [{WEB, RUNS, startupProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 1}}]}",
        &["restarted because its startup probe fails"],
    ),
    (
        "comes-up-slowly",
        "containers: [{WEB, RUNS, startupProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 1000}}]",
        &["the startup probe of container web fails"],
    ),
    (
        "not-ready-says-why",
        "containers: [{WEB, RUNS, readinessProbe: {exec: {command: [/bin/bash, -c, 'echo cache is cold; exit 1']}, periodSeconds: 1}}]",
        &["readiness probe of container web fails", "cache is cold"],
    ),
    (
        "not-ready-by-path",
        "containers: [{name: web, image: 'kangaroo-backend:1.14.2', readinessProbe: {httpGet: {path: /no/such, port: 80}, periodSeconds: 1}}]",
        &["readiness probe of container web fails", "404"],
    ),
    (
        "not-ready-by-port",
        "containers: [{name: web, image: 'kangaroo-backend:1.14.2', readinessProbe: {tcpSocket: {port: 8081}, periodSeconds: 1}}]",
        &["readiness probe of container web fails", "refused"],
    ),
    (
        "not-admitted",
        "{readinessGates: [{conditionType: example.com/load-balanced}], containers: [{WEB, RUNS}]}",
        &["readiness gate example.com/load-balanced"],
    ),
];

/// Whole manifests; the name is `KIND/NAME`.
const OTHERS: &[Broken] = &[
    (
        "deployment/d-image",
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d-image}, spec: {replicas: 2, selector: {matchLabels: {app: d-image}}, template: {metadata: {labels: {app: d-image}}, spec: {containers: [{name: web, image: 'nowhere:4', imagePullPolicy: Never}]}}}}",
        &["Deployment d-image", "nowhere:4", "0 available"],
    ),
    (
        "deployment/d-crash",
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d-crash}, spec: {selector: {matchLabels: {app: d-crash}}, template: {metadata: {labels: {app: d-crash}}, spec: {containers: [{WEB, command: [/bin/bash, -c, exit 5]}]}}}}",
        &["Deployment d-crash", "exited with code 5"],
    ),
    (
        "deployment/d-stuck",
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d-stuck}, spec: {progressDeadlineSeconds: 1, selector: {matchLabels: {app: d-stuck}}, template: {metadata: {labels: {app: d-stuck}}, spec: {containers: [{WEB, RUNS, readinessProbe: {exec: {command: ['false']}, periodSeconds: 1}}]}}}}",
        &["Deployment d-stuck is stuck", "readiness probe"],
    ),
    (
        "deployment/d-account",
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d-account}, spec: {selector: {matchLabels: {app: d-account}}, template: {metadata: {labels: {app: d-account}}, spec: {serviceAccountName: nobody, containers: [{WEB}]}}}}",
        &["may not create its pods", "nobody"],
    ),
    (
        "deployment/d-paused",
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d-paused}, spec: {paused: true, selector: {matchLabels: {app: d-paused}}, template: {metadata: {labels: {app: d-paused}}, spec: {containers: [{WEB, RUNS}]}}}}",
        &["Deployment d-paused is paused"],
    ),
    (
        "deployment/d-nothing",
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d-nothing}, spec: {replicas: 0, selector: {matchLabels: {app: d-nothing}}, template: {metadata: {labels: {app: d-nothing}}, spec: {containers: [{WEB, RUNS}]}}}}",
        &["Deployment d-nothing is scaled to 0"],
    ),
    (
        "replicaset/rs-image",
        "{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: rs-image}, spec: {selector: {matchLabels: {app: rs-image}}, template: {metadata: {labels: {app: rs-image}}, spec: {containers: [{name: web, image: 'nowhere:5', imagePullPolicy: Never}]}}}}",
        &["ReplicaSet rs-image", "nowhere:5"],
    ),
    (
        "service/nobody",
        "{apiVersion: v1, kind: Service, metadata: {name: nobody}, spec: {selector: {app: nobody}, ports: [{port: 80}]}}",
        &["app=nobody matches none"],
    ),
    (
        "service/other-port",
        "{apiVersion: v1, kind: Service, metadata: {name: other-port}, spec: {selector: {app: d-crash}, ports: [{port: 80, targetPort: http}]}}",
        &["port named http", "none of its 1 pods"],
    ),
    (
        "service/not-ready",
        "{apiVersion: v1, kind: Service, metadata: {name: not-ready}, spec: {selector: {app: d-image}, ports: [{port: 80}]}}",
        &["no ready pod among 2", "nowhere:4"],
    ),
    (
        "horizontalpodautoscaler/nothing-to-scale",
        "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: nothing-to-scale}, spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: no-such}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]}}",
        &["AbleToScale", "no-such"],
    ),
];

fn filled(manifest: &str) -> String {
    let web = "name: web, image: toolbox, imagePullPolicy: IfNotPresent";
    manifest.replace("WEB", web).replace("RUNS", "command: [sleep, inf]")
}

fn pod(name: &str, spec: &str) -> String {
    let spec = if spec.starts_with('{') { spec.to_owned() } else { format!("{{{spec}}}") };
    let spec = filled(&spec);
    format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn the_true_cause_is_named_for_what_is_really_broken() {
    let mut cluster = Cluster::start("why");
    let holder = "containers: [{WEB, RUNS, ports: [{containerPort: 80, hostPort: 8088}]}]";
    cluster.apply(&pod("port-holder", holder)).ok();
    cluster.wait_running("port-holder");
    let mut all: String = PODS.iter().map(|(name, spec, _)| pod(name, spec)).collect();
    all.extend(OTHERS.iter().map(|(_, manifest, _)| format!("---\n{}\n", filled(manifest))));
    cluster.apply(&all).ok();
    // What is there and is to go, but may not.
    let kept = pod("kept", "containers: [{WEB, RUNS}]")
        .replace("{name: kept}", "{name: kept, finalizers: [example.com/keep]}");
    cluster.apply(&kept).ok();
    cluster.kubectl(&["delete", "pod", "kept", "--wait=false"]).ok();
    let kept: Broken = ("pod/kept", "", &["waits for the finalizer example.com/keep"]);

    let pods = PODS.iter().map(|(name, _, words)| (format!("pod/{name}"), *words));
    let others = OTHERS.iter().chain([&kept]).map(|(name, _, words)| ((*name).to_owned(), *words));
    let broken: Vec<(String, &[&str])> = pods.chain(others).collect();
    assert!(broken.len() >= 40, "{}", broken.len());
    let mut missed: Vec<(String, &[&str], String)> =
        broken.iter().map(|(object, words)| (object.clone(), *words, String::new())).collect();
    let end = Instant::now() + PATIENCE + PATIENCE;
    while !missed.is_empty() && Instant::now() < end {
        missed.retain_mut(|(object, words, told)| {
            *told = cluster.joey(&["why", object]).stdout;
            let sentence = told.lines().next().unwrap_or_default();
            let is_named = words.iter().all(|word| sentence.contains(word));
            if is_named {
                println!("{object}: {sentence}");
            }
            !is_named
        });
    }
    println!("the true cause is named of {} of {}", broken.len() - missed.len(), broken.len());
    assert!(missed.is_empty(), "missed: {missed:#?}\n{}", cluster.daemon_log());

    // Scripts see it, too, and that what somebody wants is no fault.
    for (object, code) in [("service/nobody", 1), ("pod/over", 1), ("deployment/d-nothing", 0)] {
        assert_eq!(cluster.joey(&["why", object]).code, code, "{object}");
    }
    let missing = cluster.joey(&["why", "pod/nobody"]).refused();
    assert!(missing.contains("not found"), "{missing}");
    let finalizers = "{\"metadata\":{\"finalizers\":null}}";
    cluster.kubectl(&["patch", "pod", "kept", "--type=merge", "-p", finalizers]).ok();
    cluster.finish();
}
