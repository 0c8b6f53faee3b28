//! The work of a connection to a pod, done by the task that waits for it.
//!
//! hyper's connection has to be polled for anything to be written or read. In a task of its own it would be woken for each
//! request and wake its asker for each answer: two turns of the scheduler a request, on another core with another cache if
//! things go badly. Whoever waits for an answer polls the connection as well; one that nobody waits for, in the pool, rests.
//!
//! ```text
//!  socket ──wakes──▶ Bell ──rings through──▶ the task that waits
//!                     │  during a turn: is remembered, and the turn goes round once more
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::bell::Bell;

/// A connection that works to its end when it is polled.
type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Rounds of one turn. What is not done then waits for the task's next turn, so that others have theirs.
const ROUNDS: usize = 16;

/// What keeps a connection going.
pub struct Drive {
    /// `None`: it is over, or a task of its own sees to it.
    work: Option<Work>,
    bell: Arc<Bell>,
    /// Rings it.
    ringing: Waker,
}

impl Drive {
    pub fn new(work: impl Future<Output = ()> + Send + 'static) -> Drive {
        let bell = Arc::new(Bell::default());
        Drive { work: Some(Box::pin(work)), ringing: Waker::from(Arc::clone(&bell)), bell }
    }

    /// Polls `wanted`, which the connection brings about, and the connection in turn until neither gets any further.
    pub fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut wanted: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if self.work.is_none() {
            return wanted(cx);
        }
        let ringing = self.ringing.clone();
        let mut bell_cx = Context::from_waker(&ringing);
        // The task runs already: it need not be woken for what it does itself.
        self.bell.nobody_waits();
        for _ in 0..ROUNDS {
            self.bell.has_rung();
            if let Poll::Ready(done) = wanted(&mut bell_cx) {
                return Poll::Ready(done);
            }
            self.work(&mut bell_cx);
            if self.bell.has_rung() {
                continue;
            }
            self.bell.waits(cx.waker());
            // It may have rung before somebody stood there to hear it.
            if !self.bell.has_rung() {
                return Poll::Pending;
            }
            self.bell.nobody_waits();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Lets the connection see what came while nobody waited for it: an end, as a rule.
    pub fn look(&mut self) {
        self.bell.nobody_waits();
        let ringing = self.ringing.clone();
        self.work(&mut Context::from_waker(&ringing));
    }

    /// From here on the connection works whether anybody waits or not.
    pub fn detach(&mut self) {
        if let Some(work) = self.work.take() {
            tokio::spawn(work);
        }
    }

    fn work(&mut self, cx: &mut Context<'_>) {
        if self.work.as_mut().is_some_and(|work| work.as_mut().poll(cx).is_ready()) {
            self.work = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;

    /// A connection that answers each question with the next number, until there are no more questions.
    fn counting() -> (mpsc::Sender<()>, mpsc::Receiver<u32>, Drive) {
        let (ask, mut questions) = mpsc::channel(1);
        let (tell, answers) = mpsc::channel(1);
        let drive = Drive::new(async move {
            let mut number = 0;
            while questions.recv().await.is_some() {
                number += 1;
                let _ = tell.send(number).await;
            }
        });
        (ask, answers, drive)
    }

    async fn next(drive: &mut Drive, answers: &mut mpsc::Receiver<u32>) -> Option<u32> {
        poll_fn(|cx| drive.poll(cx, |cx| answers.poll_recv(cx))).await
    }

    #[tokio::test]
    async fn who_waits_does_the_work_without_being_woken() {
        let (ask, mut answers, mut drive) = counting();
        ask.send(()).await.unwrap();
        let noop = &mut Context::from_waker(Waker::noop());
        // One turn is enough: a second one would need a waker that wakes.
        assert_eq!(drive.poll(noop, |cx| answers.poll_recv(cx)), Poll::Ready(Some(1)));
        assert!(drive.poll(noop, |cx| answers.poll_recv(cx)).is_pending());
        drop(ask);
        assert_eq!(next(&mut drive, &mut answers).await, None);
        assert!(drive.work.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_from_elsewhere_wakes_who_waits() {
        let (ask, mut answers, mut drive) = counting();
        // It only moves when nobody is woken by anything else.
        let started = tokio::time::Instant::now();
        for number in 1..=3 {
            let ask = ask.clone();
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                ask.send(()).await.unwrap();
            });
            let soon = Duration::from_secs(30);
            let answer = tokio::time::timeout(soon, next(&mut drive, &mut answers)).await;
            assert_eq!((answer.unwrap(), started.elapsed()), (Some(number), Duration::ZERO));
        }
    }

    #[tokio::test]
    async fn a_connection_that_always_has_more_to_do_lets_others_have_their_turn() {
        let mut drive = Drive::new(poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
        let mut turns = 0;
        let forever = poll_fn(|cx| {
            turns += 1;
            drive.poll(cx, |_| Poll::<()>::Pending)
        });
        tokio::select! {
            biased;
            () = forever => {}
            () = tokio::task::yield_now() => {}
        }
        assert!(turns >= 1);
    }

    #[tokio::test]
    async fn a_detached_connection_works_by_itself_and_a_resting_one_is_looked_at() {
        let (ask, mut answers, mut drive) = counting();
        drive.detach();
        ask.send(()).await.unwrap();
        assert_eq!(next(&mut drive, &mut answers).await, Some(1));
        let (ask, mut answers, mut drive) = counting();
        ask.send(()).await.unwrap();
        drive.look();
        assert_eq!(answers.try_recv(), Ok(1));
        drop(ask);
        drive.look();
        assert!(drive.work.is_none());
    }
}
