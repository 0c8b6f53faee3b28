//! Turns a layer's stream into files on disk: feeds the confined process, verifies size, digest and
//! diffID on the way, and moves the result into place only when all of them hold.
//!
//! Foreign bytes are counted and hashed here, and interpreted only in [`super::confine`]. Each stage is
//! a thread that owns one end of a socket, so memory stays at a few buffers whatever the layer's size.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use sha2::{Digest as _, Sha256};

use super::ImageError;
use super::apply::Applied;
use super::confine::{self, Task};
use super::disk::{Disk, LayerRecord};
use super::entries::EntryLimits;
use super::reference::Digest;

/// Limits of one layer and what it may do to the disk.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Uncompressed bytes, whatever the compressed size.
    pub uncompressed_bytes: u64,
    /// Uncompressed bytes per compressed byte, beyond `slack_bytes`.
    pub ratio: u64,
    pub slack_bytes: u64,
    pub entries: EntryLimits,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            uncompressed_bytes: 10 << 30,
            ratio: 20,
            slack_bytes: 256 << 20,
            entries: EntryLimits::default(),
        }
    }
}

/// Why a layer did not make it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    #[error("cannot read the content: {0}")]
    Source(String),
    #[error("digest mismatch: expected {expected}, got {got}")]
    Digest { expected: Digest, got: Digest },
    #[error("size mismatch: expected {expected} bytes, got {got}")]
    Size { expected: u64, got: u64 },
    #[error("diffID mismatch: expected {expected}, got {got}")]
    DiffId { expected: Digest, got: Digest },
    #[error("more than {0} bytes uncompressed")]
    TooLarge(u64),
    #[error("no space left beyond the reserve of the file system")]
    NoSpace,
    #[error("{0}")]
    Refused(String),
    #[error("the unpacking process failed: {0}")]
    Process(String),
    #[error(transparent)]
    Store(#[from] StoreFailure),
}

/// An error of the store itself, told apart from bad content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{step}: {reason}")]
pub struct StoreFailure {
    pub step: &'static str,
    pub reason: String,
}

impl From<UnpackError> for ImageError {
    fn from(error: UnpackError) -> ImageError {
        match error {
            UnpackError::Store(StoreFailure { step, reason }) => ImageError::Io { step, reason },
            UnpackError::Process(_) | UnpackError::NoSpace => {
                ImageError::Io { step: "unpack a layer", reason: error.to_string() }
            }
            other => ImageError::Content { reason: other.to_string() },
        }
    }
}

impl From<ImageError> for UnpackError {
    fn from(error: ImageError) -> UnpackError {
        match error {
            ImageError::Io { step, reason } => UnpackError::Store(StoreFailure { step, reason }),
            other => UnpackError::Refused(other.to_string()),
        }
    }
}

/// What is known about a layer before it is read.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Of the stream as it comes, compressed or not. Archives of the older kind do not say.
    pub digest: Option<Digest>,
    /// Of the stream as it comes.
    pub size_bytes: u64,
    /// Of the uncompressed stream.
    pub diff_id: Digest,
}

/// Unpacks the layer unless it is here. The caller holds the shared lock of the store.
pub fn layer(
    disk: &Disk,
    source: &mut dyn Read,
    expected: &Expected,
    limits: &Limits,
) -> Result<(), UnpackError> {
    if disk.layer_record(&expected.diff_id)?.is_some() {
        return Ok(());
    }
    let work = disk.work()?;
    let root = work.path().join("root");
    std::fs::create_dir(&root).map_err(store("make the layer's directory"))?;
    // Whatever the umask: the topmost layer's root is the container's.
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755))
        .map_err(store("make the layer's directory"))?;
    let index = File::create_new(work.path().join("index"))
        .map_err(store("make the layer's list of files"))?;
    let (applied, index) = stream(disk, source, expected, limits, &root, index)?;
    if !applied.dropped_xattrs.is_empty() {
        tracing::warn!(
            layer = %expected.diff_id,
            attributes = applied.dropped_xattrs.join(", "),
            "extended attributes of the layer are not taken over"
        );
    }
    let record = LayerRecord {
        content_bytes: applied.content_bytes,
        entries: applied.entries,
        opaque_root: applied.opaque_root,
        index: index.to_string(),
    };
    disk.commit_layer(&work, &expected.diff_id, &record)?;
    Ok(())
}

fn stream(
    disk: &Disk,
    source: &mut dyn Read,
    expected: &Expected,
    limits: &Limits,
    root: &std::path::Path,
    index: File,
) -> Result<(Applied, Digest), UnpackError> {
    let mut head = Head::read(source)?;
    let by_ratio = expected.size_bytes.saturating_mul(limits.ratio);
    let largest = limits.uncompressed_bytes.min(by_ratio.saturating_add(limits.slack_bytes));
    let (mut applier, feed) =
        Process::start(&Task::Apply { root: root.to_owned(), limits: limits.entries })?;
    let answers = feed.try_clone().map_err(store("duplicate a socket"))?;
    let mut plain = Plain { disk, feed, hash: Sha256::new(), bytes: 0, largest, checked: 0 };
    let mut decompressor = head.task().map(|task| Process::start(&task)).transpose()?;

    // Each stage reports its own failure; the one nearest to the source explains the others.
    let (source_end, plain_end, answer) = std::thread::scope(|scope| {
        let collector = scope.spawn(move || collect(answers, index));
        let mut blob = Blob { hash: Sha256::new(), bytes: 0, expected };
        let (source_end, plain_end) = match &mut decompressor {
            None => {
                let end = pump(&mut head, source, |bytes| {
                    blob.pass(bytes)?;
                    plain.pass(bytes)
                });
                (end, plain.finish())
            }
            Some((_, socket)) => {
                let output = socket.try_clone();
                let pumper = scope.spawn(move || {
                    let mut output = output.map_err(store("duplicate a socket"))?;
                    let mut buffer = vec![0; 128 << 10];
                    let end = loop {
                        match output.read(&mut buffer) {
                            Ok(0) => break Ok(()),
                            Ok(got) => {
                                if let Err(error) = plain.pass(&buffer[..got]) {
                                    // Stops the decompressor, which would otherwise wait for us.
                                    let _ = output.shutdown(std::net::Shutdown::Both);
                                    break Err(error);
                                }
                            }
                            Err(error) => break Err(gone(error)),
                        }
                    };
                    end.and(plain.finish())
                });
                let end = pump(&mut head, source, |bytes| {
                    blob.pass(bytes)?;
                    send_all(socket, bytes)
                });
                let _ = socket.shutdown(std::net::Shutdown::Write);
                (end, join(pumper))
            }
        };
        let answer = join(collector);
        (source_end.map(|()| blob), plain_end, answer)
    });
    let decompressed = match decompressor {
        Some((mut process, _)) => process.end(),
        None => Ok(()),
    };
    let applied = applier.end();

    let blob = match source_end {
        Ok(blob) => Some(blob),
        // The process's own words say more.
        Err(UnpackError::Process(_)) => None,
        Err(error) => return Err(error),
    };
    let plain = match plain_end {
        Ok(diff_id) => Some(diff_id),
        // The process's own words say more.
        Err(UnpackError::Process(_)) => None,
        Err(error) => return Err(error),
    };
    // Wrong bytes explain whatever the processes say about them.
    if let Some(blob) = blob {
        blob.verify()?;
    }
    decompressed?;
    applied?;
    let Some(diff_id) = plain else {
        return Err(UnpackError::Process("it stopped reading".to_owned()));
    };
    if diff_id != expected.diff_id {
        return Err(UnpackError::DiffId { expected: expected.diff_id.clone(), got: diff_id });
    }
    answer
}

/// Decompresses a whole stream (an archive that contains layers) into `sink`.
pub fn decompress(
    source: &mut dyn Read,
    sink: &mut (dyn FnMut(&[u8]) -> Result<(), UnpackError> + Send),
) -> Result<(), UnpackError> {
    let mut head = Head::read(source)?;
    let Some(task) = head.task() else {
        return pump(&mut head, source, sink);
    };
    let (mut process, socket) = Process::start(&task)?;
    let (source_end, sink_end) = std::thread::scope(|scope| {
        let output = socket.try_clone();
        let pumper = scope.spawn(move || {
            let mut output = output.map_err(store("duplicate a socket"))?;
            let mut buffer = vec![0; 128 << 10];
            loop {
                let got = output.read(&mut buffer).map_err(gone)?;
                if got == 0 {
                    return Ok(());
                }
                if let Err(error) = sink(&buffer[..got]) {
                    let _ = output.shutdown(std::net::Shutdown::Both);
                    return Err(error);
                }
            }
        });
        let end = pump(&mut head, source, |bytes| send_all(&socket, bytes));
        let _ = socket.shutdown(std::net::Shutdown::Write);
        (end, join(pumper))
    });
    let ended = process.end();
    match sink_end {
        Err(UnpackError::Process(_)) => ended.clone()?,
        end => end?,
    }
    match source_end {
        Err(UnpackError::Process(_)) => {
            ended?;
            Err(UnpackError::Refused("data after the end of the compressed archive".to_owned()))
        }
        Err(error) => Err(error),
        Ok(()) => ended,
    }
}

/// The other end of a socket closed: the process has ended, well or badly.
fn gone(error: std::io::Error) -> UnpackError {
    UnpackError::Process(error.to_string())
}

/// The first bytes of a stream, which tell its compression better than any label.
struct Head {
    bytes: Vec<u8>,
}

impl Head {
    fn read(source: &mut dyn Read) -> Result<Head, UnpackError> {
        let mut bytes = Vec::new();
        source.take(4).read_to_end(&mut bytes).map_err(|e| UnpackError::Source(e.to_string()))?;
        Ok(Head { bytes })
    }

    fn task(&self) -> Option<Task> {
        match self.bytes.as_slice() {
            [0x1f, 0x8b, ..] => Some(Task::Gunzip),
            [0x28, 0xb5, 0x2f, 0xfd] => Some(Task::Unzstd),
            // A skippable frame first: zstd:chunked and friends.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Some(Task::Unzstd),
            _ => None,
        }
    }
}

fn pump(
    head: &mut Head,
    source: &mut dyn Read,
    mut sink: impl FnMut(&[u8]) -> Result<(), UnpackError>,
) -> Result<(), UnpackError> {
    sink(&std::mem::take(&mut head.bytes))?;
    let mut buffer = vec![0; 128 << 10];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(got) => sink(&buffer[..got])?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(UnpackError::Source(error.to_string())),
        }
    }
}

/// The stream as it comes.
struct Blob<'a> {
    hash: Sha256,
    bytes: u64,
    expected: &'a Expected,
}

impl Blob<'_> {
    fn pass(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.expected.size_bytes {
            return Err(self.size_error());
        }
        if self.expected.digest.is_some() {
            self.hash.update(bytes);
        }
        Ok(())
    }

    fn verify(self) -> Result<(), UnpackError> {
        if self.bytes != self.expected.size_bytes {
            return Err(self.size_error());
        }
        let Some(expected) = &self.expected.digest else {
            return Ok(());
        };
        let got = Digest::from_hash(&self.hash.finalize());
        if got != *expected {
            return Err(UnpackError::Digest { expected: expected.clone(), got });
        }
        Ok(())
    }

    fn size_error(&self) -> UnpackError {
        UnpackError::Size { expected: self.expected.size_bytes, got: self.bytes }
    }
}

/// The uncompressed stream on its way to the applier.
struct Plain<'a> {
    disk: &'a Disk,
    feed: UnixStream,
    hash: Sha256,
    bytes: u64,
    largest: u64,
    checked: u64,
}

/// How often free space is looked at.
const SPACE_CHECK_BYTES: u64 = 16 << 20;

impl Plain<'_> {
    fn pass(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.largest {
            return Err(UnpackError::TooLarge(self.largest));
        }
        if self.checked == 0 || self.bytes - self.checked > SPACE_CHECK_BYTES {
            self.checked = self.bytes.max(1);
            if self.disk.free_bytes()? < SPACE_CHECK_BYTES {
                return Err(UnpackError::NoSpace);
            }
        }
        self.hash.update(bytes);
        send_all(&self.feed, bytes)
    }

    /// Drops the feed: the applier sees the end.
    fn finish(self) -> Result<Digest, UnpackError> {
        Ok(Digest::from_hash(&self.hash.clone().finalize()))
    }
}

impl Drop for Plain<'_> {
    fn drop(&mut self) {
        // On an error too, the applier sees the end and the collector its answer.
        let _ = self.feed.shutdown(std::net::Shutdown::Write);
    }
}

/// write(2) would raise SIGPIPE in a program that did not ignore it.
fn send_all(socket: &UnixStream, mut bytes: &[u8]) -> Result<(), UnpackError> {
    while !bytes.is_empty() {
        match rustix::net::send(socket.as_fd(), bytes, rustix::net::SendFlags::NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(gone(error.into())),
        }
    }
    Ok(())
}

/// Reads the applier's frames to their end.
fn collect(mut answers: UnixStream, index: File) -> Result<(Applied, Digest), UnpackError> {
    let mut index = BufWriter::new(index);
    let mut hash = Sha256::new();
    let malformed = || UnpackError::Process("its answer is malformed".to_owned());
    loop {
        let mut header = [0; 5];
        answers.read_exact(&mut header).map_err(|_| malformed())?;
        let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if length > confine::FRAME_MAX {
            return Err(malformed());
        }
        let mut content = vec![0; length];
        answers.read_exact(&mut content).map_err(|_| malformed())?;
        match header[0] {
            b'i' => {
                hash.update(&content);
                index.write_all(&content).map_err(store("write the layer's list of files"))?;
            }
            b'd' => {
                index.flush().map_err(store("write the layer's list of files"))?;
                let applied = serde_json::from_slice(&content).map_err(|_| malformed())?;
                return Ok((applied, Digest::from_hash(&hash.finalize())));
            }
            _ => return Err(malformed()),
        }
    }
}

/// A confined process. Dropping it kills it.
struct Process {
    child: Child,
}

impl Process {
    /// Starts the process and hands it its task; the socket is its stream, in and out.
    fn start(task: &Task) -> Result<(Process, UnixStream), UnpackError> {
        let (mut ours, theirs) = UnixStream::pair().map_err(store("make a socket"))?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(confine::ROLE)
            .env_clear()
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        #[cfg(test)]
        tests::play_role(&mut command);
        let child = command.spawn().map_err(store("start the unpacking process"))?;
        let process = Process { child };
        confine::write_task(&mut ours, task).map_err(gone)?;
        Ok((process, ours))
    }

    /// Waits for the end; what it wrote to stderr is its error.
    fn end(&mut self) -> Result<(), UnpackError> {
        let mut text = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            // A failure to read it shows in the status.
            let _ = stderr.take(4096).read_to_end(&mut text);
        }
        let status = self.child.wait().map_err(store("wait for the unpacking process"))?;
        if status.success() {
            return Ok(());
        }
        if status.code() == Some(1) && !text.is_empty() {
            return Err(UnpackError::Refused(String::from_utf8_lossy(&text).into_owned()));
        }
        Err(UnpackError::Process(status.to_string()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn join<T>(
    thread: std::thread::ScopedJoinHandle<'_, Result<T, UnpackError>>,
) -> Result<T, UnpackError> {
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn store(step: &'static str) -> impl FnOnce(std::io::Error) -> UnpackError {
    move |error| UnpackError::Store(StoreFailure { step, reason: error.to_string() })
}

#[cfg(test)]
#[path = "unpack/tests.rs"]
mod tests;
