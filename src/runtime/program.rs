//! Which file a command name means inside a container, in the words of Go's `os/exec` (as runc
//! answers).
//!
//! Runs in the container's root as the container's user. It never executes anything.

use std::ffi::CString;
use std::io;

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, stat};

use super::plan::ProcessPlan;

/// Used when the environment names no PATH, as runc and the kernel's own init do.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The file to execute, or the reason why there is none.
pub fn find(process: &ProcessPlan) -> Result<CString, String> {
    let Some(name) = process.argv.first().filter(|name| !name.is_empty()) else {
        return Err("no command specified".to_owned());
    };
    let c_string =
        |path: &str| CString::new(path).map_err(|_| format!("exec: {name:?}: invalid argument"));
    if name.contains('/') {
        return match executable(name) {
            Ok(()) => c_string(name),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(format!("exec: {name:?}: stat {name}: {}", words(&error)))
            }
            Err(error) => Err(format!("exec: {name:?}: {}", words(&error))),
        };
    }
    let path = process.env.iter().rev().find_map(|variable| variable.strip_prefix("PATH="));
    for directory in path.unwrap_or(DEFAULT_PATH).split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = format!("{directory}/{name}");
        if executable(&candidate).is_ok() {
            return c_string(&candidate);
        }
    }
    Err(format!("exec: {name:?}: executable file not found in $PATH"))
}

fn executable(path: &str) -> io::Result<()> {
    let found = stat(path)?;
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        return Err(rustix::io::Errno::ISDIR.into());
    }
    // Root may "execute" a file without any x bit as far as access(2) is concerned for directories
    // only.
    if found.st_mode & 0o111 == 0 {
        return Err(rustix::io::Errno::ACCESS.into());
    }
    Ok(accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?)
}

/// An error as Go and C libraries word it, without Rust's `(os error N)`.
pub fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let plain = text.split(" (os error").next().unwrap_or_default();
    let mut letters = plain.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find_with(argv0: &str, path: &str) -> Result<String, String> {
        let process = ProcessPlan {
            argv: vec![argv0.to_owned()],
            env: vec![format!("PATH={path}")],
            cwd: "/".to_owned(),
        };
        find(&process).map(|path| path.into_string().unwrap())
    }

    #[test]
    fn failures_are_worded_like_runc() {
        let table = [
            ("nosuch", "/bin", r#"exec: "nosuch": executable file not found in $PATH"#),
            ("/no/such", "", r#"exec: "/no/such": stat /no/such: no such file or directory"#),
            ("/etc/passwd", "", r#"exec: "/etc/passwd": permission denied"#),
            ("/etc", "", r#"exec: "/etc": is a directory"#),
            ("", "/bin", "no command specified"),
        ];
        for (argv0, path, words) in table {
            assert_eq!(find_with(argv0, path).unwrap_err(), words);
        }
    }

    #[test]
    fn first_directory_of_path_wins() {
        assert_eq!(find_with("sh", "/nowhere:/bin:/usr/bin").unwrap(), "/bin/sh");
    }
}
