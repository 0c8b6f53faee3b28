//! What runs, fully resolved: a pod and its containers as the shim executes them.
//!
//! A plan leaves its executor no choices: numbers instead of quantities, ids instead of user names,
//! host paths instead of volumes. Plans are data; they travel over the shim protocol and lie on disk.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A pod's uid; names directories and cgroups, so it is restricted to `[a-z0-9-]`, at most 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodUid(String);

impl PodUid {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PodUid {
    type Error = String;

    fn try_from(text: String) -> Result<PodUid, String> {
        let fits = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits { Ok(PodUid(text)) } else { Err(format!("{text:?} is not a pod uid")) }
    }
}

impl From<PodUid> for String {
    fn from(uid: PodUid) -> String {
        uid.0
    }
}

/// The surroundings that the containers of one pod share. The shim is born into them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodPlan {
    pub uid: PodUid,
    /// For people reading `ps` and state files: `namespace/name`.
    pub title: String,
    pub hostname: String,
    pub network: NetworkPlan,
    /// `false`: a new IPC namespace of the pod.
    pub host_ipc: bool,
    pub pid: PidPlan,
    /// The pod's cgroup below the instance's root, e.g. `burstable/pod6b1f…`.
    pub cgroup: PathBuf,
    pub limits: Limits,
    /// Namespaced sysctls (`net.*`, `kernel.shm*` …) written before any container starts.
    pub sysctls: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum NetworkPlan {
    /// A network namespace pinned at this path.
    Pinned(PathBuf),
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidPlan {
    /// Every container is PID 1 of its own namespace.
    PerContainer,
    Host,
}

/// One start of one container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// DNS label, unique in the pod.
    pub name: String,
    /// 0 for the first start, then one more for every restart: names directories and log files.
    pub attempt: u32,
    /// The image's reference as the manifest named it at this start; empty in a record of an earlier version.
    #[serde(default)]
    pub image: String,
    pub rootfs: RootfsPlan,
    pub process: ProcessPlan,
    /// In the order in which they are mounted. /proc, /sys, /dev and what belongs below them are not
    /// listed: every container gets them.
    pub mounts: Vec<MountPlan>,
    pub security: SecurityPlan,
    pub limits: Limits,
    pub output: OutputPlan,
    pub stdin: StdinPlan,
    pub tty: bool,
    /// The signal that asks the process to end (SIGTERM, or the image's STOPSIGNAL).
    pub stop_signal: i32,
    /// Host file that collects the termination message; bind-mounted at `target` inside.
    pub termination_log: Option<TerminationLog>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TerminationLog {
    pub host_file: PathBuf,
    pub target: String,
}

/// An overlay of unpacked layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RootfsPlan {
    /// Unpacked layer directories, topmost first.
    pub lower: Vec<PathBuf>,
    /// A directory of this start alone; `upper` and `work` are made in it, and the overlay is mounted on it.
    pub scratch: PathBuf,
    /// Where mount points that containers share are kept; absent in a record of an earlier version.
    #[serde(default)]
    pub points: Option<PathBuf>,
    pub read_only: bool,
}

/// What is executed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessPlan {
    /// argv; the first element is looked up in the container's PATH when it holds no slash.
    pub argv: Vec<String>,
    /// Complete environment in order, `NAME=value`.
    pub env: Vec<String>,
    /// Absolute path inside the container; created when absent.
    pub cwd: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountPlan {
    pub source: MountSource,
    /// Absolute path inside the container, resolved in its root and created when absent.
    pub target: String,
    pub read_only: bool,
    pub propagation: Propagation,
    /// Volumes are nosuid and nodev; hostPath volumes of privileged containers are not.
    pub nosuid_nodev: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the host; with `sub_path` an entry below it, resolved beneath it and
    /// made (as a directory) when absent.
    Bind {
        path: PathBuf,
        sub_path: Option<String>,
    },
    Tmpfs {
        size_bytes: Option<u64>,
        mode: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    Private,
    HostToContainer,
    Bidirectional,
}

/// Who the process is and what it may do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SecurityPlan {
    pub uid: u32,
    pub gid: u32,
    /// The exact supplementary groups.
    pub groups: Vec<u32>,
    /// `CAP_…` names of the bounding, permitted and (for uid 0) effective sets.
    pub capabilities: Vec<String>,
    pub no_new_privs: bool,
    pub seccomp: SeccompPlan,
    /// All devices, no masks, writable /sys and /proc/sys.
    pub privileged: bool,
    /// `procMount: Default`: masked and read-only paths apply.
    pub mask_proc: bool,
    /// -1000..=1000, written to /proc/PID/oom_score_adj where permitted.
    pub oom_score_adj: i32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum SeccompPlan {
    /// Our allow-list.
    Default,
    Unconfined,
    /// A profile file of the host in the OCI JSON form.
    Localhost(PathBuf),
}

/// cgroup v2 numbers. `None` leaves the kernel's default. Whoever makes the plan has already decided
/// what a missing controller means; what stands here must be applied or the start fails.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// `cpu.weight`, 1..=10000.
    pub cpu_weight: Option<u64>,
    /// `cpu.max`: quota and period in microseconds.
    pub cpu_max: Option<CpuMax>,
    /// `memory.max` in bytes; sets `memory.swap.max` 0 beside it.
    pub memory_max_bytes: Option<u64>,
    /// `memory.min` in bytes: what is not reclaimed while others have more than their share.
    #[serde(default)]
    pub memory_min_bytes: Option<u64>,
    pub pids_max: Option<u64>,
    /// `io.weight`, 1..=10000.
    #[serde(default)]
    pub io_weight: Option<u64>,
    /// `hugetlb.SIZE.max` in bytes by the kernel's name of the size, such as `2MB`.
    #[serde(default)]
    pub huge_pages: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuMax {
    pub quota_us: u64,
    pub period_us: u64,
}

/// Where output goes: CRI log lines in `path`, rotated to `path.<timestamp>`… by the shim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutputPlan {
    pub path: PathBuf,
    pub rotate_bytes: u64,
    /// Files kept in all, the current one included.
    pub keep_files: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StdinPlan {
    /// /dev/null.
    Closed,
    Open,
    /// Closed for good when the first attached client goes.
    Once,
}

/// A further process in a running container (exec).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecPlan {
    pub container: String,
    pub process: ProcessPlan,
    pub security: SecurityPlan,
    pub tty: bool,
    pub stdin: bool,
}

/// How a container ended, as its shim recorded it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status; 128 + n for signal n.
    pub code: i32,
    pub signal: Option<i32>,
    pub oom_killed: bool,
    pub started_at: crate::model::time::Timestamp,
    pub finished_at: crate::model::time::Timestamp,
}
