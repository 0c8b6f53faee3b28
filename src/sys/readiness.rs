//! Descriptors that tokio watches. What is read or written is the caller's.
#![expect(
    unsafe_code,
    reason = "AsyncFd asks for a promise that owned descriptors keep by themselves"
)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor for out-of-band notices alone, which files of cgroup v2 give (`POLLPRI`).
pub fn watch_priority(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: as below.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::PRIORITY) }?)
}

/// Registers a descriptor with the runtime of this task; it must be non-blocking to be read or
/// written.
pub fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor must stay open, and the same, until it is deregistered. An OwnedFd
    // closes only when dropped, AsyncFd owns it and deregisters first, and nothing hands out
    // mutable access to swap it.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}
