//! `joey learn`: the story of a service that grows, told and proven step by step on the running cluster.
//!
//! Every chapter is a problem, the manifest that solves it, the commands a person would type, and a check that what
//! they show is so. It stops at the first thing that is not true. It knows no other cluster than the one its settings
//! name, and works in namespaces of its own.

mod leaving;
mod shell;
mod story;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use self::leaving::Leaving;
use self::shell::{Shell, Shown};
use self::story::{Chapter, Step};
use super::settings::Settings;

/// `joey learn`
#[derive(Debug, clap::Args)]
pub struct LearnArgs {
    /// Do not wait for a key before each command
    #[arg(long)]
    all: bool,
    /// Name the chapters and end
    #[arg(long)]
    list: bool,
    /// Keep what the story made, to look around
    #[arg(long)]
    keep: bool,
    /// End after this chapter
    #[arg(long, value_name = "NUMBER")]
    until: Option<usize>,
    /// The kubectl to use [default: the one in PATH]
    #[arg(long, value_name = "FILE", env = "JOEY_KUBECTL")]
    kubectl: Option<std::path::PathBuf>,
}

/// A command is asked again this often while its answer is waited for.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Tells the story; 1 when something in it was not true.
pub fn run(settings: &Settings, args: LearnArgs) -> anyhow::Result<ExitCode> {
    let chapters = story::chapters()?;
    if args.list {
        for (number, chapter) in chapters.iter().enumerate() {
            println!("{:>3}  {}", number + 1, chapter.title);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let voice = Voice::new(args.all)?;
    let shell = Shell::prepare(settings, args.kubectl.as_deref())?;
    shell.require(&story::images()?)?;
    voice.explain();
    let told = chapters.iter().take(args.until.unwrap_or(usize::MAX)).enumerate();
    let mut outcome = Ok(());
    for (number, chapter) in told {
        outcome = tell(&shell, &voice, number + 1, chapter)
            .with_context(|| format!("chapter {}, {}", number + 1, chapter.title));
        if outcome.is_err() {
            break;
        }
    }
    if args.keep {
        println!("\nWhat the story made is kept; {} removes it.", story::CLEAN_UP);
    } else {
        shell.quietly(story::CLEAN_UP).context("removing what the story made")?;
    }
    outcome?;
    voice.good("\nEverything in the story was true.");
    Ok(ExitCode::SUCCESS)
}

fn tell(shell: &Shell, voice: &Voice, number: usize, chapter: &Chapter) -> anyhow::Result<()> {
    voice.chapter(number, &chapter.title);
    voice.prose(&chapter.problem);
    for step in &chapter.steps {
        match step {
            Step::Say { say } => voice.prose(say),
            Step::File { file, text } => {
                voice.file(file, text);
                fs::write(shell.directory().join(file), text)
                    .with_context(|| format!("writing {file}"))?;
            }
            Step::Run { run, shows, hides, fails } => {
                voice.command(run)?;
                let shown = shell.run(run)?;
                voice.stay()?;
                voice.output(&shown.text);
                if let Some(fault) = fault(&shown, shows, hides, *fails) {
                    bail!("`{run}` {fault}");
                }
            }
            Step::Until { until, shows, hides, fails, within } => {
                voice.command(until)?;
                let shown = wait(shell, voice, until, shows, hides, *fails, *within)?;
                voice.output(&shown.text);
            }
        }
    }
    Ok(())
}

/// Asks until the answer is the expected one.
fn wait(
    shell: &Shell,
    voice: &Voice,
    line: &str,
    shows: &[String],
    hides: &[String],
    fails: bool,
    within_seconds: u64,
) -> anyhow::Result<Shown> {
    let end = Instant::now() + Duration::from_secs(within_seconds);
    loop {
        let shown = shell.run(line)?;
        voice.stay()?;
        match fault(&shown, shows, hides, fails) {
            None => return Ok(shown),
            Some(fault) if Instant::now() >= end => {
                bail!("`{line}` {fault} after {within_seconds} s:\n{}", shown.text)
            }
            Some(_) => std::thread::sleep(ASK_AGAIN),
        }
    }
}

/// What is wrong with an answer.
fn fault(shown: &Shown, shows: &[String], hides: &[String], fails: bool) -> Option<String> {
    if shown.succeeded == fails {
        return Some(if fails { "should have failed".into() } else { "failed".into() });
    }
    let missing = shows.iter().find(|text| !shown.text.contains(text.as_str()));
    let unwanted = hides.iter().find(|text| shown.text.contains(text.as_str()));
    match (missing, unwanted) {
        (Some(text), _) => Some(format!("does not show {text:?}")),
        (None, Some(text)) => Some(format!("shows {text:?}")),
        (None, None) => None,
    }
}

/// How the story is told: colour and pauses on a terminal, plain text in a pipe.
struct Voice {
    colour: bool,
    pauses: bool,
    leaving: Leaving,
}

impl Voice {
    fn new(all: bool) -> anyhow::Result<Voice> {
        let colour = io::stdout().is_terminal();
        let pauses = !all && colour && io::stdin().is_terminal();
        let leaving = Leaving::heed().context("heeding Ctrl-C")?;
        Ok(Voice { colour, pauses, leaving })
    }

    /// What the reader can do.
    fn explain(&self) {
        if self.pauses {
            self.prose("Enter runs the command that is shown. Ctrl-C leaves; what the story made goes with it.");
        }
    }

    /// An error once the reader wants to leave.
    fn stay(&self) -> anyhow::Result<()> {
        if self.leaving.is_asked() {
            bail!("the story was left");
        }
        Ok(())
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn chapter(&self, number: usize, title: &str) {
        println!("\n{}", self.paint("1", &format!("{number}. {title}")));
    }

    fn prose(&self, text: &str) {
        for line in text.trim_end().lines() {
            println!("{line}");
        }
        println!();
    }

    fn file(&self, name: &str, text: &str) {
        println!("{}", self.paint("2", &format!("── {name}")));
        for line in text.lines() {
            println!("   {line}");
        }
        println!();
    }

    /// Shows what is typed and, step by step, waits for the reader.
    fn command(&self, line: &str) -> anyhow::Result<()> {
        print!("{}", self.paint("36", &format!("$ {line}")));
        io::stdout().flush()?;
        if !self.pauses {
            println!();
        } else if !self.leaving.read_enter()? {
            println!();
            bail!("the story was left");
        }
        self.stay()
    }

    fn output(&self, text: &str) {
        for line in text.trim_end().lines() {
            println!("  {line}");
        }
        println!();
    }

    fn good(&self, text: &str) {
        println!("{}", self.paint("32", text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, succeeded: bool, shows: &[&str], hides: &[&str], fails: bool) -> String {
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let shown = Shown { text: text.to_owned(), succeeded };
        fault(&shown, &own(shows), &own(hides), fails).unwrap_or_default()
    }

    #[test]
    fn an_answer_is_right_when_it_ends_and_reads_as_told() {
        assert_eq!(check("a b", true, &["a", "b"], &["c"], false), "");
        assert_eq!(check("a b", true, &["c"], &[], false), "does not show \"c\"");
        assert_eq!(check("a b", true, &[], &["b"], false), "shows \"b\"");
        assert_eq!(check("a b", false, &["a"], &[], false), "failed");
        assert_eq!(check("no", false, &["no"], &[], true), "");
        assert_eq!(check("yes", true, &[], &[], true), "should have failed");
    }
}
