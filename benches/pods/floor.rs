//! What the kernel itself asks for a pod: six namespaces, a veth, an address, an overlay, a new root, exec.
//!
//! A process of its own with one thread, because only such a one may fork without exec. Nothing is durable, limited,
//! filtered or watched here: nobody can be faster and still give a container.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};

use joey::sys::spawn::{self, Birth, Fork, Parent};
use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth};
use nix::sched::CloneFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType};
use rtnetlink::{AddressMessageBuilder, LinkMessageBuilder, LinkUnspec, LinkVeth};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::measure;

const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;

/// The benchmark's end: asks for one container after the other.
pub struct Floor {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Floor {
    pub fn start(rootfs: &Path, scratch: &Path) -> io::Result<Floor> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("floor")
            .args([rootfs, scratch])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let missing = || io::Error::other("no pipe");
        let requests = child.stdin.take().ok_or_else(missing)?;
        let answers = BufReader::new(child.stdout.take().ok_or_else(missing)?);
        Ok(Floor { child, requests, answers })
    }

    /// Nanoseconds until the payload's first instruction.
    pub fn once(&mut self) -> Result<u64, String> {
        self.requests.write_all(b"\n").map_err(|error| error.to_string())?;
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|error| error.to_string())?;
        line.trim().parse().map_err(|_| format!("the floor says {:?}", line.trim()))
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other end.
pub fn run(rootfs: &Path, scratch: &Path) -> ExitCode {
    for (round, line) in io::stdin().lines().enumerate() {
        if line.is_err() {
            break;
        }
        let start = measure::now();
        match container(rootfs, &scratch.join(round.to_string())) {
            Ok(first) => println!("{}", first.saturating_sub(start)),
            Err(error) => println!("{error}"),
        }
    }
    ExitCode::SUCCESS
}

fn container(rootfs: &Path, scratch: &Path) -> io::Result<u64> {
    let (out, into) = io::pipe()?;
    let (gate, mut open) = io::pipe()?;
    let birth = Birth {
        namespaces: CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP
            | CloneFlags::CLONE_NEWNET,
        cgroup: None,
        parent: Parent::Caller,
    };
    match spawn::fork(birth)? {
        Fork::Child => {
            let ended = inside(rootfs, scratch, gate, into.as_fd().try_clone_to_owned());
            eprintln!("floor: {ended:?}");
            joey::sys::process::exit_now(127)
        }
        Fork::Parent(child) => {
            drop((gate, into));
            let netns = std::fs::File::open(format!("/proc/{}/ns/net", child.pid))?;
            let peer = LinkMessageBuilder::<LinkUnspec>::new()
                .name("eth0")
                .setns_by_fd(netns.as_raw_fd())
                .build();
            let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
                .name("floor")
                .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
                .build();
            let made = ask(NEW_LINK, NLM_F_CREATE, &message).and_then(|()| {
                let up = LinkMessageBuilder::<LinkUnspec>::new().name("floor").up().build();
                ask(NEW_LINK, 0, &up)
            });
            open.write_all(b"!")?;
            drop(open);
            let mut line = String::new();
            BufReader::new(out).read_line(&mut line)?;
            use rustix::process::{WaitId, WaitIdOptions, waitid};
            waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)?;
            made?;
            line.trim().parse().map_err(|_| io::Error::other("the payload did not run"))
        }
    }
}

fn inside(
    rootfs: &Path,
    scratch: &Path,
    mut gate: impl Read,
    out: io::Result<OwnedFd>,
) -> io::Result<()> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let [upper, work, root] = ["upper", "work", "merged"].map(|name| scratch.join(name));
    for directory in [&upper, &work, &root] {
        std::fs::create_dir_all(directory)?;
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={},volatile",
        rootfs.display(),
        upper.display(),
        work.display()
    );
    let options = std::ffi::CString::new(options)?;
    rustix::mount::mount(
        "overlay",
        &root,
        "overlay",
        MountFlags::empty(),
        Some(options.as_c_str()),
    )?;
    let proc: PathBuf = root.join("proc");
    rustix::mount::mount("proc", &proc, "proc", MountFlags::empty(), None)?;
    gate.read_exact(&mut [0])?;
    let loopback = LinkMessageBuilder::<LinkUnspec>::new().name("lo").up().build();
    ask(NEW_LINK, 0, &loopback)?;
    let index = nix::net::if_::if_nametoindex("eth0")?;
    // The kernel cannot open one end before it knows the other, so not while the pair is made.
    let up = LinkMessageBuilder::<LinkUnspec>::new().index(index).up().build();
    ask(NEW_LINK, 0, &up)?;
    let address = AddressMessageBuilder::<Ipv4Addr>::new()
        .index(index)
        .address(Ipv4Addr::new(192, 0, 2, 2), 32)
        .build();
    ask(NEW_ADDRESS, NLM_F_CREATE, &address)?;
    rustix::process::chdir(&root)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    nix::unistd::dup2_stdout(out?)?;
    nix::unistd::execve(c"/stamp", &[c"stamp", c"exit"], &[c"PATH=/"])?;
    Ok(())
}

/// One rtnetlink request and its acknowledgement.
fn ask(kind: u16, flags: u16, message: &impl Emitable) -> io::Result<()> {
    use nix::sys::socket;
    let fd = socket::socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let length = 16 + message.buffer_len();
    let mut request = vec![0; length];
    request[..4].copy_from_slice(&(length as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    request[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
    message.emit(&mut request[16..]);
    socket::send(fd.as_raw_fd(), &request, socket::MsgFlags::empty())?;
    let mut answer = [0; 4096];
    let read = socket::recv(fd.as_raw_fd(), &mut answer, socket::MsgFlags::empty())?;
    let errno = answer.get(16..20).filter(|_| read >= 20).and_then(|b| b.try_into().ok());
    match errno.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
