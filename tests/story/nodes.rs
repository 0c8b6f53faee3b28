//! "What if I choose the node myself, or want it emptied?"

use crate::cluster::Cluster;
use crate::service::TOOLS;

fn pod(name: &str, more: &str) -> String {
    let body = TOOLS.replace("{name: tools}", &format!("{{name: {name}}}"));
    body.replace("spec:\n", &format!("spec:\n  terminationGracePeriodSeconds: 0\n{more}"))
}

const TOLERANT: &str = "  tolerations: [{key: repair, operator: Exists, effect: NoExecute}]\n";
const FOR_AN_HOUR: &str = "  tolerations: [{key: repair, operator: Exists, effect: NoExecute, tolerationSeconds: 3600}]\n";
const FOR_A_MOMENT: &str =
    "  tolerations: [{key: repair, operator: Exists, effect: NoExecute, tolerationSeconds: 1}]\n";

#[test]
fn a_pod_that_a_user_puts_on_a_full_node_fails_as_under_kubelet() {
    let mut cluster = Cluster::start("node-name");
    let node = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).ok();
    let big = pod("big", &format!("  nodeName: {node}\n")).replace(
        "    image: toolbox\n",
        "    image: toolbox\n    resources: {requests: {cpu: 5k}}\n",
    );
    cluster.apply(&big).ok();
    cluster.wait_for("it is rejected", |cluster| {
        let row = cluster.kubectl(&["get", "pod", "big", "--no-headers"]).stdout;
        row.split_whitespace().nth(2) == Some("OutOfcpu")
    });
    let described = cluster.kubectl(&["describe", "pod", "big"]).ok();
    let why = "Node didn't have enough resource: cpu, requested: 5000000, used: 0, capacity: ";
    assert!(described.contains(&format!("Pod was rejected: {why}")), "{described}");
    cluster.wait_for("an Event tells it", |cluster| {
        let events = cluster.kubectl(&["get", "events", "--no-headers"]).stdout;
        events.lines().any(|line| line.contains("OutOfcpu") && line.contains(why))
    });
    cluster.kubectl(&["delete", "pod", "big"]).ok();
    cluster.finish();
}

#[test]
fn a_pod_of_a_node_that_does_not_exist_can_be_deleted() {
    let mut cluster = Cluster::start("no-node");
    let node = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).ok();
    cluster.apply(&(pod("lost", "  nodeName: elsewhere\n") + &pod("here", ""))).ok();
    cluster.wait_running("here");
    let rows = cluster.kubectl(&["get", "pods", "--no-headers"]).ok();
    assert!(rows.lines().any(|row| row.starts_with("lost ") && row.contains("Pending")), "{rows}");
    cluster.kubectl(&["delete", "pod", "lost"]).ok();
    let left = cluster.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}"]).ok();
    assert_eq!(left, node);
    cluster.finish();
}

#[test]
fn a_taint_empties_the_node_of_those_who_do_not_tolerate_it() {
    let mut cluster = Cluster::start("taints");
    let node = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).ok();
    let all = pod("stays", TOLERANT) + &pod("goes", "") + &pod("spared", FOR_AN_HOUR);
    cluster.apply(&(all + &pod("follows", FOR_A_MOMENT))).ok();
    for name in ["stays", "goes", "spared", "follows"] {
        cluster.wait_running(name);
    }
    let uid = cluster.value("pod/stays", "{.metadata.uid}");
    cluster.kubectl(&["taint", "node", &node, "repair=now:NoExecute"]).ok();
    cluster.wait_for("two are gone", |cluster| {
        cluster.kubectl(&["get", "pods", "-o", "name"]).ok().lines().count() == 2
    });
    let left = cluster.kubectl(&["get", "pods", "-o", "name"]).ok();
    assert_eq!(left.lines().collect::<Vec<_>>(), ["pod/spared", "pod/stays"]);
    let told = |cluster: &Cluster, message: &str| {
        let events = cluster.kubectl(&["get", "events", "--no-headers"]).stdout;
        let is_it = |line: &&str| line.contains("TaintManagerEviction") && line.ends_with(message);
        events.lines().filter(is_it).count()
    };
    cluster.wait_for("Events tell it", |cluster| {
        ["goes", "follows"]
            .iter()
            .all(|name| told(cluster, &format!("Marking for deletion Pod default/{name}")) == 1)
    });
    // Nobody new, and why.
    cluster.apply(&pod("goes", "")).ok();
    let message = "{.status.conditions[?(@.type=='PodScheduled')].message}";
    cluster.wait_for("it waits", |cluster| {
        cluster.value("pod/goes", message).contains("1 node(s) had untolerated taint {repair: now}")
    });
    cluster.kubectl(&["taint", "node", &node, "repair-"]).ok();
    cluster.wait_running("goes");
    cluster.wait_for("who was to go may stay", |cluster| {
        told(cluster, "Cancelling deletion of Pod default/spared") == 1
    });
    assert_eq!(cluster.value("pod/stays", "{.metadata.uid}"), uid);
    cluster.kubectl(&["delete", "pods", "--all"]).ok();
    cluster.finish();
}

#[test]
fn a_node_is_drained_by_asking_its_pods_to_leave() {
    let cluster = Cluster::start("drain");
    let node = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).ok();
    cluster.apply(&pod("alone", "")).ok();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/alone", "--timeout=60s"]).ok();
    let refused = cluster.kubectl(&["drain", &node, "--timeout=60s"]);
    assert!(refused.stderr.contains("declare no controller"), "{}", refused.stderr);
    let drained = cluster.kubectl(&["drain", &node, "--force", "--timeout=60s"]).ok();
    assert!(drained.contains("evicting pod default/alone"), "{drained}");
    assert!(drained.contains("pod/alone evicted"), "{drained}");
    let shown = cluster.kubectl(&["get", "nodes", "--no-headers"]).ok();
    assert!(shown.contains("SchedulingDisabled"), "{shown}");
    cluster.kubectl(&["uncordon", &node]).ok();
    cluster.finish();
}

#[test]
fn a_node_that_somebody_deleted_is_back_and_takes_pods_while_the_others_run_on() {
    let mut cluster = Cluster::start("node-deleted");
    let node = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).ok();
    let uid = |cluster: &Cluster| cluster.value("node", "{.items[0].metadata.uid}");
    let first = uid(&cluster);
    cluster.apply(&pod("before", "")).ok();
    cluster.wait_running("before");
    cluster.kubectl(&["delete", "node", &node]).ok();
    cluster.apply(&pod("after", "")).ok();
    cluster.wait_running("after");
    assert_ne!(uid(&cluster), first);
    cluster.kubectl(&["wait", "node", &node, "--for=condition=Ready", "--timeout=30s"]).ok();
    let restarts = "jsonpath={.status.phase} {.status.containerStatuses[0].restartCount}";
    assert_eq!(cluster.kubectl(&["get", "pod", "before", "-o", restarts]).ok(), "Running 0");
    // What drain asks for is served, and counts.
    let drained = cluster.kubectl(&["drain", &node, "--force", "--delete-emptydir-data"]).ok();
    assert!(drained.contains("pod/before evicted"), "{drained}");
    assert_eq!(cluster.kubectl(&["get", "pods", "-o", "name"]).ok(), "");
    cluster.finish();
}
