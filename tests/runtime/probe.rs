//! What containers try: the payload side of the security tests. Each probe prints what it could do.

use std::fs::{self, OpenOptions};
use std::process::ExitCode;

pub fn run(words: &[&str]) -> ExitCode {
    match words {
        ["families"] => families(),
        ["foreign"] => foreign(),
        ["calls"] => calls(),
        ["devices"] => devices(),
        ["identity"] => identity(),
        ["overwrite"] => overwrite(),
        ["thief"] => thief(),
        ["keys"] => keys(),
        ["lines", count] => (0..count.parse().unwrap()).for_each(|n: u32| println!("line {n}")),
        other => panic!("unknown probe {other:?}"),
    }
    ExitCode::SUCCESS
}

/// Socket families that open, with any of three types.
fn families() {
    for family in 0..=45 {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW] {
            // SAFETY: numbers only.
            let socket = unsafe { libc::socket(family, kind, 0) };
            if socket >= 0 {
                println!("{family}");
                break;
            }
        }
    }
    // NETLINK_NETFILTER, and garbage above the int that the kernel looks at.
    for protocol in 0..=22 {
        // SAFETY: numbers only.
        if unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, protocol) } >= 0 {
            println!("netlink {protocol}");
        }
    }
    // SAFETY: numbers only.
    let alg = unsafe { libc::syscall(libc::SYS_socket, 38u64 | 1 << 32, libc::SOCK_SEQPACKET, 0) };
    println!("alg with high bits {alg}");
}

/// A call through the 32-bit entry (getpid), then one with an x32 number.
fn foreign() {
    // SAFETY: numbers only; getpid with the x32 bit.
    let x32 = unsafe { libc::syscall(0x4000_0000 + libc::SYS_getpid) };
    println!("x32 {x32} {}", std::io::Error::last_os_error().raw_os_error().unwrap());
    let mut result: u64 = 20;
    // SAFETY: getpid of the 32-bit table takes no argument and touches no memory.
    unsafe { std::arch::asm!("int 0x80", inout("rax") result) };
    println!("int80 {result}");
}

fn calls() {
    let table: [(&str, libc::c_long, [libc::c_long; 3]); 15] = [
        ("unshare user", libc::SYS_unshare, [libc::CLONE_NEWUSER as _, 0, 0]),
        ("unshare net", libc::SYS_unshare, [libc::CLONE_NEWNET as _, 0, 0]),
        ("clone newuser", libc::SYS_clone, [(libc::CLONE_NEWUSER | libc::SIGCHLD) as _, 0, 0]),
        ("clone3", libc::SYS_clone3, [0, 0, 0]),
        ("setns", libc::SYS_setns, [0, 0, 0]),
        ("mount", libc::SYS_mount, [0, 0, 0]),
        ("fsopen", libc::SYS_fsopen, [0, 0, 0]),
        ("bpf", libc::SYS_bpf, [0, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [0, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [0, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [0, 0, 0]),
        ("personality", libc::SYS_personality, [0x0040_0000, 0, 0]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [0, 0, 0]),
        ("beyond the table", 600, [0, 0, 0]),
    ];
    for (name, number, [a, b, c]) in table {
        // SAFETY: every call is refused by the filter before the kernel looks at its arguments; if
        // one is not, null pointers make it fail with EFAULT, which the test would see.
        let result = unsafe { libc::syscall(number, a, b, c, 0, 0) };
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        let word = match (result, errno) {
            (-1, libc::EPERM) => "EPERM".to_owned(),
            (-1, libc::ENOSYS) => "ENOSYS".to_owned(),
            (result, errno) => format!("{result} {errno}"),
        };
        println!("{name}: {word}");
    }
    std::thread::spawn(|| println!("a thread runs")).join().unwrap();
    let child = std::process::Command::new("/bin/echo").arg("a child runs").status();
    assert!(child.unwrap().success());
}

/// Device numbers that can be opened, of the usual majors.
fn devices() {
    for (mode, letter) in [(libc::S_IFCHR, 'c'), (libc::S_IFBLK, 'b')] {
        for major in 1..=260 {
            for minor in 0..=16 {
                let path = format!("/tmp/{letter}{major}.{minor}");
                let name = std::ffi::CString::new(path.clone()).unwrap();
                // SAFETY: a NUL-terminated path and numbers.
                let made = unsafe {
                    libc::mknod(name.as_ptr(), mode | 0o600, libc::makedev(major, minor))
                };
                if made != 0 {
                    println!("{letter} {major}:{minor} cannot be made");
                    continue;
                }
                match fs::File::open(&path) {
                    Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
                    Ok(_) | Err(_) => println!("{letter} {major}:{minor}"),
                }
                fs::remove_file(path).unwrap();
            }
        }
    }
}

fn identity() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    for line in status.lines() {
        let wanted = ["Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:", "Seccomp:"];
        if wanted.iter().any(|name| line.starts_with(name)) {
            println!("{}", line.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
}

/// Tries to write to every program image in sight, for as long as nobody stops it.
fn overwrite() {
    println!("ready");
    loop {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let exe = entry.path().join("exe");
            let Ok(target) = fs::read_link(&exe) else {
                continue;
            };
            let is_ours = target == fs::read_link("/proc/self/exe").unwrap();
            let is_payload = target.starts_with("/bin");
            if !is_ours && !is_payload {
                match OpenOptions::new().write(true).open(&exe) {
                    Ok(_) => println!("WRITABLE {}", target.display()),
                    Err(error) => println!("{} {error}", target.display()),
                }
            }
        }
    }
}

/// Looks into every process that appears, and takes hold of it, for as long as nobody stops it.
fn thief() {
    println!("ready");
    let read = |path: String| fs::read_to_string(path).unwrap_or_default();
    loop {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let Ok(pid) = name.parse::<i32>() else { continue };
            if pid == 1 {
                continue;
            }
            for descriptor in
                fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten()
            {
                if let Ok(target) = fs::read_link(descriptor.path()) {
                    println!("fd {}", target.display());
                }
            }
            // SAFETY: PTRACE_SEIZE takes numbers only and stops nothing.
            let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) };
            if seized != 0 {
                let error = std::io::Error::last_os_error().raw_os_error().unwrap();
                println!("seize {error}");
                continue;
            }
            // SAFETY: as above. The tracee stops soon; until then it runs on.
            unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0) };
            let mut status = 0;
            // SAFETY: waits for one process of ours, and writes to `status` alone.
            let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
            if waited == pid && libc::WIFSTOPPED(status) {
                let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
                let status = read(format!("/proc/{pid}/status"));
                let of = |field: &str| {
                    let line = status.lines().find(|line| line.starts_with(field));
                    line.unwrap_or_default().split_whitespace().nth(1).unwrap_or("-").to_owned()
                };
                println!(
                    "held {} {} {} {}",
                    exe.display(),
                    of("CapPrm:"),
                    of("Seccomp:"),
                    of("NoNewPrivs:")
                );
                // SAFETY: numbers only.
                unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, 0, 0) };
            }
        }
    }
}

/// What of the host's keys is in reach: the session's, and what can be asked for by name.
fn keys() {
    const KEYCTL_GET_KEYRING_ID: libc::c_long = 0;
    const KEYCTL_SEARCH: libc::c_long = 10;
    const KEY_SPEC_SESSION_KEYRING: libc::c_long = -3;
    let words = |result: libc::c_long| match result {
        -1 => std::io::Error::last_os_error().raw_os_error().unwrap().to_string(),
        _ => "found".to_owned(),
    };
    let (kind, name) = (c"user".as_ptr(), c"joey-test-secret".as_ptr());
    // SAFETY: numbers, and NUL-terminated strings that outlive the calls.
    unsafe {
        let session =
            libc::syscall(libc::SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0);
        println!("session {}", words(session));
        let search =
            libc::syscall(libc::SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, kind, name, 0);
        println!("search {}", words(search));
        let asked = libc::syscall(libc::SYS_request_key, kind, name, std::ptr::null::<i8>(), 0);
        println!("request {}", words(asked));
    }
    println!("listed {}", fs::read("/proc/keys").map_or(0, |bytes| bytes.len()));
}
