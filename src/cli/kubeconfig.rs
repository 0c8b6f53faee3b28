//! `joey kubeconfig`: prints the administrator's kubeconfig, or puts it into the user's own.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::settings::Settings;

/// Prints `<data-dir>/admin.kubeconfig`, or merges it.
pub fn run(settings: &Settings, merge: bool) -> anyhow::Result<ExitCode> {
    let source = settings.data_dir().join("admin.kubeconfig");
    let text = fs::read_to_string(&source).with_context(|| {
        format!("reading {}; `joey serve` writes it at its first start", source.display())
    })?;
    if !merge {
        io::stdout().lock().write_all(text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let target = own_kubeconfig()?;
    let ours: Value = serde_saphyr::from_str(&text).context("reading admin.kubeconfig")?;
    let theirs = match fs::read_to_string(&target) {
        Ok(text) if !text.trim().is_empty() => serde_saphyr::from_str(&text)
            .with_context(|| format!("{} is not a kubeconfig", target.display()))?,
        Ok(_) => json!({}),
        Err(error) if error.kind() == io::ErrorKind::NotFound => json!({}),
        Err(error) => return Err(error).with_context(|| format!("reading {}", target.display())),
    };
    let merged = merged(theirs, &ours)?;
    write_private(&target, &serde_saphyr::to_string(&merged)?)?;
    let context = ours["current-context"].as_str().unwrap_or("joey");
    println!("context {context:?} is now current in {}", target.display());
    Ok(ExitCode::SUCCESS)
}

/// Clusters, users and contexts of `ours` replace those of the same name; the rest stays.
fn merged(mut theirs: Value, ours: &Value) -> anyhow::Result<Value> {
    let Some(target) = theirs.as_object_mut() else { bail!("the user's kubeconfig is not a map") };
    target.entry("apiVersion").or_insert(json!("v1"));
    target.entry("kind").or_insert(json!("Config"));
    for list in ["clusters", "users", "contexts"] {
        let entry = target.entry(list).or_insert(json!([]));
        if entry.is_null() {
            *entry = json!([]);
        }
        let Some(items) = entry.as_array_mut() else { bail!("{list} is not a list") };
        for item in ours[list].as_array().into_iter().flatten() {
            match items.iter_mut().find(|other| other["name"] == item["name"]) {
                Some(other) => *other = item.clone(),
                None => items.push(item.clone()),
            }
        }
    }
    target.insert("current-context".to_owned(), ours["current-context"].clone());
    Ok(theirs)
}

/// The first file of KUBECONFIG, else ~/.kube/config.
fn own_kubeconfig() -> anyhow::Result<PathBuf> {
    if let Some(list) = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
        let first = std::env::split_paths(&list).next().context("KUBECONFIG names no file")?;
        return Ok(first);
    }
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    let home = home.context("HOME is not set; set KUBECONFIG to the file to change")?;
    Ok(PathBuf::from(home).join(".kube/config"))
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let directory = path.parent().context("a kubeconfig lies in a directory")?;
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let part = path.with_extension("joey-part");
    // A part left by an interrupted run would keep its old mode.
    let _ = fs::remove_file(&part);
    let mut file = fs::File::options()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&part)
        .with_context(|| format!("writing {}", part.display()))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&part, path).with_context(|| format!("replacing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_replaces_our_entries_and_keeps_the_users() {
        let theirs = json!({
            "clusters": [{"name": "work", "cluster": 1}, {"name": "joey", "cluster": "old"}],
            "users": null,
            "current-context": "work",
            "preferences": {"colors": true},
        });
        let ours = json!({
            "clusters": [{"name": "joey", "cluster": "new"}],
            "users": [{"name": "joey", "user": {}}],
            "contexts": [{"name": "joey", "context": {}}],
            "current-context": "joey",
        });
        let merged = merged(theirs, &ours).unwrap();
        assert_eq!(
            merged["clusters"],
            json!([{"name": "work", "cluster": 1}, {"name": "joey", "cluster": "new"}])
        );
        assert_eq!(merged["users"], json!([{"name": "joey", "user": {}}]));
        assert_eq!(merged["current-context"], "joey");
        assert_eq!(merged["preferences"], json!({"colors": true}));
        assert_eq!(super::merged(merged.clone(), &ours).unwrap(), merged);
    }
}
