//! What of a running container must not happen twice when the daemon is killed in between: one small file each.
//!
//! Hooks that are done stay done, a stop signal is not sent again (a second SIGTERM makes many programs drop what
//! they were about to finish), a doomed container keeps the moment at which it is killed. A hook that was under way
//! begins anew, which Kubernetes promises: hooks run at least once. The files lie where a reboot ends them, as it
//! ends the containers. It decides nothing.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::model::time::Timestamp;
use crate::node::lifecycle::{Doom, HookState, Running};
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
}

impl Milestones {
    pub fn of(running: &Running) -> Milestones {
        Milestones {
            attempt: running.attempt,
            post_start: running.post_start == HookState::Done,
            pre_stop: running.pre_stop == HookState::Done,
            stopped_at: running.stopped_at,
            doom: running.doom.clone(),
        }
    }

    /// Brings what was reached into an attempt that an earlier daemon left running.
    pub fn restore(self, running: &mut Running) {
        if self.attempt != running.attempt {
            return;
        }
        if self.post_start {
            running.post_start = HookState::Done;
        }
        if self.pre_stop {
            running.pre_stop = HookState::Done;
        }
        running.stopped_at = self.stopped_at;
        running.doom = self.doom;
    }

    /// Nothing is recorded of a container without hooks that nobody asked to end.
    pub fn is_empty(&self) -> bool {
        let Milestones { attempt: _, post_start, pre_stop, stopped_at, doom } = self;
        !post_start && !pre_stop && stopped_at.is_none() && doom.is_none()
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
        assert_eq!(Milestones::read(&place, "web"), None);
        Milestones::of(&running).write(&place, "web").unwrap();

        let fresh = |attempt| Running {
            post_start: HookState::Due,
            pre_stop: HookState::Due,
            ..Running::new(attempt, now)
        };
        let mut again = fresh(3);
        Milestones::read(&place, "web").unwrap().restore(&mut again);
        // The hook that was under way begins anew.
        let expected = Running { pre_stop: HookState::Due, ..running };
        assert_eq!(again, expected);
        let mut next = fresh(4);
        Milestones::read(&place, "web").unwrap().restore(&mut next);
        assert_eq!(next, fresh(4));
        assert!(Milestones::of(&next).is_empty());
        std::fs::remove_dir_all(&place).unwrap();
    }
}
