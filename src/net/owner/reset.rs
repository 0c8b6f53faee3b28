//! The end of an instance: every trace of it goes, and what it changed is put back.
//!
//! It never stops at the first failure.

use std::fs;
use std::io;
use std::net::IpAddr;

use nix::errno::Errno;

use super::{Paths, names};
use crate::net::{NetError, NetworkConfig, guard, host, link, nft, step};
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
    if let IpAddr::V4(network) = config.pod_cidr.address() {
        let request =
            link::unreachable_delete(network, config.pod_cidr.prefix(), names.route_metric());
        let outcome =
            socket.exchange(&[request]).and_then(|replies| replies.except(&[Errno::ESRCH]));
        note(outcome.map(drop).map_err(step("delete the route of the pod range")));
    }
    if let IpAddr::V4(network) = config.service_cidr.address() {
        let range = (network, config.service_cidr.prefix());
        let request = link::route_to_services_delete(range, names.route_metric());
        // It goes with its link.
        let outcome =
            socket.exchange(&[request]).and_then(|replies| replies.except(&[Errno::ESRCH]));
        note(outcome.map(drop).map_err(step("delete the route of the Service range")));
    }
    let unguarded = guard::remove(&mut socket, config.pod_cidr);
    note(unguarded.map_err(step("delete the rules that guard the pods' routes")));
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
