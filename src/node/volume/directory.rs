//! Volumes that are directories or files of the host: emptyDir and hostPath.
//!
//! It never removes a hostPath, and never changes the owner or mode of one that exists.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use k8s_openapi::api::core::v1 as core;

/// A directory for everybody in the pod; with a group it belongs to it and passes it on.
/// What the pod has put there since is left alone.
pub(super) fn empty(path: &Path, group: Option<u32>) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        super::private_dir(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        // A fresh tmpfs, or what a daemon that died here had just made; never a pod's own choice, for a pod
        // that runs has its volumes already.
        Ok(()) | Err(_) => {}
    }
    if let Some(group) = group {
        chown(path, None, Some(group))?;
    }
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Checks or makes what `hostPath.type` asks for.
pub(super) fn host(source: &core::HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let found = fs::metadata(path).ok();
    let make = |result: io::Result<()>| result.map_err(|error| format!("{}: {error}", source.path));
    match (kind, &found) {
        // As container runtimes do for an untyped path.
        ("" | "DirectoryOrCreate", None) => {
            make(fs::DirBuilder::new().recursive(true).mode(0o755).create(path))?;
        }
        ("FileOrCreate", None) => {
            let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
            make(file.map(|_| ()))?;
        }
        _ => {}
    }
    let found = fs::metadata(path).ok();
    let (fits, what) = match kind {
        "" => (true, ""),
        "Directory" | "DirectoryOrCreate" => (found.is_some_and(|m| m.is_dir()), "a directory"),
        "File" | "FileOrCreate" => (found.is_some_and(|m| m.is_file()), "a file"),
        "Socket" => (found.is_some_and(|m| m.file_type().is_socket()), "a socket file"),
        "CharDevice" => {
            (found.is_some_and(|m| m.file_type().is_char_device()), "a character device")
        }
        "BlockDevice" => (found.is_some_and(|m| m.file_type().is_block_device()), "a block device"),
        other => return Err(format!("hostPath type {other:?} is unknown")),
    };
    if fits {
        Ok(())
    } else {
        Err(format!("hostPath type check failed: {} is not {what}", source.path))
    }
}
