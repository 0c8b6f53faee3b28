//! Applies the entries of a layer to an empty directory, in the form overlayfs wants.
//!
//! Whiteouts become character devices 0:0 and opaque attributes, made here and by nothing in the
//! archive. Every path is resolved below the root directory's descriptor without following any
//! symbolic link; it never uses a path string of the host.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, RawMode, ResolveFlags, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::entries::{Entries, Entry, EntryError, EntryLimits, Kind, printable};
use super::reference::Digest;

const OPAQUE: &str = "trusted.overlay.opaque";
/// Names of dropped attributes that are reported.
const DROPPED_MAX: usize = 16;

/// Why a layer cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("bad archive")]
    Archive(#[from] EntryError),
    #[error("whiteout {0} is malformed")]
    Whiteout(String),
    #[error("entry {0} is a raw overlayfs whiteout")]
    RawWhiteout(String),
    #[error("entry {0} lies below something that is not a directory")]
    Parent(String),
    #[error("hard link {path} to {target}, which is not a file of this layer")]
    Hardlink { path: String, target: String },
    #[error("cannot {step} {path}")]
    File {
        step: &'static str,
        path: String,
        #[source]
        source: Errno,
    },
    #[error("cannot write the list of files")]
    Index(#[source] std::io::Error),
}

/// What was applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Bytes of all files, hard links once.
    pub content_bytes: u64,
    pub entries: u64,
    /// The layer hides everything below it.
    pub opaque_root: bool,
    /// Names of extended attributes that were not taken over.
    pub dropped_xattrs: Vec<String>,
}

/// Applies the tar `input` to the empty directory `root`; writes one line per path to `index`.
pub fn apply(
    root: BorrowedFd<'_>,
    input: impl Read,
    limits: EntryLimits,
    index: &mut dyn Write,
) -> Result<Applied, ApplyError> {
    let mut entries = Entries::new(input, limits);
    let mut layer = Layer {
        root,
        index,
        applied: Applied::default(),
        directory_times: BTreeMap::new(),
        dropped: std::collections::BTreeSet::new(),
        buffer: vec![0; 256 << 10],
        parent: None,
    };
    while let Some(entry) = entries.next_entry()? {
        layer.applied.entries += 1;
        layer.place(&entry, &mut entries)?;
    }
    layer.set_directory_times()?;
    layer.applied.dropped_xattrs = layer.dropped.into_iter().take(DROPPED_MAX).collect();
    Ok(layer.applied)
}

struct Layer<'a> {
    root: BorrowedFd<'a>,
    index: &'a mut dyn Write,
    applied: Applied,
    /// Set last: every entry inside changes them.
    directory_times: BTreeMap<Vec<u8>, (i64, u32)>,
    dropped: std::collections::BTreeSet<String>,
    buffer: Vec<u8>,
    /// The directory of the previous entry: tar lists a directory's entries together.
    parent: Option<(Vec<u8>, OwnedFd)>,
}

impl Layer<'_> {
    fn place(&mut self, entry: &Entry, content: &mut Entries<impl Read>) -> Result<(), ApplyError> {
        if entry.path.is_empty() {
            let root = rustix::io::fcntl_dupfd_cloexec(self.root, 0).map_err(at("open", b"/"))?;
            return self.dress(&root, entry);
        }
        let (parent_path, name) = split(&entry.path);
        if parent_path.split(|byte| *byte == b'/').any(|component| component.starts_with(b".wh.")) {
            return Err(ApplyError::Whiteout(printable(&entry.path)));
        }
        let parent = self.take_parent(parent_path)?;
        let placed = match name.strip_prefix(b".wh.") {
            Some(hidden) => self.place_whiteout(entry, hidden, parent_path, parent.as_fd()),
            None => self.place_entry(entry, name, parent.as_fd(), content),
        };
        self.parent = Some((parent_path.to_vec(), parent));
        placed
    }

    fn place_entry(
        &mut self,
        entry: &Entry,
        name: &[u8],
        parent: BorrowedFd<'_>,
        content: &mut Entries<impl Read>,
    ) -> Result<(), ApplyError> {
        let path = &entry.path;
        let present = look(parent, name).map_err(at("look at", path))?;
        if entry.kind == Kind::Directory {
            let directory = self.directory(parent, name, path, present)?;
            return self.dress(&directory, entry);
        }
        if let Kind::Hardlink(target) = &entry.kind {
            return self.hardlink(path, target, parent, name, present);
        }
        self.clear(parent, name, path, present)?;
        match &entry.kind {
            Kind::File => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
                    .map_err(at("create", path))?;
                let digest = self.fill(&file, path, content)?;
                self.applied.content_bytes += entry.size;
                self.dress(&file, entry)?;
                self.list('f', entry, &digest)
            }
            Kind::Symlink(target) => {
                rustix::fs::symlinkat(target.as_slice(), parent, name).map_err(at("link", path))?;
                self.dress_node(parent, name, entry)?;
                self.list('l', entry, Digest::of(target))
            }
            Kind::Char(0, 0) => Err(ApplyError::RawWhiteout(printable(path))),
            Kind::Char(major, minor) => {
                let device = rustix::fs::makedev(*major, *minor);
                self.node(parent, name, entry, FileType::CharacterDevice, device)
            }
            Kind::Block(major, minor) => {
                let device = rustix::fs::makedev(*major, *minor);
                self.node(parent, name, entry, FileType::BlockDevice, device)
            }
            Kind::Fifo => self.node(parent, name, entry, FileType::Fifo, 0),
            Kind::Directory | Kind::Hardlink(_) => unreachable!("handled above"),
        }
    }

    /// A whiteout speaks about lower layers only (OCI image-spec, "Whiteouts"): what this layer itself
    /// has at that name stays, but no longer merges with anything below.
    fn place_whiteout(
        &mut self,
        entry: &Entry,
        hidden: &[u8],
        parent_path: &[u8],
        parent: BorrowedFd<'_>,
    ) -> Result<(), ApplyError> {
        let malformed = || ApplyError::Whiteout(printable(&entry.path));
        if entry.kind != Kind::File || entry.size != 0 {
            return Err(malformed());
        }
        if hidden == b".wh..opq" {
            if parent_path.is_empty() {
                self.applied.opaque_root = true;
            }
            return make_opaque(parent, parent_path);
        }
        if matches!(hidden, b"" | b"." | b"..") || hidden.starts_with(b".wh.") {
            return Err(malformed());
        }
        match look(parent, hidden).map_err(at("look at", &entry.path))? {
            Some(Present::Directory) => {
                let directory = open_directory(parent, hidden).map_err(at("open", &entry.path))?;
                make_opaque(directory.as_fd(), &entry.path)
            }
            Some(Present::Whiteout | Present::Other) => Ok(()),
            None => {
                rustix::fs::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)
                    .map_err(at("make whiteout", &entry.path))?;
                let path = join(parent_path, hidden);
                writeln!(self.index, "w 0 0 0 0 - {}", escape(&path)).map_err(ApplyError::Index)
            }
        }
    }

    /// Opens the directory `path`, making what is missing.
    fn take_parent(&mut self, path: &[u8]) -> Result<OwnedFd, ApplyError> {
        if let Some((known, directory)) = self.parent.take()
            && known == path
        {
            return Ok(directory);
        }
        if path.is_empty() {
            return rustix::io::fcntl_dupfd_cloexec(self.root, 0).map_err(at("open", b"/"));
        }
        match beneath(self.root, path) {
            Ok(directory) => return Ok(directory),
            Err(Errno::NOENT) => {}
            Err(Errno::LOOP | Errno::NOTDIR) if !self.is_whiteout_on(path) => {
                return Err(ApplyError::Parent(printable(path)));
            }
            Err(Errno::LOOP | Errno::NOTDIR) => {}
            Err(error) => return Err(at("open", path)(error)),
        }
        let mut directory =
            rustix::io::fcntl_dupfd_cloexec(self.root, 0).map_err(at("open", b"/"))?;
        let mut so_far = Vec::new();
        for name in path.split(|byte| *byte == b'/') {
            so_far = join(&so_far, name);
            let present = look(directory.as_fd(), name).map_err(at("look at", &so_far))?;
            directory = match present {
                Some(Present::Other) => return Err(ApplyError::Parent(printable(path))),
                Some(Present::Directory) => {
                    open_directory(directory.as_fd(), name).map_err(at("open", &so_far))?
                }
                None | Some(Present::Whiteout) => {
                    let made = self.directory(directory.as_fd(), name, &so_far, present)?;
                    rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))
                        .map_err(at("chmod", &so_far))?;
                    self.directory_times.insert(so_far.clone(), (0, 0));
                    writeln!(self.index, "d 755 0 0 0 - {}", escape(&so_far))
                        .map_err(ApplyError::Index)?;
                    made
                }
            };
        }
        Ok(directory)
    }

    /// Whether one of the components of `path` is a whiteout that a directory may replace.
    fn is_whiteout_on(&self, path: &[u8]) -> bool {
        let mut end = 0;
        for name in path.split(|byte| *byte == b'/') {
            end += name.len();
            let (parent, name) = split(&path[..end]);
            end += 1;
            let found = if parent.is_empty() {
                look(self.root, name)
            } else {
                match beneath(self.root, parent) {
                    Ok(directory) => look(directory.as_fd(), name),
                    Err(error) => Err(error),
                }
            };
            match found {
                Ok(Some(Present::Directory)) => {}
                Ok(Some(Present::Whiteout)) => return true,
                _ => return false,
            }
        }
        false
    }

    /// Makes or opens a directory. One that replaces a whiteout of the same layer hides what is below.
    fn directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        present: Option<Present>,
    ) -> Result<OwnedFd, ApplyError> {
        let replaces_whiteout = present == Some(Present::Whiteout);
        if present != Some(Present::Directory) {
            self.clear(parent, name, path, present)?;
            rustix::fs::mkdirat(parent, name, Mode::RWXU).map_err(at("make directory", path))?;
        }
        let directory = open_directory(parent, name).map_err(at("open", path))?;
        if replaces_whiteout {
            make_opaque(directory.as_fd(), path)?;
        }
        Ok(directory)
    }

    fn hardlink(
        &mut self,
        path: &[u8],
        target: &[u8],
        parent: BorrowedFd<'_>,
        name: &[u8],
        present: Option<Present>,
    ) -> Result<(), ApplyError> {
        let refused = || ApplyError::Hardlink { path: printable(path), target: printable(target) };
        if path == target || target.starts_with(&[path, b"/"].concat()) {
            return Err(refused());
        }
        let (target_parent, target_name) = split(target);
        let directory = if target_parent.is_empty() {
            rustix::io::fcntl_dupfd_cloexec(self.root, 0).map_err(at("open", b"/"))?
        } else {
            beneath(self.root, target_parent).map_err(|_| refused())?
        };
        match look(directory.as_fd(), target_name).map_err(at("look at", target))? {
            Some(Present::Other) => {}
            Some(Present::Directory | Present::Whiteout) | None => return Err(refused()),
        }
        self.clear(parent, name, path, present)?;
        rustix::fs::linkat(&directory, target_name, parent, name, AtFlags::empty())
            .map_err(at("link", path))?;
        writeln!(self.index, "h 0 0 0 0 {} {}", escape(target), escape(path))
            .map_err(ApplyError::Index)
    }

    /// Removes what stands at `name`: the later entry of an archive wins.
    fn clear(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        present: Option<Present>,
    ) -> Result<(), ApplyError> {
        match present {
            None => return Ok(()),
            Some(Present::Directory) => {
                remove_tree(parent, name).map_err(at("replace", path))?;
                let below = join(path, b"");
                self.directory_times.retain(|known, _| known != path && !known.starts_with(&below));
            }
            Some(Present::Whiteout | Present::Other) => {
                rustix::fs::unlinkat(parent, name, AtFlags::empty())
                    .map_err(at("replace", path))?;
            }
        }
        writeln!(self.index, "- 0 0 0 0 - {}", escape(path)).map_err(ApplyError::Index)
    }

    fn fill(
        &mut self,
        file: &OwnedFd,
        path: &[u8],
        content: &mut Entries<impl Read>,
    ) -> Result<Digest, ApplyError> {
        let mut hash = Sha256::new();
        loop {
            let got = content.read_content(&mut self.buffer)?;
            if got == 0 {
                return Ok(Digest::from_hash(&hash.finalize()));
            }
            hash.update(&self.buffer[..got]);
            let mut rest = &self.buffer[..got];
            while !rest.is_empty() {
                let wrote = rustix::io::write(file, rest).map_err(at("write", path))?;
                rest = &rest[wrote..];
            }
        }
    }

    /// Owner, mode, attributes and time of an open file or directory. In this order: chown(2) clears
    /// setuid bits and security.capability.
    fn dress(&mut self, file: &OwnedFd, entry: &Entry) -> Result<(), ApplyError> {
        let path = &entry.path;
        rustix::fs::fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
            .map_err(at("chown", path))?;
        rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode as RawMode))
            .map_err(at("chmod", path))?;
        for (name, value) in &entry.xattrs {
            if !is_xattr_kept(name) {
                self.drop_xattr(name);
                continue;
            }
            rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty())
                .map_err(at("set an attribute of", path))?;
        }
        if entry.kind == Kind::Directory {
            self.directory_times
                .insert(path.clone(), (entry.mtime_seconds, entry.mtime_nanoseconds));
            return self.list('d', entry, "-");
        }
        rustix::fs::futimens(file, &times(entry.mtime_seconds, entry.mtime_nanoseconds))
            .map_err(at("set the time of", path))
    }

    fn node(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        kind: FileType,
        device: rustix::fs::Dev,
    ) -> Result<(), ApplyError> {
        rustix::fs::mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, device)
            .map_err(at("make node", &entry.path))?;
        self.dress_node(parent, name, entry)?;
        rustix::fs::chmodat(
            parent,
            name,
            Mode::from_raw_mode(entry.mode as RawMode),
            AtFlags::empty(),
        )
        .map_err(at("chmod", &entry.path))?;
        let (sort, detail) = match entry.kind {
            Kind::Char(major, minor) => ('c', format!("{major}:{minor}")),
            Kind::Block(major, minor) => ('b', format!("{major}:{minor}")),
            _ => ('p', "-".to_owned()),
        };
        self.list(sort, entry, detail)
    }

    /// Owner and time of something that cannot be opened. Its attributes are dropped: the kernel
    /// allows `user.` on files and directories only.
    fn dress_node(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
    ) -> Result<(), ApplyError> {
        rustix::fs::chownat(
            parent,
            name,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(at("chown", &entry.path))?;
        for (name, _) in &entry.xattrs {
            self.drop_xattr(name);
        }
        rustix::fs::utimensat(
            parent,
            name,
            &times(entry.mtime_seconds, entry.mtime_nanoseconds),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(at("set the time of", &entry.path))
    }

    fn drop_xattr(&mut self, name: &[u8]) {
        if self.dropped.len() < DROPPED_MAX {
            self.dropped.insert(printable(name));
        }
    }

    fn list(
        &mut self,
        sort: char,
        entry: &Entry,
        detail: impl std::fmt::Display,
    ) -> Result<(), ApplyError> {
        writeln!(
            self.index,
            "{sort} {:o} {} {} {} {detail} {}",
            entry.mode,
            entry.uid,
            entry.gid,
            entry.size,
            escape(&entry.path)
        )
        .map_err(ApplyError::Index)
    }

    fn set_directory_times(&mut self) -> Result<(), ApplyError> {
        for (path, (seconds, nanoseconds)) in &self.directory_times {
            let times = times(*seconds, *nanoseconds);
            if path.is_empty() {
                rustix::fs::futimens(self.root, &times).map_err(at("set the time of", b"/"))?;
                continue;
            }
            let directory = beneath(self.root, path).map_err(at("open", path))?;
            rustix::fs::futimens(&directory, &times).map_err(at("set the time of", path))?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Present {
    Directory,
    /// A character device 0:0.
    Whiteout,
    Other,
}

fn look(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Present>, Errno> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Present::Directory,
            FileType::CharacterDevice if stat.st_rdev == 0 => Present::Whiteout,
            _ => Present::Other,
        })),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a directory below `root` without following any link and without leaving the file system.
fn beneath(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(
        root,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )
}

fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn make_opaque(directory: BorrowedFd<'_>, path: &[u8]) -> Result<(), ApplyError> {
    rustix::fs::fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())
        .map_err(at("make opaque", path))
}

/// Removes a directory and everything in it; depth is bounded by the entry limits.
fn remove_tree(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let directory = open_directory(parent, name)?;
    // Collected first: a listing that is changed while it is read may skip names.
    let mut children = Vec::new();
    for child in Dir::read_from(&directory)? {
        let child = child?;
        if !matches!(child.file_name().to_bytes(), b"." | b"..") {
            children.push(child.file_name().to_bytes().to_vec());
        }
    }
    for child in children {
        match look(directory.as_fd(), &child)? {
            Some(Present::Directory) => remove_tree(directory.as_fd(), &child)?,
            Some(_) => {
                rustix::fs::unlinkat(&directory, child.as_slice(), AtFlags::empty())?;
            }
            None => {}
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// `security.capability` and the user's own; never what overlayfs or a security module would obey.
pub fn is_xattr_kept(name: &[u8]) -> bool {
    name == b"security.capability"
        || (name.len() > 5
            && name.starts_with(b"user.")
            && !name.starts_with(b"user.overlay.")
            && name.len() <= 255
            && !name.contains(&0))
}

fn times(seconds: i64, nanoseconds: u32) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanoseconds) };
    Timestamps { last_access: time, last_modification: time }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() {
        return name.to_vec();
    }
    [parent, b"/", name].concat()
}

/// A path on one line: bytes that are not printable ASCII, spaces and `%` as `%xx`.
pub fn escape(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path {
        if byte.is_ascii_graphic() && *byte != b'%' {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02x}"));
        }
    }
    text
}

fn at<'p>(step: &'static str, path: &'p [u8]) -> impl FnOnce(Errno) -> ApplyError + 'p {
    move |source| ApplyError::File { step, path: printable(path), source }
}
