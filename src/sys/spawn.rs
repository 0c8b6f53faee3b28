//! Fork with namespaces, a cgroup and a pidfd: clone3(2), or clone(2) where a filter hides the former.
//!
//! It never runs in a process that has a second thread, and it checks that itself: the child of a
//! process with threads may not even allocate (rust-lang/rust#130756), ours do.
#![expect(unsafe_code, reason = "no safe wrapper of clone3 exists")]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sched::CloneFlags;

/// What the child is born into.
#[derive(Clone, Copy)]
pub struct Birth<'a> {
    /// `CLONE_NEW…` flags.
    pub namespaces: CloneFlags,
    /// cgroup v2 directory (`CLONE_INTO_CGROUP`, Linux 5.7).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The child's parent: the caller, or the caller's own parent.
    pub parent: Parent,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    Caller,
    /// `CLONE_PARENT`: the child becomes a sibling.
    CallersParent,
}

/// Which of the two processes this is.
pub enum Fork {
    Child,
    Parent(Child),
}

/// A child as its parent holds it.
#[derive(Debug)]
pub struct Child {
    pub pid: u32,
    pub pidfd: OwnedFd,
}

/// Not in libc for the gnu targets.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of linux/sched.h, version 2.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Whether this process came from [`fork`].
static WAS_FORKED: AtomicBool = AtomicBool::new(false);

/// Makes a child process that continues here.
///
/// # Errors
/// Those of clone3(2): `ENOSPC` at a namespace limit, `EAGAIN` at a process limit, `EBUSY` for a
/// cgroup with controllers enabled below it.
pub fn fork(birth: Birth<'_>) -> io::Result<Fork> {
    match threads() {
        Ok(threads) => {
            assert_eq!(threads, 1, "only a process with a single thread may fork without exec");
        }
        // Between a container's namespaces /proc may not know us. A process that was forked here is
        // born with one thread, and its code starts none.
        Err(_) if was_forked() => {}
        Err(error) => return Err(error),
    }
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs {
        flags: birth.namespaces.bits() as u64 | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if birth.parent == Parent::CallersParent {
        // clone3 insists: the child signals its end as the caller itself would.
        args.flags |= libc::CLONE_PARENT as u64;
        args.exit_signal = 0;
    }
    if let Some(cgroup) = birth.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: undefined would be a child that shares memory with us, or one that finds locks held
    // by threads it does not have. Neither CLONE_VM nor a stack is passed (the fields stay zero),
    // so the child is a copy like fork(2)'s; the assertion above shows that no other thread exists.
    // The kernel writes to `pidfd` alone, which outlives the call. Callers keep zygote and shims
    // free of threads.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>() as libc::size_t)
    };
    let pid = match pid {
        -1 => match io::Error::last_os_error() {
            // What our own seccomp filter answers, so that libc falls back as we do.
            error if error.raw_os_error() == Some(libc::ENOSYS) && birth.cgroup.is_none() => {
                let flags = args.flags | args.exit_signal;
                // SAFETY: as above: no CLONE_VM, no stack. clone(2) stores the pidfd where CLONE_PARENT_SETTID
                // would store a pid.
                unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) }
            }
            error => return Err(error),
        },
        pid => pid,
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            WAS_FORKED.store(true, Ordering::Relaxed);
            Ok(Fork::Child)
        }
        pid => Ok(Fork::Parent(Child {
            pid: pid as u32,
            // SAFETY: with CLONE_PIDFD a successful clone3 stored a new descriptor that nobody else
            // owns.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        })),
    }
}

/// Whether this process came from [`fork`], and not from an `execve`.
pub fn was_forked() -> bool {
    WAS_FORKED.load(Ordering::Relaxed)
}

/// Threads of this process, by the links of its task directory.
fn threads() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/task")?.nlink().saturating_sub(2))
}
