//! The default allow-list: what containers may ask of the kernel. Anything not listed is EPERM.
//!
//! Left out on purpose, because default containers reached the kernel through them: user and other
//! namespaces, the mount API, bpf, perf, userfaultfd, io_uring, keyrings, modules, kexec, raw
//! devices of the clock, and all socket families but four (AF_ALG, AF_VSOCK, AF_RDS, AF_RXRPC,
//! AF_KEY … and their CVEs). What a capability makes possible opens with that capability, as in
//! containerd and CRI-O.

use rustix::thread::CapabilitySet;
use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

use super::{Rules, syscalls};

/// Allowed whatever the arguments.
#[rustfmt::skip]
const ALWAYS: &[&str] = &[
    "accept", "accept4", "access", "adjtimex", "alarm", "arch_prctl", "bind", "brk", "cachestat",
    "capget", "capset", "chdir", "chmod", "chown", "clock_adjtime", "clock_getres", "clock_gettime",
    "clock_nanosleep", "close", "close_range", "connect", "copy_file_range", "creat", "dup", "dup2",
    "dup3", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait",
    "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "execve", "execveat",
    "exit", "exit_group", "faccessat", "faccessat2", "fadvise64", "fallocate", "fanotify_mark",
    "fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchownat", "fcntl", "fdatasync",
    "fgetxattr", "file_getattr", "file_setattr", "flistxattr", "flock", "fork", "fremovexattr",
    "fsetxattr", "fstat", "fstatfs", "fsync", "ftruncate", "futex", "futex_requeue", "futex_wait",
    "futex_waitv", "futex_wake", "futimesat", "get_mempolicy", "get_robust_list",
    "get_thread_area", "getcpu", "getcwd", "getdents", "getdents64", "getegid", "geteuid",
    "getgid", "getgroups", "getitimer", "getpeername", "getpgid", "getpgrp", "getpid", "getppid",
    "getpriority", "getrandom", "getresgid", "getresuid", "getrlimit", "getrusage", "getsid",
    "getsockname", "getsockopt", "gettid", "gettimeofday", "getuid", "getxattr", "getxattrat",
    "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch", "io_cancel",
    "io_destroy", "io_getevents", "io_pgetevents", "io_setup", "io_submit", "ioctl", "ioprio_get",
    "ioprio_set", "kill", "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self",
    "lchown", "lgetxattr", "link", "linkat", "listen", "listxattr", "listxattrat", "llistxattr",
    "lremovexattr", "lseek", "lsetxattr", "lstat", "madvise", "map_shadow_stack", "membarrier",
    "memfd_create", "memfd_secret", "mincore", "mkdir", "mkdirat", "mknod", "mknodat", "mlock",
    "mlock2", "mlockall", "mmap", "modify_ldt", "mprotect", "mq_getsetattr", "mq_notify",
    "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink", "mremap", "mseal", "msgctl",
    "msgget", "msgrcv", "msgsnd", "msync", "munlock", "munlockall", "munmap", "name_to_handle_at",
    "nanosleep", "newfstatat", "open", "openat", "openat2", "pause", "pidfd_open",
    "pidfd_send_signal", "pipe", "pipe2", "pkey_alloc", "pkey_free", "pkey_mprotect", "poll",
    "ppoll", "prctl", "pread64", "preadv", "preadv2", "prlimit64", "process_mrelease", "pselect6",
    "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv",
    "recvfrom", "recvmmsg", "recvmsg", "remap_file_pages", "removexattr", "removexattrat",
    "rename", "renameat", "renameat2", "restart_syscall", "rmdir", "rseq", "rt_sigaction",
    "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend",
    "rt_sigtimedwait", "rt_tgsigqueueinfo", "sched_get_priority_max", "sched_get_priority_min",
    "sched_getaffinity", "sched_getattr", "sched_getparam", "sched_getscheduler",
    "sched_rr_get_interval", "sched_setaffinity", "sched_setattr", "sched_setparam",
    "sched_setscheduler", "sched_yield", "seccomp", "select", "semctl", "semget", "semop",
    "semtimedop", "sendfile", "sendmmsg", "sendmsg", "sendto", "set_robust_list",
    "set_thread_area", "set_tid_address", "setfsgid", "setfsuid", "setgid", "setgroups",
    "setitimer", "setpgid", "setpriority", "setregid", "setresgid", "setresuid", "setreuid",
    "setrlimit", "setsid", "setsockopt", "setuid", "setxattr", "setxattrat", "shmat", "shmctl",
    "shmdt", "shmget", "shutdown", "sigaltstack", "signalfd", "signalfd4",
    "splice", "stat", "statfs", "statx", "symlink", "symlinkat", "sync", "sync_file_range",
    "syncfs", "sysinfo", "tee", "tgkill", "time", "timer_create", "timer_delete",
    "timer_getoverrun", "timer_gettime", "timer_settime", "timerfd_create", "timerfd_gettime",
    "timerfd_settime", "times", "tkill", "truncate", "umask", "uname", "unlink", "unlinkat",
    "utime", "utimensat", "utimes", "vfork", "vmsplice", "wait4", "waitid", "write", "writev",
    // Tracing one's own children; the kernel checks credentials since 4.8.
    "ptrace", "process_vm_readv", "process_vm_writev",
];

/// Allowed with a capability.
#[rustfmt::skip]
const WITH: &[(CapabilitySet, &[&str])] = &[
    (CapabilitySet::DAC_READ_SEARCH, &["open_by_handle_at"]),
    (CapabilitySet::SYS_ADMIN, &[
        "bpf", "clone", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "listmount",
        "lookup_dcookie", "mount", "mount_setattr", "move_mount", "open_tree", "open_tree_attr",
        "perf_event_open", "quotactl", "quotactl_fd", "setdomainname", "sethostname", "setns",
        "statmount", "syslog", "umount2", "unshare",
    ]),
    (CapabilitySet::BPF, &["bpf"]),
    (CapabilitySet::PERFMON, &["perf_event_open"]),
    (CapabilitySet::SYSLOG, &["syslog"]),
    (CapabilitySet::SYS_BOOT, &["reboot"]),
    (CapabilitySet::SYS_CHROOT, &["chroot", "pivot_root"]),
    (CapabilitySet::SYS_MODULE, &["delete_module", "finit_module", "init_module"]),
    (CapabilitySet::SYS_NICE, &["mbind", "migrate_pages", "move_pages", "set_mempolicy",
        "set_mempolicy_home_node"]),
    (CapabilitySet::SYS_PACCT, &["acct"]),
    (CapabilitySet::SYS_PTRACE, &["kcmp", "pidfd_getfd", "process_madvise"]),
    (CapabilitySet::SYS_RAWIO, &["ioperm", "iopl"]),
    (CapabilitySet::SYS_TIME, &["clock_settime", "settimeofday"]),
    (CapabilitySet::SYS_TTY_CONFIG, &["vhangup"]),
];

/// Every name that can become allowed.
#[cfg(test)]
pub fn names() -> impl Iterator<Item = &'static str> {
    ALWAYS.iter().copied().chain(WITH.iter().flat_map(|(_, names)| names.iter().copied()))
}

/// Allowed calls with their conditions.
pub fn rules(capabilities: CapabilitySet) -> Rules {
    let unlocked = WITH
        .iter()
        .filter(|(capability, _)| capabilities.contains(*capability))
        .flat_map(|(_, names)| names.iter());
    let mut rules: Rules = ALWAYS
        .iter()
        .chain(unlocked)
        .filter_map(|name| Some((syscalls::number(name)?, Vec::new())))
        .collect();
    rules.insert(libc::SYS_socket, sockets(capabilities));
    let unix = when(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, libc::AF_UNIX as u64);
    rules.insert(libc::SYS_socketpair, vec![rule([unix])]);
    // clone with any CLONE_NEW… flag makes a namespace; CLONE_NEWTIME is no flag of clone(2).
    rules.entry(libc::SYS_clone).or_insert_with(|| {
        let new = libc::CLONE_NEWNS
            | libc::CLONE_NEWCGROUP
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUSER
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNET;
        vec![rule([when(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(new as u64), 0)])]
    });
    // Linux, Linux32, and both with UNAME26, and the query: no READ_IMPLIES_EXEC, no
    // ADDR_NO_RANDOMIZE.
    let personalities = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];
    rules.insert(
        libc::SYS_personality,
        personalities
            .map(|value| rule([when(0, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)]))
            .to_vec(),
    );
    rules
}

/// AF_UNIX, AF_INET, AF_INET6; AF_NETLINK for routes alone; AF_PACKET with CAP_NET_RAW.
fn sockets(capabilities: CapabilitySet) -> Vec<SeccompRule> {
    // The kernel takes an int: compare the low half, or garbage above it would be another family to
    // us.
    let family =
        |value: libc::c_int| when(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value as u64);
    let mut all = vec![
        rule([family(libc::AF_UNIX)]),
        rule([family(libc::AF_INET)]),
        rule([family(libc::AF_INET6)]),
        rule([
            family(libc::AF_NETLINK),
            when(2, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, libc::NETLINK_ROUTE as u64),
        ]),
    ];
    if capabilities.contains(CapabilitySet::NET_RAW) {
        all.push(rule([family(libc::AF_PACKET)]));
    }
    all
}

fn rule<const N: usize>(conditions: [SeccompCondition; N]) -> SeccompRule {
    SeccompRule::new(conditions.to_vec()).expect("at least one condition")
}

fn when(
    argument: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> SeccompCondition {
    SeccompCondition::new(argument, length, operator, value).expect("argument index is below six")
}
