//! What the files of the manifests directory declare, with the line where each object begins, and what has to go
//! because no file declares it any more.
//!
//! Pure. A file that cannot be understood declares what it declared before: a typo deletes nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One object of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// Name of the file in the directory.
    pub file: String,
    /// Where the object's document begins, from 1.
    pub line: usize,
    pub object: Value,
}

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub file: String,
    pub line: usize,
    pub reason: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.reason)
    }
}

/// An object that came from the directory; one of the three boundaries' files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Applied {
    pub file: String,
    /// The object's path in the API.
    pub path: String,
    /// Which object of that name it was: one that somebody made anew is theirs.
    pub uid: String,
}

/// Reads one file: YAML documents, JSON, and Lists taken apart.
///
/// # Errors
/// The first thing that cannot be read; then the whole file declares nothing new.
pub fn read(file: &str, text: &str) -> Result<Vec<Declared>, Problem> {
    let mut declared = Vec::new();
    for (line, document) in documents(text) {
        let problem = |line, reason| Problem { file: file.to_owned(), line, reason };
        let value: Value = serde_saphyr::from_str(&document)
            .map_err(|error| problem(line + inner_line(&error).unwrap_or(1) - 1, words(&error)))?;
        if value.is_null() {
            continue;
        }
        let items = match value["kind"].as_str() {
            None => return Err(problem(line, "Object 'Kind' is missing".to_owned())),
            Some(kind) if kind.ends_with("List") => match value["items"].as_array() {
                Some(items) => items.clone(),
                None => vec![value],
            },
            Some(_) => vec![value],
        };
        declared.extend(items.into_iter().map(|object| Declared {
            file: file.to_owned(),
            line,
            object,
        }));
    }
    Ok(declared)
}

/// The documents of a text and the line on which each begins, blank and comment lines in front passed over.
fn documents(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut current: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            found.extend(current.take());
            continue;
        }
        let is_blank = line.trim().is_empty() || line.trim_start().starts_with('#');
        match &mut current {
            Some((_, document)) => {
                document.push_str(line);
                document.push('\n');
            }
            None if is_blank => {}
            None => current = Some((index + 1, format!("{line}\n"))),
        }
    }
    found.extend(current);
    found
}

fn inner_line(error: &serde_saphyr::Error) -> Option<usize> {
    error.location().and_then(|location| usize::try_from(location.line()).ok())
}

/// The library's first line says what is wrong, behind a line number that counts from the document's beginning;
/// below stands a picture of the text.
fn words(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    let place = first.strip_prefix("line ").and_then(|_| first.split_once(": "));
    place.map_or(first, |(_, words)| words).to_owned()
}

/// What of the objects applied before has to go: its file is there no more, or was understood and does not declare
/// it. `kept` names the files that cannot be understood at the moment.
pub fn prune(
    before: &BTreeSet<Applied>,
    declared: &BTreeMap<String, BTreeSet<String>>,
    kept: &BTreeSet<String>,
) -> Vec<Applied> {
    let all: BTreeSet<&String> = declared.values().flatten().collect();
    before
        .iter()
        .filter(|applied| !kept.contains(&applied.file) && !all.contains(&applied.path))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_know_their_line() {
        let text = "# web\n\nkind: Pod\nmetadata: {name: a}\n---\n---\n# b\nkind: PodList\nitems:\n- kind: Pod\n- kind: Pod\n";
        let read = read("web.yaml", text).unwrap();
        let places: Vec<_> =
            read.iter().map(|one| (one.line, one.object["kind"].as_str().unwrap())).collect();
        assert_eq!(places, [(3, "Pod"), (8, "Pod"), (8, "Pod")]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, problem) in [
            ("kind: Pod\n---\n\nname: x\n", "f.yaml:4: Object 'Kind' is missing"),
            ("kind: Pod\n---\nkind: Pod\nmetadata: [\n", "f.yaml:4: unclosed bracket"),
            ("kind: Pod\n---\nkind: Pod\na: 1\na: 2\n", "f.yaml:5: duplicate"),
        ] {
            let told = read("f.yaml", text).unwrap_err().to_string();
            assert!(told.starts_with(problem), "{told}");
        }
    }

    #[test]
    fn only_what_came_from_the_directory_and_is_declared_no_more_goes() {
        let one = |file: &str, path: &str| Applied {
            file: file.to_owned(),
            path: path.to_owned(),
            uid: String::new(),
        };
        let before = BTreeSet::from([
            one("kept.yaml", "/a"),
            one("moved.yaml", "/b"),
            one("gone.yaml", "/c"),
            one("broken.yaml", "/d"),
            one("shorter.yaml", "/e"),
        ]);
        let paths = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
        let declared = BTreeMap::from([
            ("kept.yaml".to_owned(), paths(&["/a"])),
            ("other.yaml".to_owned(), paths(&["/b"])),
            ("shorter.yaml".to_owned(), BTreeSet::new()),
        ]);
        let gone = prune(&before, &declared, &BTreeSet::from(["broken.yaml".to_owned()]));
        assert_eq!(gone, [one("gone.yaml", "/c"), one("shorter.yaml", "/e")]);
    }
}
