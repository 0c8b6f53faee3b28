//! A pod's volumes on the host: made before the first container, kept up to date, taken away at the end.
//!
//! It never mounts into a container (the runtime does) and never asks the API: what a volume holds comes in as
//! facts. Layout: what may hold secrets lies below [`PodPaths::run`], a tmpfs; emptyDir below
//! [`PodPaths::data`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1 as core;
use nix::mount::{MntFlags, MsFlags};

use crate::node::compile::mounts::VolumePath;
use crate::node::compile::{PodPaths, resources};

pub mod atomic;
mod directory;
pub mod payload;

/// Why a volume is not there; worded as the FailedMount Event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {reason}")]
pub struct FailedMount {
    pub volume: String,
    pub reason: String,
}

/// Makes the directory that holds every pod's secrets a tmpfs of its own, so that they never reach the disk.
/// Fails where mounting is not permitted; secrets then lie in plain directories of mode 0700.
pub fn secure(run_dir: &Path) -> io::Result<()> {
    let path = run_dir.join("volumes");
    private_dir(&path)?;
    if is_mount_point(&path)? {
        return Ok(());
    }
    mount_tmpfs(&path, "mode=0700")
}

/// Where each volume of the pod lies, whether it is made already or not.
pub fn places(pod: &core::Pod, paths: &PodPaths) -> BTreeMap<String, VolumePath> {
    volumes(pod).map(|volume| (volume.name.clone(), place(volume, paths))).collect()
}

/// Makes every volume of the pod; idempotent. Blocking.
pub fn prepare(
    pod: &core::Pod,
    paths: &PodPaths,
    facts: &payload::Facts<'_>,
) -> Result<(), FailedMount> {
    refresh(pod, paths, facts)?;
    for volume in volumes(pod) {
        let failed = |reason: String| FailedMount { volume: volume.name.clone(), reason };
        let failed_io = |error: io::Error| failed(error.to_string());
        if let Some(empty) = &volume.empty_dir {
            let path = place(volume, paths).path;
            match empty.medium.as_deref() {
                Some("Memory") => {
                    private_dir(&paths.run).map_err(failed_io)?;
                    memory(&path, empty).map_err(failed_io)?;
                }
                Some("") | None => {}
                Some(medium) => {
                    return Err(failed(format!("emptyDir medium {medium:?} is not supported")));
                }
            }
            directory::empty(&path, group(pod)).map_err(failed_io)?;
        } else if let Some(host) = &volume.host_path {
            directory::host(host).map_err(failed)?;
        } else if payload::files(pod, volume, facts).map_err(failed)?.is_none() {
            return Err(failed("this kind of volume is not supported".into()));
        }
    }
    Ok(())
}

/// Brings the volumes made of objects to what the objects say now, each whatever became of the others; reports the
/// first failure. Blocking.
pub fn refresh(
    pod: &core::Pod,
    paths: &PodPaths,
    facts: &payload::Facts<'_>,
) -> Result<(), FailedMount> {
    let bring_up = |volume: &core::Volume| -> Result<(), String> {
        if let Some(files) = payload::files(pod, volume, facts)? {
            private_dir(&paths.run)
                .and_then(|()| atomic::write(&place(volume, paths).path, &files, group(pod)))
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    };
    let mut outcome = Ok(());
    for volume in volumes(pod) {
        let failed = |reason| FailedMount { volume: volume.name.clone(), reason };
        outcome = outcome.and(bring_up(volume).map_err(failed));
    }
    outcome
}

fn volumes(pod: &core::Pod) -> impl Iterator<Item = &core::Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

fn group(pod: &core::Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    context.fs_group.and_then(|gid| u32::try_from(gid).ok())
}

fn place(volume: &core::Volume, paths: &PodPaths) -> VolumePath {
    if let Some(host) = &volume.host_path {
        return VolumePath { path: PathBuf::from(&host.path), read_only: false, is_host: true };
    }
    match &volume.empty_dir {
        Some(empty) if empty.medium.as_deref() != Some("Memory") => VolumePath {
            path: paths.data.join("volumes").join(&volume.name),
            read_only: false,
            is_host: false,
        },
        empty => VolumePath {
            path: paths.run.join(&volume.name),
            read_only: empty.is_none(),
            is_host: false,
        },
    }
}

/// Takes the pod's volumes away; carries on after a failure and reports the first. Blocking.
pub fn remove(paths: &PodPaths) -> io::Result<()> {
    let mut outcome = Ok(());
    let mut note = |result: io::Result<()>| {
        if outcome.is_ok() {
            outcome = result;
        }
    };
    for entry in fs::read_dir(&paths.run).into_iter().flatten().flatten() {
        let path = entry.path();
        if is_mount_point(&path).unwrap_or(false) {
            note(nix::mount::umount2(&path, MntFlags::MNT_DETACH).map_err(io::Error::from));
        }
    }
    note(remove_tree(&paths.run));
    for below in ["volumes", "etc", "containers"] {
        note(remove_tree(&paths.data.join(below)));
    }
    outcome
}

/// Removes a directory and everything below; an absent one is fine.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes a directory that only root may enter.
pub fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn memory(path: &Path, empty: &core::EmptyDirVolumeSource) -> io::Result<()> {
    private_dir(path)?;
    if is_mount_point(path)? {
        return Ok(());
    }
    let size = empty.size_limit.as_ref().and_then(resources::units).filter(|bytes| *bytes > 0);
    let options = size.map_or("mode=0777".into(), |bytes| format!("mode=0777,size={bytes}"));
    mount_tmpfs(path, &options)
}

fn mount_tmpfs(path: &Path, options: &str) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    nix::mount::mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options))
        .map_err(io::Error::from)
}

/// A directory on another file system than its parent is where one is mounted.
fn is_mount_point(path: &Path) -> io::Result<bool> {
    let own = fs::symlink_metadata(path)?;
    let parent = fs::symlink_metadata(path.parent().unwrap_or(path))?;
    Ok(own.is_dir() && own.dev() != parent.dev())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::node::compile::ObjectFacts;
    use crate::node::compile::downward::{Addresses, ResourceDefaults};
    use crate::sys::clock;

    #[test]
    fn a_volume_that_cannot_be_brought_up_does_not_hold_up_the_token_behind_it() {
        let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [], "volumes": [
            {"name": "gone", "configMap": {"name": "deleted"}},
            {"name": "kube-api-access", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
        ]}});
        let pod: core::Pod = serde_json::from_value(pod).unwrap();
        let wants = payload::references(&pod).tokens;
        let place = std::env::temp_dir().join(format!("joey-volumes-{}", clock::uuid()));
        fs::create_dir(&place).unwrap();
        let paths = PodPaths::new(&place.join("data"), &place.join("run"), "u");
        let (objects, addresses) = (ObjectFacts::default(), Addresses::default());
        for token in ["old", "new"] {
            let tokens = wants.iter().map(|want| (want.clone(), token.to_owned())).collect();
            let defaults = ResourceDefaults { cpu_millis: 0, memory_bytes: 0 };
            let facts = payload::Facts {
                objects: &objects,
                addresses: &addresses,
                defaults,
                tokens: &tokens,
            };
            assert_eq!(refresh(&pod, &paths, &facts).unwrap_err().volume, "gone");
            let held = fs::read_to_string(paths.run.join("kube-api-access/token")).unwrap();
            assert_eq!(held, token);
        }
        fs::remove_dir_all(&place).unwrap();
    }
}
