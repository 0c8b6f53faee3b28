//! One container: how it starts, what it sees, how it ends.

use std::fs;

use joey::runtime::plan::*;
use joey::runtime::{ContainerPhase, RuntimeError};

use crate::scene::*;

crate::tests![
    exit_codes_and_signals_are_reported,
    environment_and_directory_are_the_plans,
    refusals_are_worded_like_runc,
    root_is_an_overlay_that_leaves_the_layer_alone,
    read_only_root_still_has_its_mounts,
    volumes_appear_where_asked,
    mount_points_lie_below_the_image_and_give_way_to_it,
];

async fn exit_codes_and_signals_are_reported(scene: Scene) {
    for code in [0, 3, 255] {
        let exit = scene.outcome(&scene.script(&format!("exit {code}"))).await.exit;
        assert_eq!((exit.code, exit.signal, exit.oom_killed), (code, None, false));
        assert!(exit.started_at <= exit.finished_at);
    }
    let pod = scene.pod().await;
    let plan = scene.script("trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done");
    pod.start(&plan).await.unwrap();
    logged(&plan, "up").await;
    pod.signal("main", 15).await.unwrap();
    assert_eq!(exit(&pod, "main").await.code, 7);
    assert!(matches!(pod.signal("main", 15).await, Err(RuntimeError::NotRunning(_))));

    let mut plan = scene.container("main", &["sleep", "100"]);
    plan.attempt = 1;
    pod.start(&plan).await.unwrap();
    pod.kill("main").await.unwrap();
    let mut state = pod.state();
    let is_killed = |phase: &ContainerPhase| match phase {
        ContainerPhase::Exited(exit) => exit.code == 137 && exit.signal == Some(9),
        ContainerPhase::Running { .. } => false,
    };
    let state = state.wait_for(|state| is_killed(&state.containers["main"].phase)).await.unwrap();
    assert_eq!(state.containers["main"].attempt, 1);
}

async fn environment_and_directory_are_the_plans(scene: Scene) {
    let mut plan = scene.container("main", &["env"]);
    plan.process.env.extend(["B=2 words".to_owned(), "A=".to_owned()]);
    assert_eq!(scene.outcome(&plan).await.text, "PATH=/bin\nB=2 words\nA=\n");

    let mut plan = scene.script("pwd; hostname; grep ^0: /proc/self/cgroup; umask; ulimit -c");
    plan.process.cwd = "/made/on demand".to_owned();
    let pod = scene.pod().await;
    pod.start(&plan).await.unwrap();
    exit(&pod, "main").await;
    let name = pod.uid().as_str();
    assert_eq!(text(&plan), format!("/made/on demand\n{name}\n0::/\n0022\n0\n"));
}

async fn refusals_are_worded_like_runc(scene: Scene) {
    let table = [
        ("nosuch", "/", r#"exec: "nosuch": executable file not found in $PATH"#),
        ("/no/such", "/", r#"exec: "/no/such": stat /no/such: no such file or directory"#),
        ("/etc/passwd", "/", r#"exec: "/etc/passwd": permission denied"#),
        ("/etc/text", "/", r#"exec /etc/text: exec format error"#),
        ("/etc/script", "/", r#"exec /etc/script: no such file or directory"#),
        (
            "/bin/true",
            "/etc/passwd",
            r#"chdir to cwd ("/etc/passwd") set in config failed: not a directory"#,
        ),
    ];
    use std::os::unix::fs::PermissionsExt;
    for (name, content) in [("text", "plain"), ("script", "#!/no/interpreter\n")] {
        let file = scene.layer.join("etc").join(name);
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for (argv0, cwd, words) in table {
        let mut plan = scene.container("main", &[argv0]);
        plan.process.cwd = cwd.to_owned();
        assert_eq!(scene.refusal(&plan).await, words);
    }
}

async fn root_is_an_overlay_that_leaves_the_layer_alone(scene: Scene) {
    let outcome = scene
        .outcome(&scene.script(
            "echo new >/etc/passwd; rm /bin/false; touch /file; cat /etc/passwd; stat -c %a /",
        ))
        .await;
    assert_eq!(outcome.text, "new\n755\n");
    assert!(fs::read_to_string(scene.layer.join("etc/passwd")).unwrap().starts_with("root:"));
    assert!(scene.layer.join("bin/false").symlink_metadata().is_ok());
    assert!(!scene.layer.join("file").exists());
}

async fn read_only_root_still_has_its_mounts(scene: Scene) {
    let volume = scene.place.join("volume");
    fs::create_dir(&volume).unwrap();
    let mut plan = scene.script(
        "exec 2>&1; touch /file; touch /data/file && touch /dev/shm/x && echo written; \
         echo end >/dev/termination-log",
    );
    plan.rootfs.read_only = true;
    plan.mounts.push(bind(&volume, "/data", false));
    let message = scene.place.join("message");
    fs::write(&message, "").unwrap();
    plan.termination_log = Some(TerminationLog {
        host_file: message.clone(),
        target: "/dev/termination-log".to_owned(),
    });
    let outcome = scene.outcome(&plan).await;
    assert_eq!(outcome.text, "touch: /file: Read-only file system\nwritten\n");
    assert!(volume.join("file").exists());
    assert_eq!(fs::read_to_string(message).unwrap(), "end\n");
}

async fn mount_points_lie_below_the_image_and_give_way_to_it(scene: Scene) {
    let volume = scene.place.join("volume");
    fs::create_dir_all(&volume).unwrap();
    fs::write(volume.join("file"), "content").unwrap();
    let top = scene.place.join("top");
    fs::create_dir_all(top.join("real")).unwrap();
    std::os::unix::fs::symlink("/real", top.join("link")).unwrap();
    let mut plan = scene.script("cat /data/file /new/deep/file /link/x/file; readlink /link");
    plan.rootfs.lower.insert(0, top);
    plan.mounts =
        ["/data", "/new/deep", "/link/x"].map(|target| bind(&volume, target, true)).to_vec();
    let mut without = scene.script("true");
    without.process = plan.process.clone();
    without.rootfs.lower.clone_from(&plan.rootfs.lower);
    without.rootfs.points = None;
    without.mounts.clone_from(&plan.mounts);
    // What the image's own link leads to is nowhere but in the container.
    for (plan, expected) in
        [(plan, &["real"][..]), (without, &["data", "dev", "new", "proc", "real", "sys"])]
    {
        let pod = scene.pod().await;
        pod.start(&plan).await.unwrap();
        exit(&pod, &plan.name).await;
        assert_eq!(text(&plan), "contentcontentcontent/real\n");
        let mut made: Vec<_> = fs::read_dir(plan.rootfs.scratch.join("upper"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        made.sort();
        assert_eq!(made, expected);
        pod.remove().await.unwrap();
    }
}

async fn volumes_appear_where_asked(scene: Scene) {
    let volume = scene.place.join("volume");
    fs::create_dir_all(volume.join("sub/below")).unwrap();
    fs::write(volume.join("sub/below/file"), "content").unwrap();
    let mut plan = scene.script(
        "cat /a/sub/below/file /b/file /c; echo; touch /a/x 2>&1; touch /b/new && echo made; \
         stat -f -c %T /t; stat -c %a /t; ls -d /deep/er",
    );
    plan.mounts = vec![
        bind(&volume, "/a", true),
        bind(&volume, "/b", false),
        bind(&volume.join("sub/below/file"), "/c", true),
        MountPlan {
            source: MountSource::Tmpfs { size_bytes: Some(1 << 20), mode: 0o1770 },
            ..bind(&volume, "/t", false)
        },
        bind(&volume, "/deep/er", false),
    ];
    plan.mounts[1].source =
        MountSource::Bind { path: volume.clone(), sub_path: Some("sub/below".to_owned()) };
    let outcome = scene.outcome(&plan).await;
    assert_eq!(
        outcome.text,
        "contentcontentcontent\ntouch: /a/x: Read-only file system\nmade\ntmpfs\n1770\n/deep/er\n"
    );
    for escape in ["../", "a/../../..", "/etc"] {
        let mut plan = scene.script("true");
        let sub_path = Some(escape.to_owned());
        let path = volume.clone();
        plan.mounts = vec![MountPlan {
            source: MountSource::Bind { path, sub_path },
            ..bind(&volume, "/a", true)
        }];
        assert!(scene.refusal(&plan).await.starts_with("mount /a: "));
    }
}
