//! The end of an instance: every trace of it goes, and what it changed is put back.
//!
//! It never stops at the first failure.

use std::fs;
use std::io;

use netlink_packet_route::route::RouteProtocol;
use nix::errno::Errno;

use super::{Paths, Ranges, names};
use crate::net::{Footprint, NetError, NetworkConfig, host, link, nft, step};
use crate::sys::netns;

/// Removes every trace of the instance; nothing may be serving it.
pub fn reset(config: &NetworkConfig) -> Result<(), NetError> {
    let names = names(config)?;
    let paths = Paths::of(config);
    let mut failures: Vec<NetError> = Vec::new();
    let mut note = |outcome: Result<(), NetError>| failures.extend(outcome.err());
    for entry in fs::read_dir(&paths.pins).into_iter().flatten().flatten() {
        note(netns::unpin(&entry.path()).map_err(step("remove a pin")));
    }
    let mut socket = link::open().map_err(step("open rtnetlink"))?;
    let links = link::links(&mut socket).map_err(step("list links"))?;
    for found in &links {
        if found.name == names.anchor() || found.name.starts_with(&names.ports()) {
            let outcome = socket
                .exchange(&[link::delete(found.index)])
                .and_then(|replies| replies.except(&[Errno::ENODEV]));
            note(outcome.map(drop).map_err(step("delete a link")));
        }
    }
    let mut ranges = Ranges::of(config);
    match Ranges::recorded(&paths.ranges) {
        Ok(recorded) => ranges = recorded.and(&ranges),
        Err(error) => note(Err(step("read the record of ranges")(error))),
    }
    for failure in ranges.remove(&mut socket, &names) {
        note(Err(failure));
    }
    let survey = host::survey(&names, &links, &[], &[]);
    note(
        host::restore(&paths.forwarding, survey.has_neighbours)
            .map_err(step("put forwarding back")),
    );
    note(nft::delete(&names.table()).map_err(step("delete the rules")));
    for directory in [&paths.pins, &paths.directory] {
        let outcome = match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        };
        note(outcome.map_err(step("remove a directory")));
    }
    match failures.is_empty() {
        true => Ok(()),
        false => {
            let reasons: Vec<_> = failures.iter().map(ToString::to_string).collect();
            Err(NetError::Step { step: "reset the network", reason: reasons.join("; ") })
        }
    }
}

/// What would tell routes, rules and settings of the instance that a reset has left behind.
pub fn footprint(config: &NetworkConfig) -> io::Result<Footprint> {
    let paths = Paths::of(config);
    let Ranges { mut pods, services } = Ranges::recorded(&paths.ranges)?.and(&Ranges::of(config));
    pods.extend(services);
    let RouteProtocol::Other(protocol) = link::PROTOCOL else {
        return Err(io::Error::other("our routes carry a number of our own"));
    };
    Ok(Footprint { protocol, ranges: pods, forwarding: host::turned_on(&paths.forwarding)? })
}
