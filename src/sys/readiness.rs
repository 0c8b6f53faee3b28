//! Descriptors that tokio watches. What is read or written is the caller's.
#![expect(
    unsafe_code,
    reason = "AsyncFd asks for a promise that owned descriptors keep by themselves"
)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the runtime of this task; it must be non-blocking to be read or
/// written.
pub fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor must stay open, and the same, until it is deregistered. An OwnedFd
    // closes only when dropped, AsyncFd owns it and deregisters first, and nothing hands out
    // mutable access to swap it.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}
