//! Network namespaces: make one, keep it alive by a bind mount, work inside one.
//!
//! A namespace belongs to a thread here, never to the process: whoever enters one does so on a thread that
//! ends with the work, so no other code can find itself in the wrong network. It never configures anything.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::statfs::{FsType, statfs};

/// Of the calling thread; `/proc/self` would name the main thread's (namespaces(7)).
const OWN: &str = "/proc/thread-self/ns/net";
/// `NSFS_MAGIC` of linux/magic.h.
const NSFS: i64 = 0x6e73_6673;

/// Makes a namespace and runs `prepare` as its first inhabitant. It lives as long as the descriptor, a pin or a
/// process in it does; nothing has to be cleaned up when the program dies.
pub fn make<T: Send>(prepare: impl FnOnce() -> io::Result<T> + Send) -> io::Result<(OwnedFd, T)> {
    on_own_thread(|| {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
        let namespace = OwnedFd::from(File::open(OWN)?);
        Ok((namespace, prepare()?))
    })
}

/// Runs `work` inside `namespace`.
pub fn enter<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    on_own_thread(|| {
        nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

/// Opens a pinned namespace; refuses anything else that may lie at `path`.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let file = File::open(path)?;
    if nix::sys::statfs::fstatfs(&file)?.filesystem_type() == FsType(NSFS) {
        Ok(file.into())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "not a namespace"))
    }
}

/// Whether `path` holds a namespace now.
pub fn is_pinned(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == FsType(NSFS))
}

/// Bind-mounts `namespace` at `path`, which is created when missing. A pin that is already there is replaced.
pub fn pin(namespace: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    if is_pinned(path) {
        unpin(path)?;
    }
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    // The magic link of our own descriptor leads to the namespace's inode whoever made it (proc_pid_fd(5)).
    let source = format!("/proc/thread-self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&namespace));
    nix::mount::mount(Some(source.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

/// Takes the pin away; the namespace dies when nobody is in it any more. Idempotent.
pub fn unpin(path: &Path) -> io::Result<()> {
    // Bounded: several mounts may be stacked after a crash between mounting and recording.
    for _ in 0..16 {
        match nix::mount::umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(other) => return Err(other.into()),
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The namespace of the calling thread.
pub fn own() -> io::Result<OwnedFd> {
    Ok(File::open(OWN)?.into())
}

/// A thread that changed its namespace must not live on; a panic in the work becomes an error here.
fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("netns".into())
            .stack_size(256 * 1024)
            .spawn_scoped(scope, work)?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("panicked inside the namespace")))
    })
}

/// Runs `work` inside the namespace pinned at `path`.
pub fn enter_path<T: Send>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    enter(open(path)?.as_fd(), work)
}
