//! The shim's side of a start: directory, cgroup, limits, log, pipes, and the child.
//!
//! It never enters a namespace itself; what happens inside is `init`'s and `enter`'s.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;
use rustix::pipe::{PipeFlags, pipe_with};

use super::limits::Scope;
use super::plan::{ContainerPlan, ExecPlan, Limits, PidPlan, StdinPlan};
use super::protocol::Failure;
use super::{At, enter, failed, init, limits, state, zygote};
use crate::sys::cgroup::Cgroup;
use crate::sys::spawn::{self, Birth, Child, Fork, Parent};
use crate::sys::{bpf, files, process, socket};

/// The pod that containers are started in.
pub struct Pod {
    pub directory: OwnedFd,
    pub cgroup: Cgroup,
    pub pid: PidPlan,
    /// /dev/shm of the pod; `None`: the host's.
    pub shm: Option<OwnedFd>,
    pub prepared: zygote::Prepared,
}

/// The shim's ends of a process's streams.
#[derive(Debug, Default)]
pub struct Streams {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// A process on its way to `execve`.
pub struct Started {
    pub child: Child,
    /// Where it reports: see [`init::Report`].
    pub report: OwnedFd,
    pub streams: Streams,
}

/// A container on its way.
pub struct StartedContainer {
    pub process: Started,
    pub directory: OwnedFd,
    pub cgroup: Cgroup,
}

/// Applies limits; a limit that cannot be applied is a failure that names its controller.
pub fn apply_limits(cgroup: &Cgroup, limits: &Limits, scope: Scope) -> Result<(), Failure> {
    for write in limits::writes(limits, scope) {
        match cgroup.write(&write.file, &write.value) {
            Ok(()) => {}
            Err(_) if write.optional => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let controller = write.controller;
                let reason = format!(
                    "{}: the cgroup v2 controller {controller:?} is not available",
                    write.file
                );
                return Err(failed("apply limits", reason));
            }
            Err(error) => {
                return Err(failed(
                    "apply limits",
                    format!("{} = {}: {error}", write.file, write.value),
                ));
            }
        }
    }
    Ok(())
}

/// Starts a container's first process.
pub fn container(pod: &Pod, plan: &ContainerPlan) -> Result<StartedContainer, Failure> {
    let name = state::attempt(&plan.name, plan.attempt);
    let all = files::ensure_directory(pod.directory.as_fd(), state::CONTAINERS)
        .at("make state directory")?;
    let directory = files::ensure_directory(all.as_fd(), &name).at("make state directory")?;
    // An attempt that is repeated, after one that failed half-way, must not inherit its end.
    for file in [state::STATE, state::EXIT] {
        match rustix::fs::unlinkat(&directory, file, rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(failed("clear old state", error)),
        }
    }
    state::write(directory.as_fd(), state::PLAN, plan).at("write plan")?;
    let cgroup = pod.cgroup.ensure(&name).at("make cgroup")?;
    apply_limits(&cgroup, &plan.limits, Scope::Container)?;
    let below = if plan.security.privileged { limits::PRIVILEGED_GROUPS } else { 0 };
    cgroup.write("cgroup.max.descendants", &below.to_string()).at("bound the groups below it")?;
    if !plan.security.privileged {
        let program = pod.prepared.device_program.as_ref().at("load device program")?;
        bpf::attach_device_program(cgroup.as_fd(), program.as_fd()).at("attach device program")?;
    }
    let (stdio, streams) = streams(plan.tty, plan.stdin != StdinPlan::Closed)?;
    let (ours, theirs) = socket::message_pair().at("make report socket")?;
    let namespaces = match pod.pid {
        PidPlan::PerContainer => CloneFlags::CLONE_NEWPID,
        PidPlan::Host => CloneFlags::empty(),
    };
    let birth = Birth { namespaces, cgroup: Some(cgroup.as_fd()), parent: Parent::Caller };
    match spawn::fork(birth).at("fork")? {
        Fork::Parent(child) => Ok(StartedContainer {
            process: Started { child, report: ours, streams },
            directory,
            cgroup,
        }),
        Fork::Child => init::run(init::Orders {
            plan,
            compiled: &pod.prepared.compiled,
            shm: pod.shm.as_ref().map_or(init::Shm::Host, |shm| init::Shm::Pod(shm.as_fd())),
            stdio,
            report: init::Report::new(theirs),
        }),
    }
}

/// Starts a further process in a container. All streams are the caller's to pass on.
pub fn exec(
    pod: &Pod,
    plan: &ExecPlan,
    container: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
) -> Result<Started, Failure> {
    let (stdio, streams) = streams(plan.tty, plan.stdin)?;
    let (ours, theirs) = socket::message_pair().at("make report socket")?;
    let birth =
        Birth { namespaces: CloneFlags::empty(), cgroup: Some(cgroup), parent: Parent::Caller };
    match spawn::fork(birth).at("fork")? {
        Fork::Parent(child) => Ok(Started { child, report: ours, streams }),
        Fork::Child => enter::run(enter::Orders {
            plan,
            compiled: &pod.prepared.compiled,
            container,
            pid: pod.pid,
            stdio,
            report: theirs,
        }),
    }
}

/// Both ends of what a process reads and writes; a terminal is made by the process itself.
fn streams(tty: bool, stdin: bool) -> Result<(init::Stdio, Streams), Failure> {
    if tty {
        return Ok((init::Stdio::Terminal, Streams::default()));
    }
    let pipe = || pipe_with(PipeFlags::CLOEXEC).at("make pipe");
    let (stdin_read, stdin_write) = if stdin {
        let (read, write) = pipe()?;
        (read, Some(write))
    } else {
        (zygote::open_null().at("open /dev/null")?, None)
    };
    let (out_read, out_write) = pipe()?;
    let (error_read, error_write) = pipe()?;
    Ok((
        init::Stdio::Streams { stdin: stdin_read, stdout: out_write, stderr: error_write },
        Streams { stdin: stdin_write, stdout: Some(out_read), stderr: Some(error_read) },
    ))
}

/// Lets go of a start that failed.
pub fn abandon(pod: &Pod, plan: &ContainerPlan) {
    let name = state::attempt(&plan.name, plan.attempt);
    // Both stay harmless when they cannot be removed: the next attempt or the pod's end tries
    // again.
    let _ = pod.cgroup.remove(&name);
    process::trim_heap();
}
