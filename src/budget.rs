//! Byte budgets: bounds, in bytes, on what is on its way somewhere, or held for one purpose.
//!
//! A thread reserves its bytes first, before any lock. Beyond the budget it waits there
//! ([`ByteBudget::reserve`]) or is refused ([`ByteBudget::try_reserve`]). So no thread that holds a
//! lock ever waits for bytes, and no queue needs a bound of its own.

use std::sync::Arc;
use std::time::Instant;

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex};
use crate::testing::broken_hand_overs::BrokenHandOver;

/// A number of bytes that threads share.
pub struct ByteBudget {
    len: usize,
    free: AtomicUsize,
    waiters: AtomicUsize,
    lock: Mutex<()>,
    returned: Condvar,
}

/// Some bytes of a budget; given back when it is dropped.
pub struct Permit {
    budget: Arc<ByteBudget>,
    len: usize,
}

/// Some bytes of a budget whose number changes; given back when it is dropped.
pub struct Share<'a> {
    budget: &'a ByteBudget,
    len: usize,
}

/// The budget is used up by others.
#[derive(Debug, PartialEq, Eq)]
pub struct OutOfBudget;

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

    /// All bytes of the budget.
    pub fn size(&self) -> usize {
        self.len
    }

    /// The bytes that are reserved now.
    pub fn reserved(&self) -> usize {
        self.len - self.free.load(Ordering::Relaxed)
    }

    /// The bytes that are left.
    pub fn left(&self) -> usize {
        self.free.load(Ordering::Relaxed)
    }

    /// Reserves so many bytes, and waits for them until `deadline`, which is not asked for when
    /// they are there. Returns false if they were not given back in time.
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

    /// Reserves so many bytes, without ever waiting.
    pub fn try_reserve(&self, len: usize) -> Result<(), OutOfBudget> {
        if self.take(len) { Ok(()) } else { Err(OutOfBudget) }
    }

    /// Returns true if a thread waits for bytes.
    pub fn is_awaited(&self) -> bool {
        self.waiters.load(Ordering::SeqCst) > 0
    }

    /// Reserves bytes as [`ByteBudget::reserve`] does, as a guard. More than the whole budget is
    /// all of it.
    pub fn hold(self: &Arc<Self>, len: usize, deadline: Instant) -> Option<Permit> {
        let len = len.min(self.len);
        self.reserve(len, || deadline).then(|| self.held(len))
    }

    /// A guard for bytes that were reserved.
    pub fn held(self: &Arc<Self>, len: usize) -> Permit {
        Permit { budget: Arc::clone(self), len }
    }

    pub fn give_back(&self, len: usize) {
        self.free.fetch_add(len, Ordering::SeqCst);
        if self.waiters.load(Ordering::SeqCst) > 0 {
            // With the lock, so that a waiter that has just found nothing is asleep by now.
            drop((!BrokenHandOver::BytesAnnouncedUnlocked.is_on()).then(|| self.lock.lock()));
            self.returned.notify_all();
        }
    }

    fn take(&self, len: usize) -> bool {
        self.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |free| free.checked_sub(len)).is_ok()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.give_back(self.len);
    }
}

impl<'a> Share<'a> {
    pub fn none(budget: &'a ByteBudget) -> Share<'a> {
        Share { budget, len: 0 }
    }

    /// Makes it so large. It stays as it was where the budget is used up; less is always granted.
    pub fn set(&mut self, len: usize) -> Result<(), OutOfBudget> {
        self.budget.try_reserve(len.saturating_sub(self.len))?;
        self.budget.give_back(self.len.saturating_sub(len));
        self.len = len;
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.budget.give_back(self.len);
    }
}

#[cfg(all(test, feature = "interleavings"))]
mod interleavings;
