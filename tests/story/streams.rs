//! Terminals, files and forwarded ports, over every transport that a kubectl speaks; and joey's own verbs.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::cluster::{Cluster, kubectls};
use crate::pod::POD;

/// Each kubectl as it is, over WebSocket, and the newest over SPDY, which all of them spoke until 1.30: the name of the
/// protocol that they ask for, and the program.
fn clients(cluster: &Cluster) -> Vec<(&'static str, PathBuf)> {
    let newest = kubectls().remove(0);
    let old = cluster.dir.join("kubectl-over-spdy");
    let script = format!(
        "#!/bin/sh\nKUBECTL_REMOTE_COMMAND_WEBSOCKETS=false KUBECTL_PORT_FORWARD_WEBSOCKETS=false exec {} \"$@\"\n",
        newest.display()
    );
    std::fs::write(&old, script).expect("a file of the test can be written");
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o755))
        .expect("a file of the test can be made a program");
    let all = kubectls().into_iter().map(|client| ("websocket", client));
    all.chain([("SPDY/3.1", old)]).collect()
}

#[test]
fn ports_files_and_terminals_work_over_every_transport() {
    let mut cluster = Cluster::start("transports");
    cluster.apply(POD).ok();
    cluster.wait_running("kangaroo-backend");
    for (protocol, client) in clients(&cluster) {
        cluster.use_kubectl(&client);
        let told = cluster.kubectl(&["exec", "-v=9", "kangaroo-backend", "--", "/bin/true"]);
        assert_eq!(told.code, 0, "{}", told.stderr);
        assert!(told.stderr.contains(protocol), "{protocol} is not spoken: {}", told.stderr);

        let mut forward = cluster
            .kubectl_command()
            .args(["port-forward", "pod/kangaroo-backend", ":80"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        // kubectl goes on writing a line for each connection; it must find somebody who reads.
        let mut told = BufReader::new(forward.stdout.take().unwrap());
        told.read_line(&mut line).unwrap();
        let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        for _ in 0..3 {
            let answer = cluster.fetch(&format!("http://127.0.0.1:{port}/")).ok();
            assert!(answer.contains("1.14.2"), "{answer}");
        }
        forward.kill().unwrap();
        forward.wait().unwrap();

        let content: String = (0..20_000).map(|n| format!("{n}\n")).collect();
        std::fs::write(cluster.dir.join("there"), &content).unwrap();
        cluster.kubectl(&["cp", "there", "kangaroo-backend:/tmp/there"]).ok();
        cluster.kubectl(&["cp", "kangaroo-backend:/tmp/there", "back"]).ok();
        assert_eq!(std::fs::read_to_string(cluster.dir.join("back")).unwrap(), content);

        // script(1) gives kubectl a terminal of its own.
        let inner = format!(
            "{} exec -it kangaroo-backend -- /bin/bash -c 'tty; echo $TERM; exit 5'",
            client.display()
        );
        let output = Command::new("script")
            .args(["--quiet", "--return", "--command", &inner, "/dev/null"])
            .env("KUBECONFIG", cluster.data_dir().join("admin.kubeconfig"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&output.stdout);
        // What else the terminal echoes is script's affair.
        for line in ["/dev/pts/0\r\n", "xterm\r\n"] {
            assert!(shown.contains(line), "{}: {shown}", client.display());
        }
        assert_eq!(output.status.code(), Some(5), "{shown}");
    }
    cluster.finish();
}

#[test]
fn joeys_own_verbs_do_what_kubectls_do() {
    let mut cluster = Cluster::start("verbs");
    let manifest = cluster.dir.join("pod.yaml");
    std::fs::write(&manifest, POD).unwrap();
    let file = manifest.display().to_string();
    assert_eq!(cluster.joey(&["apply", "-f", &file]).ok(), "pod/kangaroo-backend created");
    cluster.wait_running("kangaroo-backend");
    assert_eq!(cluster.joey(&["apply", "-f", &file]).ok(), "pod/kangaroo-backend unchanged");
    // Ages differ between two looks.
    let columns = |table: String| {
        let row =
            |line: &str| line.split_whitespace().take(4).map(str::to_owned).collect::<Vec<_>>();
        table.lines().map(row).collect::<Vec<_>>()
    };
    let args = ["get", "pods", "-A"];
    assert_eq!(columns(cluster.joey(&args).ok()), columns(cluster.kubectl(&args).ok()));
    assert_eq!(
        cluster.joey(&["logs", "kangaroo-backend"]).ok(),
        cluster.kubectl(&["logs", "kangaroo-backend"]).ok()
    );
    let described = cluster.joey(&["describe", "pod", "kangaroo-backend"]).ok();
    assert!(described.contains("Successfully assigned default/kangaroo-backend"), "{described}");
    let ran = cluster.joey(&[
        "exec",
        "kangaroo-backend",
        "--",
        "/bin/bash",
        "-c",
        "echo out; echo err >&2; exit 4",
    ]);
    assert_eq!((ran.code, ran.stdout.as_str()), (4, "out\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("err\n"), "{}", ran.stderr);
    let ran =
        cluster.joey(&["run", "--rm", "toolbox", "--", "/bin/bash", "-c", "echo once; exit 3"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (3, "once\n"), "{}", ran.stderr);
    let ran = cluster.joey(&["run", "--rm", "nowhere.invalid/team/app:1"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("ErrImagePull: "), "{}", ran.stderr);
    // ^C ends the pod with the command.
    let script = "trap 'exit 0' TERM; echo up; sleep 1000 & wait";
    let mut run = cluster
        .joey_command()
        .args(["run", "--rm", "toolbox", "--", "/bin/bash", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(run.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    let killed = Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(run.wait().unwrap().code(), Some(130));
    assert_eq!(cluster.kubectl(&["get", "pods", "-o", "name"]).ok(), "pod/kangaroo-backend");
    assert_eq!(
        cluster.joey(&["delete", "pod", "kangaroo-backend"]).ok(),
        "pod \"kangaroo-backend\" deleted from default namespace"
    );
    assert_eq!(
        cluster.joey(&["get", "pods"]).stderr.trim(),
        "No resources found in default namespace."
    );
    let second = cluster.joey(&["serve"]).refused();
    assert!(second.contains("another joey (process"), "{second}");
    cluster.finish();
}
