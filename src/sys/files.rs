//! Files that appear whole or not at all, and paths that cannot leave their directory.

use std::io;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, renameat};
use rustix::io::Errno;

/// Directory flags for descriptors that are only named, not read.
pub const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Writes `directory/name` by renaming a complete file over it. Not synced: for state that need not
/// outlive the kernel.
pub fn replace(directory: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let draft = format!(".{name}.new");
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(directory, &draft, flags, Mode::from_raw_mode(0o600))?;
    std::fs::File::from(file).write_all(bytes)?;
    Ok(renameat(directory, &draft, directory, name)?)
}

/// Reads `directory/name` whole, at most `limit` bytes.
pub fn read(directory: BorrowedFd<'_>, name: &str, limit: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(directory, name, flags, Mode::empty())?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(std::fs::File::from(file), limit), &mut bytes)?;
    Ok(bytes)
}

/// Opens a directory below another, following no symbolic link; makes it (0700) when absent.
pub fn ensure_directory(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    match mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?)
}

/// openat2(2) with a bounded number of tries: the kernel answers EAGAIN when a rename raced with
/// the walk.
pub fn open_confined(
    root: BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    const TRIES: usize = 64;
    for _ in 0..TRIES {
        match openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// What [`ensure_in_root`] makes when the last component is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    Directory,
    File,
}

/// Opens `path` as a process with the root directory `root` would (symbolic links and `..` stay
/// inside), making missing components: directories 0755, a file 0644. Returns an `O_PATH`
/// descriptor.
///
/// # Errors
/// `ELOOP` for a link to nowhere or to itself, `ENOTDIR`, and whatever the file system says.
pub fn ensure_in_root(root: BorrowedFd<'_>, path: &str, missing: Missing) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let named = OFlags::PATH;
    match open_confined(root, path, named, Mode::empty(), resolve) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let mut components: Vec<&str> = path.split('/').filter(|c| !matches!(*c, "" | ".")).collect();
    if components.contains(&"..") {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let last = components.pop().ok_or(io::ErrorKind::InvalidInput)?;
    let mut walked = String::from("/");
    let mut here = open_confined(root, ".", DIRECTORY, Mode::empty(), resolve)?;
    for component in components {
        walked.push_str(component);
        here = step(root, here.as_fd(), &walked, component, Missing::Directory)?;
        walked.push('/');
    }
    walked.push_str(last);
    step(root, here.as_fd(), &walked, last, missing)
}

/// One component: whatever is there, or made in the directory that the components before it led to.
fn step(
    root: BorrowedFd<'_>,
    parent: BorrowedFd<'_>,
    walked: &str,
    name: &str,
    missing: Missing,
) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match open_confined(root, walked, OFlags::PATH, Mode::empty(), resolve) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let made = match missing {
        Missing::Directory => mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        Missing::File => openat(
            parent,
            name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::from_raw_mode(0o644),
        )
        .map(drop),
    };
    match made {
        Ok(()) => {}
        // A link to nowhere: something is there, yet it leads to nothing.
        Err(Errno::EXIST) => return Err(Errno::LOOP.into()),
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

/// Locks `directory/name` for as long as the returned descriptor lives; `None` when another holds
/// it.
pub fn try_lock(directory: BorrowedFd<'_>, name: &str) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(directory, name, flags, Mode::from_raw_mode(0o600))?;
    match rustix::fs::flock(file.as_fd(), rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
