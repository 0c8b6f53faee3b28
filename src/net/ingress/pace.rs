//! A clock for each stream of an HTTP/2 client: one that takes nothing of its answer for too long is reset.
//!
//! HTTP/1 needs none: a client that reads nothing fills its connection, and [`super::gate`] sees that. In HTTP/2 a client can keep
//! its connection busy and give a stream no room (CVE-2019-9517): hyper then never asks the body for more, and nothing behind
//! it learns that time passes. So the task of the stream looks at it from outside.
//!
//! ```text
//!  body asked for more ──has some──▶ the client's turn ──stall──▶ dropped: RST_STREAM, the pod's connection given up
//!         ▲               └─has none─▶ the pod's turn (its clock is the body's)     │
//!         └───────────────────────── window update ────────────────────────────────┘
//! ```

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::deadline::Deadline;

tokio::task_local! {
    /// Of the stream whose task this is; HTTP/1 connections have none.
    static PACE: Pace;
}

#[derive(Default)]
struct Pace {
    is_clients_turn: Cell<bool>,
    /// How often something was handed over; wraps.
    handed: Cell<u32>,
}

/// Something was handed over for the client: it is its turn to take it.
pub fn hand_over() {
    let _ = PACE.try_with(|pace| {
        pace.is_clients_turn.set(true);
        pace.handed.set(pace.handed.get().wrapping_add(1));
    });
}

/// The client has taken everything that there is.
pub fn await_pod() {
    let _ = PACE.try_with(|pace| pace.is_clients_turn.set(false));
}

/// Runs the streams of one connection, as hyper's executor.
#[derive(Debug, Clone, Copy)]
pub struct Streams {
    pub stall: Duration,
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(PACE.scope(Pace::default(), paced(stream, self.stall)));
    }
}

/// Ends with the stream, or without it when the client has had its turn for `stall`.
async fn paced(stream: impl Future<Output = ()>, stall: Duration) {
    let mut stream = pin!(stream);
    let mut clock = Deadline::default();
    let mut seen = 0;
    poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let (is_clients_turn, handed) =
            PACE.with(|pace| (pace.is_clients_turn.get(), pace.handed.get()));
        if handed != seen || !is_clients_turn {
            clock.clear();
        }
        seen = handed;
        if !is_clients_turn {
            return Poll::Pending;
        }
        clock.set_once(stall);
        clock.poll_passed(cx).map(|()| {
            tracing::debug!(
                seconds = stall.as_secs_f64(),
                "a stream was reset: its client takes nothing"
            );
        })
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, sleep};

    const STALL: Duration = Duration::from_secs(60);

    async fn lasts(stream: impl Future<Output = ()>) -> Duration {
        let started = Instant::now();
        PACE.scope(Pace::default(), paced(stream, STALL)).await;
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_only_when_it_is_the_clients_turn_for_too_long() {
        let forever = std::future::pending::<()>;
        let never_taken = async {
            hand_over();
            forever().await;
        };
        assert_eq!(lasts(never_taken).await.as_secs(), STALL.as_secs());
        let slowly_taken = async {
            for _piece in 0..10 {
                hand_over();
                sleep(STALL - Duration::from_secs(1)).await;
            }
        };
        assert_eq!(lasts(slowly_taken).await, (STALL - Duration::from_secs(1)) * 10);
        let pod_is_slow = async {
            sleep(STALL * 10).await;
            hand_over();
            await_pod();
            sleep(STALL * 10).await;
        };
        assert_eq!(lasts(pod_is_slow).await, STALL * 20);
        let given_up_after_a_pause = async {
            hand_over();
            await_pod();
            sleep(STALL * 2).await;
            hand_over();
            forever().await;
        };
        assert_eq!(lasts(given_up_after_a_pause).await.as_secs(), STALL.as_secs() * 3);
    }

    #[test]
    fn outside_of_a_stream_nothing_happens() {
        hand_over();
        await_pod();
    }
}
