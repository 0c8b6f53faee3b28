//! The story itself: chapters of problems, manifests, commands and what they must show.
//!
//! The words stand in `story.yaml`; this file gives them their types.

use anyhow::Context;
use serde::Deserialize;

const TEXT: &str = include_str!("story.yaml");

/// Where the story takes place; the first is the one its commands mean when they name none.
pub const NAMESPACES: [&str; 4] =
    ["kangaroo-team", "emu-team", "membership-team", "monitoring-system"];

/// Removes what the story made, wherever it ended.
pub const CLEAN_UP: &str = "kubectl delete namespace kangaroo-team emu-team membership-team \
                            monitoring-system --ignore-not-found && \
                            kubectl delete ingressclass kangaroo --ignore-not-found";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Story {
    images: Vec<String>,
    chapters: Vec<Chapter>,
}

/// One problem and its solution.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chapter {
    pub title: String,
    /// In the words of somebody who has it.
    pub problem: String,
    pub steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Step {
    Say {
        say: String,
    },
    /// A file the reader would write.
    File {
        file: String,
        text: String,
    },
    /// A command, run once.
    Run {
        run: String,
        /// Texts that its output must contain.
        #[serde(default)]
        shows: Vec<String>,
        /// Texts that it must not contain.
        #[serde(default)]
        hides: Vec<String>,
        /// It must end with a failure.
        #[serde(default)]
        fails: bool,
    },
    /// A command that is asked until its output is right.
    Until {
        until: String,
        #[serde(default)]
        shows: Vec<String>,
        #[serde(default)]
        hides: Vec<String>,
        /// It must end with a failure.
        #[serde(default)]
        fails: bool,
        /// Seconds.
        #[serde(default = "patience")]
        within: u64,
    },
}

fn patience() -> u64 {
    60
}

fn story() -> anyhow::Result<Story> {
    serde_saphyr::from_str(TEXT).context("reading the story")
}

/// All chapters in order.
pub fn chapters() -> anyhow::Result<Vec<Chapter>> {
    Ok(story()?.chapters)
}

/// Images that must be on the host.
pub fn images() -> anyhow::Result<Vec<String>> {
    Ok(story()?.images)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_story_can_be_read_and_every_command_is_checked() {
        for chapter in chapters().unwrap() {
            assert!(!chapter.problem.trim().is_empty(), "{}", chapter.title);
            for step in &chapter.steps {
                match step {
                    Step::File { file, text } => assert!(text.ends_with('\n'), "{file}"),
                    Step::Until { shows, hides, until, .. } => {
                        assert!(!shows.is_empty() || !hides.is_empty(), "{until}");
                    }
                    Step::Say { .. } | Step::Run { .. } => {}
                }
            }
        }
    }

    #[test]
    fn what_the_story_makes_it_removes() {
        for namespace in NAMESPACES {
            assert!(CLEAN_UP.contains(namespace), "{namespace}");
        }
    }
}
