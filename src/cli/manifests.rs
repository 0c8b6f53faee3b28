//! Keeps what the files of the manifests directory declare: applied when the daemon starts and whenever a file
//! changes; what no file declares any more is deleted.
//!
//! It applies as `joey apply` does and touches nothing else: an object that people made is theirs, also when it has
//! the name of one that a file declared once.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::unistd;
use serde_json::{Value, json};
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::declared::{Applied, Declared, Problem};
use super::apply;
use super::resources::Resources;
use crate::sys::readiness;

pub mod declared;

/// What `joey doctor` reads in the run directory.
pub const PROBLEMS: &str = "manifest-problems";
const MANAGER: &str = "fieldManager=joey-manifests&fieldValidation=Strict";
const MAX_FILE: u64 = 4 << 20;
/// An editor or `cp` of several files makes a burst of events: one pass for all of them, once it is quiet for so long.
const SETTLE: Duration = Duration::from_millis(200);
/// A directory that is never quiet is read all the same.
const SETTLE_AT_MOST: Duration = Duration::from_secs(10);
/// What failed is tried again: its namespace may be another file's, its webhook may come up.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// The keeper of one directory.
pub struct Manifests {
    pub client: kube::Client,
    pub directory: PathBuf,
    /// Holds the list of what came from the directory.
    pub data_dir: PathBuf,
    pub run_dir: PathBuf,
}

impl Manifests {
    /// Applies, then waits for changes, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(self) {
        let mut retry = FIRST_RETRY;
        let mut told = BTreeSet::new();
        let mut doomed = BTreeSet::new();
        loop {
            // Before the files are read, so that no change between reading and watching is lost.
            let watch = self.watch();
            let problems = match self.pass(&mut doomed).await {
                Ok(problems) => problems,
                Err(error) => BTreeSet::from([format!("{}: {error:#}", self.directory.display())]),
            };
            for problem in problems.difference(&told) {
                tracing::error!("{problem}");
            }
            let text: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
            if let Err(error) = fs::write(self.run_dir.join(PROBLEMS), text) {
                tracing::warn!(%error, "joey doctor cannot be told of the manifests");
            }
            let pause = match (problems.is_empty(), doomed.is_empty()) {
                (true, true) => {
                    retry = FIRST_RETRY;
                    None
                }
                (true, false) => Some(FIRST_RETRY),
                (false, _) => {
                    retry = (retry * 2).min(LAST_RETRY);
                    Some(retry)
                }
            };
            told = problems;
            if wait(watch, pause).await {
                retry = FIRST_RETRY;
            }
        }
    }

    /// Watches the directory, or the nearest one above it that is there.
    fn watch(&self) -> io::Result<AsyncFd<OwnedFd>> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let mut events = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        let place = self.directory.ancestors().find(|path| path.is_dir());
        if place == Some(self.directory.as_path()) {
            // A file that is being written keeps the pass waiting. Above, others may write their logs all the time.
            events |= AddWatchFlags::IN_MODIFY;
        }
        inotify.add_watch(place.unwrap_or(Path::new("/")), events)?;
        readiness::watch(OwnedFd::from(inotify))
    }

    /// Applies everything once; returns what is wrong. What no file declares goes if the pass before has not found it
    /// either: files are copied one after the other, and written piece by piece. `doomed` are those that wait.
    async fn pass(&self, doomed: &mut BTreeSet<Applied>) -> anyhow::Result<BTreeSet<String>> {
        let missed = std::mem::take(doomed);
        let before = self.remembered()?;
        let Some(files) = files(&self.directory)? else {
            // Perhaps not mounted yet. That is no reason to delete what it declares.
            return Ok(match before.is_empty() {
                true => BTreeSet::new(),
                false => BTreeSet::from([format!(
                    "{} is not there; what it declared stays as it is",
                    self.directory.display()
                )]),
            });
        };
        let mut problems = BTreeSet::new();
        let mut objects: Vec<Declared> = Vec::new();
        for (name, text) in files {
            let read = text.map_err(|error| Problem {
                file: name.clone(),
                line: 1,
                reason: format!("cannot be read: {error}"),
            });
            match read.and_then(|text| declared::read(&name, &text)) {
                Ok(found) if found.is_empty() => problems.extend(declared::emptied(&name, &before)),
                Ok(found) => objects.extend(found),
                Err(problem) => {
                    problems.insert(problem);
                }
            }
        }
        let resources = Resources::discover(&self.client).await?;
        let mut applied = before.clone();
        let mut paths = BTreeSet::new();
        for one in objects {
            let name = one.object["metadata"]["name"].as_str().unwrap_or_default();
            let title = format!("{} {name}", one.object["kind"].as_str().unwrap_or_default());
            let outcome = self.declare(&resources, &one).await;
            match outcome {
                Ok(outcome) => {
                    if outcome.word != "unchanged" {
                        tracing::info!(
                            file = one.file,
                            line = one.line,
                            "{title} {}",
                            outcome.word
                        );
                    }
                    paths.insert(outcome.path.clone());
                    applied.retain(|old| old.path != outcome.path);
                    applied.insert(Applied {
                        file: one.file,
                        path: outcome.path,
                        uid: outcome.uid,
                    });
                }
                Err(error) => {
                    problems.insert(Problem {
                        file: one.file,
                        line: one.line,
                        reason: format!("{title}: {error:#}"),
                    });
                }
            }
        }
        // Remembered before anything is deleted: what is forgotten too early would stay for ever.
        self.remember(&applied)?;
        let (gone, waits) = declared::prune(&before, &paths, &problems)
            .into_iter()
            .partition::<BTreeSet<_>, _>(|gone| missed.contains(gone));
        *doomed = waits;
        for gone in gone {
            self.delete(&gone).await.with_context(|| format!("deleting {}", gone.path))?;
            tracing::info!(file = gone.file, "{} deleted: no manifest declares it", gone.path);
            applied.remove(&gone);
        }
        self.remember(&applied)?;
        Ok(problems.iter().map(Problem::to_string).collect())
    }

    async fn declare(
        &self,
        resources: &Resources,
        one: &Declared,
    ) -> anyhow::Result<apply::Outcome> {
        let place = apply::place(resources, &one.object, "default")?;
        apply::declare(&self.client, place, &one.object, MANAGER).await
    }

    /// Deletes that very object; one that is gone or was made anew by somebody is left alone.
    async fn delete(&self, gone: &Applied) -> anyhow::Result<()> {
        let options =
            json!({"propagationPolicy": "Background", "preconditions": {"uid": gone.uid}});
        let request = http::Request::delete(&gone.path)
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&options)?)?;
        match self.client.request::<Value>(request).await {
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    fn list(&self) -> PathBuf {
        self.data_dir.join("manifests.json")
    }

    fn remembered(&self) -> anyhow::Result<BTreeSet<Applied>> {
        let path = self.list();
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("reading {}", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    fn remember(&self, applied: &BTreeSet<Applied>) -> anyhow::Result<()> {
        let path = self.list();
        let bytes = serde_json::to_vec_pretty(applied)?;
        if fs::read(&path).is_ok_and(|old| old == bytes) || (applied.is_empty() && !path.exists()) {
            return Ok(());
        }
        let part = path.with_extension("part");
        let written = fs::write(&part, bytes)
            .and_then(|()| File::open(&part)?.sync_all())
            .and_then(|()| fs::rename(&part, &path))
            .and_then(|()| File::open(&self.data_dir)?.sync_all());
        written.with_context(|| format!("writing {}", path.display()))
    }
}

/// Waits for a change or for the pause to end; whether it was a change.
async fn wait(watch: io::Result<AsyncFd<OwnedFd>>, pause: Option<Duration>) -> bool {
    let change = async {
        let Ok(watch) = &watch else { std::future::pending().await };
        if drain(watch).await.is_err() {
            std::future::pending::<()>().await;
        }
        watch
    };
    let pause = async {
        match pause.or(watch.is_err().then_some(LAST_RETRY)) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        watch = change => {
            let quiet = async { while let Ok(Ok(())) = timeout(SETTLE, drain(watch)).await {} };
            // What is still being written then is looked at again when its next event comes.
            let _ = timeout(SETTLE_AT_MOST, quiet).await;
            true
        }
        () = pause => false,
    }
}

/// Waits for events and takes them all.
async fn drain(watch: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let mut ready = watch.readable().await?;
    while let Ok(read) = ready.try_io(|watch| Ok(unistd::read(watch, &mut buffer)?)) {
        read?;
    }
    Ok(())
}

/// The manifests of a directory by name; `None`: there is no such directory. Files that an editor or package manager
/// has put aside (hidden, `~`, `.dpkg-old`) have other endings and are not read.
fn files(directory: &Path) -> anyhow::Result<Option<Vec<(String, io::Result<String>)>>> {
    let reading = || format!("reading {}", directory.display());
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.with_context(reading)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let Ok(name) = entry.with_context(reading)?.file_name().into_string() else { continue };
        let ending = Path::new(&name).extension().and_then(|ending| ending.to_str());
        if !name.starts_with('.') && matches!(ending, Some("yaml" | "yml" | "json")) {
            names.push(name);
        }
    }
    names.sort();
    Ok(Some(names.into_iter().map(|name| (name.clone(), text(&directory.join(name)))).collect()))
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    match text.len() as u64 > MAX_FILE {
        true => Err(io::Error::other("it is larger than 4 MiB")),
        false => Ok(text),
    }
}
