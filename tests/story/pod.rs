//! "I want to run a container" and "What is my pod doing?"

use crate::cluster::{Cluster, kubectls};

/// As the story has it, word for word.
pub const POD: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: kangaroo-backend
spec:
  containers:
  - name: kangaroo-backend
    image: kangaroo-backend:1.14.2
    ports:
    - containerPort: 80
";

#[test]
fn the_storys_pod_works_word_for_word_with_every_kubectl() {
    let mut cluster = Cluster::start("word-for-word");
    for kubectl in kubectls() {
        cluster.use_kubectl(&kubectl);
        std::fs::write(cluster.dir.join("pod.yaml"), POD).unwrap();
        let apply = ["apply", "-f", "pod.yaml"];
        assert_eq!(cluster.kubectl(&apply).ok(), "pod/kangaroo-backend created");
        cluster.wait_running("kangaroo-backend");
        assert_eq!(cluster.kubectl(&apply).ok(), "pod/kangaroo-backend unchanged");

        let table = cluster.kubectl(&["get", "pods"]).ok();
        let mut lines = table.lines();
        assert_eq!(
            lines.next().unwrap().split_whitespace().collect::<Vec<_>>(),
            ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
        );
        let row: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(row[..4], ["kangaroo-backend", "1/1", "Running", "0"]);

        let address = cluster.value("pod/kangaroo-backend", "{.status.podIP}");
        let answer = cluster.fetch(&format!("http://{address}/")).ok();
        assert!(answer.contains("1.14.2"), "{answer}");
        assert!(answer.contains("kangaroo-backend"), "{answer}");

        let logs = cluster.kubectl(&["logs", "kangaroo-backend"]).ok();
        assert!(logs.contains("GET /"), "{logs}");

        let described = cluster.kubectl(&["describe", "pod", "kangaroo-backend"]).ok();
        for expected in [
            "Successfully assigned default/kangaroo-backend",
            "Pulled",
            "Created",
            "Started",
            "QoS Class:",
            "BestEffort",
        ] {
            assert!(described.contains(expected), "no {expected:?} in\n{described}");
        }

        let shell = [
            "exec",
            "kangaroo-backend",
            "-i",
            "--",
            "/bin/bash",
            "-c",
            "echo $HOSTNAME; cat; exit 7",
        ];
        let ran = cluster.kubectl_with(&shell, b"through stdin\n");
        assert_eq!(ran.stdout, "kangaroo-backend\nthrough stdin\n", "{}", ran.stderr);
        assert_eq!(ran.code, 7, "{}", ran.stderr);

        let missing = ["exec", "kangaroo-backend", "--", "/bin/fish"];
        let refusal = cluster.kubectl(&missing).refused();
        assert!(refusal.contains("/bin/fish") && refusal.contains("no such file"), "{refusal}");

        cluster.kubectl(&["delete", "-f", "pod.yaml"]).ok();
        assert_eq!(
            cluster.kubectl(&["get", "pods"]).stderr.trim(),
            "No resources found in default namespace."
        );
    }
    cluster.finish();
}

#[test]
fn two_containers_share_the_network_and_volumes_but_not_files() {
    let mut cluster = Cluster::start("two-containers");
    cluster
        .apply(
            "
apiVersion: v1
kind: Pod
metadata: {name: pair}
spec:
  volumes:
  - name: shared
    emptyDir: {}
  containers:
  - name: server
    image: kangaroo-backend:1.14.2
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: tools
    image: toolbox
    imagePullPolicy: IfNotPresent
    command: [sleep, '1000']
    volumeMounts: [{name: shared, mountPath: /shared}]
",
        )
        .ok();
    cluster.wait_running("pair");
    let table = cluster.kubectl(&["get", "pod", "pair", "--no-headers"]).ok();
    assert_eq!(table.split_whitespace().nth(1), Some("2/2"), "{table}");

    let inside = |cluster: &Cluster, container: &str, script: &str| {
        cluster.kubectl(&["exec", "pair", "-c", container, "--", "/bin/bash", "-c", script])
    };
    inside(&cluster, "server", "echo kangaroo > /shared/file; echo mine > /private").ok();
    assert_eq!(inside(&cluster, "tools", "cat /shared/file").ok(), "kangaroo");
    inside(&cluster, "tools", "cat /private").refused();
    assert!(inside(&cluster, "tools", "fetch http://127.0.0.1/").ok().contains("1.14.2"));
    cluster.finish();
}

#[test]
fn both_pods_bind_port_80_and_reach_each_other() {
    let mut cluster = Cluster::start("port-80");
    for (name, version) in [("one", "1.15"), ("two", "1.16")] {
        let run = format!("--image=kangaroo-backend:{version}");
        cluster.kubectl(&["run", name, &run, "--port=80"]).ok();
    }
    cluster.wait_running("one");
    cluster.wait_running("two");
    let two = cluster.value("pod/two", "{.status.podIP}");
    let script =
        format!("exec 3<>/dev/tcp/{two}/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
    let answer = cluster.kubectl(&["exec", "one", "--", "/bin/bash", "-c", &script]).ok();
    assert!(answer.contains("1.16"), "{answer}");
    let one = cluster.value("pod/one", "{.status.podIP}");
    assert!(answer.contains(&one), "the peer's own address is seen: {answer}");
    cluster.finish();
}
