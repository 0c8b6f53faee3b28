//! Files into a layer tar, the same bytes for the same content: sorted, fixed times, numeric owners.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

const OPAQUE: &str = "trusted.overlay.opaque";

/// What to write over the owners and modes of the files themselves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ownership {
    /// `None`: as on disk.
    pub owner: Option<(u32, u32)>,
    pub mode: Option<u32>,
}

/// Writes entries into one tar.
pub struct LayerTar<W: Write> {
    builder: Builder<W>,
    /// Hard links by device and inode, when they are kept.
    links: Option<BTreeMap<(u64, u64), PathBuf>>,
}

impl<W: Write> LayerTar<W> {
    pub fn new(out: W) -> LayerTar<W> {
        LayerTar { builder: Builder::new(out), links: None }
    }

    /// Files with the same inode become hard links.
    pub fn with_hard_links(mut self) -> LayerTar<W> {
        self.links = Some(BTreeMap::new());
        self
    }

    pub fn finish(self) -> io::Result<W> {
        self.builder.into_inner()
    }

    /// Writes `source` (a file, link or directory; not what is in it) as `target`.
    pub fn entry(&mut self, source: &Path, target: &Path, ownership: Ownership) -> io::Result<()> {
        let metadata = source.symlink_metadata()?;
        let kind = metadata.file_type();
        let mut header = Header::new_gnu();
        let (uid, gid) = ownership.owner.unwrap_or((metadata.uid(), metadata.gid()));
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_mtime(0);
        header.set_size(0);
        let mode = metadata.mode() & 0o7777;
        header.set_mode(match ownership.mode {
            Some(mode) if !kind.is_symlink() => mode,
            _ => mode,
        });
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            // The name of a directory ends with a slash, as in every tar.
            let mut name = OsString::from(target);
            name.push("/");
            return self.builder.append_data(&mut header, name, io::empty());
        }
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            return self.builder.append_link(&mut header, target, fs::read_link(source)?);
        }
        if kind.is_file() {
            if let Some(links) = &mut self.links
                && metadata.nlink() > 1
            {
                let identity = (metadata.dev(), metadata.ino());
                if let Some(first) = links.get(&identity) {
                    header.set_entry_type(EntryType::Link);
                    return self.builder.append_link(&mut header, target, first);
                }
                links.insert(identity, target.to_owned());
            }
            header.set_entry_type(EntryType::Regular);
            header.set_size(metadata.len());
            return self.builder.append_data(&mut header, target, File::open(source)?);
        }
        if kind.is_fifo() {
            header.set_entry_type(EntryType::Fifo);
            return self.builder.append_data(&mut header, target, io::empty());
        }
        if kind.is_char_device() || kind.is_block_device() {
            let number = metadata.rdev();
            let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
            if (major, minor) == (0, 0) {
                let name = target.file_name().unwrap_or_default();
                let mut whiteout = OsString::from(".wh.");
                whiteout.push(name);
                header.set_entry_type(EntryType::Regular);
                return self.builder.append_data(
                    &mut header,
                    target.with_file_name(whiteout),
                    io::empty(),
                );
            }
            header.set_entry_type(match kind.is_char_device() {
                true => EntryType::Char,
                false => EntryType::Block,
            });
            header.set_device_major(major)?;
            header.set_device_minor(minor)?;
            return self.builder.append_data(&mut header, target, io::empty());
        }
        // Sockets have no place in an archive, and nothing to say in an image.
        Ok(())
    }

    /// Writes what is in `directory` under `target`, in the order of names; `keep` decides by the path
    /// relative to the first directory.
    pub fn tree(
        &mut self,
        directory: &Path,
        target: &Path,
        ownership: Ownership,
        keep: &dyn Fn(&Path) -> bool,
    ) -> io::Result<()> {
        let mut pending: Vec<PathBuf> = vec![PathBuf::new()];
        while let Some(relative) = pending.pop() {
            let source = directory.join(&relative);
            if relative.as_os_str().is_empty() || source.symlink_metadata()?.is_dir() {
                if is_opaque(&source) {
                    let mut header = Header::new_gnu();
                    header.set_mode(0o644);
                    header.set_size(0);
                    let mark = target.join(&relative).join(".wh..wh..opq");
                    self.builder.append_data(&mut header, mark, io::empty())?;
                }
                let mut names: Vec<OsString> = fs::read_dir(&source)?
                    .map(|entry| entry.map(|entry| entry.file_name()))
                    .collect::<Result<_, _>>()?;
                names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
                // A stack: the last pushed is written first.
                for name in names.into_iter().rev() {
                    pending.push(relative.join(name));
                }
            }
            if !relative.as_os_str().is_empty() && keep(&relative) {
                self.entry(&source, &target.join(&relative), ownership)?;
            }
        }
        Ok(())
    }
}

fn is_opaque(directory: &Path) -> bool {
    let mut value = [0u8; 8];
    matches!(rustix::fs::lgetxattr(directory, OPAQUE, &mut value[..]), Ok(1) if value[0] == b'y')
}
