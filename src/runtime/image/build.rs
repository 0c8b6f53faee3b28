//! Builds an image from a Containerfile and a context directory: the instructions that copy and
//! describe, not those that run.
//!
//! The result depends on nothing but the base image and the context: times are fixed, paths sorted,
//! owners root unless said otherwise. The new layer goes through the same confined unpacking as a
//! foreign one.

mod containerfile;
mod ignore;
mod tree;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use self::containerfile::{Command, Copy, Instruction};
use self::ignore::Ignore;
use self::tree::{Force, Tree};
use super::access::Access;
use super::manifest::LAYERS_MAX;
use super::reference::Digest;
use super::unpack::{self, Expected};
use super::{Image, ImageError, Images, blocking, config, parse_id, parse_name};

/// Largest Containerfile or ignore file.
const TEXT_MAX_BYTES: u64 = 1 << 20;
/// The time everything in a built image has.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// Why an image was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("cannot read {path}: {reason}")]
    Context { path: PathBuf, reason: String },
    #[error("{file}: line {line}: {reason}", file = file.display())]
    Instruction { file: PathBuf, line: usize, reason: String },
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Builds `dir` (by `containerfile`, or its `Containerfile` or `Dockerfile`) and gives the image the
/// name `name`.
pub async fn build(
    images: &Images,
    name: &str,
    dir: &Path,
    containerfile: Option<&Path>,
) -> Result<Image, BuildError> {
    let name = parse_name(name)?;
    if name.digest().is_some() {
        return Err(BuildError::Image(ImageError::InvalidName {
            name: name.to_string(),
            reason: "an image is not built under a digest".to_owned(),
        }));
    }
    let context = Context::read(dir, containerfile)?;
    let images = images.clone();
    let outcome = blocking(move || Ok(build_now(&images, &name.canonical(), &context))).await;
    outcome?
}

/// What a build reads before it starts.
struct Context {
    directory: OwnedFd,
    file: PathBuf,
    lines: Vec<containerfile::Line>,
    ignore: Ignore,
}

impl Context {
    fn read(dir: &Path, containerfile: Option<&Path>) -> Result<Context, BuildError> {
        let directory = File::open(dir).map_err(|e| unreadable(dir, &e))?;
        let file = match containerfile {
            Some(file) => file.to_owned(),
            None => ["Containerfile", "Dockerfile"]
                .iter()
                .map(|name| dir.join(name))
                .find(|path| path.is_file())
                .ok_or_else(|| BuildError::Context {
                    path: dir.to_owned(),
                    reason: "it holds neither Containerfile nor Dockerfile".to_owned(),
                })?,
        };
        let text = read_text(&file)?.ok_or_else(|| BuildError::Context {
            path: file.clone(),
            reason: "no such file".to_owned(),
        })?;
        let lines = containerfile::parse(&text).map_err(|error| BuildError::Instruction {
            file: file.clone(),
            line: error.line,
            reason: error.reason,
        })?;
        let mut own = file.clone().into_os_string();
        own.push(".dockerignore");
        let mut ignore = Ignore::default();
        for path in [PathBuf::from(own), dir.join(".containerignore"), dir.join(".dockerignore")] {
            if let Some(text) = read_text(&path)? {
                ignore = Ignore::parse(&text);
                break;
            }
        }
        Ok(Context { directory: directory.into(), file, lines, ignore })
    }

    fn at(&self, line: usize, reason: impl Into<String>) -> BuildError {
        BuildError::Instruction { file: self.file.clone(), line, reason: reason.into() }
    }
}

fn read_text(path: &Path) -> Result<Option<String>, BuildError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(path, &error)),
    };
    let mut text = String::new();
    std::io::Read::read_to_string(&mut std::io::Read::take(file, TEXT_MAX_BYTES + 1), &mut text)
        .map_err(|e| unreadable(path, &e))?;
    if text.len() as u64 > TEXT_MAX_BYTES {
        return Err(BuildError::Context {
            path: path.to_owned(),
            reason: format!("larger than {TEXT_MAX_BYTES} bytes"),
        });
    }
    Ok(Some(text))
}

fn unreadable(path: &Path, error: &std::io::Error) -> BuildError {
    BuildError::Context { path: path.to_owned(), reason: error.to_string() }
}

fn build_now(images: &Images, name: &str, context: &Context) -> Result<Image, BuildError> {
    let built = {
        // The base must not go while its layers are being used.
        let _shared = images.inner.disk.lock_shared()?;
        build_locked(images, name, context)
    };
    images.sweep_quietly();
    let id = built?;
    let image = images.load(&id, &images.inner.disk.all_names()?)?;
    Ok(image.ok_or_else(|| super::absent(name))?)
}

fn build_locked(images: &Images, name: &str, context: &Context) -> Result<Digest, BuildError> {
    let disk = &images.inner.disk;
    let mut lines = context.lines.iter();
    let mut arguments: BTreeMap<String, String> = BTreeMap::new();
    // Before FROM only ARG may stand, and only FROM sees it.
    let base = loop {
        let Some(line) = lines.next() else {
            return Err(context.at(1, "there is no FROM"));
        };
        match &line.instruction {
            Instruction::Arg { name, default } => {
                let default = default.as_deref().unwrap_or("");
                let value = expand(default, &arguments, None)
                    .map_err(|reason| context.at(line.number, reason))?;
                arguments.insert(name.clone(), value);
            }
            Instruction::From(image) => {
                let image = expand(image, &arguments, None)
                    .map_err(|reason| context.at(line.number, reason))?;
                break Base::find(images, &image, context, line.number)?;
            }
            _ => return Err(context.at(line.number, "only ARG may stand before FROM")),
        }
    };
    let mut draft = Draft {
        config: base.config,
        arguments: BTreeMap::new(),
        has_cmd: false,
        tree: Tree::new(
            context.directory.try_clone().map_err(super::disk::io("open the context"))?,
            &context.ignore,
            &base.roots,
        ),
    };
    for line in lines {
        draft
            .apply(&line.instruction, &arguments)
            .map_err(|reason| context.at(line.number, reason))?;
    }
    let mut diff_ids = base.diff_ids;
    if !draft.tree.is_empty() {
        if diff_ids.len() == LAYERS_MAX {
            return Err(
                context.at(1, format!("the image would have more than {LAYERS_MAX} layers"))
            );
        }
        diff_ids.push(add_layer(images, &draft.tree, context)?);
    }
    let layers: Vec<String> = diff_ids.iter().map(Digest::to_string).collect();
    draft.config.insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": layers}));
    let text = serde_json::to_vec(&Value::Object(draft.config))
        .map_err(|e| ImageError::Io { step: "encode the config", reason: e.to_string() })?;
    // What we would refuse from others we do not make ourselves.
    config::parse(&text).map_err(|e| ImageError::Content { reason: e.to_string() })?;
    let id = Digest::of(&text);
    disk.put_image(&id, &text, layers, &[name.to_owned()], |_| Access::everybody())?;
    Ok(id)
}

/// Writes the tree as a tar into an unnamed file and unpacks it as a layer.
fn add_layer(images: &Images, tree: &Tree<'_>, context: &Context) -> Result<Digest, BuildError> {
    let disk = &images.inner.disk;
    let file = disk.unnamed_file()?;
    let mut output = Hashing {
        file: std::io::BufWriter::with_capacity(128 << 10, file),
        hash: Sha256::new(),
        bytes: 0,
    };
    tree.write(&mut output).map_err(|reason| context.at(1, reason))?;
    let diff_id = Digest::from_hash(&output.hash.finalize());
    let mut file =
        output.file.into_inner().map_err(|e| super::disk::io("write the layer")(e.into_error()))?;
    file.seek(SeekFrom::Start(0)).map_err(super::disk::io("read the layer"))?;
    let expected = Expected { digest: None, size_bytes: output.bytes, diff_id: diff_id.clone() };
    unpack::layer(disk, &mut file, &expected, &images.inner.limits).map_err(ImageError::from)?;
    Ok(diff_id)
}

/// Writes through to a file and knows the digest of what went by.
struct Hashing {
    file: std::io::BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let wrote = self.file.write(bytes)?;
        self.hash.update(&bytes[..wrote]);
        self.bytes += wrote as u64;
        Ok(wrote)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// What a build starts from.
struct Base {
    config: Map<String, Value>,
    diff_ids: Vec<Digest>,
    /// Layer directories, topmost first.
    roots: Vec<PathBuf>,
}

impl Base {
    fn find(
        images: &Images,
        name: &str,
        context: &Context,
        line: usize,
    ) -> Result<Base, BuildError> {
        if name == "scratch" {
            let mut config = Map::new();
            config.insert("created".to_owned(), json!(CREATED));
            config.insert("architecture".to_owned(), json!("amd64"));
            config.insert("os".to_owned(), json!("linux"));
            config.insert("config".to_owned(), json!({}));
            return Ok(Base { config, diff_ids: Vec::new(), roots: Vec::new() });
        }
        let image = images.find(name)?.ok_or_else(|| {
            context.at(line, format!("image {name:?} is not present; pull or import it first"))
        })?;
        let id = parse_id(&image.id).ok_or_else(|| super::absent(name))?;
        let text = images.inner.disk.config(&id)?;
        let diff_ids = config::parse(&text)
            .map_err(|e| ImageError::Content { reason: e.to_string() })?
            .diff_ids;
        let mut config: Map<String, Value> = serde_json::from_slice(&text)
            .map_err(|e| ImageError::Content { reason: e.to_string() })?;
        config.insert("created".to_owned(), json!(CREATED));
        // It tells about the layers of the base only and would no longer add up.
        config.remove("history");
        if !config.get("config").is_some_and(Value::is_object) {
            config.insert("config".to_owned(), json!({}));
        }
        Ok(Base { config, diff_ids, roots: image.layers })
    }
}

/// The image so far.
struct Draft<'a> {
    config: Map<String, Value>,
    arguments: BTreeMap<String, String>,
    has_cmd: bool,
    tree: Tree<'a>,
}

impl Draft<'_> {
    fn apply(
        &mut self,
        instruction: &Instruction,
        outer: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        match instruction {
            Instruction::From(_) => return Err("a second FROM is not supported".to_owned()),
            Instruction::Arg { name, default } => {
                let value = match default {
                    Some(default) => self.expand(default)?,
                    None => outer.get(name).cloned().unwrap_or_default(),
                };
                self.arguments.insert(name.clone(), value);
            }
            Instruction::Copy(copy) => self.copy(copy)?,
            Instruction::Env(pairs) => {
                // All of one line see the values from before it.
                let pairs: Vec<(String, String)> = pairs
                    .iter()
                    .map(|(key, value)| Ok((key.clone(), self.expand(value)?)))
                    .collect::<Result<_, String>>()?;
                for (key, value) in pairs {
                    self.set_env(&key, &value);
                }
            }
            Instruction::Label(pairs) => {
                for (key, value) in pairs {
                    let (key, value) = (self.expand(key)?, self.expand(value)?);
                    self.map("Labels").insert(key, json!(value));
                }
            }
            Instruction::Workdir(path) => {
                let path = self.absolute(&self.expand(path)?);
                self.tree.make_directory(&path)?;
                self.set("WorkingDir", json!(path));
            }
            Instruction::User(user) => {
                let user = self.expand(user)?;
                self.set("User", json!(user));
            }
            Instruction::Expose(ports) => {
                for port in ports {
                    for port in exposed(&self.expand(port)?)? {
                        self.map("ExposedPorts").insert(port, json!({}));
                    }
                }
            }
            Instruction::Volume(paths) => {
                for path in paths {
                    let path = self.expand(path)?;
                    self.map("Volumes").insert(path, json!({}));
                }
            }
            Instruction::StopSignal(signal) => {
                let signal = self.expand(signal)?;
                self.set("StopSignal", json!(signal));
            }
            Instruction::Entrypoint(command) => {
                self.set("Entrypoint", argv(command));
                // The base's arguments were meant for the base's entrypoint.
                if !self.has_cmd {
                    self.run().shift_remove("Cmd");
                }
            }
            Instruction::Cmd(command) => {
                self.has_cmd = true;
                self.set("Cmd", argv(command));
            }
        }
        Ok(())
    }

    fn copy(&mut self, copy: &Copy) -> Result<(), String> {
        let mut sources = Vec::new();
        for source in &copy.sources {
            let source = self.expand(source)?;
            if copy.is_add && is_archive(&source) {
                return Err(format!(
                    "ADD would unpack {source:?}, which is not supported: unpack it, or COPY it"
                ));
            }
            sources.push(source);
        }
        let target = self.expand(&copy.target)?;
        let mut absolute = self.absolute(&target);
        if (target.ends_with('/') || target == ".") && !absolute.ends_with('/') {
            absolute.push('/');
        }
        let mode = match &copy.chmod {
            None => None,
            Some(text) => {
                let text = self.expand(text)?;
                let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o7777);
                Some(mode.ok_or_else(|| format!("--chmod={text} is not an octal mode"))?)
            }
        };
        let owner = match &copy.chown {
            None => None,
            Some(text) => Some(self.owner(&self.expand(text)?)?),
        };
        self.tree.copy(&sources, &absolute, Force { owner, mode })
    }

    /// `user[:group]`, as numbers or as the image's own files name them.
    fn owner(&self, text: &str) -> Result<(u32, u32), String> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let field = |file: &str, name: &str| -> Result<u32, String> {
            if let Ok(number) = name.parse() {
                return Ok(number);
            }
            let lines = self.tree.read(file)?.unwrap_or_default();
            lines
                .lines()
                .map(|line| line.split(':').collect::<Vec<_>>())
                .find(|fields| fields.first() == Some(&name))
                .and_then(|fields| fields.get(2)?.parse().ok())
                .ok_or_else(|| format!("--chown={text}: {name:?} is not in the image's {file}"))
        };
        let uid = field("/etc/passwd", user)?;
        let gid = match group {
            Some(group) => field("/etc/group", group)?,
            // Docker: without a group, the number of the user.
            None => uid,
        };
        Ok((uid, gid))
    }

    fn absolute(&mut self, path: &str) -> String {
        if path.starts_with('/') {
            return clean(path);
        }
        let base = match self.run().get("WorkingDir") {
            Some(Value::String(base)) if !base.is_empty() => base.clone(),
            _ => "/".to_owned(),
        };
        clean(&format!("{base}/{path}"))
    }

    fn set_env(&mut self, key: &str, value: &str) {
        let entry = json!(format!("{key}={value}"));
        let prefix = format!("{key}=");
        let list = self.run().entry("Env").or_insert_with(|| json!([]));
        if !list.is_array() {
            *list = json!([]);
        }
        let Some(list) = list.as_array_mut() else {
            return;
        };
        match list.iter_mut().find(|known| known.as_str().is_some_and(|k| k.starts_with(&prefix))) {
            Some(known) => *known = entry,
            None => list.push(entry),
        }
    }

    /// The environment wins over arguments, as Docker has it.
    fn expand(&self, text: &str) -> Result<String, String> {
        let env = self.config.get("config").and_then(|run| run.get("Env"));
        expand(text, &self.arguments, env)
    }

    fn set(&mut self, key: &str, value: Value) {
        self.run().insert(key.to_owned(), value);
    }

    fn run(&mut self) -> &mut Map<String, Value> {
        let run = self.config.entry("config").or_insert_with(|| json!({}));
        run.as_object_mut().expect("made an object where the draft began, and never replaced")
    }

    fn map(&mut self, key: &str) -> &mut Map<String, Value> {
        let value = self.run().entry(key).or_insert_with(|| json!({}));
        if !value.is_object() {
            *value = json!({});
        }
        value.as_object_mut().expect("made an object just above")
    }
}

fn expand(
    text: &str,
    arguments: &BTreeMap<String, String>,
    env: Option<&Value>,
) -> Result<String, String> {
    containerfile::expand(text, &|name| {
        let prefix = format!("{name}=");
        env.and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .find_map(|entry| entry.strip_prefix(&prefix))
            .map(str::to_owned)
            .or_else(|| arguments.get(name).cloned())
    })
}

fn argv(command: &Command) -> Value {
    match command {
        Command::Exec(words) => json!(words),
        Command::Shell(line) => json!(["/bin/sh", "-c", line]),
    }
}

/// `80`, `80/udp`, `8000-8010/tcp`.
fn exposed(text: &str) -> Result<Vec<String>, String> {
    let refused = || format!("{text:?} is not a port");
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(refused());
    }
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let first: u16 = first.parse().map_err(|_| refused())?;
    let last: u16 = last.parse().map_err(|_| refused())?;
    if first == 0 || first > last {
        return Err(refused());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// What ADD would unpack, by its name.
fn is_archive(source: &str) -> bool {
    [".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst"]
        .iter()
        .any(|end| source.ends_with(end))
}

/// An absolute path without `.`, `..` and doubled slashes.
fn clean(path: &str) -> String {
    let mut components: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                components.pop();
            }
            other => components.push(other),
        }
    }
    format!("/{}", components.join("/"))
}

#[cfg(test)]
mod tests;
