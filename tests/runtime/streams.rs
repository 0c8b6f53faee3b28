//! Output, input, exec and terminals.

use std::fs;

use joey::runtime::RuntimeError;
use joey::runtime::plan::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::scene::*;

crate::tests![
    log_records_are_cri_lines_of_both_streams,
    rotation_loses_and_doubles_nothing,
    exec_reports_output_and_code,
    exec_refusals_are_worded_like_runc,
    exec_runs_under_the_same_rules,
    exec_feeds_standard_input,
    exec_with_terminal_resizes,
    attach_shows_output_and_feeds_input_once,
    container_with_terminal_can_be_attached,
    a_client_that_does_not_read_is_dropped_and_the_container_goes_on,
];

async fn log_records_are_cri_lines_of_both_streams(scene: Scene) {
    let plan = scene.script("echo out; echo err >&2; printf last");
    scene.outcome(&plan).await;
    let mut seen: Vec<String> = records(&plan.output.path)
        .into_iter()
        .map(|record| {
            let (time, rest) = record.split_once(' ').unwrap();
            assert_eq!((time.len(), &time[29..]), (30, "Z"), "{time}");
            rest.to_owned()
        })
        .collect();
    seen.sort();
    assert_eq!(seen, ["stderr F err", "stdout F last", "stdout F out"]);
}

async fn rotation_loses_and_doubles_nothing(scene: Scene) {
    let mut plan = scene.probe(&["lines", "50000"]);
    plan.output.rotate_bytes = 64 << 10;
    plan.output.keep_files = 1000;
    let text = scene.outcome(&plan).await.text;
    let expected: String = (0..50_000).map(|n| format!("line {n}\n")).collect();
    assert!(text == expected, "{} bytes instead of {}", text.len(), expected.len());
    assert!(fs::read_dir(plan.output.path.parent().unwrap()).unwrap().count() > 10);
}

async fn sleeper(scene: &Scene) -> joey::runtime::Pod {
    let pod = scene.pod().await;
    pod.start(&scene.container("main", &["sleep", "1000"])).await.unwrap();
    pod
}

async fn exec_reports_output_and_code(scene: Scene) {
    let pod = sleeper(&scene).await;
    let script = "echo out; echo err >&2; grep ^0: /proc/self/cgroup; ls /proc | grep -c '^1$'; \
                  hostname; exit 5";
    let session = pod.exec(&exec_plan(&["sh", "-c", script])).await.unwrap();
    let (text, code) = finish(session).await;
    assert_eq!((text, code), (format!("out\n0::/\n1\n{}\nerr\n", pod.uid().as_str()), 5));
    let session = pod.exec(&exec_plan(&["sh", "-c", "kill -9 $$"])).await.unwrap();
    assert_eq!(finish(session).await.1, 137);
    // Twenty at once.
    let plan = exec_plan(&["sh", "-c", "sleep 0.1; echo $$"]);
    let sessions = (0..20).map(|_| async { finish(pod.exec(&plan).await.unwrap()).await.1 });
    assert_eq!(futures::future::join_all(sessions).await, [0; 20]);
}

async fn exec_refusals_are_worded_like_runc(scene: Scene) {
    let pod = sleeper(&scene).await;
    let table = [
        ("nosuch", "/", r#"exec: "nosuch": executable file not found in $PATH"#),
        ("/no/such", "/", r#"exec: "/no/such": stat /no/such: no such file or directory"#),
        (
            "ls",
            "/etc/passwd",
            r#"chdir to cwd ("/etc/passwd") set in config failed: not a directory"#,
        ),
    ];
    for (argv0, cwd, words) in table {
        let mut plan = exec_plan(&[argv0]);
        plan.process.cwd = cwd.to_owned();
        match pod.exec(&plan).await {
            Err(RuntimeError::CannotRun { reason }) => assert_eq!(reason, words),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{argv0} runs"),
        }
    }
    pod.kill("main").await.unwrap();
    exit(&pod, "main").await;
    let error = pod.exec(&exec_plan(&["true"])).await.err().unwrap();
    assert!(matches!(error, RuntimeError::NotRunning(_)), "{error}");
}

async fn exec_runs_under_the_same_rules(scene: Scene) {
    let pod = scene.pod().await;
    let mut container = scene.container("main", &["sleep", "1000"]);
    container.mounts.push(bind(&std::env::current_exe().unwrap(), "/probe", true));
    pod.start(&container).await.unwrap();
    let mut plan = exec_plan(&["/probe", "probe", "identity"]);
    plan.security.uid = 1000;
    plan.security.groups = vec![5];
    let text = finish(pod.exec(&plan).await.unwrap()).await.0;
    assert_eq!(
        text,
        "Uid: 1000 1000 1000 1000\nGid: 0 0 0 0\nGroups: 5\nCapInh: 0000000000000000\n\
         CapPrm: 0000000000000000\nCapEff: 0000000000000000\nCapBnd: 00000000000005fb\n\
         CapAmb: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2\n"
    );
    let text =
        finish(pod.exec(&exec_plan(&["/probe", "probe", "families"])).await.unwrap()).await.0;
    assert_eq!(text, "1\n2\n10\n16\nnetlink 0\nalg with high bits -1\n");
}

async fn exec_feeds_standard_input(scene: Scene) {
    let pod = sleeper(&scene).await;
    let mut plan = exec_plan(&["wc", "-c"]);
    plan.stdin = true;
    let mut session = pod.exec(&plan).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let mut sent = 0;
    for _ in 0..200 {
        stdin.write_all(&[b'x'; 1000]).await.unwrap();
        sent += 1000;
    }
    stdin.shutdown().await.unwrap();
    drop(stdin);
    assert_eq!(finish(session).await, (format!("{sent}\n"), 0));
}

/// Reads until the text holds `wanted`.
async fn read_until(from: &mut (impl AsyncReadExt + Unpin), wanted: &str) -> String {
    let mut all = String::new();
    let mut buffer = [0; 1024];
    while !all.contains(wanted) {
        match from.read(&mut buffer).await.unwrap() {
            0 => panic!("ended with {all:?} instead of {wanted:?}"),
            length => all.push_str(&String::from_utf8_lossy(&buffer[..length])),
        }
    }
    all
}

async fn exec_with_terminal_resizes(scene: Scene) {
    let pod = sleeper(&scene).await;
    let mut plan = exec_plan(&["sh", "-c", "tty; read go; stty size; read go; exit 9"]);
    plan.tty = true;
    plan.stdin = true;
    let mut session = pod.exec(&plan).await.unwrap();
    assert!(session.stderr.is_none());
    let (mut stdin, mut stdout) = (session.stdin.take().unwrap(), session.stdout.take().unwrap());
    read_until(&mut stdout, "/dev/pts/0\r\n").await;
    session.control.resize(132, 43);
    stdin.write_all(b"\n").await.unwrap();
    read_until(&mut stdout, "43 132\r\n").await;
    stdin.write_all(b"\n").await.unwrap();
    assert_eq!(session.control.wait().await.unwrap(), 9);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).await.unwrap();
}

async fn attach_shows_output_and_feeds_input_once(scene: Scene) {
    let pod = scene.pod().await;
    let mut plan = scene.container("main", &["cat"]);
    plan.stdin = StdinPlan::Once;
    pod.start(&plan).await.unwrap();
    let mut watcher = pod.attach("main", false).await.unwrap();
    assert!(watcher.stdin.is_none());
    let mut session = pod.attach("main", true).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"hello\n").await.unwrap();
    read_until(session.stdout.as_mut().unwrap(), "hello\n").await;
    read_until(watcher.stdout.as_mut().unwrap(), "hello\n").await;
    drop(stdin);
    // The only writer is gone: cat reads the end.
    assert_eq!(session.control.wait().await.unwrap(), 0);
    assert_eq!(exit(&pod, "main").await.code, 0);
    assert_eq!(text(&plan), "hello\n");
}

async fn container_with_terminal_can_be_attached(scene: Scene) {
    let pod = scene.pod().await;
    let mut plan = scene.script(
        "tty; test -c /dev/console && echo console; \
         while read line; do echo got $line; stty size; done",
    );
    plan.tty = true;
    plan.stdin = StdinPlan::Open;
    pod.start(&plan).await.unwrap();
    logged(&plan, "console").await;
    let mut session = pod.attach("main", true).await.unwrap();
    session.control.resize(100, 30);
    session.stdin.as_mut().unwrap().write_all(b"words\n").await.unwrap();
    read_until(session.stdout.as_mut().unwrap(), "got words\r\n30 100\r\n").await;
    drop(session);
    let mut session = pod.attach("main", true).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"again\n\x04").await.unwrap();
    read_until(session.stdout.as_mut().unwrap(), "got again\r\n").await;
    assert_eq!(session.control.wait().await.unwrap(), 0);
    assert!(text(&plan).starts_with("/dev/pts/0\nconsole\n"), "{:?}", text(&plan));
}

async fn a_client_that_does_not_read_is_dropped_and_the_container_goes_on(scene: Scene) {
    let pod = scene.pod().await;
    let plan = scene.script("sleep 0.2; seq 1 1000000 | /bin/head -c 6000000; echo; echo done");
    pod.start(&plan).await.unwrap();
    let mut stuck = pod.attach("main", false).await.unwrap();
    assert_eq!(exit(&pod, "main").await.code, 0);
    assert!(text(&plan).ends_with("done\n"));
    let mut seen = Vec::new();
    stuck.stdout.take().unwrap().read_to_end(&mut seen).await.unwrap();
    assert!(seen.len() < 3_000_000, "{}", seen.len());
}
