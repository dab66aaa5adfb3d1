//! ByteBudget: a bound, in bytes, on what is on its way somewhere.
//!
//! Whoever puts something on the way reserves room for it first, before any lock, and waits there when there is none. So nobody who holds a lock ever waits for
//! room, and no queue needs a bound of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// Bytes that may be on their way. Beyond this, those who bring more wait.
pub struct ByteBudget {
    len: usize,
    free: AtomicUsize,
    waiters: AtomicUsize,
    lock: Mutex<()>,
    returned: Condvar,
}

/// A share of the budget; given back when it is dropped.
pub struct Permit {
    room: Arc<ByteBudget>,
    len: usize,
}

impl ByteBudget {
    pub fn new(len: usize) -> Arc<ByteBudget> {
        Arc::new(ByteBudget {
            len,
            free: AtomicUsize::new(len),
            waiters: AtomicUsize::new(0),
            lock: Mutex::new(()),
            returned: Condvar::new(),
        })
    }

    /// All the room that there is.
    pub fn size(&self) -> usize {
        self.len
    }

    /// Takes so many bytes of room, and waits for them until `deadline`, which is not asked for when there is room. Whether there were as many.
    pub fn reserve(&self, len: usize, deadline: impl FnOnce() -> Instant) -> bool {
        if self.take(len) {
            return true;
        }
        let deadline = deadline();
        let mut guard = self.lock.lock();
        self.waiters.fetch_add(1, Ordering::SeqCst);
        let taken = loop {
            if self.take(len) {
                break true;
            }
            if self.returned.wait_until(&mut guard, deadline).timed_out() {
                break self.take(len);
            }
        };
        self.waiters.fetch_sub(1, Ordering::SeqCst);
        taken
    }

    /// Whether somebody waits for some.
    pub fn is_awaited(&self) -> bool {
        self.waiters.load(Ordering::SeqCst) > 0
    }

    /// The same as a guard. What is larger than the whole room takes all of it.
    pub fn hold(self: &Arc<Self>, len: usize, deadline: Instant) -> Option<Permit> {
        let len = len.min(self.len);
        self.reserve(len, || deadline).then(|| self.held(len))
    }

    /// A guard for room that was reserved.
    pub fn held(self: &Arc<Self>, len: usize) -> Permit {
        Permit { room: Arc::clone(self), len }
    }

    pub fn give_back(&self, len: usize) {
        self.free.fetch_add(len, Ordering::SeqCst);
        if self.waiters.load(Ordering::SeqCst) > 0 {
            // With the lock, so that a waiter that has just found nothing is asleep by now.
            drop(self.lock.lock());
            self.returned.notify_all();
        }
    }

    fn take(&self, len: usize) -> bool {
        self.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |free| free.checked_sub(len)).is_ok()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.room.give_back(self.len);
    }
}
