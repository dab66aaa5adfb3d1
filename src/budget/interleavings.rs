//! Threads that wait for bytes, in many orders of their steps.

use std::time::Duration;

use super::*;
use crate::sync::thread;
use crate::testing::interleavings::{explore, finds};

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3_600)
}

/// Three threads want more than there is; a fourth gives up if it is not there at once.
fn threads_take_turns() {
    let budget = ByteBudget::new(3);
    let held = std::sync::atomic::AtomicUsize::new(0);
    let hold = |len, deadline| {
        if let Some(permit) = budget.hold(len, deadline) {
            assert!(held.fetch_add(len, Ordering::SeqCst) + len <= 3, "more is held than there is");
            thread::yield_now();
            held.fetch_sub(len, Ordering::SeqCst);
            drop(permit);
            return true;
        }
        false
    };
    thread::scope(|scope| {
        for len in [2, 2, 3] {
            scope.spawn(move || assert!(hold(len, far())));
        }
        scope.spawn(|| hold(1, Instant::now()));
    });
    assert_eq!(budget.reserved(), 0);
    assert!(!budget.is_awaited());
}

#[test]
fn bytes_that_come_back_wake_who_waits_for_them() {
    explore(threads_take_turns);
    finds(BrokenHandOver::BytesAnnouncedUnlocked, "deadlock", threads_take_turns);
}
