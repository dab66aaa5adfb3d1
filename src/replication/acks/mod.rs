//! Who has acknowledged what: the table that sessions wait on.
//!
//! Owns, per peer, how far it has acknowledged this node's writes; how far they are durable here; and the sessions that wait. A session opens a [`Round`] before its first
//! write, stamps its writes, and waits for all of them at once. Peers' acks only move positions here and wake the sessions whose level is met. Never touches the store.
//!
//! **I8** rests on what an ack says: the peer holds every write up to there, or a newer one that superseded it, and its stamp clock shows so much. Whether a write has won is nobody's question
//! here: it is stamped once, and the newest stamp wins. But an ack of a peer whose clock is too far ahead of the write does not count: acknowledged, it would be told to be newer than it is.

mod lag;
mod table;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::data::clock::{Deadline, Lead, Stamp};
use crate::wire::ack_level::AckLevel;
use crate::wire::peer::Ack;

use table::Table;
use waiting::{Waiter, Waiting, WakeList};

pub use table::{Held, Holders};
pub use waiting::Written;

/// The table. Peers are numbered by their place in the configuration.
pub struct Acks {
    /// Members that make a majority, this node included.
    majority: usize,
    /// How long a peer may lag before it stops counting as up, and the longest that a session waits.
    timeout: Duration,
    waits_for_disk: bool,
    table: Mutex<Table>,
    /// Somebody counts who holds what, and something has moved.
    moved: Condvar,
    /// Peers that count as up; read before every write, so kept beside the lock.
    counted: AtomicUsize,
    /// Rounds whose sessions wait or are about to; asked by the replicator for every batch, so kept beside the lock.
    rounds: AtomicUsize,
}

/// How waiting for a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The level is met for every write.
    Met,
    /// Not in time: whatever was not met is unknown.
    TimedOut,
}

/// Too few members are up for the level: nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoQuorum {
    /// Members that count as up, this node included.
    pub up: usize,
    pub needed: usize,
    pub members: usize,
}

/// What STATUS and PEERS show of one peer's acks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// The greatest own stamp that it has acknowledged on this connection: durable there, if it is configured so.
    pub upto: Stamp,
    /// The greatest own stamp that it has received.
    pub received: Stamp,
    /// Since when it has not caught up with where this node stood; zero when it has.
    pub behind: Duration,
    /// Own writes that it has not acknowledged; to within those of one beat.
    pub behind_writes: u64,
    /// Whether it counts for `majority` and `all`.
    pub counted: bool,
}

impl Acks {
    /// `waits_for_disk`: this node counts itself only as far as [`Acks::durable`] says.
    pub fn new(peers: usize, majority: usize, timeout: Duration, waits_for_disk: bool) -> Acks {
        let table = Table::new(peers, waits_for_disk);
        Acks {
            majority,
            timeout,
            waits_for_disk,
            table: Mutex::new(table),
            moved: Condvar::new(),
            counted: AtomicUsize::new(0),
            rounds: AtomicUsize::new(0),
        }
    }

    /// Whether enough members are up for `level`. To be asked before anything is applied.
    pub fn quorum(&self, level: AckLevel) -> Result<(), NoQuorum> {
        let up = 1 + self.counted.load(Ordering::Acquire);
        if level == AckLevel::Local || up >= self.majority {
            return Ok(());
        }
        Err(NoQuorum { up, needed: self.majority, members: 1 + self.table.lock().peers.len() })
    }

    /// Whether a write at this level is answered without waiting for anybody.
    pub fn is_done_at_once(&self, level: AckLevel) -> bool {
        level == AckLevel::Local && !self.waits_for_disk
    }

    /// Own writes are durable here up to this stamp.
    pub fn durable(&self, upto: Stamp) {
        if !self.waits_for_disk {
            return;
        }
        self.change(|table| table.own = table.own.max(upto));
    }

    /// How far own writes are durable; `None` where nobody waits for that.
    pub fn durable_upto(&self) -> Option<Stamp> {
        self.waits_for_disk.then(|| self.table.lock().own)
    }

    /// To be called before the first write of a round that will be waited for.
    pub fn open_round(&self, level: AckLevel) -> Round<'_> {
        self.rounds.fetch_add(1, Ordering::AcqRel);
        Round { acks: self, level }
    }

    /// A peer's link begins anew: it has acknowledged nothing until its first ack. `is_durable`: its acks wait for its disk.
    pub fn reset(&self, peer: usize, is_durable: bool) {
        let mut table = self.table.lock();
        let peer = &mut table.peers[peer];
        (peer.upto, peer.received, peer.is_durable) = (Stamp::ZERO, Stamp::ZERO, is_durable);
    }

    /// A peer's vector covers all own writes up to here.
    pub fn covered(&self, peer: usize, upto: Stamp) {
        self.change(|table| table.peers[peer].received = table.peers[peer].received.max(upto));
    }

    /// Who holds all own writes up to this stamp. Waits until `enough` says so, or `deadline` has passed.
    pub fn await_holders(&self, what: Held, stamp: Stamp, deadline: Instant, enough: impl Fn(Holders) -> bool) -> Holders {
        let mut table = self.table.lock();
        table.counting += 1;
        let mut late = false;
        let holders = loop {
            let holders = table.holders(what, stamp);
            if enough(holders) || late {
                break holders;
            }
            late = self.moved.wait_until(&mut table, deadline).timed_out();
        };
        table.counting -= 1;
        holders
    }

    /// An ack of a peer for writes of this node's present incarnation.
    pub fn acknowledge(&self, peer: usize, ack: &Ack, elapsed: Duration) -> WakeList {
        self.change(|table| {
            let peer = &mut table.peers[peer];
            peer.clock = ack.clocks.map_or(Lead::NONE, |clocks| Lead::of(clocks.stamp_us, elapsed));
            (peer.upto, peer.received) = (peer.upto.max(ack.upto), peer.received.max(ack.received));
            // Not at the next heartbeat: a peer that opens now has acknowledged nothing before, and is
            // counted on at once.
            if peer.lag.caught_up(peer.upto) {
                self.recount(table);
            }
        })
    }

    /// Moves something, and finds out whom that concerns.
    fn change(&self, change: impl FnOnce(&mut Table)) -> WakeList {
        let mut table = self.table.lock();
        change(&mut table);
        table.take_met(self.majority);
        if table.counting > 0 {
            self.moved.notify_all();
        }
        std::mem::take(&mut table.woken)
    }

    /// Whether the peer is up and open.
    pub fn set_up(&self, peer: usize, up: bool) {
        self.change(|table| {
            table.peers[peer].up = up;
            self.recount(table);
        });
    }

    /// Looks who lags: a peer that has not come, within the time-out, to where this node stood does not count as up until it has.
    pub fn observe_lag(&self, position: Stamp, written: u64, elapsed: Duration) {
        self.change(|table| {
            table.samples.take(position, written);
            for peer in &mut table.peers {
                peer.lag.look(peer.upto, position, self.timeout, elapsed);
            }
            self.recount(table);
        });
    }

    /// How far a peer is, seen from where this node stands with so many writes issued.
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

    /// Whether a session waits for acks, is about to, or counts who holds what.
    pub fn is_awaited(&self) -> bool {
        self.rounds.load(Ordering::Acquire) > 0 || self.table.lock().counting > 0
    }

    /// Sessions that wait for acks or count who holds what, right now.
    pub fn blocked_len(&self) -> usize {
        let table = self.table.lock();
        table.waiting.len() + table.counting
    }

    /// Sessions that count who holds what, right now.
    #[cfg(test)]
    pub fn counting_len(&self) -> usize {
        self.table.lock().counting
    }

    /// To be called under the table's lock.
    fn recount(&self, table: &Table) {
        self.counted.store(table.counted(), Ordering::Release);
    }
}

/// The writes of one session that are waited for together. While one is open, the replicator does not let writes wait for others.
pub struct Round<'a> {
    acks: &'a Acks,
    level: AckLevel,
}

impl Round<'_> {
    /// Whether the level is met for what was written: if not, it may still be. Never blocks.
    pub fn is_met(&self, written: Written) -> bool {
        self.acks.table.lock().met(self.acks.majority, self.level, written)
    }

    /// Waits until the level is met for what was written, or `deadline` has passed.
    pub fn wait(&self, written: Written, deadline: &Deadline) -> Waited {
        let Round { acks, level } = *self;
        let session = {
            let mut table = acks.table.lock();
            if table.met(acks.majority, level, written) {
                return Waited::Met;
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
                return Waited::Met;
            }
            if left.is_zero() {
                return if acks.table.lock().waiting.remove(written.upto, &session) { Waited::TimedOut } else { Waited::Met };
            }
        }
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        self.acks.rounds.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests;
