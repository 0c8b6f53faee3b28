//! A copy of this program that nobody can write to, for processes that meet containers
//! (CVE-2019-5736).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create, sendfile};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::mount::{self, Propagate, Reach};

/// An executable descriptor of the running program: a sealed copy in memory or, where
/// `vm.memfd_noexec` forbids that, the file itself through a read-only mount that is attached
/// nowhere.
pub fn open() -> io::Result<OwnedFd> {
    match sealed_copy() {
        Ok(copy) => Ok(copy),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => read_only_view(),
        Err(error) => Err(error),
    }
}

fn sealed_copy() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC exists since Linux 6.3; before that every memfd is executable and the flag is
    // EINVAL.
    let copy = match memfd_create("joey", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create("joey", flags)?,
        other => other?,
    };
    let program = File::open("/proc/self/exe")?;
    let mut left = usize::try_from(program.metadata()?.len()).map_err(io::Error::other)?;
    while left > 0 {
        match sendfile(&copy, &program, None, left)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            sent => left = left.saturating_sub(sent),
        }
    }
    seal(copy.as_fd(), || std::thread::sleep(PAUSE))?;
    Ok(copy)
}

/// Whoever holds a page for a moment, as compaction does, makes the kernel refuse after it has waited for 150 ms itself
/// (memfd_wait_for_pins of mm/memfd.c).
const ATTEMPTS: usize = 20;
const PAUSE: Duration = Duration::from_millis(20);

/// Nobody can write to it or change its size any more. Between two attempts `pause` is called.
fn seal(copy: BorrowedFd<'_>, mut pause: impl FnMut()) -> io::Result<()> {
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    for _ in 1..ATTEMPTS {
        match fcntl_add_seals(copy, seals) {
            Err(Errno::BUSY) => pause(),
            other => return Ok(other?),
        }
    }
    Ok(fcntl_add_seals(copy, seals)?)
}

fn read_only_view() -> io::Result<OwnedFd> {
    let program = rustix::fs::open(
        "/proc/self/exe",
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let view = mount::copy(program.as_fd(), Reach::This)?;
    mount::set_attributes(
        view.as_fd(),
        Reach::This,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
        Propagate::Private,
    )?;
    Ok(view)
}

#[cfg(test)]
#[expect(unsafe_code, reason = "no safe wrapper of mmap(2) lets go before its file")]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn whoever_holds_a_page_for_a_moment_is_waited_for() {
        let copy = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&copy, 4096).unwrap();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let null = std::ptr::null_mut();
        // SAFETY: a new mapping of a file that lives and is long enough, at an address that the kernel chooses.
        let page = unsafe { libc::mmap(null, 4096, access, libc::MAP_SHARED, copy.as_raw_fd(), 0) };
        assert_ne!(page, libc::MAP_FAILED);
        let mut pauses = 0;
        seal(copy.as_fd(), || {
            pauses += 1;
            if pauses == 3 {
                // SAFETY: the mapping from above, of which there is no reference, and which goes once.
                assert_eq!(unsafe { libc::munmap(page, 4096) }, 0);
            }
        })
        .unwrap();
        assert_eq!(pauses, 3);
        let refused = rustix::io::write(&copy, b"x").unwrap_err();
        assert_eq!(refused, Errno::PERM);
    }
}
