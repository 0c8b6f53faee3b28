//! NetworkPolicies: selectors, peers, address blocks, ports.
//!
//! It never decides about a packet. Source: `ValidateNetworkPolicySpec` of
//! `pkg/apis/networking/validation`; addresses as strict as KEP-4858 asks.

use serde_json::Value;

use super::field::FieldError;
use super::place::Place;
use super::service::{port_number, port_number_or_name};
use super::{metadata, selector};
use crate::model::cidr::Cidr;

type Errors = Vec<FieldError>;

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const RESOURCE: &str = "networkpolicies.networking.k8s.io";

pub(super) fn create(policy: &Value) -> Errors {
    let mut errors = metadata::create(policy, metadata::rules(RESOURCE));
    errors.extend(spec(policy));
    errors
}

pub(super) fn update(old: &Value, new: &Value) -> Errors {
    let mut errors = metadata::update(old, new);
    errors.extend(spec(new));
    errors
}

fn spec(policy: &Value) -> Errors {
    let mut errors = Errors::new();
    let spec = Place::root(policy, "spec");
    errors.extend(selector::label_selector(&spec.child("podSelector")));
    for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.child(rules).items() {
            for port in rule.child("ports").items() {
                self::port(&port, &mut errors);
            }
            for peer in rule.child(peers).items() {
                self::peer(&peer, &mut errors);
            }
        }
    }
    let types = spec.child("policyTypes");
    if types.items().count() > 2 {
        errors.push(types.invalid("may not specify more than two policyTypes"));
        return errors;
    }
    for kind in types.items() {
        if !["Ingress", "Egress"].contains(&kind.text()) {
            errors.push(kind.not_supported(&["Egress", "Ingress"]));
        }
    }
    errors
}

fn port(port: &Place<'_>, errors: &mut Errors) {
    let protocol = port.child("protocol");
    if protocol.is_set() && !PROTOCOLS.contains(&protocol.text()) {
        errors.push(protocol.not_supported(PROTOCOLS));
    }
    let first = port.child("port");
    let last = port.child("endPort");
    if first.is_set() {
        port_number_or_name(&first, errors);
    }
    let Some(end) = last.number() else { return };
    if !first.is_set() {
        errors.push(last.invalid("may not be specified when `port` is not specified"));
    } else if first.value.is_string() {
        errors.push(last.invalid("may not be specified when `port` is non-numeric"));
    } else {
        if first.number().is_some_and(|first| end < first) {
            errors.push(last.invalid("must be greater than or equal to `port`"));
        }
        port_number(&last, errors);
    }
}

fn peer(peer: &Place<'_>, errors: &mut Errors) {
    let mut parts = 0;
    for field in ["podSelector", "namespaceSelector"] {
        let selector = peer.child(field);
        if selector.is_set() {
            parts += 1;
            errors.extend(selector::label_selector(&selector));
        }
    }
    let block = peer.child("ipBlock");
    if block.is_set() {
        parts += 1;
        ip_block(&block, errors);
    }
    if parts == 0 {
        errors.push(peer.required_because("must specify a peer"));
    } else if parts > 1 && block.is_set() {
        errors.push(peer.forbidden("may not specify both ipBlock and another peer"));
    }
}

fn ip_block(block: &Place<'_>, errors: &mut Errors) {
    let whole = block.child("cidr");
    if whole.text().is_empty() {
        errors.push(whole.required());
        return;
    }
    let Some(range) = cidr(&whole, errors) else { return };
    for hole in block.child("except").items() {
        let Some(inner) = cidr(&hole, errors) else { continue };
        if !range.contains(inner.address()) || range.prefix() >= inner.prefix() {
            errors.push(hole.invalid("must be a strict subset of `cidr`"));
        }
    }
}

fn cidr(place: &Place<'_>, errors: &mut Errors) -> Option<Cidr> {
    let parsed: Result<Cidr, _> = place.text().parse();
    match parsed {
        Ok(range) => Some(range),
        Err(error) => {
            errors.push(place.invalid_value(&place.text().into(), &error.to_string()));
            None
        }
    }
}
