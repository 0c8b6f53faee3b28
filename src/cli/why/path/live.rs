//! `--live`: the connection is tried from inside the pod, and watched where it should arrive.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, bail};

use super::facts::Facts;
use super::ways::Way;
use crate::net::Protocol;
use crate::net::dns::{self, ask};
use crate::net::trace::{self, Attempt, Outcome, Seen};
use crate::sys::netns;

const AS_ROOT: &str =
    "entering the pod's network namespace: run `joey why … --live` as root on the host of the pods";

/// Tries the connection of `source`'s pod along `ways`, which differ in their destination only.
///
/// # Errors
/// We may not enter, or the protocol cannot be tried.
pub fn attempt(
    facts: &Facts,
    run_dir: &Path,
    source: &str,
    ways: &[Way],
    protocol: Protocol,
) -> anyhow::Result<Seen> {
    let Some(SocketAddr::V4(to)) = ways.first().map(|way| way.asked) else {
        bail!("only IPv4 can be tried: pods have no other addresses");
    };
    let pin_of = |at: SocketAddr| facts.uids.get(&at.ip()).map(|uid| trace::pin(run_dir, uid));
    let watched = ways.iter().filter_map(|way| way.destination);
    let watched = watched.filter_map(|at| Some((pin_of(at)?, at))).collect();
    let from = trace::pin(run_dir, source);
    let seen = trace::attempt(&Attempt { from, to, protocol, watched });
    seen.context(match protocol {
        Protocol::Sctp => {
            "trying SCTP, which not every kernel speaks, as root on the host of the pods"
        }
        Protocol::Tcp | Protocol::Udp => AS_ROOT,
    })
}

/// What was seen, in words, and whether the packet came through.
pub fn told(seen: &Seen, names: impl Fn(SocketAddr) -> String) -> (String, bool) {
    let got = seen.arrived.map(names);
    let said = match (seen.outcome, got, &seen.left_by) {
        (Outcome::Answered, Some(who), _) => format!("{who} got the first packet and answered"),
        (Outcome::Answered, None, Some(link)) => {
            format!("the packet left by {link} and was answered")
        }
        (Outcome::Answered, None, None) => "answered".to_owned(),
        (Outcome::Refused, Some(who), _) => {
            format!("{who} got the first packet and refused it: nothing listens there")
        }
        (outcome, Some(who), _) => {
            format!("{who} got the first packet; {}", aftermath(outcome))
        }
        (outcome, None, Some(link)) => format!("the packet left by {link}; {}", aftermath(outcome)),
        (outcome, None, None) => format!("no packet arrived anywhere; {}", aftermath(outcome)),
    };
    let came_through =
        seen.outcome == Outcome::Answered || seen.arrived.is_some() || seen.left_by.is_some();
    (said, came_through)
}

fn aftermath(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Answered => "it was answered",
        Outcome::Refused => "the pod was refused at once",
        Outcome::Unreachable => "the pod was told that the way is prohibited",
        Outcome::Silence => "the pod heard nothing for two seconds",
    }
}

/// What the pod hears when it asks DNS for `name`, in words, and whether that is an address.
///
/// # Errors
/// We may not enter.
pub fn asked_for(
    facts: &Facts,
    run_dir: &Path,
    source: &str,
    name: &str,
) -> anyhow::Result<(String, bool)> {
    let service = facts
        .services
        .services
        .iter()
        .find(|(service, _)| service.namespace == dns::NAMESPACE && service.name == dns::NAME);
    let address = service.and_then(|(_, service)| service.addresses.first());
    let Some(address) = address else {
        return Ok(("this cluster has no DNS".to_owned(), false));
    };
    let server = SocketAddr::new(*address, dns::PORT);
    let pin = trace::pin(run_dir, source);
    let namespace = netns::open(&pin).context(AS_ROOT)?;
    let heard = netns::enter(std::os::fd::AsFd::as_fd(&namespace), || Ok(ask::ask(server, name)));
    Ok(match heard.context(AS_ROOT)? {
        Ok(found) if found.is_empty() => (format!("{server} knows no {name}"), false),
        Ok(found) => {
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            (format!("{server} answers {} for {name}", found.join(", ")), true)
        }
        Err(error) => {
            let why = match error.kind() {
                io::ErrorKind::TimedOut => "no answer within four seconds".to_owned(),
                _ => error.to_string(), // The kernel's words for what came back.
            };
            (format!("the question for {name} to {server} failed: {why}"), false)
        }
    })
}
