//! Writes layers as tar, always the same bytes for the same tree: sorted paths, GNU headers without
//! names of users, PAX only for extended attributes.
//!
//! An unpacked layer that was written here once gives the same stream, and so the same diffID, again.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Largest extended attribute the kernel stores (XATTR_SIZE_MAX).
const XATTR_MAX: usize = 64 << 10;

/// One member that is not a copy of a file on disk's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970; earlier times are written as 0.
    pub mtime: u64,
}

/// Name and value of an extended attribute.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// A tar in the making.
pub struct Tarball<W: Write> {
    builder: tar::Builder<W>,
}

impl<W: Write> Tarball<W> {
    pub fn new(output: W) -> Tarball<W> {
        Tarball { builder: tar::Builder::new(output) }
    }

    pub fn directory(&mut self, path: &[u8], meta: &Meta) -> std::io::Result<()> {
        // The trailing slash is what every other writer does.
        let path = [path, b"/"].concat();
        self.plain(&path, meta, tar::EntryType::Directory)
    }

    pub fn file(
        &mut self,
        path: &[u8],
        meta: &Meta,
        size: u64,
        content: impl Read,
    ) -> std::io::Result<()> {
        let mut header = header(meta, tar::EntryType::Regular);
        header.set_size(size);
        // A file that shrinks while it is read must not shift what follows.
        let mut content = Exactly { content, left: size };
        self.builder.append_data(&mut header, OsStr::from_bytes(path), &mut content)?;
        if content.left != 0 {
            return Err(std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was read",
            ));
        }
        Ok(())
    }

    pub fn symlink(&mut self, path: &[u8], meta: &Meta, target: &[u8]) -> std::io::Result<()> {
        self.link(path, meta, target, tar::EntryType::Symlink)
    }

    fn link(
        &mut self,
        path: &[u8],
        meta: &Meta,
        target: &[u8],
        kind: tar::EntryType,
    ) -> std::io::Result<()> {
        let mut header = header(meta, kind);
        header.set_size(0);
        self.builder.append_link(&mut header, OsStr::from_bytes(path), OsStr::from_bytes(target))
    }

    fn plain(&mut self, path: &[u8], meta: &Meta, kind: tar::EntryType) -> std::io::Result<()> {
        let mut header = header(meta, kind);
        header.set_size(0);
        self.builder.append_data(&mut header, OsStr::from_bytes(path), std::io::empty())
    }

    /// Extended attributes of the next member.
    pub fn xattrs(&mut self, xattrs: &[Xattr]) -> std::io::Result<()> {
        let named: Vec<(String, &[u8])> = xattrs
            .iter()
            .map(|(name, value)| {
                let name = String::from_utf8_lossy(name);
                (format!("SCHILY.xattr.{name}"), value.as_slice())
            })
            .collect();
        if named.is_empty() {
            return Ok(());
        }
        self.builder
            .append_pax_extensions(named.iter().map(|(name, value)| (name.as_str(), *value)))
    }

    pub fn finish(self) -> std::io::Result<W> {
        self.builder.into_inner()
    }
}

struct Exactly<R> {
    content: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let want = (buffer.len() as u64).min(self.left) as usize;
        let got = self.content.read(&mut buffer[..want])?;
        self.left -= got as u64;
        Ok(got)
    }
}

fn header(meta: &Meta, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(meta.mode & 0o7777);
    header.set_uid(u64::from(meta.uid));
    header.set_gid(u64::from(meta.gid));
    header.set_mtime(meta.mtime);
    header
}

/// Writes an unpacked layer: whiteouts and opaque marks back in their archive form.
pub fn write_layer<W: Write>(root: BorrowedFd<'_>, output: W) -> std::io::Result<W> {
    let mut tarball = Tarball::new(output);
    let stat = rustix::fs::fstat(root)?;
    if stat.st_mode & 0o7777 != 0o755 || stat.st_uid != 0 || stat.st_gid != 0 {
        tarball.plain(b"./", &meta(&stat), tar::EntryType::Directory)?;
    }
    let mut seen = std::collections::HashMap::new();
    write_directory(&mut tarball, root, b"", &mut seen)?;
    tarball.finish()
}

fn write_directory<W: Write>(
    tarball: &mut Tarball<W>,
    directory: BorrowedFd<'_>,
    path: &[u8],
    seen: &mut std::collections::HashMap<u64, Vec<u8>>,
) -> std::io::Result<()> {
    let at = |name: &[u8]| {
        if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
    };
    let empty = Meta { mode: 0o600, uid: 0, gid: 0, mtime: 0 };
    if xattr(directory, b"trusted.overlay.opaque")?.is_some_and(|value| value == b"y") {
        tarball.file(&at(b".wh..wh..opq"), &empty, 0, std::io::empty())?;
    }
    for name in names(directory)? {
        let path = at(&name);
        let stat = rustix::fs::statat(directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
        let meta = meta(&stat);
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = seen.get(&stat.st_ino) {
                tarball.link(&path, &meta, first, tar::EntryType::Link)?;
                continue;
            }
            seen.insert(stat.st_ino, path.clone());
        }
        match kind {
            FileType::Directory => {
                let child = open(directory, &name, OFlags::DIRECTORY)?;
                tarball.xattrs(&kept_xattrs(child.as_fd())?)?;
                tarball.directory(&path, &meta)?;
                write_directory(tarball, child.as_fd(), &path, seen)?;
            }
            FileType::RegularFile => {
                let file = open(directory, &name, OFlags::NONBLOCK)?;
                tarball.xattrs(&kept_xattrs(file.as_fd())?)?;
                tarball.file(&path, &meta, stat.st_size as u64, File::from(file))?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name.as_slice(), Vec::new())?;
                tarball.symlink(&path, &meta, target.as_bytes())?;
            }
            FileType::CharacterDevice if stat.st_rdev == 0 => {
                let path = at(&[b".wh.", name.as_slice()].concat());
                tarball.file(&path, &empty, 0, std::io::empty())?;
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                let entry = if kind == FileType::BlockDevice {
                    tar::EntryType::Block
                } else {
                    tar::EntryType::Char
                };
                let mut header = header(&meta, entry);
                header.set_size(0);
                header.set_device_major(rustix::fs::major(stat.st_rdev))?;
                header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
                tarball.builder.append_data(
                    &mut header,
                    OsStr::from_bytes(&path),
                    std::io::empty(),
                )?;
            }
            FileType::Fifo => tarball.plain(&path, &meta, tar::EntryType::Fifo)?,
            FileType::Socket | FileType::Unknown => {
                return Err(std::io::Error::other("a layer holds no sockets"));
            }
        }
    }
    Ok(())
}

/// Names in a directory, sorted by bytes.
pub fn names(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_bytes().to_vec());
        }
    }
    names.sort();
    Ok(names)
}

/// Opens an entry for reading without following a link.
pub fn open(directory: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

fn meta(stat: &Stat) -> Meta {
    Meta {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: u64::try_from(stat.st_mtime).unwrap_or(0),
    }
}

/// The attributes that layers keep: `security.capability` and the user's own.
pub fn kept_xattrs(file: BorrowedFd<'_>) -> Result<Vec<Xattr>, Errno> {
    let mut list = vec![0u8; XATTR_MAX];
    let length = match rustix::fs::flistxattr(file, &mut list[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for name in list[..length].split(|byte| *byte == 0) {
        if super::apply::is_xattr_kept(name)
            && let Some(value) = xattr(file, name)?
        {
            found.push((name.to_vec(), value));
        }
    }
    found.sort();
    Ok(found)
}

fn xattr(file: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = vec![0u8; XATTR_MAX];
    match rustix::fs::fgetxattr(file, name, &mut value[..]) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(error) => Err(error),
    }
}
