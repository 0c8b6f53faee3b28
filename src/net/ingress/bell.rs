//! A waker that remembers that it was used, and passes it on to whoever waits: so that work is done only when something has
//! happened to it, whatever else its task is woken for.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

#[derive(Default)]
struct Bell {
    has_rung: AtomicBool,
    waiting: AtomicWaker,
}

impl Bell {
    /// Whether it has rung since this was last asked.
    fn has_rung(&self) -> bool {
        self.has_rung.load(Ordering::SeqCst) && self.has_rung.swap(false, Ordering::SeqCst)
    }

    /// Rings through to `waker`. It may have rung before: to be asked afterwards.
    fn waits(&self, waker: &Waker) {
        self.waiting.register(waker);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Bell>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Bell>) {
        self.has_rung.store(true, Ordering::SeqCst);
        self.waiting.wake();
    }
}

/// A future that is polled only when it was woken itself. Those that lock what all connections share would otherwise do so
/// whenever anything happens on one.
pub struct Seldom<F> {
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    ringing: Waker,
}

impl<F: Future> Seldom<F> {
    pub fn new(future: F) -> Seldom<F> {
        let bell = Arc::new(Bell { has_rung: AtomicBool::new(true), ..Bell::default() });
        Seldom { future: Box::pin(future), ringing: Waker::from(Arc::clone(&bell)), bell }
    }
}

impl<F: Future> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let seldom = &mut *self;
        seldom.bell.waits(cx.waker());
        match seldom.bell.has_rung() {
            true => seldom.future.as_mut().poll(&mut Context::from_waker(&seldom.ringing)),
            false => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_polled_seldom_is_polled_when_it_must_be() {
        let (notify, mut polls) = (Arc::new(Notify::new()), 0);
        let mut told = Box::pin(notify.notified());
        let mut seldom = Seldom::new(poll_fn(|cx| {
            polls += 1;
            told.as_mut().poll(cx)
        }));
        let noop = &mut Context::from_waker(Waker::noop());
        for _ in 0..10 {
            assert!(Pin::new(&mut seldom).poll(noop).is_pending());
        }
        let teller = Arc::clone(&notify);
        tokio::spawn(async move { teller.notify_one() });
        let (soon, started) = (Duration::from_secs(30), tokio::time::Instant::now());
        tokio::time::timeout(soon, &mut seldom).await.unwrap();
        assert_eq!(started.elapsed(), Duration::ZERO, "its own waker wakes the task");
        drop(seldom);
        assert_eq!(polls, 2);
    }
}
