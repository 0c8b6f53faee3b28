//! "Without downtime", counted: no request is lost while versions roll and replicas come and go.
//!
//! The manifest is the story's: no preStop hook, no probe, no readiness gate.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use crate::census::{Census, Extremes};
use crate::cluster::Cluster;
use crate::deployment::{DEPLOYMENT, NAME, SELECTOR, roll_out};
use crate::load::{Aim, CLIENTS, Count, Failed, Load};
use crate::service::{SERVICE, TOOLS};

pub fn is_long() -> bool {
    std::env::var_os("JOEY_TEST_LONG").is_some_and(|value| value == "1")
}

fn deploy(name: &str) -> Cluster {
    let cluster = Cluster::start(name);
    cluster.apply(DEPLOYMENT).ok();
    roll_out(&cluster);
    cluster
}

/// The pods' Service, from within a pod.
fn through_the_service(cluster: &mut Cluster) -> Aim {
    cluster.apply(SERVICE).ok();
    cluster.apply(TOOLS).ok();
    cluster.wait_running("tools");
    let address = cluster.value("service/kangaroo-backend", "{.spec.clusterIP}");
    let address: SocketAddr = format!("{address}:8080").parse().expect("an address");
    cluster.wait_for("the Service leads to pods", |cluster| {
        cluster.fetch(&format!("http://{address}/")).code == 0
    });
    let uid = cluster.value("pod/tools", "{.metadata.uid}");
    Aim::Service { address, netns: cluster.run_dir().join("netns").join(uid) }
}

/// Rolls to both newer versions, and up and down, under load.
fn drive(cluster: &mut Cluster, aim: &Aim) -> Count {
    let follows = matches!(aim, Aim::ReadyPods { .. });
    let load = Load::start(cluster, aim);
    let census = Census::start(cluster, SELECTOR);
    cluster.wait_for("the load knows whom to ask", |_| load.knows() == if follows { 3 } else { 1 });
    for _ in 0..if is_long() { 10 } else { 1 } {
        for (step, change) in [
            ("1.15", vec!["set", "image", NAME, "kangaroo-backend=kangaroo-backend:1.15"]),
            ("1.16", vec!["set", "image", NAME, "kangaroo-backend=kangaroo-backend:1.16"]),
            ("ten replicas", vec!["scale", NAME, "--replicas=10"]),
            ("two replicas", vec!["scale", NAME, "--replicas=2"]),
            ("three replicas", vec!["scale", NAME, "--replicas=3"]),
            ("1.14.2", vec!["set", "image", NAME, "kangaroo-backend=kangaroo-backend:1.14.2"]),
        ] {
            let before = load.answered();
            cluster.kubectl(&change).ok();
            roll_out(cluster);
            cluster.wait_for(&format!("what left for {step} has gone, under load"), |cluster| {
                let args = ["get", "pods", "-l", SELECTOR, "-o", "name"];
                let there = cluster.kubectl(&args).ok().lines().count();
                let known = if follows { load.knows() } else { there };
                let wanted = cluster.value(NAME, "{.spec.replicas}");
                [there, known].map(|count| count.to_string()) == [wanted.clone(), wanted]
                    && load.answered() > before + 100
            });
            let since = census.catch_up(cluster);
            if step.starts_with('1') {
                // A quarter of three, rounded up and down: one is ready before another is stopped.
                assert!(since.most <= 4 && since.fewest_ready >= 3, "{step}: {since:?}");
            } else {
                assert!(since.most <= 10 && since.fewest_ready >= 2, "{step}: {since:?}");
            }
        }
    }
    load.end()
}

#[test]
fn who_follows_the_ready_pods_loses_no_request() {
    let mut cluster = deploy("lossless-pods");
    let aim = Aim::ReadyPods { selector: SELECTOR, port: 80 };
    drive(&mut cluster, &aim).demand_no_loss("by the pods' own addresses");
    cluster.finish();
}

#[test]
fn who_knows_only_the_service_loses_no_request() {
    let mut cluster = deploy("lossless-service");
    let aim = through_the_service(&mut cluster);
    drive(&mut cluster, &aim).demand_no_loss("by the Service's address, within a pod");
    cluster.finish();
}

#[test]
fn with_a_pre_stop_hook_no_request_is_lost_either() {
    let mut cluster = Cluster::start("lossless-hook");
    let hook = "- name: kangaroo-backend\n        lifecycle: {preStop: {sleep: {seconds: 2}}}";
    cluster.apply(&DEPLOYMENT.replace("- name: kangaroo-backend", hook)).ok();
    roll_out(&cluster);
    let aim = through_the_service(&mut cluster);
    let load = Load::start(&cluster, &aim);
    cluster.wait_for("there is load", |_| load.answered() > 100);
    let before = load.answered();
    let image = "kangaroo-backend=kangaroo-backend:1.15";
    cluster.kubectl(&["set", "image", NAME, image]).ok();
    roll_out(&cluster);
    cluster.wait_for("the old ones have gone, under load", |cluster| {
        let args = ["get", "pods", "-l", SELECTOR, "-o", "name"];
        cluster.kubectl(&args).ok().lines().count() == 3 && load.answered() > before + 200
    });
    load.end().demand_no_loss("with a preStop hook");
    cluster.finish();
}

/// Edits as somebody with an editor does.
fn edit(cluster: &Cluster, script: &str) {
    let mut command = cluster.kubectl_command();
    command.args(["edit", NAME]).env("KUBE_EDITOR", format!("sed -i {script}"));
    assert!(command.output().expect("kubectl can run").status.success());
}

#[test]
fn a_version_that_cannot_start_costs_no_request_and_neither_does_its_undoing() {
    let mut cluster = deploy("lossless-undo");
    let aim = through_the_service(&mut cluster);
    let load = Load::start(&cluster, &aim);
    let census = Census::start(&mut cluster, SELECTOR);
    let deadline = "{\"spec\": {\"progressDeadlineSeconds\": 5}}";
    cluster.kubectl(&["patch", NAME, "-p", deadline]).ok();
    edit(&cluster, "s/kangaroo-backend:1.14.2/kangaroo-backend:1.99/");
    cluster.wait_for("it is said at what the rollout hangs", |cluster| {
        let said = cluster.joey(&["why", NAME]).stdout;
        let sentence = said.lines().next().unwrap_or_default();
        sentence.contains("1.99") && sentence.contains("3 pods of the version before still serve")
    });
    let late = cluster.kubectl(&["rollout", "status", NAME, "--timeout=120s"]).refused();
    assert!(late.contains("exceeded its progress deadline"), "{late}");
    let before = load.answered();
    cluster.wait_for("the old pods serve on", |_| load.answered() > before + 200);
    cluster.kubectl(&["rollout", "undo", NAME]).ok();
    roll_out(&cluster);
    cluster.wait_for("the pod of the bad version has gone", |cluster| {
        let args = ["get", "pods", "-l", SELECTOR, "-o", "name"];
        cluster.kubectl(&args).ok().lines().count() == 3
    });
    let all = census.catch_up(&mut cluster);
    assert_eq!(all, Extremes { most: 4, fewest_ready: 3 }, "one new, and no old one less");
    load.end().demand_no_loss("through a bad version and back");
    cluster.finish();
}

#[test]
fn a_crash_costs_what_was_under_way_to_the_dead_pod_and_nothing_else() {
    let mut cluster = deploy("lossless-crash");
    let aim = through_the_service(&mut cluster);
    let victim = cluster.kubectl(&["get", "pods", "-l", SELECTOR, "-o", "name"]).ok();
    let victim = victim.lines().next().expect("three pods serve").to_owned();
    let address = cluster.value(&victim, "{.status.podIP}");
    let is_ready = |cluster: &Cluster| {
        cluster.value(&victim, "{.status.conditions[?(@.type=='Ready')].status}") == "True"
    };
    // The first crash is made good at once; from the second on there is a back-off in which two have to serve for three.
    cluster.fetch(&format!("http://{address}/crash")).refused();
    let restarts = "{.status.containerStatuses[0].restartCount}";
    cluster.wait_for("it is back after its first crash", |cluster| {
        cluster.value(&victim, restarts) == "1" && is_ready(cluster)
    });
    let load = Load::start(&cluster, &aim);
    cluster.wait_for("there is load", |_| load.answered() > 100);
    let crash = Instant::now();
    cluster.fetch(&format!("http://{address}/crash?code=7")).refused();
    // Its end has closed that connection, and every other.
    let dead = Instant::now();
    cluster.wait_for("the others know", |cluster| {
        let path = "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}";
        let select = "kubernetes.io/service-name=kangaroo-backend";
        let ready = cluster.kubectl(&["get", "endpointslices", "-l", select, "-o", path]).ok();
        !ready.split_whitespace().any(|ready| ready == address)
    });
    let before = load.answered();
    cluster.wait_for("two serve for three", |_| load.answered() > before + 500);
    let why = cluster.joey(&["why", &victim]).stdout;
    assert!(why.contains("exited with code 7"), "{why}");
    let last = "{.status.containerStatuses[0].lastState.terminated.exitCode}";
    assert_eq!(cluster.value(&victim, last), "7");
    cluster.wait_for("it is back after its back-off", |cluster| {
        cluster.value(&victim, restarts) == "2" && is_ready(cluster)
    });
    let before = load.answered();
    cluster.wait_for("three serve again", |_| load.answered() > before + 200);
    let count = load.end();
    let spans: Vec<String> = count
        .failed
        .iter()
        .map(|failed| {
            let after = failed.begun.saturating_duration_since(crash);
            format!(
                "client {} to {}, begun {after:?} after the crash: {}",
                failed.client, failed.address, failed.why
            )
        })
        .collect();
    println!(
        "a crash under load: {} answered, {} repeated on kept connections; under way to the dead pod: {} of {CLIENTS} at most {spans:#?}",
        count.answered,
        count.repeated,
        count.failed.len()
    );
    let refused = |failed: &Failed| failed.why.contains("refused");
    assert!(!count.failed.iter().any(refused), "new connections were refused: {spans:#?}");
    assert!(count.failed.iter().all(|failed| failed.begun < dead), "lost afterwards: {spans:#?}");
    // Nobody has two requests under way at a time.
    let unlucky: BTreeSet<usize> = count.failed.iter().map(|failed| failed.client).collect();
    assert_eq!(unlucky.len(), count.failed.len(), "somebody lost two: {spans:#?}");
    cluster.finish();
}
