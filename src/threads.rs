//! Joining threads, with a deadline.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often a thread that is to end is asked whether it has.
pub const JOIN_PAUSE: Duration = Duration::from_millis(2);

/// Joins threads that have been told to end; those that have not by the deadline are left to the end of the process.
pub fn join_all(threads: impl IntoIterator<Item = JoinHandle<()>>, deadline: Instant, name: &str) {
    for thread in threads {
        while !thread.is_finished() && Instant::now() < deadline {
            thread::park_timeout(JOIN_PAUSE);
        }
        if !thread.is_finished() {
            log::warn!("a {name} thread did not end in time");
            continue;
        }
        // A panic has ended the process already.
        let _ = thread.join();
    }
}
