//! What a process does to itself on its way to another program. No policy: callers say what and
//! when.
#![expect(
    unsafe_code,
    reason = "calls without a safe wrapper: signal dispositions, close_range, keyctl"
)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Puts every signal back to its default and unblocks all: ignored signals survive execve(2), and
/// both Rust (SIGPIPE) and the zygote (SIGCHLD) ignore some.
pub fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL installs no code of ours, so there is no handler whose assumptions could
        // break. Signals that cannot be changed (SIGKILL, SIGSTOP, those of glibc) answer EINVAL,
        // rightly ignored.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: the set lives on the stack, is initialised by sigemptyset before use, and is only
    // read.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Sets one signal to be ignored or to its default.
pub fn set_ignored(signal: i32, ignored: bool) {
    let disposition = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: neither disposition runs code in this process.
    unsafe { libc::signal(signal, disposition) };
}

/// Marks every descriptor from `first` on close-on-exec (close_range(2), Linux 5.11).
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: takes numbers only, and closes nothing: owners of descriptors keep them.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes every descriptor from `first` on but those to keep, in a child of [`super::spawn::fork`] that goes on
/// to another program: owners that it has copies of may not be used, nor dropped, any more.
pub fn close_all_from(first: u32, keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    assert!(super::spawn::was_forked(), "the descriptors of this process belong to its owners");
    let mut kept: Vec<u32> = keep.iter().map(|keep| keep.as_raw_fd() as u32).collect();
    kept.sort_unstable();
    let mut begin = first;
    for end in kept.into_iter().filter(|kept| *kept >= first).chain([u32::MAX]) {
        if begin < end {
            // SAFETY: takes numbers only. Undefined would be an owner that uses a descriptor which was closed
            // under it, or closes another one under its number: in a child that was forked, as asserted, the
            // owners are those of its parent, and its code never returns to them. The callers keep that true.
            let done = unsafe { libc::syscall(libc::SYS_close_range, begin, end - 1, 0) };
            if done != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        begin = end.saturating_add(1);
    }
    Ok(())
}

/// Joins a new, empty session keyring (keyctl(2)): the host's keys must not be reachable,
/// CVE-2014-9529's neighbourhood. `ENOSYS` without CONFIG_KEYS, `EDQUOT` at the quota.
pub fn join_new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring; no memory is passed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The kernel's own answer to getcwd(2): glibc turns an "(unreachable)" one into ENOENT or walks
/// up.
pub fn current_directory_is_reachable() -> bool {
    let mut buffer = [0u8; libc::PATH_MAX as usize];
    // SAFETY: the kernel writes at most `len` bytes into the buffer, which is that long.
    let length = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    length > 0 && buffer[0] == b'/'
}

/// Replaces the program by the one open at `program` (execveat(2) with AT_EMPTY_PATH). Returns only
/// to report a failure.
pub fn exec_descriptor(program: std::os::fd::BorrowedFd<'_>, arguments: &[&CStr]) -> io::Error {
    let mut pointers: Vec<*const libc::c_char> = arguments.iter().map(|a| a.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let environment = [std::ptr::null::<libc::c_char>()];
    // SAFETY: both vectors are null-terminated arrays of NUL-terminated strings that live until the
    // call returns, and it returns only on failure.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            std::os::fd::AsRawFd::as_raw_fd(&program),
            c"".as_ptr(),
            pointers.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Ends this process at once, running no destructors: what a forked child must do.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) takes a number and does not return.
    unsafe { libc::_exit(code) }
}

/// Gives freed heap back to the kernel.
pub fn trim_heap() {
    // SAFETY: malloc_trim(3) is thread-safe and takes a number.
    unsafe { libc::malloc_trim(0) };
}
