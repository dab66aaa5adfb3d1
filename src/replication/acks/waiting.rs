//! Sessions that sleep until the ack level of their round is reached, and how they are woken.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::data::clock::{Lead, Stamp};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::{self, Thread};
use crate::sync::thread_local;
use crate::testing::broken_hand_overs::BrokenHandOver;
use crate::wire::ack_level::AckLevel;

/// The writes of one round, as far as acks go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The greatest stamp of the round.
    pub upto: Stamp,
    /// The least clock by which one of its stamps was made, run on.
    pub clock: Lead,
}

impl Written {
    /// One write, stamped at this time.
    pub fn at(stamp: Stamp, elapsed: Duration) -> Written {
        Written { upto: stamp, clock: Lead::of_stamp(stamp, elapsed) }
    }
}

/// A session that waits for its round.
pub struct Waiting {
    pub written: Written,
    pub level: AckLevel,
    pub session: Arc<Waiter>,
}

/// A thread that waits, for one round at a time.
pub struct Waiter {
    thread: Thread,
    /// The level was reached. Set when the session is taken out of the queue.
    is_met: AtomicBool,
}

thread_local! {
    static WAITER: Arc<Waiter> = Arc::new(Waiter { thread: thread::current(), is_met: AtomicBool::new(false) });
}

impl Waiter {
    /// The calling thread, about to wait for another round.
    pub fn current() -> Arc<Waiter> {
        let waiter = WAITER.with(Arc::clone);
        if !BrokenHandOver::NewsOfLastWait.is_on() {
            waiter.is_met.store(false, Ordering::Relaxed);
        }
        waiter
    }

    pub fn is_met(&self) -> bool {
        self.is_met.load(Ordering::Acquire)
    }
}

/// Threads that are to be woken. Dropping the list wakes them. Better when no lock is held that
/// they want: each costs a system call.
#[derive(Default)]
pub struct WakeList(Vec<Arc<Waiter>>);

impl Drop for WakeList {
    fn drop(&mut self) {
        self.0.iter().for_each(|waiter| waiter.thread.unpark());
    }
}

/// Sessions that wait, in the order of the stamps that they wait for.
#[derive(Default)]
pub struct WaitQueue(VecDeque<Waiting>);

impl WaitQueue {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[cfg(test)]
    pub fn stamps(&self) -> Vec<Stamp> {
        self.0.iter().map(|waiting| waiting.written.upto).collect()
    }

    pub fn insert(&mut self, waiting: Waiting) {
        // Behind all others, but for those that were overtaken on the way from their last stamp to
        // here.
        let at = self.0.iter().rposition(|other| other.written.upto <= waiting.written.upto).map_or(0, |before| before + 1);
        self.0.insert(at, waiting);
    }

    /// Takes a session out. Returns true if it was still waiting for this stamp.
    pub fn remove(&mut self, upto: Stamp, session: &Arc<Waiter>) -> bool {
        let first = self.0.partition_point(|waiting| waiting.written.upto < upto);
        let found = self.0.iter().skip(first).position(|waiting| Arc::ptr_eq(&waiting.session, session));
        found.is_some_and(|found| self.0.remove(first + found).is_some())
    }

    /// Takes out the sessions whose level `is_met`, of those that wait for stamps up to `reach`,
    /// and puts them on the list. No others are woken: fifty sessions that wait are not all woken
    /// by every ack.
    pub fn take_met(&mut self, reach: Stamp, is_met: impl Fn(AckLevel, Written) -> bool, woken: &mut WakeList) {
        let reached = self.0.partition_point(|waiting| waiting.written.upto <= reach);
        // Those that stay are moved together, in their order.
        let mut staying = 0;
        for at in 0..reached {
            let Waiting { written, level, ref session } = self.0[at];
            if is_met(level, written) {
                session.is_met.store(true, Ordering::Release);
                woken.0.push(Arc::clone(session));
                continue;
            }
            self.0.swap(staying, at);
            staying += 1;
        }
        self.0.drain(staying..reached);
    }
}
