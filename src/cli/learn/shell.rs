//! The shell the story types into: a scratch directory, a kubeconfig of its own, kubectl and joey in the path.
//!
//! It judges no output, and leaves nothing behind.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::super::settings::Settings;
use super::story;

/// A place to type commands.
pub struct Shell {
    directory: PathBuf,
    path: OsString,
    settings: Vec<(String, OsString)>,
}

/// What a command printed, both streams in the order of their coming.
#[derive(Debug)]
pub struct Shown {
    pub text: String,
    pub succeeded: bool,
}

impl Shell {
    /// Makes the scratch directory and finds the tools.
    pub fn prepare(settings: &Settings, kubectl: Option<&Path>) -> anyhow::Result<Shell> {
        let kubectl = match kubectl {
            Some(path) => path.canonicalize().with_context(|| format!("{}", path.display()))?,
            None => in_path("kubectl").context(
                "the story is told with kubectl, which is not in PATH; install it or name it with --kubectl",
            )?,
        };
        let directory = nix::unistd::mkdtemp(&std::env::temp_dir().join("joey-learn-XXXXXX"))
            .context("making a scratch directory")?;
        let tools = directory.join(".bin");
        fs::create_dir(&tools)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
        symlink(&kubectl, tools.join("kubectl"))?;
        symlink(std::env::current_exe()?, tools.join("joey"))?;
        let mut path = tools.into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let own = |name: &str, value: &Path| (name.to_owned(), value.as_os_str().to_owned());
        let settings_in_force = vec![
            own("JOEY_DATA_DIR", &settings.data_dir()),
            own("JOEY_RUN_DIR", &settings.run_dir()),
            own("KUBECONFIG", &directory.join(".kubeconfig")),
            // kubectl keeps what it learnt of a cluster below it.
            own("HOME", &directory),
        ];
        write_kubeconfig(settings, &directory.join(".kubeconfig"))?;
        Ok(Shell { directory, path, settings: settings_in_force })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Runs one line.
    pub fn run(&self, line: &str) -> anyhow::Result<Shown> {
        let output = Command::new("sh")
            .args(["-c", &format!("exec 2>&1\n{line}")])
            .current_dir(&self.directory)
            .env("PATH", &self.path)
            .envs(self.settings.iter().cloned())
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("starting `{line}`"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(Shown { text, succeeded: output.status.success() })
    }

    /// Runs a line that must succeed and is not shown.
    pub fn quietly(&self, line: &str) -> anyhow::Result<()> {
        let shown = self.run(line)?;
        if !shown.succeeded {
            bail!("`{line}` failed: {}", shown.text.trim_end());
        }
        Ok(())
    }

    /// Refuses to begin without the story's images and with an unfinished story in the way.
    pub fn require(&self, images: &[String]) -> anyhow::Result<()> {
        let present = self.run("joey image list")?.text;
        let has = |image: &str| {
            let (name, tag) = image.split_once(':').unwrap_or((image, "latest"));
            present.lines().any(|line| line.contains(name) && line.contains(tag))
        };
        let missing: Vec<&str> =
            images.iter().map(String::as_str).filter(|image| !has(image)).collect();
        if !missing.is_empty() {
            bail!(
                "the story needs the images {}; `make images` builds them, `joey image import FILE` takes them in",
                missing.join(", ")
            );
        }
        let left = self.run("kubectl get namespaces -o name")?;
        if !left.succeeded {
            bail!("the cluster does not answer: {}", left.text.trim_end());
        }
        if let Some(name) = story::NAMESPACES
            .iter()
            .find(|name| left.text.lines().any(|line| line == format!("namespace/{name}")))
        {
            bail!("namespace {name} exists already; {} removes what a story left", story::CLEAN_UP);
        }
        Ok(())
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // Nothing to be done about a scratch directory that will not go.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The administrator's kubeconfig with the story's namespace as the default one.
fn write_kubeconfig(settings: &Settings, target: &Path) -> anyhow::Result<()> {
    let source = settings.data_dir().join("admin.kubeconfig");
    let text = fs::read_to_string(&source).with_context(|| {
        format!("reading {}; `joey serve` writes it at its first start", source.display())
    })?;
    let mut config: Value = serde_saphyr::from_str(&text).context("reading admin.kubeconfig")?;
    for context in config["contexts"].as_array_mut().into_iter().flatten() {
        context["context"]["namespace"] = json!(story::NAMESPACES[0]);
    }
    let mut file = fs::File::options().create_new(true).write(true).mode(0o600).open(target)?;
    std::io::Write::write_all(&mut file, serde_saphyr::to_string(&config)?.as_bytes())?;
    Ok(())
}
