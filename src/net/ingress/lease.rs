//! A request's hold on a pod, and what comes of its answer: over a connection of its own, over one that many share, or from a
//! task that goes on sending while the client takes its time.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::balance::Assigned;
use super::exchange::Broken;
use super::pool::Connection;

/// Why an answer broke off.
#[derive(Debug, thiserror::Error)]
pub enum BrokenOff {
    #[error(transparent)]
    Alone(#[from] Broken),
    #[error(transparent)]
    Shared(#[from] hyper::Error),
    #[error("the connection's task has ended")]
    Apart,
}

/// Until it is dropped the pod counts as busy with the request.
pub struct Lease {
    endpoint: Assigned,
    answer: Answer,
}

enum Answer {
    Alone(Box<Connection>),
    Shared(Incoming),
    Apart(Apart),
}

struct Apart {
    pieces: mpsc::Receiver<Piece>,
    /// When it began.
    hint: SizeHint,
    is_over: bool,
}

struct Piece {
    /// `None`: that was all.
    frame: Option<Result<Frame<Bytes>, BrokenOff>>,
    is_last: bool,
}

impl Lease {
    /// The head of the answer has come over `connection`.
    pub fn alone(endpoint: Assigned, connection: Box<Connection>) -> Lease {
        Lease { endpoint, answer: Answer::Alone(connection) }
    }

    /// Over an HTTP/2 connection, which works by itself.
    pub fn shared(endpoint: Assigned, incoming: Incoming) -> Lease {
        Lease { endpoint, answer: Answer::Shared(incoming) }
    }

    /// The head of the answer has come over `connection` before the request was whole. Whoever reads an answer slowly may still
    /// have something to say: it is sent by a task of its own, and the connection carries no other request.
    pub fn apart(endpoint: Assigned, connection: Box<Connection>) -> Lease {
        let (hint, is_over) = (connection.link.size_hint(), connection.link.is_over());
        let (sender, pieces) = mpsc::channel(1);
        tokio::spawn(pass_on(connection, sender));
        Lease { endpoint, answer: Answer::Apart(Apart { pieces, hint, is_over }) }
    }

    pub fn endpoint(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// The next piece of the answer's body.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match &mut self.answer {
            Answer::Alone(connection) => connection
                .link
                .poll_frame(cx)
                .map(|next| next.map(|frame| frame.map_err(Into::into))),
            Answer::Shared(incoming) => Pin::new(incoming)
                .poll_frame(cx)
                .map(|next| next.map(|frame| frame.map_err(Into::into))),
            Answer::Apart(apart) if apart.is_over => Poll::Ready(None),
            Answer::Apart(apart) => Poll::Ready(match ready!(apart.pieces.poll_recv(cx)) {
                Some(piece) => {
                    apart.is_over = piece.is_last;
                    piece.frame
                }
                None => Some(Err(BrokenOff::Apart)),
            }),
        }
    }

    /// Whether nothing more of the answer is to come.
    pub fn is_over(&self) -> bool {
        match &self.answer {
            Answer::Alone(connection) => connection.link.is_over(),
            Answer::Shared(incoming) => incoming.is_end_stream(),
            Answer::Apart(apart) => apart.is_over,
        }
    }

    /// What is yet to come of the answer's body.
    pub fn size_hint(&self) -> SizeHint {
        match &self.answer {
            Answer::Alone(connection) => connection.link.size_hint(),
            Answer::Shared(incoming) => incoming.size_hint(),
            Answer::Apart(apart) => apart.hint,
        }
    }

    /// The answer was whole: its connection can serve another request.
    pub fn give_back(self) {
        if let Answer::Alone(connection) = self.answer {
            self.endpoint.pool.park(connection);
        }
    }

    /// The connection of an exchange that has switched protocols, what has come since, and the hold on the pod.
    pub fn switch(self) -> Option<(TcpStream, Bytes, Assigned)> {
        let Answer::Alone(connection) = self.answer else { return None };
        let (stream, came) = connection.link.switch();
        Some((stream, came, self.endpoint))
    }
}

/// Hands on what comes of the answer, until all of it is there or nobody wants it, and sends what is left of the request.
async fn pass_on(mut connection: Box<Connection>, sender: mpsc::Sender<Piece>) {
    let link = &mut connection.link;
    while !link.is_over() {
        let mut room = pin!(sender.reserve());
        let room = poll_fn(|cx| {
            link.send(cx);
            room.as_mut().poll(cx)
        });
        let Ok(room) = room.await else { return };
        let frame = tokio::select! {
            frame = poll_fn(|cx| link.poll_frame(cx)) => frame,
            () = sender.closed() => return,
        };
        let is_broken = frame.as_ref().is_some_and(Result::is_err);
        let is_last = is_broken || link.is_over();
        room.send(Piece { frame: frame.map(|frame| frame.map_err(Into::into)), is_last });
        if is_broken {
            return;
        }
    }
    // A pod may answer before it has read everything, and read on.
    poll_fn(|cx| link.poll_sent(cx)).await;
}
