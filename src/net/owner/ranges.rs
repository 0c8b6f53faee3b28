//! Which ranges the routes and rules of this instance stand for, on disk: the settings may have changed since.
//!
//! The record is written before anything is made for a range, and forgets a range when nothing of it is left. So whoever
//! reads it knows at least as much as the kernel holds.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use nix::errno::Errno;

use crate::model::cidr::Cidr;
use crate::net::names::Names;
use crate::net::netlink::{Request, Socket};
use crate::net::{NetError, NetworkConfig, guard, journal, link, step};

/// Ranges of pods and of Services, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    pub pods: Vec<Cidr>,
    pub services: Vec<Cidr>,
}

/// As it is written.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    pods: Vec<String>,
    services: Vec<String>,
}

impl Ranges {
    pub fn of(config: &NetworkConfig) -> Ranges {
        Ranges { pods: vec![config.pod_cidr], services: vec![config.service_cidr] }
    }

    /// What the record at `path` names; nothing if there is none.
    pub fn recorded(path: &Path) -> io::Result<Ranges> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ranges::default()),
            read => read?,
        };
        let record: Record = serde_json::from_str(&text)?;
        let parse = |ranges: Vec<String>| -> io::Result<Vec<Cidr>> {
            let parsed = ranges.iter().map(|range| {
                range.parse().map_err(|error| io::Error::other(format!("{range}: {error}")))
            });
            parsed.collect()
        };
        Ok(Ranges { pods: parse(record.pods)?, services: parse(record.services)? })
    }

    fn save(&self, path: &Path) -> io::Result<()> {
        let spell = |ranges: &[Cidr]| ranges.iter().map(ToString::to_string).collect();
        let record = Record { pods: spell(&self.pods), services: spell(&self.services) };
        journal::replace(path, &serde_json::to_string(&record)?)
    }

    pub fn and(&self, other: &Ranges) -> Ranges {
        let both = |ours: &[Cidr], theirs: &[Cidr]| {
            let new = theirs.iter().filter(|range| !ours.contains(range));
            ours.iter().chain(new).copied().collect()
        };
        let pods = both(&self.pods, &other.pods);
        Ranges { pods, services: both(&self.services, &other.services) }
    }

    fn without(&self, other: &Ranges) -> Ranges {
        let rest = |ours: &[Cidr], theirs: &[Cidr]| {
            ours.iter().filter(|range| !theirs.contains(range)).copied().collect()
        };
        let pods = rest(&self.pods, &other.pods);
        Ranges { pods, services: rest(&self.services, &other.services) }
    }

    /// Takes away the routes and rules of these ranges, whichever are there; never stops at the first failure.
    pub fn remove(&self, socket: &mut Socket, names: &Names) -> Vec<NetError> {
        let mut failures = Vec::new();
        let mut delete = |socket: &mut Socket, request: Request, what: &'static str| {
            let outcome =
                socket.exchange(&[request]).and_then(|replies| replies.except(&[Errno::ESRCH]));
            failures.extend(outcome.map(drop).map_err(step(what)).err());
        };
        let metric = names.route_metric();
        for range in &self.services {
            if let IpAddr::V4(network) = range.address() {
                // It goes with its link.
                let request = link::route_to_services_delete((network, range.prefix()), metric);
                delete(socket, request, "delete the route of the Service range");
            }
        }
        for range in &self.pods {
            if let IpAddr::V4(network) = range.address() {
                let request = link::unreachable_delete(network, range.prefix(), metric);
                delete(socket, request, "delete the route of the pod range");
            }
        }
        for range in &self.pods {
            let unguarded = guard::remove(socket, *range);
            let failed = unguarded.map_err(step("delete the rules that guard the pods' routes"));
            failures.extend(failed.err());
        }
        failures
    }

    /// Makes these the ranges in force: records them, and removes what stands for those of an earlier start.
    pub fn enter(&self, path: &Path, socket: &mut Socket, names: &Names) -> Result<(), NetError> {
        let before = Ranges::recorded(path).map_err(step("read the record of ranges"))?;
        if before == *self {
            return Ok(());
        }
        before.and(self).save(path).map_err(step("record the ranges"))?;
        let failures = before.without(self).remove(socket, names);
        if let Some(first) = failures.into_iter().next() {
            return Err(first);
        }
        self.save(path).map_err(step("record the ranges"))
    }
}
