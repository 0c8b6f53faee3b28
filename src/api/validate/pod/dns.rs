//! Name resolution of a pod: `dnsConfig` and `hostAliases`.
//!
//! It never writes resolv.conf or hosts files.

use std::net::IpAddr;

use super::Errors;
use crate::api::validate::name;
use crate::api::validate::place::Place;

// Limits of the resolver in libc.
const MOST_NAMESERVERS: usize = 3;
const MOST_SEARCH_PATHS: usize = 32;
const MOST_SEARCH_CHARACTERS: usize = 2048;

pub(super) fn config(config: &Place<'_>, policy: &str, errors: &mut Errors) {
    let nameservers = config.child("nameservers");
    if policy == "None" {
        if !config.is_set() {
            errors
                .push(config.required_because("must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if !nameservers.is_filled() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(nameservers.required_because(detail));
            return;
        }
    }
    if nameservers.items().count() > MOST_NAMESERVERS {
        errors.push(
            nameservers.invalid(&format!("must not have more than {MOST_NAMESERVERS} nameservers")),
        );
    }
    nameservers.items().for_each(|server| address(&server, errors));

    let searches = config.child("searches");
    if searches.items().count() > MOST_SEARCH_PATHS {
        errors.push(
            searches.invalid(&format!("must not have more than {MOST_SEARCH_PATHS} search paths")),
        );
    }
    let characters: usize = searches.items().map(|search| search.text().len() + 1).sum();
    if characters.saturating_sub(1) > MOST_SEARCH_CHARACTERS {
        errors.push(searches.invalid(&format!(
            "must not have more than {MOST_SEARCH_CHARACTERS} characters (including spaces) in the search list"
        )));
    }
    for search in searches.items().filter(|search| search.text() != ".") {
        let path = search.text().strip_suffix('.').unwrap_or(search.text());
        for complaint in name::dns1123_subdomain_with_underscore(path) {
            errors.push(search.invalid_value(&path.into(), &complaint));
        }
    }
    for option in config.child("options").items() {
        if !option.child("name").is_filled() {
            errors.push(option.required_because("must not be empty"));
        }
    }
}

pub(super) fn host_aliases(aliases: &Place<'_>, errors: &mut Errors) {
    for alias in aliases.items() {
        address(&alias.child("ip"), errors);
        for hostname in alias.child("hostnames").items() {
            errors.extend(hostname.complain(name::dns1123_subdomain(hostname.text())));
        }
    }
}

pub(super) fn address(place: &Place<'_>, errors: &mut Errors) {
    if place.text().parse::<IpAddr>().is_err() {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.push(place.invalid_value(&place.text().into(), detail));
    }
}
