//! Renders series as Prometheus text (0.0.4) or OpenMetrics 1.0; it never counts.

use std::fmt::{Display, Write as _};

use super::Reading;

/// The two texts that scrapers read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    /// What the scraper's `Accept` header likes better (RFC 9110 §12.5.1); Prometheus text when it does not say.
    pub fn wanted(accept: &str) -> Format {
        let (mut open, mut plain) = (0.0, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let place = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
                "application/openmetrics-text" => &mut open,
                "text/plain" | "text/*" | "*/*" => &mut plain,
                _ => continue,
            };
            let weight = parts.find_map(|part| part.strip_prefix("q="));
            let weight = weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
            *place = f32::max(*place, weight);
        }
        match open > 0.0 && open >= plain {
            true => Format::OpenMetrics,
            false => Format::Prometheus,
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

pub(super) struct Text {
    format: Format,
    out: String,
}

impl Text {
    pub(super) fn new(format: Format) -> Text {
        Text { format, out: String::new() }
    }

    pub(super) fn family(&mut self, name: &str, help: &str, kind: &str) {
        let described = match self.format {
            Format::Prometheus => name,
            Format::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
        };
        self.line(format_args!("# HELP {described} {help}"));
        self.line(format_args!("# TYPE {described} {kind}"));
        if self.format == Format::OpenMetrics {
            for unit in ["seconds", "bytes"] {
                if described.ends_with(&format!("_{unit}")) {
                    self.line(format_args!("# UNIT {described} {unit}"));
                }
            }
        }
    }

    pub(super) fn sample(
        &mut self,
        name: &str,
        labels: &[&str],
        values: &[String],
        value: impl Display,
    ) {
        self.series(name, labels, values, None);
        self.line(format_args!(" {value}"));
    }

    pub(super) fn histogram(
        &mut self,
        name: &str,
        labels: &[&str],
        values: &[String],
        reading: &Reading,
    ) {
        let mut seen = 0;
        for (index, count) in reading.counts.iter().enumerate() {
            seen += count;
            // The same bound in both formats, so that a scraper that changes format keeps its series.
            let bound = reading.bounds.get(index).map_or("+Inf".to_owned(), |b| format!("{b:?}"));
            self.series(&format!("{name}_bucket"), labels, values, Some(&bound));
            self.line(format_args!(" {seen}"));
        }
        self.sample(&format!("{name}_sum"), labels, values, reading.sum_seconds);
        self.sample(&format!("{name}_count"), labels, values, seen);
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    fn series(&mut self, name: &str, labels: &[&str], values: &[String], bound: Option<&str>) {
        self.out.push_str(name);
        let mut open = '{';
        let pairs = labels.iter().copied().zip(values.iter().map(String::as_str));
        for (label, value) in pairs.chain(bound.map(|bound| ("le", bound))) {
            self.out.push(open);
            open = ',';
            self.out.push_str(label);
            self.out.push_str("=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    other => self.out.push(other),
                }
            }
            self.out.push('"');
        }
        if open == ',' {
            self.out.push('}');
        }
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        self.out.write_fmt(text).expect("a String takes every text");
        self.out.push('\n');
    }
}
