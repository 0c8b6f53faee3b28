//! The only `now()` and the only randomness of the program.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};

use crate::model::time::Timestamp;

/// Wall-clock time.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix(since.as_secs() as i64, since.subsec_nanos() as i32)
}

/// Time since boot, sleep included: nobody can set it.
pub fn uptime() -> Duration {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    time.expect("Linux has had this clock since 2.6.39").into()
}

/// Fills `buffer` from the kernel's generator.
pub fn random(buffer: &mut [u8]) {
    SystemRandom::new().fill(buffer).expect("getrandom(2) does not fail after early boot");
}

/// A version 4 UUID (RFC 9562 §5.4) in its usual text.
pub fn uuid() -> String {
    let mut raw = [0u8; 16];
    random(&mut raw);
    raw[6] = raw[6] & 0x0f | 0x40;
    raw[8] = raw[8] & 0x3f | 0x80;
    let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
