//! The parent of one pod's containers: one process, one thread, one poll loop.
//!
//! ```text
//!            requests                    pidfds, reports, pipes
//! daemon ◀──────────────▶ shim.sock ◀ loop ▶ containers and exec sessions
//!            state pushes                    │
//!                                   exit.json, logs
//! ```
//! It outlives the daemon: exits reach the disk before anybody hears of them, any number of
//! connections may come and go. It has no policy: it restarts nothing and waits for nobody.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

use self::connection::Connection;
use self::container::{Container, Progress};
use self::session::Session;
use super::ContainerState;
use super::launch::{self, Pod};
use super::plan::PodPlan;
use super::protocol::{Answer, Call, Failure, Message, Request, VERSION};
use super::{At, failed, state, zygote};
use crate::sys::cgroup::Cgroup;
use crate::sys::{files, pidfd, process};

mod connection;
mod container;
mod session;

/// Connections at a time; a further one is closed at once.
const MOST_CONNECTIONS: usize = 8;

/// Exec sessions at a time in one pod (E12 of the threat list).
const MOST_SESSIONS: usize = 64;

/// How long output may still come after a container's last process was killed.
const DRAIN: Duration = Duration::from_secs(2);

/// What the zygote's child starts with.
pub struct Birth {
    pub directory: OwnedFd,
    pub listener: UnixListener,
    pub pod_cgroup: OwnedFd,
    pub netns: Option<OwnedFd>,
    pub owns_ipc: bool,
    pub owns_uts: bool,
}

/// Who asked: which connection, which request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asker {
    connection: u64,
    request: u64,
}

struct Shim {
    pod: Pod,
    listener: UnixListener,
    connections: Vec<Connection>,
    next_connection: u64,
    containers: Vec<Container>,
    sessions: Vec<Session>,
    /// The newest attempt of each container that ever ran.
    states: BTreeMap<String, ContainerState>,
    /// Set once told to end: answered when nothing is left.
    shutdown: Option<(Asker, Instant)>,
}

/// The shim's whole life.
pub fn run(birth: Birth, prepared: zygote::Prepared) -> ! {
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"joey-shim");
    process::set_ignored(libc::SIGCHLD, false);
    process::set_ignored(libc::SIGHUP, true);
    process::set_ignored(libc::SIGINT, true);
    if state::is_buried(birth.directory.as_fd()) {
        // Whoever asked for this pod is gone, and its successor has told the pod's end.
        process::exit_now(1);
    }
    let listener = birth.listener.try_clone();
    let code = match (become_shim(birth, prepared), listener) {
        (Ok(shim), _) => shim.serve(),
        (Err(failure), Ok(listener)) => refuse(&listener, &failure),
        (Err(_), Err(_)) => 1,
    };
    process::exit_now(code)
}

/// Makes the pod's surroundings.
fn become_shim(birth: Birth, prepared: zygote::Prepared) -> Result<Shim, Failure> {
    let directory = birth.directory;
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let log = rustix::fs::openat(&directory, state::LOG, flags, Mode::from_raw_mode(0o600))
        .at("open shim log")?;
    nix::unistd::dup2_stderr(log.as_fd()).at("open shim log")?;
    match files::try_lock(directory.as_fd(), state::LOCK).at("lock pod")? {
        // Held until this process ends.
        Some(lock) => std::mem::forget(lock),
        None => return Err(failed("lock pod", "another shim holds it")),
    }
    let plan = state::read_plan(directory.as_fd()).at("read pod plan")?;
    if let Some(netns) = birth.netns {
        nix::sched::setns(netns, CloneFlags::CLONE_NEWNET).at("enter network namespace")?;
    }
    if birth.owns_uts {
        nix::unistd::sethostname(&plan.hostname).at("set hostname")?;
    }
    apply_sysctls(&plan)?;
    let shm = match birth.owns_ipc {
        true => Some(make_shm(directory.as_fd()).at("make /dev/shm")?),
        false => None,
    };
    birth.listener.set_nonblocking(true).at("listen")?;
    let pod = Pod {
        directory,
        cgroup: Cgroup::from_descriptor(birth.pod_cgroup),
        pid: plan.pid,
        shm,
        prepared,
    };
    drop(plan);
    process::trim_heap();
    Ok(Shim {
        pod,
        listener: birth.listener,
        connections: Vec::new(),
        next_connection: 0,
        containers: Vec::new(),
        sessions: Vec::new(),
        states: BTreeMap::new(),
        shutdown: None,
    })
}

/// A /dev/shm that all containers of the pod mount: attached nowhere or, before Linux 6.15 lets
/// detached mounts be copied, in the pod's directory.
fn make_shm(directory: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    use crate::sys::mount::{self, Reach};
    let shm = super::mounts::devices::shared_memory()?;
    if mount::copy(shm.as_fd(), Reach::This).is_err() {
        let place = files::ensure_directory(directory, state::SHM)?;
        mount::attach(&shm, place.as_fd())?;
    }
    Ok(shm)
}

/// Writes the pod's sysctls: this process is in its network and IPC namespaces and still in the
/// host's mount namespace, so /proc is the kernel's own.
fn apply_sysctls(plan: &PodPlan) -> Result<(), Failure> {
    for (name, value) in &plan.sysctls {
        let is_plain = name.split(['.', '/']).all(|part| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
        });
        if !is_plain {
            return Err(failed("sysctl", format!("{name:?} is no sysctl name")));
        }
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        std::fs::write(path, value)
            .map_err(|error| failed("sysctl", format!("{name}: {error}")))?;
    }
    Ok(())
}

/// Tells the daemon, which is connecting, why there will be no shim.
fn refuse(listener: &UnixListener, failure: &Failure) -> i32 {
    let wait = Timespec { tv_sec: 10, tv_nsec: 0 };
    let _ = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&wait));
    let reason = match failure {
        Failure::Step { step, reason } => format!("{step}: {reason}"),
        Failure::CannotRun { reason } => reason.clone(),
        Failure::NotRunning { .. } | Failure::Unsupported => String::new(),
    };
    if let Ok((stream, _)) = listener.accept() {
        let mut connection = Connection::new(0, stream);
        let message = Message::Hello {
            version: VERSION,
            pid: std::process::id(),
            failure: Some(reason),
            descriptors: 0,
        };
        connection.push(&message, Vec::new());
        connection.write();
    }
    1
}

/// What a poll entry stands for.
#[derive(Debug, Clone, Copy)]
enum Source {
    Listener,
    Connection(usize),
    Container(usize, container::Watch),
    Session(usize, session::Watch),
}

impl Shim {
    fn serve(mut self) -> i32 {
        let mut ready: Vec<(Source, PollFlags)> = Vec::new();
        loop {
            self.wait(&mut ready);
            // Everything by index, so from the back: handling one entry may only remove at its own
            // index or behind it, which the sweep at the end does.
            for (source, flags) in ready.drain(..) {
                match source {
                    Source::Listener => self.accept(),
                    Source::Connection(index) => self.hear(index, flags),
                    Source::Container(index, watch) => {
                        self.containers[index].advance(watch);
                    }
                    Source::Session(index, watch) => self.sessions[index].advance(watch),
                }
            }
            self.sweep();
            self.publish();
            if self.is_over() {
                return 0;
            }
        }
    }

    /// Waits for something to do.
    fn wait(&self, ready: &mut Vec<(Source, PollFlags)>) {
        let mut sources: Vec<(Source, BorrowedFd<'_>, PollFlags)> = Vec::with_capacity(16);
        sources.push((Source::Listener, self.listener.as_fd(), PollFlags::IN));
        for (index, connection) in self.connections.iter().enumerate() {
            let mut flags = PollFlags::IN;
            if connection.wants_to_write() {
                flags |= PollFlags::OUT;
            }
            sources.push((Source::Connection(index), connection.as_fd(), flags));
        }
        let mut until: Option<Instant> = self.shutdown.map(|(_, until)| until);
        for (index, container) in self.containers.iter().enumerate() {
            container.watches(|watch, fd, flags| {
                sources.push((Source::Container(index, watch), fd, flags));
            });
            until = [until, container.deadline()].into_iter().flatten().min();
        }
        for (index, session) in self.sessions.iter().enumerate() {
            session.watches(|watch, fd| {
                sources.push((Source::Session(index, watch), fd, PollFlags::IN));
            });
        }
        let mut entries: Vec<PollFd<'_>> =
            sources.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let wait = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        // EINTR: nothing was ready yet.
        let _ = poll(&mut entries, wait.as_ref());
        for (entry, (source, ..)) in entries.iter().zip(&sources) {
            if !entry.revents().is_empty() {
                ready.push((*source, entry.revents()));
            }
        }
        let now = Instant::now();
        for (index, container) in self.containers.iter().enumerate() {
            if container.deadline().is_some_and(|deadline| deadline <= now) {
                let source = Source::Container(index, container::Watch::Deadline);
                ready.push((source, PollFlags::empty()));
            }
        }
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else {
            return;
        };
        // The directory is 0700 and the socket 0600; the kernel's word about the peer is the second
        // lock.
        let is_ours = crate::sys::socket::peer_uid(&stream)
            .is_ok_and(|uid| uid == rustix::process::geteuid().as_raw());
        if !is_ours || self.connections.len() >= MOST_CONNECTIONS {
            return;
        }
        let mut connection = Connection::new(self.next_connection, stream);
        self.next_connection += 1;
        let descriptors: Vec<OwnedFd> = pidfd::of_self().into_iter().collect();
        let hello = Message::Hello {
            version: VERSION,
            pid: std::process::id(),
            failure: None,
            descriptors: descriptors.len(),
        };
        connection.push(&hello, descriptors);
        connection.write();
        self.connections.push(connection);
    }

    fn hear(&mut self, index: usize, flags: PollFlags) {
        if flags.contains(PollFlags::OUT) {
            self.connections[index].write();
        }
        self.connections[index].read();
        while let Some((id, call)) = self.connections[index].next_request() {
            let asker = Asker { connection: self.connections[index].id(), request: id };
            match call {
                Some(call) => self.answer(asker, Request { id, call }),
                None => self.reply(asker, Err(Failure::Unsupported), Vec::new()),
            }
        }
    }

    fn answer(&mut self, asker: Asker, request: Request) {
        let outcome = match request.call {
            Call::Start(plan) => {
                match self.start(asker, &plan) {
                    // Answered once it has passed execve.
                    Ok(()) => return,
                    Err(failure) => {
                        launch::abandon(&self.pod, &plan);
                        Err(failure)
                    }
                }
            }
            Call::Exec(plan) => match self.exec(asker, &plan) {
                Ok(()) => return,
                Err(failure) => Err(failure),
            },
            Call::Signal { container, signal } => self
                .running(&container)
                .and_then(|running| running.signal(signal).at("signal"))
                .map(|()| Answer::Done),
            Call::Kill { container } => self
                .running(&container)
                .and_then(|running| running.kill().at("kill"))
                .map(|()| Answer::Done),
            Call::Freeze { container, frozen } => self
                .running(&container)
                .and_then(|running| running.freeze(frozen).at("freeze"))
                .map(|()| Answer::Done),
            Call::Attach { container, stdin } => {
                match self.running(&container).and_then(|running| running.attach(stdin)) {
                    Ok((answer, descriptors)) => {
                        self.reply(asker, Ok(answer), descriptors);
                        return;
                    }
                    Err(failure) => Err(failure),
                }
            }
            Call::Forget { container, attempt } => self.forget(&container, attempt),
            Call::Shutdown => {
                for container in &self.containers {
                    // Its group is empty already, or gone with it.
                    let _ = container.kill();
                }
                self.shutdown = Some((asker, Instant::now() + DRAIN));
                return;
            }
        };
        self.reply(asker, outcome, Vec::new());
    }

    /// Its scratch directory is about to go, so it must not be in use.
    fn forget(&mut self, name: &str, attempt: u32) -> Result<Answer, Failure> {
        let is_this =
            |container: &Container| container.name() == name && container.attempt() == attempt;
        if self.containers.iter().any(is_this) {
            return Err(failed("forget", format!("container {name} is still running")));
        }
        if self.states.get(name).is_some_and(|state| state.attempt == attempt) {
            self.states.remove(name);
            self.mark_changed();
        }
        Ok(Answer::Done)
    }

    fn running(&mut self, name: &str) -> Result<&mut Container, Failure> {
        self.containers
            .iter_mut()
            .find(|container| container.name() == name && container.is_running())
            .ok_or_else(|| Failure::NotRunning { container: name.to_owned() })
    }

    fn start(&mut self, asker: Asker, plan: &super::plan::ContainerPlan) -> Result<(), Failure> {
        if self.shutdown.is_some() {
            return Err(failed("start", "the pod is being removed"));
        }
        if self.containers.iter().any(|container| container.name() == plan.name) {
            return Err(failed("start", format!("container {} is still running", plan.name)));
        }
        let log = super::logs::Log::open(plan.output.clone()).at("open log")?;
        let started = launch::container(&self.pod, plan)?;
        self.containers.push(Container::new(plan, asker, started, log));
        Ok(())
    }

    fn exec(&mut self, asker: Asker, plan: &super::plan::ExecPlan) -> Result<(), Failure> {
        if self.sessions.len() >= MOST_SESSIONS {
            return Err(failed("exec", "too many exec sessions in this pod"));
        }
        let container = self
            .containers
            .iter()
            .find(|container| container.name() == plan.container && container.is_running())
            .ok_or_else(|| Failure::NotRunning { container: plan.container.clone() })?;
        let started = launch::exec(&self.pod, plan, container.pidfd(), container.cgroup())?;
        self.sessions.push(Session::new(asker, plan.tty, started));
        Ok(())
    }

    /// Passes on what containers, sessions and connections have come to.
    fn sweep(&mut self) {
        let mut changed = false;
        let mut index = 0;
        while index < self.containers.len() {
            match self.containers[index].take_progress() {
                Progress::None => index += 1,
                // Asked again at once: it may have ended already.
                Progress::Started(asker, state) => {
                    self.states.insert(self.containers[index].name().to_owned(), state.clone());
                    changed = true;
                    self.reply(asker, Ok(Answer::Started(state)), Vec::new());
                    process::trim_heap();
                }
                Progress::Failed(asker, failure) => {
                    let container = self.containers.swap_remove(index);
                    container.clean_up(&self.pod);
                    self.reply(asker, Err(failure), Vec::new());
                }
                Progress::Ended(state) => {
                    let container = self.containers.swap_remove(index);
                    self.states.insert(container.name().to_owned(), state);
                    changed = true;
                    container.clean_up(&self.pod);
                    process::trim_heap();
                }
            }
        }
        let mut index = 0;
        while index < self.sessions.len() {
            match self.sessions[index].take_progress() {
                session::Progress::None => index += 1,
                // Asked again at once: it may have ended already.
                session::Progress::Started(asker, answer, descriptors) => {
                    self.reply(asker, Ok(answer), descriptors);
                }
                session::Progress::Failed(asker, failure) => {
                    self.sessions.swap_remove(index);
                    self.reply(asker, Err(failure), Vec::new());
                }
                session::Progress::Ended(asker, code) => {
                    self.sessions.swap_remove(index);
                    let message = Message::Ended { session: asker.request, code };
                    self.push(asker, &message, Vec::new());
                }
            }
        }
        if changed {
            self.mark_changed();
        }
        self.connections.retain(|connection| !connection.is_closed());
    }

    fn mark_changed(&mut self) {
        for connection in &mut self.connections {
            connection.owes_state = true;
        }
    }

    /// Sends the state to whoever has not got the newest and keeps up reading.
    fn publish(&mut self) {
        let mut message = None;
        for connection in &mut self.connections {
            if connection.owes_state && !connection.wants_to_write() {
                let message = message
                    .get_or_insert_with(|| Message::State { containers: self.states.clone() });
                connection.push(message, Vec::new());
                connection.owes_state = false;
            }
            connection.write();
        }
    }

    fn is_over(&mut self) -> bool {
        let Some((asker, until)) = self.shutdown else {
            return false;
        };
        if !self.containers.is_empty() && Instant::now() < until {
            return false;
        }
        self.publish();
        self.reply(asker, Ok(Answer::Done), Vec::new());
        true
    }

    fn reply(&mut self, asker: Asker, outcome: Result<Answer, Failure>, descriptors: Vec<OwnedFd>) {
        let message = Message::Reply { id: asker.request, outcome, descriptors: descriptors.len() };
        self.push(asker, &message, descriptors);
    }

    /// Sends to one connection, if it still exists: a daemon that came back asks again.
    fn push(&mut self, asker: Asker, message: &Message, descriptors: Vec<OwnedFd>) {
        let connection =
            self.connections.iter_mut().find(|connection| connection.id() == asker.connection);
        if let Some(connection) = connection {
            connection.push(message, descriptors);
            connection.write();
        }
    }
}

/// Makes reads and writes return instead of waiting.
fn set_nonblocking(descriptor: &OwnedFd) -> std::io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(descriptor)?;
    Ok(rustix::fs::fcntl_setfl(descriptor, flags | OFlags::NONBLOCK)?)
}
