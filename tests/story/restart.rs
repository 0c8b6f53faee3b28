//! "I want my container to restart when it crashes", and the daemon that dies beside it.

use crate::cluster::Cluster;
use crate::pod::POD;

#[test]
fn a_crash_is_restarted_and_remembered() {
    let mut cluster = Cluster::start("crash");
    cluster.apply(POD).ok();
    cluster.wait_running("kangaroo-backend");
    let address = cluster.value("pod/kangaroo-backend", "{.status.podIP}");
    // The server dies before it answers.
    cluster.fetch(&format!("http://{address}/crash?code=3"));
    cluster.wait_for("one restart is counted", |cluster| {
        cluster.value("pod/kangaroo-backend", "{.status.containerStatuses[0].restartCount}") == "1"
    });
    cluster.wait_running("kangaroo-backend");
    let last = "{.status.containerStatuses[0].lastState.terminated.exitCode}";
    assert_eq!(cluster.value("pod/kangaroo-backend", last), "3");
    assert_eq!(cluster.value("pod/kangaroo-backend", "{.status.podIP}"), address);
    let previous = cluster.kubectl(&["logs", "--previous", "kangaroo-backend"]).ok();
    assert!(previous.contains("/crash"), "{previous}");
    cluster.finish();
}

#[test]
fn restart_policies_decide_what_an_exit_means() {
    let mut cluster = Cluster::start("policies");
    let cases = [
        ("never-0", "Never", 0, "Succeeded", "0"),
        ("never-1", "Never", 1, "Failed", "0"),
        ("onfailure-0", "OnFailure", 0, "Succeeded", "0"),
    ];
    for (name, policy, code, _, _) in cases {
        let image = "--image=toolbox";
        let restart = format!("--restart={policy}");
        let script = format!("exit {code}");
        let pull = "--image-pull-policy=IfNotPresent";
        cluster
            .kubectl(&["run", name, image, pull, &restart, "--", "/bin/bash", "-c", &script])
            .ok();
    }
    for (name, _, _, phase, restarts) in cases {
        let object = format!("pod/{name}");
        cluster.wait_for(&format!("{name} is {phase}"), |cluster| {
            cluster.value(&object, "{.status.phase}") == phase
        });
        assert_eq!(cluster.value(&object, "{.status.containerStatuses[0].restartCount}"), restarts);
    }
    let image = "--image=toolbox";
    let pull = "--image-pull-policy=IfNotPresent";
    cluster.kubectl(&["run", "always", image, pull, "--", "/bin/bash", "-c", "exit 0"]).ok();
    cluster.wait_for("the second crash backs off", |cluster| {
        cluster.value("pod/always", "{.status.containerStatuses[0].state.waiting.reason}")
            == "CrashLoopBackOff"
    });
    let row = cluster.kubectl(&["get", "pod", "always", "--no-headers"]).ok();
    assert!(row.contains("CrashLoopBackOff"), "{row}");
    cluster.finish();
}

/// Fails once, then works: the volume remembers.
const ON_FAILURE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: second-try}
spec:
  restartPolicy: OnFailure
  volumes: [{name: memory, emptyDir: {}}]
  containers:
  - name: main
    image: toolbox
    imagePullPolicy: IfNotPresent
    volumeMounts: [{name: memory, mountPath: /memory}]
    command: [/bin/bash, -c, '[ -e /memory/tried ] && exit 0; touch /memory/tried; exit 3']
";

#[test]
fn on_failure_tries_again_until_it_works() {
    let mut cluster = Cluster::start("second-try");
    cluster.apply(ON_FAILURE).ok();
    cluster.wait_for("it has worked", |cluster| {
        cluster.value("pod/second-try", "{.status.phase}") == "Succeeded"
    });
    let codes = "{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].lastState.terminated.exitCode} {.status.containerStatuses[0].state.terminated.exitCode}";
    assert_eq!(cluster.value("pod/second-try", codes), "1 3 0");
    cluster.finish();
}

#[test]
fn how_a_pod_ended_that_was_told_to_is_recorded() {
    let mut cluster = Cluster::start("told");
    let cases =
        [("obeys", "exit 0", "0"), ("as-a-shell-would", "exit 143", "143"), ("ignores", "", "137")];
    for (name, answer, _) in cases {
        let script = format!("trap '{answer}' TERM; echo up; while true; do sleep 0.1; done");
        cluster
            .apply(&format!(
                "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, finalizers: [example.com/hold]}}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - name: main
    image: toolbox
    imagePullPolicy: IfNotPresent
    command: [/bin/bash, -c, \"{script}\"]
"
            ))
            .ok();
    }
    for (name, _, code) in cases {
        let object = format!("pod/{name}");
        cluster.wait_for(&format!("{name} hears"), |cluster| {
            cluster.kubectl(&["logs", name]).stdout.contains("up")
        });
        cluster.kubectl(&["delete", &object, "--wait=false"]).ok();
        // The finalizer keeps it for us to look at.
        let ended = "{.status.containerStatuses[0].state.terminated.exitCode}";
        cluster.wait_for(&format!("{name} has ended with {code}"), |cluster| {
            let found = cluster.value(&object, ended);
            assert!(found.is_empty() || found == code, "{name} ended with {found}");
            found == code
        });
        let release = "{\"metadata\": {\"finalizers\": null}}";
        cluster.kubectl(&["patch", &object, "--type=merge", "-p", release]).ok();
    }
    cluster.finish();
}

#[test]
fn a_killed_daemon_is_not_noticed_by_the_pod() {
    let mut cluster = Cluster::start("killed");
    cluster.apply(POD).ok();
    cluster.wait_running("kangaroo-backend");
    let address = cluster.value("pod/kangaroo-backend", "{.status.podIP}");
    let identity = |cluster: &Cluster| {
        let id = "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].state.running.startedAt} {.status.containerStatuses[0].restartCount} {.status.podIP}";
        cluster.value("pod/kangaroo-backend", id)
    };
    let before = identity(&cluster);
    for _ in 0..3 {
        cluster.kill_daemon();
        let answer = cluster.fetch(&format!("http://{address}/")).ok();
        assert!(answer.contains("1.14.2"), "{answer}");
        cluster.start_daemon();
        assert_eq!(identity(&cluster), before);
    }
    // The exit that happens while nobody watches is reported with its true code.
    cluster.kill_daemon();
    cluster.fetch(&format!("http://{address}/crash?code=5"));
    cluster.start_daemon();
    cluster.wait_for("the exit is reported", |cluster| {
        cluster.value(
            "pod/kangaroo-backend",
            "{.status.containerStatuses[0].lastState.terminated.exitCode}",
        ) == "5"
    });
    cluster.wait_running("kangaroo-backend");
    let logs = cluster.kubectl(&["logs", "--previous", "kangaroo-backend"]).ok();
    assert_eq!(logs.matches("GET / ").count(), 3, "{logs}");
    cluster.finish();
}

const SAYS_WHO_IT_IS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - name: web
    image: toolbox
    imagePullPolicy: IfNotPresent
    command: [/bin/bash, -c, 'echo i am $UID_OF_POD; exec sleep 1000']
    env: [{name: UID_OF_POD, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}]
";

#[test]
fn a_namesake_made_at_once_has_nothing_of_the_one_before() {
    let mut cluster = Cluster::start("namesake");
    std::fs::write(cluster.dir.join("web.yaml"), SAYS_WHO_IT_IS).expect("it can be written");
    cluster.kubectl(&["apply", "-f", "web.yaml"]).ok();
    let mut before = std::collections::BTreeSet::new();
    for _ in 0..5 {
        cluster.wait_running("web");
        let uid = cluster.value("pod/web", "{.metadata.uid}");
        assert!(before.insert(uid.clone()), "{uid} is new");
        cluster.wait_for("it says who it is", |cluster| {
            cluster.kubectl(&["logs", "web"]).stdout == format!("i am {uid}\n")
        });
        let exec = ["exec", "web", "--", "/bin/bash", "-c", "echo $UID_OF_POD"];
        assert_eq!(cluster.kubectl(&exec).ok().trim(), uid);
        assert_eq!(cluster.value("pod/web", "{.status.containerStatuses[0].restartCount}"), "0");
        assert_eq!(cluster.value("pod/web", "{.status.containerStatuses[0].lastState}"), "{}");
        let replace = ["replace", "--force", "--grace-period=0", "-f", "web.yaml"];
        cluster.kubectl(&replace).ok();
    }
    cluster.kubectl(&["delete", "pod", "web", "--now"]).ok();
    cluster.finish();
}
