//! The ack table: per peer how far it has acknowledged, how far own writes are durable here, and
//! when an ack level is reached (**I7**, **I8**). Pure: no lock, no thread.

use std::time::Duration;

use crate::data::clock::{Lead, Stamp};
use crate::replication::acks::lag::{Lag, Samples};
use crate::replication::acks::waiting::{WaitQueue, WakeList, Written};
use crate::testing::broken_rules::BrokenRule;
use crate::wire::ack_level::AckLevel;

/// An ack whose sender's stamp clock is further ahead of the write does not count. This node's
/// clock has then stood still meanwhile (a machine that was suspended), and what others were told
/// since may be stamped above the write.
const CLOCK_LEAD_MAX: Duration = Duration::from_millis(50);

/// Everything behind the lock of [`Acks`](crate::replication::acks::Acks).
pub struct Table {
    pub peers: Vec<PeerAcks>,
    /// This node counts itself up to here: what is durable on its own disk, or everything where
    /// no session waits for the disk.
    pub own: Stamp,
    pub waiting: WaitQueue,
    /// Sessions to wake once the lock is released.
    pub woken: WakeList,
    /// Callers that count which members hold a write.
    pub counting: usize,
    pub samples: Samples,
}

/// The acks of one peer.
#[derive(Clone)]
pub struct PeerAcks {
    pub up: bool,
    /// The peer's acks wait for its disk.
    pub is_durable: bool,
    /// The peer holds every own write up to here, or what superseded it: on its disk, if it is
    /// configured so.
    pub upto: Stamp,
    /// Likewise in its memory. At least `upto`.
    pub received: Stamp,
    /// The peer's stamp clock at its last ack, run on. Behind all others, of a build that does not
    /// say.
    pub clock: Lead,
    pub lag: Lag,
}

/// Where a member holds a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldIn {
    /// In its memory.
    Memory,
    /// On its disk.
    Disk,
}

/// Members that hold a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaCount {
    pub here: bool,
    /// Peers that are up.
    pub peers: usize,
}

impl Table {
    pub fn new(peers: usize, waits_for_disk: bool) -> Table {
        Table {
            peers: vec![PeerAcks::new(); peers],
            own: if waits_for_disk { Stamp::ZERO } else { Stamp::LIMIT },
            waiting: WaitQueue::default(),
            woken: WakeList::default(),
            counting: 0,
            samples: Samples::default(),
        }
    }

    /// Members that hold all own writes up to this stamp.
    pub fn replica_count(&self, held: HeldIn, stamp: Stamp) -> ReplicaCount {
        let holds = |peer: &&PeerAcks| {
            let is_held = match held {
                HeldIn::Memory => peer.received >= stamp,
                HeldIn::Disk => peer.is_durable && peer.upto >= stamp,
            };
            peer.up && is_held
        };
        ReplicaCount { here: self.own >= stamp, peers: self.peers.iter().filter(holds).count() }
    }

    /// The level is reached for these writes.
    pub fn met(&self, majority: usize, level: AckLevel, written: Written) -> bool {
        is_met(self.own, &self.peers, majority, level, written)
    }

    /// Takes out the sessions whose level is reached, to be woken.
    pub fn take_met(&mut self, majority: usize) {
        // Where no session waits for the disk, `own` is beyond everything and says nothing: then it
        // is an ack of a peer that reaches a level.
        let own = Some(self.own).filter(|own| *own != Stamp::LIMIT).unwrap_or_default();
        let reach = self.peers.iter().map(|peer| peer.upto).fold(own, Stamp::max);
        let Table { peers, own, waiting, woken, .. } = self;
        waiting.take_met(reach, |level, written| is_met(*own, peers, majority, level, written), woken);
    }

    /// Peers that count as up.
    pub fn counted(&self) -> usize {
        self.peers.iter().filter(|peer| peer.counts()).count()
    }
}

fn is_met(own: Stamp, peers: &[PeerAcks], majority: usize, level: AckLevel, written: Written) -> bool {
    let here = own >= written.upto;
    let holders = usize::from(here) + peers.iter().filter(|peer| peer.has(written)).count();
    match level {
        AckLevel::Local => here,
        AckLevel::Majority => holders >= majority,
        AckLevel::All => here && holders >= majority && peers.iter().filter(|peer| peer.counts()).all(|peer| peer.has(written)),
    }
}

impl PeerAcks {
    fn new() -> PeerAcks {
        PeerAcks { up: false, is_durable: false, upto: Stamp::ZERO, received: Stamp::ZERO, clock: Lead::NONE, lag: Lag::default() }
    }

    fn has(&self, written: Written) -> bool {
        let is_in_time = self.clock.beyond(written.clock) <= CLOCK_LEAD_MAX || BrokenRule::AckAfterSleep.is_on();
        self.upto >= written.upto && is_in_time
    }

    /// The peer counts for `majority` and `all`.
    pub fn counts(&self) -> bool {
        self.up && !self.lag.is_lagging()
    }
}
