//! What a hostile container cannot do: numbers are rows of the threat list in the specification.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use joey::runtime::plan::*;

use crate::scene::*;
use crate::{DAEMONS_LEAK, ZYGOTES_LEAK};

crate::tests![
    default_capabilities_are_cri_os_nine_and_nothing_is_inherited,
    identity_is_exact_and_gains_nothing,
    setuid_files_are_inert_unless_escalation_is_allowed,
    sockets_of_four_families_only,
    foreign_abis_are_shut,
    dangerous_calls_are_refused,
    localhost_profile_is_applied,
    a_localhost_profile_that_is_not_there_is_named,
    kernel_files_are_masked_and_write_protected,
    devices_beyond_the_list_cannot_be_opened,
    runtime_image_cannot_be_overwritten,
    an_entering_process_holds_nothing_worth_stealing,
    keys_of_the_host_are_out_of_reach_and_none_are_left,
    descriptors_of_the_runtime_do_not_leak,
    working_directory_cannot_leave_the_container,
    planted_roots_start_safe_or_fail_cleanly,
    host_directories_are_closed_to_others,
    privileged_containers_get_what_they_ask,
];

async fn default_capabilities_are_cri_os_nine_and_nothing_is_inherited(scene: Scene) {
    let text = scene.outcome(&scene.probe(&["identity"])).await.text;
    assert_eq!(
        text,
        "Uid: 0 0 0 0\nGid: 0 0 0 0\nGroups:\nCapInh: 0000000000000000\n\
         CapPrm: 00000000000005fb\nCapEff: 00000000000005fb\nCapBnd: 00000000000005fb\n\
         CapAmb: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2\n"
    );
}

async fn identity_is_exact_and_gains_nothing(scene: Scene) {
    let mut plan = scene.probe(&["identity"]);
    plan.security.uid = 1000;
    plan.security.gid = 2000;
    plan.security.groups = vec![7, 3000];
    for no_new_privs in [true, false] {
        plan.security.no_new_privs = no_new_privs;
        let text = scene.outcome(&plan).await.text;
        assert_eq!(
            text,
            format!(
                "Uid: 1000 1000 1000 1000\nGid: 2000 2000 2000 2000\nGroups: 7 3000\n\
                 CapInh: 0000000000000000\nCapPrm: 0000000000000000\nCapEff: 0000000000000000\n\
                 CapBnd: 00000000000005fb\nCapAmb: 0000000000000000\nNoNewPrivs: {}\nSeccomp: 2\n",
                i32::from(no_new_privs)
            )
        );
        fs::remove_dir_all(plan.output.path.parent().unwrap()).unwrap();
    }
}

async fn setuid_files_are_inert_unless_escalation_is_allowed(scene: Scene) {
    let file = scene.layer.join("bin/probe");
    fs::copy(std::env::current_exe().unwrap(), &file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)).unwrap();
    for (no_new_privs, euid) in [(true, "1000"), (false, "0")] {
        let mut plan = scene.script("/bin/probe probe identity");
        plan.security.uid = 1000;
        plan.security.no_new_privs = no_new_privs;
        let text = scene.outcome(&plan).await.text;
        assert!(text.starts_with(&format!("Uid: 1000 {euid} {euid} {euid}\n")), "{text}");
    }
}

async fn sockets_of_four_families_only(scene: Scene) {
    let text = scene.outcome(&scene.probe(&["families"])).await.text;
    assert_eq!(text, "1\n2\n10\n16\nnetlink 0\nalg with high bits -1\n");
    let mut plan = scene.probe(&["families"]);
    plan.security.capabilities.push("CAP_NET_RAW".to_owned());
    let text = scene.outcome(&plan).await.text;
    assert_eq!(text, "1\n2\n10\n16\n17\nnetlink 0\nalg with high bits -1\n");
}

async fn foreign_abis_are_shut(scene: Scene) {
    let outcome = scene.outcome(&scene.probe(&["foreign"])).await;
    assert_eq!(outcome.text, "x32 -1 38\n");
    assert_eq!(outcome.exit.signal, Some(libc::SIGSYS));
}

async fn dangerous_calls_are_refused(scene: Scene) {
    for no_new_privs in [true, false] {
        let mut plan = scene.probe(&["calls"]);
        plan.security.no_new_privs = no_new_privs;
        let text = scene.outcome(&plan).await.text;
        for line in text.lines() {
            let expected = match line.split_once(": ") {
                Some(("clone3" | "beyond the table", _)) => "ENOSYS",
                Some(_) => "EPERM",
                None => continue,
            };
            assert!(line.ends_with(expected), "{line}");
        }
        assert!(text.contains("a thread runs\na child runs\n"), "{text}");
    }
}

async fn localhost_profile_is_applied(scene: Scene) {
    let profile = scene.place.join("profile.json");
    fs::write(
        &profile,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}"#,
    )
    .unwrap();
    let mut plan = scene.script("mkdir /tmp/x; echo $?");
    plan.security.seccomp = SeccompPlan::Localhost(profile);
    let text = scene.outcome(&plan).await.text;
    assert!(text.contains("not supported") && text.contains("1\n"), "{text}");
}

async fn a_localhost_profile_that_is_not_there_is_named(scene: Scene) {
    let profile = scene.place.join("missing.json");
    let mut plan = scene.script("true");
    plan.security.seccomp = SeccompPlan::Localhost(profile.clone());
    let pod = scene.pod().await;
    let told = pod.start(&plan).await.expect_err("it must not start").to_string();
    pod.remove().await.unwrap();
    let expected = format!("{}: No such file", profile.display());
    assert!(told.contains("read seccomp profile") && told.contains(&expected), "{told}");
}

async fn kernel_files_are_masked_and_write_protected(scene: Scene) {
    let files =
        ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts", "/proc/kallsyms"];
    let directories =
        ["/sys/firmware", "/proc/acpi", "/proc/scsi", "/sys/devices/virtual/powercap"];
    let protected =
        ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/sys/kernel/uevent_helper"];
    let mut script = String::new();
    let mut expected = String::new();
    let mut say = |command: String, answer: &str| {
        script.push_str(&format!("({command}) 2>&1 | /bin/head -1; "));
        expected.push_str(&format!("{answer}\n"));
    };
    let exists = |path: &&&str| std::path::Path::new(path).exists();
    for file in files.iter().filter(exists) {
        say(format!("cat {file} | wc -c"), "0");
        say(format!("rm {file} >/dev/null 2>&1; echo $?"), "1");
        say(
            format!("umount {file}"),
            &format!("umount: can't unmount {file}: Operation not permitted"),
        );
    }
    for directory in directories.iter().filter(exists) {
        say(format!("ls {directory} | wc -l"), "0");
        say(
            format!("touch {directory}/x"),
            &format!("touch: {directory}/x: Read-only file system"),
        );
    }
    for file in protected.iter().filter(exists) {
        say(format!("echo x >{file}"), &format!("sh: can't create {file}: Read-only file system"));
    }
    say(
        "echo 1 >/sys/fs/cgroup/cgroup.procs".to_owned(),
        "sh: can't create /sys/fs/cgroup/cgroup.procs: Read-only file system",
    );
    say("cat /sys/fs/cgroup/cgroup.max.descendants".to_owned(), "0");
    say("mount -o remount,rw /proc/sys".to_owned(), "mount: permission denied (are you root?)");
    say("mount -t proc proc /tmp".to_owned(), "mount: permission denied (are you root?)");
    assert_eq!(scene.outcome(&scene.script(&script)).await.text, expected);
}

async fn devices_beyond_the_list_cannot_be_opened(scene: Scene) {
    let mut plan = scene.probe(&["devices"]);
    plan.security.capabilities.push("CAP_MKNOD".to_owned());
    plan.security.seccomp = SeccompPlan::Unconfined;
    let text = scene.outcome(&plan).await.text;
    let opened: Vec<&str> = text.lines().filter(|line| !line.contains("136:")).collect();
    // 5:0 has no terminal behind it (ENXIO), 5:1 is the console; 136 are terminal slaves.
    assert_eq!(opened, ["c 1:3", "c 1:5", "c 1:7", "c 1:8", "c 1:9", "c 5:0", "c 5:1", "c 5:2"]);
}

async fn runtime_image_cannot_be_overwritten(scene: Scene) {
    let program = std::env::current_exe().unwrap();
    let before = fs::read(&program).unwrap();
    let pod = scene.pod().await;
    let mut plan = scene.probe(&["overwrite"]);
    plan.security.capabilities =
        joey::runtime::caps::NAMES.iter().map(|name| (*name).to_owned()).collect();
    plan.security.seccomp = SeccompPlan::Unconfined;
    pod.start(&plan).await.unwrap();
    logged(&plan, "ready").await;
    for _ in 0..execs() {
        let session = pod.exec(&exec_plan(&["true"])).await.unwrap();
        assert_eq!(finish(session).await.1, 0);
    }
    for line in text(&plan).lines().filter(|line| *line != "ready") {
        // What it saw of ours is the sealed copy, and the host's file is not even in reach.
        assert!(line.starts_with("/memfd:joey ") && !line.contains("WRITABLE"), "{line}");
    }
    let mut plan = scene.container("exe", &["/proc/self/exe"]);
    plan.process.argv.push("true".to_owned());
    // Means busybox's or nothing, never ours.
    let _ = pod.start(&plan).await;
    assert_eq!(fs::read(&program).unwrap(), before);
}

/// How often the races of entering processes are run.
fn execs() -> usize {
    if is_long() { 1000 } else { 100 }
}

/// A2: a process on its way into a container is seen by it before `execve`, and can be held by who may trace.
async fn an_entering_process_holds_nothing_worth_stealing(scene: Scene) {
    let default = security();
    let mut tracer = default.clone();
    tracer.capabilities.push("CAP_SYS_PTRACE".to_owned());
    let mut root = tracer.clone();
    root.no_new_privs = false;
    let mut seen = 0;
    for security in [default, tracer, root] {
        let may_trace = security.capabilities.len() > joey::runtime::caps::DEFAULT.len();
        let pod = scene.pod().await;
        let mut thief = scene.probe(&["thief"]);
        thief.security = security.clone();
        pod.start(&thief).await.unwrap();
        logged(&thief, "ready").await;
        for _ in 0..execs() {
            let mut plan = exec_plan(&["true"]);
            plan.security = security.clone();
            let session = pod.exec(&plan).await.unwrap();
            assert_eq!(finish(session).await.1, 0);
        }
        let text = text(&thief);
        pod.remove().await.unwrap();
        let rights = if may_trace { "00000000000805fb" } else { "00000000000005fb" };
        for line in text.lines().filter(|line| *line != "ready") {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                // Its own streams, its word to the shim, and, once it is the program, the container's files.
                ["fd", target] if target.starts_with("pipe:[") => {}
                ["fd", target] if target.starts_with("socket:[") => {}
                ["fd", "/dev/null"] => {}
                ["fd", target, ..] => panic!("{target} is open\n{line}"),
                // Gone already, or another user's: not dumpable.
                ["seize", "1" | "3"] => {}
                ["held", "/memfd:joey", "(deleted)", held, filter, no_new_privs] => {
                    assert!(may_trace, "{line}");
                    let expected = u8::from(security.no_new_privs).to_string();
                    assert_eq!((*held, *filter, *no_new_privs), (rights, "2", &*expected));
                    seen += 1;
                }
                ["held", _, held, filter, _] => {
                    assert_eq!((*held, *filter), (rights, "2"), "{line}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
    eprintln!("{seen} entering processes were held before execve");
    assert!(seen > 0, "the thief was never quick enough: nothing was tried");
}

/// Keys in existence that belong to root.
fn root_keys() -> usize {
    let users = fs::read_to_string("/proc/key-users").unwrap();
    let line = users.lines().find(|line| line.trim_start().starts_with("0:")).unwrap();
    line.split_whitespace().nth(2).unwrap().split('/').next().unwrap().parse().unwrap()
}

/// A22.
async fn keys_of_the_host_are_out_of_reach_and_none_are_left(scene: Scene) {
    if !std::path::Path::new("/proc/key-users").exists() {
        println!("SKIPPED: this kernel has no keys");
        return;
    }
    let text = scene.outcome(&scene.probe(&["keys"])).await.text;
    assert_eq!(text, "session 1\nsearch 1\nrequest 1\nlisted 0\n");
    // Even unfiltered, a container and whoever enters it have a keyring of their own, and an empty one.
    let before = root_keys();
    let pods = if is_long() { 1000 } else { 30 };
    for _ in 0..pods {
        let mut plan = scene.probe(&["keys"]);
        plan.security.seccomp = SeccompPlan::Unconfined;
        let outcome = scene.outcome(&plan).await;
        let none = libc::ENOKEY;
        let expected = format!("session found\nsearch {none}\nrequest {none}\nlisted 0\n");
        assert_eq!(outcome.text, expected);
    }
    // The kernel collects unused keys some time later.
    until(|| root_keys() <= before).await;
}

async fn descriptors_of_the_runtime_do_not_leak(scene: Scene) {
    let pod = scene.pod().await;
    // The test program leaves one open on purpose, in every role (see main.rs).
    let zygote = zygote();
    let held = |number: i32| fs::read_link(format!("/proc/{zygote}/fd/{number}")).is_ok();
    assert!(!held(DAEMONS_LEAK), "the zygote has inherited what the daemon had open");
    assert!(held(ZYGOTES_LEAK), "nothing is left open that could leak into a container");
    let plan = scene.script("ls /proc/1/fd; sleep 100");
    pod.start(&plan).await.unwrap();
    logged(&plan, "2\n").await;
    assert_eq!(text(&plan), "0\n1\n2\n");
    let session = pod.exec(&exec_plan(&["sh", "-c", "ls /proc/$$/fd; true"])).await.unwrap();
    assert_eq!(finish(session).await, ("0\n1\n2\n".to_owned(), 0));
}

async fn working_directory_cannot_leave_the_container(scene: Scene) {
    for number in 0..30 {
        let mut plan = scene.script("pwd");
        plan.process.cwd = format!("/proc/self/fd/{number}");
        let reason = scene.refusal(&plan).await;
        assert!(reason.starts_with("chdir to cwd"), "{reason}");
    }
    let mut plan = scene.script("pwd; ls /");
    plan.process.cwd = "/proc/1/cwd/../..".to_owned();
    let reason = scene.refusal(&plan).await;
    assert!(reason.starts_with("chdir to cwd"), "{reason}");
}

/// A4: places that runtimes touch, planted with what attackers plant there.
async fn planted_roots_start_safe_or_fail_cleanly(scene: Scene) {
    let canary = scene.place.join("canary");
    fs::create_dir_all(canary.join("below")).unwrap();
    fs::write(canary.join("file"), "untouched").unwrap();
    let before = tree(&canary);
    let core_pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let volume = scene.place.join("volume");
    fs::create_dir(&volume).unwrap();
    let places = [
        "proc",
        "sys",
        "dev",
        "dev/null",
        "dev/console",
        "dev/pts",
        "dev/ptmx",
        "dev/shm",
        "etc",
        "etc/hosts",
        "etc/resolv.conf",
        "data",
        "data/deep",
    ];
    let targets = [
        canary.to_str().unwrap().to_owned(),
        "/proc/sys/kernel/core_pattern".to_owned(),
        "/proc/sysrq-trigger".to_owned(),
        "/no/where".to_owned(),
        "../../../../../../..".to_owned(),
        "SELF".to_owned(),
        "FIFO".to_owned(),
        "FILE".to_owned(),
    ];
    let hosts = scene.place.join("hosts");
    fs::write(&hosts, "hosts").unwrap();
    let (mut safe, mut refused) = (0, 0);
    for place in places {
        for target in &targets {
            let layer = scene.place.join("planted");
            lay_out(&layer);
            let planted = layer.join(place);
            fs::create_dir_all(planted.parent().unwrap()).unwrap();
            let _ = fs::remove_dir_all(&planted);
            match target.as_str() {
                "SELF" => symlink(planted.file_name().unwrap(), &planted).unwrap(),
                "FIFO" => nix::unistd::mkfifo(&planted, nix::sys::stat::Mode::S_IRWXU).unwrap(),
                "FILE" => fs::write(&planted, "a file").unwrap(),
                link => symlink(link, &planted).unwrap(),
            }
            let mut plan =
                scene.script("echo x >/dev/null; echo x >/data/deep/written; echo started");
            plan.rootfs.lower = vec![layer.clone()];
            plan.mounts =
                vec![bind(&hosts, "/etc/hosts", false), bind(&volume, "/data/deep", false)];
            let pod = scene.pod().await;
            match pod.start(&plan).await {
                Ok(_) => {
                    exit(&pod, "main").await;
                    safe += 1;
                }
                Err(_) => refused += 1,
            }
            pod.remove().await.unwrap();
            fs::remove_dir_all(&layer).unwrap();
            assert_eq!(tree(&canary), before, "{place} -> {target}");
            assert_eq!(
                fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(),
                core_pattern,
                "{place} -> {target}"
            );
        }
    }
    assert!(safe > 40 && refused > 20, "{safe} started, {refused} were refused");
}

/// The zygote of this process.
fn zygote() -> u32 {
    let parent = format!("PPid:\t{}", std::process::id());
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().into_string().ok()?.parse().ok());
    let is_zygote = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.starts_with("Name:\tjoey-zygote\n") && status.lines().any(|line| line == parent)
    };
    pids.find(is_zygote).expect("the runtime has a zygote")
}

fn tree(root: &std::path::Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        all.push(format!("{} {:o} {}", path.display(), metadata.mode(), metadata.len()));
        if metadata.is_dir() {
            all.extend(tree(&path));
        }
    }
    all.sort();
    all
}

async fn host_directories_are_closed_to_others(scene: Scene) {
    let pod = scene.pod().await;
    for path in ["run/pods", &format!("run/pods/{}", pod.uid().as_str())] {
        assert_eq!(fs::metadata(scene.place.join(path)).unwrap().mode() & 0o7777, 0o700, "{path}");
    }
    let socket = scene.place.join(format!("run/pods/{}/shim.sock", pod.uid().as_str()));
    assert_eq!(fs::metadata(socket).unwrap().mode() & 0o7777, 0o600);
    let unix = fs::read_to_string("/proc/net/unix").unwrap();
    assert!(!unix.contains('@'), "{unix}");
}

async fn privileged_containers_get_what_they_ask(scene: Scene) {
    let mut plan = scene.script(
        "ls /dev/loop-control >/dev/null && echo devices; \
         mkdir /tmp/m && mount -t tmpfs x /tmp/m && echo mounts; \
         touch /sys/fs/cgroup/x 2>&1 | grep -c Read-only; grep CapEff /proc/self/status; \
         n=0; while mkdir /sys/fs/cgroup/g$n 2>/dev/null && [ $n -lt 99 ]; do n=$((n+1)); done; echo groups $n",
    );
    plan.security.privileged = true;
    plan.security.mask_proc = false;
    plan.security.seccomp = SeccompPlan::Unconfined;
    plan.security.no_new_privs = false;
    plan.security.capabilities =
        joey::runtime::caps::NAMES.iter().map(|name| (*name).to_owned()).collect();
    let text = scene.outcome(&plan).await.text;
    let devices = if std::path::Path::new("/dev/loop-control").exists() { "devices\n" } else { "" };
    assert!(text.contains(devices) && text.contains("mounts\n0\n"), "{text}");
    assert!(text.contains("CapEff:\t000001ff"), "{text}");
    assert!(text.contains("groups 64\n"), "{text}");
}
