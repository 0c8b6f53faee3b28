//! One exec session: from the outer stage's birth to the inner one's end.
//!
//! Its streams go to the daemon; nothing of it outlives the shim or reaches the disk.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::RecvFlags;

use super::Asker;
use crate::runtime::failed;
use crate::runtime::init;
use crate::runtime::launch::{Started, Streams};
use crate::runtime::protocol::{Answer, Failure};
use crate::sys::{pidfd, socket};

/// What of a session can become ready.
#[derive(Debug, Clone, Copy)]
pub enum Watch {
    Report,
    Outer,
    Inner,
}

/// What a session has come to since last asked.
pub enum Progress {
    None,
    Started(Asker, Answer, Vec<OwnedFd>),
    Failed(Asker, Failure),
    Ended(Asker, i32),
}

pub struct Session {
    asker: Asker,
    tty: bool,
    /// Until collected.
    outer: Option<OwnedFd>,
    inner: Option<OwnedFd>,
    report: Option<OwnedFd>,
    streams: Streams,
    terminal: Option<OwnedFd>,
    is_confirmed: bool,
    failure: Option<Failure>,
    code: Option<i32>,
    is_announced: bool,
}

impl Session {
    pub fn new(asker: Asker, tty: bool, started: Started) -> Session {
        Session {
            asker,
            tty,
            outer: Some(started.child.pidfd),
            inner: None,
            report: Some(started.report),
            streams: started.streams,
            terminal: None,
            is_confirmed: false,
            failure: None,
            code: None,
            is_announced: false,
        }
    }

    pub fn asker(&self) -> Asker {
        self.asker
    }

    /// Kills the process with its group: it leads one, so what a shell of it has started goes along.
    pub fn kill(&self) -> std::io::Result<()> {
        match self.inner.as_ref().or(self.outer.as_ref()) {
            Some(process) => pidfd::kill_group(process.as_fd()),
            None => Ok(()),
        }
    }

    pub fn watches<'a>(&'a self, mut add: impl FnMut(Watch, BorrowedFd<'a>)) {
        for (watch, descriptor) in [
            (Watch::Report, &self.report),
            (Watch::Outer, &self.outer),
            (Watch::Inner, &self.inner),
        ] {
            // The report ends after what it says about the inner stage is known.
            if let Some(descriptor) = descriptor {
                add(watch, descriptor.as_fd());
            }
        }
    }

    pub fn advance(&mut self, watch: Watch) {
        match watch {
            Watch::Report => {
                self.hear();
            }
            Watch::Outer => {
                if let Some(outer) = &self.outer
                    && let Ok(Some(_)) = pidfd::collect(outer.as_fd())
                {
                    self.outer = None;
                }
            }
            Watch::Inner => {
                // What it said before it ended comes first.
                while self.report.is_some() && self.hear() {}
                if let Some(inner) = &self.inner
                    && let Ok(Some(ended)) = pidfd::collect(inner.as_fd())
                {
                    self.inner = None;
                    self.code = Some(ended.code());
                }
            }
        }
    }

    /// Reads one report; false when there is none now.
    fn hear(&mut self) -> bool {
        let Some(report) = &self.report else {
            return false;
        };
        let mut buffer = [0; 4096];
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        match socket::receive(report.as_fd(), &mut buffer, &mut descriptors, RecvFlags::DONTWAIT) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
            Ok(0) | Err(_) => self.report = None,
            Ok(length) => match buffer[0] {
                init::TERMINAL => self.terminal = descriptors.pop(),
                // From the outer stage with the inner one's pidfd, from the inner one without.
                init::READY => match descriptors.pop() {
                    Some(inner) => self.inner = Some(inner),
                    None => self.is_confirmed = true,
                },
                _ => {
                    let failure = serde_json::from_slice(&buffer[1..length]);
                    self.failure =
                        Some(failure.unwrap_or_else(|_| {
                            failed("exec", "the process failed without a reason")
                        }));
                }
            },
        }
        true
    }

    pub fn take_progress(&mut self) -> Progress {
        // Both stages hold the report: it ends when the outer one has ended and the inner one has
        // exec'ed.
        if self.report.is_some() {
            return Progress::None;
        }
        if !self.is_announced {
            if self.outer.is_some() || (self.inner.is_some() && self.failure.is_some()) {
                return Progress::None;
            }
            self.is_announced = true;
            if let Some(failure) = self.failure.take() {
                return Progress::Failed(self.asker, failure);
            }
            if !self.is_confirmed {
                let failure = failed("exec", "the process was killed before it could start");
                if self.inner.is_some() {
                    self.is_announced = false;
                    return Progress::None;
                }
                return Progress::Failed(self.asker, failure);
            }
            let streams = std::mem::take(&mut self.streams);
            let answer = Answer::Streams {
                stdin: streams.stdin.is_some(),
                stdout: streams.stdout.is_some(),
                stderr: streams.stderr.is_some(),
                terminal: self.tty,
            };
            let descriptors = [streams.stdin, streams.stdout, streams.stderr, self.terminal.take()];
            return Progress::Started(
                self.asker,
                answer,
                descriptors.into_iter().flatten().collect(),
            );
        }
        match self.code {
            Some(code) => Progress::Ended(self.asker, code),
            None => Progress::None,
        }
    }
}
