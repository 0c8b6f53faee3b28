//! Kubernetes quantities: "500m", "1Gi", "1e3". Exact to a billionth, printed the way Kubernetes canonicalizes them.
//!
//! It never knows what is counted: bytes, cores and pods are the caller's business.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

/// A number with a suffix family. Compares by value: `1024Mi == 1Gi`, `1000m == 1`.
///
/// Magnitudes are capped at 2^63-1 and finer parts than 1n are rounded away from zero, as
/// `resource.Quantity` documents.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    /// In billionths; at most (2^63-1)·10^9 when parsed, so that sums have room.
    nanos: i128,
    format: Format,
}

/// The suffix family a quantity was written in and is printed in again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `Ki`, `Mi`, … powers of 1024.
    Binary,
    /// `n`, `u`, `m`, none, `k`, `M`, … powers of 1000.
    Decimal,
    /// `e3`, `e6`, … powers of 1000.
    Exponent,
}

/// Why a text is not a quantity; the words are those of `k8s.io/apimachinery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuantity {
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Form,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANO: i128 = 1_000_000_000;
const MILLI: i128 = 1_000_000;
const LIMIT: i128 = i64::MAX as i128 * NANO;

const BINARY_SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// From 10^-9 in steps of 10^3.
const DECIMAL_SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

impl Quantity {
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::Decimal };

    /// `count` whole units.
    pub fn from_units(count: i64, format: Format) -> Quantity {
        Quantity { nanos: i128::from(count) * NANO, format }
    }

    /// `count` thousandths, as CPU is counted.
    pub fn from_milli(count: i64) -> Quantity {
        Quantity { nanos: i128::from(count) * MILLI, format: Format::Decimal }
    }

    /// Reads the two JSON forms Kubernetes accepts: text, or a bare number.
    pub fn from_json(value: &serde_json::Value) -> Result<Quantity, InvalidQuantity> {
        match value {
            serde_json::Value::String(text) => text.trim().parse(),
            serde_json::Value::Number(number) => number.to_string().parse(),
            serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::Array(_)
            | serde_json::Value::Object(_) => Err(InvalidQuantity::Form),
        }
    }

    pub fn format(self) -> Format {
        self.format
    }

    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whole units, rounded away from zero, clamped to `i64`.
    pub fn value(self) -> i64 {
        clamp(divide_outward(self.nanos, NANO))
    }

    /// Thousandths, rounded away from zero, clamped to `i64`.
    pub fn milli_value(self) -> i64 {
        clamp(divide_outward(self.nanos, MILLI))
    }

    /// The exact value in billionths.
    pub fn nanos(self) -> i128 {
        self.nanos
    }

    /// The sum, printed in the family of `self` (of `other` when `self` is zero).
    pub fn plus(self, other: Quantity) -> Quantity {
        Quantity {
            nanos: self.nanos.saturating_add(other.nanos),
            format: if self.is_zero() { other.format } else { self.format },
        }
    }

    /// The difference, printed in the family of `self` (of `other` when `self` is zero).
    pub fn minus(self, other: Quantity) -> Quantity {
        let negated = Quantity { nanos: -other.nanos, format: other.format };
        self.plus(negated)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl Hash for Quantity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Quantity, InvalidQuantity> {
        let parts = Parts::split(text)?;
        let scale = Scale::of(parts.suffix)?;
        let magnitude = scale.apply(parts.whole, parts.fraction);
        // Kubernetes prints what is below one in decimal, whatever it was written in.
        let format = match scale {
            Scale::Binary { .. } if magnitude > 0 && magnitude < NANO => Format::Decimal,
            Scale::Binary { .. } => Format::Binary,
            Scale::Decimal { format, .. } => format,
        };
        Ok(Quantity { nanos: if parts.is_negative { -magnitude } else { magnitude }, format })
    }
}

/// The canonical form: no fraction, the largest suffix that keeps the value exact, in the family it was written in
/// unless a binary one would lose precision.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let is_whole = self.nanos % NANO == 0;
        let fits_binary = is_whole && self.nanos.abs() >= 1024 * NANO;
        match self.format {
            Format::Binary if fits_binary => {
                let (number, steps) = strip(self.nanos / NANO, 1024, BINARY_SUFFIXES.len() - 1);
                write!(f, "{number}{}", BINARY_SUFFIXES[steps])
            }
            Format::Binary | Format::Decimal => {
                let (number, steps) = strip(self.nanos, 1000, DECIMAL_SUFFIXES.len() - 1);
                write!(f, "{number}{}", DECIMAL_SUFFIXES[steps])
            }
            Format::Exponent => {
                let (number, steps) = strip(self.nanos, 1000, usize::MAX);
                match 3 * steps as i64 - 9 {
                    0 => write!(f, "{number}"),
                    exponent => write!(f, "{number}e{exponent}"),
                }
            }
        }
    }
}

/// The pieces of a text before they mean anything.
struct Parts<'a> {
    is_negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    suffix: &'a str,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Parts<'a>, InvalidQuantity> {
        let (is_negative, unsigned) = match text.as_bytes() {
            [b'-', ..] => (true, &text[1..]),
            [b'+', ..] => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, rest) = split_digits(unsigned);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(after) => split_digits(after),
            None => ("", rest),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(InvalidQuantity::Form);
        }
        let exponent = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if !exponent.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidQuantity::Form);
        }
        Ok(Parts { is_negative, whole: whole.as_bytes(), fraction: fraction.as_bytes(), suffix })
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// What a suffix multiplies by.
enum Scale {
    Binary { power_of_two: u32 },
    Decimal { power_of_ten: i64, format: Format },
}

impl Scale {
    fn of(suffix: &str) -> Result<Scale, InvalidQuantity> {
        if let Some(step) = DECIMAL_SUFFIXES.iter().position(|known| *known == suffix) {
            return Ok(Scale::Decimal {
                power_of_ten: 3 * step as i64 - 9,
                format: Format::Decimal,
            });
        }
        if let Some(step) = BINARY_SUFFIXES.iter().position(|known| *known == suffix) {
            return Ok(Scale::Binary { power_of_two: 10 * step as u32 });
        }
        let exponent = suffix
            .strip_prefix(['e', 'E'])
            .and_then(|digits| digits.parse::<i64>().ok())
            .ok_or(InvalidQuantity::Suffix)?;
        Ok(Scale::Decimal { power_of_ten: exponent, format: Format::Exponent })
    }

    /// `whole.fraction` times this scale in billionths, rounded up and capped at [`LIMIT`].
    fn apply(&self, whole: &[u8], fraction: &[u8]) -> i128 {
        match self {
            Scale::Binary { power_of_two } => {
                let unit = NANO << power_of_two;
                let whole = shift_decimal(whole, 0).value;
                let rest = fraction_of(unit, fraction);
                whole
                    .checked_mul(unit)
                    .and_then(|nanos| nanos.checked_add(rest))
                    .map_or(LIMIT, |nanos| nanos.min(LIMIT))
            }
            Scale::Decimal { power_of_ten, .. } => {
                let digits: Vec<u8> = whole.iter().chain(fraction).copied().collect();
                let shift = power_of_ten.saturating_add(9).saturating_sub(fraction.len() as i64);
                let shifted = shift_decimal(&digits, shift);
                (shifted.value + i128::from(shifted.is_inexact)).min(LIMIT)
            }
        }
    }
}

struct Shifted {
    value: i128,
    is_inexact: bool,
}

/// `digits` times ten to the `shift`, cut to whole, at most slightly above [`LIMIT`].
fn shift_decimal(digits: &[u8], shift: i64) -> Shifted {
    let first = digits.iter().position(|digit| *digit != b'0');
    let digits = first.map_or(&[][..], |first| &digits[first..]);
    let kept = (digits.len() as i64).saturating_add(shift);
    if digits.is_empty() {
        return Shifted { value: 0, is_inexact: false };
    }
    let mut value: i128 = 0;
    for position in 0..kept.max(0) {
        let digit = digits.get(position as usize).map_or(0, |byte| byte - b'0');
        value = value * 10 + i128::from(digit);
        if value > LIMIT {
            break;
        }
    }
    let dropped = &digits[(kept.max(0) as usize).min(digits.len())..];
    Shifted { value, is_inexact: dropped.iter().any(|digit| *digit != b'0') }
}

/// `0.digits` of `unit`, rounded up. Long division from the last digit, so any length is exact.
fn fraction_of(unit: i128, digits: &[u8]) -> i128 {
    let mut carried: i128 = 0;
    let mut is_inexact = false;
    for digit in digits.iter().rev() {
        let sum = unit * i128::from(digit - b'0') + carried;
        is_inexact |= sum % 10 != 0;
        carried = sum / 10;
    }
    carried + i128::from(is_inexact)
}

/// Divides by `base` while nothing is lost, at most `most` times.
fn strip(mut number: i128, base: i128, most: usize) -> (i128, usize) {
    let mut steps = 0;
    while steps < most && number % base == 0 {
        number /= base;
        steps += 1;
    }
    (number, steps)
}

fn divide_outward(number: i128, by: i128) -> i128 {
    number / by + (number % by).signum()
}

fn clamp(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests;
