//! How a write enters the mesh: the one face of replication that sessions see.
//!
//! Owns the sequencer and the room. **I2** is kept here: a stamp is taken while the key's shard is locked, and enters the replicator's channel in
//! the same order, because both happen under the one small sequencer lock; a stamp taken is always sent. **I3** too: what is sent is the effect
//! that the judged write produced, never the command. Nothing under a lock can block: room for the bytes is reserved before any lock is
//! taken, and whoever finds none waits there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::budget::{ByteBudget, Permit};
use crate::data::clock::{Clock, Deadline, Stamp};
use crate::data::entry::{Entry, Update};
use crate::data::version::{Origin, Version};
use crate::lock_order::{Mutex, Rank};
use crate::store::{Span, Store, View};

/// What an entry counts in the room and in a link's queue beside its bytes.
pub const WRITE_OVERHEAD: usize = 64;

/// The way in for local writes.
pub struct Submit {
    origin: Origin,
    clock: Arc<Clock>,
    store: Arc<Store>,
    /// `None` once the node stops: no further write is taken.
    sequencer: Mutex<Option<Sender<Submitted>>>,
    /// The greatest stamp sent: this node's own place in its vector.
    position: AtomicU64,
    /// Writes sent so far.
    written: AtomicU64,
    /// The stamp of the first of them; 0 before.
    first: AtomicU64,
    room: Arc<ByteBudget>,
    /// For [`BrokenRule::SendOutOfOrder`]: it has its stamp, and is overtaken by the next one.
    #[cfg(feature = "testing")]
    overtaken: parking_lot::Mutex<Option<Submitted>>,
}

/// A write on its way to the replicator.
pub struct Submitted {
    pub entry: Entry,
    /// Bytes of room that it holds.
    pub reserved: usize,
}

/// Why nothing was written.
#[derive(Debug, PartialEq, Eq)]
pub enum NotWritten<R> {
    /// The judge refused it.
    Refused(R),
    /// It would take so many bytes, and so many are all the room that there is.
    TooLarge { len: usize, room: usize },
    /// No room was returned before the deadline: the replicator does not keep up.
    NoRoom,
    /// The node stops.
    Stopping,
}

/// Why an attempt has led to nothing.
enum Pass<R> {
    /// So much room is needed.
    Again(usize),
    Not(NotWritten<R>),
}

impl Submit {
    /// The face, and the channel that the replicator drains. The channel needs no bound of its own: `room_len` bytes bound what is in it.
    pub fn new(origin: Origin, clock: Arc<Clock>, store: Arc<Store>, room_len: usize) -> (Submit, Receiver<Submitted>) {
        #[expect(clippy::disallowed_methods, reason = "`room_len` bounds what is in it")]
        let (write_tx, write_rx) = unbounded();
        let room = ByteBudget::new(room_len);
        let sequencer = Mutex::new(Rank::Sequencer, Some(write_tx));
        let submit = Submit {
            origin,
            clock,
            store,
            sequencer,
            position: AtomicU64::new(0),
            written: AtomicU64::new(0),
            first: AtomicU64::new(0),
            room,
            #[cfg(feature = "testing")]
            overtaken: parking_lot::Mutex::default(),
        };
        (submit, write_rx)
    }

    /// One write. `judge` sees what is there, a tombstone and what has expired too, and returns the effect or refuses. `len` is the guess how many bytes
    /// key and new value take; when they are more, `judge` is asked again. `elapsed` is the time for the stamp. Waits for room until `deadline`.
    pub fn write<R>(
        &self,
        key: &[u8],
        len: usize,
        elapsed: Duration,
        deadline: &Deadline,
        mut judge: impl FnMut(Option<&Entry>) -> Result<Update, R>,
    ) -> Result<Stamp, NotWritten<R>> {
        self.with_room(len + WRITE_OVERHEAD, deadline, |reserved| {
            let written = self.store.write(key, |current| {
                let effect = judge(current).map_err(|refused| Pass::Not(NotWritten::Refused(refused)))?;
                let taken = effect.entry().size() + WRITE_OVERHEAD;
                if taken > reserved {
                    return Err(Pass::Again(taken));
                }
                // Nothing is copied under the sequencer, where everybody who writes would wait.
                let effect = effect.unshared();
                let sequencer = self.sequencer.lock();
                let write_tx = sequencer.as_ref().ok_or(Pass::Not(NotWritten::Stopping))?;
                Ok(self.send(write_tx, effect, current, elapsed, reserved))
            });
            written.map(|version| (version.stamp, reserved))
        })
    }

    /// Several writes in one step on this node: nobody here sees some of them without the others. `plan` sees what is there and returns the effects, in order and at most
    /// one for a key, beside what it finds; it refuses, or is asked again, as in [`Submit::write`]. Returns the writes, in the same order.
    pub fn transact<T, R>(
        &self,
        span: Span<'_>,
        len: usize,
        elapsed: Duration,
        deadline: &Deadline,
        mut plan: impl FnMut(&View<'_>) -> Result<(Vec<Update>, T), R>,
    ) -> Result<(Vec<Entry>, T), NotWritten<R>> {
        self.with_room(len + WRITE_OVERHEAD, deadline, |reserved| {
            let mut taken = 0;
            let done = self.store.transact(span, |view| {
                let (effects, found) = plan(view).map_err(|refused| Pass::Not(NotWritten::Refused(refused)))?;
                let len = |effect: &Update| effect.entry().size() + WRITE_OVERHEAD;
                taken = effects.iter().map(len).sum();
                if taken > reserved {
                    return Err(Pass::Again(taken));
                }
                let effects: Vec<Update> = effects.into_iter().map(Update::unshared).collect();
                let sequencer = self.sequencer.lock();
                let write_tx = sequencer.as_ref().ok_or(Pass::Not(NotWritten::Stopping))?;
                let send = |effect| {
                    let reserved = len(&effect);
                    self.send(write_tx, effect, None, elapsed, reserved)
                };
                let entries: Vec<Entry> = effects.into_iter().map(send).collect();
                Ok((entries.clone(), (entries, found)))
            });
            done.map(|done| (done, taken))
        })
    }

    /// Reserves room, before any lock, and tries; more room, and once more, when it turns out to be too little. What was not used is given back.
    fn with_room<T, R>(
        &self,
        guess: usize,
        deadline: &Deadline,
        mut attempt: impl FnMut(usize) -> Result<(T, usize), Pass<R>>,
    ) -> Result<T, NotWritten<R>> {
        let mut reserved = guess.min(self.room.size());
        loop {
            if !self.room.reserve(reserved, || deadline.at()) {
                return Err(NotWritten::NoRoom);
            }
            let (used, done) = match attempt(reserved) {
                Ok((done, used)) => (used, Ok(done)),
                Err(why) => (0, Err(why)),
            };
            if used < reserved {
                self.room.give_back(reserved - used);
            }
            match done {
                Ok(done) => return Ok(done),
                Err(Pass::Again(len)) if len > self.room.size() => return Err(NotWritten::TooLarge { len, room: self.room.size() }),
                // What is there changes meanwhile: a little more, so that an end is near.
                Err(Pass::Again(len)) => reserved = (len + len / 8).min(self.room.size()),
                Err(Pass::Not(why)) => return Err(why),
            }
        }
    }

    /// Stamps and sends, under the sequencer's lock and the key's.
    fn send(&self, write_tx: &Sender<Submitted>, effect: Update, before: Option<&Entry>, elapsed: Duration, reserved: usize) -> Entry {
        let stamp = self.clock.issue(elapsed);
        let entry = effect.stamped(Version { stamp, origin: self.origin });
        self.position.store(stamp.to_bits(), Ordering::Release);
        // Nobody else adds to it, under the lock.
        let written = self.written.load(Ordering::Relaxed);
        if written == 0 {
            self.first.store(stamp.to_bits(), Ordering::Release);
        }
        self.written.store(written + 1, Ordering::Relaxed);
        self.hand_on(write_tx, Submitted { entry: travelling(&entry, before), reserved });
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

    /// This node's own place in its vector: it holds every write of its own up to here.
    pub fn position(&self) -> Stamp {
        Stamp::from_bits(self.position.load(Ordering::Acquire))
    }

    /// How many writes this incarnation of the node has issued.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// The stamp of the first of them.
    pub fn first(&self) -> Option<Stamp> {
        let first = self.first.load(Ordering::Acquire);
        (first > 0).then(|| Stamp::from_bits(first))
    }

    /// Whether somebody waits for room.
    pub fn is_room_awaited(&self) -> bool {
        self.room.is_awaited()
    }

    /// What submitted writes hold together; given back when this is dropped, by the last who has taken their bytes.
    pub fn held(&self, reserved: usize) -> Permit {
        self.room.held(reserved)
    }

    /// Ends the channel: the replicator hands over what is in it and ends too.
    pub fn close(&self) {
        self.sequencer.lock().take();
    }
}

/// What travels of a write.
#[cfg_attr(not(feature = "testing"), expect(unused_variables, reason = "only a broken rule looks at it"))]
fn travelling(entry: &Entry, before: Option<&Entry>) -> Entry {
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

    fn submit(room_len: usize) -> (Submit, Receiver<Submitted>) {
        let origin = Origin { node: NodeId(1), nonce: 7 };
        let clock = Clock::new(crate::data::clock::Now { wall_ms: 1_000, elapsed: Duration::ZERO }, Duration::ZERO);
        Submit::new(origin, Arc::new(clock), Arc::new(Store::new()), room_len)
    }

    fn soon() -> Deadline {
        Deadline::within(Duration::from_millis(20))
    }

    #[test]
    fn stamps_enter_the_channel_in_order_whoever_writes() {
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
        let stamps: Vec<Stamp> = write_rx.try_iter().map(|submitted| submitted.entry.version().stamp).collect();
        assert_eq!(stamps.len(), 2_000);
        assert!(stamps.is_sorted_by(|a, b| a < b));
        assert_eq!(*stamps.last().unwrap(), submit.position());
    }

    #[test]
    fn a_refused_write_leaves_no_trace_and_gives_its_room_back() {
        let (submit, write_rx) = submit(100);
        for _ in 0..10 {
            assert_eq!(submit.write(b"k", 30, Duration::ZERO, &soon(), |_| Err("no")), Err(NotWritten::Refused("no")));
        }
        assert!(write_rx.is_empty());
        assert_eq!(submit.position(), Stamp::ZERO);
    }

    #[test]
    fn without_room_a_write_waits_and_goes_on_when_it_is_returned() {
        let (submit, write_rx) = submit(100);
        let put = |deadline: Deadline| submit.write::<()>(b"k", 30, Duration::ZERO, &deadline, |_| Ok(Update::put(b"k", b"v", None)));
        put(soon()).unwrap();
        assert_eq!(put(soon()), Err(NotWritten::NoRoom));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| put(Deadline::within(Duration::from_secs(30))));
            drop(submit.held(write_rx.recv().unwrap().reserved));
            waiting.join().unwrap().unwrap();
        });
        submit.close();
        assert_eq!(put(soon()), Err(NotWritten::NoRoom));
        drop(submit.held(94));
        assert_eq!(put(soon()), Err(NotWritten::Stopping));
    }
}
