//! Capability names, and the sets of a process made from them. It never calls the kernel.

use rustix::thread::CapabilitySet;

/// What a container gets that asks for nothing: the nine of CRI-O (`docs/crio.conf.5.md`,
/// default_capabilities). NET_RAW, MKNOD, SYS_CHROOT, SETFCAP and AUDIT_WRITE are left out.
pub const DEFAULT: [&str; 9] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_KILL",
];

/// Every capability by number (linux/capability.h).
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The set of these names.
///
/// # Errors
/// The first name that is no capability.
pub fn parse(names: &[String]) -> Result<CapabilitySet, String> {
    let mut set = CapabilitySet::empty();
    for name in names {
        match NAMES.iter().position(|known| known == name) {
            Some(number) => set |= CapabilitySet::from_bits_retain(1 << number),
            None => return Err(format!("unknown capability {name:?}")),
        }
    }
    Ok(set)
}

/// Single capabilities of a set, lowest number first.
pub fn each(set: CapabilitySet) -> impl Iterator<Item = CapabilitySet> {
    (0..64)
        .map(|number| CapabilitySet::from_bits_retain(1 << number))
        .filter(move |one| set.contains(*one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_the_bits_of_the_kernel() {
        let default: Vec<String> = DEFAULT.map(str::to_owned).to_vec();
        assert_eq!(parse(&default).unwrap().bits(), 0x5fb);
        assert_eq!(
            parse(&["CAP_CHECKPOINT_RESTORE".to_owned()]).unwrap(),
            CapabilitySet::CHECKPOINT_RESTORE
        );
        assert!(parse(&["NET_RAW".to_owned()]).is_err());
    }

    #[test]
    fn each_takes_a_set_apart() {
        let set = CapabilitySet::KILL | CapabilitySet::BPF;
        assert_eq!(each(set).collect::<Vec<_>>(), [CapabilitySet::KILL, CapabilitySet::BPF]);
    }
}
