//! `joey install`: from this binary to a service of the host.
//!
//! `layout` says what there should be, `plan` what has to change, this file changes it and remembers what it made
//! before it makes it, so that `joey uninstall` finds all of it, also after a half-done installation.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use clap_complete::Shell;

use self::layout::{DIRECTORIES, Item, Layout, Parts};
use self::plan::{Facts, Found, Plan, Record, Step};
use super::args;
use super::settings::Settings;

pub mod layout;
pub mod plan;
pub mod user;

/// What was made on this host. Not in the data directory: `joey reset` empties that.
pub const RECORD: &str = "/etc/joey/installed.json";
pub const SERVICE: &str = "joey.service";

/// Plans, prints the plan, and carries it out.
pub fn run(settings: &Settings, dry_run: bool, start: bool) -> anyhow::Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        bail!("installing needs root: sudo joey install");
    }
    let items = layout::items(&Layout::local(), parts()?);
    let facts = observe(&items, start)?;
    let Plan { steps, record } = plan::plan(&facts, items)?;
    if !facts.systemd {
        println!(
            "systemd does not manage this host: no unit is started; run `joey serve` as your init system runs things"
        );
    }
    if dry_run {
        steps.iter().for_each(|step| println!("would {step}"));
        println!(
            "would put the administrator's kubeconfig into that of {}",
            user::invoking()?.name
        );
        return Ok(ExitCode::SUCCESS);
    }
    let mut is_recorded = false;
    for step in &steps {
        // The record's own directory comes first; nothing else is made before the record tells of it.
        if !is_recorded && !is_way_to_record(step) {
            remember(&record)?;
            is_recorded = true;
        }
        perform(step)?;
        println!("{step}");
    }
    if !is_recorded {
        remember(&record)?;
    }
    if facts.systemd && start {
        introduce(settings, record)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Lays the files of a package out below `root`.
pub fn lay_out(root: &Path) -> anyhow::Result<ExitCode> {
    let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    for (path, mode) in DIRECTORIES {
        make_directory(&below(Path::new(path)), mode)?;
    }
    for mut item in layout::items(&Layout::packaged(), parts()?) {
        item.path = below(&item.path);
        if let Some(parent) = item.path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        }
        write(&item)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn parts() -> anyhow::Result<Parts> {
    let binary = fs::read("/proc/self/exe").context("reading this program")?;
    let completions = [Shell::Bash, Shell::Zsh, Shell::Fish].map(args::completions);
    Ok(Parts { binary, completions, pages: args::man_pages()? })
}

fn observe(items: &[Item], start: bool) -> anyhow::Result<Facts> {
    let mut found = BTreeMap::new();
    let own = DIRECTORIES.iter().map(|(path, _)| Path::new(*path));
    for path in items.iter().map(|item| item.path.as_path()).chain(own) {
        for ancestor in path.ancestors() {
            if !found.contains_key(ancestor) {
                let seen =
                    look(ancestor).with_context(|| format!("looking at {}", ancestor.display()))?;
                found.insert(ancestor.to_owned(), seen);
            }
        }
    }
    Ok(Facts {
        found,
        record: recorded()?.unwrap_or_default(),
        systemd: has_systemd(),
        running: has_systemd() && is_running(),
        start,
    })
}

fn look(path: &Path) -> io::Result<Found> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Absent),
        other => other?,
    };
    Ok(match (metadata.is_dir(), metadata.is_file()) {
        (true, _) => Found::Directory,
        (_, true) => {
            Found::File { content: fs::read(path)?, mode: metadata.permissions().mode() & 0o7777 }
        }
        // /usr/local/man and the like: a link to a directory is as good.
        _ if fs::metadata(path).is_ok_and(|target| target.is_dir()) => Found::Directory,
        _ => Found::Other,
    })
}

/// The record of installations before, when there were any.
pub fn recorded() -> anyhow::Result<Option<Record>> {
    match fs::read_to_string(RECORD) {
        Ok(text) => {
            let record =
                serde_json::from_str(&text).with_context(|| format!("reading {RECORD}"))?;
            Ok(Some(record))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {RECORD}")),
    }
}

fn remember(record: &Record) -> anyhow::Result<()> {
    let content = serde_json::to_vec_pretty(record)?;
    write(&Item { path: PathBuf::from(RECORD), mode: 0o600, content })
}

fn is_way_to_record(step: &Step) -> bool {
    matches!(step, Step::MakeDirectory { path, .. } if Path::new(RECORD).starts_with(path))
}

fn perform(step: &Step) -> anyhow::Result<()> {
    match step {
        Step::MakeDirectory { path, mode } => make_directory(path, *mode),
        Step::Write(item) => write(item),
        Step::ReloadUnits => systemctl(&["daemon-reload"]),
        Step::Enable { now: true } => systemctl(&["enable", "--now", SERVICE]),
        Step::Enable { now: false } => systemctl(&["enable", SERVICE]),
        Step::Restart => systemctl(&["restart", SERVICE]),
    }
}

fn make_directory(path: &Path, mode: u32) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        // Whatever the caller's umask takes away.
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("making {}", path.display()))
}

/// By rename, so that nobody ever runs half a binary and a running one is not written into.
fn write(item: &Item) -> anyhow::Result<()> {
    let writing = || format!("writing {}", item.path.display());
    let name = item.path.file_name().with_context(writing)?.to_string_lossy().into_owned();
    let part = item.path.with_file_name(format!(".{name}.joey-part"));
    let _ = fs::remove_file(&part);
    let mut file = File::options()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&part)
        .with_context(writing)?;
    file.write_all(&item.content)
        .and_then(|()| file.set_permissions(fs::Permissions::from_mode(item.mode)))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&part, &item.path))
        .with_context(writing)
}

/// Puts the administrator's kubeconfig into the invoking user's, and remembers that.
fn introduce(settings: &Settings, mut record: Record) -> anyhow::Result<()> {
    let user = user::invoking()?;
    let change = user::merge(&user, super::kubeconfig::admin(settings)?, None)
        .with_context(|| format!("the kubeconfig of {}", user.name))?;
    println!("the kubeconfig {} of {} knows this host", change.path.display(), user.name);
    record.kubeconfig = Some(match record.kubeconfig {
        // What was there before the first installation is what has to come back.
        Some(first) if first.path == change.path => {
            super::kubeconfig::Change { before: first.before, made: first.made, ..change }
        }
        _ => change,
    });
    remember(&record)
}

/// sd_booted(3)
pub fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn is_running() -> bool {
    let asked = Command::new("systemctl").args(["is-active", "--quiet", SERVICE]).status();
    asked.is_ok_and(|status| status.success())
}

/// A unit that has failed is remembered, file or not; one that has not is not known any more, which is as good.
pub fn forget_failure() {
    let _ =
        Command::new("systemctl").args(["reset-failed", SERVICE]).stderr(Stdio::null()).status();
}

/// Runs systemctl; its own words go to the terminal.
pub fn systemctl(arguments: &[&str]) -> anyhow::Result<()> {
    let typed = || format!("systemctl {}", arguments.join(" "));
    let status = Command::new("systemctl").args(arguments).status().with_context(typed)?;
    match status.success() {
        true => Ok(()),
        false => bail!("{} has failed; `journalctl -u joey` says more", typed()),
    }
}
