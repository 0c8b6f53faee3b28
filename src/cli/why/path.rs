//! `joey why POD --to TARGET`: whether a connection comes through, which way it takes, and who decided.
//!
//! The answer follows from policies, Services and pods as the API has them. Nothing is sent, unless `--live` asks for the
//! proof (`live`).

mod facts;
mod live;
mod sentence;
mod target;
mod ways;

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};

use self::facts::Facts;
pub use self::facts::Ranges;
use self::target::{Host, Target};
use self::ways::{Way, Ways, to_address, ways};
use crate::net::Protocol;
use crate::net::dns::ask;
use crate::net::policy::{Asked, Flow, Side, explain};

/// What of this host's instance the question needs.
pub struct Here<'a> {
    pub ranges: Ranges,
    /// Ports of the host where the ingress serves.
    pub doors: Vec<u16>,
    /// As in `svc.cluster.local`.
    pub domain: &'a str,
    /// Where the pods' namespaces are pinned, when the connection is to be tried.
    pub live: Option<&'a Path>,
}

/// Who asks: `namespace/name`, and where.
struct Source {
    who: String,
    namespace: String,
    address: IpAddr,
}

/// Prints the answer. Exits with 0 when the connection comes through whichever way it takes, with 1 otherwise.
///
/// # Errors
/// What was typed means nothing that exists, or the API cannot be read.
pub async fn run(
    client: kube::Client,
    here: &Here<'_>,
    namespace: &str,
    pod: &str,
    to: &str,
) -> anyhow::Result<ExitCode> {
    let target = Target::parse(to)?;
    let facts = Facts { doors: here.doors.clone(), ..Facts::gather(&client, here.ranges).await? };
    let source = source(&facts, namespace, pod)?;
    let ways = match ways(&facts, namespace, &target, to)? {
        Ways::Known(ways) => ways,
        Ways::Ask(name) => looked_up(&facts, &name, &target)?,
    };
    let (mut text, mut comes_through) = answer(&facts, &source, &target, &ways, to);
    if let Some(run_dir) = here.live {
        let (more, did) = proof(&facts, here, run_dir, &source, &target, &ways)?;
        text.push_str(&more);
        if did != comes_through {
            text.push_str("  these two disagree: another program's rules may block or let through (joey doctor)\n");
        }
        comes_through &= did;
    }
    for line in text.lines() {
        println!("{}", crate::cli::get::visible(line));
    }
    Ok(if comes_through { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn source(facts: &Facts, namespace: &str, pod: &str) -> anyhow::Result<Source> {
    let address = facts.pod(namespace, pod)?.addresses.first().copied();
    let Some(address) = address else {
        bail!("pod {namespace}/{pod} has no address yet: it has not started");
    };
    Ok(Source { who: format!("{namespace}/{pod}"), namespace: namespace.to_owned(), address })
}

/// Names of the world are the cluster's DNS's to tell, as they are for pods.
fn looked_up(facts: &Facts, name: &str, target: &Target) -> anyhow::Result<Vec<Way>> {
    let server =
        facts.dns.context("the cluster has no DNS that could tell an address; say ADDRESS:PORT")?;
    let found = ask::ask(server, name)
        .with_context(|| format!("asking the cluster's DNS at {server} for {name}"))?;
    let address = found.first().with_context(|| {
        format!("{name} is no Service, and the cluster's DNS knows no IPv4 address of it")
    })?;
    let port = target.port.context("the target has no port")?;
    Ok(to_address(facts, SocketAddr::new(*address, port), target.protocol))
}

/// What follows from the facts.
fn answer(
    facts: &Facts,
    source: &Source,
    target: &Target,
    ways: &[Way],
    said: &str,
) -> (String, bool) {
    let (mut text, mut comes_through) = (String::new(), true);
    let who = &source.who;
    let trap = trap(facts, source, target.is_named());
    for way in ways {
        let Some(destination) = way.destination else {
            let stopped = way.stopped.unwrap_or("nothing serves it");
            let _ = writeln!(text, "{who} to {said} fails: {stopped}.");
            let _ = writeln!(text, "  DNAT     {} leads to nobody", way.asked);
            comes_through = false;
            continue;
        };
        let asked = Asked::Port(target.protocol, destination.port());
        let flow = Flow { source: source.address, destination: destination.ip(), asked };
        let found = explain(&facts.world, flow);
        let whom = whom(facts, destination, target.protocol);
        let reason = match (way.stopped, found.is_allowed()) {
            (Some(stopped), true) => stopped.to_owned(),
            _ => sentence::reason(&found, who, &whom, flow),
        };
        let is_open = found.is_allowed() && way.stopped.is_none();
        comes_through &= is_open;
        let verdict = match (is_open, target.is_named() && trap.is_some()) {
            (true, false) => "is allowed",
            (true, true) => "fails at the name, which does not resolve; by address it is allowed",
            (false, _) => "is denied",
        };
        let _ = writeln!(text, "{who} to {said} {verdict}: {reason}.");
        let _ = writeln!(text, "  egress   {}", sentence::side(&found.egress, who, "egress"));
        if way.asked != destination {
            let _ = writeln!(text, "  DNAT     {} becomes {destination}", way.asked);
        }
        let _ = writeln!(text, "  ingress  {}", sentence::side(&found.ingress, &whom, "ingress"));
    }
    if let Some(trap) = trap {
        comes_through &= !target.is_named();
        let _ = writeln!(text, "  DNS      {trap}");
    }
    (text, comes_through)
}

/// A policy that allows a connection and not the question for its address.
fn trap(facts: &Facts, source: &Source, is_named: bool) -> Option<String> {
    let server = facts.dns?;
    let asked = Asked::Port(Protocol::Udp, server.port());
    let flow = Flow { source: source.address, destination: server.ip(), asked };
    match explain(&facts.world, flow).egress {
        Side::Denied { policies } => {
            let effect = match is_named {
                true => "so the name does not resolve and the connection is never tried",
                false => "so no name resolves in this pod",
            };
            Some(format!(
                "denied: {} {} and no rule allows port 53 of the cluster's DNS, {effect}; allow egress to \
                 port 53 (UDP and TCP) of pods labelled k8s-app=kube-dns in namespace kube-system",
                sentence::isolate(&policies),
                source.who,
            ))
        }
        Side::NoPod | Side::Open | Side::Allowed { .. } => None,
    }
}

fn whom(facts: &Facts, at: SocketAddr, protocol: Protocol) -> String {
    let served = || facts.world.served_at(at.ip(), protocol, at.port()).map(|(pod, _)| pod);
    let pod = facts.world.pod_at(at.ip()).or_else(served);
    pod.map_or_else(|| at.ip().to_string(), |pod| format!("{}/{}", pod.namespace, pod.name))
}

/// What happens when it is done.
fn proof(
    facts: &Facts,
    here: &Here<'_>,
    run_dir: &Path,
    source: &Source,
    target: &Target,
    ways: &[Way],
) -> anyhow::Result<(String, bool)> {
    let (mut text, mut comes_through) = (String::new(), true);
    let uid = facts.uids.get(&source.address).context("the pod has ended")?;
    if let Some(name) = full_name(facts, here, source, target) {
        let (told, is_known) = live::asked_for(facts, run_dir, uid, &name)?;
        let _ = writeln!(text, "  live     {told}");
        comes_through &= is_known;
    }
    let seen = live::attempt(facts, run_dir, uid, ways, target.protocol)?;
    let (told, came) = live::told(&seen, |at| {
        format!("{} (port {})", whom(facts, at, target.protocol), at.port())
    });
    let asked = ways.first().map_or_else(String::new, |way| way.asked.to_string());
    let _ = writeln!(text, "  live     tried {asked}: {told}");
    Ok((text, comes_through && came))
}

/// What the pod's resolver would ask for in the end.
fn full_name(facts: &Facts, here: &Here<'_>, source: &Source, target: &Target) -> Option<String> {
    let (Host::Service(said) | Host::Name(said)) = &target.host else {
        return None;
    };
    Some(match facts.service(&source.namespace, said) {
        Some(name) => format!("{}.{}.svc.{}.", name.name, name.namespace, here.domain),
        None => format!("{}.", said.trim_end_matches('.')),
    })
}

#[cfg(test)]
mod tests;
