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

    /// The channel of submitted writes. Whoever makes one says what bounds it.
    pub mod unbounded {
        pub use crossbeam_channel::{Receiver, Sender, TryRecvError, unbounded};

        /// Waits until there is something to be received, or the channel is closed. Receives
        /// nothing.
        pub fn await_item<T>(receiver: &Receiver<T>) {
            let mut select = crossbeam_channel::Select::new();
            select.recv(receiver);
            select.ready();
        }
    }
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

    /// A channel, as far as crossbeam's is used. The scheduler's has one receiver.
    pub mod unbounded {
        use std::collections::VecDeque;
        use std::sync::Arc;
        pub use std::sync::mpsc::{SendError, TryRecvError};
        use std::time::Duration;

        use super::{Condvar, Mutex};

        struct Channel<T> {
            /// The items that wait, and whether the sender is still there.
            items: Mutex<(VecDeque<T>, bool)>,
            arrived: Condvar,
        }

        pub struct Sender<T>(Arc<Channel<T>>);
        pub struct Receiver<T>(Arc<Channel<T>>);

        pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
            let channel = Arc::new(Channel { items: Mutex::new((VecDeque::new(), true)), arrived: Condvar::new() });
            (Sender(Arc::clone(&channel)), Receiver(channel))
        }

        pub fn await_item<T>(receiver: &Receiver<T>) {
            let mut items = receiver.0.items.lock();
            while items.0.is_empty() && items.1 {
                receiver.0.arrived.wait_for(&mut items, Duration::MAX);
            }
        }

        impl<T> Sender<T> {
            pub fn send(&self, item: T) -> Result<(), SendError<T>> {
                self.0.items.lock().0.push_back(item);
                self.0.arrived.notify_one();
                Ok(())
            }
        }

        impl<T> Drop for Sender<T> {
            fn drop(&mut self) {
                self.0.items.lock().1 = false;
                self.0.arrived.notify_all();
            }
        }

        impl<T> Clone for Receiver<T> {
            fn clone(&self) -> Receiver<T> {
                Receiver(Arc::clone(&self.0))
            }
        }

        impl<T> Receiver<T> {
            pub fn try_recv(&self) -> Result<T, TryRecvError> {
                let mut items = self.0.items.lock();
                let nothing = if items.1 { TryRecvError::Empty } else { TryRecvError::Disconnected };
                items.0.pop_front().ok_or(nothing)
            }

            pub fn is_empty(&self) -> bool {
                self.0.items.lock().0.is_empty()
            }
        }
    }
}

pub use types::*;
