//! A copy of this program that nobody can write to, for processes that meet containers
//! (CVE-2019-5736).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

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
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&copy, seals)?;
    Ok(copy)
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
