//! Tells when names appear or go, whichever process made them: inotify on the records.
//!
//! Level-triggered: a number that grows. What changed is not said; whoever cares looks.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::os::fd::AsFd;
use tokio::sync::watch;

use super::ImageError;
use super::disk::io;

/// A thread that waits for the kernel; it ends when this is dropped.
pub struct Changes {
    receiver: watch::Receiver<u64>,
    _end: OwnedFd,
}

impl Changes {
    pub fn watch(directory: &Path) -> Result<Changes, ImageError> {
        let failed = |error: nix::Error| io("watch the image store")(error.into());
        let inotify =
            Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(failed)?;
        let events = AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(directory, events).map_err(failed)?;
        let (ended, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| io("watch the image store")(e.into()))?;
        let (sender, receiver) = watch::channel(0);
        std::thread::Builder::new()
            .name("image-changes".to_owned())
            .spawn(move || follow(&inotify, &ended, &sender))
            .map_err(io("start watching the image store"))?;
        Ok(Changes { receiver, _end: end })
    }

    pub fn receiver(&self) -> watch::Receiver<u64> {
        self.receiver.clone()
    }
}

fn follow(inotify: &Inotify, ended: &OwnedFd, sender: &watch::Sender<u64>) {
    loop {
        let mut wanted = [
            PollFd::new(inotify.as_fd(), PollFlags::POLLIN),
            PollFd::new(ended.as_fd(), PollFlags::POLLIN),
        ];
        match nix::poll::poll(&mut wanted, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "the image store is no longer watched");
                return;
            }
        }
        if wanted[1].revents().is_some_and(|events| !events.is_empty()) {
            return;
        }
        match inotify.read_events() {
            // An overflow of the kernel's queue is an event too.
            Ok(events) if !events.is_empty() => sender.send_modify(|count| *count += 1),
            Ok(_) | Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "the image store is no longer watched");
                return;
            }
        }
    }
}
