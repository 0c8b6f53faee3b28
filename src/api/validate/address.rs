//! IP addresses in fields: one spelling, and none that leads to the host itself.
//!
//! It never looks at routes. Source: KEP-4858, CVE-2021-25737.

use std::net::IpAddr;

use super::field::FieldError;
use super::place::Place;

/// The address here, told in its only right form; otherwise an error.
pub(super) fn address(place: &Place<'_>, errors: &mut Vec<FieldError>) -> Option<IpAddr> {
    match place.text().parse::<IpAddr>() {
        Ok(IpAddr::V6(six)) if six.to_ipv4_mapped().is_some() => {
            errors.push(
                place
                    .invalid_value(&place.text().into(), "must not be an IPv4-mapped IPv6 address"),
            );
            None
        }
        Ok(address) => Some(address),
        // Leading zeros are octal to some and decimal to others.
        Err(_) => {
            errors.push(place.invalid_value(
                &place.text().into(),
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ));
            None
        }
    }
}

/// An address that traffic may be sent to on behalf of others: no part of any host's own network.
pub(super) fn endpoint(place: &Place<'_>, errors: &mut Vec<FieldError>) -> Option<IpAddr> {
    let address = address(place, errors)?;
    let complaint = match address {
        _ if address.is_unspecified() => Some(format!("may not be unspecified ({})", place.text())),
        _ if address.is_loopback() => {
            Some("may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned())
        }
        IpAddr::V4(four) if four.is_link_local() => Some(link_local()),
        IpAddr::V6(six) if six.is_unicast_link_local() => Some(link_local()),
        IpAddr::V4(four) if four.is_multicast() => Some(multicast()),
        IpAddr::V4(four) if four.is_broadcast() => {
            Some("may not be the broadcast address (255.255.255.255)".to_owned())
        }
        IpAddr::V4(four) if four.octets()[0] == 0 => {
            Some("may not be in the range of this network (0.0.0.0/8)".to_owned())
        }
        IpAddr::V6(six) if six.is_multicast() => Some(multicast()),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    };
    errors.extend(complaint.map(|detail| place.invalid(&detail)));
    Some(address)
}

fn link_local() -> String {
    "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()
}

fn multicast() -> String {
    "may not be in the multicast range (224.0.0.0/4, ff00::/8)".to_owned()
}
