//! `joey config`: every setting in force and where it came from.

use std::io::{self, Write};
use std::process::ExitCode;

use super::settings::{SETTINGS, Settings, variable_of};

/// Prints a table of settings.
pub fn print(settings: &Settings) -> anyhow::Result<ExitCode> {
    for name in Settings::unknown_variables() {
        eprintln!("warning: {name} in the environment is no setting");
    }
    let mut rows = vec![["SETTING", "VALUE", "FROM", "VARIABLE"].map(str::to_owned)];
    for setting in SETTINGS {
        let (values, origin) = settings.get(setting.name);
        let value = match values {
            [] => "-".to_owned(),
            _ => values.join(","),
        };
        rows.push([setting.name.to_owned(), value, origin.to_string(), variable_of(setting.name)]);
    }
    let mut out = io::stdout().lock();
    for line in align(&rows) {
        writeln!(out, "{line}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Left-aligned columns, three spaces apart, as kubectl prints them.
pub fn align<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; N]| {
        let mut text = String::new();
        for (cell, width) in row.iter().zip(widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width + 3 - cell.chars().count()));
        }
        text.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
