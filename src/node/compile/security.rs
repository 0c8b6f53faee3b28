//! Who a container's process is and what it may do, from both security contexts and the image.
//!
//! Pure. Names are looked up in the image's own passwd and group texts, never in the host's; image content
//! cannot widen anything beyond what the manifest grants.

use std::path::Path;

use k8s_openapi::api::core::v1 as core;

use super::{ContainerFacts, Refusal};
use crate::runtime::caps;
use crate::runtime::plan::{SeccompPlan, SecurityPlan};

/// The security half of a container plan.
pub(super) fn plan(
    pod: &core::Pod,
    container: &core::Container,
    facts: &ContainerFacts<'_>,
    oom_score_adj: i32,
) -> Result<SecurityPlan, Refusal> {
    let spec = pod.spec.as_ref();
    let pod_context = spec.and_then(|s| s.security_context.as_ref());
    let context = container.security_context.as_ref();
    let privileged = context.and_then(|c| c.privileged).unwrap_or(false);
    let user = user(pod, container, facts)?;
    Ok(SecurityPlan {
        uid: user.uid,
        gid: user.gid,
        groups: groups(pod_context, &user, facts),
        capabilities: capabilities(context.and_then(|c| c.capabilities.as_ref()), privileged)?,
        // On unless escalation is asked for: `sudo` inside a container is rare, its abuse is not.
        no_new_privs: !(privileged
            || context.and_then(|c| c.allow_privilege_escalation) == Some(true)),
        seccomp: seccomp(
            context
                .and_then(|c| c.seccomp_profile.as_ref())
                .or(pod_context.and_then(|c| c.seccomp_profile.as_ref())),
            privileged,
            &facts.node.seccomp_dir,
        )?,
        privileged,
        mask_proc: !privileged && context.and_then(|c| c.proc_mount.as_deref()) != Some("Unmasked"),
        oom_score_adj,
    })
}

pub(super) struct User {
    pub uid: u32,
    pub gid: u32,
    /// As in the image's passwd, where it has an entry.
    pub name: Option<String>,
    pub home: Option<String>,
}

/// Resolves `runAsUser`, `runAsGroup` and the image's USER, and holds them against `runAsNonRoot`.
pub(super) fn user(
    pod: &core::Pod,
    container: &core::Container,
    facts: &ContainerFacts<'_>,
) -> Result<User, Refusal> {
    let pod_context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let context = container.security_context.as_ref();
    let wanted_uid =
        context.and_then(|c| c.run_as_user).or(pod_context.and_then(|c| c.run_as_user));
    let wanted_gid =
        context.and_then(|c| c.run_as_group).or(pod_context.and_then(|c| c.run_as_group));
    let non_root = context
        .and_then(|c| c.run_as_non_root)
        .or(pod_context.and_then(|c| c.run_as_non_root))
        .unwrap_or(false);
    let (user_text, group_text) = match facts.image.user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (facts.image.user.as_str(), None),
    };
    let (uid, entry) = match wanted_uid {
        Some(uid) => {
            let uid = id(uid).ok_or_else(|| out_of_range("runAsUser", uid))?;
            (uid, Passwd::find(facts.passwd, |p| p.uid == uid))
        }
        None if user_text.is_empty() => (0, Passwd::find(facts.passwd, |p| p.uid == 0)),
        None => match numeric(user_text) {
            Some(uid) => (uid, Passwd::find(facts.passwd, |p| p.uid == uid)),
            None => {
                let entry = Passwd::find(facts.passwd, |p| p.name == user_text).ok_or_else(|| {
                    Refusal::container(format!(
                        "unable to find user {user_text}: no matching entries in the image's passwd file"
                    ))
                })?;
                (entry.uid, Some(entry))
            }
        },
    };
    let gid = match (wanted_gid, group_text.filter(|_| wanted_uid.is_none())) {
        (Some(gid), _) => id(gid).ok_or_else(|| out_of_range("runAsGroup", gid))?,
        (None, Some(text)) => match numeric(text) {
            Some(gid) => gid,
            None => group_lines(facts.group)
                .find(|(name, ..)| *name == text)
                .map(|(_, gid, _)| gid)
                .ok_or_else(|| {
                    Refusal::container(format!(
                        "unable to find group {text}: no matching entries in the image's group file"
                    ))
                })?,
        },
        (None, None) => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    if non_root && uid == 0 {
        let place = format!(
            "(pod: \"{}_{}({})\", container: {})",
            pod.metadata.name.as_deref().unwrap_or_default(),
            pod.metadata.namespace.as_deref().unwrap_or_default(),
            pod.metadata.uid.as_deref().unwrap_or_default(),
            container.name
        );
        return Err(Refusal::config(match wanted_uid {
            Some(_) => format!("container's runAsUser breaks non-root policy {place}"),
            None => format!("container has runAsNonRoot and image will run as root {place}"),
        }));
    }
    Ok(User {
        uid,
        gid,
        name: entry.as_ref().map(|entry| entry.name.to_owned()),
        home: entry.map(|entry| entry.home.to_owned()),
    })
}

/// The exact supplementary groups. The primary group is among them, so that a file's denial for a group
/// cannot be escaped by dropping it (CVE-2022-36109).
fn groups(
    context: Option<&core::PodSecurityContext>,
    user: &User,
    facts: &ContainerFacts<'_>,
) -> Vec<u32> {
    let strict = context.and_then(|c| c.supplemental_groups_policy.as_deref()) == Some("Strict");
    let asked = context
        .into_iter()
        .flat_map(|c| c.supplemental_groups.iter().flatten().chain(&c.fs_group))
        .filter_map(|gid| id(*gid));
    let mut groups = vec![user.gid];
    groups.extend(asked);
    if let (false, Some(name)) = (strict, &user.name) {
        groups.extend(
            group_lines(facts.group)
                .filter(|(_, _, members)| members.split(',').any(|member| member == name))
                .map(|(_, gid, _)| gid),
        );
    }
    groups.sort_unstable();
    groups.dedup();
    groups
}

fn capabilities(
    asked: Option<&core::Capabilities>,
    privileged: bool,
) -> Result<Vec<String>, Refusal> {
    if privileged {
        return Ok(caps::NAMES.map(String::from).into());
    }
    let none = Vec::new();
    let add = asked.and_then(|c| c.add.as_ref()).unwrap_or(&none);
    let drop = asked.and_then(|c| c.drop.as_ref()).unwrap_or(&none);
    let mut held: Vec<&str> = caps::DEFAULT.to_vec();
    if drop.iter().any(|name| is_all(name)) {
        held.clear();
    }
    if add.iter().any(|name| is_all(name)) {
        held = caps::NAMES.to_vec();
    }
    for name in drop.iter().filter(|name| !is_all(name)) {
        let known = capability(name)?;
        held.retain(|held| *held != known);
    }
    for name in add.iter().filter(|name| !is_all(name)) {
        held.push(capability(name)?);
    }
    held.sort_unstable();
    held.dedup();
    Ok(held.into_iter().map(str::to_owned).collect())
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL")
}

fn capability(name: &str) -> Result<&'static str, Refusal> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    caps::NAMES
        .into_iter()
        .find(|known| known.strip_prefix("CAP_") == Some(bare))
        .ok_or_else(|| Refusal::container(format!("unknown capability {name:?}")))
}

fn seccomp(
    profile: Option<&core::SeccompProfile>,
    privileged: bool,
    profiles: &Path,
) -> Result<SeccompPlan, Refusal> {
    let Some(profile) = profile.filter(|_| !privileged) else {
        return Ok(match privileged {
            true => SeccompPlan::Unconfined,
            false => SeccompPlan::Default,
        });
    };
    match (profile.type_.as_str(), profile.localhost_profile.as_deref()) {
        ("RuntimeDefault", _) => Ok(SeccompPlan::Default),
        ("Unconfined", _) => Ok(SeccompPlan::Unconfined),
        ("Localhost", Some(path)) if is_below(path) => {
            Ok(SeccompPlan::Localhost(profiles.join(path)))
        }
        (kind, path) => Err(Refusal::config(format!(
            "invalid seccomp profile: type {kind:?}, localhostProfile {:?}",
            path.unwrap_or_default()
        ))),
    }
}

/// A relative path that stays below where it starts.
fn is_below(path: &str) -> bool {
    !path.is_empty() && !path.starts_with('/') && path.split('/').all(|part| part != "..")
}

/// Ids end at 2³¹ − 1: larger ones have wrapped to 0 in other runtimes (CVE-2024-40635).
fn id(number: i64) -> Option<u32> {
    u32::try_from(number).ok().filter(|id| *id <= i32::MAX as u32)
}

fn numeric(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().and_then(id)
}

fn out_of_range(field: &str, number: i64) -> Refusal {
    Refusal::config(format!("{field} {number} must be between 0 and 2147483647"))
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Passwd<'a> {
    /// The first matching entry; lines that are not entries are passed over, as glibc does.
    fn find(text: &'a str, matches: impl Fn(&Passwd<'a>) -> bool) -> Option<Passwd<'a>> {
        text.lines()
            .filter_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next().filter(|name| !name.is_empty())?;
                let uid = numeric(fields.nth(1)?)?;
                let gid = numeric(fields.next()?)?;
                let home = fields.nth(1).unwrap_or_default();
                Some(Passwd { name, uid, gid, home })
            })
            .find(matches)
    }
}

/// Name, gid and members of each group.
fn group_lines(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = numeric(fields.nth(1)?)?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}
