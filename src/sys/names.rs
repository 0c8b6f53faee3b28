//! Keeps the C library's name service out of this program.
//!
//! A static glibc answers getaddrinfo(3), getpwuid_r(3) and their kin by loading the host's NSS modules, which
//! were built for another glibc, may crash, and are code of the host inside a root process. Names are resolved
//! through hickory, passwd and group files are parsed. Libraries that still mention these functions are linked
//! to the refusals below, so that the originals are not in the binary at all (`tests/binary.rs` looks).
#![expect(unsafe_code, reason = "the linker is told by symbol names")]

use std::ffi::{c_char, c_int, c_void};

/// See getaddrinfo(3): the name cannot be resolved, and trying again does not help.
const EAI_FAIL: c_int = -4;

/// Resolves nothing.
// SAFETY: no other definition of this symbol is linked; it takes what C passes and dereferences none of it.
#[unsafe(no_mangle)]
pub extern "C" fn getaddrinfo(
    _node: *const c_char,
    _service: *const c_char,
    _hints: *const c_void,
    _result: *mut *mut c_void,
) -> c_int {
    EAI_FAIL
}

/// Frees what [`getaddrinfo`] never gave.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn freeaddrinfo(_result: *mut c_void) {}

/// The one message that is left.
// SAFETY: as above; the string is static and ends with NUL.
#[unsafe(no_mangle)]
pub extern "C" fn gai_strerror(_code: c_int) -> *const c_char {
    c"names are not resolved through the C library".as_ptr()
}

/// Resolves no address to a name.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn getnameinfo(
    _address: *const c_void,
    _address_length: u32,
    _host: *mut c_char,
    _host_length: u32,
    _service: *mut c_char,
    _service_length: u32,
    _flags: c_int,
) -> c_int {
    EAI_FAIL
}

/// Knows no user. std asks it for the home directory when HOME is not set.
///
/// # Safety
/// `result` is null or valid for a write, as the manual page demands.
// SAFETY: as above; `result` is documented to be a valid place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getpwuid_r(
    _uid: u32,
    _entry: *mut c_void,
    _buffer: *mut c_char,
    _length: usize,
    result: *mut *mut c_void,
) -> c_int {
    if !result.is_null() {
        // SAFETY: the caller passes a valid pointer, see getpwuid_r(3).
        unsafe { result.write(std::ptr::null_mut()) };
    }
    0
}

/// Knows no user by name.
///
/// # Safety
/// `result` is null or valid for a write, as the manual page demands.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getpwnam_r(
    _name: *const c_char,
    entry: *mut c_void,
    buffer: *mut c_char,
    length: usize,
    result: *mut *mut c_void,
) -> c_int {
    // SAFETY: the same contract, see getpwnam_r(3).
    unsafe { getpwuid_r(0, entry, buffer, length, result) }
}

/// Knows no group.
///
/// # Safety
/// `result` is null or valid for a write, as the manual page demands.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getgrgid_r(
    gid: u32,
    entry: *mut c_void,
    buffer: *mut c_char,
    length: usize,
    result: *mut *mut c_void,
) -> c_int {
    // SAFETY: the same contract, see getgrgid_r(3).
    unsafe { getpwuid_r(gid, entry, buffer, length, result) }
}

/// Knows no group by name.
///
/// # Safety
/// `result` is null or valid for a write, as the manual page demands.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getgrnam_r(
    name: *const c_char,
    entry: *mut c_void,
    buffer: *mut c_char,
    length: usize,
    result: *mut *mut c_void,
) -> c_int {
    // SAFETY: the same contract, see getgrnam_r(3).
    unsafe { getpwnam_r(name, entry, buffer, length, result) }
}

/// Knows no membership.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn getgrouplist(
    _user: *const c_char,
    _group: u32,
    _groups: *mut u32,
    _count: *mut c_int,
) -> c_int {
    -1
}

/// Sets no groups; a container's are set exactly, with setgroups(2).
// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn initgroups(_user: *const c_char, _group: u32) -> c_int {
    -1
}
