//! The order in which a thread takes locks, in one place. Debug builds check it; release builds pay
//! nothing.
//!
//! Locks that are taken both under another one and around another one have a [`Rank`]. Most others
//! are *leaves*: the ack table, the outboxes, the write-ahead log's queue, the scan order. A leaf
//! needs no rank, since its file knows of no other lock that it could take. Each lock is private to
//! the file of its owner; what a caller gets is a guard, and a function that needs a lock held
//! takes that guard.
//!
//! Five locks come before all ranks and have none, since no thread waits for them under another
//! lock. That of the [`Replicator`](crate::replication::replicator::Replicator) is held while a
//! batch goes to the log's queue, the outboxes and the senders. Its own thread waits for it with no
//! other lock held, and sessions only try it. That of a
//! [`Sender`](crate::replication::links::sender::Sender) is only tried, but for the link's own
//! thread, which holds no other. That takes others under it, and may log a line.
//! The right to write a snapshot (`snapshotting` in replication/persistence/hand_off.rs) guards no
//! data. It is only tried, never waited for, and is held while a snapshot is written. The lock on
//! the present connection of a peer (`present` in replication/links/incoming.rs) is held while a
//! new one takes its place: the older socket is shut down under it, and a line may be logged.
//! The right to reload (`reloading` in config/live.rs) guards no data either. One reload waits for
//! another, with no other lock held.

use std::ops::{Deref, DerefMut};

use crate::sync::{self, MutexGuard, RwLockReadGuard, RwLockWriteGuard};

#[cfg(test)]
pub use check::as_another_thread;
use check::{Held, Kept, keep, note};

/// Locks in the order in which one thread may take them. Never backwards, and none twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// [`crate::replication::peers::Peers`].
    PeerTable,
    /// A shard of [`crate::store::Store`], by its number: of several the lower one first.
    Shard(usize),
    /// [`crate::replication::coverage::Coverage`].
    VersionVector,
    /// The order of this node's own writes, in [`crate::replication::submit::Submit`].
    Sequencer,
}

/// A mutex with its place in the order.
pub struct Mutex<T> {
    rank: Kept,
    mutex: sync::Mutex<T>,
}

/// A reader-writer lock with its place in the order.
pub struct RwLock<T> {
    rank: Kept,
    lock: sync::RwLock<T>,
}

/// A lock that is held, until this is dropped.
pub struct Guard<G> {
    // Released before the thread forgets that it held it.
    guard: G,
    _held: Held,
}

/// A [`Mutex`] that is held.
pub type Locked<'a, T> = Guard<MutexGuard<'a, T>>;

impl<T> Mutex<T> {
    pub fn new(rank: Rank, value: T) -> Mutex<T> {
        Mutex { rank: keep(rank), mutex: sync::Mutex::new(value) }
    }

    /// Waits for the lock. Debug builds panic if the thread holds one of the same or a later rank.
    pub fn lock(&self) -> Guard<MutexGuard<'_, T>> {
        let held = note(&self.rank);
        Guard { guard: self.mutex.lock(), _held: held }
    }
}

impl<T> RwLock<T> {
    pub fn new(rank: Rank, value: T) -> RwLock<T> {
        RwLock { rank: keep(rank), lock: sync::RwLock::new(value) }
    }

    /// Waits until no thread writes. Debug builds check the order as in [`Mutex::lock`].
    #[inline]
    pub fn read(&self) -> Guard<RwLockReadGuard<'_, T>> {
        let held = note(&self.rank);
        Guard { guard: self.lock.read(), _held: held }
    }

    /// Takes the lock if no thread writes, or waits to.
    #[inline]
    pub fn try_read(&self) -> Option<Guard<RwLockReadGuard<'_, T>>> {
        let held = note(&self.rank);
        self.lock.try_read().map(|guard| Guard { guard, _held: held })
    }

    /// Waits until no thread reads or writes. Debug builds check the order as in [`Mutex::lock`].
    #[inline]
    pub fn write(&self) -> Guard<RwLockWriteGuard<'_, T>> {
        let held = note(&self.rank);
        Guard { guard: self.lock.write(), _held: held }
    }
}

impl<G: Deref> Deref for Guard<G> {
    type Target = G::Target;

    #[inline]
    fn deref(&self) -> &G::Target {
        &self.guard
    }
}

impl<G: DerefMut> DerefMut for Guard<G> {
    #[inline]
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.guard
    }
}

/// The check in release builds: does nothing, with types of no size.
#[cfg(not(debug_assertions))]
mod check {
    pub struct Kept;
    pub struct Held;

    pub fn keep(_rank: super::Rank) -> Kept {
        Kept
    }

    #[inline(always)]
    pub fn note(_rank: &Kept) -> Held {
        Held
    }

    #[cfg(test)]
    pub fn as_another_thread<T>(act: impl FnOnce() -> T) -> T {
        act()
    }
}

#[cfg(debug_assertions)]
mod check {
    use std::cell::RefCell;

    use super::Rank;
    use crate::sync::thread_local;

    pub type Kept = Rank;

    /// A rank that this thread holds, or waits for.
    pub struct Held(Rank);

    thread_local! {
        static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
    }

    pub fn keep(rank: Rank) -> Kept {
        rank
    }

    pub fn note(rank: &Kept) -> Held {
        HELD.with(|held| {
            let mut held = held.borrow_mut();
            let last = held.iter().max();
            assert!(last.is_none_or(|last| last < rank), "lock order: {rank:?} is taken while {last:?} is held");
            held.push(*rank);
        });
        Held(*rank)
    }

    /// For tests that play two threads in one: `act` holds nothing of what the caller holds.
    #[cfg(test)]
    pub fn as_another_thread<T>(act: impl FnOnce() -> T) -> T {
        let held = HELD.with(RefCell::take);
        let done = act();
        HELD.with(|rest| rest.replace(held));
        done
    }

    impl Drop for Held {
        fn drop(&mut self) {
            HELD.with(|held| {
                let mut held = held.borrow_mut();
                let at = held.iter().rposition(|rank| *rank == self.0);
                at.map(|at| held.remove(at))
            });
        }
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn locks_are_taken_in_order_and_released_in_any() {
        let (table, shard, vector) = (Mutex::new(Rank::PeerTable, 1), RwLock::new(Rank::Shard(3), 2), RwLock::new(Rank::VersionVector, 3));
        let (first, second, third) = (table.lock(), shard.write(), vector.read());
        assert_eq!((*first, *second, *third), (1, 2, 3));
        drop(first);
        drop(third);
        drop(second);
        drop((shard.read(), vector.write()));
    }

    #[test]
    #[should_panic(expected = "lock order: PeerTable is taken while Some(VersionVector) is held")]
    fn the_peer_table_is_not_locked_under_the_vector() {
        let (table, vector) = (Mutex::new(Rank::PeerTable, ()), RwLock::new(Rank::VersionVector, ()));
        let _vector = vector.read();
        drop(table.lock());
    }

    #[test]
    #[should_panic(expected = "lock order: Shard(2) is taken while Some(Shard(2)) is held")]
    fn no_lock_is_taken_twice() {
        let shard = RwLock::new(Rank::Shard(2), ());
        let _read = shard.read();
        drop(shard.read());
    }
}
