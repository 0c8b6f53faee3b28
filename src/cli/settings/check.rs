//! What a setting's value must look like; a refusal says what it must be.

use std::net::SocketAddr;
use std::path::Path;

use super::OFF;
use crate::model::cidr::Cidr;
use crate::net::ingress::AccessLog;

pub fn absolute(text: &str) -> Result<(), String> {
    let path = Path::new(text);
    let plain = path.components().all(|part| {
        matches!(part, std::path::Component::RootDir | std::path::Component::Normal(_))
    });
    match path.is_absolute() && plain {
        true => Ok(()),
        false => Err(format!("{text:?} is not an absolute path without `..`")),
    }
}

pub fn socket_address(text: &str) -> Result<(), String> {
    text.parse::<SocketAddr>()
        .map(drop)
        .map_err(|_| format!("{text:?} is not ADDRESS:PORT, such as 127.0.0.1:6443 or [::1]:6443"))
}

pub fn address_or_off(text: &str) -> Result<(), String> {
    match text == OFF || text.parse::<SocketAddr>().is_ok() {
        true => Ok(()),
        false => {
            Err(format!("{text:?} is neither off nor ADDRESS:PORT, such as 0.0.0.0:80 or [::]:80"))
        }
    }
}

pub fn access_log(text: &str) -> Result<(), String> {
    text.parse::<AccessLog>().map(drop).map_err(|error| format!("{text:?} {error}"))
}

pub fn at_least_one(text: &str) -> Result<(), String> {
    match text.parse::<usize>() {
        Ok(1..) => Ok(()),
        _ => Err(format!("{text:?} is not a whole number from 1 on")),
    }
}

pub fn node_name(text: &str) -> Result<(), String> {
    let fits = !text.is_empty() && text.len() <= 63 && domain(text).is_ok();
    if fits {
        Ok(())
    } else {
        Err(format!("{text:?} is not a lowercase DNS name of at most 63 bytes"))
    }
}

pub fn cidr(text: &str) -> Result<(), String> {
    text.parse::<Cidr>().map(drop).map_err(|error| format!("{text:?} {error}"))
}

pub fn boolean(text: &str) -> Result<(), String> {
    match text {
        "true" | "false" => Ok(()),
        _ => Err("is neither true nor false".into()),
    }
}

pub fn domain(text: &str) -> Result<(), String> {
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        (1..=63).contains(&bytes.len())
            && bytes.iter().all(inner)
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-'
    };
    match text.len() <= 253 && text.split('.').all(label) {
        true => Ok(()),
        false => Err(format!("{text:?} is not a lowercase DNS domain")),
    }
}

pub fn log_level(text: &str) -> Result<(), String> {
    one_of(text, &["error", "warn", "info", "debug", "trace"])
}

pub fn log_format(text: &str) -> Result<(), String> {
    one_of(text, &["auto", "text", "json"])
}

fn one_of(text: &str, known: &[&str]) -> Result<(), String> {
    match known.contains(&text) {
        true => Ok(()),
        false => Err(format!("{text:?} is none of {}", known.join(", "))),
    }
}

pub fn anything(_text: &str) -> Result<(), String> {
    Ok(())
}
