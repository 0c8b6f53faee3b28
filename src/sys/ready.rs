//! Readiness of a file descriptor as an async wait.
#![allow(unsafe_code, reason = "tokio cannot see that an owned descriptor stays the same")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::unix::AsyncFd;

/// Registers a duplicate of `source` with the event loop; readiness is that of the open file description
/// both share. Must be called inside a tokio runtime.
///
/// # Errors
/// The descriptor cannot be doubled, or is of a kind that epoll(7) does not watch.
pub fn watch(source: impl AsFd) -> io::Result<AsyncFd<OwnedFd>> {
    let owned = source.as_fd().try_clone_to_owned()?;
    // SAFETY: `register` demands that the descriptor stays open and the same while registered. An OwnedFd is
    // open until dropped, its as_raw_fd never changes, and the AsyncFd owns it; nobody else may close it.
    unsafe { AsyncFd::register(owned) }.map_err(io::Error::from)
}
