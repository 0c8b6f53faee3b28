//! From `volumeMounts` to mounts, in the order in which they must be made.
//!
//! Pure. Sources are host paths that the volume code has prepared; targets are resolved by the runtime inside
//! the container's root, so nothing here trusts them.

use std::path::PathBuf;

use k8s_openapi::api::core::v1 as core;

use super::env::Environment;
use super::{ContainerFacts, Refusal};
use crate::runtime::plan::{MountPlan, MountSource, Propagation};

/// A volume of the pod as it lies on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct VolumePath {
    pub path: PathBuf,
    /// The kind of volume cannot be written by pods (configMap, secret, downwardAPI, projected).
    pub read_only: bool,
    /// A path of the host itself: keeps its set-uid files and devices for privileged containers.
    pub is_host: bool,
}

/// The three files that every container sees, unless it mounts its own there.
pub(super) struct EtcFiles {
    pub hosts: PathBuf,
    pub hostname: PathBuf,
    pub resolv_conf: PathBuf,
}

/// Mounts sorted so that a mount comes after what it lies in.
pub(super) fn plan(
    container: &core::Container,
    facts: &ContainerFacts<'_>,
    env: &Environment,
    etc: EtcFiles,
) -> Result<Vec<MountPlan>, Refusal> {
    let context = container.security_context.as_ref();
    let privileged = context.and_then(|c| c.privileged).unwrap_or(false);
    let root_read_only = context.and_then(|c| c.read_only_root_filesystem).unwrap_or(false);
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let volume = facts.volumes.get(&mount.name).ok_or_else(|| {
            Refusal::config(format!("cannot find volume {:?} to mount into container", mount.name))
        })?;
        mounts.push(MountPlan {
            source: MountSource::Bind {
                path: volume.path.clone(),
                sub_path: sub_path(mount, env)?,
            },
            target: absolute(&mount.mount_path),
            read_only: volume.read_only || mount.read_only.unwrap_or(false),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                Some(_) | None => Propagation::Private,
            },
            nosuid_nodev: !(volume.is_host && privileged),
        });
    }
    for (target, path) in [
        ("/etc/hosts", etc.hosts),
        ("/etc/hostname", etc.hostname),
        ("/etc/resolv.conf", etc.resolv_conf),
    ] {
        if mounts.iter().all(|mount: &MountPlan| mount.target != target) {
            mounts.push(MountPlan {
                source: MountSource::Bind { path, sub_path: None },
                target: target.into(),
                read_only: root_read_only,
                propagation: Propagation::Private,
                nosuid_nodev: true,
            });
        }
    }
    // Parents first; equal depths keep the manifest's order.
    mounts.sort_by_key(|mount| mount.target.split('/').filter(|part| !part.is_empty()).count());
    Ok(mounts)
}

fn sub_path(mount: &core::VolumeMount, env: &Environment) -> Result<Option<String>, Refusal> {
    let plain = mount.sub_path.as_deref().filter(|path| !path.is_empty());
    let expression = mount.sub_path_expr.as_deref().filter(|path| !path.is_empty());
    let path = match (plain, expression) {
        (Some(path), _) => path.to_owned(),
        (None, Some(expression)) => env.expand(expression),
        (None, None) => return Ok(None),
    };
    if path.starts_with('/') {
        return Err(Refusal::config(format!("subPath {path:?} must not be an absolute path")));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(Refusal::config(format!("subPath {path:?} must not contain '..'")));
    }
    Ok(Some(path))
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}
