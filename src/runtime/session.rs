//! A process's streams in the daemon: pipes and terminals as tokio reads and writes them.
//!
//! It never interprets what flows.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::link::{Link, Reply};
use super::protocol::{Answer, Call};
use super::{ContainerPhase, PodState, RuntimeError, Session, SessionControl, ShimState};
use crate::sys::{pty, readiness};

/// The session of an exec.
pub fn exec(
    reply: Reply,
    ended: watch::Receiver<Option<i32>>,
    link: Arc<Link>,
) -> Result<Session, RuntimeError> {
    let end = End::Exec { ended, session: reply.session, link };
    let streams = Descriptors::sort(reply)?;
    let is_terminal = streams.terminal.is_some();
    streams.session(is_terminal, true, end)
}

/// The session of an attach.
pub fn attach(
    reply: Reply,
    stdin: bool,
    container: String,
    state: watch::Receiver<PodState>,
) -> Result<Session, RuntimeError> {
    let attempt = state.borrow().containers.get(&container).map_or(0, |found| found.attempt);
    let end = End::Attach { container, attempt, state };
    // What a terminal shows comes through the shim, which logs it too; only input goes there
    // directly.
    Descriptors::sort(reply)?.session(false, stdin, end)
}

struct Descriptors {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
}

impl Descriptors {
    fn sort(reply: Reply) -> Result<Descriptors, RuntimeError> {
        let Answer::Streams { stdin, stdout, stderr, terminal } = reply.answer else {
            return Err(RuntimeError::unexpected("open streams"));
        };
        let mut all = reply.descriptors.into_iter();
        let mut take = |is_there: bool| match is_there {
            true => all.next().map(Some).ok_or(RuntimeError::unexpected("open streams")),
            false => Ok(None),
        };
        Ok(Descriptors {
            stdin: take(stdin)?,
            stdout: take(stdout)?,
            stderr: take(stderr)?,
            terminal: take(terminal)?,
        })
    }

    fn session(
        self,
        reads_terminal: bool,
        writes_terminal: bool,
        end: End,
    ) -> Result<Session, RuntimeError> {
        let failed = |error: io::Error| RuntimeError::step("open streams", error);
        let mut session = Session {
            stdin: None,
            stdout: None,
            stderr: None,
            control: Box::new(Control { terminal: None, end: end.clone() }),
        };
        if let Some(stdin) = self.stdin {
            session.stdin = Some(Box::new(pipe::Sender::from_owned_fd(stdin).map_err(failed)?));
        }
        if let Some(stdout) = self.stdout {
            session.stdout = Some(Box::new(pipe::Receiver::from_owned_fd(stdout).map_err(failed)?));
        }
        if let Some(stderr) = self.stderr {
            session.stderr = Some(Box::new(pipe::Receiver::from_owned_fd(stderr).map_err(failed)?));
        }
        if let Some(terminal) = self.terminal {
            let terminal = Terminal::new(terminal).map_err(failed)?;
            if reads_terminal {
                session.stdout = Some(Box::new(terminal.clone()));
            }
            if writes_terminal {
                session.stdin = Some(Box::new(terminal.clone()));
            }
            session.control = Box::new(Control { terminal: Some(terminal), end });
        }
        Ok(session)
    }
}

/// The master of a terminal.
#[derive(Clone)]
struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    fn new(master: OwnedFd) -> io::Result<Terminal> {
        let flags = rustix::fs::fcntl_getfl(&master)?;
        rustix::fs::fcntl_setfl(&master, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Terminal(Arc::new(readiness::watch(master)?)))
    }
}

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let read = guard.try_io(|master| {
                Ok(rustix::io::read(master.as_fd(), buffer.initialize_unfilled())?)
            });
            match read {
                Ok(Ok(length)) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                // The last process has closed its side.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            match guard.try_io(|master| Ok(rustix::io::write(master.as_fd(), bytes)?)) {
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Where a session's end shows.
#[derive(Clone)]
enum End {
    Exec { ended: watch::Receiver<Option<i32>>, session: u64, link: Arc<Link> },
    Attach { container: String, attempt: u32, state: watch::Receiver<PodState> },
}

struct Control {
    terminal: Option<Terminal>,
    end: End,
}

impl SessionControl for Control {
    fn resize(&self, columns: u16, rows: u16) {
        if let Some(Terminal(master)) = &self.terminal {
            // A terminal that has hung up has no size any more.
            let _ = pty::resize(master.as_fd(), columns, rows);
        }
    }

    fn kill(&self) -> BoxFuture<'_, Result<(), RuntimeError>> {
        let end = self.end.clone();
        Box::pin(async move {
            match end {
                End::Exec { session, link, .. } => {
                    link.ask(Call::EndSession { session }).await.map(drop)
                }
                End::Attach { .. } => Ok(()),
            }
        })
    }

    fn wait(&self) -> BoxFuture<'_, Result<i32, RuntimeError>> {
        let end = self.end.clone();
        Box::pin(async move {
            match end {
                End::Exec { mut ended, .. } => match ended.wait_for(Option::is_some).await {
                    Ok(code) => code.ok_or(RuntimeError::ShimLost),
                    Err(_) => Err(RuntimeError::ShimLost),
                },
                End::Attach { container, attempt, mut state } => {
                    let is_over = |state: &PodState| {
                        state.shim == ShimState::Lost
                            || state.containers.get(&container).is_none_or(|found| {
                                found.attempt != attempt
                                    || matches!(found.phase, ContainerPhase::Exited(_))
                            })
                    };
                    let state = state.wait_for(is_over).await;
                    let state = state.map_err(|_| RuntimeError::ShimLost)?;
                    match state.containers.get(&container).map(|found| &found.phase) {
                        Some(ContainerPhase::Exited(exit)) => Ok(exit.code),
                        Some(ContainerPhase::Running { .. }) | None => {
                            Err(RuntimeError::NotRunning(container.clone()))
                        }
                    }
                }
            }
        })
    }
}
