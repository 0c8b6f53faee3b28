//! One container under its shim: starting, running, draining, ended.
//!
//! ```text
//! Starting ──execve──▶ Running ──pidfd──▶ Draining ──streams ended──▶ Ended (exit.json written)
//!     └──failure──▶ Failed
//! ```
//! It never talks to the daemon; `take_progress` tells the loop what to pass on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::pipe::{PipeFlags, pipe_with};

use super::{Asker, DRAIN, set_nonblocking};
use crate::model::time::Timestamp;
use crate::runtime::launch::{Pod, StartedContainer};
use crate::runtime::logs::{Line, Log, Stream};
use crate::runtime::plan::{ContainerPlan, Exit, StdinPlan};
use crate::runtime::protocol::{Answer, Failure};
use crate::runtime::{At, ContainerPhase, ContainerState, failed, init, state};
use crate::sys::cgroup::Cgroup;
use crate::sys::pidfd::{self, Ended};
use crate::sys::{clock, socket};

/// Clients joined to one container at a time.
const MOST_CLIENTS: usize = 16;

/// How much a client may be behind before it is dropped.
const CLIENT_BYTES: usize = 1 << 20;

/// How long after the disk refused a log line it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What of a container can become ready.
#[derive(Debug, Clone, Copy)]
pub enum Watch {
    Report,
    Process,
    Output(usize),
    Client(usize),
    Deadline,
}

/// What a container has come to since last asked.
pub enum Progress {
    None,
    Started(Asker, ContainerState),
    Failed(Asker, Failure),
    Ended(ContainerState),
}

enum Stage {
    Starting {
        asker: Asker,
        report: OwnedFd,
        is_ready: bool,
        failure: Option<Failure>,
    },
    Running,
    Draining {
        ended: Ended,
        finished_at: Timestamp,
        oom_killed: bool,
        until: Instant,
    },
    /// Never passed `execve`; `is_collected` once its process is reaped.
    Failed {
        asker: Asker,
        failure: Failure,
        is_collected: bool,
    },
    Over,
}

/// One stream of output; `source` goes when it has ended.
struct Output {
    stream: Stream,
    source: Option<OwnedFd>,
    line: Line,
}

/// A joined client: pipes that it reads.
struct Client {
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

pub struct Container {
    name: String,
    attempt: u32,
    directory: OwnedFd,
    cgroup: Cgroup,
    pid: u32,
    pidfd: OwnedFd,
    stage: Stage,
    /// Who still has to hear that it runs.
    announce: Option<Asker>,
    started_at: Timestamp,
    log: Log,
    retry_log_at: Option<Instant>,
    outputs: Vec<Output>,
    stdin: Option<OwnedFd>,
    stdin_plan: StdinPlan,
    terminal: Option<OwnedFd>,
    clients: Vec<Client>,
}

impl Container {
    pub fn new(
        plan: &ContainerPlan,
        asker: Asker,
        started: StartedContainer,
        log: Log,
    ) -> Container {
        let process = started.process;
        let mut container = Container {
            name: plan.name.clone(),
            attempt: plan.attempt,
            directory: started.directory,
            cgroup: started.cgroup,
            pid: process.child.pid,
            pidfd: process.child.pidfd,
            stage: Stage::Starting {
                asker,
                report: process.report,
                is_ready: false,
                failure: None,
            },
            announce: None,
            started_at: clock::now(),
            log,
            retry_log_at: None,
            outputs: Vec::new(),
            stdin: process.streams.stdin,
            stdin_plan: plan.stdin,
            terminal: None,
            clients: Vec::new(),
        };
        container.add_output(Stream::Stdout, process.streams.stdout);
        container.add_output(Stream::Stderr, process.streams.stderr);
        container
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    pub fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running)
    }

    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    pub fn cgroup(&self) -> BorrowedFd<'_> {
        self.cgroup.as_fd()
    }

    pub fn signal(&self, signal: i32) -> io::Result<()> {
        pidfd::signal(self.pidfd.as_fd(), signal)
    }

    /// Everything in the cgroup, and the first process wherever it was moved to: its end is that of its PID namespace.
    pub fn kill(&self) -> io::Result<()> {
        let all = self.cgroup.kill();
        match pidfd::signal(self.pidfd.as_fd(), libc::SIGKILL) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(error),
            Ok(()) | Err(_) => all,
        }
    }

    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        self.cgroup.freeze(frozen)
    }

    fn add_output(&mut self, stream: Stream, source: Option<OwnedFd>) {
        if let Some(source) = source
            && set_nonblocking(&source).is_ok()
        {
            self.outputs.push(Output { stream, source: Some(source), line: Line::default() });
        }
    }

    /// Joins a client: what comes out from now on, and the way in if there is one.
    pub fn attach(&mut self, stdin: bool) -> Result<(Answer, Vec<OwnedFd>), Failure> {
        if self.clients.len() >= MOST_CLIENTS {
            return Err(failed("attach", "too many clients are attached"));
        }
        let mut descriptors = Vec::new();
        let way_in = match (stdin, self.stdin_plan) {
            (true, StdinPlan::Open) => {
                self.stdin.as_ref().map(OwnedFd::try_clone).transpose().at("attach stdin")?
            }
            // The client's end is the only one from here on: when it closes, the process reads the
            // end.
            (true, StdinPlan::Once) => self.stdin.take(),
            (true, StdinPlan::Closed) | (false, _) => None,
        };
        let has_stdin = way_in.is_some();
        descriptors.extend(way_in);
        let mut client = Client { stdout: None, stderr: None };
        let has_stderr = self.terminal.is_none();
        client.stdout = Some(client_pipe(&mut descriptors).at("attach stdout")?);
        if has_stderr {
            client.stderr = Some(client_pipe(&mut descriptors).at("attach stderr")?);
        }
        let terminal =
            self.terminal.as_ref().map(OwnedFd::try_clone).transpose().at("attach terminal")?;
        let has_terminal = terminal.is_some();
        descriptors.extend(terminal);
        self.clients.push(client);
        let answer = Answer::Streams {
            stdin: has_stdin,
            stdout: true,
            stderr: has_stderr,
            terminal: has_terminal,
        };
        Ok((answer, descriptors))
    }

    pub fn watches<'a>(&'a self, mut add: impl FnMut(Watch, BorrowedFd<'a>, PollFlags)) {
        match &self.stage {
            Stage::Starting { report, .. } => {
                add(Watch::Report, report.as_fd(), PollFlags::IN);
                add(Watch::Process, self.pidfd.as_fd(), PollFlags::IN);
            }
            Stage::Running | Stage::Failed { is_collected: false, .. } => {
                add(Watch::Process, self.pidfd.as_fd(), PollFlags::IN);
            }
            Stage::Failed { .. } | Stage::Draining { .. } | Stage::Over => {}
        }
        if !self.log.is_blocked() {
            for (index, output) in self.outputs.iter().enumerate() {
                if let Some(source) = &output.source {
                    add(Watch::Output(index), source.as_fd(), PollFlags::IN);
                }
            }
        }
        for (index, client) in self.clients.iter().enumerate() {
            // Write ends: only the reader's departure (POLLERR) is of interest, which needs no
            // flag.
            if let Some(pipe) = client.stdout.as_ref().or(client.stderr.as_ref()) {
                add(Watch::Client(index), pipe.as_fd(), PollFlags::empty());
            }
        }
    }

    /// When to look again even though nothing became ready.
    pub fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Draining { until, .. } => {
                Some(self.retry_log_at.map_or(until, |at| at.min(until)))
            }
            Stage::Starting { .. } | Stage::Running | Stage::Failed { .. } | Stage::Over => {
                self.retry_log_at
            }
        }
    }

    pub fn advance(&mut self, watch: Watch) {
        match watch {
            Watch::Report => {
                self.hear();
            }
            Watch::Process => self.collect(),
            Watch::Output(index) => self.read_output(index),
            Watch::Client(index) => {
                if let Some(client) = self.clients.get_mut(index) {
                    *client = Client { stdout: None, stderr: None };
                }
            }
            Watch::Deadline => {
                self.log.write();
                self.note_log();
            }
        }
    }

    /// Reads one report of the starting process; false when there is none now.
    fn hear(&mut self) -> bool {
        let Stage::Starting { asker, report, is_ready, failure } = &mut self.stage else {
            return false;
        };
        let asker = *asker;
        let mut buffer = [0; 4096];
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        match socket::receive(report.as_fd(), &mut buffer, &mut descriptors, RecvFlags::DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Ok(0) | Err(_) => {
                let failure = failure.take().or_else(|| {
                    let reason = "the process was killed before it could start";
                    (!*is_ready).then(|| failed("init", reason))
                });
                match failure {
                    Some(failure) => {
                        self.stage = Stage::Failed { asker, failure, is_collected: false };
                    }
                    None => self.note_start(asker),
                }
            }
            Ok(length) => match buffer[0] {
                init::TERMINAL => {
                    if let Some(master) = descriptors.pop()
                        && let Ok(source) = master.try_clone()
                    {
                        self.terminal = Some(master);
                        self.add_output(Stream::Stdout, Some(source));
                    }
                }
                init::READY => *is_ready = true,
                _ => {
                    let told = serde_json::from_slice(&buffer[1..length]);
                    *failure =
                        Some(told.unwrap_or_else(|_| failed("init", "failed without a reason")));
                }
            },
        }
        true
    }

    /// It has passed `execve`.
    fn note_start(&mut self, asker: Asker) {
        self.started_at = clock::now();
        let running = state::Running { pid: self.pid, started_at: self.started_at };
        self.record(state::STATE, &running);
        self.announce = Some(asker);
        self.stage = Stage::Running;
    }

    fn record(&self, name: &str, value: &impl serde::Serialize) {
        if let Err(error) = state::write(self.directory.as_fd(), name, value) {
            // Standard error is shim.log. Saying it late is better than not at all.
            eprintln!("{}: cannot write {name}: {error}", self.name);
        }
    }

    /// The first process has ended: everything else of the container goes too.
    fn collect(&mut self) {
        // Its last words come first: one that fails to start ends right after saying why.
        while self.hear() {}
        let Ok(Some(ended)) = pidfd::collect(self.pidfd.as_fd()) else {
            return;
        };
        match &mut self.stage {
            Stage::Failed { is_collected, .. } => *is_collected = true,
            Stage::Running => {
                let finished_at = clock::now();
                // With a pid namespace of its own nothing is left; without, this is what ends the
                // rest.
                if let Err(error) = self.cgroup.kill() {
                    eprintln!("{}: cannot kill what is left: {error}", self.name);
                }
                self.stage = Stage::Draining {
                    ended,
                    finished_at,
                    oom_killed: self.cgroup.has_oom_kill(),
                    until: Instant::now() + DRAIN,
                };
            }
            // Collected with its report still open elsewhere: nobody is left who could exec.
            Stage::Starting { asker, .. } => {
                let failure = failed("init", "the process was killed before it could start");
                self.stage = Stage::Failed { asker: *asker, failure, is_collected: true };
            }
            Stage::Draining { .. } | Stage::Over => {}
        }
    }

    fn read_output(&mut self, index: usize) {
        let Some(output) = self.outputs.get_mut(index) else {
            return;
        };
        let Some(source) = &output.source else {
            return;
        };
        let mut buffer = [0; 16 << 10];
        match rustix::io::read(source, &mut buffer) {
            // A terminal whose last slave was closed answers EIO.
            Ok(0) | Err(Errno::IO) => {
                output.source = None;
                self.log.finish(output.stream, &mut output.line, clock::now());
            }
            Ok(length) => {
                let bytes = &buffer[..length];
                self.log.append(output.stream, &mut output.line, bytes, clock::now());
                for client in &mut self.clients {
                    client.offer(output.stream, bytes);
                }
            }
            Err(_) => {}
        }
        self.note_log();
    }

    fn note_log(&mut self) {
        self.retry_log_at = self.log.is_blocked().then(|| Instant::now() + RETRY);
    }

    pub fn take_progress(&mut self) -> Progress {
        self.clients.retain(|client| client.stdout.is_some() || client.stderr.is_some());
        if let Some(asker) = self.announce.take() {
            let phase = ContainerPhase::Running { pid: self.pid, started_at: self.started_at };
            return Progress::Started(asker, ContainerState { attempt: self.attempt, phase });
        }
        match &self.stage {
            Stage::Failed { is_collected: true, .. } => {
                match std::mem::replace(&mut self.stage, Stage::Over) {
                    Stage::Failed { asker, failure, .. } => Progress::Failed(asker, failure),
                    _ => Progress::None,
                }
            }
            Stage::Draining { ended, finished_at, oom_killed, until } => {
                let is_drained = self.outputs.iter().all(|output| output.source.is_none());
                if (!is_drained || self.log.is_blocked()) && Instant::now() < *until {
                    return Progress::None;
                }
                let exit = Exit {
                    code: ended.code(),
                    signal: ended.signal(),
                    oom_killed: *oom_killed,
                    started_at: self.started_at,
                    finished_at: *finished_at,
                };
                for output in &mut self.outputs {
                    self.log.finish(output.stream, &mut output.line, exit.finished_at);
                }
                // On disk before anyone is told.
                self.record(state::EXIT, &exit);
                self.stage = Stage::Over;
                let phase = ContainerPhase::Exited(exit);
                Progress::Ended(ContainerState { attempt: self.attempt, phase })
            }
            Stage::Failed { .. } | Stage::Starting { .. } | Stage::Running | Stage::Over => {
                Progress::None
            }
        }
    }

    /// Takes away what is empty now. What cannot go yet goes with the pod.
    pub fn clean_up(self, pod: &Pod) {
        let _ = pod.cgroup.remove(&state::attempt(&self.name, self.attempt));
    }
}

impl Client {
    /// Passes output on; a client that is too far behind is dropped, the container never waits for
    /// it.
    fn offer(&mut self, stream: Stream, bytes: &[u8]) {
        let pipe = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        if let Some(writer) = pipe
            && rustix::io::write(&*writer, bytes) != Ok(bytes.len())
        {
            *self = Client { stdout: None, stderr: None };
        }
    }
}

/// A pipe towards a client: the reading end is added to what the client gets.
fn client_pipe(descriptors: &mut Vec<OwnedFd>) -> io::Result<OwnedFd> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // Refused beyond the user's pipe limits: then the client may be less far behind.
    let _ = rustix::pipe::fcntl_setpipe_size(&write, CLIENT_BYTES);
    set_nonblocking(&write)?;
    descriptors.push(read);
    Ok(write)
}
