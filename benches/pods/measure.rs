//! Numbers: the clock that the payload reads too, samples, tables, and what /proc says about processes.

use std::collections::BTreeMap;
use std::fs;

/// CLOCK_MONOTONIC in nanoseconds.
pub fn now() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .expect("this clock always exists");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

pub fn since(start: u64) -> u64 {
    now().saturating_sub(start)
}

pub struct Row {
    name: String,
    /// Nanoseconds, or why there are none.
    samples: Result<Vec<u64>, String>,
}

impl Row {
    pub fn new(name: &str) -> Row {
        Row { name: name.to_owned(), samples: Ok(Vec::new()) }
    }

    pub fn add(&mut self, sample: u64) {
        if let Ok(samples) = &mut self.samples {
            samples.push(sample);
        }
    }

    pub fn refuse(&mut self, reason: String) {
        self.samples = Err(reason);
    }

    pub fn runs(&self) -> bool {
        self.samples.is_ok()
    }

    fn sorted(&self) -> Option<Vec<u64>> {
        let mut samples = self.samples.clone().ok()?;
        samples.sort_unstable();
        (!samples.is_empty()).then_some(samples)
    }
}

/// Medians, minima and the ratio to the first row.
pub fn print(title: &str, rows: &[Row]) {
    println!("\n{title}");
    println!("  {:<54} {:>9} {:>9} {:>9} {:>8}", "ms", "median", "min", "p90", "floor ×");
    let mut base = None;
    for row in rows {
        let Some(samples) = row.sorted() else {
            let reason = row.samples.as_ref().err().map_or("not measured", String::as_str);
            println!("  {:<54} {reason}", row.name);
            continue;
        };
        let at = |share: usize| samples[(samples.len() - 1) * share / 100] as f64 / 1e6;
        let base = *base.get_or_insert(at(50));
        println!(
            "  {:<54} {:>9.2} {:>9.2} {:>9.2} {:>8.1}",
            row.name,
            at(50),
            at(0),
            at(90),
            at(50) / base
        );
    }
}

/// A sum over processes, in KiB.
#[derive(Clone, Copy, Default)]
pub struct Memory {
    pub pss: u64,
    pub private: u64,
    pub rss: u64,
}

pub fn memory(pids: &[u32]) -> Memory {
    let mut sum = Memory::default();
    for pid in pids {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(key), Some(value)) = (words.next(), words.next()) else { continue };
            let value = value.parse().unwrap_or(0);
            match key {
                "Rss:" => sum.rss += value,
                "Pss:" => sum.pss += value,
                "Private_Clean:" | "Private_Dirty:" => sum.private += value,
                _ => {} // Some twenty others.
            }
        }
    }
    sum
}

/// CPU time in nanoseconds and voluntary switches (wake-ups), by thread.
pub struct Work(BTreeMap<u32, (u64, u64)>);

impl Work {
    pub fn of(pids: &[u32]) -> Work {
        let mut threads = BTreeMap::new();
        for pid in pids {
            let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for task in tasks.flatten() {
                let number = |text: Option<&str>| text.and_then(|t| t.trim().parse::<u64>().ok());
                let Some(id) = number(task.file_name().to_str()) else { continue };
                let path = task.path();
                let schedstat = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
                let status = fs::read_to_string(path.join("status")).unwrap_or_default();
                let wakes = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
                let cpu = number(schedstat.split(' ').next());
                threads.insert(id as u32, (cpu.unwrap_or(0), number(wakes).unwrap_or(0)));
            }
        }
        Work(threads)
    }

    /// What has been done since `before`. A thread that has ended meanwhile is not counted.
    pub fn since(&self, before: &Work) -> (u64, u64) {
        self.0.iter().fold((0, 0), |(cpu, wakes), (id, now)| {
            let then = before.0.get(id).copied().unwrap_or((0, 0));
            (cpu + now.0.saturating_sub(then.0), wakes + now.1.saturating_sub(then.1))
        })
    }
}

pub fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| {
            text.split_ascii_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}
