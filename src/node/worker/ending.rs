//! A container's last words: its termination message, or the end of its log (S35).
//!
//! Files are opened without following links and read up to a bound: the container wrote what is in them.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::Worker;
use crate::runtime::plan::Exit;

/// One container's message …
const MESSAGE_BYTES: usize = 4096;
/// … and all messages of a pod.
const POD_BYTES: usize = 12 * 1024;
const LOG_BYTES: usize = 2048;
const LOG_LINES: usize = 80;

impl Worker {
    pub(super) fn termination_message(&self, name: &str, attempt: u32, exit: &Exit) -> String {
        let spec = self.spec_of(name).map(|(spec, _)| spec);
        let limit = MESSAGE_BYTES.min(POD_BYTES / self.state.containers.len().max(1));
        let file = self.paths.termination_log(name, attempt);
        let message = read_head(&file, limit);
        let falls_back = spec.and_then(|s| s.termination_message_policy.as_deref())
            == Some("FallbackToLogsOnError");
        if message.is_empty() && falls_back && exit.code != 0 {
            return log_tail(&self.paths.log(name, attempt), limit.min(LOG_BYTES));
        }
        message
    }
}

fn open(path: &Path) -> Option<fs::File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    file.metadata().ok()?.is_file().then_some(file)
}

fn read_head(path: &Path, limit: usize) -> String {
    let mut bytes = Vec::new();
    if let Some(file) = open(path) {
        let _ = file.take(limit as u64).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The last lines of a CRI log (`time stream tag text`) without their heads.
fn log_tail(path: &Path, limit: usize) -> String {
    const WINDOW: u64 = 64 * 1024;
    let Some(mut file) = open(path) else {
        return String::new();
    };
    let length = file.metadata().map_or(0, |m| m.len());
    let from = length.saturating_sub(WINDOW);
    let mut bytes = Vec::new();
    if file.seek(SeekFrom::Start(from)).is_ok() {
        let _ = file.take(WINDOW).read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().skip(usize::from(from > 0)).collect();
    let mut tail = String::new();
    for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
        let mut parts = line.splitn(4, ' ');
        let (partial, body) = (parts.nth(2) == Some("P"), parts.next().unwrap_or_default());
        tail.push_str(body);
        if !partial {
            tail.push('\n');
        }
    }
    let excess = tail.len().saturating_sub(limit);
    let start = (excess..tail.len()).find(|at| tail.is_char_boundary(*at)).unwrap_or(tail.len());
    tail.split_off(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_its_last_lines_without_heads() {
        let path = std::env::temp_dir().join(format!("joey-tail-{}", crate::sys::clock::uuid()));
        let mut log = String::new();
        for n in 0..100 {
            log.push_str(&format!("2026-11-23T12:57:00.000000000Z stdout F line {n}\n"));
        }
        log.push_str("2026-11-23T12:57:00.000000000Z stderr P half \n");
        log.push_str("2026-11-23T12:57:00.000000000Z stderr F whole\n");
        fs::write(&path, &log).unwrap();
        let tail = log_tail(&path, 2048);
        assert!(tail.starts_with("line 22\n") && tail.ends_with("line 99\nhalf whole\n"), "{tail}");
        assert_eq!(log_tail(&path, 11), "half whole\n");
        fs::remove_file(&path).unwrap();
        assert_eq!(log_tail(&path, 10), "");
    }

    #[test]
    fn a_message_file_that_became_a_link_is_not_followed() {
        let path = std::env::temp_dir().join(format!("joey-link-{}", crate::sys::clock::uuid()));
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert_eq!(read_head(&path, 100), "");
        fs::remove_file(&path).unwrap();
    }
}
