//! crun, runc and podman, each told to run the same payload from the same files.
//!
//! A peer that is missing or does not run on this machine says why instead of a number.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::measure;

/// Nanoseconds to the payload's first instruction, and to the end of the command.
pub struct Sample {
    pub first: u64,
    pub whole: u64,
}

pub struct Peer {
    program: String,
    arguments: Vec<String>,
    directory: PathBuf,
    pub version: String,
}

impl Peer {
    /// An OCI runtime with its own default configuration: a network namespace of its own, but nothing in it.
    pub fn bundle(
        program: &str,
        arguments: &[&str],
        rootfs: &Path,
        place: &Path,
    ) -> Result<Peer, String> {
        let version = version(program)?;
        let directory = place.join(program);
        fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
        checked(Command::new(program).arg("spec").current_dir(&directory))?;
        let file = directory.join("config.json");
        let text = fs::read(&file).map_err(|error| error.to_string())?;
        let mut config: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        config["root"]["path"] = rootfs.display().to_string().into();
        config["process"]["args"] = serde_json::json!(["/stamp", "exit"]);
        config["process"]["terminal"] = false.into();
        for (object, key) in [("process", "rlimits"), ("linux", "resources")] {
            config[object].as_object_mut().map(|object| object.remove(key));
        }
        fs::write(&file, config.to_string()).map_err(|error| error.to_string())?;
        let root = directory.join("state").display().to_string();
        let mut all = vec!["--root".to_owned(), root];
        all.extend(arguments.iter().map(|a| (*a).to_owned()));
        all.push("bench".to_owned());
        let peer = Peer { program: program.to_owned(), arguments: all, directory, version };
        peer.once().map(|_| peer)
    }

    /// podman with a store of its own, with the image that `archive` holds.
    pub fn podman(arguments: &[&str], archive: &Path, place: &Path) -> Result<Peer, String> {
        let version = version("podman")?;
        let directory = place.join("podman");
        fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
        // Its defaults need CAP_SYS_RESOURCE for rlimits, and a pause program that Debian packs elsewhere.
        let limits = ["nofile=256:256", "nproc=256:256"];
        let conf = format!(
            "[containers]\ndefault_ulimits = {limits:?}\n[engine]\ninfra_image = \"docker.io/library/bench:1\"\n"
        );
        fs::write(directory.join("containers.conf"), conf).map_err(|error| error.to_string())?;
        let mut all: Vec<String> = podman_globals(place);
        checked(podman(&all, place).arg("load").arg("-i").arg(archive))?;
        all.extend(arguments.iter().map(|a| (*a).to_owned()));
        all.extend(["docker.io/library/bench:1".to_owned(), "exit".to_owned()]);
        let peer = Peer { program: "podman".to_owned(), arguments: all, directory, version };
        peer.once().map(|_| peer)
    }

    pub fn once(&self) -> Result<Sample, String> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(&self.directory);
        command.env("CONTAINERS_CONF", self.directory.join("containers.conf"));
        let start = measure::now();
        let output = checked(&mut command)?;
        let whole = measure::since(start);
        let first: u64 = output
            .lines()
            .last()
            .and_then(|line| line.trim().parse().ok())
            .ok_or_else(|| format!("the payload printed {output:?}"))?;
        Ok(Sample { first: first.saturating_sub(start), whole })
    }
}

/// `podman kube play` of a manifest, until the command says that the pod runs, and `kube down` after it.
pub struct KubePlay {
    globals: Vec<String>,
    manifest: PathBuf,
    place: PathBuf,
}

impl KubePlay {
    pub fn prepare(manifest: &Path, place: &Path) -> Result<KubePlay, String> {
        let play = KubePlay {
            globals: podman_globals(place),
            manifest: manifest.to_owned(),
            place: place.to_owned(),
        };
        play.once().map(|_| play)
    }

    pub fn once(&self) -> Result<(u64, u64), String> {
        let start = measure::now();
        let up = checked(
            podman(&self.globals, &self.place)
                .args(["kube", "play", "--network", "none"])
                .arg(&self.manifest),
        );
        let up = up.map(|_| measure::since(start));
        let start = measure::now();
        let down =
            checked(podman(&self.globals, &self.place).args(["kube", "down"]).arg(&self.manifest));
        Ok((up?, down.map(|_| measure::since(start))?))
    }
}

fn podman(globals: &[String], place: &Path) -> Command {
    let mut command = Command::new("podman");
    command.args(globals).env("CONTAINERS_CONF", place.join("podman/containers.conf"));
    command
}

fn podman_globals(place: &Path) -> Vec<String> {
    let root = place.join("podman");
    [
        ("--root", root.join("root").display().to_string()),
        ("--runroot", root.join("run").display().to_string()),
        ("--tmpdir", root.join("tmp").display().to_string()),
        ("--storage-driver", "overlay".to_owned()),
        ("--cgroup-manager", "cgroupfs".to_owned()),
        ("--events-backend", "none".to_owned()),
        ("--runtime", "crun".to_owned()),
    ]
    .into_iter()
    .flat_map(|(flag, value)| [flag.to_owned(), value])
    .collect()
}

fn version(program: &str) -> Result<String, String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|_| "not installed".to_owned())?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().replace("version ", ""))
}

fn checked(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    // podman ends with what failed because of it; the runtime's own words stand before.
    let telling = said.lines().rfind(|line| line.contains("OCI"));
    let reason = telling.or(said.lines().rfind(|line| !line.trim().is_empty()));
    let reason =
        reason.map_or("no reason", |line| line.rsplit_once(": crun: ").map_or(line, |l| l.1));
    Err(format!("does not run here: {}", reason.trim()))
}
