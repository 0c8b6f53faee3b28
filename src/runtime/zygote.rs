//! The process that all shims are forked from: small, single-threaded, started before any thread
//! exists, running from a sealed copy of this program.
//!
//! It does nothing but fork: it reads no plan, touches no file of a pod, holds nothing between two
//! requests.
//!
//! ```text
//! daemon → number (u32), flags (u8) + descriptors: pod directory, listener, pod cgroup, shim cgroup[, netns]
//! zygote → number (u32), errno (i32), pid (u32)
//! ```

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use nix::sched::CloneFlags;
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::DumpableBehavior;

use super::mounts::devices;
use super::privileges::Compiled;
use super::shim;
use crate::sys::spawn::{self, Birth, Fork, Parent};
use crate::sys::{bpf, image_of_self, pidfd, process, socket};

/// argv\[0\] of the zygote; [`super::dispatch`] knows it by that.
pub const ROLE: &CStr = c"joey-zygote";

/// The daemon's end of the connection. When it goes, the zygote ends; its shims live on.
#[derive(Debug)]
pub struct Zygote {
    line: Mutex<Line>,
    pid: u32,
    pidfd: OwnedFd,
}

#[derive(Debug)]
struct Line {
    socket: OwnedFd,
    /// Of the last request. An answer that nobody waited for any more must not be taken for the next one's.
    number: u32,
}

/// Why there is no zygote.
#[derive(Debug, thiserror::Error)]
pub enum ZygoteError {
    #[error("cannot copy this program")]
    Image(#[source] io::Error),
    #[error("cannot make a socket pair")]
    Socket(#[source] io::Error),
    #[error("cannot fork")]
    Fork(#[source] io::Error),
}

/// A pod as its shim is born into it.
pub struct Launch<'a> {
    pub new_ipc: bool,
    pub new_uts: bool,
    pub directory: BorrowedFd<'a>,
    pub listener: BorrowedFd<'a>,
    pub pod_cgroup: BorrowedFd<'a>,
    pub shim_cgroup: BorrowedFd<'a>,
    /// `None`: the host's network.
    pub netns: Option<BorrowedFd<'a>>,
}

const NEW_IPC: u8 = 1;
const NEW_UTS: u8 = 2;
const REQUEST: usize = 5;
const ANSWER: usize = 12;

impl Zygote {
    /// Starts it. Must be called while this process has a single thread, and asserts that.
    pub fn spawn() -> Result<Zygote, ZygoteError> {
        let image = image_of_self::open().map_err(ZygoteError::Image)?;
        let (ours, theirs) = socket::message_pair().map_err(ZygoteError::Socket)?;
        let birth = Birth { namespaces: CloneFlags::empty(), cgroup: None, parent: Parent::Caller };
        match spawn::fork(birth).map_err(ZygoteError::Fork)? {
            Fork::Parent(child) => Ok(Zygote {
                line: Mutex::new(Line { socket: ours, number: 0 }),
                pid: child.pid,
                pidfd: child.pidfd,
            }),
            Fork::Child => {
                // Only failures return from here, and the parent sees them as the end of the
                // connection.
                let _ = nix::unistd::dup2_stdin(theirs.as_fd());
                let _ = process::close_on_exec_from(3);
                process::exec_descriptor(image.as_fd(), &[ROLE]);
                process::exit_now(127)
            }
        }
    }

    /// Forks a shim; returns its pid. Blocks for the time of a fork, at most ten seconds.
    pub fn launch(&self, launch: &Launch<'_>) -> io::Result<u32> {
        let mut flags = 0;
        if launch.new_ipc {
            flags |= NEW_IPC;
        }
        if launch.new_uts {
            flags |= NEW_UTS;
        }
        let mut descriptors =
            vec![launch.directory, launch.listener, launch.pod_cgroup, launch.shim_cgroup];
        descriptors.extend(launch.netns);
        // A std mutex, held for one question and its answer: they must not interleave.
        let mut line = self.line.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        rustix::net::sockopt::set_socket_timeout(
            line.socket.as_fd(),
            rustix::net::sockopt::Timeout::Recv,
            Some(Duration::from_secs(10)),
        )?;
        line.number = line.number.wrapping_add(1);
        let number = line.number.to_le_bytes();
        let mut request = [0; REQUEST];
        request[..4].copy_from_slice(&number);
        request[4] = flags;
        socket::send(line.socket.as_fd(), &request, &descriptors, SendFlags::empty())?;
        let mut answer = [0; ANSWER];
        loop {
            let mut none: Vec<OwnedFd> = Vec::new();
            match socket::receive(line.socket.as_fd(), &mut answer, &mut none, RecvFlags::empty())?
            {
                ANSWER => {}
                _ => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
            if answer[..4] == number {
                break;
            }
        }
        let (errno, pid) = answer[4..].split_at(4);
        match i32::from_le_bytes(errno.try_into().expect("four bytes")) {
            0 => Ok(u32::from_le_bytes(pid.try_into().expect("four bytes"))),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// It is our child and uncollected, so the number is nobody else's.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Becomes readable when the zygote has ended, which a daemon cannot mend but by restarting.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // It ends by itself when the socket closes; this only keeps a stuck one from staying.
        let _ = pidfd::signal(self.pidfd.as_fd(), libc::SIGKILL);
        let _ = pidfd::collect(self.pidfd.as_fd());
    }
}

/// What shims find ready in their memory.
pub struct Prepared {
    pub compiled: Compiled,
    /// The device program, or why it cannot be had: containers that need it then refuse to start.
    pub device_program: io::Result<OwnedFd>,
}

/// The zygote's whole life: requests come in on standard input.
pub fn run() -> ExitCode {
    let Ok(requests) = io::stdin().as_fd().try_clone_to_owned() else {
        return ExitCode::FAILURE;
    };
    // An own session: signals of the daemon's terminal are not for shims.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(ROLE);
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = rustix::process::chdir("/");
    // Shims must be the last to go when memory runs out; refused where that is not permitted.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
    // Shims are reaped by the kernel: the zygote does not care when they end.
    process::set_ignored(libc::SIGCHLD, true);
    let prepared = Prepared {
        compiled: Compiled::for_default_capabilities(),
        device_program: bpf::load_device_program(&devices::program()),
    };
    let (Ok(nothing), Ok(quiet)) = (open_null(), open_null()) else {
        return ExitCode::FAILURE;
    };
    let _ = nix::unistd::dup2_stdin(nothing.as_fd());
    let _ = nix::unistd::dup2_stdout(quiet.as_fd());
    drop((nothing, quiet));
    loop {
        let mut request = [0; REQUEST];
        let mut descriptors: Vec<OwnedFd> = Vec::with_capacity(socket::MAX_DESCRIPTORS);
        match socket::receive(requests.as_fd(), &mut request, &mut descriptors, RecvFlags::empty())
        {
            Ok(REQUEST) => {}
            // The daemon is gone.
            Ok(_) | Err(_) => return ExitCode::SUCCESS,
        }
        let mut answer = [0; ANSWER];
        answer[..4].copy_from_slice(&request[..4]);
        match fork(request[4], descriptors) {
            Ok(Forked::Shim(birth)) => {
                drop(requests);
                shim::run(birth, prepared)
            }
            Ok(Forked::Zygote(pid)) => answer[8..].copy_from_slice(&pid.to_le_bytes()),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EPROTO);
                answer[4..8].copy_from_slice(&errno.to_le_bytes());
            }
        }
        let _ = socket::send(requests.as_fd(), &answer, &[], SendFlags::empty());
    }
}

enum Forked {
    Shim(shim::Birth),
    Zygote(u32),
}

fn fork(flags: u8, descriptors: Vec<OwnedFd>) -> io::Result<Forked> {
    let mut descriptors = descriptors.into_iter();
    let mut next = || descriptors.next().ok_or(io::Error::from(io::ErrorKind::InvalidInput));
    let (directory, listener, pod_cgroup, shim_cgroup) = (next()?, next()?, next()?, next()?);
    let netns = next().ok();
    let mut namespaces = CloneFlags::empty();
    if flags & NEW_IPC != 0 {
        namespaces |= CloneFlags::CLONE_NEWIPC;
    }
    if flags & NEW_UTS != 0 {
        namespaces |= CloneFlags::CLONE_NEWUTS;
    }
    let birth = Birth { namespaces, cgroup: Some(shim_cgroup.as_fd()), parent: Parent::Caller };
    Ok(match spawn::fork(birth)? {
        Fork::Parent(child) => Forked::Zygote(child.pid),
        Fork::Child => Forked::Shim(shim::Birth {
            directory,
            listener: listener.into(),
            pod_cgroup,
            netns,
            owns_ipc: flags & NEW_IPC != 0,
            owns_uts: flags & NEW_UTS != 0,
        }),
    })
}

pub fn open_null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?)
}
