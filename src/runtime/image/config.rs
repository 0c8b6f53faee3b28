//! Image configs: what an image says about how to run it, within limits.
//!
//! Pure. Everything in a config is the image author's text: it is checked for size and form here and
//! never decides anything about the host.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::manifest::{self, CONFIG_MAX_BYTES, LAYERS_MAX, ManifestError};
use super::reference::Digest;
use super::{ImageConfig, strict_json};

/// Linux's MAX_ARG_STRLEN: one string of argv or environ, its NUL included.
const STRING_MAX: usize = 128 << 10;
/// argv and environ together: half of the 2 MiB that an 8 MiB stack leaves, so that the pod's own
/// variables still fit.
const ARGUMENTS_MAX: usize = 1 << 20;
const ENV_MAX: usize = 10_000;
const VOLUMES_MAX: usize = 128;
const PORTS_MAX: usize = 65_536;
const LABELS_MAX_BYTES: usize = 1 << 20;

/// A config that passed every check.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub created: Option<String>,
    /// diffIDs, lowest layer first.
    pub diff_ids: Vec<Digest>,
    pub run: ImageConfig,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    created: Option<String>,
    rootfs: RawRootfs,
    #[serde(default)]
    config: Option<RawRun>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawRun {
    user: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    volumes: Option<BTreeMap<String, serde_json::Value>>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    stop_signal: Option<String>,
}

/// Parses and checks a config.
pub fn parse(text: &[u8]) -> Result<Config, ManifestError> {
    if text.len() as u64 > CONFIG_MAX_BYTES {
        return Err(ManifestError::TooLarge {
            what: "config",
            size: text.len() as u64,
            limit: CONFIG_MAX_BYTES,
        });
    }
    let raw: Raw = strict_json::parse_into(text)
        .map_err(|e| ManifestError::Json { what: "config", reason: e.to_string() })?;
    let os = raw.os.unwrap_or_default();
    let architecture = raw.architecture.unwrap_or_default();
    if !matches!(os.as_str(), "" | "linux") || !matches!(architecture.as_str(), "" | "amd64") {
        let text: String = format!("{os}/{architecture}").chars().take(64).collect();
        return Err(ManifestError::OtherPlatform(text));
    }
    if raw.rootfs.kind != "layers" {
        return Err(refused("rootfs.type", "must be \"layers\""));
    }
    let diff_ids = raw.rootfs.diff_ids.unwrap_or_default();
    if diff_ids.len() > LAYERS_MAX {
        return Err(ManifestError::Layers(diff_ids.len()));
    }
    let diff_ids = diff_ids.iter().map(|text| manifest::digest(text)).collect::<Result<_, _>>()?;
    Ok(Config {
        // A time nobody can parse is no time; it is shown, never used.
        created: raw.created.filter(|text| text.parse::<crate::model::time::Timestamp>().is_ok()),
        diff_ids,
        run: check(raw.config.unwrap_or_default())?,
    })
}

fn check(raw: RawRun) -> Result<ImageConfig, ManifestError> {
    let run = ImageConfig {
        entrypoint: raw.entrypoint.unwrap_or_default(),
        cmd: raw.cmd.unwrap_or_default(),
        env: raw.env.unwrap_or_default(),
        user: raw.user.unwrap_or_default(),
        working_dir: raw.working_dir.unwrap_or_default(),
        exposed_ports: raw.exposed_ports.unwrap_or_default().into_keys().collect(),
        labels: raw.labels.unwrap_or_default(),
        volumes: raw.volumes.unwrap_or_default().into_keys().collect(),
        stop_signal: raw.stop_signal.filter(|signal| !signal.is_empty()),
    };
    let mut total = 0;
    for (what, strings) in [("Entrypoint", &run.entrypoint), ("Cmd", &run.cmd), ("Env", &run.env)] {
        for string in strings {
            text(what, string)?;
            total += string.len() + 1 + size_of::<usize>();
        }
    }
    if total > ARGUMENTS_MAX {
        return Err(refused(
            "arguments",
            &format!("Entrypoint, Cmd and Env take {total} bytes, more than {ARGUMENTS_MAX}"),
        ));
    }
    if run.env.len() > ENV_MAX {
        return Err(refused("Env", &format!("more than {ENV_MAX} variables")));
    }
    if let Some(bad) = run.env.iter().find(|v| v.is_empty() || v.starts_with('=')) {
        return Err(refused("Env", &format!("{bad:?} has no name")));
    }
    for (what, string) in [
        ("User", run.user.as_str()),
        ("WorkingDir", &run.working_dir),
        ("StopSignal", run.stop_signal.as_deref().unwrap_or("")),
    ] {
        text(what, string)?;
        if string.len() > 4096 {
            return Err(refused(what, "longer than 4096 bytes"));
        }
    }
    if run.volumes.len() > VOLUMES_MAX {
        return Err(refused("Volumes", &format!("more than {VOLUMES_MAX}")));
    }
    for volume in &run.volumes {
        text("Volumes", volume)?;
        if !volume.starts_with('/') || volume.split('/').any(|part| part == "..") {
            return Err(refused(
                "Volumes",
                &format!("{volume:?} is not an absolute path without '..'"),
            ));
        }
    }
    if run.exposed_ports.len() > PORTS_MAX {
        return Err(refused("ExposedPorts", &format!("more than {PORTS_MAX}")));
    }
    let label_bytes: usize = run.labels.iter().map(|(k, v)| k.len() + v.len()).sum();
    if label_bytes > LABELS_MAX_BYTES {
        return Err(refused(
            "Labels",
            &format!("{label_bytes} bytes, more than {LABELS_MAX_BYTES}"),
        ));
    }
    Ok(run)
}

fn text(what: &'static str, string: &str) -> Result<(), ManifestError> {
    if string.contains('\0') {
        return Err(refused(what, "contains a NUL byte"));
    }
    if string.len() >= STRING_MAX {
        return Err(refused(
            what,
            &format!("a string of {} bytes exceeds {STRING_MAX}", string.len()),
        ));
    }
    Ok(())
}

fn refused(what: &'static str, reason: &str) -> ManifestError {
    ManifestError::Config { what, reason: reason.chars().take(512).collect() }
}
