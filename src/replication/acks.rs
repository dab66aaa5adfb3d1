//! Who has acknowledged what: the table that sessions wait on.
//!
//! Owns, per peer, how far it has acknowledged this node's writes; how far they are durable here; and the sessions that wait. A session opens a [`Round`] before its first
//! write, stamps its writes, and waits for all of them at once. Peers' acks only move positions here and wake the sessions whose level is met. Never touches the store.
//!
//! **I8** rests on what an ack says: the peer holds every write up to there, or a newer one that superseded it, and its stamp clock shows so much. Whether a write has won is nobody's question
//! here: it is stamped once, and the newest stamp wins. But an ack of a peer whose clock is too far ahead of the write does not count: acknowledged, it would be told to be newer than it is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::data::clock::{Deadline, Lead, Stamp};
use crate::testing::broken_rules::BrokenRule;
use crate::wire::ack_level::AckLevel;
use crate::wire::peer::Ack;

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

struct Table {
    peers: Vec<PeerAcks>,
    /// This node counts itself up to here (**I7**): what is durable on its own disk, or everything where nobody waits for the disk.
    own: Stamp,
    /// Sessions that wait, in the order of the stamps that they wait for.
    waiting: VecDeque<Waiting>,
    /// Sessions that have something to look at, once the table is free.
    woken: Woken,
    /// Sessions that count who holds what.
    counting: usize,
    /// Where this node stood from beat to beat, and how many writes it had issued by then: what tells a lag in writes.
    samples: VecDeque<(Stamp, u64)>,
}

/// An ack whose sender's stamp clock is further ahead of the write does not count: this node's clock has stood still meanwhile (a machine that was suspended), and what others were
/// told since may be stamped above it.
const CLOCK_LEAD_MAX: Duration = Duration::from_millis(50);

/// Beyond this, every second sample is forgotten.
const SAMPLES_MAX: usize = 1024;

#[derive(Clone)]
struct PeerAcks {
    up: bool,
    /// Its acks wait for its disk.
    is_durable: bool,
    /// It holds every own write up to here, or what superseded it: durably, if it is configured so.
    upto: Stamp,
    /// The same in its memory. At least `upto`.
    received: Stamp,
    /// What its stamp clock showed at its last ack, run on. Of a build that does not say: behind all others.
    clock: Lead,
    /// Where this node stood at `marked`; the peer lags since then if it has not come so far.
    mark: Stamp,
    marked: Duration,
    lagging: bool,
}

/// What there is to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The greatest stamp of the round.
    pub upto: Stamp,
    /// The least clock by which one of its stamps was made, run on.
    pub clock: Lead,
}

impl Written {
    /// One write, stamped at that time.
    pub fn at(stamp: Stamp, elapsed: Duration) -> Written {
        Written { upto: stamp, clock: Lead::of_stamp(stamp, elapsed) }
    }
}

/// A session that waits for its round.
struct Waiting {
    written: Written,
    level: AckLevel,
    session: Arc<Sleeper>,
}

/// A thread that waits, for one round at a time.
struct Sleeper {
    thread: Thread,
    /// The level was met. Set when the session is taken out of the table.
    is_met: AtomicBool,
}

thread_local! {
    static SLEEPER: Arc<Sleeper> = Arc::new(Sleeper { thread: thread::current(), is_met: AtomicBool::new(false) });
}

/// Threads that are to be woken. Dropping this does it: better when no lock is held that others want, for it takes a system call each.
#[derive(Default)]
pub struct Woken(Vec<Arc<Sleeper>>);

impl Drop for Woken {
    fn drop(&mut self) {
        self.0.iter().for_each(|sleeper| sleeper.thread.unpark());
    }
}

/// What it means that a member holds a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// In its memory.
    Received,
    /// On its disk.
    Durable,
}

/// Who holds a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    pub here: bool,
    /// Of those that are up.
    pub peers: usize,
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
        let table = Table {
            peers: vec![PeerAcks::new(); peers],
            own: if waits_for_disk { Stamp::ZERO } else { Stamp::LIMIT },
            waiting: VecDeque::new(),
            woken: Woken::default(),
            counting: 0,
            samples: VecDeque::new(),
        };
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
    pub fn acknowledge(&self, peer: usize, ack: &Ack, elapsed: Duration) -> Woken {
        self.change(|table| {
            let peer = &mut table.peers[peer];
            peer.clock = ack.clocks.map_or(Lead::NONE, |clocks| Lead::of(clocks.stamp_us, elapsed));
            (peer.upto, peer.received) = (peer.upto.max(ack.upto), peer.received.max(ack.received));
            if peer.lagging && peer.upto >= peer.mark {
                // Not at the next beat: one that opens now has acknowledged nothing before, and is counted on at once.
                peer.lagging = false;
                self.recount(table);
            }
        })
    }

    /// Moves something, and finds out whom that concerns.
    fn change(&self, change: impl FnOnce(&mut Table)) -> Woken {
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
            table.sample(position, written);
            for peer in &mut table.peers {
                if peer.upto >= peer.mark {
                    peer.mark = position;
                    peer.marked = elapsed;
                }
                peer.lagging = peer.upto < peer.mark && elapsed.saturating_sub(peer.marked) > self.timeout;
            }
            self.recount(table);
        });
    }

    /// How far a peer is, seen from where this node stands with so many writes issued.
    pub fn progress(&self, peer: usize, position: Stamp, written: u64, elapsed: Duration) -> PeerProgress {
        let table = self.table.lock();
        let peer = &table.peers[peer];
        let behind = if peer.upto < peer.mark { elapsed.saturating_sub(peer.marked) } else { Duration::ZERO };
        let reached = table.samples.iter().rev().find(|(stamp, _)| *stamp <= peer.upto).map_or(0, |(_, written)| *written);
        let behind_writes = if peer.upto >= position { 0 } else { written.saturating_sub(reached) };
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
        self.counted.store(table.peers.iter().filter(|peer| peer.counts()).count(), Ordering::Release);
    }
}

impl Table {
    fn sample(&mut self, position: Stamp, written: u64) {
        if self.samples.back().is_none_or(|(last, _)| *last != position) {
            self.samples.push_back((position, written));
        }
        if self.samples.len() > SAMPLES_MAX {
            let mut even = false;
            self.samples.retain(|_| {
                even = !even;
                even
            });
        }
    }

    fn holders(&self, what: Held, stamp: Stamp) -> Holders {
        let holds = |peer: &&PeerAcks| {
            let is_held = match what {
                Held::Received => peer.received >= stamp,
                Held::Durable => peer.is_durable && peer.upto >= stamp,
            };
            peer.up && is_held
        };
        Holders { here: self.own >= stamp, peers: self.peers.iter().filter(holds).count() }
    }

    fn met(&self, majority: usize, level: AckLevel, written: Written) -> bool {
        let here = self.own >= written.upto;
        let holders = usize::from(here) + self.peers.iter().filter(|peer| peer.has(written)).count();
        match level {
            AckLevel::Local => here,
            AckLevel::Majority => holders >= majority,
            AckLevel::All => here && holders >= majority && self.peers.iter().filter(|peer| peer.counts()).all(|peer| peer.has(written)),
        }
    }

    fn insert(&mut self, waiting: Waiting) {
        // Behind all others, but for those that were overtaken on the way from their last stamp to here.
        let at = self.waiting.iter().rposition(|other| other.written.upto <= waiting.written.upto).map_or(0, |before| before + 1);
        self.waiting.insert(at, waiting);
    }

    /// Whether the session was still waiting for this stamp.
    fn remove(&mut self, upto: Stamp, session: &Arc<Sleeper>) -> bool {
        let first = self.waiting.partition_point(|waiting| waiting.written.upto < upto);
        let found = self.waiting.iter().skip(first).position(|waiting| Arc::ptr_eq(&waiting.session, session));
        found.is_some_and(|found| self.waiting.remove(first + found).is_some())
    }

    /// Takes out the sessions whose level is met, and wakes them and no others: fifty that wait are not all woken by every ack.
    fn take_met(&mut self, majority: usize) {
        // Where nobody waits for the disk, `own` is beyond everything and says nothing: then it is a peer that meets a level.
        let own = Some(self.own).filter(|own| *own != Stamp::LIMIT).unwrap_or_default();
        let reach = self.peers.iter().map(|peer| peer.upto).fold(own, Stamp::max);
        let reached = self.waiting.partition_point(|waiting| waiting.written.upto <= reach);
        // Those that stay are moved together, in their order.
        let mut staying = 0;
        for at in 0..reached {
            let Waiting { written, level, ref session } = self.waiting[at];
            if self.met(majority, level, written) {
                session.is_met.store(true, Ordering::Release);
                self.woken.0.push(Arc::clone(session));
                continue;
            }
            self.waiting.swap(staying, at);
            staying += 1;
        }
        self.waiting.drain(staying..reached);
    }
}

impl PeerAcks {
    fn new() -> PeerAcks {
        PeerAcks {
            up: false,
            is_durable: false,
            upto: Stamp::ZERO,
            received: Stamp::ZERO,
            clock: Lead::NONE,
            mark: Stamp::ZERO,
            marked: Duration::ZERO,
            lagging: false,
        }
    }

    fn has(&self, written: Written) -> bool {
        let is_in_time = self.clock.beyond(written.clock) <= CLOCK_LEAD_MAX || BrokenRule::AckAfterSleep.is_on();
        self.upto >= written.upto && is_in_time
    }

    fn counts(&self) -> bool {
        self.up && !self.lagging
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
        let session = SLEEPER.with(Arc::clone);
        {
            let mut table = acks.table.lock();
            if table.met(acks.majority, level, written) {
                return Waited::Met;
            }
            session.is_met.store(false, Ordering::Relaxed);
            table.insert(Waiting { written, level, session: Arc::clone(&session) });
        }
        loop {
            let left = deadline.left();
            thread::park_timeout(left);
            // Without the lock: all that were woken would wait for it.
            if session.is_met.load(Ordering::Acquire) {
                return Waited::Met;
            }
            if left.is_zero() {
                return if acks.table.lock().remove(written.upto, &session) { Waited::TimedOut } else { Waited::Met };
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
