//! The service manager of this process: tells it how the service is doing (sd_notify(3)), leaves descriptors with it
//! and takes them back after a restart (sd_pid_notify_with_fds(3), sd_listen_fds(3)).
#![expect(unsafe_code, reason = "descriptors that were inherited are known by number alone")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::FdFlags;
use rustix::net::SendFlags;

use super::socket;

/// The service manager's socket, when one has asked to be told.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    /// How often the manager wants to hear `WATCHDOG=1` (half of its limit).
    pub watchdog: Option<Duration>,
}

impl Notifier {
    /// From `NOTIFY_SOCKET` and `WATCHDOG_USEC`; `None` without a service manager.
    pub fn from_environment() -> Option<Notifier> {
        let path = std::env::var_os("NOTIFY_SOCKET")?;
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok()?,
            _ => SocketAddr::from_pathname(&path).ok()?,
        };
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect_addr(&address).ok()?;
        let limit: Option<u64> =
            std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
        Some(Notifier { socket, watchdog: limit.map(|us| Duration::from_micros(us / 2)) })
    }

    /// Sends one state such as `READY=1`. A manager that does not listen is not our failure.
    pub fn tell(&self, state: &str) {
        self.send(state, &[]);
    }

    /// Leaves a copy of a descriptor with the manager, which hands it to the next process of this service. A
    /// manager without room for it (FileDescriptorStoreMax=) closes it.
    pub fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) {
        // Without polling: the manager would drop a listening socket as soon as a client hung up.
        self.send(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), &[descriptor]);
    }

    /// Has the manager close every descriptor that was left under this name.
    pub fn forget(&self, name: &str) {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]);
    }

    fn send(&self, state: &str, descriptors: &[BorrowedFd<'_>]) {
        let sent =
            socket::send(self.socket.as_fd(), state.as_bytes(), descriptors, SendFlags::empty());
        if let Err(error) = sent {
            tracing::debug!(%error, state, "the service manager did not take a notification");
        }
    }
}

/// A descriptor from the manager, with the name under which it was left or made.
#[derive(Debug)]
pub struct Inherited {
    pub name: String,
    pub descriptor: OwnedFd,
}

/// The first descriptor that a service manager passes, after the three of every process.
const FIRST: RawFd = 3;
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The descriptors that the manager has passed to this very process, close-on-exec. A second call has none.
///
/// # Errors
/// The environment names descriptors that are not open.
pub fn take_descriptors() -> io::Result<Vec<Inherited>> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let is_for_us = variable("LISTEN_PID") == std::process::id().to_string();
    if !is_for_us || TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let count: RawFd = variable("LISTEN_FDS").parse().unwrap_or(0);
    let names = variable("LISTEN_FDNAMES");
    let mut names = names.split(':');
    let mut taken = Vec::new();
    for number in FIRST..FIRST.saturating_add(count.clamp(0, 1024)) {
        // SAFETY: two owners of one descriptor would close it under each other. Only this function makes an owner
        // of a number, once in a process's life (TAKEN), and only of numbers that the manager has passed to us and
        // no code of ours has opened: sd_listen_fds(3) has them open before the program begins. F_GETFD says that
        // it is open before it becomes an OwnedFd. Who adds another caller of from_raw_fd must keep that true.
        let descriptor = unsafe {
            let open = BorrowedFd::borrow_raw(number);
            rustix::io::fcntl_getfd(open)?;
            OwnedFd::from_raw_fd(number)
        };
        rustix::io::fcntl_setfd(&descriptor, FdFlags::CLOEXEC)?;
        let name = names.next().unwrap_or("unknown").to_owned();
        taken.push(Inherited { name, descriptor });
    }
    Ok(taken)
}
