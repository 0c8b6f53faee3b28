//! A container's /dev: a tmpfs of its own with the harmless devices, terminals, shared memory and
//! queues; and the cgroup program that lets no other device be opened, whoever makes a node for it.
//!
//! It never uses anything that the image has in /dev.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, chmodat, makedev, mkdirat, mknodat, openat, symlinkat};

use super::{NODEV, NOEXEC, NOSUID, Surroundings, ordinary_directory};
use crate::runtime::At;
use crate::runtime::protocol::Failure;
use crate::sys::bpf::Instruction;
use crate::sys::mount;

/// Every container's nodes: name, major, minor (Documentation/admin-guide/devices.txt).
const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Opened without a node of ours: /dev/console (a terminal slave bound there), ptmx, terminal
/// slaves.
const CONSOLE: (u32, u32) = (5, 1);
const PTMX: (u32, u32) = (5, 2);
const TERMINAL_SLAVES_MAJOR: u32 = 136;

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Handles to what was mounted.
pub struct Devices {
    /// The null device, by a descriptor that no later mount can redirect.
    pub null: OwnedFd,
    /// Root of the devpts.
    pub terminals: OwnedFd,
}

/// Mounts /dev and what belongs below it.
pub fn attach(root: BorrowedFd<'_>, surroundings: &Surroundings<'_>) -> Result<Devices, Failure> {
    let at = "mount /dev";
    let target = ordinary_directory(root, "dev")?;
    let dev = mount::fresh("tmpfs", &[("mode", "755"), ("size", "64k")], NOSUID | NOEXEC).at(at)?;
    mount::attach(&dev, target.as_fd()).at(at)?;
    for (name, major, minor) in NODES {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(&dev, name, FileType::CharacterDevice, mode, makedev(major, minor)).at(at)?;
        // Past the umask.
        chmodat(&dev, name, mode, rustix::fs::AtFlags::empty()).at(at)?;
    }
    for (name, target) in LINKS {
        symlinkat(target, &dev, name).at(at)?;
    }
    if surroundings.privileged {
        copy_host_nodes(dev.as_fd()).at("copy devices")?;
    }
    let terminals = mount::fresh(
        "devpts",
        &[("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")],
        NOSUID | NOEXEC,
    )
    .at("mount /dev/pts")?;
    below(&dev, "pts", &terminals)?;
    let queues = mount::fresh("mqueue", &[], NOSUID | NODEV | NOEXEC).at("mount /dev/mqueue")?;
    below(&dev, "mqueue", &queues)?;
    below(&dev, "shm", surroundings.shm)?;

    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let null = openat(&dev, "null", flags, Mode::empty()).at(at)?;
    Ok(Devices { null, terminals })
}

/// A /dev/shm of 64 MiB, as Kubernetes gives a pod.
pub fn shared_memory() -> io::Result<OwnedFd> {
    mount::fresh("tmpfs", &[("mode", "1777"), ("size", "64m")], NOSUID | NODEV | NOEXEC)
}

fn below(dev: &OwnedFd, name: &str, tree: &OwnedFd) -> Result<(), Failure> {
    let at = "mount below /dev";
    mkdirat(dev, name, Mode::from_raw_mode(0o755)).at(at)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = openat(dev, name, flags, Mode::empty()).at(at)?;
    mount::attach(tree, target.as_fd()).at(at)
}

/// Makes every device node of the host's /dev, for privileged containers.
fn copy_host_nodes(dev: BorrowedFd<'_>) -> io::Result<()> {
    const OWN: [&str; 6] = ["pts", "shm", "mqueue", "fd", "console", "ptmx"];
    const DEEPEST: usize = 4;
    let mut left = vec![(std::path::PathBuf::from("/dev"), dev.try_clone_to_owned()?, 0)];
    while let Some((from, to, depth)) = left.pop() {
        for entry in std::fs::read_dir(&from)? {
            use std::os::unix::fs::{FileTypeExt, MetadataExt};
            let entry = entry?;
            let name = entry.file_name();
            // What vanished meanwhile is no device any more.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let kind = metadata.file_type();
            let is_own = depth == 0 && OWN.iter().any(|own| name == *own);
            if is_own {
                continue;
            }
            let mode = Mode::from_raw_mode(metadata.mode() & 0o7777);
            if kind.is_dir() && depth < DEEPEST {
                mkdirat(&to, name.as_os_str(), mode)?;
                let flags = crate::sys::files::DIRECTORY | OFlags::NOFOLLOW;
                let below = openat(&to, name.as_os_str(), flags, Mode::empty())?;
                left.push((entry.path(), below, depth + 1));
            } else if kind.is_char_device() || kind.is_block_device() {
                let kind = if kind.is_char_device() {
                    FileType::CharacterDevice
                } else {
                    FileType::BlockDevice
                };
                match mknodat(&to, name.as_os_str(), kind, mode, metadata.rdev()) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                chmodat(&to, name.as_os_str(), mode, rustix::fs::AtFlags::empty())?;
            }
        }
    }
    Ok(())
}

/// The device program: the nodes above may be used; any node may be made (it is inert), no other
/// opened.
///
/// `struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }`, where access_type is
/// `access << 16 | type`.
pub fn program() -> Vec<Instruction> {
    const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
    const AND: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
    const SHIFT_RIGHT: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
    const MOVE: u8 = 0xb4; // BPF_ALU | BPF_MOV | BPF_K
    const MOVE_REGISTER: u8 = 0xbc; // BPF_ALU | BPF_MOV | BPF_X
    const JUMP_EQUAL: u8 = 0x15;
    const JUMP_NOT_EQUAL: u8 = 0x55;
    const EXIT: u8 = 0x95;
    const ACCESS_MKNOD: i32 = 1;
    const TYPE_CHARACTER: i32 = 2;
    let step = |code, destination: u8, source: u8, offset, immediate| Instruction {
        code,
        registers: source << 4 | destination,
        offset,
        immediate,
    };
    let pairs: Vec<(u32, u32)> =
        NODES.iter().map(|(_, major, minor)| (*major, *minor)).chain([CONSOLE, PTMX]).collect();
    let mut all = vec![
        step(LOAD_WORD, 2, 1, 0, 0), // r2 = type
        step(MOVE_REGISTER, 5, 2, 0, 0),
        step(AND, 2, 0, 0, 0xffff),
        step(SHIFT_RIGHT, 5, 0, 0, 16), // r5 = access
        step(LOAD_WORD, 3, 1, 4, 0),    // r3 = major
        step(LOAD_WORD, 4, 1, 8, 0),    // r4 = minor
        step(MOVE, 0, 0, 0, 1),
        step(JUMP_NOT_EQUAL, 5, 0, 1, ACCESS_MKNOD),
        step(EXIT, 0, 0, 0, 0),
    ];
    // From here on: allowed when one test matches, each jumping to the last but one instruction.
    let mut tests = vec![];
    for (major, minor) in &pairs {
        tests.push(step(JUMP_NOT_EQUAL, 3, 0, 1, *major as i32));
        tests.push(step(JUMP_EQUAL, 4, 0, 0, *minor as i32));
    }
    tests.push(step(JUMP_EQUAL, 3, 0, 0, TERMINAL_SLAVES_MAJOR as i32));
    let length = tests.len();
    for (index, test) in tests.iter_mut().enumerate() {
        if test.code == JUMP_EQUAL {
            // Over the remaining tests and the refusal behind them.
            test.offset = (length - index) as i16;
        }
    }
    all.push(step(JUMP_NOT_EQUAL, 2, 0, length as i16, TYPE_CHARACTER));
    all.extend(tests);
    all.push(step(MOVE, 0, 0, 0, 0));
    all.push(step(EXIT, 0, 0, 0, 0));
    all
}
