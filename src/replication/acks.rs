//! Who has acknowledged what: the table that sessions wait on.
//!
//! Owns, per peer, the range of this node's writes that it vouches for; how far they are durable here; the writes that were *beaten*; and the sessions that wait. A session
//! opens a [`Round`] before its first write, stamps its writes, and waits for all of them at once. Peers' acks only move positions here and wake
//! the sessions whose level is met. Never touches the store: a beaten write is judged and stamped again by its session.
//!
//! **I8** lives here: a write that lost to a greater version at a peer, which its ack names, is not done. Its session stamps it again, above the winner. So of two writes that were both
//! acknowledged at `majority`, the later one wins. One that lost in this node's own store while it waited is stamped again, too, if its level was not met before: I8 could do without, but a
//! command that counts on what was there (`INCR`, a create-only `SET`) is judged again, and not two of them told that they were first.

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::clock::{Deadline, Stamp};
use crate::entry::Origin;
use crate::protocol::command::AckLevel;
use crate::protocol::peer::Ack;
use crate::sabotage::Sabotage;

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
    /// Whether the table holds any that are losing; asked at every ack that leaves, so kept beside the lock.
    has_losing: AtomicBool,
}

struct Table {
    peers: Vec<PeerAcks>,
    /// This node counts itself up to here (**I7**): what is durable on its own disk, or everything where nobody waits for the disk.
    own: Stamp,
    /// The open rounds, in the order of their places. A round is open until it is dropped, or until its level is met while its session waits.
    open: VecDeque<Open>,
    /// Own writes that lost somewhere. Invariant: each is above the lowest floor, so this is bounded by what open rounds wrote.
    beaten: BTreeSet<Stamp>,
    /// Own writes that lost here to writes of an origin, once that is durable up to a place: until then its node has not heard that it has won.
    losing: Vec<Losing>,
    /// Rounds that were ever opened.
    rounds: u64,
    /// Sessions that have something to look at, once the table is free.
    woken: Woken,
    /// Sessions that count who holds what.
    counting: usize,
    /// Where this node stood from beat to beat, and how many writes it had issued by then: what tells a lag in writes.
    samples: VecDeque<(Stamp, u64)>,
}

/// Beyond this, every second sample is forgotten.
const SAMPLES_MAX: usize = 1024;

#[derive(Clone, Default)]
struct PeerAcks {
    up: bool,
    /// Its acks wait for its disk.
    is_durable: bool,
    /// The peer has every own write in (from, upto], durably if it is configured so, and has named those of them that lost there.
    from: Stamp,
    upto: Stamp,
    /// It has received so far.
    received: Stamp,
    /// Its vector covers every own write up to here (I1), whether it vouches for them or not.
    covered: Stamp,
    /// Where this node stood at `marked`; the peer lags since then if it has not come so far.
    mark: Stamp,
    marked: Duration,
    lagging: bool,
}

struct Open {
    place: Place,
    level: AckLevel,
    waiting: Option<Waiting>,
}

/// Where a round stands among the open ones. A new one comes last, or nearly so: floors rise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// All stamps of the round are greater.
    floor: Stamp,
    number: u64,
}

/// A session that waits for its round.
struct Waiting {
    least: Stamp,
    greatest: Stamp,
    session: Arc<Sleeper>,
}

/// A thread that waits, for one round at a time.
struct Sleeper {
    thread: Thread,
    /// The level was met when nothing of the round had lost. What loses later has lost to writes that were stamped above it. Set when the round is taken out of the table.
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

/// See [`Acks::note_losing`].
struct Losing {
    winner: Origin,
    upto: Stamp,
    stamps: Vec<Stamp>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The level is met for every write.
    Met,
    /// These lost to greater versions; the clock is above the winners by now.
    Beaten(Vec<Stamp>),
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
            peers: vec![PeerAcks::default(); peers],
            own: if waits_for_disk { Stamp::ZERO } else { Stamp::LIMIT },
            open: VecDeque::new(),
            beaten: BTreeSet::new(),
            losing: Vec::new(),
            rounds: 0,
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
            has_losing: AtomicBool::new(false),
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

    /// Opens a round whose stamps will all be greater than `floor`, the greatest one issued so far.
    pub fn open_round(&self, level: AckLevel, floor: Stamp) -> Round<'_> {
        let mut table = self.table.lock();
        table.rounds += 1;
        let place = Place { floor, number: table.rounds };
        // Behind all others, but for those that were overtaken on the way from their floor to here.
        table.open.push_back(Open { place, level, waiting: None });
        let mut at = table.open.len() - 1;
        while at > 0 && table.open[at - 1].place > place {
            table.open.swap(at - 1, at);
            at -= 1;
        }
        Round { acks: self, level, place, is_over: Cell::new(false) }
    }

    /// A peer's link begins anew: it vouches for nothing until its first ack. `is_durable`: its acks wait for its disk.
    pub fn reset(&self, peer: usize, is_durable: bool) {
        let mut table = self.table.lock();
        let peer = &mut table.peers[peer];
        (peer.from, peer.upto, peer.received) = (Stamp::ZERO, Stamp::ZERO, Stamp::ZERO);
        (peer.covered, peer.is_durable) = (Stamp::ZERO, is_durable);
    }

    /// A peer's vector covers all own writes up to here.
    pub fn covered(&self, peer: usize, upto: Stamp) {
        self.change(|table| table.peers[peer].covered = table.peers[peer].covered.max(upto));
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

    /// An ack of a peer for writes of this node's present life.
    pub fn acknowledge(&self, peer: usize, ack: &Ack) -> Woken {
        self.change(|table| {
            table.note_beaten(&ack.beaten);
            let peer = &mut table.peers[peer];
            (peer.from, peer.upto, peer.received) = (ack.from, ack.upto, ack.received);
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

    /// Own writes that lost to peers' writes in this node's own store.
    pub fn note_beaten(&self, beaten: &[Stamp]) {
        if !beaten.is_empty() {
            self.change(|table| table.note_beaten(beaten));
        }
    }

    /// Own writes have lost here to writes of another origin, of which all up to `upto` are here. They count as beaten when that is acknowledged, which [`Acks::acknowledged`] says: a write
    /// that is stamped above the winner before that would overtake the ack that the winner waits for, beat it, and so on for ever. (Behind a gap the winner lies above `upto`, and its ack waits for a
    /// dump. Nobody waits for that here.)
    pub fn note_losing(&self, winner: Origin, upto: Stamp, stamps: Vec<Stamp>) {
        if stamps.is_empty() {
            return;
        }
        let mut table = self.table.lock();
        let Some(floor) = table.lowest_floor() else { return };
        let stamps: Vec<Stamp> = stamps.into_iter().filter(|stamp| *stamp > floor).collect();
        if !stamps.is_empty() {
            table.losing.push(Losing { winner, upto, stamps });
            self.has_losing.store(true, Ordering::Release);
        }
    }

    /// The ack of all writes of another origin up to here is on its way to its node, in front of everything that is written from now on.
    pub fn acknowledged(&self, winner: Origin, upto: Stamp) {
        self.note_lost(|losing| losing.winner == winner && losing.upto <= upto);
    }

    /// Nothing is acknowledged any more: those that are losing have lost.
    pub fn acknowledged_last(&self) {
        self.note_lost(|_| true);
    }

    fn note_lost(&self, which: impl Fn(&Losing) -> bool) {
        if !self.has_losing.load(Ordering::Acquire) {
            return;
        }
        self.change(|table| {
            let lost: Vec<Losing> = table.losing.extract_if(.., |losing| which(losing)).collect();
            self.has_losing.store(!table.losing.is_empty(), Ordering::Release);
            lost.iter().for_each(|losing| table.note_beaten(&losing.stamps));
        });
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
        self.table.lock().waiting_len()
    }

    /// Whether a session waits for acks, is about to, or counts who holds what.
    pub fn is_awaited(&self) -> bool {
        let table = self.table.lock();
        !table.open.is_empty() || table.counting > 0
    }

    /// Sessions that wait for acks or count who holds what, right now.
    pub fn blocked_len(&self) -> usize {
        let table = self.table.lock();
        table.waiting_len() + table.counting
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

    fn note_beaten(&mut self, beaten: &[Stamp]) {
        let Some(floor) = self.lowest_floor() else { return };
        for stamp in beaten.iter().copied().filter(|stamp| *stamp > floor) {
            self.beaten.insert(stamp);
            let opened_before = self.open.iter().take_while(|open| open.place.floor < stamp);
            for waiting in opened_before.filter_map(|open| open.waiting.as_ref()) {
                if waiting.least <= stamp && stamp <= waiting.greatest {
                    self.woken.0.push(Arc::clone(&waiting.session));
                }
            }
        }
    }

    fn lowest_floor(&self) -> Option<Stamp> {
        self.open.front().map(|open| open.place.floor)
    }

    fn waiting_len(&self) -> usize {
        self.open.iter().filter(|open| open.waiting.is_some()).count()
    }

    /// The open round with this place.
    fn find(&self, place: Place) -> Option<usize> {
        self.open.binary_search_by_key(&place, |open| open.place).ok()
    }

    fn close(&mut self, place: Place) {
        if let Some(found) = self.find(place) {
            self.open.remove(found);
            self.forget();
        }
    }

    /// Forgets what was beaten in no round that is still open.
    fn forget(&mut self) {
        let Some(floor) = self.lowest_floor() else {
            self.beaten.clear();
            self.losing.clear();
            return;
        };
        while self.beaten.first().is_some_and(|stamp| *stamp <= floor) {
            self.beaten.pop_first();
        }
    }

    fn holders(&self, what: Held, stamp: Stamp) -> Holders {
        let holds = |peer: &&PeerAcks| {
            // What it does not vouch for it may have received only in part.
            let covers = |upto: Stamp| peer.covered >= stamp || peer.from < stamp && upto >= stamp;
            let is_held = match what {
                Held::Received => covers(peer.received),
                Held::Durable => peer.is_durable && peer.upto >= stamp && covers(peer.upto),
            };
            peer.up && is_held
        };
        Holders { here: self.own >= stamp, peers: self.peers.iter().filter(holds).count() }
    }

    fn met(&self, majority: usize, level: AckLevel, least: Stamp, greatest: Stamp) -> bool {
        let has = |peer: &&PeerAcks| peer.from < least && peer.upto >= greatest;
        let here = self.own >= greatest;
        let holders = usize::from(here) + self.peers.iter().filter(has).count();
        match level {
            AckLevel::Local => here,
            AckLevel::Majority => holders >= majority,
            AckLevel::All => here && holders >= majority && self.peers.iter().filter(|peer| peer.up).all(|peer| has(&peer)),
        }
    }

    /// Takes out the rounds whose level is met, and wakes their sessions and no others: fifty that wait are not all woken by every ack.
    fn take_met(&mut self, majority: usize) {
        // Where nobody waits for the disk, `own` is beyond everything and says nothing: then it is a peer that meets a level.
        let own = Some(self.own).filter(|own| *own != Stamp::LIMIT).unwrap_or_default();
        let reach = self.peers.iter().map(|peer| peer.upto).fold(own, Stamp::max);
        let reached = self.open.partition_point(|open| open.place.floor < reach);
        // Those that stay are moved together, in their order.
        let mut staying = 0;
        for at in 0..reached {
            let Open { level, waiting, .. } = &self.open[at];
            if let Some(Waiting { least, greatest, session }) = waiting
                && self.met(majority, *level, *least, *greatest)
            {
                self.woken.0.push(Arc::clone(session));
                // What lost may be of other rounds in between: then the session finds out.
                if self.beaten.range(*least..=*greatest).next().is_none() {
                    session.is_met.store(true, Ordering::Release);
                    continue;
                }
            }
            if staying < at {
                self.open.swap(staying, at);
            }
            staying += 1;
        }
        if staying < reached {
            self.open.drain(staying..reached);
            self.forget();
        }
    }
}

impl PeerAcks {
    fn counts(&self) -> bool {
        self.up && !self.lagging
    }
}

/// The writes of one session that are waited for together. While it is open, writes of it that lose are remembered.
pub struct Round<'a> {
    acks: &'a Acks,
    level: AckLevel,
    place: Place,
    /// Its level was met while its session waited: it is no longer in the table.
    is_over: Cell<bool>,
}

impl Round<'_> {
    /// How it stands for these stamps, in rising order; `None` while it is open. Never blocks.
    pub fn poll(&self, stamps: &[Stamp]) -> Option<Waited> {
        self.look(&self.acks.table.lock(), stamps)
    }

    /// Waits until the level is met for all these stamps, in rising order, and then the round is done with; or until some were beaten, or `deadline` has passed.
    pub fn wait(&self, stamps: &[Stamp], deadline: &Deadline) -> Waited {
        assert!(!self.is_over.get(), "a round that is over knows of no further writes");
        let (Some(least), Some(greatest)) = (stamps.first(), stamps.last()) else { return Waited::Met };
        let session = SLEEPER.with(Arc::clone);
        session.is_met.store(false, Ordering::Relaxed);
        let mut is_late = false;
        loop {
            {
                let mut table = self.acks.table.lock();
                let Some(place) = table.find(self.place) else { break };
                if let Some(waited) = self.look(&table, stamps).or(is_late.then_some(Waited::TimedOut)) {
                    table.open[place].waiting = None;
                    return waited;
                }
                let waiting = || Waiting { least: *least, greatest: *greatest, session: Arc::clone(&session) };
                table.open[place].waiting.get_or_insert_with(waiting);
            }
            let left = deadline.left();
            thread::park_timeout(left);
            // Without the lock: all that were woken would wait for it.
            if session.is_met.load(Ordering::Acquire) {
                break;
            }
            is_late = left.is_zero();
        }
        self.is_over.set(true);
        Waited::Met
    }

    /// Whether the level is met for one write: after a time-out, the others of its round may be done.
    pub fn is_met(&self, stamp: Stamp) -> bool {
        self.poll(&[stamp]) == Some(Waited::Met)
    }

    fn look(&self, table: &Table, stamps: &[Stamp]) -> Option<Waited> {
        let (Some(least), Some(greatest)) = (stamps.first(), stamps.last()) else { return Some(Waited::Met) };
        debug_assert!(stamps.is_sorted() && *least > self.place.floor);
        if self.level == AckLevel::Local {
            // It may lose to whatever was written elsewhere; that is what `local` promises.
            return table.met(self.acks.majority, self.level, *least, *greatest).then_some(Waited::Met);
        }
        let beaten: Vec<Stamp> =
            table.beaten.range(*least..=*greatest).filter(|stamp| stamps.binary_search(stamp).is_ok()).copied().collect();
        if !beaten.is_empty() && !Sabotage::NoSecondStamp.is_on() {
            return Some(Waited::Beaten(beaten));
        }
        table.met(self.acks.majority, self.level, *least, *greatest).then_some(Waited::Met)
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        if !self.is_over.get() {
            self.acks.table.lock().close(self.place);
        }
    }
}

#[cfg(test)]
mod tests;
