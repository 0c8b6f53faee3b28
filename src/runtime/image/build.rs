//! `joey image build`: an image from a Containerfile and files, the same image for the same input.
//!
//! It runs nothing: files are copied, settings are written down.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::containerfile::{self, Copy, Instruction, Line, Refused};
use super::disk::{ImageRecord, io as disk_io};
use super::layer_tar::{LayerTar, Ownership};
use super::reference::{Digest, Reference};
use super::unpack::{self, Expected};
use super::{Image, ImageConfig, ImageError, Images, config};

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("reading {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Containerfile(#[from] Refused),
    #[error("writing a layer")]
    Layer(#[source] io::Error),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("the build was interrupted")]
    Interrupted,
}

/// Builds `name` from `directory`. Without `file`, the directory's Containerfile or Dockerfile is read.
pub async fn build(
    images: &Images,
    name: &str,
    directory: &Path,
    file: Option<&Path>,
) -> Result<Image, BuildError> {
    let name: Reference = super::parse_name(name)?;
    let (images, directory) = (images.clone(), directory.to_owned());
    let file = file.map(Path::to_owned);
    let work = move || {
        let text = read_containerfile(&directory, file)?;
        let lines = containerfile::parse(&text)?;
        Builder { images: &images, ignored: Ignored::read(&directory)?, directory: &directory }.run(&name, &lines)
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| BuildError::Interrupted)?
}

fn read_containerfile(directory: &Path, file: Option<PathBuf>) -> Result<String, BuildError> {
    let path = file.unwrap_or_else(|| {
        let preferred = directory.join("Containerfile");
        if preferred.exists() { preferred } else { directory.join("Dockerfile") }
    });
    fs::read_to_string(&path).map_err(|source| BuildError::Read { path, source })
}

/// Patterns of .containerignore or .dockerignore.
struct Ignored(Vec<(bool, String)>);

impl Ignored {
    fn read(directory: &Path) -> Result<Ignored, BuildError> {
        for name in [".containerignore", ".dockerignore"] {
            let path = directory.join(name);
            match fs::read_to_string(&path) {
                Ok(text) => return Ok(Ignored::parse(&text)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(BuildError::Read { path, source }),
            }
        }
        Ok(Ignored(Vec::new()))
    }

    fn parse(text: &str) -> Ignored {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let pattern = |line: &str| match line.strip_prefix('!') {
            Some(kept) => (false, kept.trim().to_owned()),
            None => (true, line.to_owned()),
        };
        Ignored(lines.map(pattern).collect())
    }

    /// The last pattern that matches decides.
    fn covers(&self, path: &Path) -> bool {
        let path = path.to_string_lossy();
        let last = self.0.iter().rev().find(|(_, pattern)| containerfile::matches(pattern, &path));
        last.is_some_and(|(ignore, _)| *ignore)
    }
}

struct Builder<'a> {
    images: &'a Images,
    directory: &'a Path,
    ignored: Ignored,
}

/// The image as far as it has got.
#[derive(Default)]
struct State {
    run: ImageConfig,
    layers: Vec<Digest>,
    history: Vec<Value>,
    /// ARG and ENV, for expansion.
    variables: BTreeMap<String, String>,
}

impl Builder<'_> {
    fn run(&self, name: &Reference, lines: &[Line]) -> Result<Image, BuildError> {
        let disk = &self.images.inner.disk;
        let _shared = disk.lock_shared()?;
        let mut state = State::default();
        for line in lines {
            let refused = |reason: String| Refused { line: line.number, reason };
            let layers = state.layers.len();
            self.step(&mut state, line, &refused)?;
            if !matches!(line.instruction, Instruction::From(_)) {
                let mut entry = json!({"created": EPOCH, "created_by": line.text});
                if state.layers.len() == layers {
                    entry["empty_layer"] = json!(true);
                }
                state.history.push(entry);
            }
        }
        let text = rendered(&state).to_string().into_bytes();
        // What is written must be what can be read.
        config::parse(&text).map_err(|error| ImageError::Content { reason: error.to_string() })?;
        let id = Digest::of(&text);
        let record = ImageRecord { layers: state.layers.iter().map(Digest::to_string).collect() };
        disk.put_image(&id, &text, &record, &[name.canonical()])?;
        let found = self.images.find(&name.canonical())?;
        Ok(found.ok_or_else(|| ImageError::Absent { name: name.canonical() })?)
    }

    fn step(
        &self,
        state: &mut State,
        line: &Line,
        refused: &dyn Fn(String) -> Refused,
    ) -> Result<(), BuildError> {
        let variables = state.variables.clone();
        let expand = |text: &str| containerfile::expand(text, &variables).map_err(refused);
        match &line.instruction {
            Instruction::From(base) => {
                let base = expand(base)?;
                if !state.layers.is_empty() || state.run != ImageConfig::default() {
                    return Err(refused("a second FROM: stages are not known".to_owned()).into());
                }
                if base != "scratch" {
                    let image = self.images.find(&base)?.ok_or_else(|| {
                        refused(format!("image {base} is not here; `joey image pull {base}` fetches it"))
                    })?;
                    let id = super::manifest::digest(&image.id)
                        .map_err(|error| ImageError::Content { reason: error.to_string() })?;
                    let text = self.images.inner.disk.config(&id)?;
                    let config = config::parse(&text)
                        .map_err(|error| ImageError::Content { reason: error.to_string() })?;
                    state.layers = config.diff_ids;
                    state.history = state.layers.iter().map(|_| json!({"created": EPOCH, "created_by": "FROM"})).collect();
                    for pair in &image.config.env {
                        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                        state.variables.insert(name.to_owned(), value.to_owned());
                    }
                    state.run = image.config;
                }
            }
            Instruction::Copy(copy) => {
                let mut copy = copy.clone();
                copy.target = expand(&copy.target)?;
                for source in &mut copy.sources {
                    *source = expand(source)?;
                }
                let layer = self.layer(&copy, &state.run.working_dir, refused)?;
                state.layers.push(layer);
            }
            Instruction::Env(pairs) => {
                for (name, value) in pairs {
                    let value = expand(value)?;
                    state.run.env.retain(|pair| pair.split('=').next() != Some(name));
                    state.run.env.push(format!("{name}={value}"));
                    state.variables.insert(name.clone(), value);
                }
            }
            Instruction::Arg { name, default } => {
                if let Some(default) = default {
                    let value = expand(default)?;
                    state.variables.entry(name.clone()).or_insert(value);
                }
            }
            Instruction::Workdir(path) => {
                let path = expand(path)?;
                state.run.working_dir = absolute(&path, &state.run.working_dir);
            }
            Instruction::User(user) => state.run.user = expand(user)?,
            Instruction::Expose(ports) => {
                for port in ports {
                    let port = expand(port)?;
                    let port = if port.contains('/') { port } else { format!("{port}/tcp") };
                    if !state.run.exposed_ports.contains(&port) {
                        state.run.exposed_ports.push(port);
                    }
                }
            }
            Instruction::Label(pairs) => {
                for (name, value) in pairs {
                    state.run.labels.insert(expand(name)?, expand(value)?);
                }
            }
            Instruction::Volume(paths) => {
                for path in paths {
                    state.run.volumes.push(expand(path)?);
                }
            }
            Instruction::StopSignal(signal) => state.run.stop_signal = Some(expand(signal)?),
            Instruction::Entrypoint(words) => {
                state.run.entrypoint = words.clone();
                // As docker does: a CMD of the base was meant for the base's entrypoint.
                state.run.cmd.clear();
            }
            Instruction::Cmd(words) => state.run.cmd = words.clone(),
        }
        Ok(())
    }

    /// Copies into a tar, and the tar into the store.
    fn layer(
        &self,
        copy: &Copy,
        working_dir: &str,
        refused: &dyn Fn(String) -> Refused,
    ) -> Result<Digest, BuildError> {
        let mut sources = Vec::new();
        for source in &copy.sources {
            let found = self.find(source).map_err(refused)?;
            if found.is_empty() {
                return Err(refused(format!("{source} is not in {}", self.directory.display())).into());
            }
            sources.extend(found);
        }
        let target = absolute(&copy.target, working_dir);
        let into_directory = copy.target.ends_with('/') || sources.len() > 1 || copy.target == ".";
        if sources.len() > 1 && !copy.target.ends_with('/') && copy.target != "." {
            return Err(refused("several sources need a target that ends with /".to_owned()).into());
        }
        let target = PathBuf::from(target.trim_start_matches('/'));
        let scratch = rustix::fs::open(
            self.images.inner.disk.root(),
            rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        )
        .map_err(|error| disk_io("make a file for the layer")(error.into()))?;
        let ownership = Ownership { owner: Some(copy.owner.unwrap_or((0, 0))), mode: copy.mode };
        let mut tar = LayerTar::new(Hashing { out: io::BufWriter::new(File::from(scratch)), hash: Sha256::new(), bytes: 0 });
        for relative in sources {
            let path = self.directory.join(&relative);
            let metadata = path.symlink_metadata().map_err(|source| BuildError::Read { path: path.clone(), source })?;
            if metadata.is_dir() {
                let keep = |below: &Path| !self.ignored.covers(&relative.join(below));
                tar.tree(&path, &target, ownership, &keep).map_err(BuildError::Layer)?;
            } else {
                let name = relative.file_name().unwrap_or_default();
                let place = if into_directory { target.join(name) } else { target.clone() };
                tar.entry(&path, &place, ownership).map_err(BuildError::Layer)?;
            }
        }
        let Hashing { out, hash, bytes } = tar.finish().map_err(BuildError::Layer)?;
        let mut file = out.into_inner().map_err(|error| BuildError::Layer(error.into_error()))?;
        file.seek(SeekFrom::Start(0)).map_err(BuildError::Layer)?;
        let diff_id = Digest::from_hash(&hash.finalize());
        let expected = Expected { digest: None, size_bytes: bytes, diff_id: diff_id.clone() };
        let inner = &self.images.inner;
        unpack::layer(&inner.disk, &mut file, &expected, &inner.limits).map_err(ImageError::from)?;
        Ok(diff_id)
    }

    /// Paths of the context that a source means, relative to it.
    fn find(&self, source: &str) -> Result<Vec<PathBuf>, String> {
        let relative: PathBuf = Path::new(source)
            .components()
            .filter(|part| !matches!(part, Component::CurDir | Component::RootDir))
            .collect();
        if relative.components().any(|part| part == Component::ParentDir) {
            return Err(format!("{source} lies outside of the context"));
        }
        let name = relative.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !name.contains(['*', '?']) {
            // A link out of the context would copy what the user did not hand over.
            let whole = self.directory.join(&relative);
            let real = whole.parent().and_then(|parent| parent.canonicalize().ok());
            let inside = self.directory.canonicalize().ok();
            let within = match (&real, &inside) {
                (Some(real), Some(inside)) => real.starts_with(inside) || relative.as_os_str().is_empty(),
                _ => false,
            };
            let exists = within && whole.symlink_metadata().is_ok();
            let kept = exists && (relative.as_os_str().is_empty() || !self.ignored.covers(&relative));
            return Ok(kept.then_some(relative).into_iter().collect());
        }
        let parent = relative.parent().map(Path::to_owned).unwrap_or_default();
        let entries = fs::read_dir(self.directory.join(&parent)).map_err(|error| format!("{source}: {error}"))?;
        let mut found: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .filter(|entry| containerfile::word_matches(&name, &entry.to_string_lossy()))
            .map(|entry| parent.join(entry))
            .filter(|path| !self.ignored.covers(path))
            .collect();
        found.sort();
        Ok(found)
    }
}

const EPOCH: &str = "1970-01-01T00:00:00Z";

fn absolute(path: &str, working_dir: &str) -> String {
    let joined = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("{}/{path}", working_dir.trim_end_matches('/')),
    };
    let parts: Vec<&str> = joined.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    format!("/{}", parts.join("/"))
}

/// The OCI config document.
fn rendered(state: &State) -> Value {
    let run = &state.run;
    let mut config = json!({});
    let set = |config: &mut Value, key: &str, value: Value, is_set: bool| {
        if is_set {
            config[key] = value;
        }
    };
    let keys = |list: &[String]| list.iter().map(|item| (item.clone(), json!({}))).collect::<serde_json::Map<_, _>>();
    set(&mut config, "User", json!(run.user), !run.user.is_empty());
    set(&mut config, "ExposedPorts", Value::Object(keys(&run.exposed_ports)), !run.exposed_ports.is_empty());
    set(&mut config, "Env", json!(run.env), !run.env.is_empty());
    set(&mut config, "Entrypoint", json!(run.entrypoint), !run.entrypoint.is_empty());
    set(&mut config, "Cmd", json!(run.cmd), !run.cmd.is_empty());
    set(&mut config, "Volumes", Value::Object(keys(&run.volumes)), !run.volumes.is_empty());
    set(&mut config, "WorkingDir", json!(run.working_dir), !run.working_dir.is_empty());
    set(&mut config, "Labels", json!(run.labels), !run.labels.is_empty());
    set(&mut config, "StopSignal", json!(run.stop_signal), run.stop_signal.is_some());
    json!({
        "architecture": "amd64",
        "os": "linux",
        "created": EPOCH,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": state.layers.iter().map(Digest::to_string).collect::<Vec<_>>()},
        "history": state.history,
    })
}

/// Counts and hashes what passes.
struct Hashing<W> {
    out: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_ignore_patterns_bring_files_back() {
        let ignored = Ignored::parse("# comment\n*.log\n!keep.log\n");
        assert!(ignored.covers(Path::new("a.log")));
        assert!(!ignored.covers(Path::new("keep.log")));
        assert!(!ignored.covers(Path::new("a.txt")));
    }

    #[test]
    fn targets_follow_the_working_directory() {
        for (path, working_dir, expected) in
            [("a", "", "/a"), ("./a/", "/w", "/w/a"), ("/x//y", "/w", "/x/y"), (".", "/w", "/w"), ("/", "", "/")]
        {
            assert_eq!(absolute(path, working_dir), expected);
        }
    }
}
