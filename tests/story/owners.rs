//! What goes with what: owners and dependents, and namespaces with everything in them.

use crate::cluster::Cluster;

fn config_map(namespace: &str, name: &str, metadata: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}, {metadata}}}\n"
    )
}

fn owned_by(name: &str, uid: &str, more: &str) -> String {
    format!(
        "ownerReferences: [{{apiVersion: v1, kind: ConfigMap, name: {name}, uid: {uid}{more}}}]"
    )
}

fn exists(cluster: &Cluster, namespace: &str, object: &str) -> bool {
    let args = ["get", "-n", namespace, object, "--ignore-not-found", "-o", "name"];
    !cluster.kubectl(&args).ok().is_empty()
}

#[test]
fn who_has_lost_every_owner_goes_and_nobody_else_does() {
    let mut cluster = Cluster::start("owners");
    cluster.kubectl(&["create", "namespace", "other"]).ok();
    let owners = ["owner", "second"].map(|name| config_map("default", name, "")).concat();
    cluster.apply(&(owners + &config_map("other", "stranger", ""))).ok();
    let uid = |cluster: &Cluster, namespace: &str, name: &str| {
        let args = ["get", "configmap", name, "-n", namespace, "-o", "jsonpath={.metadata.uid}"];
        cluster.kubectl(&args).ok()
    };
    let [owner, second, stranger] =
        [("default", "owner"), ("default", "second"), ("other", "stranger")]
            .map(|(namespace, name)| uid(&cluster, namespace, name));
    let both = format!(
        "ownerReferences: [{{apiVersion: v1, kind: ConfigMap, name: owner, uid: {owner}}}, {{apiVersion: v1, kind: ConfigMap, name: second, uid: {second}}}]"
    );
    let nobody = "00000000-0000-4000-8000-000000000000";
    for (name, metadata) in [
        ("only", owned_by("owner", &owner, "")),
        ("shared", both),
        // Neither was ever there, nor is another of the name it.
        ("dangling", owned_by("nobody", nobody, "")),
        ("of-a-namesake", owned_by("owner", nobody, "")),
        // It exists, but not here.
        ("crossing", owned_by("stranger", &stranger, "")),
    ] {
        cluster.apply(&config_map("default", name, &metadata)).ok();
    }
    cluster.wait_for("those without an owner go", |cluster| {
        ["dangling", "of-a-namesake", "crossing"]
            .iter()
            .all(|name| !exists(cluster, "default", &format!("configmap/{name}")))
    });
    cluster.wait_for("the crossing reference is told", |cluster| {
        let events = cluster.kubectl(&["get", "events", "-o", "wide"]).stdout;
        events.contains("OwnerRefInvalidNamespace") && events.contains("configmap/crossing")
    });
    assert!(exists(&cluster, "other", "configmap/stranger"));
    for name in ["only", "shared"] {
        assert!(exists(&cluster, "default", &format!("configmap/{name}")));
    }
    cluster.kubectl(&["delete", "configmap", "owner"]).ok();
    cluster.wait_for("its only dependent goes", |cluster| {
        !exists(cluster, "default", "configmap/only")
    });
    cluster.wait_for("the shared one is the second's alone", |cluster| {
        cluster.value("configmap/shared", "{.metadata.ownerReferences[*].name}") == "second"
    });
    // In the foreground the owner is there until its dependent lets go.
    let held = owned_by("second", &second, ", blockOwnerDeletion: true");
    let held = format!("finalizers: [example.com/hold], {held}");
    cluster.apply(&config_map("default", "held", &held)).ok();
    cluster
        .kubectl(&["delete", "configmap", "second", "--cascade=foreground", "--wait=false"])
        .ok();
    cluster.wait_for("the dependent is being deleted", |cluster| {
        !cluster.value("configmap/held", "{.metadata.deletionTimestamp}").is_empty()
            && !exists(cluster, "default", "configmap/shared")
    });
    let waits = cluster.value("configmap/second", "{.metadata.finalizers[*]}");
    assert_eq!(waits, "foregroundDeletion");
    let release = "{\"metadata\": {\"finalizers\": null}}";
    cluster.kubectl(&["patch", "configmap", "held", "--type=merge", "-p", release]).ok();
    cluster.wait_for("both go", |cluster| {
        !exists(cluster, "default", "configmap/held")
            && !exists(cluster, "default", "configmap/second")
    });
    cluster.finish();
}

#[test]
fn a_namespace_goes_when_its_last_object_lets_go_and_says_what_it_waits_for() {
    let mut cluster = Cluster::start("terminating");
    cluster.kubectl(&["create", "namespace", "team"]).ok();
    cluster.apply(&config_map("team", "held", "finalizers: [example.com/hold]")).ok();
    cluster
        .apply(
            "---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: team}
spec:
  containers: [{name: web, image: 'kangaroo-backend:1.14.2'}]
",
        )
        .ok();
    cluster
        .kubectl(&["wait", "-n", "team", "pod/web", "--for=condition=Ready", "--timeout=60s"])
        .ok();
    cluster.kubectl(&["delete", "namespace", "team", "--wait=false"]).ok();
    let shown = cluster.kubectl(&["get", "namespace", "team", "--no-headers"]).ok();
    assert!(shown.contains("Terminating"), "{shown}");
    let late = cluster.apply(&config_map("team", "late", "")).refused();
    assert!(late.contains("because it is being terminated"), "{late}");
    let message = |cluster: &Cluster, kind: &str| {
        let path = format!("{{.status.conditions[?(@.type=='{kind}')].message}}");
        cluster.value("namespace/team", &path)
    };
    cluster.wait_for("it says what it waits for", |cluster| {
        message(cluster, "NamespaceContentRemaining")
            == "Some resources are remaining: configmaps. has 1 resource instances"
            && message(cluster, "NamespaceFinalizersRemaining")
                == "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
    });
    assert!(!exists(&cluster, "team", "pod/web"), "pods have gone first");
    let types = cluster.value("namespace/team", "{.status.conditions[*].type}");
    assert_eq!(
        types,
        "NamespaceDeletionDiscoveryFailure NamespaceDeletionGroupVersionParsingFailure NamespaceDeletionContentFailure NamespaceContentRemaining NamespaceFinalizersRemaining"
    );
    let release = "{\"metadata\": {\"finalizers\": null}}";
    cluster
        .kubectl(&["patch", "-n", "team", "configmap", "held", "--type=merge", "-p", release])
        .ok();
    cluster.wait_for("it goes", |cluster| {
        cluster.kubectl(&["get", "namespace", "team", "--ignore-not-found"]).ok().is_empty()
    });
    cluster.finish();
}

/// Does not end when it is asked to, only when its grace is over.
const STUBBORN: &str = "
---
apiVersion: v1
kind: Pod
metadata: {name: stubborn, namespace: team, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 8
  containers:
  - name: main
    image: toolbox
    imagePullPolicy: IfNotPresent
    command: [/bin/bash, -c, \"trap '' TERM; while true; do sleep 0.1; done\"]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: team}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
";

#[test]
fn in_a_namespace_that_goes_what_protects_a_pod_stays_as_long_as_the_pod() {
    let mut cluster = Cluster::start("protected");
    cluster.kubectl(&["create", "namespace", "team"]).ok();
    cluster.apply(STUBBORN).ok();
    cluster
        .kubectl(&["wait", "-n", "team", "pod/stubborn", "--for=condition=Ready", "--timeout=60s"])
        .ok();
    cluster.kubectl(&["delete", "namespace", "team", "--wait=false"]).ok();
    let mut protected = 0;
    cluster.wait_for("the pod has gone", |cluster| {
        // In this order: a policy that is missed now, of a pod that is there later, went first.
        let policy = exists(cluster, "team", "networkpolicy/deny");
        let args = ["get", "pod", "stubborn", "-n", "team", "--ignore-not-found", "-o"];
        let path = "jsonpath={.metadata.name} {.metadata.deletionTimestamp}";
        let pod = cluster.kubectl(&[&args[..], &[path]].concat()).ok();
        assert!(policy || pod.is_empty(), "the policy has gone before the pod: {pod}");
        protected += usize::from(policy && pod.split_whitespace().count() == 2);
        pod.is_empty()
    });
    assert!(protected > 0, "the pod was never seen on its way out");
    cluster.wait_for("the namespace goes", |cluster| {
        cluster.kubectl(&["get", "namespace", "team", "--ignore-not-found"]).ok().is_empty()
    });
    cluster.finish();
}
