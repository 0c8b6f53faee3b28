//! One file of an image, read across its layers the way overlayfs would show it.
//!
//! Resolution never leaves the layers: each component is looked up by descriptor without following
//! links, and links are followed here, inside the image (security rule R1). Nothing but regular files
//! is ever opened.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::ImageError;
use super::disk::io;

/// As many links as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;
const COMPONENTS_MAX: usize = 512;

/// Content of the regular file at `path`; `None` when there is no such file. More than `limit` bytes
/// are an error, not a shorter file.
pub fn read_file(
    layers: &[PathBuf],
    path: &str,
    limit: usize,
) -> Result<Option<Vec<u8>>, ImageError> {
    let failed = |error: Errno| io("read a file of the image")(error.into());
    let mut root = Vec::new();
    for layer in layers {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        root.push(rustix::fs::open(layer, flags, Mode::empty()).map_err(failed)?);
    }
    let mut rest: VecDeque<Vec<u8>> = components(path.as_bytes());
    // The directories from the root to here, each merged from several layers.
    let mut trail: Vec<Vec<OwnedFd>> = vec![root];
    let mut links = 0;
    let mut walked = 0;
    while let Some(name) = rest.pop_front() {
        walked += 1;
        if walked > COMPONENTS_MAX {
            return Ok(None);
        }
        if name == b".." {
            if trail.len() > 1 {
                trail.pop();
            }
            continue;
        }
        let here = trail.last().expect("the root is never popped");
        match look(here, &name).map_err(failed)? {
            Found::Nothing => return Ok(None),
            Found::Directory(merged) => trail.push(merged),
            Found::Link(target) => {
                links += 1;
                if links > LINKS_MAX {
                    return Ok(None);
                }
                if target.first() == Some(&b'/') {
                    trail.truncate(1);
                }
                for component in components(&target).into_iter().rev() {
                    rest.push_front(component);
                }
            }
            Found::File(file) if rest.is_empty() => return content(file, path, limit).map(Some),
            Found::File(_) => return Ok(None),
        }
    }
    Ok(None)
}

/// What stands at one path of the merged layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Nothing,
    Directory { mode: u32, uid: u32, gid: u32 },
    Link(Vec<u8>),
    Other,
}

/// Looks at `path`, relative and taken literally: links in it are not followed.
pub fn look_up(layers: &[PathBuf], path: &[u8]) -> Result<Seen, ImageError> {
    let failed = |error: Errno| io("look at a file of the image")(error.into());
    let mut here = Vec::new();
    for layer in layers {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        here.push(rustix::fs::open(layer, flags, Mode::empty()).map_err(failed)?);
    }
    let mut rest = components(path);
    while let Some(name) = rest.pop_front() {
        match look(&here, &name).map_err(failed)? {
            Found::Directory(merged) => here = merged,
            Found::Link(target) if rest.is_empty() => return Ok(Seen::Link(target)),
            Found::File(_) if rest.is_empty() => return Ok(Seen::Other),
            Found::Link(_) | Found::File(_) | Found::Nothing => return Ok(Seen::Nothing),
        }
    }
    let Some(topmost) = here.first() else {
        return Ok(Seen::Nothing);
    };
    let stat = rustix::fs::fstat(topmost).map_err(failed)?;
    Ok(Seen::Directory { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid })
}

enum Found {
    Nothing,
    Directory(Vec<OwnedFd>),
    Link(Vec<u8>),
    File(OwnedFd),
}

fn look(here: &[OwnedFd], name: &[u8]) -> Result<Found, Errno> {
    let mut merged = Vec::new();
    for layer in here {
        let stat = match rustix::fs::statat(layer, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let directory = rustix::fs::openat(layer, name, flags, Mode::empty())?;
                let opaque = is_opaque(&directory);
                merged.push(directory);
                if opaque {
                    break;
                }
            }
            // A lower layer's something else ends a directory's merging, whiteouts included.
            _ if !merged.is_empty() => break,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(layer, name, Vec::new())?;
                return Ok(Found::Link(target.into_bytes()));
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
                return rustix::fs::openat(layer, name, flags, Mode::empty()).map(Found::File);
            }
            _ => return Ok(Found::Nothing),
        }
    }
    if merged.is_empty() {
        return Ok(Found::Nothing);
    }
    Ok(Found::Directory(merged))
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0u8; 2];
    let got = rustix::fs::fgetxattr(directory.as_fd(), "trusted.overlay.opaque", &mut value[..]);
    got == Ok(1) && value[0] == b'y'
}

fn content(file: OwnedFd, path: &str, limit: usize) -> Result<Vec<u8>, ImageError> {
    let mut content = Vec::new();
    File::from(file)
        .take(limit as u64 + 1)
        .read_to_end(&mut content)
        .map_err(io("read a file of the image"))?;
    if content.len() > limit {
        return Err(ImageError::Content {
            reason: format!("{path} exceeds the limit of {limit} bytes"),
        });
    }
    Ok(content)
}

fn components(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|component| !matches!(*component, b"" | b"."))
        .map(<[u8]>::to_vec)
        .collect()
}
