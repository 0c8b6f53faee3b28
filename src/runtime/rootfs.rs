//! A container's root: an overlay of image layers with a scratch directory on top, and the way into
//! it.
//!
//! Runs in the container's own mount namespace. It never follows a path that the image could shape.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::At;
use super::plan::RootfsPlan;
use super::protocol::Failure;
use crate::sys::files;

/// So many names of layers fit into the one page that mount(2) takes, beside those of the scratch directory.
const MOST_LAYERS: usize = 127;

/// Cuts this mount namespace off from the one it was copied from.
pub fn isolate() -> Result<(), Failure> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .at("make mounts private")
}

/// Mounts the overlay and opens its root.
///
/// `points`: a layer below all of the image's.
pub fn mount(plan: &RootfsPlan, points: Option<PathBuf>) -> Result<OwnedFd, Failure> {
    let at = "prepare root file system";
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&plan.scratch).at(at)?;
    for name in ["upper", "work"] {
        fs::create_dir_all(plan.scratch.join(name)).at(at)?;
    }
    let mut lower: Vec<OwnedFd> = Vec::with_capacity(plan.lower.len().max(1));
    for layer in &plan.lower {
        lower.push(open(layer).at("open image layer")?);
    }
    if let Some(points) = points.filter(|_| lower.len() < MOST_LAYERS) {
        lower.push(open(&points).at("open mount points")?);
    }
    if lower.is_empty() {
        let empty = plan.scratch.join("empty");
        fs::create_dir_all(&empty).at(at)?;
        lower.push(open(&empty).at(at)?);
    }
    // The upper directory's own attributes are those of `/`.
    let mode = match plan.lower.first() {
        Some(top) => fs::metadata(top).at(at)?.mode() & 0o7777,
        None => 0o755,
    };
    let upper = plan.scratch.join("upper");
    fs::set_permissions(&upper, fs::Permissions::from_mode(mode)).at(at)?;
    let upper = open(&upper).at(at)?;
    let work = open(&plan.scratch.join("work")).at(at)?;

    // Descriptors instead of paths: no character of a path needs escaping, and many of them fit into one page.
    // `volatile`: the scratch directory dies with this start, so nobody needs its syncs (Linux 5.10).
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let layers: Vec<String> = lower.iter().map(name).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},volatile",
        layers.join(":"),
        name(&upper),
        name(&work)
    );
    // On the scratch directory itself: what it is made of is open, and nobody else sees this mount.
    let options = std::ffi::CString::new(options).expect("made of numbers");
    rustix::mount::mount(
        "overlay",
        &plan.scratch,
        "overlay",
        MountFlags::empty(),
        Some(options.as_c_str()),
    )
    .at("mount overlay")?;
    open(&plan.scratch).at(at)
}

fn open(path: &std::path::Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, files::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

/// Makes `root` the root of this namespace and lets go of everything outside it.
pub fn pivot(root: &OwnedFd) -> Result<(), Failure> {
    let at = "pivot into root file system";
    rustix::process::fchdir(root.as_fd()).at(at)?;
    // The old root is stacked on the new one at the same place (pivot_root(2), NOTES), then taken
    // off.
    rustix::process::pivot_root(".", ".").at(at)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).at(at)?;
    rustix::process::chdir("/").at(at)
}
