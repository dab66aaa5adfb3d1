//! The locks, condition variables, atomics, parked threads and channels of the places where threads
//! hand something over: those of parking_lot, std and crossbeam.
//!
//! In the tests of interleavings they are those of a scheduler instead, which decides at each use
//! of one of them which thread goes on. So those tests run the shipped code, one order of its steps
//! after another ([`crate::testing`]). Whatever is handed over without them it cannot see.

#[cfg(not(all(test, feature = "interleavings")))]
mod types {
    pub use std::sync::atomic;
    pub use std::{thread, thread_local};

    pub use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
    pub use parking_lot::{Condvar, MappedMutexGuard, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
}

/// The types of the scheduler. Its time does not pass: a time-out is over at once if it is zero,
/// and else never. So a thread that only a time-out would wake is found as one that sleeps for
/// ever.
#[cfg(all(test, feature = "interleavings"))]
mod types {
    use std::time::{Duration, Instant};

    pub use shuttle::sync::atomic;
    pub use shuttle::sync::mpsc::{RecvTimeoutError, SyncSender as Sender, sync_channel as bounded};
    pub use shuttle::thread_local;
    pub use shuttle_parking_lot::{MappedMutexGuard, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

    /// A condition variable for [`Mutex`].
    #[derive(Default)]
    pub struct Condvar {
        /// Held by a thread from before it releases its own lock until it sleeps, and by one that
        /// notifies: no notification falls in between.
        falling_asleep: shuttle::sync::Mutex<()>,
        sleeping: shuttle::sync::Condvar,
    }

    pub struct WaitTimeoutResult(bool);

    impl WaitTimeoutResult {
        pub fn timed_out(&self) -> bool {
            self.0
        }
    }

    impl Condvar {
        pub fn new() -> Condvar {
            Condvar::default()
        }

        pub fn notify_one(&self) {
            let _lock = self.falling_asleep.lock();
            self.sleeping.notify_one();
        }

        pub fn notify_all(&self) {
            let _lock = self.falling_asleep.lock();
            self.sleeping.notify_all();
        }

        pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) -> WaitTimeoutResult {
            self.wait_for(guard, deadline.saturating_duration_since(Instant::now()))
        }

        pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, timeout: Duration) -> WaitTimeoutResult {
            if timeout.is_zero() {
                MutexGuard::unlocked(guard, thread::yield_now);
                return WaitTimeoutResult(true);
            }
            let asleep = self.falling_asleep.lock().unwrap();
            MutexGuard::unlocked(guard, || drop(self.sleeping.wait(asleep)));
            WaitTimeoutResult(false)
        }
    }

    pub mod thread {
        use std::time::Duration;

        pub use shuttle::thread::{Scope, ScopedJoinHandle, Thread, current, scope, yield_now};

        pub fn park_timeout(timeout: Duration) {
            if timeout.is_zero() { yield_now() } else { shuttle::thread::park() }
        }
    }
}

pub use types::*;
