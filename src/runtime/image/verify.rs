//! Compares an unpacked layer with the list that was written while it was unpacked: a flipped bit, a
//! lost file or an added one is named.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, OFlags};
use sha2::{Digest as _, Sha256};

use super::ImageError;
use super::apply::escape;
use super::disk::{Disk, io};
use super::reference::Digest;
use super::tarball;

/// What the list says about one path: everything on its line but the path.
#[derive(Clone)]
struct Listed {
    sort: String,
    mode: String,
    owner: (String, String),
    size: String,
    detail: String,
}

/// Verifies one layer.
pub fn layer(disk: &Disk, diff_id: &Digest) -> Result<(), ImageError> {
    let differs = |what: String| ImageError::Content {
        reason: format!("layer {diff_id} is damaged: {what}"),
    };
    let record = disk.layer_record(diff_id)?.ok_or_else(|| differs("it is missing".to_owned()))?;
    let index = disk.layer_index(diff_id)?;
    if Digest::of(&index).as_str() != record.index {
        return Err(differs("its list of files".to_owned()));
    }
    let text = String::from_utf8(index).map_err(|_| differs("its list of files".to_owned()))?;
    let mut listed = parse(&text).ok_or_else(|| differs("its list of files".to_owned()))?;
    listed.remove("");
    let root = File::open(disk.layer_root(diff_id)).map_err(io("open a layer"))?;
    walk(root.as_fd(), "", &mut listed).map_err(differs)?;
    match listed.keys().min() {
        Some(path) => Err(differs(format!("{path} is missing"))),
        None => Ok(()),
    }
}

/// Replays the list: later lines win, `-` takes a path and all below it away, `h` copies its target's.
fn parse(text: &str) -> Option<HashMap<String, Listed>> {
    let mut listed: HashMap<String, Listed> = HashMap::new();
    for line in text.lines() {
        let mut fields = line.splitn(7, ' ').map(str::to_owned);
        let (sort, mode) = (fields.next()?, fields.next()?);
        let owner = (fields.next()?, fields.next()?);
        let (size, detail, path) = (fields.next()?, fields.next()?, fields.next()?);
        match sort.as_str() {
            "-" => {
                if let Some(Listed { sort, .. }) = listed.remove(&path)
                    && sort == "d"
                {
                    let below = format!("{path}/");
                    listed.retain(|known, _| !known.starts_with(&below));
                }
            }
            "h" => {
                let target = listed.get(&detail)?.clone();
                listed.insert(path, target);
            }
            _ => {
                listed.insert(path, Listed { sort, mode, owner, size, detail });
            }
        }
    }
    Some(listed)
}

fn walk(
    directory: BorrowedFd<'_>,
    path: &str,
    listed: &mut HashMap<String, Listed>,
) -> Result<(), String> {
    let failed = |path: &str, error: rustix::io::Errno| format!("{path}: {error}");
    for name in tarball::names(directory).map_err(|e| failed(path, e))? {
        let here = match path {
            "" => escape(&name),
            path => format!("{path}/{}", escape(&name)),
        };
        let Some(entry) = listed.remove(&here) else {
            return Err(format!("{here} was not in it"));
        };
        let stat = rustix::fs::statat(directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| failed(&here, e))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let sort = match kind {
            FileType::Directory => "d",
            FileType::RegularFile => "f",
            FileType::Symlink => "l",
            FileType::CharacterDevice if stat.st_rdev == 0 => "w",
            FileType::CharacterDevice => "c",
            FileType::BlockDevice => "b",
            _ => "p",
        };
        let owner = (stat.st_uid.to_string(), stat.st_gid.to_string());
        let mode = format!("{:o}", stat.st_mode & 0o7777);
        let is_same = sort == entry.sort
            && owner == entry.owner
            // The mode of a link is the kernel's affair.
            && (sort == "l" || mode == entry.mode)
            && (sort != "f" || stat.st_size.to_string() == entry.size);
        if !is_same {
            return Err(format!("{here} has changed"));
        }
        match kind {
            FileType::Directory => {
                let child = tarball::open(directory, &name, OFlags::DIRECTORY)
                    .map_err(|e| failed(&here, e))?;
                walk(child.as_fd(), &here, listed)?;
            }
            FileType::RegularFile => {
                let file = tarball::open(directory, &name, OFlags::NONBLOCK)
                    .map_err(|e| failed(&here, e))?;
                let digest = digest_of(File::from(file)).map_err(|e| format!("{here}: {e}"))?;
                if digest.as_str() != entry.detail {
                    return Err(format!("{here} has other content"));
                }
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name.as_slice(), Vec::new())
                    .map_err(|e| failed(&here, e))?;
                if Digest::of(target.as_bytes()).as_str() != entry.detail {
                    return Err(format!("{here} points elsewhere"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn digest_of(mut file: File) -> std::io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        let got = file.read(&mut buffer)?;
        if got == 0 {
            return Ok(Digest::from_hash(&hash.finalize()));
        }
        hash.update(&buffer[..got]);
    }
}
