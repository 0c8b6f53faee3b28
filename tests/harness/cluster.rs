//! A Joey of its own for one test: fresh network and mount namespaces on the test's thread, its own
//! directories, the real daemon, the real kubectl, and a look at what is left behind.

#![allow(dead_code, reason = "several test programs include this file, and each uses its part")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// How long a condition may take to come true before a test fails. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The outcome of one command.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    fn of(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The trimmed standard output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "exit code\nstdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout.trim_end().to_owned()
    }

    /// The trimmed standard error of a command that must have failed.
    #[track_caller]
    pub fn refused(self) -> String {
        assert_ne!(self.code, 0, "must fail\nstdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stderr.trim_end().to_owned()
    }
}

pub struct Cluster {
    pub dir: PathBuf,
    kubectl: PathBuf,
    daemon: Option<Child>,
    /// Further settings of the daemon and its clients, as environment.
    settings: Vec<(&'static str, String)>,
    before: BTreeMap<&'static str, String>,
    finished: bool,
}

/// The kubectls that tests/setup.sh puts into .tools: the newest, and one of 1.32.
pub fn kubectls() -> Vec<PathBuf> {
    let [newest, older] = ["kubectl", "1.32/kubectl"].map(|name| root().join(".tools").join(name));
    assert!(newest.is_file(), "run tests/setup.sh first: {} is missing", newest.display());
    if older.is_file() {
        return vec![newest, older];
    }
    eprintln!("SKIPPED: there is no {}; only the newest is tried", older.display());
    assert!(std::env::var_os("REQUIRE_KUBECTL").is_none(), "REQUIRE_KUBECTL is set");
    vec![newest]
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Where tests/run.sh put the sample images.
pub fn image_archive(name: &str) -> PathBuf {
    let directory =
        std::env::var_os("JOEY_TEST_IMAGES").map_or(root().join("images/out"), PathBuf::from);
    let path = directory.join(name);
    assert!(path.is_file(), "build the sample images first (make images): {}", path.display());
    path
}

impl Cluster {
    /// Starts with all sample images imported and the newest kubectl.
    pub fn start(name: &str) -> Cluster {
        let kubectl = kubectls().remove(0);
        Cluster::start_with(name, kubectl)
    }

    pub fn start_with(name: &str, kubectl: PathBuf) -> Cluster {
        require_root();
        fresh_namespaces();
        Cluster::here(name, kubectl, Vec::new())
    }

    /// Starts a further one in the namespaces of this thread, told apart by `settings` (`JOEY_…`).
    pub fn start_beside(name: &str, settings: &[(&'static str, &str)]) -> Cluster {
        let settings = settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Cluster::here(name, kubectls().remove(0), settings)
    }

    fn here(name: &str, kubectl: PathBuf, settings: Vec<(&'static str, String)>) -> Cluster {
        let dir = PathBuf::from(format!("/tmp/joey-test-{}-{name}", std::process::id()));
        // A run that was killed may have left a directory with the same process id.
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("home")).expect("a test directory can be made");
        let before = leaks(&dir);
        let mut cluster = Cluster { dir, kubectl, daemon: None, settings, before, finished: false };
        for archive in
            ["kangaroo-backend-1.14.2", "kangaroo-backend-1.15", "kangaroo-backend-1.16", "toolbox"]
        {
            let path = image_archive(&format!("{archive}.oci.tar"));
            cluster.joey(&["image", "import", &path.display().to_string()]).ok();
        }
        cluster.start_daemon();
        cluster
    }

    pub fn use_kubectl(&mut self, kubectl: &Path) {
        self.kubectl = kubectl.to_owned();
    }

    /// Absent, unless a test makes it.
    pub fn manifests_dir(&self) -> PathBuf {
        self.dir.join("manifests")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// `joey`, told where this cluster is.
    pub fn joey_command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_joey"));
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.dir.join("home"))
            .env("JOEY_DATA_DIR", self.data_dir())
            .env("JOEY_RUN_DIR", self.run_dir())
            .env("JOEY_MANIFESTS_DIR", self.manifests_dir());
        for (name, value) in &self.settings {
            command.env(name, value);
        }
        command
    }

    /// Runs `joey ARGS…` against this cluster.
    pub fn joey(&self, args: &[&str]) -> Ran {
        Ran::of(self.joey_command().args(args).stdin(Stdio::null()).output().expect("joey can run"))
    }

    pub fn start_daemon(&mut self) {
        self.spawn_daemon(&[]);
        self.wait_for_daemon();
    }

    /// Starts the daemon, under `wrapper` if that is not empty, and does not wait for it.
    pub fn spawn_daemon(&mut self, wrapper: &[&str]) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("daemon.log"))
            .expect("the daemon's log can be opened");
        let joey = self.joey_command();
        let mut command = match wrapper.split_first() {
            None => joey,
            Some((program, args)) => {
                let mut command = Command::new(program);
                command.args(args).arg(joey.get_program()).env_clear();
                command.envs(joey.get_envs().filter_map(|(name, value)| Some((name, value?))));
                command
            }
        };
        let child = command
            .args(["serve", "--log-level", "debug"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor can be doubled"))
            .stderr(log)
            .spawn()
            .expect("the daemon can be started");
        self.daemon = Some(child);
    }

    /// Waits until the API answers and the node is Ready.
    pub fn wait_for_daemon(&mut self) {
        self.wait_for("the API is ready", |cluster| {
            if let Some(status) = cluster.daemon.as_mut().and_then(|d| d.try_wait().ok().flatten())
            {
                panic!("the daemon ended with {status}\n{}", cluster.daemon_log());
            }
            cluster.kubectl(&["get", "--raw", "/readyz"]).stdout == "ok"
        });
        self.wait_for("the node is ready", |cluster| {
            let args = [
                "get",
                "nodes",
                "-o",
                "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}",
            ];
            cluster.kubectl(&args).stdout == "True"
        });
    }

    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("a daemon runs").id()
    }

    /// kill -9, and waits until the process is gone. Its pods are not told.
    pub fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        daemon.kill().expect("the daemon can be killed");
        daemon.wait().expect("the daemon can be waited for");
    }

    /// Whether the daemon still runs; once it does not, another one may be started.
    pub fn daemon_is_alive(&mut self) -> bool {
        let Some(daemon) = &mut self.daemon else { return false };
        let has_ended = daemon.try_wait().expect("the daemon can be waited for").is_some();
        if has_ended {
            self.daemon = None;
        }
        !has_ended
    }

    /// SIGTERM, and its exit code.
    pub fn stop_daemon(&mut self) -> i32 {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        let pid = nix::unistd::Pid::from_raw(daemon.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)
            .expect("the daemon can be signalled");
        daemon.wait().expect("the daemon can be waited for").code().unwrap_or(-1)
    }

    pub fn daemon_log(&self) -> String {
        let text = fs::read_to_string(self.dir.join("daemon.log")).unwrap_or_default();
        let tail: Vec<&str> = text.lines().rev().take(60).collect();
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.dir.join("home"))
            .env("KUBECONFIG", self.data_dir().join("admin.kubeconfig"))
            .current_dir(&self.dir);
        command
    }

    /// Runs `kubectl ARGS…`.
    pub fn kubectl(&self, args: &[&str]) -> Ran {
        Ran::of(
            self.kubectl_command()
                .args(args)
                .stdin(Stdio::null())
                .output()
                .expect("kubectl can run"),
        )
    }

    /// Runs `kubectl ARGS…` with `input` on its standard input.
    pub fn kubectl_with(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut child = self
            .kubectl_command()
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl can run");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let input = input.to_owned();
        let writer = std::thread::spawn(move || {
            // kubectl may end before it has read everything; that is its right.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().expect("kubectl can be waited for");
        writer.join().expect("the writer does not panic");
        Ran::of(output)
    }

    pub fn apply(&self, manifest: &str) -> Ran {
        self.kubectl_with(&["apply", "-f", "-"], manifest.as_bytes())
    }

    /// A value of an object by JSONPath, empty when the object or the value is absent.
    pub fn value(&self, object: &str, path: &str) -> String {
        self.kubectl(&["get", object, "-o", &format!("jsonpath={path}")]).stdout
    }

    /// Polls until `condition` holds; fails the test with the daemon's log after [`PATIENCE`].
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, mut condition: impl FnMut(&mut Cluster) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !condition(self) {
            if Instant::now() > end {
                let pods = self.kubectl(&["get", "pods", "-A", "-o", "wide"]).stdout;
                let events = self.kubectl(&["get", "events", "-A"]).stdout;
                panic!("not within {PATIENCE:?}: {what}\n{pods}\n{events}\n{}", self.daemon_log());
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    #[track_caller]
    pub fn wait_running(&mut self, pod: &str) {
        let object = format!("pod/{pod}");
        self.wait_for(&format!("{object} is Ready"), |cluster| {
            cluster.value(&object, "{.status.conditions[?(@.type=='Ready')].status}") == "True"
        });
    }

    /// Fetches a URL with curl from the host's side of this cluster's network.
    pub fn fetch(&self, url: &str) -> Ran {
        Ran::of(
            Command::new("curl")
                .args(["-sS", "--max-time", "10", url])
                .output()
                .expect("curl can run"),
        )
    }

    /// Stops everything with `joey reset --yes` and demands that nothing is left.
    pub fn finish(mut self) {
        if self.daemon.is_some() {
            self.stop_daemon();
        }
        self.joey(&["reset", "--yes"]).ok();
        let after = leaks(&self.dir);
        for (what, before) in &self.before {
            assert_eq!(Some(before), after.get(what), "left behind: {what}");
        }
        self.finished = true;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.finished {
            if let Some(mut daemon) = self.daemon.take() {
                let _ = daemon.kill();
                let _ = daemon.wait();
            }
            let _ = self.joey(&["reset", "--yes"]);
            if std::thread::panicking() {
                eprintln!("the daemon's log:\n{}", self.daemon_log());
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn require_root() {
    assert!(nix::unistd::geteuid().is_root(), "this test makes namespaces: run it as root");
}

/// Gives this thread, and whatever it starts, an empty network and a private copy of the mounts.
pub fn fresh_namespaces() {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("namespaces can be made");
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .expect("mounts can be made private");
    // A daemon under test must not ask this host's service manager for units.
    if Path::new("/run/systemd/system").is_dir() {
        mount(Some("none"), "/run/systemd", Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .expect("the service manager can be hidden");
    }
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip can run");
    assert!(up.success(), "the loopback comes up");
}

/// What a Joey could leave behind on this machine, as text to compare (faults.md, the leak check).
pub fn leaks(dir: &Path) -> BTreeMap<&'static str, String> {
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().expect("a standard tool can run");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let sorted = |text: String| {
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    };
    // Mount ids and peer groups differ from run to run; places and types do not.
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo can be read");
    let mounts = mounts.lines().map(|line| line.split(' ').skip(3).collect::<Vec<_>>().join(" "));
    let mine = dir.display().to_string();
    let processes = fs::read_dir("/proc")
        .expect("/proc can be read")
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
            // Another test's directory may begin with the same words.
            let shown = String::from_utf8_lossy(&environment).contains(&format!("{mine}/"));
            // kubectl and joey clients of this test have ended by the time of the check.
            shown.then(|| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default())
        })
        .collect::<Vec<_>>()
        .concat();
    BTreeMap::from([
        ("mounts", mounts.collect::<Vec<_>>().join("\n")),
        ("links", sorted(run("ip", &["-o", "link"]))),
        ("addresses", run("ip", &["-o", "addr"])),
        ("routes", run("ip", &["route", "show", "table", "all"])),
        ("rules", run("ip", &["rule"])),
        ("nftables", without_counts(&without_callers(&run("nft", &["list", "ruleset"])))),
        ("processes", processes),
        (
            "directories",
            sorted(without_versions(&run(
                "find",
                &[&format!("{mine}/data"), &format!("{mine}/run")],
            ))),
        ),
    ])
}

/// A ruleset without who has connections just now: the kernel forgets them some time after the last one.
fn without_callers(rules: &str) -> String {
    rules.split_inclusive('\n').filter(|line| !line.contains(" ct count over ")).collect()
}

/// Paths without when a volume was written last (`..2026_11_27_03_34_41.358206227`): a renewed token makes it anew.
fn without_versions(paths: &str) -> String {
    fn place(part: &str) -> &str {
        match part.strip_prefix("..") {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit()) => "..version",
            _ => part,
        }
    }
    let path = |line: &str| line.split('/').map(place).collect::<Vec<_>>().join("/") + "\n";
    paths.lines().map(path).collect()
}

/// A ruleset without what its counters have counted.
fn without_counts(rules: &str) -> String {
    let mut counts = false;
    let words = rules.split_inclusive([' ', '\n']).filter(|word| {
        let is_count = std::mem::replace(&mut counts, matches!(*word, "packets " | "bytes "));
        !is_count
    });
    words.collect()
}
