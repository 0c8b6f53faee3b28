//! What kubectl does with Deployments and ReplicaSets besides rolling: created by hand, refused while paused, scaled,
//! released, adopted; and the strategies that stop first or wait.

use std::collections::BTreeSet;

use crate::cluster::{Cluster, kubectls};

/// Pods of the selector that are not being stopped, by name.
fn pods(cluster: &Cluster, selector: &str) -> BTreeSet<String> {
    let path =
        "jsonpath={range .items[*]}{.metadata.name} {.metadata.deletionTimestamp}{\"\\n\"}{end}";
    let lines = cluster.kubectl(&["get", "pods", "-l", selector, "-o", path]).ok();
    let words = lines.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    words.filter(|words| words.len() == 1).map(|words| words[0].to_owned()).collect()
}

fn demand(text: &str, expected: &[&str]) {
    for words in expected {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
}

#[test]
fn the_commands_of_kubectl_for_deployments_do_what_they_say() {
    let mut cluster = Cluster::start("commands");
    for kubectl in kubectls() {
        cluster.use_kubectl(&kubectl);
        converse(&mut cluster);
        cluster.kubectl(&["delete", "deployment", "web", "--cascade=foreground"]).ok();
    }
    cluster.finish();
}

fn converse(cluster: &mut Cluster) {
    let ok = |cluster: &Cluster, line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        cluster.kubectl(&words).ok().trim().to_owned()
    };
    let refused = |cluster: &Cluster, line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        cluster.kubectl(&words).refused().trim().to_owned()
    };
    let create = "create deployment web --image=kangaroo-backend:1.14.2 --replicas=2 --port=80";
    assert_eq!(ok(cluster, create), "deployment.apps/web created");
    let available = "wait deployment/web --for=condition=Available --timeout=60s";
    assert_eq!(ok(cluster, available), "deployment.apps/web condition met");
    ok(cluster, "rollout status deployment/web --timeout=60s");
    ok(cluster, "set image deployment/web kangaroo-backend=kangaroo-backend:1.15");
    ok(cluster, "rollout status deployment/web --timeout=120s");

    // One revision, shown by kubectl and by joey.
    let shown = ok(cluster, "rollout history deployment/web --revision=1");
    demand(&shown, &["with revision #1", "kangaroo-backend:1.14.2", "app=web"]);
    let ours = cluster.joey(&["rollout", "history", "deployment/web", "--revision=1"]).ok();
    assert_eq!(ours, shown);
    let args = ["rollout", "status", "deployment/web", "--timeout=20s", "--watch=false"];
    demand(&cluster.joey(&args).ok(), &["successfully rolled out"]);
    demand(&refused(cluster, "rollout undo deployment/web --to-revision=9"), &["revision 9"]);
    let undone = ok(cluster, "rollout undo deployment/web --to-revision=1");
    assert_eq!(undone, "deployment.apps/web rolled back");
    ok(cluster, "rollout status deployment/web --timeout=120s");
    let image = "{.spec.template.spec.containers[0].image}";
    assert_eq!(cluster.value("deployment/web", image), "kangaroo-backend:1.14.2");

    // Paused, nothing rolls and nothing says that it did.
    assert_eq!(ok(cluster, "rollout pause deployment/web"), "deployment.apps/web paused");
    let paused = refused(cluster, "rollout pause deployment/web");
    demand(&paused, &["deployments.apps \"web\" is already paused"]);
    demand(&refused(cluster, "rollout undo deployment/web"), &["paused"]);
    demand(&refused(cluster, "rollout restart deployment/web"), &["paused"]);
    for words in ["undo", "restart", "pause"] {
        demand(&cluster.joey(&["rollout", words, "deployment/web"]).refused(), &["paused"]);
    }
    assert_eq!(ok(cluster, "rollout resume deployment/web"), "deployment.apps/web resumed");
    let resumed = refused(cluster, "rollout resume deployment/web");
    demand(&resumed, &["deployments.apps \"web\" is not paused"]);

    // Read, changed, put back; and put back once more, which is a conflict.
    let read = ok(cluster, "get deployment web -o yaml");
    let changed = read.replace("replicas: 2", "replicas: 3");
    let replaced = cluster.kubectl_with(&["replace", "-f", "-"], changed.as_bytes());
    assert_eq!(replaced.ok().trim(), "deployment.apps/web replaced");
    let late = changed.replace("replicas: 3", "replicas: 4");
    let late = cluster.kubectl_with(&["replace", "-f", "-"], late.as_bytes()).refused();
    demand(&late, &["the object has been modified"]);
    ok(cluster, "rollout status deployment/web --timeout=120s");
    assert_eq!(pods(cluster, "app=web").len(), 3);

    // A set that a Deployment controls is scaled only for a moment.
    let path = "jsonpath={.items[?(@.status.replicas>0)].metadata.name}";
    let set = cluster.kubectl(&["get", "rs", "-l", "app=web", "-o", path]).ok();
    ok(cluster, &format!("scale rs/{set} --replicas=1"));
    cluster.wait_for("the Deployment has its number again", |cluster| {
        cluster.value(&format!("rs/{set}"), "{.spec.replicas} {.status.availableReplicas}") == "3 3"
    });
    let described = ok(cluster, &format!("describe rs/{set}"));
    demand(&described, &["Deployment/web", "3 current / 3 desired", "SuccessfulCreate"]);
    demand(&ok(cluster, "describe ns/default"), &["Status:", "Active"]);
    demand(&ok(cluster, "explain rs.spec.minReadySeconds"), &["minReadySeconds <integer>"]);
    demand(&ok(cluster, "explain ns.status.phase"), &["phase <string>"]);
}

const SET: &str = "
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: alone}
spec:
  replicas: 2
  selector: {matchLabels: {app: alone}}
  template:
    metadata: {labels: {app: alone}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: web, image: 'kangaroo-backend:1.14.2'}]
";

#[test]
fn a_set_without_a_deployment_keeps_its_number_and_lets_go_and_takes_back() {
    let mut cluster = Cluster::start("alone");
    let ready = |cluster: &Cluster| cluster.value("rs/alone", "{.status.readyReplicas}");
    cluster.apply(SET).ok();
    cluster.wait_for("two serve", |cluster| ready(cluster) == "2");
    cluster.kubectl(&["scale", "rs/alone", "--replicas=3"]).ok();
    cluster.wait_for("three serve", |cluster| ready(cluster) == "3");
    let three = pods(&cluster, "app=alone");

    // Who is no longer selected is let go, as it is, and replaced.
    let owners = "{.metadata.ownerReferences[*].name}";
    let gone = format!("pod/{}", three.first().expect("three serve"));
    let uid = cluster.value(&gone, "{.metadata.uid}");
    cluster.kubectl(&["label", &gone, "app=astray", "--overwrite"]).ok();
    cluster.wait_for("another serves for it", |cluster| {
        pods(cluster, "app=alone").len() == 3
            && ready(cluster) == "3"
            && cluster.value(&gone, owners).is_empty()
    });
    assert_eq!(pods(&cluster, "app=alone").intersection(&three).count(), 2, "the others stay");
    assert_eq!(cluster.value(&gone, "{.metadata.uid}"), uid);

    // Who is selected again is taken back; then there is one too many.
    cluster.kubectl(&["label", &gone, "app=alone", "--overwrite"]).ok();
    cluster.wait_for("three are left", |cluster| {
        let left = pods(cluster, "app=alone");
        left.len() == 3
            && left.iter().all(|pod| cluster.value(&format!("pod/{pod}"), owners) == "alone")
    });

    // Orphans stay as they are, and a set that selects them takes them as its own.
    let before = pods(&cluster, "app=alone");
    cluster.kubectl(&["delete", "rs/alone", "--cascade=orphan"]).ok();
    cluster.wait_for("nobody owns them", |cluster| {
        before.iter().all(|pod| cluster.value(&format!("pod/{pod}"), owners).is_empty())
    });
    assert_eq!(pods(&cluster, "app=alone"), before);
    cluster.apply(&SET.replace("replicas: 2", "replicas: 3")).ok();
    cluster.wait_for("the new set counts them", |cluster| ready(cluster) == "3");
    assert_eq!(pods(&cluster, "app=alone"), before, "adopted, not replaced");
    cluster.kubectl(&["delete", "rs/alone"]).ok();
    cluster.wait_for("they go with it", |cluster| pods(cluster, "app=alone").is_empty());
    cluster.finish();
}

/// Takes two seconds to end.
const SLOW: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: slow}
spec:
  replicas: 2
  minReadySeconds: 3
  strategy: {type: Recreate}
  selector: {matchLabels: {app: slow}}
  template:
    metadata: {labels: {app: slow}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: main
        image: toolbox
        imagePullPolicy: IfNotPresent
        env: [{name: VERSION, value: first}]
        command: [/bin/bash, -c, \"trap 'sleep 2; exit 0' TERM; while true; do sleep 0.1; done\"]
";

#[test]
fn recreate_stops_every_old_pod_first_and_a_new_one_counts_only_after_its_probation() {
    let mut cluster = Cluster::start("recreate");
    cluster.apply(SLOW).ok();
    cluster.kubectl(&["rollout", "status", "deployment/slow", "--timeout=120s"]).ok();
    demand_probation(&cluster);
    let old = pods(&cluster, "app=slow");
    cluster.kubectl(&["set", "env", "deployment/slow", "VERSION=second"]).ok();
    let mut leaving = 0;
    cluster.wait_for("only new ones are there", |cluster| {
        let path = "jsonpath={range .items[*]}{.spec.containers[0].env[0].value} {end}";
        let versions = cluster.kubectl(&["get", "pods", "-l", "app=slow", "-o", path]).ok();
        let kinds: BTreeSet<&str> = versions.split_whitespace().collect();
        assert!(kinds.len() <= 1, "old and new at once: {versions}");
        leaving += usize::from(kinds.contains("first") && pods(cluster, "app=slow").is_empty());
        kinds.contains("second") && versions.split_whitespace().count() == 2
    });
    assert!(leaving > 0, "the old ones were never seen on their way out");
    cluster.kubectl(&["rollout", "status", "deployment/slow", "--timeout=120s"]).ok();
    demand_probation(&cluster);
    assert!(pods(&cluster, "app=slow").is_disjoint(&old));
    cluster.finish();
}

/// From the moments that the API tells: available is nobody who has not been ready for three seconds.
fn demand_probation(cluster: &Cluster) {
    let moment = |text: &str| -> joey::model::time::Timestamp {
        text.parse().unwrap_or_else(|error| panic!("{text:?} is no time: {error}"))
    };
    let of = |kind: &str| format!("{{.status.conditions[?(@.type=='{kind}')].lastTransitionTime}}");
    let available = moment(&cluster.value("deployment/slow", &of("Available")));
    for pod in pods(cluster, "app=slow") {
        let ready = moment(&cluster.value(&format!("pod/{pod}"), &of("Ready")));
        let span = available.since(ready).as_secs();
        assert!(span >= 3, "{pod} was ready for {span} s when the Deployment was available");
    }
}
