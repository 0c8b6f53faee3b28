//! A deadline that is cheap to move: the timer behind it is touched only when it fires.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

#[derive(Default)]
pub struct Deadline {
    at: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// Sets it unless it is set.
    pub fn set_once(&mut self, span: Duration) {
        if self.at.is_none() {
            self.at = Some(Instant::now() + span);
        }
    }

    /// Sets it whether it is set or not.
    pub fn set(&mut self, at: Instant) {
        self.at = Some(at);
    }

    /// Moves it if it is set.
    pub fn postpone(&mut self, span: Duration) {
        if let Some(at) = &mut self.at {
            *at = Instant::now() + span;
        }
    }

    pub fn clear(&mut self) {
        self.at = None;
    }

    /// Ready when it has passed. Registers for a wake-up otherwise, if it is set.
    pub fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        // An earlier timer is left alone: it fires, finds a later deadline, and is set to that.
        if timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= at {
                return Poll::Ready(());
            }
            timer.as_mut().reset(at);
        }
        Poll::Pending
    }
}
