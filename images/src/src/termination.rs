//! SIGTERM as a value that can be waited for.

use std::mem::MaybeUninit;

/// SIGTERM and SIGINT, kept from killing this process.
pub struct Termination(libc::sigset_t);

impl Termination {
    /// Blocks the signals. Must be called before any thread is started, so that all inherit the mask.
    pub fn catch() -> Termination {
        let mut set = MaybeUninit::uninit();
        // SAFETY: `set` is written by sigemptyset before anything reads it; the signal numbers are valid.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
            libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
            Termination(set.assume_init())
        }
    }

    /// Waits for one of them.
    pub fn wait(&self) {
        let mut signal = 0;
        // SAFETY: both pointers are to live, initialised values.
        unsafe { libc::sigwait(&self.0, &mut signal) };
    }
}
