//! Ctrl-C, and what else ends a session, kept until the story can be left in order: what it made goes with it.
//!
//! It ends nothing by itself.

use std::io::{self, BufRead};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Signals that wait to be heeded (signalfd(2)). Commands that are started get them as ever.
pub struct Leaving(SignalFd);

impl Leaving {
    /// From now on they end nothing; called before there is another thread.
    pub fn heed() -> io::Result<Leaving> {
        let signals: SigSet =
            [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        signals.thread_block()?;
        Ok(Leaving(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?))
    }

    /// Whether somebody wants to leave; once so, always so.
    pub fn is_asked(&self) -> bool {
        let mut entries = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut entries, PollTimeout::ZERO), Ok(1))
    }

    /// Waits for Enter; false when the reader leaves instead, with Ctrl-C or Ctrl-D.
    pub fn read_enter(&self) -> io::Result<bool> {
        let stdin = io::stdin();
        loop {
            let mut entries = [
                PollFd::new(self.0.as_fd(), PollFlags::POLLIN),
                PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut entries, PollTimeout::NONE) {
                Ok(_) if self.is_asked() => return Ok(false),
                Ok(_) => return Ok(stdin.lock().read_line(&mut String::new())? > 0),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
