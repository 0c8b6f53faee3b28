//! Rules that many kinds share: choices, bounds, numbers that may be percentages.
//!
//! It never knows which field it judges.

use super::field::FieldError;
use super::place::Place;

/// One of `supported`, and not left out.
pub(super) fn choice(place: &Place<'_>, supported: &[&str], errors: &mut Vec<FieldError>) {
    if place.text().is_empty() {
        errors.push(place.required());
    } else if !supported.contains(&place.text()) {
        errors.push(place.not_supported(supported));
    }
}

/// A number between the bounds, if given.
pub(super) fn within(place: &Place<'_>, least: i64, most: i64, errors: &mut Vec<FieldError>) {
    if place.number().is_some_and(|n| n < least || n > most) {
        errors.push(place.invalid(&format!("must be between {least} and {most}, inclusive")));
    }
}

/// A number that counts something, if given.
pub(super) fn not_negative(place: &Place<'_>, errors: &mut Vec<FieldError>) {
    if place.number().is_some_and(|n| n < 0) {
        errors.push(place.invalid("must be greater than or equal to 0"));
    }
}

/// A count, or a share of one, if given.
pub(super) fn count_or_percent(place: &Place<'_>, errors: &mut Vec<FieldError>) {
    if place.value.is_string() {
        if percent(place).is_none() {
            errors.push(place.invalid(
                "a valid percent string must be a numeric value followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
            ));
        }
    } else {
        not_negative(place, errors);
    }
}

/// Not more than everything.
pub(super) fn at_most_all(place: &Place<'_>, errors: &mut Vec<FieldError>) {
    if percent(place).is_some_and(|share| share > 100) {
        errors.push(place.invalid("must not be greater than 100%"));
    }
}

/// The number here, whether a count or a percentage; zero if it is neither.
pub(super) fn amount(place: &Place<'_>) -> u64 {
    percent(place).or_else(|| place.value.as_u64()).unwrap_or(0)
}

/// 93 of "93%".
fn percent(place: &Place<'_>) -> Option<u64> {
    let digits = place.value.as_str()?.strip_suffix('%')?;
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    // More digits than fit are a very large share.
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}
