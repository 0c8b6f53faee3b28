//! Notices when a pod's link or pin is changed by hand, and puts it back.
//!
//! The kernel tells: rtnetlink reports links that go away or go down, and the table of mounts becomes readable out of
//! band when a pin is unmounted (proc_pid_mountinfo(5)). A thread only listens and names places; the owner, who knows
//! what should be there, looks and repairs. Rules are not its business.
//!
//! ```text
//! rtnetlink, mountinfo ──▶ watcher ──Command::Inspect{places}──▶ owner ──▶ Repaired ──▶ the node's Event
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc;

use super::attach::{Fabric, Prepared};
use super::names::Names;
use super::netlink::Socket;
use super::owner::Command;
use super::{NetError, link, step};
use crate::sys::netns;

/// Changes come in bursts (an attachment alone makes four); one look serves them all.
const GATHER: Duration = Duration::from_millis(50);

/// What was found and put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    pub pod: String,
    pub what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The host's end, and so the pod's, was gone.
    LinkRemoved,
    /// The host's end was down.
    LinkDown,
    /// The pod's end was down.
    PodLinkDown,
    /// The namespace was no longer pinned.
    Unpinned,
}

impl What {
    /// As an Event says it.
    pub fn sentence(self) -> &'static str {
        match self {
            What::LinkRemoved => {
                "The pod's network link was removed from outside and has been made anew"
            }
            What::LinkDown => "The pod's network link was set down from outside and is up again",
            What::PodLinkDown => "The link inside the pod was set down and is up again",
            What::Unpinned => {
                "The pod's network namespace was unmounted from outside and is pinned again"
            }
        }
    }
}

/// Where to look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Offsets of pods in the range, or everywhere after a notice was lost.
    pub links: BTreeSet<u32>,
    pub all_links: bool,
    pub pins: bool,
}

/// A link as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkState {
    pub index: u32,
    pub is_up: bool,
    /// The other end is up as well.
    pub has_carrier: bool,
}

/// What is wrong with the link of a pod that should have one.
pub fn wrong(found: Option<LinkState>) -> Option<What> {
    match found {
        None => Some(What::LinkRemoved),
        Some(LinkState { is_up: false, .. }) => Some(What::LinkDown),
        Some(LinkState { has_carrier: false, .. }) => Some(What::PodLinkDown),
        Some(_) => None,
    }
}

/// Looks at the link of the pod at `address` and repairs it.
pub fn repair_link(
    fabric: &mut Fabric,
    pod: &str,
    offset: u32,
    address: std::net::Ipv4Addr,
) -> Result<Option<What>, NetError> {
    let name = fabric.names.port(offset);
    let answers = fabric
        .socket
        .exchange(&[link::get(&name)])
        .and_then(|replies| replies.except(&[Errno::ENODEV]))
        .map_err(step("look at the pod's link"))?;
    let found = answers.first().and_then(|reply| link::state(reply));
    let wrong = wrong(found);
    let inside = |fabric: &Fabric| {
        Prepared::from_pin(&fabric.pin(pod)).map_err(step("enter the pod's namespace"))
    };
    match (wrong, found) {
        (Some(What::LinkRemoved), _) => {
            let mut prepared = inside(fabric)?;
            fabric.connect(offset, address, &mut prepared)?;
        }
        (Some(What::LinkDown), Some(state)) => fabric.admit(&name, state.index, address)?,
        (Some(What::PodLinkDown), _) => {
            let mut prepared = inside(fabric)?;
            fabric.inside(address, &mut prepared).map_err(step("configure the pod's link"))?;
        }
        (Some(What::LinkDown | What::Unpinned), _) | (None, _) => {}
    }
    Ok(wrong)
}

/// The namespaces of pods, held open so that a lost pin can be made again.
#[derive(Debug, Default)]
pub struct Held(BTreeMap<String, OwnedFd>);

impl Held {
    /// Whatever is pinned at `pin` now is the pod's.
    pub fn take(&mut self, pod: &str, pin: &Path) {
        match netns::open(pin) {
            Ok(namespace) => drop(self.0.insert(pod.to_owned(), namespace)),
            Err(error) => tracing::warn!(pod, %error, "the namespace cannot be held"),
        }
    }

    pub fn has(&self, pod: &str) -> bool {
        self.0.contains_key(pod)
    }

    pub fn release(&mut self, pod: &str) {
        self.0.remove(pod);
    }

    /// Pins every namespace whose pin is gone; the pods.
    pub fn pin_again(&self, fabric: &Fabric) -> Vec<String> {
        let lost = self.0.iter().filter(|(pod, _)| !netns::is_pinned(&fabric.pin(pod)));
        lost.filter_map(|(pod, namespace)| match netns::pin(namespace.as_fd(), &fabric.pin(pod)) {
            Ok(()) => Some(pod.clone()),
            Err(error) => {
                tracing::warn!(pod, %error, "a lost pin could not be made again");
                None
            }
        })
        .collect()
    }
}

/// Starts the thread that listens. It ends when the owner has gone, which closes `alive`'s other end.
pub fn watch(names: Names, commands: mpsc::WeakSender<Command>, alive: OwnedFd) -> io::Result<()> {
    let links = link::subscribe()?;
    let mounts = File::open("/proc/thread-self/mountinfo")?;
    let mut watcher = Watcher { names, links, mounts };
    thread::Builder::new().name("net-drift".into()).spawn(move || {
        while let Some(places) = watcher.next(&alive) {
            if places == Places::default() {
                continue;
            }
            let Some(commands) = commands.upgrade() else { return };
            if commands.blocking_send(Command::Inspect { places }).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

struct Watcher {
    names: Names,
    links: Socket,
    mounts: File,
}

impl Watcher {
    /// Waits for notices and gathers those that follow closely; `None` when the owner has gone.
    fn next(&mut self, alive: &OwnedFd) -> Option<Places> {
        let mut places = Places::default();
        let mut wait = PollTimeout::NONE;
        loop {
            let (ended, link, mount) = {
                let mut entries = [
                    PollFd::new(alive.as_fd(), PollFlags::POLLIN),
                    PollFd::new(self.links.as_fd(), PollFlags::POLLIN),
                    PollFd::new(self.mounts.as_fd(), PollFlags::POLLPRI),
                ];
                match poll(&mut entries, wait) {
                    Ok(0) => return Some(places),
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(error) => {
                        tracing::error!(%error, "changes of links by hand go unnoticed from here on");
                        return None;
                    }
                }
                let is =
                    |entry: &PollFd<'_>| entry.revents().is_some_and(|found| !found.is_empty());
                (is(&entries[0]), is(&entries[1]), is(&entries[2]))
            };
            if ended {
                return None;
            }
            places.pins |= mount;
            if link {
                self.hear(&mut places);
            }
            if places != Places::default() {
                wait = PollTimeout::try_from(GATHER).unwrap_or(PollTimeout::ZERO);
            }
        }
    }

    fn hear(&mut self, places: &mut Places) {
        match self.links.heard() {
            Ok(notices) => {
                for notice in notices {
                    let offset =
                        link::name_of(&notice.payload).and_then(|name| self.names.offset(&name));
                    places.links.extend(offset);
                }
            }
            // Some were lost.
            Err(_) => places.all_links = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_right_only_when_both_ends_are_up() {
        let state = |is_up, has_carrier| Some(LinkState { index: 1, is_up, has_carrier });
        for (found, expected) in [
            (None, Some(What::LinkRemoved)),
            (state(false, false), Some(What::LinkDown)),
            (state(true, false), Some(What::PodLinkDown)),
            (state(true, true), None),
        ] {
            assert_eq!(wrong(found), expected);
        }
    }
}
