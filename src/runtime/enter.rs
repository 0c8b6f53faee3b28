//! A further process in a running container: from a child of the shim to `execve` inside.
//!
//! ```text
//! shim ─ clone3 into the container's cgroup ─▶ outer: namespaces, streams, identity, confinement
//!                                                └─ clone(CLONE_PARENT) ─▶ inner: execve
//! ```
//! Two stages, since the container sees a process as soon as that is in its pid namespace, and may trace it
//! when it has CAP_SYS_PTRACE: the inner one is born with nothing but its streams and the container's own
//! rights (CVE-2016-9962), runs from a sealed image (CVE-2019-5736) and is the shim's own child. The shim
//! is in the pod's network, IPC and UTS namespaces already.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::init::{self, Program, Report, Stdio};
use super::plan::{ExecPlan, PidPlan};
use super::privileges::{Compiled, Privileges};
use super::protocol::Failure;
use super::{At, failed};
use crate::sys::files;
use crate::sys::process;
use crate::sys::spawn::{self, Birth, Fork, Parent};

/// What the shim hands to its child.
pub struct Orders<'a> {
    pub plan: &'a ExecPlan,
    pub compiled: &'a Compiled,
    /// pidfd of the container's first process.
    pub container: BorrowedFd<'a>,
    pub pid: PidPlan,
    pub stdio: Stdio,
    pub report: OwnedFd,
}

/// Enters the container and becomes the program.
pub fn run(orders: Orders<'_>) -> ! {
    let report = Report::new(orders.report);
    match enter(orders.plan, orders.compiled, orders.container, orders.pid, orders.stdio, &report) {
        Ok(never) => match never {},
        Err(failure) => report.fail(&failure),
    }
}

fn enter(
    plan: &ExecPlan,
    compiled: &Compiled,
    container: BorrowedFd<'_>,
    pid: PidPlan,
    stdio: Stdio,
    report: &Report,
) -> Result<std::convert::Infallible, Failure> {
    process::reset_signals();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let privileges = Privileges::prepare(&plan.security, compiled)?;
    let _ = std::fs::write("/proc/self/oom_score_adj", plan.security.oom_score_adj.to_string());

    let mut namespaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP;
    if pid == PidPlan::PerContainer {
        namespaces |= CloneFlags::CLONE_NEWPID;
    }
    // setns(2) with a mount namespace moves root and working directory to the container's.
    nix::sched::setns(container, namespaces).map_err(|error| match error {
        nix::Error::ESRCH => Failure::NotRunning { container: plan.container.clone() },
        error => failed("enter namespaces", error),
    })?;
    let root = rustix::fs::open("/", files::DIRECTORY, Mode::empty()).at("open root")?;
    let cwd = init::open_cwd(root.as_fd(), &plan.process)?;
    init::set_limits();
    match process::join_new_session_keyring() {
        Err(error) if error.raw_os_error() != Some(libc::ENOSYS) => {
            return Err(failed("join session keyring", error));
        }
        Ok(()) | Err(_) => {}
    }
    let terminal = match &stdio {
        Stdio::Terminal => {
            let devpts = open_devpts(root.as_fd())?;
            Some(init::open_terminal(devpts.as_fd(), plan.security.uid, report)?.slave)
        }
        Stdio::Streams { stdin, stdout, stderr } => {
            let (stdin, stdout, stderr) = (stdin.as_fd(), stdout.as_fd(), stderr.as_fd());
            init::own_streams([stdin, stdout, stderr], plan.security.uid);
            init::take_streams(stdin, stdout, stderr).at("set up standard streams")?;
            None
        }
    };
    init::enter_cwd(&cwd, &plan.process)?;
    drop((root, cwd, stdio));
    // What the shim had open was copied with the fork: its pod's directory, its connections. O_CLOEXEC acts
    // later than whoever traces the inner stage.
    let keep: Vec<BorrowedFd<'_>> =
        terminal.iter().map(AsFd::as_fd).chain([report.as_fd()]).collect();
    process::close_all_from(3, &keep).at("close descriptors")?;
    let program = Program::find(&plan.process, &privileges)?;
    privileges.confine_for_fork()?;

    // The inner stage is the shim's child: the shim signals it and collects its end.
    let birth =
        Birth { namespaces: CloneFlags::empty(), cgroup: None, parent: Parent::CallersParent };
    match spawn::fork(birth).at("fork")? {
        Fork::Parent(child) => {
            report.ready(Some(child.pidfd.as_fd())).at("report")?;
            process::exit_now(0)
        }
        Fork::Child => {
            rustix::process::setsid().at("setsid")?;
            if let Some(slave) = &terminal {
                init::take_terminal(slave.as_fd())?;
            }
            drop(terminal);
            report.ready(None).at("report")?;
            privileges.finish()?;
            program.execute()
        }
    }
}

/// The devpts at the container's /dev/pts: reached without following a link, and really a devpts.
fn open_devpts(root: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    /// DEVPTS_SUPER_MAGIC of linux/magic.h.
    const DEVPTS_MAGIC: i64 = 0x1cd1;
    let at = "open /dev/pts";
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let devpts = files::open_confined(root, "dev/pts", flags, Mode::empty(), resolve).at(at)?;
    let system = rustix::fs::fstatfs(&devpts).at(at)?;
    if system.f_type != DEVPTS_MAGIC {
        return Err(failed(at, "not a devpts"));
    }
    Ok(devpts)
}
