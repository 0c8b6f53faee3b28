//! Samples and how they are shown: median, minimum, 90th percentile, and the ratio to the first row.

pub struct Row {
    pub name: String,
    pub samples: Vec<f64>,
}

impl Row {
    pub fn new(name: impl Into<String>) -> Row {
        Row { name: name.into(), samples: Vec::new() }
    }

    fn at(&self, share: usize) -> Option<f64> {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len().saturating_sub(1) * share / 100).copied()
    }
}

/// Rows without samples say so.
pub fn print(title: &str, unit: &str, rows: &[Row]) {
    println!("\n{title}");
    println!(
        "  {:<46} {:>10} {:>10} {:>10} {:>10} {:>7}",
        unit, "median", "min", "p90", "max", "× 1st"
    );
    let first = rows.first().and_then(|row| row.at(50));
    for row in rows {
        let (Some(median), Some(min), Some(p90), Some(max)) =
            (row.at(50), row.at(0), row.at(90), row.at(100))
        else {
            println!("  {:<46} not measured", row.name);
            continue;
        };
        let ratio = first.map_or(1.0, |first| median / first);
        println!(
            "  {:<46} {median:>10.2} {min:>10.2} {p90:>10.2} {max:>10.2} {ratio:>7.2}",
            row.name
        );
    }
}
