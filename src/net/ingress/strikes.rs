//! Who has flooded waits at the door: the bounds of one connection are no bounds to somebody who makes the next one at once.
//!
//! Each connection that had to be ended for what its client did is a strike (security C11). A few are free, every further one makes
//! the client's next connections wait longer before anything is read of them, and time takes strikes away. Nobody is locked out for
//! good: who shares an address with an attacker has to wait as well, and for a place among those who do (`MAX_WAITING`).
//!
//! ```text
//! wait ▲            ┌──────── LONGEST, until the strikes above are worn off
//!      │        ╱
//!      └──FREE─┴──────────▶ strikes            (one worn off a second)
//! ```

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Strikes that cost nothing: a broken client is no attacker.
const FREE: f64 = 5.0;
const PER_STRIKE: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);
const WORN_OFF_PER_SECOND: f64 = 1.0;
/// No more are counted, so that everything is forgotten a minute after the last.
const MOST: f64 = 60.0;
/// Clients that are remembered at most, some 300 KiB.
const MOST_CLIENTS: usize = 4096;

/// Of each client that has any.
#[derive(Debug, Default)]
pub struct Strikes {
    by_client: HashMap<IpAddr, Tally>,
}

#[derive(Debug, Clone, Copy)]
struct Tally {
    strikes: f64,
    at: Instant,
}

impl Tally {
    fn left(self, now: Instant) -> f64 {
        let worn_off = now.saturating_duration_since(self.at).as_secs_f64() * WORN_OFF_PER_SECOND;
        (self.strikes - worn_off).max(0.0)
    }
}

impl Strikes {
    pub fn add(&mut self, client: IpAddr, now: Instant) {
        if self.by_client.len() >= MOST_CLIENTS && !self.by_client.contains_key(&client) {
            self.by_client.retain(|_, tally| tally.left(now) > 0.0);
            if self.by_client.len() >= MOST_CLIENTS {
                return;
            }
        }
        let tally = self.by_client.entry(client).or_insert(Tally { strikes: 0.0, at: now });
        *tally = Tally { strikes: (tally.left(now) + 1.0).min(MOST), at: now };
    }

    /// How long a new connection of this client waits; zero for nearly everybody.
    pub fn wait(&self, client: IpAddr, now: Instant) -> Duration {
        let Some(tally) = self.by_client.get(&client) else { return Duration::ZERO };
        let counted = (tally.left(now) - FREE).max(0.0);
        PER_STRIKE.mul_f64(counted).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strikes_make_wait_and_wear_off() {
        let (client, other) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut strikes = Strikes::default();
        for _free in 0..FREE as u32 {
            strikes.add(client, start);
            assert_eq!(strikes.wait(client, start), Duration::ZERO);
        }
        strikes.add(client, start);
        assert_eq!(strikes.wait(client, start), PER_STRIKE);
        for _more in 0..1000 {
            strikes.add(client, start);
        }
        assert_eq!(strikes.wait(client, start), LONGEST);
        assert_eq!(strikes.wait(client, after(30)), LONGEST);
        assert!((Duration::from_millis(1)..LONGEST).contains(&strikes.wait(client, after(45))));
        assert_eq!(strikes.wait(client, after(60)), Duration::ZERO);
        assert_eq!(strikes.wait(other, start), Duration::ZERO);
    }

    #[test]
    fn few_clients_are_remembered_and_those_long_gone_make_room() {
        let start = Instant::now();
        let mut strikes = Strikes::default();
        let client = |number: usize| IpAddr::from((number as u128).to_be_bytes());
        for number in 0..MOST_CLIENTS + 10 {
            strikes.add(client(number), start);
        }
        assert_eq!(strikes.by_client.len(), MOST_CLIENTS);
        strikes.add(client(MOST_CLIENTS + 10), start + Duration::from_secs(2));
        assert_eq!(strikes.by_client.len(), 1);
    }
}
