//! What of a running container must not happen twice when the daemon is killed in between: one small file each.
//!
//! Hooks that are done stay done, a stop signal is not sent again (a second SIGTERM makes many programs drop what
//! they were about to finish), a doomed container keeps the moment at which it is killed, one that crashes again and
//! again waits as long as it would have. A hook that was under way
//! begins anew, which Kubernetes promises: hooks run at least once. The files lie where a reboot ends them, as it
//! ends the containers. It decides nothing.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::model::time::Timestamp;
use crate::node::lifecycle::{Container, Doom, HookState, Run};
use crate::node::restart::Backoff;
use crate::node::volume;
use crate::sys::files;

/// Larger files are not ours.
const MOST_BYTES: u64 = 64 << 10;

/// Of one attempt of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Milestones {
    attempt: u32,
    post_start: bool,
    pre_stop: bool,
    stopped_at: Option<Timestamp>,
    doom: Option<Doom>,
    #[serde(default)]
    backoff: Backoff,
}

impl Milestones {
    /// Of a container that runs.
    pub fn of(container: &Container) -> Option<Milestones> {
        let Run::Running(running) = &container.run else { return None };
        Some(Milestones {
            attempt: running.attempt,
            post_start: running.post_start == HookState::Done,
            pre_stop: running.pre_stop == HookState::Done,
            stopped_at: running.stopped_at,
            doom: running.doom.clone(),
            backoff: container.backoff,
        })
    }

    /// Brings what was reached into an attempt that an earlier daemon left running.
    pub fn restore(self, container: &mut Container) {
        if container.attempt() != Some(self.attempt) {
            return;
        }
        if container.backoff == Backoff::default() {
            container.backoff = self.backoff;
        }
        let Run::Running(running) = &mut container.run else { return };
        if self.post_start {
            running.post_start = HookState::Done;
        }
        if self.pre_stop {
            running.pre_stop = HookState::Done;
        }
        running.stopped_at = self.stopped_at;
        running.doom = self.doom;
    }

    /// Nothing is recorded of a container without hooks that never crashed and that nobody asked to end.
    pub fn is_empty(&self) -> bool {
        let Milestones { attempt: _, post_start, pre_stop, stopped_at, doom, backoff } = self;
        let is_quiet = stopped_at.is_none() && doom.is_none() && *backoff == Backoff::default();
        !post_start && !pre_stop && is_quiet
    }

    /// What was recorded; an unreadable or absent file says nothing.
    pub fn read(directory: &Path, container: &str) -> Option<Milestones> {
        let directory = File::open(directory).ok()?;
        let bytes = files::read(directory.as_fd(), container, MOST_BYTES).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    pub fn write(&self, directory: &Path, container: &str) -> io::Result<()> {
        volume::private_dir(directory)?;
        let directory = File::open(directory)?;
        files::replace(directory.as_fd(), container, &serde_json::to_vec(self)?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::node::lifecycle::Running;

    #[test]
    fn what_was_reached_is_read_back_for_the_same_attempt_only() {
        let place =
            std::env::temp_dir().join(format!("joey-milestones-{}", crate::sys::clock::uuid()));
        let now = Timestamp::from_unix(1_800_000_000, 0);
        let doom = Doom { message: "m".into(), kill_at: now.plus(Duration::from_secs(9)) };
        let running = Running {
            post_start: HookState::Done,
            pre_stop: HookState::UnderWay,
            doom: Some(doom.clone()),
            stopped_at: Some(now),
            ..Running::new(3, now)
        };
        let mut backoff = Backoff::default();
        backoff.raise(now, now);
        let container = Container { run: Run::Running(running), backoff, ..Container::default() };
        assert_eq!(Milestones::read(&place, "web"), None);
        Milestones::of(&container).unwrap().write(&place, "web").unwrap();

        let fresh = |attempt| Container {
            run: Run::Running(Running {
                post_start: HookState::Due,
                pre_stop: HookState::Due,
                ..Running::new(attempt, now)
            }),
            ..Container::default()
        };
        let restored = |mut into: Container| {
            Milestones::read(&place, "web").unwrap().restore(&mut into);
            into
        };
        // The hook that was under way begins anew.
        let mut expected = container.clone();
        if let Run::Running(running) = &mut expected.run {
            running.pre_stop = HookState::Due;
        }
        assert_eq!(restored(fresh(3)), expected);
        assert_eq!(restored(fresh(4)), fresh(4));
        assert!(Milestones::of(&fresh(4)).unwrap().is_empty());
        std::fs::remove_dir_all(&place).unwrap();
    }
}
