//! Security contexts of pods and containers.
//!
//! It never decides which user or capability results; the node compiles that.

use serde_json::Value;

use super::volume::descending;
use super::{Errors, within};
use crate::api::validate::name;
use crate::api::validate::place::Place;

/// User and group ids are what the kernel's `uid_t` holds.
const MOST_ID: i64 = 0xffff_ffff;

pub(super) fn pod(spec: &Place<'_>, errors: &mut Errors) {
    let context = spec.child("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        within(&context.child(field), 0, MOST_ID, errors);
    }
    for group in context.child("supplementalGroups").items() {
        within(&group, 0, MOST_ID, errors);
    }
    let shared = context.blame("shareProcessNamespace", &spec.value["shareProcessNamespace"]);
    if shared.is_true() && spec.child("hostPID").is_true() {
        errors.push(shared.invalid("ShareProcessNamespace and HostPID cannot both be enabled"));
    }
    sysctls(spec, &context.child("sysctls"), errors);
    optional_choice(&context.child("fsGroupChangePolicy"), &["Always", "OnRootMismatch"], errors);
    seccomp(&context.child("seccompProfile"), errors);
    optional_choice(&context.child("supplementalGroupsPolicy"), &["Merge", "Strict"], errors);
    optional_choice(&context.child("seLinuxChangePolicy"), &["MountOption", "Recursive"], errors);
    host_users(spec, errors);
}

pub(super) fn container(context: &Place<'_>, has_own_users: bool, errors: &mut Errors) {
    for field in ["runAsUser", "runAsGroup"] {
        within(&context.child(field), 0, MOST_ID, errors);
    }
    let proc_mount = context.child("procMount");
    optional_choice(&proc_mount, &["Default", "Unmasked"], errors);
    if proc_mount.text() == "Unmasked" && !has_own_users {
        errors.push(proc_mount.invalid("`hostUsers` must be false to use `Unmasked`"));
    }
    seccomp(&context.child("seccompProfile"), errors);
    if *context.child("allowPrivilegeEscalation").value == Value::Bool(false) {
        if context.child("privileged").is_true() {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(context.invalid(detail));
        }
        let capabilities = context.child("capabilities");
        if capabilities.child("add").items().any(|capability| capability.text() == "CAP_SYS_ADMIN")
        {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(context.invalid(detail));
        }
    }
}

fn seccomp(profile: &Place<'_>, errors: &mut Errors) {
    if !profile.is_set() {
        return;
    }
    let kind = profile.child("type");
    let kinds = ["Localhost", "RuntimeDefault", "Unconfined"];
    if !kind.is_filled() {
        errors.push(kind.required_because("type is required when seccompProfile is set"));
    } else if !kinds.contains(&kind.text()) {
        errors.push(kind.not_supported(&kinds));
    }
    let path = profile.child("localhostProfile");
    match (kind.text() == "Localhost", path.is_set()) {
        (true, false) => {
            errors.push(path.required_because("must be set when seccomp type is Localhost"));
        }
        (true, true) => descending(&path, errors),
        (false, true) => {
            let detail = "can only be set when seccomp type is Localhost";
            errors.push(path.invalid_value(profile.value, detail));
        }
        (false, false) => {}
    }
}

fn sysctls(spec: &Place<'_>, sysctls: &Place<'_>, errors: &mut Errors) {
    const SHAPE: &str = "must have at most 253 characters and match regex \
         ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
    let mut seen: Vec<String> = Vec::new();
    for sysctl in sysctls.items() {
        let own = sysctl.child("name");
        let normal = own.text().replace('/', ".");
        if !own.is_filled() {
            errors.push(own.required());
        } else if !name::is_sysctl(own.text()) {
            errors.push(own.invalid(SHAPE));
        } else if seen.contains(&normal) {
            errors.push(own.duplicate());
        }
        let is_ipc = ["kernel.sem", "fs.mqueue."].iter().any(|p| normal.starts_with(p))
            || normal.starts_with("kernel.shm")
            || normal.starts_with("kernel.msg");
        if normal.starts_with("net.") && spec.child("hostNetwork").is_true() {
            errors.push(own.invalid("may not be specified when 'hostNetwork' is true"));
        } else if is_ipc && spec.child("hostIPC").is_true() {
            errors.push(own.invalid("may not be specified when 'hostIPC' is true"));
        }
        seen.push(normal);
    }
}

/// A pod with users of its own may not share namespaces with the host.
fn host_users(spec: &Place<'_>, errors: &mut Errors) {
    if *spec.child("hostUsers").value != Value::Bool(false) {
        return;
    }
    for (field, blamed) in
        [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")]
    {
        if spec.child(field).is_true() {
            errors.push(spec.child(blamed).forbidden("when `pod.Spec.HostUsers` is false"));
        }
    }
}

fn optional_choice(place: &Place<'_>, supported: &[&str], errors: &mut Errors) {
    if place.is_set() && !supported.contains(&place.text()) {
        errors.push(place.not_supported(supported));
    }
}
