//! What the files of the manifests directory declare, with the line where each object begins, and what has to go
//! because no file declares it any more.
//!
//! Pure. While a file cannot be understood nothing is deleted at all: what it declares may be what another one,
//! before it was renamed or split, declared.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::decode::yaml::dialect;

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
        let value: Value = serde_saphyr::from_str_with_options(&document, dialect())
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

/// Why a file that declares nothing is not believed, if objects came from it: it has just been opened for writing,
/// or the disk was full. Who means it removes the file.
pub fn emptied(file: &str, before: &BTreeSet<Applied>) -> Option<Problem> {
    before.iter().any(|applied| applied.file == file).then(|| Problem {
        file: file.to_owned(),
        line: 1,
        reason: "it declares nothing any more; what it declared stays until the file is removed"
            .to_owned(),
    })
}

/// What of the objects applied before has to go: no file declares its path. Nothing, while a file cannot be
/// understood or applied (`problems`).
pub fn prune(
    before: &BTreeSet<Applied>,
    declared: &BTreeSet<String>,
    problems: &BTreeSet<Problem>,
) -> BTreeSet<Applied> {
    let goes = |applied: &&Applied| problems.is_empty() && !declared.contains(&applied.path);
    before.iter().filter(goes).cloned().collect()
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
    fn numbers_are_read_as_the_api_reads_them() {
        let read = read("f.yaml", "kind: Pod\nmode: 0400\nflag: yes\n").unwrap();
        assert_eq!(read[0].object, serde_json::json!({"kind": "Pod", "mode": 256, "flag": true}));
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

    fn applied(file: &str, path: &str) -> Applied {
        Applied { file: file.to_owned(), path: path.to_owned(), uid: String::new() }
    }

    #[test]
    fn only_what_came_from_the_directory_and_is_declared_no_more_goes() {
        let before = BTreeSet::from([
            applied("kept.yaml", "/a"),
            applied("moved.yaml", "/b"),
            applied("gone.yaml", "/c"),
            applied("shorter.yaml", "/d"),
        ]);
        let declared = BTreeSet::from(["/a".to_owned(), "/b".to_owned(), "/new".to_owned()]);
        let gone = prune(&before, &declared, &BTreeSet::new());
        assert_eq!(
            gone,
            BTreeSet::from([applied("gone.yaml", "/c"), applied("shorter.yaml", "/d")])
        );
    }

    #[test]
    fn a_file_that_was_renamed_and_cannot_be_read_deletes_nothing() {
        let before = BTreeSet::from([applied("a.yaml", "/a")]);
        let problem = read("b.yaml", "kind: [\n").unwrap_err();
        assert_eq!(prune(&before, &BTreeSet::new(), &BTreeSet::from([problem])), BTreeSet::new());
    }

    #[test]
    fn a_file_that_was_just_opened_for_writing_is_a_problem_and_a_new_one_is_not() {
        let before = BTreeSet::from([applied("a.yaml", "/a")]);
        assert_eq!(read("a.yaml", "").unwrap(), []);
        assert_eq!(emptied("a.yaml", &before).unwrap().line, 1);
        assert_eq!(emptied("new.yaml", &before), None);
    }
}
