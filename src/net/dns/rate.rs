//! How much one pod may ask, so that the others are answered too (pure: time is given).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Questions a second, and how many may come at once.
const RATE: f64 = 1000.0;
const BURST: f64 = 2000.0;
/// Callers remembered at most; one that is forgotten begins anew.
const CALLERS: usize = 4096;

/// A bucket for each caller.
#[derive(Debug, Default)]
pub struct Rates {
    buckets: HashMap<IpAddr, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    left: f64,
    since: Instant,
}

impl Rates {
    /// Whether this question may be answered.
    pub fn admit(&mut self, caller: IpAddr, now: Instant) -> bool {
        if self.buckets.len() >= CALLERS && !self.buckets.contains_key(&caller) {
            let full = Duration::from_secs_f64(BURST / RATE);
            self.buckets.retain(|_, bucket| now.duration_since(bucket.since) < full);
            if self.buckets.len() >= CALLERS {
                return false;
            }
        }
        let bucket = self.buckets.entry(caller).or_insert(Bucket { left: BURST, since: now });
        let passed = now.duration_since(bucket.since).as_secs_f64();
        bucket.left = (bucket.left + passed * RATE).min(BURST);
        bucket.since = now;
        let is_admitted = bucket.left >= 1.0;
        if is_admitted {
            bucket.left -= 1.0;
        }
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_never_uses_up_what_is_anothers() {
        let mut rates = Rates::default();
        let start = Instant::now();
        let [greedy, modest] = [1, 2].map(|last| IpAddr::from([10, 42, 0, last]));
        let admitted = (0..10_000).filter(|_| rates.admit(greedy, start)).count();
        assert_eq!(admitted, BURST as usize);
        assert!(rates.admit(modest, start));
        let later = start + Duration::from_millis(100);
        let admitted = (0..10_000).filter(|_| rates.admit(greedy, later)).count();
        assert_eq!(admitted, 100);
    }
}
