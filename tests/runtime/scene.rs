//! What every test starts with: namespaces of its own, a runtime, a root file system, short words
//! for plans.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use joey::runtime::plan::*;
use joey::runtime::zygote::Zygote;
use joey::runtime::{ContainerPhase, Pod, Runtime, RuntimeConfig, RuntimeError, Session};
use joey::sys::cgroup::Cgroup;
use tokio::io::AsyncReadExt;

use crate::alone::{self, Test};

/// The long forms of the tests (`make test-long`).
pub fn is_long() -> bool {
    std::env::var_os("JOEY_TEST_LONG").is_some_and(|value| value == "1")
}

/// Longest that a test may take.
const LIMIT: Duration = Duration::from_secs(60);
const LONG_LIMIT: Duration = Duration::from_secs(1200);

pub struct Scene {
    pub runtime: Runtime,
    /// A tmpfs of this test.
    pub place: PathBuf,
    pub layer: PathBuf,
    pub cgroup: String,
    next: AtomicU32,
}

/// Runs one test in this process, which is the test's own.
pub fn run(test: &Test<Scene>) -> ExitCode {
    let place = alone::settle("runtime");
    if Path::new("/proc/key-users").exists() {
        add_host_key();
    }
    let zygote = Zygote::spawn().unwrap();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cgroup = format!("joey-test-{}", std::process::id());
    let config = config(&place, &cgroup);
    let passed = tokio.block_on(async {
        let runtime = Runtime::start(config, zygote).await.unwrap();
        let layer = place.join("layer");
        lay_out(&layer);
        let scene = Scene {
            runtime: runtime.clone(),
            place: place.clone(),
            layer,
            cgroup: cgroup.clone(),
            next: AtomicU32::new(0),
        };
        let limit = if is_long() { LONG_LIMIT } else { LIMIT };
        let passed = alone::ends_well((test.body)(scene), limit).await;
        for found in runtime.adopt().await.unwrap() {
            found.pod.remove().await.unwrap();
        }
        runtime.remove_cgroup().await.unwrap();
        passed
    });
    drop(tokio);
    alone::leave(&place);
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Adds a key to this process's session keyring, as a host's administrator may have some.
fn add_host_key() {
    // SAFETY: numbers, NUL-terminated strings and a buffer with its length, all outliving the calls.
    unsafe {
        let joined = libc::syscall(libc::SYS_keyctl, 1, std::ptr::null::<i8>());
        assert!(joined > 0, "{}", std::io::Error::last_os_error());
        let (kind, name) = (c"user".as_ptr(), c"joey-test-secret".as_ptr());
        let added = libc::syscall(libc::SYS_add_key, kind, name, c"secret".as_ptr(), 6, -3);
        assert!(added > 0, "{}", std::io::Error::last_os_error());
    }
}

/// A daemon of its own, for tests that kill it: one pod that counts, then pods without end.
pub fn daemon(place: &Path, cgroup: &str) -> ExitCode {
    let zygote = Zygote::spawn().unwrap();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(async {
        let runtime = Runtime::start(config(place, cgroup), zygote).await.unwrap();
        let scene = Scene {
            runtime,
            place: place.to_owned(),
            layer: place.join("layer"),
            cgroup: cgroup.to_owned(),
            // Beyond the numbers of the test itself and of daemons before.
            next: AtomicU32::new(std::process::id() * 1000),
        };
        let pod = scene.pod().await;
        let container =
            scene.script("i=0; while :; do echo line $i; i=$((i+1)); sleep 0.001; done");
        pod.start(&container).await.unwrap();
        println!("{} {}", pod.uid().as_str(), container.output.path.display());
        loop {
            let pod = scene.pod().await;
            let _ = pod.start(&scene.script("exit 3")).await;
            exit(&pod, "main").await;
            pod.remove().await.unwrap();
        }
    })
}

/// A daemon that sees no cgroup2 mount: runs one container, prints how it ended.
pub fn without_cgroups(place: &Path, cgroup: &str) -> ExitCode {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    rustix::mount::unmount("/sys/fs/cgroup", rustix::mount::UnmountFlags::DETACH).unwrap();
    let zygote = Zygote::spawn().unwrap();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(async {
        let runtime = Runtime::start(config(place, cgroup), zygote).await.unwrap();
        let scene = Scene {
            runtime,
            place: place.to_owned(),
            layer: place.join("layer"),
            cgroup: cgroup.to_owned(),
            next: AtomicU32::new(1000),
        };
        let outcome = scene.outcome(&scene.script("grep ^0: /proc/self/cgroup; exit 4")).await;
        print!("{} {}", outcome.exit.code, outcome.text);
    });
    ExitCode::SUCCESS
}

/// A zygote that comes to a request only now, however old it is: forks a shim for the pod in `directory` and
/// prints whether anybody answers there.
pub fn late_zygote(directory: &Path, cgroup: &str) -> ExitCode {
    use joey::runtime::zygote::Launch;
    use joey::sys::{cgroup::Cgroup, socket};
    let zygote = Zygote::spawn().unwrap();
    let open = fs::File::open(directory).unwrap();
    // Not the pod's own group: Linux 6.18 kills whatever is born into a group that was killed before.
    let group = Cgroup::root().unwrap().open(cgroup).unwrap().ensure("late").unwrap();
    let shim_group = group.ensure("shim").unwrap();
    let listener = socket::listen(open.as_fd(), "shim.sock").unwrap();
    let launch = Launch {
        new_ipc: true,
        new_uts: true,
        directory: open.as_fd(),
        listener: listener.as_fd(),
        pod_cgroup: group.as_fd(),
        shim_cgroup: shim_group.as_fd(),
        netns: None,
    };
    zygote.launch(&launch).unwrap();
    // From here on the shim alone can answer.
    drop(listener);
    let answered = socket::connect(directory, "shim.sock")
        .and_then(|mut stream| std::io::Read::read(&mut stream, &mut [0; 1]));
    println!("{}", if matches!(answered, Ok(1)) { "a shim" } else { "nobody" });
    group.kill().unwrap();
    assert!(group.wait_empty(LIMIT).unwrap());
    ExitCode::SUCCESS
}

pub fn config(place: &Path, cgroup: &str) -> RuntimeConfig {
    RuntimeConfig {
        data_dir: place.join("data"),
        run_dir: place.join("run"),
        cgroup: cgroup.to_owned(),
    }
}

/// A root file system: busybox under many names, users, nothing else.
pub fn lay_out(layer: &Path) {
    for directory in ["bin", "etc", "tmp", "root"] {
        fs::create_dir_all(layer.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", layer.join("bin/busybox")).unwrap();
    for name in [
        "sh", "ls", "cat", "id", "sleep", "echo", "env", "pwd", "true", "false", "head", "mknod",
        "dd", "mount", "umount", "stat", "touch", "grep", "kill", "seq", "hostname", "readlink",
        "stty", "tty", "yes", "wc", "chmod", "rm", "mkdir", "ps", "ipcmk", "ipcs", "test",
    ] {
        let _ = symlink("busybox", layer.join("bin").join(name));
    }
    fs::write(layer.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n")
        .unwrap();
}

impl Scene {
    /// The group that holds those of the pods.
    pub fn pods_cgroup(&self) -> Cgroup {
        Cgroup::root().unwrap().open(&format!("{}/pods", self.cgroup)).unwrap()
    }

    pub fn pod_plan(&self) -> PodPlan {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let uid = PodUid::try_from(format!("pod-{number}")).unwrap();
        PodPlan {
            title: format!("default/pod-{number}"),
            hostname: format!("pod-{number}"),
            // This test's own fresh network.
            network: NetworkPlan::Pinned("/proc/self/ns/net".into()),
            host_ipc: false,
            pid: PidPlan::PerContainer,
            cgroup: format!("besteffort/{}", uid.as_str()).into(),
            uid,
            limits: Limits::default(),
            sysctls: BTreeMap::new(),
        }
    }

    pub async fn pod(&self) -> Pod {
        self.runtime.launch(&self.pod_plan()).await.unwrap()
    }

    pub fn container(&self, name: &str, argv: &[&str]) -> ContainerPlan {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        ContainerPlan {
            name: name.to_owned(),
            attempt: 0,
            image: String::new(),
            rootfs: RootfsPlan {
                lower: vec![self.layer.clone()],
                scratch: self.place.join(format!("data/scratch/{number}")),
                points: Some(self.place.join("run/points")),
                read_only: false,
            },
            process: process(argv),
            mounts: vec![],
            security: security(),
            limits: Limits::default(),
            output: OutputPlan {
                path: self.place.join(format!("logs/{number}/0.log")),
                rotate_bytes: 10 << 20,
                keep_files: 5,
            },
            stdin: StdinPlan::Closed,
            tty: false,
            stop_signal: 15,
            termination_log: None,
        }
    }

    /// `sh -c script`.
    pub fn script(&self, script: &str) -> ContainerPlan {
        self.container("main", &["sh", "-c", script])
    }

    /// This program as `/probe`.
    pub fn probe(&self, arguments: &[&str]) -> ContainerPlan {
        let mut argv = vec!["/probe", "probe"];
        argv.extend(arguments);
        let mut plan = self.container("main", &argv);
        plan.mounts.push(bind(&std::env::current_exe().unwrap(), "/probe", true));
        plan
    }

    /// Runs a container in a pod of its own to its end.
    pub async fn outcome(&self, plan: &ContainerPlan) -> Outcome {
        let pod = self.pod().await;
        pod.start(plan).await.unwrap();
        let exit = exit(&pod, &plan.name).await;
        pod.remove().await.unwrap();
        Outcome { exit, text: text(plan) }
    }

    /// Why a container cannot run.
    pub async fn refusal(&self, plan: &ContainerPlan) -> String {
        let pod = self.pod().await;
        let error = pod.start(plan).await.expect_err("it must not start");
        assert!(pod.state().borrow().containers.is_empty());
        pod.remove().await.unwrap();
        match error {
            RuntimeError::CannotRun { reason } => reason,
            other => panic!("{other}"),
        }
    }
}

pub struct Outcome {
    pub exit: Exit,
    pub text: String,
}

pub fn process(argv: &[&str]) -> ProcessPlan {
    ProcessPlan {
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        env: vec!["PATH=/bin".to_owned()],
        cwd: "/".to_owned(),
    }
}

pub fn security() -> SecurityPlan {
    SecurityPlan {
        uid: 0,
        gid: 0,
        groups: vec![],
        capabilities: joey::runtime::caps::DEFAULT.map(str::to_owned).to_vec(),
        no_new_privs: true,
        seccomp: SeccompPlan::Default,
        privileged: false,
        mask_proc: true,
        oom_score_adj: 0,
    }
}

pub fn bind(path: &Path, target: &str, read_only: bool) -> MountPlan {
    MountPlan {
        source: MountSource::Bind { path: path.to_owned(), sub_path: None },
        target: target.to_owned(),
        read_only,
        propagation: Propagation::Private,
        nosuid_nodev: true,
    }
}

pub fn exec_plan(argv: &[&str]) -> ExecPlan {
    ExecPlan {
        container: "main".to_owned(),
        process: process(argv),
        security: security(),
        tty: false,
        stdin: false,
    }
}

pub async fn exit(pod: &Pod, container: &str) -> Exit {
    let mut state = pod.state();
    let state = state
        .wait_for(|state| {
            matches!(
                state.containers.get(container).map(|container| &container.phase),
                Some(ContainerPhase::Exited(_))
            )
        })
        .await
        .unwrap();
    match &state.containers[container].phase {
        ContainerPhase::Exited(exit) => exit.clone(),
        ContainerPhase::Running { .. } => unreachable!(),
    }
}

/// The text of a log, without times and streams.
pub fn text(plan: &ContainerPlan) -> String {
    records(&plan.output.path)
        .into_iter()
        .map(|record| {
            let mut fields = record.splitn(4, ' ').skip(2);
            let end = if fields.next() == Some("F") { "\n" } else { "" };
            format!("{}{end}", fields.next().unwrap())
        })
        .collect()
}

/// Records of a log and its rotated files, oldest first.
pub fn records(path: &Path) -> Vec<String> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.rotate_left(1);
    files
        .iter()
        .flat_map(|file| {
            let bytes = fs::read(file).unwrap();
            String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

/// Waits until a container's log holds a text.
pub async fn logged(plan: &ContainerPlan, wanted: &str) {
    until(|| plan.output.path.exists() && text(plan).contains(wanted)).await;
}

/// Waits for a condition; the test's own limit bounds it.
pub async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Everything a session prints, and its code.
pub async fn finish(mut session: Session) -> (String, i32) {
    let mut all = String::new();
    drop(session.stdin.take());
    if let Some(mut stdout) = session.stdout.take() {
        stdout.read_to_string(&mut all).await.unwrap();
    }
    if let Some(mut stderr) = session.stderr.take() {
        stderr.read_to_string(&mut all).await.unwrap();
    }
    (all, session.control.wait().await.unwrap())
}
