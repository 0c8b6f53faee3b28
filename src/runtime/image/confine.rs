//! The process in which foreign bytes are decompressed and unpacked: this binary once more, shut in.
//!
//! It gets one socket as its standard input: first a [`Task`] in a length-prefixed JSON, then the
//! stream. Before it reads a byte of the stream it has no root but the empty layer directory, no
//! network, only the capabilities that making files needs, limits on memory and processor time, and
//! a list of allowed system calls without exec, sockets, mounts or signals. It never runs anything.
//!
//! ```text
//! decompress:  stream in ──▶ fd 0 ──▶ stream out (raw)
//! apply:       stream in ──▶ fd 0 ──▶ frames: 'i' list of files … , 'd' Applied as JSON
//! both:        an error is one text on fd 2 and exit code 1
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::resource::Resource;
use serde::{Deserialize, Serialize};

use super::apply;
use super::entries::EntryLimits;

/// argv[0] of this role.
pub const ROLE: &str = "joey-unpack";
/// 2^27 = 128 MiB, the largest window that RFC 8878 §3.1.1.1.2 expects decoders to take with a margin.
const ZSTD_WINDOW_LOG: u32 = 27;
const MEMORY_MAX_BYTES: u64 = 1 << 30;
const CPU_MAX_SECONDS: u64 = 900;

/// What the process is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Task {
    Gunzip,
    Unzstd,
    Apply { root: PathBuf, limits: EntryLimits },
}

#[derive(Debug, thiserror::Error)]
enum ConfineError {
    #[error("cannot read the task")]
    Task(#[source] std::io::Error),
    #[error("cannot confine the process: {0}")]
    Confine(&'static str, #[source] Box<dyn std::error::Error>),
    #[error("cannot decompress")]
    Decompress(#[source] std::io::Error),
    #[error("cannot hand over the result")]
    Answer(#[source] std::io::Error),
    #[error(transparent)]
    Apply(#[from] apply::ApplyError),
}

/// Plays the role when `args` ask for it; `main` calls this before anything else.
pub fn role_main(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    if args.into_iter().next()? != ROLE {
        return None;
    }
    Some(run())
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test process that plays the role must not run tests after it"
)]
pub(super) fn run_and_exit() -> ! {
    let code = if run() == ExitCode::SUCCESS { 0 } else { 1 };
    std::process::exit(code)
}

/// Does the task that comes in on standard input.
pub(super) fn run() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(next) = cause {
                text.push_str(&format!(": {next}"));
                cause = next.source();
            }
            // Nobody is left to tell when this fails.
            let _ = std::io::stderr().write_all(text.as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), ConfineError> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(ConfineError::Task)?;
    // A file, not a socket to std: plain read(2) and write(2) are all that is allowed below.
    let mut input = File::from(stdin);
    let mut output = input.try_clone().map_err(ConfineError::Task)?;
    let task = read_task(&mut input).map_err(ConfineError::Task)?;
    limit()?;
    match task {
        Task::Gunzip => {
            confine_calls(&[], Files::None)?;
            decompress(flate2::read::MultiGzDecoder::new(input), &mut output)
        }
        Task::Unzstd => {
            confine_calls(&[], Files::None)?;
            let mut decoder = zstd::stream::read::Decoder::new(input)
                .and_then(|mut decoder| {
                    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                    Ok(decoder)
                })
                .map_err(ConfineError::Decompress)?;
            decompress(&mut decoder, &mut output)
        }
        Task::Apply { root, limits } => {
            let root = enter(&root)?;
            rustix::process::umask(rustix::fs::Mode::empty());
            use caps::Capability::{
                CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_MKNOD, CAP_SETFCAP,
                CAP_SYS_ADMIN,
            };
            // CAP_SYS_ADMIN is what trusted.overlay.opaque takes; the list of calls below leaves it
            // nothing else to do.
            confine_calls(
                &[
                    CAP_CHOWN,
                    CAP_DAC_OVERRIDE,
                    CAP_FOWNER,
                    CAP_FSETID,
                    CAP_MKNOD,
                    CAP_SETFCAP,
                    CAP_SYS_ADMIN,
                ],
                Files::Make,
            )?;
            let mut index = Frames::new(&mut output);
            let applied = apply::apply(root.as_fd(), input, limits, &mut index)?;
            index.finish(&applied).map_err(ConfineError::Answer)
        }
    }
}

/// Writes `task` as [`run`] reads it.
pub(super) fn write_task(output: &mut impl Write, task: &Task) -> std::io::Result<()> {
    let text = serde_json::to_vec(task).map_err(std::io::Error::other)?;
    let length = u32::try_from(text.len()).map_err(std::io::Error::other)?;
    output.write_all(&length.to_le_bytes())?;
    output.write_all(&text)
}

fn read_task(input: &mut impl Read) -> std::io::Result<Task> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let mut text = vec![0; u32::from_le_bytes(length).min(64 << 10) as usize];
    input.read_exact(&mut text)?;
    serde_json::from_slice(&text).map_err(std::io::Error::other)
}

fn decompress(mut decoder: impl Read, output: &mut impl Write) -> Result<(), ConfineError> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        let got = match decoder.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            result => result.map_err(ConfineError::Decompress)?,
        };
        if got == 0 {
            return Ok(());
        }
        output.write_all(&buffer[..got]).map_err(ConfineError::Answer)?;
    }
}

/// Collects the list of files into frames and ends with the summary.
struct Frames<'a> {
    output: &'a mut File,
    buffer: Vec<u8>,
}

impl<'a> Frames<'a> {
    fn new(output: &'a mut File) -> Frames<'a> {
        Frames { output, buffer: Vec::with_capacity(FRAME_MAX) }
    }

    fn send(&mut self, tag: u8, content: &[u8]) -> std::io::Result<()> {
        let length = u32::try_from(content.len()).map_err(std::io::Error::other)?;
        self.output.write_all(&[tag])?;
        self.output.write_all(&length.to_le_bytes())?;
        self.output.write_all(content)
    }

    fn finish(mut self, applied: &apply::Applied) -> std::io::Result<()> {
        self.flush()?;
        let text = serde_json::to_vec(applied).map_err(std::io::Error::other)?;
        self.send(b'd', &text)
    }
}

/// Largest content of a frame.
pub(super) const FRAME_MAX: usize = 64 << 10;

impl Write for Frames<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let take = bytes.len().min(FRAME_MAX - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..take]);
        if self.buffer.len() == FRAME_MAX {
            self.flush()?;
        }
        Ok(take)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let content = std::mem::take(&mut self.buffer);
        if !content.is_empty() {
            self.send(b'i', &content)?;
        }
        self.buffer = content;
        self.buffer.clear();
        Ok(())
    }
}

fn limit() -> Result<(), ConfineError> {
    for (resource, value) in [
        (Resource::RLIMIT_DATA, MEMORY_MAX_BYTES),
        (Resource::RLIMIT_CPU, CPU_MAX_SECONDS),
        (Resource::RLIMIT_NOFILE, 64),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_MEMLOCK, 0),
    ] {
        nix::sys::resource::setrlimit(resource, value, value).map_err(failed("limits"))?;
    }
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(failed("dumpable"))
}

/// Makes the empty directory `root` all there is, through a mount on which devices and setuid files
/// mean nothing.
fn enter(root: &std::path::Path) -> Result<OwnedFd, ConfineError> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .map_err(failed("unshare"))?;
    let none: Option<&str> = None;
    nix::mount::mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)
        .map_err(failed("make mounts private"))?;
    nix::mount::mount(Some(root), root, none, MsFlags::MS_BIND, none).map_err(failed("bind"))?;
    let inert = MsFlags::MS_BIND
        | MsFlags::MS_REMOUNT
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | MsFlags::MS_NOEXEC;
    nix::mount::mount(none, root, none, inert, none).map_err(failed("remount"))?;
    nix::unistd::chdir(root).map_err(failed("chdir"))?;
    // pivot_root(2), NOTES: with "." for both the old root ends up on top and is detached at once.
    nix::unistd::pivot_root(".", ".").map_err(failed("pivot_root"))?;
    nix::mount::umount2(".", MntFlags::MNT_DETACH).map_err(failed("umount"))?;
    nix::unistd::chdir("/").map_err(failed("chdir"))?;
    rustix::fs::open(
        "/",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(failed("open root"))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Files {
    None,
    Make,
}

/// Gives up every capability but `keep` and every system call but the list.
fn confine_calls(keep: &[caps::Capability], files: Files) -> Result<(), ConfineError> {
    for capability in caps::all() {
        if !keep.contains(&capability) {
            // A capability that this kernel does not know cannot be held either.
            let _ = caps::drop(None, caps::CapSet::Bounding, capability);
        }
    }
    let keep: caps::CapsHashSet = keep.iter().copied().collect();
    caps::set(None, caps::CapSet::Effective, &keep).map_err(failed("capabilities"))?;
    caps::set(None, caps::CapSet::Permitted, &keep).map_err(failed("capabilities"))?;
    caps::clear(None, caps::CapSet::Inheritable).map_err(failed("capabilities"))?;
    let always = [
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_fcntl,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_sched_yield,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let making = [
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_getdents64,
        libc::SYS_lseek,
        libc::SYS_mkdirat,
        libc::SYS_mknodat,
        libc::SYS_symlinkat,
        libc::SYS_linkat,
        libc::SYS_unlinkat,
        libc::SYS_fchown,
        libc::SYS_fchownat,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_utimensat,
        libc::SYS_fsetxattr,
    ];
    let mut rules: BTreeMap<i64, Vec<seccompiler::SeccompRule>> =
        always.into_iter().map(|call| (call, Vec::new())).collect();
    if files == Files::Make {
        rules.extend(making.into_iter().map(|call| (call, Vec::new())));
    }
    let filter = seccompiler::SeccompFilter::new(
        rules,
        seccompiler::SeccompAction::KillProcess,
        seccompiler::SeccompAction::Allow,
        seccompiler::TargetArch::x86_64,
    )
    .map_err(failed("seccomp"))?;
    let program: seccompiler::BpfProgram =
        filter.try_into().map_err(|error: seccompiler::BackendError| {
            ConfineError::Confine("seccomp", Box::new(error))
        })?;
    // Sets no_new_privs too.
    seccompiler::apply_filter(&program).map_err(failed("seccomp"))
}

fn failed<E: std::error::Error + 'static>(step: &'static str) -> impl FnOnce(E) -> ConfineError {
    move |error| ConfineError::Confine(step, Box::new(error))
}
