//! `joey kubeconfig`: prints the administrator's kubeconfig, or puts it into the user's own.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::install::user;
use super::settings::Settings;

/// What a merge changed in somebody's kubeconfig, so that it can be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Change {
    /// Whose file it is; only they touch it, so that no link of theirs leads root astray.
    pub uid: u32,
    pub path: PathBuf,
    /// The text before; `None`: there was no file.
    pub before: Option<String>,
    /// The text after: while that is what the file holds, undoing restores `before` byte for byte.
    pub after: String,
    /// Directories that were made for it, the outermost first.
    pub made: Vec<PathBuf>,
}

/// Prints `<data-dir>/admin.kubeconfig`, or merges it.
pub fn run(settings: &Settings, merge: bool) -> anyhow::Result<ExitCode> {
    let text = admin(settings)?;
    if !merge {
        io::stdout().lock().write_all(text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let context = context_of(&text);
    // Behind sudo the file is that of the person who called it, and only they touch it; root's HOME tells nothing.
    let change = match user::behind_sudo()? {
        None => change(&text, &own_kubeconfig()?)?,
        Some(caller) => {
            let named = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty());
            user::merge(&caller, text, named.map(|_| own_kubeconfig()).transpose()?)?
        }
    };
    println!("context {context:?} is now current in {}", change.path.display());
    Ok(ExitCode::SUCCESS)
}

/// The administrator's kubeconfig.
pub fn admin(settings: &Settings) -> anyhow::Result<String> {
    let source = settings.data_dir().join("admin.kubeconfig");
    fs::read_to_string(&source).with_context(|| {
        format!("reading {}; `joey serve` writes it at its first start", source.display())
    })
}

fn context_of(text: &str) -> String {
    let ours: Value = serde_saphyr::from_str(text).unwrap_or_default();
    ours["current-context"].as_str().unwrap_or("joey").to_owned()
}

/// Merges `text` into the kubeconfig `target`, and says what that changed.
pub fn change(text: &str, target: &Path) -> anyhow::Result<Change> {
    let ours: Value = serde_saphyr::from_str(text).context("reading admin.kubeconfig")?;
    let before = match fs::read_to_string(target) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("reading {}", target.display())),
    };
    let theirs = match before.as_deref() {
        Some(text) if !text.trim().is_empty() => serde_saphyr::from_str(text)
            .with_context(|| format!("{} is not a kubeconfig", target.display()))?,
        _ => json!({}),
    };
    let mut made: Vec<PathBuf> = target
        .ancestors()
        .skip(1)
        .take_while(|directory| !directory.exists())
        .map(Path::to_owned)
        .collect();
    made.reverse();
    let after = serde_saphyr::to_string(&merged(theirs, &ours)?)?;
    write_private(target, &after)?;
    let uid = nix::unistd::geteuid().as_raw();
    Ok(Change { uid, path: target.to_owned(), before, after, made })
}

/// Undoes a change: byte for byte while the file is as the merge left it, else by taking out what the merge put in.
pub fn undo(change: &Change) -> anyhow::Result<()> {
    let now = match fs::read_to_string(&change.path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("reading {}", change.path.display()));
        }
    };
    match &change.before {
        None if now == change.after => {
            fs::remove_file(&change.path)
                .with_context(|| format!("removing {}", change.path.display()))?;
            for directory in change.made.iter().rev() {
                // kubectl may keep its cache there by now; then it stays.
                let _ = fs::remove_dir(directory);
            }
            Ok(())
        }
        Some(before) if now == change.after => write_private(&change.path, before),
        _ => {
            let theirs = serde_saphyr::from_str(&now)
                .with_context(|| format!("{} is not a kubeconfig", change.path.display()))?;
            let ours: Value = serde_saphyr::from_str(&change.after)?;
            let text = serde_saphyr::to_string(&without(theirs, &ours))?;
            write_private(&change.path, &text)
        }
    }
}

/// Takes out the context that is current in `ours`, with its cluster and user.
fn without(mut theirs: Value, ours: &Value) -> Value {
    let name = &ours["current-context"];
    let contexts = ours["contexts"].as_array();
    let context = contexts.and_then(|all| all.iter().find(|context| &context["name"] == name));
    let context = context.map_or(&Value::Null, |context| &context["context"]);
    let gone = [("contexts", name), ("clusters", &context["cluster"]), ("users", &context["user"])];
    for (list, name) in gone {
        if let Some(items) = theirs[list].as_array_mut() {
            items.retain(|item| &item["name"] != name);
        }
    }
    if &theirs["current-context"] == name {
        theirs["current-context"] = json!("");
    }
    theirs
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
pub fn own_kubeconfig() -> anyhow::Result<PathBuf> {
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

    fn place() -> PathBuf {
        std::env::temp_dir().join(format!("joey-kubeconfig-{}", crate::sys::clock::uuid()))
    }

    const OURS: &str = "clusters: [{name: joey, cluster: {server: s}}]
users: [{name: joey-admin, user: {}}]
contexts: [{name: joey, context: {cluster: joey, user: joey-admin}}]
current-context: joey
";

    #[test]
    fn a_change_is_undone_byte_for_byte() {
        let home = place();
        let file = home.join(".kube/config");
        fs::create_dir(&home).unwrap();
        let made = change(OURS, &file).unwrap();
        assert_eq!((made.before.as_deref(), made.made.len()), (None, 1));
        undo(&made).unwrap();
        assert!(!home.join(".kube").exists());

        let before = "# mine\nclusters:  []\ncurrent-context: 'work'\n";
        fs::create_dir(home.join(".kube")).unwrap();
        fs::write(&file, before).unwrap();
        let made = change(OURS, &file).unwrap();
        assert_ne!(fs::read_to_string(&file).unwrap(), before);
        undo(&made).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), before);
        fs::remove_dir_all(&home).unwrap();
    }

    #[test]
    fn what_the_user_changed_since_stays() {
        let home = place();
        let file = home.join("config");
        let made = change(OURS, &file).unwrap();
        let text = fs::read_to_string(&file).unwrap() + "preferences: {colors: true}\n";
        fs::write(&file, text).unwrap();
        undo(&made).unwrap();
        let left: Value = serde_saphyr::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(left["preferences"], json!({"colors": true}));
        for list in ["clusters", "users", "contexts"] {
            assert_eq!(left[list], json!([]), "{list}");
        }
        assert_eq!(left["current-context"], "");
        fs::remove_dir_all(&home).unwrap();
    }

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
