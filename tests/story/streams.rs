//! Terminals, files and forwarded ports, over every transport that a kubectl speaks; and joey's own verbs.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::cluster::{Cluster, Ran, kubectls};
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
    // Each of the two takes what the other has applied for its own.
    let theirs = cluster.kubectl(&["apply", "-f", &file]);
    assert_eq!(
        (theirs.stderr.as_str(), theirs.stdout.trim()),
        ("", "pod/kangaroo-backend unchanged")
    );
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
    // No resolver answers in a network of one's own: what helps is said.
    let ran = cluster.joey(&["image", "pull", "registry.example.com/team/app:1"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("lookup registry.example.com: "), "{}", ran.stderr);
    assert!(ran.stderr.contains("joey image import"), "{}", ran.stderr);
    let ran = cluster.joey(&["run", "--rm", "toolbox", "--", "no-such-program"]);
    assert_eq!(ran.code, 128, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("StartError: ") && ran.stderr.contains("no-such-program"),
        "{}",
        ran.stderr
    );
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

const TWO: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: two, example.com/tier: front}}
spec:
  terminationGracePeriodSeconds: 0
  initContainers:
  - {name: first, image: toolbox, imagePullPolicy: Never, command: [echo, from first]}
  containers:
  - {name: a, image: toolbox, imagePullPolicy: Never, command: [sh, -c, "echo from a; sleep 1000"]}
  - {name: b, image: toolbox, imagePullPolicy: Never, command: [sh, -c, "echo from b; echo more; sleep 1000"]}
"#;

/// What goes wrong, and what is left open, is said and decided as kubectl does.
#[test]
fn joeys_own_verbs_speak_like_kubectls() {
    let mut cluster = Cluster::start("words");
    let file = |cluster: &Cluster, name: &str, text: &str| {
        let path = cluster.dir.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let two = file(&cluster, "two.yaml", TWO);
    cluster.joey(&["apply", "-f", &two]).ok();
    cluster.wait_running("two");
    let both = |cluster: &Cluster, args: &[&str]| {
        let (ours, theirs) = (cluster.joey(args), cluster.kubectl(args));
        let shown = |ran: Ran| (ran.code, ran.stdout, ran.stderr);
        (shown(ours), shown(theirs))
    };
    for args in [
        &["get", "pod", "nope"][..],
        &["get", "pod", "two", "nope", "-o", "name"],
        &["get", "pod", "nope", "--ignore-not-found"],
        &["describe", "pod", "nope"],
        &["delete", "pod", "nope"],
        &["delete", "namespace", "default"],
        &["exec", "nope", "--", "true"],
        &["exec", "two", "--", "echo", "hi"],
        &["exec", "two", "-c", "b", "--", "sh", "-c", "exit 7"],
        &["logs", "two"],
        &["logs", "two", "-c", "b", "--tail=1"],
        &["logs", "two", "--all-containers"],
        &["logs", "two", "--all-containers", "--prefix"],
        &["logs", "-l", "app=two", "-c", "b"],
        &["logs", "-l", "app=nope"],
        &["logs", "two", "-p"],
        &["logs", "-f", "two", "--all-containers", "--max-log-requests=2"],
    ] {
        let (ours, theirs) = both(&cluster, args);
        // kubectl asks for several containers in no order.
        let several = args.contains(&"--all-containers");
        let lines = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            several.then(|| lines.sort_unstable());
            lines
        };
        assert_eq!(
            (ours.0, lines(&ours.1), &ours.2),
            (theirs.0, lines(&theirs.1), &theirs.2),
            "{args:?}"
        );
    }
    let (ours, theirs) = both(&cluster, &["get", "pods", "-L", "app,example.com/tier", "two"]);
    let words = |table: &str| table.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&ours.1)[..5], words(&theirs.1)[..5]);
    assert!(words(&ours.1).ends_with(&["two".to_owned(), "front".to_owned()]), "{}", ours.1);
    assert!(theirs.1.contains("TIER") && ours.1.contains("TIER"), "{}", ours.1);

    // A file of which one object is refused: the other is declared, and the error names the object and the field.
    let mixed = file(
        &cluster,
        "mixed.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: [{name: x}]}\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {name: good}\ndata: {sign: 'a<b&c>d'}\n",
    );
    let ran = cluster.joey(&["apply", "-f", &mixed]);
    assert_eq!(
        ran.stderr,
        "The Pod \"bad\" is invalid: spec.containers[0].image: Required value\n"
    );
    assert_eq!((ran.code, ran.stdout.as_str()), (1, "configmap/good created\n"));
    let theirs = cluster.kubectl(&["apply", "-f", &mixed]);
    assert_eq!(theirs.stdout, "configmap/good unchanged\n", "{}", theirs.stderr);
    assert_eq!(theirs.stderr, ran.stderr);
    let misspelt = file(
        &cluster,
        "misspelt.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: [{name: x, imagee: y}]}\n",
    );
    let ran = cluster.joey(&["apply", "-f", &misspelt]);
    assert!(
        ran.stderr.starts_with("Error from server (BadRequest): error when applying")
            && ran.stderr.contains("unknown field \"spec.containers[0].imagee\""),
        "{}",
        ran.stderr
    );
    // Followed together until all have ended.
    let mut follower = cluster
        .joey_command()
        .args(["logs", "-f", "two", "--all-containers", "--prefix"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut shown = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut lines: Vec<String> = shown.by_ref().take(4).map(Result::unwrap).collect();
    lines.sort_unstable();
    let expected = [
        "[pod/two/a] from a",
        "[pod/two/b] from b",
        "[pod/two/b] more",
        "[pod/two/first] from first",
    ];
    assert_eq!(lines, expected);
    cluster.joey(&["delete", "pod", "two"]).ok();
    assert_eq!(shown.count(), 0);
    assert!(follower.wait().unwrap().success());
    cluster.finish();
}
