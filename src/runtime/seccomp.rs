//! Seccomp profiles as filters: our allow-list, and OCI JSON files.
//!
//! Native ABI only: a 32-bit or x32 entry would slip past rules on arguments (`socket` by
//! `int 0x80` socketcall). Several filters stack, the strictest answer wins. It loads nothing
//! itself.

use std::collections::BTreeMap;

use rustix::thread::CapabilitySet;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};
use serde::Deserialize;

mod allowed;
mod syscalls;

/// Programs to load, in order. Among equal actions the kernel takes the answer of the last one
/// loaded.
pub type Programs = Vec<BpfProgram>;

/// Why a profile cannot be compiled.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProfileError {
    #[error("seccomp profile is not valid JSON: {0}")]
    Json(String),
    #[error("seccomp profile uses {0}, which is not supported")]
    Unsupported(String),
    #[error("seccomp profile cannot be compiled: {0}")]
    Compile(String),
}

/// Our allow-list for a process with these capabilities.
pub fn default_profile(capabilities: CapabilitySet) -> Programs {
    let rules = allowed::rules(capabilities);
    let list = compile(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
        .expect("the built-in list is constant and a test compiles it");
    vec![list, gate()]
}

/// Answers that depend on the number alone and that the allow-list cannot give, having a single
/// refusal: clone3 and unknown calls are ENOSYS, so that libc falls back (glibc's posix_spawn fails
/// on EPERM); x32 numbers are ENOSYS, as on a kernel without them; foreign architectures kill the
/// process.
fn gate() -> BpfProgram {
    const LD_W_ABS: u16 = 0x20;
    const JEQ_K: u16 = 0x15;
    const JGT_K: u16 = 0x25;
    const RET_K: u16 = 0x06;
    const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        step(LD_W_ABS, 0, 0, 4), // seccomp_data.arch
        step(JEQ_K, 1, 0, AUDIT_ARCH_X86_64),
        step(RET_K, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        step(LD_W_ABS, 0, 0, 0), // seccomp_data.nr; x32 numbers have bit 30 set
        step(JGT_K, 2, 0, syscalls::newest() as u32),
        step(JEQ_K, 1, 0, libc::SYS_clone3 as u32),
        step(RET_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        step(RET_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
    ]
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, ProfileError> {
    let failed = |error: seccompiler::BackendError| ProfileError::Compile(error.to_string());
    SeccompFilter::new(rules, otherwise, matched, TargetArch::x86_64)
        .map_err(failed)?
        .try_into()
        .map_err(failed)
}

/// The `linux.seccomp` object of the OCI runtime specification, as kubelet profile files hold it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Entry>,
    #[serde(default)]
    listener_path: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// Compiles a profile file. Names that this architecture does not have are skipped, as libseccomp
/// does.
pub fn localhost_profile(json: &[u8]) -> Result<Programs, ProfileError> {
    let profile: Profile =
        serde_json::from_slice(json).map_err(|error| ProfileError::Json(error.to_string()))?;
    if profile.listener_path.is_some() {
        return Err(ProfileError::Unsupported("listenerPath".to_owned()));
    }
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut by_action: Vec<(SeccompAction, Rules)> = Vec::new();
    let mut not_default = Rules::new();
    for entry in &profile.syscalls {
        let action = action(&entry.action, entry.errno_ret)?;
        if action == default {
            continue;
        }
        let conditions =
            entry.args.iter().flatten().map(condition).collect::<Result<Vec<_>, ProfileError>>()?;
        let index = match by_action.iter().position(|(known, _)| *known == action) {
            Some(index) => index,
            None => {
                by_action.push((action, Rules::new()));
                by_action.len() - 1
            }
        };
        for number in entry.names.iter().filter_map(|name| syscalls::number(name)) {
            add(&mut by_action[index].1, number, &conditions)?;
            add(&mut not_default, number, &conditions)?;
        }
    }
    let mut programs = Programs::new();
    for (action, rules) in by_action {
        if action != SeccompAction::Allow {
            programs.push(compile(rules, SeccompAction::Allow, action)?);
        }
    }
    if default != SeccompAction::Allow {
        // Refuses what no entry names; comes last, for it may refuse the loading of another.
        programs.push(compile(not_default, default, SeccompAction::Allow)?);
    }
    Ok(programs)
}

/// Adds one alternative; a call without conditions matches always, whatever else is said about it.
fn add(rules: &mut Rules, number: i64, all: &[SeccompCondition]) -> Result<(), ProfileError> {
    let known = rules.get(&number).is_some();
    let chain = rules.entry(number).or_default();
    if all.is_empty() {
        chain.clear();
    } else if !known || !chain.is_empty() {
        let rule = SeccompRule::new(all.to_vec());
        chain.push(rule.map_err(|error| ProfileError::Compile(error.to_string()))?);
    }
    Ok(())
}

fn action(name: &str, errno: Option<u32>) -> Result<SeccompAction, ProfileError> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => SeccompAction::Allow,
        "SCMP_ACT_ERRNO" => SeccompAction::Errno(errno.unwrap_or(libc::EPERM as u32)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => SeccompAction::KillThread,
        "SCMP_ACT_KILL_PROCESS" => SeccompAction::KillProcess,
        "SCMP_ACT_TRAP" => SeccompAction::Trap,
        "SCMP_ACT_LOG" => SeccompAction::Log,
        "SCMP_ACT_TRACE" => SeccompAction::Trace(errno.unwrap_or(libc::EPERM as u32)),
        other => return Err(ProfileError::Unsupported(other.to_owned())),
    })
}

fn condition(argument: &Argument) -> Result<SeccompCondition, ProfileError> {
    let (operator, value) = match argument.op.as_str() {
        "SCMP_CMP_NE" => (SeccompCmpOp::Ne, argument.value),
        "SCMP_CMP_LT" => (SeccompCmpOp::Lt, argument.value),
        "SCMP_CMP_LE" => (SeccompCmpOp::Le, argument.value),
        "SCMP_CMP_EQ" => (SeccompCmpOp::Eq, argument.value),
        "SCMP_CMP_GE" => (SeccompCmpOp::Ge, argument.value),
        "SCMP_CMP_GT" => (SeccompCmpOp::Gt, argument.value),
        "SCMP_CMP_MASKED_EQ" => (SeccompCmpOp::MaskedEq(argument.value), argument.value_two),
        other => return Err(ProfileError::Unsupported(other.to_owned())),
    };
    SeccompCondition::new(argument.index, SeccompCmpArgLen::Qword, operator, value)
        .map_err(|error| ProfileError::Compile(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_list_compiles_for_no_and_for_all_capabilities() {
        for capabilities in [CapabilitySet::empty(), CapabilitySet::from_bits_retain(u64::MAX)] {
            let programs = default_profile(capabilities);
            assert_eq!(programs.len(), 2);
            assert!(programs.iter().all(|program| program.len() < 4096));
        }
    }

    #[test]
    fn every_name_of_the_list_is_a_native_call() {
        for name in allowed::names() {
            assert!(syscalls::number(name).is_some(), "{name}");
        }
    }

    #[test]
    fn oci_profile_compiles_to_one_filter_an_action() {
        let json = br#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],
            "syscalls":[{"names":["read","arm_fadvise64_64"],"action":"SCMP_ACT_ALLOW"},
                {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[
                    {"index":0,"value":8,"op":"SCMP_CMP_EQ"}]},
                {"names":["mkdir"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}"#;
        assert_eq!(localhost_profile(json).unwrap().len(), 2);
    }

    #[test]
    fn unknown_words_of_a_profile_are_refused_by_name() {
        let json = br#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#;
        assert_eq!(
            localhost_profile(json).unwrap_err(),
            ProfileError::Unsupported("SCMP_ACT_NOTIFY".to_owned())
        );
        assert!(matches!(localhost_profile(b"{"), Err(ProfileError::Json(_))));
    }
}
