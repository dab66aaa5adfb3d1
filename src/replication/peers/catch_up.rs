//! Catching up with one peer: what is missing here, and when the peer may be asked for a dump.

use std::time::Duration;

use crate::data::clock::Now;
use crate::data::version::VersionVector;

/// How often the pause doubles before a peer is asked again whose dump was refused. With the
/// defaults that is up to about a minute.
const REFUSED_DOUBLINGS_MAX: u32 = 5;

/// One peer, as a source of what is missing here.
pub struct CatchUp {
    /// The peer's vector at its last HELLO: what this node must cover to have caught up with it.
    pub target: VersionVector,
    /// Batches are missing between what this node covers and what the peer sends.
    pub gap: bool,
    /// The peer's data differs at an equal vector.
    pub heal: bool,
    /// A divergence is not looked at before this time.
    heal_after: Duration,
    /// When the peer last brought this node forward, or was found to be there at all.
    pub progressed: Duration,
    /// The peer is not asked before this time.
    ask_after: Duration,
    /// Dumps of the peer that were refused, in a row.
    refused: u32,
}

impl CatchUp {
    pub fn new(now: Now) -> CatchUp {
        CatchUp {
            target: VersionVector::default(),
            gap: false,
            heal: false,
            heal_after: Duration::ZERO,
            progressed: now.elapsed,
            ask_after: Duration::ZERO,
            refused: 0,
        }
    }

    /// An incoming connection begins, whose HELLO named this vector.
    pub fn accepted(&mut self, vector: &VersionVector, gap: bool) {
        self.target = vector.clone();
        self.gap = gap;
        self.heal = false;
    }

    pub fn may_ask(&self, now: Now) -> bool {
        now.elapsed >= self.ask_after
    }

    /// A dump of the peer has ended that took so long. The next request waits at least as long: a
    /// link that flaps, or is too slow, does not make its donor scan without pause.
    pub fn dump_ended(&mut self, took: Duration, healed: bool, now: Now) {
        self.ask_after = self.ask_after.max(now.elapsed + took);
        self.progressed = now.elapsed;
        if healed {
            self.heal = false;
        }
    }

    /// A dump of the peer was taken, and nothing was wrong with it.
    pub fn dump_accepted(&mut self) {
        self.refused = 0;
    }

    /// A dump of the peer was refused. Each time in a row the next request waits for twice as long.
    /// Returns the pause, if that is news.
    pub fn dump_refused(&mut self, timeout: Duration, now: Now) -> Option<Duration> {
        let pause = timeout * (1 << self.refused.min(REFUSED_DOUBLINGS_MAX));
        self.ask_after = now.elapsed + pause;
        self.refused = self.refused.saturating_add(1);
        (self.refused == 1).then_some(pause)
    }

    /// Dumps of the peer that were refused, in a row.
    #[cfg(test)]
    pub fn refused(&self) -> u32 {
        self.refused
    }

    /// The peer's data differs at an equal vector. Returns true if that is news. If healing fails,
    /// it is tried again after `pause`.
    pub fn diverged(&mut self, pause: Duration, now: Now) -> bool {
        let is_news = !self.heal && now.elapsed >= self.heal_after;
        if is_news {
            self.heal = true;
            self.heal_after = now.elapsed + pause;
        }
        is_news
    }
}
