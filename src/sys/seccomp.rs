//! Loads a seccomp filter: seccomp(2) without touching no_new_privs.
#![expect(unsafe_code, reason = "seccompiler's own loader always sets no_new_privs")]

use std::io;

use seccompiler::sock_filter;

const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;

/// Adds one filter to this thread. Needs no_new_privs or CAP_SYS_ADMIN (`EACCES` otherwise).
pub fn load(program: &[sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let header = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: the kernel copies `len` instructions from `filter`; slice and header agree, outlive
    // the call, and are only read. seccompiler's sock_filter is #[repr(C)] with the fields of
    // linux/filter.h.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            0 as libc::c_uint,
            &raw const header,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
