//! Kernel parameters of network namespaces, read and written through /proc/sys.
//!
//! The kernel shows each thread the parameters of its own namespace there, while /sys shows those of whoever mounted
//! it; therefore /sys is never used.

use std::fs;
use std::io;

/// Names with their parts separated by `/`, since interface names may contain dots.
fn path(name: &str) -> String {
    format!("/proc/sys/net/{name}")
}

pub fn read(name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(path(name))?.trim().to_owned())
}

/// Writes `value` unless it stands there already, so a read-only /proc/sys that is right is right.
pub fn write(name: &str, value: &str) -> io::Result<()> {
    if read(name)? == value {
        return Ok(());
    }
    fs::write(path(name), value)
        .map_err(|error| io::Error::new(error.kind(), format!("net/{name}: {error}")))
}

/// As [`write`], for parameters of parts that a kernel may lack (IPv6).
pub fn write_if_there(name: &str, value: &str) -> io::Result<()> {
    match write(name, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
