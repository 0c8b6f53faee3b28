//! Container output as CRI log lines: `<RFC 3339 with nanoseconds> stdout|stderr F|P <text>`.
//!
//! The shim is the only writer, so a line is written once, before or after a rotation, never around
//! it. When the disk refuses, lines stay here and the pipe fills: the container waits, nothing is
//! dropped. It never reads a log back and never waits.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::plan::OutputPlan;
use crate::model::time::Timestamp;

/// Longest text of one record; longer lines become `P` records and a final `F` (as containerd and
/// CRI-O).
const LONGEST: usize = 16 << 10;

/// Formatted bytes that are collected before they are written.
const BATCH: usize = 32 << 10;

/// Which stream a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// One stream's unfinished line.
#[derive(Debug, Default)]
pub struct Line {
    text: Vec<u8>,
    /// A `P` record of this line has been written.
    is_continued: bool,
}

/// A container's log file, open for the container's life.
#[derive(Debug)]
pub struct Log {
    plan: OutputPlan,
    file: OwnedFd,
    size: u64,
    pending: Vec<u8>,
    /// Streams in the middle of a line that has `P` records in the current file.
    continued: u32,
}

impl Log {
    /// Opens (creating, 0640, directories 0755) the file and continues at its end.
    pub fn open(plan: OutputPlan) -> io::Result<Log> {
        if let Some(directory) = plan.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let file = open_file(&plan.path)?;
        let size = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
        Ok(Log { plan, file, size, pending: Vec::new(), continued: 0 })
    }

    /// Takes what a stream produced. Complete lines are written; the rest waits in `line`.
    pub fn append(&mut self, stream: Stream, line: &mut Line, mut bytes: &[u8], now: Timestamp) {
        let stamp = now.to_nanos_text();
        while !bytes.is_empty() {
            let room = LONGEST - line.text.len();
            let (part, ended) = match bytes.iter().take(room + 1).position(|byte| *byte == b'\n') {
                Some(end) => (&bytes[..end], true),
                None => (&bytes[..bytes.len().min(room)], false),
            };
            let is_full = !ended && part.len() == room;
            bytes = &bytes[part.len() + usize::from(ended)..];
            if ended || is_full {
                self.record(&stamp, stream, !is_full, &line.text, part);
                line.text.clear();
                self.set_continued(line, is_full);
            } else {
                line.text.extend_from_slice(part);
            }
            if self.pending.len() >= BATCH {
                self.write();
            }
        }
        self.write();
    }

    /// The stream has ended: a last line without newline is a line too.
    pub fn finish(&mut self, stream: Stream, line: &mut Line, now: Timestamp) {
        if !line.text.is_empty() || line.is_continued {
            self.record(&now.to_nanos_text(), stream, true, &line.text, &[]);
            self.set_continued(line, false);
        }
        *line = Line::default();
        self.write();
    }

    /// Whether the disk refused something; more output should wait until [`Log::write`] got rid of
    /// it.
    pub fn is_blocked(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Writes what is pending; what the disk refuses stays.
    pub fn write(&mut self) {
        while !self.pending.is_empty() {
            match rustix::io::write(&self.file, &self.pending) {
                Ok(0) | Err(Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::FBIG) => return,
                Ok(written) => {
                    self.pending.drain(..written);
                    self.size += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
        // A flood of tiny lines grows the batch; an idle container should not keep that memory.
        self.pending.shrink_to(0);
    }

    fn record(&mut self, stamp: &str, stream: Stream, is_final: bool, head: &[u8], tail: &[u8]) {
        self.rotate_when_due();
        let tag = if is_final { " F " } else { " P " };
        for part in [stamp.as_bytes(), b" ", stream.name().as_bytes(), tag.as_bytes(), head, tail] {
            self.pending.extend_from_slice(part);
        }
        self.pending.push(b'\n');
    }

    fn set_continued(&mut self, line: &mut Line, is_continued: bool) {
        match (line.is_continued, is_continued) {
            (false, true) => self.continued += 1,
            (true, false) => self.continued = self.continued.saturating_sub(1),
            (true, true) | (false, false) => {}
        }
        line.is_continued = is_continued;
    }

    /// Rotates between records: preferably between lines, but a line without end does not escape
    /// the limit.
    fn rotate_when_due(&mut self) {
        let limit = self.plan.rotate_bytes;
        let size = self.size + self.pending.len() as u64;
        let is_due = size >= limit && (self.continued == 0 || size >= limit.saturating_mul(2));
        if !is_due || size == 0 {
            return;
        }
        self.write();
        if self.is_blocked() {
            return;
        }
        // A rename that fails leaves the current file in use; the next record tries again.
        if let Err(error) = self.rotate() {
            tracing::debug!(%error, path = %self.plan.path.display(), "log not rotated");
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let stamp: String = crate::sys::clock::now()
            .to_nanos_text()
            .chars()
            .filter(|c| !matches!(c, '-' | ':' | 'Z'))
            .collect();
        let mut rotated = self.plan.path.clone().into_os_string();
        rotated.push(format!(".{stamp}"));
        fs::rename(&self.plan.path, &rotated)?;
        self.file = open_file(&self.plan.path)?;
        self.size = 0;
        prune(&self.plan)
    }
}

fn open_file(path: &Path) -> io::Result<OwnedFd> {
    let flags =
        OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::from_raw_mode(0o640))?)
}

/// Removes the oldest rotated files beyond `keep_files`.
fn prune(plan: &OutputPlan) -> io::Result<()> {
    let (Some(directory), Some(name)) = (plan.path.parent(), plan.path.file_name()) else {
        return Ok(());
    };
    let mut prefix = name.to_os_string();
    prefix.push(".");
    let mut rotated: Vec<_> = fs::read_dir(directory)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|n| n.as_encoded_bytes().starts_with(prefix.as_encoded_bytes()))
        })
        .collect();
    rotated.sort();
    let keep = (plan.keep_files.max(1) - 1) as usize;
    let surplus = rotated.len().saturating_sub(keep);
    for path in &rotated[..surplus] {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
