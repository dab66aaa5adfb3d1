//! How far a peer's acks are behind this node's writes.

use std::collections::VecDeque;
use std::time::Duration;

use crate::data::clock::Stamp;

/// Beyond this, every second sample is forgotten.
const SAMPLES_MAX: usize = 1024;

/// The watch over one peer.
#[derive(Clone, Default)]
pub struct Lag {
    /// The last own stamp at `marked`. The peer lags since then if it has not acknowledged so much.
    mark: Stamp,
    marked: Duration,
    is_lagging: bool,
}

impl Lag {
    pub fn is_lagging(&self) -> bool {
        self.is_lagging
    }

    /// The peer has acknowledged everything up to `upto`. Returns true if it has caught up by that.
    pub fn caught_up(&mut self, upto: Stamp) -> bool {
        let has_caught_up = self.is_lagging && upto >= self.mark;
        self.is_lagging &= !has_caught_up;
        has_caught_up
    }

    /// The regular look, when the last own stamp is `position`.
    pub fn look(&mut self, upto: Stamp, position: Stamp, timeout: Duration, elapsed: Duration) {
        if upto >= self.mark {
            (self.mark, self.marked) = (position, elapsed);
        }
        self.is_lagging = upto < self.mark && elapsed.saturating_sub(self.marked) > timeout;
    }

    /// For how long the peer has not caught up with where this node stood; zero if it has.
    pub fn behind(&self, upto: Stamp, elapsed: Duration) -> Duration {
        if upto < self.mark { elapsed.saturating_sub(self.marked) } else { Duration::ZERO }
    }
}

/// The last own stamp and the number of own writes, from heartbeat to heartbeat: what turns a lag
/// in stamps into one in writes.
#[derive(Default)]
pub struct Samples(VecDeque<(Stamp, u64)>);

impl Samples {
    pub fn take(&mut self, position: Stamp, written: u64) {
        if self.0.back().is_none_or(|(last, _)| *last != position) {
            self.0.push_back((position, written));
        }
        if self.0.len() > SAMPLES_MAX {
            let mut even = false;
            self.0.retain(|_| {
                even = !even;
                even
            });
        }
    }

    /// Own writes that had been issued up to this stamp; to within those of one heartbeat.
    pub fn written_at(&self, upto: Stamp) -> u64 {
        self.0.iter().rev().find(|(stamp, _)| *stamp <= upto).map_or(0, |(_, written)| *written)
    }
}
