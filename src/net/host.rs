//! What the host's own network looks like, and the one thing that we change of it: forwarding.
//!
//! Answers to pods come in by the host's links, which forward them only if told to. What is turned on is recorded
//! first, so that it can be put back; the ruleset keeps everybody else's traffic from profiting.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use super::link::{Address, Link, Route};
use super::names::{LINKS_OF_ALL, Names};
use super::{journal, sysctl};
use crate::model::cidr::Cidr;

/// Written, it overwrites every link's (Documentation/networking/ip-sysctl.rst).
const ALL: &str = "ipv4/conf/all/forwarding";

/// The host as it is around our own links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Towards the default route; `None` on a host without any address.
    pub address: Option<Ipv4Addr>,
    /// Of the link that the default route uses.
    pub mtu: u32,
    /// Links with an address of the host, on which answers to pods may come in.
    pub links: BTreeSet<String>,
    /// Whether another instance of ours lives here too.
    pub has_neighbours: bool,
}

/// Pure: reads the host off its tables.
pub fn survey(names: &Names, links: &[Link], addresses: &[Address], routes: &[Route]) -> Survey {
    let is_joey = |link: &&Link| is_of_an_instance(&link.name);
    let joeys: BTreeSet<u32> = links.iter().filter(is_joey).map(|link| link.index).collect();
    let foreign = |index: u32| !joeys.contains(&index);
    let mut own = addresses.iter().filter(|address| foreign(address.link));
    let default = routes.iter().filter(|route| route.prefix == 0).min_by_key(|route| route.metric);
    let through = default.and_then(|route| route.output);
    let address = default
        .and_then(|route| route.source)
        .or_else(|| own.clone().find(|own| Some(own.link) == through).map(|own| own.address))
        .or_else(|| own.next().map(|own| own.address));
    let with_address: BTreeSet<u32> = addresses.iter().map(|address| address.link).collect();
    Survey {
        address,
        mtu: links
            .iter()
            .find(|link| Some(link.index) == through)
            .map_or(1500, |link| link.mtu.clamp(1280, 65_535)),
        links: links
            .iter()
            .filter(|link| with_address.contains(&link.index) && foreign(link.index))
            .filter(|link| link.name != "lo")
            .map(|link| link.name.clone())
            .collect(),
        has_neighbours: links
            .iter()
            .filter(is_joey)
            .any(|link| !link.name.starts_with(&names.anchor())),
    }
}

/// `jy` and six hex digits, then nothing or an offset.
fn is_of_an_instance(link: &str) -> bool {
    let instance = link.strip_prefix(LINKS_OF_ALL).and_then(|rest| rest.get(..6));
    instance.is_some_and(|instance| Names::new(instance).is_some())
}

/// Pure: what of the host already lies inside the range, so that pods or Services there could not be reached; of another
/// instance also what lies around it.
pub fn occupied(
    names: &Names,
    range: Cidr,
    links: &[Link],
    addresses: &[Address],
    routes: &[Route],
) -> Option<String> {
    let name = |index: u32| {
        links.iter().find(|link| link.index == index).map_or("?", |link| link.name.as_str())
    };
    let is_ours = |index: u32| name(index).starts_with(&names.anchor());
    let address = addresses
        .iter()
        .find(|own| range.contains(own.address.into()) && !is_ours(own.link))
        .map(|own| format!("address {} of {}", own.address, name(own.link)));
    let route = || {
        routes
            .iter()
            .filter(|route| {
                let is_inside =
                    route.prefix >= range.prefix() && range.contains(route.destination.into());
                let around = format!("{}/{}", route.destination, route.prefix).parse::<Cidr>();
                let is_joeys = route.output.is_some_and(|index| is_of_an_instance(name(index)));
                is_inside || is_joeys && around.is_ok_and(|around| around.contains(range.address()))
            })
            .find(|route| match route.output {
                Some(index) => !is_ours(index),
                None => !(route.is_ours && route.metric == names.route_metric()),
            })
            .map(|route| {
                let output = route.output.map_or("no link", name);
                format!("route {}/{} by {output}", route.destination, route.prefix)
            })
    };
    address.or_else(route)
}

/// Links that we turned on, each with what `all` said then: when that has changed since, somebody decided about
/// routing anew and our change counts for nothing.
type Changed = BTreeMap<String, String>;

/// Turns forwarding on where it is off, and returns the links whose foreign transit must be dropped.
pub fn forward(record: &Path, survey: &Survey) -> io::Result<BTreeSet<String>> {
    let all = sysctl::read(ALL)?;
    let before = recorded(record)?;
    let mut changed = before.clone();
    changed.retain(|_, then| *then == all || all != "1");
    for link in &survey.links {
        // Where another instance lives, it may have been the one that turned it on.
        if !is_forwarding(link) || (survey.has_neighbours && all != "1") {
            changed.entry(link.clone()).or_insert_with(|| all.clone());
        }
    }
    if changed != before {
        save(record, &changed)?;
    }
    for link in changed.keys() {
        sysctl::write_if_there(&format!("ipv4/conf/{link}/forwarding"), "1")?;
    }
    Ok(changed.into_keys().collect())
}

/// Puts back what [`forward`] changed, unless another instance still needs it.
pub fn restore(record: &Path, has_neighbours: bool) -> io::Result<()> {
    let all = sysctl::read(ALL)?;
    for (link, then) in recorded(record)? {
        if !has_neighbours && (then == all || all != "1") {
            sysctl::write_if_there(&format!("ipv4/conf/{link}/forwarding"), "0")?;
        }
    }
    match fs::remove_file(record) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The links on which forwarding was turned on, by the record.
pub fn turned_on(record: &Path) -> io::Result<Vec<String>> {
    Ok(recorded(record)?.into_keys().collect())
}

fn is_forwarding(link: &str) -> bool {
    sysctl::read(&format!("ipv4/conf/{link}/forwarding")).is_ok_and(|value| value == "1")
}

fn recorded(record: &Path) -> io::Result<Changed> {
    match fs::read_to_string(record) {
        Ok(text) => Ok(serde_json::from_str(&text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Changed::new()),
        Err(error) => Err(error),
    }
}

fn save(record: &Path, before: &Changed) -> io::Result<()> {
    journal::replace(record, &serde_json::to_string(before)?)
}
