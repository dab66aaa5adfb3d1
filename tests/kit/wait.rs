//! Waiting for a condition, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

/// The processes under test share the machine with the thread that waits.
const POLL_PAUSE: Duration = Duration::from_millis(20);

/// Polls until `probe` returns a value. Returns its last error once the deadline has passed.
pub fn poll_until<T, E>(deadline: Instant, mut probe: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(last) if Instant::now() >= deadline => return Err(last),
            Err(_) => thread::sleep(POLL_PAUSE),
        }
    }
}
