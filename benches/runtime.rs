//! Plan → exec → exit → reaped, in alternation with crun and with the floor: clone3 with the same
//! namespaces and nothing else. A ratio within one run holds elsewhere; an absolute time does not.
//!
//! Needs root; works in mount and network namespaces of its own. `ROUNDS=n` sets how often (200).
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use joey::runtime::plan::*;
use joey::runtime::zygote::Zygote;
use joey::runtime::{ContainerPhase, Pod, Runtime, RuntimeConfig};
use joey::sys::spawn::{self, Birth, Fork, Parent};
use nix::sched::CloneFlags;

fn main() -> ExitCode {
    if let Some(code) = joey::runtime::dispatch() {
        return code;
    }
    if std::env::args().nth(1).as_deref() == Some("floor") {
        return floor();
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("this benchmark needs root");
        return ExitCode::FAILURE;
    }
    let rounds = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let place = std::env::temp_dir().join(format!("joey-bench-{}", std::process::id()));
    fs::create_dir_all(&place).unwrap();
    nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
    use rustix::mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
    };
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    mount("tmpfs", &place, "tmpfs", MountFlags::empty(), None).unwrap();
    // crun refuses a mix of cgroup v1 and v2; in this namespace it sees v2 alone.
    // A bind of the mount that is there: a new one would set the hierarchy's options for everybody.
    let unified = Path::new("/sys/fs/cgroup/unified");
    if unified.exists() {
        rustix::mount::mount_bind(unified, "/sys/fs/cgroup").unwrap();
    }
    let zygote = Zygote::spawn().unwrap();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(compare(&place, zygote, rounds));
    drop(tokio);
    unmount(&place, UnmountFlags::DETACH).unwrap();
    fs::remove_dir(&place).unwrap();
    ExitCode::SUCCESS
}

async fn compare(place: &Path, zygote: Zygote, rounds: usize) {
    let layer = place.join("rootfs");
    fs::create_dir_all(layer.join("bin")).unwrap();
    fs::copy("/bin/busybox", layer.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", layer.join("bin/true")).unwrap();
    let config = RuntimeConfig {
        data_dir: place.join("data"),
        run_dir: place.join("run"),
        cgroup: format!("joey-bench-{}", std::process::id()),
    };
    let runtime = Runtime::start(config, zygote).await.unwrap();
    let mut floor = Floor::start();
    let crun = Crun::prepare(place);

    let standing = runtime.launch(&pod_plan("standing")).await.unwrap();
    let mut rows: [(&str, Vec<Duration>); 4] = [
        ("floor: clone3, exec, reap", Vec::new()),
        ("joey: container in a pod", Vec::new()),
        ("joey: whole pod", Vec::new()),
        ("crun run", Vec::new()),
    ];
    for round in 0..rounds as u32 {
        rows[0].1.push(floor.once());

        let plan = container(place, &layer, round);
        let start = Instant::now();
        standing.start(&plan).await.unwrap();
        exited(&standing, round).await;
        rows[1].1.push(start.elapsed());
        standing.remove_container("main", round).await.unwrap();

        let plan = container(place, &layer, 0);
        let start = Instant::now();
        let pod = runtime.launch(&pod_plan(&format!("pod-{round}"))).await.unwrap();
        pod.start(&plan).await.unwrap();
        exited(&pod, 0).await;
        pod.remove().await.unwrap();
        rows[2].1.push(start.elapsed());

        if let Some(crun) = &crun {
            rows[3].1.push(crun.once());
        }
    }
    standing.remove().await.unwrap();
    runtime.remove_cgroup().await.unwrap();
    print(&mut rows);
}

fn print(rows: &mut [(&str, Vec<Duration>)]) {
    println!("{:<28} {:>11} {:>11} {:>11} {:>9}", "", "median µs", "min µs", "p90 µs", "floor ×");
    let mut base = None;
    for (name, times) in rows {
        if times.is_empty() {
            println!("{name:<28} {:>11}", "not here");
            continue;
        }
        times.sort();
        let at = |share: usize| times[(times.len() - 1) * share / 100].as_micros();
        let base = *base.get_or_insert(at(50).max(1));
        let ratio = at(50) as f64 / base as f64;
        println!("{name:<28} {:>11} {:>11} {:>11} {ratio:>9.1}", at(50), at(0), at(90));
    }
}

async fn exited(pod: &Pod, attempt: u32) {
    let mut state = pod.state();
    state
        .wait_for(|state| {
            state.containers.get("main").is_some_and(|container| {
                container.attempt == attempt && matches!(container.phase, ContainerPhase::Exited(_))
            })
        })
        .await
        .unwrap();
}

fn pod_plan(name: &str) -> PodPlan {
    PodPlan {
        uid: PodUid::try_from(name.to_owned()).unwrap(),
        title: format!("bench/{name}"),
        hostname: name.to_owned(),
        network: NetworkPlan::Pinned("/proc/self/ns/net".into()),
        host_ipc: false,
        pid: PidPlan::PerContainer,
        cgroup: name.into(),
        limits: Limits::default(),
        sysctls: BTreeMap::new(),
    }
}

fn container(place: &Path, layer: &Path, attempt: u32) -> ContainerPlan {
    ContainerPlan {
        name: "main".to_owned(),
        attempt,
        image: String::new(),
        rootfs: RootfsPlan {
            lower: vec![layer.to_owned()],
            scratch: place.join(format!("scratch/{attempt}")),
            points: Some(place.join("points")),
            read_only: false,
        },
        process: ProcessPlan {
            argv: vec!["/bin/true".to_owned()],
            env: vec!["PATH=/bin".to_owned()],
            cwd: "/".to_owned(),
        },
        mounts: vec![],
        security: SecurityPlan {
            uid: 0,
            gid: 0,
            groups: vec![],
            capabilities: joey::runtime::caps::DEFAULT.map(str::to_owned).to_vec(),
            no_new_privs: true,
            seccomp: SeccompPlan::Default,
            privileged: false,
            mask_proc: true,
            oom_score_adj: 0,
        },
        limits: Limits::default(),
        output: OutputPlan {
            path: place.join("logs/0.log"),
            rotate_bytes: 10 << 20,
            keep_files: 5,
        },
        stdin: StdinPlan::Closed,
        tty: false,
        stop_signal: 15,
        termination_log: None,
    }
}

/// A single-threaded process that forks on request.
struct Floor {
    child: std::process::Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Floor {
    fn start() -> Floor {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("floor")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (requests, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Floor { child, requests, answers: BufReader::new(answers) }
    }

    fn once(&mut self) -> Duration {
        self.requests.write_all(b"\n").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        Duration::from_nanos(line.trim().parse().unwrap())
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn floor() -> ExitCode {
    for line in std::io::stdin().lines() {
        let Ok(_) = line else { break };
        let start = Instant::now();
        let birth = Birth {
            namespaces: CloneFlags::CLONE_NEWPID
                | CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWIPC
                | CloneFlags::CLONE_NEWUTS
                | CloneFlags::CLONE_NEWCGROUP,
            cgroup: None,
            parent: Parent::Caller,
        };
        match spawn::fork(birth).unwrap() {
            Fork::Child => {
                let _ = nix::unistd::execve(c"/bin/busybox", &[c"true"], &[c"PATH=/bin"]);
                joey::sys::process::exit_now(127)
            }
            Fork::Parent(child) => {
                use rustix::process::{WaitId, WaitIdOptions, waitid};
                waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
            }
        }
        println!("{}", start.elapsed().as_nanos());
    }
    ExitCode::SUCCESS
}

/// A bundle with crun's own default configuration, without a network namespace and a terminal.
struct Crun {
    bundle: std::path::PathBuf,
}

impl Crun {
    fn prepare(place: &Path) -> Option<Crun> {
        let bundle = place.join("bundle");
        fs::create_dir_all(bundle.join("rootfs/bin")).ok()?;
        fs::copy("/bin/busybox", bundle.join("rootfs/bin/true")).ok()?;
        let spec = Command::new("crun").arg("spec").current_dir(&bundle).status();
        if !spec.is_ok_and(|status| status.success()) {
            return None;
        }
        let file = bundle.join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&file).ok()?).ok()?;
        config["process"]["args"] = serde_json::json!(["/bin/true"]);
        config["process"]["terminal"] = false.into();
        config["process"].as_object_mut()?.remove("rlimits");
        config["linux"].as_object_mut()?.remove("resources");
        let namespaces = config["linux"]["namespaces"].as_array_mut()?;
        namespaces.retain(|namespace| namespace["type"] != "network");
        fs::write(&file, config.to_string()).ok()?;
        let crun = Crun { bundle };
        match crun.run() {
            Ok(()) => Some(crun),
            Err(reason) => {
                eprintln!("crun does not run here: {reason}");
                None
            }
        }
    }

    fn run(&self) -> Result<(), String> {
        let run = Command::new("crun")
            .args(["--cgroup-manager=disabled", "run", "joey-bench"])
            .current_dir(&self.bundle)
            .stdin(Stdio::null())
            .output();
        match run {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn once(&self) -> Duration {
        let start = Instant::now();
        self.run().unwrap();
        start.elapsed()
    }
}
