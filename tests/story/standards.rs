//! Namespaces that hold their pods to a Pod Security Standard.

use crate::cluster::Cluster;

const NAMESPACE: &str = "
apiVersion: v1
kind: Namespace
metadata:
  name: team
  labels:
    pod-security.kubernetes.io/enforce: restricted
    pod-security.kubernetes.io/warn: restricted
---
";

fn deployment(name: &str, of_pod: &str, of_container: &str) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: team}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      securityContext: {{{of_pod}}}
      containers:
      - name: web
        image: toolbox
        imagePullPolicy: IfNotPresent
        command: [sleep, '1000']
        securityContext: {{{of_container}}}
---
"
    )
}

#[test]
fn a_restricted_namespace_runs_restricted_pods_and_says_what_others_lack() {
    let mut cluster = Cluster::start("standards");
    let loose = deployment("loose", "", "");
    let tight = deployment(
        "tight",
        "runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}",
        "allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}",
    );
    let applied = cluster.apply(&format!("{NAMESPACE}{loose}{tight}"));
    assert_eq!(applied.code, 0, "{}", applied.stderr);
    let warned: Vec<&str> = applied.stderr.lines().collect();
    assert_eq!(
        warned,
        [
            "Warning: would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"web\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"web\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"web\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"web\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        ]
    );
    cluster.kubectl(&["-n", "team", "rollout", "status", "deployment/tight", "--timeout=60s"]).ok();
    cluster.wait_for("the refusal is told", |cluster| {
        let events = cluster.kubectl(&["-n", "team", "get", "events"]).stdout;
        events.lines().any(|line| {
            let name = line.split("pods \"").nth(1).and_then(|rest| rest.split('"').next());
            // The deployment's name, the replica set's part and the pod's own.
            let parts = name.into_iter().flat_map(|name| name.split('-'));
            parts.filter(|part| !part.is_empty()).count() == 3
                && line.contains("FailedCreate")
                && line.contains("violates PodSecurity \"restricted:latest\"")
        })
    });
    let pods = cluster.kubectl(&["-n", "team", "get", "pods", "-o", "name"]).ok();
    assert!(pods.trim().lines().all(|pod| pod.starts_with("pod/tight-")), "{pods}");
    let why = cluster.joey(&["why", "deployment/loose", "-n", "team"]).stdout;
    assert!(why.contains("violates PodSecurity"), "{why}");
    cluster.finish();
}
