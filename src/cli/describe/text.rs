//! The text of a description: fields and lists with tab stops, and how values, dates and selectors read in it.
//!
//! It knows no kind of object.

use std::fmt::Display;

use jiff::tz::TimeZone;
use serde_json::Value;

use crate::api::table::age;
use crate::model::quantity::Quantity;
use crate::model::selector::LabelSelector;
use crate::model::time::Timestamp;

/// Spaces between a column's widest cell and the next column.
const PADDING: usize = 2;
/// An annotation that is longer begins on a line of its own, and is cut.
const LONGEST_ANNOTATION: usize = 140;
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Lines with tab stops.
#[derive(Default)]
pub struct Text(String);

impl Text {
    /// A line, two spaces further in for each step of `depth`.
    pub fn line(&mut self, depth: usize, line: impl Display) {
        self.put(&format!("{:width$}{line}\n", "", width = 2 * depth));
    }

    /// `NAME: VALUE`.
    pub fn field(&mut self, depth: usize, name: impl Display, value: impl Display) {
        self.line(depth, format_args!("{name}:\t{value}"));
    }

    /// A field with a value a line; `<none>` without any.
    pub fn list<T: Display>(&mut self, name: &str, values: &[T]) {
        let Some((first, rest)) = values.split_first() else {
            return self.field(0, name, "<none>");
        };
        self.field(0, name, first);
        for value in rest {
            self.line(0, format_args!("\t{value}"));
        }
    }

    /// A map of texts, such as labels: `KEY=VALUE` a line.
    pub fn labels(&mut self, name: &str, labels: &Value) {
        let pairs: Vec<String> =
            pairs(labels).map(|(key, value)| format!("{key}={}", plain(value))).collect();
        self.list(name, &pairs);
    }

    /// Name, namespace, labels and annotations of an object.
    pub fn head(&mut self, object: &Value) {
        let metadata = &object["metadata"];
        self.field(0, "Name", plain(&metadata["name"]));
        self.field(0, "Namespace", plain(&metadata["namespace"]));
        self.labels("Labels", &metadata["labels"]);
        self.annotations("Annotations", &metadata["annotations"]);
    }

    pub fn annotations(&mut self, name: &str, annotations: &Value) {
        let mut lines = Vec::new();
        for (key, value) in pairs(annotations).filter(|(key, _)| *key != LAST_APPLIED) {
            let value = plain(value);
            let value = value.strip_suffix('\n').unwrap_or(&value);
            match value.contains('\n') || value.len() + key.len() + 2 > LONGEST_ANNOTATION {
                false => lines.push(format!("{key}: {value}")),
                true => {
                    lines.push(format!("{key}:"));
                    let cut = |line| format!("  {}", shortened(line, LONGEST_ANNOTATION - 2));
                    lines.extend(value.split('\n').map(cut));
                }
            }
        }
        self.list(name, &lines);
    }

    /// Text as it is, but for what drives a terminal (CVE-2021-25743): ESC and carriage return are shown as kubectl
    /// shows them, other control characters as `\x07`.
    pub fn put(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '\n' | '\t' => self.0.push(character),
                '\u{1b}' => self.0.push_str("^["),
                '\r' => self.0.push_str("\\r"),
                control if control.is_control() => {
                    self.0.push_str(&format!("\\x{:02x}", u32::from(control)));
                }
                other => self.0.push(other),
            }
        }
    }

    /// With tabs.
    pub fn unaligned(self) -> String {
        self.0
    }

    /// With columns in place of tabs.
    pub fn aligned(self) -> String {
        aligned(&self.0)
    }
}

/// Columns as Go's text/tabwriter makes them: a tab ends a cell, what follows a line's last tab belongs to no column,
/// and a column is as wide as its widest cell in consecutive lines that have one.
fn aligned(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let mut shown = vec![String::new(); lines.len()];
    let mut open: Vec<usize> = (0..lines.len()).collect();
    for column in 0.. {
        let (with, last): (Vec<usize>, Vec<usize>) =
            open.into_iter().partition(|line| lines[*line].len() > column + 1);
        for line in last {
            shown[line].push_str(lines[line][column]);
        }
        if with.is_empty() {
            break;
        }
        for block in with.chunk_by(|one, next| one + 1 == *next) {
            let cells = block.iter().map(|line| lines[*line][column].chars().count());
            let width = cells.max().unwrap_or(0) + PADDING;
            for line in block {
                shown[*line].push_str(&format!("{:<width$}", lines[*line][column]));
            }
        }
        open = with;
    }
    shown.iter().map(|line| format!("{line}\n")).collect()
}

/// At most `length` bytes, at the end of a character, and `...` if that is not all.
fn shortened(text: &str, length: usize) -> String {
    match text.len() > length {
        true => format!("{}...", &text[..text.floor_char_boundary(length)]),
        false => text.to_owned(),
    }
}

/// The moment and the place from which times are told.
pub struct Clock {
    pub now: Timestamp,
    pub zone: TimeZone,
}

impl Clock {
    /// `Fri, 27 Nov 2026 17:46:50 +0000`; an absent time is Go's zero time, as kubectl has it.
    pub fn date(&self, time: &Value) -> String {
        self.formatted(time, "%a, %d %b %Y %H:%M:%S %z", "Mon, 01 Jan 0001 00:00:00 +0000")
    }

    /// `2026-11-27 17:46:50 +0000 UTC`.
    pub fn moment(&self, time: &Value) -> String {
        self.formatted(time, "%Y-%m-%d %H:%M:%S %z %Z", "0001-01-01 00:00:00 +0000 UTC")
    }

    fn formatted(&self, time: &Value, format: &str, zero: &str) -> String {
        let time = time.as_str().and_then(|text| text.parse::<Timestamp>().ok());
        time.map_or_else(
            || zero.to_owned(),
            |time| time.as_jiff().to_zoned(self.zone.clone()).strftime(format).to_string(),
        )
    }

    /// `3m12s`, or `<unknown>`.
    pub fn age(&self, time: &Value) -> String {
        age::since(time, self.now)
    }
}

/// A text without quotes; nothing for what is absent.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A text, unless it is absent or empty.
pub fn given(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

/// A text, or `other` for what is absent.
pub fn or(value: &Value, other: &str) -> String {
    if value.is_null() { other.to_owned() } else { plain(value) }
}

/// A whole number; zero for what is absent.
pub fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// `True` or `False`.
pub fn capital(value: &Value) -> &'static str {
    if value == &Value::Bool(true) { "True" } else { "False" }
}

/// The elements of a list; none of what is absent.
pub fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

/// The entries of a map, by key; none of what is absent.
pub fn pairs(map: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let mut pairs: Vec<_> = map.as_object().into_iter().flatten().collect();
    pairs.sort_by_key(|(key, _)| *key);
    pairs.into_iter()
}

/// The texts of a list, with `between` between them.
pub fn joined(list: &Value, between: &str) -> String {
    items(list).iter().map(plain).collect::<Vec<_>>().join(between)
}

/// A quantity in its canonical form.
pub fn quantity(value: &Value) -> String {
    Quantity::from_json(value).map_or_else(|_| plain(value), |quantity| quantity.to_string())
}

/// A LabelSelector as text; `<none>` for one without requirements.
pub fn selector(selector: &Value) -> String {
    let text = LabelSelector::from_json(selector).map(|selector| selector.to_string());
    match text {
        Ok(text) if text.is_empty() => "<none>".to_owned(),
        Ok(text) => text,
        Err(error) => format!("<error: {error}>"),
    }
}

/// A map of labels as a selector: `a=b,c=d`, or `<none>`.
pub fn set(labels: &Value) -> String {
    let pairs: Vec<String> =
        pairs(labels).map(|(key, value)| format!("{key}={}", plain(value))).collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// `Deployment/web`, if a controller owns the object.
pub fn controller(metadata: &Value) -> Option<String> {
    let owner = items(&metadata["ownerReferences"]).iter().find(|o| o["controller"] == true)?;
    Some(format!("{}/{}", plain(&owner["kind"]), plain(&owner["name"])))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_consecutive_lines_need() {
        for (text, expected) in [
            ("", ""),
            ("a\tb\tc\nlong\tlonger\td\n", "a     b       c\nlong  longer  d\n"),
            ("Name:\tweb\nService Account:\tx\n", "Name:             web\nService Account:  x\n"),
            // A line without the column parts two blocks.
            ("a:\t1\nList:\n  long:\t2\n", "a:  1\nList:\n  long:  2\n"),
            // The last cell of a line widens nothing, also when it is empty.
            ("a\t\nlonger\tb\n", "a       \nlonger  b\n"),
            ("a\tvery long\nb\tc\td\n", "a  very long\nb  c  d\n"),
            ("ü\tx\nab\ty\n", "ü   x\nab  y\n"),
        ] {
            assert_eq!(aligned(text), expected, "{text:?}");
        }
    }

    #[test]
    fn long_annotations_stand_on_lines_of_their_own() {
        let mut text = Text::default();
        let wide = "0123456789".repeat(15);
        text.annotations(
            "Annotations",
            &json!({"a": "b", "lines": "x\ny\n", "wide": wide, LAST_APPLIED: "{}"}),
        );
        let expected = format!(
            "Annotations:  a: b\n{0}lines:\n{0}  x\n{0}  y\n{0}wide:\n{0}  {1}...\n",
            " ".repeat(14),
            &wide[..138]
        );
        assert_eq!(text.aligned(), expected);
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        assert_eq!(shortened("aü", 2), "a...");
        assert_eq!(shortened("aü", 3), "aü");
    }

    #[test]
    fn nothing_drives_the_terminal() {
        let mut text = Text::default();
        text.field(0, "Name", "a\u{1b}[2J\rb\u{7}\u{9b}c");
        assert_eq!(text.aligned(), "Name:  a^[[2J\\rb\\x07\\x9bc\n");
    }

    #[test]
    fn times_are_told_in_the_zone_of_the_reader() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let clock = Clock { now: "2026-11-27T17:47:50Z".parse().unwrap(), zone };
        let time = json!("2026-11-27T17:46:50.5Z");
        assert_eq!(clock.date(&time), "Fri, 27 Nov 2026 19:46:50 +0200");
        assert_eq!(clock.date(&Value::Null), "Mon, 01 Jan 0001 00:00:00 +0000");
        assert_eq!(clock.age(&json!("2026-11-27T17:46:50Z")), "60s");
        let utc = Clock { zone: TimeZone::UTC, ..clock };
        assert_eq!(utc.moment(&time), "2026-11-27 17:46:50 +0000 UTC");
    }
}
