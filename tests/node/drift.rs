//! What others do by hand behind the node's back: noticed through the kernel, put right, told.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use joey::sys::cgroup::Cgroup;
use k8s_openapi::api::core::v1 as core;
use serde_json::json;

use crate::scene::{Scene, main_status, status};
use crate::tests;

tests![
    a_process_killed_from_the_host_is_restarted,
    a_container_whose_cgroup_was_killed_and_removed_comes_back,
    a_frozen_container_goes_on,
    a_frozen_supervisor_goes_on,
    a_pod_whose_supervisor_was_stopped_can_be_deleted,
    a_container_moved_out_of_its_cgroup_is_restarted_inside_one,
    a_cgroup_removed_while_the_node_was_down_is_missed_when_it_comes_back,
    a_link_removed_or_set_down_by_hand_is_put_back,
    an_unmounted_namespace_is_pinned_again,
];

fn is_ready(pod: &core::Pod) -> bool {
    main_status(pod).is_some_and(|c| c.ready)
}

fn restarts(pod: &core::Pod) -> i32 {
    main_status(pod).map_or(0, |c| c.restart_count)
}

/// Ticks while it runs, and ends when told to.
const CLOCK: &str = "trap 'exit 0' TERM; while true; do echo tick >> /ctl/log; sleep 0.05; done";

/// The cgroup of a process, as a path below the root of the hierarchy.
fn cgroup_of(pid: u32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    line.to_owned()
}

/// Nobody is left in the group; it may have been removed already by whoever supervised it.
fn is_deserted(group: &Cgroup) -> bool {
    match group.wait_empty(Duration::from_secs(10)) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT)) => true,
        waited => waited.unwrap(),
    }
}

async fn ticks_on(scene: &Scene) {
    let before = scene.said("log").lines().count();
    scene.until_said("log", |log| log.lines().count() > before + 2).await;
}

async fn a_process_killed_from_the_host_is_restarted(scene: Scene) {
    scene.create_controlled("web", CLOCK, json!({})).await;
    scene.until("web", is_ready).await;
    let pid = scene.main_pid("web").await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::SIGKILL)
        .unwrap();
    let pod = scene.until("web", |p| restarts(p) == 1 && is_ready(p)).await;
    let last = main_status(&pod).and_then(|c| c.last_state.clone()?.terminated).unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (137, Some("Error")));
    scene.until_told("web", "Killed Container main was killed from outside").await;
    ticks_on(&scene).await;
}

async fn a_container_whose_cgroup_was_killed_and_removed_comes_back(scene: Scene) {
    scene.create_controlled("web", CLOCK, json!({})).await;
    scene.until("web", is_ready).await;
    let path = cgroup_of(scene.main_pid("web").await);
    let root = Cgroup::root().unwrap();
    let (parent, leaf) = path.rsplit_once('/').unwrap();
    let group = root.open(&path).unwrap();
    group.kill().unwrap();
    assert!(is_deserted(&group));
    root.open(parent).unwrap().remove(leaf).unwrap();
    scene.until("web", |p| restarts(p) == 1 && is_ready(p)).await;
    assert_ne!(cgroup_of(scene.main_pid("web").await), path);
    scene.until_told("web", "Killed Container main was killed from outside").await;
    ticks_on(&scene).await;

    // The whole pod's, its supervisor included.
    let path = cgroup_of(scene.main_pid("web").await);
    let (pod_path, _) = path.rsplit_once('/').unwrap();
    let group = root.open(pod_path).unwrap();
    group.kill().unwrap();
    assert!(is_deserted(&group));
    let (parent, leaf) = pod_path.rsplit_once('/').unwrap();
    root.open(parent).unwrap().remove(leaf).unwrap();
    scene.until("web", |p| restarts(p) == 2 && is_ready(p)).await;
    ticks_on(&scene).await;
}

async fn a_frozen_container_goes_on(scene: Scene) {
    scene.create_controlled("web", CLOCK, json!({})).await;
    scene.until("web", is_ready).await;
    let pid = scene.main_pid("web").await;
    let path = cgroup_of(pid);
    let root = Cgroup::root().unwrap();
    // Its own group, then the pod's, which holds its supervisor too.
    let (pod_path, _) = path.rsplit_once('/').unwrap();
    for frozen in [path.as_str(), pod_path] {
        root.open(frozen).unwrap().freeze(true).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while root.open(frozen).unwrap().read("cgroup.freeze").unwrap().trim() == "1" {
            assert!(Instant::now() < deadline, "{frozen} is still frozen");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        ticks_on(&scene).await;
    }
    scene.until_told("web", "Thawed Container main was frozen from outside and goes on").await;
    assert_eq!(scene.main_pid("web").await, pid, "it was not restarted");
}

/// The process that supervises a pod, by one of the pod's containers.
fn supervisor_of(pid: u32) -> (String, u32) {
    let path = cgroup_of(pid);
    let (pod_path, _) = path.rsplit_once('/').unwrap();
    let group = format!("{pod_path}/shim");
    let processes = Cgroup::root().unwrap().open(&group).unwrap().read("cgroup.procs").unwrap();
    (group, processes.lines().next().unwrap().parse().unwrap())
}

async fn a_frozen_supervisor_goes_on(mut scene: Scene) {
    scene.create_controlled("web", CLOCK, json!({})).await;
    scene.until("web", is_ready).await;
    let pid = scene.main_pid("web").await;
    let (group, shim) = supervisor_of(pid);
    let root = Cgroup::root().unwrap();
    root.open(&group).unwrap().freeze(true).unwrap();
    let told = "Thawed The pod's supervisor was frozen from outside and goes on";
    scene.until_told("web", told).await;
    assert_eq!(root.open(&group).unwrap().read("cgroup.freeze").unwrap().trim(), "0");

    // Nobody is there to see it, until the next daemon is.
    scene.stop_agent().await;
    root.open(&group).unwrap().freeze(true).unwrap();
    scene.start_agent().await;
    ticks_on(&scene).await;
    scene.pods().delete("web", &Default::default()).await.unwrap();
    scene.until_gone("web").await;
    assert_ne!(shim, pid);
}

async fn a_pod_whose_supervisor_was_stopped_can_be_deleted(scene: Scene) {
    scene.create_controlled("web", CLOCK, json!({})).await;
    scene.until("web", is_ready).await;
    let (_, shim) = supervisor_of(scene.main_pid("web").await);
    let shim = nix::unistd::Pid::from_raw(shim as i32);
    nix::sys::signal::kill(shim, nix::sys::signal::SIGSTOP).unwrap();
    scene.pods().delete("web", &Default::default()).await.unwrap();
    scene.until_gone("web").await;
}

async fn a_container_moved_out_of_its_cgroup_is_restarted_inside_one(scene: Scene) {
    scene.create_controlled("web", CLOCK, json!({})).await;
    scene.until("web", is_ready).await;
    let pid = scene.main_pid("web").await;
    let (own, _) =
        cgroup_of(pid).split_once('/').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let instance = Cgroup::root().unwrap().open(&own).unwrap();
    let astray = instance.ensure("astray").unwrap();
    astray.write("cgroup.procs", &pid.to_string()).unwrap();
    scene
        .until_told("web", "Killing Container main was moved out of its cgroup, will be restarted")
        .await;
    scene.until("web", |p| restarts(p) == 1 && is_ready(p)).await;
    assert!(!cgroup_of(scene.main_pid("web").await).contains("astray"));
    assert!(astray.wait_empty(Duration::from_secs(10)).unwrap());
    instance.remove("astray").unwrap();
}

async fn a_cgroup_removed_while_the_node_was_down_is_missed_when_it_comes_back(mut scene: Scene) {
    scene.create_controlled("web", CLOCK, json!({})).await;
    scene.until("web", is_ready).await;
    let pid = scene.main_pid("web").await;
    let path = cgroup_of(pid);
    let root = Cgroup::root().unwrap();
    let (own, _) = path.split_once('/').unwrap();
    let instance = root.open(own).unwrap();
    scene.stop_agent().await;
    let astray = instance.ensure("astray").unwrap();
    // A process that it starts meanwhile is born where it was.
    let group = root.open(&path).unwrap();
    while !group.wait_empty(Duration::ZERO).unwrap() {
        for process in group.read("cgroup.procs").unwrap().lines() {
            // It may have ended.
            let _ = astray.write("cgroup.procs", process);
        }
    }
    let (parent, leaf) = path.rsplit_once('/').unwrap();
    root.open(parent).unwrap().remove(leaf).unwrap();
    scene.start_agent().await;
    scene
        .until_told("web", "Killing Container main was moved out of its cgroup, will be restarted")
        .await;
    scene.until("web", |p| restarts(p) == 1 && is_ready(p)).await;
    assert!(!cgroup_of(scene.main_pid("web").await).contains("astray"));
    assert!(astray.wait_empty(Duration::from_secs(10)).unwrap());
    instance.remove("astray").unwrap();
    ticks_on(&scene).await;
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(done.success(), "ip {arguments}");
}

/// The host's end of the only pod.
fn port() -> String {
    let links = Command::new("ip").args(["-o", "link"]).output().unwrap();
    let links = String::from_utf8(links.stdout).unwrap();
    let name = links.lines().find_map(|line| line.split(": ").nth(1)?.strip_prefix("jyabc123-"));
    format!("jyabc123-{}", name.unwrap().split('@').next().unwrap())
}

async fn until_answered(address: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let target = format!("{address}:80").parse().unwrap();
        let asked = TcpStream::connect_timeout(&target, Duration::from_millis(300));
        let answered = asked.and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_millis(300)))?;
            stream.write_all(b"x")?;
            stream.read_exact(&mut [0])
        });
        match answered {
            Ok(()) => return,
            Err(error) => assert!(Instant::now() < deadline, "not reached: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn a_link_removed_or_set_down_by_hand_is_put_back(scene: Scene) {
    let script = "exec nc -ll -p 80 -e cat";
    scene.create_controlled("web", script, json!({"ports": [{"containerPort": 80}]})).await;
    let pod = scene.until("web", is_ready).await;
    let address = status(&pod).pod_ip.clone().unwrap();
    until_answered(&address).await;
    let pid = scene.main_pid("web").await;

    ip(&format!("link set {} down", port()));
    scene
        .until_told("web", "NetworkRepaired The pod's network link was set down from outside")
        .await;
    until_answered(&address).await;

    ip(&format!("link del {}", port()));
    scene
        .until_told("web", "NetworkRepaired The pod's network link was removed from outside")
        .await;
    until_answered(&address).await;

    let inside = Command::new("nsenter")
        .args(["--net", "-t", &pid.to_string(), "ip", "link", "set", "eth0", "down"])
        .status();
    assert!(inside.unwrap().success());
    scene.until_told("web", "NetworkRepaired The link inside the pod was set down").await;
    until_answered(&address).await;
    assert_eq!(scene.main_pid("web").await, pid, "it was not restarted");
}

async fn an_unmounted_namespace_is_pinned_again(scene: Scene) {
    scene.create_controlled("web", CLOCK, json!({})).await;
    let pod = scene.until("web", is_ready).await;
    let pin = scene.place.join("run/netns").join(pod.metadata.uid.as_deref().unwrap());
    let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&pin).unwrap());
    let before = inode();
    rustix::mount::unmount(&pin, rustix::mount::UnmountFlags::DETACH).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while inode() != before {
        assert!(Instant::now() < deadline, "it is not pinned again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    scene
        .until_told("web", "NetworkRepaired The pod's network namespace was unmounted from outside")
        .await;
    assert_eq!(restarts(&scene.pods().get("web").await.unwrap()), 0);
}
