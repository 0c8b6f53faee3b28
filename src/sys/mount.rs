//! Mounts by descriptor: what of the mount API rustix lacks, and the few calls every mount is made
//! of.
//!
//! No path string is followed here except the plain names that callers pass for fresh file systems.
#![expect(unsafe_code, reason = "no crate of ours wraps mount_setattr(2)")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// How far a change reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    This,
    /// This mount and all below it.
    Tree,
}

/// How mount events travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagate {
    Unchanged,
    Private,
    Slave,
    Shared,
}

/// Adds attributes to a mount and sets its propagation (mount_setattr(2), Linux 5.12).
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    reach: Reach,
    set: MountAttrFlags,
    propagate: Propagate,
) -> io::Result<()> {
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let attributes = MountAttr {
        attr_set: u64::from(set.bits()),
        propagation: match propagate {
            Propagate::Unchanged => 0,
            Propagate::Private => libc::MS_PRIVATE,
            Propagate::Slave => libc::MS_SLAVE,
            Propagate::Shared => libc::MS_SHARED,
        },
        ..MountAttr::default()
    };
    let mut flags = libc::AT_EMPTY_PATH;
    if reach == Reach::Tree {
        flags |= AT_RECURSIVE;
    }
    // SAFETY: the path is a constant empty string, the attributes a #[repr(C)] struct of the stated
    // size; both are only read and outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A fresh file system of a type, attached nowhere yet.
pub fn fresh(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", kind)?;
    for (key, value) in options {
        match value {
            &"" => fsconfig_set_flag(&context, *key)?,
            value => fsconfig_set_string(&context, *key, *value)?,
        }
    }
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A detached copy of the mount at `place`, which becomes its root.
pub fn copy(place: BorrowedFd<'_>, reach: Reach) -> io::Result<OwnedFd> {
    copy_at(place, "", reach)
}

/// Like [`copy`], for an entry of a directory; the last component is not followed.
pub fn copy_at(directory: BorrowedFd<'_>, name: &str, reach: Reach) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    if reach == Reach::Tree {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(directory, name, flags)?)
}

/// Attaches a detached mount on the very file or directory that `target` is open at.
pub fn attach(mount: &OwnedFd, target: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_mount(
        mount.as_fd(),
        "",
        target,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )?)
}
