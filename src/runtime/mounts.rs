//! Everything mounted in a container: /proc, /sys, /dev, masks and volumes.
//!
//! All by descriptor. Sources are opened before the container's mount namespace exists, targets are
//! resolved in the container's root; no path string crosses a directory that a container owns
//! (CVE-2019-19921, CVE-2021-30465, CVE-2025-31133, CVE-2025-52565, CVE-2026-41579).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::plan::{MountPlan, MountSource, Propagation};
use super::protocol::Failure;
use super::{At, failed};
use crate::sys::files::{self, Missing};
use crate::sys::mount::{self, Propagate, Reach};

pub mod devices;

const NOSUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
const NODEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
const NOEXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

/// PROC_SUPER_MAGIC of linux/magic.h.
const PROC_MAGIC: i64 = 0x9fa0;

/// Paths below /proc and /sys that tell or change too much of the host: hidden.
const MASKED: [&str; 13] = [
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kallsyms",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "proc/timer_stats",
    "sys/devices/virtual/powercap",
    "sys/firmware",
];

/// Paths that stay visible and cannot be written.
const READ_ONLY_PATHS: [&str; 5] =
    ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

/// What of the pod and the plan shapes the kernel's own file systems.
pub struct Surroundings<'a> {
    /// All devices, no masks, writable /sys.
    pub privileged: bool,
    pub mask_proc: bool,
    /// A copy of the pod's /dev/shm.
    pub shm: &'a OwnedFd,
}

/// A volume's source, opened while the host was in sight.
pub struct Source {
    tree: OwnedFd,
    missing: Missing,
}

impl Source {
    /// What its mount point has to be.
    pub fn missing(&self) -> Missing {
        self.missing
    }
}

/// Opens the source of one mount, in the host's mount namespace.
pub fn open_source(plan: &MountPlan) -> Result<Source, Failure> {
    let cannot =
        |error: io::Error| Failure::CannotRun { reason: format!("mount {}: {error}", plan.target) };
    let (tree, missing) = match &plan.source {
        MountSource::Bind { path, sub_path } => {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let base = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| {
                Failure::CannotRun {
                    reason: format!("mount {}: {}: {error}", plan.target, path.display()),
                }
            })?;
            let place = match sub_path {
                None => base,
                Some(below) => ensure_beneath(base.as_fd(), below).map_err(cannot)?,
            };
            let is_directory = is_directory(place.as_fd()).map_err(cannot)?;
            let tree = mount::copy(place.as_fd(), Reach::Tree).map_err(cannot)?;
            (tree, if is_directory { Missing::Directory } else { Missing::File })
        }
        MountSource::Tmpfs { size_bytes, mode } => {
            let mode = format!("{mode:o}");
            let size = size_bytes.map(|bytes| bytes.to_string());
            let mut options = vec![("mode", mode.as_str())];
            options.extend(size.as_deref().map(|size| ("size", size)));
            let tree = mount::fresh("tmpfs", &options, MountAttrFlags::empty()).map_err(cannot)?;
            (tree, Missing::Directory)
        }
    };
    let mut attributes = MountAttrFlags::empty();
    if plan.nosuid_nodev {
        attributes |= NOSUID | NODEV;
    }
    if plan.read_only {
        attributes |= READ_ONLY;
    }
    let propagate = match plan.propagation {
        Propagation::Private => Propagate::Private,
        Propagation::HostToContainer => Propagate::Slave,
        Propagation::Bidirectional => Propagate::Shared,
    };
    mount::set_attributes(tree.as_fd(), Reach::Tree, attributes, propagate).map_err(cannot)?;
    Ok(Source { tree, missing })
}

/// Opens `path` below a volume, making missing directories; nothing leads out of it
/// (CVE-2021-25741).
fn ensure_beneath(base: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match files::open_confined(base, path, OFlags::PATH, Mode::empty(), resolve) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let mut walked = String::new();
    for component in path.split('/').filter(|c| !matches!(*c, "" | ".")) {
        if component == ".." {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let parent = if walked.is_empty() { "." } else { walked.as_str() };
        let parent = files::open_confined(base, parent, files::DIRECTORY, Mode::empty(), resolve)?;
        match mkdirat(parent, component, Mode::from_raw_mode(0o750)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        walked.push_str(if walked.is_empty() { "" } else { "/" });
        walked.push_str(component);
    }
    files::open_confined(base, path, OFlags::PATH, Mode::empty(), resolve)
}

fn is_directory(place: BorrowedFd<'_>) -> io::Result<bool> {
    let stat = rustix::fs::fstat(place)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Attaches an opened source at the plan's target in the container's root.
pub fn attach(root: BorrowedFd<'_>, plan: &MountPlan, source: &Source) -> Result<(), Failure> {
    let cannot =
        |reason: String| Failure::CannotRun { reason: format!("mount {}: {reason}", plan.target) };
    let target = files::ensure_in_root(root, &plan.target, source.missing)
        .map_err(|error| cannot(error.to_string()))?;
    let system = rustix::fs::fstatfs(&target).map_err(|error| cannot(error.to_string()))?;
    if system.f_type == PROC_MAGIC {
        return Err(cannot("a volume cannot be mounted inside /proc".to_owned()));
    }
    mount::attach(&source.tree, target.as_fd()).map_err(|error| cannot(error.to_string()))
}

/// /proc, /sys, /sys/fs/cgroup and /dev. Returns the root of the container's devpts.
pub fn attach_system(
    root: BorrowedFd<'_>,
    surroundings: &Surroundings<'_>,
) -> Result<OwnedFd, Failure> {
    let at = "mount /proc";
    let proc = mount::fresh("proc", &[], NOSUID | NODEV | NOEXEC).at(at)?;
    mount::attach(&proc, ordinary_directory(root, "proc")?.as_fd()).at(at)?;

    let at = "mount /sys";
    let access = if surroundings.privileged { MountAttrFlags::empty() } else { READ_ONLY };
    let sys = mount::fresh("sysfs", &[], NOSUID | NODEV | NOEXEC | access).at(at)?;
    mount::attach(&sys, ordinary_directory(root, "sys")?.as_fd()).at(at)?;

    let at = "mount /sys/fs/cgroup";
    let cgroup = mount::fresh("cgroup2", &[], NOSUID | NODEV | NOEXEC | access).at(at)?;
    let flags = files::DIRECTORY | OFlags::NOFOLLOW;
    let place = openat(&sys, "fs/cgroup", flags, Mode::empty()).at(at)?;
    mount::attach(&cgroup, place.as_fd()).at(at)?;

    let devices = devices::attach(root, surroundings)?;
    if !surroundings.privileged {
        mask(&proc, &sys, &devices, surroundings.mask_proc)?;
    }
    Ok(devices.terminals)
}

/// Covers what must not be seen and write-protects what must not be changed. The sources are ours:
/// the null device made a moment ago, and one empty read-only directory (CVE-2025-31133).
fn mask(
    proc: &OwnedFd,
    sys: &OwnedFd,
    devices: &devices::Devices,
    mask_proc: bool,
) -> Result<(), Failure> {
    let nothing = mount::fresh(
        "tmpfs",
        &[("size", "0"), ("mode", "555")],
        NOSUID | NODEV | NOEXEC | READ_ONLY,
    )
    .at("mask")?;
    // A detached mount cannot be copied before Linux 6.15, so the first directory gets the
    // original.
    let mut first = Some(&nothing);
    let base_of = |path: &str| match path.starts_with("proc/") {
        true => proc.as_fd(),
        false => sys.as_fd(),
    };
    let is_wanted = |path: &&&str| mask_proc || !path.starts_with("proc/");
    let throttles = thermal_throttles(sys.as_fd());
    let masked = MASKED.iter().filter(is_wanted).copied();
    for path in masked.chain(throttles.iter().map(String::as_str)) {
        let name = |error: io::Error| failed("mask", format!("/{path}: {error}"));
        let rest = path.split_once('/').map_or(path, |(_, rest)| rest);
        let Some(target) = kernel_path(base_of(path), rest).map_err(name)? else {
            continue;
        };
        if !is_directory(target.as_fd()).map_err(name)? {
            let null = mount::copy(devices.null.as_fd(), Reach::This).map_err(name)?;
            mount::attach(&null, target.as_fd()).map_err(name)?;
        } else if let Some(original) = first.take() {
            mount::attach(original, target.as_fd()).map_err(name)?;
        } else {
            let copy = mount::copy(nothing.as_fd(), Reach::This).map_err(name)?;
            mount::attach(&copy, target.as_fd()).map_err(name)?;
        }
    }
    for path in READ_ONLY_PATHS.iter().filter(is_wanted).copied() {
        let name = |error: io::Error| failed("write-protect", format!("/{path}: {error}"));
        let rest = path.split_once('/').map_or(path, |(_, rest)| rest);
        let Some(target) = kernel_path(base_of(path), rest).map_err(name)? else {
            continue;
        };
        let copy = mount::copy(target.as_fd(), Reach::Tree).map_err(name)?;
        let attributes = READ_ONLY | NOSUID | NODEV | NOEXEC;
        mount::set_attributes(copy.as_fd(), Reach::Tree, attributes, Propagate::Unchanged)
            .map_err(name)?;
        mount::attach(&copy, target.as_fd()).map_err(name)?;
    }
    Ok(())
}

/// Per-processor counters that tell what others compute, a side channel; containerd hides them too.
fn thermal_throttles(sys: BorrowedFd<'_>) -> Vec<String> {
    const MOST: usize = 8192;
    (0..MOST)
        .map(|number| format!("devices/system/cpu/cpu{number}"))
        .take_while(|cpu| matches!(kernel_path(sys, cpu), Ok(Some(_))))
        .map(|cpu| format!("sys/{cpu}/thermal_throttle"))
        .collect()
}

/// An entry of a fresh kernel file system, if this kernel has it; links are no entries.
fn kernel_path(base: BorrowedFd<'_>, path: &str) -> io::Result<Option<OwnedFd>> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match files::open_confined(base, path, OFlags::PATH, Mode::empty(), resolve) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// `name` in the container's root: a real directory, made when absent, never a link.
fn ordinary_directory(root: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Failure> {
    match mkdirat(root, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(failed("make mount point", error)),
    }
    openat(root, name, files::DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).map_err(|_| {
        Failure::CannotRun { reason: format!("/{name} of the image must be an ordinary directory") }
    })
}
