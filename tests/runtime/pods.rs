//! Pods over time: what containers share, daemons that come and go, shims that die, nothing left
//! behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use joey::runtime::plan::*;
use joey::runtime::{ContainerPhase, Pod, RuntimeError, ShimState};

use crate::scene::*;

crate::tests![
    containers_of_a_pod_share_ipc_names_and_network_but_no_files,
    host_namespaces_are_shared_when_asked,
    sysctls_are_the_pods_own,
    missing_controllers_are_named,
    a_new_daemon_finds_pods_with_the_same_processes,
    a_killed_daemon_changes_nothing_and_leaves_nothing_half_done,
    exits_while_no_daemon_listens_are_reported_truly,
    a_pod_without_shim_is_killed_whole_and_reported,
    frozen_containers_stand_still,
    forgotten_containers_leave_no_directory,
    hosts_that_hide_cgroup2_work,
    long_run_directories_work,
    fifty_pods_leave_nothing_behind,
    shim_memory_stays_small,
];

async fn containers_of_a_pod_share_ipc_names_and_network_but_no_files(scene: Scene) {
    let pod = scene.pod().await;
    let names = "for n in ipc uts net; do readlink /proc/self/ns/$n; done; echo done";
    let script = format!("touch /dev/shm/shared /tmp/own; {names}; sleep 1000");
    let mut one = scene.script(&script);
    one.name = "one".to_owned();
    pod.start(&one).await.unwrap();
    logged(&one, "done").await;
    let mut two = scene.script(&format!("ls /dev/shm /tmp; {names}"));
    two.name = "two".to_owned();
    pod.start(&two).await.unwrap();
    exit(&pod, "two").await;
    let (one, two) = (text(&one), text(&two));
    assert!(two.starts_with("/dev/shm:\nshared\n\n/tmp:\n"), "{two}");
    assert!(!two.contains("own"), "{two}");
    assert!(two.contains(&one), "{one}{two}");
    let host = fs::read_link("/proc/self/ns/ipc").unwrap();
    assert!(!one.contains(host.to_str().unwrap()));
}

async fn host_namespaces_are_shared_when_asked(scene: Scene) {
    let mut plan = scene.pod_plan();
    plan.host_ipc = true;
    plan.network = NetworkPlan::Host;
    plan.pid = PidPlan::Host;
    let pod = scene.runtime.launch(&plan).await.unwrap();
    let script = "for n in ipc uts net pid; do readlink /proc/self/ns/$n; done; echo done; \
                  sleep 1000 & sleep 1000";
    let container = scene.script(script);
    pod.start(&container).await.unwrap();
    logged(&container, "done").await;
    let expected: String = ["ipc", "uts", "net", "pid"]
        .map(|name| {
            format!("{}\n", fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display())
        })
        .concat();
    assert_eq!(text(&container), format!("{expected}done\n"));
    let session = pod.exec(&exec_plan(&["echo", "inside"])).await.unwrap();
    assert_eq!(finish(session).await, ("inside\n".to_owned(), 0));
    // Without a pid namespace the shell's end does not end its child: the cgroup does.
    pod.signal("main", 9).await.unwrap();
    assert_eq!(exit(&pod, "main").await.signal, Some(9));
    until(|| processes(&scene, &plan).len() == 1).await;
}

/// Pids in a pod's cgroup, its shim included.
fn processes(scene: &Scene, plan: &PodPlan) -> Vec<u32> {
    let root = scene.pods_cgroup();
    let Ok(group) = root.open(plan.cgroup.to_str().unwrap()) else {
        return vec![];
    };
    let mut all = Vec::new();
    for name in group.children().unwrap() {
        let Ok(text) = group.open(&name).and_then(|child| child.read("cgroup.procs")) else {
            continue;
        };
        all.extend(text.lines().map(|line| line.parse::<u32>().unwrap()));
    }
    all
}

async fn sysctls_are_the_pods_own(scene: Scene) {
    let mut plan = scene.pod_plan();
    plan.sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "7".to_owned());
    plan.sysctls.insert("kernel.shm_rmid_forced".to_owned(), "1".to_owned());
    let pod = scene.runtime.launch(&plan).await.unwrap();
    let container = scene.script(
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced",
    );
    pod.start(&container).await.unwrap();
    exit(&pod, "main").await;
    assert_eq!(text(&container), "7\n1\n");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap(), "0\n");
    for name in ["../../etc/passwd", "net//x", "kernel.no_such_thing"] {
        let mut plan = scene.pod_plan();
        plan.sysctls.insert(name.to_owned(), "1".to_owned());
        let error = scene.runtime.launch(&plan).await.err().unwrap();
        assert!(error.to_string().contains("sysctl"), "{error}");
        assert!(processes(&scene, &plan).is_empty());
    }
}

async fn missing_controllers_are_named(scene: Scene) {
    for (controller, limits) in [
        ("memory", Limits { memory_max_bytes: Some(64 << 20), ..Limits::default() }),
        (
            "cpu",
            Limits {
                cpu_max: Some(CpuMax { quota_us: 1000, period_us: 100_000 }),
                ..Limits::default()
            },
        ),
        ("pids", Limits { pids_max: Some(10), ..Limits::default() }),
    ] {
        let is_there = scene.runtime.controllers().contains(controller);
        let mut container = scene.script("true");
        container.limits = limits.clone();
        let pod = scene.pod().await;
        match pod.start(&container).await {
            Ok(_) => assert!(is_there),
            Err(error) => {
                assert!(
                    !is_there && error.to_string().contains(&format!("{controller:?}")),
                    "{error}"
                );
            }
        }
        let plan = PodPlan { limits, ..scene.pod_plan() };
        match scene.runtime.launch(&plan).await {
            Ok(_) => assert!(is_there),
            Err(error) => {
                assert!(
                    !is_there && error.to_string().contains(&format!("{controller:?}")),
                    "{error}"
                );
            }
        }
    }
}

fn pid(pod: &Pod, container: &str) -> u32 {
    match pod.state().borrow().containers[container].phase {
        ContainerPhase::Running { pid, .. } => pid,
        ContainerPhase::Exited(_) => panic!("{container} has ended"),
    }
}

async fn a_new_daemon_finds_pods_with_the_same_processes(scene: Scene) {
    let plan = scene.pod_plan();
    let pod = scene.runtime.launch(&plan).await.unwrap();
    let container = scene.script("i=0; while :; do echo line $i; i=$((i+1)); sleep 0.001; done");
    pod.start(&container).await.unwrap();
    let before = pid(&pod, "main");
    drop(pod);
    let mut last = None;
    for _ in 0..5 {
        let mut found = scene.runtime.adopt().await.unwrap();
        assert_eq!(found.len(), 1);
        let found = found.remove(0);
        assert_eq!((&found.plan, &found.containers), (&plan, &vec![container.clone()]));
        assert_eq!(found.pod.state().borrow().shim, ShimState::Alive);
        assert_eq!(pid(&found.pod, "main"), before);
        let session = found.pod.exec(&exec_plan(&["echo", "still here"])).await.unwrap();
        assert_eq!(finish(session).await.0, "still here\n");
        last = Some(found.pod);
    }
    let pod = last.unwrap();
    logged(&container, "line 100\n").await;
    pod.kill("main").await.unwrap();
    exit(&pod, "main").await;
    let seen = text(&container);
    let count = seen.lines().count();
    assert_eq!(seen, (0..count).map(|n| format!("line {n}\n")).collect::<String>());
}

async fn a_killed_daemon_changes_nothing_and_leaves_nothing_half_done(scene: Scene) {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    for delay in [0, 1, 2, 3, 5, 8, 13, 21] {
        let mut daemon = Command::new(std::env::current_exe().unwrap())
            .args(["--daemon", scene.place.to_str().unwrap(), &scene.cgroup])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(daemon.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let (uid, log) = line.trim().split_once(' ').unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(delay)).await;
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        let read = |file: &str| {
            let path = scene.place.join(format!("run/pods/{uid}/containers/main.0/{file}"));
            serde_json::from_slice::<serde_json::Value>(&fs::read(path).unwrap()).unwrap()
        };
        let before = read("state.json")["pid"].as_u64().unwrap() as u32;
        let mut counting = None;
        for found in scene.runtime.adopt().await.unwrap() {
            if found.plan.uid.as_str() == uid {
                assert_eq!(found.pod.state().borrow().shim, ShimState::Alive);
                assert_eq!(pid(&found.pod, "main"), before);
                counting = Some(found.pod);
            } else {
                // Cut off anywhere between its directory and its removal: it can be cleared away.
                found.pod.remove().await.unwrap();
            }
        }
        let counting = counting.unwrap();
        let lines = || records(Path::new(log)).len();
        let so_far = lines();
        until(|| lines() > so_far + 20).await;
        let written = records(Path::new(log));
        for (number, record) in written.iter().enumerate() {
            assert!(record.ends_with(&format!(" F line {number}")), "{record}");
        }
        counting.remove().await.unwrap();
        assert_eq!(fs::read_dir(scene.place.join("run/pods")).unwrap().count(), 0);
        let group = scene.pods_cgroup();
        assert_eq!(group.open("besteffort").unwrap().children().unwrap(), [""; 0]);
    }
}

async fn exits_while_no_daemon_listens_are_reported_truly(scene: Scene) {
    let pod = scene.pod().await;
    let container = scene.script("sleep 0.2; exit 42");
    let started = pod.start(&container).await.unwrap();
    let uid = pod.uid().as_str().to_owned();
    drop(pod);
    let file = scene.place.join(format!("run/pods/{uid}/containers/main.0/exit.json"));
    until(|| file.exists()).await;
    let found = scene.runtime.adopt().await.unwrap().remove(0);
    let state = found.pod.state().borrow().containers["main"].clone();
    let ContainerPhase::Exited(exit) = state.phase else { panic!("still running") };
    let ContainerPhase::Running { started_at, .. } = started.phase else { panic!("not started") };
    assert_eq!((exit.code, exit.started_at), (42, started_at));
}

async fn a_pod_without_shim_is_killed_whole_and_reported(scene: Scene) {
    for is_adopted in [false, true] {
        let plan = scene.pod_plan();
        let pod = scene.runtime.launch(&plan).await.unwrap();
        let mut ended = scene.script("exit 3");
        ended.name = "ended".to_owned();
        pod.start(&ended).await.unwrap();
        exit(&pod, "ended").await;
        pod.start(&scene.script("sleep 1000 & sleep 1000")).await.unwrap();
        let group = scene.pods_cgroup();
        let shim = group.open(&format!("{}/shim", plan.cgroup.display())).unwrap();
        let shim: i32 = shim.read("cgroup.procs").unwrap().trim().parse().unwrap();
        let pod = if is_adopted {
            drop(pod);
            kill(shim);
            let mut found = scene.runtime.adopt().await.unwrap();
            found.retain(|found| found.plan.uid == plan.uid);
            found.remove(0).pod
        } else {
            kill(shim);
            pod
        };
        let mut state = pod.state();
        let state = state.wait_for(|state| state.shim == ShimState::Lost).await.unwrap().clone();
        let codes: Vec<(&str, i32)> = state
            .containers
            .iter()
            .map(|(name, container)| match &container.phase {
                ContainerPhase::Exited(exit) => (name.as_str(), exit.code),
                ContainerPhase::Running { .. } => panic!("{name} is said to run"),
            })
            .collect();
        assert_eq!(codes, [("ended", 3), ("main", 137)]);
        assert!(processes(&scene, &plan).is_empty());
        let error = pod.exec(&exec_plan(&["true"])).await.err().unwrap();
        assert!(matches!(error, RuntimeError::ShimLost), "{error}");
        // A zygote that was too slow for its daemon changes nothing any more.
        let directory = scene.place.join("run/pods").join(plan.uid.as_str());
        let late = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--late-zygote", directory.to_str().unwrap(), &scene.cgroup])
            .output();
        let late = late.await.unwrap();
        assert_eq!(String::from_utf8_lossy(&late.stdout), "nobody\n", "{late:?}");
        pod.remove().await.unwrap();
        pod.remove().await.unwrap();
    }
    assert!(scene.runtime.adopt().await.unwrap().is_empty());
}

fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
}

async fn frozen_containers_stand_still(scene: Scene) {
    let pod = scene.pod().await;
    let container = scene.script("while :; do echo tick; sleep 0.005; done");
    pod.start(&container).await.unwrap();
    logged(&container, "tick").await;
    pod.freeze("main", true).await.unwrap();
    let group = scene.pods_cgroup();
    let group = group.open(&format!("besteffort/{}/main.0", pod.uid().as_str())).unwrap();
    until(|| group.read("cgroup.events").unwrap().contains("frozen 1")).await;
    pod.freeze("main", false).await.unwrap();
    until(|| group.read("cgroup.events").unwrap().contains("frozen 0")).await;
    // A frozen container can be killed.
    pod.freeze("main", true).await.unwrap();
    pod.kill("main").await.unwrap();
    assert_eq!(exit(&pod, "main").await.code, 137);
}

async fn forgotten_containers_leave_no_directory(scene: Scene) {
    let pod = scene.pod().await;
    let mut container = scene.container("main", &["sleep", "1000"]);
    container.attempt = 7;
    pod.start(&container).await.unwrap();
    assert!(pod.remove_container("main", 7).await.is_err());
    assert!(container.rootfs.scratch.exists());
    pod.kill("main").await.unwrap();
    exit(&pod, "main").await;
    pod.remove_container("main", 7).await.unwrap();

    let container = scene.script("true");
    pod.start(&container).await.unwrap();
    exit(&pod, "main").await;
    assert!(container.rootfs.scratch.exists());
    pod.remove_container("main", 0).await.unwrap();
    pod.remove_container("main", 0).await.unwrap();
    assert!(!container.rootfs.scratch.exists());
    assert!(container.output.path.exists());
    let mut state = pod.state();
    state.wait_for(|state| state.containers.is_empty()).await.unwrap();
    assert!(scene.runtime.adopt().await.unwrap()[0].containers.is_empty());
}

async fn hosts_that_hide_cgroup2_work(scene: Scene) {
    let host = || fs::read_to_string("/proc/1/mountinfo").unwrap();
    let before = host();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--without-cgroups", scene.place.to_str().unwrap(), &scene.cgroup])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "4 0::/\n");
    assert_eq!(host(), before);
}

async fn long_run_directories_work(scene: Scene) {
    // `sun_path` has 108 bytes. A second link to the directory keeps the instance's own short.
    let mut plan = scene.pod_plan();
    plan.uid = PodUid::try_from("l".repeat(64)).unwrap();
    let deep = scene.place.join("run/pods").join(plan.uid.as_str()).join("shim.sock");
    assert!(deep.as_os_str().len() > 108, "{}", deep.display());
    let pod = scene.runtime.launch(&plan).await.unwrap();
    pod.start(&scene.script("true")).await.unwrap();
    assert_eq!(exit(&pod, "main").await.code, 0);
}

/// Everything of the host that pods could leave something in.
fn traces(scene: &Scene) -> Vec<String> {
    fn names(path: &Path, all: &mut BTreeSet<String>) {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            all.insert(entry.path().display().to_string());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                names(&entry.path(), all);
            }
        }
    }
    let mut files = BTreeSet::new();
    names(&scene.place.join("run"), &mut files);
    names(&scene.place.join("data"), &mut files);
    let mut all: Vec<String> = files.into_iter().collect();
    let group = scene.pods_cgroup();
    all.extend(group.children().unwrap());
    all.extend(group.open("besteffort").unwrap().children().unwrap());
    all.extend(fs::read_to_string("/proc/self/mountinfo").unwrap().lines().map(str::to_owned));
    all.push(format!("{} descriptors", fs::read_dir("/proc/self/fd").unwrap().count()));
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if comm == "joey-shim\n" {
            let group = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            if group.contains(&scene.cgroup) {
                all.push(format!("shim {}", entry.path().display()));
            }
        }
    }
    all
}

async fn fifty_pods_leave_nothing_behind(scene: Scene) {
    let cycle = |number: usize| {
        let scene = &scene;
        async move {
            let pod = scene.pod().await;
            match number % 4 {
                0 => {
                    pod.start(&scene.script("exit 1")).await.unwrap();
                    exit(&pod, "main").await;
                }
                1 => {
                    pod.start(&scene.script("sleep 1000 & sleep 1000")).await.unwrap();
                    finish(pod.exec(&exec_plan(&["true"])).await.unwrap()).await;
                    let _ = pod.attach("main", false).await.unwrap();
                }
                2 => {
                    let refused = pod.start(&scene.container("main", &["nosuch"])).await;
                    assert!(refused.is_err());
                }
                _ => {}
            }
            pod.remove().await.unwrap();
        }
    };
    for number in 0..4 {
        cycle(number).await;
    }
    // Descriptors of dropped handles close when their tasks end.
    tokio::task::yield_now().await;
    let before = traces(&scene);
    for number in 0..50 {
        cycle(number).await;
    }
    until(|| traces(&scene).len() == before.len()).await;
    assert_eq!(traces(&scene), before);
}

async fn shim_memory_stays_small(scene: Scene) {
    let pod = scene.pod().await;
    let mut shim = None;
    for name in ["a", "b", "c"] {
        let mut container = scene.script("echo hello; sleep 1000");
        container.name = name.to_owned();
        pod.start(&container).await.unwrap();
        logged(&container, "hello").await;
    }
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        if read("comm") == "joey-shim\n" && read("cgroup").contains(&scene.cgroup) {
            shim = Some(read("smaps_rollup"));
        }
    }
    let shim = shim.unwrap();
    // Pages of the sealed image exist once, whoever maps them: what a shim costs is anonymous.
    let private: u64 = shim
        .lines()
        .find_map(|line| line.strip_prefix("Anonymous:")?.split_whitespace().next()?.parse().ok())
        .unwrap();
    println!("shim with three containers: {private} KiB of its own");
    assert!(private <= 500, "{private} KiB private\n{shim}");
}
