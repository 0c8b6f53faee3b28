//! The payload of the pod benchmark: its first instruction of ours reads the clock and prints it.
//!
//! Built by rustc alone, so that loading it costs next to nothing. With an argument it ends at once, otherwise when
//! it is told to.

use std::io::Write as _;

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
    fn pause() -> i32;
    fn _exit(code: i32) -> !;
}

const CLOCK_MONOTONIC: i32 = 1;
const SIGTERM: i32 = 15;

extern "C" fn end(_: i32) {
    // SAFETY: _exit is async-signal-safe.
    unsafe { _exit(0) }
}

fn main() {
    let mut now = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: `now` outlives the call.
    unsafe { clock_gettime(CLOCK_MONOTONIC, &raw mut now) };
    // SAFETY: the handler calls nothing but _exit.
    unsafe { signal(SIGTERM, end) };
    let mut out = std::io::stdout();
    // Nobody may be reading any more.
    let _ = writeln!(out, "{}", now.seconds * 1_000_000_000 + now.nanoseconds);
    if std::env::args_os().len() > 1 {
        return;
    }
    loop {
        // SAFETY: pause has no preconditions.
        unsafe { pause() };
    }
}
