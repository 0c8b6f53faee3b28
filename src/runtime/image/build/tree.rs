//! The files that a build adds, over the image it starts from.
//!
//! Sources are found below the context's descriptor and can name nothing outside of it; targets are
//! resolved through the links of the image and of what was added, and can name nothing outside either.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

use super::ignore::{self, Ignore};
use crate::runtime::image::tarball::{self, Meta, Tarball};
use crate::runtime::image::view::{self, Seen};

const LINKS_MAX: usize = 40;
/// Entries of one context: the limit of a layer.
const ENTRIES_MAX: usize = 2_000_000;

pub struct Tree<'a> {
    context: OwnedFd,
    ignore: &'a Ignore,
    /// The base image's layers, topmost first.
    base: &'a [PathBuf],
    added: BTreeMap<Vec<u8>, Node>,
}

struct Node {
    meta: Meta,
    kind: NodeKind,
}

enum NodeKind {
    Directory,
    /// Relative to the context, opened again when it is written.
    File {
        source: Vec<u8>,
    },
    Symlink(Vec<u8>),
}

/// Owner and mode that an instruction forces on what it copies.
#[derive(Debug, Clone, Copy, Default)]
pub struct Force {
    pub owner: Option<(u32, u32)>,
    pub mode: Option<u32>,
}

impl<'a> Tree<'a> {
    pub fn new(context: OwnedFd, ignore: &'a Ignore, base: &'a [PathBuf]) -> Tree<'a> {
        Tree { context, ignore, base, added: BTreeMap::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.added.is_empty()
    }

    /// Copies `sources` (patterns below the context) to the absolute path `target`.
    pub fn copy(&mut self, sources: &[String], target: &str, force: Force) -> Result<(), String> {
        let mut found = Vec::new();
        for source in sources {
            let matches = self.matching(source)?;
            if matches.is_empty() {
                return Err(format!("{source:?} is not in the context"));
            }
            found.extend(matches);
        }
        let into_directory = found.len() > 1 || target.ends_with('/');
        let resolved = self.resolve(target.as_bytes())?;
        for source in &found {
            let opened = self.open_source(source)?;
            let stat = rustix::fs::fstat(&opened).map_err(|e| failed(source, e))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    self.make_directories(&resolved)?;
                    self.copy_directory(opened.as_fd(), source, &resolved, force)?;
                }
                FileType::RegularFile => {
                    let is_directory = into_directory || self.is_directory(&resolved)?;
                    let name = source.rsplit(|b| *b == b'/').next().unwrap_or_default();
                    let path = if is_directory { join(&resolved, name) } else { resolved.clone() };
                    // A link at the very end is followed too, as a copy into a running system would.
                    let path = self.resolve(&path)?;
                    if path.is_empty() || self.is_directory(&path)? {
                        return Err(format!("{target:?} is a directory"));
                    }
                    self.make_directories(parent(&path))?;
                    self.add_file(source, stat.st_mode, path, force)?;
                }
                _ => {
                    return Err(format!("{} is neither a file nor a directory", text(source)));
                }
            }
        }
        Ok(())
    }

    /// Makes the absolute path `target` a directory.
    pub fn make_directory(&mut self, target: &str) -> Result<(), String> {
        let resolved = self.resolve(target.as_bytes())?;
        self.make_directories(&resolved)
    }

    /// Content of a file that was added or that the base image has; for /etc/passwd and its kin.
    pub fn read(&self, path: &str) -> Result<Option<String>, String> {
        let resolved = self.resolve(path.as_bytes())?;
        let content = match self.added.get(&resolved) {
            Some(Node { kind: NodeKind::File { source }, .. }) => {
                let mut content = Vec::new();
                let file = self.open_source(source)?;
                std::io::Read::read_to_end(
                    &mut std::io::Read::take(File::from(file), 1 << 20),
                    &mut content,
                )
                .map_err(|e| format!("cannot read {}: {e}", text(source)))?;
                Some(content)
            }
            Some(_) => None,
            None => view::read_file(self.base, path, 1 << 20).map_err(|e| e.to_string())?,
        };
        Ok(content.map(|content| String::from_utf8_lossy(&content).into_owned()))
    }

    /// Writes everything that was added as one layer.
    pub fn write(&self, output: impl Write) -> Result<(), String> {
        let mut tarball = Tarball::new(output);
        for (path, node) in &self.added {
            let wrote = match &node.kind {
                NodeKind::Directory => tarball.directory(path, &node.meta),
                NodeKind::Symlink(target) => tarball.symlink(path, &node.meta, target),
                NodeKind::File { source } => {
                    let file = self.open_source(source)?;
                    let stat = rustix::fs::fstat(&file).map_err(|e| failed(source, e))?;
                    let xattrs =
                        tarball::kept_xattrs(file.as_fd()).map_err(|e| failed(source, e))?;
                    tarball.xattrs(&xattrs).and_then(|()| {
                        tarball.file(path, &node.meta, stat.st_size as u64, File::from(file))
                    })
                }
            };
            wrote.map_err(|e| format!("cannot write {}: {e}", text(path)))?;
        }
        tarball.finish().map(drop).map_err(|e| format!("cannot write the layer: {e}"))
    }

    /// Paths below the context that match a source, which may hold `*`, `?` and `[…]`.
    fn matching(&self, source: &str) -> Result<Vec<Vec<u8>>, String> {
        let components: Vec<&str> =
            source.split('/').filter(|component| !matches!(*component, "" | ".")).collect();
        if components.contains(&"..") {
            return Err(format!("{source:?} lies outside of the context"));
        }
        let mut found: Vec<Vec<u8>> = vec![Vec::new()];
        for component in components {
            let mut next = Vec::new();
            for path in found {
                if !component.contains(['*', '?', '[', '\\']) {
                    next.push(join(&path, component.as_bytes()));
                    continue;
                }
                let directory = self.open_source(&path)?;
                let names = tarball::names(directory.as_fd()).map_err(|e| failed(&path, e))?;
                next.extend(
                    names
                        .into_iter()
                        .filter(|name| {
                            ignore::match_name(component, &String::from_utf8_lossy(name))
                        })
                        .map(|name| join(&path, &name)),
                );
            }
            found = next;
        }
        found.retain(|path| {
            path.is_empty() || !self.leaves_out(path) || self.ignore.may_take_back()
        });
        // Left out is as good as absent; so is what is not there.
        found.retain(|path| self.open_source(path).is_ok());
        Ok(found)
    }

    fn leaves_out(&self, path: &[u8]) -> bool {
        self.ignore.leaves_out(&String::from_utf8_lossy(path))
    }

    /// Opens something of the context. Its links are followed inside the context.
    fn open_source(&self, path: &[u8]) -> Result<OwnedFd, String> {
        let path_or_root: &[u8] = if path.is_empty() { b"." } else { path };
        rustix::fs::openat2(
            &self.context,
            path_or_root,
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
        .map_err(|e| failed(path, e))
    }

    fn copy_directory(
        &mut self,
        directory: BorrowedFd<'_>,
        source: &[u8],
        target: &[u8],
        force: Force,
    ) -> Result<(), String> {
        for name in tarball::names(directory).map_err(|e| failed(source, e))? {
            let from = join(source, &name);
            let to = join(target, &name);
            let is_out = self.leaves_out(&from);
            let stat = rustix::fs::statat(directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| failed(&from, e))?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if is_out && !(kind == FileType::Directory && self.ignore.may_take_back()) {
                continue;
            }
            match kind {
                FileType::Directory => {
                    let child = tarball::open(directory, &name, OFlags::DIRECTORY)
                        .map_err(|e| failed(&from, e))?;
                    if !is_out {
                        // A directory onto a link to one goes where the link goes.
                        let to = self.resolve(&to)?;
                        self.make_directories(parent(&to))?;
                        let meta = forced(stat.st_mode, force);
                        self.add(to.clone(), meta, NodeKind::Directory)?;
                        self.copy_directory(child.as_fd(), &from, &to, force)?;
                    } else {
                        self.copy_directory(child.as_fd(), &from, &to, force)?;
                    }
                }
                FileType::RegularFile => {
                    self.make_directories(parent(&to))?;
                    self.add_file(&from, stat.st_mode, to, force)?;
                }
                FileType::Symlink => {
                    self.make_directories(parent(&to))?;
                    let link = rustix::fs::readlinkat(directory, name.as_slice(), Vec::new())
                        .map_err(|e| failed(&from, e))?;
                    let meta = Meta { mode: 0o777, ..forced(0o777, Force { mode: None, ..force }) };
                    self.add(to, meta, NodeKind::Symlink(link.into_bytes()))?;
                }
                _ => {
                    return Err(format!(
                        "{} is neither a file, a directory nor a link",
                        text(&from)
                    ));
                }
            }
        }
        Ok(())
    }

    fn add_file(
        &mut self,
        source: &[u8],
        mode: u32,
        path: Vec<u8>,
        force: Force,
    ) -> Result<(), String> {
        let kind = NodeKind::File { source: source.to_vec() };
        self.add(path, forced(mode, force), kind)
    }

    fn add(&mut self, path: Vec<u8>, meta: Meta, kind: NodeKind) -> Result<(), String> {
        if path.is_empty() {
            return Ok(());
        }
        if self.added.len() >= ENTRIES_MAX {
            return Err(format!("more than {ENTRIES_MAX} files"));
        }
        if !matches!(kind, NodeKind::Directory) {
            // A file in place of a directory takes its content away.
            let below = join(&path, b"");
            let gone: Vec<Vec<u8>> = self
                .added
                .range(below.clone()..)
                .take_while(|(known, _)| known.starts_with(&below))
                .map(|(known, _)| known.clone())
                .collect();
            for known in gone {
                self.added.remove(&known);
            }
        }
        self.added.insert(path, Node { meta, kind });
        Ok(())
    }

    /// Adds `path` and every directory above it: those of the base image as they are there, since a
    /// layer's directory decides about the merged one.
    fn make_directories(&mut self, path: &[u8]) -> Result<(), String> {
        let mut end = 0;
        for component in path.split(|byte| *byte == b'/') {
            end += component.len();
            let here = &path[..end];
            end += 1;
            if here.is_empty() {
                continue;
            }
            match self.added.get(here).map(|node| &node.kind) {
                Some(NodeKind::Directory) => continue,
                Some(_) => return Err(format!("{} is not a directory", text(here))),
                None => {}
            }
            let seen = view::look_up(self.base, here).map_err(|e| e.to_string())?;
            let (mode, uid, gid) = match seen {
                Seen::Directory { mode, uid, gid } => (mode, uid, gid),
                Seen::Nothing => (0o755, 0, 0),
                Seen::Link(_) | Seen::Other => {
                    return Err(format!("{} is not a directory", text(here)));
                }
            };
            let meta = Meta { mode, uid, gid, mtime: 0 };
            self.add(here.to_vec(), meta, NodeKind::Directory)?;
        }
        Ok(())
    }

    fn is_directory(&self, path: &[u8]) -> Result<bool, String> {
        if path.is_empty() {
            return Ok(true);
        }
        Ok(matches!(self.look(path)?, Seen::Directory { .. }))
    }

    /// What the image has so far at a path without links in it.
    fn look(&self, path: &[u8]) -> Result<Seen, String> {
        match self.added.get(path) {
            Some(node) => Ok(match &node.kind {
                NodeKind::Directory => {
                    Seen::Directory { mode: node.meta.mode, uid: node.meta.uid, gid: node.meta.gid }
                }
                NodeKind::Symlink(target) => Seen::Link(target.clone()),
                NodeKind::File { .. } => Seen::Other,
            }),
            None => view::look_up(self.base, path).map_err(|e| e.to_string()),
        }
    }

    /// `path` with every link followed inside the image; what does not exist yet stays as it is.
    fn resolve(&self, path: &[u8]) -> Result<Vec<u8>, String> {
        let mut rest: VecDeque<Vec<u8>> = components(path);
        let mut here: Vec<u8> = Vec::new();
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == b".." {
                here = parent(&here).to_vec();
                continue;
            }
            let next = join(&here, &name);
            match self.look(&next)? {
                Seen::Link(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(format!("{} has too many links", text(path)));
                    }
                    if target.first() == Some(&b'/') {
                        here.clear();
                    }
                    for component in components(&target).into_iter().rev() {
                        rest.push_front(component);
                    }
                }
                _ => here = next,
            }
        }
        Ok(here)
    }
}

/// As COPY has it: the mode of the source, root as the owner, and no time of its own.
fn forced(mode: u32, force: Force) -> Meta {
    let (uid, gid) = force.owner.unwrap_or((0, 0));
    Meta { mode: force.mode.unwrap_or(mode & 0o7777), uid, gid, mtime: 0 }
}

fn components(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|component| !matches!(*component, b"" | b"."))
        .map(<[u8]>::to_vec)
        .collect()
}

fn parent(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte == b'/');
    &path[..end.unwrap_or(0)]
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() {
        return name.to_vec();
    }
    [parent, b"/", name].concat()
}

fn text(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

fn failed(path: &[u8], error: rustix::io::Errno) -> String {
    format!("cannot read {}: {error}", text(path))
}
