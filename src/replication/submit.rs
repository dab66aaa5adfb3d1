//! The submission of writes: the one way in for local writes.
//!
//! Owns the sequencer and the back-pressure budget. **I2** is kept here. A stamp is taken while the
//! key's shard is locked, and enters the replicator's channel in the same order: both happen under
//! the one small sequencer lock. A stamp that was taken is always sent. **I3** is kept, too: what
//! is sent is the update that evaluating the command produced, never the command. Nothing under a
//! lock can block: bytes of the budget are reserved before any lock is taken, and a session that
//! finds none waits there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::budget::{ByteBudget, Permit};
use crate::data::clock::{Clock, Deadline, Stamp};
use crate::data::entry::{Entry, Update};
use crate::data::version::{Origin, Version};
use crate::lock_order::{Mutex, Rank};
use crate::store::{Span, Store, View};
use crate::sync::unbounded::{Receiver, Sender, unbounded};

/// Bytes that an entry counts for in the back-pressure budget and in a link's queue, beside its
/// own.
pub const WRITE_OVERHEAD: usize = 64;

/// The way in for local writes.
pub struct Submit {
    origin: Origin,
    clock: Arc<Clock>,
    store: Arc<Store>,
    /// `None` once the node stops: no further write is taken.
    sequencer: Mutex<Option<Sender<Submitted>>>,
    /// The greatest stamp sent: this node's own entry of its version vector.
    position: AtomicU64,
    /// Writes sent so far.
    written: AtomicU64,
    /// The stamp of the first of them; 0 before.
    first: AtomicU64,
    budget: Arc<ByteBudget>,
    /// For [`BrokenRule::SendOutOfOrder`]: a write that has its stamp, and is overtaken by the next
    /// one.
    #[cfg(feature = "testing")]
    overtaken: parking_lot::Mutex<Option<Submitted>>,
}

/// A write on its way to the replicator.
pub struct Submitted {
    pub entry: Entry,
    /// Bytes of the back-pressure budget that it holds.
    pub reserved: usize,
}

/// Why nothing was written.
#[derive(Debug, PartialEq, Eq)]
pub enum NotWritten<R> {
    /// The evaluation refused it.
    Refused(R),
    /// It takes `len` bytes, more than the whole budget.
    TooLarge { len: usize, budget: usize },
    /// No bytes of the budget were released before the deadline: the replicator does not keep up.
    NoBudget,
    /// The node stops.
    Stopping,
}

/// Why an attempt to write has failed.
enum Pass<R> {
    /// So many bytes of the budget are needed.
    Again(usize),
    Not(NotWritten<R>),
}

impl Submit {
    /// Creates the way in, and the channel that the replicator drains. The channel needs no bound
    /// of its own: `budget_len` bytes bound what is in it.
    pub fn new(origin: Origin, clock: Arc<Clock>, store: Arc<Store>, budget_len: usize) -> (Submit, Receiver<Submitted>) {
        #[cfg_attr(
            not(all(test, feature = "interleavings")),
            expect(clippy::disallowed_methods, reason = "`budget_len` bounds what is in it")
        )]
        let (write_tx, write_rx) = unbounded();
        let budget = ByteBudget::new(budget_len);
        let sequencer = Mutex::new(Rank::Sequencer, Some(write_tx));
        let submit = Submit {
            origin,
            clock,
            store,
            sequencer,
            position: AtomicU64::new(0),
            written: AtomicU64::new(0),
            first: AtomicU64::new(0),
            budget,
            #[cfg(feature = "testing")]
            overtaken: parking_lot::Mutex::default(),
        };
        (submit, write_rx)
    }

    /// Submits one write. `evaluate` receives the entry that is there, be it live, expired or a
    /// tombstone, and returns the update or refuses. `len` is the estimate of the bytes that key
    /// and new value take; when they are more, `evaluate` is called again. `elapsed` is the time
    /// for the stamp. Waits for bytes of the back-pressure budget until `deadline`.
    pub fn write<R>(
        &self,
        key: &[u8],
        len: usize,
        elapsed: Duration,
        deadline: &Deadline,
        mut evaluate: impl FnMut(Option<&Entry>) -> Result<Update, R>,
    ) -> Result<Stamp, NotWritten<R>> {
        self.with_budget(len + WRITE_OVERHEAD, deadline, |reserved| {
            let written = self.store.write(key, |current| {
                let update = evaluate(current).map_err(|refused| Pass::Not(NotWritten::Refused(refused)))?;
                let taken = update.entry().size() + WRITE_OVERHEAD;
                if taken > reserved {
                    return Err(Pass::Again(taken));
                }
                // Nothing is copied under the sequencer, for which all writers would wait.
                let update = update.unshared();
                let sequencer = self.sequencer.lock();
                let write_tx = sequencer.as_ref().ok_or(Pass::Not(NotWritten::Stopping))?;
                Ok(self.send(write_tx, update, current, elapsed, reserved))
            });
            written.map(|version| (version.stamp, reserved))
        })
    }

    /// Submits several writes in one step: no reader on this node sees some of them without the
    /// others. `plan` receives what is there and returns the updates, in order and at most one for
    /// a key, beside what it finds. It refuses, or is called again, as in [`Submit::write`].
    /// Returns the writes, in the same order.
    pub fn transact<T, R>(
        &self,
        span: Span<'_>,
        len: usize,
        elapsed: Duration,
        deadline: &Deadline,
        mut plan: impl FnMut(&View<'_>) -> Result<(Vec<Update>, T), R>,
    ) -> Result<(Vec<Entry>, T), NotWritten<R>> {
        self.with_budget(len + WRITE_OVERHEAD, deadline, |reserved| {
            let mut taken = 0;
            let done = self.store.transact(span, |view| {
                let (updates, found) = plan(view).map_err(|refused| Pass::Not(NotWritten::Refused(refused)))?;
                let len = |update: &Update| update.entry().size() + WRITE_OVERHEAD;
                taken = updates.iter().map(len).sum();
                if taken > reserved {
                    return Err(Pass::Again(taken));
                }
                let updates: Vec<Update> = updates.into_iter().map(Update::unshared).collect();
                let sequencer = self.sequencer.lock();
                let write_tx = sequencer.as_ref().ok_or(Pass::Not(NotWritten::Stopping))?;
                let send = |update| {
                    let reserved = len(&update);
                    self.send(write_tx, update, None, elapsed, reserved)
                };
                let entries: Vec<Entry> = updates.into_iter().map(send).collect();
                Ok((entries.clone(), (entries, found)))
            });
            done.map(|done| (done, taken))
        })
    }

    /// Reserves bytes of the budget, before any lock, and makes an attempt. If they turn out to be
    /// too few, reserves more and tries again. Releases what was not used.
    fn with_budget<T, R>(
        &self,
        estimate: usize,
        deadline: &Deadline,
        mut attempt: impl FnMut(usize) -> Result<(T, usize), Pass<R>>,
    ) -> Result<T, NotWritten<R>> {
        let mut reserved = estimate.min(self.budget.size());
        loop {
            if !self.budget.reserve(reserved, || deadline.at()) {
                return Err(NotWritten::NoBudget);
            }
            let (used, done) = match attempt(reserved) {
                Ok((done, used)) => (used, Ok(done)),
                Err(why) => (0, Err(why)),
            };
            if used < reserved {
                self.budget.give_back(reserved - used);
            }
            match done {
                Ok(done) => return Ok(done),
                Err(Pass::Again(len)) if len > self.budget.size() => return Err(NotWritten::TooLarge { len, budget: self.budget.size() }),
                // The entry that is there changes meanwhile: a little more is reserved, so that an
                // end is near.
                Err(Pass::Again(len)) => reserved = (len + len / 8).min(self.budget.size()),
                Err(Pass::Not(why)) => return Err(why),
            }
        }
    }

    /// Stamps an update and sends it, under the sequencer's lock and the key's.
    fn send(&self, write_tx: &Sender<Submitted>, update: Update, before: Option<&Entry>, elapsed: Duration, reserved: usize) -> Entry {
        let stamp = self.clock.issue(elapsed);
        let entry = update.stamped(Version { stamp, origin: self.origin });
        self.position.store(stamp.to_bits(), Ordering::Release);
        // Only the holder of the lock adds to it.
        let written = self.written.load(Ordering::Relaxed);
        if written == 0 {
            self.first.store(stamp.to_bits(), Ordering::Release);
        }
        self.written.store(written + 1, Ordering::Relaxed);
        self.hand_on(write_tx, Submitted { entry: sent(&entry, before), reserved });
        entry
    }

    fn hand_on(&self, write_tx: &Sender<Submitted>, submitted: Submitted) {
        #[cfg(feature = "testing")]
        if crate::testing::broken_rules::BrokenRule::SendOutOfOrder.is_on() {
            let mut overtaken = self.overtaken.lock();
            let Some(earlier) = overtaken.take() else {
                *overtaken = Some(submitted);
                return;
            };
            let _ = (write_tx.send(submitted), write_tx.send(earlier));
            return;
        }
        // Fails only when the replicator is gone, and then the process is going down.
        let _ = write_tx.send(submitted);
    }

    /// This node's own entry of its version vector: it holds every write of its own up to here.
    pub fn position(&self) -> Stamp {
        Stamp::from_bits(self.position.load(Ordering::Acquire))
    }

    /// Number of writes that this incarnation has issued.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// The stamp of the first write of this incarnation.
    pub fn first(&self) -> Option<Stamp> {
        let first = self.first.load(Ordering::Acquire);
        (first > 0).then(|| Stamp::from_bits(first))
    }

    /// Returns whether a session waits for bytes of the budget.
    pub fn is_budget_awaited(&self) -> bool {
        self.budget.is_awaited()
    }

    /// The permit for the bytes that submitted writes hold. They are released when it is dropped,
    /// by the last reader of their bytes.
    pub fn held(&self, reserved: usize) -> Permit {
        self.budget.held(reserved)
    }

    /// Closes the channel: the replicator hands over what is in it and ends, too.
    pub fn close(&self) {
        self.sequencer.lock().take();
    }
}

/// Returns what is sent of a write: its entry, unless the broken rule `replicate-commands` is on.
#[cfg_attr(not(feature = "testing"), expect(unused_variables, reason = "only a broken rule looks at it"))]
fn sent(entry: &Entry, before: Option<&Entry>) -> Entry {
    #[cfg(feature = "testing")]
    if crate::testing::broken_rules::BrokenRule::ReplicateCommands.is_on()
        && let Some(value) = entry.value()
    {
        let value = crate::testing::broken_rules::command::of(before.and_then(Entry::value), value);
        return Entry::new(entry.key(), Some(&value), entry.expires(), entry.version());
    }
    entry.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::version::NodeId;

    fn submit(budget_len: usize) -> (Submit, Receiver<Submitted>) {
        let origin = Origin { node: NodeId(1), nonce: 7 };
        let clock = Clock::new(crate::data::clock::Now { wall_ms: 1_000, elapsed: Duration::ZERO }, Duration::ZERO);
        Submit::new(origin, Arc::new(clock), Arc::new(Store::new()), budget_len)
    }

    fn soon() -> Deadline {
        Deadline::within(Duration::from_millis(20))
    }

    #[test]
    fn stamps_enter_the_channel_in_order_whichever_thread_writes() {
        let (submit, write_rx) = submit(1 << 20);
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let submit = &submit;
                scope.spawn(move || {
                    for n in 0..500 {
                        let key = format!("{writer}/{n}");
                        submit
                            .write::<()>(key.as_bytes(), 10, Duration::ZERO, &soon(), |_| Ok(Update::put(key.as_bytes(), b"v", None)))
                            .unwrap();
                    }
                });
            }
        });
        let stamps: Vec<Stamp> = std::iter::from_fn(|| write_rx.try_recv().ok()).map(|submitted| submitted.entry.version().stamp).collect();
        assert_eq!(stamps.len(), 2_000);
        assert!(stamps.is_sorted_by(|a, b| a < b));
        assert_eq!(*stamps.last().unwrap(), submit.position());
    }

    #[test]
    fn a_refused_write_leaves_no_trace_and_releases_its_bytes() {
        let (submit, write_rx) = submit(100);
        for _ in 0..10 {
            assert_eq!(submit.write(b"k", 30, Duration::ZERO, &soon(), |_| Err("no")), Err(NotWritten::Refused("no")));
        }
        assert!(write_rx.is_empty());
        assert_eq!(submit.position(), Stamp::ZERO);
    }

    #[test]
    fn without_budget_a_write_waits_and_goes_on_when_bytes_are_released() {
        let (submit, write_rx) = submit(100);
        let put = |deadline: Deadline| submit.write::<()>(b"k", 30, Duration::ZERO, &deadline, |_| Ok(Update::put(b"k", b"v", None)));
        put(soon()).unwrap();
        assert_eq!(put(soon()), Err(NotWritten::NoBudget));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| put(Deadline::within(Duration::from_secs(30))));
            drop(submit.held(write_rx.try_recv().unwrap().reserved));
            waiting.join().unwrap().unwrap();
        });
        submit.close();
        assert_eq!(put(soon()), Err(NotWritten::NoBudget));
        drop(submit.held(94));
        assert_eq!(put(soon()), Err(NotWritten::Stopping));
    }
}
