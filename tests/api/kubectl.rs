//! The real kubectl against the listener: what it prints, with what differs from run to run masked.

use std::process::Stdio;
use std::sync::Arc;

use expect_test::{Expect, expect};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::harness::{LIMIT, NoNode};
use crate::listener::Server;

/// A kubectl that tests/setup.sh puts into .tools; `None` (said loudly) where it is missing.
fn tool(name: &str) -> Option<String> {
    let path = format!("{}/.tools/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::path::Path::new(&path).is_file() {
        return Some(path);
    }
    eprintln!("SKIPPED: there is no {path}");
    assert!(std::env::var_os("REQUIRE_KUBECTL").is_none(), "REQUIRE_KUBECTL is set");
    None
}

/// `KUBECTL`, or that of 1.32.
fn kubectl() -> Option<String> {
    std::env::var("KUBECTL").ok().or_else(|| tool("1.32/kubectl"))
}

pub struct Terminal {
    server: Server,
    program: String,
}

impl Terminal {
    async fn open() -> Option<Terminal> {
        let program = kubectl()?;
        Some(Terminal { server: Server::start(Arc::new(NoNode)).await, program })
    }

    /// One for every kubectl at hand: that of [`kubectl`] and the newest.
    pub async fn every() -> Vec<Terminal> {
        let programs = kubectl().into_iter().chain(tool("kubectl"));
        let mut terminals = Vec::new();
        for program in programs {
            terminals.push(Terminal { server: Server::start(Arc::new(NoNode)).await, program });
        }
        terminals
    }

    /// Runs the commands of `script`: lines that begin with `$`, each with what follows as its input.
    /// Answers them with all they print.
    pub async fn session(&self, script: &str) -> String {
        let mut transcript = String::new();
        for command in script.split("$ ").skip(1) {
            let (line, input) = command.split_once('\n').unwrap_or((command, ""));
            transcript.push_str(&format!("$ {line}\n{}", self.run(line, input).await));
        }
        transcript
    }

    pub async fn close(self) {
        self.server.stop().await;
    }

    /// Runs one command (words split at spaces) with `input`; answers all output, ages masked.
    async fn run(&self, line: &str, input: &str) -> String {
        let data = self.server.data.path();
        let mut child = Command::new(&self.program)
            .args(line.split(' '))
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("HOME", data)
            .env("KUBECONFIG", data.join("admin.kubeconfig"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let output = tokio::time::timeout(LIMIT * 3, child.wait_with_output())
            .await
            .expect("kubectl ends in time")
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        mask(&String::from_utf8_lossy(&text))
    }

    async fn check(&self, line: &str, input: &str, expected: Expect) {
        expected.assert_eq(&self.run(line, input).await);
    }
}

/// Ages become AGE, runs of spaces one, empty lines none; newer kubectls say where a deleted object was.
fn mask(text: &str) -> String {
    let line = |line: &str| -> String {
        let words = line.split(' ').filter(|word| !word.is_empty()).map(|word| {
            let is_age = word
                .strip_suffix('s')
                .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
            if is_age { "AGE" } else { word }
        });
        let line = words.collect::<Vec<_>>().join(" ");
        match line.split_once(" deleted from ") {
            Some((object, _)) => format!("{object} deleted"),
            None => line,
        }
    };
    // The names of diff's files, and the times in them.
    let is_fleeting = |line: &str| {
        ["diff -u", "--- /", "+++ /", "creationTimestamp: ", "Created on:", "uid: "]
            .iter()
            .any(|start| line.trim_start().starts_with(start))
    };
    text.lines()
        .filter(|text| !text.is_empty() && !is_fleeting(text))
        .map(|text| line(text) + "\n")
        .collect()
}

const POD: &str = "apiVersion: v1
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

#[tokio::test]
async fn a_manifest_is_applied_shown_changed_and_deleted() {
    let Some(terminal) = Terminal::open().await else { return };
    let t = &terminal;
    t.check(
        "apply -f -",
        POD,
        expect![[r#"
        pod/kangaroo-backend created
    "#]],
    )
    .await;
    t.check(
        "apply -f -",
        POD,
        expect![[r#"
        pod/kangaroo-backend unchanged
    "#]],
    )
    .await;
    t.check(
        "get pods",
        "",
        expect![[r#"
        NAME READY STATUS RESTARTS AGE
        kangaroo-backend 0/1 Pending 0 AGE
    "#]],
    )
    .await;
    t.check(
        "label pod kangaroo-backend app=k",
        "",
        expect![[r#"
        pod/kangaroo-backend labeled
    "#]],
    )
    .await;
    t.check(
        "get pods -l app=k -o name",
        "",
        expect![[r#"
        pod/kangaroo-backend
    "#]],
    )
    .await;
    t.check(
        "explain pod.spec.restartPolicy --recursive=false",
        "",
        expect![[r#"
            KIND: Pod
            VERSION: v1
            FIELD: restartPolicy <string>
            ENUM:
            Always
            Never
            OnFailure
            DESCRIPTION:
            Restart policy for all containers within the pod. One of Always, OnFailure,
            Never. In some contexts, only a subset of those values may be permitted.
            Default to Always. More info:
            https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy

        "#]],
    )
    .await;
    t.check(
        "delete pod kangaroo-backend",
        "",
        expect![[r#"
        pod "kangaroo-backend" deleted
    "#]],
    )
    .await;
    t.check(
        "get pods",
        "",
        expect![[r#"
        No resources found in default namespace.
    "#]],
    )
    .await;
    terminal.server.stop().await;
}

#[tokio::test]
async fn bad_manifests_get_the_usual_errors() {
    let Some(terminal) = Terminal::open().await else { return };
    let t = &terminal;
    let misspelt = POD.replace("image:", "imagee:");
    t.check(
        "apply -f -",
        &misspelt,
        expect![[r#"
            Error from server (BadRequest): error when creating "STDIN": Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.containers[0].imagee"
        "#]],
    )
    .await;
    let empty = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: []}\n";
    t.check(
        "apply -f -",
        empty,
        expect![[r#"
            The Pod "p" is invalid: spec.containers: Required value
        "#]],
    )
    .await;
    let imageless =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: a}]}\n";
    t.check(
        "apply -f -",
        imageless,
        expect![[r#"
            The Pod "p" is invalid: spec.containers[0].image: Required value
        "#]],
    )
    .await;
    t.check(
        "apply -f -",
        "kind: Pod\nmetadata: {name: p}\n",
        expect![[r#"
            error: error validating "STDIN": error validating data: apiVersion not set; if you choose to ignore these errors, turn validation off with --validate=false
        "#]],
    )
    .await;
    t.check(
        "get pod nosuch",
        "",
        expect![[r#"
            Error from server (NotFound): pods "nosuch" not found
        "#]],
    )
    .await;
    terminal.server.stop().await;
}

#[tokio::test]
async fn every_way_to_make_and_change_an_object_works() {
    let Some(terminal) = Terminal::open().await else { return };
    let t = &terminal;
    let mut transcript = String::new();
    for line in [
        "create namespace team",
        "create configmap c -n team --from-literal=a=1",
        "create secret generic s -n team --from-literal=a=1",
        "create serviceaccount sa -n team",
        "patch configmap c -n team -p {\"data\":{\"a\":\"2\"}}",
        "patch configmap c -n team --type=merge -p {\"data\":{\"a\":\"3\"}}",
        "patch configmap c -n team --type=json -p [{\"op\":\"add\",\"path\":\"/data/b\",\"value\":\"4\"}]",
        "annotate configmap c -n team note=x",
        "get configmap c -n team -o jsonpath={.data}",
        "get configmaps,secrets,serviceaccounts -n team",
        "get configmaps -A --chunk-size=2 -o name",
        "wait --for=create configmap/c -n team",
        "auth can-i create pods",
        "auth can-i create pods --as=jo",
        "delete configmap c -n team",
        "delete namespace team --wait=false",
        "get namespace team",
        "create configmap d -n team",
        "delete namespace default",
        "apply --server-side -f -",
    ] {
        transcript.push_str(&format!("$ {line}\n{}", t.run(line, POD).await));
    }
    let expected = expect![[r#"
        $ create namespace team
        namespace/team created
        $ create configmap c -n team --from-literal=a=1
        configmap/c created
        $ create secret generic s -n team --from-literal=a=1
        secret/s created
        $ create serviceaccount sa -n team
        serviceaccount/sa created
        $ patch configmap c -n team -p {"data":{"a":"2"}}
        configmap/c patched
        $ patch configmap c -n team --type=merge -p {"data":{"a":"3"}}
        configmap/c patched
        $ patch configmap c -n team --type=json -p [{"op":"add","path":"/data/b","value":"4"}]
        configmap/c patched
        $ annotate configmap c -n team note=x
        configmap/c annotated
        $ get configmap c -n team -o jsonpath={.data}
        {"a":"3","b":"4"}
        $ get configmaps,secrets,serviceaccounts -n team
        NAME DATA AGE
        configmap/c 2 AGE
        configmap/kube-root-ca.crt 1 AGE
        NAME TYPE DATA AGE
        secret/s Opaque 1 AGE
        NAME SECRETS AGE
        serviceaccount/default 0 AGE
        serviceaccount/sa 0 AGE
        $ get configmaps -A --chunk-size=2 -o name
        configmap/kube-root-ca.crt
        configmap/kube-root-ca.crt
        configmap/kube-root-ca.crt
        configmap/kube-root-ca.crt
        configmap/c
        configmap/kube-root-ca.crt
        $ wait --for=create configmap/c -n team
        configmap/c condition met
        $ auth can-i create pods
        yes
        $ auth can-i create pods --as=jo
        no
        $ delete configmap c -n team
        configmap "c" deleted
        $ delete namespace team --wait=false
        namespace "team" deleted
        $ get namespace team
        NAME STATUS AGE
        team Terminating AGE
        $ create configmap d -n team
        error: failed to create configmap: configmaps "d" is forbidden: unable to create new content in namespace team because it is being terminated
        $ delete namespace default
        Error from server (Forbidden): namespaces "default" is forbidden: this namespace may not be deleted
        $ apply --server-side -f -
        pod/kangaroo-backend serverside-applied
    "#]];
    expected.assert_eq(&transcript);
    terminal.server.stop().await;
}
