//! Wakes readers when a directory of log files changes: one inotify instance for all of them.
//!
//! The kernel allows 128 instances a user, so followers share one (inotify(7), max_user_instances).

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::sys::readiness;

struct Directory {
    readers: usize,
    changes: watch::Sender<()>,
}

/// The shared instance. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub struct LogWatch {
    inotify: Arc<Inotify>,
    readiness: Arc<AsyncFd<OwnedFd>>,
    /// Short map operations only, never across an await.
    directories: Arc<Mutex<HashMap<WatchDescriptor, Directory>>>,
}

/// A reader's interest in one directory; ends when dropped.
pub struct Interest {
    pub changes: watch::Receiver<()>,
    descriptor: WatchDescriptor,
    owner: LogWatch,
}

impl LogWatch {
    pub fn new() -> io::Result<LogWatch> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let watch = LogWatch {
            readiness: Arc::new(readiness::watch(inotify.as_fd().try_clone_to_owned()?)?),
            inotify: Arc::new(inotify),
            directories: Arc::default(),
        };
        let alive = Arc::downgrade(&watch.readiness);
        let inotify = Arc::clone(&watch.inotify);
        let directories = Arc::clone(&watch.directories);
        tokio::spawn(async move {
            while let Some(readiness) = alive.upgrade() {
                // The task must not keep the instance alive, so the wait is bounded.
                let wait = std::time::Duration::from_secs(60);
                let Ok(ready) = tokio::time::timeout(wait, readiness.readable()).await else {
                    continue;
                };
                let Ok(mut guard) = ready else { return };
                match inotify.read_events() {
                    Ok(events) => {
                        let directories = lock(&directories);
                        for event in events {
                            if let Some(directory) = directories.get(&event.wd) {
                                directory.changes.send_replace(());
                            }
                        }
                    }
                    Err(Errno::EAGAIN) => guard.clear_ready(),
                    Err(_) => return,
                }
            }
        });
        Ok(watch)
    }

    /// Wakes whenever a file in `directory` grows, appears or is renamed.
    pub fn watch(&self, directory: &Path) -> io::Result<Interest> {
        let flags = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE_SELF;
        let mut directories = lock(&self.directories);
        let descriptor = self.inotify.add_watch(directory, flags)?;
        let entry = directories
            .entry(descriptor)
            .or_insert_with(|| Directory { readers: 0, changes: watch::Sender::new(()) });
        entry.readers += 1;
        Ok(Interest { changes: entry.changes.subscribe(), descriptor, owner: self.clone() })
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut directories = lock(&self.owner.directories);
        if let Some(entry) = directories.get_mut(&self.descriptor) {
            entry.readers -= 1;
            if entry.readers == 0 {
                directories.remove(&self.descriptor);
                // The watch is gone already when its directory is.
                let _ = self.owner.inotify.rm_watch(self.descriptor);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
