//! Files that appear whole or not at all, and paths that cannot leave their directory.

use std::io;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat, renameat};
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

/// Links that one path may lead through, as many as the kernel follows (path_resolution(7)).
const LINKS: usize = 40;

/// Opens `path` as a process with the root directory `root` would (symbolic links and `..` stay
/// inside), making missing components: directories 0755, a file 0644. What a link to nowhere names is
/// made where it leads, as runc's securejoin does: images come with `/etc/resolv.conf` → `../run/…`.
/// Returns an `O_PATH` descriptor.
///
/// # Errors
/// `ELOOP` for links in a circle, `ENOTDIR`, and whatever the file system says.
pub fn ensure_in_root(root: BorrowedFd<'_>, path: &str, missing: Missing) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let named = OFlags::PATH;
    match open_confined(root, path, named, Mode::empty(), resolve) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    // The next component last. A link's own `..` is for the kernel, which knows where it leads.
    let mut ahead: Vec<String> = components(path);
    if ahead.is_empty() || ahead.iter().any(|component| component == "..") {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut links = 0;
    let mut walked = String::from("/");
    let mut here = open_confined(root, ".", DIRECTORY, Mode::empty(), resolve)?;
    while let Some(component) = ahead.pop() {
        let next = format!("{walked}{component}");
        let missing = if ahead.is_empty() { missing } else { Missing::Directory };
        match step(root, here.as_fd(), &next, &component, missing)? {
            Step::There(there) => {
                here = there;
                walked = next + "/";
            }
            Step::LinkTo(target) => {
                links += 1;
                if links > LINKS {
                    return Err(Errno::LOOP.into());
                }
                if target.starts_with('/') {
                    walked = String::from("/");
                    here = open_confined(root, ".", DIRECTORY, Mode::empty(), resolve)?;
                }
                ahead.extend(components(&target));
            }
        }
    }
    Ok(here)
}

/// The components of a path, the first one last.
fn components(path: &str) -> Vec<String> {
    let all = path.split('/').filter(|component| !matches!(*component, "" | "."));
    all.rev().map(str::to_owned).collect()
}

enum Step {
    There(OwnedFd),
    /// What is there is a link, and nothing is where it leads.
    LinkTo(String),
}

/// One component: whatever is there, or made in the directory that the components before it led to.
fn step(
    root: BorrowedFd<'_>,
    parent: BorrowedFd<'_>,
    walked: &str,
    name: &str,
    missing: Missing,
) -> io::Result<Step> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match open_confined(root, walked, OFlags::PATH, Mode::empty(), resolve) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other.map(Step::There),
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
        Err(Errno::EXIST) => {
            let target = readlinkat(parent, name, Vec::new())?;
            let target = target.into_string().map_err(|_| io::ErrorKind::InvalidData)?;
            return Ok(Step::LinkTo(target));
        }
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(Step::There(openat(parent, name, flags, Mode::empty())?))
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    /// A container's root beside something of the host's.
    struct Root(PathBuf);

    impl Root {
        fn new() -> Root {
            let top =
                std::env::temp_dir().join(format!("joey-files-{}", crate::sys::clock::uuid()));
            std::fs::create_dir_all(top.join("root/etc")).unwrap();
            Root(top)
        }

        fn ensure(&self, path: &str, missing: Missing) -> Result<String, Errno> {
            let root = std::fs::File::open(self.0.join("root")).unwrap();
            let opened = ensure_in_root(root.as_fd(), path, missing);
            let opened =
                opened.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?;
            let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&opened));
            let found = std::fs::read_link(link).unwrap();
            let within = found.strip_prefix(self.0.join("root")).expect("inside the root");
            Ok(within.display().to_string())
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn where_links_to_nowhere_lead_is_made_inside_the_root() {
        let root = Root::new();
        for (link, target, path, made) in [
            (
                "etc/resolv.conf",
                "../run/systemd/stub.conf",
                "/etc/resolv.conf",
                "run/systemd/stub.conf",
            ),
            ("etc/absolute", "/run/absolute", "/etc/absolute", "run/absolute"),
            ("etc/escapes", "../../../../../outside", "/etc/escapes", "outside"),
            ("etc/mtab", "chain", "/etc/mtab", "etc/end"),
            ("etc/chain", "end", "/etc/chain", "etc/end"),
            ("var", "run/var", "/var/lib/data", "run/var/lib/data"),
        ] {
            symlink(target, root.0.join("root").join(link)).unwrap();
            if link != "etc/mtab" {
                assert_eq!(root.ensure(path, Missing::File).as_deref(), Ok(made), "{link}");
                assert!(root.0.join("root").join(made).is_file(), "{link}");
            }
        }
        assert_eq!(root.ensure("/etc/mtab", Missing::File).as_deref(), Ok("etc/end"));
        let outside: Vec<_> = std::fs::read_dir(&root.0).unwrap().collect();
        assert_eq!(outside.len(), 1, "{outside:?}");
    }

    #[test]
    fn links_in_a_circle_and_files_on_the_way_are_refused() {
        let root = Root::new();
        let at = |path: &str| root.0.join("root").join(path);
        symlink("b", at("etc/a")).unwrap();
        symlink("a", at("etc/b")).unwrap();
        assert_eq!(root.ensure("/etc/a", Missing::Directory), Err(Errno::LOOP));
        // Through a name that is not there yet, so that the kernel alone never meets the circle.
        symlink("new/../c", at("etc/c")).unwrap();
        assert_eq!(root.ensure("/etc/c", Missing::Directory), Err(Errno::LOOP));
        std::fs::write(at("etc/file"), "").unwrap();
        symlink("file/below", at("etc/d")).unwrap();
        assert_eq!(root.ensure("/etc/d", Missing::Directory), Err(Errno::NOTDIR));
        assert_eq!(root.ensure("/../x", Missing::Directory), Err(Errno::INVAL));
    }
}
