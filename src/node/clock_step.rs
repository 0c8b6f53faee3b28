//! What was planned by the wall clock moves along when somebody sets it (pure).
//!
//! Kubernetes' times are wall-clock times, so that is what a pod's plans are made of. A host that gets its time from the
//! network minutes after its boot would otherwise kill what has grace left, or wait hours for a back-off of
//! seconds. What has happened is rewritten in so far as something is still counted from it.

use std::time::Duration;

use super::lifecycle::{Container, ImageState, PodState, Run};
use crate::model::time::Timestamp;

/// Less is no step: the two clocks are not read in one moment, and a clock may be slewed.
const TOLERANCE: Duration = Duration::from_secs(2);

/// Both clocks, read together.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    pub wall: Timestamp,
    /// Goes on whatever is set, also while the host sleeps (CLOCK_BOOTTIME).
    pub uptime: Duration,
}

/// How far the wall clock was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shift {
    Forward(Duration),
    Back(Duration),
}

impl Reading {
    /// How far the clock was set since `before`; `None` when it was not.
    pub fn step_since(self, before: Reading) -> Option<Shift> {
        let expected = before.wall.plus(self.uptime.saturating_sub(before.uptime));
        let forward = self.wall.since(expected);
        let back = expected.since(self.wall);
        if forward > TOLERANCE {
            Some(Shift::Forward(forward))
        } else if back > TOLERANCE {
            Some(Shift::Back(back))
        } else {
            None
        }
    }
}

impl Shift {
    pub fn moment(self, at: &mut Timestamp) {
        *at = match self {
            Shift::Forward(by) => at.plus(by),
            Shift::Back(by) => at.minus(by),
        };
    }

    /// Every moment that something of the pod waits for or is counted from.
    pub fn pod(self, state: &mut PodState) {
        let setback = state.setback.iter_mut().map(|setback| &mut setback.until);
        let waits = state.concluded_stop_by.iter_mut().chain(setback);
        waits.for_each(|at| self.moment(at));
        state.containers.values_mut().for_each(|container| self.container(container));
    }

    fn container(self, container: &mut Container) {
        match &mut container.run {
            Run::Idle => {}
            Run::Running(running) => {
                let doom = running.doom.as_mut().map(|doom| &mut doom.kill_at);
                let moments =
                    running.stopped_at.iter_mut().chain(&mut running.killed_at).chain(doom);
                moments.for_each(|at| self.moment(at));
            }
            Run::Ended(ended) => {
                self.moment(&mut ended.finished_at);
                ended.started_at.iter_mut().for_each(|at| self.moment(at));
            }
        }
        if let ImageState::Missing(missing) = &mut container.image {
            self.moment(&mut missing.failed_at);
            self.moment(&mut missing.retry_at);
        }
        container.refused.iter_mut().for_each(|refused| self.moment(&mut refused.retry_at));
        container.backoff.shift(self);
        container.image_backoff.shift(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::lifecycle::{EndReason, Ended, Setback};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix(seconds, 0)
    }

    #[test]
    fn a_step_is_what_the_wall_clock_did_and_time_did_not() {
        let reading =
            |wall, uptime| Reading { wall: at(wall), uptime: Duration::from_secs(uptime) };
        let before = reading(1000, 50);
        for (now, expected) in [
            (reading(1010, 60), None),
            // An hour of sleep, or of nothing to do.
            (reading(4600, 3650), None),
            (reading(1012, 60), None),
            (reading(4610, 60), Some(Shift::Forward(Duration::from_secs(3600)))),
            (reading(410, 60), Some(Shift::Back(Duration::from_secs(600)))),
        ] {
            assert_eq!(now.step_since(before), expected, "{now:?}");
        }
    }

    #[test]
    fn a_backoff_lasts_as_long_as_it_would_have_whatever_the_clock_is_set_to() {
        for shift in
            [Shift::Forward(Duration::from_secs(3600)), Shift::Back(Duration::from_secs(3600))]
        {
            let mut container = Container::default();
            container.backoff.raise(at(10_000), at(10_000));
            container.run = Run::Ended(Ended {
                attempt: 1,
                exit_code: 1,
                signal: None,
                reason: EndReason::Error,
                message: String::new(),
                started_at: Some(at(10_000)),
                finished_at: at(10_003),
            });
            let ready_at = |container: &Container| match &container.run {
                Run::Ended(ended) => container.backoff.ready_at(ended.finished_at),
                Run::Idle | Run::Running(_) => panic!("it has ended"),
            };
            let mut expected = ready_at(&container);
            assert_eq!(expected, at(10_013));
            let mut state =
                PodState { containers: [("web".into(), container)].into(), ..PodState::default() };
            state.setback = Some(Setback { until: at(10_020), of_teardown: false });
            shift.pod(&mut state);
            shift.moment(&mut expected);
            assert_eq!(ready_at(&state.containers["web"]), expected);
            let mut setback = at(10_020);
            shift.moment(&mut setback);
            assert_eq!(state.setback.map(|s| s.until), Some(setback));
        }
    }
}
