//! Waiting for what another thread does, in tests.

use std::thread;
use std::time::{Duration, Instant};

/// Long enough that only a fault gets there.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until the condition holds. Panics, with what was waited for, when patience ends.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::yield_now();
    }
}
