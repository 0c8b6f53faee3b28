//! What the kernel knows of a TCP connection beyond its bytes: tcp(7). What follows from it is the caller's.
#![expect(unsafe_code, reason = "no crate of ours wraps SIOCOUTQ")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use nix::libc;

/// Bytes that were written and that the peer's kernel has not acknowledged (SIOCOUTQ).
pub fn unacknowledged(socket: impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: a place of another size or lifetime would let the kernel write where it must not. `bytes` is a c_int, as
    // tcp_ioctl (net/ipv4/tcp.c) writes for SIOCOUTQ, which has TIOCOUTQ's number, and outlives the call.
    let done = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(bytes).unwrap_or(0))
}
