//! Where in a document something was found, in Kubernetes' notation: `spec.containers[0].image`.
//!
//! Paths live on the stack of the walk and become text only when there is something to tell, and only
//! up to a bound: a hostile body must not multiply itself into its own error message.

use std::fmt::Write;

/// The way from the root to a value; the root itself is `None` of its first step.
#[derive(Debug, Clone, Copy)]
pub struct Path<'a> {
    pub parent: Option<&'a Path<'a>>,
    pub step: Step<'a>,
}

/// One step of a [`Path`].
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    Root,
    Member(&'a str),
    Index(usize),
}

/// Longest text of one path, in bytes.
const MAX_PATH: usize = 1024;
/// How many findings are kept.
const MAX_FINDINGS: usize = 100;

impl<'a> Path<'a> {
    pub const ROOT: Path<'static> = Path { parent: None, step: Step::Root };

    pub fn member(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Member(name) }
    }

    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// `spec.containers[0].image`; cut at a kibibyte.
    pub fn text(&self) -> String {
        self.render(true)
    }

    /// The same without indices, as Go's decoder names fields: `spec.containers.image`.
    pub fn fields_text(&self) -> String {
        self.render(false)
    }

    fn render(&self, with_indices: bool) -> String {
        let mut steps = Vec::new();
        let mut next = Some(self);
        while let Some(path) = next {
            steps.push(path.step);
            next = path.parent;
        }
        let mut text = String::new();
        for step in steps.into_iter().rev() {
            match step {
                Step::Root => {}
                Step::Member(name) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.extend(name.chars().take(MAX_PATH));
                }
                Step::Index(index) if with_indices => {
                    write!(text, "[{index}]").expect("writing to a String cannot fail");
                }
                Step::Index(_) => {}
            }
            if text.len() > MAX_PATH {
                text.truncate(text.floor_char_boundary(MAX_PATH));
                text.push('…');
                break;
            }
        }
        text
    }
}

/// Paths worth telling, each once, at most a hundred.
#[derive(Debug, Default)]
pub struct Findings(Vec<String>);

impl Findings {
    pub fn push(&mut self, path: &Path<'_>) {
        if self.0.len() < MAX_FINDINGS {
            let text = path.text();
            if !self.0.contains(&text) {
                self.0.push(text);
            }
        }
    }

    pub fn into_paths(self) -> Vec<String> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_kubernetes_writes_them() {
        let (root, spec) = (Path::ROOT, Path::ROOT);
        let spec = spec.member("spec");
        let (list, member) = (spec.member("containers"), "imagee");
        let first = list.index(0);
        assert_eq!(first.member(member).text(), "spec.containers[0].imagee");
        assert_eq!(first.member(member).fields_text(), "spec.containers.imagee");
        assert_eq!(root.text(), "");
    }

    #[test]
    fn long_paths_and_many_findings_are_cut() {
        let long = "é".repeat(10_000);
        let root = Path::ROOT;
        assert!(root.member(&long).text().len() < 1100);
        let mut findings = Findings::default();
        for index in 0..10_000 {
            findings.push(&root.index(index));
        }
        assert_eq!(findings.into_paths().len(), 100);
    }
}
