//! JSON bodies: duplicates noted by path, depth and size bounded, errors in the words of Go's decoder.
//!
//! It never repairs: lone surrogates, NaN and trailing bytes are refused.

use std::cell::RefCell;

use serde::de::DeserializeSeed;
use serde_json::error::Category;

use super::path::Path;
use super::tree::{Run, Seed};
use super::{DecodeError, Decoded, TOO_DEEP, TOO_MANY};

/// Decodes one JSON value that fills the whole body.
///
/// # Errors
/// [`DecodeError::Json`] with Go's wording, [`DecodeError::TooDeep`], [`DecodeError::TooMany`].
pub fn decode(body: &[u8]) -> Result<Decoded, DecodeError> {
    let run = RefCell::new(Run::default());
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let seed = Seed { run: &run, path: &Path::ROOT, depth: 0 };
    let value = seed
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| in_go_words(body, &error))?;
    let duplicates = run.into_inner().duplicates.into_paths();
    Ok(Decoded { value, duplicates })
}

fn in_go_words(body: &[u8], error: &serde_json::Error) -> DecodeError {
    let text = error.to_string();
    if text.starts_with("recursion limit exceeded") || text.starts_with(TOO_DEEP) {
        return DecodeError::TooDeep;
    }
    if text.starts_with(TOO_MANY) {
        return DecodeError::TooMany;
    }
    if error.classify() == Category::Eof {
        return DecodeError::Json("unexpected end of JSON input".into());
    }
    let context = match text.split(" at line ").next().unwrap_or(&text) {
        "expected value" => "looking for beginning of value",
        "trailing characters" => "after top-level value",
        "key must be a string" => "looking for beginning of object key string",
        "expected `:`" => "after object key",
        "expected `,` or `}`" => "after object key:value pair",
        "expected `,` or `]`" => "after array element",
        "trailing comma" => "looking for beginning of value",
        "expected ident" => "in literal",
        "invalid number" => "in numeric literal",
        "invalid escape" => "in string escape code",
        "control character (\\u0000-\\u001F) found while parsing a string" => "in string literal",
        other => return DecodeError::Json(format!("json: {other}")),
    };
    match character_at(body, error.line(), error.column()) {
        Some(character) => {
            DecodeError::Json(format!("invalid character {} {context}", quoted(character)))
        }
        None => DecodeError::Json("unexpected end of JSON input".into()),
    }
}

fn character_at(body: &[u8], line: usize, column: usize) -> Option<u8> {
    // The parser counts a line break as column 0 of the line it begins.
    let Some(column) = column.checked_sub(1) else { return Some(b'\n') };
    let line = body.split(|byte| *byte == b'\n').nth(line.checked_sub(1)?)?;
    line.get(column).copied()
}

/// As Go's scanner quotes a byte.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".into(),
        b'"' => "'\"'".into(),
        b'\n' => r"'\n'".into(),
        b'\r' => r"'\r'".into(),
        b'\t' => r"'\t'".into(),
        b' '..=b'~' => format!("'{}'", char::from(byte)),
        // Go treats the byte as a code point.
        0..=0x1f | 0x7f => format!("'\\x{byte:02x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}
