//! The daemon's connection to one shim: one task that asks, hears answers and keeps the newest
//! state.
//!
//! ```text
//! Pod ──mpsc──▶ task ◀──shim.sock──▶ shim         state ──watch──▶ everyone
//!                 └─ pidfd readable: kill the pod whole, record the exits, report Lost
//! ```
//! It never restarts anything.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};

use super::drift::{self, Drift};
use super::instance::{Instance, blocking, remove_tree};
use super::plan::{Exit, PodPlan, PodUid};
use super::protocol::{Answer, Call, Failure, Inbox, Message, Request, encode};
use super::{ContainerPhase, ContainerState, PodState, RuntimeError, ShimState, state, usage};
use crate::sys::{clock, readiness, socket};

/// Questions that may wait for the task.
const MOST_QUESTIONS: usize = 64;

/// How long a new shim may take to say hello, or any to take a request.
pub const HELLO: Duration = Duration::from_secs(10);

/// How long an answer may take; a start includes mounts of network file systems.
const ANSWER: Duration = Duration::from_secs(120);

/// How long what takes no time may take on a busy machine.
const PROMPT: Duration = Duration::from_secs(20);

/// How long a shim may take to end its containers when told to.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// A pod as the daemon holds it.
pub struct Link {
    instance: Arc<Instance>,
    uid: PodUid,
    cgroup: PathBuf,
    directory: PathBuf,
    questions: mpsc::Sender<Question>,
    state: watch::Receiver<PodState>,
    /// Kept so that watchers of a lost pod do not see a closed channel.
    _state: watch::Sender<PodState>,
}

/// An answer with what came along.
pub struct Reply {
    pub answer: Answer,
    pub descriptors: Vec<OwnedFd>,
    /// For exec: what names the session, and its code, once it has ended.
    pub session: u64,
    pub ended: Option<watch::Receiver<Option<i32>>>,
}

struct Question {
    call: Call,
    answer: oneshot::Sender<Result<Reply, RuntimeError>>,
}

impl Link {
    pub fn uid(&self) -> &PodUid {
        &self.uid
    }

    pub fn state(&self) -> watch::Receiver<PodState> {
        self.state.clone()
    }

    pub async fn ask(&self, call: Call) -> Result<Reply, RuntimeError> {
        let (answer, answered) = oneshot::channel();
        let question = Question { call, answer };
        self.questions.send(question).await.map_err(|_| RuntimeError::ShimLost)?;
        match tokio::time::timeout(ANSWER, answered).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Err(RuntimeError::ShimLost),
            Err(_) => Err(RuntimeError::step("ask shim", "no answer in time")),
        }
    }

    /// Has the shim do what it does at once. One that does not even that in time (stopped by hand, or stuck) is killed,
    /// which is told as any other death of a shim: its pod cannot be ended through it.
    pub async fn order(&self, call: Call) -> Result<(), RuntimeError> {
        match tokio::time::timeout(PROMPT, self.ask(call)).await {
            Ok(answered) => answered.map(drop),
            Err(_) => {
                tracing::warn!(pod = %self.uid.as_str(), "shim does not answer; it is killed");
                let (instance, cgroup) = (self.instance.clone(), self.cgroup.clone());
                blocking(move || instance.kill_shim(&cgroup)).await?;
                Err(RuntimeError::ShimLost)
            }
        }
    }

    pub async fn remove_container(
        &self,
        container: &str,
        attempt: u32,
    ) -> Result<(), RuntimeError> {
        let call = Call::Forget { container: container.to_owned(), attempt };
        match self.ask(call).await {
            Ok(_) | Err(RuntimeError::ShimLost) => {}
            Err(error) => return Err(error),
        }
        let name = state::attempt(container, attempt);
        let place = self.directory.join(state::CONTAINERS).join(name);
        blocking(move || {
            let at = "remove scratch directory";
            if let Some(plan) = state::plan_of(&place) {
                remove_tree(&plan.rootfs.scratch).map_err(|error| RuntimeError::step(at, error))?;
            }
            remove_tree(&place).map_err(|error| RuntimeError::step(at, error))
        })
        .await
    }

    pub async fn drift(&self, container: &str, attempt: u32, pid: u32) -> Option<Drift> {
        drift::wait(&self.instance, &self.cgroup, container, attempt, pid).await
    }

    pub async fn wake_shim(&self) -> Option<io::Result<()>> {
        drift::wake_shim(&self.instance, &self.cgroup).await
    }

    pub fn thaw(&self, container: &str, attempt: u32) -> io::Result<()> {
        drift::thaw(&self.instance, &self.cgroup, container, attempt)
    }

    pub fn processor_time(&self, container: &str, attempt: u32) -> io::Result<Duration> {
        usage::processor_time(&self.instance, &self.cgroup, container, attempt)
    }

    pub fn memory(&self, container: &str, attempt: u32) -> io::Result<u64> {
        usage::memory(&self.instance, &self.cgroup, container, attempt)
    }

    pub async fn remove(&self) -> Result<(), RuntimeError> {
        // A shim that is lost or stuck is killed with the rest below.
        let _ = tokio::time::timeout(SHUTDOWN, async {
            // The task ends once the shim's process has: then its group is empty already.
            if self.ask(Call::Shutdown).await.is_ok() {
                self.questions.closed().await;
            }
        })
        .await;
        let (instance, cgroup, directory) =
            (self.instance.clone(), self.cgroup.clone(), self.directory.clone());
        blocking(move || instance.destroy(&cgroup, &directory)).await
    }
}

/// Connects to a living shim, which has `patience` to answer; returns once its state is known.
pub async fn connect(
    instance: &Arc<Instance>,
    plan: &PodPlan,
    directory: PathBuf,
    patience: Duration,
) -> Result<Arc<Link>, RuntimeError> {
    let mut shim = Shim::connect(&directory, patience).await?;
    let containers = shim.first_state(patience).await?;
    let (state, watched) = watch::channel(PodState { shim: ShimState::Alive, containers });
    let (questions, asked) = mpsc::channel(MOST_QUESTIONS);
    let task = Task {
        instance: instance.clone(),
        plan: plan.clone(),
        directory: directory.clone(),
        shim,
        state: state.clone(),
        next_id: 1,
        pending: HashMap::new(),
        starting: HashMap::new(),
        sessions: HashMap::new(),
        is_ending: false,
    };
    tokio::spawn(task.run(asked));
    Ok(link(instance, plan, directory, questions, watched, state))
}

/// A pod without a living shim: kills what is left of it and tells how its containers ended.
pub async fn lost(
    instance: &Arc<Instance>,
    plan: &PodPlan,
    directory: PathBuf,
) -> Result<Arc<Link>, RuntimeError> {
    let containers = bury(instance.clone(), plan.clone(), directory.clone()).await?;
    let (state, watched) = watch::channel(PodState { shim: ShimState::Lost, containers });
    let (questions, _) = mpsc::channel(1);
    Ok(link(instance, plan, directory, questions, watched, state))
}

fn link(
    instance: &Arc<Instance>,
    plan: &PodPlan,
    directory: PathBuf,
    questions: mpsc::Sender<Question>,
    watched: watch::Receiver<PodState>,
    state: watch::Sender<PodState>,
) -> Arc<Link> {
    Arc::new(Link {
        instance: instance.clone(),
        uid: plan.uid.clone(),
        cgroup: plan.cgroup.clone(),
        directory,
        questions,
        state: watched,
        _state: state,
    })
}

/// Kills the pod and records an exit for every container that has none.
async fn bury(
    instance: Arc<Instance>,
    plan: PodPlan,
    directory: PathBuf,
) -> Result<BTreeMap<String, ContainerState>, RuntimeError> {
    blocking(move || {
        let at = "read state of a lost pod";
        let failed = |error: io::Error| RuntimeError::step(at, error);
        // The mark first: a shim that is forked after the kill finds it, one forked before is killed.
        state::bury(&directory).map_err(|error| RuntimeError::step("bury pod", error))?;
        instance.kill(&plan.cgroup)?;
        let mut containers = BTreeMap::new();
        for (name, attempt) in state::newest_attempts(&directory).map_err(failed)? {
            let Some(mut state) = attempt.state() else {
                continue;
            };
            if let ContainerPhase::Running { started_at, .. } = state.phase {
                let exit = Exit {
                    code: 137,
                    signal: Some(libc::SIGKILL),
                    oom_killed: false,
                    started_at,
                    finished_at: clock::now(),
                };
                let place = state::attempt(&name, state.attempt);
                let place = directory.join(state::CONTAINERS).join(place);
                let place = std::fs::File::open(place).map_err(failed)?;
                state::write(place.as_fd(), state::EXIT, &exit).map_err(failed)?;
                state.phase = ContainerPhase::Exited(exit);
            }
            containers.insert(name, state);
        }
        Ok(containers)
    })
    .await
}

/// The socket with what has arrived on it.
struct Shim {
    socket: AsyncFd<OwnedFd>,
    inbox: Inbox,
    /// Readable once the shim has ended.
    pidfd: AsyncFd<OwnedFd>,
}

impl Shim {
    async fn connect(
        directory: &std::path::Path,
        patience: Duration,
    ) -> Result<Shim, RuntimeError> {
        let at = "connect to shim";
        let failed = |error: io::Error| RuntimeError::step(at, error);
        let stream = socket::connect(directory, state::SOCKET).map_err(failed)?;
        stream.set_nonblocking(true).map_err(failed)?;
        let socket = readiness::watch(stream.into()).map_err(failed)?;
        let mut inbox = Inbox::default();
        let hello = tokio::time::timeout(patience, next(&socket, &mut inbox)).await;
        let hello = hello.map_err(|_| RuntimeError::step(at, "it does not answer"))?;
        match hello.map_err(failed)? {
            Message::Hello { failure: Some(reason), .. } => {
                Err(RuntimeError::step("start shim", reason))
            }
            Message::Hello { failure: None, .. } => {
                let pidfd = inbox.descriptors.pop_front();
                let pidfd = pidfd.ok_or_else(|| RuntimeError::step(at, "it sent no pidfd"))?;
                let pidfd = readiness::watch(pidfd).map_err(failed)?;
                Ok(Shim { socket, inbox, pidfd })
            }
            Message::State { .. } | Message::Reply { .. } | Message::Ended { .. } => {
                Err(RuntimeError::step(at, "it does not say hello"))
            }
        }
    }

    async fn first_state(
        &mut self,
        patience: Duration,
    ) -> Result<BTreeMap<String, ContainerState>, RuntimeError> {
        let at = "ask shim for its state";
        let state = tokio::time::timeout(patience, next(&self.socket, &mut self.inbox)).await;
        match state {
            Ok(Ok(Message::State { containers })) => Ok(containers),
            Ok(Ok(_)) => Err(RuntimeError::unexpected(at)),
            Ok(Err(error)) => Err(RuntimeError::step(at, error)),
            Err(_) => Err(RuntimeError::step(at, "no answer in time")),
        }
    }

    async fn send(&self, request: &Request) -> io::Result<()> {
        let mut bytes = Vec::new();
        encode(request, &mut bytes);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let mut ready = self.socket.writable().await?;
            let sent =
                ready.try_io(|socket| socket::send(socket.as_fd(), rest, &[], SendFlags::DONTWAIT));
            match sent {
                Ok(sent) => rest = &rest[sent?..],
                Err(_would_block) => {}
            }
        }
        Ok(())
    }
}

/// The next message. Cancel-safe: what has arrived stays in the inbox.
async fn next(socket: &AsyncFd<OwnedFd>, inbox: &mut Inbox) -> io::Result<Message> {
    loop {
        match inbox.take::<Message>() {
            Ok(Some(message)) => return Ok(message),
            Ok(None) => {}
            // A message of a newer shim. Its descriptors, if any, cannot be told apart.
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
        let mut ready = socket.readable().await?;
        let mut buffer = [0; 16 << 10];
        let received = ready.try_io(|socket| {
            let descriptors = &mut inbox.descriptors;
            socket::receive(socket.as_fd(), &mut buffer, descriptors, RecvFlags::DONTWAIT)
        });
        match received {
            Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => inbox.bytes.extend_from_slice(&buffer[..length?]),
            Err(_would_block) => {}
        }
    }
}

struct Task {
    instance: Arc<Instance>,
    plan: PodPlan,
    directory: PathBuf,
    shim: Shim,
    state: watch::Sender<PodState>,
    next_id: u64,
    pending: HashMap<u64, oneshot::Sender<Result<Reply, RuntimeError>>>,
    /// Containers that are being started, by request.
    starting: HashMap<u64, String>,
    /// Exec sessions that have not ended, by request.
    sessions: HashMap<u64, watch::Sender<Option<i32>>>,
    is_ending: bool,
}

/// Why the task stops serving a connection.
enum Stop {
    /// Nobody holds the pod any more.
    Dropped,
    /// The shim has ended.
    Gone,
    /// The connection broke.
    Broken,
}

impl Task {
    async fn run(mut self, mut asked: mpsc::Receiver<Question>) {
        loop {
            match self.serve(&mut asked).await {
                Stop::Dropped => return,
                Stop::Gone => break,
                Stop::Broken => {
                    self.pending.clear();
                    self.starting.clear();
                    self.sessions.clear();
                    let gone = tokio::time::timeout(
                        Duration::from_millis(500),
                        self.shim.pidfd.readable(),
                    );
                    if gone.await.is_ok() {
                        break;
                    }
                    match Shim::connect(&self.directory, HELLO).await {
                        Ok(shim) => self.shim = shim,
                        Err(_) => break,
                    }
                }
            }
        }
        self.pending.clear();
        self.sessions.clear();
        if self.is_ending {
            return;
        }
        match bury(self.instance.clone(), self.plan.clone(), self.directory.clone()).await {
            Ok(containers) => {
                self.state.send_replace(PodState { shim: ShimState::Lost, containers });
            }
            Err(error) => {
                tracing::error!(pod = %self.plan.title, %error, "the pod of a lost shim stays");
                self.state.send_modify(|state| state.shim = ShimState::Lost);
            }
        }
    }

    async fn serve(&mut self, asked: &mut mpsc::Receiver<Question>) -> Stop {
        loop {
            tokio::select! {
                message = next(&self.shim.socket, &mut self.shim.inbox) => match message {
                    Ok(message) => self.hear(message),
                    Err(_) => return Stop::Broken,
                },
                question = asked.recv() => match question {
                    Some(question) => {
                        if self.put(question).await.is_err() {
                            return Stop::Broken;
                        }
                    }
                    None => return Stop::Dropped,
                },
                _ = self.shim.pidfd.readable() => return Stop::Gone,
            }
        }
    }

    async fn put(&mut self, question: Question) -> io::Result<()> {
        let id = self.next_id;
        self.next_id += 1;
        match question.call {
            Call::Exec(_) => {
                self.sessions.insert(id, watch::Sender::new(None));
            }
            Call::Start(ref plan) => {
                self.starting.insert(id, plan.name.clone());
            }
            Call::Shutdown => self.is_ending = true,
            Call::Signal { .. }
            | Call::Kill { .. }
            | Call::Freeze { .. }
            | Call::Attach { .. }
            | Call::EndSession { .. }
            | Call::Forget { .. } => {}
        }
        self.pending.insert(id, question.answer);
        let request = Request { id, call: question.call };
        match tokio::time::timeout(HELLO, self.shim.send(&request)).await {
            Ok(sent) => sent,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Hello { .. } => {}
            Message::State { containers } => {
                self.state.send_replace(PodState { shim: ShimState::Alive, containers });
            }
            Message::Reply { id, outcome, descriptors } => self.resolve(id, outcome, descriptors),
            Message::Ended { session, code } => {
                if let Some(ended) = self.sessions.remove(&session) {
                    ended.send_replace(Some(code));
                }
            }
        }
    }

    /// The reply may come before the state that holds the same: whoever starts a container sees it
    /// at once.
    fn note_start(&mut self, name: String, started: &ContainerState) {
        self.state.send_if_modified(|state| {
            let known = state.containers.get(&name);
            let is_newer = known.is_none_or(|known| known.attempt < started.attempt);
            if is_newer {
                state.containers.insert(name, started.clone());
            }
            is_newer
        });
    }

    fn resolve(&mut self, id: u64, outcome: Result<Answer, Failure>, descriptors: usize) {
        let inbox = &mut self.shim.inbox;
        let descriptors: Vec<OwnedFd> =
            inbox.descriptors.drain(..descriptors.min(inbox.descriptors.len())).collect();
        if outcome.is_err() {
            self.sessions.remove(&id);
        }
        if let (Some(name), Ok(Answer::Started(started))) = (self.starting.remove(&id), &outcome) {
            self.note_start(name, started);
        }
        let ended = self.sessions.get(&id).map(watch::Sender::subscribe);
        if let Some(answer) = self.pending.remove(&id) {
            let reply = outcome
                .map(|answer| Reply { answer, descriptors, session: id, ended })
                .map_err(RuntimeError::from);
            // Whoever asked may have stopped waiting.
            let _ = answer.send(reply);
        }
    }
}
