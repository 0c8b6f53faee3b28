//! Addresses and node ports of Services: chosen, claimed, released.
//!
//! Each is a record of its own in the store, written and removed in the very transaction that writes or
//! removes its Service: two Services never hold the same one, a crash leaks none, and a restart has
//! nothing to repair. Never programs the network.
//!
//! Ranges and messages are those of `pkg/registry/core/service/{ipallocator,portallocator}`; what is
//! chosen for a Service comes from the upper part of a range, so that addresses that somebody asks for
//! by number are rarely taken (KEP-3070, KEP-3668).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};

use crate::api::admit::{Admitted, service};
use crate::api::catalog::Kind;
use crate::api::failure::Failure;
use crate::api::validate::FieldError;
use crate::api::verbs::write;
use crate::api::{Api, object};
use crate::model::cidr::Cidr;
use crate::model::key::{ObjectKey, ResourceId};
use crate::model::revision::Precondition;
use crate::store::{Change, Op};
use crate::sys::clock;

/// What node ports come from.
const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;
/// The first node ports are left to those who ask for one by number.
const NODE_PORTS_BY_NUMBER: u16 = 86;
/// The cluster's own: its API and its DNS, by convention.
const RESERVED_OFFSETS: [u64; 2] = [1, 10];
/// So many random places are looked at before all are.
const GUESSES: usize = 64;

/// Something that only one Service can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    Address(IpAddr),
    NodePort(u16),
}

impl Claim {
    fn key(self) -> ObjectKey {
        let (resource, name) = match self {
            Claim::Address(address) => ("serviceaddresses", address.to_string()),
            Claim::NodePort(port) => ("servicenodeports", port.to_string()),
        };
        ObjectKey {
            resource: ResourceId::new("allocation.joey.dev", resource),
            namespace: None,
            name: name.as_str().into(),
        }
    }
}

/// What `service` holds.
fn claims(service: &Value) -> BTreeSet<Claim> {
    let spec = &service["spec"];
    let addresses = spec["clusterIPs"].as_array().into_iter().flatten();
    let addresses = addresses.filter_map(|text| text.as_str()?.parse().ok()).map(Claim::Address);
    let ports = spec["ports"].as_array().into_iter().flatten();
    let ports = ports.filter_map(|port| u16::try_from(port["nodePort"].as_u64()?).ok());
    addresses.chain(ports.filter(|port| *port != 0).map(Claim::NodePort)).collect()
}

fn is_service(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "services"
}

/// What must change in the records when an object of `kind` changes from `old` to `new`.
pub fn changes(kind: &Kind, old: Option<&Value>, new: Option<&Value>) -> Vec<Change> {
    if !is_service(kind) {
        return Vec::new();
    }
    let held = old.map(claims).unwrap_or_default();
    let wanted = new.map(claims).unwrap_or_default();
    let owner = new.or(old).map(|service| &service["metadata"]);
    let record =
        json!({"namespace": owner.map(|o| &o["namespace"]), "name": owner.map(|o| &o["name"])});
    let taken = wanted.difference(&held).map(|claim| Change {
        key: claim.key(),
        when: Precondition::Absent,
        op: Op::Put(record.to_string().into()),
    });
    let released = held.difference(&wanted).map(|claim| Change {
        key: claim.key(),
        when: Precondition::Exists,
        op: Op::Delete,
    });
    taken.chain(released).collect()
}

/// Gives a Service what it needs and has not got, and refuses what it asks for and cannot have. The
/// claims themselves are made by the commit; see [`changes`].
pub fn assign(
    api: &Api,
    kind: &Kind,
    old: Option<&Value>,
    admitted: Admitted,
) -> Result<Admitted, Failure> {
    if !is_service(kind) {
        return Ok(admitted);
    }
    let wanted = admitted.value();
    let held = old.map(claims).unwrap_or_default();
    let mut taken = BTreeSet::new();
    let store_failed = RefCell::new(None);
    let mut is_free = |claim: Claim| {
        if held.contains(&claim) {
            return true;
        }
        match api.inner.store.get(&claim.key()) {
            Ok(found) => found.is_none(),
            Err(error) => {
                store_failed.replace(Some(write::unavailable(error)));
                false
            }
        }
    };
    let range = api.inner.service_cidr;
    let mut errors = refusals(wanted, &held, range, &mut is_free);
    if !api.inner.translates_sctp {
        errors.extend(sctp_ports(old, wanted));
    }
    if let Some(failure) = store_failed.take() {
        return Err(failure);
    }
    if !errors.is_empty() {
        return Err(Failure::invalid(kind.group, kind.kind, object::name(wanted), &errors));
    }
    let mut spec = wanted["spec"].as_object().cloned().unwrap_or_default();
    let needs_address = service::has_address(&wanted["spec"])
        && spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default().is_empty();
    if needs_address {
        let address = choose_address(range, &mut random, &mut is_free)
            .ok_or_else(|| full("failed to allocate a serviceIP: range is full"))?;
        spec.insert("clusterIP".to_owned(), address.to_string().into());
        spec.insert("clusterIPs".to_owned(), json!([address.to_string()]));
    }
    if service::has_node_ports(&wanted["spec"]) {
        fill_node_ports(&mut spec, || {
            let mut is_free = |port: u16| !taken.contains(&port) && is_free(Claim::NodePort(port));
            let port = choose_node_port(&mut random, &mut is_free);
            taken.extend(port);
            port
        })
        .ok_or_else(|| full("failed to allocate a nodePort: range is full"))?;
    }
    match store_failed.take() {
        Some(failure) => Err(failure),
        None => Ok(admitted.with_spec(spec)),
    }
}

fn full(why: &str) -> Failure {
    Failure::internal(why)
}

/// Errors of the ports that the host's kernel cannot lead anywhere. What a Service has already stays.
fn sctp_ports(old: Option<&Value>, wanted: &Value) -> Vec<FieldError> {
    let is_sctp = |port: &Value| port["protocol"] == "SCTP";
    let ports = |service: &Value| service["spec"]["ports"].as_array().cloned().unwrap_or_default();
    if old.is_some_and(|old| ports(old).iter().any(is_sctp)) {
        return Vec::new();
    }
    ports(wanted)
        .iter()
        .enumerate()
        .filter(|(_, port)| is_sctp(port))
        .map(|(index, _)| {
            FieldError::invalid(
                format!("spec.ports[{index}].protocol"),
                &"SCTP".into(),
                "the kernel of this host does not track SCTP connections (CONFIG_NF_CT_PROTO_SCTP)",
            )
        })
        .collect()
}

/// Errors of the addresses and node ports that the Service names itself and does not hold yet.
fn refusals(
    service: &Value,
    held: &BTreeSet<Claim>,
    range: Cidr,
    is_free: &mut impl FnMut(Claim) -> bool,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let all = &service["spec"]["clusterIPs"];
    for text in all.as_array().into_iter().flatten().filter_map(Value::as_str) {
        let Ok(address) = text.parse::<IpAddr>() else { continue };
        let claim = Claim::Address(address);
        if held.contains(&claim) {
            continue;
        }
        let why = if !is_usable(range, address) {
            format!(
                "the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"
            )
        } else if !is_free(claim) {
            "provided IP is already allocated".to_owned()
        } else {
            continue;
        };
        let detail = format!("failed to allocate IP {address}: {why}");
        errors.push(FieldError::invalid("spec.clusterIPs", all, &detail));
    }
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    for (index, port) in ports.enumerate() {
        let Some(number) = port["nodePort"].as_i64().filter(|number| *number != 0) else {
            continue;
        };
        let claim = u16::try_from(number).ok().filter(|port| NODE_PORTS.contains(port));
        let why = match claim.map(Claim::NodePort) {
            None => format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                NODE_PORTS.start(),
                NODE_PORTS.end()
            ),
            Some(claim) if held.contains(&claim) || is_free(claim) => continue,
            Some(_) => "provided port is already allocated".to_owned(),
        };
        let field = format!("spec.ports[{index}].nodePort");
        errors.push(FieldError::invalid(field, &number.into(), &why));
    }
    errors
}

/// Gives every port without a node port one from `next`. Ports of several protocols but one number
/// share it.
fn fill_node_ports(
    spec: &mut Map<String, Value>,
    mut next: impl FnMut() -> Option<u16>,
) -> Option<()> {
    let number = |port: &Value, field: &str| port[field].as_i64().unwrap_or(0);
    let mut known: Vec<(i64, i64)> = Vec::new();
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
    let Some(ports) = ports else { return Some(()) };
    for port in ports.iter() {
        if number(port, "nodePort") != 0 {
            known.push((number(port, "port"), number(port, "nodePort")));
        }
    }
    for port in ports.iter_mut().filter(|port| port.is_object()) {
        if number(port, "nodePort") != 0 {
            continue;
        }
        let shared = known.iter().find(|(own, _)| *own == number(port, "port"));
        let chosen = match shared {
            Some((_, chosen)) => *chosen,
            None => i64::from(next()?),
        };
        known.push((number(port, "port"), chosen));
        port["nodePort"] = chosen.into();
    }
    Some(())
}

/// How many addresses `range` has, as far as anybody counts.
fn size(range: Cidr) -> u64 {
    let width: u32 = if range.address().is_ipv4() { 32 } else { 128 };
    1 << (width - u32::from(range.prefix())).min(32)
}

/// Neither outside nor the name of the network nor its broadcast address.
fn is_usable(range: Cidr, address: IpAddr) -> bool {
    range.contains(address)
        && range.nth(0) != Some(address)
        && range.nth(u128::from(size(range)) - 1) != Some(address)
}

/// A free address of `range`.
fn choose_address(
    range: Cidr,
    random: &mut impl FnMut(u64) -> u64,
    is_free: &mut impl FnMut(Claim) -> bool,
) -> Option<IpAddr> {
    let last = size(range).checked_sub(2)?;
    // The first part is for those who ask by number (KEP-3070).
    let by_number = if last < 16 { 0 } else { (last / 16).clamp(16, 256) };
    let chosen = choose(by_number + 1, last, random, &mut |offset| {
        !RESERVED_OFFSETS.contains(&offset)
            && range.nth(offset.into()).is_some_and(|address| is_free(Claim::Address(address)))
    })?;
    range.nth(chosen.into())
}

/// A free node port.
fn choose_node_port(
    random: &mut impl FnMut(u64) -> u64,
    is_free: &mut impl FnMut(u16) -> bool,
) -> Option<u16> {
    let (first, last) = (*NODE_PORTS.start(), *NODE_PORTS.end());
    let most = u64::from(last - first) + 1;
    let port = |offset: u64| u16::try_from(offset - 1).ok().map(|offset| first + offset);
    let chosen = choose(u64::from(NODE_PORTS_BY_NUMBER) + 1, most, random, &mut |offset| {
        port(offset).is_some_and(&mut *is_free)
    })?;
    port(chosen)
}

/// A free place of `1..=last`: at random from `preferred` on, then the first free one there, then the
/// first of all.
fn choose(
    preferred: u64,
    last: u64,
    random: &mut impl FnMut(u64) -> u64,
    is_free: &mut impl FnMut(u64) -> bool,
) -> Option<u64> {
    if last >= preferred {
        for _ in 0..GUESSES {
            let place = preferred + random(last - preferred + 1);
            if is_free(place) {
                return Some(place);
            }
        }
    }
    (preferred..=last).chain(1..preferred.min(last + 1)).find(|place| is_free(*place))
}

/// A number below `bound`.
fn random(bound: u64) -> u64 {
    let mut raw = [0u8; 8];
    clock::random(&mut raw);
    u64::from_le_bytes(raw) % bound
}

#[cfg(test)]
mod tests;
