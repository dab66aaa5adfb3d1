//! Negative controls of the tests of interleavings: hand-overs between threads that such a test
//! breaks, one at a time, to see that the scheduler finds it.
//!
//! In every other build each of them is whole, for certain and at no cost.

/// A hand-over that can be broken, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokenHandOver {
    /// Bytes that are given back to a budget are announced without its lock.
    BytesAnnouncedUnlocked,
    /// A session that has found its level not reached lets go of the ack table before it queues.
    SessionQueuesLater,
    /// A session goes into a wait with the news of its last one.
    NewsOfLastWait,
    /// Sessions that wait for all members are not woken when one of them is given up.
    GivingUpWakesNobody,
    /// Callers that count which members hold a write are not told that one more does.
    CountersNotTold,
    /// Other threads than the link's take out of the outbox, and let go of the sender before they
    /// put that behind what is to be sent.
    TakenWithoutSender,
    /// Other threads than the link's do not call it for what the socket has not taken.
    RestNotCalled,
    /// The link's thread forgets before it looks that it was called.
    CallForgottenEarly,
    /// A link ends when its node stops, whatever waits.
    StopLeavesBatches,
    /// Nothing that becomes due in an outbox wakes the link's thread.
    OutboxWakesNobody,
    /// The replicator's thread takes from the channel before it has the lock under which batches
    /// are made.
    TakenUnlocked,
    /// The log's thread lets go of its queue between the look and the sleep.
    QueueLetGo,
    /// The log's thread is not told that the queue is closed.
    ClosingWakesNobody,
}

impl BrokenHandOver {
    #[cfg(not(all(test, feature = "interleavings")))]
    #[inline(always)]
    pub const fn is_on(self) -> bool {
        false
    }

    #[cfg(all(test, feature = "interleavings"))]
    pub fn is_on(self) -> bool {
        BROKEN.get() == Some(self)
    }

    /// Runs something with this hand-over broken. The scheduler runs all its threads on this one.
    #[cfg(all(test, feature = "interleavings"))]
    pub fn broken_in(self, run: impl FnOnce()) {
        BROKEN.set(Some(self));
        run();
        BROKEN.set(None);
    }
}

#[cfg(all(test, feature = "interleavings"))]
std::thread_local! {
    static BROKEN: std::cell::Cell<Option<BrokenHandOver>> = const { std::cell::Cell::new(None) };
}
