//! Acks: the table of what each member has acknowledged, on which sessions wait.
//!
//! Owns, per peer, how far it has acknowledged this node's writes; how far they are durable here;
//! and the sessions that wait. A session opens a [`Round`] before its first write, stamps its
//! writes, and waits for all of them at once. Peers' acks only move positions here and wake the
//! sessions whose level is reached. Never touches the store.
//!
//! **I8** rests on what an ack claims: the peer holds every write up to there, or a newer one that
//! superseded it. Its stamp clock shows at least so much. Whether a write has won is not asked
//! here: it is stamped once, and the newest stamp wins. But an ack does not count if the peer's
//! clock is too far ahead of the write: the client would take its write for newer than it is.

mod lag;
mod table;
mod waiting;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::data::clock::{Deadline, Lead, Stamp};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, thread};
use crate::testing::broken_hand_overs::BrokenHandOver;
use crate::wire::ack_level::AckLevel;
use crate::wire::peer::Ack;

use table::Table;
use waiting::{Waiter, Waiting, WakeList};

pub use table::{HeldIn, ReplicaCount};
pub use waiting::Written;

/// The ack table of one node. Peers are numbered by their position in the configuration.
pub struct Acks {
    /// Members that make a majority, this node included.
    majority: usize,
    /// Longest lag of a peer that counts as up, and longest wait of a session, in milliseconds. A
    /// reload changes it.
    timeout_ms: AtomicUsize,
    waits_for_disk: bool,
    table: Mutex<Table>,
    /// Signals to callers that count holders that something has moved.
    moved: Condvar,
    /// Peers that count as up; read before every write, so kept beside the lock.
    counted: AtomicUsize,
    /// Rounds whose sessions wait or are about to; read by the replicator for every batch, so kept
    /// beside the lock.
    rounds: AtomicUsize,
}

/// The outcome of waiting for a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckOutcome {
    /// The level is reached for every write.
    Reached,
    /// Not in time: the outcome of a write whose level was not reached is unknown.
    TimedOut,
}

/// Too few members count for the level: nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoQuorum {
    /// Members that count, this node included.
    pub counted: usize,
    pub needed: usize,
    pub members: usize,
}

/// One peer's acks, as STATUS and PEERS show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// The greatest own stamp that the peer has acknowledged on this connection: durable there, if
    /// it is configured so.
    pub upto: Stamp,
    /// The greatest own stamp that the peer has received.
    pub received: Stamp,
    /// For how long the peer has not caught up with where this node stood; zero when it has.
    pub behind: Duration,
    /// Own writes that the peer has not acknowledged; to within those of one heartbeat.
    pub behind_writes: u64,
    /// The peer counts for `majority` and `all`.
    pub counted: bool,
}

impl Acks {
    /// Creates the table. `waits_for_disk`: this node counts itself only as far as
    /// [`Acks::durable`] says.
    pub fn new(peers: usize, majority: usize, timeout: Duration, waits_for_disk: bool) -> Acks {
        let table = Table::new(peers, waits_for_disk);
        Acks {
            majority,
            timeout_ms: AtomicUsize::new(timeout.as_millis() as usize),
            waits_for_disk,
            table: Mutex::new(table),
            moved: Condvar::new(),
            counted: AtomicUsize::new(0),
            rounds: AtomicUsize::new(0),
        }
    }

    /// Longest lag of a peer that counts as up, and longest wait of a session.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.load(Ordering::Relaxed) as u64)
    }

    pub fn set_timeout(&self, timeout: Duration) {
        self.timeout_ms.store(timeout.as_millis() as usize, Ordering::Relaxed);
    }

    /// Checks that enough members count for `level`. Called before anything is applied.
    pub fn quorum(&self, level: AckLevel) -> Result<(), NoQuorum> {
        let counted = 1 + self.counted.load(Ordering::Acquire);
        if level == AckLevel::Local || counted >= self.majority {
            return Ok(());
        }
        Err(NoQuorum { counted, needed: self.majority, members: 1 + self.table.lock().peers.len() })
    }

    /// Returns whether a write at this level is answered without waiting for any member.
    pub fn is_done_at_once(&self, level: AckLevel) -> bool {
        level == AckLevel::Local && !self.waits_for_disk
    }

    /// Notes that own writes are durable here up to this stamp.
    pub fn durable(&self, upto: Stamp) {
        if !self.waits_for_disk {
            return;
        }
        self.change(|table| table.own = table.own.max(upto));
    }

    /// The stamp up to which own writes are durable; `None` where no session waits for the disk.
    pub fn durable_upto(&self) -> Option<Stamp> {
        self.waits_for_disk.then(|| self.table.lock().own)
    }

    /// Opens a round. Called before the first write that will be waited for.
    pub fn open_round(&self, level: AckLevel) -> Round<'_> {
        self.rounds.fetch_add(1, Ordering::AcqRel);
        Round { acks: self, level }
    }

    /// Notes that a peer's link begins anew: the peer has acknowledged nothing until its first ack.
    /// `is_durable`: its acks wait for its disk.
    pub fn reset(&self, peer: usize, is_durable: bool) {
        let mut table = self.table.lock();
        let peer = &mut table.peers[peer];
        (peer.upto, peer.received, peer.is_durable) = (Stamp::ZERO, Stamp::ZERO, is_durable);
    }

    /// Notes that a peer's vector covers all own writes up to this stamp.
    pub fn covered(&self, peer: usize, upto: Stamp) {
        self.change(|table| table.peers[peer].received = table.peers[peer].received.max(upto));
    }

    /// Counts the members that hold all own writes up to this stamp. Waits until `enough` returns
    /// true for the count, or `deadline` has passed.
    pub fn await_replica_count(
        &self,
        what: HeldIn,
        stamp: Stamp,
        deadline: Instant,
        enough: impl Fn(ReplicaCount) -> bool,
    ) -> ReplicaCount {
        let mut table = self.table.lock();
        table.counting += 1;
        let mut late = false;
        let holders = loop {
            let holders = table.replica_count(what, stamp);
            if enough(holders) || late {
                break holders;
            }
            late = self.moved.wait_until(&mut table, deadline).timed_out();
        };
        table.counting -= 1;
        holders
    }

    /// Applies an ack of a peer for writes of this node's present incarnation.
    pub fn acknowledge(&self, peer: usize, ack: &Ack, elapsed: Duration) -> WakeList {
        self.change(|table| {
            let peer = &mut table.peers[peer];
            peer.clock = ack.clocks.map_or(Lead::NONE, |clocks| Lead::of(clocks.stamp_us, elapsed));
            (peer.upto, peer.received) = (peer.upto.max(ack.upto), peer.received.max(ack.received));
            // Not at the next heartbeat: a peer that opens now has acknowledged nothing before, and
            // is counted on at once.
            if peer.lag.caught_up(peer.upto) {
                self.recount(table);
            }
        })
    }

    /// Changes the table, and takes out the sessions whose level is reached by that.
    fn change(&self, change: impl FnOnce(&mut Table)) -> WakeList {
        let mut table = self.table.lock();
        change(&mut table);
        table.take_met(self.majority);
        if table.counting > 0 && !BrokenHandOver::CountersNotTold.is_on() {
            self.moved.notify_all();
        }
        std::mem::take(&mut table.woken)
    }

    /// Notes whether the peer is up and open.
    pub fn set_up(&self, peer: usize, up: bool) {
        if BrokenHandOver::GivingUpWakesNobody.is_on() {
            self.table.lock().peers[peer].up = up;
            return;
        }
        self.change(|table| {
            table.peers[peer].up = up;
            self.recount(table);
        });
    }

    /// Looks which peers lag. A peer that has not come, within the time-out, to where this node
    /// stood does not count as up until it has.
    pub fn observe_lag(&self, position: Stamp, written: u64, elapsed: Duration) {
        let timeout = self.timeout();
        self.change(|table| {
            table.samples.take(position, written);
            for peer in &mut table.peers {
                peer.lag.look(peer.upto, position, timeout, elapsed);
            }
            self.recount(table);
        });
    }

    /// The progress of a peer, measured against this node's position and the number of writes
    /// issued.
    pub fn progress(&self, peer: usize, position: Stamp, written: u64, elapsed: Duration) -> PeerProgress {
        let table = self.table.lock();
        let peer = &table.peers[peer];
        let behind = peer.lag.behind(peer.upto, elapsed);
        let behind_writes = if peer.upto >= position { 0 } else { written.saturating_sub(table.samples.written_at(peer.upto)) };
        PeerProgress { upto: peer.upto, received: peer.received, behind, behind_writes, counted: peer.counts() }
    }

    /// Sessions that wait for acks right now.
    pub fn waiting_len(&self) -> usize {
        self.table.lock().waiting.len()
    }

    /// Returns whether a session waits for acks, is about to, or counts holders.
    pub fn is_awaited(&self) -> bool {
        self.rounds.load(Ordering::Acquire) > 0 || self.table.lock().counting > 0
    }

    /// Sessions that wait for acks or count holders, right now.
    pub fn blocked_len(&self) -> usize {
        let table = self.table.lock();
        table.waiting.len() + table.counting
    }

    /// Sessions that count holders, right now.
    #[cfg(test)]
    pub fn counting_len(&self) -> usize {
        self.table.lock().counting
    }

    /// Counts the peers that count as up, anew. Called under the table's lock.
    fn recount(&self, table: &Table) {
        self.counted.store(table.counted(), Ordering::Release);
    }
}

/// The writes of one session that are waited for together. While a round is open, the replicator
/// does not let writes wait for others.
pub struct Round<'a> {
    acks: &'a Acks,
    level: AckLevel,
}

impl Round<'_> {
    /// Returns whether the level is reached for what was written. If not, it may still be. Never
    /// blocks.
    pub fn is_met(&self, written: Written) -> bool {
        self.acks.table.lock().met(self.acks.majority, self.level, written)
    }

    /// Waits until the level is reached for what was written, or `deadline` has passed.
    pub fn wait(&self, written: Written, deadline: &Deadline) -> AckOutcome {
        let Round { acks, level } = *self;
        let session = {
            let mut table = acks.table.lock();
            if table.met(acks.majority, level, written) {
                return AckOutcome::Reached;
            }
            if BrokenHandOver::SessionQueuesLater.is_on() {
                MutexGuard::unlocked(&mut table, || ());
            }
            let session = Waiter::current();
            table.waiting.insert(Waiting { written, level, session: Arc::clone(&session) });
            session
        };
        loop {
            let left = deadline.left();
            thread::park_timeout(left);
            // Without the lock: all that were woken would wait for it.
            if session.is_met() {
                return AckOutcome::Reached;
            }
            if left.is_zero() {
                return if acks.table.lock().waiting.remove(written.upto, &session) { AckOutcome::TimedOut } else { AckOutcome::Reached };
            }
        }
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        self.acks.rounds.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(all(test, feature = "interleavings"))]
mod interleavings;
#[cfg(test)]
mod tests;
