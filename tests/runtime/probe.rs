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
