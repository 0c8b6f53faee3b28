//! From a fresh process to the container's program: namespaces, mounts, identity, `execve`.
//!
//! ```text
//! sources opened → mount and cgroup namespace → overlay → /proc /sys /dev → volumes → cwd → pivot
//!   → keyring → ids, capabilities, seccomp → execve
//! ```
//! Runs in a child of the shim for some milliseconds and either becomes the program or says why
//! not. It never executes, loads or looks up anything of the image before it is confined, and never
//! returns.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;
use rustix::fs::Mode;
use rustix::mount::MountAttrFlags;
use rustix::net::SendFlags;
use rustix::process::{Resource, Rlimit};

use super::mounts::{self, Surroundings};
use super::plan::{ContainerPlan, ProcessPlan};
use super::points::Points;
use super::privileges::{Compiled, Privileges};
use super::protocol::Failure;
use super::{At, failed, program, rootfs};
use crate::sys::files::{self, Missing};
use crate::sys::mount::{Propagate, Reach};
use crate::sys::{self, process};

/// What the shim hands to its child.
pub struct Orders<'a> {
    pub plan: &'a ContainerPlan,
    pub compiled: &'a Compiled,
    pub shm: Shm<'a>,
    pub stdio: Stdio,
    pub report: Report,
}

/// Where a container's /dev/shm comes from.
#[derive(Clone, Copy)]
pub enum Shm<'a> {
    /// The pod's own.
    Pod(BorrowedFd<'a>),
    Host,
}

/// Where a process's first three descriptors lead.
pub enum Stdio {
    Streams {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// A terminal of the container's own devpts, made here.
    Terminal,
}

/// The socket on which a starting process tells the shim how it goes. Closed by `execve`.
pub struct Report {
    socket: OwnedFd,
}

/// First byte of a report.
pub const TERMINAL: u8 = b'T';
pub const READY: u8 = b'R';
pub const FAILED: u8 = b'F';

impl Report {
    pub fn new(socket: OwnedFd) -> Report {
        Report { socket }
    }

    /// The master of the terminal that the process will use.
    pub fn terminal(&self, master: BorrowedFd<'_>) -> io::Result<()> {
        sys::socket::send(self.socket.as_fd(), &[TERMINAL], &[master], SendFlags::empty()).map(drop)
    }

    /// A process of the given pidfd goes on in this one's place.
    pub fn ready(&self, successor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let descriptors: Vec<BorrowedFd<'_>> = successor.into_iter().collect();
        sys::socket::send(self.socket.as_fd(), &[READY], &descriptors, SendFlags::empty()).map(drop)
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The end: says why, and ends the process.
    pub fn fail(&self, failure: &Failure) -> ! {
        let mut bytes = vec![FAILED];
        bytes.extend(serde_json::to_vec(failure).expect("made of strings"));
        // Nobody is left to hear that nobody listens.
        let _ = sys::socket::send(self.socket.as_fd(), &bytes, &[], SendFlags::empty());
        process::exit_now(127)
    }
}

/// Becomes the container's first process.
pub fn run(orders: Orders<'_>) -> ! {
    let report = Report { socket: orders.report.socket };
    match become_program(orders.plan, orders.compiled, orders.shm, orders.stdio, &report) {
        Ok(never) => match never {},
        Err(failure) => report.fail(&failure),
    }
}

fn become_program(
    plan: &ContainerPlan,
    compiled: &Compiled,
    shm: Shm<'_>,
    stdio: Stdio,
    report: &Report,
) -> Result<std::convert::Infallible, Failure> {
    process::reset_signals();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::process::setsid().at("setsid")?;
    let security = &plan.security;
    // Outside the user namespace that owns the limit a lower value needs CAP_SYS_RESOURCE; a plan
    // for such a host asks for what is permitted, so a refusal here is no failure.
    let _ = std::fs::write("/proc/self/oom_score_adj", security.oom_score_adj.to_string());
    let privileges = Privileges::prepare(security, compiled)?;
    let mut sources = Vec::with_capacity(plan.mounts.len() + 1);
    let termination_log = termination_log(plan);
    for mount in plan.mounts.iter().chain(&termination_log) {
        sources.push((mount, mounts::open_source(mount)?));
    }

    let shm = open_shm(shm).at("open /dev/shm")?;
    // Without it everything is made in the container's own directory: slower, not otherwise.
    let targets = sources.iter().map(|(mount, source)| (mount.target.as_str(), source.missing()));
    let points = Points::of(targets);
    let points = plan.rootfs.points.as_deref().and_then(|sets| points.layer(sets).ok().flatten());

    nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP)
        .at("unshare mount and cgroup namespace")?;
    rootfs::isolate()?;
    let root = rootfs::mount(&plan.rootfs, points)?;
    let surroundings =
        Surroundings { privileged: security.privileged, mask_proc: security.mask_proc, shm: &shm };
    let terminals = mounts::attach_system(root.as_fd(), &surroundings)?;
    for (mount, source) in &sources {
        mounts::attach(root.as_fd(), mount, source)?;
    }
    set_stdio(stdio, terminals.as_fd(), root.as_fd(), security.uid, report)?;
    let cwd = open_cwd(root.as_fd(), &plan.process)?;
    if plan.rootfs.read_only {
        sys::mount::set_attributes(
            root.as_fd(),
            Reach::This,
            MountAttrFlags::MOUNT_ATTR_RDONLY,
            Propagate::Unchanged,
        )
        .at("make root read-only")?;
    }
    rootfs::pivot(&root)?;
    // Nothing of the host may be held open past here.
    drop((sources, shm, terminals, root));
    set_limits();
    match process::join_new_session_keyring() {
        // A kernel without keys has none to hide.
        Err(error) if error.raw_os_error() != Some(libc::ENOSYS) => {
            return Err(failed("join session keyring", error));
        }
        Ok(()) | Err(_) => {}
    }
    enter_cwd(&cwd, &plan.process)?;
    drop(cwd);
    execute(&plan.process, &privileges, report)
}

fn open_shm(shm: Shm<'_>) -> io::Result<OwnedFd> {
    match shm {
        Shm::Pod(shared) => sys::mount::copy(shared, Reach::This),
        Shm::Host => {
            let host = rustix::fs::open("/dev/shm", files::DIRECTORY, Mode::empty())?;
            sys::mount::copy(host.as_fd(), Reach::This)
        }
    }
}

/// The termination log is a bind mount like others: writable, for any user (its host file is 0666).
fn termination_log(plan: &ContainerPlan) -> Option<super::plan::MountPlan> {
    let log = plan.termination_log.as_ref()?;
    Some(super::plan::MountPlan {
        source: super::plan::MountSource::Bind { path: log.host_file.clone(), sub_path: None },
        target: log.target.clone(),
        read_only: false,
        propagation: super::plan::Propagation::Private,
        nosuid_nodev: true,
    })
}

/// Puts the three descriptors in place.
fn set_stdio(
    stdio: Stdio,
    devpts: BorrowedFd<'_>,
    root: BorrowedFd<'_>,
    uid: u32,
    report: &Report,
) -> Result<(), Failure> {
    let at = "set up standard streams";
    match stdio {
        Stdio::Streams { stdin, stdout, stderr } => {
            own_streams([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()], uid);
            take_streams(stdin.as_fd(), stdout.as_fd(), stderr.as_fd()).at(at)
        }
        Stdio::Terminal => {
            let pty = open_terminal(devpts, uid, report)?;
            take_terminal(pty.slave.as_fd())?;
            let console = files::ensure_in_root(root, "/dev/console", Missing::File)
                .at("make /dev/console")?;
            let slave = sys::mount::copy(pty.slave.as_fd(), Reach::This).at("bind /dev/console")?;
            sys::mount::attach(&slave, console.as_fd()).at("bind /dev/console")
        }
    }
}

/// Opens a terminal in a devpts and hands its master to the shim.
pub fn open_terminal(
    devpts: BorrowedFd<'_>,
    uid: u32,
    report: &Report,
) -> Result<sys::pty::Pty, Failure> {
    let at = "open terminal";
    let pty = sys::pty::open(devpts).at(at)?;
    report.terminal(pty.master.as_fd()).at(at)?;
    rustix::fs::fchown(&pty.slave, Some(rustix::fs::Uid::from_raw(uid)), None).at(at)?;
    Ok(pty)
}

/// Makes an opened terminal this process's own; it must lead its session.
pub fn take_terminal(slave: BorrowedFd<'_>) -> Result<(), Failure> {
    let at = "take terminal";
    sys::pty::take_control(slave).at(at)?;
    take_streams(slave, slave, slave).at(at)
}

/// A program that runs as another user may open /dev/stdout again: give it the pipes.
pub fn own_streams(streams: [BorrowedFd<'_>; 3], uid: u32) {
    for stream in streams {
        let is_pipe = rustix::fs::fstat(stream).is_ok_and(|stat| {
            rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo
        });
        if is_pipe {
            // Without it only opening the stream a second time fails.
            let _ = rustix::fs::fchown(stream, Some(rustix::fs::Uid::from_raw(uid)), None);
        }
    }
}

pub fn take_streams(
    stdin: BorrowedFd<'_>,
    stdout: BorrowedFd<'_>,
    stderr: BorrowedFd<'_>,
) -> nix::Result<()> {
    nix::unistd::dup2_stdin(stdin)?;
    nix::unistd::dup2_stdout(stdout)?;
    nix::unistd::dup2_stderr(stderr)
}

/// Opens the working directory inside the root, making it when absent.
pub fn open_cwd(root: BorrowedFd<'_>, process: &ProcessPlan) -> Result<OwnedFd, Failure> {
    if process.cwd == "/" {
        return rustix::fs::openat(root, ".", files::DIRECTORY, Mode::empty()).at("open root");
    }
    files::ensure_in_root(root, &process.cwd, Missing::Directory)
        .map_err(|error| cwd_failure(process, &error))
}

/// Goes to the opened directory and makes sure that it lies inside (CVE-2024-21626).
pub fn enter_cwd(cwd: &OwnedFd, process: &ProcessPlan) -> Result<(), Failure> {
    rustix::process::fchdir(cwd).map_err(|error| cwd_failure(process, &error.into()))?;
    if process::current_directory_is_reachable() {
        return Ok(());
    }
    Err(Failure::CannotRun {
        reason: format!("current working directory {:?} is outside of the container", process.cwd),
    })
}

fn cwd_failure(process: &ProcessPlan, error: &io::Error) -> Failure {
    let words = program::words(error);
    Failure::CannotRun {
        reason: format!("chdir to cwd ({:?}) set in config failed: {words}", process.cwd),
    }
}

/// No core files (they would hold secrets); room for descriptors as container runtimes give it; of what the host's
/// users have together, half.
pub fn set_limits() {
    const SOFT: u64 = 1 << 16;
    const HARD: u64 = 1 << 20;
    let wanted = Rlimit { current: Some(SOFT), maximum: Some(HARD) };
    if rustix::process::setrlimit(Resource::Nofile, wanted).is_err() {
        // Not permitted to raise the hard limit: the host's own is what there is.
        let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
        let current = Some(maximum.map_or(SOFT, |hard| hard.min(SOFT)));
        let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current, maximum });
    }
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(Resource::Core, none);
    // The kernel counts these by user, over all containers and the host (ucounts): whatever a container takes, the
    // host's own user of that number keeps the other half.
    for counted_by_user in [Resource::Sigpending, Resource::Msgqueue] {
        let half = rustix::process::getrlimit(counted_by_user).maximum.map(|hard| hard / 2);
        let _ =
            rustix::process::setrlimit(counted_by_user, Rlimit { current: half, maximum: half });
    }
}

/// The last steps, in the container's root and working directory.
pub fn execute(
    plan: &ProcessPlan,
    privileges: &Privileges<'_>,
    report: &Report,
) -> Result<std::convert::Infallible, Failure> {
    let program = Program::find(plan, privileges)?;
    report.ready(None).at("report")?;
    privileges.confine()?;
    program.execute()
}

/// A program, found as the user who will run it.
pub struct Program {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    /// Takes on the plan's identity, and looks with its eyes.
    pub fn find(plan: &ProcessPlan, privileges: &Privileges<'_>) -> Result<Program, Failure> {
        let strings = |all: &[String]| -> Result<Vec<CString>, Failure> {
            all.iter().map(|text| CString::new(text.as_str())).collect::<Result<_, _>>().map_err(
                |_| Failure::CannotRun {
                    reason: "argument or environment holds a NUL byte".to_owned(),
                },
            )
        };
        let (arguments, environment) = (strings(&plan.argv)?, strings(&plan.env)?);
        privileges.assume_identity()?;
        process::close_on_exec_from(3).at("close descriptors")?;
        let path = program::find(plan).map_err(|reason| Failure::CannotRun { reason })?;
        Ok(Program { path, arguments, environment })
    }

    pub fn execute(&self) -> Result<std::convert::Infallible, Failure> {
        match nix::unistd::execve(&self.path, &self.arguments, &self.environment) {
            Ok(never) => Ok(never),
            Err(error) => {
                let words = program::words(&error.into());
                let reason = format!("exec {}: {words}", self.path.to_string_lossy());
                Err(Failure::CannotRun { reason })
            }
        }
    }
}
