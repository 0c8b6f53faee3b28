//! The entries of a tar stream: ustar, PAX and GNU headers read with one meaning, or refused.
//!
//! Parsers disagree about tar (CVE-2026-33055, CVE-2025-62518: a PAX size that one of them ignores).
//! This one lets PAX override always, refuses what it does not know, and never guesses. It yields
//! normalized relative paths and touches no file system.

mod extended;

use std::io::Read;

use self::extended::{Extended, pax_records, to_id};

/// One header block.
pub const BLOCK: usize = 512;
/// Extended headers (PAX records, GNU long names) of one entry.
const EXTENDED_MAX: u64 = 1 << 20;
/// Linux PATH_MAX.
const PATH_MAX: usize = 4096;
/// Linux NAME_MAX.
const NAME_MAX: usize = 255;
/// Extended attributes of one entry, names and values.
const XATTRS_MAX: usize = 64 << 10;

/// What one archive may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EntryLimits {
    pub entries: u64,
    /// Components of a path.
    pub depth: usize,
}

impl Default for EntryLimits {
    fn default() -> EntryLimits {
        EntryLimits { entries: 2_000_000, depth: 256 }
    }
}

/// Why a stream is not a tar that can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    #[error("cannot read the archive")]
    Read(#[source] std::io::Error),
    #[error("the archive ends in the middle of an entry")]
    Truncated,
    #[error("header checksum does not match")]
    Checksum,
    #[error("field {0} is not a number in range")]
    Number(&'static str),
    #[error("entry type {0:?} is not supported")]
    Kind(char),
    #[error("PAX record is malformed")]
    Pax,
    #[error("PAX record {0:?} is given twice")]
    PaxTwice(String),
    #[error("PAX record {0:?} is not supported")]
    PaxUnsupported(String),
    #[error("global PAX record {0:?} is not supported")]
    GlobalPax(String),
    #[error("two extended headers claim the same field")]
    ExtendedTwice,
    #[error("an extended header has no entry")]
    Dangling,
    #[error("an extended header of {0} bytes exceeds the limit of {EXTENDED_MAX}")]
    ExtendedTooLarge(u64),
    #[error("extended attributes of {0} bytes exceed the limit of {XATTRS_MAX}")]
    XattrsTooLarge(usize),
    #[error("path {0} contains '..'")]
    Traversal(String),
    #[error("path contains a NUL byte")]
    Nul,
    #[error("path {0} is empty")]
    Empty(String),
    #[error("a path of {0} bytes exceeds the limit of {PATH_MAX}")]
    PathTooLong(usize),
    #[error("a file name of {0} bytes exceeds the limit of {NAME_MAX}")]
    NameTooLong(usize),
    #[error("path {path} is deeper than the limit of {limit} directories")]
    TooDeep { path: String, limit: usize },
    #[error("more than {0} entries")]
    TooMany(u64),
    #[error("entry {0} must not have content")]
    UnexpectedContent(String),
    #[error("data after the end of the archive")]
    TrailingData,
}

/// What an entry makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    /// Target text, as it stands.
    Symlink(Vec<u8>),
    /// Normalized path inside the archive.
    Hardlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative, without `.`, `..` or empty components; empty for the root directory.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Permission, setuid, setgid and sticky bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime_seconds: i64,
    pub mtime_nanoseconds: u32,
    /// Bytes of content that follow; zero for everything but files.
    pub size: u64,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads entries one after the other; content left unread is skipped by the next call.
pub struct Entries<R> {
    input: R,
    limits: EntryLimits,
    seen: u64,
    content_left: u64,
    padding: u64,
    position: u64,
}

impl<R: Read> Entries<R> {
    pub fn new(input: R, limits: EntryLimits) -> Entries<R> {
        Entries { input, limits, seen: 0, content_left: 0, padding: 0, position: 0 }
    }

    /// Offset in the stream of the next byte to be read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next entry, or `None` after the end mark; then only zeros may follow.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, EntryError> {
        self.skip_rest()?;
        let mut extended = Extended::default();
        loop {
            let mut block = [0u8; BLOCK];
            if !self.read_block(&mut block)? {
                return self.end(&extended);
            }
            if block.iter().all(|byte| *byte == 0) {
                self.only_zeros_follow()?;
                return self.end(&extended);
            }
            let header = Header(&block);
            header.verify()?;
            self.seen += 1;
            if self.seen > self.limits.entries {
                return Err(EntryError::TooMany(self.limits.entries));
            }
            match header.kind() {
                b'x' => {
                    if std::mem::replace(&mut extended.has_pax, true) {
                        return Err(EntryError::ExtendedTwice);
                    }
                    let records = self.extended_content(&header)?;
                    extended.read_pax(&records)?;
                }
                b'g' => {
                    // git-archive writes its commit id here; anything else would change what follows.
                    let records = self.extended_content(&header)?;
                    for record in pax_records(&records)? {
                        if record.0 != b"comment" {
                            return Err(EntryError::GlobalPax(printable(record.0)));
                        }
                    }
                }
                b'L' => {
                    let name = c_string(self.extended_content(&header)?)?;
                    if extended.path.replace(name).is_some() {
                        return Err(EntryError::ExtendedTwice);
                    }
                    extended.any = true;
                }
                b'K' => {
                    let name = c_string(self.extended_content(&header)?)?;
                    if extended.link.replace(name).is_some() {
                        return Err(EntryError::ExtendedTwice);
                    }
                    extended.any = true;
                }
                kind => return self.entry(&header, kind, extended).map(Some),
            }
        }
    }

    /// Reads content of the current entry; zero at its end.
    pub fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, EntryError> {
        let want = (buffer.len() as u64).min(self.content_left) as usize;
        if want == 0 {
            return Ok(0);
        }
        let got = read_some(&mut self.input, &mut buffer[..want])?;
        if got == 0 {
            return Err(EntryError::Truncated);
        }
        self.content_left -= got as u64;
        self.position += got as u64;
        Ok(got)
    }

    fn entry(
        &mut self,
        header: &Header<'_>,
        kind: u8,
        extended: Extended,
    ) -> Result<Entry, EntryError> {
        let raw_path = match extended.path {
            Some(path) => path,
            None => header.path(),
        };
        let ends_in_slash = raw_path.last() == Some(&b'/');
        let path = normalize(&raw_path, self.limits.depth)?;
        let size = match extended.size {
            Some(size) => size,
            None => header.number(124..136, "size")?,
        };
        let raw_link = extended.link.unwrap_or_else(|| until_nul(&header.0[157..257]).to_vec());
        let device = |header: &Header<'_>| -> Result<(u32, u32), EntryError> {
            let major = header.number(329..337, "devmajor")?;
            let minor = header.number(337..345, "devminor")?;
            // The kernel's dev_t: 12 bits of major, 20 of minor.
            if major >= 1 << 12 || minor >= 1 << 20 {
                return Err(EntryError::Number("device"));
            }
            Ok((major as u32, minor as u32))
        };
        let kind = match kind {
            // A regular file with a trailing slash was a directory before ustar.
            0 | b'0' if ends_in_slash => Kind::Directory,
            0 | b'0' | b'7' => Kind::File,
            b'1' => {
                let target = normalize(&raw_link, self.limits.depth)?;
                if target.is_empty() {
                    return Err(EntryError::Empty("of a hard link's target".to_owned()));
                }
                Kind::Hardlink(target)
            }
            b'2' => {
                if raw_link.is_empty() {
                    return Err(EntryError::Empty("of a symbolic link's target".to_owned()));
                }
                if raw_link.contains(&0) {
                    return Err(EntryError::Nul);
                }
                if raw_link.len() >= PATH_MAX {
                    return Err(EntryError::PathTooLong(raw_link.len()));
                }
                Kind::Symlink(raw_link)
            }
            b'3' => {
                let (major, minor) = device(header)?;
                Kind::Char(major, minor)
            }
            b'4' => {
                let (major, minor) = device(header)?;
                Kind::Block(major, minor)
            }
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(EntryError::Kind(char::from(other))),
        };
        if path.is_empty() && kind != Kind::Directory {
            return Err(EntryError::Empty(printable(&raw_path)));
        }
        if size != 0 && kind != Kind::File {
            return Err(EntryError::UnexpectedContent(printable(&path)));
        }
        let id = |value: Option<u32>, range, field| match value {
            Some(value) => Ok(value),
            None => header.id(range, field),
        };
        let entry = Entry {
            kind,
            mode: (header.number(100..108, "mode")? & 0o7777) as u32,
            uid: id(extended.uid, 108..116, "uid")?,
            gid: id(extended.gid, 116..124, "gid")?,
            mtime_seconds: match extended.mtime {
                Some((seconds, _)) => seconds,
                None => header.signed(136..148, "mtime")?,
            },
            mtime_nanoseconds: extended.mtime.map_or(0, |(_, nanoseconds)| nanoseconds),
            size,
            xattrs: extended.xattrs,
            path,
        };
        self.expect_content(size)?;
        Ok(entry)
    }

    fn expect_content(&mut self, size: u64) -> Result<(), EntryError> {
        // No real content comes near 2^62; a lie that large would overflow offsets.
        if size > 1 << 62 {
            return Err(EntryError::Number("size"));
        }
        self.content_left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        Ok(())
    }

    fn extended_content(&mut self, header: &Header<'_>) -> Result<Vec<u8>, EntryError> {
        let size = header.number(124..136, "size")?;
        if size > EXTENDED_MAX {
            return Err(EntryError::ExtendedTooLarge(size));
        }
        self.expect_content(size)?;
        let mut content = vec![0; size as usize];
        let mut filled = 0;
        while filled < content.len() {
            filled += self.read_content(&mut content[filled..])?;
        }
        self.skip_rest()?;
        Ok(content)
    }

    fn skip_rest(&mut self) -> Result<(), EntryError> {
        let mut sink = [0u8; 16 << 10];
        while self.content_left > 0 {
            self.read_content(&mut sink)?;
        }
        self.content_left = std::mem::take(&mut self.padding);
        while self.content_left > 0 {
            self.read_content(&mut sink)?;
        }
        Ok(())
    }

    fn end(&self, extended: &Extended) -> Result<Option<Entry>, EntryError> {
        if extended.any || extended.has_pax {
            return Err(EntryError::Dangling);
        }
        Ok(None)
    }

    /// False at the end of the stream on a block boundary.
    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, EntryError> {
        let mut filled = 0;
        while filled < BLOCK {
            match read_some(&mut self.input, &mut block[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(EntryError::Truncated),
                got => filled += got,
            }
        }
        self.position += BLOCK as u64;
        Ok(true)
    }

    /// Reads to the end of the stream, so that its whole digest is known; a second archive behind the
    /// first would be seen by some parsers and not by others.
    fn only_zeros_follow(&mut self) -> Result<(), EntryError> {
        let mut sink = [0u8; 16 << 10];
        loop {
            let got = read_some(&mut self.input, &mut sink)?;
            if got == 0 {
                return Ok(());
            }
            if sink[..got].iter().any(|byte| *byte != 0) {
                return Err(EntryError::TrailingData);
            }
        }
    }
}

fn read_some(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize, EntryError> {
    loop {
        match input.read(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            result => return result.map_err(EntryError::Read),
        }
    }
}

struct Header<'a>(&'a [u8; BLOCK]);

impl Header<'_> {
    fn kind(&self) -> u8 {
        self.0[156]
    }

    /// The sum of all bytes with the checksum field as spaces; old writers summed signed bytes.
    fn verify(&self) -> Result<(), EntryError> {
        let given = self.number(148..156, "checksum")?;
        let (mut unsigned, mut signed) = (0u64, 0i64);
        for (at, byte) in self.0.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { *byte };
            unsigned += u64::from(byte);
            signed += i64::from(byte as i8);
        }
        if given != unsigned && i64::try_from(given) != Ok(signed) {
            return Err(EntryError::Checksum);
        }
        Ok(())
    }

    fn path(&self) -> Vec<u8> {
        let name = until_nul(&self.0[0..100]);
        // Only POSIX ustar has a prefix; GNU ("ustar  ") keeps times in its place.
        let prefix =
            if &self.0[257..263] == b"ustar\0" { until_nul(&self.0[345..500]) } else { b"" };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    fn number(
        &self,
        range: std::ops::Range<usize>,
        field: &'static str,
    ) -> Result<u64, EntryError> {
        u64::try_from(self.signed(range, field)?).map_err(|_| EntryError::Number(field))
    }

    fn id(&self, range: std::ops::Range<usize>, field: &'static str) -> Result<u32, EntryError> {
        to_id(self.number(range, field)?).ok_or(EntryError::Number(field))
    }

    /// Octal text, or GNU's base-256 when the top bit is set.
    fn signed(
        &self,
        range: std::ops::Range<usize>,
        field: &'static str,
    ) -> Result<i64, EntryError> {
        let bytes = &self.0[range];
        if bytes[0] & 0x80 != 0 {
            let negative = bytes[0] & 0x40 != 0;
            let mut value: i128 = if negative { -1 } else { 0 };
            for (at, byte) in bytes.iter().enumerate() {
                let byte = if at == 0 {
                    // The marker bit is not part of the number; sign-extend over it.
                    if negative { *byte | 0x80 } else { *byte & 0x7f }
                } else {
                    *byte
                };
                value = (value << 8) | i128::from(byte);
            }
            return i64::try_from(value).map_err(|_| EntryError::Number(field));
        }
        let text = until_nul(bytes);
        let text = text.trim_ascii();
        let mut value: i64 = 0;
        for byte in text {
            if !(b'0'..=b'7').contains(byte) {
                return Err(EntryError::Number(field));
            }
            value = value
                .checked_mul(8)
                .and_then(|v| v.checked_add(i64::from(byte - b'0')))
                .ok_or(EntryError::Number(field))?;
        }
        Ok(value)
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0);
    &bytes[..end.unwrap_or(bytes.len())]
}

/// GNU long names end in a NUL; anything behind it would be a second meaning.
fn c_string(mut content: Vec<u8>) -> Result<Vec<u8>, EntryError> {
    while content.last() == Some(&0) {
        content.pop();
    }
    if content.contains(&0) {
        return Err(EntryError::Nul);
    }
    Ok(content)
}

/// Drops leading slashes, `.` and empty components; refuses `..`.
pub fn normalize(path: &[u8], depth_limit: usize) -> Result<Vec<u8>, EntryError> {
    if path.contains(&0) {
        return Err(EntryError::Nul);
    }
    if path.len() >= PATH_MAX {
        return Err(EntryError::PathTooLong(path.len()));
    }
    let mut clean = Vec::with_capacity(path.len());
    let mut depth = 0;
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(EntryError::Traversal(printable(path))),
            _ if component.len() > NAME_MAX => {
                return Err(EntryError::NameTooLong(component.len()));
            }
            _ => {}
        }
        depth += 1;
        if depth > depth_limit {
            return Err(EntryError::TooDeep {
                path: printable(&path[..path.len().min(64)]),
                limit: depth_limit,
            });
        }
        if !clean.is_empty() {
            clean.push(b'/');
        }
        clean.extend_from_slice(component);
    }
    Ok(clean)
}

/// A path for humans: quoted, control characters escaped, at most 256 bytes of it.
pub fn printable(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(&path[..path.len().min(256)]))
}
