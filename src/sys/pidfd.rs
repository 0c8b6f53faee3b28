//! Processes by descriptor: signals that cannot hit a recycled pid, and ends that are collected
//! once.
#![expect(
    unsafe_code,
    reason = "rustix refuses real-time signal numbers, which images use as STOPSIGNAL"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Exited(i32),
    Signaled(i32),
}

impl Ended {
    /// Exit status as shells and Kubernetes count: 128 + n for signal n.
    pub fn code(self) -> i32 {
        match self {
            Ended::Exited(code) => code,
            Ended::Signaled(signal) => 128 + signal,
        }
    }

    pub fn signal(self) -> Option<i32> {
        match self {
            Ended::Exited(_) => None,
            Ended::Signaled(signal) => Some(signal),
        }
    }
}

/// A descriptor of this very process.
pub fn of_self() -> io::Result<OwnedFd> {
    Ok(pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?)
}

/// Sends any signal number.
pub fn signal(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    send(process, signal, 0)
}

/// Kills the process and everything in the process group that it leads; before Linux 6.9, which cannot address a
/// group this way, the process alone.
pub fn kill_group(leader: BorrowedFd<'_>) -> io::Result<()> {
    /// `PIDFD_SIGNAL_PROCESS_GROUP` of linux/pidfd.h.
    const PROCESS_GROUP: libc::c_uint = 1 << 2;
    match send(leader, libc::SIGKILL, PROCESS_GROUP) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => signal(leader, libc::SIGKILL),
        // It leads none yet, or has ended.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => signal(leader, libc::SIGKILL),
        sent => sent,
    }
}

fn send(process: BorrowedFd<'_>, signal: i32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: numbers and a null siginfo, with which the kernel fills in kill(2)'s.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            flags,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Collects a child that has ended; `None` while it runs.
pub fn collect(child: BorrowedFd<'_>) -> io::Result<Option<Ended>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let Some(status) = waitid(WaitId::PidFd(child), options)? else {
        return Ok(None);
    };
    Ok(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Some(Ended::Exited(code)),
        (None, Some(signal)) => Some(Ended::Signaled(signal)),
        (None, None) => None,
    })
}
