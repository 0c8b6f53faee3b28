//! Kinds that are stored in one form and shown in another.
//!
//! It never judges an object. Pure.

use serde_json::Value;

use crate::api::catalog::Kind;
use crate::api::{autoscaler, event};

/// Whether `kind` shows objects exactly as they are stored.
pub fn shows_as_stored(kind: &Kind) -> bool {
    !event::is_other_presentation(kind) && !autoscaler::is_v1(kind)
}

/// Turns what is stored into what `kind` shows.
pub fn present(kind: &Kind, object: Value) -> Value {
    match autoscaler::is_v1(kind) {
        true => autoscaler::to_v1(object),
        false => event::present(kind, object),
    }
}

/// Turns what `kind` shows into what is stored.
pub fn store_form(kind: &Kind, object: Value) -> Value {
    match autoscaler::is_v1(kind) {
        true => autoscaler::to_v2(object),
        false => event::store_form(kind, object),
    }
}
